package state

import (
	"context"
	"errors"

	"google.golang.org/grpc/codes"

	"outrigger.dev/api"
	stores "outrigger.dev/components/state"
)

// Save writes items. Several are independent of each other: those that can be written are, and the call fails if one of them
// fails (Dapr API, state: bulk writes). The keys of items are the app's; the slice is changed. The errors are [*api.Error].
func (s *State) Save(ctx context.Context, store string, items []stores.SetRequest) error {
	e, err := s.open(store)
	if err != nil {
		return err
	}
	defer e.Release()
	return s.save(ctx, e.Component, items)
}

func (s *State) save(ctx context.Context, in *instance, items []stores.SetRequest) error {
	for i := range items {
		if err := in.savable(items[i].Key); err != nil {
			return err
		}
	}
	if len(items) == 0 {
		return nil
	}
	for i := range items {
		in.prepare(&items[i])
	}
	start := s.begin()
	var err error
	if len(items) == 1 {
		err = in.set(ctx, items[0])
	} else {
		err = joined(each(len(items), 0, func(i int) error { return in.set(ctx, items[i]) }))
	}
	s.end(in, "set", err, start)
	if err != nil {
		return withETag(api.ErrStateSave(in.name, err), err)
	}
	return nil
}

// savable refuses keys that nothing can be saved under.
func (in *instance) savable(key string) error {
	if key == "" {
		return api.ErrStateKeyMissing()
	}
	return in.legal(key)
}

// prepare turns the request of an app into the one for the store.
func (in *instance) prepare(item *stores.SetRequest) {
	item.Key = in.prefix + item.Key
	in.seal(item)
}

// seal encrypts the value if the store is configured so.
func (in *instance) seal(item *stores.SetRequest) {
	if in.cipher != nil {
		item.Value = in.cipher.encrypt(item.Value)
	}
}

// Delete removes one item; a missing one is no error unless there is an etag. The key is the app's. The errors are
// [*api.Error].
func (s *State) Delete(ctx context.Context, store string, item stores.DeleteRequest) error {
	e, err := s.open(store)
	if err != nil {
		return err
	}
	defer e.Release()
	in, key := e.Component, item.Key
	if err := in.legal(key); err != nil {
		return err
	}
	item.Key = in.prefix + key
	start := s.begin()
	err = in.delete(ctx, item)
	s.end(in, "delete", err, start)
	if err != nil {
		return withETag(api.ErrStateDelete(key, err), err)
	}
	return nil
}

// BulkDelete removes items, independently of each other like [State.Save]. The keys are the app's; the slice is changed. The
// errors are [*api.Error].
func (s *State) BulkDelete(ctx context.Context, store string, items []stores.DeleteRequest) error {
	e, err := s.open(store)
	if err != nil {
		return err
	}
	defer e.Release()
	in := e.Component
	for i := range items {
		if err := in.legal(items[i].Key); err != nil {
			return err
		}
	}
	if len(items) == 0 {
		return nil
	}
	for i := range items {
		items[i].Key = in.prefix + items[i].Key
	}
	start := s.begin()
	if len(items) == 1 {
		err = in.delete(ctx, items[0])
	} else {
		err = joined(each(len(items), 0, func(i int) error { return in.delete(ctx, items[i]) }))
	}
	s.end(in, "bulk_delete", err, start)
	if err != nil {
		return withETag(api.ErrStateBulkDelete(store, err), err)
	}
	return nil
}

// Transact applies operations as one. Their keys are the app's, and may be empty; the requests are changed. The errors are
// [*api.Error]; a wrong etag is a failed transaction like any other.
func (s *State) Transact(ctx context.Context, store string, operations []stores.Operation, metadata map[string]string) error {
	e, err := s.open(store)
	if err != nil {
		return err
	}
	defer e.Release()
	for i := range operations {
		if err := e.Component.legal(operations[i].Key()); err != nil {
			return err
		}
	}
	transactor, err := e.Component.transactor()
	if err != nil {
		return err
	}
	return s.transact(ctx, e.Component, transactor, transaction{operations: operations, metadata: metadata})
}

// transactor is the store if it has transactions.
func (in *instance) transactor() (stores.Transactor, error) {
	if t, ok := in.store.(stores.Transactor); ok {
		return t, nil
	}
	return nil, api.ErrStateTransactionsNotSupported(in.name)
}

// transact runs a transaction whose keys were found legal.
func (s *State) transact(ctx context.Context, in *instance, t stores.Transactor, tx transaction) error {
	operations := tx.operations
	if l, ok := in.store.(stores.TransactionLimiter); ok {
		if limit := l.MaxOperations(); limit > 0 && len(operations) > limit {
			return api.ErrStateTooManyOperations(in.name, len(operations), limit)
		}
	}
	for _, o := range operations {
		if o.Set != nil {
			o.Set.Key = in.prefix + o.Set.Key
		} else {
			o.Delete.Key = in.prefix + o.Delete.Key
		}
	}
	var added []stores.Operation
	var err error
	if s.published(in) {
		operations, added, err = s.options.Outbox.Prepare(ctx, in.name, operations, tx.contentTypes, tx.traceParent, tx.traceState)
		if err != nil {
			return err
		}
		if len(operations) == 0 && len(tx.operations) > 0 {
			return nil // there were but projections
		}
	}
	for _, o := range operations {
		if o.Set != nil {
			in.seal(o.Set)
		}
	}
	start := s.begin()
	tries, err := in.transact(ctx, t, stores.TransactionRequest{Operations: append(operations, added...), Metadata: tx.metadata})
	s.end(in, "transaction", err, start)
	if err != nil {
		// After a retry, it may be that an earlier try was committed and its own etags refuse the last.
		if _, refused := stores.AsETagError(err); refused && tries == 1 && len(added) > 0 {
			s.undo(ctx, in, t, added)
		}
		return api.ErrStateTransaction(err)
	}
	return nil
}

// withETag gives the error of a write the status of an etag that was wrong, if that was the reason.
func withETag(e *api.Error, err error) *api.Error {
	etag, ok := stores.AsETagError(err)
	switch {
	case !ok:
	case etag.Invalid:
		e.HTTP, e.GRPC = 400, codes.InvalidArgument
	default:
		e.HTTP, e.GRPC = 409, codes.Aborted
	}
	return e
}

// joined makes one error of those of several writes (Dapr API, state: bulk writes). If all are about etags it is, too, and
// as soon as one etag is invalid so is the whole.
func joined(errs []error) error {
	failures, etags, invalid := 0, 0, false
	for _, err := range errs {
		if err == nil {
			continue
		}
		failures++
		if e, ok := stores.AsETagError(err); ok {
			etags++
			invalid = invalid || e.Invalid
		}
	}
	switch {
	case failures == 0:
		return nil
	case etags < failures:
		return errors.Join(errs...)
	case invalid:
		return stores.Invalid(errors.Join(errs...))
	default:
		return stores.Mismatch(errors.Join(errs...))
	}
}
