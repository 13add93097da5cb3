package rabbitmqclient

import (
	"fmt"
	"strings"
	"testing"

	amqp "github.com/rabbitmq/amqp091-go"
)

func TestTooLarge(t *testing.T) {
	for _, test := range []struct {
		code   int
		reason string
		size   int
		limit  int64 // 0: it is not to blame
	}{
		{amqp.PreconditionFailed, "PRECONDITION_FAILED - message size 300 is larger than configured max size 200", 300, 200},
		{amqp.PreconditionFailed, "PRECONDITION_FAILED - message size 300 is larger than configured max size 200 bytes", 201, 200},
		{amqp.PreconditionFailed, "PRECONDITION_FAILED - message size 300 larger than max size 200", 300, 200},
		{amqp.PreconditionFailed, "PRECONDITION_FAILED - message size 300 is larger than configured max size 200", 200, 0},
		{amqp.PreconditionFailed, "PRECONDITION_FAILED - message size 300 is larger than configured max size", 300, 0},
		{amqp.PreconditionFailed, "PRECONDITION_FAILED - message size 300 is larger than configured max size x", 300, 0},
		{amqp.PreconditionFailed, "PRECONDITION_FAILED - inequivalent arg 'max size 1'", 300, 0},
		{amqp.NotFound, "message size 300 is larger than configured max size 200", 300, 0},
	} {
		err := TooLarge(&amqp.Error{Code: test.code, Reason: test.reason, Server: true}, test.size)
		switch {
		case (err != nil) != (test.limit != 0):
			t.Errorf("%d bytes after %q: %v", test.size, test.reason, err)
		case err != nil && (err.Limit != test.limit || err.Size != int64(test.size)):
			t.Errorf("%d bytes after %q: %+v", test.size, test.reason, err)
		case err != nil && (!Permanent(fmt.Errorf("wrapped: %w", err)) || !strings.Contains(err.Error(), "max_message_size")):
			t.Errorf("error %v", err)
		}
	}
	if err := TooLarge(nil, 1); err != nil {
		t.Errorf("without a reply: %v", err)
	}
}
