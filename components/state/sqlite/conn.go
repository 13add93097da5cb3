package sqlite

import (
	"context"
	"database/sql/driver"
	"errors"
	"fmt"
	"io"

	"modernc.org/sqlite"
)

// conn is one connection of the SQLite driver, used directly: each is owned by one goroutine at a time and keeps its
// prepared statements, so the pool, locks and conversions of database/sql would only cost.
type conn struct {
	driver.Conn
	prepared map[string]*stmt
}

func open(dsn string) (*conn, error) {
	c, err := new(sqlite.Driver).Open(dsn)
	if err != nil {
		return nil, err
	}
	return &conn{Conn: c, prepared: map[string]*stmt{}}, nil
}

// stmt is a prepared statement.
type stmt struct {
	driver.Stmt
	exec  driver.StmtExecContext
	query driver.StmtQueryContext
	dest  []driver.Value
}

// args are the numbered arguments of a statement.
func args(values ...driver.Value) []driver.NamedValue {
	named := make([]driver.NamedValue, len(values))
	for i, v := range values {
		named[i] = driver.NamedValue{Ordinal: i + 1, Value: v}
	}
	return named
}

// prepare returns the statement for the text, which is prepared once per connection.
func (c *conn) prepare(text string) (*stmt, error) {
	if s, ok := c.prepared[text]; ok {
		return s, nil
	}
	ds, err := c.Prepare(text)
	if err != nil {
		return nil, err
	}
	s := &stmt{Stmt: ds}
	var ok bool
	if s.exec, ok = ds.(driver.StmtExecContext); !ok {
		return nil, errors.New("the SQLite driver has no StmtExecContext")
	}
	if s.query, ok = ds.(driver.StmtQueryContext); !ok {
		return nil, errors.New("the SQLite driver has no StmtQueryContext")
	}
	c.prepared[text] = s
	return s, nil
}

// exec runs a statement and returns the number of rows it changed. A context that can end costs a goroutine.
func (c *conn) exec(ctx context.Context, text string, args []driver.NamedValue) (int64, error) {
	s, err := c.prepare(text)
	if err != nil {
		return 0, err
	}
	r, err := s.exec.ExecContext(ctx, args)
	if err != nil {
		return 0, err
	}
	return r.RowsAffected()
}

// query calls row for each row that the statement returns; the slice is reused.
func (c *conn) query(ctx context.Context, text string, args []driver.NamedValue, row func(columns []driver.Value) error) (err error) {
	s, err := c.prepare(text)
	if err != nil {
		return err
	}
	rows, err := s.query.QueryContext(ctx, args)
	if err != nil {
		return err
	}
	defer func() {
		if closeErr := rows.Close(); err == nil {
			err = closeErr
		}
	}()
	if s.dest == nil {
		s.dest = make([]driver.Value, len(rows.Columns()))
	}
	defer clear(s.dest)
	for {
		if err := rows.Next(s.dest); err == io.EOF {
			return nil
		} else if err != nil {
			return err
		}
		if err := row(s.dest); err != nil {
			return err
		}
	}
}

// close ends the connection and its statements.
func (c *conn) close() error {
	var errs []error
	for _, s := range c.prepared {
		errs = append(errs, s.Close())
	}
	return errors.Join(append(errs, c.Close())...)
}

// text reads a column of text, which others may have written as a blob.
func text(v driver.Value) (string, error) {
	switch v := v.(type) {
	case string:
		return v, nil
	case []byte:
		return string(v), nil
	case nil:
		return "", nil
	default:
		return "", fmt.Errorf("found a %T instead of text", v)
	}
}

// The result codes of SQLite that are looked at, without their extensions.
const (
	codeBusy   = 5
	codeLocked = 6
)

// busy reports whether err says that another connection holds the lock wanted.
func busy(err error) bool {
	var e *sqlite.Error
	return errors.As(err, &e) && (e.Code()&0xff == codeBusy || e.Code()&0xff == codeLocked)
}
