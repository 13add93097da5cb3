package rabbitmqclient

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	amqp "github.com/rabbitmq/amqp091-go"
)

// Permanent reports whether the broker refuses something in a way that no repetition changes.
func Permanent(err error) bool {
	if _, ok := errors.AsType[*SizeError](err); ok {
		return true
	}
	reply, ok := errors.AsType[*amqp.Error](err)
	if !ok || !reply.Server {
		return false
	}
	switch reply.Code {
	case amqp.AccessRefused, amqp.PreconditionFailed, amqp.NotAllowed, amqp.NotImplemented, amqp.CommandInvalid, amqp.SyntaxError:
		return true
	}
	return false
}

// SizeError is a message that is larger than the broker takes. Sizes are in bytes.
type SizeError struct{ Size, Limit int64 }

func (e *SizeError) Error() string {
	return fmt.Sprintf("it has %d bytes, but the broker takes at most %d: make it smaller, or raise max_message_size in the broker's configuration", e.Size, e.Limit)
}

// TooLarge returns a [SizeError] when the broker closed a channel over the size of a message and one of so many bytes is too
// large by what it said; else nil. The broker tells its limit nowhere but in the text of that reply.
func TooLarge(reply *amqp.Error, size int) *SizeError {
	if reply == nil || reply.Code != amqp.PreconditionFailed || !strings.Contains(reply.Reason, "message size ") {
		return nil
	}
	_, text, ok := strings.Cut(reply.Reason, "max size ")
	if !ok {
		return nil
	}
	if end := strings.IndexFunc(text, func(r rune) bool { return r < '0' || r > '9' }); end >= 0 {
		text = text[:end]
	}
	limit, err := strconv.ParseInt(text, 10, 64)
	if err != nil || int64(size) <= limit {
		return nil
	}
	return &SizeError{Size: int64(size), Limit: limit}
}
