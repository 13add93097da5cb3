package placement

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	placementv1 "outrigger.dev/api/gen/placement/v1"
	"outrigger.dev/controlplane/placement/placementtest"
)

func TestTablesGoToAll(t *testing.T) {
	r := launch(t, nil)
	a := r.host("10.0.0.1:50002", "Cart", "Order")
	await(t, "Cart:10.0.0.1:50002 Order:10.0.0.1:50002", a)
	b, idle := r.host("10.0.0.2:50002", "Cart"), r.host("10.0.0.3:50002")
	other := run(t, &placementtest.Host{Addresses: a.Addresses, Name: "10.0.0.9:50002", AppID: "app", Namespace: "other", Types: []string{"Cart"}})
	await(t, "Cart:10.0.0.1:50002,10.0.0.2:50002 Order:10.0.0.1:50002", a, b, idle)
	await(t, "Cart:10.0.0.9:50002", other)
	if err := a.Report("Order"); err != nil {
		t.Fatal(err)
	}
	await(t, "Cart:10.0.0.2:50002 Order:10.0.0.1:50002", a, b, idle)

	version := b.State().Version
	code, body := get(t, "http://"+r.addresses.Healthz.String()+"/placement/state")
	want := fmt.Sprintf(`{"tables":{"ns":{"hosts":[{"name":"10.0.0.1:50002","entities":["Order"],"id":"app","api_level":20,"namespace":"ns","operation":1},`+
		`{"name":"10.0.0.2:50002","entities":["Cart"],"id":"app","api_level":20,"namespace":"ns","operation":1}],"version":%d},`+
		`"other":{"hosts":[{"name":"10.0.0.9:50002","entities":["Cart"],"id":"app","api_level":20,"namespace":"other","operation":1}],"version":1}}}`, version)
	if code != 200 || body != want {
		t.Errorf("%d %s\nwant %s", code, body, want)
	}
	if code, body := get(t, "http://"+r.addresses.Healthz.String()+"/healthz"); code != 200 {
		t.Errorf("healthz: %d %s", code, body)
	}
	_, body = get(t, "http://"+r.addresses.Metrics.String()+"/metrics")
	for _, line := range []string{
		`dapr_placement_runtimes_total{host_namespace="ns"} 3`, `dapr_placement_actor_runtimes_total{host_namespace="ns"} 2`,
		`dapr_placement_runtimes_total{host_namespace="other"} 1`, "dapr_placement_leader_status 1", "dapr_placement_raft_leader_status 1",
	} {
		if !strings.Contains(body, line+"\n") {
			t.Errorf("the metrics lack %s", line)
		}
	}
}

func TestStateOnlyWhenAskedFor(t *testing.T) {
	r := launch(t, func(o *Options) { o.State = false })
	if code, _ := get(t, "http://"+r.addresses.Healthz.String()+"/placement/state"); code != 404 {
		t.Errorf("status %d", code)
	}
}

func TestNobodyThere(t *testing.T) {
	r := launch(t, nil)
	if code, body := get(t, "http://"+r.addresses.Healthz.String()+"/placement/state"); code != 200 || body != "{}" {
		t.Errorf("%d %s", code, body)
	}
}

// open opens a stream and sends a first message.
func open(t *testing.T, c placementv1.PlacementClient, h *placementv1.Host) placementv1.Placement_ReportDaprStatusClient {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	t.Cleanup(cancel)
	stream, err := c.ReportDaprStatus(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if h != nil {
		// io.EOF says that the service has ended the stream already, and Recv why.
		if err := stream.Send(h); err != nil && !errors.Is(err, io.EOF) {
			t.Fatal(err)
		}
	}
	return stream
}

// ending reads a stream to its end.
func ending(t *testing.T, stream placementv1.Placement_ReportDaprStatusClient) *status.Status {
	t.Helper()
	for {
		if _, err := stream.Recv(); err != nil {
			return status.Convert(err)
		}
	}
}

func expect(t *testing.T, s *status.Status, code codes.Code, message string) {
	t.Helper()
	if s.Code() != code || s.Message() != message {
		t.Errorf("%s: %s\nwant %s: %s", s.Code(), s.Message(), code, message)
	}
}

func report(name string, types ...string) *placementv1.Host {
	return &placementv1.Host{Name: name, Id: "app", Namespace: "ns", Entities: types, Operation: placementv1.HostOperation_REPORT}
}

func TestOrdersOnTheWire(t *testing.T) {
	r := launch(t, nil)
	stream := open(t, r.dial(nil), report("a", "T"))
	ack := func(op placementv1.HostOperation, version uint64) {
		t.Helper()
		if err := stream.Send(&placementv1.Host{Id: "app", Namespace: "ns", Operation: op, Version: &version}); err != nil {
			t.Fatal(err)
		}
	}
	for _, want := range []string{"lock", "update", "unlock"} {
		o, err := stream.Recv()
		if err != nil {
			t.Fatal(err)
		}
		if o.Operation != want || o.Version != 1 || (o.Tables != nil) != (want == "update") {
			t.Fatalf("order %v, want %s", o, want)
		}
		if o.Tables != nil && (o.Tables.Version != "1" || o.Tables.ReplicationFactor != 100 || placementtest.Text(o.Tables) != "T:a") {
			t.Errorf("table %v", o.Tables)
		}
		ack(placementv1.HostOperation(placementv1.HostOperation_value[strings.ToUpper(want)]), 1)
	}
	// A sidecar that ends its side leaves.
	if err := stream.CloseSend(); err != nil {
		t.Fatal(err)
	}
	expect(t, ending(t, stream), codes.Unknown, "EOF")
	next := r.host("b", "T")
	await(t, "T:b", next)
}

func TestSidecarsThatDoNotAnswer(t *testing.T) {
	r := launch(t, func(o *Options) { o.DisseminateTimeout = 300 * time.Millisecond })
	stream := open(t, r.dial(nil), report("a", "T"))
	b := r.host("b", "T")
	expect(t, ending(t, stream), codes.DeadlineExceeded, "dissemination timeout after 300ms for version 1")
	await(t, "T:b", b)
	if r.log.Count("does not answer") != 1 {
		t.Errorf("log:\n%s", r.log)
	}
}

// TestSlowReaders has a sidecar that does not read at all, and tables that are larger than what a connection holds.
func TestSlowReaders(t *testing.T) {
	r := launch(t, func(o *Options) { o.DisseminateTimeout = 8 * time.Second })
	var types []string
	for i := range 2000 {
		types = append(types, fmt.Sprintf("Type-of-a-longer-name-%d", i))
	}
	// No types: no answer is missing, so that only the reading can be found out.
	slow := open(t, r.dial(nil, grpc.WithStaticStreamWindowSize(65535), grpc.WithStaticConnWindowSize(65535)), report("slow"))
	a := r.host("a")
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	begun := time.Now()
	for i := range 30 {
		rounds := a.State().Rounds
		if err := a.Report(types[i*60 : i*60+60]...); err != nil {
			t.Fatal(err)
		}
		if err := a.Await(ctx, func(s placementtest.State) bool {
			return s.Settled && s.Rounds > rounds && strings.Contains(s.Table, types[i*60+59])
		}); err != nil {
			t.Fatal(err)
		}
	}
	if took := time.Since(begun); took > 7*time.Second {
		t.Errorf("30 rounds took %s beside one that does not read", took)
	}
	deadline := time.Now().Add(15 * time.Second)
	for {
		_, body := get(t, "http://"+r.addresses.Metrics.String()+"/metrics")
		if strings.Contains(body, `dapr_placement_runtimes_total{host_namespace="ns"} 1`+"\n") {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("a sidecar that does not read is not given up")
		}
		time.Sleep(20 * time.Millisecond)
	}
	if s := ending(t, slow); s.Code() != codes.DeadlineExceeded {
		t.Errorf("%v", s)
	}
}

func TestTheNamespaceOfAStreamStays(t *testing.T) {
	r := launch(t, nil)
	stream := open(t, r.dial(nil), report("a", "T"))
	other := report("a", "T")
	other.Namespace = "other"
	if err := stream.Send(other); err != nil {
		t.Fatal(err)
	}
	expect(t, ending(t, stream), codes.InvalidArgument, `the namespace of a stream cannot change: it began in "ns" and now says "other"; open another stream`)
}

func TestStopEndsStreams(t *testing.T) {
	r := launch(t, nil)
	client := r.dial(nil)
	settled, silent := open(t, client, report("a", "T")), open(t, client, nil)
	if _, err := settled.Recv(); err != nil {
		t.Fatal(err)
	}
	ends := make(chan *status.Status, 1)
	go func() { ends <- ending(t, settled) }()
	begun := time.Now()
	if err := r.stop(); err != nil {
		t.Error(err)
	}
	if took := time.Since(begun); took > 3*time.Second {
		t.Errorf("the end took %s", took)
	}
	expect(t, <-ends, codes.Unavailable, "placement server is shutting down")
	if s := ending(t, silent); s.Code() != codes.Unavailable {
		t.Errorf("a stream that had said nothing: %v", s)
	}
}

// TestLostLeadership has a leader become a follower and a leader again.
func TestLostLeadership(t *testing.T) {
	o, err := Options{ID: "p-0"}.normalised()
	if err != nil {
		t.Fatal(err)
	}
	s := &server{o: o, metrics: newMetrics()}
	r := serve(t, s)
	expect(t, ending(t, open(t, r.dial(nil), report("a", "T"))), codes.FailedPrecondition, "node id=p-0 is not a leader. Only the leader can serve requests")
	s.lead()
	a := r.host("a", "T")
	await(t, "T:a", a)
	stream := open(t, r.dial(nil), report("b", "T"))
	if _, err := stream.Recv(); err != nil {
		t.Fatal(err)
	}
	s.follow()
	expect(t, ending(t, stream), codes.FailedPrecondition, "node id=p-0 is not a leader. Only the leader can serve requests")
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	for streams := 2; streams <= 3; streams++ {
		s.lead() // the second time without having noticed a loss
		if err := a.Await(ctx, func(st placementtest.State) bool { return st.Streams == streams && st.Settled && st.Table == "T:a" }); err != nil {
			t.Fatal(err)
		}
		if v := a.State().Version; v != 1 {
			t.Errorf("the new term begins with version %d", v)
		}
	}
	s.stop()
	s.lead()
	expect(t, ending(t, open(t, r.dial(nil), report("c", "T"))), codes.Unavailable, "placement server is shutting down")
}

func TestOptions(t *testing.T) {
	for _, tt := range []struct {
		o    Options
		want string
	}{
		{Options{}, ""},
		{Options{ID: "x", Peers: []Peer{{ID: "a"}, {ID: "b"}}}, "address for node x not found in raft peers [a b]: --id must be one of --initial-cluster"},
		{Options{KeepaliveTime: 999 * time.Millisecond}, "invalid value for --keepalive-time: 999ms; it must be between 1s and 10s"},
		{Options{KeepaliveTimeout: 11 * time.Second}, "invalid value for --keepalive-timeout: 11s; it must be between 1s and 10s"},
		{Options{DisseminateTimeout: -1}, "invalid value for --disseminate-timeout: -1ns; it must be between 1ms and 1h0m0s"},
		{Options{CoalesceWindow: -1}, "invalid value for --disseminate-coalesce-window: -1ns; it must be between 0s and 1h0m0s"},
		{Options{ReplicationFactor: -1}, "invalid value for --replicationFactor: -1; it must be between 1 and 1048576"},
	} {
		_, err := tt.o.normalised()
		if got := fmt.Sprint(err); (tt.want == "" && err != nil) || (tt.want != "" && got != tt.want) {
			t.Errorf("%s, want %s", got, tt.want)
		}
	}
}

func TestParsePeers(t *testing.T) {
	for _, tt := range []struct{ text, want string }{
		{"a=127.0.0.1:8201", "[{a 127.0.0.1:8201}]"},
		{"a=h1:1, b=h2:2,", "[{a h1:1} {b h2:2}]"},
		{"", "the cluster has no members: give them as id=host:port"},
		{"a", `the member "a" of the cluster is not to be read: write id=host:port, and commas between members`},
		{"a=h1", `the member "a=h1" of the cluster is not to be read: write id=host:port, and commas between members`},
		{"=h1:1", `the member "=h1:1" of the cluster is not to be read: write id=host:port, and commas between members`},
		{"a=h1:1,a=h2:2", `the member "a" is in the cluster twice, at h1:1 and h2:2: give each member an ID of its own`},
	} {
		peers, err := ParsePeers(tt.text)
		got := fmt.Sprint(peers)
		if err != nil {
			got = err.Error()
		}
		if got != tt.want {
			t.Errorf("%q: %s, want %s", tt.text, got, tt.want)
		}
	}
}
