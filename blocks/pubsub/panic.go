package pubsub

import (
	"context"
	"fmt"
	"runtime/debug"

	"outrigger.dev/components/pubsub"
)

// rescue, deferred, makes of a panic an error. Handlers run in goroutines of the brokers, where a panic over one message would
// take everything in the process down, and come again with the message.
func (r *running) rescue(err *error) {
	if p := recover(); p != nil {
		*err = fmt.Errorf("the sidecar panicked over a message on %s: %v; please report this defect", &r.subscription, p)
		r.log.Error((*err).Error(), "stack", string(debug.Stack()))
	}
}

// guarded is process without panics: they are failures of the message.
func (r *running) guarded(msg *pubsub.Message) (err error) {
	defer r.rescue(&err)
	return r.process(r.ctx, msg)
}

// guardedBulk is handleBulk without panics: they are failures of all entries.
func (r *running) guardedBulk(msg *pubsub.BulkMessage) (errs []error) {
	var err error
	defer func() {
		if err != nil {
			errs = make([]error, len(msg.Entries))
			for i := range errs {
				errs[i] = err
			}
		}
	}()
	defer r.rescue(&err)
	return r.handleBulk(r.ctx, msg)
}

// ask calls the receiver. A panic is a failure like others, which dead letters take.
func (r *running) ask(ctx context.Context, d *delivery) (what verdict, err error) {
	defer r.rescue(&err)
	return r.receiver.deliver(ctx, d)
}

// askBulk is ask for a bulk.
func (r *running) askBulk(ctx context.Context, d *bulkDelivery) (results []verdictOrError, err error) {
	defer r.rescue(&err)
	return r.bulkReceiver.deliverBulk(ctx, d)
}
