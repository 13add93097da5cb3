package actors

import (
	"context"
	"errors"
	"log/slog"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/jonboulle/clockwork"

	"outrigger.dev/components"
	stores "outrigger.dev/components/state"
	"outrigger.dev/components/state/inmemory"
	"outrigger.dev/components/state/sqlite"
	"outrigger.dev/resiliency/resiliencytest"
)

// stateStores are the stores that the state of actors is tested with.
func stateStores(t *testing.T, clock clockwork.Clock) map[string]stores.Store {
	t.Helper()
	var r components.Registry
	sqlite.Register(&r)
	descriptor, err := r.Lookup(components.State, "sqlite", "")
	if err != nil {
		t.Fatal(err)
	}
	c, err := descriptor.Open(t.Context(), components.Instance{
		Name: "db", Clock: clock, Log: slog.New(slog.DiscardHandler),
		Properties: map[string]string{"connectionString": filepath.Join(t.TempDir(), "actors.db")},
	})
	if err != nil {
		t.Fatal(err)
	}
	db := c.(*sqlite.Store)
	t.Cleanup(func() {
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	})
	return map[string]stores.Store{"in-memory": inmemory.New(clock), "sqlite": db}
}

func newState(t *testing.T, o StateOptions, store stores.Store) *State {
	t.Helper()
	o.AppID = "shop"
	s := NewState(o)
	if store != nil {
		if err := s.SetStore(t.Context(), "store", store); err != nil {
			t.Fatal(err)
		}
	}
	return s
}

func set(key, json string) stores.Operation {
	return stores.Operation{Set: &stores.SetRequest{Key: key, Value: stores.Value{Bytes: []byte(json), JSON: true}}}
}

func del(key string) stores.Operation {
	return stores.Operation{Delete: &stores.DeleteRequest{Key: key}}
}

func TestActorState(t *testing.T) {
	for name, store := range stateStores(t, clockwork.NewRealClock()) {
		t.Run(name, func(t *testing.T) {
			core := newCore()
			s := newState(t, StateOptions{Core: core}, store)
			ctx := t.Context()
			if err := s.Transact(ctx, "cart", "1", []stores.Operation{set("a", `{"n":9007199254740993}`), set("b", `"x"`)}); err != nil {
				t.Fatal(err)
			}
			if err := s.Transact(ctx, "cart", "1", []stores.Operation{del("b"), del("never")}); err != nil {
				t.Fatal(err)
			}
			if err := s.Transact(ctx, "cart", "1", nil); err != nil {
				t.Errorf("no operations: %v", err)
			}
			item, err := s.Get(ctx, "cart", "1", "a")
			if err != nil || string(item.Data) != `{"n":9007199254740993}` {
				t.Errorf("got %q, %v", item.Data, err)
			}
			if item, err = s.Get(ctx, "cart", "1", "b"); err != nil || item.Found {
				t.Errorf("deleted: %+v, %v", item, err)
			}
			if item, err := store.Get(ctx, stores.GetRequest{Key: "shop||cart||1||a"}); err != nil || !item.Found {
				t.Errorf("not under the key of the Dapr API: %+v, %v", item, err)
			}
			if core.held() != 0 {
				t.Error("claims stay")
			}
			bad := set("a", "1")
			bad.Set.ETag = "1x"
			if err := s.Transact(ctx, "cart", "1", []stores.Operation{set("c", "1"), bad}); !strings.HasPrefix(code(err), "ERR_ACTOR_STATE_TRANSACTION_SAVE: error saving actor transaction state: ") {
				t.Errorf("wrong etag: %v", err)
			}
			if item, _ := s.Get(ctx, "cart", "1", "c"); item.Found {
				t.Error("half of a transaction was written")
			}
		})
	}
}

// recorder is a store that shows its requests.
type recorder struct {
	*inmemory.Store
	limit  int
	get    stores.GetRequest
	tx     stores.TransactionRequest
	during func(ctx context.Context) error
}

func (r *recorder) Get(ctx context.Context, req stores.GetRequest) (stores.Item, error) {
	r.get = req
	if r.during != nil {
		if err := r.during(ctx); err != nil {
			return stores.Item{}, err
		}
	}
	return r.Store.Get(ctx, req)
}

func (r *recorder) Transact(ctx context.Context, req stores.TransactionRequest) error {
	r.tx = req
	if r.during != nil {
		if err := r.during(ctx); err != nil {
			return err
		}
	}
	return r.Store.Transact(ctx, req)
}

func (r *recorder) MaxOperations() int { return r.limit }

func TestActorStateRequests(t *testing.T) {
	core := newCore()
	r := &recorder{Store: inmemory.New(clockwork.NewRealClock())}
	s := newState(t, StateOptions{Core: core}, r)
	if _, err := s.Get(t.Context(), "cart", "1", "k"); err != nil {
		t.Fatal(err)
	}
	if r.get.Metadata["partitionKey"] != "shop||cart||1" || r.get.Key != "shop||cart||1||k" {
		t.Errorf("read %+v", r.get)
	}
	r.during = func(context.Context) error {
		if core.held() != 1 {
			t.Error("the actor is not held while its state is written")
		}
		return nil
	}
	if err := s.Transact(t.Context(), "cart", "1", []stores.Operation{set("k", "1")}); err != nil {
		t.Fatal(err)
	}
	if r.tx.Metadata["partitionKey"] != "shop||cart||1" {
		t.Errorf("wrote %+v", r.tx)
	}
}

// plain is a store without abilities.
type plainStore struct{ stores.Store }

func TestActorStateRefusals(t *testing.T) {
	memory := func() stores.Store { return inmemory.New(clockwork.NewRealClock()) }
	ttl := set("k", "1")
	ttl.Set.Metadata = map[string]string{"ttlInSeconds": "10"}
	const save = "ERR_ACTOR_STATE_TRANSACTION_SAVE: error saving actor transaction state: "
	for name, tc := range map[string]struct {
		store      stores.Store
		id         string
		operations []stores.Operation
		get, write string
	}{
		"no store":      {nil, "1", nil, "ERR_ACTOR_RUNTIME_NOT_FOUND: ", "ERR_ACTOR_RUNTIME_NOT_FOUND: "},
		"unfit store":   {plainStore{memory()}, "1", nil, "ERR_ACTOR_STATE_GET: error getting actor state: actors: state store does not exist or incorrectly", save + "actors: state store does not exist"},
		"inactive":      {memory(), "2", nil, "", "ERR_ACTOR_INSTANCE_MISSING: actor instance is missing"},
		"no key":        {memory(), "1", []stores.Operation{set("", "1")}, "", save + "missing key"},
		"no delete key": {memory(), "1", []stores.Operation{del("")}, "", save + "missing key"},
		"ttl":           {memory(), "1", []stores.Operation{ttl}, "", save + `ttlInSeconds is not supported without the "ActorStateTTL" feature enabled`},
		"too many":      {&recorder{Store: inmemory.New(clockwork.NewRealClock()), limit: 1}, "1", []stores.Operation{set("a", "1"), set("b", "1")}, "", save + "the transaction contains more operations than supported by the state store"},
		"failing": {
			&recorder{Store: inmemory.New(clockwork.NewRealClock()), during: func(context.Context) error { return errors.New("broken pipe") }}, "1", nil,
			"ERR_ACTOR_STATE_GET: error getting actor state: broken pipe", save + "broken pipe",
		},
	} {
		t.Run(name, func(t *testing.T) {
			core := newCore()
			s := newState(t, StateOptions{Core: core}, tc.store)
			_, err := s.Get(t.Context(), "cart", tc.id, "k")
			if got := code(err); !strings.HasPrefix(got, tc.get) || (got == "") != (tc.get == "") {
				t.Errorf("reading: %q, want %q", got, tc.get)
			}
			if got := code(s.Transact(t.Context(), "cart", tc.id, tc.operations)); !strings.HasPrefix(got, tc.write) {
				t.Errorf("writing: %q, want %q", got, tc.write)
			}
			if core.held() != 0 {
				t.Error("claims stay")
			}
		})
	}
}

func TestActorStateTTL(t *testing.T) {
	clock := clockwork.NewFakeClockAt(time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC))
	s := newState(t, StateOptions{Core: newCore(), TTL: true}, inmemory.New(clock))
	o := set("k", "1")
	o.Set.Metadata = map[string]string{"ttlInSeconds": "10"}
	if err := s.Transact(t.Context(), "cart", "1", []stores.Operation{o}); err != nil {
		t.Fatal(err)
	}
	item, err := s.Get(t.Context(), "cart", "1", "k")
	if err != nil || item.Metadata["ttlExpireTime"] != "2030-01-01T00:00:10Z" {
		t.Errorf("got %+v, %v", item, err)
	}
	clock.Advance(11 * time.Second)
	if item, err := s.Get(t.Context(), "cart", "1", "k"); err != nil || item.Found {
		t.Errorf("expired: %+v, %v", item, err)
	}
}

func TestActorStateWaitsForMoves(t *testing.T) {
	core := newCore()
	settled := make(chan struct{})
	var waited []string
	s := newState(t, StateOptions{Core: core, Settle: func(ctx context.Context, actorType, id string) error {
		waited = append(waited, actorType+"/"+id)
		select {
		case <-settled:
			return errors.New("nobody hosts it")
		case <-ctx.Done():
			return ctx.Err()
		}
	}}, inmemory.New(clockwork.NewRealClock()))
	if _, err := s.Get(t.Context(), "cart", "1", "k"); err != nil {
		t.Errorf("an actor that is here: %v", err)
	}
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := s.Get(gone, "cart", "2", "k"); code(err) != "ERR_ACTOR_STATE_GET: error getting actor state: context canceled" {
		t.Errorf("got %v", err)
	}
	close(settled)
	if _, err := s.Get(t.Context(), "cart", "2", "k"); err != nil {
		t.Errorf("got %v", err)
	}
	if strings.Join(waited, " ") != "cart/2 cart/2" {
		t.Errorf("waited for %q", waited)
	}
}

func TestActorStoreReplaced(t *testing.T) {
	clock := clockwork.NewRealClock()
	inside, leave := make(chan struct{}), make(chan struct{})
	slow := &recorder{Store: inmemory.New(clock), during: func(context.Context) error {
		close(inside)
		<-leave
		return nil
	}}
	s := newState(t, StateOptions{Core: newCore()}, slow)
	if err := s.SetStore(t.Context(), "other", inmemory.New(clock)); err == nil || err.Error() != "detected duplicate actor state store: store and other" {
		t.Errorf("a second one: %v", err)
	}
	done := make(chan error)
	go func() { done <- s.Transact(t.Context(), "cart", "1", []stores.Operation{set("k", "1")}) }()
	<-inside
	short, cancel := context.WithCancel(t.Context())
	cancel()
	if err := s.RemoveStore(short, "store"); !errors.Is(err, context.Canceled) {
		t.Errorf("removing what is in use: %v", err)
	}
	if s.Store() != "" {
		t.Error("it is still there")
	}
	fresh := inmemory.New(clock)
	if err := s.SetStore(t.Context(), "store", fresh); err != nil || s.Store() != "store" {
		t.Errorf("%q, %v", s.Store(), err)
	}
	if err := s.Transact(t.Context(), "cart", "1", []stores.Operation{set("k", "2")}); err != nil {
		t.Errorf("the new one: %v", err)
	}
	replaced := make(chan error)
	next := inmemory.New(clock)
	go func() { replaced <- s.SetStore(t.Context(), "store", next) }() // nobody uses the old one
	if err := <-replaced; err != nil {
		t.Error(err)
	}
	close(leave)
	if err := <-done; err != nil {
		t.Errorf("the call of the old one: %v", err)
	}
	if err := s.RemoveStore(t.Context(), "unknown"); err != nil || s.Store() != "store" {
		t.Errorf("%q, %v", s.Store(), err)
	}
	if err := s.RemoveStore(t.Context(), "store"); err != nil || s.Store() != "" {
		t.Errorf("%q, %v", s.Store(), err)
	}
}

// Who takes a store out when there is no time left is only told so when it is in use.
func TestActorStoreRemovedTooLate(t *testing.T) {
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	for range 50 { // a choice by chance would be wrong in some of them
		s := newState(t, StateOptions{Core: newCore()}, inmemory.New(clockwork.NewRealClock()))
		if err := s.RemoveStore(ended, "store"); err != nil || s.Store() != "" {
			t.Fatalf("%q, %v", s.Store(), err)
		}
	}
}

// A try that was given up may still write: the actor and the store are held until it has ended.
func TestActorStateHeldBeyondTimeout(t *testing.T) {
	inside, leave := make(chan struct{}), make(chan struct{})
	slow := &recorder{Store: inmemory.New(clockwork.NewRealClock()), during: func(context.Context) error {
		close(inside)
		<-leave
		return nil
	}}
	core := newCore()
	engine := resiliencytest.New(t, nil, "store", resiliencytest.Rules{}, resiliencytest.Rules{Timeout: "20ms"})
	s := newState(t, StateOptions{Core: core, Resiliency: engine}, slow)
	err := s.Transact(t.Context(), "cart", "1", []stores.Operation{set("k", "1")})
	<-inside
	if !errors.Is(err, context.DeadlineExceeded) || !strings.HasPrefix(code(err), "ERR_ACTOR_STATE_TRANSACTION_SAVE") {
		t.Errorf("got %v", err)
	}
	if core.held() != 1 {
		t.Error("the actor may move while its state is being written")
	}
	short, cancel := context.WithCancel(t.Context())
	cancel()
	if err := s.RemoveStore(short, "store"); err == nil {
		t.Error("the store may be closed while it is written to")
	}
	close(leave)
	eventually(t, "the actor is let go", func() bool { return core.held() == 0 })
}

// TestStateWaitsForItsStore replaces the store by a later version of itself: calls in between wait for that, and fail if it does not come.
func TestStateWaitsForItsStore(t *testing.T) {
	for _, comes := range []bool{true, false} {
		s := NewState(StateOptions{AppID: "app"})
		if err := s.SetStore(t.Context(), "store", &noStore{}); err != nil {
			t.Fatal(err)
		}
		if err := s.HoldStore(t.Context(), "store"); err != nil {
			t.Fatal(err)
		}
		ended := make(chan error, 1)
		go func() {
			in, err := s.use(t.Context())
			if err == nil {
				s.done(in)
			}
			ended <- err
		}()
		short, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
		if _, err := s.use(short); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("a call that does not wait for long: %v", err)
		}
		cancel()
		if comes {
			if err := s.SetStore(t.Context(), "store", &noStore{}); err != nil {
				t.Fatal(err)
			}
		}
		if there := s.Release(); there != comes {
			t.Errorf("Release is %t, want %t", there, comes)
		}
		if err := <-ended; (err == nil) != comes {
			t.Errorf("the store comes: %t; the call: %v", comes, err)
		}
		if !s.Release() {
			t.Error("with nothing on hold Release is false")
		}
	}
}

// noStore is a store that nobody calls.
type noStore struct{ stores.Store }
