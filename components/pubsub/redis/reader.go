package redis

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/redis/rueidis"
)

// errStopped is what a reader returns after it was stopped.
var errStopped = errors.New("stopped")

// reader waits for new messages of a subscription, on a connection of its own. It is not cancelled as other commands are: the
// server would take the messages of a reply that nobody reads for delivered. Instead it asks the server to end the wait.
type reader struct {
	s       *subscription
	command rueidis.Completed
	// limit is how long a wait may last before the server counts as gone without a word.
	limit time.Duration
	watch *time.Timer

	mu   sync.Mutex
	conn rueidis.DedicatedClient
	// id is the server's for the connection, 0 when it does not tell.
	id int64
	// waiting says that the command is on its way.
	waiting, stopped bool
	// over is closed when nothing will be read any more.
	over chan struct{}
}

func newReader(s *subscription) *reader {
	b := s.broker
	r := &reader{
		s: s,
		command: b.client.B().Xreadgroup().Group(s.group, s.group).Count(int64(b.options.QueueDepth)).Block(b.block.Milliseconds()).
			Streams().Key(s.topic).Id(">").Build().Pin(),
		limit: b.block + 5*time.Second,
		over:  make(chan struct{}),
	}
	return r
}

// connect takes a connection from the pool and asks for its id.
func (r *reader) connect() error {
	client := r.s.broker.client
	conn, _ := client.Dedicate()
	ctx, cancel := context.WithTimeout(r.s.reading, r.limit)
	defer cancel()
	id, err := conn.Do(ctx, client.B().ClientId().Build().SetSlot(r.s.topic)).AsInt64()
	if _, answered := rueidis.IsRedisErr(err); err != nil && !answered {
		conn.Close()
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.conn, r.id = conn, id
	return nil
}

// fetch waits for messages and returns those that are not in hand already. None is no error.
func (r *reader) fetch() ([]*delivery, error) {
	if r.conn == nil {
		if err := r.connect(); err != nil {
			return nil, err
		}
	}
	r.mu.Lock()
	if r.stopped {
		r.mu.Unlock()
		return nil, errStopped
	}
	r.waiting = true
	r.mu.Unlock()
	if r.watch == nil {
		r.watch = time.AfterFunc(r.limit, r.cut)
	} else {
		r.watch.Reset(r.limit)
	}
	streams, err := r.conn.Do(context.Background(), r.command).AsXReadSlices()
	cut := !r.watch.Stop()
	found := r.take(streams)

	r.mu.Lock()
	defer r.mu.Unlock()
	r.waiting = false
	if r.stopped {
		close(r.over)
	}
	switch _, answered := rueidis.IsRedisErr(err); {
	case err == nil || rueidis.IsRedisNil(err):
		return found, nil
	case answered:
		if temporary(err) {
			r.disconnect() // another server may have taken over
		}
		return nil, err
	}
	r.disconnect()
	if cut {
		err = fmt.Errorf("no answer within %v", r.limit)
	}
	return nil, err
}

// take puts what was read in hand.
func (r *reader) take(streams map[string][]rueidis.XRangeSlice) (found []*delivery) {
	now := r.s.broker.clock.Now()
	for _, entries := range streams {
		found = make([]*delivery, 0, len(entries))
		for i := range entries {
			if d := r.s.delivery(&entries[i], now); r.s.flight.add(d) {
				found = append(found, d)
			}
		}
	}
	return found
}

// disconnect gives up the connection; r.mu is held.
func (r *reader) disconnect() {
	if r.conn != nil {
		r.conn.Close()
		r.conn, r.id = nil, 0
	}
}

// release is disconnect when the reader is no longer used.
func (r *reader) release() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.disconnect()
}

// cut ends a wait the hard way.
func (r *reader) cut() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.waiting {
		r.conn.Close()
	}
}

// unblockInterval is how often the server is asked to end the wait, for the first time may come before the command does.
const unblockInterval = 20 * time.Millisecond

// stop ends reading and returns when nothing more will be read. Within ctx it does so without losing sight of a message.
func (r *reader) stop(ctx context.Context) {
	r.mu.Lock()
	if !r.stopped {
		r.stopped = true
		if !r.waiting {
			close(r.over)
		}
	}
	id := r.id
	r.mu.Unlock()

	client := r.s.broker.client
	retry := time.NewTicker(unblockInterval)
	defer retry.Stop()
	for {
		select {
		case <-r.over:
			return
		default:
		}
		if id == 0 || client.Do(ctx, client.B().ClientUnblock().ClientId(id).Build().SetSlot(r.s.topic)).Error() != nil {
			r.cut()
			<-r.over
			return
		}
		select {
		case <-r.over:
			return
		case <-retry.C:
		}
	}
}
