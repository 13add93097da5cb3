package secrets

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"

	"outrigger.dev/resiliency"
	"outrigger.dev/resiliency/resiliencytest"
)

var errStore = errors.New("the store is sick")

// flaky is a store whose first calls fail, or, with hang, are deaf until it is closed.
type flaky struct {
	mu              sync.Mutex
	calls, failures int
	hang            chan struct{}
}

func (f *flaky) call() error {
	f.mu.Lock()
	f.calls++
	fails := f.calls <= f.failures
	f.mu.Unlock()
	switch {
	case !fails:
		return nil
	case f.hang != nil:
		<-f.hang
		return nil
	}
	return errStore
}

func (f *flaky) count() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.calls
}

func (f *flaky) Get(context.Context, string, map[string]string) (map[string]string, error) {
	return map[string]string{"a": "1"}, f.call()
}

func (f *flaky) BulkGet(context.Context, map[string]string) (map[string]map[string]string, error) {
	return map[string]map[string]string{"a": {"a": "1"}}, f.call()
}
func (f *flaky) Close() error { return nil }

func TestPolicies(t *testing.T) {
	for _, tc := range []struct {
		name     string
		rules    resiliencytest.Rules
		failures int
		hang     bool
		calls    int
		err      string
	}{
		{"no policy", resiliencytest.Rules{}, 1, false, 1, errStore.Error()},
		{"retried", resiliencytest.Rules{Retry: resiliencytest.Retries(2)}, 2, false, 3, ""},
		{"exhausted", resiliencytest.Rules{Retry: resiliencytest.Retries(1)}, 2, false, 2, errStore.Error()},
		{"breaker open", resiliencytest.Rules{Retry: resiliencytest.Retries(5), Breaker: resiliencytest.Opens("2")}, 5, false, 2, resiliency.ErrOpen.Error()},
		{"timeout", resiliencytest.Rules{Timeout: "20ms"}, 1, true, 1, "context deadline exceeded"},
		{"timeout retried", resiliencytest.Rules{Timeout: "20ms", Retry: resiliencytest.Retries(1)}, 1, true, 2, ""},
	} {
		for _, bulk := range []bool{false, true} {
			t.Run(tc.name, func(t *testing.T) {
				store := &flaky{failures: tc.failures}
				if tc.hang {
					store.hang = make(chan struct{})
				}
				s := New(Options{Resiliency: resiliencytest.New(t, nil, "vault", resiliencytest.Rules{}, tc.rules)})
				if err := s.Add("vault", store); err != nil {
					t.Fatal(err)
				}
				read := func() error {
					if bulk {
						all, err := s.BulkGet(t.Context(), "vault", nil)
						if (err == nil) != (len(all) == 1) {
							t.Errorf("%v with %v", all, err)
						}
						return err
					}
					entries, err := s.Get(t.Context(), "vault", "a", nil)
					if (err == nil) != (len(entries) == 1) {
						t.Errorf("%v with %v", entries, err)
					}
					return err
				}
				err := read()
				if store.count() != tc.calls || (err == nil) != (tc.err == "") || err != nil && !strings.Contains(err.Error(), tc.err) {
					t.Errorf("%v after %d calls", err, store.count())
				}
				ended, cancel := context.WithCancel(t.Context())
				cancel()
				if err := s.Remove(ended, "vault"); (err != nil) != tc.hang {
					t.Errorf("removed: %v", err)
				}
				if tc.hang {
					close(store.hang)
				}
			})
		}
	}

	// What resources refer to is read once.
	store := &flaky{failures: 1}
	s := New(Options{Resiliency: resiliencytest.New(t, nil, "vault", resiliencytest.Rules{}, resiliencytest.Rules{Retry: resiliencytest.Retries(3)})})
	if err := s.Add("vault", store); err != nil {
		t.Fatal(err)
	}
	if _, err := s.GetSecret(t.Context(), "vault", "a", nil); !errors.Is(err, errStore) || store.calls != 1 {
		t.Errorf("%v after %d calls", err, store.calls)
	}
}
