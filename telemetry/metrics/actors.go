package metrics

import (
	"github.com/prometheus/client_golang/prometheus"
)

const labelActorType = "actor_type"

// Actors measures the actors that a sidecar hosts (Dapr API, metrics: runtime_actor_*).
type Actors struct {
	types *family[actorTypeKey, *ActorType]
}

type actorTypeKey struct{ actorType string }

func (k actorTypeKey) owned() actorTypeKey { return actorTypeKey{own(k.actorType)} }
func (k actorTypeKey) blank() actorTypeKey { return actorTypeKey{} }

// ActorType measures the actors of one type. Each of its series is exposed from its first use on. Nil measures nothing.
type ActorType struct {
	pending, timers              func() prometheus.Gauge
	timersFired, timersFailed    func() prometheus.Counter
	remindersFired, remindersBad func() prometheus.Counter
	rebalanced                   func() prometheus.Counter
	deactivated, notDeactivated  func() prometheus.Counter
}

func newActors(f *factory) *Actors {
	const name = "runtime_actor_"
	byType := []string{labelActorType}
	bySuccess := []string{labelActorType, labelSuccess}
	pending := f.gauge(name+"pending_actor_calls", "Calls of actors that wait for their turn.", byType)
	timers := f.gauge(name+"timers", "Timers of actors that are set.", byType)
	timersFired := f.counter(name+"timers_fired_total", "Timers of actors that fired.", bySuccess)
	remindersFired := f.counter(name+"reminders_fired_total", "Reminders of actors that this sidecar was asked to run.", bySuccess)
	rebalanced := f.counter(name+"rebalanced_total", "Actors that were stopped here.", byType)
	deactivated := f.counter(name+"deactivated_total", "Actors whose app was told that they are gone.", byType)
	failed := f.counter(name+"deactivated_failed_total", "Actors whose app could not be told that they are gone.", byType)
	return &Actors{newFamily(f.limit, func(k actorTypeKey) *ActorType {
		return &ActorType{
			pending:        pending.later(k.actorType),
			timers:         timers.later(k.actorType),
			timersFired:    timersFired.later(k.actorType, boolLabel(true)),
			timersFailed:   timersFired.later(k.actorType, boolLabel(false)),
			remindersFired: remindersFired.later(k.actorType, boolLabel(true)),
			remindersBad:   remindersFired.later(k.actorType, boolLabel(false)),
			rebalanced:     rebalanced.later(k.actorType),
			deactivated:    deactivated.later(k.actorType),
			notDeactivated: failed.later(k.actorType),
		}
	})}
}

// Type is the handle for actors of one type, which may be kept. It is nil if a is.
func (a *Actors) Type(actorType string) *ActorType {
	if a == nil {
		return nil
	}
	return a.types.find(actorTypeKey{actorType})
}

// Pending adds to the number of calls that wait for their turn; less than 0 takes away.
func (t *ActorType) Pending(more int) {
	if t != nil {
		t.pending().Add(float64(more))
	}
}

// Timers adds to the number of timers that are set; less than 0 takes away.
func (t *ActorType) Timers(more int) {
	if t != nil {
		t.timers().Add(float64(more))
	}
}

// TimerFired counts a timer that fired, and whether the actor took it.
func (t *ActorType) TimerFired(success bool) {
	switch {
	case t == nil:
	case success:
		t.timersFired().Inc()
	default:
		t.timersFailed().Inc()
	}
}

// ReminderFired counts a reminder that the scheduler sent to this sidecar, wherever its actor lives, and whether the actor took it.
func (t *ActorType) ReminderFired(success bool) {
	switch {
	case t == nil:
	case success:
		t.remindersFired().Inc()
	default:
		t.remindersBad().Inc()
	}
}

// Rebalanced counts an actor that was stopped here, for whatever reason: also for being idle (Dapr API, metrics: actors).
func (t *ActorType) Rebalanced() {
	if t != nil {
		t.rebalanced().Inc()
	}
}

// Deactivated counts an actor whose host was told that it is gone, and whether the host took that well.
func (t *ActorType) Deactivated(success bool) {
	switch {
	case t == nil:
	case success:
		t.deactivated().Inc()
	default:
		t.notDeactivated().Inc()
	}
}
