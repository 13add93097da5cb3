// Package workload gets a process its identity from Sentry, the certificate authority of the control plane, and renews it
// (Dapr API, mTLS: certificate request, rotation).
//
//	source, err := workload.New(options)
//	go source.Run(ctx)          // until ctx ends
//	err = source.Wait(ctx)      // for the first certificate
//
// Trust anchors do not stay what they were at the start, so that the root of the mesh can be replaced without a restart: a
// file of them is watched; anchors from the environment are joined by those that Sentry hands out with each certificate,
// provided that an anchor by which Sentry itself was verified is among them.
package workload

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jonboulle/clockwork"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"

	"outrigger.dev/identity"
	"outrigger.dev/telemetry/metrics"
)

// KeyType is the kind of key that a process has its certificate for.
type KeyType string

// The types of keys.
const (
	Ed25519   KeyType = "Ed25519"
	RSA2048   KeyType = "RSA-2048"
	ECDSAP256 KeyType = "ECDSA-P256"
)

var keyTypes = [...]KeyType{Ed25519, RSA2048, ECDSAP256}

// Options of a source. Zero values mean the defaults given; [Options.Environment] fills in what the environment says.
type Options struct {
	// SentryAddress is Sentry's "host:port".
	SentryAddress string
	// TrustAnchors are the roots in PEM.
	TrustAnchors []byte
	// TrustAnchorsFile is a file of roots in PEM, in place of TrustAnchors. It may appear only later, and is watched.
	TrustAnchorsFile string
	// ControlPlaneTrustDomain and ControlPlaneNamespace are Sentry's. Default "localhost" and "default".
	ControlPlaneTrustDomain, ControlPlaneNamespace string

	// AppID and Namespace are this process's. Default for the namespace: "default".
	AppID, Namespace string
	// LocalIdentity is told to Sentry in place of AppID when not empty (Dapr API: SENTRY_LOCAL_IDENTITY).
	LocalIdentity string
	// TrustDomain is asked for; only services of the control plane do.
	TrustDomain string
	// KeyType of the certificate, in any case. Default Ed25519.
	KeyType KeyType
	// JWTAudiences are asked for in addition to the trust domain, which is in every JWT-SVID.
	JWTAudiences []string

	// Kubernetes says that the process runs there, so that it has a service account.
	Kubernetes bool
	// TokenFile has the token that proves the identity to Sentry; "" leaves the choice to Kubernetes, if anything.
	TokenFile string

	// Dial opens a connection to "host:port"; it must honour its context. Default: TCP.
	Dial func(ctx context.Context, address string) (net.Conn, error)
	// ReadFile reads a file. Default os.ReadFile.
	ReadFile func(name string) ([]byte, error)
	Clock    clockwork.Clock
	Metrics  *metrics.Metrics
	Log      *slog.Logger
}

// Sentry is the app ID of Sentry.
const Sentry = "dapr-sentry"

// Source is the identity of this process; it implements [identity.Source].
type Source struct {
	options Options
	sentry  identity.ID
	tls     *identity.TLS

	held    atomic.Pointer[held]
	anchors atomic.Pointer[[]*x509.Certificate]

	mu         sync.Mutex
	configured []*x509.Certificate
	adopted    []*x509.Certificate
	fileText   string
	fileError  string

	last    atomic.Pointer[error] // why there is no first identity yet
	metrics atomic.Pointer[metrics.MTLS]
	running atomic.Bool
	ready   chan struct{}
	ended   chan struct{}
	err     error // why Run ended; valid when ended is closed
}

// held is what one answer of Sentry gave.
type held struct {
	svid *x509svid.SVID
	// jwt has all audiences, perAudience one each.
	jwt         *token
	perAudience map[string]*token
	renewal     time.Time
}

var _ identity.Source = (*Source)(nil)

// New makes a source that has no identity yet. The error names the option that is missing or wrong.
func New(o Options) (*Source, error) {
	if o.ControlPlaneTrustDomain == "" {
		o.ControlPlaneTrustDomain = "localhost"
	}
	if o.ControlPlaneNamespace == "" {
		o.ControlPlaneNamespace = "default"
	}
	if o.Namespace == "" {
		o.Namespace = "default"
	}
	if o.KeyType == "" {
		o.KeyType = Ed25519
	}
	known := slices.IndexFunc(keyTypes[:], func(t KeyType) bool { return strings.EqualFold(string(t), string(o.KeyType)) })
	if known < 0 {
		return nil, fmt.Errorf("the type of the identity's key is %q (%s), but must be one of %s", o.KeyType, EnvKeyType, keyTypes)
	}
	o.KeyType = keyTypes[known]
	if o.Dial == nil {
		dialer := &net.Dialer{}
		o.Dial = func(ctx context.Context, address string) (net.Conn, error) {
			return dialer.DialContext(ctx, "tcp", address)
		}
	}
	if o.ReadFile == nil {
		o.ReadFile = os.ReadFile
	}
	if o.Clock == nil {
		o.Clock = clockwork.NewRealClock()
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	o.SentryAddress = strings.TrimPrefix(o.SentryAddress, "dns:///")
	switch {
	case o.SentryAddress == "":
		return nil, errors.New("mTLS needs the address of Sentry, the certificate authority: give it with --sentry-address host:port")
	case o.AppID == "" && o.LocalIdentity == "":
		return nil, errors.New("mTLS needs an app ID to ask a certificate for: give it with --app-id")
	case o.TrustAnchorsFile == "" && len(o.TrustAnchors) == 0:
		return nil, errors.New("trust anchors are required: set the environment variable " + EnvTrustAnchors + " to the PEM text of Sentry's ca.crt, or " + EnvTrustAnchorsFile + " to its path")
	}
	if _, _, err := net.SplitHostPort(o.SentryAddress); err != nil {
		return nil, fmt.Errorf("the address of Sentry is %q, but must be host:port (--sentry-address): %w", o.SentryAddress, err)
	}
	s := &Source{
		options: o, ready: make(chan struct{}), ended: make(chan struct{}),
		sentry: identity.ID{TrustDomain: o.ControlPlaneTrustDomain, Namespace: o.ControlPlaneNamespace, AppID: Sentry},
	}
	s.metrics.Store(o.Metrics.MTLS())
	s.tls = identity.NewTLS(s, o.Clock.Now)
	if o.TrustAnchorsFile == "" {
		anchors, err := ParseAnchors(o.TrustAnchors)
		if err != nil {
			return nil, fmt.Errorf("the trust anchors in the environment variable %s: %w", EnvTrustAnchors, err)
		}
		s.configured = anchors
		s.publishAnchors()
	}
	return s, nil
}

// ControlPlane is the identity of another service of the control plane that Sentry belongs to.
func (s *Source) ControlPlane(appID string) identity.ID {
	return identity.ID{TrustDomain: s.sentry.TrustDomain, Namespace: s.sentry.Namespace, AppID: appID}
}

// Observe counts what happens from now on, and the first identity if it is there already, which in Kubernetes mode is needed to
// learn how metrics are configured. It is to be called once, and not together with Options.Metrics.
func (s *Source) Observe(m *metrics.Metrics) {
	s.metrics.Store(m.MTLS())
	if s.held.Load() != nil {
		m.MTLS().Init()
	}
}

// SVID implements [identity.Source].
func (s *Source) SVID() (*x509svid.SVID, error) {
	h := s.held.Load()
	if h == nil {
		return nil, fmt.Errorf("no certificate yet: Sentry at %s has not issued one", s.options.SentryAddress)
	}
	return h.svid, nil
}

// TrustAnchors implements [identity.Source].
func (s *Source) TrustAnchors() []*x509.Certificate {
	if p := s.anchors.Load(); p != nil {
		return *p
	}
	return nil
}

// The times of renewal (Dapr API, mTLS: rotation).
const (
	// tick is how often at least the clock is looked at: timers do not run while a machine is suspended.
	tick = time.Minute
	// retryInterval is how soon a failed renewal is tried again.
	retryInterval = 10 * time.Second
	// minInterval is the least time between two renewals.
	minInterval = 250 * time.Millisecond
)

// Run gets the identity and renews it until ctx ends, when it returns nil. It is to be called once. An error means that there
// never was an identity: it names Sentry's address, the cause and the remedy.
func (s *Source) Run(ctx context.Context) (err error) {
	if s.running.Swap(true) {
		return errors.New("the source of the identity runs already")
	}
	defer func() {
		s.err = err
		close(s.ended)
	}()
	if err := s.first(ctx); err != nil {
		if ctx.Err() == nil {
			s.metrics.Load().InitFailed()
		}
		return err
	}
	s.metrics.Load().Init()
	close(s.ready)
	next := s.held.Load().renewal
	for {
		wait := min(next.Sub(s.options.Clock.Now()), tick)
		if s.options.TrustAnchorsFile != "" {
			wait = min(wait, fileInterval)
		}
		if !s.sleep(ctx, wait) {
			return nil
		}
		s.reloadFile()
		now := s.options.Clock.Now()
		if now.Before(next) {
			continue
		}
		if err := s.renew(ctx); err != nil {
			if ctx.Err() != nil {
				return nil
			}
			leaf := s.held.Load().svid.Certificates[0]
			s.options.Log.Error("the certificate could not be renewed and is tried again soon; the present one stays in use", "app", s.options.AppID,
				"sentry", s.options.SentryAddress, "expires", leaf.NotAfter, "expired", now.After(leaf.NotAfter), "retryIn", retryInterval, "error", err)
			next = now.Add(retryInterval)
			continue
		}
		s.metrics.Load().Rotated()
		next = s.held.Load().renewal
		s.options.Log.Info("the certificate was renewed", "app", s.options.AppID, "expires", s.held.Load().svid.Certificates[0].NotAfter, "nextRenewal", next)
	}
}

// Wait waits until there is an identity. The error is that of ctx, or why there will be none.
func (s *Source) Wait(ctx context.Context) error {
	select {
	case <-s.ready:
		return nil
	default:
	}
	select {
	case <-s.ready:
		return nil
	case <-s.ended:
		if s.err == nil { // it had one, and has ended
			return nil
		}
		return s.err
	case <-ctx.Done():
		if last := s.last.Load(); last != nil {
			return fmt.Errorf("%w (%w)", *last, context.Cause(ctx))
		}
		return fmt.Errorf("there is no certificate of Sentry at %s yet: %w", s.options.SentryAddress, context.Cause(ctx))
	}
}

// sleep waits; it returns false when ctx has ended.
func (s *Source) sleep(ctx context.Context, d time.Duration) bool {
	if ctx.Err() != nil {
		return false
	}
	if d <= 0 {
		return true
	}
	timer := s.options.Clock.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.Chan():
		return true
	case <-ctx.Done():
		return false
	}
}

// first gets the first identity. It waits without limit for the trust anchors' file and for Sentry to be reachable; what
// cannot change by waiting is an error at once.
func (s *Source) first(ctx context.Context) error {
	var last error
	ended := func() error {
		if last == nil {
			last = context.Cause(ctx)
		}
		return last
	}
	for attempt := 0; ; attempt++ {
		err := s.loadFile()
		if err == nil {
			err = s.renew(ctx)
		}
		if err == nil {
			return nil
		}
		if ctx.Err() != nil {
			return ended()
		}
		last = err
		s.last.Store(&err)
		var f *failure
		var untrusted *identity.UntrustedError
		switch {
		case errors.Is(err, fs.ErrNotExist) && !errors.As(err, &f):
		case errors.As(err, &f) && f.reason == metrics.ReasonSentryConnection &&
			(s.options.TrustAnchorsFile != "" || !errors.As(err, &untrusted)):
		default:
			return err
		}
		if attempt%10 == 0 {
			s.options.Log.Warn("waiting for the certificate of this process", "app", s.options.AppID, "sentry", s.options.SentryAddress, "error", err)
		}
		if !s.sleep(ctx, time.Second) {
			return ended()
		}
	}
}

// renewalOf is when to renew: in the middle of the certificate's life, or after half of what is left of the JWT's, whichever is
// sooner; but never at once (Dapr API, mTLS: rotation). end is when the certificate stops being of use: with its issuer, if
// that expires sooner. The middle of what is left until then comes first too, but not so soon that a Sentry whose authority
// runs out is asked all the time.
func renewalOf(now time.Time, h *held, end time.Time) time.Time {
	leaf := h.svid.Certificates[0]
	at := leaf.NotBefore.Add(leaf.NotAfter.Sub(leaf.NotBefore) / 2)
	left := leaf.NotAfter.Sub(now)
	if !at.After(now) { // a certificate whose life began long ago, for the sake of slow clocks
		at = now.Add(left / 2)
	}
	if end.Before(leaf.NotAfter) {
		if sooner := now.Add(max(end.Sub(now)/2, min(left/10, tick))); sooner.Before(at) {
			at = sooner
		}
	}
	if h.jwt != nil && !h.jwt.expiry.IsZero() {
		if half := now.Add(h.jwt.expiry.Sub(now) / 2); half.Before(at) {
			at = half
		}
	}
	if least := now.Add(minInterval); at.Before(least) {
		return least
	}
	return at
}

// end is when a new certificate, or the authority that it is of, expires.
func (s *Source) end(h *held) time.Time {
	_, chains, err := s.tls.Verify(h.svid.Certificates)
	if err != nil {
		s.options.Log.Warn("Sentry issued a certificate that does not chain to the trust anchors of this process; peers with the same anchors will refuse it",
			"app", s.options.AppID, "sentry", s.options.SentryAddress, "error", err)
		return h.svid.Certificates[0].NotAfter
	}
	var last time.Time
	for _, chain := range chains {
		first := chain[0].NotAfter
		for _, c := range chain {
			if c.NotAfter.Before(first) {
				first = c.NotAfter
			}
		}
		if first.After(last) {
			last = first
		}
	}
	return last
}

// JWT implements [identity.Source] (Dapr API, mTLS: JWT SVID).
func (s *Source) JWT(_ context.Context, audience string) (string, error) {
	h := s.held.Load()
	if h == nil {
		return "", fmt.Errorf("no JWT-SVID yet: Sentry at %s has not issued one", s.options.SentryAddress)
	}
	t := h.perAudience[audience]
	if t == nil {
		t = h.jwt
	}
	switch {
	case t == nil:
		return "", fmt.Errorf("no JWT-SVID: Sentry at %s issues none; start it with --jwt-enabled", s.options.SentryAddress)
	case !slices.Contains(t.audiences, audience):
		return "", fmt.Errorf("JWT SVID has different audiences than requested: %q, not %q; ask for it with --sentry-request-jwt-audiences %s", t.audiences, audience, audience)
	case !t.expiry.IsZero() && s.options.Clock.Now().After(t.expiry.Add(clockSkew)):
		return "", fmt.Errorf("the JWT-SVID has expired at %s because Sentry at %s did not renew it", t.expiry.Format(time.RFC3339), s.options.SentryAddress)
	}
	return t.text, nil
}
