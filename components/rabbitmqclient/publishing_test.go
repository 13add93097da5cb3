package rabbitmqclient

import (
	"context"
	"errors"
	"math"
	"strings"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/jonboulle/clockwork"
	"outrigger.dev/test/servers"
)

func TestPriority(t *testing.T) {
	for value, want := range map[string]uint8{"": 0, "0": 0, "7": 7, " 255 ": 255, "256": 255, "-1": 0, "99999999999999999999": 255, "-99999999999999999999": 0} {
		if got, err := Priority("priority", value); err != nil || got != want {
			t.Errorf("%q is %d, %v; want %d", value, got, err, want)
		}
	}
	for _, value := range []string{"high", " ", "1.5"} {
		if _, err := Priority("maxPriority", value); err == nil || !strings.Contains(err.Error(), `metadata maxPriority is "`+value+`", but must be a whole number from 0 to 255`) {
			t.Errorf("%q: %v", value, err)
		}
	}
}

func TestExpiration(t *testing.T) {
	for ttl, want := range map[time.Duration]string{
		0: "0", 999 * time.Microsecond: "0", 1500 * time.Microsecond: "1", time.Minute: "60000",
		MaxTTL: "4294967295", MaxTTL + time.Hour: "4294967295", math.MaxInt64: "4294967295",
	} {
		if got := Expiration(ttl); got != want {
			t.Errorf("%s is %s, want %s", ttl, got, want)
		}
	}
}

func TestTaking(t *testing.T) {
	c := &Connection{}
	if err := c.Taking(); err != nil {
		t.Error(err)
	}
	reason := "low on memory"
	c.blocked.Store(&reason)
	if err := c.Taking(); err == nil || err.Error() != "the broker takes no messages at the moment: low on memory" {
		t.Errorf("error %v", err)
	}
}

func TestAwaitConfirm(t *testing.T) {
	gone := errors.New("the app is gone")
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(gone)
	if err := AwaitConfirm(ctx, new(amqp.DeferredConfirmation)); !errors.Is(err, gone) || !strings.Contains(err.Error(), "no confirmation before the request ended") {
		t.Errorf("without a confirmation: %v", err)
	}
	client := newClient(t, servers.RabbitMQ(t).ConnectionString(), clockwork.NewRealClock())
	ctx, end := context.WithTimeout(t.Context(), patience)
	defer end()
	conn, err := client.Connection(ctx)
	if err != nil {
		t.Fatal(err)
	}
	ch, err := conn.Channel(func(ch *amqp.Channel) error { return ch.Confirm(false) })
	if err != nil {
		t.Fatal(err)
	}
	confirm, err := ch.PublishWithDeferredConfirm("", "nobody's", false, false, amqp.Publishing{})
	if err != nil {
		t.Fatal(err)
	}
	if err := AwaitConfirm(ctx, confirm); err != nil || !confirm.Acked() {
		t.Errorf("error %v, acknowledged: %t", err, confirm.Acked())
	}
}
