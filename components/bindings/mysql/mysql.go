// Package mysql is the output binding that runs SQL statements on a MySQL or MariaDB database (Dapr API, bindings.mysql).
package mysql

import (
	"bytes"
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"strings"
	"time"

	"github.com/go-sql-driver/mysql"
	"github.com/jonboulle/clockwork"
	"outrigger.dev/components"
	"outrigger.dev/components/bindings"
	"outrigger.dev/components/bindings/sqlbinding"
	"outrigger.dev/components/mysqlclient"
)

// Bounds: of connecting, and of a statement whose caller has no bound of its own.
const (
	connectTimeout   = 20 * time.Second
	statementTimeout = 5 * time.Minute
)

// Options are the metadata properties of the component.
type Options struct {
	URL             string        `name:"url" required:"true" secret:"true" help:"data source name, such as user:password@tcp(localhost:3306)/database?parseTime=true"`
	MaxIdleConns    *int          `name:"maxIdleConns" help:"most connections that are kept unused; 0 or less keeps none; the driver's default is 2"`
	MaxOpenConns    int           `name:"maxOpenConns" help:"most connections; 0 or less sets no limit"`
	ConnMaxLifetime time.Duration `name:"connMaxLifetime" help:"age at which a connection is closed; 0 is none"`
	ConnMaxIdleTime time.Duration `name:"connMaxIdleTime" help:"time after which an unused connection is closed; 0 is none"`

	mysqlclient.TLS
}

// Check refuses what the server could not be called with. It implements [components.Checker].
func (o *Options) Check() error {
	config, err := mysqlclient.Config("url", o.URL, o.TLS, connectTimeout, slog.New(slog.DiscardHandler))
	if err != nil {
		return err
	}
	if _, err := mysql.NewConnector(config); err != nil {
		return fmt.Errorf("metadata property \"url\": %w", err)
	}
	return nil
}

// Register adds the component type to r.
func Register(r *components.Registry) {
	bindings.Register(r, components.Info{
		Name: "mysql", Version: "v1", Status: components.Alpha,
		Description: "Runs SQL statements on a MySQL or MariaDB database.",
	}, func(ctx context.Context, inst components.Instance, options Options) (*Binding, error) {
		return Open(ctx, inst, options)
	})
}

var _ bindings.Output = (*Binding)(nil)

// Binding is a pool of connections to one database.
type Binding struct {
	db         *sql.DB
	server     string
	statements sqlbinding.Database
}

// Open connects to the server.
func Open(ctx context.Context, inst components.Instance, options Options) (*Binding, error) {
	if inst.Clock == nil {
		inst.Clock = clockwork.NewRealClock()
	}
	if inst.Log == nil {
		inst.Log = slog.New(slog.DiscardHandler)
	}
	config, err := mysqlclient.Config("url", options.URL, options.TLS, connectTimeout, inst.Log)
	if err != nil {
		return nil, err
	}
	connector, err := mysql.NewConnector(config)
	if err != nil {
		return nil, fmt.Errorf("metadata property \"url\": %w", err)
	}
	b := &Binding{db: sql.OpenDB(connector), server: fmt.Sprintf("MySQL server %s, database %q", config.Addr, config.DBName)}
	b.statements = sqlbinding.Database{Parameter: parameter, Exec: b.exec, Query: b.query, Close: b.Close, Clock: inst.Clock}
	if options.MaxIdleConns != nil {
		b.db.SetMaxIdleConns(*options.MaxIdleConns)
	}
	b.db.SetMaxOpenConns(options.MaxOpenConns)
	b.db.SetConnMaxLifetime(options.ConnMaxLifetime)
	b.db.SetConnMaxIdleTime(options.ConnMaxIdleTime)
	ctx, cancel := context.WithTimeout(ctx, connectTimeout)
	defer cancel()
	if err := b.db.PingContext(ctx); err != nil {
		_ = b.db.Close()
		return nil, fmt.Errorf("%s: cannot connect: %w; check that the server runs and can be reached from here, and that user, password, host and database in the metadata property \"url\" are right", b.server, err)
	}
	return b, nil
}

// Close closes the connections; running statements fail.
func (b *Binding) Close() error { return b.db.Close() }

// Operations are exec, query and close.
func (b *Binding) Operations() []string { return sqlbinding.Operations() }

// Invoke is that of [sqlbinding.Database]. The rows of a query are a JSON array of objects.
func (b *Binding) Invoke(ctx context.Context, req bindings.Request) (*bindings.Response, error) {
	return b.statements.Invoke(ctx, req)
}

// bounded is ctx with a bound, its own or else statementTimeout.
func bounded(ctx context.Context) (context.Context, context.CancelFunc) {
	if _, has := ctx.Deadline(); has {
		return ctx, func() {}
	}
	return context.WithTimeout(ctx, statementTimeout)
}

// parameter is a decoded JSON value as the driver takes it. Whole numbers keep all their digits; arrays and objects are JSON texts.
func parameter(value any) (any, error) {
	switch v := value.(type) {
	case json.Number:
		if n, err := v.Int64(); err == nil {
			return n, nil
		}
		if u, err := strconv.ParseUint(v.String(), 10, 64); err == nil {
			return u, nil
		}
		f, err := v.Float64()
		if err != nil {
			return nil, sqlbinding.OutOfRange(v)
		}
		return f, nil
	case map[string]any, []any:
		nested, err := json.Marshal(v)
		if err != nil {
			return nil, err
		}
		return string(nested), nil
	}
	return value, nil
}

// exec runs a statement that returns no rows.
func (b *Binding) exec(ctx context.Context, statement string, params []any) (affected int64, err error) {
	ctx, cancel := bounded(ctx)
	defer cancel()
	result, err := b.db.ExecContext(ctx, statement, params...)
	if err == nil {
		affected, err = result.RowsAffected()
	}
	if err != nil {
		return 0, b.explain(err)
	}
	return affected, nil
}

// query runs a statement that returns rows.
func (b *Binding) query(ctx context.Context, statement string, params []any) ([]byte, error) {
	ctx, cancel := bounded(ctx)
	defer cancel()
	rows, err := b.rows(ctx, statement, params)
	if err != nil {
		return nil, b.explain(err)
	}
	return rows, nil
}

// rows are those of a query as JSON. Their columns keep the order that the statement gives them.
func (b *Binding) rows(ctx context.Context, statement string, params []any) ([]byte, error) {
	rows, err := b.db.QueryContext(ctx, statement, params...)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	columns, err := rows.ColumnTypes()
	if err != nil {
		return nil, err
	}
	names := make([][]byte, len(columns))
	values, places := make([]any, len(columns)), make([]any, len(columns))
	for i, c := range columns {
		places[i] = &values[i]
		if names[i], err = json.Marshal(c.Name()); err != nil {
			return nil, err
		}
	}
	var out bytes.Buffer
	out.WriteByte('[')
	for n := 0; rows.Next(); n++ {
		if err := rows.Scan(places...); err != nil {
			return nil, err
		}
		if n > 0 {
			out.WriteByte(',')
		}
		out.WriteByte('{')
		for i, c := range columns {
			if i > 0 {
				out.WriteByte(',')
			}
			out.Write(names[i])
			out.WriteByte(':')
			value, err := json.Marshal(jsonable(c.DatabaseTypeName(), values[i]))
			if err != nil {
				return nil, fmt.Errorf("row %d, column %q: %w", n+1, c.Name(), err)
			}
			out.Write(value)
		}
		out.WriteByte('}')
		if err := bindings.CheckResult(out.Len()); err != nil {
			return nil, err
		}
	}
	if err := rows.Err(); err != nil {
		return nil, err
	}
	out.WriteByte(']')
	return out.Bytes(), nil
}

// jsonable is a column's value as it stands in the JSON of a response: numbers, texts and times as they are, decimals as
// texts with all their digits, and the bytes of binary columns in base64.
func jsonable(columnType string, value any) any {
	b, ok := value.([]byte)
	if !ok {
		return value
	}
	switch strings.TrimPrefix(columnType, "UNSIGNED ") {
	case "BINARY", "VARBINARY", "TINYBLOB", "BLOB", "MEDIUMBLOB", "LONGBLOB", "BIT", "GEOMETRY", "VECTOR":
		return b
	case "TINYINT", "SMALLINT", "MEDIUMINT", "INT", "BIGINT", "YEAR", "FLOAT", "DOUBLE":
		if json.Valid(b) { // without the leading zeros of ZEROFILL
			return json.RawMessage(b)
		}
	}
	return string(b)
}

// explain adds the server's name and, where there is one, a remedy.
func (b *Binding) explain(err error) error {
	var server *mysql.MySQLError
	switch {
	case errors.As(err, &server):
		return err // of the statement
	case strings.Contains(err.Error(), "database is closed"):
		return errors.New("the MySQL binding is closed: the operation close was invoked, or the sidecar is shutting down; restart the sidecar to use it again")
	}
	return fmt.Errorf("%s: %w", b.server, err)
}
