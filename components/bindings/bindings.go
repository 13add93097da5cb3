// Package bindings is the contract of binding components (Dapr API, bindings): triggers that bring events into the app, and
// actions that the app asks of the outside.
//
// A component type implements [Input], [Output], or both.
package bindings

import (
	"context"
	"io"
	"reflect"

	"outrigger.dev/components"
)

// Binding is what every binding component does besides one or both of its directions.
type Binding interface {
	// Close ends all reading as the closer of [Input.Read] does and releases the binding. It may be called more than once.
	Close() error
}

// Input is a binding that brings events to the app.
type Input interface {
	Binding
	// Read starts to hand events to the handler and returns. ctx bounds only the start: reading goes on until the returned
	// closer or the component is closed, and re-establishes itself when the other side goes away. The closer takes no more
	// events, cancels the contexts of running handlers, and returns once all have returned. At most one reading is open at a
	// time, but one may follow another.
	Read(ctx context.Context, handler Handler) (io.Closer, error)
}

// Handler takes one event and returns what the app replied. An error means that the event was not processed: the component
// does not acknowledge it. When ctx has ended the event has no verdict at all. Several calls may run at once.
type Handler func(ctx context.Context, event *Event) ([]byte, error)

// Event is something that happened outside.
type Event struct {
	Data []byte
	// Metadata becomes headers of the delivery to the app. May be nil.
	Metadata map[string]string
}

// Output is a binding that does something outside on behalf of the app. Its methods are safe for concurrent use.
type Output interface {
	Binding
	// Operations are the names of what Invoke can do, in the order in which messages list them.
	Operations() []string
	// Invoke carries out an operation, one of Operations. A nil response means that there is none, which is not an empty one.
	// A response may come with an error, for its metadata.
	Invoke(ctx context.Context, req Request) (*Response, error)
}

// The usual operations (Dapr API, bindings: operations).
const (
	Create = "create"
	Get    = "get"
	Delete = "delete"
	List   = "list"
)

// Request asks for an operation.
type Request struct {
	Operation string
	// Data is changed by nobody, neither by the component nor, once Invoke has it, by the caller: a client library may go on
	// reading it after Invoke has returned, as net/http does when the answer comes before the request has been sent.
	Data []byte
	// Metadata are the parameters, never nil.
	Metadata map[string]string
}

// Response is the outcome of an operation.
type Response struct {
	Data []byte
	// Metadata becomes headers of the reply to the app. May be nil.
	Metadata map[string]string
}

// The capabilities that the metadata API lists (Dapr API, metadata).
const (
	CapabilityInput  = "INPUT_BINDING"
	CapabilityOutput = "OUTPUT_BINDING"
)

// Register adds a binding type to r. B, which open returns, must implement [Input], [Output] or both, and these are the
// capabilities of the type; a B that only is a [Binding] leaves them open.
func Register[O any, B Binding](r *components.Registry, info components.Info, open func(ctx context.Context, inst components.Instance, options O) (B, error)) {
	b := reflect.TypeFor[B]()
	info.Capabilities = nil
	if b.Implements(reflect.TypeFor[Input]()) {
		info.Capabilities = append(info.Capabilities, CapabilityInput)
	}
	if b.Implements(reflect.TypeFor[Output]()) {
		info.Capabilities = append(info.Capabilities, CapabilityOutput)
	}
	components.Register(r, components.Bindings, info, open)
}
