package placement

import (
	"context"
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/jonboulle/clockwork"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"outrigger.dev/app/apptest"
)

func TestLeaderIsFound(t *testing.T) {
	clock := clockwork.NewFakeClock() // stands still: there is no pause on the way round
	var addresses []string
	var all []*service
	for range 3 {
		s := startService(t)
		s.refuse.Store(status.New(codes.FailedPrecondition, "node id=x is not a leader. Only the leader can serve requests"))
		addresses, all = append(addresses, s.address), append(all, s)
	}
	all[2].refuse.Store(nil)
	d := &dialled{}
	start(t, Options{Addresses: addresses, Clock: clock, Dial: d.dial})
	in, _ := all[2].accept(t)
	in.order(t, order("lock", 1, nil))
	in.acked(t, lock, 1)
	// It loses its leadership to the first.
	all[2].refuse.Store(all[0].refuse.Load())
	all[0].refuse.Store(nil)
	in.end <- status.Error(codes.FailedPrecondition, "node id=x is not a leader. Only the leader can serve requests")
	all[0].accept(t)
	apptest.Until(t, "the old connections are closed", func() bool { return d.open.Load() == 1 })
}

// TestNoLeader: a cluster without a leader is not asked without end.
func TestNoLeader(t *testing.T) {
	clock := clockwork.NewFakeClock()
	var addresses []string
	var all []*service
	for range 3 {
		s := startService(t)
		s.refuse.Store(status.New(codes.FailedPrecondition, "node id=x is not a leader. Only the leader can serve requests"))
		addresses, all = append(addresses, s.address), append(all, s)
	}
	d := &dialled{}
	_, stop := start(t, Options{Addresses: addresses, Clock: clock, Dial: d.dial})
	asked := func() (n int64) {
		for _, s := range all {
			n += s.asked.Load()
		}
		return n
	}
	for round, wait := range []time.Duration{pause, 2 * pause, maxPause, maxPause} {
		apptest.Until(t, "a whole round", func() bool { return asked() == 3*int64(round+1) && d.open.Load() == 0 })
		if err := clock.BlockUntilContext(t.Context(), 1); err != nil { // the pause
			t.Fatal(err)
		}
		clock.Advance(wait - 1)
		if n := asked(); n != 3*int64(round+1) {
			t.Errorf("round %d: %d questions before the pause is over", round, n)
		}
		clock.Advance(1)
	}
	apptest.Until(t, "the last round", func() bool { return asked() == 15 })
	stop()
	if d.open.Load() != 0 {
		t.Errorf("%d connections are open", d.open.Load())
	}
}

func TestPauses(t *testing.T) {
	failed := outcome{err: errors.New("connection refused")}
	follower := outcome{answered: true, err: status.Error(codes.FailedPrecondition, "not a leader")}
	denied := outcome{answered: true, err: status.Error(codes.PermissionDenied, "no")}
	leaving := outcome{answered: true, err: status.Error(codes.Unavailable, "placement server is shutting down")}
	worked := outcome{worked: true, answered: true, err: io.EOF}
	deposed := outcome{worked: true, answered: true, err: status.Error(codes.FailedPrecondition, "not a leader")}
	const ms = time.Millisecond
	for _, c := range []struct {
		name     string
		outcomes []outcome
		members  int
		random   float64
		want     []time.Duration
	}{
		{"nothing listens", []outcome{failed, failed, failed, failed, failed}, 2, 0, []time.Duration{250 * ms, 250 * ms, 250 * ms, 250 * ms, 250 * ms}},
		{"spread", []outcome{failed, failed}, 1, 0.999, []time.Duration{749*ms + 500*time.Microsecond, 749*ms + 500*time.Microsecond}},
		{"no leader", []outcome{follower, follower, follower, follower, follower, follower, follower, follower}, 2, 0.5, []time.Duration{0, pause, 0, maxPause, 0, maxPause, 0, maxPause}},
		{"one down and no leader", []outcome{failed, follower, failed, follower}, 2, 0.5, []time.Duration{pause, pause, pause, maxPause}},
		{"refused", []outcome{denied, denied, denied}, 1, 0.5, []time.Duration{pause, maxPause, maxPause}},
		{"shutting down", []outcome{leaving, leaving, leaving}, 1, 0.5, []time.Duration{pause, pause, pause}},
		{"it works again", []outcome{follower, follower, worked, follower}, 1, 0.5, []time.Duration{pause, maxPause, pause, pause}},
		{"deposed", []outcome{deposed, follower, deposed}, 3, 0.5, []time.Duration{0, 0, 0}},
	} {
		r := &rotation{}
		for i, o := range c.outcomes {
			if got := r.next(o, c.members, c.random); got != c.want[i] {
				t.Errorf("%s: pause %d is %s, want %s", c.name, i, got, c.want[i])
			}
		}
		if r.attempt != len(c.outcomes) {
			t.Errorf("%s: %d attempts", c.name, r.attempt)
		}
	}
}

func TestKubernetesResolvesEveryTime(t *testing.T) {
	s := startService(t)
	s.refuse.Store(status.New(codes.Unavailable, "no"))
	_, port, _ := net.SplitHostPort(s.address)
	answers := make(chan []string)
	dials := make(chan string, 10)
	clock := clockwork.NewFakeClock()
	start(t, Options{
		Addresses: []string{"placement.svc:" + port, "never:1"}, Kubernetes: true, Clock: clock,
		Resolve: func(ctx context.Context, host string) ([]string, error) {
			if host != "placement.svc" {
				t.Errorf("%s is resolved", host)
			}
			select {
			case a := <-answers:
				if a == nil {
					return nil, errors.New("no such host")
				}
				return a, nil
			case <-ctx.Done():
				return nil, ctx.Err()
			}
		},
		Dial: func(ctx context.Context, address string) (net.Conn, error) {
			dials <- address
			return (&net.Dialer{}).DialContext(ctx, "tcp", s.address)
		},
	})
	for i, c := range []struct {
		found []string
		want  string
	}{
		{[]string{"10.0.0.2", "10.0.0.1"}, "10.0.0.1"}, {[]string{"10.0.0.1", "10.0.0.2"}, "10.0.0.2"}, {nil, ""}, {[]string{}, ""}, {[]string{"fe80::1"}, "[fe80::1]"},
	} {
		asked := false
		apptest.Until(t, "the name is resolved before an attempt", func() bool {
			select {
			case answers <- c.found:
				asked = true
			default:
				clock.Advance(10 * time.Millisecond)
			}
			return asked
		})
		if c.want != "" {
			if got := apptest.Receive(t, "a dial", dials); got != c.want+":"+port {
				t.Errorf("attempt %d goes to %s, want %s", i, got, c.want)
			}
		}
	}
}

// TestShutdownWhileConnecting: a client ends although nobody answers.
func TestShutdownWhileConnecting(t *testing.T) {
	dialling := make(chan struct{}, 10)
	_, stop := start(t, Options{Addresses: []string{"x:1"}, Dial: func(ctx context.Context, _ string) (net.Conn, error) {
		dialling <- struct{}{}
		<-ctx.Done()
		return nil, ctx.Err()
	}})
	apptest.Receive(t, "a dial", dialling)
	stop()
}

func TestNobodyAnswers(t *testing.T) {
	clock := clockwork.NewFakeClock()
	dialling := make(chan struct{}, 10)
	start(t, Options{Addresses: []string{"x:1"}, Clock: clock, Dial: func(ctx context.Context, _ string) (net.Conn, error) {
		dialling <- struct{}{}
		<-ctx.Done()
		return nil, ctx.Err()
	}})
	apptest.Receive(t, "a dial", dialling)
	if err := clock.BlockUntilContext(t.Context(), 1); err != nil {
		t.Fatal(err)
	}
	clock.Advance(openTimeout)
	if err := clock.BlockUntilContext(t.Context(), 1); err != nil { // the pause
		t.Fatal(err)
	}
	for done := false; !done; {
		clock.Advance(pause)
		select {
		case <-dialling:
			done = true
		case <-time.After(time.Millisecond):
		}
	}
}

func TestNoAddresses(t *testing.T) {
	if err := New(Options{}).Run(context.Background()); err == nil || !strings.Contains(err.Error(), "--placement-host-address") {
		t.Errorf("got %v", err)
	}
}
