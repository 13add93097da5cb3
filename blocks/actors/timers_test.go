package actors

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jonboulle/clockwork"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

var timersBegin = time.Date(2030, 1, 31, 12, 0, 0, 0, time.UTC)

// timersWorld has timers that run, and notes what fires.
type timersWorld struct {
	*Timers
	core  *coreFake
	clock *clockwork.FakeClock

	mu    sync.Mutex
	fired []string
	// answer is what a firing ends with; it may be replaced before timers are set.
	answer func(ctx context.Context, r *Reminder) error
}

func newTimersWorld(t *testing.T) *timersWorld {
	t.Helper()
	w := &timersWorld{core: newCore(), clock: clockwork.NewFakeClockAt(timersBegin), answer: func(context.Context, *Reminder) error { return nil }}
	w.core.remind = func(ctx context.Context, r *Reminder) error {
		w.mu.Lock()
		w.fired = append(w.fired, fmt.Sprintf("%s/%s@%s", r.ID, r.Name, w.clock.Now().Sub(timersBegin)))
		w.mu.Unlock()
		return w.answer(ctx, r)
	}
	w.Timers = NewTimers(TimersOptions{Core: w.core, Clock: w.clock})
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		w.Run(ctx)
	}()
	t.Cleanup(func() {
		cancel()
		<-ended
	})
	return w
}

func (w *timersWorld) log() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return strings.Join(w.fired, " ")
}

// expect waits until what has fired is as given, and nothing is under way.
func (w *timersWorld) expect(t *testing.T, want string) {
	t.Helper()
	eventually(t, fmt.Sprintf("fired %q", want), func() bool { return w.log() == want && w.quiet() })
}

// quiet reports whether no task works, and the owner waits for the time that is the next one.
func (w *timersWorld) quiet() bool {
	w.Timers.mu.Lock()
	defer w.Timers.mu.Unlock()
	for _, a := range w.actors {
		if a.running {
			return false
		}
	}
	return len(w.armed) == 0 || w.armed[0].due.After(w.clock.Now())
}

// step advances the clock once the owner waits.
func (w *timersWorld) step(t *testing.T, d time.Duration) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if err := w.clock.BlockUntilContext(ctx, 1); err != nil {
		t.Fatal("the owner of the timers does not wait for any")
	}
	w.clock.Advance(d)
}

func (w *timersWorld) set(t *testing.T, id, name, due, period, ttl string) {
	t.Helper()
	if err := w.Create(Timer{Type: "cart", ID: id, Name: name, DueTime: due, Period: period, TTL: ttl}); err != nil {
		t.Fatal(err)
	}
}

func (w *timersWorld) empty() bool {
	w.Timers.mu.Lock()
	defer w.Timers.mu.Unlock()
	return len(w.actors) == 0 && len(w.armed) == 0
}

func TestTimerSchedules(t *testing.T) {
	for name, tc := range map[string]struct {
		due, period, ttl string
		steps            []time.Duration
		want             string
	}{
		"at once":           {"", "", "", nil, "1/t@0s"},
		"once, later":       {"1s", "", "", []time.Duration{time.Second}, "1/t@1s"},
		"in the past":       {"-5s", "", "", nil, "1/t@0s"},
		"every second":      {"", "1s", "", []time.Duration{time.Second, time.Second}, "1/t@0s 1/t@1s 1/t@2s"},
		"three times":       {"0s", "R3/PT1S", "", []time.Duration{time.Second, time.Second}, "1/t@0s 1/t@1s 1/t@2s"},
		"until it ends":     {"1s", "1s", "2s", []time.Duration{time.Second, time.Second}, "1/t@1s 1/t@2s"},
		"late, one by one":  {"1s", "R4/PT1S", "", []time.Duration{3 * time.Second, time.Second}, "1/t@3s 1/t@3s 1/t@3s 1/t@4s"},
		"a period of zero":  {"1s", "0s", "", []time.Duration{time.Second}, "1/t@1s"},
		"a calendar period": {"", "R2/P1D", "", []time.Duration{24 * time.Hour}, "1/t@0s 1/t@24h0m0s"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newTimersWorld(t)
			w.set(t, "1", "t", tc.due, tc.period, tc.ttl)
			parts := strings.Fields(tc.want)
			for _, d := range tc.steps {
				w.step(t, d)
				// Everything that is due by now has fired before the clock goes on.
				now := w.clock.Now().Sub(timersBegin)
				n := 0
				for _, p := range parts {
					_, at, _ := strings.Cut(p, "@")
					if when, err := time.ParseDuration(at); err == nil && when <= now {
						n++
					}
				}
				w.expect(t, strings.Join(parts[:n], " "))
			}
			w.expect(t, tc.want)
			if tc.period != "1s" || tc.ttl != "" {
				eventually(t, "the timer is gone", w.empty)
			}
		})
	}
}

func TestTimerErrors(t *testing.T) {
	w := newTimersWorld(t)
	const create = "ERR_ACTOR_TIMER_CREATE: error creating actor timer: "
	for _, tc := range []struct {
		timer Timer
		want  string
	}{
		{Timer{Type: "other", ID: "1", Name: "t"}, create + "can't create timer for actor other||1: actor type not registered"},
		{Timer{Type: "cart", ID: "1", Name: "t", DueTime: "soon"}, create + "error parsing timer due time: "},
		{Timer{Type: "cart", ID: "1", Name: "t", Period: "often"}, create + "invalid timer period: parse error: "},
		{Timer{Type: "cart", ID: "1", Name: "t", Period: "R0/PT1S"}, create + "invalid timer period: has zero repetitions"},
		{Timer{Type: "cart", ID: "1", Name: "t", TTL: "never"}, create + "error parsing timer TTL: "},
		{Timer{Type: "cart", ID: "1", Name: "t", DueTime: "2s", TTL: "2030-01-31T12:00:01Z"}, create + "timer cart||1||t has already expired: dueTime: 2s TTL: 2030-01-31T12:00:01Z"},
	} {
		if err := w.Create(tc.timer); !strings.HasPrefix(code(err), tc.want) {
			t.Errorf("%+v: %v", tc.timer, err)
		}
	}
	if !w.empty() {
		t.Error("a refused timer is set")
	}
}

func TestTimerReplacedDeletedEnded(t *testing.T) {
	w := newTimersWorld(t)
	w.set(t, "1", "t", "1s", "", "")
	w.set(t, "1", "t", "2s", "", "")
	w.set(t, "1", "gone", "2s", "", "")
	w.set(t, "2", "a", "1s", "", "")
	w.set(t, "2", "b", "1s", "1s", "")
	w.set(t, "3", "c", "2s", "", "")
	w.Delete("cart", "1", "gone")
	w.Delete("cart", "1", "never")
	w.Ended("cart", "2")
	w.Ended("cart", "unknown")
	w.step(t, 2*time.Second)
	eventually(t, "the others fire", func() bool {
		got := w.log()
		return got == "1/t@2s 3/c@2s" || got == "3/c@2s 1/t@2s"
	})
	eventually(t, "no timer is left", w.empty)
}

func TestTimersOfOneActor(t *testing.T) {
	w := newTimersWorld(t)
	leave := make(chan struct{})
	var running, most int
	w.answer = func(_ context.Context, r *Reminder) error {
		if r.ID == "2" {
			return nil
		}
		w.mu.Lock()
		running++
		most = max(most, running)
		w.mu.Unlock()
		<-leave
		w.mu.Lock()
		running--
		w.mu.Unlock()
		return nil
	}
	w.set(t, "1", "c", "3s", "", "")
	w.set(t, "1", "a", "1s", "", "")
	w.set(t, "1", "b", "2s", "", "")
	w.set(t, "1", "replaced", "2s", "", "")
	w.set(t, "2", "z", "3s", "", "")
	w.step(t, 3*time.Second)
	eventually(t, "another actor does not wait", func() bool {
		got := w.log()
		return strings.Contains(got, "2/z@3s") && strings.Contains(got, "1/a@3s")
	})
	w.set(t, "1", "replaced", "1h", "", "") // its first firing waits already
	close(leave)
	eventually(t, "all fire in order", func() bool {
		got := strings.Replace(w.log(), "2/z@3s", "", 1)
		return strings.Join(strings.Fields(got), " ") == "1/a@3s 1/b@3s 1/c@3s" && w.quiet()
	})
	if most != 1 {
		t.Errorf("%d timers of an actor ran at once", most)
	}
}

func TestTimerAnswers(t *testing.T) {
	for name, tc := range map[string]struct {
		err  error
		ends bool
	}{
		"failure":              {errors.New("error from actor service: (500) reminder has been canceled"), false},
		"cancelled":            {fmt.Errorf("turn: %w", ErrReminderCanceled), true},
		"cancelled, elsewhere": {status.Error(codes.Unknown, "reminder has been canceled"), true},
	} {
		t.Run(name, func(t *testing.T) {
			w := newTimersWorld(t)
			w.answer = func(context.Context, *Reminder) error { return tc.err }
			w.set(t, "1", "t", "", "1s", "")
			w.expect(t, "1/t@0s")
			if tc.ends {
				eventually(t, "the timer is gone", w.empty)
				return
			}
			w.step(t, time.Second)
			w.expect(t, "1/t@0s 1/t@1s")
		})
	}
}

func TestTimerEndsWithItsType(t *testing.T) {
	w := newTimersWorld(t)
	w.set(t, "1", "t", "1s", "1s", "")
	w.core.host("cart", false)
	w.step(t, time.Second)
	eventually(t, "the timer is gone", w.empty)
	if got := w.log(); got != "" {
		t.Errorf("fired %q", got)
	}
}

// A timer that its own callback takes away, or sets anew, is not set again afterwards.
func TestTimerChangedByItself(t *testing.T) {
	w := newTimersWorld(t)
	w.answer = func(_ context.Context, r *Reminder) error {
		switch r.Name {
		case "deletes":
			w.Delete("cart", "1", "deletes")
		case "ends":
			w.Ended("cart", "2")
		case "resets":
			return w.Create(Timer{Type: "cart", ID: "3", Name: "resets", DueTime: "1h"})
		}
		return nil
	}
	w.set(t, "1", "deletes", "1s", "1s", "")
	w.set(t, "2", "ends", "1s", "1s", "")
	w.set(t, "3", "resets", "1s", "1s", "")
	w.step(t, time.Second)
	eventually(t, "all fire once", func() bool { return len(strings.Fields(w.log())) == 3 && w.quiet() })
	w.step(t, time.Minute)
	w.step(t, time.Hour)
	eventually(t, "the last fires again", func() bool { return len(strings.Fields(w.log())) == 4 })
}

func TestTimerCarriesWhatWasSet(t *testing.T) {
	w := newTimersWorld(t)
	got := make(chan *Reminder, 1)
	w.answer = func(_ context.Context, r *Reminder) error {
		got <- r
		return nil
	}
	data := jsonData([]byte(`{"a":1}`))
	if err := w.Create(Timer{Type: "cart", ID: "1", Name: "t", DueTime: "0s", Period: "R1/PT5S", Callback: "back", Data: data}); err != nil {
		t.Fatal(err)
	}
	r := <-got
	if r.Type != "cart" || r.ID != "1" || r.Name != "t" || r.DueTime != "0s" || r.Period != "R1/PT5S" || r.Callback != "back" || !r.Timer || r.Data != data {
		t.Errorf("got %+v", r)
	}
}

// The end of the sidecar cancels callbacks, waits for them, and drops the rest.
func TestTimersStop(t *testing.T) {
	core := newCore()
	inside, ended := make(chan struct{}), make(chan struct{})
	core.remind = func(ctx context.Context, _ *Reminder) error {
		close(inside)
		<-ctx.Done()
		close(ended)
		return ctx.Err()
	}
	timers := NewTimers(TimersOptions{Core: core})
	if err := timers.Create(Timer{Type: "cart", ID: "1", Name: "before", Period: "1ms"}); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		timers.Run(ctx)
	}()
	<-inside
	cancel()
	<-done
	select {
	case <-ended:
	default:
		t.Error("a callback is still running")
	}
	if err := timers.Create(Timer{Type: "cart", ID: "1", Name: "t"}); !strings.HasPrefix(code(err), "ERR_ACTOR_RUNTIME_CLOSED") {
		t.Errorf("got %v", err)
	}
	timers.Ended("cart", "1")
	timers.Delete("cart", "1", "before")
}
