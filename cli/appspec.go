package cli

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"

	"outrigger.dev/local"
	"outrigger.dev/resource"
	"outrigger.dev/sidecar/daprd"
)

// appSpec is one app with its sidecar, as the flags of run or an entry of a run file describe it.
type appSpec struct {
	appID, appProtocol, appChannelAddress                      string
	appPort, appMaxConcurrency                                 int
	appSSL                                                     bool
	httpPort, grpcPort, internalPort, metricsPort, profilePort int
	enableProfiling, enableAPILogging, enableAppHealthCheck    bool
	logLevel, maxBodySize, readBufferSize                      string
	unixDomainSocket, listenAddresses                          string
	healthPath                                                 string
	healthInterval, healthTimeout, healthThreshold             int
	config                                                     string
	resources                                                  []string
	placement, scheduler                                       string // empty leaves the argument out
	logAsJSON                                                  bool
	command                                                    []string
	env                                                        map[string]string
	// dir is the working directory of app and sidecar; empty is that of this process.
	dir        string
	runtimeDir string
	// broker is the component that points at the local broker, nil without one. check finds it.
	broker *brokerComponent
	// sentry is the local certificate authority, nil when mTLS is off or somebody else's is used.
	sentry *local.Sentry
}

// The ports of the control plane on this machine (Dapr CLI, run).
func controlPlanePort(unix, windows string) string {
	if runtime.GOOS == "windows" {
		return windows
	}
	return unix
}

// withPort adds a default port to an address without one; empty stays empty.
func withPort(address, port string) string {
	if address == "" {
		return ""
	}
	if _, _, err := net.SplitHostPort(address); err == nil {
		return address
	}
	return net.JoinHostPort(strings.Trim(address, "[]"), port)
}

// check refuses settings that the sidecar could not work with (Dapr CLI, run: validation), and completes the others.
func (a *appSpec) check(ctx context.Context) error {
	for _, q := range []struct {
		text     *string
		standard string
		message  string
	}{{&a.maxBodySize, "4Mi", "invalid max request body size"}, {&a.readBufferSize, "4Ki", "invalid http read buffer size"}} {
		if *q.text == "" {
			*q.text = q.standard
		}
		n, err := resource.ParseQuantity(*q.text)
		if err != nil {
			return fmt.Errorf("%s: %w; write a quantity such as %s", q.message, err, q.standard)
		}
		if n < 0 {
			*q.text = "-1"
		}
	}
	if a.appMaxConcurrency < 1 {
		a.appMaxConcurrency = -1
	}
	if a.unixDomainSocket != "" && runtime.GOOS == "windows" {
		return fmt.Errorf("unix domain sockets are not available on Windows; leave --unix-domain-socket out")
	}
	dirs := make([]string, len(a.resources))
	for i, dir := range a.resources {
		dirs[i] = a.path(dir)
		if _, err := os.Stat(dirs[i]); err != nil {
			return fmt.Errorf("error validating resources path %q: %w; correct the path, or make the directory", dir, err)
		}
	}
	loaded, problems, err := resource.Load(ctx, resource.Options{Dirs: dirs, AppID: a.appID})
	if err != nil {
		return fmt.Errorf("error validating components in resources path %q: %w", a.resources, err)
	}
	for _, p := range problems {
		if p.Severity == resource.Error && p.Kind == resource.KindComponent {
			return fmt.Errorf("error validating components in resources path %q: %s", a.resources, p)
		}
	}
	a.broker = localBroker(loaded.Components, a.runtimeDir)
	return nil
}

// path is a path as the sidecar sees it.
func (a *appSpec) path(p string) string {
	if filepath.IsAbs(p) || a.dir == "" {
		return p
	}
	return filepath.Join(a.dir, p)
}

// mtls is what the configuration says of mTLS when it asks for it, else nil. An unreadable one is left to the sidecar to complain about.
func (a *appSpec) mtls() *resource.MTLS {
	if a.config == "" {
		return nil
	}
	config, _, err := resource.LoadConfiguration([]string{a.path(a.config)}, os.LookupEnv)
	if err != nil || !config.Spec.MTLS.Enabled {
		return nil
	}
	return &config.Spec.MTLS
}

// args are the arguments of the sidecar (Dapr CLI, run: flags).
func (a *appSpec) args() []string {
	args := []string{
		"--app-id", a.appID,
		"--app-port", strconv.Itoa(max(a.appPort, 0)),
		"--app-protocol", a.appProtocol,
		"--app-max-concurrency", strconv.Itoa(a.appMaxConcurrency),
		"--dapr-http-port", strconv.Itoa(a.httpPort),
		"--dapr-grpc-port", strconv.Itoa(a.grpcPort),
		"--dapr-internal-grpc-port", strconv.Itoa(a.internalPort),
		"--metrics-port", strconv.Itoa(a.metricsPort),
		"--profile-port", strconv.Itoa(a.profilePort),
		"--max-body-size", a.maxBodySize,
		"--read-buffer-size", a.readBufferSize,
	}
	text := func(flag, value string) {
		if value != "" {
			args = append(args, flag, value)
		}
	}
	number := func(flag string, value int) {
		if value != 0 {
			args = append(args, flag, strconv.Itoa(value))
		}
	}
	toggle := func(flag string, value bool) {
		if value {
			args = append(args, flag)
		}
	}
	text("--log-level", a.logLevel)
	text("--config", a.config)
	for _, dir := range a.resources {
		text("--resources-path", dir)
	}
	if a.appChannelAddress != "127.0.0.1" {
		text("--app-channel-address", a.appChannelAddress)
	}
	text("--unix-domain-socket", a.unixDomainSocket)
	text("--dapr-listen-addresses", a.listenAddresses)
	text("--placement-host-address", withPort(a.placement, controlPlanePort("50005", "6050")))
	text("--scheduler-host-address", withPort(a.scheduler, controlPlanePort("50006", "6060")))
	text("--app-health-check-path", a.healthPath)
	number("--app-health-probe-interval", a.healthInterval)
	number("--app-health-probe-timeout", a.healthTimeout)
	number("--app-health-threshold", a.healthThreshold)
	toggle("--app-ssl", a.appSSL)
	toggle("--enable-profiling", a.enableProfiling)
	toggle("--enable-api-logging", a.enableAPILogging)
	toggle("--enable-app-health-check", a.enableAppHealthCheck)
	toggle("--log-as-json", a.logAsJSON)
	switch {
	case a.sentry != nil:
		args = append(args, "--enable-mtls", "--sentry-address", a.sentry.Address())
	case a.mtls() != nil:
		args = append(args, "--enable-mtls", "--sentry-address", ownSentryAddress)
	}
	return args
}

// sidecarEnv is the environment of the sidecar: ours, and the default of name resolution under run.
func (a *appSpec) sidecarEnv(more ...string) []string {
	env := os.Environ()
	if _, given := os.LookupEnv(daprd.DefaultResolverVariable); !given {
		env = append(env, daprd.DefaultResolverVariable+"="+resolverFile(a.runtimeDir))
	}
	if a.sentry != nil {
		env = append(env, trustOf(a.sentry)...)
	}
	return append(env, more...)
}

// appEnv is the environment of the app (Dapr CLI, run: environment given to the app).
func (a *appSpec) appEnv() []string {
	env := append(os.Environ(),
		"APP_ID="+a.appID,
		"APP_CHANNEL_ADDRESS="+a.appChannelAddress,
		"DAPR_HTTP_PORT="+strconv.Itoa(a.httpPort),
		"DAPR_GRPC_PORT="+strconv.Itoa(a.grpcPort),
		"DAPR_METRICS_PORT="+strconv.Itoa(a.metricsPort),
	)
	if a.appPort > 0 {
		env = append(env, "APP_PORT="+strconv.Itoa(a.appPort))
	}
	protocol := strings.ToLower(a.appProtocol)
	if a.appSSL && (protocol == "http" || protocol == "grpc") {
		protocol += "s"
	}
	if slices.Contains([]string{"http", "https", "grpc", "grpcs", "h2c"}, protocol) {
		env = append(env, "APP_PROTOCOL="+protocol)
	}
	names := make([]string, 0, len(a.env))
	for name := range a.env {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		env = append(env, name+"="+a.env[name])
	}
	return env
}

// sockets are the paths of the API sockets, HTTP's and gRPC's; without a socket directory both are empty.
func (a *appSpec) sockets() (http, grpc string) {
	if a.unixDomainSocket == "" {
		return "", ""
	}
	dir := a.path(a.unixDomainSocket)
	return filepath.Join(dir, "dapr-"+a.appID+"-http.socket"), filepath.Join(dir, "dapr-"+a.appID+"-grpc.socket")
}
