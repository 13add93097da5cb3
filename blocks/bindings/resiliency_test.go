package bindings

import (
	"context"
	"errors"
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jonboulle/clockwork"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	runtimev1 "outrigger.dev/api/gen/runtime/v1"
	"outrigger.dev/app"
	"outrigger.dev/app/apptest"
	contract "outrigger.dev/components/bindings"
	"outrigger.dev/resiliency"
	"outrigger.dev/resiliency/resiliencytest"
)

var errComponent = errors.New("the component is sick")

func TestOutboundPolicy(t *testing.T) {
	for _, tc := range []struct {
		name     string
		rules    resiliencytest.Rules
		failures int64
		hang     bool
		calls    int64
		err      string
	}{
		{"no policy", resiliencytest.Rules{}, 1, false, 1, errComponent.Error()},
		{"retried", resiliencytest.Rules{Retry: resiliencytest.Retries(2)}, 2, false, 3, ""},
		{"codes are not looked at", resiliencytest.Rules{Retry: resiliencytest.Matching(2, "404", "1")}, 2, false, 3, ""},
		{"exhausted", resiliencytest.Rules{Retry: resiliencytest.Retries(1)}, 2, false, 2, errComponent.Error()},
		{"breaker open", resiliencytest.Rules{Retry: resiliencytest.Retries(5), Breaker: resiliencytest.Opens("2")}, 5, false, 2, resiliency.ErrOpen.Error()},
		{"timeout", resiliencytest.Rules{Timeout: "20ms"}, 1, true, 1, "context deadline exceeded"},
		{"timeout retried", resiliencytest.Rules{Timeout: "20ms", Retry: resiliencytest.Retries(1)}, 1, true, 2, ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var calls atomic.Int64
			hang := make(chan struct{})
			binding := newOutput(func(context.Context, contract.Request) (*contract.Response, error) {
				if calls.Add(1) > tc.failures {
					return &contract.Response{Data: []byte("1")}, nil
				}
				if tc.hang {
					<-hang
				}
				return nil, status.Error(codes.Unavailable, errComponent.Error())
			})
			b := newBlock(t, Options{Resiliency: resiliencytest.New(t, nil, "queue", resiliencytest.Rules{}, tc.rules)})
			add(t, b, "queue", binding)
			resp, err := b.Invoke(t.Context(), "queue", contract.Request{Operation: "create", Metadata: map[string]string{}})
			if calls.Load() != tc.calls || (err == nil) != (tc.err == "") || err != nil && !strings.Contains(err.Error(), tc.err) {
				t.Errorf("%v after %d calls", err, calls.Load())
			}
			if err == nil && string(resp.Data) != "1" {
				t.Errorf("%+v", resp)
			}
			ended, cancel := context.WithCancel(t.Context())
			cancel()
			if err := b.Remove(ended, "queue"); (err != nil) != tc.hang {
				t.Errorf("removed: %v", err)
			}
			close(hang)
		})
	}
}

func TestInboundPolicyHTTP(t *testing.T) {
	for _, tc := range []struct {
		name     string
		rules    resiliencytest.Rules
		statuses []int // of the first answers; then 200. 0 does not answer.
		calls    int64
		err      string
	}{
		{"no policy", resiliencytest.Rules{}, []int{500}, 1, "status code: 500"},
		{"retried", resiliencytest.Rules{Retry: resiliencytest.Retries(2)}, []int{500, 404}, 3, ""},
		{"another success is retried", resiliencytest.Rules{Retry: resiliencytest.Retries(2)}, []int{201}, 2, ""},
		{"and is one in the end", resiliencytest.Rules{Retry: resiliencytest.Retries(1)}, []int{201, 201}, 2, ""},
		{"exhausted", resiliencytest.Rules{Retry: resiliencytest.Retries(1)}, []int{500, 503}, 2, "status code: 503"},
		{"codes", resiliencytest.Rules{Retry: resiliencytest.Matching(5, "500-502", "")}, []int{500, 502, 503}, 3, "status code: 503"},
		{"breaker open", resiliencytest.Rules{Retry: resiliencytest.Retries(5), Breaker: resiliencytest.Opens("2")}, []int{500, 500}, 2, resiliency.ErrOpen.Error()},
		{"timeout", resiliencytest.Rules{Timeout: "50ms"}, []int{0}, 1, "context deadline exceeded"},
		{"timeout retried", resiliencytest.Rules{Timeout: "1s", Retry: resiliencytest.Retries(1)}, []int{0}, 2, ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var calls atomic.Int64
			channel := serveHTTP(t, app.Options{}, func(w http.ResponseWriter, req *http.Request) {
				n := calls.Add(1)
				if n > int64(len(tc.statuses)) {
					return
				}
				if tc.statuses[n-1] == 0 {
					_, _ = io.Copy(io.Discard, req.Body) // or the server does not see that the client leaves
					<-req.Context().Done()
					return
				}
				w.WriteHeader(tc.statuses[n-1])
			})
			b := newBlock(t, Options{Resiliency: resiliencytest.New(t, nil, "queue", tc.rules, resiliencytest.Rules{})})
			in := new(inputFake)
			add(t, b, "queue", in, "direction", "input")
			b.Start(t.Context(), channel)
			out := in.event(t, &contract.Event{Data: []byte("1")})
			if calls.Load() != tc.calls || (out.err == nil) != (tc.err == "") || out.err != nil && !strings.Contains(out.err.Error(), tc.err) {
				t.Errorf("%v after %d calls", out.err, calls.Load())
			}
		})
	}
}

// TestInboundPolicyGRPC: the codes of a gRPC app are not looked at.
func TestInboundPolicyGRPC(t *testing.T) {
	var calls atomic.Int64
	channel := serveGRPC(t, app.Options{}, &apptest.Callbacks{BindingEvent: func(context.Context, *runtimev1.BindingEventRequest) (*runtimev1.BindingEventResponse, error) {
		if calls.Add(1) < 3 {
			return nil, status.Error(codes.InvalidArgument, "no")
		}
		return &runtimev1.BindingEventResponse{Data: []byte("1")}, nil
	}})
	b := newBlock(t, Options{Resiliency: resiliencytest.New(t, nil, "queue", resiliencytest.Rules{Retry: resiliencytest.Matching(5, "500", "14")}, resiliencytest.Rules{})})
	in := new(inputFake)
	add(t, b, "queue", in, "direction", "input")
	b.Start(t.Context(), channel)
	if out := in.event(t, &contract.Event{Data: []byte("1")}); out.err != nil || string(out.reply) != "1" || calls.Load() != 3 {
		t.Errorf("%+v after %d calls", out, calls.Load())
	}
}

// TestStopEndsRetries: an app that turned unhealthy, and a shutdown, end the wait of a retry: the event goes back to its source.
func TestStopEndsRetries(t *testing.T) {
	channel := serveHTTP(t, app.Options{}, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(500) })
	clock := clockwork.NewFakeClock()
	b := newBlock(t, Options{Resiliency: resiliencytest.New(t, clock, "queue", resiliencytest.Rules{Retry: resiliencytest.RetriesAfter("1h")}, resiliencytest.Rules{})})
	in := new(inputFake)
	add(t, b, "queue", in, "direction", "input")
	b.Start(t.Context(), channel)
	out := in.start(&contract.Event{Data: []byte("1")})
	waiting, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if err := clock.BlockUntilContext(waiting, 1); err != nil {
		t.Fatal(err)
	}
	b.Stop()
	if o := apptest.Receive(t, "the outcome", out); !errors.Is(o.err, resiliency.ErrStopped) || !strings.Contains(o.err.Error(), "status code: 500") {
		t.Error(o.err)
	}
}

// TestStopEndsRetriesOfReplies: what an event's reply asks for is not tried again either when the binding is stopped.
func TestStopEndsRetriesOfReplies(t *testing.T) {
	channel := serveGRPC(t, app.Options{}, &apptest.Callbacks{BindingEvent: func(context.Context, *runtimev1.BindingEventRequest) (*runtimev1.BindingEventResponse, error) {
		return &runtimev1.BindingEventResponse{To: []string{"out"}}, nil
	}})
	clock := clockwork.NewFakeClock()
	b := newBlock(t, Options{Resiliency: resiliencytest.New(t, clock, "out", resiliencytest.Rules{}, resiliencytest.Rules{Retry: resiliencytest.RetriesAfter("1h")})})
	in := new(inputFake)
	add(t, b, "queue", in, "direction", "input")
	add(t, b, "out", newOutput(func(context.Context, contract.Request) (*contract.Response, error) { return nil, errComponent }))
	b.Start(t.Context(), channel)
	out := in.start(&contract.Event{Data: []byte("1")})
	waiting, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if err := clock.BlockUntilContext(waiting, 1); err != nil {
		t.Fatal(err)
	}
	b.Stop()
	if o := apptest.Receive(t, "the outcome", out); o.err != nil { // the app has processed the event
		t.Error(o.err)
	}
}
