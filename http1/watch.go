package http1

import (
	"context"
	"sync"
	"time"

	"outrigger.dev/telemetry/tracing"
)

// callContext is the context of one request. It costs nothing but its memory until somebody asks for its end: only then is
// the request's connection watched.
type callContext struct {
	context.Context // where values come from
	watcher         *watcher
	conn            *serverConn
	span            *tracing.Span // set before the context is handed on

	mu         sync.Mutex
	done       chan struct{}
	err        error
	funcs      []*endFunc
	watched    bool
	prev, next *callContext // neighbours in the watcher's list
}

type endFunc struct{ f func() }

func (c *callContext) Deadline() (time.Time, bool) { return time.Time{}, false }

// Value answers with the request's span to those who look for it.
func (c *callContext) Value(key any) any {
	if key == (tracing.Key{}) && c.span != nil {
		return c.span
	}
	return c.Context.Value(key)
}

func (c *callContext) Done() <-chan struct{} {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.done == nil {
		c.done = make(chan struct{})
		if c.err != nil {
			close(c.done)
		} else {
			c.startWatching()
		}
	}
	return c.done
}

func (c *callContext) Err() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.err
}

// AfterFunc calls f on a goroutine of its own when the context ends; package context uses it for derived contexts.
func (c *callContext) AfterFunc(f func()) func() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err != nil {
		go f()
		return func() bool { return false }
	}
	e := &endFunc{f}
	c.funcs = append(c.funcs, e)
	c.startWatching()
	return func() bool {
		c.mu.Lock()
		defer c.mu.Unlock()
		pending := e.f != nil
		e.f = nil
		return pending
	}
}

// startWatching is called with mu held.
func (c *callContext) startWatching() {
	if !c.watched && c.watcher != nil {
		c.watched = true
		c.watcher.add(c)
	}
}

// cancel ends the context; only the first call has an effect.
func (c *callContext) cancel(err error) {
	c.mu.Lock()
	if c.err != nil {
		c.mu.Unlock()
		return
	}
	c.err = err
	if c.done != nil {
		close(c.done)
	}
	for _, e := range c.funcs {
		if e.f != nil {
			go e.f()
			e.f = nil
		}
	}
	c.funcs = nil
	watched := c.watched
	c.mu.Unlock()
	if watched {
		c.watcher.remove(c)
	}
}

// watchInterval is how often the connections of running requests are looked at: a client that leaves is noticed within
// about that time, and short requests never are.
const watchInterval = 50 * time.Millisecond

// watcher looks at the connections of the requests whose end somebody waits for. One goroutine serves all requests of a
// server, and only while there are any.
type watcher struct {
	mu      sync.Mutex
	first   *callContext
	count   int
	running bool
	stopped bool
	wake    chan struct{}
	ended   sync.WaitGroup
}

func (w *watcher) add(c *callContext) {
	w.mu.Lock()
	defer w.mu.Unlock()
	c.next = w.first
	if w.first != nil {
		w.first.prev = c
	}
	w.first = c
	w.count++
	if w.running || w.stopped {
		return
	}
	w.running = true
	if w.wake == nil {
		w.wake = make(chan struct{})
	}
	w.ended.Go(w.run)
}

func (w *watcher) remove(c *callContext) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if c.prev != nil {
		c.prev.next = c.next
	} else if w.first == c {
		w.first = c.next
	} else {
		return
	}
	if c.next != nil {
		c.next.prev = c.prev
	}
	c.prev, c.next = nil, nil
	w.count--
}

// run ends after a second without requests to watch.
func (w *watcher) run() {
	tick := time.NewTicker(watchInterval)
	defer tick.Stop()
	seen := map[*callContext]struct{}{}
	for idle := 0; ; {
		select {
		case <-tick.C:
		case <-w.wake:
			return
		}
		w.mu.Lock()
		if w.count == 0 {
			clear(seen)
			if idle++; idle > int(time.Second/watchInterval) {
				w.running = false
				w.mu.Unlock()
				return
			}
			w.mu.Unlock()
			continue
		}
		idle = 0
		// Requests that were here at the last tick already have lasted.
		var lasting []*callContext
		now := make(map[*callContext]struct{}, w.count)
		for c := w.first; c != nil; c = c.next {
			if _, ok := seen[c]; ok {
				lasting = append(lasting, c)
			}
			now[c] = struct{}{}
		}
		seen = now
		w.mu.Unlock()
		for _, c := range lasting {
			if gone(c.conn.Conn) {
				c.cancel(context.Canceled)
			}
		}
	}
}

func (w *watcher) cancelAll() {
	w.mu.Lock()
	var all []*callContext
	for c := w.first; c != nil; c = c.next {
		all = append(all, c)
	}
	w.mu.Unlock()
	for _, c := range all {
		c.cancel(context.Canceled)
	}
}

// stop ends the watcher's goroutine and waits for it.
func (w *watcher) stop() {
	w.mu.Lock()
	if !w.stopped {
		w.stopped = true
		if w.wake != nil {
			close(w.wake)
		}
	}
	w.mu.Unlock()
	w.ended.Wait()
}
