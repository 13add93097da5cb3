package sentry

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"outrigger.dev/controlplane/internal/serving"
	"outrigger.dev/controlplane/sentry/ca"
	"outrigger.dev/controlplane/sentry/oidc"
	"outrigger.dev/controlplane/sentry/validator"
	"outrigger.dev/telemetry/health"
)

// Health targets of the process (Dapr API, Sentry: readiness).
const (
	targetServer = "sentry-server"
	targetOIDC   = "oidc-server"
)

// name is that of the service.
const name = "sentry"

// Run runs a Sentry until the context ends, which is no error. An error names what could not be used: a port, a document, a setting.
func Run(ctx context.Context, o Options) error {
	o, err := o.normalised()
	if err != nil {
		return err
	}
	s := &service{Group: serving.NewGroup(ctx, name, o.Log), o: o, metrics: newMetrics()}
	defer s.Close()
	return s.Wait(s.start())
}

// service is a running Sentry.
type service struct {
	*serving.Group
	o         Options
	metrics   *metrics
	manager   *ca.Manager
	addresses Addresses
}

// start starts all parts: first the ones that tell how it goes.
func (s *service) start() error {
	targets := []string{targetServer, health.SecurityProvider}
	if s.o.OIDC.Enabled {
		targets = append(targets, targetOIDC)
	}
	for _, v := range s.o.Validators {
		if r, ok := v.(validator.Runner); ok {
			targets = append(targets, r.HealthTarget())
		}
	}
	for _, name := range targets {
		s.Health.Target(name)
	}

	// All ports are taken before anything is generated, so that a port that is not free has no other consequence.
	grpcListener, err := s.Listen("gRPC", serving.Address{Host: s.o.ListenAddress, Port: s.o.Port})
	if err != nil {
		return err
	}
	s.addresses.GRPC = grpcListener.Addr()
	s.addresses.Healthz, s.addresses.Metrics, err = s.Observe(serving.Observed{
		Healthz:        serving.Address{Host: s.o.HealthzListenAddress, Port: s.o.HealthzPort},
		MetricsEnabled: s.o.MetricsEnabled, Metrics: serving.Address{Host: s.o.MetricsListenAddress, Port: s.o.MetricsPort},
	}, serving.MetricsHandler(s.metrics.registry), nil)
	if err != nil {
		return err
	}
	var oidcListener net.Listener
	if s.o.OIDC.Enabled {
		if oidcListener, err = s.Listen("OIDC", serving.Address{Host: s.o.OIDC.ListenAddress, Port: s.o.OIDC.Port}); err != nil {
			return err
		}
		s.addresses.OIDC = oidcListener.Addr()
	}
	s.manager, err = ca.NewManager(s.Context(), ca.ManagerOptions{
		Store: s.o.Store, Settings: s.o.Settings, Clock: s.o.Clock, Log: s.Log, Batch: s.o.ReloadBatch, Poll: s.o.StorePoll,
		Changed: s.metrics.authorityChanged,
	})
	if err != nil {
		return err
	}
	s.Go(s.manager.Run)
	for _, v := range s.o.Validators {
		if r, ok := v.(validator.Runner); ok {
			s.Go(func(ctx context.Context) error { return r.Run(ctx, s.Health.Target(r.HealthTarget()).Ready) })
		}
	}
	if err := s.startCA(grpcListener); err != nil {
		return err
	}
	if s.o.OIDC.Enabled {
		s.startOIDC(oidcListener)
	}
	s.WhenReady(func() {
		s.Log.Info(fmt.Sprintf("Sentry is ready and issues certificates on %s", s.addresses.GRPC))
		if s.o.Started != nil {
			s.o.Started(s.addresses)
		}
	})
	return nil
}

// startCA starts the service CA.
func (s *service) startCA(listener net.Listener) error {
	id, err := spiffeid.FromString(s.o.Settings.SentryID())
	if err != nil {
		return fmt.Errorf("the identity of Sentry: %w", err)
	}
	own := &ownIdentity{id: id, authority: s.manager.Authority, clock: s.o.Clock, metrics: s.metrics, log: s.Log}
	if _, err := own.get(nil); err != nil {
		return fmt.Errorf("sentry cannot issue its own certificate: %w", err)
	}
	s.Health.Target(health.SecurityProvider).Ready()
	server := newGRPCServer(&signer{
		authority: s.manager.Authority, validators: s.o.Validators, defaultValidator: s.o.DefaultValidator,
		trustDomain: s.o.Settings.TrustDomain, namespace: s.o.Settings.Namespace, clusterDomain: s.o.ClusterDomain,
		maxAudiences: s.o.Limits.Audiences, clock: s.o.Clock, metrics: s.metrics, log: s.Log,
	}, own, s.o.Limits, s.Log)
	s.ServeGRPC(server, listener)
	s.Health.Target(targetServer).Ready()
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
	certificate := &fileCertificate{certFile: c.CertFile, keyFile: c.KeyFile, clock: s.o.Clock, log: s.Log}
	s.Go(func(ctx context.Context) error {
		if c.TLS {
			if err := certificate.await(ctx); err != nil || ctx.Err() != nil {
				return err
			}
			listener = tls.NewListener(listener, &tls.Config{
				MinVersion: tls.VersionTLS12, GetCertificate: certificate.get, NextProtos: []string{"http/1.1"},
			})
		}
		s.Health.Target(targetOIDC).Ready()
		return serving.ServeHTTP(ctx, name, listener, handler, s.Log)
	})
}
