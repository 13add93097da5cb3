package engine

import (
	"context"
	"errors"
	"fmt"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"outrigger.dev/controlplane/scheduler/record"
)

// feedPage is how many jobs are read at once when all are read.
const feedPage = 1000

// storedChange is what the feed tells the loop of the stored jobs.
type storedChange struct {
	begin, end bool   // of a scan of all jobs
	table      *table // by which a scan was made
	jobs       []*job // stored, and of this engine by the table
	gone       []gone // deleted, or stored for another engine
}

// gone is a version that replaced, with nothing for this engine, what was before it.
type gone struct {
	name string
	rev  int64
}

var errResync = errors.New("the partitions changed")

// feed keeps the loop informed of the stored jobs: it reads all of them, watches their changes, and starts again when the
// partitions of the engine changed or the watch broke.
func (e *Engine) feed(ctx context.Context) {
	for {
		t := e.loop.table.Load()
		var err error
		if t == nil {
			select {
			case <-ctx.Done():
			case <-e.loop.resync:
			}
		} else {
			err = e.follow(ctx, t)
		}
		if ctx.Err() != nil {
			return
		}
		if err != nil && !errors.Is(err, errResync) {
			e.log.Warn(fmt.Sprintf("The scheduler instance %q cannot follow the stored jobs and reads them again: %s", e.o.ID, err))
			select {
			case <-ctx.Done():
				return
			case <-e.clock.After(again):
			case <-e.loop.resync:
			}
		}
	}
}

// tell hands a change to the loop.
func (e *Engine) tell(ctx context.Context, change storedChange) error {
	select {
	case e.loop.stored <- change:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// follow reads all jobs and then their changes until the partitions change, which is errResync, or something fails.
func (e *Engine) follow(ctx context.Context, t *table) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	revision, err := e.scan(ctx, t)
	if err != nil {
		return err
	}
	changes := e.client.Watch(clientv3.WithRequireLeader(ctx), record.Jobs, clientv3.WithPrefix(), clientv3.WithRev(revision+1))
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-e.loop.resync:
			return errResync
		case resp, ok := <-changes:
			if !ok {
				return errors.New("the watch ended")
			}
			if err := resp.Err(); err != nil {
				return err
			}
			var change storedChange
			for _, ev := range resp.Events {
				if err := e.decode(ctx, &change, t, ev); err != nil {
					return err
				}
			}
			if err := e.tell(ctx, change); err != nil {
				return err
			}
		}
	}
}

// restored is how long ago a job must have begun for its counter to be looked for when it appears: what clients schedule begins now,
// and has none yet.
const restored = 10 * time.Second

// decode adds an event of the watch to a change.
func (e *Engine) decode(ctx context.Context, change *storedChange, t *table, ev *clientv3.Event) error {
	name, rev := string(ev.Kv.Key[len(record.Jobs):]), ev.Kv.ModRevision
	if ev.Type == clientv3.EventTypePut {
		if j := e.stored(t, name, ev.Kv, nil); j != nil {
			if e.now().Sub(j.plan.Start) > restored {
				if err := e.recount(ctx, j); err != nil {
					return err
				}
			}
			change.jobs = append(change.jobs, j)
			return nil
		}
	}
	change.gone = append(change.gone, gone{name, rev})
	return nil
}

// recount reads the counter of a job that somebody put there as it was once, such as `dapr scheduler import` does with a backup.
func (e *Engine) recount(ctx context.Context, j *job) error {
	ctx, cancel := context.WithTimeout(ctx, pageTimeout)
	defer cancel()
	resp, err := e.client.Get(ctx, record.CounterKey(j.name))
	if err != nil {
		return fmt.Errorf("the counter of the job %q could not be read: %w", j.name, err)
	}
	if len(resp.Kvs) == 0 {
		return nil
	}
	if c := e.counter(j.name, resp.Kvs[0]); c != nil && c.Partition == j.partition {
		j.Counter, j.fresh = *c, true
	}
	return nil
}

// stored is a job of this engine; nil when it is another's or cannot be read, which is logged.
func (e *Engine) stored(t *table, name string, kv *mvccpb.KeyValue, counter *record.Counter) *job {
	partition, ok := record.PartitionOf(kv.Value)
	if ok && !t.owns(partition) {
		return nil
	}
	j, err := newJob(name, kv.ModRevision, kv.Value, counter, e.parse)
	if err != nil {
		e.log.Warn(fmt.Sprintf("The job %q is stored but cannot be triggered: %s; overwrite or delete it", name, err))
		return nil
	}
	return j
}

// scan tells the loop of all stored jobs with their counters, as they are at the revision that it returns.
func (e *Engine) scan(ctx context.Context, t *table) (int64, error) {
	// What ends from now on is remembered by the loop, as the scan may still find it.
	if err := e.tell(ctx, storedChange{begin: true}); err != nil {
		return 0, err
	}
	begun := e.clock.Now()
	jobs := newPager(e.client, record.Jobs, feedPage)
	counters := newPager(e.client, record.Counters, feedPage)
	var counter *mvccpb.KeyValue
	change := storedChange{}
	total, mine := 0, 0
	for {
		kv, err := jobs.next(ctx)
		if err != nil {
			return 0, fmt.Errorf("jobs could not be read: %w", err)
		}
		if kv == nil {
			break
		}
		// Both are in the order of names.
		name := string(kv.Key[len(record.Jobs):])
		counters.revision = jobs.revision
		for counter == nil || string(counter.Key[len(record.Counters):]) < name {
			if counter, err = counters.next(ctx); err != nil {
				return 0, fmt.Errorf("counters could not be read: %w", err)
			}
			if counter == nil {
				break
			}
		}
		if total++; total%feedPage == 0 {
			if err := e.tell(ctx, change); err != nil {
				return 0, err
			}
			change = storedChange{}
			select {
			case <-e.loop.resync:
				return 0, errResync
			default:
			}
		}
		if j := e.stored(t, name, kv, e.counter(name, counter)); j != nil {
			mine++
			j.fresh = true
			change.jobs = append(change.jobs, j)
		}
	}
	change.end, change.table = true, t
	if err := e.tell(ctx, change); err != nil {
		return 0, err
	}
	e.log.Info(fmt.Sprintf("The scheduler instance %q has %d of %d jobs, read in %s", e.o.ID, mine, total, e.clock.Since(begun).Round(time.Millisecond)))
	return jobs.revision, nil
}

// counter is the counter if it has the name; nil if it is of another job, or cannot be read.
func (e *Engine) counter(name string, kv *mvccpb.KeyValue) *record.Counter {
	if kv == nil || string(kv.Key[len(record.Counters):]) != name {
		return nil
	}
	c, err := record.DecodeCounter(kv.Value)
	if err != nil {
		e.log.Warn(fmt.Sprintf("The job %q begins anew: %s", name, err))
		return nil
	}
	return &c
}

// apply takes what the feed tells into account.
func (l *loop) apply(change *storedChange) {
	now := l.e.now()
	if change.begin {
		l.scan++
		l.scanning, l.gone = true, make(map[string]int64)
	}
	for _, g := range change.gone {
		if old := l.jobs[g.name]; old != nil && old.rev < g.rev {
			l.remove(old, nil)
		}
	}
	for _, j := range change.jobs {
		l.insert(j, now)
		if current := l.jobs[j.name]; current != nil && current.rev == j.rev {
			current.scan = l.scan
		}
	}
	if !change.end {
		return
	}
	for _, j := range l.jobs {
		if j.scan != l.scan {
			l.remove(j, nil)
		}
	}
	l.scanning, l.gone = false, nil
	if l.table.Load() == change.table {
		l.e.group.works(true)
	}
}

// fetch reads the content of due jobs.
func (e *Engine) fetch(ctx context.Context, batch []*job) {
	ops := make([]clientv3.Op, len(batch))
	for i, j := range batch {
		ops[i] = clientv3.OpGet(record.JobKey(j.name))
	}
	resp, err := e.client.Txn(ctx).Then(ops...).Commit()
	for i, j := range batch {
		ev := event{kind: readEvent, job: j, err: err}
		if err == nil {
			// Another version than this one is told by the feed.
			if kvs := resp.Responses[i].GetResponseRange().GetKvs(); len(kvs) > 0 && kvs[0].ModRevision == j.rev {
				ev.content, ev.err = record.Decode(kvs[0].Value)
			}
		}
		e.loop.post(ev)
	}
}
