// Package bindingstest is what the tests of binding components share: opening a binding the way a resource does, and asking it
// for its operations.
package bindingstest

import (
	"context"
	"testing"
	"time"

	"outrigger.dev/components"
	"outrigger.dev/components/bindings"
)

// Patience is how long a test waits for what must happen: a binding that opens, an answer, an event.
const Patience = 30 * time.Second

// Within is a context that ends after [Patience], or with the test.
func Within(tb testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), Patience)
	tb.Cleanup(cancel)
	return ctx
}

// Type is a binding type whose components are a B.
type Type[B bindings.Binding] struct {
	// Register adds the type to a registry.
	Register func(r *components.Registry)
	// Name is the type's without "bindings.", such as "redis".
	Name string
}

// Open opens a binding with the properties, and closes it with the test.
func (t Type[B]) Open(tb testing.TB, properties map[string]string) (B, error) {
	tb.Helper()
	return t.OpenInstance(tb, components.Instance{Properties: properties})
}

// MustOpen is Open of a binding whose properties the type knows, and which opens.
func (t Type[B]) MustOpen(tb testing.TB, properties map[string]string) B {
	tb.Helper()
	for _, f := range t.Descriptor(tb).Check(properties) {
		tb.Errorf("metadata: %s", f.Message)
	}
	b, err := t.Open(tb, properties)
	if err != nil {
		tb.Fatal(err)
	}
	return b
}

// OpenInstance is Open of an instance, whose name may be missing. The context of opening ends with it, as a sidecar's does.
func (t Type[B]) OpenInstance(tb testing.TB, inst components.Instance) (b B, err error) {
	tb.Helper()
	if inst.Name == "" {
		inst.Name = "mine"
	}
	ctx, cancel := context.WithTimeout(context.Background(), Patience)
	defer cancel()
	c, err := t.Descriptor(tb).Open(ctx, inst)
	if err != nil {
		return b, err
	}
	b = c.(B)
	tb.Cleanup(func() {
		if err := b.Close(); err != nil {
			tb.Errorf("Close: %v", err)
		}
	})
	return b, nil
}

// Descriptor is the type in a registry of its own.
func (t Type[B]) Descriptor(tb testing.TB) *components.Descriptor {
	tb.Helper()
	var r components.Registry
	t.Register(&r)
	d, err := r.Lookup(components.Bindings, t.Name, "v1")
	if err != nil {
		tb.Fatal(err)
	}
	return d
}

// Invoke asks for an operation, with metadata as names and values in turn.
func Invoke(b bindings.Output, operation, data string, metadata ...string) (*bindings.Response, error) {
	m := make(map[string]string, len(metadata)/2)
	for i := 0; i < len(metadata); i += 2 {
		m[metadata[i]] = metadata[i+1]
	}
	ctx, cancel := context.WithTimeout(context.Background(), Patience)
	defer cancel()
	return b.Invoke(ctx, bindings.Request{Operation: operation, Data: []byte(data), Metadata: m})
}

// InvokeFile asks a binding that keeps files for an operation on the one of the name, which may be empty. It returns the
// response's data, "" when there is no response.
func InvokeFile(b bindings.Output, operation, name, data string) (string, error) {
	var metadata []string
	if name != "" {
		metadata = []string{"fileName", name}
	}
	resp, err := Invoke(b, operation, data, metadata...)
	if err != nil || resp == nil {
		return "", err
	}
	return string(resp.Data), nil
}

// Receive takes the next event that a handler sent to the channel.
func Receive(tb testing.TB, events <-chan *bindings.Event) *bindings.Event {
	tb.Helper()
	timer := time.NewTimer(Patience)
	defer timer.Stop()
	select {
	case e := <-events:
		return e
	case <-timer.C:
		tb.Fatalf("no event within %s", Patience)
		return nil
	}
}
