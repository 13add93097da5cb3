package sqlite

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jonboulle/clockwork"
	"golang.org/x/sync/singleflight"

	"outrigger.dev/components"
	"outrigger.dev/components/nameresolution"
)

var (
	_ nameresolution.Resolver = (*Resolver)(nil)
	_ nameresolution.Failed   = (*Resolver)(nil)
)

// Resolver finds sidecars in the table and keeps the row of its own fresh.
type Resolver struct {
	options Options
	clock   clockwork.Clock
	log     *slog.Logger
	handle  atomic.Pointer[handle]
	row     registration
	mdns    nameresolution.Resolver // nil when not asked for

	ctx    context.Context
	cancel context.CancelFunc
	wg     sync.WaitGroup
	close  func() error

	loads singleflight.Group
	mu    sync.RWMutex
	found map[string]*hosts
	// suspects maps addresses that did not answer to the unix second they were reported in.
	suspects map[string]int64
	closed   bool
}

// hosts are the live addresses of one app.
type hosts struct {
	addresses []string
	// elsewhere: the table does not have the app, but mDNS does.
	elsewhere bool
	until     time.Time
	next      atomic.Uint32
}

func (h *hosts) pick() string {
	if len(h.addresses) == 1 {
		return h.addresses[0]
	}
	return h.addresses[int(h.next.Add(1)%uint32(len(h.addresses)))]
}

func open(ctx context.Context, inst components.Instance, o Options, openMDNS OpenMDNS) (_ *Resolver, err error) {
	if err := o.check(); err != nil {
		return nil, err
	}
	if (o.AnnounceMDNS || o.ResolveMDNS) && openMDNS == nil {
		return nil, errors.New("metadata properties \"announceMDNS\" and \"resolveMDNS\" need mDNS, which this build of the sidecar does not have; remove them")
	}
	row, err := newRegistration(inst.Sidecar)
	if err != nil {
		return nil, err
	}
	r := &Resolver{
		options: o, clock: inst.Clock, log: inst.Log, row: row,
		found: map[string]*hosts{}, suspects: map[string]int64{},
	}
	opened, err := openHandle(ctx, &o)
	if err != nil {
		return nil, err
	}
	r.handle.Store(opened)
	r.ctx, r.cancel = context.WithCancel(context.Background())
	defer func() {
		if err != nil {
			r.cancel()
			_ = opened.close()
		}
	}()
	if err := r.register(ctx); err != nil {
		return nil, fmt.Errorf("cannot register the address %s in the SQLite database %q: %w", row.address, redact(o.ConnectionString), err)
	}
	if o.AnnounceMDNS || o.ResolveMDNS {
		beside := inst
		if !o.AnnounceMDNS {
			beside.Sidecar.AppID = ""
		}
		if r.mdns, err = openMDNS(ctx, beside); err != nil {
			// The table works; failing here would cost every invocation for the sake of some.
			r.log.Warn("mDNS beside the sqlite name resolver is off; sidecars that resolve over mDNS will not find this one", "error", err)
			r.mdns, err = nil, nil
		}
	}
	r.close = sync.OnceValue(r.shutDown)
	r.wg.Go(r.keep)
	if o.CleanupInterval > 0 {
		r.wg.Go(r.sweep)
	}
	return r, nil
}

// Resolve returns the address of one of the app's sidecars, taking turns. What the table says is remembered for half the
// update interval at most, and never longer than the registrations read are valid.
func (r *Resolver) Resolve(ctx context.Context, req nameresolution.Request) (string, error) {
	r.mu.RLock()
	h := r.found[req.ID]
	r.mu.RUnlock()
	if h != nil && r.clock.Now().Before(h.until) {
		if !h.elsewhere {
			return h.pick(), nil
		}
		if address, err := r.mdns.Resolve(ctx, req); err == nil {
			return address, nil
		}
	}
	if err := ctx.Err(); err != nil {
		return "", err
	}
	// Callers that ask at the same time share one query, which the timeout bounds.
	var err error
	select {
	case result := <-r.loads.DoChan(req.ID, func() (any, error) { return r.load(req.ID) }):
		if result.Err == nil {
			return result.Val.(*hosts).pick(), nil
		}
		err = result.Err
	case <-ctx.Done():
		return "", ctx.Err()
	}
	if !r.options.ResolveMDNS || r.mdns == nil || !errors.Is(err, errNotFound) {
		return "", err
	}
	address, err := r.mdns.Resolve(ctx, req)
	if err != nil {
		return "", fmt.Errorf("%w; and over mDNS: %w", errNotFound, err)
	}
	r.mu.Lock()
	r.found[req.ID] = &hosts{elsewhere: true, until: r.clock.Now().Add(r.options.UpdateInterval / 2)}
	r.mu.Unlock()
	return address, nil
}

// load reads the live registrations of an app and remembers them.
func (r *Resolver) load(id string) (*hosts, error) {
	r.mu.Lock()
	if r.closed {
		r.mu.Unlock()
		return nil, errClosed
	}
	r.wg.Add(1)
	r.mu.Unlock()
	defer r.wg.Done()
	for {
		h := r.handle.Load()
		found, err := r.read(h, id)
		// Between the two the database may have been opened anew.
		if err == nil || errors.Is(err, errNotFound) || r.handle.Load() == h {
			return found, err
		}
	}
}

func (r *Resolver) read(from *handle, id string) (*hosts, error) {
	ctx, cancel := context.WithTimeout(r.ctx, r.options.Timeout)
	defer cancel()
	now := r.clock.Now()
	seconds := int64(r.options.UpdateInterval / time.Second)
	rows, err := from.find.QueryContext(ctx, id, now.Unix()-seconds)
	if err != nil {
		return nil, r.readError(err)
	}
	defer func() { _ = rows.Close() }()
	h := &hosts{until: now.Add(r.options.UpdateInterval / 2)}
	h.next.Store(rand.Uint32())
	var doubtful []string
	for rows.Next() {
		var address string
		var updated int64
		if err := rows.Scan(&address, &updated); err != nil {
			return nil, r.readError(err)
		}
		if valid := time.Unix(updated+seconds, 0); valid.Before(h.until) {
			h.until = valid
		}
		if r.doubted(address, updated) {
			doubtful = append(doubtful, address)
		} else {
			h.addresses = append(h.addresses, address)
		}
	}
	if err := rows.Err(); err != nil {
		return nil, r.readError(err)
	}
	if len(h.addresses) == 0 {
		h.addresses = doubtful
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(h.addresses) == 0 {
		delete(r.found, id)
		return nil, errNotFound
	}
	r.found[id] = h
	return h, nil
}

func (r *Resolver) readError(err error) error {
	return fmt.Errorf("cannot read the SQLite database %q for name resolution: %w", redact(r.options.ConnectionString), err)
}

// doubted reports whether the address failed since its sidecar was last known to live.
func (r *Resolver) doubted(address string, updated int64) bool {
	r.mu.RLock()
	defer r.mu.RUnlock()
	failed, ok := r.suspects[address]
	return ok && updated <= failed
}

// Forget drops an address that did not answer, and keeps it from being chosen before its sidecar renews its registration,
// as long as the app has another.
func (r *Resolver) Forget(id, address string) {
	r.mu.Lock()
	h := r.found[id]
	if h == nil || h.elsewhere || slices.Contains(h.addresses, address) {
		delete(r.found, id)
		r.suspects[address] = r.clock.Now().Unix()
	}
	r.mu.Unlock()
	if f, ok := r.mdns.(nameresolution.Failed); ok {
		f.Forget(id, address)
	}
}

// tidy drops what is remembered of apps that nobody asks for any more.
func (r *Resolver) tidy() {
	now := r.clock.Now()
	r.mu.Lock()
	defer r.mu.Unlock()
	for id, h := range r.found {
		if !now.Before(h.until) {
			delete(r.found, id)
		}
	}
	for address, failed := range r.suspects {
		if failed < now.Add(-r.options.UpdateInterval).Unix() {
			delete(r.suspects, address)
		}
	}
}

// followFile opens the database anew when its file was deleted or replaced. The next renewal registers the sidecar there.
func (r *Resolver) followFile() error {
	old := r.handle.Load()
	if !old.replaced() {
		return nil
	}
	h, err := openHandle(r.ctx, &r.options)
	if err != nil {
		return err
	}
	r.handle.Store(h)
	r.log.Warn("the database file for name resolution was deleted or replaced and has been opened anew; sidecars that run are found again as they notice it", "database", redact(r.options.ConnectionString))
	_ = old.close() // of a file that is gone
	r.mu.Lock()
	clear(r.found)
	r.mu.Unlock()
	return nil
}

// Close deletes the registration and releases the database.
func (r *Resolver) Close() error { return r.close() }

func (r *Resolver) shutDown() error {
	r.mu.Lock()
	r.closed = true
	r.mu.Unlock()
	r.cancel()
	r.wg.Wait()
	var errs []error
	if r.mdns != nil {
		errs = append(errs, r.mdns.Close())
	}
	errs = append(errs, r.deregister(), r.handle.Load().close())
	return errors.Join(errs...)
}
