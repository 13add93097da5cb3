// Package sentry is the certificate authority of the mesh as a service: it gives every app and control-plane service its identity
// (Dapr API, Sentry). The authority itself is in package ca, the decision who is who in package validator.
package sentry

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"time"

	"github.com/jonboulle/clockwork"

	sentryv1 "outrigger.dev/api/gen/sentry/v1"
	"outrigger.dev/controlplane/sentry/ca"
	"outrigger.dev/controlplane/sentry/validator"
)

// Options are those of a Sentry. [Run] needs the settings' trust domain and namespace, a store and a validator.
type Options struct {
	// Settings of the authority.
	Settings ca.Settings
	// Store keeps the credentials.
	Store ca.Store
	// Validators are those that requests may choose; DefaultValidator is for requests that choose none, UNKNOWN refuses these.
	Validators       map[validator.Name]validator.Validator
	DefaultValidator validator.Name
	// ClusterDomain is the DNS domain of the services; empty means the trust domain.
	ClusterDomain string

	// ListenAddress and Port are where the gRPC server listens: all addresses if empty, a free port if 0.
	ListenAddress string
	Port          int
	// HealthzListenAddress and HealthzPort, MetricsListenAddress and MetricsPort are those of the HTTP servers; MetricsEnabled has the latter served.
	HealthzListenAddress string
	HealthzPort          int
	MetricsEnabled       bool
	MetricsListenAddress string
	MetricsPort          int
	// OIDC is the OpenID Connect server.
	OIDC OIDCOptions

	// Log is the log; nil discards.
	Log *slog.Logger
	// Clock tells the time; nil is the system's.
	Clock clockwork.Clock
	// Started, if not nil, is told where the servers listen once everything is ready.
	Started func(Addresses)
	// Limits of the gRPC server; zero values are the defaults.
	Limits Limits
	// ReloadBatch is how long changes of files are gathered before they are read; zero is two seconds. StorePoll is how often the
	// store is read without a sign of a change; zero is a minute.
	ReloadBatch, StorePoll time.Duration
}

// OIDCOptions are those of the OpenID Connect server (Dapr API, Sentry: OIDC server).
type OIDCOptions struct {
	Enabled       bool
	ListenAddress string
	Port          int
	// CertFile and KeyFile are the server's certificate and key, PEM; both empty: it speaks without TLS.
	TLS               bool
	CertFile, KeyFile string
	JWKSURI           string
	PathPrefix        string
	AllowedHosts      []string
}

// Limits bound what a client can cost.
type Limits struct {
	// MessageBytes is the largest request; 0 is 512 KiB.
	MessageBytes int
	// Handshake is how long TLS and HTTP/2 may take to begin; 0 is 10 seconds.
	Handshake time.Duration
	// Request is how long a request may take from its headers to its answer; 0 is 30 seconds.
	Request time.Duration
	// Idle is how long a connection without a request is kept; 0 is 5 minutes.
	Idle time.Duration
	// Audiences is how many JWTs one request may ask for; 0 is 64.
	Audiences int
}

// Addresses are where the servers listen; nil ones do not.
type Addresses struct {
	GRPC, Healthz, Metrics, OIDC net.Addr
}

func (l Limits) normalised() Limits {
	if l.MessageBytes <= 0 {
		l.MessageBytes = 512 << 10
	}
	if l.Handshake <= 0 {
		l.Handshake = 10 * time.Second
	}
	if l.Request <= 0 {
		l.Request = 30 * time.Second
	}
	if l.Idle <= 0 {
		l.Idle = 5 * time.Minute
	}
	if l.Audiences <= 0 {
		l.Audiences = 64
	}
	return l
}

// normalised is the options with defaults; the error names what does not fit together.
func (o Options) normalised() (Options, error) {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Clock == nil {
		o.Clock = clockwork.NewRealClock()
	}
	o.Limits = o.Limits.normalised()
	var err error
	if o.Settings, err = o.Settings.Normalised(); err != nil {
		return o, err
	}
	if o.ClusterDomain == "" {
		o.ClusterDomain = o.Settings.TrustDomain
	}
	if o.Store == nil {
		return o, errors.New("sentry has no store for its credentials: set Options.Store, for example to a ca.Files")
	}
	if len(o.Validators) == 0 {
		return o, errors.New("sentry has no validator and could not issue any certificate: set Options.Validators")
	}
	if def := o.DefaultValidator; def != sentryv1.SignCertificateRequest_UNKNOWN && o.Validators[def] == nil {
		return o, fmt.Errorf("the default validator %s is not among those that are enabled", def)
	}
	switch c := &o.OIDC; {
	case c.Enabled && !o.Settings.JWT.Enabled:
		o.Log.Warn("The OIDC server is disabled, as there are no JWTs: --oidc-enabled needs --jwt-enabled")
		c.Enabled = false
	case !c.Enabled:
	case (c.CertFile == "") != (c.KeyFile == ""):
		return o, errors.New("oidc-server-tls-cert-file and oidc-server-tls-key-file go together: set both")
	case c.TLS && c.CertFile == "":
		return o, errors.New("the OIDC server with TLS needs --oidc-server-tls-cert-file and --oidc-server-tls-key-file; or set --oidc-server-tls-enabled=false")
	}
	return o, nil
}
