package state

import (
	"context"
	"sync/atomic"

	stores "outrigger.dev/components/state"
	"outrigger.dev/resiliency"
)

// This file is where stores are called: under the outbound policy of the component (Dapr API, resiliency: targets). Several items
// of one request that are independent of each other are as many calls. With a timeout, a call may still be running when the request
// has ended: requests of a store and what they refer to are changed by nobody once they are handed over here.

// judged makes of a store's error what the policy goes by. A wrong etag is an answer: the store works, and would say the same again.
func judged(err error) error {
	if err == nil {
		return nil
	}
	if _, ok := stores.AsETagError(err); ok {
		return resiliency.Final(err)
	}
	return err
}

func (in *instance) get(ctx context.Context, req stores.GetRequest) (stores.Item, error) {
	if in.policy == nil {
		return in.store.Get(ctx, req)
	}
	return resiliency.Run(ctx, in.policy, func(ctx context.Context) (stores.Item, error) { return in.store.Get(ctx, req) })
}

func (in *instance) bulkGet(ctx context.Context, store stores.BulkGetter, reqs []stores.GetRequest) ([]stores.BulkItem, error) {
	if in.policy == nil {
		return store.BulkGet(ctx, reqs)
	}
	return resiliency.Run(ctx, in.policy, func(ctx context.Context) ([]stores.BulkItem, error) { return store.BulkGet(ctx, reqs) })
}

func (in *instance) query(ctx context.Context, store stores.Querier, query stores.Query, metadata map[string]string) (stores.QueryResult, error) {
	if in.policy == nil {
		return store.Query(ctx, query, metadata)
	}
	return resiliency.Run(ctx, in.policy, func(ctx context.Context) (stores.QueryResult, error) { return store.Query(ctx, query, metadata) })
}

func (in *instance) set(ctx context.Context, req stores.SetRequest) error {
	if in.policy == nil {
		return in.store.Set(ctx, req)
	}
	return resiliency.Do(ctx, in.policy, func(ctx context.Context) error { return judged(in.store.Set(ctx, req)) })
}

func (in *instance) delete(ctx context.Context, req stores.DeleteRequest) error {
	if in.policy == nil {
		return in.store.Delete(ctx, req)
	}
	return resiliency.Do(ctx, in.policy, func(ctx context.Context) error { return judged(in.store.Delete(ctx, req)) })
}

// transact also tells how often it was tried.
func (in *instance) transact(ctx context.Context, store stores.Transactor, req stores.TransactionRequest) (tries int, err error) {
	if in.policy == nil {
		return 1, store.Transact(ctx, req)
	}
	var count atomic.Int64
	err = resiliency.Do(ctx, in.policy, func(ctx context.Context) error {
		count.Add(1)
		return judged(store.Transact(ctx, req))
	})
	return int(count.Load()), err
}
