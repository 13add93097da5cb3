package ca

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/fsnotify/fsnotify"
	"github.com/jonboulle/clockwork"
)

// ManagerOptions are what a [Manager] is made of.
type ManagerOptions struct {
	Store    Store
	Settings Settings
	Clock    clockwork.Clock
	Log      *slog.Logger
	// Batch is how long changes of files are gathered before they are read; zero is two seconds (Dapr API, Sentry: reload).
	Batch time.Duration
	// Poll is how often the store is read without any sign of a change; zero is a minute.
	Poll time.Duration
	// Changed, if not nil, is told of every new authority, one after the other. The previous one is nil at first; generated tells that this process has made
	// the issuer.
	Changed func(previous, present *Authority, generated bool)
}

// Manager has the present authority, and renews and reloads it.
type Manager struct {
	o         ManagerOptions
	documents Documents
	current   atomic.Pointer[Authority]
}

const (
	defaultBatch = 2 * time.Second
	defaultPoll  = time.Minute
	// storeTimeout bounds reading and writing the store once.
	storeTimeout = 30 * time.Second
)

// NewManager reads the authority from its store, or generates it. The error names the document that is not usable.
func NewManager(ctx context.Context, o ManagerOptions) (*Manager, error) {
	var err error
	if o.Settings, err = o.Settings.Normalised(); err != nil {
		return nil, err
	}
	if o.Batch <= 0 {
		o.Batch = defaultBatch
	}
	if o.Poll <= 0 {
		o.Poll = defaultPoll
	}
	m := &Manager{o: o}
	if err := m.Refresh(ctx); err != nil {
		return nil, err
	}
	return m, nil
}

// Authority is the present authority.
func (m *Manager) Authority() *Authority { return m.current.Load() }

// Refresh reads the store, renews what is due, and makes the result the present authority. After an error the present one stays. It
// must not be called concurrently, and not while Run runs.
func (m *Manager) Refresh(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, storeTimeout)
	defer cancel()
	documents, err := m.o.Store.Load(ctx)
	if err != nil {
		return fmt.Errorf("read the credentials: %w", err)
	}
	res, err := m.maintain(documents)
	if err != nil {
		return err
	}
	if len(res.changes) > 0 {
		err := m.o.Store.Update(ctx, func(d Documents) (Documents, bool, error) {
			var err error
			if res, err = m.maintain(d); err != nil {
				return d, false, err
			}
			return res.documents, len(res.changes) > 0, nil
		})
		if err != nil {
			if !documents.Complete() {
				return fmt.Errorf("store the generated credentials: %w", err)
			}
			// What is there goes on until the store can be written.
			if res, err = m.unrenewed(documents, err); err != nil {
				return err
			}
		}
	}
	m.take(res)
	return nil
}

// maintain is what documents have to be now. Only at the start are missing ones generated: later, somebody is in the midst of replacing them.
func (m *Manager) maintain(d Documents) (*result, error) {
	if m.current.Load() != nil && !d.Complete() {
		return nil, fmt.Errorf("%s, %s and %s are not all there: complete them, or restart sentry to have new ones generated", AnchorsName, IssuerName, IssuerKeyName)
	}
	return m.o.Settings.maintain(d, m.o.Clock.Now(), Request{})
}

// unrenewed is what there is when a renewal could not be stored.
func (m *Manager) unrenewed(documents Documents, why error) (*result, error) {
	settings := m.o.Settings
	settings.SelfRenewing = false
	res, err := settings.maintain(documents, m.o.Clock.Now(), Request{})
	if err != nil {
		return nil, errors.Join(err, why)
	}
	if len(res.changes) > 0 { // such as a key for JWTs
		return nil, fmt.Errorf("store the credentials: %w", why)
	}
	m.o.Log.Error("The certificate authority is due for renewal, which cannot be stored; it is tried again", "error", why)
	return res, nil
}

// take makes a result the present authority.
func (m *Manager) take(res *result) {
	previous := m.current.Load()
	if previous != nil && m.documents.Equal(&res.documents) {
		return
	}
	for _, change := range res.changes {
		m.o.Log.Info("Certificate authority: " + change)
	}
	m.documents = res.documents
	present := newAuthority(&m.o.Settings, res)
	m.current.Store(present)
	m.o.Log.Info(fmt.Sprintf("Certificate authority in use: %s, issuer expires on %s%s", res.origin, date(present.Issuer().NotAfter), upcoming(res.next)))
	if res.origin == Provided || res.next == nil {
		if left := present.Issuer().NotAfter.Sub(m.o.Clock.Now()); left < 30*24*time.Hour {
			m.o.Log.Warn(fmt.Sprintf("The issuer expires in %s and does not renew itself: provide another before that", left.Round(time.Minute)))
		}
	}
	if m.o.Changed != nil {
		m.o.Changed(previous, present, len(res.changes) > 0)
	}
}

func upcoming(next *Step) string {
	if next == nil {
		return "; it does not renew itself"
	}
	return fmt.Sprintf("; next: %s on %s", next.What, date(next.At))
}

// Run renews and reloads until the context ends, which is no error.
func (m *Manager) Run(ctx context.Context) error {
	watcher, err := fsnotify.NewWatcher()
	if err != nil {
		return fmt.Errorf("watch the credentials: %w", err)
	}
	defer watcher.Close()
	for _, dir := range m.o.Store.Watch() {
		// One that does not exist is still polled.
		if err := watcher.Add(dir); err != nil {
			m.o.Log.Debug("A directory of credentials is not watched but polled", "directory", dir, "error", err)
		}
	}
	if err := m.Refresh(ctx); err != nil && ctx.Err() == nil { // what changed before the watch began
		m.failed(err)
	}
	for {
		timer := m.o.Clock.NewTimer(m.wait())
		select {
		case <-ctx.Done():
			timer.Stop()
			return nil
		case <-timer.Chan():
		case err := <-watcher.Errors:
			timer.Stop()
			m.o.Log.Warn("Watching the credentials", "error", err)
			continue
		case <-watcher.Events:
			timer.Stop()
			if !m.gather(ctx, watcher.Events) {
				return nil
			}
		}
		if err := m.Refresh(ctx); err != nil && ctx.Err() == nil {
			m.failed(err)
		}
	}
}

func (m *Manager) failed(err error) {
	m.o.Log.Error("The credentials are not usable; those in use stay: " + err.Error())
}

// gather waits until a batch of changes is complete. False means that the context ended.
func (m *Manager) gather(ctx context.Context, events <-chan fsnotify.Event) bool {
	timer := m.o.Clock.NewTimer(m.o.Batch)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return false
		case <-events:
		case <-timer.Chan():
			return true
		}
	}
}

// wait is how long nothing is to be done.
func (m *Manager) wait() time.Duration {
	wait := m.o.Poll
	if next := m.Authority().Next(); next != nil {
		// What is overdue was just tried, and could not be stored.
		if left := next.At.Sub(m.o.Clock.Now()); left > 0 {
			wait = min(wait, left)
		}
	}
	return wait
}
