package pubsub

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jonboulle/clockwork"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	runtimev1 "outrigger.dev/api/gen/runtime/v1"
	"outrigger.dev/app/apptest"
	"outrigger.dev/components/pubsub"
	"outrigger.dev/invocation"
	"outrigger.dev/resiliency"
	"outrigger.dev/resiliency/resiliencytest"
)

// outboundHouse is a house with a policy for publications of ps, inboundHouse one for its deliveries.
func outboundHouse(t *testing.T, rules resiliencytest.Rules) *house {
	return newHouse(t, Options{Resiliency: resiliencytest.New(t, nil, "ps", resiliencytest.Rules{}, rules)})
}

func inboundHouse(t *testing.T, clock clockwork.Clock, rules resiliencytest.Rules) *house {
	return newHouse(t, Options{Resiliency: resiliencytest.New(t, clock, "ps", rules, resiliencytest.Rules{})})
}

// toOrders gives a subscription a rule for all events.
func toOrders(s Subscription) Subscription {
	s.Rules = []Rule{{Path: "/orders"}}
	return s
}

// scripted fails by a list of errors; a nil one hangs until it is let go. After them it succeeds.
type scripted struct {
	mu    sync.Mutex
	errs  []error
	calls int
	letGo chan struct{}
}

func (s *scripted) call() error {
	s.mu.Lock()
	s.calls++
	n := s.calls
	s.mu.Unlock()
	if n > len(s.errs) {
		return nil
	}
	if s.errs[n-1] == nil {
		<-s.letGo
	}
	return s.errs[n-1]
}

func (s *scripted) count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.calls
}

func TestPublishPolicy(t *testing.T) {
	unavailable, exists := status.Error(codes.Unavailable, "away"), fmt.Errorf("broker: %w", status.Error(codes.AlreadyExists, "there"))
	for _, tc := range []struct {
		name  string
		rules resiliencytest.Rules
		http  bool
		errs  []error
		calls int
		err   string
	}{
		{"no policy", resiliencytest.Rules{}, false, []error{errBroker}, 1, errBroker.Error()},
		{"retried", resiliencytest.Rules{Retry: resiliencytest.Retries(2)}, false, []error{errBroker, unavailable}, 3, ""},
		{"exhausted", resiliencytest.Rules{Retry: resiliencytest.Retries(1)}, false, []error{errBroker, errBroker}, 2, errBroker.Error()},
		{"gRPC codes", resiliencytest.Rules{Retry: resiliencytest.Matching(5, "409", "14")}, false, []error{unavailable, exists}, 2, "there"},
		{"HTTP codes", resiliencytest.Rules{Retry: resiliencytest.Matching(5, "503", "6")}, true, []error{unavailable, exists}, 2, "there"},
		{"without a code", resiliencytest.Rules{Retry: resiliencytest.Matching(5, "503", "14")}, true, []error{errBroker, errBroker}, 3, ""},
		{"breaker open", resiliencytest.Rules{Retry: resiliencytest.Retries(5), Breaker: resiliencytest.Opens("2")}, false, []error{errBroker, errBroker}, 2, resiliency.ErrOpen.Error()},
		{"timeout", resiliencytest.Rules{Timeout: "20ms"}, false, []error{nil}, 1, "context deadline exceeded"},
		{"timeout retried", resiliencytest.Rules{Timeout: "20ms", Retry: resiliencytest.Retries(1)}, false, []error{nil}, 2, ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			h := outboundHouse(t, tc.rules)
			s := &scripted{errs: tc.errs, letGo: make(chan struct{})}
			b := newBroker()
			b.publish = func(context.Context, pubsub.PublishRequest) error { return s.call() }
			h.add("ps", b)
			err := h.Publish(t.Context(), Publication{Component: "ps", Topic: "orders", Data: []byte("1"), HTTPCodes: tc.http})
			if s.count() != tc.calls || (err == nil) != (tc.err == "") || err != nil && !strings.Contains(err.Error(), tc.err) {
				t.Errorf("%v after %d calls", err, s.count())
			}
			first := b.sent()[0]
			for _, again := range b.sent()[1:] {
				if string(again.Data) != string(first.Data) || again.Topic != first.Topic {
					t.Errorf("%s is not %s", again.Data, first.Data)
				}
			}
			hung := slices.Contains(tc.errs, nil)
			ended, cancel := context.WithCancel(t.Context())
			cancel()
			if err := h.Remove(ended, "ps"); (err != nil) != hung {
				t.Errorf("removed: %v", err)
			}
			close(s.letGo)
		})
	}
}

// TestBulkPublishPolicy: a retry sends what failed, and what is reported is what failed in the end.
func TestBulkPublishPolicy(t *testing.T) {
	entries := func() []pubsub.BulkEntry {
		var list []pubsub.BulkEntry
		for _, id := range []string{"1", "2", "3"} {
			list = append(list, pubsub.BulkEntry{ID: id, Data: []byte(id), ContentType: "text/plain"})
		}
		return list
	}
	for _, tc := range []struct {
		name   string
		rules  resiliencytest.Rules
		fail   []string // the entries that fail, by attempt; "*" is all without a result for each
		sent   string   // the entries of each attempt
		failed string
		err    string
	}{
		{"no policy", resiliencytest.Rules{}, []string{"2"}, "123", "2", "entry 2"},
		{"retried", resiliencytest.Rules{Retry: resiliencytest.Retries(3)}, []string{"23", "3"}, "123 23 3", "", ""},
		{"exhausted", resiliencytest.Rules{Retry: resiliencytest.Retries(1)}, []string{"23", "2"}, "123 23", "2", "entry 2"},
		{"no results", resiliencytest.Rules{Retry: resiliencytest.Retries(1)}, []string{"12", "*"}, "123 12", "12", "no broker"},
		{"breaker open", resiliencytest.Rules{Retry: resiliencytest.Retries(3), Breaker: resiliencytest.Opens("1")}, []string{"13"}, "123", "13", resiliency.ErrOpen.Error()},
	} {
		for _, native := range []bool{true, false} {
			if !native && slices.Contains(tc.fail, "*") {
				continue
			}
			t.Run(tc.name, func(t *testing.T) {
				h := outboundHouse(t, tc.rules)
				var mu sync.Mutex
				var attempts []string
				seen := map[string]int{}
				fails := func(id string) error {
					n := seen[id]
					seen[id]++
					if n < len(tc.fail) && strings.Contains(tc.fail[n], id) {
						return errors.New("entry " + id)
					}
					return nil
				}
				b := newBroker()
				var broker pubsub.Broker = b
				if native {
					broker = &nativeBulk{fakeBroker: b, bulk: func(req pubsub.BulkPublishRequest) ([]error, error) {
						ids, errs, failed := "", []error{}, error(nil)
						for _, e := range req.Entries {
							ids += e.ID
							errs = append(errs, fails(e.ID))
							if failed == nil {
								failed = errs[len(errs)-1]
							}
						}
						attempts = append(attempts, ids)
						if n := len(attempts); n <= len(tc.fail) && tc.fail[n-1] == "*" {
							return nil, errBroker
						}
						return errs, failed
					}}
				} else {
					b.publish = func(_ context.Context, req pubsub.PublishRequest) error {
						mu.Lock()
						defer mu.Unlock()
						id := ""
						for _, e := range entries() {
							if strings.Contains(string(req.Data), `"data":"`+e.ID) {
								id = e.ID
							}
						}
						attempts = append(attempts, id)
						return fails(id)
					}
				}
				h.add("ps", broker)
				failed, err := h.BulkPublish(t.Context(), BulkPublication{Component: "ps", Topic: "orders", Entries: entries()})
				ids := ""
				for _, f := range failed {
					ids += f.ID
				}
				if ids != tc.failed || (err == nil) != (tc.err == "") || err != nil && !strings.Contains(err.Error(), tc.err) {
					t.Errorf("failed %q, %v", ids, err)
				}
				sent := strings.Join(attempts, " ")
				if !native {
					if len(attempts) != len(strings.ReplaceAll(tc.sent, " ", "")) {
						t.Errorf("sent %s", sent)
					}
				} else if sent != tc.sent {
					t.Errorf("sent %s, want %s", sent, tc.sent)
				}
			})
		}
	}

	// Everything of an attempt that takes too long has failed.
	h := outboundHouse(t, resiliencytest.Rules{Timeout: "20ms", Retry: resiliencytest.Retries(1)})
	s := &scripted{errs: []error{nil, nil, nil, nil, nil, nil}, letGo: make(chan struct{})}
	b := newBroker()
	b.publish = func(context.Context, pubsub.PublishRequest) error { return s.call() }
	h.add("ps", b)
	failed, err := h.BulkPublish(t.Context(), BulkPublication{Component: "ps", Topic: "orders", Entries: entries()})
	if len(failed) != 3 || err == nil || !errors.Is(failed[2].Err, context.DeadlineExceeded) {
		t.Errorf("%v, %v", failed, err)
	}
	close(s.letGo)
}

func TestDeliveryPolicy(t *testing.T) {
	const dead = "poison"
	for _, tc := range []struct {
		name     string
		rules    resiliencytest.Rules
		statuses []int // of the first answers; then 200. 0 hangs, 1 is RETRY.
		calls    int
		verdict  string
		letters  int
	}{
		{"no policy", resiliencytest.Rules{}, []int{500}, 1, "ack", 1},
		{"retried", resiliencytest.Rules{Retry: resiliencytest.Retries(3)}, []int{500, 1, 503}, 4, "ack", 0},
		{"a poison message", resiliencytest.Rules{Retry: resiliencytest.Retries(2)}, []int{500, 500, 500}, 3, "ack", 1},
		{"codes", resiliencytest.Rules{Retry: resiliencytest.Matching(5, "500-502", "")}, []int{500, 502, 503}, 3, "ack", 1},
		{"RETRY has no code", resiliencytest.Rules{Retry: resiliencytest.Matching(5, "500", "0")}, []int{1, 1}, 3, "ack", 0},
		{"dropped", resiliencytest.Rules{Retry: resiliencytest.Retries(5)}, []int{404}, 1, "ack", 1},
		{"breaker open", resiliencytest.Rules{Retry: resiliencytest.Retries(5), Breaker: resiliencytest.Opens("2")}, []int{500, 500}, 2, "ack", 1},
		{"timeout", resiliencytest.Rules{Timeout: "20ms"}, []int{0}, 1, "ack", 1},
		{"timeout retried", resiliencytest.Rules{Timeout: "1s", Retry: resiliencytest.Retries(1)}, []int{0}, 2, "ack", 0},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var calls atomic.Int64
			a := &fakeApp{event: func(ctx context.Context, _ *invocation.Request) (*invocation.Response, error) {
				n := int(calls.Add(1))
				switch {
				case n > len(tc.statuses):
					return reply(200, "")
				case tc.statuses[n-1] == 1:
					return reply(200, `{"status":"RETRY"}`)
				case tc.statuses[n-1] == 0:
					<-ctx.Done()
					return nil, ctx.Err()
				}
				return reply(tc.statuses[n-1], "")
			}}
			h := inboundHouse(t, nil, tc.rules)
			b := newBroker()
			sub := h.subscribed(b, a, toOrders(Subscription{DeadLetterTopic: dead}))
			r := sub.do(t, &pubsub.Message{Data: []byte(`{"id":"1"}`)})
			if r.String() != tc.verdict || int(calls.Load()) != tc.calls || len(b.sent()) != tc.letters {
				t.Errorf("%s (%v) after %d calls, %d letters", r, r.err, calls.Load(), len(b.sent()))
			}
		})
	}
}

// TestNack: without a dead-letter topic, a message that failed for good goes back to the broker.
func TestNack(t *testing.T) {
	h := inboundHouse(t, nil, resiliencytest.Rules{Retry: resiliencytest.Retries(1), Breaker: resiliencytest.Opens("3")})
	a := answering(500, "")
	sub := h.subscribed(newBroker(), a, toOrders(Subscription{}))
	for i, want := range []string{"status 500", resiliency.ErrOpen.Error(), resiliency.ErrOpen.Error()} {
		if r := sub.do(t, &pubsub.Message{Data: []byte(`{"id":"1"}`)}); r.String() != "nack" || !strings.Contains(r.err.Error(), want) {
			t.Errorf("message %d: %s (%v)", i, r, r.err)
		}
	}
	if n := len(a.events()); n != 3 {
		t.Errorf("%d deliveries", n)
	}
}

// TestDeadLetterFails: the app is asked again when the dead-letter topic does not take what it dropped.
func TestDeadLetterFails(t *testing.T) {
	h := inboundHouse(t, nil, resiliencytest.Rules{Retry: resiliencytest.Matching(5, "500", "0")})
	s := &scripted{errs: []error{status.Error(codes.Unavailable, "away")}}
	b := newBroker()
	b.publish = func(context.Context, pubsub.PublishRequest) error { return s.call() }
	a := answering(200, `{"status":"DROP"}`)
	sub := h.subscribed(b, a, toOrders(Subscription{DeadLetterTopic: "poison"}))
	if r := sub.do(t, &pubsub.Message{Data: []byte(`{"id":"1"}`)}); r.String() != "ack" || len(a.events()) != 2 || s.count() != 2 {
		t.Errorf("%s after %d deliveries and %d letters", r, len(a.events()), s.count())
	}
}

func TestDeliveryPolicyGRPC(t *testing.T) {
	var calls atomic.Int64
	a := &apptest.Callbacks{TopicEvent: func(context.Context, *runtimev1.TopicEventRequest) (*runtimev1.TopicEventResponse, error) {
		switch calls.Add(1) {
		case 1:
			return nil, status.Error(codes.Unavailable, "away")
		case 2:
			return &runtimev1.TopicEventResponse{Status: runtimev1.TopicEventResponse_RETRY}, nil
		}
		return nil, status.Error(codes.InvalidArgument, "no")
	}}
	h := inboundHouse(t, nil, resiliencytest.Rules{Retry: resiliencytest.Matching(5, "500", "14")})
	sub := h.subscribed(newBroker(), serveGRPC(t, a), toOrders(Subscription{}))
	if r := sub.do(t, &pubsub.Message{Data: []byte(`{"id":"1"}`)}); r.String() != "nack" || calls.Load() != 3 || status.Code(r.err) != codes.InvalidArgument {
		t.Errorf("%s (%v) after %d calls", r, r.err, calls.Load())
	}
}

// TestBulkDeliveryPolicy: a retry delivers the entries that are not done.
func TestBulkDeliveryPolicy(t *testing.T) {
	answer := func(statuses ...string) func() (*invocation.Response, error) {
		var list []string
		for i := 0; i+1 < len(statuses); i += 2 {
			list = append(list, fmt.Sprintf(`{"entryId":%q,"status":%q}`, statuses[i], statuses[i+1]))
		}
		return func() (*invocation.Response, error) { return reply(200, `{"statuses":[`+strings.Join(list, ",")+`]}`) }
	}
	fails := func() (*invocation.Response, error) { return reply(500, "") }
	hangs := func() (*invocation.Response, error) { return nil, nil }
	first := answer("a", "SUCCESS", "b", "RETRY", "c", "DROP", "d", "RETRY")
	for _, tc := range []struct {
		name    string
		rules   resiliencytest.Rules
		answers []func() (*invocation.Response, error)
		sent    string // the entries of each delivery
		outcome string
	}{
		{"no policy", resiliencytest.Rules{}, []func() (*invocation.Response, error){first}, "abcd", "+-+-"},
		{"retried", resiliencytest.Rules{Retry: resiliencytest.Retries(3)}, []func() (*invocation.Response, error){first, answer("d", "SUCCESS"), answer("b", "SUCCESS")}, "abcd bd b", "++++"},
		{"exhausted", resiliencytest.Rules{Retry: resiliencytest.Retries(1)}, []func() (*invocation.Response, error){first, answer("d", "SUCCESS")}, "abcd bd", "+-++"},
		{"the rest fails", resiliencytest.Rules{Retry: resiliencytest.Retries(1)}, []func() (*invocation.Response, error){first, fails}, "abcd bd", "+-+-"},
		{"all fail", resiliencytest.Rules{Retry: resiliencytest.Matching(1, "400", "")}, []func() (*invocation.Response, error){fails, fails}, "abcd abcd", "----"},
		{"breaker open", resiliencytest.Rules{Retry: resiliencytest.Retries(5), Breaker: resiliencytest.Opens("1")}, []func() (*invocation.Response, error){first}, "abcd", "+-+-"},
		{"timeout", resiliencytest.Rules{Timeout: "50ms", Retry: resiliencytest.Retries(1)}, []func() (*invocation.Response, error){hangs, first}, "abcd abcd", "+-+-"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var mu sync.Mutex
			var sent []string
			a := &fakeApp{event: func(ctx context.Context, req *invocation.Request) (*invocation.Response, error) {
				ids := ""
				for _, id := range []string{"a", "b", "c", "d"} {
					if strings.Contains(string(req.Body), `"entryId":"`+id+`"`) {
						ids += id
					}
				}
				mu.Lock()
				sent = append(sent, ids)
				n := len(sent)
				mu.Unlock()
				resp, err := tc.answers[n-1]()
				if resp == nil {
					<-ctx.Done()
					return nil, ctx.Err()
				}
				return resp, err
			}}
			h := inboundHouse(t, nil, tc.rules)
			sub := h.subscribed(&nativeBulk{fakeBroker: newBroker()}, a, toOrders(Subscription{Bulk: Bulk{Enabled: true}}))
			r := apptest.Receive(t, "the verdicts", sub.handBulk(bulkOf("a", "b", "c", "d")))
			mu.Lock()
			defer mu.Unlock()
			if got := strings.Join(sent, " "); got != tc.sent || outcomeOf(4, r) != tc.outcome {
				t.Errorf("sent %s, outcome %s", got, outcomeOf(4, r))
			}
		})
	}
}

// TestStopEndsRetries: shutdown and pause cut through the wait of a retry, and the message is left to the broker: it gets no verdict
// and no place among the dead letters.
func TestStopEndsRetries(t *testing.T) {
	for _, bulk := range []bool{false, true} {
		for _, pause := range []bool{false, true} {
			t.Run(fmt.Sprintf("bulk %v, pause %v", bulk, pause), func(t *testing.T) {
				clock := clockwork.NewFakeClock()
				h := inboundHouse(t, clock, resiliencytest.Rules{Retry: resiliencytest.RetriesAfter("1h")})
				b := newBroker()
				b.pausable = true
				sub := h.subscribed(&nativeBulk{fakeBroker: b}, answering(500, ""), toOrders(Subscription{DeadLetterTopic: "poison", Bulk: Bulk{Enabled: bulk}}))
				var out <-chan result
				if bulk {
					out = sub.handBulk(bulkOf("a", "b"))
				} else {
					out = sub.handData(`{"id":"1"}`)
				}
				waiting, cancel := context.WithTimeout(t.Context(), 10*time.Second)
				defer cancel()
				if err := clock.BlockUntilContext(waiting, 1); err != nil {
					t.Fatal(err)
				}
				began := h.clock.Now()
				h.stop(pause)
				if r := apptest.Receive(t, "a verdict", out); !r.held {
					t.Errorf("%s (%v, %v)", r, r.err, r.errs)
				}
				if took := h.clock.Since(began); took >= pauseLimit {
					t.Errorf("the stop took %v", took)
				}
				if n := len(b.sent()); n != 0 {
					t.Errorf("%d dead letters", n)
				}
			})
		}
	}
}

// TestDeadLetterRetries: a dead letter is published under the outbound policy, which a stop cuts short, too.
func TestDeadLetterRetries(t *testing.T) {
	clock := clockwork.NewFakeClock()
	h := newHouse(t, Options{Resiliency: resiliencytest.New(t, clock, "ps", resiliencytest.Rules{}, resiliencytest.Rules{Retry: resiliencytest.RetriesAfter("1h")})})
	s := &scripted{errs: []error{errBroker, errBroker, errBroker}}
	b := newBroker()
	b.publish = func(context.Context, pubsub.PublishRequest) error { return s.call() }
	sub := h.subscribed(b, answering(500, ""), toOrders(Subscription{DeadLetterTopic: "poison"}))
	out := sub.handData(`{"id":"1"}`)
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	for range 2 {
		if err := clock.BlockUntilContext(ctx, 1); err != nil {
			t.Fatal(err)
		}
		if s.count() < 2 {
			clock.Advance(time.Hour)
		}
	}
	h.stop(false)
	if r := apptest.Receive(t, "a verdict", out); !r.held {
		t.Errorf("%s (%v)", r, r.err)
	}
}
