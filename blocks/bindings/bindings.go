// Package bindings is the building block for bindings (Dapr API, bindings): it carries out operations of output bindings for the
// app, and brings the events of input bindings to it.
//
// bindings.go and output.go are the service, which knows nothing of HTTP and gRPC APIs; http.go and grpc.go are its faces. input.go
// decides which input bindings are read when, reader.go reads one of them, and target.go, target_http.go and target_grpc.go hand
// events to the app.
package bindings

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/jonboulle/clockwork"

	"outrigger.dev/blocks/internal/table"
	contract "outrigger.dev/components/bindings"
	"outrigger.dev/resiliency"
	"outrigger.dev/telemetry/metrics"
	"outrigger.dev/telemetry/tracing"
)

// DefaultProbeTimeout bounds asking the app whether it wants an input binding (Dapr API, bindings: discovery).
const DefaultProbeTimeout = 3 * time.Second

// Options are what the block needs to know of its sidecar.
type Options struct {
	// ProbeTimeout bounds one question to the app whether it wants an input binding: --app-binding-options-timeout. 0 and less
	// mean DefaultProbeTimeout.
	ProbeTimeout time.Duration
	// MaxBodyBytes bounds an app's reply to an event; 0 and less mean no limit.
	MaxBodyBytes int64
	// Tracer makes the spans of events of input bindings; nil is off.
	Tracer *tracing.Tracer
	// CheckBaggage tells what is wrong with a baggage header; nil takes them all. A server that checks baggage itself refuses a
	// bad one before it gets here.
	CheckBaggage func(header string) error
	// Resiliency has the policies for the calls of components, and for those of the app with their events; nil has none.
	Resiliency *resiliency.Engine
	// Metrics may be nil.
	Metrics *metrics.Metrics
	// Clock measures latencies and times pauses; nil is the system's clock.
	Clock clockwork.Clock
	// Log may be nil.
	Log *slog.Logger
}

// Bindings is the block. Its methods are safe for concurrent use.
type Bindings struct {
	options    Options
	outputs    table.Table[*output]
	invoked    *metrics.Operations
	delivered  *metrics.InputBindings
	grpcServer *metrics.GRPCServer

	mu     sync.Mutex
	inputs map[string]*input
	// active is nil while input bindings are not read.
	active *session
	// ended is set by Shutdown: nothing is read any more.
	ended bool
}

// New makes a Bindings without components. Input bindings are not read before Start.
func New(o Options) *Bindings {
	if o.ProbeTimeout <= 0 {
		o.ProbeTimeout = DefaultProbeTimeout
	}
	if o.Clock == nil {
		o.Clock = clockwork.NewRealClock()
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	return &Bindings{
		options: o, inputs: map[string]*input{},
		invoked: o.Metrics.OutputBindings(), delivered: o.Metrics.InputBindings(), grpcServer: o.Metrics.GRPCServer(),
	}
}

// Component is a binding with what the block has to know of its resource.
type Component struct {
	// Name is the metadata.name, Type the spec.type of the resource.
	Name, Type string
	Binding    contract.Binding
	// Properties are the metadata properties, of which the block reads direction and route.
	Properties map[string]string
}

// Directions of the metadata property direction (Dapr API, bindings: direction).
const (
	directionInput  = "input"
	directionOutput = "output"
)

// directions are the words of the property direction in lower case; nil when it is absent or empty.
func (c *Component) directions() []string {
	var words []string
	for name, value := range c.Properties {
		if !strings.EqualFold(name, "direction") {
			continue
		}
		for word := range strings.SplitSeq(value, ",") {
			if word = strings.ToLower(strings.TrimSpace(word)); word != "" {
				words = append(words, word)
			}
		}
	}
	return words
}

// in is the input binding that the component is used as, nil if it is none.
func (c *Component) in(words []string) contract.Input {
	if words == nil || slices.Contains(words, directionInput) {
		in, _ := c.Binding.(contract.Input)
		return in
	}
	return nil
}

// out is the output binding that the component is used as, nil if it is none.
func (c *Component) out(words []string) contract.Output {
	if words == nil || slices.Contains(words, directionOutput) {
		out, _ := c.Binding.(contract.Output)
		return out
	}
	return nil
}

// Capabilities are what the metadata API lists for the component.
func (c Component) Capabilities() []string {
	words := c.directions()
	var names []string
	if c.in(words) != nil {
		names = append(names, contract.CapabilityInput)
	}
	if c.out(words) != nil {
		names = append(names, contract.CapabilityOutput)
	}
	return names
}

// route is the path of an HTTP app that the events of the component go to (Dapr API, bindings: route).
func (c *Component) route() string {
	if route := c.Properties["route"]; route != "" {
		return route
	}
	return c.Name
}

// Add makes a component available under its name, in the directions that its type has and its property direction names. When
// input bindings are being read, reading of this one begins at once, in the background. It fails when the name is taken, and when
// the type has none of the directions that the property names.
func (b *Bindings) Add(c Component) error {
	words := c.directions()
	in, out := c.in(words), c.out(words)
	if in == nil && out == nil {
		return fmt.Errorf("couldn't find binding %s: %s has no direction %q; write input or output, whichever the type supports, or leave the property direction out",
			c.Name, c.Type, strings.Join(words, ","))
	}
	for _, word := range words {
		if word != directionInput && word != directionOutput {
			b.options.Log.Warn(fmt.Sprintf("binding %s: the property direction names %q, which is no direction; write input, output or both", c.Name, word))
		}
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if _, taken := b.inputs[c.Name]; taken {
		return fmt.Errorf("a binding named %q is already loaded; remove it first, or give this one another name", c.Name)
	}
	// An input binding holds its place among the outputs too, so that a name means one component.
	o := &output{name: c.Name, binding: out, policy: b.options.Resiliency.Component(resiliency.Binding, c.Name, resiliency.Outbound)}
	if err := b.outputs.Add(c.Name, o); err != nil {
		return err
	}
	if in == nil {
		return nil
	}
	// A direction that says input saves asking the app.
	i := &input{
		name: c.Name, binding: in, wanted: slices.Contains(words, directionInput),
		policy: b.options.Resiliency.Component(resiliency.Binding, c.Name, resiliency.Inbound),
	}
	i.path, i.query = splitRoute(c.route())
	b.inputs[c.Name] = i
	if b.active != nil {
		b.read(i)
	}
	return nil
}

// Remove takes a component out, if it is there: its reading ends as in Shutdown, and running operations are awaited. Then it may be
// closed. It is out even when the context ends the wait, which is the only error.
func (b *Bindings) Remove(ctx context.Context, name string) error {
	b.mu.Lock()
	var r *reader
	if i := b.inputs[name]; i != nil {
		r = i.reader
		delete(b.inputs, name)
	}
	b.mu.Unlock()
	var stopErr error
	if r != nil {
		stopErr = stopAll(ctx, []*reader{r})
	}
	err := errors.Join(stopErr, b.outputs.Remove(ctx, name))
	if err == nil {
		err = b.options.Resiliency.Component(resiliency.Binding, name, resiliency.Outbound).Wait(ctx)
	}
	if err != nil {
		return fmt.Errorf("removing a binding: %w", err)
	}
	return nil
}
