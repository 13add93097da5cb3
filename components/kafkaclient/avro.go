package kafkaclient

import (
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"sync"
	"time"

	"github.com/jonboulle/clockwork"
	"github.com/twmb/avro"
	"github.com/twmb/franz-go/pkg/sr"
)

// registryTimeout is the limit of a request to the schema registry.
const registryTimeout = 30 * time.Second

// registry turns JSON into Avro and back, with the schemas of a schema registry. A value in Kafka is a zero byte, the
// schema's number in four bytes, and the Avro encoding.
type registry struct {
	address  string // without credentials
	client   *sr.Client
	http     *http.Client
	clock    clockwork.Clock
	caching  bool
	ttl      time.Duration
	avroJSON bool

	mu     sync.Mutex
	byID   map[int]*avro.Schema
	latest map[string]latestSchema // by subject
}

type latestSchema struct {
	id     int
	schema *avro.Schema
	until  time.Time
}

func newRegistry(o *Options, clock clockwork.Clock) (*registry, error) {
	roots, err := o.authorities()
	if err != nil {
		return nil, err
	}
	r := &registry{
		clock: clock, caching: o.SchemaCaching, ttl: o.SchemaLatestTTL, avroJSON: o.UseAvroJSON,
		byID: map[int]*avro.Schema{}, latest: map[string]latestSchema{},
		http: &http.Client{Timeout: registryTimeout, Transport: &http.Transport{
			Proxy:           http.ProxyFromEnvironment,
			IdleConnTimeout: time.Minute,
			// #nosec G402 -- skipping the check is the user's explicit choice.
			TLSClientConfig: &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: roots, InsecureSkipVerify: o.SkipVerify},
		}},
	}
	at, err := url.Parse(o.SchemaRegistryURL)
	if err != nil {
		return nil, fmt.Errorf("metadata property \"schemaRegistryURL\" is not a URL: %w", err) // Check parsed it
	}
	user := at.User
	at.User = nil // for the client library has the URL in its errors
	r.address = at.String()
	opts := []sr.ClientOpt{sr.URLs(r.address), sr.HTTPClient(r.http)}
	if o.SchemaRegistryAPIKey != "" {
		opts = append(opts, sr.BasicAuth(o.SchemaRegistryAPIKey, o.SchemaRegistryAPISecret))
	} else if user != nil {
		password, _ := user.Password()
		opts = append(opts, sr.BasicAuth(user.Username(), password))
	}
	if r.client, err = sr.NewClient(opts...); err != nil {
		return nil, fmt.Errorf("metadata property \"schemaRegistryURL\" is %q: %w", r.address, err)
	}
	return r, nil
}

var errNoRegistry = errors.New("metadata \"valueSchemaType\" is avro, but the component has no schema registry: set the metadata property \"schemaRegistryURL\"")

// encode makes the Avro value of JSON by the latest schema of the topic.
func (c *Client) encode(ctx context.Context, topic string, data []byte) ([]byte, error) {
	if c.registry == nil {
		return nil, &RequestError{errNoRegistry}
	}
	subject := topic + "-value"
	id, schema, err := c.registry.latestOf(ctx, subject)
	if err != nil {
		return nil, fmt.Errorf("no Avro schema for Kafka topic %q: subject %s at %s: %w", topic, subject, c.registry.address, err)
	}
	var value any
	var opts []avro.Opt
	if c.registry.avroJSON {
		opts = []avro.Opt{avro.TaggedUnions()}
	}
	if err := schema.DecodeJSON(data, &value, opts...); err != nil {
		return nil, refuse("the message for Kafka topic %q does not fit the Avro schema of subject %s: %w", topic, subject, err)
	}
	framed := make([]byte, 5, 5+len(data))
	binary.BigEndian.PutUint32(framed[1:], uint32(id))
	if framed, err = schema.AppendEncode(framed, value); err != nil {
		return nil, refuse("the message for Kafka topic %q does not fit the Avro schema of subject %s: %w", topic, subject, err)
	}
	return framed, nil
}

// decode makes JSON of an Avro value.
func (c *Client) decode(ctx context.Context, value []byte) ([]byte, error) {
	if c.registry == nil {
		return nil, errNoRegistry
	}
	if len(value) == 0 { // a tombstone
		return value, nil
	}
	if len(value) < 5 || value[0] != 0 {
		return nil, errors.New("the value is not Avro: it does not begin with a zero byte and the number of a schema")
	}
	id := int(binary.BigEndian.Uint32(value[1:]))
	schema, err := c.registry.schema(ctx, id)
	if err != nil {
		return nil, fmt.Errorf("no Avro schema %d at %s: %w", id, c.registry.address, err)
	}
	var opts []avro.Opt
	if c.registry.avroJSON {
		opts = []avro.Opt{avro.TaggedUnions()}
	}
	var native any
	if _, err := schema.Decode(value[5:], &native, opts...); err != nil {
		return nil, fmt.Errorf("the value does not fit Avro schema %d: %w", id, err)
	}
	return schema.EncodeJSON(native, opts...)
}

// latestOf is the latest schema of a subject.
func (r *registry) latestOf(ctx context.Context, subject string) (int, *avro.Schema, error) {
	if r.caching {
		r.mu.Lock()
		known, ok := r.latest[subject]
		r.mu.Unlock()
		if ok && r.clock.Now().Before(known.until) {
			return known.id, known.schema, nil
		}
	}
	found, err := r.client.SchemaByVersion(ctx, subject, -1)
	if err != nil {
		return 0, nil, err
	}
	schema, err := r.parse(ctx, found.Schema)
	if err != nil {
		return 0, nil, err
	}
	if r.caching {
		r.mu.Lock()
		r.latest[subject] = latestSchema{found.ID, schema, r.clock.Now().Add(r.ttl)}
		r.byID[found.ID] = schema
		r.mu.Unlock()
	}
	return found.ID, schema, nil
}

// schema is the one with a number, which never changes.
func (r *registry) schema(ctx context.Context, id int) (*avro.Schema, error) {
	if r.caching {
		r.mu.Lock()
		known := r.byID[id]
		r.mu.Unlock()
		if known != nil {
			return known, nil
		}
	}
	found, err := r.client.SchemaByID(ctx, id)
	if err != nil {
		return nil, err
	}
	schema, err := r.parse(ctx, found)
	if err == nil && r.caching {
		r.mu.Lock()
		r.byID[id] = schema
		r.mu.Unlock()
	}
	return schema, err
}

// parse reads an Avro schema after those that it refers to.
func (r *registry) parse(ctx context.Context, s sr.Schema) (*avro.Schema, error) {
	if s.Type != sr.TypeAvro {
		return nil, fmt.Errorf("the schema is %s, not Avro", s.Type)
	}
	if len(s.References) == 0 {
		return avro.Parse(s.Schema)
	}
	cache := avro.SchemaCache{}
	if err := r.parseReferences(ctx, &cache, s.References, 0); err != nil {
		return nil, err
	}
	return cache.Parse(s.Schema)
}

func (r *registry) parseReferences(ctx context.Context, cache *avro.SchemaCache, references []sr.SchemaReference, depth int) error {
	if depth > 16 {
		return errors.New("the schemas refer to each other more than 16 deep")
	}
	for _, ref := range references {
		found, err := r.client.SchemaByVersion(ctx, ref.Subject, ref.Version)
		if err != nil {
			return fmt.Errorf("reference to subject %s, version %d: %w", ref.Subject, ref.Version, err)
		}
		if err := r.parseReferences(ctx, cache, found.References, depth+1); err != nil {
			return err
		}
		if _, err := cache.Parse(found.Schema.Schema); err != nil {
			return fmt.Errorf("reference to subject %s, version %d: %w", ref.Subject, ref.Version, err)
		}
	}
	return nil
}

// close gives up idle connections.
func (c *Client) close() {
	if c.registry != nil {
		c.registry.http.CloseIdleConnections()
	}
}
