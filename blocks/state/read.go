package state

import (
	"context"
	"errors"

	"outrigger.dev/api"
	stores "outrigger.dev/components/state"
)

// Get reads one item; a missing one is no error. The errors are [*api.Error].
func (s *State) Get(ctx context.Context, store, key string, consistency stores.Consistency, metadata map[string]string) (stores.Item, error) {
	e, err := s.open(store)
	if err != nil {
		return stores.Item{}, err
	}
	defer e.Release()
	in := e.Component
	if err := in.legal(key); err != nil {
		return stores.Item{}, err
	}
	start := s.begin()
	item, err := in.get(ctx, stores.GetRequest{Key: in.prefix + key, Metadata: metadata, Consistency: consistency})
	s.end(in, "get", err, start)
	if err == nil && in.cipher != nil && item.Found {
		item.Data, err = in.cipher.decrypt(item.Data)
	}
	if err != nil {
		return stores.Item{}, api.ErrStateGet(store, key, err)
	}
	return item, nil
}

// BulkGet reads many items. The result has the app's keys, missing ones as well, in an order of the store's choice; what went
// wrong with single items is their Err. parallelism is how many items are read at a time from stores that have no bulk read of
// their own; 0 or less leaves it to the block. The errors are [*api.Error].
func (s *State) BulkGet(ctx context.Context, store string, keys []string, parallelism int, metadata map[string]string) ([]stores.BulkItem, error) {
	e, err := s.open(store)
	if err != nil {
		return nil, err
	}
	defer e.Release()
	return s.bulkGet(ctx, e.Component, keys, parallelism, metadata)
}

func (s *State) bulkGet(ctx context.Context, in *instance, keys []string, parallelism int, metadata map[string]string) ([]stores.BulkItem, error) {
	if len(keys) == 0 {
		return nil, nil
	}
	reqs := make([]stores.GetRequest, len(keys))
	for i, key := range keys {
		if err := in.legal(key); err != nil {
			return nil, err
		}
		reqs[i] = stores.GetRequest{Key: in.prefix + key, Metadata: metadata}
	}
	start := s.begin()
	items, err := in.read(ctx, reqs, parallelism)
	s.end(in, "bulk_get", err, start)
	if err != nil {
		return nil, api.ErrStateBulkGet(err)
	}
	for i := range items {
		item := &items[i]
		item.Key = in.appKey(item.Key)
		if in.cipher != nil && item.Err == nil && item.Found {
			item.Data, item.Err = in.cipher.decrypt(item.Data)
		}
		if item.Err != nil {
			item.Data = nil
		}
	}
	return items, nil
}

// read reads many items in one exchange, or one by one, some at a time.
func (in *instance) read(ctx context.Context, reqs []stores.GetRequest, parallelism int) ([]stores.BulkItem, error) {
	if bulk, ok := in.store.(stores.BulkGetter); ok {
		return in.bulkGet(ctx, bulk, reqs)
	}
	items := make([]stores.BulkItem, len(reqs))
	errs := each(len(reqs), parallelism, func(i int) (err error) {
		items[i].Key = reqs[i].Key
		items[i].Item, err = in.get(ctx, reqs[i])
		return err
	})
	for i, err := range errs {
		items[i].Err = err
	}
	return items, nil
}

// errQueryEncrypted refuses queries on values that the store cannot read.
var errQueryEncrypted = errors.New("cannot query encrypted store")

// Query answers a query, given in JSON, on the values of a store: of all apps that use it, for the store does not know them
// apart. The keys of the result are without their prefix. The errors are [*api.Error].
func (s *State) Query(ctx context.Context, store string, query []byte, metadata map[string]string) (stores.QueryResult, error) {
	e, err := s.use(store, "")
	if err != nil {
		return stores.QueryResult{}, err
	}
	defer e.Release()
	return s.query(ctx, e.Component, query, metadata)
}

func (s *State) query(ctx context.Context, in *instance, query []byte, metadata map[string]string) (stores.QueryResult, error) {
	querier, ok := in.store.(stores.Querier)
	if !ok {
		return stores.QueryResult{}, api.ErrStateQueryNotSupported(in.name)
	}
	if in.cipher != nil {
		return stores.QueryResult{}, api.ErrStateQuery(in.name, errQueryEncrypted)
	}
	parsed, err := stores.ParseQuery(query)
	if err != nil {
		return stores.QueryResult{}, api.ErrStateQuery(in.name, err)
	}
	start := s.begin()
	result, err := in.query(ctx, querier, parsed, metadata)
	s.end(in, "query", err, start)
	if err != nil {
		return stores.QueryResult{}, api.ErrStateQuery(in.name, err)
	}
	for i := range result.Items {
		result.Items[i].Key = foreignKey(result.Items[i].Key)
	}
	return result, nil
}
