package jetstream_test

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	client "github.com/nats-io/nats.go"
	stream "github.com/nats-io/nats.go/jetstream"
	"google.golang.org/grpc/codes"

	"outrigger.dev/components/pubsub"
	"outrigger.dev/test/servers"
)

func containsText(err error, text string) bool { return strings.Contains(err.Error(), text) }

// admin is a client that sets up and looks at what the component works with.
func admin(t testing.TB, nats *servers.NATSServer) stream.JetStream {
	t.Helper()
	conn, err := client.Connect(nats.URL(), client.MaxReconnects(-1))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(conn.Close)
	js, err := stream.New(conn)
	if err != nil {
		t.Fatal(err)
	}
	return js
}

// createStream makes a stream and removes it at the end.
func createStream(t testing.TB, js stream.JetStream, name string, subjects ...string) {
	t.Helper()
	if _, err := js.CreateStream(within(t), stream.StreamConfig{Name: name, Subjects: subjects}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = js.DeleteStream(context.Background(), name) })
}

// consumers are those of a stream.
func consumers(t testing.TB, js stream.JetStream, name string) []*stream.ConsumerInfo {
	t.Helper()
	s, err := js.Stream(within(t), name)
	if err != nil {
		t.Fatal(err)
	}
	list := s.ListConsumers(within(t))
	var all []*stream.ConsumerInfo
	for info := range list.Info() {
		all = append(all, info)
	}
	if err := list.Err(); err != nil {
		t.Fatal(err)
	}
	return all
}

// code is the class of an error.
func code(err error) codes.Code {
	if known, ok := errors.AsType[*pubsub.Error](err); ok {
		return known.Code
	}
	return codes.Unknown
}

// settled tells how many of the messages that a consumer delivered have no verdict, and how many it has not delivered.
func settled(t testing.TB, js stream.JetStream, name string) bool {
	for _, c := range consumers(t, js, name) {
		if c.NumAckPending != 0 || c.NumPending != 0 {
			return false
		}
	}
	return true
}

func eventually(t testing.TB, what string, condition func() bool) {
	t.Helper()
	deadline := time.Now().Add(30 * time.Second)
	for !condition() {
		if time.Now().After(deadline) {
			t.Fatalf("it did not come true that %s", what)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// topic is a name of the test's own.
func topic(t testing.TB) string {
	return strings.NewReplacer("/", "-", " ", "-").Replace(t.Name())
}

func event(id, data string) string {
	return fmt.Sprintf(`{"specversion":"1.0","id":%q,"source":"test","type":"t","data":%q}`, id, data)
}

func TestStreams(t *testing.T) {
	nats := servers.NATS(t)
	js := admin(t, nats)
	plain := open(t, nats.URL(), nil)
	err := plain.Publish(within(t), pubsub.PublishRequest{Topic: "nobody.has.it", Data: []byte("x")})
	expectError(t, err, "nobody.has.it", nats.Addr, "createStreams", "nats stream add")
	if code(err) != codes.FailedPrecondition {
		t.Errorf("code %s", code(err))
	}
	_, err = plain.Subscribe(within(t), pubsub.SubscribeRequest{Topic: "nobody.has.it"}, nil)
	expectError(t, err, "nobody.has.it", "createStreams")
	for _, wrong := range []string{"", "a b", "a..b", "x.*"} {
		expectError(t, plain.Publish(within(t), pubsub.PublishRequest{Topic: wrong}), strconv.Quote(wrong), "NATS subject")
	}

	creating := open(t, nats.URL(), map[string]string{"createStreams": "true", "streamMaxAge": "1m", "streamMaxBytes": "1Mi"})
	t.Cleanup(func() { _ = js.DeleteStream(context.Background(), "made%2Eby%2Eus") })
	publish(t, creating, "made.by.us", "1", "2")
	s, err := js.Stream(within(t), "made%2Eby%2Eus")
	if err != nil {
		t.Fatal(err)
	}
	c := s.CachedInfo().Config
	if len(c.Subjects) != 1 || c.Subjects[0] != "made.by.us" || c.MaxAge != time.Minute || c.MaxBytes != 1<<20 || c.Duplicates != time.Minute || c.Storage != stream.FileStorage || s.CachedInfo().State.Msgs != 2 {
		t.Errorf("stream %+v with %d messages", c, s.CachedInfo().State.Msgs)
	}
	// One that holds the topic is used as it is.
	createStream(t, js, "theirs", "theirs.>")
	publish(t, creating, "theirs.a", "1")
	in, _ := subscribe(t, creating, "theirs.a")
	in.expect("1")
	_, err = creating.Subscribe(within(t), pubsub.SubscribeRequest{Topic: "unknown.*"}, nil)
	expectError(t, err, "unknown.*", "createStreams makes streams of single topics")
	_, err = creating.Subscribe(within(t), pubsub.SubscribeRequest{Topic: strings.Repeat("long.", 80) + "x"}, nil)
	expectError(t, err, "too long")
	createStream(t, js, "taken", "another.subject")
	_, err = creating.Subscribe(within(t), pubsub.SubscribeRequest{Topic: "taken"}, nil)
	expectError(t, err, `stream "taken"`)

	// Many make the same at once.
	var all sync.WaitGroup
	for i := range 8 {
		all.Go(func() {
			b := open(t, nats.URL(), map[string]string{"createStreams": "true", "streamMaxAge": strconv.Itoa(i+1) + "h"})
			if err := b.Publish(within(t), pubsub.PublishRequest{Topic: "raced", Data: []byte("x")}); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
}

func TestWildcards(t *testing.T) {
	nats := servers.NATS(t)
	js := admin(t, nats)
	createStream(t, js, "wild", "wild.>")
	createStream(t, js, "wilder", "wilder.>")
	b := open(t, nats.URL(), nil)
	publish(t, b, "wild.a.x", "1")
	publish(t, b, "wild.b.x", "2")
	publish(t, b, "wild.b.y", "3")
	in, _ := subscribe(t, b, "wild.*.x")
	for _, want := range []struct{ data, subject string }{{"1", "wild.a.x"}, {"2", "wild.b.x"}} {
		m := in.next()
		if string(m.Data) != want.data || m.Topic != "wild.*.x" || m.Metadata["Topic"] != want.subject {
			t.Errorf("message %q of topic %q with %v", m.Data, m.Topic, m.Metadata)
		}
	}
	_, err := b.Subscribe(within(t), pubsub.SubscribeRequest{Topic: "*.a"}, nil)
	expectError(t, err, "several streams", "wild, wilder", "streamName")
	named := open(t, nats.URL(), map[string]string{"streamName": "wild"})
	in, _ = subscribe(t, named, "wild.>")
	in.expect("1", "2", "3")
	missing := open(t, nats.URL(), map[string]string{"streamName": "missing"})
	_, err = missing.Subscribe(within(t), pubsub.SubscribeRequest{Topic: "wild.>"}, nil)
	expectError(t, err, "missing", "create the stream")
}

func TestStart(t *testing.T) {
	nats := servers.NATS(t)
	js := admin(t, nats)
	createStream(t, js, "start", "start")
	b := open(t, nats.URL(), nil)
	publish(t, b, "start", "1", "2")
	for time.Now().Nanosecond() > 900_000_000 || time.Now().Nanosecond() < 5_000_000 { // startTime counts whole seconds
		time.Sleep(10 * time.Millisecond)
	}
	before := time.Now().Unix()
	publish(t, b, "start", "3")
	for _, tt := range []struct {
		name       string
		properties map[string]string
		wants      []string
	}{
		{"all", nil, []string{"1", "2", "3", "4"}},
		{"last", map[string]string{"deliverPolicy": "last"}, []string{"3", "4"}},
		{"new", map[string]string{"deliverPolicy": "new"}, []string{"4"}},
		{"sequence", map[string]string{"deliverPolicy": "Sequence", "startSequence": "2"}, []string{"2", "3", "4"}},
		{"time", map[string]string{"deliverPolicy": "time", "startTime": strconv.FormatInt(before-3600, 10)}, []string{"1", "2", "3", "4"}},
		{"later", map[string]string{"deliverPolicy": "time", "startTime": strconv.FormatInt(before+3600, 10)}, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			in, s := subscribe(t, open(t, nats.URL(), tt.properties), "start")
			wants := tt.wants
			if len(wants) > 0 {
				st, err := js.Stream(within(t), "start")
				if err != nil {
					t.Fatal(err)
				}
				publish(t, b, "start", "4")
				in.expect(wants...)
				if err := st.DeleteMsg(within(t), st.CachedInfo().State.LastSeq+1); err != nil { // for the next
					t.Fatal(err)
				}
			}
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
			if len(in.msgs) > 0 {
				t.Errorf("there is also %q", (<-in.msgs).Data)
			}
		})
	}
}

func TestConsumerSettings(t *testing.T) {
	nats := servers.NATS(t)
	js := admin(t, nats)
	b := open(t, nats.URL(), map[string]string{
		"createStreams": "true", "durableName": "the.app", "queueGroupName": "the.group", "ackWait": "7s", "maxDeliver": "5", "backOff": "1s,2s", "maxAckPending": "17",
		"replicas": "1", "memoryStorage": "true", "rateLimit": "1000000", "flowControl": "true", "deliverPolicy": "new", "name": "a connection",
	})
	subscribe(t, b, "settings")
	all := consumers(t, js, "settings")
	if len(all) != 1 {
		t.Fatalf("%d consumers", len(all))
	}
	c := all[0].Config
	if c.Durable != "the%2Eapp" || c.DeliverGroup != "the%2Egroup" || c.AckWait != time.Second || c.MaxDeliver != 5 || len(c.BackOff) != 2 || c.MaxAckPending != 17 || c.Replicas != 1 ||
		!c.MemoryStorage || c.RateLimit != 1000000 || !c.FlowControl || c.IdleHeartbeat != 5*time.Second || c.DeliverPolicy != stream.DeliverNewPolicy || c.AckPolicy != stream.AckExplicitPolicy || c.FilterSubject != "settings" {
		t.Errorf("consumer %+v", c)
	}
	s, err := js.Stream(within(t), "settings")
	if err != nil || s.CachedInfo().Config.Storage != stream.MemoryStorage {
		t.Errorf("stream %+v, error %v", s.CachedInfo().Config, err)
	}
	// A second one of the group takes part; what may change does.
	second := open(t, nats.URL(), map[string]string{
		"createStreams": "true", "durableName": "the.app", "queueGroupName": "the.group", "ackWait": "7s", "maxAckPending": "18",
		"memoryStorage": "true", "flowControl": "true", "deliverPolicy": "all",
	})
	subscribe(t, second, "settings")
	if all := consumers(t, js, "settings"); len(all) != 1 || all[0].Config.MaxAckPending != 18 || all[0].Config.AckWait != 7*time.Second {
		t.Errorf("consumers %+v", all)
	}
	for _, tt := range []struct {
		properties map[string]string
		wants      []string
	}{
		{map[string]string{"queueGroupName": "other"}, []string{"the%2Eapp", "queueGroupName", "other"}},
		{map[string]string{"ackPolicy": "none"}, []string{"ack policy", "nats consumer rm settings the%2Eapp"}},
	} {
		properties := map[string]string{"durableName": "the.app", "queueGroupName": "the.group", "memoryStorage": "true", "flowControl": "true"}
		for name, value := range tt.properties {
			properties[name] = value
		}
		_, err := open(t, nats.URL(), properties).Subscribe(within(t), pubsub.SubscribeRequest{Topic: "settings"}, nil)
		expectError(t, err, tt.wants...)
	}
}

func TestDurableNameOfTwoTopics(t *testing.T) {
	nats := servers.NATS(t)
	createStream(t, admin(t, nats), "both", "both.>")
	b := open(t, nats.URL(), map[string]string{"durableName": "d"})
	subscribe(t, b, "both.a")
	_, err := b.Subscribe(within(t), pubsub.SubscribeRequest{Topic: "both.b"}, nil)
	expectError(t, err, `"d"`, "both.a", "both.b", "durableName of its own")
	if code(err) != codes.FailedPrecondition {
		t.Errorf("code %s", code(err))
	}
}

// The members of a group share the messages of each topic also when the consumer is not durable, and it ends with the last of them.
func TestGroupWithoutDurableName(t *testing.T) {
	nats := servers.NATS(t)
	js := admin(t, nats)
	createStream(t, js, "grouped", "grouped.>")
	properties := map[string]string{"queueGroupName": "the group"}
	publisher := open(t, nats.URL(), nil)
	one, first := subscribe(t, open(t, nats.URL(), properties), "grouped.a")
	two, _ := subscribe(t, open(t, nats.URL(), properties), "grouped.a")
	other, _ := subscribe(t, open(t, nats.URL(), properties), "grouped.b")
	alone, _ := subscribe(t, publisher, "grouped.a")
	const count = 100
	total := func() int { return len(one.msgs) + len(two.msgs) }
	for i := range count {
		publish(t, publisher, "grouped.a", strconv.Itoa(i))
	}
	publish(t, publisher, "grouped.b", "b")
	other.expect("b")
	eventually(t, "all have come", func() bool { return total() >= count && len(alone.msgs) == count && settled(t, js, "grouped") })
	if len(one.msgs) == 0 || len(two.msgs) == 0 || total() != count {
		t.Errorf("one got %d messages, the other %d, want %d together", len(one.msgs), len(two.msgs), count)
	}
	// Who leaves takes nothing away from the others.
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	publish(t, publisher, "grouped.a", "more")
	eventually(t, "the one that stays gets all", func() bool { return total() == count+1 && settled(t, js, "grouped") })
	if n := len(consumers(t, js, "grouped")); n != 3 {
		t.Errorf("%d consumers, want one of each group and topic, and that without group", n)
	}
}

func TestSlowHandlersKeepTheirMessages(t *testing.T) {
	nats := servers.NATS(t)
	for _, mode := range []string{"single", "parallel"} {
		t.Run(mode, func(t *testing.T) {
			properties := own("app")
			properties["ackWait"], properties["concurrencyMode"] = "300ms", mode
			b := open(t, nats.URL(), properties)
			name := topic(t)
			var mu sync.Mutex
			times := map[string]int{}
			_, err := b.Subscribe(within(t), pubsub.SubscribeRequest{Topic: name}, func(_ context.Context, m *pubsub.Message) error {
				mu.Lock()
				times[string(m.Data)]++
				mu.Unlock()
				time.Sleep(500 * time.Millisecond) // longer than ackWait; in turn, the last waits four times as long
				return nil
			})
			if err != nil {
				t.Fatal(err)
			}
			publish(t, b, name, "1", "2", "3", "4")
			js := admin(t, nats)
			eventually(t, "all is settled", func() bool {
				mu.Lock()
				defer mu.Unlock()
				return len(times) == 4 && settled(t, js, name)
			})
			mu.Lock()
			defer mu.Unlock()
			for text, n := range times {
				if n != 1 {
					t.Errorf("message %s was delivered %d times", text, n)
				}
			}
		})
	}
}

func TestRedeliveryDelays(t *testing.T) {
	nats := servers.NATS(t)
	for _, tt := range []struct {
		name       string
		properties map[string]string
		delays     []time.Duration
	}{
		{"at once", map[string]string{"ackWait": "-"}, []time.Duration{0, 0}},
		{"ackWait", map[string]string{"ackWait": "400ms"}, []time.Duration{400 * time.Millisecond, 400 * time.Millisecond}},
		{"backOff", map[string]string{"backOff": "200ms,600ms"}, []time.Duration{200 * time.Millisecond, 600 * time.Millisecond}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			properties := own("app")
			for name, value := range tt.properties {
				properties[name] = value
			}
			b := open(t, nats.URL(), properties)
			name := topic(t)
			came := make(chan time.Time, 10)
			_, err := b.Subscribe(within(t), pubsub.SubscribeRequest{Topic: name}, func(context.Context, *pubsub.Message) error {
				came <- time.Now()
				if len(came) <= len(tt.delays) {
					return errors.New("not yet")
				}
				return nil
			})
			if err != nil {
				t.Fatal(err)
			}
			publish(t, b, name, "x")
			js := admin(t, nats)
			eventually(t, "it is settled", func() bool { return len(came) == len(tt.delays)+1 && settled(t, js, name) })
			last := <-came
			for i, want := range tt.delays {
				at := <-came
				if got := at.Sub(last); got < want-50*time.Millisecond || want == 0 && got > 2*time.Second {
					t.Errorf("delay %d is %s, want %s", i+1, got, want)
				}
				last = at
			}
		})
	}
}

func TestMaxDeliver(t *testing.T) {
	nats := servers.NATS(t)
	properties := own("app")
	properties["maxDeliver"], properties["ackWait"] = "3", "100ms"
	b := open(t, nats.URL(), properties)
	var times atomic.Int32
	if _, err := b.Subscribe(within(t), pubsub.SubscribeRequest{Topic: "limited"}, func(_ context.Context, m *pubsub.Message) error {
		if string(m.Data) == "good" {
			return nil
		}
		times.Add(1)
		return errors.New("never")
	}); err != nil {
		t.Fatal(err)
	}
	publish(t, b, "limited", "bad", "good")
	eventually(t, "it was tried three times", func() bool { return times.Load() == 3 })
	publish(t, b, "limited", "good")
	time.Sleep(400 * time.Millisecond) // in which a fourth would have come
	if n := times.Load(); n != 3 {
		t.Errorf("delivered %d times, want 3", n)
	}
}

func TestAckPolicies(t *testing.T) {
	nats := servers.NATS(t)
	js := admin(t, nats)
	for _, tt := range []struct{ policy, mode string }{{"all", "single"}, {"all", "parallel"}, {"none", "single"}, {"none", "parallel"}} {
		t.Run(tt.policy+" "+tt.mode, func(t *testing.T) {
			b := open(t, nats.URL(), map[string]string{"createStreams": "true", "durableName": "d", "ackPolicy": tt.policy, "concurrencyMode": tt.mode, "heartbeat": "100ms", "flowControl": "true"})
			name := topic(t)
			const count = 6000 // more than wait here when there are no acknowledgements
			var got atomic.Int32
			hold := make(chan struct{})
			if _, err := b.Subscribe(within(t), pubsub.SubscribeRequest{Topic: name}, func(context.Context, *pubsub.Message) error {
				<-hold
				got.Add(1)
				return nil
			}); err != nil {
				t.Fatal(err)
			}
			var all sync.WaitGroup
			for range 8 {
				all.Go(func() {
					for range count / 8 {
						if err := b.Publish(t.Context(), pubsub.PublishRequest{Topic: name, Data: []byte("x")}); err != nil {
							t.Error(err)
						}
					}
				})
			}
			all.Wait()
			close(hold)
			eventually(t, "all have come", func() bool { return got.Load() == count && settled(t, js, name) })
		})
	}
}

func TestIdDropsDuplicates(t *testing.T) {
	nats := servers.NATS(t)
	js := admin(t, nats)
	createStream(t, js, "ids", "ids.>")
	b := open(t, nats.URL(), nil)
	publish(t, b, "ids.a", event("1", "x"), event("1", "x"), event("2", "x"), `{"id":"1"}`, `{"id":"1"}`, "plain", "plain")
	// A dead letter has the id of the event it was, and must not be taken for that.
	publish(t, b, "ids.dead", event("1", "x"), event("1", "x"))
	for name, want := range map[string]int{"ids.a": 6, "ids.dead": 1} {
		s, err := js.Stream(within(t), "ids")
		if err != nil {
			t.Fatal(err)
		}
		info, err := s.Info(within(t), stream.WithSubjectFilter(name))
		if err != nil || info.State.Subjects[name] != uint64(want) {
			t.Errorf("topic %s has %d messages, want %d, error %v", name, info.State.Subjects[name], want, err)
		}
	}
	s, err := js.Stream(within(t), "ids")
	if err != nil {
		t.Fatal(err)
	}
	first, err := s.GetMsg(within(t), 1)
	if err != nil || first.Header.Get("Nats-Msg-Id") != "1" || len(first.Header) != 1 {
		t.Errorf("headers %v, error %v", first.Header, err)
	}
	if plain, err := s.GetMsg(within(t), 5); err != nil || len(plain.Header) != 0 {
		t.Errorf("headers %v, error %v", plain.Header, err)
	}
}

func TestTooLarge(t *testing.T) {
	nats := servers.NATS(t)
	b := open(t, nats.URL(), map[string]string{"createStreams": "true"})
	err := b.Publish(within(t), pubsub.PublishRequest{Topic: "large", Data: make([]byte, 9<<20)})
	expectError(t, err, `"large"`, strconv.Itoa(9<<20), "max_payload")
	if code(err) != codes.FailedPrecondition {
		t.Errorf("code %s", code(err))
	}
}
