package rabbitmqclient

import (
	"bytes"
	"context"
	"io"
	"log/slog"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jonboulle/clockwork"
	amqp "github.com/rabbitmq/amqp091-go"

	"outrigger.dev/test/servers"
)

func TestOutage(t *testing.T) {
	type step struct {
		at     time.Duration // since the beginning
		starts bool          // else it fails
		logged bool
	}
	for _, test := range []struct {
		name  string
		steps []step
	}{
		{"starts at once", []step{{0, true, false}}},
		{"long outage", []step{{0, true, false}, {time.Hour, false, true}, {time.Hour + 3*time.Second, false, false}, {time.Hour + 29*time.Second, false, false}, {time.Hour + 30*time.Second, false, true}, {time.Hour + 33*time.Second, false, false}, {time.Hour + 36*time.Second, true, true}}},
		{"never started", []step{{0, false, true}, {3 * time.Second, false, false}, {6 * time.Second, true, true}}},
		{"two outages", []step{{0, false, true}, {time.Second, true, true}, {7 * time.Second, false, true}, {10 * time.Second, true, true}}},
		{"ends as soon as it starts", []step{{0, false, true}, {time.Second, true, true}, {2 * time.Second, false, false}, {5 * time.Second, true, false}, {6 * time.Second, false, false}, {9 * time.Second, true, false}, {31 * time.Second, false, true}}},
	} {
		t.Run(test.name, func(t *testing.T) {
			var o outage
			start := time.Unix(1e9, 0)
			for i, s := range test.steps {
				var logged bool
				if s.starts {
					logged = o.over(start.Add(s.at))
				} else {
					logged = o.failed(start.Add(s.at))
				}
				if logged != s.logged {
					t.Errorf("step %d at %s: logged %v, want %v", i, s.at, logged, s.logged)
				}
			}
		})
	}
}

// logged is what was logged.
type logged struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (l *logged) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(b)
}

// lines are those that contain all of the words.
func (l *logged) lines(words ...string) (found []string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for line := range strings.Lines(l.text.String()) {
		all := true
		for _, w := range words {
			all = all && strings.Contains(line, w)
		}
		if all {
			found = append(found, line)
		}
	}
	return found
}

// TestOutageInLog is a broker that is down for many attempts: one line says so and one that it is over.
func TestOutageInLog(t *testing.T) {
	s := servers.RabbitMQ(t, servers.Own())
	_, credentials, _ := strings.Cut(s.ConnectionString(), "://")
	credentials, _, _ = strings.Cut(credentials, "@")
	// A proxy counts the attempts.
	uri, attempts := listen(t, func(conn net.Conn) {
		defer conn.Close()
		server, err := net.Dial("tcp", s.Addr)
		if err != nil {
			return
		}
		defer server.Close()
		var up sync.WaitGroup
		up.Go(func() {
			_, _ = io.Copy(server, conn)
			server.Close()
		})
		_, _ = io.Copy(conn, server)
		conn.Close()
		up.Wait()
	})
	const wait = 20 * time.Millisecond
	uri = strings.Replace(uri, "://", "://"+credentials+"@", 1)
	c, err := New(Settings{URI: uri, URIProperty: "connectionString", ReconnectWait: wait}, slog.New(slog.DiscardHandler), clockwork.NewRealClock())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	var log logged
	started := make(chan struct{}, 10)
	consumer, err := c.Consume(t.Context(), ConsumerConfig{
		Name: "orders",
		Declare: func(_ *Connection, ch *amqp.Channel) (string, error) {
			q, err := ch.QueueDeclare("", false, true, true, false, nil)
			if err == nil {
				err = ch.Publish("", q.Name, false, false, amqp.Publishing{Body: []byte("m")})
			}
			return q.Name, err
		},
		Handle: func(context.Context, *amqp.Delivery) error { started <- struct{}{}; return nil },
		Log:    slog.New(slog.NewTextHandler(&log, nil)),
	})
	if err != nil {
		t.Fatal(err)
	}
	receive := func() {
		t.Helper()
		select {
		case <-started:
		case <-time.After(2 * patience):
			t.Fatalf("no message; the log is %q", log.lines())
		}
	}
	receive()
	s.Kill()
	const many = 15
	began, before := time.Now(), attempts.Load()
	for attempts.Load() < before+many {
		if time.Since(began) > patience {
			t.Fatalf("%d attempts", attempts.Load()-before)
		}
		time.Sleep(time.Millisecond)
	}
	if took := time.Since(began); took < (many-2)*wait {
		t.Errorf("%d attempts within %s, which are less than %s apart", many, took, wait)
	}
	if found := log.lines("does not run"); len(found) != 1 || len(log.lines("level=WARN", "consumer=orders", "rabbitmq="+c.Address, "every=20ms", "error=")) != 1 {
		t.Errorf("%d attempts, and the warnings are %q; want one", many, found)
	}
	s.Start()
	receive()
	if found := log.lines("level=INFO", "runs again", "consumer=orders", "rabbitmq="+c.Address, "after=", "failures="); len(found) != 1 {
		t.Errorf("the end of the outage is logged %d times: %q", len(found), log.lines())
	}
	lines := len(log.lines())
	consumer.Close()
	c.Close()
	if now := log.lines(); len(now) != lines {
		t.Errorf("closing logs %q", now[lines:])
	}
}
