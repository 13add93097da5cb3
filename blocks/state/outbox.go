package state

import (
	"context"
	"time"

	stores "outrigger.dev/components/state"
	"outrigger.dev/telemetry/tracing"
)

// Outbox publishes what transactions write (Dapr API, transactional outbox). The outbox block implements it.
type Outbox interface {
	// Enabled reports whether transactions of a store are published. It is asked for each of them, and so must be cheap.
	Enabled(store string) bool
	// Prepare publishes the events of operations that are about to be run, which have stored keys and the values of the app,
	// not yet encrypted. contentTypes has the content type field of every operation; it is nil when none can have one.
	// traceParent and traceState are the W3C trace context of the request, empty when there is none.
	//
	// It returns those operations that are to be run, in operations itself, and others to be run with them exactly as they
	// are: neither prefixed nor encrypted. After an error, which goes to the app, nothing may be written. What was added is
	// deleted if the transaction is refused for an etag.
	Prepare(ctx context.Context, store string, operations []stores.Operation, contentTypes []string, traceParent, traceState string) (kept, added []stores.Operation, err error)
}

// undoLimit bounds undo.
const undoLimit = 5 * time.Second

// undo deletes what was added to a transaction that was refused for an etag: some stores, Redis among them, keep what else such
// a transaction has written, and the events of a failed transaction must not get out. Other failures leave open whether the
// transaction was committed, so nothing is undone then.
func (s *State) undo(ctx context.Context, in *instance, t stores.Transactor, added []stores.Operation) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoLimit)
	defer cancel()
	deletions := make([]stores.Operation, len(added))
	for i, o := range added {
		deletions[i].Delete = &stores.DeleteRequest{Key: o.Key()}
	}
	if err := t.Transact(ctx, stores.TransactionRequest{Operations: deletions}); err != nil {
		s.options.Log.Warn("the outbox may publish a transaction that was refused for an etag: its markers could not be deleted", "component", in.name, "error", err)
	}
}

// transaction is what an app wants to be done as one.
type transaction struct {
	operations []stores.Operation
	metadata   map[string]string
	// The others are for the outbox; see there.
	contentTypes            []string
	traceParent, traceState string
}

// published reports whether transactions of the store go through the outbox.
func (s *State) published(in *instance) bool {
	return s.options.Outbox != nil && s.options.Outbox.Enabled(in.name)
}

// traceFrom adds the trace context of a call.
func (tx *transaction) traceFrom(ctx context.Context) {
	span := tracing.FromContext(ctx)
	tx.traceParent, tx.traceState = span.Parent(), span.State()
}
