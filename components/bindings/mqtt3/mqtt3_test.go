package mqtt3_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jonboulle/clockwork"

	"outrigger.dev/components"
	"outrigger.dev/components/bindings"
	"outrigger.dev/components/bindings/bindingstest"
	"outrigger.dev/components/bindings/mqtt3"
	"outrigger.dev/test/servers"
)

func TestMain(m *testing.M) { servers.Main(m) }

// remedy is what errors of a broker that is not there end with.
const remedy = `check that the broker runs and that the metadata property "url" is right`

type binding interface {
	bindings.Input
	bindings.Output
}

// mqtt is the type under test.
var mqtt = bindingstest.Type[binding]{Register: mqtt3.Register, Name: "mqtt"}

// open opens a binding; the id of its app is among the properties.
func open(t testing.TB, properties map[string]string, clock clockwork.Clock) (binding, error) {
	t.Helper()
	return mqtt.OpenInstance(t, components.Instance{Properties: properties, Clock: clock, Sidecar: components.Sidecar{AppID: properties["appID"]}})
}

func mustOpen(t testing.TB, broker *servers.MosquittoServer, properties map[string]string, clock clockwork.Clock) binding {
	t.Helper()
	all := map[string]string{"url": "mqtt://" + broker.Addr}
	for k, v := range properties {
		all[k] = v
	}
	b, err := open(t, all, clock)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func invoke(t testing.TB, b binding, data string, metadata map[string]string) {
	t.Helper()
	if metadata == nil {
		metadata = map[string]string{}
	}
	response, err := b.Invoke(bindingstest.Within(t), bindings.Request{Operation: bindings.Create, Data: []byte(data), Metadata: metadata})
	if err != nil || response != nil {
		t.Fatalf("response %v, error %v", response, err)
	}
}

func TestBothDirections(t *testing.T) {
	broker := servers.Mosquitto(t)
	b := mustOpen(t, broker, map[string]string{"topic": "both/a", "appID": "both"}, nil)
	if ops := b.Operations(); len(ops) != 1 || ops[0] != "create" {
		t.Errorf("operations %v", ops)
	}
	invoke(t, b, "kept", map[string]string{"retain": "true"})
	events := make(chan *bindings.Event, 10)
	handler := func(_ context.Context, e *bindings.Event) ([]byte, error) {
		events <- e
		return []byte("ignored"), nil
	}
	reading, err := b.Read(bindingstest.Within(t), handler)
	if err != nil {
		t.Fatal(err)
	}
	if e := bindingstest.Receive(t, events); string(e.Data) != "kept" || e.Metadata["topic"] != "both/a" {
		t.Errorf("event %+v", e)
	}
	if _, err := b.Read(bindingstest.Within(t), handler); err == nil {
		t.Error("read twice at once")
	}
	invoke(t, b, "hello", nil)
	if e := bindingstest.Receive(t, events); string(e.Data) != "hello" {
		t.Errorf("event %+v", e)
	}
	for range 2 {
		if err := reading.Close(); err != nil {
			t.Fatal(err)
		}
	}
	wild := mustOpen(t, broker, map[string]string{"topic": "both/#", "consumerID": "wild"}, nil)
	if _, err := wild.Read(bindingstest.Within(t), handler); err != nil {
		t.Fatal(err)
	}
	bindingstest.Receive(t, events) // the retained one
	invoke(t, b, "elsewhere", map[string]string{"topic": "both/b"})
	if e := bindingstest.Receive(t, events); string(e.Data) != "elsewhere" || e.Metadata["topic"] != "both/b" {
		t.Errorf("event %+v", e)
	}
	if _, err := wild.Invoke(bindingstest.Within(t), bindings.Request{Operation: bindings.Create, Metadata: map[string]string{}}); err == nil || !strings.Contains(err.Error(), "both/#") {
		t.Errorf("publish to a pattern: %v", err)
	}
	if _, err := b.Read(bindingstest.Within(t), handler); err != nil {
		t.Errorf("one reading may follow another: %v", err)
	}
	for range 2 {
		if err := b.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := b.Read(bindingstest.Within(t), handler); err == nil {
		t.Error("read after Close")
	}
	if _, err := b.Invoke(bindingstest.Within(t), bindings.Request{Operation: bindings.Create}); err == nil {
		t.Error("invoked after Close")
	}
}

// A failing event is tried again in place, then left unacknowledged, so that the next connection gets it.
func TestRetriesInPlace(t *testing.T) {
	broker := servers.Mosquitto(t)
	for _, test := range []struct {
		name       string
		properties map[string]string
		calls      int32
		waits      []time.Duration
	}{
		{"default", nil, 4, []time.Duration{5 * time.Second, 5 * time.Second, 5 * time.Second}},
		{"none", map[string]string{"backOffMaxRetries": "0"}, 1, nil},
		{
			"exponential",
			map[string]string{"backOffPolicy": "exponential", "backOffRandomizationFactor": "0", "backOffMaxInterval": "1s", "backOffMaxRetries": "-1", "backOffMaxElapsedTime": "3s"},
			// One more wait would end after 3.25 seconds.
			4,
			[]time.Duration{500 * time.Millisecond, 750 * time.Millisecond, time.Second},
		},
		{"constant", map[string]string{"backOffDuration": "2s", "backOffMaxRetries": "1"}, 2, []time.Duration{2 * time.Second}},
	} {
		t.Run(test.name, func(t *testing.T) {
			clock := clockwork.NewFakeClock()
			properties := map[string]string{"topic": "retry/" + test.name, "consumerID": "retry-" + test.name, "cleanSession": "false"}
			for k, v := range test.properties {
				properties[k] = v
			}
			b := mustOpen(t, broker, properties, clock)
			var calls atomic.Int32
			called := make(chan struct{}, 10)
			reading, err := b.Read(bindingstest.Within(t), func(context.Context, *bindings.Event) ([]byte, error) {
				calls.Add(1)
				called <- struct{}{}
				return nil, errors.New("not now")
			})
			if err != nil {
				t.Fatal(err)
			}
			invoke(t, b, "m", nil)
			<-called
			for i, wait := range test.waits {
				if err := clock.BlockUntilContext(bindingstest.Within(t), 1); err != nil {
					t.Fatalf("no wait before retry %d: %v", i+1, err)
				}
				clock.Advance(wait - 1)
				if n := calls.Load(); n != int32(i+1) {
					t.Fatalf("%d calls before the wait of %s is over, want %d", n, wait, i+1)
				}
				clock.Advance(1)
				<-called
			}
			if n := calls.Load(); n != test.calls {
				t.Errorf("%d calls, want %d", n, test.calls)
			}
			if err := reading.Close(); err != nil {
				t.Fatal(err)
			}
			again := make(chan *bindings.Event, 1)
			if _, err := b.Read(bindingstest.Within(t), func(_ context.Context, e *bindings.Event) ([]byte, error) {
				again <- e
				return nil, nil
			}); err != nil {
				t.Fatal(err)
			}
			bindingstest.Receive(t, again)
			if n := calls.Load(); n != test.calls {
				t.Errorf("%d calls, want %d", n, test.calls)
			}
		})
	}
}

// Closing does not wait for a retry that is far away, and the event is delivered again.
func TestCloseDuringWait(t *testing.T) {
	broker := servers.Mosquitto(t)
	b := mustOpen(t, broker, map[string]string{"topic": "closing", "consumerID": "closing", "cleanSession": "false", "backOffDuration": "1h"}, nil)
	called := make(chan struct{}, 1)
	reading, err := b.Read(bindingstest.Within(t), func(context.Context, *bindings.Event) ([]byte, error) {
		called <- struct{}{}
		return nil, errors.New("not now")
	})
	if err != nil {
		t.Fatal(err)
	}
	invoke(t, b, "m", nil)
	<-called
	if err := reading.Close(); err != nil {
		t.Fatal(err)
	}
	again := make(chan *bindings.Event, 1)
	if _, err := b.Read(bindingstest.Within(t), func(_ context.Context, e *bindings.Event) ([]byte, error) {
		again <- e
		return nil, nil
	}); err != nil {
		t.Fatal(err)
	}
	bindingstest.Receive(t, again)
}

func TestReadsOnAfterRestart(t *testing.T) {
	broker := servers.Mosquitto(t, servers.Own())
	b := mustOpen(t, broker, map[string]string{"topic": "restart", "consumerID": "restart", "qos": "2"}, nil)
	events := make(chan *bindings.Event, 100)
	if _, err := b.Read(bindingstest.Within(t), func(_ context.Context, e *bindings.Event) ([]byte, error) {
		events <- e
		return nil, nil
	}); err != nil {
		t.Fatal(err)
	}
	for i := range 3 {
		invoke(t, b, fmt.Sprint(i), nil)
		for string(bindingstest.Receive(t, events).Data) != fmt.Sprint(i) {
		}
		broker.Kill()
		broker.Start()
		// With a clean session the subscription has to be made again: until then messages pass by.
		for again := false; !again; {
			invoke(t, b, "probe", nil)
			select {
			case <-events:
				again = true
			case <-time.After(20 * time.Millisecond):
			}
		}
	}
}

func TestErrors(t *testing.T) {
	for _, test := range []struct {
		properties map[string]string
		want       string
	}{
		{map[string]string{"topic": "a", "appID": "x"}, `"url" is required`},
		{map[string]string{"url": "mqtt://h", "appID": "x"}, `"topic" is required`},
		{map[string]string{"url": "h", "topic": "a", "appID": "x"}, "scheme"},
		{map[string]string{"url": "mqtt://h", "topic": "a#", "appID": "x"}, `"topic": topic "a#"`},
		{map[string]string{"url": "mqtt://h", "topic": "a"}, `"consumerID"`},
		{map[string]string{"url": "mqtt://h", "topic": "a", "appID": "x", "backOffPolicy": "often"}, `"backOffPolicy" is "often"`},
		{map[string]string{"url": "mqtt://h", "topic": "a", "appID": "x", "backOffMultiplier": "0.5"}, `"backOffMultiplier" is 0.5`},
		{map[string]string{"url": "mqtt://h", "topic": "a", "appID": "x", "backOffRandomizationFactor": "2"}, `"backOffRandomizationFactor" is 2`},
		{map[string]string{"url": "mqtt://h", "topic": "a", "appID": "x", "backOffDuration": "-1s"}, `"backOffDuration"`},
	} {
		if _, err := open(t, test.properties, nil); err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%v: %v, want an error with %s", test.properties, err, test.want)
		}
	}
	b, err := open(t, map[string]string{"url": fmt.Sprintf("mqtt://127.0.0.1:%d", servers.FreePort(t)), "topic": "a", "appID": "x"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := b.Invoke(bindingstest.Within(t), bindings.Request{Operation: bindings.Create}); err == nil || !strings.Contains(err.Error(), "cannot connect") || !strings.Contains(err.Error(), remedy) {
		t.Errorf("invoke: %v", err)
	}
	if _, err := b.Read(bindingstest.Within(t), nil); err == nil || !strings.Contains(err.Error(), "cannot connect") || !strings.Contains(err.Error(), remedy) {
		t.Errorf("read: %v", err)
	}
	if _, err := b.Invoke(bindingstest.Within(t), bindings.Request{Operation: "read"}); err == nil || !strings.Contains(err.Error(), `"read"`) {
		t.Errorf("operation: %v", err)
	}
}

// A publish to a broker that was stopped says what it waited for.
func TestStoppedBroker(t *testing.T) {
	broker := servers.Mosquitto(t, servers.Own())
	b := mustOpen(t, broker, map[string]string{"topic": "a", "appID": "stopped"}, nil)
	defer b.Close()
	invoke(t, b, "before", nil)
	broker.Stop()
	ctx, cancel := context.WithTimeout(bindingstest.Within(t), 100*time.Millisecond)
	defer cancel()
	_, err := b.Invoke(ctx, bindings.Request{Operation: bindings.Create})
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("error %v, want %v", err, context.DeadlineExceeded)
	}
	for _, want := range []string{`"a"`, "waited in vain for the acknowledgement", "mqtt://" + broker.Addr, remedy} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("the error does not name %q: %v", want, err)
		}
	}
}

// A broker that does not answer holds up neither Close nor requests whose time is over; and the directions have client ids of
// their own.
func TestSilentBroker(t *testing.T) {
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	for _, test := range []struct {
		clientID string
		use      func(ctx context.Context, b binding) error
	}{
		{"app-producer", func(ctx context.Context, b binding) error {
			_, err := b.Invoke(ctx, bindings.Request{Operation: bindings.Create})
			return err
		}},
		{"app-consumer", func(ctx context.Context, b binding) error {
			_, err := b.Read(ctx, nil)
			return err
		}},
	} {
		t.Run(test.clientID, func(t *testing.T) {
			b, err := open(t, map[string]string{"url": "mqtt://" + silent.Addr().String(), "topic": "a", "appID": "app"}, nil)
			if err != nil {
				t.Fatal(err)
			}
			hangs := make(chan error, 1)
			go func() { hangs <- test.use(bindingstest.Within(t), b) }()
			conn, err := silent.Accept()
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			connect := make([]byte, 14+len(test.clientID))
			if _, err := io.ReadFull(conn, connect); err != nil || !strings.HasSuffix(string(connect), "\x00\x0c"+test.clientID) {
				t.Errorf("it connects with %q, %v", connect, err)
			}
			ctx, cancel := context.WithTimeout(bindingstest.Within(t), 50*time.Millisecond)
			defer cancel()
			if err := test.use(ctx, b); !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "the MQTT broker at mqtt://"+silent.Addr().String()+": waited in vain for the connection that another call makes") || !strings.Contains(err.Error(), remedy) {
				t.Errorf("while another connects: %v", err)
			}
			for range 2 {
				if err := b.Close(); err != nil {
					t.Error(err)
				}
			}
			if err := <-hangs; err == nil || !strings.Contains(err.Error(), "closed") {
				t.Errorf("after Close: %v", err)
			}
		})
	}
}
