// Package table keeps the components of a building block by name. Looking one up takes no lock, and a component that is taken
// out is first let finish what it is doing.
package table

import (
	"context"
	"fmt"
	"maps"
	"sync"
	"sync/atomic"
)

// Table maps names to components. The zero value is empty and ready to use; all methods are safe for concurrent use.
type Table[T any] struct {
	writing sync.Mutex
	entries atomic.Pointer[map[string]*Entry[T]]
}

// removed is added to the number of users of an entry that was taken out; it is larger than any such number.
const removed = 1 << 40

// Entry is a component in use: whoever got it calls Release when done.
type Entry[T any] struct {
	Component T

	users atomic.Int64
	free  sync.Once
	idle  chan struct{}
}

// Release ends a use.
func (e *Entry[T]) Release() {
	if e.users.Add(-1) == removed {
		e.free.Do(func() { close(e.idle) })
	}
}

func (t *Table[T]) read() map[string]*Entry[T] {
	if m := t.entries.Load(); m != nil {
		return *m
	}
	return nil
}

// Empty reports whether there is no component at all.
func (t *Table[T]) Empty() bool { return len(t.read()) == 0 }

// Use finds a component and keeps it from being closed until its Release. It is nil when there is none of this name.
func (t *Table[T]) Use(name string) *Entry[T] {
	e := t.read()[name]
	if e == nil {
		return nil
	}
	if e.users.Add(1) >= removed {
		e.Release()
		return nil
	}
	return e
}

// Add puts a component in. It fails when the name is taken.
func (t *Table[T]) Add(name string, component T) error {
	t.writing.Lock()
	defer t.writing.Unlock()
	if _, taken := t.read()[name]; taken {
		return fmt.Errorf("a component named %q is already loaded; remove it first, or give this one another name", name)
	}
	changed := maps.Clone(t.read())
	if changed == nil {
		changed = map[string]*Entry[T]{}
	}
	changed[name] = &Entry[T]{Component: component, idle: make(chan struct{})}
	t.entries.Store(&changed)
	return nil
}

// Remove takes a component out, if it is there, and waits until its last user is done, so that it can be closed. It is out
// even when the context ends the wait.
func (t *Table[T]) Remove(ctx context.Context, name string) error {
	e := t.take(name)
	if e == nil {
		return nil
	}
	if e.users.Add(removed) == removed {
		return nil
	}
	select {
	case <-e.idle:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("component %q is still in use: %w", name, context.Cause(ctx))
	}
}

func (t *Table[T]) take(name string) *Entry[T] {
	t.writing.Lock()
	defer t.writing.Unlock()
	e := t.read()[name]
	if e == nil {
		return nil
	}
	changed := maps.Clone(t.read())
	delete(changed, name)
	t.entries.Store(&changed)
	return e
}
