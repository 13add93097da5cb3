package engine

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"

	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc/codes"

	"outrigger.dev/controlplane/scheduler/record"
)

// listPage is how many jobs a list reads at once.
const listPage = 1000

// Schedule stores a job under its full name, from [record.New], to begin now. A job that is there already is replaced with its
// counter if overwrite is set, even by an equal one, and counting starts again (Dapr API, jobs: when a job fires). Errors are
// an [*InvalidError], one that is [ErrExists], or of etcd and the context: then it may have been stored or not.
func (e *Engine) Schedule(ctx context.Context, name string, job *record.Job, overwrite bool) error {
	if err := record.CheckName(name); err != nil {
		return &InvalidError{Reason: err}
	}
	begun, err := job.Begin(e.now(), rand.Uint64(), e.parse)
	if err != nil {
		return &InvalidError{Reason: err}
	}
	value, err := begun.Encode()
	if err != nil {
		return err
	}
	w := &write{name: name, size: len(value), then: []clientv3.Op{
		clientv3.OpPut(record.JobKey(name), string(value)), clientv3.OpDelete(record.CounterKey(name)),
	}}
	if !overwrite {
		w.only = []clientv3.Cmp{clientv3.Compare(clientv3.CreateRevision(record.JobKey(name)), "=", 0)}
	}
	stored, err := e.write(ctx, w)
	if err != nil {
		return fmt.Errorf("the job %q %s: %w", name, failed("stored", err), err)
	}
	if !stored {
		return fmt.Errorf("%w: '%s'", ErrExists, name)
	}
	return nil
}

// write does a write of a client and says whether its conditions held.
func (e *Engine) write(ctx context.Context, w *write) (bool, error) {
	type outcome struct {
		held bool
		err  error
	}
	done := make(chan outcome, 1)
	w.done = func(held bool, err error) { done <- outcome{held, err} }
	if err := ctx.Err(); err != nil {
		return false, err
	}
	e.requests.add(w)
	select {
	case o := <-done:
		return o.held, o.err
	case <-ctx.Done():
		return false, ctx.Err()
	}
}

// Get reads a job by its full name. The error is [ErrNotFound] when there is none.
func (e *Engine) Get(ctx context.Context, name string) (*record.Job, error) {
	if err := record.CheckName(name); err != nil {
		return nil, &InvalidError{Reason: err}
	}
	resp, err := e.client.Get(ctx, record.JobKey(name))
	if err != nil {
		return nil, fmt.Errorf("the job %q could not be read: %w", name, err)
	}
	if len(resp.Kvs) == 0 {
		return nil, fmt.Errorf("%w: %s", ErrNotFound, name)
	}
	job, err := record.Decode(resp.Kvs[0].Value)
	if err != nil {
		return nil, fmt.Errorf("the job %q: %w", name, err)
	}
	return job, nil
}

// Delete removes a job by its full name. It is no error when there is none.
func (e *Engine) Delete(ctx context.Context, name string) error {
	if err := record.CheckName(name); err != nil {
		return &InvalidError{Reason: err}
	}
	_, err := e.write(ctx, &write{name: name, then: []clientv3.Op{
		clientv3.OpDelete(record.JobKey(name)), clientv3.OpDelete(record.CounterKey(name)),
	}})
	if err != nil {
		return fmt.Errorf("the job %q %s: %w", name, failed("deleted", err), err)
	}
	return nil
}

// failed says what is known of a change that failed. When etcd did not answer in time, such as while its leader changes, it may
// have been made, or may still be.
func failed(what string, err error) string {
	var coded interface{ Code() codes.Code }
	late := errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled)
	if late || errors.As(err, &coded) && (coded.Code() == codes.Unavailable || coded.Code() == codes.DeadlineExceeded) {
		return "may have been " + what + " or not, as etcd did not answer in time"
	}
	return "could not be " + what
}

// List reads the jobs whose full names begin with prefix, sorted by name, as they were at one moment. A job that cannot be
// read is left out and logged.
func (e *Engine) List(ctx context.Context, prefix string) ([]Named, error) {
	var list []Named
	pages := newPager(e.client, record.Jobs+prefix, listPage)
	for {
		kv, err := pages.next(ctx)
		if err != nil {
			return nil, fmt.Errorf("the jobs of %q could not be listed: %w", prefix, err)
		}
		if kv == nil {
			return list, nil
		}
		name := string(kv.Key[len(record.Jobs):])
		job, err := record.Decode(kv.Value)
		if err != nil {
			e.log.Warn(fmt.Sprintf("The job %q is left out of a list: %s; delete it", name, err))
			continue
		}
		list = append(list, Named{Name: name, Job: job})
	}
}

// DeletePrefix removes the jobs whose full names begin with any of the prefixes, all at one moment, and says how many there
// were. An empty prefix is refused.
func (e *Engine) DeletePrefix(ctx context.Context, prefixes ...string) (int, error) {
	var ops []clientv3.Op
	for _, p := range prefixes {
		if p == "" {
			return 0, &InvalidError{Reason: fmt.Errorf("an empty prefix would delete all jobs of all apps: give one")}
		}
		ops = append(ops, clientv3.OpDelete(record.Jobs+p, clientv3.WithPrefix()), clientv3.OpDelete(record.Counters+p, clientv3.WithPrefix()))
	}
	if len(ops) == 0 {
		return 0, nil
	}
	resp, err := e.client.Txn(ctx).Then(ops...).Commit()
	if err != nil {
		return 0, fmt.Errorf("the jobs of %q could not be deleted: %w", prefixes, err)
	}
	deleted := 0
	for i := 0; i < len(resp.Responses); i += 2 {
		deleted += int(resp.Responses[i].GetResponseDeleteRange().GetDeleted())
	}
	return deleted, nil
}
