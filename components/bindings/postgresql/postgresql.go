// Package postgresql is the output binding that runs SQL statements on a PostgreSQL database (Dapr API, bindings.postgresql).
package postgresql

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"sync"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/jonboulle/clockwork"
	"outrigger.dev/components"
	"outrigger.dev/components/bindings"
	"outrigger.dev/components/postgresclient"
)

// The operations.
const (
	execOperation  = "exec"
	queryOperation = "query"
	closeOperation = "close"
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
	}, func(ctx context.Context, inst components.Instance, options Options) (bindings.Binding, error) {
		return Open(ctx, inst, options)
	})
}

var _ bindings.Output = (*Binding)(nil)

// Binding is a pool of connections to one database.
type Binding struct {
	options Options
	pool    *pgxpool.Pool
	server  string
	clock   clockwork.Clock
	close   func()
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
	b := &Binding{options: options, pool: pool, clock: inst.Clock, close: sync.OnceFunc(pool.Close)}
	b.server = fmt.Sprintf("PostgreSQL server %s:%d, database %q", cc.Host, cc.Port, cc.Database)
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
func (b *Binding) Operations() []string {
	return []string{execOperation, queryOperation, closeOperation}
}

// Invoke runs the statement of metadata "sql" with the parameters of metadata "params", a JSON array. exec tells
// "rows-affected" in the response's metadata; query returns the rows as a JSON array of arrays. The operation close closes
// the binding for good.
func (b *Binding) Invoke(ctx context.Context, req bindings.Request) (*bindings.Response, error) {
	switch req.Operation {
	case closeOperation:
		return nil, b.Close()
	case execOperation, queryOperation:
	default:
		return nil, fmt.Errorf("operation %q is not one of exec, query and close", req.Operation)
	}
	statement := req.Metadata["sql"]
	if statement == "" {
		return nil, &bindings.ParameterError{Name: "sql", Remedy: "give the statement to run"}
	}
	params, err := parseParams(req.Metadata["params"])
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, b.options.Timeout)
	defer cancel()
	start := b.clock.Now()
	resp := &bindings.Response{}
	affected := int64(-1)
	if req.Operation == queryOperation {
		resp.Data, err = b.query(ctx, statement, params)
	} else {
		var tag pgconn.CommandTag
		tag, err = b.pool.Exec(ctx, statement, params...)
		affected = tag.RowsAffected()
	}
	if err != nil {
		return nil, b.explain(err)
	}
	resp.Metadata = bindings.Timing(req.Operation, start, b.clock.Now())
	resp.Metadata["sql"] = statement
	if affected >= 0 {
		resp.Metadata["rows-affected"] = strconv.FormatInt(affected, 10)
	}
	return resp, nil
}

// parseParams reads the parameters of a statement. Whole numbers keep all their digits.
func parseParams(text string) ([]any, error) {
	if strings.TrimSpace(text) == "" {
		return nil, nil
	}
	bad := func(why string) ([]any, error) {
		return nil, &bindings.ParameterError{Name: "params", Value: text, Remedy: "give a JSON array such as [1, \"two\", null]: " + why}
	}
	d := json.NewDecoder(strings.NewReader(text))
	d.UseNumber()
	var params []any
	err := d.Decode(&params)
	if err != nil {
		return bad(err.Error())
	}
	if _, err := d.Token(); err != io.EOF {
		return bad("there is something behind it")
	}
	for i := range params {
		if params[i], err = parameter(params[i]); err != nil {
			return bad(err.Error())
		}
	}
	return params, nil
}

// parameter is a decoded JSON value as the driver takes it.
func parameter(value any) (_ any, err error) {
	switch v := value.(type) {
	case json.Number:
		if n, err := v.Int64(); err == nil {
			return n, nil
		}
		f, err := v.Float64()
		if err != nil {
			return nil, fmt.Errorf("the number %s is out of range; give it as a text", v)
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

// query returns the rows as JSON.
func (b *Binding) query(ctx context.Context, statement string, params []any) ([]byte, error) {
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
