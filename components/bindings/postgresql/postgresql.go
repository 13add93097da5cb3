// Package postgresql is the output binding that runs SQL statements on a PostgreSQL database (Dapr API, bindings.postgresql).
package postgresql

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/jonboulle/clockwork"
	"outrigger.dev/components"
	"outrigger.dev/components/bindings"
	"outrigger.dev/components/bindings/sqlbinding"
	"outrigger.dev/components/postgresclient"
)

// Options are the metadata properties of the component.
type Options struct {
	postgresclient.Options
}

// Register adds the component type to r.
func Register(r *components.Registry) {
	bindings.Register(r, components.Info{
		Name: "postgresql", Aliases: []string{"postgres"}, Version: "v1", Status: components.Stable,
		Description: "Runs SQL statements on a PostgreSQL database.",
	}, func(ctx context.Context, inst components.Instance, options Options) (*Binding, error) {
		return Open(ctx, inst, options)
	})
}

var _ bindings.Output = (*Binding)(nil)

// Binding is a pool of connections to one database.
type Binding struct {
	options    Options
	pool       *pgxpool.Pool
	server     string
	statements sqlbinding.Database
	close      func()
}

// Open connects to the server.
func Open(ctx context.Context, inst components.Instance, options Options) (*Binding, error) {
	if err := options.Complete(); err != nil {
		return nil, err
	}
	config, err := options.PoolConfig(ctx, true)
	if err != nil {
		return nil, err
	}
	if inst.Clock == nil {
		inst.Clock = clockwork.NewRealClock()
	}
	// The pool's context is not the caller's, which may end when the binding is open.
	pool, err := pgxpool.NewWithConfig(context.WithoutCancel(ctx), config)
	if err != nil {
		return nil, err
	}
	cc := config.ConnConfig
	b := &Binding{options: options, pool: pool, close: sync.OnceFunc(pool.Close)}
	b.server = fmt.Sprintf("PostgreSQL server %s:%d, database %q", cc.Host, cc.Port, cc.Database)
	b.statements = sqlbinding.Database{Parameter: parameter, Exec: b.exec, Query: b.query, Close: b.Close, Clock: inst.Clock}
	ctx, cancel := context.WithTimeout(ctx, options.Timeout)
	defer cancel()
	if err := pool.Ping(ctx); err != nil {
		b.close()
		return nil, fmt.Errorf("%s: cannot connect: %w; check that the server runs and can be reached from here, and that host, user, password and database are right", b.server, err)
	}
	return b, nil
}

// Close waits for running statements and closes the connections.
func (b *Binding) Close() error {
	b.close()
	return nil
}

// Operations are exec, query and close.
func (b *Binding) Operations() []string { return sqlbinding.Operations() }

// Invoke is that of [sqlbinding.Database]. The rows of a query are a JSON array of arrays.
func (b *Binding) Invoke(ctx context.Context, req bindings.Request) (*bindings.Response, error) {
	return b.statements.Invoke(ctx, req)
}

// parameter is a decoded JSON value as the driver takes it. Whole numbers keep all their digits.
func parameter(value any) (_ any, err error) {
	switch v := value.(type) {
	case json.Number:
		if n, err := v.Int64(); err == nil {
			return n, nil
		}
		f, err := v.Float64()
		if err != nil {
			return nil, sqlbinding.OutOfRange(v)
		}
		return f, nil
	case []any:
		for i := range v {
			if v[i], err = parameter(v[i]); err != nil {
				return nil, err
			}
		}
	case map[string]any:
		for k := range v {
			if v[k], err = parameter(v[k]); err != nil {
				return nil, err
			}
		}
	}
	return value, nil
}

// exec runs a statement that returns no rows.
func (b *Binding) exec(ctx context.Context, statement string, params []any) (affected int64, err error) {
	ctx, cancel := context.WithTimeout(ctx, b.options.Timeout)
	defer cancel()
	tag, err := b.pool.Exec(ctx, statement, params...)
	if err != nil {
		return 0, b.explain(err)
	}
	return tag.RowsAffected(), nil
}

// query runs a statement that returns rows.
func (b *Binding) query(ctx context.Context, statement string, params []any) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, b.options.Timeout)
	defer cancel()
	rows, err := b.rows(ctx, statement, params)
	if err != nil {
		return nil, b.explain(err)
	}
	return rows, nil
}

// rows are those of a query as JSON.
func (b *Binding) rows(ctx context.Context, statement string, params []any) ([]byte, error) {
	rows, err := b.pool.Query(ctx, statement, params...)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	types := rows.Conn().TypeMap()
	var out bytes.Buffer
	out.WriteByte('[')
	for n := 0; rows.Next(); n++ {
		values, err := rows.Values()
		if err != nil {
			return nil, err
		}
		for i, field := range rows.FieldDescriptions() {
			values[i] = jsonable(types, field.DataTypeOID, values[i])
		}
		row, err := json.Marshal(values)
		if err != nil {
			return nil, fmt.Errorf("row %d has a value that JSON cannot hold: %w; convert it in the query, for example with ::text", n+1, err)
		}
		if n > 0 {
			out.WriteByte(',')
		}
		out.Write(row)
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

// explain adds the server's name and, where there is one, a remedy.
func (b *Binding) explain(err error) error {
	var server *pgconn.PgError
	switch {
	case errors.Is(err, pgx.ErrNoRows), errors.As(err, &server):
		return err // of the statement
	case strings.Contains(err.Error(), "closed pool"):
		return errors.New("the PostgreSQL binding is closed: the operation close was invoked, or the sidecar is shutting down; restart the sidecar to use it again")
	case errors.Is(err, context.DeadlineExceeded):
		return fmt.Errorf("%s: the statement took too long: %w; the metadata property \"timeout\" is %s", b.server, err, b.options.Timeout)
	}
	return fmt.Errorf("%s: %w", b.server, err)
}
