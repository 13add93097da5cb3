package bindings

import (
	"context"
	"net/http"
	"strings"
	"testing"

	runtimev1 "outrigger.dev/api/gen/runtime/v1"
	"outrigger.dev/app"
	"outrigger.dev/app/apptest"
	contract "outrigger.dev/components/bindings"
	"outrigger.dev/telemetry/logging/logtest"
)

// panicking is a target that panics at every event.
type panicking struct{ target }

func (panicking) deliver(context.Context, *input, *contract.Event) (answer, error) {
	panic("out of order")
}

// A panic over an event is its failure: the sidecar goes on, and reading can be ended.
func TestPanicIsAFailureOfTheEvent(t *testing.T) {
	var log logtest.Log
	b := newBlock(t, Options{Log: log.Logger()})
	in := &inputFake{}
	add(t, b, "in", in, "direction", "input")
	b.Start(t.Context(), serveHTTP(t, app.Options{}, func(http.ResponseWriter, *http.Request) {}))
	b.mu.Lock()
	r := b.inputs["in"].reader
	b.mu.Unlock()
	<-r.tried // the handler comes with the event below, so the target is not in use yet
	r.target = panicking{r.target}
	for range 2 {
		if got := in.event(t, &contract.Event{Data: []byte("x")}); got.err == nil || !strings.Contains(got.err.Error(), "out of order") {
			t.Errorf("error %v, want the panic", got.err)
		}
	}
	if log.Count("panicked over an event of input binding in") != 2 {
		t.Errorf("the panics are not in the log\n%s", &log)
	}
}

// So is one of an output binding that the reply names: the event was processed.
func TestPanicOverAReply(t *testing.T) {
	var log logtest.Log
	b := newBlock(t, Options{Log: log.Logger()})
	in := &inputFake{}
	add(t, b, "in", in, "direction", "input")
	tried := make(chan struct{}, 2)
	add(t, b, "out", newOutput(func(context.Context, contract.Request) (*contract.Response, error) {
		tried <- struct{}{}
		panic("out of order")
	}))
	concurrency := runtimev1.BindingEventResponse_SEQUENTIAL
	b.Start(t.Context(), serveGRPC(t, app.Options{}, &apptest.Callbacks{
		BindingEvent: func(context.Context, *runtimev1.BindingEventRequest) (*runtimev1.BindingEventResponse, error) {
			return &runtimev1.BindingEventResponse{To: []string{"out"}, Concurrency: concurrency}, nil
		},
	}))
	for _, concurrency = range []runtimev1.BindingEventResponse_BindingEventConcurrency{runtimev1.BindingEventResponse_SEQUENTIAL, runtimev1.BindingEventResponse_PARALLEL} {
		if got := in.event(t, &contract.Event{Data: []byte("x")}); got.err != nil {
			t.Errorf("error %v", got.err)
		}
		apptest.Receive(t, "the operation", tried)
	}
	apptest.Until(t, "the failures are logged", func() bool {
		return log.Count("error sending the reply to an event of input binding in to output binding out") == 2
	})
}
