// Package engine stores jobs in etcd and triggers them when they are due (Dapr API, scheduler service: triggering).
//
// Any number of engines on one etcd form a group, in which each job belongs to one of them. An engine keeps in memory, of each
// job of its own, the name, the plan and how far the job has come; the rest is read again when the job is due, unless that is
// soon. One goroutine, the loop, owns all that: there is none per job.
//
// # What is promised
//
// A tick is triggered at least once and, while no engine is lost, once. A job never overlaps itself. What a client was told is
// stored is stored. A job that is deleted or overwritten while its trigger is out has the trigger cancelled, and its result is
// ignored.
//
// # Where it does better than it must
//
// Jobs that stay with their engine when the group changes do not notice. Ticks that were missed while nobody worked, or that
// are late by more than a minute, come as one: the latest of them, as a burst of old news helps nobody. A job with repeats
// was promised a number of ticks and has each of them.
package engine

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/jonboulle/clockwork"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/protobuf/types/known/anypb"

	"outrigger.dev/controlplane/scheduler/record"
	"outrigger.dev/controlplane/scheduler/schedule"
)

// DefaultWorkers is how many counters are written at once when Options do not say (Dapr API, scheduler: --workers).
const DefaultWorkers = 2048

// DefaultLease is for how long an engine that does not show any life keeps its jobs (Dapr API, scheduler service: storage).
const DefaultLease = 20 * time.Second

// Options are what an engine is made from. Client, ID and Deliver are required.
type Options struct {
	// Client speaks to the etcd. The engine does not close it.
	Client *clientv3.Client
	// ID tells this engine from the others of the group.
	ID string
	// Replica is what the others should know of this engine, a schedulerv1.Host; they see it in Members.
	Replica *anypb.Any
	// Deliver takes the triggers.
	Deliver Deliverer
	// Workers is how many counters may be in the process of being written at once; 0 means DefaultWorkers.
	Workers int
	// Lease is for how long an engine that does not show any life keeps its jobs, in whole seconds; 0 means DefaultLease.
	Lease time.Duration
	// Takeover says that an engine with the same id that is still in the group is known to be dead, so that this one need not
	// wait for its lease to end. It is safe where the store of the dead one cannot be open twice, as with an embedded etcd.
	Takeover bool
	// Clock is the source of time; nil means the real one.
	Clock clockwork.Clock
	// Log gets what an operator should know; nil means nothing is logged.
	Log *slog.Logger
}

// Deliverer takes what is due. Deliver must not block: it is called by the one goroutine that triggers all jobs. A trigger
// that nobody can take now is kept by the deliverer until somebody can, or it is cancelled.
type Deliverer interface {
	Deliver(t *Trigger)
}

// Named is a stored job with its full name.
type Named struct {
	Name string
	Job  *record.Job
}

// Errors of an engine, to be found with errors.Is.
var (
	// ErrExists says that a job is there already and was not to be overwritten.
	ErrExists = errors.New("job already exists")
	// ErrNotFound says that no job has the name.
	ErrNotFound = errors.New("job not found")
)

// InvalidError says that a job cannot be stored as it is: its schedule, times or name are wrong. It is found with errors.As;
// its text is that of the reason (Dapr API, jobs: validation).
type InvalidError struct{ Reason error }

func (e *InvalidError) Error() string { return e.Reason.Error() }

// Unwrap is a [*schedule.InvalidError] or a [*record.InvalidNameError].
func (e *InvalidError) Unwrap() error { return e.Reason }

// Engine is one member of the group.
type Engine struct {
	o      Options
	client *clientv3.Client
	clock  clockwork.Clock
	log    *slog.Logger
	parse  schedule.Parser

	requests *batcher[*write] // of clients
	counters *batcher[*write] // of the loop
	reads    *batcher[*job]   // of the loop

	loop  *loop
	group group
}

// New makes an engine. It stores and reads jobs at once, and triggers them while it runs.
func New(o Options) (*Engine, error) {
	if o.Client == nil || o.ID == "" || o.Deliver == nil {
		return nil, errors.New("an engine needs Client, ID and Deliver")
	}
	if o.Workers < 0 {
		return nil, fmt.Errorf("the number of workers is %d: give at least 1", o.Workers)
	}
	if o.Workers == 0 {
		o.Workers = DefaultWorkers
	}
	if o.Lease == 0 {
		o.Lease = DefaultLease
	}
	if o.Lease < time.Second {
		return nil, fmt.Errorf("the lease is %s: etcd knows none below 1s", o.Lease)
	}
	if o.Clock == nil {
		o.Clock = clockwork.NewRealClock()
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	e := &Engine{o: o, client: o.Client, clock: o.Clock, log: o.Log, parse: new(schedule.Cache).Parse}
	e.requests = newBatcher(writersOfRequests, writesInBatch, e.flush)
	writers := min(writersOfCounters, o.Workers)
	e.counters = newBatcher(writers, min(writesInBatch, o.Workers/writers), e.flush)
	e.reads = newBatcher(readers, readsInBatch, e.fetch)
	e.loop = newLoop(e)
	e.group.init()
	return e, nil
}

// now is the time of the wall clock. Due times are compared with it and not with the time since the start, which stands still
// while a machine sleeps.
func (e *Engine) now() time.Time { return e.clock.Now().Round(0).UTC() }

// Run joins the group and triggers jobs until ctx ends, which is no error. Then it cancels what is in flight and leaves the
// group, so that others take over at once. A lost lease or an etcd that does not answer is overcome. It runs once.
func (e *Engine) Run(ctx context.Context) error {
	if !e.loop.started.CompareAndSwap(false, true) {
		return errors.New("the engine was run before: make a new one")
	}
	// The loop outlives the group, as leaving it needs the loop.
	inner, stop := context.WithCancel(context.WithoutCancel(ctx))
	var wg sync.WaitGroup
	wg.Go(func() { e.loop.run(inner) })
	wg.Go(func() { e.feed(inner) })
	for wait := time.Duration(0); ; {
		begun := e.clock.Now()
		err := e.member(ctx)
		if ctx.Err() != nil {
			break
		}
		// A member that fails again and again should not fill the log, nor trouble an etcd that has troubles enough.
		if wait = min(2*wait+100*time.Millisecond, 5*time.Second); e.clock.Since(begun) > time.Minute {
			wait = 0
		}
		e.log.Warn(fmt.Sprintf("The scheduler instance %q lost its place in the group and joins again: %s", e.o.ID, err))
		select {
		case <-ctx.Done():
		case <-e.clock.After(wait):
		}
	}
	stop()
	wg.Wait()
	e.requests.wait()
	e.counters.wait()
	e.reads.wait()
	return nil
}
