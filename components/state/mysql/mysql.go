// Package mysql is the state store on MySQL and MariaDB (Dapr API, state.mysql).
package mysql

import (
	"context"
	"database/sql"
	"encoding/base64"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/go-sql-driver/mysql"
	"github.com/google/uuid"
	"github.com/jonboulle/clockwork"
	"outrigger.dev/components"
	"outrigger.dev/components/state"
	"outrigger.dev/components/state/sqlcleanup"
)

// Register adds the component type to r.
func Register(r *components.Registry) {
	state.Register(r, components.Info{
		Name:         "mysql",
		Version:      "v1",
		Status:       components.Stable,
		Description:  "Keeps items in a table of MySQL or MariaDB.",
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

// maxKey is the size of the column for keys, in characters.
const maxKey = 255

// The bounds of the pool of connections. Idle ones are kept, for a new one costs several exchanges.
const (
	maxConnections     = 64
	maxIdleConnections = 16
	maxIdleTime        = 5 * time.Minute
)

// Store is a state store on a MySQL or MariaDB server.
type Store struct {
	options    Options
	db         *sql.DB
	statements statements
	cleanup    *sqlcleanup.Loop
}

// Open connects to the server and makes the database and its tables if they are missing.
func Open(ctx context.Context, inst components.Instance, options Options) (*Store, error) {
	if inst.Clock == nil {
		inst.Clock = clockwork.NewRealClock()
	}
	if inst.Log == nil {
		inst.Log = slog.New(slog.DiscardHandler)
	}
	if err := options.complete(inst.Properties); err != nil {
		return nil, err
	}
	config, err := options.config(inst.Log)
	if err != nil {
		return nil, err
	}
	s := &Store{options: options}
	if err := s.start(ctx, config); err != nil {
		if s.db != nil {
			_ = s.db.Close()
		}
		return nil, fmt.Errorf("MySQL server %s, database %q: %w", config.Addr, options.SchemaName, err)
	}
	s.cleanup = sqlcleanup.Start(inst.Clock, inst.Log, options.CleanupInterval, s.collect)
	return s, nil
}

func (s *Store) start(ctx context.Context, config *mysql.Config) error {
	ctx, cancel := context.WithTimeout(ctx, s.options.Timeout)
	defer cancel()
	connector, err := mysql.NewConnector(config)
	if err != nil {
		return err
	}
	server := sql.OpenDB(connector)
	defer server.Close()
	if err := server.PingContext(ctx); err != nil {
		return fmt.Errorf("cannot connect: %w; check that the server runs and can be reached from here, and that host, user and password in the connection string are right", err)
	}
	if err := s.makeSchema(ctx, server); err != nil {
		return fmt.Errorf("cannot make the database: %w; make it yourself, or give the user the right to", err)
	}
	config.DBName = s.options.SchemaName
	if connector, err = mysql.NewConnector(config); err != nil {
		return err
	}
	s.db = sql.OpenDB(connector)
	s.db.SetMaxOpenConns(maxConnections)
	s.db.SetMaxIdleConns(maxIdleConnections)
	s.db.SetConnMaxIdleTime(maxIdleTime)
	if err := s.migrate(ctx, s.db); err != nil {
		return fmt.Errorf("cannot prepare the tables: %w", err)
	}
	return s.prepare(ctx)
}

// Close waits for a running clean-up and closes the connections.
func (s *Store) Close() error {
	s.cleanup.Stop()
	return s.db.Close()
}

// ETags reports that items have versions: a random UUID for each write.
func (s *Store) ETags() bool { return true }

// TTL reports that items can expire.
func (s *Store) TTL() bool { return true }

func (s *Store) bounded(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(ctx, s.options.Timeout)
}

// Get reads one item.
func (s *Store) Get(ctx context.Context, req state.GetRequest) (state.Item, error) {
	ctx, cancel := s.bounded(ctx)
	defer cancel()
	item, err := scan(s.statements.get.QueryRowContext(ctx, req.Key))
	if errors.Is(err, sql.ErrNoRows) {
		return state.Item{}, nil
	}
	return item.Item, err
}

// scan reads the columns of an item.
func scan(row interface{ Scan(dest ...any) error }) (b state.BulkItem, err error) {
	var value string
	var binary bool
	var expires sql.NullFloat64
	if err := row.Scan(&b.Key, &value, &binary, &b.ETag, &expires); err != nil {
		return state.BulkItem{}, err
	}
	b.Found, b.HasETag = true, true
	if b.Data = []byte(value); binary {
		if b.Data, err = base64.StdEncoding.DecodeString(strings.Trim(value, `"`)); err != nil {
			return state.BulkItem{}, fmt.Errorf("column value is marked binary but is not base64: %w", err)
		}
	}
	if expires.Valid {
		b.Metadata = state.ExpireTime(time.Unix(int64(expires.Float64), 0))
	}
	return b, nil
}

// bulkChunk is the largest number of keys read with one statement.
const bulkChunk = 1000

// BulkGet reads many items with one statement, or a few. The found ones come first.
func (s *Store) BulkGet(ctx context.Context, reqs []state.GetRequest) ([]state.BulkItem, error) {
	if len(reqs) == 0 {
		return nil, nil
	}
	ctx, cancel := s.bounded(ctx)
	defer cancel()
	wanted := make(map[string]bool, len(reqs)) // true once found
	keys := make([]any, 0, len(reqs))
	for _, r := range reqs {
		if _, twice := wanted[r.Key]; !twice {
			wanted[r.Key] = false
			keys = append(keys, r.Key)
		}
	}
	items := make([]state.BulkItem, 0, len(keys))
	folded := false
	for rest := keys; len(rest) > 0; {
		chunk := rest[:min(len(rest), bulkChunk)]
		rest = rest[len(chunk):]
		found, err := s.bulkGet(ctx, chunk)
		if err != nil {
			return nil, err
		}
		for _, b := range found {
			if _, exact := wanted[b.Key]; !exact {
				folded = true
				continue
			}
			wanted[b.Key] = true
			items = append(items, b)
		}
	}
	var missing []state.BulkItem
	for _, k := range keys {
		key := k.(string)
		if wanted[key] {
			continue
		}
		b := state.BulkItem{Key: key}
		if folded { // the column's collation may hold one of the rows found for the same key
			item, err := s.Get(ctx, state.GetRequest{Key: key})
			if err != nil {
				return nil, err
			}
			b.Item = item
		}
		if b.Found {
			items = append(items, b)
		} else {
			missing = append(missing, b)
		}
	}
	return append(items, missing...), nil
}

func (s *Store) bulkGet(ctx context.Context, keys []any) (items []state.BulkItem, err error) {
	rows, err := s.db.QueryContext(ctx, "SELECT "+columns+" FROM `"+s.options.TableName+"` WHERE id IN (?"+strings.Repeat(",?", len(keys)-1)+") AND "+alive, keys...)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for rows.Next() {
		b, err := scan(rows)
		if err != nil {
			return nil, err
		}
		items = append(items, b)
	}
	return items, rows.Err()
}

// write is one statement that writes. If mustChange, it fails with an etag mismatch when it changes no row.
type write struct {
	statement  *sql.Stmt
	args       []any
	mustChange bool
}

// set is the statement for a write of one item.
func (s *Store) set(req *state.SetRequest) (write, error) {
	if err := req.Options.Validate(); err != nil {
		return write{}, err
	}
	// A server that is not strict would cut the key.
	if n := utf8.RuneCountInString(req.Key); n > maxKey {
		return write{}, fmt.Errorf("the key %.40q... has %d characters with its prefix, but the MySQL state store takes at most %d; use a shorter one", req.Key, n, maxKey)
	}
	ttl, err := state.ParseTTL(req.Metadata)
	if err != nil {
		return write{}, fmt.Errorf("error parsing TTL: %w", err)
	}
	var life any
	if ttl.Expires() {
		life = ttl.Seconds
	}
	value := `"` + base64.StdEncoding.EncodeToString(req.Value.Bytes) + `"`
	if req.Value.JSON {
		value = string(state.EscapeHTML(req.Value.Bytes))
	}
	binary, etag := !req.Value.JSON, uuid.NewString()
	switch {
	case req.ETag != "":
		return write{s.statements.update, []any{value, binary, etag, life, req.Key, req.ETag}, true}, nil
	case req.FirstWrite():
		return write{s.statements.insert, []any{req.Key, value, binary, etag, life}, true}, nil
	default:
		return write{s.statements.replace, []any{req.Key, value, binary, etag, life}, false}, nil
	}
}

// delete is the statement for the removal of one item.
func (s *Store) delete(req *state.DeleteRequest) (write, error) {
	if err := req.Options.Validate(); err != nil {
		return write{}, err
	}
	if req.ETag != "" {
		return write{s.statements.deleteETag, []any{req.Key, req.ETag}, true}, nil
	}
	return write{s.statements.delete, []any{req.Key}, false}, nil
}

func (w write) exec(ctx context.Context, statement *sql.Stmt) error {
	r, err := statement.ExecContext(ctx, w.args...)
	if err != nil || !w.mustChange {
		return err
	}
	n, err := r.RowsAffected()
	if err == nil && n == 0 {
		err = state.Mismatch(nil)
	}
	return err
}

// maxAttempts is how often an operation is tried that the server rolled back because of a deadlock.
const maxAttempts = 5

// try calls f within the timeout, again after a deadlock, which concurrent writes run into at times.
func (s *Store) try(ctx context.Context, f func(ctx context.Context) error) error {
	ctx, cancel := s.bounded(ctx)
	defer cancel()
	for attempt := 1; ; attempt++ {
		err := f(ctx)
		if number(err) != numberDeadlock || attempt == maxAttempts || ctx.Err() != nil {
			return err
		}
	}
}

// Set writes one item.
func (s *Store) Set(ctx context.Context, req state.SetRequest) error {
	w, err := s.set(&req)
	if err != nil {
		return err
	}
	return s.try(ctx, func(ctx context.Context) error { return w.exec(ctx, w.statement) })
}

// Delete removes one item.
func (s *Store) Delete(ctx context.Context, req state.DeleteRequest) error {
	w, err := s.delete(&req)
	if err != nil {
		return err
	}
	return s.try(ctx, func(ctx context.Context) error { return w.exec(ctx, w.statement) })
}

// Transact applies operations in their order, all or none.
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
	if len(writes) == 0 {
		return nil
	}
	return s.try(ctx, func(ctx context.Context) error {
		if len(writes) == 1 {
			return writes[0].exec(ctx, writes[0].statement)
		}
		tx, err := s.db.BeginTx(ctx, nil)
		if err != nil {
			return err
		}
		defer func() { _ = tx.Rollback() }() // does nothing after the commit
		for _, w := range writes {
			if err := w.exec(ctx, tx.StmtContext(ctx, w.statement)); err != nil {
				return err
			}
		}
		return tx.Commit()
	})
}

// KeysLike lists keys in the order of their rows; the token is the number of the last one.
func (s *Store) KeysLike(ctx context.Context, pattern, token string, limit int) (keys []string, next string, err error) {
	var after uint64
	if token != "" {
		if after, err = strconv.ParseUint(token, 10, 64); err != nil {
			return nil, "", fmt.Errorf("continuation token %q is not one that this store gave out; leave it empty for the first page", token)
		}
	}
	most := int64(math.MaxInt64)
	if limit > 0 {
		most = int64(limit) + 1 // one more, to know whether there is another page
	}
	ctx, cancel := s.bounded(ctx)
	defer cancel()
	like := likePattern(pattern)
	rows, err := s.statements.keys.QueryContext(ctx, like, like, after, most)
	if err != nil {
		return nil, "", err
	}
	defer rows.Close()
	var last uint64
	for rows.Next() {
		if limit > 0 && len(keys) == limit {
			return keys, strconv.FormatUint(last, 10), nil
		}
		var key string
		if err := rows.Scan(&last, &key); err != nil {
			return nil, "", err
		}
		keys = append(keys, key)
	}
	return keys, "", rows.Err()
}

// collect removes expired items if no other sidecar did so within the interval.
func (s *Store) collect(ctx context.Context) (int64, error) {
	r, err := s.statements.claimCleanup.ExecContext(ctx, sqlcleanup.MinimumAge(s.options.CleanupInterval).Microseconds())
	if err != nil {
		return 0, err
	}
	if n, err := r.RowsAffected(); err != nil || n == 0 {
		return 0, err
	}
	if r, err = s.statements.cleanup.ExecContext(ctx); err != nil {
		return 0, err
	}
	return r.RowsAffected()
}
