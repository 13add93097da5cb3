// Package sqlite is the state store that keeps its items in an SQLite database file, which several sidecars on one machine
// may share (Dapr API, state.sqlite).
package sqlite

import (
	"context"
	"database/sql/driver"
	"encoding/base64"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"time"

	"github.com/google/uuid"
	"github.com/jonboulle/clockwork"
	"outrigger.dev/components"
	"outrigger.dev/components/state"
	"outrigger.dev/components/state/sqlcleanup"
)

// Options are the metadata properties of the component.
type Options struct {
	ConnectionString  string        `name:"connectionString" aliases:"url" required:"true" help:"path of the database file, or an SQLite URI such as file:data.db?_pragma=synchronous(1)"`
	TableName         string        `name:"tableName" default:"state" help:"table that holds the items"`
	MetadataTableName string        `name:"metadataTableName" default:"metadata" help:"table that holds the level of the layout and the time of the last clean-up"`
	Timeout           time.Duration `name:"timeout" aliases:"timeoutInSeconds" default:"20s" help:"bound of one operation on the database"`
	BusyTimeout       time.Duration `name:"busyTimeout" default:"2s" help:"how long to wait for a lock that another process holds"`
	DisableWAL        bool          `name:"disableWAL" default:"false" help:"do not use a write-ahead log, for file systems of a network"`
	CleanupInterval   time.Duration `name:"cleanupInterval" aliases:"cleanupIntervalInSeconds" default:"0s" help:"how often to remove expired items; 0 never does"`
}

// Register adds the component type to r.
func Register(r *components.Registry) {
	state.Register(r, components.Info{
		Name:         "sqlite",
		Aliases:      []string{"sqlite3"},
		Version:      "v1",
		Status:       components.Stable,
		Description:  "Keeps items in an SQLite database file, which the sidecars of one machine may share.",
		Capabilities: []string{"ETAG", "TRANSACTIONAL", "TTL", "KEYS_LIKE", "ACTOR"},
	}, func(ctx context.Context, inst components.Instance, options Options) (state.Store, error) {
		return Open(ctx, inst, options)
	})
}

var (
	_ state.ETagStore  = (*Store)(nil)
	_ state.TTLStore   = (*Store)(nil)
	_ state.BulkGetter = (*Store)(nil)
	_ state.Transactor = (*Store)(nil)
	_ state.KeysLister = (*Store)(nil)
)

// Store is a state store on an SQLite database.
type Store struct {
	options  Options
	location location
	text     statements
	readers  *readers
	writer   *writer
	cleanup  *sqlcleanup.Loop
}

// Open opens the database and makes its tables if they are missing.
func Open(_ context.Context, inst components.Instance, options Options) (*Store, error) {
	if err := options.complete(); err != nil {
		return nil, err
	}
	if inst.Clock == nil {
		inst.Clock = clockwork.NewRealClock()
	}
	if inst.Log == nil {
		inst.Log = slog.New(slog.DiscardHandler)
	}
	s := &Store{options: options, text: statementsFor(options.TableName, options.MetadataTableName)}
	var err error
	if s.location, err = locate(options.ConnectionString, options.BusyTimeout, options.DisableWAL); err != nil {
		return nil, err
	}
	c, err := s.openWriter()
	if err != nil {
		return nil, s.explain(err)
	}
	if err := s.migrate(c); err != nil {
		_ = c.close()
		return nil, s.explain(fmt.Errorf("cannot prepare the tables: %w", err))
	}
	if s.location.memory {
		// The connection is the database: reads and writes take turns on it.
		s.readers = newReaders(s, 1)
		<-s.readers.room
		s.readers.idle <- c
		c = nil
	} else {
		s.readers = newReaders(s, readerCount())
	}
	s.writer = newWriter(s, c)
	s.writer.start()
	s.cleanup = sqlcleanup.Start(inst.Clock, inst.Log, options.CleanupInterval, s.collect)
	return s, nil
}

func (o *Options) complete() error {
	if o.TableName == "" {
		o.TableName = "state"
	}
	if o.MetadataTableName == "" {
		o.MetadataTableName = "metadata"
	}
	for _, n := range []struct{ property, name string }{{"tableName", o.TableName}, {"metadataTableName", o.MetadataTableName}} {
		if !identifier(n.name) {
			return fmt.Errorf("metadata property %q is %q, but a table name may only have letters, digits and underscores, and not start with a digit", n.property, n.name)
		}
	}
	if o.Timeout == 0 {
		o.Timeout = 20 * time.Second
	}
	if o.Timeout < time.Second {
		return fmt.Errorf("metadata property \"timeout\" is %s, but must be at least 1s", o.Timeout)
	}
	if o.BusyTimeout < 0 {
		return fmt.Errorf("metadata property \"busyTimeout\" is %s, but must not be negative", o.BusyTimeout)
	}
	return nil
}

// identifier reports whether name can stand in SQL text as it is.
func identifier(name string) bool {
	for i, r := range name {
		switch {
		case r == '_', 'a' <= r && r <= 'z', 'A' <= r && r <= 'Z':
		case '0' <= r && r <= '9' && i > 0:
		default:
			return false
		}
	}
	return name != ""
}

// openWriter opens a connection that writes. Switching a new database to its journal needs the file for itself, and SQLite
// does not wait for that, so it is tried for as long as the busy timeout.
func (s *Store) openWriter() (c *conn, err error) {
	err = s.patiently(func() (err error) {
		c, err = open(s.location.writer)
		return err
	})
	if err != nil {
		return nil, err
	}
	if s.location.wal {
		// From here on the only wait is that of patiently.
		if _, err := c.exec(context.Background(), "PRAGMA busy_timeout = 0", nil); err != nil {
			_ = c.close()
			return nil, err
		}
	}
	return c, nil
}

// explain adds what can be done to an error of opening the database.
func (s *Store) explain(err error) error {
	return fmt.Errorf("SQLite database %q: %w (its folder must exist and, unless the database is opened read-only, be writable)", s.options.ConnectionString, err)
}

// Close waits for a running clean-up and closes all connections.
func (s *Store) Close() error {
	s.cleanup.Stop()
	return errors.Join(s.writer.close(), s.readers.close())
}

// ETags reports that items have versions: a random UUID for each write.
func (s *Store) ETags() bool { return true }

// TTL reports that items can expire.
func (s *Store) TTL() bool { return true }

// bounded returns ctx with the store's timeout.
func (s *Store) bounded(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(ctx, s.options.Timeout)
}

// Get reads one item.
func (s *Store) Get(ctx context.Context, req state.GetRequest) (state.Item, error) {
	c, err := s.readers.take(ctx)
	if err != nil {
		return state.Item{}, err
	}
	// One row by its key: over before a context could end, which is not watched for it costs more than the query.
	item, err := s.get(context.Background(), c, req.Key)
	s.readers.put(c, err)
	return item, err
}

func (s *Store) get(ctx context.Context, c *conn, key string) (item state.Item, err error) {
	err = c.query(ctx, s.text.get, args(key), func(columns []driver.Value) error {
		item, err = decode(columns)
		return err
	})
	return item, err
}

// decode reads the columns value, is_binary, etag and the Unix time of expiration_time.
func decode(columns []driver.Value) (state.Item, error) {
	value, err := text(columns[0])
	if err != nil {
		return state.Item{}, fmt.Errorf("column value: %w", err)
	}
	item := state.Item{Found: true, HasETag: true}
	if item.ETag, err = text(columns[2]); err != nil {
		return state.Item{}, fmt.Errorf("column etag: %w", err)
	}
	if binary, ok := columns[1].(int64); ok && binary != 0 {
		if item.Data, err = base64.StdEncoding.DecodeString(value); err != nil {
			return state.Item{}, fmt.Errorf("column value is marked binary but is not base64: %w", err)
		}
	} else {
		item.Data = []byte(value)
	}
	if expires, ok := columns[3].(int64); ok {
		item.Metadata = state.ExpireTime(time.Unix(expires, 0))
	}
	return item, nil
}

// BulkGet reads many items from one snapshot of the database. The found ones come first.
func (s *Store) BulkGet(ctx context.Context, reqs []state.GetRequest) ([]state.BulkItem, error) {
	if len(reqs) == 0 {
		return nil, nil
	}
	ctx, cancel := s.bounded(ctx)
	defer cancel()
	c, err := s.readers.take(ctx)
	if err != nil {
		return nil, err
	}
	items, err := s.bulkGet(ctx, c, reqs)
	if err != nil {
		_, _ = c.exec(context.Background(), "ROLLBACK", nil)
	}
	s.readers.put(c, err)
	return items, err
}

func (s *Store) bulkGet(ctx context.Context, c *conn, reqs []state.GetRequest) ([]state.BulkItem, error) {
	if _, err := c.exec(context.Background(), "BEGIN DEFERRED", nil); err != nil {
		return nil, err
	}
	items := make([]state.BulkItem, 0, len(reqs))
	seen := make(map[string]bool, len(reqs))
	var missing []state.BulkItem
	for _, r := range reqs {
		if seen[r.Key] {
			continue
		}
		seen[r.Key] = true
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		switch item, err := s.get(context.Background(), c, r.Key); {
		case err != nil:
			return nil, err
		case item.Found:
			items = append(items, state.BulkItem{Key: r.Key, Item: item})
		default:
			missing = append(missing, state.BulkItem{Key: r.Key})
		}
	}
	if _, err := c.exec(context.Background(), "COMMIT", nil); err != nil {
		return nil, err
	}
	return append(items, missing...), nil
}

// Set writes one item.
func (s *Store) Set(ctx context.Context, req state.SetRequest) error {
	st, err := s.set(&req)
	if err != nil {
		return err
	}
	return s.write(ctx, s.writer.one(st))
}

// Delete removes one item.
func (s *Store) Delete(ctx context.Context, req state.DeleteRequest) error {
	st, err := s.delete(&req)
	if err != nil {
		return err
	}
	return s.write(ctx, s.writer.one(st))
}

// Transact applies operations in their order, all or none.
func (s *Store) Transact(ctx context.Context, req state.TransactionRequest) error {
	if len(req.Operations) == 0 {
		return nil
	}
	steps := make([]step, len(req.Operations))
	for i, o := range req.Operations {
		var err error
		if o.Set != nil {
			steps[i], err = s.set(o.Set)
		} else {
			steps[i], err = s.delete(o.Delete)
		}
		if err != nil {
			return err
		}
	}
	return s.write(ctx, s.writer.many(steps))
}

func (s *Store) write(ctx context.Context, r *write) error {
	_, err := s.writer.do(ctx, r)
	return err
}

// set is the statement for a write of one item.
func (s *Store) set(req *state.SetRequest) (step, error) {
	if err := req.Options.Validate(); err != nil {
		return step{}, err
	}
	ttl, err := state.ParseTTL(req.Metadata)
	if err != nil {
		return step{}, fmt.Errorf("error parsing TTL: %w", err)
	}
	var life driver.Value // the modifier of datetime; NULL makes it NULL
	if ttl.Expires() {
		life = "+" + strconv.Itoa(ttl.Seconds) + " seconds"
	}
	var value string
	var binary int64
	if req.Value.JSON {
		value = string(state.EscapeHTML(req.Value.Bytes))
	} else {
		value, binary = base64.StdEncoding.EncodeToString(req.Value.Bytes), 1
	}
	etag := uuid.NewString()
	switch {
	case req.ETag != "":
		return step{text: s.text.update, args: args(value, binary, etag, life, req.Key, req.ETag), mustChange: true}, nil
	case req.FirstWrite():
		return step{text: s.text.insert, args: args(req.Key, value, binary, etag, life), mustChange: true}, nil
	default:
		return step{text: s.text.upsert, args: args(req.Key, value, binary, etag, life)}, nil
	}
}

// delete is the statement for the removal of one item.
func (s *Store) delete(req *state.DeleteRequest) (step, error) {
	if err := req.Options.Validate(); err != nil {
		return step{}, err
	}
	if req.ETag != "" {
		return step{text: s.text.deleteETag, args: args(req.Key, req.ETag), mustChange: true}, nil
	}
	return step{text: s.text.delete, args: args(req.Key)}, nil
}

// KeysLike lists keys in the order of their rows; the token is the number of the last one.
func (s *Store) KeysLike(ctx context.Context, pattern, token string, limit int) (keys []string, next string, err error) {
	after := int64(-1 << 63)
	if token != "" {
		if after, err = strconv.ParseInt(token, 10, 64); err != nil {
			return nil, "", fmt.Errorf("continuation token %q is not one that this store gave out; leave it empty for the first page", token)
		}
	}
	most := int64(-1)
	if limit > 0 {
		most = int64(limit) + 1 // one more, to know whether there is another page
	}
	ctx, cancel := s.bounded(ctx)
	defer cancel()
	var last int64
	err = s.readers.query(ctx, s.text.keys, args(glob(pattern), after, most), func(columns []driver.Value) error {
		if limit > 0 && len(keys) == limit {
			next = strconv.FormatInt(last, 10)
			return nil
		}
		key, err := text(columns[1])
		if err != nil {
			return fmt.Errorf("column key: %w", err)
		}
		last, _ = columns[0].(int64)
		keys = append(keys, key)
		return nil
	})
	if err != nil {
		return nil, "", err
	}
	return keys, next, nil
}

// collect removes expired items if no other sidecar did so within the interval.
func (s *Store) collect(ctx context.Context) (int64, error) {
	won, err := s.writer.do(ctx, s.writer.one(step{
		text: s.text.claimCleanup,
		args: args(sqlcleanup.MinimumAge(s.options.CleanupInterval).Seconds()),
	}))
	if err != nil || won == 0 {
		return 0, err
	}
	return s.writer.do(ctx, s.writer.one(step{text: s.text.cleanup}))
}
