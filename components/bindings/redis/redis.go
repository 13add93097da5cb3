// Package redis is the output binding that stores, reads, deletes and counts up single keys of Redis, or of a server that
// speaks its protocol (Dapr API, bindings.redis).
//
// A value is the data of the request as it is, in a string of Redis: a text that came over the HTTP API has its quotation marks.
package redis

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/redis/rueidis"

	"outrigger.dev/components"
	"outrigger.dev/components/bindings"
	"outrigger.dev/components/redisclient"
)

// increment is the operation besides the usual ones.
const increment = "increment"

// The metadata of requests.
const (
	metadataKey    = "key"
	metadataTTL    = "ttlInSeconds"
	metadataDelete = "delete"
)

// minRetryInterval is the default wait before a retry in bindings.
const minRetryInterval = 8 * time.Millisecond

// Options are the metadata properties of the component.
type Options struct {
	redisclient.Options
}

// Register adds the component type to r.
func Register(r *components.Registry) {
	bindings.Register(r, components.Info{
		Name: "redis", Version: "v1", Status: components.Stable,
		Description: "Stores, reads, deletes and counts up keys of Redis, or a server that speaks its protocol: a single one, a cluster, or one watched by sentinels.",
	}, func(ctx context.Context, _ components.Instance, options Options) (*Binding, error) {
		return Open(ctx, options)
	})
}

var _ bindings.Output = (*Binding)(nil)

// Binding is a connection to one server or cluster.
type Binding struct {
	client *redisclient.Client
	close  func()
}

// Open connects to the server.
func Open(ctx context.Context, options Options) (*Binding, error) {
	client, err := options.Open(ctx, minRetryInterval)
	if err != nil {
		return nil, err
	}
	return &Binding{client: client, close: sync.OnceFunc(client.Close)}, nil
}

// Close closes the connections.
func (b *Binding) Close() error {
	b.close()
	return nil
}

// Operations are create, get, delete and increment.
func (b *Binding) Operations() []string {
	return []string{bindings.Create, bindings.Get, bindings.Delete, increment}
}

// Invoke carries out an operation on the key that the metadata "key" names.
//
//   - create stores the data, in place of what is there, and increment adds 1 to the whole number that is there, or to 0. Both
//     let the key expire by the metadata "ttlInSeconds", and have no response.
//   - get responds with the value, which is empty when there is none. With the metadata "delete" as true it also deletes the
//     key in the same step, which takes Redis 6.2.
//   - delete deletes the key, if it is there, and has no response.
func (b *Binding) Invoke(ctx context.Context, req bindings.Request) (*bindings.Response, error) {
	key := req.Metadata[metadataKey]
	if key == "" {
		return nil, &bindings.ParameterError{Name: metadataKey, Remedy: "name the key of Redis to " + req.Operation}
	}
	switch req.Operation {
	case bindings.Create:
		return nil, b.create(ctx, key, req)
	case bindings.Get:
		return b.get(ctx, key, req)
	case bindings.Delete:
		return nil, b.write(ctx, req.Operation, key, func() rueidis.Completed {
			return b.client.B().Del().Key(key).Build()
		})
	case increment:
		return nil, b.increment(ctx, key, req)
	}
	return nil, fmt.Errorf("operation %q is not one of create, get, delete and increment", req.Operation)
}

func (b *Binding) create(ctx context.Context, key string, req bindings.Request) error {
	life, err := ttl(req.Metadata)
	if err != nil {
		return err
	}
	value := string(req.Data) // a copy, for the command may still be on its way when the context has ended
	return b.write(ctx, req.Operation, key, func() rueidis.Completed {
		set := b.client.B().Set().Key(key).Value(value)
		if life > 0 {
			return set.PxMilliseconds(life).Build()
		}
		return set.Build()
	})
}

// countAndExpire counts up and sets the time to live in one step, so that no counter stays without.
const countAndExpire = `local n = redis.call('INCR', KEYS[1]) redis.call('PEXPIRE', KEYS[1], ARGV[1]) return n`

func (b *Binding) increment(ctx context.Context, key string, req bindings.Request) error {
	life, err := ttl(req.Metadata)
	if err != nil {
		return err
	}
	return b.write(ctx, req.Operation, key, func() rueidis.Completed {
		if life > 0 {
			return b.client.B().Eval().Script(countAndExpire).Numkeys(1).Key(key).Arg(strconv.FormatInt(life, 10)).Build()
		}
		return b.client.B().Incr().Key(key).Build()
	})
}

func (b *Binding) get(ctx context.Context, key string, req bindings.Request) (*bindings.Response, error) {
	remove, err := req.Flag(metadataDelete, false)
	if err != nil {
		return nil, err
	}
	var data []byte
	if remove {
		err = b.client.RetryUnsent(ctx, func() error {
			data, err = b.client.Do(ctx, b.client.B().Getdel().Key(key).Build()).AsBytes()
			return err
		})
	} else {
		data, err = b.client.Do(ctx, b.client.B().Get().Key(key).Build()).AsBytes()
	}
	if err != nil && !rueidis.IsRedisNil(err) {
		return nil, b.explain(req.Operation, key, err)
	}
	return &bindings.Response{Data: data}, nil
}

// write runs a command that is not repeated once it may have been sent.
func (b *Binding) write(ctx context.Context, operation, key string, command func() rueidis.Completed) error {
	err := b.client.RetryUnsent(ctx, func() error { return b.client.Do(ctx, command()).Error() })
	if err != nil {
		return b.explain(operation, key, err)
	}
	return nil
}

// ttl is the time to live in milliseconds, 0 for none. The name may be written in any case, or be "ttl".
func ttl(metadata map[string]string) (int64, error) {
	for _, known := range [...]string{"ttl", metadataTTL} {
		for name, text := range metadata {
			if text == "" || !strings.EqualFold(name, known) {
				continue
			}
			d, err := components.ParseDuration(text, time.Second)
			if err != nil || d < time.Millisecond {
				return 0, &bindings.ParameterError{Name: name, Value: text, Remedy: "write a number of seconds, or a duration such as 90s, above 0, or leave it out to keep the key"}
			}
			return d.Milliseconds(), nil
		}
	}
	return 0, nil
}

// explain adds the server, what was done and, where there is one, a remedy.
func (b *Binding) explain(operation, key string, err error) error {
	if errors.Is(err, rueidis.ErrClosing) {
		return errors.New("the Redis binding is closed, as the sidecar is shutting down or the component was replaced")
	}
	remedy := ""
	if answer, ok := rueidis.IsRedisErr(err); ok {
		switch text := answer.Error(); {
		case strings.HasPrefix(text, "WRONGTYPE"):
			remedy = "; the key holds something else than a string: use another key or another redisDB"
		case strings.Contains(text, "not an integer"):
			remedy = "; the key does not hold a whole number of 64 bits: create it with one, or use another key"
		case strings.Contains(text, "would overflow"):
			remedy = "; the key holds the largest number there is: create it with a smaller one"
		case strings.HasPrefix(text, "NOPERM"):
			remedy = "; check the ACL of redisUsername"
		case strings.Contains(text, "unknown command"):
			remedy = "; the server is too old for this: get with \"delete\" takes Redis 6.2"
		}
	}
	return fmt.Errorf("redis at %s cannot %s key %q: %w%s", b.client.Address, operation, key, err, remedy)
}
