package sentry

import (
	"crypto/ed25519"
	"crypto/tls"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jonboulle/clockwork"
	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"outrigger.dev/controlplane/sentry/ca"
)

// ownIdentity is the certificate that Sentry shows, which it signs itself. It is made anew, on the first connection after it, when half its life
// is over or there is another authority: no connection sees an old one, and nothing runs in between.
type ownIdentity struct {
	id        spiffeid.ID
	authority func() *ca.Authority
	clock     clockwork.Clock
	metrics   *metrics
	log       *slog.Logger

	making  sync.Mutex
	present atomic.Pointer[ownCertificate]
}

type ownCertificate struct {
	certificate tls.Certificate
	authority   *ca.Authority
	renewAt     time.Time
}

func (i *ownIdentity) fresh(c *ownCertificate) bool {
	return c != nil && c.authority == i.authority() && i.clock.Now().Before(c.renewAt)
}

// get is the certificate of the server's TLS configuration.
func (i *ownIdentity) get(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	c := i.present.Load()
	if i.fresh(c) {
		return &c.certificate, nil
	}
	i.making.Lock()
	defer i.making.Unlock()
	if c = i.present.Load(); i.fresh(c) {
		return &c.certificate, nil
	}
	made, err := i.make()
	switch {
	case err == nil:
		i.present.Store(made)
		return &made.certificate, nil
	case c != nil && i.clock.Now().Before(c.certificate.Leaf.NotAfter):
		i.failed(err)
		return &c.certificate, nil
	}
	i.failed(err)
	return nil, err
}

func (i *ownIdentity) failed(err error) {
	i.metrics.ownCertFailed.Inc()
	i.log.Error("Sentry could not issue its own certificate", "error", err)
}

func (i *ownIdentity) make() (*ownCertificate, error) {
	_, key, err := ed25519.GenerateKey(nil)
	if err != nil {
		return nil, fmt.Errorf("generate a key: %w", err)
	}
	authority, now := i.authority(), i.clock.Now()
	leaf, err := authority.Sign(ca.Workload{ID: i.id, PublicKey: key.Public()}, now)
	if err != nil {
		return nil, err
	}
	c := &ownCertificate{
		certificate: tls.Certificate{Certificate: [][]byte{leaf.Raw}, PrivateKey: key, Leaf: leaf},
		authority:   authority,
		renewAt:     now.Add(leaf.NotAfter.Sub(now) / 2),
	}
	for _, issuer := range authority.Chain() {
		c.certificate.Certificate = append(c.certificate.Certificate, issuer.Raw)
	}
	return c, nil
}
