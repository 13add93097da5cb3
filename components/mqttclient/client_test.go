package mqttclient_test

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"outrigger.dev/components/mqttclient"
	"outrigger.dev/test/servers"
)

func TestMain(m *testing.M) { servers.Main(m) }

// within is a context for one step of a test.
func within(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	t.Cleanup(cancel)
	return ctx
}

// eventually waits until a condition holds.
func eventually(t testing.TB, what string, condition func() bool) {
	t.Helper()
	limit := time.After(30 * time.Second)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !condition() {
		select {
		case <-limit:
			t.Fatal("not within 30 seconds: " + what)
		case <-tick.C:
		}
	}
}

func connect(t testing.TB, o mqttclient.Options, s mqttclient.Session) *mqttclient.Client {
	t.Helper()
	c, err := o.Connect(within(t), s)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// seen collects payloads with how often they came.
type seen struct {
	mu    sync.Mutex
	count map[string]int
}

func (s *seen) handle(_ context.Context, m *mqttclient.Message) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.count == nil {
		s.count = map[string]int{}
	}
	s.count[string(m.Payload)]++
	return nil
}

func (s *seen) of(payload string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.count[payload]
}

func (s *seen) different() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.count)
}

func subscribe(t testing.TB, c *mqttclient.Client, topic string, qos byte, h mqttclient.Handler) *mqttclient.Subscription {
	t.Helper()
	s, err := c.Subscribe(within(t), topic, qos, h)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func publish(t testing.TB, c *mqttclient.Client, topic, payload string, qos byte) {
	t.Helper()
	if err := c.Publish(within(t), mqttclient.Publication{Topic: topic, Payload: []byte(payload), QoS: qos}); err != nil {
		t.Fatal(err)
	}
}

func TestWaysToConnect(t *testing.T) {
	plain := servers.Mosquitto(t)
	password := servers.Mosquitto(t, servers.Password("s3:cr@t"))
	secure := servers.Mosquitto(t, servers.MutualTLS())
	certs := mqttclient.Options{CACert: string(secure.TLS.CA), ClientCert: secure.TLS.CertFile, ClientKey: string(secure.TLS.Key)}
	with := func(url string) mqttclient.Options { o := certs; o.URL = url; return o }
	user := url.UserPassword(password.User, password.Password).String()
	for _, test := range []struct {
		name    string
		options mqttclient.Options
		err     string
	}{
		{"mqtt", mqttclient.Options{URL: "mqtt://" + plain.Addr}, ""},
		{"tcp", mqttclient.Options{URL: "tcp://" + plain.Addr}, ""},
		{"ws", mqttclient.Options{URL: fmt.Sprintf("ws://127.0.0.1:%d/mqtt", plain.WebSocketPort)}, ""},
		{"mqtts", with("mqtts://" + secure.Addr), ""},
		{"ssl", with("ssl://" + secure.Addr), ""},
		{"wss", with(fmt.Sprintf("wss://localhost:%d", secure.WebSocketPort)), ""},
		{"user", mqttclient.Options{URL: "mqtt://" + user + "@" + password.Addr}, ""},
		{"user over ws", mqttclient.Options{URL: fmt.Sprintf("ws://%s@127.0.0.1:%d", user, password.WebSocketPort)}, ""},
		{"wrong password", mqttclient.Options{URL: "mqtt://outrigger:wrong@" + password.Addr}, "not authorised"},
		{"no client certificate", mqttclient.Options{URL: "mqtts://" + secure.Addr, CACert: certs.CACert}, secure.Addr},
		{"unknown authority", mqttclient.Options{URL: "mqtts://" + secure.Addr, ClientCert: certs.ClientCert, ClientKey: certs.ClientKey}, "certificate"},
		{"nobody there", mqttclient.Options{URL: fmt.Sprintf("mqtt://127.0.0.1:%d", servers.FreePort(t))}, "refused; check that the broker runs and that the metadata property \"url\" is right"},
	} {
		t.Run(test.name, func(t *testing.T) {
			session := mqttclient.Session{ClientID: "ways-" + strings.ReplaceAll(test.name, " ", "-"), CleanSession: true}
			c, err := test.options.Connect(within(t), session)
			if test.err != "" {
				if err == nil || !strings.Contains(err.Error(), test.err) || strings.Contains(err.Error(), "wrong@") {
					t.Errorf("error %v, want one with %q and without the password", err, test.err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			var got seen
			subscribe(t, c, session.ClientID, 1, got.handle)
			large := strings.Repeat("0123456789abcdef", 1<<16) // 1 MiB: many reads and writes
			if strings.Contains(test.options.URL, "ws") {
				large = large[:32<<10] // Mosquitto sends 40 KiB a second over WebSocket
			}
			publish(t, c, session.ClientID, large, 1)
			eventually(t, "the message comes", func() bool { return got.of(large) == 1 })
			if err := c.Ping(within(t)); err != nil {
				t.Error(err)
			}
		})
	}
}

// Messages that were published while the broker was restarted are not lost. Those come twice, at most, that were on their way
// when a connection ended: to the subscriber as many as the broker's window holds, and with qos 1 also one of each publisher.
func TestPublishThroughRestarts(t *testing.T) {
	for _, qos := range []byte{1, 2} {
		t.Run(fmt.Sprint("qos ", qos), func(t *testing.T) {
			broker := servers.Mosquitto(t, servers.Own(), servers.Setting("max_queued_messages", "0"))
			o := mqttclient.Options{URL: "mqtt://" + broker.Addr}
			var got seen
			c := connect(t, o, mqttclient.Session{ClientID: "both"})
			subscribe(t, c, "restarts/#", qos, got.handle)
			const publishers, each, restarts, window = 8, 150, 2, 20
			var wg sync.WaitGroup
			var published atomic.Int32
			for p := range publishers {
				wg.Go(func() {
					for i := range each {
						payload := fmt.Sprintf("%d-%d", p, i)
						if err := c.Publish(within(t), mqttclient.Publication{Topic: "restarts/x", Payload: []byte(payload), QoS: qos}); err != nil {
							t.Errorf("%s: %v", payload, err)
						}
						published.Add(1)
					}
				})
			}
			for restart := range restarts {
				eventually(t, "publishing goes on", func() bool { return published.Load() >= int32(publishers*each*(restart+1)/4) })
				broker.Stop()
				broker.Start()
			}
			wg.Wait()
			eventually(t, "all messages come", func() bool { return got.different() == publishers*each })
			twice := 0
			for p := range publishers {
				for i := range each {
					twice += got.of(fmt.Sprintf("%d-%d", p, i)) - 1
				}
			}
			most := restarts * window
			if qos == 1 {
				most += restarts * publishers
			}
			if twice > most {
				t.Errorf("%d messages came twice, want at most %d", twice, most)
			}
		})
	}
}

// A rejected message comes again on the next connection of the session, and only then.
func TestRejectedComesAgainAfterReconnect(t *testing.T) {
	broker := servers.Mosquitto(t, servers.Own())
	o := mqttclient.Options{URL: "mqtt://" + broker.Addr}
	for _, qos := range []byte{1, 2} {
		t.Run(fmt.Sprint("qos ", qos), func(t *testing.T) {
			topic := fmt.Sprint("rejected/", qos)
			c := connect(t, o, mqttclient.Session{ClientID: topic})
			var calls, good atomic.Int32
			subscribe(t, c, topic, qos, func(_ context.Context, m *mqttclient.Message) error {
				if string(m.Payload) == "good" {
					good.Add(1)
					return nil
				}
				if calls.Add(1) == 1 {
					return errors.New("not now")
				}
				return nil
			})
			publish(t, c, topic, "bad", qos)
			eventually(t, "the message is rejected", func() bool { return calls.Load() == 1 })
			publish(t, c, topic, "good", qos)
			eventually(t, "another message passes", func() bool { return good.Load() == 1 })
			if calls.Load() != 1 {
				t.Errorf("the rejected message came %d times on one connection", calls.Load())
			}
			broker.Stop()
			broker.Start()
			eventually(t, "the rejected message comes again", func() bool { return calls.Load() == 2 })
			if err := c.Ping(within(t)); err != nil {
				t.Fatal(err)
			}
		})
	}
}

// What a subscription leaves behind, and what comes before it is there, waits for the next.
func TestMessagesWaitForSubscriptions(t *testing.T) {
	broker := servers.Mosquitto(t)
	o := mqttclient.Options{URL: "mqtt://" + broker.Addr}
	c := connect(t, o, mqttclient.Session{ClientID: "waits"})
	held := make(chan struct{})
	s := subscribe(t, c, "waits/+", 1, func(ctx context.Context, _ *mqttclient.Message) error {
		close(held)
		<-ctx.Done()
		return ctx.Err()
	})
	publish(t, c, "waits/1", "held", 1)
	<-held
	if err := s.Close(within(t), false); err != nil {
		t.Fatal(err)
	}
	publish(t, c, "waits/2", "between", 1)
	var got seen
	paused := subscribe(t, c, "waits/+", 1, got.handle)
	eventually(t, "what waited comes", func() bool { return got.of("held") == 1 && got.of("between") == 1 })
	paused.Pause()
	publish(t, c, "waits/3", "paused", 1)
	if err := c.Ping(within(t)); err != nil {
		t.Fatal(err)
	}
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	if got.of("paused") != 0 {
		t.Error("a message came after Pause")
	}
	// The session is the broker's: another process finds the rest.
	c = connect(t, o, mqttclient.Session{ClientID: "waits"})
	subscribe(t, c, "waits/+", 1, got.handle)
	eventually(t, "the message after Pause comes", func() bool { return got.of("paused") == 1 })
	if got.of("held") != 1 || got.of("between") != 1 {
		t.Error("acknowledged messages came again")
	}
}

func TestUnsubscribe(t *testing.T) {
	broker := servers.Mosquitto(t, servers.Own())
	o := mqttclient.Options{URL: "mqtt://" + broker.Addr}
	for _, down := range []bool{false, true} {
		t.Run(fmt.Sprint("broker down ", down), func(t *testing.T) {
			id := fmt.Sprint("unsubscribe-", down)
			c := connect(t, o, mqttclient.Session{ClientID: id})
			publisher := connect(t, o, mqttclient.Session{ClientID: id + "-publisher"})
			var got seen
			kept := subscribe(t, c, id+"/kept", 1, got.handle)
			left := subscribe(t, c, id+"/left", 1, got.handle)
			if down {
				broker.Stop()
			}
			if err := kept.Close(within(t), false); err != nil {
				t.Fatal(err)
			}
			if err := left.Close(within(t), true); err != nil {
				t.Fatal(err)
			}
			broker.Start()
			if err := c.Ping(within(t)); err != nil {
				t.Fatal(err)
			}
			publish(t, publisher, id+"/left", "left", 1)
			publish(t, publisher, id+"/kept", "kept", 1)
			subscribe(t, c, id+"/left", 1, got.handle)
			subscribe(t, c, id+"/kept", 1, got.handle)
			publish(t, publisher, id+"/left", "last", 1)
			eventually(t, "messages come", func() bool { return got.of("kept") == 1 && got.of("last") == 1 })
			if got.of("left") != 0 {
				t.Error("a message came of a topic that was left")
			}
		})
	}
}

// Subscriptions of one filter share its messages, and those of overlapping filters all see a message.
func TestSeveralSubscriptions(t *testing.T) {
	broker := servers.Mosquitto(t)
	c := connect(t, mqttclient.Options{URL: "mqtt://" + broker.Addr}, mqttclient.Session{ClientID: "several", CleanSession: true})
	var one, other, all seen
	first := subscribe(t, c, "several/a", 1, one.handle)
	subscribe(t, c, "several/a", 1, other.handle)
	subscribe(t, c, "several/#", 1, all.handle)
	const n = 100
	for i := range n {
		publish(t, c, "several/a", fmt.Sprint(i), 1)
	}
	eventually(t, "all see all", func() bool { return all.different() == n && one.different()+other.different() >= n })
	if one.different() == 0 || other.different() == 0 {
		t.Errorf("one subscription got %d messages, the other %d", one.different(), other.different())
	}
	if err := first.Close(within(t), true); err != nil {
		t.Fatal(err)
	}
	publish(t, c, "several/a", "left", 1)
	eventually(t, "the other goes on", func() bool { return other.of("left") > 0 })
}

func TestClosedAndUnreachable(t *testing.T) {
	broker := servers.Mosquitto(t, servers.Own())
	c := connect(t, mqttclient.Options{URL: "mqtt://" + broker.Addr}, mqttclient.Session{ClientID: "closed"})
	broker.Stop()
	const remedy = `check that the broker runs and that the metadata property "url" is right`
	eventually(t, "the client notices that the broker is gone", func() bool {
		ctx, cancel := context.WithTimeout(within(t), 10*time.Millisecond)
		defer cancel()
		err := c.Ping(ctx)
		return err != nil && strings.Contains(err.Error(), "is not connected")
	})
	for _, test := range []struct {
		name, waited string
		call         func(context.Context) error
	}{
		{"publish, qos 0", "the connection", func(ctx context.Context) error {
			return c.Publish(ctx, mqttclient.Publication{Topic: "t"})
		}},
		{"publish, qos 1", "the acknowledgement", func(ctx context.Context) error {
			return c.Publish(ctx, mqttclient.Publication{Topic: "t", QoS: 1})
		}},
		{"publish, qos 2", "the acknowledgement", func(ctx context.Context) error {
			return c.Publish(ctx, mqttclient.Publication{Topic: "t", QoS: 2})
		}},
		{"subscribe", "the answer", func(ctx context.Context) error {
			_, err := c.Subscribe(ctx, "t", 1, new(seen).handle)
			return err
		}},
		{"ping", "the connection", c.Ping},
	} {
		ctx, cancel := context.WithTimeout(within(t), 100*time.Millisecond)
		err := test.call(ctx)
		cancel()
		if !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%s without a broker: %v", test.name, err)
			continue
		}
		if text := err.Error(); !strings.Contains(text, "the MQTT broker at mqtt://"+broker.Addr+" is not connected: waited in vain for "+test.waited+": ") || strings.Count(text, remedy) != 1 {
			t.Errorf("%s without a broker: %v; want what it waited for, the broker and once the remedy", test.name, err)
		}
	}
	pending := make(chan error, 1)
	go func() { pending <- c.Publish(within(t), mqttclient.Publication{Topic: "t", QoS: 1}) }()
	for range 2 {
		if err := c.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if err := <-pending; !errors.Is(err, mqttclient.ErrClosed) {
		t.Errorf("pending publish: %v", err)
	}
	for _, qos := range []byte{0, 1} {
		if err := c.Publish(within(t), mqttclient.Publication{Topic: "t", QoS: qos}); !errors.Is(err, mqttclient.ErrClosed) {
			t.Errorf("publish: %v", err)
		}
	}
	if _, err := c.Subscribe(within(t), "t", 1, new(seen).handle); !errors.Is(err, mqttclient.ErrClosed) {
		t.Errorf("subscribe: %v", err)
	}
	if err := c.Ping(within(t)); !errors.Is(err, mqttclient.ErrClosed) {
		t.Errorf("ping: %v", err)
	}
}

// A broker that forgot the session is asked for the subscriptions again.
func TestSessionLost(t *testing.T) {
	broker := servers.Mosquitto(t, servers.Own(), servers.Setting("persistence", "false"))
	o := mqttclient.Options{URL: "mqtt://" + broker.Addr}
	c := connect(t, o, mqttclient.Session{ClientID: "forgotten"})
	var got seen
	subscribe(t, c, "forgotten/+", 1, got.handle)
	for i := range 3 {
		broker.Kill()
		broker.Start()
		if err := c.Ping(within(t)); err != nil {
			t.Fatal(err)
		}
		eventually(t, "messages come again", func() bool {
			publish(t, c, "forgotten/x", fmt.Sprint(i), 1)
			return got.of(fmt.Sprint(i)) > 0
		})
	}
}

// A broker that crashed and comes back with an older state of the session is asked for what it has forgotten.
func TestSessionRolledBack(t *testing.T) {
	broker := servers.Mosquitto(t, servers.Own())
	o := mqttclient.Options{URL: "mqtt://" + broker.Addr}
	for _, qos := range []byte{1, 2} {
		t.Run(fmt.Sprint("qos ", qos), func(t *testing.T) {
			topic := fmt.Sprint("rolled/", qos)
			c := connect(t, o, mqttclient.Session{ClientID: topic})
			var got seen
			subscribe(t, c, topic+"/saved", qos, got.handle)
			broker.Stop() // which saves
			broker.Start()
			subscribe(t, c, topic+"/later", qos, got.handle)
			for i := range 30 { // more identifiers than it has saved
				publish(t, c, topic+"/later", fmt.Sprint("before", i), qos)
			}
			eventually(t, "messages come", func() bool { return got.different() == 30 })
			broker.Kill()
			broker.Start()
			for _, name := range []string{"/saved", "/later"} {
				for i := range 30 {
					publish(t, c, topic+name, fmt.Sprint(name, i), qos)
				}
			}
			eventually(t, "messages come of both topics", func() bool { return got.different() == 90 })
		})
	}
}
