package rabbitmqclient

import (
	"context"
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
)

// MaxTTL is the longest life of a message that RabbitMQ counts.
const MaxTTL = math.MaxUint32 * time.Millisecond

// confirmLimit is how long the broker has for its confirmation.
const confirmLimit = 30 * time.Second

// ErrNotTaken is the broker's negative confirmation. No repetition by us helps: a queue that is full stays so for a while.
var ErrNotTaken = errors.New("the broker refuses the message (negative confirm)")

// Taking is an error while the broker does not even read from those who publish, as [Connection.Blocked] tells.
func (c *Connection) Taking() error {
	if reason, blocked := c.Blocked(); blocked {
		return fmt.Errorf("the broker takes no messages at the moment: %s", reason)
	}
	return nil
}

// AwaitConfirm returns nil when a message has its confirmation, positive or not: the end of the channel counts as a negative
// one. It is an error that there is none before ctx ends, or within 30 seconds.
func AwaitConfirm(ctx context.Context, confirm *amqp.DeferredConfirmation) error {
	timer := time.NewTimer(confirmLimit)
	defer timer.Stop()
	select {
	case <-confirm.Done():
		return nil
	case <-ctx.Done():
		return fmt.Errorf("no confirmation before the request ended: %w", context.Cause(ctx))
	case <-timer.C:
		return fmt.Errorf("no confirmation within %s", confirmLimit)
	}
}

// Priority reads a priority that was given as the named metadata, which is clamped to what AMQP carries. The empty one is 0.
func Priority(name, value string) (uint8, error) {
	if value == "" {
		return 0, nil
	}
	n, err := strconv.ParseInt(strings.TrimSpace(value), 10, 64)
	if err != nil && !errors.Is(err, strconv.ErrRange) { // out of range it is the nearest number
		return 0, fmt.Errorf("metadata %s is %q, but must be a whole number from 0 to 255", name, value)
	}
	return uint8(min(max(n, 0), math.MaxUint8)), nil
}

// Expiration is the life of a message as AMQP carries it, in milliseconds; one that is longer than [MaxTTL] is that.
func Expiration(ttl time.Duration) string {
	return strconv.FormatInt(min(ttl, MaxTTL).Milliseconds(), 10)
}
