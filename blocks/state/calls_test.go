package state

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"outrigger.dev/api"
	stores "outrigger.dev/components/state"
	"outrigger.dev/resiliency"
	"outrigger.dev/resiliency/resiliencytest"
)

var errStore = errors.New("the store is sick")

// script is a store that does everything, and fails by a script: its calls of a key fail with the errors, one after the other.
type script struct {
	mu    sync.Mutex
	errs  map[string][]error
	calls map[string]int
	// hang, when not nil, makes the first call of all deaf until it is closed.
	hang chan struct{}
	held bool
}

func newScript(errs map[string][]error) *script { return &script{errs: errs, calls: map[string]int{}} }

func (s *script) call(key string) error {
	s.mu.Lock()
	n := s.calls[key]
	s.calls[key]++
	wait := s.hang != nil && !s.held
	s.held = s.held || wait
	var err error
	if n < len(s.errs[key]) {
		err = s.errs[key][n]
	}
	s.mu.Unlock()
	if wait {
		<-s.hang
	}
	return err
}

func (s *script) count(key string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.calls[key]
}

func (s *script) Get(_ context.Context, req stores.GetRequest) (stores.Item, error) {
	return stores.Item{Found: true, Data: []byte("1")}, s.call(req.Key)
}
func (s *script) Set(_ context.Context, req stores.SetRequest) error { return s.call(req.Key) }

func (s *script) Delete(_ context.Context, req stores.DeleteRequest) error { return s.call(req.Key) }

func (s *script) Transact(context.Context, stores.TransactionRequest) error { return s.call("tx") }

func (s *script) Query(context.Context, stores.Query, map[string]string) (stores.QueryResult, error) {
	return stores.QueryResult{}, s.call("query")
}
func (s *script) Close() error { return nil }

func (s *script) Queries() bool { return true }

// bulky reads in bulk.
type bulky struct{ *script }

func (s bulky) BulkGet(context.Context, []stores.GetRequest) ([]stores.BulkItem, error) {
	return nil, s.call("bulk")
}

// under makes a block whose store st has the rules.
func under(t *testing.T, store stores.Store, rules resiliencytest.Rules, outbox Outbox) *State {
	t.Helper()
	s := New(Options{AppID: "app", Outbox: outbox, Resiliency: resiliencytest.New(t, nil, "st", resiliencytest.Rules{}, rules)})
	if err := s.Add(Component{Name: "st", Store: store, Properties: map[string]string{"keyPrefix": "none"}}); err != nil {
		t.Fatal(err)
	}
	return s
}

func set(key string) stores.SetRequest { return stores.SetRequest{Key: key} }

// operations are the ways to call a store, by the key that the script knows them by.
func operations(s *State) map[string]func(context.Context) error {
	return map[string]func(context.Context) error{
		"get":    func(ctx context.Context) error { _, err := s.Get(ctx, "st", "get", "", nil); return err },
		"set":    func(ctx context.Context) error { return s.Save(ctx, "st", []stores.SetRequest{set("set")}) },
		"delete": func(ctx context.Context) error { return s.Delete(ctx, "st", stores.DeleteRequest{Key: "delete"}) },
		"many": func(ctx context.Context) error {
			return s.Save(ctx, "st", []stores.SetRequest{set("many"), set("other")})
		},
		"gone": func(ctx context.Context) error {
			return s.BulkDelete(ctx, "st", []stores.DeleteRequest{{Key: "gone"}, {Key: "other"}})
		},
		"tx": func(ctx context.Context) error {
			item := set("x")
			return s.Transact(ctx, "st", []stores.Operation{{Set: &item}}, nil)
		},
		"query": func(ctx context.Context) error { _, err := s.Query(ctx, "st", []byte(`{}`), nil); return err },
		"bulk": func(ctx context.Context) error {
			_, err := s.BulkGet(ctx, "st", []string{"a", "b"}, 0, nil)
			return err
		},
	}
}

func TestRetries(t *testing.T) {
	for _, name := range []string{"get", "set", "delete", "many", "gone", "tx", "query", "bulk"} {
		t.Run(name, func(t *testing.T) {
			store := newScript(map[string][]error{name: {errStore, errStore}})
			s := under(t, bulky{store}, resiliencytest.Rules{Retry: resiliencytest.Retries(2)}, nil)
			if err := operations(s)[name](t.Context()); err != nil || store.count(name) != 3 {
				t.Errorf("%v after %d calls", err, store.count(name))
			}
			if n := store.count("other"); n > 1 {
				t.Errorf("what did not fail was called %d times", n)
			}

			store = newScript(map[string][]error{name: {errStore, errStore, errStore}})
			s = under(t, bulky{store}, resiliencytest.Rules{Retry: resiliencytest.Retries(1)}, nil)
			err := operations(s)[name](t.Context())
			if store.count(name) != 2 || err == nil || !strings.Contains(err.Error(), errStore.Error()) || api.AsError(err).HTTP != 500 && api.AsError(err).HTTP != 400 {
				t.Errorf("exhausted: %v after %d calls", err, store.count(name))
			}
		})
	}
}

func TestRetriedReads(t *testing.T) {
	store := newScript(map[string][]error{"a": {errStore}, "b": {errStore, errStore}})
	s := under(t, store, resiliencytest.Rules{Retry: resiliencytest.Retries(1)}, nil)
	items, err := s.BulkGet(t.Context(), "st", []string{"a", "b"}, 1, nil)
	if err != nil || len(items) != 2 || items[0].Err != nil || string(items[0].Data) != "1" || items[1].Err != errStore {
		t.Errorf("%+v, %v", items, err)
	}
}

// TestETagIsAnAnswer: a wrong etag is neither retried nor a failure of the store.
func TestETagIsAnAnswer(t *testing.T) {
	etag := stores.Mismatch(nil)
	store := newScript(map[string][]error{"set": {etag, etag}, "delete": {etag}, "many": {etag}, "tx": {etag}})
	s := under(t, store, resiliencytest.Rules{Retry: resiliencytest.Retries(3), Breaker: resiliencytest.Opens("1")}, nil)
	for name, status := range map[string]int{"set": 409, "delete": 409, "many": 409, "tx": 500} {
		err := operations(s)[name](t.Context())
		if err == nil || store.count(name) != 1 || api.AsError(err).HTTP != status {
			t.Errorf("%s: %v after %d calls", name, err, store.count(name))
		}
	}
	if err := operations(s)["get"](t.Context()); err != nil {
		t.Error(err)
	}
}

func TestBreakerOpen(t *testing.T) {
	store := newScript(map[string][]error{"set": {errStore, errStore}})
	s := under(t, bulky{store}, resiliencytest.Rules{Breaker: resiliencytest.Opens("2")}, nil)
	for range 2 {
		if err := operations(s)["set"](t.Context()); err == nil || !strings.Contains(err.Error(), errStore.Error()) {
			t.Fatal(err)
		}
	}
	for name, call := range operations(s) {
		calls := store.count(name)
		if err := call(t.Context()); err == nil || !strings.Contains(err.Error(), resiliency.ErrOpen.Error()) || store.count(name) != calls {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestTimeout: a request ends without the store, which is not removed until it has noticed.
func TestTimeout(t *testing.T) {
	for _, name := range []string{"get", "set", "delete", "many", "gone", "tx", "query", "bulk"} {
		t.Run(name, func(t *testing.T) {
			store := newScript(nil)
			store.hang = make(chan struct{})
			s := under(t, bulky{store}, resiliencytest.Rules{Timeout: "20ms"}, nil)
			if err := operations(s)[name](t.Context()); err == nil || !strings.Contains(err.Error(), "context deadline exceeded") {
				t.Error(err)
			}
			ended, cancel := context.WithCancel(t.Context())
			cancel()
			if err := s.Remove(ended, "st"); !errors.Is(err, context.Canceled) {
				t.Errorf("removed a store in use: %v", err)
			}
			close(store.hang)
			if err := s.Remove(t.Context(), "st"); err != nil {
				t.Error(err)
			}
		})
	}
	store := newScript(nil)
	store.hang = make(chan struct{})
	s := under(t, store, resiliencytest.Rules{Timeout: "20ms", Retry: resiliencytest.Retries(1)}, nil)
	if err := operations(s)["set"](t.Context()); err != nil || store.count("set") != 2 {
		t.Errorf("retried: %v after %d calls", err, store.count("set"))
	}
	close(store.hang)
}

// TestMarkersAfterRetry: the markers of a transaction are kept if an earlier try may have been committed.
func TestMarkersAfterRetry(t *testing.T) {
	etag := stores.Mismatch(nil)
	for _, tc := range []struct {
		name  string
		errs  []error
		calls int // of the store, one more to delete the markers
	}{
		{"refused at once", []error{etag}, 2},
		{"refused after a failure", []error{errStore, etag}, 2},
	} {
		store := newScript(map[string][]error{"tx": tc.errs})
		s := under(t, store, resiliencytest.Rules{Retry: resiliencytest.Retries(3)}, new(recorder))
		if err := operations(s)["tx"](t.Context()); err == nil || store.count("tx") != tc.calls {
			t.Errorf("%s: %v after %d calls", tc.name, err, store.count("tx"))
		}
	}
}

// TestCancelledRetry: a client that leaves ends the waits.
func TestCancelledRetry(t *testing.T) {
	store := newScript(map[string][]error{"set": {errStore}})
	s := under(t, store, resiliencytest.Rules{Retry: resiliencytest.RetriesAfter("1h")}, nil)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- operations(s)["set"](ctx) }()
	for deadline := time.Now().Add(10 * time.Second); store.count("set") == 0; {
		if time.Now().After(deadline) {
			t.Fatal("the store was not called")
		}
		time.Sleep(time.Millisecond)
	}
	cancel()
	select {
	case err := <-done:
		if err == nil || !strings.Contains(err.Error(), context.Canceled.Error()) {
			t.Error(err)
		}
	case <-time.After(10 * time.Second):
		t.Error("the wait goes on")
	}
}
