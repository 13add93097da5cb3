package redis

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"syscall"

	"github.com/redis/rueidis"

	"outrigger.dev/components/pubsub"
	"outrigger.dev/jsontext"
)

// The fields of an entry.
const (
	fieldData     = "data"
	fieldMetadata = "metadata"
)

// Publish adds an entry to the stream. Publishes at one time share a connection and, mostly, system calls.
func (b *Broker) Publish(ctx context.Context, req pubsub.PublishRequest) error {
	if b.closed.Load() {
		return pubsub.ErrClosed
	}
	var metadata string
	if req.Metadata != nil {
		metadata = rueidis.BinaryString(appendMetadata(nil, req.Metadata))
	}
	err := b.client.RetryUnsent(ctx, func() error {
		return b.client.Do(ctx, b.add(req.Topic, rueidis.BinaryString(req.Data), req.Metadata != nil, metadata)).Error()
	})
	if err != nil {
		return b.failed("publish to", req.Topic, oversized(err, max(len(req.Data), len(metadata))))
	}
	return nil
}

// leastOversized is the size in bytes from which a message may be what a server ended the connection over. proto-max-bulk-len
// is 1 MiB at least, but a server that only speaks Redis' protocol may take less.
const leastOversized = 512 << 10

// oversized adds the size of a message and a remedy to an error that a server's limit may be the cause of. The server tells its
// limit in no answer: it ends the connection, and its word of why may not arrive.
func oversized(err error, size int) error {
	if size < leastOversized {
		return err
	}
	ended := errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE) || errors.Is(err, io.EOF) ||
		strings.Contains(err.Error(), "connection reset by peer") || strings.Contains(err.Error(), "broken pipe")
	if !ended && !strings.Contains(err.Error(), "invalid bulk length") {
		return err
	}
	return fmt.Errorf("%w; the message has %d bytes, which may be more than the server takes: raise proto-max-bulk-len in its configuration, or send a smaller message", err, size)
}

// add is the command that adds an entry and, where wanted, cuts off old ones.
func (b *Broker) add(topic, data string, withMetadata bool, metadata string) rueidis.Completed {
	c := b.client.B().Arbitrary("XADD").Keys(topic)
	byLength, byAge := b.options.MaxLenApprox > 0, b.options.StreamTTL > 0
	if byLength && byAge {
		// One command can do only one of the two; they are approximate anyway.
		byAge = b.trims.Add(1)%2 == 0
		byLength = !byAge
	}
	switch {
	case byLength:
		c = c.Args("MAXLEN", "~", strconv.FormatInt(b.options.MaxLenApprox, 10))
	case byAge:
		c = c.Args("MINID", "~", b.oldest())
	}
	c = c.Args("*", fieldData, data)
	if withMetadata {
		c = c.Args(fieldMetadata, metadata)
	}
	return c.Build()
}

// oldest is the id before which entries are too old.
func (b *Broker) oldest() string {
	return strconv.FormatInt(max(0, b.clock.Now().Add(-b.options.StreamTTL).UnixMilli()), 10) + "-1"
}

// appendMetadata writes metadata as a JSON object.
func appendMetadata(dst []byte, metadata map[string]string) []byte {
	if dst == nil {
		size := 2
		for k, v := range metadata {
			size += len(k) + len(v) + len(`"":"",`)
		}
		dst = make([]byte, 0, size)
	}
	dst = append(dst, '{')
	first := true
	for k, v := range metadata {
		if !first {
			dst = append(dst, ',')
		}
		first = false
		dst = append(jsontext.AppendString(dst, k), ':')
		dst = jsontext.AppendString(dst, v)
	}
	return append(dst, '}')
}

// parseMetadata reads what appendMetadata, or another sidecar, wrote.
func parseMetadata(text string) (map[string]string, error) {
	w := jsontext.Walk([]byte(text))
	m := w.Strings(nil)
	w.End()
	return m, w.Err()
}
