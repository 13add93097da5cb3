package bindings

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"outrigger.dev/api"
	contract "outrigger.dev/components/bindings"
	"outrigger.dev/resiliency"
)

// output is a component in service; binding is nil for one that is only an input.
type output struct {
	name    string
	binding contract.Output
	// policy is for its calls; it may be nil.
	policy *resiliency.Policy
}

// refusal is why no component was asked to carry out a request.
type refusal string

func (r refusal) Error() string { return string(r) }

const errNoOperation = refusal("operation field is missing from request")

// Invoke carries out an operation of an output binding for the app. The metadata of the request must not be nil. A nil response means
// that the binding gave none; a response may come with an error, for its metadata. The errors are [*api.Error].
func (b *Bindings) Invoke(ctx context.Context, name string, req contract.Request) (*contract.Response, error) {
	start := b.options.Clock.Now()
	resp, err := b.invoke(ctx, name, req, nil)
	if _, refused := errors.AsType[refusal](err); refused {
		b.invoked.Refused(name, req.Operation, b.options.Clock.Since(start))
	} else {
		b.invoked.Observe(name, req.Operation, err == nil, b.options.Clock.Since(start))
	}
	if err != nil {
		return resp, api.ErrInvokeOutputBinding(name, err)
	}
	return resp, nil
}

// invoke checks a request and carries it out; there are no more retries once stop, which may be nil, is closed. Errors are the cause
// alone.
func (b *Bindings) invoke(ctx context.Context, name string, req contract.Request, stop <-chan struct{}) (*contract.Response, error) {
	if req.Operation == "" {
		return nil, errNoOperation
	}
	e := b.outputs.Use(name)
	if e == nil {
		return nil, refusal("couldn't find output binding " + name)
	}
	defer e.Release()
	if e.Component.binding == nil {
		return nil, refusal("couldn't find output binding " + name)
	}
	if operations := e.Component.binding.Operations(); !slices.Contains(operations, req.Operation) {
		return nil, refusal(fmt.Sprintf("binding %s does not support operation %s. supported operations:%s", name, req.Operation, strings.Join(operations, " ")))
	}
	return b.outbound(ctx, e.Component, req, stop)
}

// outbound is the one place where components are called, under the outbound policy of the component. With a timeout the call may
// still be running when it returns: nobody changes the request from here on.
func (b *Bindings) outbound(ctx context.Context, o *output, req contract.Request, stop <-chan struct{}) (*contract.Response, error) {
	if o.policy == nil {
		return o.binding.Invoke(ctx, req)
	}
	return resiliency.RunWith(ctx, o.policy, func(ctx context.Context) (*contract.Response, error) { return o.binding.Invoke(ctx, req) },
		resiliency.Hooks[*contract.Response]{Stop: stop})
}
