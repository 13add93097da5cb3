package bindingstest

import (
	"context"
	"errors"
	"maps"
	"strings"
	"testing"
	"time"

	"outrigger.dev/components"
	"outrigger.dev/components/bindings"
)

// echo is a binding that answers with what it was asked.
type echo struct {
	ctx    context.Context // of opening
	closed int
	fails  error
}

type echoOptions struct {
	Fails bool `name:"fails"`
}

func (e *echo) Operations() []string { return []string{"echo", "nothing"} }

func (e *echo) Close() error {
	e.closed++
	return e.fails
}

func (e *echo) Invoke(ctx context.Context, req bindings.Request) (*bindings.Response, error) {
	if _, bounded := ctx.Deadline(); !bounded {
		return nil, errors.New("no bound")
	}
	switch req.Operation {
	case "echo":
		return &bindings.Response{Data: req.Data, Metadata: req.Metadata}, nil
	case "nothing":
		return nil, nil
	}
	return nil, errors.New("no such operation")
}

var echoes = Type[*echo]{
	Register: func(r *components.Registry) {
		bindings.Register(r, components.Info{Name: "echo", Version: "v1"}, func(ctx context.Context, inst components.Instance, o echoOptions) (bindings.Binding, error) {
			if o.Fails || inst.Name == "" {
				return nil, errors.New("does not open")
			}
			return &echo{ctx: ctx}, nil
		})
	},
	Name: "echo",
}

// record is a test that notes its errors and may be ended by the test it runs in.
type record struct {
	testing.TB
	cleanup []func()
	errors  int
}

func (r *record) Helper()               {}
func (r *record) Errorf(string, ...any) { r.errors++ }
func (r *record) Cleanup(f func())      { r.cleanup = append(r.cleanup, f) }
func (r *record) end() {
	for _, f := range r.cleanup {
		f()
	}
}

func TestOpen(t *testing.T) {
	if _, err := echoes.Open(t, map[string]string{"fails": "true"}); err == nil {
		t.Error("opened")
	}
	test := &record{TB: t}
	b, err := echoes.Open(test, nil)
	if err != nil || b.closed != 0 || b.ctx.Err() == nil {
		t.Fatalf("%+v, %v", b, err)
	}
	if test.end(); b.closed != 1 || test.errors != 0 {
		t.Errorf("closed %d times with the test, %d errors", b.closed, test.errors)
	}
	test = &record{TB: t}
	echoes.MustOpen(test, map[string]string{"unknown": "1"}).fails = errors.New("cannot close")
	if test.errors != 1 {
		t.Errorf("%d errors over an unknown property, want 1", test.errors)
	}
	if test.end(); test.errors != 2 {
		t.Error("a failing Close is not told")
	}
}

func TestInvoke(t *testing.T) {
	b := echoes.MustOpen(t, nil)
	for name, tc := range map[string]struct {
		invoke   func() (*bindings.Response, error)
		data     string
		metadata map[string]string
	}{
		"plain":        {func() (*bindings.Response, error) { return Invoke(b, "echo", "d") }, "d", map[string]string{}},
		"metadata":     {func() (*bindings.Response, error) { return Invoke(b, "echo", "", "a", "1", "b", "") }, "", map[string]string{"a": "1", "b": ""}},
		"SQL":          {func() (*bindings.Response, error) { return InvokeSQL(b, "echo", "S", "[]") }, "", map[string]string{"sql": "S", "params": "[]"}},
		"SQL of none":  {func() (*bindings.Response, error) { return InvokeSQL(b, "echo", "", "") }, "", map[string]string{}},
		"SQL it likes": {func() (*bindings.Response, error) { return MustInvokeSQL(t, b, "echo", "S", ""), nil }, "", map[string]string{"sql": "S"}},
	} {
		resp, err := tc.invoke()
		if err != nil || string(resp.Data) != tc.data || !maps.Equal(resp.Metadata, tc.metadata) || resp.Metadata == nil {
			t.Errorf("%s: %+v, %v", name, resp, err)
		}
	}
	if got, err := InvokeFile(b, "echo", "n", "d"); err != nil || got != "d" {
		t.Errorf("file: %q, %v", got, err)
	}
	if got, err := InvokeFile(b, "nothing", "n", "d"); err != nil || got != "" {
		t.Errorf("file without response: %q, %v", got, err)
	}
	if _, err := InvokeFile(b, "get", "n", "d"); err == nil || !strings.Contains(err.Error(), "no such") {
		t.Errorf("error %v", err)
	}
}

func TestTakeTiming(t *testing.T) {
	now := time.Now()
	good := bindings.Timing("exec", now, now.Add(time.Millisecond))
	TakeTiming(t, good)
	if !maps.Equal(good, map[string]string{"operation": "exec"}) {
		t.Errorf("left are %v", good)
	}
	for _, bad := range []map[string]string{{}, bindings.Timing("exec", now, now), bindings.Timing("exec", now, now.Add(-time.Second))} {
		test := &record{TB: t}
		if TakeTiming(test, bad); test.errors != 1 {
			t.Errorf("%v passed", bad)
		}
	}
}
