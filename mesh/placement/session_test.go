package placement

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/jonboulle/clockwork"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"outrigger.dev/api"
	placementv1 "outrigger.dev/api/gen/placement/v1"
	"outrigger.dev/app/apptest"
)

func TestReports(t *testing.T) {
	s := startService(t)
	c, _ := start(t, Options{Addresses: []string{s.address}})
	in, first := s.accept(t)
	want := &placementv1.Host{Name: "10.0.0.1:50002", Id: "app", Namespace: "ns", ApiLevel: 20, Operation: placementv1.HostOperation_REPORT}
	if !proto.Equal(first, want) {
		t.Errorf("the first report is %v", first)
	}
	for _, step := range []struct{ advertised, reported []string }{
		{[]string{"B", "A", "B"}, []string{"A", "B"}}, {[]string{"A", "B"}, nil}, {[]string{"C"}, []string{"C"}}, {nil, []string{}},
	} {
		c.Advertise(step.advertised)
		if step.reported == nil {
			continue // the next report tells whether there was one
		}
		want.Entities = step.reported
		if got := apptest.Receive(t, "a report", in.hosts); !proto.Equal(got, want) {
			t.Errorf("after advertising %v: %v", step.advertised, got)
		}
	}
	c.Advertise([]string{"D"})
	apptest.Receive(t, "a report", in.hosts)
	in.end <- nil
	_, again := s.accept(t)
	if want.Entities = []string{"D"}; !proto.Equal(again, want) {
		t.Errorf("the report on the next stream is %v", again)
	}
}

func TestRound(t *testing.T) {
	s := startService(t)
	r := &runtime{halts: make(chan *halt, 10), settled: make(chan []string)}
	c, _ := start(t, Options{Addresses: []string{s.address}, HostName: "a:1", Hooks: r})
	c.Advertise([]string{"T", "Later"})
	in, _ := s.accept(t)
	type found struct {
		owner Owner
		err   error
	}
	lookup := func(actorType, id string) <-chan found {
		ch := make(chan found, 1)
		go func() {
			o, err := c.Lookup(context.Background(), actorType, id)
			ch <- found{o, err}
		}()
		return ch
	}
	waiting, unknown, empty := lookup("T", "1"), lookup("None", "1"), lookup("Empty", "1")
	in.order(t, order("lock", 1, nil))
	in.acked(t, lock, 1)
	in.order(t, order("update", 1, tables("T=a:1", "Empty=")))
	h := apptest.Receive(t, "a Halt", r.halts)
	if h.stays("T", "1") || c.IsLocal("T", "1") || c.Connected() {
		t.Error("something is local before the first UNLOCK")
	}
	// Nothing is acknowledged while turns are drained. A further report shows that the stream is alive meanwhile.
	c.Advertise([]string{"T"})
	if got := apptest.Receive(t, "a report", in.hosts); got.GetOperation() != placementv1.HostOperation_REPORT {
		t.Fatalf("%v was sent while instances are halted", got)
	}
	close(h.done)
	in.acked(t, update, 1)
	var none *api.Error
	if got := apptest.Receive(t, "no address", unknown); !errors.Is(got.err, ErrNoAddress) || !errors.As(got.err, &none) || none.Message != "did not find address for actor 'None/1'" ||
		got.err.Error() != "api error: code = FailedPrecondition desc = did not find address for actor 'None/1'" {
		t.Errorf("a type without hosts: %v", got.err)
	}
	in.order(t, order("unlock", 1, nil))
	select { // Settled has not returned
	case got := <-waiting:
		t.Errorf("a look-up went on before Settled: %v", got)
	case <-c.Ready():
		t.Error("ready before Settled")
	case types := <-r.settled:
		if !slices.Equal(types, []string{"T"}) {
			t.Errorf("settled are %v", types)
		}
	}
	in.acked(t, unlock, 1)
	apptest.Receive(t, "readiness", c.Ready())
	if got := apptest.Receive(t, "a look-up", waiting); got.err != nil || got.owner != (Owner{Address: "a:1", AppID: "app-a:1", Local: true}) {
		t.Errorf("got %v", got)
	}
	if got := apptest.Receive(t, "no hosts", empty); !errors.Is(got.err, ErrNoHosts) || got.err.Error() != "no hosts added" {
		t.Errorf("an empty ring: %v", got.err)
	}
	if !c.IsLocal("T", "1") || !c.Connected() {
		t.Error("the actor is not local")
	}
	// The actor moves away and the look-up waits; its caller gives up.
	in.order(t, order("lock", 2, nil))
	in.acked(t, lock, 2)
	in.order(t, order("update", 2, tables("T=b:1")))
	r.finish(t, "the move")
	in.acked(t, update, 2)
	ctx, cancel := context.WithCancel(context.Background())
	given := make(chan error, 1)
	go func() { _, err := c.Lookup(ctx, "T", "1"); given <- err }()
	cancel()
	if err := apptest.Receive(t, "the end of the look-up", given); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	moving := lookup("T", "1")
	in.order(t, order("unlock", 2, nil))
	if types := apptest.Receive(t, "Settled", r.settled); len(types) != 0 {
		t.Errorf("settled are %v", types)
	}
	in.acked(t, unlock, 2)
	if got := apptest.Receive(t, "the moved actor", moving); got.err != nil || got.owner != (Owner{Address: "b:1", AppID: "app-b:1"}) {
		t.Errorf("got %v", got)
	}
	in.end <- nil
	r.finish(t, "the lost stream")
}

// TestOrdersDuringHalt: orders that come while instances are halted are handled after it, in their order.
func TestOrdersDuringHalt(t *testing.T) {
	s := startService(t)
	r := &runtime{halts: make(chan *halt, 10), settled: make(chan []string, 10)}
	c, _ := start(t, Options{Addresses: []string{s.address}, HostName: "a:1", Hooks: r})
	in, _ := s.accept(t)
	for _, o := range []string{"lock", "update", "unlock", "lock", "update", "lock", "update", "unlock"} {
		in.order(t, order(o, 0, tables("T=a:1")))
	}
	in.acked(t, lock, 0)
	r.finish(t, "the first")
	in.acked(t, update, 0)
	in.acked(t, unlock, 0)
	in.acked(t, lock, 0)
	h := r.finish(t, "the second")
	if !h.stays("T", "1") || h.stays("U", "1") {
		t.Error("an actor that stays does not")
	}
	in.acked(t, update, 0)
	in.acked(t, lock, 0)
	r.finish(t, "the third")
	in.acked(t, update, 0)
	in.acked(t, unlock, 0)
	if !c.IsLocal("T", "1") {
		t.Error("the actor is not local")
	}
	in.end <- nil
	r.finish(t, "the lost stream")
}

func TestTooManyOrdersDuringHalt(t *testing.T) {
	s := startService(t)
	r := &runtime{halts: make(chan *halt, 10), settled: make(chan []string, 10)}
	start(t, Options{Addresses: []string{s.address}, Hooks: r})
	in, _ := s.accept(t)
	in.order(t, order("update", 0, nil))
	h := apptest.Receive(t, "a Halt", r.halts)
	for range maxBacklog + 1 {
		if in.stream.Send(order("lock", 1, nil)) != nil {
			break
		}
	}
	r.finish(t, "the end of the stream")
	close(h.done)
	in.ended(t)
}

func TestStreamLostDuringHalt(t *testing.T) {
	s := startService(t)
	r := &runtime{halts: make(chan *halt, 10), settled: make(chan []string, 10)}
	c, _ := start(t, Options{Addresses: []string{s.address}, HostName: "a:1", Hooks: r})
	in, _ := s.accept(t)
	in.order(t, order("update", 0, tables("T=a:1", "U=a:1")))
	r.finish(t, "the first")
	in.order(t, order("unlock", 0, nil))
	in.acked(t, update, 0)
	in.acked(t, unlock, 0)
	in.order(t, order("update", 0, tables("T=a:1", "U=b:1")))
	slow := apptest.Receive(t, "a Halt", r.halts)
	if !c.IsLocal("T", "1") || c.IsLocal("U", "1") {
		t.Error("who stays is wrong")
	}
	in.end <- status.Error(codes.Unavailable, "gone")
	all := apptest.Receive(t, "a Halt of all", r.halts)
	if all.stays != nil || c.IsLocal("T", "1") || c.Connected() {
		t.Error("the loss of the stream is not noticed while instances are halted")
	}
	close(all.done)
	// The next stream is there already, so that the service knows of this sidecar; but no order is acknowledged before everything has ended.
	next, _ := s.accept(t)
	next.order(t, order("lock", 0, nil))
	select {
	case h := <-next.hosts:
		t.Errorf("%s of %d before everything is halted", h.Operation, h.GetVersion())
	case <-time.After(20 * time.Millisecond):
	}
	close(slow.done)
	next.acked(t, lock, 0)
	if c.IsLocal("T", "1") {
		t.Error("something is local on a new stream")
	}
	select {
	case <-c.Ready():
	default:
		t.Error("readiness was taken back")
	}
	next.order(t, order("update", 0, tables("T=a:1", "U=a:1")))
	r.finish(t, "the first of the next stream")
	next.acked(t, update, 0) // which may use the versions of the former one again
	next.order(t, order("unlock", 0, nil))
	next.acked(t, unlock, 0)
	if !c.IsLocal("T", "1") || !c.Connected() {
		t.Error("the actor did not come back")
	}
	next.end <- nil
	r.finish(t, "the lost stream")
}

func TestProtocolErrors(t *testing.T) {
	for name, orders := range map[string][]*placementv1.PlacementOrder{
		"version mismatch":  {order("lock", 5, nil), order("update", 4, nil)},
		"unknown operation": {order("remove", 1, nil)},
	} {
		t.Run(name, func(t *testing.T) {
			s := startService(t)
			d := &dialled{}
			start(t, Options{Addresses: []string{s.address}, Dial: d.dial})
			in, _ := s.accept(t)
			for _, o := range orders {
				in.order(t, o)
			}
			in.ended(t)
			s.accept(t)
			apptest.Until(t, "the old connection is closed", func() bool { return d.open.Load() == 1 })
		})
	}
}

func TestDisseminationTimeout(t *testing.T) {
	s := startService(t)
	clock := clockwork.NewFakeClock()
	r := &runtime{halts: make(chan *halt, 10), settled: make(chan []string, 10)}
	c, _ := start(t, Options{Addresses: []string{s.address}, HostName: "a:1", Hooks: r, Clock: clock, DisseminateTimeout: time.Hour})
	in, _ := s.accept(t)
	in.order(t, order("lock", 1, nil))
	in.acked(t, lock, 1)
	in.order(t, order("update", 1, tables("T=a:1")))
	r.finish(t, "the first")
	in.acked(t, update, 1)
	clock.Advance(24 * time.Hour) // from UPDATE to UNLOCK there is no bound
	in.order(t, order("unlock", 1, nil))
	in.acked(t, unlock, 1)
	in.order(t, order("lock", 2, nil))
	in.acked(t, lock, 2)
	if err := clock.BlockUntilContext(t.Context(), 1); err != nil {
		t.Fatal(err)
	}
	clock.Advance(time.Hour - 1)
	if !c.IsLocal("T", "1") {
		t.Error("LOCK blocks look-ups")
	}
	clock.Advance(1)
	h := apptest.Receive(t, "a Halt", r.halts)
	if h.stays != nil || c.Connected() {
		t.Error("not everything is halted")
	}
	// The service may give the actors to others when the stream ends, so it must not before they are halted.
	select {
	case <-in.stream.Context().Done():
		t.Error("the stream was closed before instances were halted")
	case <-time.After(20 * time.Millisecond):
	}
	close(h.done)
	in.ended(t)
	if err := clock.BlockUntilContext(t.Context(), 1); err != nil {
		t.Fatal(err)
	}
	clock.Advance(pause)
	s.accept(t)
}

func TestShutdown(t *testing.T) {
	s := startService(t)
	r := &runtime{halts: make(chan *halt, 10), settled: make(chan []string, 10)}
	c, stop := start(t, Options{Addresses: []string{s.address}, HostName: "a:1", Hooks: r})
	in, _ := s.accept(t)
	in.order(t, order("update", 0, tables("T=a:1")))
	r.finish(t, "the first")
	in.order(t, order("unlock", 0, nil))
	in.acked(t, update, 0)
	in.acked(t, unlock, 0)
	stopped := make(chan struct{})
	go func() { defer close(stopped); stop() }()
	h := apptest.Receive(t, "a Halt of all", r.halts)
	if h.stays != nil || c.IsLocal("T", "1") {
		t.Error("not everything is halted")
	}
	waiting := make(chan error, 1)
	go func() { _, err := c.Lookup(context.Background(), "T", "1"); waiting <- err }()
	select {
	case <-in.stream.Context().Done():
		t.Error("the stream was closed before instances were halted")
	case err := <-waiting:
		t.Errorf("a look-up ended early: %v", err)
	case <-time.After(20 * time.Millisecond):
	}
	close(h.done)
	in.ended(t)
	if err := apptest.Receive(t, "the look-up", waiting); !errors.Is(err, ErrClosed) {
		t.Errorf("got %v", err)
	}
	apptest.Receive(t, "the end", stopped)
	if _, err := c.Lookup(context.Background(), "T", "1"); !errors.Is(err, ErrClosed) {
		t.Errorf("got %v", err)
	}
}

func TestLargeTable(t *testing.T) {
	s := startService(t)
	c, _ := start(t, Options{Addresses: []string{s.address}, HostName: "h0:1"})
	in, _ := s.accept(t)
	big := &placementv1.PlacementTables{ReplicationFactor: 100, Entries: map[string]*placementv1.PlacementTable{}}
	var types []string
	for i := range 100 {
		types = append(types, fmt.Sprintf("SomeActorTypeWithAName%d", i))
	}
	load := map[string]*placementv1.Host{}
	for i := range 30 {
		name := fmt.Sprintf("h%d:1", i)
		load[name] = &placementv1.Host{Name: name, Id: "app", Entities: types}
	}
	for _, name := range types {
		big.Entries[name] = &placementv1.PlacementTable{LoadMap: load}
	}
	if n := proto.Size(big); n < 5<<20 {
		t.Fatalf("the table has only %d bytes", n)
	}
	in.round(t, 1, big)
	if _, err := c.Lookup(t.Context(), types[99], "1"); err != nil {
		t.Error(err)
	}
}

// BenchmarkLookup is the fast path.
func BenchmarkLookup(b *testing.B) {
	c := New(Options{HostName: "a:1"})
	c.core = settled(b, "a:1", 1, tables("T=a:1,b:1,c:1"))
	ctx := context.Background()
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if _, err := c.Lookup(ctx, "T", "d9b2d63d-a233-4123-847a-7f2b5c1e6f10"); err != nil {
				b.Error(err)
			}
		}
	})
}
