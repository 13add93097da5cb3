package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"strconv"
	"strings"
	"time"

	driver "modernc.org/sqlite"
	lib "modernc.org/sqlite/lib"
)

// dataSource turns the configured connection string into the one the driver gets (Dapr API, SQLite connection strings).
func (o *Options) dataSource() (dsn string, memory bool, err error) {
	file, query, _ := strings.Cut(o.ConnectionString, "?")
	values, err := url.ParseQuery(query)
	if err != nil {
		return "", false, fmt.Errorf("metadata property \"connectionString\": what follows its question mark is malformed: %w", err)
	}
	for _, shorthand := range []string{"_busy_timeout", "_timeout", "_journal_mode", "_journal", "_foreign_keys", "_fk"} {
		if values.Has(shorthand) {
			return "", false, fmt.Errorf("metadata property \"connectionString\" must not set %s; use the properties busyTimeout and disableWAL", shorthand)
		}
	}
	for _, pragma := range values["_pragma"] {
		name := strings.ToLower(strings.TrimSpace(pragma))
		if i := strings.IndexAny(name, "(= "); i >= 0 {
			name = name[:i]
		}
		switch name {
		case "busy_timeout", "journal_mode", "foreign_keys":
			return "", false, fmt.Errorf("metadata property \"connectionString\" must not set _pragma %s; use the properties busyTimeout and disableWAL", name)
		}
	}
	if !strings.HasPrefix(file, "file:") {
		file = "file:" + file
	}
	path := strings.TrimPrefix(file, "file:")
	if path == "" {
		return "", false, errors.New("metadata property \"connectionString\" names no file; give a path such as /var/lib/dapr/hosts.db")
	}
	memory = path == ":memory:" || values.Get("mode") == "memory"
	readOnly := values.Get("mode") == "ro" || values.Get("immutable") == "1"
	if readOnly {
		return "", false, errors.New("metadata property \"connectionString\" opens the database read-only; the sidecar must write its own address, so remove mode=ro and immutable=1")
	}
	journal := "WAL"
	switch {
	case memory:
		journal = "MEMORY"
		values.Set("cache", "shared")
	case o.DisableWAL:
		journal = "DELETE"
	}
	if !values.Has("_txlock") {
		values.Set("_txlock", "immediate")
	}
	// busy_timeout comes first, for switching the journal mode already needs a lock.
	pragmas := []string{
		"busy_timeout(" + strconv.FormatInt(o.BusyTimeout.Milliseconds(), 10) + ")",
		"journal_mode(" + journal + ")",
	}
	if journal == "WAL" {
		// Registrations live for seconds: they need not reach the disk before others see them, and with the log the
		// database stays whole all the same.
		pragmas = append(pragmas, "synchronous(NORMAL)")
	}
	values["_pragma"] = append(pragmas, values["_pragma"]...)
	return file + "?" + values.Encode(), memory, nil
}

// connect opens the database and brings its tables up to date. Locks of other sidecars that start at the same moment are
// waited out.
func connect(ctx context.Context, o *Options) (*sql.DB, error) {
	dsn, memory, err := o.dataSource()
	if err != nil {
		return nil, err
	}
	db, err := sql.Open("sqlite", dsn)
	if err != nil {
		return nil, err
	}
	db.SetMaxOpenConns(2)
	db.SetMaxIdleConns(2)
	if memory { // a memory database lives as long as its last connection
		db.SetMaxOpenConns(1)
		db.SetMaxIdleConns(1)
	}
	const patience = 5 * time.Second
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for {
		err = migrate(ctx, db, o)
		if err == nil {
			return db, nil
		}
		if !busy(err) || !pause(ctx, 20*time.Millisecond) {
			_ = db.Close()
			return nil, fmt.Errorf("cannot use the SQLite database %q for name resolution: %w; its folder must exist and be writable for the sidecar", redact(o.ConnectionString), err)
		}
	}
}

// handle is an open database.
type handle struct {
	db   *sql.DB
	find *sql.Stmt
	// path and file are of the database's file as it was opened; path is "" for one in memory.
	path string
	file os.FileInfo
}

// openHandle opens the database with what is needed all the time.
func openHandle(ctx context.Context, o *Options) (_ *handle, err error) {
	h := &handle{}
	if h.db, err = connect(ctx, o); err != nil {
		return nil, err
	}
	h.find, err = h.db.PrepareContext(ctx, `SELECT address, last_update FROM `+o.TableName+` WHERE app_id = ? AND last_update > ? ORDER BY address`)
	if err == nil {
		err = h.db.QueryRowContext(ctx, `SELECT file FROM pragma_database_list WHERE name = 'main'`).Scan(&h.path)
	}
	if err == nil && h.path != "" {
		h.file, err = os.Stat(h.path)
	}
	if err != nil {
		_ = h.close()
		return nil, fmt.Errorf("cannot use the SQLite database %q for name resolution: %w", redact(o.ConnectionString), err)
	}
	return h, nil
}

// replaced reports whether the file at the path is not the one that was opened: what is written to a deleted file nobody
// else reads.
func (h *handle) replaced() bool {
	if h.path == "" {
		return false
	}
	now, err := os.Stat(h.path)
	if err != nil {
		return errors.Is(err, fs.ErrNotExist)
	}
	return !os.SameFile(h.file, now)
}

// close ends what is open. It waits for queries under way.
func (h *handle) close() error {
	var err error
	if h.find != nil {
		err = h.find.Close()
	}
	return errors.Join(err, h.db.Close())
}

// redact cuts the options off a connection string, which may hold a key.
func redact(connectionString string) string {
	file, _, _ := strings.Cut(connectionString, "?")
	return file
}

// busy reports whether err says that another connection holds a lock.
func busy(err error) bool {
	var e *driver.Error
	if !errors.As(err, &e) {
		return false
	}
	code := e.Code() & 0xff
	return code == lib.SQLITE_BUSY || code == lib.SQLITE_LOCKED
}

// pause waits for d and reports whether ctx still lives.
func pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// schemaLevel is the number of the newest layout of the tables.
const schemaLevel = 1

// migrate creates the tables, unless another sidecar, of ours or of Dapr, has done so.
func migrate(ctx context.Context, db *sql.DB, o *Options) error {
	tx, err := db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer func() { _ = tx.Rollback() }()
	if _, err := tx.ExecContext(ctx, `CREATE TABLE IF NOT EXISTS `+o.MetadataTableName+` (key TEXT NOT NULL PRIMARY KEY, value TEXT NOT NULL)`); err != nil {
		return err
	}
	var level int
	err = tx.QueryRowContext(ctx, `SELECT CAST(value AS INTEGER) FROM `+o.MetadataTableName+` WHERE key = 'nr-migrations'`).Scan(&level)
	if err != nil && !errors.Is(err, sql.ErrNoRows) {
		return err
	}
	// The level says nothing of which table it was reached for, so the table is ensured at any level.
	for _, statement := range []string{
		`CREATE TABLE IF NOT EXISTS ` + o.TableName + ` (
			registration_id TEXT NOT NULL PRIMARY KEY,
			address TEXT NOT NULL,
			app_id TEXT NOT NULL,
			namespace TEXT NOT NULL,
			last_update INTEGER NOT NULL
		)`,
		`CREATE UNIQUE INDEX IF NOT EXISTS ` + o.TableName + `_address_idx ON ` + o.TableName + ` (address)`,
		`CREATE INDEX IF NOT EXISTS ` + o.TableName + `_last_update_idx ON ` + o.TableName + ` (last_update)`,
	} {
		if _, err := tx.ExecContext(ctx, statement); err != nil {
			return err
		}
	}
	if level < schemaLevel {
		if _, err := tx.ExecContext(ctx, `REPLACE INTO `+o.MetadataTableName+` (key, value) VALUES ('nr-migrations', ?)`, strconv.Itoa(schemaLevel)); err != nil {
			return err
		}
	}
	return tx.Commit()
}
