package process

import (
	"encoding/json"
	"net"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"outrigger.dev/controlplane/placement"
	"outrigger.dev/telemetry/logging/logtest"
)

// environment looks names up in a map.
func environment(env map[string]string) func(string) (string, bool) {
	return func(name string) (string, bool) { value, ok := env[name]; return value, ok }
}

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
		{"version, one dash", []string{"-version"}, 0, "1.2.3\n", ""},
		{"help", []string{"--help"}, 0, "--initial-cluster", ""},
		{"help, one dash", []string{"-help"}, 0, "--initial-cluster", ""},
		{"unknown flag", []string{"--nope"}, 2, "", "unknown flag: --nope"},
		{"bad number", []string{"-port", "x"}, 2, "", "port"},
		{"log level", []string{"--log-level", "loud"}, 1, "invalid value for --log-level: loud", ""},
		{"mode", []string{"-mode=cloud"}, 1, `invalid value for --mode: \"cloud\"; use standalone or kubernetes`, ""},
		{"port taken", []string{"-port", port, "-listen-address", "127.0.0.1"}, 1, "Fatal error from placement: the gRPC port " + port, ""},
		{"not a member", []string{"--id", "x"}, 1, "address for node x not found in raft peers [dapr-placement-0]", ""},
		{"bad cluster", []string{"--initial-cluster", "x"}, 1, "invalid value for --initial-cluster: the member", ""},
		{"keepalive", []string{"-keepalive-time", "11s"}, 1, "invalid value for --keepalive-time: 11s; it must be between 1s and 10s", ""},
		{"no keepalive", []string{"-keepalive-timeout=0s"}, 1, "invalid value for --keepalive-timeout: 0s; it must be greater than 0", ""},
		{"no points", []string{"--replicationFactor", "0"}, 1, "invalid value for --replicationFactor: 0; it must be greater than 0", ""},
		{"kubernetes without namespace", []string{"--mode", "kubernetes"}, 1, "the environment variable NAMESPACE is not set", ""},
		{"sentry address", []string{"--tls-enabled", "--sentry-address", "x"}, 1, `the address of Sentry is \"x\"`, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var stdout, stderr logtest.Output
			code := Main(Process{
				Version: "1.2.3", Args: append([]string{"--healthz-port", "0", "--metrics-port", "0"}, tt.args...), Stdout: &stdout, Stderr: &stderr,
				LookupEnv: environment(nil), Signals: make(chan os.Signal),
			})
			if code != tt.code || !strings.Contains(stdout.String(), tt.stdout) || !strings.Contains(stderr.String(), tt.stderr) {
				t.Errorf("exit code %d, want %d\nstdout: %s\nstderr: %s", code, tt.code, stdout.String(), stderr.String())
			}
		})
	}
}

func TestServesUntilASignal(t *testing.T) {
	var stdout, stderr logtest.Output
	signals, code, started := make(chan os.Signal, 1), make(chan int, 1), make(chan placement.Addresses, 1)
	go func() {
		code <- Main(Process{
			Args: []string{
				"-port", "0", "-listen-address", "127.0.0.1", "-healthz-port=0", "--metrics-port", "0", "--metrics-listen-address", "127.0.0.1", "-log-as-json",
				"--max-api-level=20", "--inmem-store-enabled", "--raft-logstore-path", "-x",
			},
			Stdout: &stdout, Stderr: &stderr, LookupEnv: environment(nil), Signals: signals,
			Started: func(a placement.Addresses) { started <- a },
		})
	}()
	select {
	case <-started:
	case c := <-code:
		t.Fatalf("exit code %d\n%s%s", c, stdout.String(), stderr.String())
	case <-time.After(20 * time.Second):
		t.Fatalf("it does not start\n%s", stdout.String())
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
		if err := json.Unmarshal([]byte(line), &fields); err != nil || fields["scope"] != "dapr.placement" {
			t.Errorf("log line %s", line)
		}
	}
	for _, want := range []string{"The flag --max-api-level has no effect", "Placement shut down gracefully"} {
		if !strings.Contains(stdout.String(), want) {
			t.Errorf("the log lacks %q:\n%s", want, stdout.String())
		}
	}
}

func TestOptions(t *testing.T) {
	parse := func(env map[string]string, args ...string) placement.Options {
		t.Helper()
		f := newFlags(&logtest.Output{}, environment(env))
		if err := f.set.Parse(args); err != nil {
			t.Fatal(err)
		}
		o, err := f.options(environment(env), (&logtest.Log{}).Logger())
		if err != nil {
			t.Fatal(err)
		}
		return o
	}
	o := parse(nil)
	if o.ID != "dapr-placement-0" || len(o.Peers) != 1 || o.Peers[0] != (placement.Peer{ID: "dapr-placement-0", Address: "127.0.0.1:8201"}) || o.Listen != (placement.Address{Port: 50005}) {
		t.Errorf("%+v", o)
	}
	if o.Observed.Healthz != (placement.Address{Port: 8080}) || !o.Observed.MetricsEnabled || o.Observed.Metrics != (placement.Address{Host: "0.0.0.0", Port: 9090}) || o.State {
		t.Errorf("%+v", o.Observed)
	}
	if o.ReplicationFactor != 100 || o.KeepaliveTime != 2*time.Second || o.KeepaliveTimeout != 3*time.Second || o.DisseminateTimeout != 8*time.Second || o.CoalesceWindow != 0 || o.Security.Enabled() {
		t.Errorf("%+v", o)
	}
	for text, want := range map[string]bool{"true": true, "Y": true, " 1 ": true, "false": false, "": false, "x": false} {
		if o := parse(map[string]string{"DAPR_PLACEMENT_METADATA_ENABLED": text}); o.State != want {
			t.Errorf("DAPR_PLACEMENT_METADATA_ENABLED=%q: %v", text, o.State)
		}
	}
	if o := parse(map[string]string{"NAMESPACE": "mesh"}, "--tls-enabled", "--trust-domain", "td"); !o.Security.Enabled() || o.Security.ID().String() != "spiffe://td/ns/mesh/dapr-placement" {
		t.Errorf("the identity is %s", o.Security.ID())
	}
	f := newFlags(&logtest.Output{}, environment(map[string]string{"NAMESPACE": "mesh"}))
	if got := f.security.SentryAddress; got != "dapr-sentry.mesh.svc:443" {
		t.Errorf("the address of Sentry is %s", got)
	}
	o = parse(map[string]string{"NAMESPACE": "mesh", "DAPR_UNSAFE_SKIP_CONTAINER_UID_GID_CHECK": "true"}, "--mode", "kubernetes")
	if !o.Security.Enabled() {
		t.Error("kubernetes mode without mTLS")
	}
}
