package local

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"sync"

	"github.com/spiffe/go-spiffe/v2/svid/x509svid"

	"outrigger.dev/identity"
	"outrigger.dev/identity/workload"
)

// trust is where identities are from.
type trust struct{ sentry, anchors string }

// trusted tells who waits for it where identities are from: nowhere until an app with mTLS has made Sentry run.
type trusted struct {
	mu      sync.Mutex
	now     trust
	changed chan struct{}
}

func newTrusted() *trusted { return &trusted{changed: make(chan struct{})} }

// set is called when Sentry serves.
func (t *trusted) set(now trust) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.now != now {
		t.now = now
		close(t.changed)
		t.changed = make(chan struct{})
	}
}

func (t *trusted) get() (trust, <-chan struct{}) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.now, t.changed
}

// lateIdentity is the identity of a service of the process, which it has once there is a Sentry. It implements serving.Source.
type lateIdentity struct {
	appID   string
	trusted *trusted
	log     *slog.Logger

	mu      sync.Mutex
	present *workload.Source // nil as long as there is none
}

var errNoIdentity = errors.New("there is no identity yet: an app whose configuration enables mTLS makes the local Sentry run")

// Run gets identities from Sentry as it comes and goes, until ctx ends.
func (l *lateIdentity) Run(ctx context.Context) error {
	for {
		now, changed := l.trusted.get()
		var failed error
		if now.sentry != "" {
			failed = l.follow(ctx, now, changed)
		}
		if failed != nil && ctx.Err() == nil {
			l.log.Error("no identity for "+l.appID, "error", failed)
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil
		}
	}
}

// follow has an identity from a Sentry until that changes.
func (l *lateIdentity) follow(ctx context.Context, from trust, changed <-chan struct{}) error {
	source, err := workload.New(workload.Options{
		SentryAddress: from.sentry, TrustAnchorsFile: from.anchors, ControlPlaneTrustDomain: SentryTrustDomain, ControlPlaneNamespace: SentryNamespace,
		AppID: l.appID, Namespace: SentryNamespace, TrustDomain: SentryTrustDomain, Log: l.log,
	})
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	ended := make(chan error, 1)
	go func() { ended <- source.Run(ctx) }()
	if err := source.Wait(ctx); err != nil {
		cancel()
		return errors.Join(err, <-ended)
	}
	l.mu.Lock()
	l.present = source
	l.mu.Unlock()
	select {
	case <-changed:
		cancel()
		return <-ended
	case err := <-ended:
		return err
	}
}

// Wait does not wait: the service works without an identity.
func (l *lateIdentity) Wait(context.Context) error { return nil }

func (l *lateIdentity) get() (*workload.Source, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.present == nil {
		return nil, fmt.Errorf("%s: %w", l.appID, errNoIdentity)
	}
	return l.present, nil
}

// SVID implements identity.Source.
func (l *lateIdentity) SVID() (*x509svid.SVID, error) {
	s, err := l.get()
	if err != nil {
		return nil, err
	}
	return s.SVID()
}

// TrustAnchors implements identity.Source.
func (l *lateIdentity) TrustAnchors() []*x509.Certificate {
	s, err := l.get()
	if err != nil {
		return nil
	}
	return s.TrustAnchors()
}

// JWT implements identity.Source.
func (l *lateIdentity) JWT(ctx context.Context, audience string) (string, error) {
	s, err := l.get()
	if err != nil {
		return "", err
	}
	return s.JWT(ctx, audience)
}

// id is the identity of a service of the process.
func id(appID string) identity.ID {
	return identity.ID{TrustDomain: SentryTrustDomain, Namespace: SentryNamespace, AppID: appID}
}

// anchorsOf is the file of the trust anchors of a Sentry, whole.
func anchorsOf(r *SentryRequest) string {
	path, err := filepath.Abs(r.Anchors())
	if err != nil {
		return r.Anchors()
	}
	return path
}
