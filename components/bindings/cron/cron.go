// Package cron is the input binding that brings an event at every time of a schedule (Dapr API, bindings.cron).
package cron

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/jonboulle/clockwork"
	"github.com/robfig/cron/v3"
	"outrigger.dev/components"
	"outrigger.dev/components/bindings"
)

// mostRunning is how many events may be with the app at once. An app that never answers would else gather them for ever.
const mostRunning = 64

// longestWait is how long the clock is not looked at. Timers stand still while the machine sleeps and pay no heed to a clock that
// is set forward, so that a time could come late by hours.
const longestWait = time.Minute

// Options are the metadata properties of the component.
type Options struct {
	Schedule string `name:"schedule" required:"true" help:"when: a cron expression of 5 fields, or 6 with seconds in front, such as \"30 * * * * *\"; or @every 15m, @hourly, @daily, @weekly, @monthly, @yearly; CRON_TZ=Europe/Rome in front sets the time zone"`
}

// Check refuses a schedule that cannot be read. It implements [components.Checker].
func (o *Options) Check() error {
	_, _, err := parse(o.Schedule)
	return err
}

// Register adds the component type to r.
func Register(r *components.Registry) {
	bindings.Register(r, components.Info{
		Name: "cron", Version: "v1", Status: components.Stable,
		Description: "Brings an event at every time of a schedule.",
	}, func(ctx context.Context, inst components.Instance, options Options) (*Binding, error) {
		return Open(ctx, inst, options)
	})
}

var _ bindings.Input = (*Binding)(nil)

// Binding is one schedule.
type Binding struct {
	name     string
	schedule cron.Schedule
	zone     *time.Location
	log      *slog.Logger
	clock    clockwork.Clock

	mu     sync.Mutex
	open   *reading
	closed bool
}

// Open reads the schedule.
func Open(_ context.Context, inst components.Instance, options Options) (*Binding, error) {
	schedule, zone, err := parse(options.Schedule)
	if err != nil {
		return nil, err
	}
	if inst.Clock == nil {
		inst.Clock = clockwork.NewRealClock()
	}
	if inst.Log == nil {
		inst.Log = slog.New(slog.DiscardHandler)
	}
	return &Binding{name: inst.Name, schedule: schedule, zone: zone, log: inst.Log, clock: inst.Clock}, nil
}

// parse reads a schedule, and the time zone it names or the local one.
func parse(text string) (cron.Schedule, *time.Location, error) {
	bad := func(err error) (cron.Schedule, *time.Location, error) {
		return nil, nil, fmt.Errorf("metadata property \"schedule\" is %q, which is not a schedule: %w; give for example \"@every 15m\", \"0 30 * * * *\" (with seconds) or \"30 3-6,20-23 * * *\"", text, err)
	}
	zone, expression := time.Local, strings.TrimSpace(text)
	for _, prefix := range [...]string{"CRON_TZ=", "TZ="} {
		if rest, ok := strings.CutPrefix(expression, prefix); ok {
			name, after, found := strings.Cut(rest, " ")
			if !found {
				return bad(errors.New("there is nothing behind the time zone"))
			}
			var err error
			if zone, err = time.LoadLocation(name); err != nil {
				return bad(err)
			}
			expression = strings.TrimSpace(after)
			break
		}
	}
	// The parser knows the prefix too, but panics when there is nothing behind it.
	if strings.HasPrefix(expression, "TZ=") || strings.HasPrefix(expression, "CRON_TZ=") {
		return bad(errors.New("it has two time zones"))
	}
	parser := cron.NewParser(cron.SecondOptional | cron.Minute | cron.Hour | cron.Dom | cron.Month | cron.Dow | cron.Descriptor)
	schedule, err := parser.Parse(expression)
	if err != nil {
		return bad(err)
	}
	if s, ok := schedule.(*cron.SpecSchedule); ok {
		s.Location = zone
	}
	return schedule, zone, nil
}

// Read starts the schedule. An event's data is empty; its metadata are "timeZone" and "readTimeUTC". What the app answers
// makes no difference, and the next event does not wait for it (Dapr API, bindings.cron).
func (b *Binding) Read(_ context.Context, handler bindings.Handler) (io.Closer, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return nil, fmt.Errorf("the cron binding %q is closed", b.name)
	}
	if b.open != nil {
		return nil, fmt.Errorf("the cron binding %q is being read already; close that reading first", b.name)
	}
	ctx, cancel := context.WithCancel(context.Background())
	r := &reading{binding: b, handler: handler, cancel: cancel, slots: make(chan struct{}, mostRunning)}
	now := b.clock.Now()
	// The timer is set before Read returns, so that no time from then on is missed.
	if next := b.schedule.Next(now.In(b.zone)); next.IsZero() {
		b.log.Warn("the schedule has no time within the next five years, so it brings no events", "component", b.name)
	} else {
		timer := b.clock.NewTimer(wait(now, next))
		r.running.Go(func() { r.loop(ctx, timer, next) })
	}
	b.open = r
	return r, nil
}

// Close ends reading and waits for running handlers.
func (b *Binding) Close() error {
	b.mu.Lock()
	b.closed = true
	open := b.open
	b.mu.Unlock()
	if open != nil {
		return open.Close()
	}
	return nil
}

// reading is one run of the schedule.
type reading struct {
	binding *Binding
	handler bindings.Handler
	cancel  context.CancelFunc
	slots   chan struct{}
	running sync.WaitGroup
}

func (r *reading) loop(ctx context.Context, timer clockwork.Timer, next time.Time) {
	defer timer.Stop()
	b := r.binding
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.Chan():
		}
		now := b.clock.Now()
		if now.Before(next) {
			timer.Reset(wait(now, next))
			continue
		}
		r.fire(ctx, now)
		// Times that passed meanwhile, as while the machine slept, are not made up for.
		if next = b.schedule.Next(now.In(b.zone)); next.IsZero() {
			return
		}
		timer.Reset(wait(now, next))
	}
}

func wait(now, next time.Time) time.Duration { return min(next.Sub(now), longestWait) }

func (r *reading) fire(ctx context.Context, now time.Time) {
	b := r.binding
	select {
	case r.slots <- struct{}{}:
	default:
		b.log.Warn("the app has not answered the last events, so one is left out", "component", b.name, "unanswered", mostRunning)
		return
	}
	event := &bindings.Event{Metadata: map[string]string{"timeZone": b.zone.String(), "readTimeUTC": now.UTC().String()}}
	r.running.Go(func() {
		defer func() { <-r.slots }()
		if _, err := r.handler(ctx, event); err != nil && ctx.Err() == nil {
			b.log.Warn("the app did not process an event of the schedule", "component", b.name, "error", err)
		}
	})
}

// Close takes no more events, cancels running handlers and waits for them.
func (r *reading) Close() error {
	r.cancel()
	r.running.Wait()
	r.binding.mu.Lock()
	if r.binding.open == r {
		r.binding.open = nil
	}
	r.binding.mu.Unlock()
	return nil
}
