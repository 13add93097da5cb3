package etcd

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"

	"outrigger.dev/identity/identitytest"
	"outrigger.dev/telemetry/logging/logtest"
	"outrigger.dev/test/servers"
)

// single is a server of its own in a directory.
func single(t testing.TB, dir string) Options {
	e := &Embedded{DataDir: dir, Namespace: "default", InitialCluster: fmt.Sprintf("dapr-scheduler-server-0=http://127.0.0.1:%d", servers.FreePort(t)), ClientListenAddress: "127.0.0.1"}
	e.Defaults()
	return Options{Embedded: e}
}

// open opens a store that is closed with the test, and waits for it.
func open(t testing.TB, o Options) *Store {
	t.Helper()
	s, err := Open(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	await(t, s)
	return s
}

func await(t testing.TB, s *Store) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	if err := s.Ready(ctx); err != nil {
		t.Fatal(err)
	}
}

func put(t testing.TB, s *Store, key, value string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if _, err := s.Client().Put(ctx, key, value); err != nil {
		t.Fatal(err)
	}
}

func get(t testing.TB, s *Store, key string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	r, err := s.Client().Get(ctx, key)
	if err != nil {
		t.Fatal(err)
	}
	if len(r.Kvs) == 0 {
		return ""
	}
	return string(r.Kvs[0].Value)
}

func TestDataAndMarker(t *testing.T) {
	root := t.TempDir()
	o := single(t, root)
	s := open(t, o)
	put(t, s, "a", "1")
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(root, "default-dapr-scheduler-server-0", "dapr-0.1")
	if _, err := os.Stat(filepath.Join(dir, "member")); err != nil {
		t.Fatal(err)
	}
	marker := filepath.Join(root, "dapr-scheduler-existing-cluster")
	if _, err := os.Stat(marker); err != nil {
		t.Fatal(err)
	}

	s = open(t, o)
	if v := get(t, s, "a"); v != "1" {
		t.Errorf("after a restart a is %q, want 1", v)
	}
	s.Close()

	if err := os.Remove(marker); err != nil {
		t.Fatal(err)
	}
	s = open(t, o)
	if v := get(t, s, "a"); v != "" {
		t.Errorf("without the marker a is %q, want nothing", v)
	}
	if _, err := os.Stat(marker); err != nil {
		t.Error(err)
	}
}

func TestKubernetesDirectory(t *testing.T) {
	e := Embedded{DataDir: "/data", ID: "x"}
	if d := e.directory(); d != filepath.FromSlash("/data/dapr-0.1") {
		t.Errorf("directory %q", d)
	}
}

func TestClientListener(t *testing.T) {
	s := open(t, single(t, t.TempDir()))
	put(t, s, "k", "v")
	other := open(t, Options{External: &External{Endpoints: []string{s.ClientAddress()}}})
	if v := get(t, other, "k"); v != "v" {
		t.Errorf("by the client port k is %q, want v", v)
	}
}

// TestTransactionsOfTheEngineFit has a limit that is too low for the engine, which puts 64 changes of two operations each into a transaction.
func TestTransactionsOfTheEngineFit(t *testing.T) {
	o := single(t, t.TempDir())
	o.Embedded.MaxTxnOps = 10
	s := open(t, o)
	var ops []clientv3.Op
	for n := range 64 {
		ops = append(ops, clientv3.OpTxn(nil, []clientv3.Op{clientv3.OpPut(fmt.Sprint("job-", n), ""), clientv3.OpDelete(fmt.Sprint("counter-", n))}, nil))
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if _, err := s.Client().Txn(ctx).Then(ops...).Commit(); err != nil {
		t.Fatal(err)
	}
}

func TestOptions(t *testing.T) {
	embedded := func(change func(*Embedded)) Options {
		e := &Embedded{}
		e.Defaults()
		change(e)
		return Options{Embedded: e}
	}
	for name, tt := range map[string]struct {
		o    Options
		want string
	}{
		"none":           {Options{}, "no etcd"},
		"both":           {Options{Embedded: &Embedded{}, External: &External{}}, "--etcd-embed=false"},
		"no endpoints":   {Options{External: &External{}}, "--etcd-client-endpoints"},
		"tls":            {Options{External: &External{Endpoints: []string{"https://a:1"}}}, "without TLS"},
		"password alone": {Options{External: &External{Endpoints: []string{"a:1"}, Password: "x"}}, "--etcd-client-username"},
		"unknown id":     {embedded(func(e *Embedded) { e.ID = "x" }), "scheduler ID: x is not found in initial cluster"},
		"no scheme":      {embedded(func(e *Embedded) { e.InitialCluster = "dapr-scheduler-server-0=localhost:2380" }), "--etcd-initial-cluster"},
		"compaction":     {embedded(func(e *Embedded) { e.CompactionMode = "x" }), "--etcd-compaction-mode"},
		"metrics":        {embedded(func(e *Embedded) { e.Metrics = "x" }), "--etcd-metrics"},
		"no peer domain": {embedded(func(e *Embedded) { e.Source = identitytest.NewCA(t).NewSource(t, "spiffe://a/ns/b/c") }), "PeerDomain"},
	} {
		t.Run(name, func(t *testing.T) {
			s, err := Open(tt.o)
			if err == nil {
				s.Close()
			}
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("error %v, want one with %q", err, tt.want)
			}
		})
	}
}

func TestPeerListenURLs(t *testing.T) {
	for given, want := range map[string]string{
		"http://localhost:2380":             "localhost:2380",
		"http://10.1.2.3:2380":              "10.1.2.3:2380",
		"https://a.b.svc.cluster.local:239": "0.0.0.0:239",
	} {
		e := Embedded{ID: "x", InitialCluster: "x=" + given + ",y=http://127.0.0.1:1"}
		advertised, listen, err := e.peers()
		if err != nil || len(listen) != 1 || listen[0].Host != want || advertised[0].String() != given {
			t.Errorf("%s: advertised %v, listen %v, error %v; want to listen on %s", given, advertised, listen, err, want)
		}
	}
}

func TestPortTaken(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	o := single(t, t.TempDir())
	o.Embedded.InitialCluster = fmt.Sprintf("dapr-scheduler-server-0=http://%s", l.Addr())
	s, err := Open(o)
	if err == nil {
		s.Close()
		t.Fatal("a taken port is no error")
	}
	if !strings.Contains(err.Error(), l.Addr().String()) || !strings.Contains(err.Error(), "--etcd-initial-cluster") {
		t.Errorf("error %q does not name %s and the remedy", err, l.Addr())
	}
}

// TestQuiet has a server come and go; there is nothing that its users should know.
func TestQuiet(t *testing.T) {
	var log logtest.Log
	o := single(t, t.TempDir())
	o.Log = log.Logger()
	s := open(t, o)
	put(t, s, "a", "1")
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	for _, line := range log.Lines() {
		if !strings.HasPrefix(line, "DEBUG") {
			t.Error(line)
		}
	}
}

func TestFatalOfEtcdIsAnError(t *testing.T) {
	var log logtest.Log
	s := &Store{o: Options{Log: log.Logger()}}
	s.failed, s.fail = context.WithCancelCause(t.Context())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		s.zap().Fatal("the disk is full", zap.Error(errors.New("no space")))
		t.Error("the goroutine goes on")
	}()
	<-ended
	if err := context.Cause(s.failed); err == nil || !strings.Contains(err.Error(), "the disk is full: no space") {
		t.Errorf("problem %v; log %s", err, &log)
	}
}

func TestDefragment(t *testing.T) {
	s := open(t, single(t, t.TempDir()))
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	big := strings.Repeat("x", 1<<20)
	var revision int64
	for range 20 {
		r, err := s.Client().Put(ctx, "k", big)
		if err != nil {
			t.Fatal(err)
		}
		revision = r.Header.Revision
	}
	if _, err := s.Client().Compact(ctx, revision, clientv3.WithCompactPhysical()); err != nil {
		t.Fatal(err)
	}
	backend := s.server.Server.Backend()
	backend.ForceCommit()
	before := backend.Size()
	if err := s.defragmentNow(); err != nil {
		t.Fatal(err)
	}
	if after := backend.Size(); after > before/2 {
		t.Errorf("size %d after defragmentation, %d before", after, before)
	}
	if v := get(t, s, "k"); v != big {
		t.Error("the value changed")
	}
}

// TestMutualTLS has peers that prove their identity, and refuses one that has another.
func TestMutualTLS(t *testing.T) {
	authority := identitytest.NewCA(t)
	names := (&Embedded{PeerDomain: "ns.svc.cluster.local"}).allowedPeers()
	cluster := ""
	for i := range 3 {
		cluster += fmt.Sprintf(",dapr-scheduler-server-%d=https://localhost:%d", i, servers.FreePort(t))
	}
	member := func(i int, dns ...string) Options {
		source := authority.NewSource(t, "spiffe://localhost/ns/ns/dapr-scheduler")
		source.Set(authority.Issue(t, "spiffe://localhost/ns/ns/dapr-scheduler", func(c *x509.Certificate) { c.DNSNames = append(dns, "localhost") }))
		e := &Embedded{
			ID: fmt.Sprintf("dapr-scheduler-server-%d", i), InitialCluster: cluster[1:], DataDir: t.TempDir(), ClientListenAddress: "127.0.0.1",
			Source: source, IdentityDir: filepath.Join(t.TempDir(), "tls"), PeerDomain: "ns.svc.cluster.local",
			InitialElectionTickAdvance: true,
		}
		e.Defaults()
		return Options{Embedded: e, Log: new(logtest.Log).Logger()}
	}
	var stores []*Store
	for i, o := range []Options{member(0, names...), member(1, names...), member(2, "stranger.test")} {
		s, err := Open(o)
		if err != nil {
			t.Fatal(i, err)
		}
		t.Cleanup(func() {
			if err := s.Close(); err != nil {
				t.Errorf("member %d: %v", i, err)
			}
		})
		stores = append(stores, s)
	}
	await(t, stores[0])
	await(t, stores[1])
	put(t, stores[0], "a", "1")
	if v := get(t, stores[1], "a"); v != "1" {
		t.Errorf("a is %q at the other member, want 1", v)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	if err := stores[2].Ready(ctx); err == nil {
		t.Error("a peer whose certificate has none of the names joined")
	}
}

func TestIdentityFilesFollow(t *testing.T) {
	authority := identitytest.NewCA(t)
	source := authority.NewSource(t, "spiffe://localhost/ns/ns/dapr-scheduler")
	dir := filepath.Join(t.TempDir(), "tls")
	f, err := newIdentityFiles(dir, source)
	if err != nil {
		t.Fatal(err)
	}
	read := func(name string) string {
		text, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	first, anchors := read(identityName), read(anchorsName)
	source.Set(authority.Issue(t, "spiffe://localhost/ns/ns/dapr-scheduler", nil))
	if rooted, err := f.write(); rooted || err != nil {
		t.Errorf("a renewed certificate: new anchors %v, error %v", rooted, err)
	}
	if read(identityName) == first || read(anchorsName) != anchors {
		t.Error("the files did not follow the certificate")
	}
	source.Trust(identitytest.NewCA(t).Root)
	if rooted, err := f.write(); !rooted || err != nil {
		t.Errorf("new anchors: %v, error %v", rooted, err)
	}
	if read(anchorsName) == anchors {
		t.Error("the file of anchors did not follow")
	}

	open := filepath.Join(t.TempDir(), "open")
	if err := os.Mkdir(open, 0o777); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(open, 0o777); err != nil {
		t.Fatal(err)
	}
	if _, err := newIdentityFiles(open, source); err == nil {
		t.Error("a directory that everybody can write to is accepted")
	}
}

// BenchmarkCreate compares the client by function calls with one by the network: creates in parallel, one revision each.
func BenchmarkCreate(b *testing.B) {
	s := open(b, single(b, b.TempDir()))
	network := open(b, Options{External: &External{Endpoints: []string{s.ClientAddress()}}})
	var n atomic.Int64
	for name, store := range map[string]*Store{"calls": s, "network": network} {
		for _, callers := range []int{1, 32} {
			b.Run(fmt.Sprintf("%s/%d", name, callers), func(b *testing.B) {
				b.SetParallelism(max(callers/2, 1))
				ctx := context.Background()
				b.RunParallel(func(pb *testing.PB) {
					for pb.Next() {
						key := fmt.Sprintf("dapr/jobs/%s/%d", name, n.Add(1))
						r, err := store.Client().Txn(ctx).If(clientv3.Compare(clientv3.CreateRevision(key), "=", 0)).
							Then(clientv3.OpPut(key, strings.Repeat("x", 150))).Commit()
						if err != nil || !r.Succeeded {
							b.Error(r, err)
						}
					}
				})
				b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "creates/s")
			})
		}
	}
}
