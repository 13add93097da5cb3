package rabbitmqclient

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jonboulle/clockwork"
	amqp "github.com/rabbitmq/amqp091-go"

	"outrigger.dev/test/servers"
)

func TestMain(m *testing.M) { servers.Main(m) }

// patience is how long a test waits for what must happen.
const patience = 30 * time.Second

func newClient(t *testing.T, uri string, clock clockwork.Clock) *Client {
	t.Helper()
	c, err := New(Settings{URI: uri, URIProperty: "connectionString", ReconnectWait: time.Hour}, slog.New(slog.DiscardHandler), clock)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

// listen is a server that does with each connection what serve says. It counts them.
func listen(t *testing.T, serve func(net.Conn)) (uri string, count *atomic.Int32) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	count = new(atomic.Int32)
	var work sync.WaitGroup
	t.Cleanup(func() { l.Close(); work.Wait() })
	work.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			count.Add(1)
			work.Go(func() { serve(conn) })
		}
	})
	return "amqp://" + l.Addr().String(), count
}

func TestHostURI(t *testing.T) {
	for _, test := range []struct {
		protocol, host, user, password string
		want                           amqp.URI
	}{
		{"", "", "", "", amqp.URI{Scheme: "amqp", Host: "localhost", Port: 5672, Username: "guest", Password: "guest", Vhost: "/"}},
		{"AMQPS", "h", "u", "p", amqp.URI{Scheme: "amqps", Host: "h", Port: 5671, Username: "u", Password: "p", Vhost: "/"}},
		{"amqp", "h:1234/v/w", "u@x", "p#/:?%2", amqp.URI{Scheme: "amqp", Host: "h", Port: 1234, Username: "u@x", Password: "p#/:?%2", Vhost: "v/w"}},
		{"amqp", "[::1]:99", "u", "", amqp.URI{Scheme: "amqp", Host: "::1", Port: 99, Username: "u", Vhost: "/"}},
	} {
		uri := HostURI(test.protocol, test.host, test.user, test.password)
		got, err := amqp.ParseURI(uri)
		if err != nil || got.Scheme != test.want.Scheme || got.Host != test.want.Host || got.Port != test.want.Port ||
			got.Username != test.want.Username || got.Password != test.want.Password || got.Vhost != test.want.Vhost {
			t.Errorf("%s is %+v, %v; want %+v", uri, got, err, test.want)
		}
	}
}

// waited tells when somebody begins to wait for its end.
type waited struct {
	context.Context
	begun func()
}

func (w *waited) Done() <-chan struct{} {
	w.begun()
	return w.Context.Done()
}

// TestAttempts are made once for all who wait, and not more often than ReconnectWait says.
func TestAttempts(t *testing.T) {
	release := make(chan struct{})
	uri, count := listen(t, func(conn net.Conn) { <-release; conn.Close() })
	clock := clockwork.NewFakeClock()
	c := newClient(t, uri, clock)
	// ask returns when all of them wait.
	ask := func(n int) chan error {
		results := make(chan error, n)
		var asking sync.WaitGroup
		asking.Add(n)
		for range n {
			go func() {
				_, err := c.Connection(&waited{Context: context.Background(), begun: sync.OnceFunc(asking.Done)})
				results <- err
			}()
		}
		asking.Wait()
		return results
	}
	expect := func(results chan error) {
		t.Helper()
		for range cap(results) {
			select {
			case err := <-results:
				if err == nil || !strings.Contains(err.Error(), strings.TrimPrefix(uri, "amqp://")+" cannot be used") {
					t.Errorf("error %v", err)
				}
			case <-time.After(patience):
				t.Fatal("no result")
			}
		}
	}
	first := ask(10)
	close(release)
	expect(first)
	made := count.Load()
	if made != 1 {
		t.Errorf("%d attempts, want 1", made)
	}
	second := ask(5)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := clock.BlockUntilContext(ctx, 1); err != nil {
		t.Fatal(err)
	}
	if n := count.Load(); n != made {
		t.Errorf("%d attempts within the wait", n-made)
	}
	clock.Advance(time.Hour)
	expect(second)
	if n := count.Load(); n != made+1 {
		t.Errorf("%d attempts after the wait, want 1", n-made)
	}
}

// TestSilence is a server that accepts connections and says nothing.
func TestSilence(t *testing.T) {
	before := runtime.NumGoroutine()
	end := make(chan struct{})
	uri, _ := listen(t, func(conn net.Conn) { <-end; conn.Close() })
	c := newClient(t, uri, clockwork.NewRealClock())
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if _, err := c.Connection(ctx); !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "connectionString") {
		t.Errorf("error %v", err)
	}
	result := make(chan error, 1)
	go func() {
		_, err := c.Connection(context.Background())
		result <- err
	}()
	began := time.Now()
	c.Close()
	if err := <-result; err != ErrClosed {
		t.Errorf("error %v, want ErrClosed", err)
	}
	if took := time.Since(began); took > closeLimit {
		t.Errorf("closing took %s", took)
	}
	close(end)
	deadline := time.Now().Add(patience)
	for runtime.NumGoroutine() > before+2 { // the listener's
		if time.Now().After(deadline) {
			t.Fatalf("%d goroutines, %d before", runtime.NumGoroutine(), before)
		}
		runtime.Gosched()
	}
	if _, err := c.Connection(context.Background()); err != ErrClosed {
		t.Errorf("error %v, want ErrClosed", err)
	}
}

// TestCall ends the connection over a question that is not answered.
func TestCall(t *testing.T) {
	s := servers.RabbitMQ(t)
	c := newClient(t, s.ConnectionString(), clockwork.NewRealClock())
	conn, err := c.Connection(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if again, err := c.Connection(t.Context()); again != conn || err != nil {
		t.Errorf("another connection, %v", err)
	}
	if err := conn.Call(func() error { return nil }); err != nil {
		t.Error(err)
	}
	c.patience = time.Millisecond
	lost := conn.NotifyClose(make(chan *amqp.Error, 1))
	err = conn.Call(func() error { return <-lost })
	if err == nil || !strings.Contains(err.Error(), "no answer within 1ms") || !conn.IsClosed() {
		t.Errorf("error %v, closed %v", err, conn.IsClosed())
	}
}

// TestTry keeps the refusal of one thing from others.
func TestTry(t *testing.T) {
	s := servers.RabbitMQ(t)
	c := newClient(t, s.ConnectionString(), clockwork.NewRealClock())
	conn, err := c.Connection(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	err = conn.Try(func(ch *amqp.Channel) error {
		return ch.ExchangeDeclare("amq.direct", "fanout", true, false, false, false, nil)
	})
	if !Permanent(err) {
		t.Errorf("error %v is not permanent", err)
	}
	err = conn.Try(func(ch *amqp.Channel) error {
		return ch.ExchangeDeclarePassive("nowhere", "fanout", true, false, false, false, nil)
	})
	if err == nil || Permanent(err) {
		t.Errorf("error %v is permanent", err)
	}
	if err := conn.Try(func(ch *amqp.Channel) error { return ch.Qos(1, 0, false) }); err != nil {
		t.Error(err)
	}
	if Permanent(nil) || Permanent(amqp.ErrClosed) {
		t.Error("permanent without the server's word")
	}
}

// TestUnansweredQueue is a broker that works, but does not answer for one of the queues, as when its leader is gone. The
// consumer of that queue tries for ever, and leaves the others alone.
func TestUnansweredQueue(t *testing.T) {
	s := servers.RabbitMQ(t)
	before := runtime.NumGoroutine()
	c, err := New(Settings{URI: s.ConnectionString(), URIProperty: "connectionString"}, slog.New(slog.DiscardHandler), clockwork.NewRealClock())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	var healthy, stuck atomic.Int32
	var works atomic.Bool
	asked := make(chan int32, 1000)
	handled := make(chan string, 10)
	config := func(name string, starts *atomic.Int32, works func() bool) ConsumerConfig {
		return ConsumerConfig{
			Name: name,
			Declare: func(conn *Connection, ch *amqp.Channel) (string, error) {
				n := starts.Add(1)
				if !works() {
					asked <- n
					return "", <-conn.NotifyClose(make(chan *amqp.Error, 1))
				}
				q, err := ch.QueueDeclare("", false, true, true, false, nil)
				if err == nil {
					err = ch.Publish("", q.Name, false, false, amqp.Publishing{Body: []byte(name)})
				}
				return q.Name, err
			},
			Handle: func(_ context.Context, d *amqp.Delivery) error { handled <- string(d.Body); return nil },
			Log:    slog.New(slog.DiscardHandler),
		}
	}
	receive := func(want string) {
		t.Helper()
		select {
		case got := <-handled:
			if got != want {
				t.Fatalf("message %q, want %q", got, want)
			}
		case <-time.After(patience):
			t.Fatalf("no message %q", want)
		}
	}
	first, err := c.Consume(t.Context(), config("healthy", &healthy, func() bool { return true }))
	if err != nil {
		t.Fatal(err)
	}
	defer first.Close()
	receive("healthy")
	c.patience = 100 * time.Millisecond // nothing is asked at the moment
	failed := make(chan error, 1)
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		_, err := c.Consume(ctx, config("hopeless", &stuck, func() bool { return false }))
		failed <- err
	}()
	for n := int32(0); n < 6; {
		select {
		case n = <-asked:
		case <-time.After(patience):
			t.Fatal("it does not try again")
		}
	}
	receive("healthy") // it has lost its connection once
	if n := healthy.Load(); n != 2 {
		t.Errorf("the other consumer started %d times, want 2", n)
	}
	cancel()
	select {
	case err := <-failed:
		if !errors.Is(err, context.Canceled) || !strings.Contains(err.Error(), "no answer within 100ms") {
			t.Errorf("error %v", err)
		}
	case <-time.After(patience):
		t.Fatal("the start does not end with its context")
	}
	// A queue that comes back is consumed, and goes with the client.
	stuck.Store(0)
	if _, err := c.Consume(t.Context(), config("back", &stuck, func() bool { return works.Swap(true) })); err != nil {
		t.Fatal(err)
	}
	for range 2 { // the other one has lost its connection again
		select {
		case <-handled:
		case <-time.After(patience):
			t.Fatal("no message")
		}
	}
	c.Close()
	deadline := time.Now().Add(patience)
	for runtime.NumGoroutine() > before {
		if time.Now().After(deadline) {
			t.Fatalf("%d goroutines, %d before", runtime.NumGoroutine(), before)
		}
		runtime.Gosched()
	}
}
