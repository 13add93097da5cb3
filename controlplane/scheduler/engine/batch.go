package engine

import (
	"context"
	"errors"
	"sync"
	"time"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// How writes and reads are put together. A batch is one transaction, which is one entry of etcd's log and one turn of its
// machinery whatever its size; an external etcd takes transactions of up to 128 operations unless told otherwise.
const (
	writersOfRequests = 4
	writersOfCounters = 4
	writesInBatch     = 64
	bytesInBatch      = 256 << 10
	readers           = 4
	readsInBatch      = 32
	// firstTimeout bounds a flush as long as none took that long, which etcd never needs unless its leader is gone. After one that did
	// the bound is doubled, up to flushTimeout: a little more than etcd itself gives a change. A slow disk is not taken for a dead one.
	firstTimeout = 3 * time.Second
	flushTimeout = 8 * time.Second
	// stuckAfter is how long a flush may take before others need not wait for it any more. Changes that were on their way to a
	// leader that died hang for seconds, while those made after the next election are quick.
	stuckAfter = 500 * time.Millisecond
	// mostStuck is how many flushers may be stuck and replaced. More would only burden an etcd that is in trouble.
	mostStuck = 16
)

// batcher puts items that come while others are flushed into batches. An item that finds no flusher at work does not wait.
// Flushers exist only while there is something to do.
type batcher[T interface{ batchKey() (string, int) }] struct {
	most  int // flushers that are not stuck
	size  int // items in a batch
	stuck time.Duration
	first time.Duration // bound of a flush, and the longest one
	last  time.Duration
	flush func(ctx context.Context, items []T)

	mu     sync.Mutex
	queue  []T
	bound  time.Duration // of the next flush
	active int           // flushers
	slow   int           // those of them that are stuck and replaced
	idle   *sync.Cond
}

func newBatcher[T interface{ batchKey() (string, int) }](most, size int, flush func(context.Context, []T)) *batcher[T] {
	b := &batcher[T]{most: most, size: max(1, size), stuck: stuckAfter, first: firstTimeout, last: flushTimeout, bound: firstTimeout, flush: flush}
	b.idle = sync.NewCond(&b.mu)
	return b
}

// add never blocks.
func (b *batcher[T]) add(items ...T) {
	if len(items) == 0 {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.queue = append(b.queue, items...)
	b.start()
}

// start starts as many flushers as the queue needs. The lock is held.
func (b *batcher[T]) start() {
	for n := b.active - b.slow; n < b.most && n*b.size < len(b.queue); n++ {
		b.active++
		go b.work()
	}
}

// wait waits until there is nothing to flush. Clients may still add something meanwhile.
func (b *batcher[T]) wait() {
	b.mu.Lock()
	defer b.mu.Unlock()
	for b.active > 0 {
		b.idle.Wait()
	}
}

func (b *batcher[T]) work() {
	for {
		batch, bound := b.next()
		if batch == nil {
			return
		}
		replaced, over := false, false
		timer := time.AfterFunc(b.stuck, func() {
			b.mu.Lock()
			defer b.mu.Unlock()
			if !over && b.slow < mostStuck {
				replaced = true
				b.slow++
				b.start()
			}
		})
		ctx, cancel := context.WithTimeout(context.Background(), bound)
		b.flush(ctx, batch)
		late := ctx.Err() != nil
		cancel()
		timer.Stop()
		b.mu.Lock()
		if over = true; replaced {
			b.slow--
		}
		if b.bound = b.first; late {
			b.bound = min(2*bound, b.last)
		}
		b.mu.Unlock()
	}
}

// next takes a batch from the queue: items with different keys, not too many, not too large together. It also says how long the
// flush may take.
func (b *batcher[T]) next() ([]T, time.Duration) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.queue) == 0 {
		b.queue = nil
	}
	// One that was stuck has a successor.
	if len(b.queue) == 0 || b.active-b.slow > b.most {
		if b.active--; b.active == 0 {
			b.idle.Broadcast()
		}
		return nil, 0
	}
	batch := make([]T, 0, min(b.size, len(b.queue)))
	keys := make(map[string]struct{}, cap(batch))
	bytes := 0
	for len(batch) < cap(batch) {
		key, size := b.queue[len(batch)].batchKey()
		if _, twice := keys[key]; twice || len(batch) > 0 && bytes+size > bytesInBatch {
			break
		}
		keys[key] = struct{}{}
		bytes += size
		batch = append(batch, b.queue[len(batch)])
	}
	clear(b.queue[:len(batch)])
	b.queue = b.queue[len(batch):]
	return batch, b.bound
}

// write is a change of one job, of its counter, or of both.
type write struct {
	name string
	size int // of what is written, in bytes
	only []clientv3.Cmp
	then []clientv3.Op
	// done gets whether the conditions held; or the error, after which the write may have happened or not.
	done func(held bool, err error)
}

func (w *write) batchKey() (string, int) { return w.name, w.size + len(w.name) }

// flush does the writes of a batch in one transaction of transactions, each with conditions of its own.
func (e *Engine) flush(ctx context.Context, batch []*write) {
	txn := e.client.Txn(ctx)
	if len(batch) == 1 {
		w := batch[0]
		resp, err := txn.If(w.only...).Then(w.then...).Commit()
		err = unanswered(err)
		w.done(err == nil && resp.Succeeded, err)
		return
	}
	ops := make([]clientv3.Op, len(batch))
	for i, w := range batch {
		ops[i] = clientv3.OpTxn(w.only, w.then, nil)
	}
	resp, err := txn.Then(ops...).Commit()
	err = unanswered(err)
	for i, w := range batch {
		if err != nil {
			w.done(false, err)
			continue
		}
		inner, ok := resp.Responses[i].Response.(*etcdserverpb.ResponseOp_ResponseTxn)
		w.done(ok && inner.ResponseTxn.Succeeded, nil)
	}
}

// unanswered is the error of a change that etcd has not answered in time, which is not that the caller's time was over.
func unanswered(err error) error {
	if errors.Is(err, context.DeadlineExceeded) {
		return rpctypes.ErrTimeout
	}
	return err
}
