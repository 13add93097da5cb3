package daprd

import (
	"io"
	"time"

	"github.com/spf13/pflag"
)

// flags are the values of the command line (Dapr API, sidecar: command line). Ports are text because that is what the flags
// take; options turns them into numbers.
type flags struct {
	set *pflag.FlagSet

	appID, mode, appPort, appProtocol, appChannelAddress      string
	appSSL                                                    bool
	appMaxConcurrency                                         int
	httpPort, grpcPort, internalPort, publicPort              string
	internalListenAddress, listenAddresses, publicAddress     string
	unixDomainSocket, profilePort, metricsPort, metricsListen string
	enableProfiling, enableMetrics                            bool

	logLevel, logFile         string
	logAsJSON                 bool
	enableAPILogging          bool
	config, resourcesPath     []string
	componentsPath            string
	allowedOrigins            string
	maxBodySize               string
	readBufferSize            string
	maxRequestMB, readKB      int
	gracefulSeconds           int
	blockShutdown             time.Duration
	enableAppHealthCheck      bool
	healthPath                string
	healthInterval            int
	healthTimeout             int
	healthThreshold           int
	bindingTimeout            time.Duration
	disableInitEndpoints      []string
	placement                 string
	disseminateTimeout        time.Duration
	scheduler                 []string
	schedulerStreams          uint
	hotReload                 time.Duration
	controlPlaneAddress       string
	trustDomain               string
	controlPlaneNamespace     string
	sentry                    string
	jwtAudiences              []string
	enableMTLS                bool
	disableKubernetesSecrets  bool
	reminders, actors         string
	version, buildInfo, waits bool
}

// newFlags declares all flags; messages about deprecated ones go to stderr.
func newFlags(stderr io.Writer) *flags {
	f := &flags{set: pflag.NewFlagSet("daprd", pflag.ContinueOnError)}
	s := f.set
	s.SortFlags = true
	s.SetOutput(stderr)
	s.Usage = func() {}

	s.StringVar(&f.appID, "app-id", "", "The unique id of the app, under which other apps reach it")
	s.StringVar(&f.mode, "mode", "standalone", "Where the sidecar runs: standalone or kubernetes")
	s.StringVar(&f.appPort, "app-port", "", "The port the app listens on; empty or 0 for an app that listens on none")
	s.StringVar(&f.appProtocol, "app-protocol", "http", "How the app speaks: http, https, h2c, grpc or grpcs")
	s.BoolVar(&f.appSSL, "app-ssl", false, "Use TLS towards the app")
	s.StringVar(&f.appChannelAddress, "app-channel-address", "127.0.0.1", "The host the app listens on")
	s.IntVar(&f.appMaxConcurrency, "app-max-concurrency", -1, "How many calls the app may get at a time; 0 or less for no limit")
	s.StringVar(&f.httpPort, "dapr-http-port", "3500", "The port of the HTTP API")
	s.StringVar(&f.grpcPort, "dapr-grpc-port", "50001", "The port of the gRPC API")
	s.StringVar(&f.internalPort, "dapr-internal-grpc-port", "", "The port for other sidecars; empty or 0 for one derived from the app id")
	s.StringVar(&f.internalListenAddress, "dapr-internal-grpc-listen-address", "", "The address of the port for other sidecars; empty for all")
	s.StringVar(&f.listenAddresses, "dapr-listen-addresses", "", "Comma separated addresses of the HTTP, gRPC and profiling ports; empty for all")
	s.StringVar(&f.publicPort, "dapr-public-port", "", "The port of a further HTTP server that has only health and metadata")
	s.StringVar(&f.publicAddress, "dapr-public-listen-address", "", "The address of the public port; empty for all")
	s.StringVar(&f.unixDomainSocket, "unix-domain-socket", "", "A directory; the HTTP and gRPC APIs listen on sockets in it instead of on ports")
	s.StringVar(&f.profilePort, "profile-port", "7777", "The port of the profiling server")
	s.BoolVar(&f.enableProfiling, "enable-profiling", false, "Serve Go's pprof on the profiling port")
	s.BoolVar(&f.enableMetrics, "enable-metrics", true, "Serve Prometheus metrics")
	s.StringVar(&f.metricsPort, "metrics-port", "9090", "The port of the metrics server")
	s.StringVar(&f.metricsListen, "metrics-listen-address", "0.0.0.0", "The address of the metrics server")

	s.StringVar(&f.logLevel, "log-level", "info", "What is logged: debug, info, warn, error or fatal and above")
	s.BoolVar(&f.logAsJSON, "log-as-json", false, "Log JSON objects instead of text")
	s.StringVar(&f.logFile, "log-file", "", "A file to append the log to instead of writing it to standard output")
	s.BoolVar(&f.enableAPILogging, "enable-api-logging", false, "Log every API call; if not given, the Configuration decides")

	s.StringSliceVar(&f.config, "config", nil, "Path of a configuration file; may be repeated, later files win")
	s.StringSliceVar(&f.resourcesPath, "resources-path", nil, "Directory of resource files; may be repeated")
	s.StringVar(&f.componentsPath, "components-path", "", "Directory of resource files")
	s.StringVar(&f.allowedOrigins, "allowed-origins", "", "Comma separated origins that browsers may call from, or *; empty for no CORS")
	s.StringVar(&f.maxBodySize, "max-body-size", "4Mi", "The largest request body, as a quantity such as 4Mi; -1 for the default, 0 for no limit over HTTP")
	s.IntVar(&f.maxRequestMB, "dapr-http-max-request-size", 4, "The largest request body in MB")
	s.StringVar(&f.readBufferSize, "read-buffer-size", "4Ki", "The largest HTTP header, as a quantity such as 4Ki; -1 for the default")
	s.IntVar(&f.readKB, "dapr-http-read-buffer-size", 4, "The largest HTTP header in KB")

	s.IntVar(&f.gracefulSeconds, "dapr-graceful-shutdown-seconds", 5, "How long shutting down may take; 0 for no limit")
	s.DurationVar(&f.blockShutdown, "dapr-block-shutdown-duration", 0, "How long to go on serving after the signal to end, or until the app is unhealthy")
	s.BoolVar(&f.enableAppHealthCheck, "enable-app-health-check", false, "Check the health of the app")
	s.StringVar(&f.healthPath, "app-health-check-path", "/healthz", "The path that tells the app's health over HTTP")
	s.IntVar(&f.healthInterval, "app-health-probe-interval", 5, "Seconds between health checks")
	s.IntVar(&f.healthTimeout, "app-health-probe-timeout", 500, "Milliseconds that a health check may take")
	s.IntVar(&f.healthThreshold, "app-health-threshold", 3, "Failed checks in a row that make the app unhealthy")
	s.DurationVar(&f.bindingTimeout, "app-binding-options-timeout", 3*time.Second, "How long the app may take to say whether it wants an input binding")
	s.StringSliceVar(&f.disableInitEndpoints, "disable-init-endpoints", nil, "What not to ask the app for: config, subscribe")

	s.StringVar(&f.placement, "placement-host-address", "", "Comma separated addresses of placement services")
	s.DurationVar(&f.disseminateTimeout, "actors-disseminate-timeout", 30*time.Second, "How long a round of placement may take")
	s.StringSliceVar(&f.scheduler, "scheduler-host-address", nil, "Addresses of scheduler services")
	s.UintVar(&f.schedulerStreams, "scheduler-job-streams", 3, "Number of streams to the scheduler")
	s.DurationVar(&f.hotReload, "hot-reload-reconcile-interval", 0, "How often resources are compared with what runs")
	s.StringVar(&f.controlPlaneAddress, "control-plane-address", "", "Address of the operator")
	s.StringVar(&f.trustDomain, "control-plane-trust-domain", "localhost", "Trust domain of the control plane")
	s.StringVar(&f.controlPlaneNamespace, "control-plane-namespace", "default", "Namespace of the control plane")
	s.StringVar(&f.sentry, "sentry-address", "", "Address of the certificate authority")
	s.StringSliceVar(&f.jwtAudiences, "sentry-request-jwt-audiences", nil, "Audiences of the tokens asked of the certificate authority")
	s.BoolVar(&f.enableMTLS, "enable-mtls", false, "Encrypt and authenticate traffic between sidecars, with certificates of the certificate authority")
	s.BoolVar(&f.disableKubernetesSecrets, "disable-builtin-k8s-secret-store", false, "Do without the built-in Kubernetes secret store")
	s.StringVar(&f.reminders, "reminders-service", "", "Has no effect")
	s.StringVar(&f.actors, "actors-service", "", "placement:ADDRESSES, as --placement-host-address")

	s.BoolVar(&f.version, "version", false, "Print the version and exit")
	s.BoolVar(&f.buildInfo, "build-info", false, "Print what was built from and exit")
	s.BoolVar(&f.waits, "wait", false, "Wait until the sidecar on the HTTP port can be called, and exit")

	for name, hint := range map[string]string{
		"app-ssl":                    "use '--app-protocol https|grpcs'",
		"components-path":            "use --resources-path",
		"dapr-http-max-request-size": "use '--max-body-size'",
		"dapr-http-read-buffer-size": "use '--read-buffer-size'",
		"reminders-service":          "flag no longer has any effect",
		"actors-service":             "flag no longer has any effect",
	} {
		_ = s.MarkDeprecated(name, hint) // fails only for a flag that is not declared above
	}
	return f
}

// doubleDashes gives long flags written with one dash their second one, as the old spelling had it: -app-id (Dapr API, sidecar:
// command line). A negative number is the value of a flag and is left alone.
func doubleDashes(args []string) []string {
	out := make([]string, len(args))
	for i, a := range args {
		if len(a) > 2 && a[0] == '-' && a[1] != '-' && (a[1] < '0' || a[1] > '9') && a[1] != '.' {
			a = "-" + a
		}
		out[i] = a
	}
	return out
}
