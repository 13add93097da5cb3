// Package sqlbinding is what the output bindings that run SQL statements on a database share: their operations, how a request
// names a statement with its parameters, and what a response says of it (Dapr API, bindings: mysql, postgresql).
package sqlbinding

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"strconv"
	"strings"

	"github.com/jonboulle/clockwork"
	"outrigger.dev/components/bindings"
)

// The operations.
const (
	execOperation  = "exec"
	queryOperation = "query"
	closeOperation = "close"
)

// Operations are exec, query and close.
func Operations() []string {
	return []string{execOperation, queryOperation, closeOperation}
}

// Database is where statements run. Its errors are those of the response.
type Database struct {
	// Parameter makes of a decoded JSON value, whose numbers are [json.Number], what the driver takes. Its error ends the message
	// about the request's "params".
	Parameter func(value any) (any, error)
	// Exec runs a statement and tells how many rows it affected.
	Exec func(ctx context.Context, statement string, params []any) (affected int64, err error)
	// Query runs a statement and returns its rows as JSON.
	Query func(ctx context.Context, statement string, params []any) ([]byte, error)
	// Close closes the binding for good.
	Close func() error
	// Clock times the statements.
	Clock clockwork.Clock
}

// Invoke carries out a request, as [bindings.Output] says: it runs the statement of metadata "sql" with the parameters of
// metadata "params", a JSON array. exec tells "rows-affected" in the response's metadata; query returns the rows. The operation
// close closes the binding.
func (d *Database) Invoke(ctx context.Context, req bindings.Request) (*bindings.Response, error) {
	switch req.Operation {
	case closeOperation:
		return nil, d.Close()
	case execOperation, queryOperation:
	default:
		return nil, fmt.Errorf("operation %q is not one of exec, query and close", req.Operation)
	}
	statement := req.Metadata["sql"]
	if statement == "" {
		return nil, &bindings.ParameterError{Name: "sql", Remedy: "give the statement to run"}
	}
	params, err := Params(req.Metadata["params"], d.Parameter)
	if err != nil {
		return nil, err
	}
	start := d.Clock.Now()
	var rows []byte
	var affected int64
	if req.Operation == queryOperation {
		rows, err = d.Query(ctx, statement, params)
	} else {
		affected, err = d.Exec(ctx, statement, params)
	}
	if err != nil {
		return nil, err
	}
	resp := &bindings.Response{Data: rows, Metadata: bindings.Timing(req.Operation, start, d.Clock.Now())}
	resp.Metadata["sql"] = statement
	if req.Operation == execOperation {
		resp.Metadata["rows-affected"] = strconv.FormatInt(affected, 10)
	}
	return resp, nil
}

// Params reads the parameters of a statement, a JSON array or nothing. parameter is as in [Database].
func Params(text string, parameter func(value any) (any, error)) ([]any, error) {
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

// OutOfRange is the error of a number that no parameter can have.
func OutOfRange(number json.Number) error {
	return fmt.Errorf("the number %s is out of range; give it as a text", number)
}
