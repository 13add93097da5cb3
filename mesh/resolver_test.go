package mesh

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"strconv"
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
	// hold, if not nil, is called while the component looks.
	hold func(context.Context) error
}

func (l *list) ResolveAll(ctx context.Context, _ nameresolution.Request) ([]string, error) {
	l.calls++
	if l.hold != nil {
		if err := l.hold(ctx); err != nil {
			return nil, err
		}
	}
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
	for i := range 3 * manyEntries {
		if _, err := r.Resolve(context.Background(), nameresolution.Request{ID: "a", Port: i}); err != nil {
			t.Fatal(err)
		}
		clock.Advance(time.Second)
	}
	if len(r.lists) > manyEntries {
		t.Errorf("%d lists are remembered", len(r.lists))
	}
}

func TestResolverAvoidsTheDead(t *testing.T) {
	clock := clockwork.NewFakeClock()
	l := &list{all: []string{"h:1", "h:2"}}
	r := NewResolver(ResolverOptions{Resolver: l, Clock: clock, Rand: func(int) int { return 0 }})
	req := nameresolution.Request{ID: "a", Namespace: "ns", Port: 1}
	resolve := func(want string) {
		t.Helper()
		if got, err := r.Resolve(context.Background(), req); err != nil || got != want {
			t.Errorf("%q, %v; want %q", got, err, want)
		}
	}
	resolve("h:1")
	r.Forget(req, "h:1")
	resolve("h:2")
	r.Forget(req, "h:2")
	resolve("h:1") // better than nothing
	clock.Advance(listLife)
	resolve("h:1")
}

func TestResolverSharesLookups(t *testing.T) {
	const callers = 20
	looking, proceed := make(chan struct{}, callers), make(chan struct{})
	l := &list{all: []string{"h:1"}, hold: func(ctx context.Context) error {
		looking <- struct{}{}
		select {
		case <-proceed:
			return nil
		case <-ctx.Done():
			return errors.New("i/o timeout")
		}
	}}
	r := NewResolver(ResolverOptions{Resolver: l})
	req := nameresolution.Request{ID: "a"}
	ask := func(ctx context.Context) chan error {
		done := make(chan error, 1)
		go func() {
			_, err := r.Resolve(ctx, req)
			done <- err
		}()
		return done
	}
	ctx, cancel := context.WithCancel(context.Background())
	first := ask(ctx)
	receiveWithin(t, "the first looks", looking)
	var others []chan error
	for range callers - 1 {
		others = append(others, ask(within(t)))
	}
	// One who waits may give up for himself.
	impatient, leave := context.WithCancel(context.Background())
	gone := ask(impatient)
	leave()
	if err := receiveWithin(t, "the impatient one ends", gone); !errors.Is(err, context.Canceled) {
		t.Errorf("the impatient one: %v", err)
	}
	// When the one who looks gives up, another takes over.
	cancel()
	if err := receiveWithin(t, "the first ends", first); !errors.Is(err, context.Canceled) {
		t.Errorf("the first: %v", err)
	}
	receiveWithin(t, "another looks", looking)
	close(proceed)
	for _, done := range others {
		if err := receiveWithin(t, "the others end", done); err != nil {
			t.Error(err)
		}
	}
	if l.calls != 2 {
		t.Errorf("%d look-ups, want 2", l.calls)
	}
}

// panicky fails in the worst way, once.
type panicky struct {
	list
	panicked bool
}

func (p *panicky) ResolveAll(ctx context.Context, req nameresolution.Request) ([]string, error) {
	if !p.panicked {
		p.panicked = true
		panic("broken component")
	}
	return p.list.ResolveAll(ctx, req)
}

func TestResolverSurvivesPanic(t *testing.T) {
	r := NewResolver(ResolverOptions{Resolver: &panicky{list: list{all: []string{"h:1"}}}})
	req := nameresolution.Request{ID: "a"}
	func() {
		defer func() {
			if recover() == nil {
				t.Error("the panic was swallowed")
			}
		}()
		_, _ = r.Resolve(context.Background(), req)
	}()
	if got, err := r.Resolve(within(t), req); err != nil || got != "h:1" {
		t.Errorf("%q, %v", got, err)
	}
}

func TestResolverThatLies(t *testing.T) {
	req := nameresolution.Request{ID: "a", Namespace: "ns", Port: 1}
	for _, garbage := range []string{"nonsense", "::1:50002", "h:0", ":1", "http://h:1", "[h]:1"} {
		for name, component := range map[string]nameresolution.Resolver{
			"one": &single{answers: []string{garbage}}, "list": &list{all: []string{garbage, garbage}},
		} {
			_, err := NewResolver(ResolverOptions{Resolver: component, Name: "sham"}).Resolve(context.Background(), req)
			if err == nil || !strings.Contains(err.Error(), "the sham name resolver gave no usable address for app id a") || !strings.Contains(err.Error(), strconv.Quote(garbage)) {
				t.Errorf("%s %q: %v", name, garbage, err)
			}
		}
	}
	var log strings.Builder
	r := NewResolver(ResolverOptions{Resolver: &list{all: []string{"nonsense", "dns:///h:1", ""}}, Log: slog.New(slog.NewTextHandler(&log, nil))})
	for range 3 {
		if got, err := r.Resolve(context.Background(), req); err != nil || got != "h:1" {
			t.Errorf("%q, %v", got, err)
		}
	}
	if strings.Count(log.String(), "cannot be used") != 1 {
		t.Errorf("log: %s", log.String())
	}
}

// namespacedSingle looks at namespaces, or says that it does not.
type namespacedSingle struct {
	single
	namespaced bool
}

func (n *namespacedSingle) Namespaced() bool { return n.namespaced }

func TestResolverForeignNamespace(t *testing.T) {
	for _, tc := range []struct {
		name      string
		component nameresolution.Resolver
		own       string
		want      int
	}{
		{"any resolver", &single{}, "own", 2},
		{"one that could", &namespacedSingle{}, "own", 2},
		{"one that does", &namespacedSingle{namespaced: true}, "own", 0},
		{"own namespace not known", &single{}, "", 0},
	} {
		var log strings.Builder
		r := NewResolver(ResolverOptions{Resolver: tc.component, Name: "mdns", Namespace: tc.own, Log: slog.New(slog.NewTextHandler(&log, nil))})
		for _, namespace := range []string{"own", "", "other", "other", "third", "other"} {
			_, _ = r.Resolve(canceled(), nameresolution.Request{ID: "a", Namespace: namespace})
		}
		if got := strings.Count(log.String(), "cannot tell namespaces apart"); got != tc.want {
			t.Errorf("%s: %d warnings, want %d: %s", tc.name, got, tc.want, log.String())
		}
	}
}
