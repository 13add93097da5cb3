// Package sidecar is the composition root of the sidecar: [New] puts the building blocks, the components and the listeners
// together, and Run brings them up and down in order. It can be embedded: any number of sidecars live in one process.
package sidecar

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"strings"
	"time"

	"github.com/jonboulle/clockwork"

	"outrigger.dev/blocks/actors/apphost"
	"outrigger.dev/blocks/bindings"
	"outrigger.dev/components"
	"outrigger.dev/mesh/scheduler"
)

// Options of a sidecar. Fields without a note on their zero value take that of the flag of daprd with the same name; see
// [Defaults].
type Options struct {
	AppID string
	// Namespace is the app's namespace as the environment gives it; it may be empty.
	Namespace string

	AppPort           int
	AppProtocol       string // http, https, h2c, grpc or grpcs
	AppChannelAddress string
	AppMaxConcurrency int // 0 or less: no limit
	AppToken          string

	EnableAppHealthCheck   bool
	AppHealthCheckPath     string
	AppHealthProbeInterval time.Duration
	AppHealthProbeTimeout  time.Duration
	AppHealthThreshold     int

	// HTTPPort, GRPCPort and InternalPort 0 mean: any free port (InternalPort: the stable port of the app on this machine).
	HTTPPort, GRPCPort, InternalPort int
	// PublicPort 0 means: no public listener.
	PublicPort            int
	ListenAddresses       []string
	PublicListenAddress   string
	InternalListenAddress string
	// UnixDomainSocket is a directory; when given, HTTP and gRPC API listen on sockets in it instead of TCP.
	UnixDomainSocket string
	// HostAddress is told to other sidecars; empty finds it out.
	HostAddress string

	EnableMetrics        bool
	MetricsPort          int
	MetricsListenAddress string
	EnableProfiling      bool
	ProfilePort          int

	ConfigPaths    []string
	ResourcesPaths []string

	// ReconcileInterval is how often hot reload looks at the resources without having noticed a change; 0 or less means 60 s.
	ReconcileInterval time.Duration

	// EnableAPILogging overrides the Configuration when set.
	EnableAPILogging *bool
	AllowedOrigins   string
	// MaxBodySize is in bytes; 0 means no limit for HTTP and nothing for gRPC.
	MaxBodySize    int64
	ReadBufferSize int64
	// GracefulShutdown bounds shutting down; 0 means no bound.
	GracefulShutdown     time.Duration
	BlockShutdown        time.Duration
	DisableInitEndpoints []string
	// AppBindingOptionsTimeout bounds asking the app whether it wants an input binding; 0 means 3 s.
	AppBindingOptionsTimeout time.Duration
	APIToken                 string
	DisableH2C               bool

	// EnableMTLS secures the connections to other sidecars.
	EnableMTLS bool
	// Kubernetes says that the sidecar runs there: its resources come from the operator, and so on.
	Kubernetes bool
	// ControlPlaneAddress is the operator's, SentryAddress that of the certificate authority, both "host:port".
	ControlPlaneAddress, SentryAddress string
	// ControlPlaneTimeout bounds reaching the operator at start; 0 means 30 s.
	ControlPlaneTimeout time.Duration
	// ControlPlaneTrustDomain and ControlPlaneNamespace are those of the control plane's services; empty means what the
	// environment says, and else localhost and default.
	ControlPlaneTrustDomain, ControlPlaneNamespace string
	// JWTAudiences are asked for in the tokens of the sidecar's identity.
	JWTAudiences []string
	// DisableKubernetesSecrets does without the built-in secret store of Kubernetes mode.
	DisableKubernetesSecrets bool

	// PlacementAddresses are those of placement services, "host:port"; without any there are no actors.
	PlacementAddresses []string
	// ActorsDisseminateTimeout bounds a round of placement; 0 means 30 s.
	ActorsDisseminateTimeout time.Duration
	// SchedulerAddresses are those of scheduler services, "host:port"; without any there are no jobs and reminders.
	SchedulerAddresses []string
	// SchedulerJobStreams is how many streams there are to every scheduler; 0 means 3.
	SchedulerJobStreams    int
	ComponentsSocketFolder string

	// Version is shown by the metadata API.
	Version string

	// Registry holds the component types; nil has none.
	Registry *components.Registry
	// NameResolution is the resolver used when the Configuration names none, e.g. "mdns".
	NameResolution string
	// NameResolutionProperties configure that default resolver.
	NameResolutionProperties map[string]string

	Log *slog.Logger
	// LogOutput is where the log goes, for parts that need a writer; nil discards.
	LogOutput io.Writer
	Clock     clockwork.Clock
	// LookupEnv reads the environment; nil is that of the process.
	LookupEnv func(string) (string, bool)
	// Listen opens TCP listeners; nil is net.Listen. Tests replace it.
	Listen func(network, address string) (net.Listener, error)
	// Dial opens connections to other sidecars; nil is TCP. Tests replace it.
	Dial func(ctx context.Context, address string) (net.Conn, error)
}

// Defaults are the options of a daprd started without flags.
func Defaults() Options {
	return Options{
		AppProtocol: "http", AppChannelAddress: "127.0.0.1", AppMaxConcurrency: -1,
		AppHealthCheckPath: "/healthz", AppHealthProbeInterval: 5 * time.Second, AppHealthProbeTimeout: 500 * time.Millisecond, AppHealthThreshold: 3,
		AppBindingOptionsTimeout: bindings.DefaultProbeTimeout,
		ActorsDisseminateTimeout: apphost.DefaultDisseminateTimeout, SchedulerJobStreams: scheduler.DefaultJobStreams,
		HTTPPort: 3500, GRPCPort: 50001, ListenAddresses: []string{""},
		EnableMetrics: true, MetricsPort: 9090, MetricsListenAddress: "0.0.0.0", ProfilePort: 7777,
		MaxBodySize: 4 << 20, ReadBufferSize: 4 << 10, GracefulShutdown: 5 * time.Second,
		NameResolution: "mdns", Version: "edge",
	}
}

// complete fills in what may be left out and checks what contradicts itself. Its errors are those of the Dapr API's command
// line.
func (o *Options) complete() error {
	switch {
	case o.AppID == "":
		return errors.New("parameter app-id cannot be empty")
	case strings.Contains(o.AppID, "."):
		return errors.New("parameter app-id cannot contain dots")
	}
	o.AppProtocol = strings.ToLower(o.AppProtocol)
	switch o.AppProtocol {
	case "":
		o.AppProtocol = "http"
	case "http", "https", "h2c", "grpc", "grpcs":
	default:
		return fmt.Errorf("invalid value for 'app-protocol': %s", o.AppProtocol)
	}
	if o.AppPort > 0 && o.AppPort == o.HTTPPort {
		return fmt.Errorf("the 'dapr-http-port' argument value %d conflicts with 'app-port'", o.HTTPPort)
	}
	if o.AppPort > 0 && o.AppPort == o.GRPCPort {
		return fmt.Errorf("the 'dapr-grpc-port' argument value %d conflicts with 'app-port'", o.GRPCPort)
	}
	if o.AppHealthProbeTimeout > o.AppHealthProbeInterval {
		return errors.New("value for 'health-probe-timeout' must be smaller than 'health-probe-interval'")
	}
	for i, endpoint := range o.DisableInitEndpoints {
		endpoint = strings.ToLower(strings.TrimSpace(endpoint))
		if endpoint != "config" && endpoint != "subscribe" {
			return fmt.Errorf("invalid value for 'disable-init-endpoints': %s", endpoint)
		}
		o.DisableInitEndpoints[i] = endpoint
	}
	if len(o.ListenAddresses) == 0 {
		o.ListenAddresses = []string{""}
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Clock == nil {
		o.Clock = clockwork.NewRealClock()
	}
	if o.LookupEnv == nil {
		o.LookupEnv = os.LookupEnv
	}
	if o.Listen == nil {
		o.Listen = net.Listen
	}
	if o.Registry == nil {
		o.Registry = &components.Registry{}
	}
	if o.Version == "" {
		o.Version = "edge"
	}
	return o.checkActors()
}
