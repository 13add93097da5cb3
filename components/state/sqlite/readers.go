package sqlite

import (
	"context"
	"database/sql/driver"
	"errors"
	"runtime"
)

// readers is a small pool of connections that read. They are opened when first needed; with a write-ahead log they neither
// wait for the writer nor make it wait.
type readers struct {
	store *Store
	idle  chan *conn
	// room has a token for every connection that may still be opened.
	room chan struct{}
}

func newReaders(s *Store, n int) *readers {
	r := &readers{store: s, idle: make(chan *conn, n), room: make(chan struct{}, n)}
	for range n {
		r.room <- struct{}{}
	}
	return r
}

// readerCount is how many connections are worth their memory: reading is work for the processor only.
func readerCount() int { return min(max(runtime.GOMAXPROCS(0), 2), 8) }

// take returns a connection for the caller alone, to be given back with put.
func (r *readers) take(ctx context.Context) (*conn, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	select {
	case c := <-r.idle:
		return c, nil
	default:
	}
	select {
	case c := <-r.idle:
		return c, nil
	case <-r.room:
		c, err := open(r.store.location.reader)
		if err != nil {
			r.room <- struct{}{}
			return nil, r.store.explain(err)
		}
		return c, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// put gives a connection back. After an error other than the context's it is replaced, for who knows what it still holds.
func (r *readers) put(c *conn, err error) {
	if err == nil || r.store.location.memory {
		r.idle <- c
		return
	}
	_ = c.close()
	r.room <- struct{}{}
}

// query runs a query on one of the connections.
func (r *readers) query(ctx context.Context, text string, args []driver.NamedValue, row func(columns []driver.Value) error) error {
	c, err := r.take(ctx)
	if err != nil {
		return err
	}
	err = c.query(ctx, text, args, row)
	r.put(c, err)
	return err
}

// close closes the connections, all of which must have been put back.
func (r *readers) close() error {
	var errs []error
	for {
		select {
		case c := <-r.idle:
			errs = append(errs, c.close())
		default:
			return errors.Join(errs...)
		}
	}
}
