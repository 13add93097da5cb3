package sqlbinding

import (
	"context"
	"encoding/json"
	"errors"
	"maps"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jonboulle/clockwork"
	"outrigger.dev/components/bindings"
)

// number makes a float of a number, so that a test sees that it was asked; 0 it does not take.
func number(value any) (any, error) {
	n, ok := value.(json.Number)
	if !ok {
		return value, nil
	}
	f, err := n.Float64()
	if err != nil || f == 0 {
		return nil, OutOfRange(n)
	}
	return f, nil
}

func TestInvoke(t *testing.T) {
	clock := clockwork.NewFakeClockAt(time.Date(2026, 1, 2, 3, 4, 5, 6, time.UTC))
	var ran []any
	closed := 0
	broken := errors.New("broken")
	note := func(ctx context.Context, statement string, params []any) error {
		clock.Advance(2 * time.Millisecond)
		ran = append(append(ran, statement), params...)
		if statement == "bad" {
			return broken
		}
		return ctx.Err()
	}
	d := &Database{
		Parameter: number,
		Exec: func(ctx context.Context, statement string, params []any) (int64, error) {
			return int64(len(params)), note(ctx, statement, params)
		},
		Query: func(ctx context.Context, statement string, params []any) ([]byte, error) {
			return []byte("[rows]"), note(ctx, statement, params)
		},
		Close: func() error { closed++; return broken },
		Clock: clock,
	}
	for _, tc := range []struct {
		operation, sql, params string
		data                   string
		affected               string
		ran                    []any
	}{
		{"exec", "S", "", "", "0", []any{"S"}},
		{"exec", "S", ` [1, "a", null] `, "", "3", []any{"S", 1.0, "a", nil}},
		{"query", "Q", `[true]`, "[rows]", "", []any{"Q", true}},
	} {
		ran = nil
		start := clock.Now().Format(time.RFC3339Nano)
		resp, err := d.Invoke(context.Background(), bindings.Request{Operation: tc.operation, Metadata: map[string]string{"sql": tc.sql, "params": tc.params}})
		if err != nil {
			t.Errorf("%s: %v", tc.sql, err)
			continue
		}
		want := map[string]string{"operation": tc.operation, "sql": tc.sql, "start-time": start, "end-time": clock.Now().Format(time.RFC3339Nano), "duration": "2ms"}
		if tc.affected != "" {
			want["rows-affected"] = tc.affected
		}
		if !maps.Equal(resp.Metadata, want) || string(resp.Data) != tc.data || (resp.Data == nil) != (tc.data == "") {
			t.Errorf("%s: data %q, metadata %v; want %q and %v", tc.sql, resp.Data, resp.Metadata, tc.data, want)
		}
		if !reflect.DeepEqual(ran, tc.ran) {
			t.Errorf("ran %v, want %v", ran, tc.ran)
		}
	}
	ran = nil
	for _, tc := range []struct{ operation, sql, params, want string }{
		{"get", "S", "", `operation "get" is not one of exec, query and close`},
		{"exec", "", "", `required metadata "sql" is not set in the request`},
		{"query", "Q", "{}", `metadata "params" of the request is "{}"`},
	} {
		resp, err := d.Invoke(context.Background(), bindings.Request{Operation: tc.operation, Metadata: map[string]string{"sql": tc.sql, "params": tc.params}})
		if resp != nil || err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s %q %q: %v, %v; want an error with %s", tc.operation, tc.sql, tc.params, resp, err, tc.want)
		}
	}
	if len(ran) > 0 {
		t.Errorf("requests that are wrong ran %v", ran)
	}
	ended, cancel := context.WithCancel(context.Background())
	cancel()
	for _, operation := range []string{"exec", "query"} {
		if resp, err := d.Invoke(context.Background(), bindings.Request{Operation: operation, Metadata: map[string]string{"sql": "bad"}}); resp != nil || !errors.Is(err, broken) {
			t.Errorf("%s that fails: %v, %v", operation, resp, err)
		}
		if resp, err := d.Invoke(ended, bindings.Request{Operation: operation, Metadata: map[string]string{"sql": "S"}}); resp != nil || !errors.Is(err, context.Canceled) {
			t.Errorf("%s with an ended context: %v, %v", operation, resp, err)
		}
	}
	if closed != 0 {
		t.Error("closed without being asked")
	}
	if resp, err := d.Invoke(context.Background(), bindings.Request{Operation: "close"}); resp != nil || !errors.Is(err, broken) || closed != 1 {
		t.Errorf("close: %v, %v, %d times", resp, err, closed)
	}
	if want := []string{"exec", "query", "close"}; !slices.Equal(Operations(), want) {
		t.Errorf("operations %q, want %q", Operations(), want)
	}
}

func TestParams(t *testing.T) {
	for text, want := range map[string][]any{
		"":                       nil,
		" \n":                    nil,
		"null":                   nil,
		"[]":                     {},
		` [1.5, "1", [2], null]`: {1.5, "1", []any{json.Number("2")}, nil},
	} {
		got, err := Params(text, number)
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%q: %#v, %v; want %#v", text, got, err, want)
		}
	}
	for text, want := range map[string]string{
		"{}":      "cannot unmarshal",
		"[1":      "unexpected EOF",
		"[] []":   "there is something behind it",
		"[1] x":   "there is something behind it",
		"[1, 0]":  "the number 0 is out of range; give it as a text",
		"[1e999]": "the number 1e999 is out of range; give it as a text",
	} {
		_, err := Params(text, number)
		var parameter *bindings.ParameterError
		if !errors.As(err, &parameter) || parameter.Name != "params" || parameter.Value != text || !strings.Contains(parameter.Remedy, `give a JSON array such as [1, "two", null]: `) || !strings.Contains(parameter.Remedy, want) {
			t.Errorf("%q: %v, want an error with %q", text, err, want)
		}
	}
}
