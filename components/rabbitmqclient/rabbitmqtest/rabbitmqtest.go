// Package rabbitmqtest is what the tests of RabbitMQ components share.
package rabbitmqtest

import (
	"log/slog"
	"strings"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"outrigger.dev/test/servers"
)

// Patience is how long a test waits for what must happen.
const Patience = 30 * time.Second

// Log is a log whose lines are the test's, as long as that runs.
func Log(tb testing.TB) *slog.Logger {
	return slog.New(slog.NewTextHandler(lines{tb}, &slog.HandlerOptions{Level: slog.LevelDebug}))
}

type lines struct{ tb testing.TB }

func (l lines) Write(p []byte) (int, error) {
	if l.tb.Context().Err() == nil {
		l.tb.Log(strings.TrimSpace(string(p)))
	}
	return len(p), nil
}

// Admin is a channel of a plain client.
func Admin(tb testing.TB, s *servers.RabbitMQServer) *amqp.Channel {
	tb.Helper()
	conn, err := amqp.Dial(s.ConnectionString())
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { conn.Close() })
	ch, err := conn.Channel()
	if err != nil {
		tb.Fatal(err)
	}
	return ch
}

// Eventually waits until a condition holds, whose error says why it does not yet.
func Eventually(tb testing.TB, what string, condition func() error) {
	tb.Helper()
	deadline := time.After(Patience)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		err := condition()
		if err == nil {
			return
		}
		select {
		case <-tick.C:
		case <-deadline:
			tb.Fatalf("%s: %v", what, err)
		}
	}
}
