package placement_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"outrigger.dev/app/apptest"
	service "outrigger.dev/controlplane/placement"
	"outrigger.dev/mesh/placement"
)

// startService runs a placement service and returns its address.
func startService(t *testing.T) string {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	started, done := make(chan service.Addresses, 1), make(chan error, 1)
	o := service.Options{Listen: service.Address{Host: "127.0.0.1"}, RejoinWindow: -1, Started: func(a service.Addresses) { started <- a }}
	o.Observed.Healthz = service.Address{Host: "127.0.0.1"}
	go func() { done <- service.Run(ctx, o) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("the placement service: %v", err)
		}
	})
	select {
	case a := <-started:
		return a.GRPC.String()
	case err := <-done:
		done <- nil
		t.Fatalf("the placement service ends: %v", err)
	case <-time.After(20 * time.Second):
		t.Fatal("the placement service does not start")
	}
	return ""
}

// referee sees to it that an actor has turns at one sidecar at a time.
type referee struct {
	t      *testing.T
	mu     sync.Mutex
	holder map[string]*sidecar
	turns  atomic.Int64
	moves  atomic.Int64
}

// sidecar is an actor runtime that does nothing but keep the rules.
type sidecar struct {
	name    string
	referee *referee
	client  *placement.Client
	stop    func()

	mu      sync.Mutex
	active  map[string]bool
	running map[string]int
	idle    *sync.Cond
	settled chan []string
}

func (s *sidecar) Halt(_ context.Context, stays func(actorType, id string) bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for id := range s.active {
		if stays != nil && stays("T", id) {
			continue
		}
		for s.running[id] > 0 {
			s.idle.Wait()
		}
		delete(s.active, id)
		s.referee.mu.Lock()
		delete(s.referee.holder, id)
		s.referee.mu.Unlock()
	}
}

func (s *sidecar) Settled(types []string) {
	select {
	case <-s.settled:
	default:
	}
	s.settled <- types
}

// turn is a turn of an actor that was found to be local.
func (s *sidecar) turn(id string) {
	s.mu.Lock()
	if !s.client.IsLocal("T", id) {
		s.mu.Unlock()
		return
	}
	s.running[id]++
	r := s.referee
	r.mu.Lock()
	if other := r.holder[id]; other != nil && other != s {
		r.t.Errorf("%s is active at %s and at %s", id, other.name, s.name)
	}
	if r.holder[id] != s {
		r.moves.Add(1)
	}
	r.holder[id] = s
	r.mu.Unlock()
	s.active[id] = true
	s.mu.Unlock()
	r.turns.Add(1)
	s.mu.Lock()
	if s.running[id]--; s.running[id] == 0 {
		s.idle.Broadcast()
	}
	s.mu.Unlock()
}

func (r *referee) start(address, name string, types ...string) *sidecar {
	s := &sidecar{name: name, referee: r, active: map[string]bool{}, running: map[string]int{}, settled: make(chan []string, 1)}
	s.idle = sync.NewCond(&s.mu)
	s.client = placement.New(placement.Options{Addresses: []string{address}, HostName: name, AppID: "app", Namespace: "default", Hooks: s})
	s.client.Advertise(types)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.client.Run(ctx) }()
	s.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			r.t.Errorf("%s: %v", name, err)
		}
	})
	r.t.Cleanup(s.stop)
	return s
}

func within(t *testing.T, d time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), d)
	t.Cleanup(cancel)
	return ctx
}

// TestService lets sidecars come, go and change their minds at a real placement service, while everybody calls actors.
func TestService(t *testing.T) {
	address := startService(t)
	r := &referee{t: t, holder: map[string]*sidecar{}}
	var mu sync.Mutex
	sidecars := map[int]*sidecar{}
	next := 0
	add := func(types ...string) {
		next++
		s := r.start(address, fmt.Sprintf("10.0.0.%d:50002", next), types...)
		select {
		case <-s.client.Ready():
		case <-time.After(20 * time.Second):
			t.Fatalf("%s is not ready", s.name)
		}
		mu.Lock()
		sidecars[next] = s
		mu.Unlock()
	}
	add("T")
	add()
	add("T", "U")
	random := rand.New(rand.NewPCG(1, 1))
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	var callers sync.WaitGroup
	for n := range 4 {
		callers.Go(func() {
			random := rand.New(rand.NewPCG(2, uint64(n)))
			for ctx.Err() == nil {
				mu.Lock()
				var all []*sidecar
				for _, s := range sidecars {
					all = append(all, s)
				}
				mu.Unlock()
				s, id := all[random.IntN(len(all))], fmt.Sprint(random.IntN(30))
				bound, cancel := context.WithTimeout(ctx, 100*time.Millisecond)
				owner, err := s.client.Lookup(bound, "T", id)
				cancel()
				if err == nil && owner.Local {
					s.turn(id)
				}
			}
		})
	}
	for range 40 {
		mu.Lock()
		var keys []int
		for key := range sidecars {
			keys = append(keys, key)
		}
		slices.Sort(keys)
		key := keys[random.IntN(len(keys))]
		s := sidecars[key]
		mu.Unlock()
		switch n := random.IntN(4); {
		case n == 0 && len(keys) < 6:
			add("T")
		case n == 1 && len(keys) > 2:
			mu.Lock()
			delete(sidecars, key)
			mu.Unlock()
			s.stop()
		case n == 2:
			s.client.Advertise(nil)
		default:
			s.client.Advertise([]string{"T"})
		}
		before := r.turns.Load()
		for deadline := time.Now().Add(50 * time.Millisecond); r.turns.Load() < before+50 && time.Now().Before(deadline); {
			time.Sleep(time.Millisecond)
		}
	}
	cancel()
	callers.Wait()
	// In the end everybody agrees.
	for _, s := range sidecars {
		s.client.Advertise([]string{"T"})
	}
	for _, s := range sidecars {
		for deadline := time.Now().Add(20 * time.Second); ; {
			select {
			case types := <-s.settled:
				if slices.Equal(types, []string{"T"}) {
					s.settled <- types
				}
			default:
			}
			agreed := true
			for id := range 30 {
				owner, err := s.client.Lookup(within(t, 20*time.Second), "T", fmt.Sprint(id))
				for _, other := range sidecars {
					theirs, err2 := other.client.Lookup(within(t, 20*time.Second), "T", fmt.Sprint(id))
					agreed = agreed && err == nil && err2 == nil && owner.Address == theirs.Address && owner.AppID == "app"
				}
			}
			if agreed {
				break
			}
			if time.Now().After(deadline) {
				t.Fatal("the sidecars do not agree")
			}
		}
	}
	t.Logf("%d turns, %d activations", r.turns.Load(), r.moves.Load())
	if r.turns.Load() < 500 || r.moves.Load() < 50 {
		t.Error("too little has happened")
	}
}

// TestServiceIsLost: the service goes away and comes back, and look-ups wait for it.
func TestServiceIsLost(t *testing.T) {
	address := startService(t)
	var proxied atomic.Bool
	var mu sync.Mutex
	var conns []net.Conn
	proxied.Store(true)
	s := &sidecar{name: "a:1", referee: &referee{t: t, holder: map[string]*sidecar{}}, active: map[string]bool{}, running: map[string]int{}, settled: make(chan []string, 1)}
	s.idle = sync.NewCond(&s.mu)
	s.client = placement.New(placement.Options{
		Addresses: []string{"placement:1"}, HostName: "a:1", AppID: "app", Namespace: "default", Hooks: s,
		Dial: func(ctx context.Context, _ string) (net.Conn, error) {
			if !proxied.Load() {
				return nil, net.ErrClosed
			}
			c, err := (&net.Dialer{}).DialContext(ctx, "tcp", address)
			if err == nil {
				mu.Lock()
				conns = append(conns, c)
				mu.Unlock()
			}
			return c, err
		},
	})
	s.client.Advertise([]string{"T"})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.client.Run(ctx) }()
	defer func() { cancel(); <-done }()
	if owner, err := s.client.Lookup(within(t, 20*time.Second), "T", "1"); err != nil || !owner.Local {
		t.Fatalf("%v, %v", owner, err)
	}
	proxied.Store(false)
	mu.Lock()
	for _, c := range conns {
		_ = c.Close()
	}
	mu.Unlock()
	apptest.Until(t, "the loss is noticed", func() bool { return !s.client.Connected() })
	if s.client.IsLocal("T", "1") {
		t.Error("an actor is local without a stream")
	}
	waiting := make(chan error, 1)
	go func() {
		_, err := s.client.Lookup(within(t, 20*time.Second), "T", "1")
		waiting <- err
	}()
	proxied.Store(true)
	if err := <-waiting; err != nil || !s.client.IsLocal("T", "1") || !s.client.Connected() {
		t.Errorf("after the service is back: %v", err)
	}
}
