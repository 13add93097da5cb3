package mesh

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jonboulle/clockwork"

	"outrigger.dev/components/nameresolution"
)

type single struct {
	answers []string
	err     error
	calls   int
	forgot  []string
}

func (s *single) Resolve(context.Context, nameresolution.Request) (string, error) {
	s.calls++
	if s.err != nil || len(s.answers) == 0 {
		return "", s.err
	}
	a := s.answers[0]
	s.answers = s.answers[1:]
	return a, nil
}
func (s *single) Close() error              { return nil }
func (s *single) Forget(id, address string) { s.forgot = append(s.forgot, id+"="+address) }

type list struct {
	single
	all []string
}

func (l *list) ResolveAll(context.Context, nameresolution.Request) ([]string, error) {
	l.calls++
	return slices.Clone(l.all), l.err
}

func TestResolverNone(t *testing.T) {
	r := NewResolver(ResolverOptions{})
	if _, err := r.Resolve(context.Background(), nameresolution.Request{ID: "a"}); err == nil || err.Error() != "name resolver not initialized" {
		t.Error(err)
	}
	r.Forget(nameresolution.Request{ID: "a"}, "x")
}

func TestResolverSingle(t *testing.T) {
	req := nameresolution.Request{ID: "a", Namespace: "ns", Port: 1}
	t.Run("found, every time anew", func(t *testing.T) {
		s := &single{answers: []string{"h:1", "h:2"}}
		r := NewResolver(ResolverOptions{Resolver: s})
		for _, want := range []string{"h:1", "h:2"} {
			if got, err := r.Resolve(context.Background(), req); err != nil || got != want {
				t.Errorf("%q, %v", got, err)
			}
		}
		r.Forget(req, "h:2")
		if !slices.Equal(s.forgot, []string{"a=h:2"}) {
			t.Errorf("forgot %q", s.forgot)
		}
	})
	t.Run("error", func(t *testing.T) {
		s := &single{err: errors.New("couldn't find service: a")}
		if _, err := NewResolver(ResolverOptions{Resolver: s}).Resolve(context.Background(), req); err != s.err || s.calls != 1 {
			t.Errorf("%v after %d calls", err, s.calls)
		}
	})
	for name, answers := range map[string][]string{"late": {"", "", "", "", "", "h:1"}, "never": {}} {
		t.Run(name, func(t *testing.T) {
			clock := clockwork.NewFakeClock()
			s := &single{answers: answers}
			r := NewResolver(ResolverOptions{Resolver: s, Clock: clock})
			type result struct {
				address string
				err     error
			}
			done := make(chan result, 1)
			go func() {
				address, err := r.Resolve(context.Background(), req)
				done <- result{address, err}
			}()
			for range emptyRetries {
				if err := clock.BlockUntilContext(within(t), 1); err != nil {
					t.Fatal(err)
				}
				clock.Advance(emptyInterval)
			}
			got := receiveWithin(t, "the look-up ends", done)
			if name == "late" && (got.err != nil || got.address != "h:1") || name == "never" && (got.err == nil || !strings.Contains(got.err.Error(), "no address found for app id a")) || s.calls != 6 {
				t.Errorf("%+v after %d calls", got, s.calls)
			}
		})
	}
	t.Run("given up", func(t *testing.T) {
		r := NewResolver(ResolverOptions{Resolver: &single{}, Clock: clockwork.NewFakeClock()})
		if _, err := r.Resolve(canceled(), req); !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	})
}

func TestResolverList(t *testing.T) {
	clock := clockwork.NewFakeClock()
	l := &list{all: []string{"h:1", "h:2", "h:3"}}
	next := 0
	r := NewResolver(ResolverOptions{Resolver: l, Clock: clock, Rand: func(n int) int { next++; return (next - 1) % n }})
	req := nameresolution.Request{ID: "a", Namespace: "ns", Port: 1}
	resolve := func(want string, calls int) {
		t.Helper()
		got, err := r.Resolve(context.Background(), req)
		if err != nil || got != want || l.calls != calls {
			t.Errorf("%q, %v after %d calls; want %q, %d", got, err, l.calls, want, calls)
		}
	}
	resolve("h:1", 1)
	resolve("h:2", 1)
	clock.Advance(listLife - time.Millisecond)
	resolve("h:3", 1)
	clock.Advance(time.Millisecond)
	resolve("h:1", 2)
	r.Forget(req, "h:1")
	resolve("h:2", 3)
	other := req
	other.Namespace = "other"
	if _, err := r.Resolve(context.Background(), other); err != nil || l.calls != 4 {
		t.Errorf("%v, %d calls", err, l.calls)
	}
	l.all = nil
	r.Forget(req, "h:2")
	for i := range 2 {
		if _, err := r.Resolve(context.Background(), req); err == nil || l.calls != 5+i {
			t.Errorf("an empty list: %v, %d calls", err, l.calls)
		}
	}
	l.all = []string{"h:9"}
	for i := range 3 * manyLists {
		if _, err := r.Resolve(context.Background(), nameresolution.Request{ID: "a", Port: i}); err != nil {
			t.Fatal(err)
		}
		clock.Advance(time.Second)
	}
	if len(r.lists) > manyLists {
		t.Errorf("%d lists are remembered", len(r.lists))
	}
}
