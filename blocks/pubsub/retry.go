package pubsub

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"google.golang.org/grpc/status"

	"outrigger.dev/api"
	"outrigger.dev/components/pubsub"
	"outrigger.dev/resiliency"
)

// This file is what goes to a broker or to the app under a policy (Dapr API, resiliency: targets): what is judged by which status
// code, and which part of a bulk is tried again.

// terms are how the outbound policy applies to a publication.
type terms struct {
	// httpCodes has errors judged by HTTP status, see [Publication].
	httpCodes bool
	// stop, when closed, ends retrying; it may be nil.
	stop <-chan struct{}
}

// code gives the error of a publication the status code that policies match: the broker's gRPC code if there is one, or the HTTP
// status that goes with it (Dapr API, publish: error classes).
func (t terms) code(err error) error {
	s, ok := status.FromError(err)
	switch {
	case err == nil || !ok:
		return err
	case t.httpCodes:
		return resiliency.Coded(err, api.HTTPStatus(s.Code()))
	}
	return resiliency.Coded(err, int(s.Code()))
}

// appCode gives the error of a delivery the status code that policies match: the HTTP status or the gRPC code of the app's answer, if
// that is why it failed. A message that must not get a verdict is not tried again.
func appCode(err error) error {
	if err == nil {
		return nil
	}
	if errors.Is(err, errLater) {
		return resiliency.Final(err)
	}
	if s, ok := errors.AsType[*StatusError](err); ok {
		return resiliency.Coded(err, s.Status)
	}
	if s, ok := status.FromError(err); ok {
		return resiliency.Coded(err, int(s.Code()))
	}
	return err
}

// retry publishes a message under the outbound policy, to a topic of the broker.
func (b *broker) retry(ctx context.Context, request pubsub.PublishRequest, how terms) error {
	_, err := resiliency.RunWith(ctx, b.outbound, func(ctx context.Context) (struct{}, error) {
		return struct{}{}, how.code(b.component.Publish(ctx, request))
	}, resiliency.Hooks[struct{}]{Stop: how.stop})
	return err
}

// retry is tryOnce, under the inbound policy. When the subscription is stopped or paused while it waits for a retry, the message is left
// to the broker.
func (r *running) retry(ctx context.Context, d *delivery) (verdict, error) {
	what, err := resiliency.RunWith(ctx, r.broker.inbound, func(ctx context.Context) (verdict, error) { return r.tryOnce(ctx, d) },
		resiliency.Hooks[verdict]{Stop: r.retrying.Done()})
	return what, unlessStopped(err)
}

// unlessStopped makes the end of retrying a message without a verdict.
func unlessStopped(err error) error {
	if errors.Is(err, resiliency.ErrStopped) {
		return errLater
	}
	return err
}

// remaining are the entries of a bulk that are still to be sent, by their index. An attempt that was given up because of its timeout may
// look at them at any time.
type remaining struct {
	mu      sync.Mutex
	indices []int
}

func newRemaining(n int) *remaining {
	r := &remaining{indices: make([]int, n)}
	for i := range r.indices {
		r.indices[i] = i
	}
	return r
}

func (r *remaining) get() []int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.indices
}

func (r *remaining) set(indices []int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.indices = indices
}

// pick returns the elements of a slice with the indices.
func pick[T any](from []T, indices []int) []T {
	if len(indices) == len(from) {
		return from
	}
	picked := make([]T, len(indices))
	for n, i := range indices {
		picked[n] = from[i]
	}
	return picked
}

// answers are the results of an attempt for the entries it was made with. Those of an attempt that was given up, or refused, are empty.
type answers[T any] struct {
	indices []int
	results []T
}

// bulkRetry publishes a bulk under the outbound policy: each retry sends the entries that failed in the attempt before (Dapr API, bulk
// publish: resiliency).
func (b *broker) bulkRetry(ctx context.Context, request pubsub.BulkPublishRequest, how terms) ([]error, error) {
	left := newRemaining(len(request.Entries))
	narrow := func(a answers[error]) {
		if a.results == nil {
			return
		}
		var failed []int
		for n, i := range a.indices {
			if a.results[n] != nil {
				failed = append(failed, i)
			}
		}
		left.set(failed)
	}
	last, err := resiliency.RunWith(ctx, b.outbound, func(ctx context.Context) (answers[error], error) {
		part, indices := request, left.get()
		part.Entries = pick(request.Entries, indices)
		results, err := b.bulkAttempt(ctx, part)
		return answers[error]{indices, results}, how.code(err)
	}, resiliency.Hooks[answers[error]]{Again: narrow, Stop: how.stop})
	if err == nil {
		return nil, nil
	}
	errs := make([]error, len(request.Entries))
	if last.results != nil {
		for n, i := range last.indices {
			errs[i] = last.results[n]
		}
	} else {
		for _, i := range left.get() {
			errs[i] = err
		}
	}
	return errs, err
}

// retryBulk is askBulk under the inbound policy: each retry delivers the entries that are not done yet (Dapr API, bulk subscribe:
// processing). The error is that of all entries.
func (r *running) retryBulk(ctx context.Context, d *bulkDelivery) ([]verdictOrError, error) {
	left, results := newRemaining(len(d.entries)), make([]verdictOrError, len(d.entries))
	narrow := func(a answers[verdictOrError]) {
		if a.results == nil {
			return
		}
		var failed []int
		for n, i := range a.indices {
			if results[i] = a.results[n]; results[i].err != nil {
				failed = append(failed, i)
			}
		}
		left.set(failed)
	}
	last, err := resiliency.RunWith(ctx, r.broker.inbound, func(ctx context.Context) (answers[verdictOrError], error) {
		part, indices := *d, left.get()
		part.entries = pick(d.entries, indices)
		results, err := r.askBulk(ctx, &part)
		if err != nil {
			return answers[verdictOrError]{}, appCode(err)
		}
		for i := range results {
			if failure := results[i].err; failure != nil {
				err = fmt.Errorf("entry %s of a bulk: %w", part.entries[i].ID, failure)
				break
			}
		}
		return answers[verdictOrError]{indices, results}, err
	}, resiliency.Hooks[answers[verdictOrError]]{Again: narrow, Stop: r.retrying.Done()})
	narrow(last)
	if err == nil || last.results != nil {
		return results, nil
	}
	err = unlessStopped(err)
	if failed := left.get(); len(failed) < len(d.entries) {
		for _, i := range failed {
			results[i].err = err
		}
		return results, nil
	}
	return nil, err
}
