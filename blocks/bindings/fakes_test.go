package bindings

import (
	"context"
	"errors"
	"io"
	"net/http"
	"sync"
	"testing"
	"time"

	"outrigger.dev/app"
	"outrigger.dev/app/apptest"
	contract "outrigger.dev/components/bindings"
)

// outputFake is an output binding that remembers what it was asked.
type outputFake struct {
	operations []string
	answer     func(ctx context.Context, req contract.Request) (*contract.Response, error)

	mu   sync.Mutex
	seen []contract.Request
}

var _ contract.Output = (*outputFake)(nil)

func newOutput(answer func(context.Context, contract.Request) (*contract.Response, error)) *outputFake {
	return &outputFake{operations: []string{"create", "get", "list", "delete"}, answer: answer}
}

func (o *outputFake) Operations() []string { return o.operations }

func (o *outputFake) Invoke(ctx context.Context, req contract.Request) (*contract.Response, error) {
	o.mu.Lock()
	o.seen = append(o.seen, contract.Request{Operation: req.Operation, Data: append([]byte(nil), req.Data...), Metadata: req.Metadata})
	o.mu.Unlock()
	if o.answer == nil {
		return nil, nil
	}
	return o.answer(ctx, req)
}

func (o *outputFake) Close() error { return nil }

func (o *outputFake) requests() []contract.Request {
	o.mu.Lock()
	defer o.mu.Unlock()
	return append([]contract.Request(nil), o.seen...)
}

// inputFake is an input binding whose events the test makes.
type inputFake struct {
	mu sync.Mutex
	// failures are errors of the next calls of Read.
	failures []error
	opened   int
	reading  *readingFake
	overlap  bool
}

var _ contract.Input = (*inputFake)(nil)

// readingFake is one open reading.
type readingFake struct {
	in      *inputFake
	handler contract.Handler
	ctx     context.Context
	cancel  context.CancelFunc
	closing bool
	running sync.WaitGroup
}

func (i *inputFake) Read(_ context.Context, handler contract.Handler) (io.Closer, error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.opened++
	if len(i.failures) > 0 {
		err := i.failures[0]
		i.failures = i.failures[1:]
		return nil, err
	}
	i.overlap = i.overlap || i.reading != nil
	r := &readingFake{in: i, handler: handler}
	r.ctx, r.cancel = context.WithCancel(context.Background())
	i.reading = r
	return r, nil
}

func (i *inputFake) Close() error { return nil }

// Close ends a reading as the contract wants it.
func (r *readingFake) Close() error {
	r.in.mu.Lock()
	r.closing = true
	r.in.mu.Unlock()
	r.cancel()
	r.running.Wait()
	r.in.mu.Lock()
	defer r.in.mu.Unlock()
	r.in.reading = nil
	return nil
}

func (i *inputFake) open() bool {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.reading != nil
}

func (i *inputFake) tries() int {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.opened
}

// outcome is what the component got for an event.
type outcome struct {
	reply []byte
	err   error
}

var errNotRead = errors.New("the binding is not read")

// start hands an event over and does not wait for the outcome.
func (i *inputFake) start(event *contract.Event) <-chan outcome {
	out := make(chan outcome, 1)
	i.mu.Lock()
	r := i.reading
	taken := r != nil && !r.closing
	if taken {
		r.running.Add(1)
	}
	i.mu.Unlock()
	if !taken {
		out <- outcome{err: errNotRead}
		return out
	}
	go func() {
		defer r.running.Done()
		reply, err := r.handler(r.ctx, event)
		out <- outcome{reply, err}
	}()
	return out
}

func (i *inputFake) event(t testing.TB, event *contract.Event) outcome {
	t.Helper()
	return apptest.Receive(t, "the outcome of an event", i.start(event))
}

// both is a binding of both directions.
type both struct {
	*inputFake
	*outputFake
}

func (both) Close() error { return nil }

// serveHTTP starts an HTTP app and the channel to it.
func serveHTTP(t testing.TB, o app.Options, h http.HandlerFunc) app.Channel {
	t.Helper()
	o.Port = apptest.Serve(t, "http", h)
	return apptest.Open(t, app.New, o)
}

// serveGRPC starts a gRPC app and the channel to it.
func serveGRPC(t testing.TB, o app.Options, a *apptest.Callbacks) app.Channel {
	t.Helper()
	o.Protocol, o.Port = app.GRPC, apptest.ServeGRPC(t, "grpc", a)
	return apptest.Open(t, app.New, o)
}

// newBlock makes a block whose readers have all ended when the test has.
func newBlock(t testing.TB, o Options) *Bindings {
	t.Helper()
	b := New(o)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		if err := b.Shutdown(ctx); err != nil {
			t.Errorf("Shutdown: %v", err)
		}
	})
	return b
}

func add(t testing.TB, b *Bindings, name string, binding contract.Binding, properties ...string) {
	t.Helper()
	c := Component{Name: name, Type: "bindings.fake", Binding: binding, Properties: map[string]string{}}
	for i := 0; i+1 < len(properties); i += 2 {
		c.Properties[properties[i]] = properties[i+1]
	}
	if err := b.Add(c); err != nil {
		t.Fatal(err)
	}
}
