package cron

import (
	"context"
	"errors"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jonboulle/clockwork"
	"outrigger.dev/components"
	"outrigger.dev/components/bindings"
	"outrigger.dev/components/bindings/bindingstest"
)

const patience = 30 * time.Second

// openBinding opens the binding the way a resource does.
func openBinding(t *testing.T, clock clockwork.Clock, schedule string) (*Binding, error) {
	t.Helper()
	binding := bindingstest.Type[*Binding]{Register: Register, Name: "cron"}
	return binding.OpenInstance(t, components.Instance{Clock: clock, Properties: map[string]string{"schedule": schedule}})
}

func TestSchedules(t *testing.T) {
	start := time.Date(2026, 3, 28, 23, 59, 50, 0, time.UTC) // a Saturday
	rome, err := time.LoadLocation("Europe/Rome")
	if err != nil {
		t.Skipf("no time zones here: %v", err)
	}
	at := func(d, h, m, s int) time.Time { return time.Date(2026, 3, d, h, m, s, 0, time.UTC) }
	for _, tc := range []struct {
		schedule string
		want     []time.Time
		zone     string
	}{
		{"@every 15s", []time.Time{at(29, 0, 0, 5), at(29, 0, 0, 20)}, time.Local.String()},
		{"TZ=UTC @hourly", []time.Time{at(29, 0, 0, 0), at(29, 1, 0, 0)}, "UTC"},
		{"CRON_TZ=UTC @daily", []time.Time{at(29, 0, 0, 0), at(30, 0, 0, 0)}, "UTC"},
		{"TZ=UTC @weekly", []time.Time{at(29, 0, 0, 0)}, "UTC"},
		{"TZ=UTC */15 * * * *", []time.Time{at(29, 0, 0, 0), at(29, 0, 15, 0)}, "UTC"},
		{"TZ=UTC */15 * * * * *", []time.Time{at(29, 0, 0, 0), at(29, 0, 0, 15)}, "UTC"},
		{"TZ=UTC 0 30 3-6,20-23 * * *", []time.Time{at(29, 3, 30, 0), at(29, 4, 30, 0)}, "UTC"},
		{"TZ=UTC 0 15 12 * * MON", []time.Time{at(30, 12, 15, 0)}, "UTC"},
		// The clocks of Rome skip the hour from two to three that night.
		{"CRON_TZ=Europe/Rome 0 3 * * *", []time.Time{at(29, 1, 0, 0), at(30, 1, 0, 0)}, "Europe/Rome"},
		{" TZ=Europe/Rome  0 0 0 * * ?", []time.Time{at(29, 22, 0, 0)}, rome.String()},
	} {
		t.Run(tc.schedule, func(t *testing.T) {
			clock := clockwork.NewFakeClockAt(start)
			b, err := openBinding(t, clock, tc.schedule)
			if err != nil {
				t.Fatal(err)
			}
			events := make(chan *bindings.Event, 1)
			closer, err := b.Read(context.Background(), func(_ context.Context, e *bindings.Event) ([]byte, error) {
				events <- e
				return nil, errors.New("ignored")
			})
			if err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithTimeout(context.Background(), patience)
			defer cancel()
			for _, want := range tc.want {
				if err := clock.BlockUntilContext(ctx, 1); err != nil {
					t.Fatal(err)
				}
				clock.Advance(want.Sub(clock.Now()) - time.Nanosecond)
				if err := clock.BlockUntilContext(ctx, 1); err != nil {
					t.Fatal(err)
				}
				select {
				case e := <-events:
					t.Fatalf("event %v before %s", e, want)
				default:
				}
				clock.Advance(time.Nanosecond)
				select {
				case e := <-events:
					if len(e.Data) != 0 || e.Metadata["timeZone"] != tc.zone || e.Metadata["readTimeUTC"] != want.String() {
						t.Errorf("event %v, want one at %s in %s", e, want, tc.zone)
					}
				case <-ctx.Done():
					t.Fatalf("no event at %s", want)
				}
			}
			if err := closer.Close(); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestReading(t *testing.T) {
	clock := clockwork.NewFakeClock()
	b, err := openBinding(t, clock, "@every 1s")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	starting, stop := context.WithCancel(ctx)
	entered, left := make(chan struct{}, mostRunning+1), make(chan struct{}, mostRunning+1)
	closer, err := b.Read(starting, func(ctx context.Context, _ *bindings.Event) ([]byte, error) {
		entered <- struct{}{}
		<-ctx.Done()
		left <- struct{}{}
		return nil, ctx.Err()
	})
	if err != nil {
		t.Fatal(err)
	}
	stop() // bounds the start only
	if _, err := b.Read(ctx, nil); err == nil || !strings.Contains(err.Error(), "already") {
		t.Errorf("second reading: %v", err)
	}
	// The next event does not wait for the app, until there are too many.
	for i := range mostRunning + 1 {
		if err := clock.BlockUntilContext(ctx, 1); err != nil {
			t.Fatal(err)
		}
		clock.Advance(time.Second)
		if i == mostRunning {
			break
		}
		select {
		case <-entered:
		case <-ctx.Done():
			t.Fatalf("no event %d", i)
		}
	}
	if err := clock.BlockUntilContext(ctx, 1); err != nil {
		t.Fatal(err)
	}
	if err := closer.Close(); err != nil {
		t.Fatal(err)
	}
	if len(left) != mostRunning {
		t.Errorf("%d handlers returned before Close did, want %d", len(left), mostRunning)
	}
	// Another reading may follow.
	again := make(chan struct{}, 1)
	if _, err := b.Read(ctx, func(context.Context, *bindings.Event) ([]byte, error) {
		again <- struct{}{}
		return nil, nil
	}); err != nil {
		t.Fatal(err)
	}
	if err := clock.BlockUntilContext(ctx, 1); err != nil {
		t.Fatal(err)
	}
	clock.Advance(time.Second)
	select {
	case <-again:
	case <-ctx.Done():
		t.Fatal("no event of the second reading")
	}
	for range 2 {
		if err := b.Close(); err != nil {
			t.Error(err)
		}
	}
	if _, err := b.Read(ctx, nil); err == nil || !strings.Contains(err.Error(), "closed") {
		t.Errorf("reading of a closed binding: %v", err)
	}
}

// sleeper is a clock whose time goes on while its timers stand still, as on a machine that sleeps.
type sleeper struct {
	*clockwork.FakeClock
	asleep atomic.Int64
}

func (s *sleeper) Now() time.Time { return s.FakeClock.Now().Add(time.Duration(s.asleep.Load())) }

func TestSleep(t *testing.T) {
	clock := &sleeper{FakeClock: clockwork.NewFakeClockAt(time.Date(2026, 3, 1, 8, 30, 0, 0, time.UTC))}
	b, err := openBinding(t, clock, "TZ=UTC 0 9 * * *")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	events := make(chan *bindings.Event, 10)
	if _, err := b.Read(ctx, func(_ context.Context, e *bindings.Event) ([]byte, error) {
		events <- e
		return nil, nil
	}); err != nil {
		t.Fatal(err)
	}
	// Asleep from 8:30 to 17:30 three days on: once awake it is caught up with within a minute, and once.
	clock.asleep.Store(int64(3*24*time.Hour + 9*time.Hour))
	for range 2 {
		if err := clock.BlockUntilContext(ctx, 1); err != nil {
			t.Fatal(err)
		}
		clock.Advance(longestWait)
	}
	select {
	case e := <-events:
		if e.Metadata["readTimeUTC"] != "2026-03-04 17:31:00 +0000 UTC" && e.Metadata["readTimeUTC"] != "2026-03-04 17:32:00 +0000 UTC" {
			t.Errorf("event %v", e)
		}
	case <-ctx.Done():
		t.Fatal("no event after the sleep")
	}
	if err := b.Close(); err != nil {
		t.Error(err)
	}
	if len(events) > 0 {
		t.Errorf("another event: %v", <-events)
	}
}

func TestNoTime(t *testing.T) {
	b, err := openBinding(t, clockwork.NewFakeClock(), "0 0 30 2 *")
	if err != nil {
		t.Fatal(err)
	}
	closer, err := b.Read(context.Background(), nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := closer.Close(); err != nil {
		t.Error(err)
	}
}

func TestBadSchedules(t *testing.T) {
	for _, schedule := range []string{"", "never", "* * *", "61 * * * *", "@every", "@every soon", "TZ=UTC", "TZ=Nowhere/Land * * * * *", "TZ=UTC TZ=UTC * * * * *", "CRON_TZ=UTC CRON_TZ=UTC", "@reboot"} {
		if _, err := openBinding(t, nil, schedule); err == nil || !strings.Contains(err.Error(), `"schedule"`) {
			t.Errorf("%q: error %v", schedule, err)
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, seed := range []string{"* * * * *", "*/5 1-3,7 ? JAN MON-FRI", "@every 1h", "TZ=UTC @daily", "TZ= ", "0 0 0 1 1 */0"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		schedule, zone, err := parse(text)
		if err != nil {
			return
		}
		now := time.Date(2026, 3, 28, 23, 59, 50, 0, zone)
		if next := schedule.Next(now); !next.IsZero() && !next.After(now) {
			t.Fatalf("%q: after %s comes %s", text, now, next)
		}
	})
}
