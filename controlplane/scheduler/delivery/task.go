package delivery

import (
	"time"

	"google.golang.org/protobuf/types/known/anypb"

	schedulerv1 "outrigger.dev/api/gen/scheduler/v1"
)

// Task is one due tick of a job on its way to a sidecar. The exported fields are set before [Pool.Deliver] and stay.
type Task struct {
	// Name is the name that the sidecar knows the job by, without whose it is.
	Name string
	// Metadata says whose job it is; Data is its payload, which may be nil.
	Metadata *schedulerv1.JobMetadata
	Data     *anypb.Any
	// Finisher is told the result.
	Finisher Finisher

	state stateOf
	route *route
	// held are the gates in which the task has a slot: of its actor type, and of its concurrency key.
	held [2]*gate
	// stream and id say where it was sent, sent when.
	stream *Stream
	id     uint64
	sent   time.Time

	list       *list
	prev, next *Task
}

// Finisher is told what became of a task.
type Finisher interface {
	// Finish says whether the task succeeded: once, from any goroutine, and not after the task was cancelled. No lock of the pool is held.
	Finish(t *Task, succeeded bool)
}

// Sent is when the task was given to a stream last; zero if it never was. It is for the task's [Finisher].
func (t *Task) Sent() time.Time { return t.sent }

// stateOf is where a task is.
type stateOf uint8

const (
	// stateNew: not in the pool yet.
	stateNew stateOf = iota
	// stateWaiting: in the route's list. It is staged if the route has no stream, else it waits until one can take it.
	stateWaiting
	// stateGated: in the list of a gate that is full.
	stateGated
	// stateAssigned: the next one of a stream.
	stateAssigned
	// stateSent: a result is awaited.
	stateSent
	// stateAbandoned: cancelled while it was sent. It keeps its slots until the sidecar answers, as its work goes on until then.
	stateAbandoned
	// stateOver: finished or cancelled.
	stateOver
)

// list is a queue of tasks from which any can be taken out.
type list struct {
	first, last *Task
	length      int
}

func (l *list) push(t *Task) {
	t.list, t.prev, t.next = l, l.last, nil
	if l.last == nil {
		l.first = t
	} else {
		l.last.next = t
	}
	l.last = t
	l.length++
}

func (l *list) remove(t *Task) {
	if t.prev == nil {
		l.first = t.next
	} else {
		t.prev.next = t.next
	}
	if t.next == nil {
		l.last = t.prev
	} else {
		t.next.prev = t.prev
	}
	t.list, t.prev, t.next = nil, nil, nil
	l.length--
}

// pop takes the first one; nil if there is none.
func (l *list) pop() *Task {
	t := l.first
	if t != nil {
		l.remove(t)
	}
	return t
}
