package kafka

import (
	"context"
	"errors"
	"maps"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/twmb/franz-go/pkg/kfake"

	"outrigger.dev/components"
	"outrigger.dev/components/bindings"
	"outrigger.dev/components/bindings/bindingstest"
)

// binding is the type under test.
var binding = bindingstest.Type[*Binding]{Register: Register, Name: "kafka"}

// open opens a binding of the app "app" with defaults that suit tests.
func open(t testing.TB, properties map[string]string) (*Binding, error) {
	t.Helper()
	all := map[string]string{"authType": "none", "heartbeatInterval": "100ms", "sessionTimeout": "6s", "backOffDuration": "10ms"}
	maps.Copy(all, properties)
	return binding.OpenInstance(t, components.Instance{Properties: all, Sidecar: components.Sidecar{AppID: "app"}})
}

func mustOpen(t testing.TB, properties map[string]string) *Binding {
	t.Helper()
	b, err := open(t, properties)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func cluster(t testing.TB) (*kfake.Cluster, string) {
	t.Helper()
	c, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.SeedTopics(1, "a", "b"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c, strings.Join(c.ListenAddrs(), ",")
}

func create(t testing.TB, b *Binding, data string, metadata map[string]string) {
	t.Helper()
	if metadata == nil {
		metadata = map[string]string{}
	}
	resp, err := b.Invoke(bindingstest.Within(t), bindings.Request{Operation: bindings.Create, Data: []byte(data), Metadata: metadata})
	if err != nil || resp != nil {
		t.Fatalf("Invoke: %v, %v", resp, err)
	}
}

func TestCreateAndRead(t *testing.T) {
	_, addr := cluster(t)
	in := mustOpen(t, map[string]string{"brokers": addr, "topics": "a, b", "direction": "input"})
	events := make(chan *bindings.Event, 10)
	handler := func(_ context.Context, e *bindings.Event) ([]byte, error) {
		events <- e
		return nil, nil
	}
	closer, err := in.Read(t.Context(), handler)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := in.Read(t.Context(), handler); err == nil {
		t.Error("a second reading began beside the first")
	}
	for _, topic := range []string{"a", "b"} {
		out := mustOpen(t, map[string]string{"brokers": addr, "publishTopic": topic, "direction": "output"})
		create(t, out, "to "+topic, map[string]string{"partitionKey": "k", "tenant": "blue"})
		e := bindingstest.Receive(t, events)
		if string(e.Data) != "to "+topic || e.Metadata["__key"] != "k" || e.Metadata["tenant"] != "blue" || e.Metadata["__topic"] != topic {
			t.Errorf("event %q with %v", e.Data, e.Metadata)
		}
	}
	if err := closer.Close(); err != nil {
		t.Fatal(err)
	}
	out := mustOpen(t, map[string]string{"brokers": addr, "publishTopic": "a"})
	create(t, out, "meanwhile", nil)
	if len(events) > 0 {
		t.Error("an event came after Close")
	}
	// One reading may follow another, and begins where the last one ended.
	if _, err := in.Read(t.Context(), handler); err != nil {
		t.Fatal(err)
	}
	if e := bindingstest.Receive(t, events); string(e.Data) != "meanwhile" {
		t.Errorf("event %q, want the one published meanwhile", e.Data)
	}
	if err := in.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := in.Read(t.Context(), handler); err == nil || !strings.Contains(err.Error(), "closed") {
		t.Errorf("reading from a closed binding: %v", err)
	}
}

// By default a failed event is passed over; with consumeRetryEnabled it is tried again (Dapr API, Kafka binding).
func TestFailedEvents(t *testing.T) {
	for _, tc := range []struct {
		enabled string
		calls   int32
	}{{"", 1}, {"false", 1}, {"true", 3}} {
		t.Run("consumeRetryEnabled="+tc.enabled, func(t *testing.T) {
			_, addr := cluster(t)
			properties := map[string]string{"brokers": addr, "topics": "a", "publishTopic": "a"}
			if tc.enabled != "" {
				properties["consumeRetryEnabled"] = tc.enabled
			}
			b := mustOpen(t, properties)
			events := make(chan *bindings.Event, 10)
			var calls atomic.Int32
			if _, err := b.Read(t.Context(), func(_ context.Context, e *bindings.Event) ([]byte, error) {
				if string(e.Data) == "bad" && calls.Add(1) < 3 {
					return nil, errors.New("rejected")
				}
				events <- e
				return nil, nil
			}); err != nil {
				t.Fatal(err)
			}
			create(t, b, "bad", nil)
			create(t, b, "good", nil)
			want := []string{"good"}
			if tc.enabled == "true" {
				want = []string{"bad", "good"}
			}
			for _, w := range want {
				if e := bindingstest.Receive(t, events); string(e.Data) != w {
					t.Errorf("event %q, want %q", e.Data, w)
				}
			}
			if got := calls.Load(); got != tc.calls {
				t.Errorf("%d calls for the event that fails, want %d", got, tc.calls)
			}
		})
	}
}

func TestRefused(t *testing.T) {
	_, addr := cluster(t)
	for name, tc := range map[string]struct {
		properties map[string]string
		words      []string
	}{
		"neither":  {nil, []string{"topics", "publishTopic"}},
		"input":    {map[string]string{"direction": "input", "publishTopic": "a"}, []string{"topics", "input"}},
		"output":   {map[string]string{"direction": "Input, Output", "topics": "a"}, []string{"publishTopic", "output"}},
		"authType": {map[string]string{"topics": "a", "authType": ""}, []string{"authType"}},
		"schema":   {map[string]string{"topics": "a", "valueSchemaType": "json"}, []string{"valueSchemaType", "json", "avro"}},
		"away":     {map[string]string{"topics": "a", "brokers": "127.0.0.1:1"}, []string{"127.0.0.1:1"}},
	} {
		t.Run(name, func(t *testing.T) {
			all := map[string]string{"brokers": addr}
			maps.Copy(all, tc.properties)
			_, err := open(t, all)
			for _, w := range tc.words {
				if err == nil || !strings.Contains(err.Error(), w) {
					t.Errorf("the error does not name %q: %v", w, err)
				}
			}
		})
	}
	in := mustOpen(t, map[string]string{"brokers": addr, "topics": "a", "valueSchemaType": "avro"})
	_, err := in.Invoke(t.Context(), bindings.Request{Operation: bindings.Create})
	if err == nil || !strings.Contains(err.Error(), "publishTopic") {
		t.Errorf("publishing without a topic: %v", err)
	}
	if _, err = in.Read(t.Context(), nil); err == nil || !strings.Contains(err.Error(), "schemaRegistryURL") {
		t.Errorf("reading Avro without a registry: %v", err)
	}
	out := mustOpen(t, map[string]string{"brokers": addr, "publishTopic": "a"})
	if _, err := out.Invoke(t.Context(), bindings.Request{Operation: "delete"}); err == nil || !strings.Contains(err.Error(), "delete") {
		t.Errorf("an unknown operation: %v", err)
	}
	if _, err := out.Read(t.Context(), nil); err == nil || !strings.Contains(err.Error(), "topics") {
		t.Errorf("reading without topics: %v", err)
	}
}
