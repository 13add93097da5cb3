package sentry

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"net/http"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"golang.org/x/sync/errgroup"

	"outrigger.dev/controlplane/sentry/ca"
	"outrigger.dev/controlplane/sentry/oidc"
	"outrigger.dev/controlplane/sentry/validator"
	"outrigger.dev/telemetry/health"
)

// Health targets of the process (Dapr API, Sentry: readiness).
const (
	targetServer  = "sentry-server"
	targetOIDC    = "oidc-server"
	targetHealthz = "healthz-server"
	targetMetrics = "metrics-server"
)

// Run runs a Sentry until the context ends, which is no error. An error names what could not be used: a port, a document, a setting.
func Run(ctx context.Context, o Options) error {
	o, err := o.normalised()
	if err != nil {
		return err
	}
	s := &service{o: o, health: health.New(), metrics: newMetrics()}
	s.group, s.ctx = errgroup.WithContext(ctx)
	defer s.closeListeners()
	if err := s.start(); err != nil {
		// The context of the group has to end for what already runs.
		s.group.Go(func() error { return err })
	}
	if err := s.group.Wait(); err != nil && ctx.Err() == nil {
		return err
	}
	return nil
}

// service is a running Sentry.
type service struct {
	o         Options
	health    *health.Registry
	metrics   *metrics
	manager   *ca.Manager
	group     *errgroup.Group
	ctx       context.Context
	addresses Addresses
	listeners []net.Listener
}

// start starts all parts: first the ones that tell how it goes.
func (s *service) start() error {
	targets := []string{targetServer, health.SecurityProvider, targetHealthz}
	if s.o.MetricsEnabled {
		targets = append(targets, targetMetrics)
	}
	if s.o.OIDC.Enabled {
		targets = append(targets, targetOIDC)
	}
	for _, v := range s.o.Validators {
		if r, ok := v.(validator.Runner); ok {
			targets = append(targets, r.HealthTarget())
		}
	}
	for _, name := range targets {
		s.health.Target(name)
	}

	// All ports are taken before anything is generated, so that a port that is not free has no other consequence.
	grpcListener, err := s.listen("gRPC", s.o.ListenAddress, s.o.Port, &s.addresses.GRPC)
	if err != nil {
		return err
	}
	if err := s.serve("healthz", s.o.HealthzListenAddress, s.o.HealthzPort, &s.addresses.Healthz, healthz(s.health), targetHealthz); err != nil {
		return err
	}
	if s.o.MetricsEnabled {
		mux := http.NewServeMux()
		mux.Handle("/", s.metrics.handler())
		if err := s.serve("metrics", s.o.MetricsListenAddress, s.o.MetricsPort, &s.addresses.Metrics, mux, targetMetrics); err != nil {
			return err
		}
	}
	var oidcListener net.Listener
	if s.o.OIDC.Enabled {
		if oidcListener, err = s.listen("OIDC", s.o.OIDC.ListenAddress, s.o.OIDC.Port, &s.addresses.OIDC); err != nil {
			return err
		}
	}
	s.manager, err = ca.NewManager(s.ctx, ca.ManagerOptions{
		Store: s.o.Store, Settings: s.o.Settings, Clock: s.o.Clock, Log: s.o.Log, Batch: s.o.ReloadBatch, Poll: s.o.StorePoll,
		Changed: s.metrics.authorityChanged,
	})
	if err != nil {
		return err
	}
	s.group.Go(func() error { return s.manager.Run(s.ctx) })
	for _, v := range s.o.Validators {
		if r, ok := v.(validator.Runner); ok {
			s.group.Go(func() error { return r.Run(s.ctx, s.health.Target(r.HealthTarget()).Ready) })
		}
	}
	if err := s.startCA(grpcListener); err != nil {
		return err
	}
	if s.o.OIDC.Enabled {
		s.startOIDC(oidcListener)
	}
	s.group.Go(func() error {
		if s.health.Wait(s.ctx) == nil {
			s.o.Log.Info(fmt.Sprintf("Sentry is ready and issues certificates on %s", s.addresses.GRPC))
			if s.o.Started != nil {
				s.o.Started(s.addresses)
			}
		}
		return nil
	})
	return nil
}

// startCA starts the service CA.
func (s *service) startCA(listener net.Listener) error {
	id, err := spiffeid.FromString(s.o.Settings.SentryID())
	if err != nil {
		return fmt.Errorf("the identity of Sentry: %w", err)
	}
	own := &ownIdentity{id: id, authority: s.manager.Authority, clock: s.o.Clock, metrics: s.metrics, log: s.o.Log}
	if _, err := own.get(nil); err != nil {
		return fmt.Errorf("sentry cannot issue its own certificate: %w", err)
	}
	s.health.Target(health.SecurityProvider).Ready()
	server := newGRPCServer(&signer{
		authority: s.manager.Authority, validators: s.o.Validators, defaultValidator: s.o.DefaultValidator,
		trustDomain: s.o.Settings.TrustDomain, namespace: s.o.Settings.Namespace, clusterDomain: s.o.ClusterDomain,
		maxAudiences: s.o.Limits.Audiences, clock: s.o.Clock, metrics: s.metrics, log: s.o.Log,
	}, own, s.o.Limits, s.o.Log)
	s.group.Go(func() error { return serveGRPC(s.ctx, server, listener) })
	s.health.Target(targetServer).Ready()
	return nil
}

// startOIDC starts the OpenID Connect server.
func (s *service) startOIDC(listener net.Listener) {
	c := s.o.OIDC
	handler := oidc.Handler(oidc.Options{
		Issuer: s.o.Settings.JWT.Issuer, JWKSURI: c.JWKSURI, PathPrefix: c.PathPrefix, AllowedHosts: c.AllowedHosts,
		Algorithm: string(s.o.Settings.JWT.Algorithm), TLS: c.TLS,
		JWKS: func() []byte { return s.manager.Authority().JWKS() },
	})
	certificate := &fileCertificate{certFile: c.CertFile, keyFile: c.KeyFile, clock: s.o.Clock, log: s.o.Log}
	s.group.Go(func() error {
		if c.TLS {
			if err := certificate.await(s.ctx); err != nil || s.ctx.Err() != nil {
				return err
			}
			listener = tls.NewListener(listener, &tls.Config{
				MinVersion: tls.VersionTLS12, GetCertificate: certificate.get, NextProtos: []string{"http/1.1"},
			})
		}
		s.health.Target(targetOIDC).Ready()
		return serveHTTP(s.ctx, listener, handler, s.o.Log)
	})
}

// serve starts an HTTP server in clear text.
func (s *service) serve(what, host string, port int, at *net.Addr, handler http.Handler, target string) error {
	listener, err := s.listen(what, host, port, at)
	if err != nil {
		return err
	}
	s.group.Go(func() error { return serveHTTP(s.ctx, listener, handler, s.o.Log) })
	s.health.Target(target).Ready()
	return nil
}

func (s *service) listen(what, host string, port int, at *net.Addr) (net.Listener, error) {
	listener, err := (&net.ListenConfig{}).Listen(s.ctx, "tcp", address(host, port))
	if err != nil {
		return nil, fmt.Errorf("the %s port %d is not to be had: %w; stop what holds it, or choose another", what, port, err)
	}
	s.listeners = append(s.listeners, listener)
	*at = listener.Addr()
	return listener, nil
}

// closeListeners closes those that no server has taken over; closing twice does no harm.
func (s *service) closeListeners() {
	for _, l := range s.listeners {
		l.Close()
	}
}
