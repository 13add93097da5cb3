package actors

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"outrigger.dev/invocation"
	"outrigger.dev/mesh"
	"outrigger.dev/mesh/placement"
)

func hosts(h Host, types ...string) Hosting {
	m := make(map[string]TypeConfig)
	for _, name := range types {
		m[name] = DefaultTypeConfig()
	}
	return Hosting{Host: h, Types: m}
}

func TestCallsWaitForTheFirstRegistration(t *testing.T) {
	b := bare(t)
	if s := b.Status(); s.State != Initializing || s.Placement != "" || s.HostReady || s.Active != nil {
		t.Errorf("status %+v", s)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if got := asAPI(b.call(ctx, "T", "1", "m").err); got != "500 ERR_ACTOR_INVOKE_METHOD Internal: error invoke actor method: context canceled" {
		t.Errorf("got %s", got)
	}
	waits := b.start(context.Background(), "T", "1", "m")
	remoteAt(b, "2")
	b.peers.call = func(context.Context, mesh.Target, mesh.Actor, *invocation.Request) (*invocation.Response, error) {
		return answer("remote"), nil
	}
	waitsRemote := b.start(context.Background(), "T", "2", "m")
	nothing(t, "a result", waits)
	nothing(t, "a result", waitsRemote)
	h := new(fakeHost)
	withdraw := b.register(hosts(h, "T"))
	for _, c := range []<-chan outcome{waits, waitsRemote} {
		if o := receive(t, "the result", c); o.err != nil {
			t.Error(o.err)
		}
	}
	if got := b.placement.last(); got != "T" {
		t.Errorf("advertised %q", got)
	}

	// The app is not healthy any more: calls wait again, also those for elsewhere.
	withdraw(context.Background())
	withdraw(context.Background())
	if !h.has("gone:T/1") || b.placement.last() != "" || b.Status().State != Initializing || b.Hosts("T") {
		t.Errorf("%s; advertised %q; %+v", h.records(), b.placement.last(), b.Status())
	}
	waits, waitsRemote = b.start(context.Background(), "T", "1", "m"), b.start(context.Background(), "T", "2", "m")
	if _, err := b.CallActor(context.Background(), mesh.Actor{Type: "T", ID: "1"}, &invocation.Request{Method: "m"}); err == nil ||
		asAPI(err) != "500 ERR_ACTOR_INVOKE_METHOD Internal: error invoke actor method: remote actor moved" {
		t.Errorf("a call from elsewhere: %v", err)
	}
	nothing(t, "a result", waits)
	nothing(t, "a result", waitsRemote)
	b.register(hosts(h, "T"))
	for _, c := range []<-chan outcome{waits, waitsRemote} {
		if o := receive(t, "the result", c); o.err != nil {
			t.Error(o.err)
		}
	}
}

func TestRegistrationOfNothing(t *testing.T) {
	b := bare(t)
	b.register(Hosting{})
	if err := b.Await(context.Background()); err != nil {
		t.Error(err)
	}
	if s := b.Status(); s.State != Running || len(s.Active) != 0 || b.placement.last() != "-" {
		t.Errorf("status %+v, advertised %q", s, b.placement.last())
	}
}

func TestRegistrationsThatCannotBe(t *testing.T) {
	b := bare(t)
	for want, h := range map[string]Hosting{
		"without a host": hosts(nil, "T"),
		"empty name":     hosts(new(fakeHost), ""),
	} {
		if _, err := b.Register(h); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want something with %q", err, want)
		}
	}
}

func TestSeveralHostings(t *testing.T) {
	b := bare(t)
	older, newer, third := new(fakeHost), new(fakeHost), new(fakeHost)
	withdrawOlder := b.register(hosts(older, "A", "B"))
	b.mustCall("A", "1", "m")
	b.mustCall("B", "1", "m")
	withdrawNewer := b.register(hosts(newer, "B", "C"))
	if got := b.placement.last(); got != "A,B,C" {
		t.Errorf("advertised %q", got)
	}
	// What the older one had of B ends there.
	eventually(t, "B/1 has moved", func() bool { return older.has("gone:B/1") })
	b.mustCall("B", "1", "m2")
	if !newer.has("+1/m2") || older.has("gone:A/1") {
		t.Errorf("older: %s; newer: %s", older.records(), newer.records())
	}
	if s := b.Status(); fmt.Sprint(s.Active) != "[{A 1} {B 1} {C 0}]" {
		t.Errorf("status %+v", s)
	}
	advertised := len(b.placement.advertised)
	// The older one's end leaves B alone.
	withdrawOlder(context.Background())
	if !older.has("gone:A/1") || newer.has("gone:B/1") || !b.Hosts("B") || b.Hosts("A") || b.placement.last() != "B,C" {
		t.Errorf("older: %s; newer: %s; advertised %q", older.records(), newer.records(), b.placement.last())
	}
	withdrawThird := b.register(hosts(third, "C"))
	if len(b.placement.advertised) != advertised+1 {
		t.Error("types were advertised that had not changed")
	}
	// The newest one's end brings C back to who had it before.
	withdrawThird(context.Background())
	b.mustCall("C", "1", "m")
	if !newer.has("+1/m") {
		t.Error("C is not where it was before")
	}
	withdrawNewer(context.Background())
	if !newer.has("gone:B/1") || !newer.has("gone:C/1") || b.placement.last() != "" {
		t.Errorf("newer: %s; advertised %q", newer.records(), b.placement.last())
	}
}

func TestRemoteCallsGoOnWhileOneHostingIsLeft(t *testing.T) {
	b := newBench(t)
	withdraw := b.register(hosts(new(fakeHost), "W"))
	remoteAt(b, "1")
	b.peers.call = func(context.Context, mesh.Target, mesh.Actor, *invocation.Request) (*invocation.Response, error) {
		return answer("remote"), nil
	}
	withdraw(context.Background())
	if got := b.mustCall("T", "1", "m"); got != "remote" {
		t.Errorf("got %q", got)
	}
}

func TestStoreComesAndGoes(t *testing.T) {
	b := newBench(t)
	if got := b.placement.last(); got != "R,T" {
		t.Errorf("advertised %q", got)
	}
	b.mustCall("T", "1", "m")
	var order []string
	b.host.deactivate = func(context.Context, string, string) error {
		order = append(order, "advertised "+b.placement.last())
		return nil
	}
	b.SetStore(false)
	if fmt.Sprint(order) != "[advertised ]" || b.Hosts("T") {
		t.Errorf("order of events: %q", order)
	}
	if s := b.Status(); s.State != Running || fmt.Sprint(s.Active) != "[{R 0} {T 0}]" {
		t.Errorf("status %+v", s)
	}
	// Actors elsewhere can be called all the same.
	remoteAt(b, "2")
	b.peers.call = func(context.Context, mesh.Target, mesh.Actor, *invocation.Request) (*invocation.Response, error) {
		return answer("remote"), nil
	}
	b.mustCall("T", "2", "m")
	b.SetStore(true)
	if got := b.placement.last(); got != "R,T" || !b.Hosts("T") {
		t.Errorf("advertised %q", got)
	}
	b.mustCall("T", "1", "m")
}

func TestWithdrawDrains(t *testing.T) {
	b := bare(t, builtIn)
	h := new(fakeHost)
	block := newBlocking()
	h.invoke = block.invoke
	withdraw := b.register(hosts(h, "T"))
	running := b.start(context.Background(), "T", "1", "block")
	receive(t, "the turn", block.began)
	queued := b.start(context.Background(), "T", "1", "queued")
	eventually(t, "the call waits", func() bool { return b.waiting("T", "1") == 1 })
	done := make(chan struct{})
	go func() {
		defer close(done)
		withdraw(context.Background())
	}()
	eventually(t, "the type is withdrawn", func() bool { return b.placement.last() == "" })
	nothing(t, "the end of withdraw", done)
	close(block.let)
	if o := receive(t, "the result", running); o.err != nil {
		t.Error(o.err)
	}
	receive(t, "the end of withdraw", done)
	// The call that waited is not lost: it waits until somebody hosts the type.
	b.clock.Advance(30 * time.Second)
	nothing(t, "the result of a call that nobody can take", queued)
	b.register(hosts(new(fakeHost), "T"))
	var o outcome
	if b.pass(100*time.Millisecond, "the result", got(queued, &o)); o.err != nil || o.text != "queued" {
		t.Errorf("got %+v", o)
	}
}

func TestStatus(t *testing.T) {
	b := newBench(t)
	if s := b.Status(); s.State != Running || !s.HostReady || s.Placement != "placement: connected" {
		t.Errorf("status %+v", s)
	}
	b.placement.change(func() { b.placement.connected = false })
	if s := b.Status(); s.State != Running || s.HostReady || s.Placement != "placement: disconnected" {
		t.Errorf("status %+v", s)
	}
	off := newBench(t, func(o *Options) { o.PlacementConfigured, o.Placement = false, nil })
	if s := off.Status(); s.State != Disabled || s.HostReady || s.Placement != "placement: disconnected" {
		t.Errorf("status %+v", s)
	}
}

func TestSettled(t *testing.T) {
	var settled []string
	b := newBench(t, func(o *Options) { o.OnSettled = func(types []string) { settled = types } })
	b.Settled([]string{"a", "b"})
	if fmt.Sprint(settled) != "[a b]" {
		t.Errorf("got %v", settled)
	}
	newBench(t).Settled(nil)
	var _ placement.Hooks = b.Runtime
}
