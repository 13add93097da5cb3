package sidecar

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"testing"

	"outrigger.dev/blocks/secrets"
	"outrigger.dev/resource"
)

// vault is a secret store that notes its end.
type vault struct{ closed int }

func (v *vault) Get(context.Context, string, map[string]string) (map[string]string, error) {
	return map[string]string{"k": "v"}, nil
}

func (v *vault) BulkGet(context.Context, map[string]string) (map[string]map[string]string, error) {
	return nil, nil
}

func (v *vault) Close() error { v.closed++; return nil }

// A component that hot reload opens while the sidecar closes is closed too.
func TestComponentThatComesTooLate(t *testing.T) {
	block := secrets.New(secrets.Options{})
	l := &loader{secrets: block, log: slog.New(slog.NewTextHandler(io.Discard, nil))}
	c := &resource.Component{}
	c.Metadata.Name, c.Spec.Type, c.Spec.Version = "store", "secretstores.vault", "v1"
	early, late := &vault{}, &vault{}
	if err := l.add(t.Context(), 0, c, opened{instance: early}); err != nil || len(l.list()) != 1 {
		t.Fatalf("%v, %d components", err, len(l.list()))
	}
	if err := l.close(t.Context()); err != nil || early.closed != 1 {
		t.Fatalf("%v, closed %d times", err, early.closed)
	}
	if err := l.add(t.Context(), 0, c, opened{instance: late}); !errors.Is(err, errClosing) || late.closed != 1 || len(l.list()) != 0 {
		t.Errorf("%v, closed %d times, %d components", err, late.closed, len(l.list()))
	}
	if _, err := block.Get(t.Context(), "store", "k", nil); err == nil {
		t.Error("the store is still in service")
	}
}
