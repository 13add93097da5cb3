package program

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"

	"github.com/spf13/pflag"

	"outrigger.dev/controlplane/internal/serving"
	"outrigger.dev/identity/workload"
)

// Where a program runs: the values of --mode.
const (
	ModeStandalone = "standalone"
	ModeKubernetes = "kubernetes"
)

// defaultNamespace is that of a control plane on a machine.
const defaultNamespace = "default"

// NewFlags is an empty set of flags whose messages about deprecated flags go to stderr.
func NewFlags(name string, stderr io.Writer) *pflag.FlagSet {
	s := pflag.NewFlagSet(name, pflag.ContinueOnError)
	s.SortFlags = true
	s.SetOutput(stderr)
	s.Usage = func() {}
	return s
}

// Common are the values of the flags that all programs of the control plane have.
type Common struct {
	HealthzListenAddress, MetricsListenAddress string
	HealthzPort, MetricsPort                   int
	EnableMetrics                              bool
	LogLevel, LogFile                          string
	LogAsJSON                                  bool
	// Version asks for nothing but the version.
	Version bool
}

// Declare declares the flags.
func (c *Common) Declare(s *pflag.FlagSet) {
	s.StringVar(&c.HealthzListenAddress, "healthz-listen-address", "", "The address of the health port; empty for all")
	s.IntVar(&c.HealthzPort, "healthz-port", 8080, "The health port")
	s.BoolVar(&c.EnableMetrics, "enable-metrics", true, "Serve Prometheus metrics")
	s.StringVar(&c.MetricsListenAddress, "metrics-listen-address", "0.0.0.0", "The address of the metrics port")
	s.IntVar(&c.MetricsPort, "metrics-port", 9090, "The metrics port")

	s.StringVar(&c.LogLevel, "log-level", "info", "What is logged: debug, info, warn, error or fatal and above")
	s.BoolVar(&c.LogAsJSON, "log-as-json", false, "Log JSON objects instead of text")
	s.StringVar(&c.LogFile, "log-file", "", "A file to append the log to instead of writing it to standard output")
	s.BoolVar(&c.Version, "version", false, "Print the version and exit")
}

// Observed are the health port and the metrics port, as the flags say.
func (c *Common) Observed() serving.Observed {
	return serving.Observed{
		Healthz:        serving.Address{Host: c.HealthzListenAddress, Port: c.HealthzPort},
		MetricsEnabled: c.EnableMetrics, Metrics: serving.Address{Host: c.MetricsListenAddress, Port: c.MetricsPort},
	}
}

// Security are the values of the flags of a service that has its identity from Sentry (Dapr API, placement and scheduler: flags).
type Security struct {
	TLSEnabled                                         bool
	TrustDomain, TrustAnchorsFile, SentryAddress, Mode string
}

// Declare declares the flags. lookup stands for os.LookupEnv: the default address of Sentry has the namespace in it.
func (f *Security) Declare(s *pflag.FlagSet, lookup func(string) (string, bool)) {
	s.BoolVar(&f.TLSEnabled, "tls-enabled", false, "Prove identities on all connections by mTLS; always so in kubernetes mode")
	s.StringVar(&f.TrustDomain, "trust-domain", "localhost", "The trust domain of the control plane")
	s.StringVar(&f.TrustAnchorsFile, "trust-anchors-file", "/var/run/secrets/dapr.io/tls/ca.crt", "The file of the trust anchors, PEM")
	s.StringVar(&f.SentryAddress, "sentry-address", fmt.Sprintf("dapr-sentry.%s.svc:443", Namespace(lookup)), "The address of Sentry, host:port")
	s.StringVar(&f.Mode, "mode", ModeStandalone, "Where the service runs: standalone or kubernetes")
}

// Kubernetes reports whether the service runs there. The error names a mode that does not exist.
func (f *Security) Kubernetes() (bool, error) {
	switch f.Mode {
	case ModeStandalone:
		return false, nil
	case ModeKubernetes:
		return true, nil
	}
	return false, fmt.Errorf("invalid value for --mode: %q; use %s or %s", f.Mode, ModeStandalone, ModeKubernetes)
}

// Open makes the security of the service appID, such as "dapr-placement", as the flags and the environment say. In kubernetes mode it is
// always mTLS.
func (f *Security) Open(appID string, lookup func(string) (string, bool), log *slog.Logger) (*serving.Security, error) {
	kubernetes, err := f.Kubernetes()
	if err != nil {
		return nil, err
	}
	if !kubernetes && !f.TLSEnabled {
		return serving.ClearText(), nil
	}
	if namespace, _ := lookup(workload.EnvNamespace); kubernetes && namespace == "" {
		return nil, errors.New("the environment variable NAMESPACE is not set: in kubernetes mode it says which namespace the service is in")
	}
	if err := workload.CheckUser(kubernetes, os.Geteuid(), lookup); err != nil {
		return nil, err
	}
	namespace := Namespace(lookup)
	o := workload.Options{
		SentryAddress: f.SentryAddress, TrustAnchorsFile: f.TrustAnchorsFile,
		ControlPlaneTrustDomain: f.TrustDomain, ControlPlaneNamespace: namespace,
		AppID: appID, Namespace: namespace, TrustDomain: f.TrustDomain, Kubernetes: kubernetes, Log: log,
	}
	if err := o.Environment(lookup); err != nil {
		return nil, err
	}
	source, err := workload.New(o)
	if err != nil {
		return nil, err
	}
	return serving.MutualTLS(source, source.ControlPlane(appID)), nil
}

// Namespace is that of the control plane: the environment's, or "default" (Dapr API, control plane: NAMESPACE).
func Namespace(lookup func(string) (string, bool)) string {
	if namespace, _ := lookup(workload.EnvNamespace); namespace != "" {
		return namespace
	}
	return defaultNamespace
}

// doubleDashes writes known flags that have one dash with two. What follows a flag as its value stays as it is.
func doubleDashes(set *pflag.FlagSet, args []string) []string {
	out := make([]string, 0, len(args))
	for i := 0; i < len(args); i++ {
		arg := args[i]
		if arg == "--" {
			return append(out, args[i:]...)
		}
		name, _, valued := strings.Cut(strings.TrimPrefix(strings.TrimPrefix(arg, "-"), "-"), "=")
		flag := set.Lookup(name)
		if name == "help" && arg == "-help" {
			arg = "--help"
		}
		if flag == nil || !strings.HasPrefix(arg, "-") {
			out = append(out, arg)
			continue
		}
		if !strings.HasPrefix(arg, "--") {
			arg = "-" + arg
		}
		out = append(out, arg)
		if !valued && flag.NoOptDefVal == "" && i+1 < len(args) {
			i++
			out = append(out, args[i])
		}
	}
	return out
}
