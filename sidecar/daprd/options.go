package daprd

import (
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"

	"outrigger.dev/components"
	"outrigger.dev/components/all"
	"outrigger.dev/resource"
	"outrigger.dev/sidecar"
)

// DefaultResolverVariable is the environment variable that makes name resolution by an SQLite file the default instead of mDNS:
// its value is the path of the file that the sidecars of this machine share. A Configuration that names a resolver wins. `dapr
// run` sets it for the sidecars that it starts.
const DefaultResolverVariable = "OUTRIGGER_NAME_RESOLUTION_FILE"

// parse turns quantities and durations into numbers; its errors are those that the process reports as failing to parse flags.
func (f *flags) parse(o *sidecar.Options) error {
	given := f.set.Changed
	var err error
	o.MaxBodySize, err = size("max-body-size", f.maxBodySize, 4<<20)
	if err != nil {
		return err
	}
	if !given("max-body-size") && given("dapr-http-max-request-size") && f.maxRequestMB >= 0 {
		o.MaxBodySize = int64(f.maxRequestMB) << 20
	}
	o.ReadBufferSize, err = size("read-buffer-size", f.readBufferSize, 4<<10)
	if err != nil {
		return err
	}
	if !given("read-buffer-size") && given("dapr-http-read-buffer-size") && f.readKB >= 0 {
		o.ReadBufferSize = int64(f.readKB) << 10
	}
	if f.disseminateTimeout <= 0 {
		return fmt.Errorf("invalid value for --actors-disseminate-timeout: %s; it must be greater than 0", f.disseminateTimeout)
	}
	return nil
}

// size reads a quantity of bytes; negative ones stand for the default.
func size(flag, text string, standard int64) (int64, error) {
	n, err := resource.ParseQuantity(text)
	switch {
	case err != nil:
		return 0, fmt.Errorf("invalid value for --%s: %q: %w; write a quantity such as 4Mi", flag, text, err)
	case n < 0:
		return standard, nil
	case n > math.MaxInt32*1024:
		return 0, fmt.Errorf("invalid value for --%s: %q is too large; write a quantity such as 4Mi", flag, text)
	}
	return n, nil
}

// options checks the flags and turns them and the environment into the options of a sidecar.
func (f *flags) options(o *sidecar.Options, lookup func(string) (string, bool)) error {
	if err := f.checkMode(); err != nil {
		return err
	}
	env := func(name string) string {
		value, _ := lookup(name)
		return value
	}
	o.AppID = f.appID
	o.Namespace = env("NAMESPACE")
	o.HostAddress = env("DAPR_HOST_IP")
	o.APIToken = env("DAPR_API_TOKEN")
	o.AppToken = env("APP_API_TOKEN")
	o.DisableH2C = components.Truthy(env("DAPR_HTTP_DISABLE_H2C"))
	o.ComponentsSocketFolder = env("DAPR_COMPONENTS_SOCKETS_FOLDER")
	if o.ComponentsSocketFolder == "" { // as the injector spells it, for the sidecar and the components alike
		o.ComponentsSocketFolder = env("DAPR_COMPONENT_SOCKETS_FOLDER")
	}
	if file := env(DefaultResolverVariable); file != "" {
		o.NameResolution = "sqlite"
		o.NameResolutionProperties = map[string]string{"connectionString": file, "announceMDNS": "true", "resolveMDNS": "true"}
	}

	for _, p := range []struct {
		flag, text string
		into       *int
		used       bool
	}{
		{"app-port", f.appPort, &o.AppPort, true},
		{"dapr-http-port", f.httpPort, &o.HTTPPort, true},
		{"dapr-grpc-port", f.grpcPort, &o.GRPCPort, true},
		{"dapr-internal-grpc-port", f.internalPort, &o.InternalPort, true},
		{"dapr-public-port", f.publicPort, &o.PublicPort, true},
		{"metrics-port", f.metricsPort, &o.MetricsPort, f.enableMetrics},
		{"profile-port", f.profilePort, &o.ProfilePort, f.enableProfiling},
	} {
		if !p.used {
			continue
		}
		n, err := port(p.flag, p.text)
		if err != nil {
			return err
		}
		*p.into = n
	}

	o.AppProtocol = strings.ToLower(strings.TrimSpace(f.appProtocol))
	if f.appSSL {
		switch o.AppProtocol {
		case "http", "":
			o.AppProtocol = "https"
		case "grpc":
			o.AppProtocol = "grpcs"
		}
	}
	o.AppChannelAddress = f.appChannelAddress
	o.AppMaxConcurrency = f.appMaxConcurrency
	o.ListenAddresses = strings.Split(f.listenAddresses, ",")
	o.InternalListenAddress = f.internalListenAddress
	o.PublicListenAddress = f.publicAddress
	o.UnixDomainSocket = f.unixDomainSocket
	o.EnableMetrics, o.MetricsListenAddress = f.enableMetrics, f.metricsListen
	o.EnableProfiling = f.enableProfiling

	o.ConfigPaths = f.config
	o.ResourcesPaths = f.resourcesPath
	o.ReconcileInterval = f.hotReload
	if len(o.ResourcesPaths) == 0 && f.componentsPath != "" {
		o.ResourcesPaths = []string{f.componentsPath}
	}
	if f.set.Changed("enable-api-logging") {
		o.EnableAPILogging = &f.enableAPILogging
	}
	o.AllowedOrigins = f.allowedOrigins

	o.GracefulShutdown = time.Duration(f.gracefulSeconds) * time.Second
	if f.gracefulSeconds < 0 {
		o.GracefulShutdown = 5 * time.Second
	}
	o.BlockShutdown = f.blockShutdown
	o.DisableInitEndpoints = f.disableInitEndpoints
	o.AppBindingOptionsTimeout = f.bindingTimeout
	f.health(o)

	if err := f.actorServices(o, env); err != nil {
		return err
	}

	f.controlPlane(o)
	registry := &components.Registry{}
	all.Register(registry)
	o.Registry = registry
	o.LookupEnv = published(o, lookup)
	return nil
}

// actorServices reads where placement and the scheduler are (Dapr API, actors: flags of the sidecar).
func (f *flags) actorServices(o *sidecar.Options, env func(string) string) error {
	placement := f.placement
	if f.actors != "" && !f.set.Changed("placement-host-address") {
		var ok bool
		if placement, ok = strings.CutPrefix(f.actors, "placement:"); !ok {
			return fmt.Errorf("invalid value for --actors-service: %q; write placement:HOST:PORT, or use --placement-host-address", f.actors)
		}
	}
	o.PlacementAddresses = addresses(placement)
	scheduler := strings.Join(f.scheduler, ",")
	if !f.set.Changed("scheduler-host-address") {
		scheduler = env("DAPR_SCHEDULER_HOST_ADDRESS_DNS_A")
	}
	o.SchedulerAddresses = addresses(scheduler)
	o.SchedulerJobStreams, o.ActorsDisseminateTimeout = int(min(f.schedulerStreams, 1<<16)), f.disseminateTimeout
	return nil
}

// addresses are those of a comma separated list. Quotes around nothing are nothing.
func addresses(list string) []string {
	var found []string
	for a := range strings.SplitSeq(list, ",") {
		if a = strings.Trim(a, `"' `); a != "" {
			found = append(found, a)
		}
	}
	return found
}

// checkMode checks the mode and what belongs to the control plane.
func (f *flags) checkMode() error {
	switch {
	case f.mode != "standalone" && f.mode != "kubernetes":
		return fmt.Errorf("invalid mode: %s", f.mode)
	case f.trustDomain == "":
		return errors.New("invalid value for 'control-plane-trust-domain': trust domain is missing; leave the flag out, or name one")
	case f.schedulerStreams == 0:
		return errors.New("must define at least 1 scheduler stream, got 0")
	}
	return nil
}

// controlPlane reads the flags about the control plane. Those that were not given leave the choice to the environment.
func (f *flags) controlPlane(o *sidecar.Options) {
	o.Kubernetes = f.mode == "kubernetes"
	o.EnableMTLS = f.enableMTLS
	o.ControlPlaneAddress, o.SentryAddress = f.controlPlaneAddress, f.sentry
	if f.set.Changed("control-plane-trust-domain") {
		o.ControlPlaneTrustDomain = f.trustDomain
	}
	if f.set.Changed("control-plane-namespace") {
		o.ControlPlaneNamespace = f.controlPlaneNamespace
	}
	o.JWTAudiences = f.jwtAudiences
	o.DisableKubernetesSecrets = f.disableKubernetesSecrets
	if o.Kubernetes {
		o.NameResolution, o.NameResolutionProperties = "kubernetes", nil
	}
}

// health reads the flags of the app's health check; values that make no sense are the default.
func (f *flags) health(o *sidecar.Options) {
	o.EnableAppHealthCheck = f.enableAppHealthCheck
	o.AppHealthCheckPath = f.healthPath
	if !strings.HasPrefix(o.AppHealthCheckPath, "/") {
		o.AppHealthCheckPath = "/" + o.AppHealthCheckPath
	}
	if f.healthInterval > 0 {
		o.AppHealthProbeInterval = time.Duration(f.healthInterval) * time.Second
	}
	if f.healthTimeout > 0 {
		o.AppHealthProbeTimeout = time.Duration(f.healthTimeout) * time.Millisecond
	}
	if f.healthThreshold >= 1 && f.healthThreshold <= math.MaxInt32 {
		o.AppHealthThreshold = f.healthThreshold
	}
}

// port reads the number of a port; empty is 0.
func port(flag, text string) (int, error) {
	text = strings.TrimSpace(text)
	if text == "" {
		return 0, nil
	}
	n, err := strconv.Atoi(text)
	if err != nil {
		return 0, fmt.Errorf("error parsing '%s' flag: %q is not a number; give a port from 1 to 65535", flag, text)
	}
	if n < 0 || n > 65535 {
		return 0, fmt.Errorf("error parsing '%s' flag: %d is not a port; give one from 1 to 65535", flag, n)
	}
	return n, nil
}

// published is the environment with what the sidecar itself adds for configuration files and components (Dapr API, sidecar:
// environment variables set by the process). The process's own environment stays as it is, for other sidecars may live in it.
func published(o *sidecar.Options, lookup func(string) (string, bool)) func(string) (string, bool) {
	added := map[string]string{
		"APP_ID": o.AppID, "APP_PORT": strconv.Itoa(o.AppPort), "DAPR_HTTP_PORT": strconv.Itoa(o.HTTPPort),
		"DAPR_GRPC_PORT": strconv.Itoa(o.GRPCPort), "DAPR_METRICS_PORT": strconv.Itoa(o.MetricsPort), "DAPR_PROFILE_PORT": strconv.Itoa(o.ProfilePort),
	}
	if o.HostAddress != "" {
		added["HOST_ADDRESS"] = o.HostAddress
	}
	if o.InternalPort > 0 {
		added["DAPR_PORT"] = strconv.Itoa(o.InternalPort)
	}
	return func(name string) (string, bool) {
		if value, ok := added[name]; ok {
			return value, true
		}
		return lookup(name)
	}
}
