package bindings

import (
	"context"
	"errors"
	"fmt"
	"io"
	"runtime/debug"
	"sync"
	"time"

	contract "outrigger.dev/components/bindings"
	"outrigger.dev/resiliency"
	"outrigger.dev/telemetry/tracing"
)

// The pauses between tries to read a binding: each is longer than the one before.
const (
	firstPause  = 500 * time.Millisecond
	pauseGrowth = 1.5
	longPause   = time.Minute
)

const (
	// openTimeout bounds the start of reading.
	openTimeout = 30 * time.Second
	// settleTime is how long acknowledgements of the last events get to reach the other side (Dapr API, bindings: stop).
	settleTime = 400 * time.Millisecond
	// sendTimeout bounds an operation that an app's reply to an event asks for, and that nobody waits for.
	sendTimeout = time.Minute
)

// errClosed is what an event gets that comes after the end of reading.
var errClosed = errors.New("input binding is closed")

// reader reads one binding, from Start to Stop. Its goroutine owns the component's reading.
type reader struct {
	block    *Bindings
	in       *input
	target   target
	previous *reader // the one before, until it has ended

	// ctx ends with stop, forced with breakOff.
	ctx, forced       context.Context
	stopping, forcing context.CancelFunc
	tried             chan struct{} // closed after the first try
	done              chan struct{} // closed when everything has ended
	deliveries        deliveries
	sends             sync.WaitGroup // operations in the background; they end with forced
}

func newReader(b *Bindings, in *input, to target, previous *reader) *reader {
	r := &reader{block: b, in: in, target: to, previous: previous, tried: make(chan struct{}), done: make(chan struct{})}
	r.deliveries.idle = make(chan struct{})
	r.forced, r.forcing = context.WithCancel(context.Background())
	r.ctx, r.stopping = context.WithCancel(r.forced)
	return r
}

// stop refuses further events and ends the reading as soon as the running deliveries have ended. It does not wait.
func (r *reader) stop() {
	r.deliveries.close()
	r.stopping()
}

// breakOff ends the running deliveries too.
func (r *reader) breakOff() { r.forcing() }

// run reads until stop.
func (r *reader) run() {
	defer close(r.done)
	defer r.forcing() // lets go of all contexts
	r.await()
	closer := r.open()
	if closer == nil {
		return
	}
	<-r.ctx.Done()
	r.drain()
	if err := closer.Close(); err != nil {
		r.block.options.Log.Warn(fmt.Sprintf("reading of input binding %s did not end cleanly: %s", r.in.name, err))
	}
	r.sends.Wait()
}

// await waits for the end of the reader before this one, for a component is read by one at a time.
func (r *reader) await() {
	if r.previous == nil {
		return
	}
	select {
	case <-r.previous.done:
	case <-r.forced.Done():
		r.previous.breakOff()
		<-r.previous.done
	}
	r.previous = nil
}

// open tries to begin reading until it succeeds. It returns nil when the app does not want the binding, or stop was called.
func (r *reader) open() io.Closer {
	log, clock := r.block.options.Log, r.block.options.Clock
	first := sync.OnceFunc(func() { close(r.tried) })
	defer first()
	for pause := firstPause; r.ctx.Err() == nil; pause = longer(pause) {
		closer, wanted, err := r.try()
		if err == nil {
			if !wanted {
				log.Info("app has not subscribed to binding " + r.in.name)
			}
			return closer
		}
		if r.ctx.Err() != nil {
			break
		}
		log.Warn(fmt.Sprintf("error reading from input binding %s: %s; trying again in %s", r.in.name, err, pause), "component", r.in.name)
		first()
		timer := clock.NewTimer(pause)
		select {
		case <-timer.Chan():
		case <-r.ctx.Done():
			timer.Stop()
		}
	}
	return nil
}

func longer(pause time.Duration) time.Duration {
	return min(time.Duration(float64(pause)*pauseGrowth), longPause)
}

// try asks the app, unless the resource has told already, and begins to read.
func (r *reader) try() (closer io.Closer, wanted bool, err error) {
	if !r.in.wanted {
		ctx, cancel := context.WithTimeout(r.ctx, r.block.options.ProbeTimeout)
		wanted, err = r.target.wants(ctx, r.in)
		cancel()
		if err != nil {
			return nil, false, fmt.Errorf("the app could not be asked whether it wants the events: %w", err)
		}
		if !wanted {
			return nil, false, nil
		}
	}
	ctx, cancel := context.WithTimeout(r.ctx, openTimeout)
	defer cancel()
	closer, err = r.in.binding.Read(ctx, r.handle)
	return closer, true, err
}

// drain waits until the running deliveries have ended, and a moment more for what follows them.
func (r *reader) drain() {
	busy := r.deliveries.close()
	if !busy {
		return
	}
	select {
	case <-r.deliveries.idle:
	case <-r.forced.Done():
		return
	}
	timer := r.block.options.Clock.NewTimer(settleTime)
	defer timer.Stop()
	select {
	case <-timer.Chan():
	case <-r.forced.Done():
	}
}

// handle takes an event of the component.
func (r *reader) handle(ctx context.Context, event *contract.Event) ([]byte, error) {
	if !r.deliveries.enter() {
		return nil, errClosed
	}
	defer r.deliveries.leave()
	b := r.block
	start := b.options.Clock.Now()
	reply, err := r.deliver(ctx, event)
	b.delivered.Observe(r.in.name, err == nil, b.options.Clock.Since(start))
	return reply, err
}

// deliver brings an event to the app and does what the app's reply asks for.
func (r *reader) deliver(ctx context.Context, event *contract.Event) (reply []byte, err error) {
	span := r.span(event)
	defer func() { endSpan(span, err) }()
	defer r.rescue(&err)
	answer, err := r.inbound(tracing.NewContext(ctx, span), event)
	if err = r.target.verdict(err); err != nil {
		return nil, err
	}
	if len(answer.to) > 0 {
		r.send(ctx, answer)
	}
	return answer.data, nil
}

// rescue, deferred, makes of a panic an error: events are handled in goroutines of the components, where a panic over one of them
// would take everything in the process down.
func (r *reader) rescue(err *error) {
	if p := recover(); p != nil {
		*err = fmt.Errorf("the sidecar panicked over an event of input binding %s: %v; please report this defect", r.in.name, p)
		r.block.options.Log.Error((*err).Error(), "stack", string(debug.Stack()))
	}
}

// inbound is the one place where the app is called with an event, under the inbound policy of the component. Its error is what the
// policy judged; the verdict on the event is [target.verdict]'s. There are no more retries once the reader was stopped.
func (r *reader) inbound(ctx context.Context, event *contract.Event) (answer, error) {
	if r.in.policy == nil {
		return r.target.deliver(ctx, r.in, event)
	}
	return resiliency.RunWith(ctx, r.in.policy, func(ctx context.Context) (answer, error) {
		a, err := r.target.deliver(ctx, r.in, event)
		if s, ok := errors.AsType[*StatusError](err); ok {
			err = resiliency.Coded(err, s.Status)
		}
		return a, err
	}, resiliency.Hooks[answer]{Stop: r.ctx.Done()})
}

// send hands the app's reply to the output bindings that it names (Dapr API, bindings: replies of gRPC apps). What fails is only
// logged: the event was processed.
func (r *reader) send(ctx context.Context, a answer) {
	data := recode(a.data)
	one := func(ctx context.Context, name string) error {
		err := func() (err error) {
			defer r.rescue(&err)
			_, err = r.block.invoke(ctx, name, contract.Request{Operation: contract.Create, Data: data, Metadata: map[string]string{}}, r.ctx.Done())
			return err
		}()
		if err != nil {
			r.block.options.Log.Error(fmt.Sprintf("error sending the reply to an event of input binding %s to output binding %s: %s", r.in.name, name, err))
		}
		return err
	}
	if !a.parallel {
		for _, name := range a.to {
			if one(ctx, name) != nil {
				return
			}
		}
		return
	}
	for _, name := range a.to {
		r.sends.Go(func() {
			ctx, cancel := context.WithTimeout(r.forced, sendTimeout)
			defer cancel()
			_ = one(ctx, name) // it has been logged
		})
	}
}

// deliveries counts the events that are with the app.
type deliveries struct {
	mu      sync.Mutex
	running int
	closed  bool
	busy    bool          // there were some when it was closed
	idle    chan struct{} // closed when it is closed and none is running any more
}

// enter counts one more, or reports false when there may be no more.
func (d *deliveries) enter() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return false
	}
	d.running++
	return true
}

func (d *deliveries) leave() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.running--
	if d.closed && d.running == 0 {
		close(d.idle)
	}
}

// close lets no more in, and reports whether there were any when it was closed first.
func (d *deliveries) close() (busy bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if !d.closed {
		d.closed = true
		d.busy = d.running > 0
		if d.running == 0 {
			close(d.idle)
		}
	}
	return d.busy
}
