package daprd

import (
	"os"
	"slices"
	"testing"
	"time"
)

// injected is the command line that the injector gives a sidecar whose pod has all annotations (Dapr API, Kubernetes: injected
// container).
var injected = []string{
	"--dapr-http-port", "3500", "--dapr-grpc-port", "50001", "--dapr-internal-grpc-port", "50002", "--dapr-listen-addresses", "[::1],127.0.0.1",
	"--dapr-public-port", "3501", "--app-id", "orders", "--app-protocol", "http", "--log-level", "info", "--dapr-graceful-shutdown-seconds", "-1",
	"--mode", "kubernetes", "--control-plane-address", "dapr-api.dapr-system.svc.cluster.local:443", "--sentry-address", "dapr-sentry.dapr-system.svc.cluster.local:443",
	"--app-port", "8080", "--enable-metrics", "--metrics-port", "9090", "--config", "settings", "--app-channel-address", "127.0.0.1",
	"--placement-host-address", "dapr-placement-server.dapr-system.svc.cluster.local:50005", "--reminders-service", "x", "--actors-service", "placement:y",
	"--sentry-request-jwt-audiences", "a,b", "--enable-api-logging=true", "--disable-builtin-k8s-secret-store", "--enable-app-health-check",
	"--app-health-check-path", "/healthz", "--app-health-probe-interval", "5", "--app-health-probe-timeout", "500", "--app-health-threshold", "3",
	"--app-binding-options-timeout", "3s", "--log-as-json", "--enable-profiling", "--enable-mtls", "--app-ssl", "--app-max-concurrency", "10",
	"--dapr-http-max-request-size", "8", "--dapr-http-read-buffer-size", "8", "--max-body-size", "8Mi", "--read-buffer-size", "8Ki",
	"--unix-domain-socket", "/var/run/dapr-sockets", "--dapr-block-shutdown-duration", "10s", "--actors-disseminate-timeout", "30s",
	"--scheduler-host-address", "dapr-scheduler-server-a.dapr-system.svc.cluster.local:443", "--disable-init-endpoints", "config",
}

func TestInjected(t *testing.T) {
	o, _, err := optionsOf(t, map[string]string{
		"NAMESPACE": "team", "DAPR_HOST_IP": "10.0.0.7", "DAPR_API_TOKEN": "api", "APP_API_TOKEN": "app", "DAPR_COMPONENT_SOCKETS_FOLDER": "/sockets",
		"DAPR_CONTROLPLANE_TRUST_DOMAIN": "cluster.local", "DAPR_CONTROLPLANE_NAMESPACE": "dapr-system",
	}, injected...)
	if err != nil {
		t.Fatal(err)
	}
	for name, right := range map[string]bool{
		"mode":                 o.Kubernetes && o.EnableMTLS && o.NameResolution == "kubernetes" && o.NameResolutionProperties == nil,
		"namespace":            o.Namespace == "team",
		"host address":         o.HostAddress == "10.0.0.7",
		"tokens":               o.APIToken == "api" && o.AppToken == "app",
		"folder of components": o.ComponentsSocketFolder == "/sockets",
		"addresses":            o.ControlPlaneAddress == "dapr-api.dapr-system.svc.cluster.local:443" && o.SentryAddress == "dapr-sentry.dapr-system.svc.cluster.local:443",
		"ports":                o.HTTPPort == 3500 && o.GRPCPort == 50001 && o.InternalPort == 50002 && o.PublicPort == 3501 && o.MetricsPort == 9090,
		"listeners":            slices.Equal(o.ListenAddresses, []string{"[::1]", "127.0.0.1"}),
		"Configuration":        slices.Equal(o.ConfigPaths, []string{"settings"}),
		"audiences":            slices.Equal(o.JWTAudiences, []string{"a", "b"}),
		"secret store":         o.DisableKubernetesSecrets,
		"app":                  o.AppProtocol == "https" && o.AppPort == 8080 && o.AppMaxConcurrency == 10,
		"end":                  o.GracefulShutdown == 5*time.Second && o.BlockShutdown == 10*time.Second,
		"sockets":              o.UnixDomainSocket == "/var/run/dapr-sockets",
		// The environment says what they are, which is read when they are needed.
		"control plane": o.ControlPlaneTrustDomain == "" && o.ControlPlaneNamespace == "",
	} {
		if !right {
			t.Errorf("the injector's %s is not taken over", name)
		}
	}
	if v, _ := o.LookupEnv("DAPR_CONTROLPLANE_TRUST_DOMAIN"); v != "cluster.local" {
		t.Errorf("the environment does not arrive: %q", v)
	}
}

func TestSocketsFolder(t *testing.T) {
	for _, tt := range []struct{ components, component, want string }{{"", "", ""}, {"/a", "", "/a"}, {"", "/b", "/b"}, {"/a", "/b", "/a"}} {
		o, _, err := optionsOf(t, map[string]string{"DAPR_COMPONENTS_SOCKETS_FOLDER": tt.components, "DAPR_COMPONENT_SOCKETS_FOLDER": tt.component}, "--app-id", "a")
		if err != nil || o.ComponentsSocketFolder != tt.want {
			t.Errorf("%+v: %q, %v", tt, o.ComponentsSocketFolder, err)
		}
	}
}

// TestKubernetesNeedsTrustAnchors ends the process with a message that names what is missing.
func TestKubernetesNeedsTrustAnchors(t *testing.T) {
	for _, tt := range []struct {
		name, skip, want string
		root             bool
	}{
		{name: "no anchors", skip: "true", want: "Fatal error from runtime: trust anchors are required"},
		{name: "root", want: "UID 0", root: true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if tt.root && os.Geteuid() != 0 {
				t.Skip("needs to run as root")
			}
			r := launch(t, map[string]string{"DAPR_UNSAFE_SKIP_CONTAINER_UID_GID_CHECK": tt.skip}, "--mode", "kubernetes", "--sentry-address", "127.0.0.1:1", "--control-plane-address", "127.0.0.1:1")
			r.exit(t, exitFatal)
			r.stdout.await(t, tt.want, 1)
		})
	}
}
