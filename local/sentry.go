package local

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"time"

	"outrigger.dev/controlplane/sentry/ca"
	"outrigger.dev/resource"
)

// SentrySettings are what Sentry, the certificate authority, runs with.
type SentrySettings struct {
	// Credentials is the directory of the roots and the issuer, see [ca.Files].
	Credentials string `json:"credentials"`
	// WorkloadTTL is the life of an issued certificate, ClockSkew how far before its making it is valid, in nanoseconds.
	WorkloadTTL time.Duration `json:"workloadTTL"`
	ClockSkew   time.Duration `json:"clockSkew"`
	// TokenValidators are those of the Configuration; with none, whoever reaches the port gets a certificate.
	TokenValidators []resource.TokenValidator `json:"tokenValidators,omitempty"`
}

// NewSentrySettings are the settings for a directory of credentials and what a Configuration says of mTLS (Dapr API, Configuration:
// spec.mtls). The error names the field that is wrong.
func NewSentrySettings(credentials string, mtls *resource.MTLS) (SentrySettings, error) {
	s := SentrySettings{Credentials: credentials, WorkloadTTL: ca.DefaultWorkloadTTL, ClockSkew: ca.DefaultClockSkew, TokenValidators: mtls.TokenValidators}
	for _, d := range []struct {
		name, text string
		into       *time.Duration
		least      time.Duration
	}{{"workloadCertTTL", mtls.WorkloadCertTTL, &s.WorkloadTTL, 1}, {"allowedClockSkew", mtls.AllowedClockSkew, &s.ClockSkew, 0}} {
		if d.text == "" {
			continue
		}
		parsed, err := time.ParseDuration(d.text)
		if err != nil || parsed < d.least {
			return s, fmt.Errorf("invalid spec.mtls.%s: %q: write a duration like 24h or 15m", d.name, d.text)
		}
		*d.into = parsed
	}
	return s, nil
}

// Authority are the settings of the certificate authority itself. Its identity is the one that sidecars expect on their own machine.
func (s SentrySettings) Authority() ca.Settings {
	return ca.Settings{TrustDomain: SentryTrustDomain, Namespace: SentryNamespace, WorkloadTTL: s.WorkloadTTL, ClockSkew: s.ClockSkew, SelfRenewing: true}
}

// The identity of Sentry on a machine (Dapr API, Sentry: flags).
const (
	SentryTrustDomain = "localhost"
	SentryNamespace   = "default"
)

// Anchors is the file of the trust anchors that Sentry keeps.
func (s SentrySettings) Anchors() string { return filepath.Join(s.Credentials, ca.AnchorsName) }

// Sentry is the state of the certificate authority in the process.
type Sentry struct {
	// Request is what the process has last been asked for.
	Request SentryRequest `json:"request"`
	// Port is where it listens, on loopback; 0 before it does.
	Port int `json:"port,omitempty"`
	// Ready tells that it issues certificates.
	Ready bool `json:"ready"`
	// Error is why it does not; it is tried again.
	Error string `json:"error,omitempty"`
}

// Address is where Sentry listens.
func (s *Sentry) Address() string { return loopback(s.Port) }

// SentryRequest asks the process for Sentry.
type SentryRequest struct {
	SentrySettings
	// At tells requests apart: a request for what already failed has it tried again.
	At int64 `json:"at"`
}

// same tells whether two requests ask for the same settings.
func (r *SentryRequest) same(other *SentryRequest) bool {
	a, err := json.Marshal(r.SentrySettings)
	b, otherErr := json.Marshal(other.SentrySettings)
	return err == nil && otherErr == nil && bytes.Equal(a, b)
}

// sentryDir has nothing but the request, so that watching it tells of nothing else.
func sentryDir(dir string) string   { return filepath.Join(dir, "sentry") }
func requestFile(dir string) string { return filepath.Join(sentryDir(dir), "wanted.json") }

// readRequest is nil when nobody has asked.
func readRequest(dir string) (*SentryRequest, error) {
	r := &SentryRequest{}
	switch err := readJSON(requestFile(dir), r); {
	case errors.Is(err, fs.ErrNotExist):
		return nil, nil
	case err != nil:
		return nil, err
	}
	return r, nil
}

// EnsureSentry is [Ensure] for a process that also runs Sentry. The process has the settings that were asked for last, and keeps to
// them when it is started again.
func EnsureSentry(ctx context.Context, l Launch, s SentrySettings) (p *Process, started bool, err error) {
	if err := os.MkdirAll(sentryDir(l.Dir), 0o700); err != nil {
		return nil, false, unusable("the directory of the local services cannot be made", err)
	}
	if err := writeJSON(requestFile(l.Dir), SentryRequest{SentrySettings: s, At: time.Now().UnixNano()}); err != nil {
		return nil, false, err
	}
	if p, started, err = Ensure(ctx, l); err != nil {
		return nil, started, err
	}
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	for {
		p, err := Find(l.Dir)
		if err != nil {
			return nil, started, err
		}
		if p == nil {
			return nil, started, fmt.Errorf("the local services have been stopped meanwhile; see %s", LogFile(l.Dir))
		}
		// Another command may have asked after this one: then its request counts.
		wanted, err := readRequest(l.Dir)
		if err != nil {
			return nil, started, err
		}
		if p.Sentry != nil && wanted != nil && p.Sentry.Request.At == wanted.At {
			if p.Sentry.Ready && listens(ctx, p.Sentry.Port) {
				return p, started, nil
			}
			if p.Sentry.Error != "" {
				return nil, started, fmt.Errorf("the local Sentry does not run: %s (log: %s)", p.Sentry.Error, LogFile(l.Dir))
			}
		}
		if pause(ctx) != nil {
			return nil, started, fmt.Errorf("the local Sentry has not become ready in the process %d of version %s; see %s, or put a new process in its place with `dapr local stop`", p.PID, p.Version, LogFile(l.Dir))
		}
	}
}

// listens tells whether something takes connections on a port.
func listens(ctx context.Context, port int) bool {
	ctx, cancel := context.WithTimeout(ctx, greetTimeout)
	defer cancel()
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", loopback(port))
	return err == nil && conn.Close() == nil
}
