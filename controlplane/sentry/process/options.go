package process

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/spiffe/go-spiffe/v2/spiffeid"

	sentryv1 "outrigger.dev/api/gen/sentry/v1"
	"outrigger.dev/controlplane/internal/program"
	"outrigger.dev/controlplane/sentry"
	"outrigger.dev/controlplane/sentry/ca"
	"outrigger.dev/controlplane/sentry/kubernetes"
	"outrigger.dev/controlplane/sentry/validator"
	"outrigger.dev/resource"
)

// defaultConfig is the name of the control plane's Configuration. On a machine no such file is needed unless the flag is given.
const defaultConfig = "daprsystem"

// options turns flags and environment into the options of the service. It reads the Configuration and the sources of the validators.
func (f *flags) options(ctx context.Context, lookup func(string) (string, bool), log *slog.Logger) (sentry.Options, error) {
	o := sentry.Options{
		Settings: ca.Settings{
			TrustDomain: f.trustDomain, RootTTL: f.rootTTL, IssuerTTL: f.issuerTTL, SelfRenewing: f.selfRenewing,
			JWT: ca.JWTSettings{
				Enabled: f.jwtEnabled, Issuer: f.jwtIssuer, KeyID: f.jwtKeyID, Algorithm: jose.SignatureAlgorithm(f.jwtAlgorithm), TTL: f.jwtTTL,
			},
		},
		Validators:    map[validator.Name]validator.Validator{},
		ListenAddress: f.listenAddress, Port: f.port,
		HealthzListenAddress: f.common.HealthzListenAddress, HealthzPort: f.common.HealthzPort,
		MetricsEnabled: f.common.EnableMetrics, MetricsListenAddress: f.common.MetricsListenAddress, MetricsPort: f.common.MetricsPort,
		OIDC: sentry.OIDCOptions{
			Enabled: f.oidcEnabled, ListenAddress: f.oidcAddress, Port: f.oidcPort, TLS: f.oidcTLS, CertFile: f.oidcCert, KeyFile: f.oidcKey,
			JWKSURI: f.oidcJWKSURI, PathPrefix: f.oidcPath, AllowedHosts: f.oidcHosts,
		},
		Log: log,
	}
	for _, d := range []struct {
		name  string
		value time.Duration
	}{{"root-ttl", f.rootTTL}, {"issuer-ttl", f.issuerTTL}, {"jwt-ttl", f.jwtTTL}} {
		if d.value <= 0 {
			return o, fmt.Errorf("invalid value for --%s: %s; it must be greater than 0", d.name, d.value)
		}
	}
	namespace, _ := lookup("NAMESPACE")
	var err error
	switch f.mode {
	case program.ModeStandalone:
		err = f.standalone(ctx, &o, lookup, log)
	case program.ModeKubernetes:
		err = f.kubernetes(ctx, &o, namespace)
	default:
		err = fmt.Errorf("invalid value for --mode: %q; use standalone or kubernetes", f.mode)
	}
	return o, err
}

// standalone completes the options for a machine.
func (f *flags) standalone(ctx context.Context, o *sentry.Options, lookup func(string) (string, bool), log *slog.Logger) error {
	o.Settings.Namespace = program.Namespace(lookup)
	mtls := &resource.MTLS{}
	if f.set.Changed("config") {
		config, problems, err := resource.LoadConfiguration([]string{f.config}, lookup)
		for _, p := range problems {
			log.Warn(p.String())
		}
		if err != nil {
			return fmt.Errorf("the Configuration of --config cannot be loaded: %w", err)
		}
		mtls = &config.Spec.MTLS
	}
	o.Store = &ca.Files{
		Directory: f.credentials, Anchors: f.caFile, Issuer: f.certificateFile, IssuerKey: f.keyFile, JWTKey: f.jwtKeyFile, JWKS: f.jwksFile,
	}
	if err := configure(ctx, o, mtls, log); err != nil {
		return err
	}
	if len(o.Validators) == 0 {
		o.Validators[sentryv1.SignCertificateRequest_INSECURE] = validator.Insecure{}
		o.DefaultValidator = sentryv1.SignCertificateRequest_INSECURE
		log.Warn("No token validator is configured: whoever reaches the port gets a certificate for any identity. Set spec.mtls.tokenValidators, or keep strangers from the port")
	}
	return nil
}

// kubernetes completes the options for a cluster.
func (f *flags) kubernetes(ctx context.Context, o *sentry.Options, namespace string) error {
	if namespace == "" {
		return fmt.Errorf("the environment variable NAMESPACE is not set: in kubernetes mode it says which namespace sentry is in")
	}
	o.Settings.Namespace = namespace
	clients, err := kubernetes.Connect(f.kubeconfig)
	if err != nil {
		return err
	}
	mtls, err := clients.MTLS(ctx, namespace, f.config)
	if err != nil {
		return err
	}
	if err := configure(ctx, o, mtls, o.Log); err != nil {
		return err
	}
	o.Store = &kubernetes.Store{
		Clients: clients, Namespace: namespace, Directory: f.credentials, Log: o.Log,
		Anchors: f.caFile, Issuer: f.certificateFile, IssuerKey: f.keyFile, JWTKey: f.jwtKeyFile, JWKS: f.jwksFile,
	}
	td, err := spiffeid.TrustDomainFromString(f.trustDomain)
	if err != nil {
		return fmt.Errorf("invalid value for --trust-domain: %q: %w", f.trustDomain, err)
	}
	v, err := kubernetes.NewValidator(kubernetes.ValidatorOptions{Clients: clients, TrustDomain: td, Namespace: namespace, SentryID: o.Settings.SentryID()})
	if err != nil {
		return err
	}
	o.Validators[sentryv1.SignCertificateRequest_KUBERNETES] = v
	o.DefaultValidator = sentryv1.SignCertificateRequest_KUBERNETES
	o.ClusterDomain = program.ClusterDomain(ctx)
	return nil
}

// configure reads what a Configuration says of mTLS: lives and validators.
func configure(ctx context.Context, o *sentry.Options, mtls *resource.MTLS, log *slog.Logger) error {
	var err error
	if o.Settings.WorkloadTTL, err = duration("workloadCertTTL", mtls.WorkloadCertTTL, ca.DefaultWorkloadTTL); err != nil {
		return err
	}
	if o.Settings.WorkloadTTL == 0 {
		return fmt.Errorf("invalid spec.mtls.workloadCertTTL: %q: it must be greater than 0", mtls.WorkloadCertTTL)
	}
	if o.Settings.ClockSkew, err = duration("allowedClockSkew", mtls.AllowedClockSkew, ca.DefaultClockSkew); err != nil {
		return err
	}
	configured, err := validator.Configured(mtls.TokenValidators)
	if err != nil {
		return err
	}
	for _, jo := range configured {
		jo.Audience, jo.Log = o.Settings.SentryID(), log
		v, err := validator.NewJWKS(ctx, jo)
		if err != nil {
			return err
		}
		o.Validators[sentryv1.SignCertificateRequest_JWKS] = v
	}
	return nil
}

func duration(name, text string, standard time.Duration) (time.Duration, error) {
	if text == "" {
		return standard, nil
	}
	d, err := time.ParseDuration(text)
	if err != nil || d < 0 {
		return 0, fmt.Errorf("invalid spec.mtls.%s: %q: write a duration like 24h or 15m", name, text)
	}
	return d, nil
}
