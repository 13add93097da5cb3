package e2e

import (
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"outrigger.dev/test/servers"
)

// inbox is an app that subscribes to a topic and counts the messages it gets by their number.
type inbox struct {
	port int

	mu  sync.Mutex
	got map[int]int
}

func newInbox(t *testing.T) *inbox {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	in := &inbox{port: l.Addr().(*net.TCPAddr).Port, got: map[int]int{}}
	s := &http.Server{Handler: in, ReadHeaderTimeout: limit}
	var serving sync.WaitGroup
	serving.Go(func() { _ = s.Serve(l) })
	t.Cleanup(func() { _ = s.Close(); serving.Wait() })
	return in
}

func (in *inbox) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	switch r.URL.Path {
	case "/dapr/subscribe":
		w.Header().Set("Content-Type", "application/json")
		_, _ = io.WriteString(w, `[{"pubsubname":"broker","topic":"numbers","route":"/number"}]`)
	case "/number":
		var event struct {
			Data int `json:"data"`
		}
		if err := json.NewDecoder(r.Body).Decode(&event); err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		in.mu.Lock()
		in.got[event.Data]++
		in.mu.Unlock()
	default:
		http.NotFound(w, r)
	}
}

// missing are those of the numbers that have not arrived.
func (in *inbox) missing(numbers []int) (list []int) {
	in.mu.Lock()
	defer in.mu.Unlock()
	for _, n := range numbers {
		if in.got[n] == 0 {
			list = append(list, n)
		}
	}
	return list
}

// count is how many different numbers have arrived, and how often one came again.
func (in *inbox) count() (different, again int) {
	in.mu.Lock()
	defer in.mu.Unlock()
	for _, n := range in.got {
		again += n - 1
	}
	return len(in.got), again
}

// numbers publishes ever new numbers by the sidecar at url, which may change, and remembers which ones were acknowledged.
type numbers struct {
	url   atomic.Pointer[string]
	next  atomic.Int64
	group sync.WaitGroup
	end   chan struct{}

	mu    sync.Mutex
	acked []int
}

func publishNumbers(url string) *numbers {
	p := &numbers{end: make(chan struct{})}
	p.url.Store(&url)
	for range 4 {
		p.group.Go(func() {
			client := &http.Client{Transport: &http.Transport{}, Timeout: limit}
			defer client.CloseIdleConnections()
			for {
				select {
				case <-p.end:
					return
				default:
				}
				n := int(p.next.Add(1))
				req, err := http.NewRequest(http.MethodPost, *p.url.Load()+"/v1.0/publish/broker/numbers", strings.NewReader(fmt.Sprint(n)))
				if err != nil {
					return
				}
				req.Header.Set("Content-Type", "application/json")
				resp, err := client.Do(req)
				if err == nil {
					_, _ = io.Copy(io.Discard, resp.Body)
					resp.Body.Close()
				}
				if err == nil && resp.StatusCode == http.StatusNoContent {
					p.mu.Lock()
					p.acked = append(p.acked, n)
					p.mu.Unlock()
					continue
				}
				select { // whoever was killed is coming back
				case <-p.end:
					return
				case <-time.After(20 * time.Millisecond):
				}
			}
		})
	}
	return p
}

func (p *numbers) count() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.acked)
}

func (p *numbers) stop() []int {
	close(p.end)
	p.group.Wait()
	return p.acked
}

// killable is a server that is killed and started again with its data.
type killable interface {
	Kill()
	Start()
}

// durableBrokers are the brokers that keep messages over their own sudden end, set up so that they do.
func durableBrokers() map[string]func(t *testing.T) (killable, string) {
	return map[string]func(t *testing.T) (killable, string){
		"redis": func(t *testing.T) (killable, string) {
			s := servers.Redis(t, servers.Own(), servers.Durable())
			return s, component("broker", "pubsub.redis", "redisHost", s.Addr, "processingTimeout", "2s", "redeliverInterval", "1s")
		},
		"jetstream": func(t *testing.T) (killable, string) {
			s := servers.NATS(t, servers.Own(), servers.Durable())
			return s, component("broker", "pubsub.jetstream", "natsURL", s.URL(), "createStreams", "true",
				"durableName", "consumers", "queueGroupName", "consumers", "ackWait", "2s", "deliverPolicy", "all", "flowControl", "false")
		},
		"rabbitmq": func(t *testing.T) (killable, string) {
			s := servers.RabbitMQ(t, servers.Own(), servers.Durable())
			return s, component("broker", "pubsub.rabbitmq", "connectionString", s.ConnectionString(), "durable", "true",
				"deletedWhenUnused", "false", "deliveryMode", "2", "publisherConfirm", "true", "requeueInFailure", "true", "reconnectWait", "1")
		},
		"kafka": func(t *testing.T) (killable, string) {
			s := servers.Kafka(t, servers.Own(), servers.Durable())
			return s, component("broker", "pubsub.kafka", "brokers", s.Addr, "authType", "none", "initialOffset", "oldest",
				"sessionTimeout", "6s", "heartbeatInterval", "1s", "consumeRetryInterval", "200ms")
		},
	}
}

// A publisher, a broker and a consumer are killed in turn while messages flow: every message whose publication was acknowledged
// arrives, at least once.
func TestKilledInTurnLosesNoMessage(t *testing.T) {
	t.Parallel()
	for name, open := range durableBrokers() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server, yaml := open(t)
			in := newInbox(t)
			startConsumer := func() *daprd {
				return start(t, resources(yaml), appID("consumer"), appPort(in.port))
			}
			consumer := startConsumer()
			publisher := start(t, resources(yaml), appID("publisher"))
			p := publishNumbers(publisher.url)
			progress := func(what string) {
				acked := p.count()
				await(t, "publications to work "+what, func() bool { return p.count() > acked+enough })
				before, _ := in.count()
				await(t, "deliveries to work "+what, func() bool { now, _ := in.count(); return now > before+enough })
				different, again := in.count()
				t.Logf("%s: %d messages arrived, %d came again", what, different, again)
			}
			progress("at first")

			publisher.signal(syscall.SIGKILL)
			publisher.exit()
			publisher = start(t, resources(yaml), appID("publisher"))
			p.url.Store(&publisher.url)
			progress("after the publisher was killed")

			consumer.signal(syscall.SIGKILL)
			consumer.exit()
			acked := p.count()
			await(t, "publications without a consumer", func() bool { return p.count() > acked+enough })
			consumer = startConsumer()
			progress("after the consumer was killed")

			server.Kill()
			server.Start()
			progress("after the broker was killed")

			acknowledged := p.stop()
			if !holdsWithin(2*limit, func() bool { return len(in.missing(acknowledged)) == 0 }) {
				missing := in.missing(acknowledged)
				t.Errorf("%d of %d acknowledged messages are lost, among them %v", len(missing), len(acknowledged), missing[:min(5, len(missing))])
			}
			different, again := in.count()
			t.Logf("%d messages acknowledged, %d different ones arrived, %d came again", len(acknowledged), different, again)
			consumer.stop()
			publisher.stop()
		})
	}
}
