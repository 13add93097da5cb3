package sqlite

import (
	"context"
	"database/sql/driver"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"outrigger.dev/components/state"
)

// maxGroup bounds how many writes share a commit, and so how long the first of them waits for the last.
const maxGroup = 256

// errClosed is the answer to writes that come while the store closes.
var errClosed = errors.New("the SQLite state store is closed")

// step is one statement of a write.
type step struct {
	text string
	args []driver.NamedValue
	// mustChange steps fail with an etag mismatch when they change no row.
	mustChange bool
}

// write is a list of steps that succeed or fail together.
type write struct {
	steps []step
	one   [1]step
	// done receives the outcome, once the steps are on disk.
	done chan error
	// timer bounds the wait for the write's turn.
	timer   *time.Timer
	claimed atomic.Bool
	changed int64
}

// writer owns the connection that writes. Writes that arrive while a commit waits for the disk share the next one: each is
// still committed before it is acknowledged, but the cost of a commit is divided among them.
type writer struct {
	store *Store
	queue chan *write
	pool  sync.Pool
	// closing is closed when no more writes are taken.
	closing chan struct{}
	stopped sync.WaitGroup
	conn    *conn
	group   []*write
	errs    []error
	// began counts the groups taken off the queue.
	began atomic.Int64
}

func newWriter(s *Store, c *conn) *writer {
	w := &writer{store: s, queue: make(chan *write, maxGroup), closing: make(chan struct{}), conn: c}
	w.pool.New = func() any {
		r := &write{done: make(chan error, 1), timer: time.NewTimer(time.Hour)}
		r.timer.Stop()
		return r
	}
	return w
}

// start begins to take writes off the queue.
func (w *writer) start() { w.stopped.Go(w.loop) }

// one prepares a write of one step, to be given to do.
func (w *writer) one(s step) *write {
	r := w.pool.Get().(*write)
	r.one[0] = s
	r.steps = r.one[:]
	return r
}

// many prepares a write of several steps, to be given to do.
func (w *writer) many(steps []step) *write {
	r := w.pool.Get().(*write)
	r.steps = steps
	return r
}

// do queues a write and waits for its outcome and the number of rows changed. A write whose context or the store's timeout
// ends before it was begun is not done; one that has begun is waited for, which the busy timeout bounds.
func (w *writer) do(ctx context.Context, r *write) (int64, error) {
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	r.claimed.Store(false)
	r.changed = 0
	r.timer.Reset(w.store.options.Timeout)
	select {
	case w.queue <- r:
	case <-ctx.Done():
		return 0, ctx.Err()
	case <-r.timer.C:
		return 0, w.tooLate()
	case <-w.closing:
		return 0, errClosed
	}
	var err error
	select {
	case err = <-r.done:
	case <-ctx.Done():
		if r.claimed.CompareAndSwap(false, true) {
			return 0, ctx.Err() // the loop will drop it, and may still look at it: it is not used again
		}
		err = <-r.done
	case <-r.timer.C:
		if r.claimed.CompareAndSwap(false, true) {
			return 0, w.tooLate()
		}
		err = <-r.done
	}
	changed := r.changed
	r.steps, r.one[0] = nil, step{}
	r.timer.Stop()
	w.pool.Put(r)
	return changed, err
}

func (w *writer) tooLate() error {
	return fmt.Errorf("the write did not get its turn within the timeout of %s: %w", w.store.options.Timeout, context.DeadlineExceeded)
}

func (w *writer) loop() {
	for {
		select {
		case r := <-w.queue:
			w.gather(r)
		case <-w.closing:
			return // only writes that their callers gave up can be left
		}
	}
}

// gather runs a write together with those that wait behind it.
func (w *writer) gather(first *write) {
	w.group = w.group[:0]
	for r := first; ; {
		if r.claimed.CompareAndSwap(false, true) {
			w.group = append(w.group, r)
		}
		if len(w.group) == maxGroup {
			break
		}
		select {
		case r = <-w.queue:
			continue
		default:
		}
		break
	}
	if len(w.group) == 0 {
		return
	}
	w.began.Add(1)
	w.errs = append(w.errs[:0], make([]error, len(w.group))...)
	if w.store.location.memory {
		// The context never ends, so the only connection is had.
		w.conn, _ = w.store.readers.take(context.Background())
		w.commit()
		w.store.readers.put(w.conn, nil)
	} else {
		w.commit()
	}
	for i, r := range w.group {
		r.done <- w.errs[i]
		w.group[i] = nil
	}
}

// commit runs the group as one transaction. Should that fail for another reason than an etag, each write is tried in a
// transaction of its own, so that one cannot spoil the others.
func (w *writer) commit() {
	if len(w.group) == 1 && len(w.group[0].steps) == 1 {
		w.errs[0] = w.single(w.group[0])
		return
	}
	err := w.transaction(w.group, w.errs)
	if err == nil {
		return
	}
	for i := range w.group {
		if len(w.group) == 1 || busy(err) {
			w.errs[i] = err // trying again would only multiply the wait
			continue
		}
		if err := w.transaction(w.group[i:i+1], w.errs[i:i+1]); err != nil {
			w.errs[i] = err
		}
	}
}

// single runs a lone statement, which is a transaction by itself.
func (w *writer) single(r *write) error {
	if err := w.ready(); err != nil {
		return err
	}
	ctx := context.Background()
	s := &r.steps[0]
	err := w.store.patiently(func() (err error) {
		r.changed, err = w.conn.exec(ctx, s.text, s.args)
		return err
	})
	switch {
	case err != nil:
		w.discard()
		return err
	case s.mustChange && r.changed == 0:
		return state.Mismatch(nil)
	}
	return nil
}

// transaction runs writes in a transaction and sets the error of those whose etags do not match. When it returns an error
// nothing was written.
func (w *writer) transaction(group []*write, errs []error) error {
	if err := w.ready(); err != nil {
		return err
	}
	ctx := context.Background()
	if err := w.store.begin(ctx, w.conn, w.store.location.begin); err != nil {
		return err
	}
	undo := func(err error) error {
		if _, rollbackErr := w.conn.exec(ctx, "ROLLBACK", nil); rollbackErr != nil {
			// SQLite rolls back by itself on some errors; whatever the reason, a new connection has no transaction.
			w.discard()
		}
		return err
	}
	good := 0
	for i, r := range group {
		err := w.run(ctx, r, len(group) > 1 && len(r.steps) > 1)
		errs[i] = err
		if err == nil {
			good++
		} else if _, mismatch := state.AsETagError(err); !mismatch {
			return undo(err)
		}
	}
	if good == 0 {
		return undo(nil)
	}
	if _, err := w.conn.exec(ctx, "COMMIT", nil); err != nil {
		return undo(fmt.Errorf("cannot commit: %w", err))
	}
	return nil
}

// run executes the steps of a write. With a savepoint its steps are undone when one of them fails on its etag.
func (w *writer) run(ctx context.Context, r *write, savepoint bool) error {
	if savepoint {
		if _, err := w.conn.exec(ctx, "SAVEPOINT write", nil); err != nil {
			return err
		}
	}
	var mismatch error
	r.changed = 0
	for i := range r.steps {
		s := &r.steps[i]
		changed, err := w.conn.exec(ctx, s.text, s.args)
		if err != nil {
			return err
		}
		r.changed += changed
		if s.mustChange && changed == 0 {
			mismatch = state.Mismatch(nil)
			break
		}
	}
	if savepoint {
		if mismatch != nil {
			if _, err := w.conn.exec(ctx, "ROLLBACK TO write", nil); err != nil {
				return err
			}
		}
		if _, err := w.conn.exec(ctx, "RELEASE write", nil); err != nil {
			return err
		}
	}
	return mismatch
}

// ready opens the connection if an error made the last one go.
func (w *writer) ready() (err error) {
	if w.conn == nil {
		if w.conn, err = w.store.openWriter(); err != nil {
			return w.store.explain(err)
		}
	}
	return nil
}

// discard drops the connection after an error, so that the next write opens another; but not that of a database in memory,
// which would be gone.
func (w *writer) discard() {
	if !w.store.location.memory {
		_ = w.conn.close()
		w.conn = nil
	}
}

// close ends the loop and the connection.
func (w *writer) close() error {
	close(w.closing)
	w.stopped.Wait()
	if w.conn == nil || w.store.location.memory {
		return nil
	}
	return w.conn.close()
}

// begin starts a transaction, waiting as long as the busy timeout for other connections and processes.
func (s *Store) begin(ctx context.Context, c *conn, text string) error {
	return s.patiently(func() error {
		_, err := c.exec(ctx, text, nil)
		return err
	})
}

// patiently calls f until it no longer finds the database locked, for as long as the busy timeout. SQLite itself would look
// only every 100 ms, at which a process that writes all the time is hardly ever seen between two transactions.
func (s *Store) patiently(f func() error) error {
	err := f()
	if err == nil || !busy(err) {
		return err
	}
	for deadline := time.Now().Add(s.options.BusyTimeout); busy(err) && time.Now().Before(deadline); {
		time.Sleep(200*time.Microsecond + rand.N(time.Millisecond))
		err = f()
	}
	if busy(err) {
		return fmt.Errorf("%w: another process or connection held the database for longer than the busyTimeout of %s", err, s.options.BusyTimeout)
	}
	return err
}
