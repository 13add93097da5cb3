package process

import (
	"context"
	"encoding/json"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	sentryv1 "outrigger.dev/api/gen/sentry/v1"
	"outrigger.dev/controlplane/sentry"
	"outrigger.dev/controlplane/sentry/ca"
	"outrigger.dev/telemetry/logging/logtest"
)

// environment looks names up in a map.
func environment(env map[string]string) func(string) (string, bool) {
	return func(name string) (string, bool) { value, ok := env[name]; return value, ok }
}

func write(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "config.yaml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

const configHead = "apiVersion: dapr.io/v1alpha1\nkind: Configuration\nmetadata: {name: daprsystem}\nspec:\n  mtls:\n"

func TestMainWithoutServing(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	_, port, err := net.SplitHostPort(taken.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name           string
		args           []string
		code           int
		stdout, stderr string
	}{
		{"version", []string{"--version"}, 0, "1.2.3\n", ""},
		{"help", []string{"--help"}, 0, "--issuer-credentials", ""},
		{"unknown flag", []string{"--nope"}, 2, "", "unknown flag: --nope"},
		{"bad number", []string{"--port", "x"}, 2, "", "port"},
		{"log level", []string{"--log-level", "loud"}, 1, "invalid value for --log-level: loud", ""},
		{"log file", []string{"--log-file", "/nonexistent/x"}, 1, "/nonexistent/x", ""},
		{"mode", []string{"--mode", "cloud"}, 1, `invalid value for --mode: \"cloud\"`, ""},
		{"port taken", []string{"--port", port, "--listen-address", "127.0.0.1"}, 1, "Fatal error from sentry: the gRPC port " + port, ""},
		{"config missing", []string{"--config", "/nonexistent.yaml"}, 1, "the Configuration of --config cannot be loaded: stat /nonexistent.yaml", ""},
		{"validator", []string{"--config", write(t, configHead+"    tokenValidators: [{name: kubernetes}]\n")}, 1, "cannot be configured manually", ""},
		{"workload TTL", []string{"--config", write(t, configHead+"    workloadCertTTL: soon\n")}, 1, `invalid spec.mtls.workloadCertTTL: \"soon\"`, ""},
		{"skew", []string{"--config", write(t, configHead+"    allowedClockSkew: soon\n")}, 1, `invalid spec.mtls.allowedClockSkew: \"soon\"`, ""},
		{"jwt issuer", []string{"--jwt-issuer", "https://x"}, 1, "jwt-issuer cannot be set when jwt-enabled is false", ""},
		{"root life", []string{"--root-ttl", "0s"}, 1, "invalid value for --root-ttl", ""},
		{"trust domain", []string{"--trust-domain", "A B"}, 1, "invalid trust domain", ""},
		{"stray argument", []string{"--mode", "x", "stray"}, 1, "are ignored", ""},
		{"kubernetes without namespace", []string{"--mode", "kubernetes"}, 1, "the environment variable NAMESPACE is not set", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var stdout, stderr logtest.Output
			code := Main(Process{
				Version: "1.2.3", Args: append([]string{"--issuer-credentials", t.TempDir(), "--healthz-port", "0", "--metrics-port", "0"}, tt.args...), Stdout: &stdout, Stderr: &stderr,
				LookupEnv: environment(nil), Signals: make(chan os.Signal),
			})
			if code != tt.code || !strings.Contains(stdout.String(), tt.stdout) || !strings.Contains(stderr.String(), tt.stderr) {
				t.Errorf("exit code %d, want %d\nstdout: %s\nstderr: %s", code, tt.code, stdout.String(), stderr.String())
			}
		})
	}
}

func TestServesUntilASignal(t *testing.T) {
	dir := t.TempDir()
	var stdout, stderr logtest.Output
	signals, code, started := make(chan os.Signal, 1), make(chan int, 1), make(chan sentry.Addresses, 1)
	go func() {
		code <- Main(Process{
			Args: []string{
				"--issuer-credentials", dir, "--port", "0", "--listen-address", "127.0.0.1", "--healthz-port", "0", "--metrics-port", "0",
				"--metrics-listen-address", "127.0.0.1", "--log-as-json", "--trust-domain", "example.org",
			},
			Stdout: &stdout, Stderr: &stderr, LookupEnv: environment(map[string]string{"NAMESPACE": "mesh"}), Signals: signals,
			Started: func(a sentry.Addresses) { started <- a },
		})
	}()
	select {
	case <-started:
	case c := <-code:
		t.Fatalf("exit code %d\n%s", c, stdout.String())
	case <-time.After(20 * time.Second):
		t.Fatalf("it does not start\n%s", stdout.String())
	}
	d, err := ca.Describe(t.Context(), &ca.Files{Directory: dir}, ca.Settings{SelfRenewing: true}, time.Now())
	if err != nil || d.Issuer.Subject != "O=spiffe://example.org/ns/mesh/dapr-sentry" {
		t.Errorf("%+v %v", d, err)
	}
	signals <- syscall.SIGTERM
	select {
	case c := <-code:
		if c != 0 {
			t.Errorf("exit code %d", c)
		}
	case <-time.After(20 * time.Second):
		t.Fatal("it does not end")
	}
	for _, line := range strings.Split(strings.TrimSpace(stdout.String()), "\n") {
		var fields map[string]any
		if err := json.Unmarshal([]byte(line), &fields); err != nil || fields["scope"] != "dapr.sentry" {
			t.Errorf("log line %s", line)
		}
	}
	if !strings.Contains(stdout.String(), "whoever reaches the port gets a certificate for any identity") {
		t.Error("no warning of the validator insecure")
	}
}

func TestOptions(t *testing.T) {
	keys := `{"keys":[{"kty":"OKP","crv":"Ed25519","kid":"a","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}]}`
	parse := func(env map[string]string, args ...string) (sentry.Options, error) {
		t.Helper()
		f := newFlags(&logtest.Output{})
		if err := f.set.Parse(args); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		return f.options(ctx, environment(env), (&logtest.Log{}).Logger())
	}
	o, err := parse(nil)
	if err != nil {
		t.Fatal(err)
	}
	if o.Port != 50001 || o.HealthzPort != 8080 || o.MetricsPort != 9090 || !o.MetricsEnabled || o.OIDC.Port != 9080 || o.OIDC.ListenAddress != "localhost" || !o.OIDC.TLS || o.OIDC.Enabled {
		t.Errorf("ports: %+v", o)
	}
	if s := o.Settings; s.TrustDomain != "localhost" || s.Namespace != "default" || s.WorkloadTTL != 24*time.Hour || s.ClockSkew != 15*time.Minute || s.RootTTL != 365*24*time.Hour ||
		!s.SelfRenewing || s.JWT.Enabled || s.JWT.Algorithm != "RS256" || s.JWT.TTL != 24*time.Hour {
		t.Errorf("settings: %+v", s)
	}
	if f := *o.Store.(*ca.Files); f != (ca.Files{Directory: "/var/run/secrets/dapr.io/credentials", Anchors: "ca.crt", Issuer: "issuer.crt", IssuerKey: "issuer.key", JWTKey: "jwt.key", JWKS: "jwks.json"}) {
		t.Errorf("files: %+v", f)
	}
	if o.DefaultValidator != sentryv1.SignCertificateRequest_INSECURE || len(o.Validators) != 1 {
		t.Errorf("validators: %v", o.Validators)
	}

	o, err = parse(nil, "--config", write(t, configHead+"    workloadCertTTL: 1h\n    allowedClockSkew: 0s\n    tokenValidators:\n    - name: jwks\n      options:\n        source: '"+keys+"'\n"))
	if err != nil {
		t.Fatal(err)
	}
	if o.Settings.WorkloadTTL != time.Hour || o.Settings.ClockSkew != 0 {
		t.Errorf("settings: %+v", o.Settings)
	}
	if o.DefaultValidator != sentryv1.SignCertificateRequest_UNKNOWN || len(o.Validators) != 1 || o.Validators[sentryv1.SignCertificateRequest_JWKS] == nil {
		t.Errorf("with jwks configured, the validators are %v and the default %s", o.Validators, o.DefaultValidator)
	}
}
