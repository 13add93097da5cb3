package redis

import (
	"context"
	"strconv"

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
		return b.failed("publish to", req.Topic, err)
	}
	return nil
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
