package delivery

import (
	"slices"

	schedulerv1 "outrigger.dev/api/gen/scheduler/v1"
)

// gateKey is what a limit is for: the reminders of an actor type in a namespace, or those among them with one concurrency key.
type gateKey struct {
	namespace, actorType, name string
}

// label is the gate's name in metrics (Dapr API, scheduler: concurrency limits).
func (k gateKey) label() string {
	if k.name == "" {
		return k.actorType
	}
	return k.actorType + ":" + k.name
}

// gate bounds how many tasks are with sidecars at once. It lives while a stream refers to it or a task has a slot; without a stream it
// counts but does not hold up. While a slot is free, no task waits.
type gate struct {
	key gateKey
	// label is that of the key, and may be that of gates in other namespaces.
	label string
	// limit is that of all instances together.
	limit      int
	references int
	inflight   int
	waiting    list
}

// share is the part of a limit that one of several instances has: at least one (Dapr API, scheduler: concurrency limits).
func share(limit, index, count int) int {
	n := limit / count
	if index < limit%count {
		n++
	}
	return max(n, 1)
}

func (p *Pool) full(g *gate) bool {
	return g.references > 0 && g.inflight >= share(g.limit, p.index, p.count)
}

// acquire takes a slot in every gate of a task. If one is full, none is taken, and it is returned.
func (p *Pool) acquire(t *Task) *gate {
	if len(p.gates) == 0 || !t.route.key.reminder {
		return nil
	}
	key := gateKey{namespace: t.route.key.namespace, actorType: t.route.key.target}
	var found [2]*gate
	found[0] = p.gates[key]
	if name := t.Metadata.GetConcurrencyKey(); name != "" {
		key.name = name
		found[1] = p.gates[key]
	}
	for _, g := range found {
		if g != nil && p.full(g) {
			return g
		}
	}
	for _, g := range found {
		if g != nil {
			g.inflight++
			p.observer.Inflight(g.label, 1)
		}
	}
	t.held = found
	return nil
}

// wait has a task wait at a full gate; if too many do already, it fails.
func (p *Pool) wait(t *Task, g *gate) {
	p.observer.Throttled(g.label)
	if g.waiting.length >= p.maxGated {
		t.state = stateOver
		p.failed = append(p.failed, t)
		return
	}
	t.state = stateGated
	t.held[0] = g // the gate it waits at, until it has slots
	g.waiting.push(t)
	p.observer.Pending(g.label, 1)
}

// leaveGate takes a task from the gate that it waits at.
func (p *Pool) leaveGate(t *Task) {
	g := t.held[0]
	g.waiting.remove(t)
	t.held[0] = nil
	p.observer.Pending(g.label, -1)
}

// release gives a task's slots back and lets others in.
func (p *Pool) release(t *Task) {
	held := t.held
	t.held = [2]*gate{}
	for _, g := range held {
		if g != nil {
			g.inflight--
			p.observer.Inflight(g.label, -1)
		}
	}
	for _, g := range held {
		if g != nil {
			p.pump(g)
		}
	}
}

// pump lets waiting tasks in while there are slots, and forgets a gate that is of no use.
func (p *Pool) pump(g *gate) {
	for g.waiting.length > 0 && !p.full(g) {
		t := g.waiting.first
		p.leaveGate(t)
		p.place(t)
	}
	if g.references == 0 && g.inflight == 0 && p.gates[g.key] == g {
		delete(p.gates, g.key)
		if p.labels[g.label]--; p.labels[g.label] == 0 {
			delete(p.labels, g.label)
			p.observer.Forget(g.label)
		}
	}
}

// limit refers a stream to the gates that it brings limits for; the value that came last counts.
func (p *Pool) limit(s *Stream, limits []*schedulerv1.ConcurrencyLimit) {
	for _, l := range limits {
		actorType := l.GetActor().GetType()
		if l.GetMaxConcurrent() <= 0 || actorType == "" {
			continue
		}
		key := gateKey{namespace: s.namespace, actorType: actorType, name: l.GetName()}
		g := p.gates[key]
		if g == nil {
			g = &gate{key: key, label: key.label()}
			p.gates[key] = g
			p.labels[g.label]++
		}
		if !slices.Contains(s.gates, g) {
			g.references++
			s.gates = append(s.gates, g)
		}
		g.limit = int(l.GetMaxConcurrent())
	}
	for _, g := range s.gates {
		p.pump(g)
	}
}
