// Package redis is the state store state.redis.
//
// An item is a Redis hash with the fields data and version, or, where the server has RedisJSON and the request says that
// the value is JSON, a JSON document of the same shape (Dapr API, state: storage layouts). Its layout is shared with every
// other implementation of the API, so it must not change.
package redis

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"strings"
	"time"

	"github.com/redis/rueidis"

	"outrigger.dev/components"
	"outrigger.dev/components/redisclient"
	"outrigger.dev/components/state"
)

// Register adds state.redis to r.
func Register(r *components.Registry) {
	state.Register(r, components.Info{
		Name:         "redis",
		Version:      "v1",
		Status:       components.Stable,
		Description:  "Keeps state in Redis or a server that speaks its protocol: a single one, a cluster, or one watched by sentinels.",
		Capabilities: []string{"ETAG", "TRANSACTIONAL", "TTL", "QUERY_API", "KEYS_LIKE", "ACTOR"},
	}, func(ctx context.Context, inst components.Instance, o Options) (state.Store, error) {
		return Open(ctx, o, inst.Log)
	})
}

// Options are the metadata of state.redis.
type Options struct {
	redisclient.Options
	TTLInSeconds *int   `name:"ttlInSeconds" help:"the life in seconds of items saved without a ttlInSeconds of their own; 0 or less for no expiry"`
	QueryIndexes string `name:"queryIndexes" help:"JSON list of the indexes to create for queries, e.g. [{\"name\":\"people\",\"indexes\":[{\"key\":\"person.org\",\"type\":\"TEXT\"}]}]; needs RedisJSON and RediSearch"`

	RedeliverInterval components.Millis `name:"redeliverInterval" help:"accepted without effect: of use to publish/subscribe only"`
	ProcessingTimeout components.Millis `name:"processingTimeout" help:"accepted without effect: of use to publish/subscribe only"`
}

// Check refuses queryIndexes that cannot be read, and what [redisclient.Options.Check] does. It implements
// [components.Checker].
func (o *Options) Check() error {
	if _, err := parseIndexes(o.QueryIndexes); err != nil {
		return err
	}
	return o.Options.Check()
}

// minRetryInterval is the default wait before a retry in state stores.
const minRetryInterval = 2 * time.Second

// waitLimit is how long a strongly consistent write waits for the replicas, in milliseconds.
const waitLimit = 1000

// Store is a state store in Redis.
type Store struct {
	client *redisclient.Client
	log    *slog.Logger
	// replicas is how many there were when the store was opened.
	replicas int
	// json tells whether the server has RedisJSON.
	json bool
	// ttl is the default life in seconds as the scripts take it, "" for none.
	ttl     string
	indexes map[string]index

	setHash, deleteHash, setJSON, deleteJSON script
}

var (
	_ state.ETagStore  = (*Store)(nil)
	_ state.TTLStore   = (*Store)(nil)
	_ state.BulkGetter = (*Store)(nil)
	_ state.Transactor = (*Store)(nil)
	_ state.Querier    = (*Store)(nil)
	_ state.KeysLister = (*Store)(nil)
)

// Open connects to the server and finds out what it can do.
func Open(ctx context.Context, o Options, log *slog.Logger) (*Store, error) {
	indexes, err := parseIndexes(o.QueryIndexes)
	if err != nil {
		return nil, err
	}
	client, err := o.Options.Open(ctx, minRetryInterval)
	if err != nil {
		return nil, err
	}
	s := &Store{
		client:  client,
		log:     log,
		setHash: newScript(setHashText), deleteHash: newScript(deleteHashText),
		setJSON: newScript(setJSONText), deleteJSON: newScript(deleteJSONText),
	}
	if o.TTLInSeconds != nil {
		s.ttl = strconv.Itoa(*o.TTLInSeconds)
	}
	if err := s.inspect(ctx, indexes); err != nil {
		client.Close()
		return nil, err
	}
	return s, nil
}

// inspect reads what the server offers, and creates the indexes when it can hold them.
func (s *Store) inspect(ctx context.Context, indexes []indexSpec) error {
	var err error
	if s.replicas, err = s.client.ConnectedReplicas(ctx); err != nil {
		return err
	}
	// Without a key the command is wrong everywhere; only a server without RedisJSON does not know it.
	err = s.client.Do(ctx, s.client.B().Arbitrary("JSON.GET").Build()).Error()
	answer, answered := rueidis.IsRedisErr(err)
	if err != nil && !answered {
		return fmt.Errorf("redis at %s does not tell whether it has RedisJSON: %w", s.client.Address, err)
	}
	// The client may have cut off the ERR in front.
	s.json = err == nil || !strings.HasPrefix(strings.TrimPrefix(strings.ToLower(answer.Error()), "err "), "unknown command")
	if !s.json {
		if len(indexes) > 0 {
			s.log.Warn("the server has no RedisJSON, so queryIndexes has no effect and queries fail", "redis", s.client.Address)
		}
		return nil
	}
	return s.createIndexes(ctx, indexes)
}

// Close ends the connections.
func (s *Store) Close() error {
	s.client.Close()
	return nil
}

// ETags reports that the store keeps versions.
func (s *Store) ETags() bool { return true }

// TTL reports that items can expire.
func (s *Store) TTL() bool { return true }

// Queries reports whether the server has RedisJSON.
func (s *Store) Queries() bool { return s.json }

// jsonLayout tells whether a request is for the JSON layout, which its metadata must ask for on reads as on writes.
func (s *Store) jsonLayout(metadata map[string]string) bool {
	return s.json && metadata[state.MetadataContentType] == state.ContentTypeJSON
}

// expectedVersion is the version that a script compares with: "0" for none. Last-write takes no notice of an etag in this
// store (Dapr API, state: concurrency, deviations).
func expectedVersion(etag string, concurrency state.Concurrency) (string, error) {
	if etag == "" || concurrency == state.LastWrite {
		return "0", nil
	}
	n, err := strconv.Atoi(etag)
	if err != nil {
		return "", state.Invalid(err)
	}
	return strconv.Itoa(n), nil
}

// expiry is the life of an item as the scripts take it: seconds, 0 or less for no expiry, "" to leave it as it is.
func (s *Store) expiry(metadata map[string]string) (string, error) {
	text := metadata[state.MetadataTTL]
	if text == "" {
		return s.ttl, nil
	}
	if _, err := strconv.ParseInt(text, 10, 64); err != nil {
		return "", fmt.Errorf("failed to parse ttl from metadata: %w", err)
	}
	ttl, err := state.ParseTTL(metadata)
	if err != nil {
		return "", fmt.Errorf("failed to parse ttl from metadata: %w", err)
	}
	return strconv.Itoa(ttl.Seconds), nil
}

// refused is the error for a write that the version, or an earlier first-write, forbids.
func refused(verb, key, etag string) error {
	if etag != "" {
		return state.Mismatch(fmt.Errorf("failed to %s key %s: its version is not %s", verb, key, etag))
	}
	return fmt.Errorf("failed to %s key %s: it was written with first-write, so another write needs its etag", verb, key)
}

// failed names the key in an error of the server or the connection.
func failed(verb, key string, err error) error {
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	return fmt.Errorf("failed to %s key %s: %w", verb, key, err)
}
