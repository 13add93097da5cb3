package inmemory

import (
	"context"
	"regexp"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/jonboulle/clockwork"

	"outrigger.dev/components"
	"outrigger.dev/components/state"
	"outrigger.dev/components/state/statetest"
)

func TestConformance(t *testing.T) {
	clock := clockwork.NewFakeClock()
	statetest.Run(t, statetest.Config{KeysInKeyOrder: true, Advance: clock.Advance}, func(t *testing.T) state.Store {
		return open(t, clock)
	})
}

func TestConformanceInRealTime(t *testing.T) {
	statetest.Run(t, statetest.Config{KeysInKeyOrder: true}, func(t *testing.T) state.Store {
		return open(t, nil)
	})
}

// open opens the store the way a sidecar does.
func open(t *testing.T, clock clockwork.Clock) state.Store {
	t.Helper()
	var r components.Registry
	Register(&r)
	d, err := r.Lookup(components.State, "IN-memory", "")
	if err != nil {
		t.Fatal(err)
	}
	s, err := d.Open(context.Background(), components.Instance{Name: "st", Clock: clock})
	if err != nil {
		t.Fatal(err)
	}
	want := []string{"ETAG", "TRANSACTIONAL", "TTL", "DELETE_WITH_PREFIX", "KEYS_LIKE", "ACTOR"}
	if got := state.Capabilities(s.(state.Store)); !slices.Equal(got, want) || !slices.Equal(d.Capabilities, want) {
		t.Errorf("capabilities %v, described as %v; want %v", got, d.Capabilities, want)
	}
	return s.(state.Store)
}

// TestPurge checks that expired items are freed without being read, once a second.
func TestPurge(t *testing.T) {
	clock := clockwork.NewFakeClock()
	s := New(clock)
	defer s.Close()
	ctx := context.Background()
	held := func() int {
		s.mu.RLock()
		defer s.mu.RUnlock()
		return len(s.items)
	}
	for round := range 2 {
		for i := range 10 {
			req := state.SetRequest{Key: strconv.Itoa(i), Metadata: map[string]string{"ttlInSeconds": "5"}}
			if i == 0 {
				req.Metadata = nil
			}
			if err := s.Set(ctx, req); err != nil {
				t.Fatal(err)
			}
		}
		waiting, cancel := context.WithTimeout(ctx, 10*time.Second)
		if err := clock.BlockUntilContext(waiting, 1); err != nil {
			t.Fatalf("round %d: the purge does not wait for the clock: %v", round, err)
		}
		cancel()
		if n := held(); n != 10 {
			t.Fatalf("round %d: %d items before expiry, want 10", round, n)
		}
		clock.Advance(5 * time.Second)
		for deadline := time.Now().Add(10 * time.Second); held() != 1; {
			if time.Now().After(deadline) {
				t.Fatalf("round %d: still %d items after expiry", round, held())
			}
			time.Sleep(time.Millisecond)
		}
	}
}

// TestMessages checks the texts that clients of the reference see.
func TestMessages(t *testing.T) {
	s := New(clockwork.NewFakeClock())
	defer s.Close()
	ctx := context.Background()
	if err := s.Set(ctx, state.SetRequest{Key: "app||k"}); err != nil {
		t.Fatal(err)
	}
	item, err := s.Get(ctx, state.GetRequest{Key: "app||k"})
	if err != nil {
		t.Fatal(err)
	}
	if !regexp.MustCompile(`^[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$`).MatchString(item.ETag) {
		t.Errorf("the etag %q is no random UUID", item.ETag)
	}
	const prefix = "possible etag mismatch. error from state store: "
	for _, c := range []struct {
		name string
		err  error
		want string
	}{
		{"etag", s.Set(ctx, state.SetRequest{Key: "app||k", ETag: "999"}), prefix + "state etag not match for key=app||k: current=" + item.ETag + ", expect=999"},
		{"delete", s.Delete(ctx, state.DeleteRequest{Key: "app||k", ETag: "x"}), prefix + "state etag not match for key=app||k: current=" + item.ETag + ", expect=x"},
		{"first-write", s.Set(ctx, state.SetRequest{Key: "app||k", Options: state.Options{Concurrency: state.FirstWrite}}), prefix + "item already exists and no etag was passed"},
		{"ttl", s.Set(ctx, state.SetRequest{Key: "app||k", Metadata: map[string]string{"ttlInSeconds": "abc"}}), `strconv.Atoi: parsing "abc": invalid syntax`},
	} {
		if c.err == nil || c.err.Error() != c.want {
			t.Errorf("%s: error %v, want %s", c.name, c.err, c.want)
		}
	}
}

// TestLayout checks that JSON keeps the HTML escapes that this store makes, and that any negative life is none.
func TestLayout(t *testing.T) {
	clock := clockwork.NewFakeClock()
	s := New(clock)
	defer s.Close()
	ctx := context.Background()
	for _, c := range []struct {
		value state.Value
		want  string
	}{
		{state.Value{Bytes: []byte(`"<a>&"`), JSON: true}, `"\u003ca\u003e\u0026"`},
		{state.Value{Bytes: []byte(`"<a>&"`)}, `"<a>&"`},
	} {
		if err := s.Set(ctx, state.SetRequest{Key: "k", Value: c.value, Metadata: map[string]string{"ttlInSeconds": "-7"}}); err != nil {
			t.Fatal(err)
		}
		clock.Advance(time.Hour)
		item, err := s.Get(ctx, state.GetRequest{Key: "k"})
		if err != nil || string(item.Data) != c.want || item.Metadata != nil {
			t.Errorf("Get = %q, %v, %v; want %q", item.Data, item.Metadata, err, c.want)
		}
	}
}

func BenchmarkGet(b *testing.B) {
	s := New(clockwork.NewRealClock())
	defer s.Close()
	ctx := context.Background()
	if err := s.Set(ctx, state.SetRequest{Key: "k", Value: state.Value{Bytes: make([]byte, 1024)}}); err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := s.Get(ctx, state.GetRequest{Key: "k"}); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkSet(b *testing.B) {
	s := New(clockwork.NewRealClock())
	defer s.Close()
	ctx := context.Background()
	req := state.SetRequest{Key: "k", Value: state.Value{Bytes: []byte(`{"a":1}`), JSON: true}}
	b.ReportAllocs()
	for b.Loop() {
		if err := s.Set(ctx, req); err != nil {
			b.Fatal(err)
		}
	}
}
