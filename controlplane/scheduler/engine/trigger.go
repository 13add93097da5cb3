package engine

import (
	"sync"
	"time"

	"outrigger.dev/controlplane/scheduler/record"
)

// Result is what became of a trigger.
type Result uint8

const (
	// Success says that the tick was handled; the next one follows.
	Success Result = iota
	// Failed says that it was not; the failure policy of the job decides what follows.
	Failed
)

// Trigger is one due tick of a job, or another attempt at it. It belongs to the deliverer until Done or cancellation.
type Trigger struct {
	// Name is the full name of the job.
	Name string
	// Job is the job as it is stored.
	Job *record.Job
	// Planned is the time of the tick, which is not later than now but may be long ago.
	Planned time.Time
	// Attempt is how often the tick was tried before.
	Attempt uint32

	loop *loop
	job  *job

	mu        sync.Mutex
	over      bool // done or cancelled
	cancelled bool
	hooks     []func()
}

// Done reports the result. Only the first call counts, and none after cancellation. It does not block.
func (t *Trigger) Done(r Result) {
	t.mu.Lock()
	over := t.over
	t.over, t.hooks = true, nil
	t.mu.Unlock()
	if !over {
		t.loop.post(event{kind: resultEvent, job: t.job, trigger: t, held: r == Success})
	}
}

// OnCancel has f called when the trigger is cancelled: the job was deleted or overwritten, or belongs to another engine now.
// It is called at once when that happened before, and not after Done. f must not block and not call the engine.
func (t *Trigger) OnCancel(f func()) {
	t.mu.Lock()
	if !t.over {
		t.hooks = append(t.hooks, f)
	}
	cancelled := t.cancelled
	t.mu.Unlock()
	if cancelled {
		f()
	}
}

// cancel ends the trigger from the side of the engine.
func (t *Trigger) cancel() {
	t.mu.Lock()
	if t.over {
		t.mu.Unlock()
		return
	}
	t.over, t.cancelled = true, true
	hooks := t.hooks
	t.hooks = nil
	t.mu.Unlock()
	for _, f := range hooks {
		f()
	}
}
