package sqlcleanup

import (
	"context"
	"errors"
	"log/slog"
	"testing"
	"time"

	"github.com/jonboulle/clockwork"
)

func TestInterval(t *testing.T) {
	for _, tc := range []struct {
		name       string
		properties map[string]string
		parsed     time.Duration
		want       time.Duration
	}{
		{"absent", map[string]string{"x": "1"}, 0, time.Hour},
		{"empty", map[string]string{"cleanupInterval": ""}, 0, time.Hour},
		{"zero", map[string]string{"cleanupInterval": "0"}, 0, 0},
		{"any case", map[string]string{"CLEANUPinterval": "5s"}, 5 * time.Second, 5 * time.Second},
		{"alias", map[string]string{"cleanupIntervalInSeconds": "5"}, 5 * time.Second, 5 * time.Second},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if got := Interval(tc.properties, tc.parsed, time.Hour, "cleanupInterval", "cleanupIntervalInSeconds"); got != tc.want {
				t.Errorf("%s, want %s", got, tc.want)
			}
		})
	}
}

func TestLoop(t *testing.T) {
	clock := clockwork.NewFakeClock()
	calls := make(chan struct{})
	l := Start(clock, slog.New(slog.DiscardHandler), time.Minute, func(ctx context.Context) (int64, error) {
		if _, ok := ctx.Deadline(); !ok {
			t.Error("a clean-up without a bound")
		}
		calls <- struct{}{}
		return 0, errors.New("the next call comes all the same")
	})
	clock.Advance(59 * time.Second)
	select {
	case <-calls:
		t.Fatal("called before the first interval was over")
	default:
	}
	clock.Advance(time.Second)
	<-calls
	clock.Advance(time.Minute)
	<-calls
	l.Stop()
	Start(clock, slog.New(slog.DiscardHandler), 0, func(context.Context) (int64, error) {
		t.Error("called without an interval")
		return 0, nil
	}).Stop()
}

func TestStopCancels(t *testing.T) {
	clock := clockwork.NewFakeClock()
	running := make(chan struct{})
	l := Start(clock, slog.New(slog.DiscardHandler), time.Minute, func(ctx context.Context) (int64, error) {
		close(running)
		<-ctx.Done()
		return 0, ctx.Err()
	})
	clock.Advance(time.Minute)
	<-running
	l.Stop()
}
