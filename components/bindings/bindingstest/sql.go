package bindingstest

import (
	"strings"
	"testing"
	"time"

	"outrigger.dev/components/bindings"
)

// InvokeSQL asks a binding that runs SQL statements for an operation. The statement and its parameters, a JSON array, may be
// empty.
func InvokeSQL(b bindings.Output, operation, sql, params string) (*bindings.Response, error) {
	var metadata []string
	if sql != "" {
		metadata = append(metadata, "sql", sql)
	}
	if params != "" {
		metadata = append(metadata, "params", params)
	}
	return Invoke(b, operation, "", metadata...)
}

// MustInvokeSQL is [InvokeSQL] without an error.
func MustInvokeSQL(tb testing.TB, b bindings.Output, operation, sql, params string) *bindings.Response {
	tb.Helper()
	resp, err := InvokeSQL(b, operation, sql, params)
	if err != nil {
		tb.Fatalf("%s: %v", sql, err)
	}
	return resp
}

// TakeTiming takes the entries of [bindings.Timing] besides the operation out of a response's metadata, and checks them.
func TakeTiming(tb testing.TB, metadata map[string]string) {
	tb.Helper()
	start, err1 := time.Parse(time.RFC3339Nano, metadata["start-time"])
	end, err2 := time.Parse(time.RFC3339Nano, metadata["end-time"])
	took, err3 := time.ParseDuration(metadata["duration"])
	if err1 != nil || err2 != nil || err3 != nil || end.Before(start) || took <= 0 {
		tb.Errorf("times %v", metadata)
	}
	delete(metadata, "start-time")
	delete(metadata, "end-time")
	delete(metadata, "duration")
}

// SQLError is a statement that fails with an error that has a text.
type SQLError struct{ Operation, SQL, Params, Want string }

// CheckSQLErrors runs statements that fail, then closes the binding with its operation close, after which all statements do.
func CheckSQLErrors(t *testing.T, b bindings.Output, failing []SQLError) {
	t.Helper()
	for _, f := range append(failing,
		SQLError{"create", "SELECT 1", "", `operation "create"`},
		SQLError{"exec", "", "", `required metadata "sql" is not set`},
		SQLError{"query", "", "", `required metadata "sql" is not set`},
		SQLError{"exec", "SELECT 1", `{"a":1}`, `"params"`},
		SQLError{"exec", "SELECT 1", `[1] [2]`, "something behind it"},
		SQLError{"exec", "SELECT 1", `[1e999]`, "out of range"},
	) {
		resp, err := InvokeSQL(b, f.Operation, f.SQL, f.Params)
		if err == nil || !strings.Contains(err.Error(), f.Want) {
			t.Errorf("%s %s %s: %+v, %v; want an error with %q", f.Operation, f.SQL, f.Params, resp, err, f.Want)
		}
	}
	if resp, err := InvokeSQL(b, "close", "", ""); err != nil || resp != nil {
		t.Errorf("close: %+v, %v", resp, err)
	}
	if _, err := InvokeSQL(b, "query", "SELECT 1", ""); err == nil || !strings.Contains(err.Error(), "closed") {
		t.Errorf("after close: %v", err)
	}
	if err := b.Close(); err != nil {
		t.Error(err)
	}
}
