package bindings

import (
	"context"

	"outrigger.dev/app"
	contract "outrigger.dev/components/bindings"
)

// target is the app, as input bindings see it. There is one for each session.
type target interface {
	// wants asks the app whether it takes events of the binding.
	wants(ctx context.Context, in *input) (bool, error)
	// deliver calls the app with an event, once. The error is for policies to judge.
	deliver(ctx context.Context, in *input, event *contract.Event) (answer, error)
	// verdict makes of the last error of deliver, which may be nil, what the component is told.
	verdict(err error) error
}

// answer is an app's reply to an event.
type answer struct {
	// data goes back to the component.
	data []byte
	// to are output bindings that get data too, all at a time if parallel.
	to       []string
	parallel bool
}

// newTarget makes the target for an app's protocol.
func (b *Bindings) newTarget(channel app.Channel) target {
	if c, ok := channel.(*app.GRPCChannel); ok {
		return newGRPCTarget(c.Conns(), b.grpcServer)
	}
	return &httpTarget{channel: channel, limit: b.options.MaxBodyBytes}
}
