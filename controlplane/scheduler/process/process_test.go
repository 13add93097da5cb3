package process

import (
	"bytes"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"outrigger.dev/controlplane/internal/program"
	"outrigger.dev/controlplane/scheduler"
	"outrigger.dev/controlplane/scheduler/etcd"
	"outrigger.dev/test/servers"
)

func none(string) (string, bool) { return "", false }

// parse are the options of a command line.
func parse(t *testing.T, lookup func(string) (string, bool), args ...string) (scheduler.Options, error) {
	t.Helper()
	f := newFlags(new(bytes.Buffer), lookup)
	if err := f.set.Parse(args); err != nil {
		t.Fatal(err)
	}
	return f.options(t.Context(), lookup, slog.New(slog.DiscardHandler))
}

func TestDefaults(t *testing.T) {
	o, err := parse(t, none)
	if err != nil {
		t.Fatal(err)
	}
	if o.ID != "dapr-scheduler-server-0" || o.Listen != (scheduler.Address{Port: 50006}) || o.Workers != 2048 || o.Broadcast != "" || o.Security.Enabled() || o.External != nil {
		t.Errorf("options %+v", o)
	}
	if o.Observed.Healthz.Port != 8080 || o.Observed.Metrics != (scheduler.Address{Host: "0.0.0.0", Port: 9090}) || !o.Observed.MetricsEnabled {
		t.Errorf("observed %+v", o.Observed)
	}
	want := etcd.Embedded{
		ID: "dapr-scheduler-server-0", InitialCluster: "dapr-scheduler-server-0=http://localhost:2380", DataDir: "./data", Namespace: "default",
		ClientListenAddress: "localhost", ClientPort: 2379, SpaceQuota: 9_200_000_000_000_000_000, CompactionMode: "revision", CompactionRetention: "1000000",
		SnapshotCount: 100000, MaxSnapshots: 10, MaxWALs: 10, BackendBatchLimit: 10000, BackendBatchInterval: 100 * time.Millisecond, MaxTxnOps: 10000,
		DefragThresholdMegabytes: 100, Metrics: "basic", IdentityDir: filepath.Join(os.TempDir(), "secrets", "dapr.io", "tls"),
	}
	if *o.Embedded != want {
		t.Errorf("etcd %+v,\nwant %+v", *o.Embedded, want)
	}
	var defaults etcd.Embedded
	defaults.Defaults()
	defaults.Namespace, defaults.ClientPort, defaults.IdentityDir = want.Namespace, want.ClientPort, want.IdentityDir
	if defaults != want {
		t.Errorf("the defaults of the package are %+v,\nthose of the flags %+v", defaults, want)
	}
}

func TestFlags(t *testing.T) {
	namespace := func(name string) (string, bool) {
		if name == "NAMESPACE" {
			return "ns", true
		}
		return "", false
	}
	o, err := parse(t, namespace, "--etcd-embed=false", "--etcd-client-endpoints", "a:1,b:2", "--etcd-client-username", "u", "--etcd-client-password", "p")
	if err != nil || o.Embedded != nil || fmt.Sprint(*o.External) != "{[a:1 b:2] u p}" {
		t.Errorf("options %+v, error %v", o, err)
	}
	if o, err = parse(t, namespace, "--etcd-space-quota", "8Gi"); err != nil || o.Embedded.SpaceQuota != 8<<30 || o.Embedded.Namespace != "ns" {
		t.Errorf("options %+v, error %v", o.Embedded, err)
	}
	for want, args := range map[string][]string{
		"--workers":               {"--workers", "0"},
		"--etcd-client-endpoints": {"--etcd-embed=false"},
		"--etcd-client-username":  {"--etcd-client-username", "x"},
		"--etcd-space-quota":      {"--etcd-space-quota", "much"},
		"--mode":                  {"--mode", "moon"},
		"--kubeconfig":            {"--kubeconfig", "x"},
	} {
		if _, err := parse(t, none, args...); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: error %v", args, err)
		}
	}
	if _, err := parse(t, none, "--mode", "kubernetes"); err == nil || !strings.Contains(err.Error(), "NAMESPACE") {
		t.Errorf("kubernetes without a namespace: %v", err)
	}
}

func TestProgram(t *testing.T) {
	var out bytes.Buffer
	signals, started, code := make(chan os.Signal), make(chan scheduler.Addresses, 1), make(chan int, 1)
	args := []string{
		"--listen-address", "127.0.0.1", "--port", "0", "--healthz-port", "0", "--metrics-port", "0", "--etcd-client-port", fmt.Sprint(servers.FreePort(t)),
		"--etcd-data-dir", t.TempDir(), "-etcd-initial-cluster", fmt.Sprintf("dapr-scheduler-server-0=http://localhost:%d", servers.FreePort(t)),
	}
	go func() {
		code <- Main(Process{Args: args, LookupEnv: none, Stdout: &out, Stderr: &out, Signals: signals, Started: func(a scheduler.Addresses) { started <- a }})
	}()
	select {
	case a := <-started:
		if a.GRPC == nil || a.Healthz == nil || a.Metrics == nil || a.Etcd == "" {
			t.Errorf("addresses %+v", a)
		}
	case c := <-code:
		t.Fatalf("exit code %d: %s", c, out.String())
	case <-time.After(30 * time.Second):
		t.Fatal("the scheduler does not start")
	}
	signals <- syscall.SIGTERM
	select {
	case c := <-code:
		if c != program.ExitClean {
			t.Errorf("exit code %d: %s", c, out.String())
		}
	case <-time.After(30 * time.Second):
		t.Fatal("the scheduler does not end")
	}
	if !strings.Contains(out.String(), "Scheduler service dapr-scheduler-server-0 is running on 127.0.0.1:") {
		t.Errorf("log: %s", out.String())
	}
}
