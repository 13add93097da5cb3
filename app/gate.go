package app

import (
	"context"
	"sync"
)

// gate counts the calls of a channel: it bounds how many run at a time, and lets Close wait for them.
type gate struct {
	slots chan struct{} // nil means no bound

	mu     sync.Mutex
	open   int
	closed bool
	empty  chan struct{} // closed when the gate is closed and the last call has left
}

func newGate(limit int) *gate {
	g := &gate{empty: make(chan struct{})}
	if limit > 0 {
		g.slots = make(chan struct{}, limit)
	}
	return g
}

// enter waits for a slot, until ctx ends. Whoever has entered must leave.
func (g *gate) enter(ctx context.Context) error {
	g.mu.Lock()
	if g.closed {
		g.mu.Unlock()
		return ErrClosed
	}
	g.open++
	g.mu.Unlock()
	if g.slots == nil {
		return nil
	}
	select {
	case g.slots <- struct{}{}:
		return nil
	default:
	}
	select {
	case g.slots <- struct{}{}:
		return nil
	case <-ctx.Done():
		g.left()
		return ctx.Err()
	}
}

func (g *gate) leave() {
	if g.slots != nil {
		<-g.slots
	}
	g.left()
}

func (g *gate) left() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.open--
	if g.closed && g.open == 0 {
		close(g.empty)
	}
}

// close refuses new calls and waits for the others, until ctx ends.
func (g *gate) close(ctx context.Context) error {
	g.mu.Lock()
	if !g.closed {
		g.closed = true
		if g.open == 0 {
			close(g.empty)
		}
	}
	g.mu.Unlock()
	select {
	case <-g.empty:
		return nil
	default:
	}
	select {
	case <-g.empty:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
