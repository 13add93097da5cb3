package placement

import (
	"context"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	placementv1 "outrigger.dev/api/gen/placement/v1"
	"outrigger.dev/app/apptest"
)

// service is an instance of the placement service that does what a test says.
type service struct {
	placementv1.UnimplementedPlacementServer
	address string
	streams chan *served
	refuse  atomic.Pointer[status.Status] // answers all streams when set
	asked   atomic.Int64
}

// served is a stream at the service.
type served struct {
	stream grpc.BidiStreamingServer[placementv1.Host, placementv1.PlacementOrder]
	hosts  chan *placementv1.Host
	end    chan error
}

func (s *service) ReportDaprStatus(stream grpc.BidiStreamingServer[placementv1.Host, placementv1.PlacementOrder]) error {
	s.asked.Add(1)
	if refusal := s.refuse.Load(); refusal != nil {
		return refusal.Err()
	}
	in := &served{stream: stream, hosts: make(chan *placementv1.Host, 100), end: make(chan error, 1)}
	go func() {
		defer close(in.hosts)
		for {
			h, err := stream.Recv()
			if err != nil {
				return
			}
			in.hosts <- h
		}
	}()
	select {
	case s.streams <- in:
	case <-stream.Context().Done():
		return stream.Context().Err()
	}
	select {
	case err := <-in.end:
		return err
	case <-stream.Context().Done():
		return stream.Context().Err()
	}
}

func startService(t testing.TB) *service {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &service{address: l.Addr().String(), streams: make(chan *served)}
	server := grpc.NewServer()
	placementv1.RegisterPlacementServer(server, s)
	done := make(chan struct{})
	go func() { defer close(done); _ = server.Serve(l) }()
	t.Cleanup(func() { server.Stop(); <-done })
	return s
}

// accept is the next stream, after its report.
func (s *service) accept(t testing.TB) (*served, *placementv1.Host) {
	t.Helper()
	in := apptest.Receive(t, "a stream", s.streams)
	return in, apptest.Receive(t, "a report", in.hosts)
}

func (in *served) order(t testing.TB, o *placementv1.PlacementOrder) {
	t.Helper()
	if err := in.stream.Send(o); err != nil {
		t.Fatal(err)
	}
}

// acked waits for an acknowledgement.
func (in *served) acked(t testing.TB, kind placementv1.HostOperation, version uint64) {
	t.Helper()
	want := &placementv1.Host{Id: "app", Namespace: "ns", Operation: kind, Version: &version}
	if got := apptest.Receive(t, "an acknowledgement of "+kind.String(), in.hosts); !proto.Equal(got, want) {
		t.Fatalf("got %v, want %v", got, want)
	}
}

// round puts a table into force.
func (in *served) round(t testing.TB, version uint64, in2 *placementv1.PlacementTables) {
	t.Helper()
	in.order(t, order("lock", version, nil))
	in.acked(t, lock, version)
	in.order(t, order("update", version, in2))
	in.acked(t, update, version)
	in.order(t, order("unlock", version, nil))
	in.acked(t, unlock, version)
}

// ended waits for the client's end of the stream.
func (in *served) ended(t testing.TB) {
	t.Helper()
	apptest.Receive(t, "the end of the stream", in.stream.Context().Done())
}

// runtime are hooks that a test looks into.
type runtime struct {
	halts   chan *halt
	settled chan []string
}

type halt struct {
	stays func(actorType, id string) bool
	done  chan struct{}
}

func (r *runtime) Halt(ctx context.Context, stays func(actorType, id string) bool) {
	h := &halt{stays: stays, done: make(chan struct{})}
	r.halts <- h
	select {
	case <-h.done:
	case <-ctx.Done():
	}
}

func (r *runtime) Settled(types []string) { r.settled <- types }

// finish waits for a Halt and ends it.
func (r *runtime) finish(t testing.TB, what string) *halt {
	t.Helper()
	h := apptest.Receive(t, "a Halt for "+what, r.halts)
	close(h.done)
	return h
}

type dialled struct {
	open  atomic.Int64
	total atomic.Int64
}

type dialledConn struct {
	net.Conn
	once sync.Once
	d    *dialled
}

func (c *dialledConn) Close() error {
	c.once.Do(func() { c.d.open.Add(-1) })
	return c.Conn.Close()
}

func (d *dialled) dial(ctx context.Context, address string) (net.Conn, error) {
	d.total.Add(1)
	c, err := (&net.Dialer{}).DialContext(ctx, "tcp", address)
	if err != nil {
		return nil, err
	}
	d.open.Add(1)
	return &dialledConn{Conn: c, d: d}, nil
}

// start runs a client until the test's end. stop ends it and waits.
func start(t testing.TB, o Options) (c *Client, stop func()) {
	t.Helper()
	if o.HostName == "" {
		o.HostName = "10.0.0.1:50002"
	}
	o.AppID, o.Namespace = "app", "ns"
	if o.Rand == nil {
		o.Rand = func() float64 { return 0.5 }
	}
	c = New(o)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- c.Run(ctx) }()
	var once sync.Once
	stop = func() {
		once.Do(func() {
			cancel()
			select {
			case err := <-done:
				if err != nil {
					t.Errorf("Run: %v", err)
				}
			case <-time.After(10 * time.Second):
				t.Error("Run does not end")
			}
		})
	}
	t.Cleanup(stop)
	return c, stop
}
