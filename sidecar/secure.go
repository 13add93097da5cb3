package sidecar

import (
	"context"
	"fmt"
	"os"
	"strconv"

	"google.golang.org/grpc/credentials"

	"outrigger.dev/identity"
	"outrigger.dev/identity/workload"
	"outrigger.dev/mesh"
	"outrigger.dev/sidecar/operator"
	"outrigger.dev/telemetry/health"
	"outrigger.dev/telemetry/logging"
)

// The app ID of the operator, for its identity.
const operatorID = "dapr-operator"

// secure gets the sidecar its identity, and waits for it (Dapr API, start-up: step 2).
func (s *Sidecar) secure(ctx context.Context, down *teardown) error {
	o := &s.options
	log := logging.Scope(o.Log, logging.ScopeSecurity)
	target := s.health.Target(health.SecurityProvider)
	down.notice = append(down.notice, target.NotReady)
	if !o.EnableMTLS {
		log.Warn("mTLS is disabled. Skipping certificate request and tls validation")
		if !o.Kubernetes {
			target.Ready()
			return nil
		}
	}
	if err := workload.CheckUser(o.Kubernetes, os.Geteuid(), o.LookupEnv); err != nil {
		return err
	}
	options := workload.Options{
		SentryAddress: o.SentryAddress, ControlPlaneTrustDomain: o.ControlPlaneTrustDomain, ControlPlaneNamespace: o.ControlPlaneNamespace,
		AppID: o.AppID, Namespace: o.Namespace, JWTAudiences: o.JWTAudiences, Kubernetes: o.Kubernetes, Dial: o.Dial, Clock: o.Clock, Log: log,
	}
	if err := options.Environment(o.LookupEnv); err != nil {
		return err
	}
	source, err := workload.New(options)
	if err != nil {
		return err
	}
	life, end := context.WithCancel(context.WithoutCancel(ctx))
	ended := make(chan struct{})
	s.tasks.Go(func() {
		defer close(ended)
		// Why it ended before the first identity is what Wait returns; later it ends only with the sidecar.
		_ = source.Run(life)
	})
	down.close = append(down.close, func(context.Context) error {
		end()
		<-ended
		return nil
	})
	if err := source.Wait(ctx); err != nil {
		return fmt.Errorf("failed to retrieve the initial identity: %w", err)
	}
	s.identity = source
	target.Ready()
	return nil
}

// security is what connections to other sidecars are secured with; nil is clear text.
func (s *Sidecar) security() mesh.Security {
	if !s.options.EnableMTLS {
		return nil
	}
	return mesh.NewMTLS(s.identity, s.options.Clock.Now)
}

// identitySource is what components may authenticate with; nil without mTLS.
func (s *Sidecar) identitySource() identity.Source {
	if s.identity == nil {
		return nil
	}
	return s.identity
}

// openSource makes what the Configuration and the resources are read from.
func (s *Sidecar) openSource(ctx context.Context) error {
	o := &s.options
	if !o.Kubernetes {
		s.source = &files{options: o}
		return nil
	}
	id := s.identity.ControlPlane(operatorID)
	tls := identity.NewTLS(s.identity, o.Clock.Now).Client(identity.Exactly(id), mesh.ProtocolGRPC)
	client, err := operator.Open(ctx, operator.Options{
		Address: o.ControlPlaneAddress, Namespace: s.namespace(), Credentials: credentials.NewTLS(tls), Dial: o.Dial, ConnectTimeout: o.ControlPlaneTimeout, Clock: o.Clock, Log: s.log,
	})
	if err != nil {
		return err
	}
	from := &cluster{client: client, builtin: !o.DisableKubernetesSecrets}
	if len(o.ConfigPaths) > 0 {
		from.name = o.ConfigPaths[0]
	}
	if len(o.ConfigPaths) > 1 {
		s.log.Warn(fmt.Sprintf("Multiple configurations are not supported in Kubernetes mode; only %q is used", from.name))
	}
	s.source = from
	return nil
}

// namespace is the sidecar's own.
func (s *Sidecar) namespace() string {
	if s.options.Namespace == "" {
		return "default"
	}
	return s.options.Namespace
}

// publishEnv adds to the environment that configuration files and components see what only the running sidecar knows (Dapr
// API, sidecar: environment variables set by the process).
func (s *Sidecar) publishEnv(host string) {
	lookup, internal := s.options.LookupEnv, strconv.Itoa(port(s.internal))
	s.options.LookupEnv = func(name string) (string, bool) {
		switch name {
		case "HOST_ADDRESS":
			return host, true
		case "DAPR_PORT":
			return internal, true
		}
		return lookup(name)
	}
}
