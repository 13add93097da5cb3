package kafkaclient

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jonboulle/clockwork"
	"github.com/twmb/franz-go/pkg/kgo"
)

// backlogBytes is how much of a partition may wait, besides the fetch that exceeds it.
const backlogBytes = 1 << 20

// worker hands the messages of one partition to its subscription, one after the other.
type worker struct {
	s  *session
	tp topicPartition

	ctx    context.Context // of handlers
	cancel context.CancelFunc
	halted chan struct{} // closed: begin nothing more
	once   sync.Once
	done   chan struct{}
	alien  atomic.Bool // the partition is another's: mark nothing

	mu     sync.Mutex
	queue  []*kgo.Record
	bytes  int
	paused bool
	wake   chan struct{}

	// of the worker's goroutine alone:
	sub      *Subscription // that handler is the context for
	handler  context.Context
	unlink   func() bool
	unhandle context.CancelFunc
}

func newWorker(s *session, tp topicPartition) *worker {
	w := &worker{s: s, tp: tp, halted: make(chan struct{}), done: make(chan struct{}), wake: make(chan struct{}, 1)}
	w.ctx, w.cancel = context.WithCancel(context.Background())
	go w.run() // session.end waits for it
	return w
}

func (w *worker) halt() { w.once.Do(func() { close(w.halted) }) }

func (w *worker) disown() { w.alien.Store(true) }

func (w *worker) stopping() bool {
	select {
	case <-w.halted:
		return true
	default:
		return false
	}
}

// over reports whether the worker has ended.
func (w *worker) over() bool {
	select {
	case <-w.done:
		return true
	default:
		return false
	}
}

// add queues records. A partition whose handler does not keep up is not fetched meanwhile.
func (w *worker) add(records []*kgo.Record) {
	w.mu.Lock()
	full := len(w.queue) >= max(w.s.k.c.options.ChannelBuffer, 1) || w.bytes >= backlogBytes
	w.queue = append(w.queue, records...)
	for _, r := range records {
		w.bytes += len(r.Value)
	}
	if full && !w.paused {
		w.paused = true
		w.s.cl.PauseFetchPartitions(map[string][]int32{w.tp.topic: {w.tp.partition}})
	}
	w.mu.Unlock()
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

// resume lets a paused partition be fetched again.
func (w *worker) resume() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.paused {
		w.paused = false
		w.s.cl.ResumeFetchPartitions(map[string][]int32{w.tp.topic: {w.tp.partition}})
	}
}

// take is up to n of the next records, nil when there is none now.
func (w *worker) take(n int) []*kgo.Record {
	w.mu.Lock()
	defer w.mu.Unlock()
	n = min(n, len(w.queue))
	if n == 0 {
		return nil
	}
	rs := w.queue[:n:n]
	w.queue = w.queue[n:]
	if len(w.queue) == 0 {
		w.queue = nil
	}
	for _, r := range rs {
		w.bytes -= len(r.Value)
	}
	if w.paused && len(w.queue) <= w.s.k.c.options.ChannelBuffer/2 && w.bytes <= backlogBytes/2 {
		w.paused = false
		w.s.cl.ResumeFetchPartitions(map[string][]int32{w.tp.topic: {w.tp.partition}})
	}
	return rs
}

func (w *worker) run() {
	defer close(w.done)
	defer func() {
		w.mu.Lock()
		w.queue = nil
		w.mu.Unlock()
		w.cancel()
		if w.sub != nil {
			w.unlink()
			w.unhandle()
		}
	}()
	for !w.stopping() {
		rs := w.take(1)
		if rs == nil {
			select {
			case <-w.wake:
			case <-w.halted:
			}
			continue
		}
		sub := w.pick()
		if sub == nil {
			return // the topic is not subscribed to any more
		}
		if sub.Bulk == nil {
			w.deliver(rs[0], sub)
			continue
		}
		w.deliverBulk(w.gather(rs, sub), sub)
	}
}

// endingPause is how often a worker looks whether a subscription that has ended is gone.
const endingPause = 10 * time.Millisecond

// pick is the subscription that takes the next message, counted as running; nil when the worker is to end.
func (w *worker) pick() *Subscription {
	for {
		sub, ending := w.s.k.pick(w.tp.topic, w.tp.partition)
		if !ending {
			return sub
		}
		timer := time.NewTimer(endingPause)
		select {
		case <-timer.C:
		case <-w.halted:
			timer.Stop()
			return nil
		}
	}
}

// ended reports whether a handler's context has ended or is about to.
func ended(ctx context.Context, sub *Subscription) bool {
	return ctx.Err() != nil || sub.ctx.Err() != nil
}

// contextFor is the context of a subscription's handlers: it ends with the subscription and with the worker.
func (w *worker) contextFor(sub *Subscription) context.Context {
	if w.sub != sub {
		if w.sub != nil {
			w.unlink()
			w.unhandle()
		}
		w.sub = sub
		w.handler, w.unhandle = context.WithCancel(w.ctx)
		w.unlink = context.AfterFunc(sub.ctx, w.unhandle)
	}
	return w.handler
}

// deliver hands over one message until it is processed, given up, or no longer ours. sub was picked, and is released here.
func (w *worker) deliver(r *kgo.Record, sub *Subscription) {
	c, clock := w.s.k.c, w.s.k.c.clock
	var pause waits
	for attempt := 1; ; attempt++ {
		ctx := w.contextFor(sub)
		d, err := w.delivery(ctx, r, sub)
		if err == nil {
			err = sub.Handler(ctx, &d)
		}
		over := ended(ctx, sub)
		if err == nil {
			w.mark(r)
		}
		sub.running.Done()
		if err == nil {
			return
		}
		if !over {
			if attempt == 1 {
				pause = c.options.BackOff.begin(clock.Now())
			}
			if !w.again(&pause, r, attempt, err, sub) {
				return
			}
		}
		if w.stopping() {
			return
		}
		if sub = w.pick(); sub == nil {
			return
		}
		if sub.Bulk != nil {
			w.deliverBulk([]*kgo.Record{r}, sub)
			return
		}
	}
}

// again waits before a message is tried again; false when it is not to be.
func (w *worker) again(pause *waits, r *kgo.Record, attempt int, err error, sub *Subscription) bool {
	c, clock := w.s.k.c, w.s.k.c.clock
	place := []any{"topic", r.Topic, "partition", r.Partition, "offset", r.Offset, "group", w.s.k.group, "attempts", attempt, "error", err}
	if !w.s.k.retry {
		c.log.Error("kafka: a message was not processed and is passed over, for consumeRetryEnabled is false", place...)
		return false
	}
	d, ok := pause.next(clock.Now())
	if !ok {
		c.log.Error("kafka: a message was not processed and is passed over, for its retries are exhausted (backOffMaxRetries, backOffMaxElapsedTime)", place...)
		return false
	}
	c.log.Warn("kafka: a message was not processed and is tried again; its partition waits", append(place, "wait", d)...)
	if d <= 0 {
		return true
	}
	timer := clock.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.Chan():
	case <-w.halted:
	case <-w.ctx.Done():
	case <-sub.ctx.Done():
	}
	return true
}

// gather makes a bulk that begins with records: as many as wanted, or as come until the time is over.
func (w *worker) gather(rs []*kgo.Record, sub *Subscription) []*kgo.Record {
	var timer clockwork.Timer
	var over <-chan time.Time
	for len(rs) < sub.Most && !w.stopping() {
		if more := w.take(sub.Most - len(rs)); more != nil {
			rs = append(rs, more...)
			continue
		}
		if timer == nil {
			timer = w.s.k.c.clock.NewTimer(sub.Await)
			defer timer.Stop()
			over = timer.Chan()
		}
		select {
		case <-w.wake:
		case <-over:
			return rs
		case <-w.halted:
		case <-sub.ctx.Done():
			return rs
		}
	}
	return rs
}

// deliverBulk hands over a bulk until all of it is processed, given up, or no longer ours. What was processed before the first
// failure is not handed over again. sub was picked, and is released here.
func (w *worker) deliverBulk(rs []*kgo.Record, sub *Subscription) {
	c, clock := w.s.k.c, w.s.k.c.clock
	var pause waits
	for attempt := 1; ; attempt++ {
		handed, done := 0, 0
		var err error
		ctx := w.contextFor(sub)
		if !w.stopping() && !ended(ctx, sub) {
			handed, done, err = w.offerBulk(ctx, rs, sub)
		}
		over := ended(ctx, sub)
		sub.running.Done()
		if rs = rs[done:]; len(rs) == 0 || w.stopping() {
			return
		}
		if !over {
			if attempt == 1 {
				pause = c.options.BackOff.begin(clock.Now())
			}
			if !w.again(&pause, rs[0], attempt, err, sub) {
				// Those that were handed over are given up, or the first if it could not be.
				if rs = rs[min(max(handed-done, 1), len(rs)):]; len(rs) == 0 {
					return
				}
				attempt = 0
			}
		}
		if w.stopping() {
			return
		}
		if sub = w.pick(); sub == nil {
			return
		}
		if sub.Bulk == nil {
			for len(rs) > 1 {
				w.deliver(rs[0], sub)
				if rs = rs[1:]; w.stopping() {
					return
				}
				if sub = w.pick(); sub == nil {
					return
				}
			}
			w.deliver(rs[0], sub)
			return
		}
	}
}

// offerBulk hands over a bulk, up to the first record that cannot be decoded. It returns how many records were handed over, how
// many were processed before the first that was not, which are marked, and what kept that one.
func (w *worker) offerBulk(ctx context.Context, rs []*kgo.Record, sub *Subscription) (handed, done int, err error) {
	ds := make([]Delivery, 0, len(rs))
	for _, r := range rs {
		var d Delivery
		if d, err = w.delivery(ctx, r, sub); err != nil {
			break
		}
		ds = append(ds, d)
	}
	if handed = len(ds); handed == 0 {
		return 0, 0, err
	}
	verdicts := sub.Bulk(ctx, ds)
	for done < handed && (len(verdicts) == 0 || done < len(verdicts) && verdicts[done] == nil) {
		done++
	}
	if done < handed {
		if err = errNoVerdict; done < len(verdicts) {
			err = verdicts[done]
		}
	}
	if done > 0 {
		w.mark(rs[done-1])
	}
	return handed, done, err
}

var errNoVerdict = errors.New("the handler gave no verdict on the entry")

// delivery is a record as the handler gets it; each attempt has its own metadata, for handlers may add to it.
func (w *worker) delivery(ctx context.Context, r *kgo.Record, sub *Subscription) (Delivery, error) {
	d := Delivery{Topic: r.Topic, Data: r.Value, Metadata: w.s.k.c.metadata(r)}
	if sub.avro {
		var err error
		if d.Data, err = w.s.k.c.decode(ctx, r.Value); err != nil {
			return d, err
		}
	}
	return d, nil
}

// mark notes that everything up to a record is processed.
func (w *worker) mark(r *kgo.Record) {
	if !w.alien.Load() {
		w.s.cl.MarkCommitRecords(r)
	}
}
