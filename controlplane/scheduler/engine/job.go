package engine

import (
	"container/heap"
	"math"
	"time"

	"outrigger.dev/controlplane/scheduler/record"
	"outrigger.dev/controlplane/scheduler/schedule"
)

// state is what a job in memory waits for.
type state uint8

const (
	waiting   state = iota // for its time: it is in the heap
	reading                // for its content from etcd, as it is due
	out                    // for the result of its trigger
	writing                // for its counter, or its end, to be written
	unwritten              // for another try to write
)

// job is one version of a job of this engine. All but name, rev and plan belongs to the loop.
type job struct {
	name      string
	rev       int64 // modification revision of the version
	partition uint64
	plan      schedule.Plan
	interval  time.Duration // between attempts
	most      uint32        // attempts after the first
	unlimited bool

	fresh bool // was stored before this engine had it, so that ticks may have been missed
	over  bool // no tick is left
	state state
	place int32 // in the heap; -1 when it is not there
	scan  uint32

	record.Counter
	tick    time.Time    // planned, not over
	due     time.Time    // when it is, or was, to be attempted
	content *record.Job  // nil when it is to be read again
	trigger *Trigger     // when out
	leave   *leaveTicket // of somebody who waits for the end of its write
}

func (j *job) batchKey() (string, int) { return j.name, 0 }

// newJob reads a stored job; counter is nil when it has none.
func newJob(name string, rev int64, value []byte, counter *record.Counter, parse schedule.Parser) (*job, error) {
	content, err := record.Decode(value)
	if err != nil {
		return nil, err
	}
	j := &job{name: name, rev: rev, partition: content.Partition(), place: -1, content: content}
	if j.plan, err = content.Plan(parse); err != nil {
		return nil, err
	}
	j.interval, j.most, j.unlimited = content.Retry()
	// The counter of an earlier version may still be there when that was written by a scheduler that does not delete it.
	if counter != nil && counter.Partition == j.partition {
		j.Counter = *counter
	}
	j.Partition = j.partition
	return j, nil
}

// next sets the tick that follows what is over; false when there is none.
func (j *job) next() bool {
	tick, ok := j.plan.Next(j.Count, j.Last)
	j.tick, j.due, j.over = tick, tick, !ok
	return ok
}

// finish counts the result of an attempt and sets what comes next (Dapr API, scheduler service: results).
func (j *job) finish(success bool) {
	if !success {
		if j.Attempts < math.MaxUint32 {
			j.Attempts++
		}
		if j.unlimited || j.Attempts <= j.most {
			j.due = j.due.Add(j.interval)
			return
		}
	}
	if j.Count < math.MaxUint32 {
		j.Count++
	}
	j.Attempts, j.Last = 0, j.tick
	j.next()
}

// queue is the heap of waiting jobs, the next due first.
type queue []*job

func (q queue) Len() int           { return len(q) }
func (q queue) Less(i, k int) bool { return q[i].due.Before(q[k].due) }
func (q queue) Swap(i, k int) {
	q[i], q[k] = q[k], q[i]
	q[i].place, q[k].place = int32(i), int32(k)
}

// Push implements [heap.Interface].
func (q *queue) Push(x any) {
	j := x.(*job)
	j.place = int32(len(*q))
	*q = append(*q, j)
}

// Pop implements [heap.Interface].
func (q *queue) Pop() any {
	last := len(*q) - 1
	j := (*q)[last]
	(*q)[last] = nil
	*q = (*q)[:last]
	j.place = -1
	return j
}

func (q *queue) remove(j *job) {
	if j.place >= 0 {
		heap.Remove(q, int(j.place))
	}
}
