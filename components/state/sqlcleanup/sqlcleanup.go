// Package sqlcleanup is the garbage collection that the SQL state stores share: expired rows are invisible to readers at
// once, and removed from their table now and then by one of the sidecars that use it (Dapr API, state: TTL).
package sqlcleanup

import (
	"context"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/jonboulle/clockwork"
)

const (
	// Slack is how much earlier than a full interval after the last clean-up the next one may be, so that timers that run
	// a little fast are not turned away for a whole further interval.
	Slack = 100 * time.Millisecond
	// Limit bounds one clean-up.
	Limit = 10 * time.Minute
)

// MinimumAge is how old the last clean-up of any sidecar must be for a new one.
func MinimumAge(interval time.Duration) time.Duration { return max(interval-Slack, 0) }

// Interval returns the interval that a component's properties ask for. parsed is the decoded property; it counts only when
// one of the names is among the properties with a text, otherwise the interval is byDefault. 0 or less means never.
func Interval(properties map[string]string, parsed, byDefault time.Duration, names ...string) time.Duration {
	for given, text := range properties {
		for _, name := range names {
			if strings.EqualFold(given, name) && text != "" {
				return parsed
			}
		}
	}
	return byDefault
}

// Loop calls a function at an interval. The zero Loop is one that never does.
type Loop struct {
	cancel context.CancelFunc
	done   sync.WaitGroup
}

// Start calls collect every interval, for the first time after one interval, until Stop. collect returns how many rows it
// removed; its errors are logged, and it is tried again at the next interval. An interval of 0 or less never calls it.
func Start(clock clockwork.Clock, log *slog.Logger, interval time.Duration, collect func(ctx context.Context) (int64, error)) *Loop {
	l := &Loop{}
	if interval <= 0 {
		return l
	}
	var ctx context.Context
	ctx, l.cancel = context.WithCancel(context.Background())
	ticker := clock.NewTicker(interval)
	l.done.Go(func() {
		defer ticker.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-ticker.Chan():
			}
			n, err := run(ctx, collect)
			switch {
			case ctx.Err() != nil:
				return
			case err != nil:
				log.Error("removing expired state items failed; trying again after the clean-up interval", "interval", interval, "error", err)
			case n > 0:
				log.Info("removed expired state items", "count", n)
			}
		}
	})
	return l
}

func run(ctx context.Context, collect func(ctx context.Context) (int64, error)) (int64, error) {
	ctx, cancel := context.WithTimeout(ctx, Limit)
	defer cancel()
	return collect(ctx)
}

// Stop ends the calls and waits for a running one, whose context it cancels.
func (l *Loop) Stop() {
	if l.cancel != nil {
		l.cancel()
		l.done.Wait()
	}
}
