package actors

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jonboulle/clockwork"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"outrigger.dev/api"
	internalsv1 "outrigger.dev/api/gen/internals/v1"
	"outrigger.dev/invocation"
	"outrigger.dev/mesh"
	"outrigger.dev/mesh/placement"
	"outrigger.dev/resiliency"
)

// world is some sidecars that host the same types, and the table that says who has which actor.
type world struct {
	mu      sync.Mutex
	nodes   []*node
	salt    uint64
	moving  func(a address) bool // nil: nothing
	changed chan struct{}

	// inside is the chain in each actor, wherever it is.
	insideMu sync.Mutex
	inside   map[address]*occupants
	failed   atomic.Bool
	t        *testing.T
	// turns is how many there were.
	turns atomic.Int64
}

type occupants struct {
	chain string
	n     int
}

// node is a sidecar and its app.
type node struct {
	world   *world
	index   int
	runtime *Runtime
}

func (w *world) owner(a address, salt uint64) int {
	h := salt
	for _, c := range a.actorType + a.id {
		h = (h ^ uint64(c)) * 1099511628211
	}
	return int(h>>17) % len(w.nodes)
}

func (n *node) Lookup(ctx context.Context, actorType, id string) (placement.Owner, error) {
	w, a := n.world, address{actorType, id}
	for {
		w.mu.Lock()
		changed, waits, at := w.changed, w.moving != nil && w.moving(a), w.owner(a, w.salt)
		w.mu.Unlock()
		if !waits {
			return placement.Owner{Address: fmt.Sprint(at), Local: at == n.index}, nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return placement.Owner{}, ctx.Err()
		}
	}
}

func (n *node) IsLocal(actorType, id string) bool {
	w, a := n.world, address{actorType, id}
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.owner(a, w.salt) == n.index && (w.moving == nil || !w.moving(a))
}

func (n *node) Changed() <-chan struct{} {
	n.world.mu.Lock()
	defer n.world.mu.Unlock()
	return n.world.changed
}

func (n *node) Advertise([]string) {}
func (n *node) Connected() bool    { return true }

func (n *node) peer(target mesh.Target) *Runtime {
	var index int
	_, _ = fmt.Sscan(target.Address, &index)
	return n.world.nodes[index].runtime
}

func (n *node) CallActor(ctx context.Context, target mesh.Target, actor mesh.Actor, req *invocation.Request) (*invocation.Response, error) {
	copied := *req
	copied.Header = append(invocation.Header(nil), req.Header...)
	resp, err := n.peer(target).CallActor(ctx, actor, &copied)
	var e *api.Error
	if errors.As(err, &e) {
		err = e.GRPCStatus().Err()
	}
	return resp, err
}

func (n *node) CallActorReminder(ctx context.Context, target mesh.Target, r *internalsv1.Reminder) error {
	err := n.peer(target).CallActorReminder(ctx, r)
	if err == nil {
		return nil
	}
	if _, ok := status.FromError(err); ok {
		return err
	}
	return status.Error(codes.Unknown, err.Error())
}

// enter records that a chain is in an actor; nobody else may be.
func (w *world) enter(a address, chain string) (leave func()) {
	w.turns.Add(1)
	w.insideMu.Lock()
	defer w.insideMu.Unlock()
	o := w.inside[a]
	if o == nil {
		o = &occupants{chain: chain}
		w.inside[a] = o
	}
	if o.n > 0 && (chain == "" || o.chain != chain) && !w.failed.Swap(true) {
		w.t.Errorf("%v: chain %q is inside, and %q came in", a, o.chain, chain)
	}
	o.n++
	return func() {
		w.insideMu.Lock()
		defer w.insideMu.Unlock()
		if o.n--; o.n == 0 {
			delete(w.inside, a)
		}
	}
}

func (n *node) Invoke(ctx context.Context, call *Call) (*invocation.Response, error) {
	leave := n.world.enter(address{call.Type, call.ID}, call.ReentrancyID)
	defer leave()
	work(ctx, call.Method)
	if strings.HasPrefix(call.Method, "nest") && call.ReentrancyID != "" {
		// A sidecar with a newer table would wait for the end of a move that waits for this turn: calls of a chain come to the
		// old place only by way of the sidecar itself, or of one with an older table.
		inner := new(invocation.Request)
		inner.Header.Add(ReentrancyHeader, call.ReentrancyID)
		var err error
		if inner.Method = "short"; len(call.Method)%2 == 0 {
			_, err = n.runtime.Invoke(ctx, &Call{Type: call.Type, ID: call.ID, Method: "short", Request: inner})
		} else {
			_, err = n.runtime.CallActor(ctx, mesh.Actor{Type: call.Type, ID: call.ID}, inner)
		}
		if err != nil {
			return nil, err
		}
	}
	return answer("ok"), nil
}

// work takes a moment.
func work(ctx context.Context, method string) {
	rounds := 6
	if method == "short" {
		rounds = 2
	}
	for range rounds {
		if ctx.Err() != nil {
			return
		}
		time.Sleep(10 * time.Microsecond)
	}
}

func (n *node) Remind(ctx context.Context, r *Reminder) error {
	leave := n.world.enter(address{r.Type, r.ID}, r.ReentrancyID)
	defer leave()
	work(ctx, "")
	return nil
}

func (n *node) Deactivate(ctx context.Context, actorType, id string) error {
	leave := n.world.enter(address{actorType, id}, "deactivation")
	defer leave()
	work(ctx, "short")
	return nil
}

// rebalance installs a new table as the placement service does: UPDATE everywhere, then UNLOCK.
func (w *world) rebalance(salt uint64) {
	w.mu.Lock()
	before := w.salt
	w.salt = salt
	w.moving = func(a address) bool { return w.owner(a, before) != w.owner(a, salt) }
	w.mu.Unlock()
	var halts sync.WaitGroup
	for _, n := range w.nodes {
		halts.Go(func() {
			n.runtime.Halt(context.Background(), func(actorType, id string) bool {
				return w.owner(address{actorType, id}, salt) == n.index
			})
		})
	}
	halts.Wait()
	w.mu.Lock()
	w.moving = nil
	close(w.changed)
	w.changed = make(chan struct{})
	w.mu.Unlock()
}

// TestStress moves actors between sidecars while they are called, with reentrancy, reminders, calls that are cancelled and actors that
// are idle. At no time are two chains in one actor, anywhere, and no call is lost that nobody cancelled.
func TestStress(t *testing.T) {
	seeds, duration := 4, 700*time.Millisecond
	if testing.Short() {
		seeds = 1
	}
	for seed := range uint64(seeds) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) { stress(t, seed, duration) })
	}
}

func stress(t *testing.T, seed uint64, duration time.Duration) {
	w := &world{t: t, changed: make(chan struct{}), inside: make(map[address]*occupants)}
	var withdrawn atomic.Int64
	for i := range 3 {
		n := &node{world: w, index: i}
		n.runtime = New(Options{
			Namespace: "ns", PlacementConfigured: true, Placement: n, Peers: n,
			Resiliency: resiliency.New(resiliency.Options{Clock: quickClock{clockwork.NewRealClock()}}),
		})
		n.runtime.SetStore(true)
		w.nodes = append(w.nodes, n)
		plain, reentrant := DefaultTypeConfig(), DefaultTypeConfig()
		reentrant.Reentrant = true
		plain.IdleTimeout, reentrant.IdleTimeout = 2*time.Millisecond, 3*time.Millisecond
		if _, err := n.runtime.Register(Hosting{Host: n, Types: map[string]TypeConfig{"T": plain, "R": reentrant}}); err != nil {
			t.Fatal(err)
		}
	}
	stop := make(chan struct{})
	var callers, mover sync.WaitGroup
	var calls, lost atomic.Int64
	for c := range uint64(16) {
		callers.Go(func() {
			rng := rand.New(rand.NewPCG(seed, c))
			for {
				select {
				case <-stop:
					return
				default:
				}
				n := w.nodes[rng.IntN(3)]
				a := address{"TR"[rng.IntN(2):][:1], fmt.Sprint(rng.IntN(8))}
				ctx, cancel, impatient := context.Background(), context.CancelFunc(func() {}), rng.IntN(4) == 0
				if impatient {
					ctx, cancel = context.WithTimeout(ctx, time.Duration(rng.IntN(600))*time.Microsecond)
				}
				var err error
				switch rng.IntN(5) {
				case 0:
					err = n.runtime.Remind(ctx, &Reminder{Type: a.actorType, ID: a.id, Name: "r", Timer: rng.IntN(2) == 0})
				case 1:
					if release, ok := n.runtime.Enter(a.actorType, a.id); ok {
						release()
					}
				case 2:
					_, err = n.runtime.Invoke(ctx, &Call{Type: a.actorType, ID: a.id, Method: "nest" + strings.Repeat("x", rng.IntN(3)), Request: new(invocation.Request)})
				default:
					_, err = n.runtime.Invoke(ctx, &Call{Type: a.actorType, ID: a.id, Method: "m", Request: new(invocation.Request)})
				}
				cancel()
				calls.Add(1)
				if err != nil && !impatient {
					lost.Add(1)
					t.Errorf("a call was lost: %v", err)
				}
			}
		})
	}
	mover.Go(func() {
		rng := rand.New(rand.NewPCG(seed, 99))
		moves := 0
		for {
			select {
			case <-stop:
				if moves < 3 {
					t.Errorf("only %d moves", moves)
				}
				return
			case <-time.After(time.Duration(4000+rng.IntN(8000)) * time.Microsecond):
			}
			switch rng.IntN(4) {
			case 0: // another hosting takes a type over for a while
				n := w.nodes[rng.IntN(3)]
				c := DefaultTypeConfig()
				c.Reentrant = true
				withdraw, err := n.runtime.Register(Hosting{Host: n, Types: map[string]TypeConfig{"R": c}})
				if err != nil {
					t.Error(err)
					return
				}
				withdraw(context.Background())
				withdrawn.Add(1)
			default:
				w.rebalance(rng.Uint64())
				moves++
			}
		}
	})
	time.Sleep(duration)
	close(stop)
	ended := make(chan struct{})
	go func() {
		callers.Wait()
		mover.Wait()
		close(ended)
	}()
	select {
	case <-ended:
	case <-time.After(20 * time.Second):
		t.Fatal("a call hangs")
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	for _, n := range w.nodes {
		if err := n.runtime.Close(ctx); err != nil {
			t.Errorf("Close: %v", err)
		}
		for i := range n.runtime.shards.all {
			for a, inst := range n.runtime.shards.all[i].instances {
				t.Errorf("%v is left in phase %d", a, inst.phase)
			}
		}
	}
	t.Logf("%d calls, %d turns, %d takeovers", calls.Load(), w.turns.Load(), withdrawn.Load())
}

// quickClock makes the waits of retries short.
type quickClock struct{ clockwork.Clock }

func (c quickClock) NewTimer(d time.Duration) clockwork.Timer { return c.Clock.NewTimer(d / 50) }
