package actors

import "errors"

// errTooDeep refuses a call that would make its chain deeper than allowed.
var errTooDeep = errors.New("maximum stack depth exceeded")

// chain is the calls that share one turn: those of one reentrancy id, or a single call without one.
type chain struct {
	// id is "" for a call that no other can join.
	id string
	// depth is how many calls are inside, or wait together.
	depth int
}

// turnLock lets one chain of calls at a time into an actor, in order of arrival (Dapr API, actors: turns and reentrancy). It is a plain
// structure: whoever has it guards it, and waits on the channels of its waiters without the guard. The zero value is open and empty.
type turnLock struct {
	running     chain // depth 0: nobody is inside, and then nobody waits
	first, last *queuedChain
	// byID finds the chains of the queue that have an id.
	byID map[string]*queuedChain
	// waiting is the number of calls in the queue.
	waiting int
	// refusal is what new chains are refused with, nil while they are not.
	refusal error
	// shut says that calls of the chain inside are refused, too.
	shut bool
}

// queuedChain is a chain that waits.
type queuedChain struct {
	chain
	prev, next *queuedChain
	waiters    *waiter
}

// waiter is one call of a chain that waits.
type waiter struct {
	// ready gets nil when the call is inside, or why it will not be. It never blocks its sender.
	ready chan error
	// in is nil once that is decided.
	in   *queuedChain
	next *waiter
	// own is the chain, for the call that began it.
	own queuedChain
}

// enter lets a call in, if no waiter is returned and no error. A call whose id is that of a chain inside or waiting joins it, unless
// the chain has limit calls already. Whoever is inside has to leave.
func (l *turnLock) enter(id string, limit int) (*waiter, error) {
	if id != "" && l.running.depth > 0 && l.running.id == id {
		switch {
		case l.shut:
			return nil, l.refusal
		case l.running.depth >= limit:
			return nil, errTooDeep
		}
		l.running.depth++
		return nil, nil
	}
	if l.refusal != nil {
		return nil, l.refusal
	}
	if l.running.depth == 0 {
		l.running = chain{id, 1}
		return nil, nil
	}
	w := &waiter{ready: make(chan error, 1)}
	if id != "" {
		if q := l.byID[id]; q != nil {
			if q.depth >= limit {
				return nil, errTooDeep
			}
			l.await(w, q)
			return w, nil
		}
	}
	q := &w.own
	q.id = id
	if q.prev = l.last; q.prev == nil {
		l.first = q
	} else {
		q.prev.next = q
	}
	l.last = q
	if id != "" {
		if l.byID == nil {
			l.byID = make(map[string]*queuedChain)
		}
		l.byID[id] = q
	}
	l.await(w, q)
	return w, nil
}

func (l *turnLock) await(w *waiter, q *queuedChain) {
	w.in, w.next = q, q.waiters
	q.waiters = w
	q.depth++
	l.waiting++
}

// leave ends a call that is inside. With the last one of its chain the next chain gets in.
func (l *turnLock) leave() {
	if l.running.depth--; l.running.depth > 0 {
		return
	}
	q := l.first
	if q == nil {
		l.running = chain{}
		return
	}
	l.running = q.chain
	l.remove(q)
	l.decide(q, nil)
}

// abandon takes a waiter out of the queue. It is false when there is nothing to take out any more, because the waiter has its answer.
func (l *turnLock) abandon(w *waiter) bool {
	q := w.in
	if q == nil {
		return false
	}
	w.in = nil
	for at := &q.waiters; ; at = &(*at).next {
		if *at == w {
			*at = w.next
			break
		}
	}
	l.waiting--
	if q.depth--; q.depth == 0 {
		l.remove(q)
	}
	return true
}

// refuse refuses new chains and those that wait from now on. Calls of the chain inside may still join it.
func (l *turnLock) refuse(why error) {
	l.refusal = why
	for q := l.first; q != nil; {
		next := q.next
		l.remove(q)
		l.decide(q, why)
		q = next
	}
}

// close refuses every call from now on.
func (l *turnLock) close(why error) {
	l.refuse(why)
	l.shut = true
}

// busy says that somebody is inside.
func (l *turnLock) busy() bool { return l.running.depth > 0 }

// remove takes a chain out of the queue.
func (l *turnLock) remove(q *queuedChain) {
	if q.prev == nil {
		l.first = q.next
	} else {
		q.prev.next = q.next
	}
	if q.next == nil {
		l.last = q.prev
	} else {
		q.next.prev = q.prev
	}
	q.prev, q.next = nil, nil
	if q.id != "" {
		delete(l.byID, q.id)
	}
}

// decide answers all waiters of a chain.
func (l *turnLock) decide(q *queuedChain, answer error) {
	for w := q.waiters; w != nil; {
		next := w.next
		w.in, w.next = nil, nil
		w.ready <- answer
		l.waiting--
		w = next
	}
	q.waiters = nil
}
