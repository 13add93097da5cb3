// Package postgresql is the state store on PostgreSQL and the databases that speak its protocol. Its two versions keep
// values differently and cannot read each other's tables (Dapr API, state.postgresql).
package postgresql

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"strconv"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/jonboulle/clockwork"
	"outrigger.dev/components"
	"outrigger.dev/components/state"
	"outrigger.dev/components/state/sqlcleanup"
)

// OptionsV1 are the metadata properties of version 1.
type OptionsV1 struct {
	Connection
	TableName string `name:"tableName" default:"state" help:"table that holds the items, with its schema if wanted"`
}

// OptionsV2 are the metadata properties of version 2.
type OptionsV2 struct {
	Connection
	TablePrefix string `name:"tablePrefix" help:"what stands before \"state\" in the name of the table: a prefix, a schema with a dot, or both"`
}

// Check refuses what the tables could not be found by, or the server not called with. It implements [components.Checker].
func (o *OptionsV1) Check() error {
	return o.check("tableName", cmp.Or(o.TableName, "state"))
}

// Check refuses what the tables could not be found by, or the server not called with. It implements [components.Checker].
func (o *OptionsV2) Check() error {
	return o.check("tablePrefix", o.TablePrefix+"state")
}

// Register adds the component types to r.
func Register(r *components.Registry) {
	one := components.Info{
		Name: "postgresql", Aliases: []string{"postgres"}, Version: "v1", Default: true, Status: components.Stable,
		Description:  "Keeps items in a PostgreSQL table, JSON values so that they can be queried.",
		Capabilities: []string{"ETAG", "TRANSACTIONAL", "TTL", "QUERY_API", "KEYS_LIKE", "ACTOR"},
	}
	two := components.Info{
		Name: "postgresql", Aliases: []string{"postgres"}, Version: "v2", Status: components.Stable,
		Description:  "Keeps items in a PostgreSQL table, values as bytes, which is faster than version 1.",
		Capabilities: []string{"ETAG", "TRANSACTIONAL", "TTL", "KEYS_LIKE", "ACTOR"},
	}
	state.Register(r, one, func(ctx context.Context, inst components.Instance, options OptionsV1) (state.Store, error) {
		return OpenV1(ctx, inst, options)
	})
	openV2 := func(ctx context.Context, inst components.Instance, options OptionsV2) (state.Store, error) {
		return OpenV2(ctx, inst, options)
	}
	state.Register(r, two, openV2)
	two.Name, two.Aliases, two.Default = "yugabytedb", []string{"yugabyte"}, true
	two.Description = "Keeps items in a YugabyteDB table, values as bytes."
	state.Register(r, two, openV2)
	two.Name, two.Aliases, two.Default = "cockroachdb", nil, true
	two.Description = "Keeps items in a CockroachDB table, values as bytes."
	state.Register(r, two, openV2)
}

var (
	_ state.ETagStore  = (*Store)(nil)
	_ state.TTLStore   = (*Store)(nil)
	_ state.BulkGetter = (*Store)(nil)
	_ state.Transactor = (*Store)(nil)
	_ state.KeysLister = (*Store)(nil)
	_ state.Querier    = (*Store)(nil)
)

// Store is a state store on a PostgreSQL database.
type Store struct {
	layout  *layout
	options Connection
	pool    *pgxpool.Pool
	cleanup *sqlcleanup.Loop
}

// OpenV1 connects to the server and makes the tables of version 1 if they are missing.
func OpenV1(ctx context.Context, inst components.Instance, options OptionsV1) (*Store, error) {
	if options.TableName == "" {
		options.TableName = "state"
	}
	if err := options.complete(inst.Properties); err != nil {
		return nil, err
	}
	table, metadata, err := tables("tableName", options.TableName, options.MetadataTableName)
	if err != nil {
		return nil, err
	}
	return open(ctx, inst, options.Connection, v1(table, metadata), false)
}

// OpenV2 connects to the server and makes the tables of version 2 if they are missing.
func OpenV2(ctx context.Context, inst components.Instance, options OptionsV2) (*Store, error) {
	if err := options.complete(inst.Properties); err != nil {
		return nil, err
	}
	table, metadata, err := tables("tablePrefix", options.TablePrefix+"state", options.MetadataTableName)
	if err != nil {
		return nil, err
	}
	return open(ctx, inst, options.Connection, v2(options.TablePrefix, table, metadata), true)
}

func tables(property, name, metadataName string) (table, metadata tableName, err error) {
	if table, err = parseTableName(property, name); err != nil {
		return table, metadata, err
	}
	metadata, err = parseTableName("metadataTableName", metadataName)
	return table, metadata, err
}

func open(ctx context.Context, inst components.Instance, options Connection, l *layout, iam bool) (*Store, error) {
	if inst.Clock == nil {
		inst.Clock = clockwork.NewRealClock()
	}
	if inst.Log == nil {
		inst.Log = slog.New(slog.DiscardHandler)
	}
	config, err := options.PoolConfig(ctx, iam)
	if err != nil {
		return nil, err
	}
	// The pool's context is not the caller's, which may end when the store is open.
	pool, err := pgxpool.NewWithConfig(context.WithoutCancel(ctx), config)
	if err != nil {
		return nil, err
	}
	s := &Store{layout: l, options: options, pool: pool}
	if err := s.start(ctx); err != nil {
		pool.Close()
		return nil, fmt.Errorf("PostgreSQL server %s:%d, database %q: %w", config.ConnConfig.Host, config.ConnConfig.Port, config.ConnConfig.Database, err)
	}
	s.cleanup = sqlcleanup.Start(inst.Clock, inst.Log, options.CleanupInterval, s.collect)
	return s, nil
}

func (s *Store) start(ctx context.Context) error {
	bounded, cancel := context.WithTimeout(ctx, s.options.Timeout)
	defer cancel()
	if err := s.pool.Ping(bounded); err != nil {
		return fmt.Errorf("cannot connect: %w; check that the server runs and can be reached from here, and that host, user, password and database are right", err)
	}
	if err := s.migrate(ctx); err != nil {
		return fmt.Errorf("cannot prepare the tables: %w", err)
	}
	return nil
}

// Close waits for a running clean-up and closes the connections.
func (s *Store) Close() error {
	s.cleanup.Stop()
	s.pool.Close()
	return nil
}

// ETags reports that items have versions.
func (s *Store) ETags() bool { return true }

// TTL reports that items can expire.
func (s *Store) TTL() bool { return true }

// Queries reports whether the values are JSON that the database can look into.
func (s *Store) Queries() bool { return s.layout.queries }

// maxAttempts is how often an operation is tried that came to nothing because of a lost connection or a deadlock.
const maxAttempts = 4

// try calls f within the timeout, again when a connection of the pool proves to be dead: for reads always, for writes if
// they cannot have reached the server or were rolled back by it.
func (s *Store) try(ctx context.Context, read bool, f func(ctx context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, s.options.Timeout)
	defer cancel()
	for attempt := 1; ; attempt++ {
		err := f(ctx)
		if err == nil {
			return nil
		}
		dead := lost(err)
		if dead {
			s.pool.Reset() // the others are likely to be dead as well
		}
		if attempt < maxAttempts && ctx.Err() == nil && (again(err) || dead && (read || pgconn.SafeToRetry(err))) {
			continue
		}
		if dead {
			server := s.pool.Config().ConnConfig
			outcome := ""
			if !read && !pgconn.SafeToRetry(err) {
				outcome = "; whether the write was done is not known"
			}
			return fmt.Errorf("the connection to PostgreSQL server %s:%d was lost: %w%s", server.Host, server.Port, err, outcome)
		}
		return err
	}
}

// again reports whether the server says that it did nothing and might do better at another attempt.
func again(err error) bool {
	switch code(err) {
	case codeDeadlock, codeSerialization, codeShutdown:
		return true
	}
	return false
}

// lost reports whether err is that of a connection which broke, rather than one which could not be made.
func lost(err error) bool {
	if code(err) == codeShutdown {
		return true
	}
	var connect *pgconn.ConnectError
	if code(err) != "" || errors.As(err, &connect) || errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled) {
		return false
	}
	var network net.Error
	return errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.As(err, &network) || pgconn.SafeToRetry(err)
}

// Get reads one item.
func (s *Store) Get(ctx context.Context, req state.GetRequest) (item state.Item, err error) {
	err = s.try(ctx, true, func(ctx context.Context) (err error) {
		item, err = s.layout.scan(s.pool.QueryRow(ctx, s.layout.get, req.Key), nil)
		return err
	})
	if errors.Is(err, pgx.ErrNoRows) {
		return state.Item{}, nil
	}
	return item, err
}

// BulkGet reads many items with one statement. The found ones come first.
func (s *Store) BulkGet(ctx context.Context, reqs []state.GetRequest) (items []state.BulkItem, err error) {
	if len(reqs) == 0 {
		return nil, nil
	}
	keys := make([]string, len(reqs))
	for i, r := range reqs {
		keys[i] = r.Key
	}
	seen := make(map[string]bool, len(reqs))
	err = s.try(ctx, true, func(ctx context.Context) error {
		items = make([]state.BulkItem, 0, len(reqs))
		clear(seen)
		rows, err := s.pool.Query(ctx, s.layout.bulkGet, keys)
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			var b state.BulkItem
			if b.Item, err = s.layout.scan(rows, &b.Key); err != nil {
				return err
			}
			seen[b.Key] = true
			items = append(items, b)
		}
		return rows.Err()
	})
	if err != nil {
		return nil, err
	}
	for _, k := range keys {
		if !seen[k] {
			seen[k] = true
			items = append(items, state.BulkItem{Key: k})
		}
	}
	return items, nil
}

// errNothing is the answer to a first-write of an item that exists.
var errNothing = errors.New("no item was updated")

// write is one statement that writes, and the error for when it changes no row.
type write struct {
	text    string
	args    []any
	nothing error
}

func (w *write) check(tag pgconn.CommandTag) error {
	if w.nothing != nil && tag.RowsAffected() != 1 {
		return w.nothing
	}
	return nil
}

// set is the statement for a write of one item.
func (s *Store) set(req *state.SetRequest) (write, error) {
	if err := req.Options.Validate(); err != nil {
		return write{}, err
	}
	ttl, err := state.ParseTTL(req.Metadata)
	if err != nil {
		return write{}, fmt.Errorf("error parsing TTL: %w", err)
	}
	var life any // NULL makes the time of expiry NULL
	if ttl.Expires() {
		life = int64(ttl.Seconds)
	}
	value, binary := s.layout.value(req.Value)
	w := write{text: s.layout.upsert, args: []any{req.Key, value, binary, life}, nothing: errNothing}
	switch {
	case req.ETag != "":
		etag, err := s.layout.etag(req.ETag)
		if err != nil {
			return write{}, err
		}
		w.text, w.args, w.nothing = s.layout.update, append(w.args, etag), state.Mismatch(nil)
	case req.FirstWrite():
		w.text = s.layout.insert
	}
	return w, nil
}

// delete is the statement for the removal of one item.
func (s *Store) delete(req *state.DeleteRequest) (write, error) {
	if err := req.Options.Validate(); err != nil {
		return write{}, err
	}
	if req.ETag == "" {
		return write{text: s.layout.delete, args: []any{req.Key}}, nil
	}
	etag, err := s.layout.etag(req.ETag)
	if err != nil {
		return write{}, err
	}
	return write{text: s.layout.deleteETag, args: []any{req.Key, etag}, nothing: state.Mismatch(nil)}, nil
}

func (s *Store) exec(ctx context.Context, w write) error {
	return s.try(ctx, false, func(ctx context.Context) error {
		tag, err := s.pool.Exec(ctx, w.text, w.args...)
		if err != nil {
			return err
		}
		return w.check(tag)
	})
}

// Set writes one item.
func (s *Store) Set(ctx context.Context, req state.SetRequest) error {
	w, err := s.set(&req)
	if err != nil {
		return err
	}
	return s.exec(ctx, w)
}

// Delete removes one item.
func (s *Store) Delete(ctx context.Context, req state.DeleteRequest) error {
	w, err := s.delete(&req)
	if err != nil {
		return err
	}
	return s.exec(ctx, w)
}

// Transact applies operations in their order, all or none. The statements go to the server together.
func (s *Store) Transact(ctx context.Context, req state.TransactionRequest) error {
	writes := make([]write, len(req.Operations))
	for i, o := range req.Operations {
		var err error
		if o.Set != nil {
			writes[i], err = s.set(o.Set)
		} else {
			writes[i], err = s.delete(o.Delete)
		}
		if err != nil {
			return err
		}
	}
	switch len(writes) {
	case 0:
		return nil
	case 1:
		return s.exec(ctx, writes[0])
	}
	return s.try(ctx, false, func(ctx context.Context) error {
		return pgx.BeginFunc(ctx, s.pool, func(tx pgx.Tx) (err error) {
			var b pgx.Batch
			for _, w := range writes {
				b.Queue(w.text, w.args...)
			}
			results := tx.SendBatch(ctx, &b)
			defer func() {
				if closeErr := results.Close(); err == nil {
					err = closeErr
				}
			}()
			for i := range writes {
				tag, err := results.Exec()
				if err != nil {
					return err
				}
				if err := writes[i].check(tag); err != nil {
					return err
				}
			}
			return nil
		})
	})
}

// KeysLike lists keys in the order of their rows; the token is the number of the last one.
func (s *Store) KeysLike(ctx context.Context, pattern, token string, limit int) (keys []string, next string, err error) {
	after := int64(-1 << 63)
	if token != "" {
		if after, err = strconv.ParseInt(token, 10, 64); err != nil {
			return nil, "", fmt.Errorf("continuation token %q is not one that this store gave out; leave it empty for the first page", token)
		}
	}
	var most any // NULL is no limit
	if limit > 0 {
		most = int64(limit) + 1 // one more, to know whether there is another page
	}
	err = s.try(ctx, true, func(ctx context.Context) error {
		keys, next = nil, ""
		rows, err := s.pool.Query(ctx, s.layout.keys, pattern, after, most)
		if err != nil {
			return err
		}
		defer rows.Close()
		var last int64
		for rows.Next() {
			if limit > 0 && len(keys) == limit {
				next = strconv.FormatInt(last, 10)
				break
			}
			var key string
			if err := rows.Scan(&last, &key); err != nil {
				return err
			}
			keys = append(keys, key)
		}
		rows.Close()
		return rows.Err()
	})
	return keys, next, err
}

// collect removes expired items if no other sidecar did so within the interval.
func (s *Store) collect(ctx context.Context) (int64, error) {
	m := s.layout.metadata.quoted
	tag, err := s.pool.Exec(ctx, `INSERT INTO `+m+` AS m (key, value) VALUES ($1, CURRENT_TIMESTAMP::text)
ON CONFLICT (key) DO UPDATE SET value = excluded.value
WHERE EXTRACT(epoch FROM CURRENT_TIMESTAMP - m.value::timestamp with time zone) > $2::double precision`,
		s.layout.cleanupKey, sqlcleanup.MinimumAge(s.options.CleanupInterval).Seconds())
	if err != nil || tag.RowsAffected() == 0 {
		return 0, err
	}
	tag, err = s.pool.Exec(ctx, s.layout.cleanup)
	return tag.RowsAffected(), err
}
