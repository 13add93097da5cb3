package actors

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jonboulle/clockwork"

	"outrigger.dev/api"
	internalsv1 "outrigger.dev/api/gen/internals/v1"
	"outrigger.dev/invocation"
	"outrigger.dev/mesh"
	"outrigger.dev/mesh/placement"
)

// patience is how long tests wait for what has to happen.
const patience = 30 * time.Second

// eventually waits until cond holds.
func eventually(t testing.TB, what string, cond func() bool) {
	t.Helper()
	deadline := time.Now().Add(patience)
	for !cond() {
		if time.Now().After(deadline) {
			t.Fatalf("it never came about: %s", what)
		}
		time.Sleep(200 * time.Microsecond)
	}
}

// receive takes from a channel.
func receive[T any](t testing.TB, what string, c <-chan T) (v T) {
	t.Helper()
	select {
	case v = <-c:
	case <-time.After(patience):
		t.Fatalf("it never came: %s", what)
	}
	return v
}

// nothing checks that a channel has nothing.
func nothing[T any](t testing.TB, what string, c <-chan T) {
	t.Helper()
	select {
	case v, ok := <-c:
		t.Fatalf("%s came too early: %v (%v)", what, v, ok)
	default:
	}
}

// fakePlacement puts every actor here unless told otherwise.
type fakePlacement struct {
	mu        sync.Mutex
	elsewhere map[address]placement.Owner
	moving    func(address) bool // nil: nothing moves
	changed   chan struct{}
	failing   error
	// meanwhile is called before a look-up returns that found the actor here.
	meanwhile  func()
	advertised [][]string
	connected  bool
	lookups    atomic.Int64
}

func newFakePlacement() *fakePlacement {
	return &fakePlacement{elsewhere: make(map[address]placement.Owner), changed: make(chan struct{}), connected: true}
}

func (p *fakePlacement) Lookup(ctx context.Context, actorType, id string) (placement.Owner, error) {
	p.lookups.Add(1)
	a := address{actorType, id}
	for {
		p.mu.Lock()
		waits := p.moving != nil && p.moving(a)
		owner, away := p.elsewhere[a]
		changed, failing, meanwhile := p.changed, p.failing, p.meanwhile
		p.mu.Unlock()
		switch {
		case failing != nil:
			return placement.Owner{}, failing
		case !waits && away:
			return owner, nil
		case !waits:
			if meanwhile != nil {
				meanwhile()
			}
			return placement.Owner{Address: "self:1", AppID: "self", Local: true}, nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return placement.Owner{}, ctx.Err()
		}
	}
}

func (p *fakePlacement) Changed() <-chan struct{} {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.changed
}

func (p *fakePlacement) IsLocal(actorType, id string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	a := address{actorType, id}
	_, away := p.elsewhere[a]
	return !away && (p.moving == nil || !p.moving(a))
}

func (p *fakePlacement) Advertise(types []string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.advertised = append(p.advertised, types)
}

func (p *fakePlacement) Connected() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.connected
}

// change changes the table.
func (p *fakePlacement) change(f func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	f()
	close(p.changed)
	p.changed = make(chan struct{})
}

// last is what was advertised last, "-" for nothing yet.
func (p *fakePlacement) last() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.advertised) == 0 {
		return "-"
	}
	return strings.Join(p.advertised[len(p.advertised)-1], ",")
}

// fakePeers are other sidecars.
type fakePeers struct {
	call   func(ctx context.Context, target mesh.Target, actor mesh.Actor, req *invocation.Request) (*invocation.Response, error)
	remind func(ctx context.Context, target mesh.Target, r *internalsv1.Reminder) error
}

func (p *fakePeers) CallActor(ctx context.Context, target mesh.Target, actor mesh.Actor, req *invocation.Request) (*invocation.Response, error) {
	return p.call(ctx, target, actor, req)
}

func (p *fakePeers) CallActorReminder(ctx context.Context, target mesh.Target, r *internalsv1.Reminder) error {
	return p.remind(ctx, target, r)
}

// fakeHost answers every call with its method, and records.
type fakeHost struct {
	invoke     func(ctx context.Context, call *Call) (*invocation.Response, error)
	remind     func(ctx context.Context, r *Reminder) error
	deactivate func(ctx context.Context, actorType, id string) error

	mu  sync.Mutex
	log []string
}

func (h *fakeHost) record(format string, args ...any) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.log = append(h.log, fmt.Sprintf(format, args...))
}

func (h *fakeHost) records() string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return strings.Join(h.log, " ")
}

func (h *fakeHost) has(entry string) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Contains(h.log, entry)
}

func (h *fakeHost) Invoke(ctx context.Context, call *Call) (*invocation.Response, error) {
	h.record("+%s/%s", call.ID, call.Method)
	defer h.record("-%s/%s", call.ID, call.Method)
	if h.invoke != nil {
		return h.invoke(ctx, call)
	}
	return answer(call.Method), nil
}

func (h *fakeHost) Remind(ctx context.Context, r *Reminder) error {
	h.record("remind:%s/%s", r.ID, r.Name)
	if h.remind != nil {
		return h.remind(ctx, r)
	}
	return nil
}

func (h *fakeHost) Deactivate(ctx context.Context, actorType, id string) error {
	h.record("gone:%s/%s", actorType, id)
	if h.deactivate != nil {
		return h.deactivate(ctx, actorType, id)
	}
	return nil
}

func answer(text string) *invocation.Response {
	return &invocation.Response{Status: 200, Body: []byte(text)}
}

// blocking is a host's method that waits until it is let go or broken off.
type blocking struct {
	began chan string
	let   chan struct{}
}

func newBlocking() *blocking { return &blocking{make(chan string, 100), make(chan struct{})} }

func (b *blocking) invoke(ctx context.Context, call *Call) (*invocation.Response, error) {
	if call.Method != "block" {
		return answer(call.Method), nil
	}
	b.began <- call.ID
	select {
	case <-b.let:
		return answer("let go"), nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// bench is a runtime with fakes around it.
type bench struct {
	*Runtime
	t         testing.TB
	placement *fakePlacement
	peers     *fakePeers
	host      *fakeHost
	clock     *clockwork.FakeClock
}

// newBench makes a runtime with a state store, on which the fake host hosts type "T" (and "R", which is reentrant).
func newBench(t testing.TB, change ...func(*Options)) *bench {
	b := bare(t, change...)
	b.host = new(fakeHost)
	reentrant := DefaultTypeConfig()
	reentrant.Reentrant = true
	b.register(Hosting{Host: b.host, Types: map[string]TypeConfig{"T": DefaultTypeConfig(), "R": reentrant}})
	return b
}

// bare makes a runtime that hosts nothing.
func bare(t testing.TB, change ...func(*Options)) *bench {
	b := &bench{t: t, placement: newFakePlacement(), peers: new(fakePeers), clock: clockwork.NewFakeClock()}
	o := Options{
		Namespace: "ns", PlacementConfigured: true, Placement: b.placement, Peers: b.peers, Clock: b.clock,
	}
	for _, f := range change {
		f(&o)
	}
	b.Runtime = New(o)
	b.SetStore(true)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		if err := b.Close(ctx); err != nil {
			t.Errorf("Close: %v", err)
		}
	})
	return b
}

func (b *bench) register(h Hosting) func(context.Context) {
	b.t.Helper()
	withdraw, err := b.Register(h)
	if err != nil {
		b.t.Fatal(err)
	}
	return withdraw
}

// outcome is how a call ended.
type outcome struct {
	text string
	err  error
}

// call calls a method; headers are names and values by turns.
func (b *bench) call(ctx context.Context, actorType, id, method string, headers ...string) outcome {
	c := &Call{Type: actorType, ID: id, Method: method, Request: new(invocation.Request)}
	for i := 1; i < len(headers); i += 2 {
		c.Request.Header.Add(headers[i-1], headers[i])
	}
	resp, err := b.Invoke(ctx, c)
	if err != nil {
		return outcome{err: err}
	}
	return outcome{text: string(resp.Body)}
}

// start calls a method in the background.
func (b *bench) start(ctx context.Context, actorType, id, method string, headers ...string) <-chan outcome {
	done := make(chan outcome, 1)
	go func() { done <- b.call(ctx, actorType, id, method, headers...) }()
	return done
}

// mustCall checks that a call succeeds.
func (b *bench) mustCall(actorType, id, method string, headers ...string) string {
	b.t.Helper()
	o := receive(b.t, "the result of "+method, b.start(context.Background(), actorType, id, method, headers...))
	if o.err != nil {
		b.t.Fatalf("%s: %v", method, o.err)
	}
	return o.text
}

// instance looks an instance up.
func (b *bench) instance(actorType, id string) *instance {
	a := address{actorType, id}
	sh := b.shards.of(a)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	return sh.instances[a]
}

// waiting is how many calls wait for their turn.
func (b *bench) waiting(actorType, id string) int {
	a := address{actorType, id}
	sh := b.shards.of(a)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	if inst := sh.instances[a]; inst != nil {
		return inst.lock.waiting
	}
	return 0
}

// phaseOf is the phase of an instance; ok is false when there is none.
func (b *bench) phaseOf(actorType, id string) (p phase, ok bool) {
	a := address{actorType, id}
	sh := b.shards.of(a)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	if inst := sh.instances[a]; inst != nil {
		return inst.phase, true
	}
	return 0, false
}

// pass lets time pass, a little at a time, until cond holds. It returns how much.
func (b *bench) pass(step time.Duration, what string, cond func() bool) time.Duration {
	b.t.Helper()
	began, deadline := b.clock.Now(), time.Now().Add(patience)
	for !cond() {
		if time.Now().After(deadline) {
			b.t.Fatalf("it never came about: %s", what)
		}
		b.clock.Advance(step)
		for range 5 { // give those whose timers fired a chance
			time.Sleep(100 * time.Microsecond)
			if cond() {
				break
			}
		}
	}
	return b.clock.Since(began)
}

// got makes a condition of a channel: it holds when something came, which is put into v.
func got[T any](c <-chan T, v *T) func() bool {
	have := false
	return func() bool {
		if !have {
			select {
			case *v = <-c:
				have = true
			default:
			}
		}
		return have
	}
}

// asAPI is an error as clients see it: HTTP status, code and message; gRPC code and message.
func asAPI(err error) string {
	var e *api.Error
	if !errors.As(err, &e) {
		return fmt.Sprintf("not an API error: %v", err)
	}
	text := e.Message
	if e.HTTPMessage != "" {
		text = e.HTTPMessage + " | " + e.Message
	}
	return fmt.Sprintf("%d %s %s: %s", e.HTTP, e.Code, e.GRPC, text)
}

// halting runs Halt in the background.
func (b *bench) halting(stays func(actorType, id string) bool) <-chan struct{} {
	done := make(chan struct{})
	go func() {
		defer close(done)
		b.Halt(context.Background(), stays)
	}()
	return done
}
