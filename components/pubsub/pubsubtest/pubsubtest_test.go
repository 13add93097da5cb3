package pubsubtest_test

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"outrigger.dev/components/pubsub"
	"outrigger.dev/components/pubsub/inmemory"
	"outrigger.dev/components/pubsub/pubsubtest"
)

// faulty is a broker with a fault that the suite has to find.
type faulty struct {
	*inmemory.Broker
	fault string
	mu    sync.Mutex
	held  *pubsub.PublishRequest
}

func (f *faulty) Publish(ctx context.Context, req pubsub.PublishRequest) error {
	switch f.fault {
	case "delivers twice":
		if err := f.Broker.Publish(ctx, req); err != nil {
			return err
		}
	case "swaps messages":
		f.mu.Lock()
		defer f.mu.Unlock()
		if f.held == nil && !bytes.Contains(req.Data, []byte("probe-")) {
			f.held = &req
			return nil
		}
		if f.held != nil {
			first := *f.held
			f.held = nil
			return errors.Join(f.Broker.Publish(ctx, req), f.Broker.Publish(ctx, first))
		}
	case "drops metadata":
		req.Metadata = nil
	case "changes data":
		for i := range req.Data {
			req.Data[i] |= 0x20
		}
	case "publishes when closed":
		if err := f.Broker.Publish(ctx, req); !errors.Is(err, pubsub.ErrClosed) {
			return err
		}
		return nil
	}
	return f.Broker.Publish(ctx, req)
}

func (f *faulty) Subscribe(ctx context.Context, req pubsub.SubscribeRequest, handler pubsub.Handler) (pubsub.Subscription, error) {
	inner := handler
	switch f.fault {
	case "names another topic":
		handler = func(ctx context.Context, msg *pubsub.Message) error {
			msg.Topic += "x"
			return inner(ctx, msg)
		}
	case "runs handlers side by side":
		handler = func(ctx context.Context, msg *pubsub.Message) error {
			go func() { _ = inner(ctx, msg) }()
			return nil
		}
	}
	s, err := f.Broker.Subscribe(ctx, req, handler)
	if err == nil && f.fault == "closes without waiting" {
		return careless{}, nil
	}
	if f.fault == "leaves goroutines" {
		go func() { select {} }()
	}
	return s, err
}

// careless is a subscription that Close does not end.
type careless struct{}

func (careless) Close() error { return nil }

// parts are the faults, each with the part of the suite that has to find it.
var parts = map[string]string{
	"":                           "RoundTrip",
	"delivers twice":             "RoundTrip",
	"swaps messages":             "Order",
	"runs handlers side by side": "Order",
	"drops metadata":             "Metadata",
	"changes data":               "Payloads",
	"names another topic":        "Established",
	"publishes when closed":      "Closed",
	"closes without waiting":     "CloseCancels",
	"leaves goroutines":          "Topics",
}

// faultVariable tells a process of this test which fault its broker has.
const faultVariable = "PUBSUBTEST_FAULT"

// TestFaulty runs the suite on a faulty broker, in a process of [TestSuiteFindsFaults].
func TestFaulty(t *testing.T) {
	fault, ok := os.LookupEnv(faultVariable)
	if !ok {
		t.Skip("runs in processes of TestSuiteFindsFaults")
	}
	pubsubtest.Run(t, pubsubtest.Config{
		Open: func(testing.TB, string, map[string]string) pubsub.Broker {
			return &faulty{Broker: inmemory.New(slog.New(slog.DiscardHandler)), fault: fault}
		},
		Private: true, Ordered: true, Metadata: true, Messages: 200,
	})
}

// TestSuiteFindsFaults checks that the suite can fail: a suite that finds nothing proves nothing.
func TestSuiteFindsFaults(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	for fault, part := range parts {
		t.Run(fault, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
			defer cancel()
			c := exec.CommandContext(ctx, self, "-test.v", "-test.run", "^TestFaulty$/^"+part+"$")
			c.Env = append(os.Environ(), faultVariable+"="+fault)
			output, err := c.CombinedOutput()
			verdict := "--- FAIL: TestFaulty/" + part
			if fault == "" {
				verdict = "--- PASS: TestFaulty/" + part
			}
			if (err != nil) != (fault != "") || !strings.Contains(string(output), verdict) {
				t.Errorf("the process ended with %v, and its output lacks %q:\n%s", err, verdict, output)
			}
		})
	}
}
