package engine

import (
	"context"
	"sync"
	"time"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
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
	flushTimeout      = 20 * time.Second
)

// batcher puts items that come while others are flushed into batches. An item that finds a free flusher does not wait.
// Flushers exist only while there is something to do.
type batcher[T interface{ batchKey() (string, int) }] struct {
	most  int // flushers
	size  int // items in a batch
	flush func(ctx context.Context, items []T)

	mu      sync.Mutex
	queue   []T
	active  int
	running sync.WaitGroup
}

func newBatcher[T interface{ batchKey() (string, int) }](most, size int, flush func(context.Context, []T)) *batcher[T] {
	return &batcher[T]{most: most, size: max(1, size), flush: flush}
}

// add never blocks.
func (b *batcher[T]) add(items ...T) {
	if len(items) == 0 {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.queue = append(b.queue, items...)
	for b.active < b.most && b.active*b.size < len(b.queue) {
		b.active++
		b.running.Go(b.work)
	}
}

// wait waits for the flushers. Nothing may be added at the same time.
func (b *batcher[T]) wait() { b.running.Wait() }

func (b *batcher[T]) work() {
	for {
		batch := b.next()
		if batch == nil {
			return
		}
		ctx, cancel := context.WithTimeout(context.Background(), flushTimeout)
		b.flush(ctx, batch)
		cancel()
	}
}

// next takes a batch from the queue: items with different keys, not too many, not too large together.
func (b *batcher[T]) next() []T {
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.queue) == 0 {
		b.active--
		b.queue = nil
		return nil
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
	return batch
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
		w.done(err == nil && resp.Succeeded, err)
		return
	}
	ops := make([]clientv3.Op, len(batch))
	for i, w := range batch {
		ops[i] = clientv3.OpTxn(w.only, w.then, nil)
	}
	resp, err := txn.Then(ops...).Commit()
	for i, w := range batch {
		if err != nil {
			w.done(false, err)
			continue
		}
		inner, ok := resp.Responses[i].Response.(*etcdserverpb.ResponseOp_ResponseTxn)
		w.done(ok && inner.ResponseTxn.Succeeded, nil)
	}
}
