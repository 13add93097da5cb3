package bindings

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"outrigger.dev/api"
	contract "outrigger.dev/components/bindings"
)

// output is a component in service; binding is nil for one that is only an input.
type output struct {
	name    string
	binding contract.Output
}

var errNoOperation = errors.New("operation field is missing from request")

// Invoke carries out an operation of an output binding for the app. The metadata of the request must not be nil. A nil response means
// that the binding gave none; a response may come with an error, for its metadata. The errors are [*api.Error].
func (b *Bindings) Invoke(ctx context.Context, name string, req contract.Request) (*contract.Response, error) {
	start := b.options.Clock.Now()
	resp, err := b.invoke(ctx, name, req)
	b.invoked.Observe(name, req.Operation, err == nil, b.options.Clock.Since(start))
	if err != nil {
		return resp, api.ErrInvokeOutputBinding(name, err)
	}
	return resp, nil
}

// invoke checks a request and carries it out. Errors are the cause alone.
func (b *Bindings) invoke(ctx context.Context, name string, req contract.Request) (*contract.Response, error) {
	if req.Operation == "" {
		return nil, errNoOperation
	}
	e := b.outputs.Use(name)
	if e == nil {
		return nil, fmt.Errorf("couldn't find output binding %s", name)
	}
	defer e.Release()
	if e.Component.binding == nil {
		return nil, fmt.Errorf("couldn't find output binding %s", name)
	}
	if operations := e.Component.binding.Operations(); !slices.Contains(operations, req.Operation) {
		return nil, fmt.Errorf("binding %s does not support operation %s. supported operations:%s", name, req.Operation, strings.Join(operations, " "))
	}
	return b.outbound(ctx, e.Component, req)
}

// outbound is the one place where components are called: the outbound policy of the component belongs around it.
func (b *Bindings) outbound(ctx context.Context, o *output, req contract.Request) (*contract.Response, error) {
	return o.binding.Invoke(ctx, req)
}
