package state

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"

	"github.com/jonboulle/clockwork"

	"outrigger.dev/api"
	"outrigger.dev/api/apitest"
	stores "outrigger.dev/components/state"
	"outrigger.dev/components/state/inmemory"
)

// newState makes a block with a store in memory called st.
func newState(t testing.TB, properties map[string]string) (*State, *inmemory.Store) {
	t.Helper()
	store := inmemory.New(clockwork.NewRealClock())
	t.Cleanup(func() {
		if err := store.Close(); err != nil {
			t.Error(err)
		}
	})
	return withStore(t, Component{Name: "st", Store: store, Properties: properties}), store
}

func withStore(t testing.TB, c Component) *State {
	t.Helper()
	s := New(Options{AppID: "app", Namespace: "ns"})
	if err := s.Add(c); err != nil {
		t.Fatal(err)
	}
	return s
}

// plain is a store that can do nothing but what every store must, and fails where it is told to.
type plain struct {
	mu       sync.Mutex
	items    map[string]stores.Item
	failures map[string]error
	gets     []stores.GetRequest
	sets     []stores.SetRequest
	deletes  []stores.DeleteRequest
	// running and most count concurrent calls; hold, when set, keeps reads until it is closed.
	running, most int
	entered       chan struct{}
	hold          chan struct{}
}

var _ stores.Store = (*plain)(nil)

func newPlain() *plain { return &plain{items: map[string]stores.Item{}, failures: map[string]error{}} }

func (p *plain) Get(_ context.Context, req stores.GetRequest) (stores.Item, error) {
	p.mu.Lock()
	p.gets = append(p.gets, req)
	p.running++
	p.most = max(p.most, p.running)
	item, err := p.items[req.Key], p.failures[req.Key]
	p.mu.Unlock()
	if p.hold != nil {
		p.entered <- struct{}{}
		<-p.hold
	}
	p.mu.Lock()
	p.running--
	p.mu.Unlock()
	if strings.HasSuffix(req.Key, "panic") {
		panic("boom")
	}
	return item, err
}

func (p *plain) Set(_ context.Context, req stores.SetRequest) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.sets = append(p.sets, req)
	if err := p.failures[req.Key]; err != nil {
		return err
	}
	p.items[req.Key] = stores.Item{Found: true, Data: req.Value.Bytes}
	return nil
}

func (p *plain) Delete(_ context.Context, req stores.DeleteRequest) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.deletes = append(p.deletes, req)
	delete(p.items, req.Key)
	return p.failures[req.Key]
}

func (p *plain) Close() error { return nil }

// limited is a store whose transactions take two operations, and which answers queries.
type limited struct {
	*plain
	transactions []stores.TransactionRequest
	result       stores.QueryResult
	failure      error
}

func (l *limited) Transact(_ context.Context, req stores.TransactionRequest) error {
	l.transactions = append(l.transactions, req)
	return l.failure
}

func (l *limited) MaxOperations() int { return 2 }
func (l *limited) Queries() bool      { return true }

func (l *limited) Query(context.Context, stores.Query, map[string]string) (stores.QueryResult, error) {
	return l.result, l.failure
}

// expect is a request and what is to come of it.
type expect struct {
	name, method, target, body string
	headers                    []string
	status                     int
	want                       string
}

func (e expect) check(t *testing.T, r apitest.Router) apitest.Reply {
	t.Helper()
	got := r.Do(e.method, e.target, e.body, e.headers...)
	if got.Status != e.status || string(got.Body) != e.want {
		t.Errorf("%s %s %s\n got %d %s\nwant %d %s", e.method, e.target, e.body, got.Status, got.Body, e.status, e.want)
	}
	return got
}

func TestKeyPrefix(t *testing.T) {
	full, bare, none := Options{AppID: "App", Namespace: "Ns"}, Options{AppID: "App"}, Options{Namespace: "Ns"}
	for _, tc := range []struct {
		o    Options
		item string
		want string
	}{
		{full, "-", "App||"},
		{full, "", "App||"},
		{full, "appid", "App||"},
		{full, "AppID", "App||"},
		{none, "appid", ""},
		{full, "name", "St||"},
		{none, "NAME", "St||"},
		{full, "namespace", "Ns.App||"},
		{bare, "namespace", "App||"},
		{none, "namespace", ""},
		{full, "none", ""},
		{full, "MyApp", "myapp||"},
		{none, "x|y", "x|y||"},
	} {
		properties := map[string]string{"KEYprefix": tc.item, "other": "x"}
		if tc.item == "-" {
			properties = nil
		}
		got, err := keyPrefix(tc.o, "St", properties)
		if err != nil || got != tc.want {
			t.Errorf("%+v with %q: %q, %v; want %q", tc.o, tc.item, got, err, tc.want)
		}
	}
	err := New(full).Add(Component{Name: "St", Store: newPlain(), Properties: map[string]string{"keyPrefix": "a||b"}})
	if err == nil || !strings.Contains(err.Error(), "input key/keyPrefix 'a||b' can't contain '||'") || !strings.Contains(err.Error(), "St") {
		t.Errorf("a||b: %v", err)
	}
}

func TestReverseMapping(t *testing.T) {
	for stored, want := range map[string]string{"k": "k", "": "", "app||k": "k", "app||type||id||k": "type", "other||k": "k", "||k": "k"} {
		if got := foreignKey(stored); got != want {
			t.Errorf("%q: %q, want %q", stored, got, want)
		}
	}
}

func TestRemoveWaitsForReads(t *testing.T) {
	p := newPlain()
	p.hold, p.entered = make(chan struct{}), make(chan struct{}, 1)
	s := withStore(t, Component{Name: "st", Store: p})
	read := make(chan error, 1)
	go func() {
		_, err := s.Get(context.Background(), "st", "k", "", nil)
		read <- err
	}()
	<-p.entered
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	if err := s.Remove(gone, "st"); !errors.Is(err, context.Canceled) {
		t.Errorf("removed a store in use: %v", err)
	}
	var e *api.Error
	if _, err := s.Get(t.Context(), "st", "k", "", nil); !errors.As(err, &e) || e.Code != "ERR_STATE_STORE_NOT_CONFIGURED" {
		t.Errorf("read of a removed store: %v", err)
	}
	close(p.hold)
	if err := <-read; err != nil {
		t.Errorf("the running read failed: %v", err)
	}
	if err := s.Add(Component{Name: "st", Store: newPlain()}); err != nil {
		t.Errorf("the name is not free again: %v", err)
	}
	if err := s.Add(Component{Name: "st", Store: newPlain()}); err == nil {
		t.Error("the name was taken twice")
	}
}

func TestParallelism(t *testing.T) {
	for _, tc := range []struct{ keys, parallelism, want int }{{10, 3, 3}, {5, 0, 5}, {100, -1, defaultParallelism}, {400, 1000, maxParallelism}, {4, 1, 1}} {
		p := newPlain()
		p.hold, p.entered = make(chan struct{}), make(chan struct{}, tc.keys)
		s := withStore(t, Component{Name: "st", Store: p})
		keys := make([]string, tc.keys)
		for i := range keys {
			keys[i] = strings.Repeat("k", i+1)
		}
		done := make(chan []stores.BulkItem)
		go func() {
			items, err := s.BulkGet(context.Background(), "st", keys, tc.parallelism, nil)
			if err != nil {
				t.Error(err)
			}
			done <- items
		}()
		for range tc.want {
			<-p.entered
		}
		close(p.hold)
		items := <-done
		if p.most != tc.want {
			t.Errorf("%d keys, parallelism %d: %d at a time, want %d", tc.keys, tc.parallelism, p.most, tc.want)
		}
		for i := range items {
			if items[i].Key != keys[i] {
				t.Errorf("item %d has key %q", i, items[i].Key)
			}
		}
	}
}

func TestJoined(t *testing.T) {
	broken, mismatch, invalid := errors.New("broken"), stores.Mismatch(errors.New("m")), stores.Invalid(errors.New("i"))
	for _, tc := range []struct {
		name   string
		errs   []error
		text   string
		status int
	}{
		{"none", []error{nil, nil}, "", 0},
		{"one plain", []error{nil, broken}, "broken", 500},
		{"mismatches", []error{mismatch, nil, mismatch}, "possible etag mismatch. error from state store: possible etag mismatch. error from state store: m\npossible etag mismatch. error from state store: m", 409},
		{"all etags, one invalid", []error{mismatch, invalid}, "invalid etag value: possible etag mismatch. error from state store: m\ninvalid etag value: i", 400},
		{"mixed, mismatch first", []error{broken, mismatch, invalid}, "broken\npossible etag mismatch. error from state store: m\ninvalid etag value: i", 409},
		{"mixed, invalid first", []error{invalid, mismatch, broken}, "invalid etag value: i\npossible etag mismatch. error from state store: m\nbroken", 400},
	} {
		err := joined(tc.errs)
		if tc.text == "" {
			if err != nil {
				t.Errorf("%s: %v", tc.name, err)
			}
			continue
		}
		if err == nil || err.Error() != tc.text {
			t.Errorf("%s: %q", tc.name, err)
		}
		if got := withETag(api.ErrStateSave("st", err), err).HTTP; got != tc.status {
			t.Errorf("%s: status %d, want %d", tc.name, got, tc.status)
		}
	}
}
