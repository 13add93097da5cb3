package pubsub

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"sync"
	"time"

	"outrigger.dev/app"
	"outrigger.dev/blocks/internal/table"
	"outrigger.dev/resiliency"
)

// manager keeps the subscriptions that ought to run running: those of the app while it is healthy, and the internal ones. Each
// has a goroutine of its own that starts it, as often as it takes, and stops it in the end.
type manager struct {
	block *PubSub
	// life ends when a stop has taken too long: what is still in hand is broken off then.
	life  context.Context
	abort context.CancelFunc
	tasks sync.WaitGroup // everything that was started

	mu           sync.Mutex
	channel      app.Channel
	receiver     receiver
	declarative  []Subscription
	programmatic []Subscription
	fetched      bool
	stopped      bool
	slots        map[any]*slot
	consumers    map[*consumer]struct{}
	streams      map[*stream]struct{}
	// period is the time in which the app is healthy; nil outside of it.
	period *period
	// draining is closed when the slot of a key that was stopped last has ended.
	draining map[any]chan struct{}
	// doubted is what was said of the subscriptions.
	doubted map[string]struct{}
	// removing are the components that are being taken out.
	removing map[string]struct{}
}

// period is one stretch of the app's health.
type period struct {
	ctx     context.Context
	end     context.CancelFunc
	wake    chan struct{} // a component came
	started chan struct{} // closed when everything was tried once
}

// slot is one subscription that is kept running.
type slot struct {
	subscription Subscription
	stop         context.CancelCauseFunc
	tried        chan struct{} // closed after the first attempt
	done         chan struct{} // closed when it has ended
}

// causes of a slot's end.
var (
	errStop  = errors.New("the subscription is stopped")
	errPause = errors.New("the subscription is paused, and stopped")
)

func (m *manager) init(p *PubSub) {
	m.block = p
	m.life, m.abort = context.WithCancel(context.Background())
	m.slots = map[any]*slot{}
	m.consumers = map[*consumer]struct{}{}
	m.streams = map[*stream]struct{}{}
	m.draining = map[any]chan struct{}{}
	m.doubted = map[string]struct{}{}
	m.removing = map[string]struct{}{}
}

func (m *manager) setApp(channel app.Channel) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.channel = channel
	if g, ok := channel.(*app.GRPCChannel); ok {
		m.receiver = newGRPCApp(g.Conns())
	} else {
		m.receiver = &httpApp{channel}
	}
}

// Declare sets the declarative subscriptions; while the app is healthy those that are new are started and those that are gone
// stopped. The error names the first whose rules cannot be compiled; nothing is changed then.
func (p *PubSub) Declare(list []Subscription) error {
	for i := range list {
		if _, err := newRouter(list[i].Rules); err != nil {
			return fmt.Errorf("%s: %w", &list[i], err)
		}
	}
	m := &p.manager
	m.mu.Lock()
	defer m.mu.Unlock()
	m.declarative = list
	if m.period != nil && m.fetched {
		m.reconcile()
	}
	return nil
}

// Subscriptions lists what is known of: those of the app after precedence, declarative ones first, and then the open streams.
func (p *PubSub) Subscriptions() []Subscription {
	m := &p.manager
	m.mu.Lock()
	defer m.mu.Unlock()
	list := effective(m.declarative, m.programmatic)
	var streaming []Subscription
	for s := range m.streams {
		if s.subscription.Topic != "" { // it has said what it wants
			streaming = append(streaming, s.subscription)
		}
	}
	slices.SortFunc(streaming, func(a, b Subscription) int {
		return cmp.Or(strings.Compare(a.Component, b.Component), strings.Compare(a.Topic, b.Topic))
	})
	return append(list, streaming...)
}

// StartApp starts the app's subscriptions, after asking it for its own the first time; for every time the app turns healthy. The
// channel is closed when everything was tried once; what failed is tried again in the background.
func (p *PubSub) StartApp() (started <-chan struct{}) {
	m := &p.manager
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.stopped || m.channel == nil {
		none := make(chan struct{})
		close(none)
		return none
	}
	if m.period == nil {
		now := &period{wake: make(chan struct{}, 1), started: make(chan struct{})}
		now.ctx, now.end = context.WithCancel(m.life)
		m.period = now
		m.tasks.Go(func() { m.run(now) })
	}
	return m.period.started
}

// StopApp stops the app's subscriptions, for every time the app turns unhealthy. It does not wait for messages that the app
// still has.
func (p *PubSub) StopApp() {
	m := &p.manager
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.period == nil {
		return
	}
	m.period.end()
	m.period = nil
	for key := range m.slots {
		if _, ofApp := key.(target); ofApp {
			m.drop(key, errStop)
		}
	}
}

// Stop ends all subscriptions for good, streams and internal ones too: they take no more messages, and it returns when those in
// hand are done. With pause, brokers that can stop fetching first and what they have is still delivered. When ctx ends,
// deliveries are broken off; that is no error, for the broker delivers again.
func (p *PubSub) Stop(ctx context.Context, pause bool) {
	m := &p.manager
	m.mu.Lock()
	m.stopped = true
	if m.period != nil {
		m.period.end()
		m.period = nil
	}
	cause := errStop
	if pause {
		cause = errPause
	}
	for key := range m.slots {
		m.drop(key, cause)
	}
	for s := range m.streams {
		s.stop(cause)
	}
	m.mu.Unlock()
	defer m.abort()
	defer context.AfterFunc(ctx, m.abort)()
	m.tasks.Wait()
}

// run brings up the app's subscriptions in a period of health.
func (m *manager) run(now *period) {
	first := sync.OnceFunc(func() { close(now.started) })
	defer first()
	for {
		if !m.fetchOnce(now.ctx, first) {
			return
		}
		m.mu.Lock()
		var tries []<-chan struct{}
		if m.period == now {
			tries = m.reconcile()
		}
		m.mu.Unlock()
		for _, tried := range tries {
			select {
			case <-tried:
			case <-now.ctx.Done():
				return
			}
		}
		first()
		select {
		case <-now.wake:
		case <-now.ctx.Done():
			return
		}
	}
}

// fetchPause is the first pause after the round of attempts that the built-in policy makes to ask the app for its subscriptions.
const fetchPause = time.Second

// fetchOnce asks the app for its subscriptions unless that was done. It goes on until it has an answer or the period ends;
// without an answer no subscription of the app is started, for the declarative ones may not be those that count. giveUp is
// called after a first round of attempts (Dapr API, subscriptions: programmatic). It is false when the period has ended.
func (m *manager) fetchOnce(ctx context.Context, giveUp func()) bool {
	m.mu.Lock()
	skip := m.fetched || m.block.brokers.Empty()
	if m.block.options.SkipAppSubscriptions {
		m.fetched, skip = true, true
	}
	m.mu.Unlock()
	if skip {
		return ctx.Err() == nil
	}
	var dropped []string
	attempt := 0
	ask := func(ctx context.Context) (list []Subscription, err error) {
		attempt++
		if list, dropped, err = fetch(ctx, m.channel, m.block.options.AppID); err == nil || ctx.Err() != nil {
			return list, err
		}
		m.block.options.Log.Warn(fmt.Sprintf("the app's subscriptions are not known, so none is started; it is asked again: %s", err), "attempt", attempt)
		if !unreachable(err) { // the same answer would come again: nobody is to wait for another one
			err = resiliency.Final(err)
		}
		return list, err
	}
	list, err := resiliency.Run(ctx, m.block.options.Resiliency.BuiltIn(resiliency.BuiltInInitializationRetries), ask)
	for wait := newBackoff(fetchPause); err != nil; list, err = ask(ctx) {
		if ctx.Err() != nil {
			return false
		}
		giveUp()
		if !m.sleep(ctx, wait.next()) {
			return false
		}
	}
	for _, text := range dropped {
		m.block.options.Log.Warn(text)
	}
	m.mu.Lock()
	m.programmatic, m.fetched = list, true
	m.mu.Unlock()
	return ctx.Err() == nil
}

// reconcile starts what ought to run and does not, and stops what does and ought not to. It returns what tells of the first
// attempts. The caller holds the lock.
func (m *manager) reconcile() []<-chan struct{} {
	m.doubt()
	wanted := map[target]Subscription{}
	var order []target
	for _, s := range effective(m.declarative, m.programmatic) {
		wanted[s.target()] = s
		order = append(order, s.target())
	}
	for key, current := range m.slots {
		t, ofApp := key.(target)
		if !ofApp {
			continue
		}
		if s, ok := wanted[t]; !ok || !reflect.DeepEqual(s, current.subscription) {
			m.drop(key, errStop)
		}
	}
	var tries []<-chan struct{}
	for _, t := range order {
		s := wanted[t]
		if m.slots[t] == nil {
			receiver := m.receiver
			if tried := m.keep(t, s, func(b *broker) (*running, error) { return m.block.newRunning(b, s, receiver) }); tried != nil {
				tries = append(tries, tried)
			}
		}
	}
	return tries
}

// doubt says once what is probably not meant. The caller holds the lock.
func (m *manager) doubt() {
	known := func(component string) bool {
		e := m.block.brokers.Use(component)
		if e != nil {
			e.Release()
		}
		return e != nil
	}
	for _, text := range doubts(m.declarative, m.programmatic, known) {
		if _, said := m.doubted[text]; !said {
			m.doubted[text] = struct{}{}
			m.block.options.Log.Warn(text)
		}
	}
}

// use looks a component up for a subscription; nil when it is not there, or about to go. The caller holds the lock, and
// releases the entry.
func (m *manager) use(component string) *table.Entry[*broker] {
	if _, going := m.removing[component]; going {
		return nil
	}
	return m.block.brokers.Use(component)
}

// drop stops the slot of a key. The caller holds the lock.
func (m *manager) drop(key any, cause error) {
	s := m.slots[key]
	s.stop(cause)
	delete(m.slots, key)
	select {
	case <-s.done:
	default:
		m.draining[key] = s.done
	}
}

// drained forgets a slot that has ended.
func (m *manager) drained(key any, s *slot) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.draining[key] == s.done {
		delete(m.draining, key)
	}
}

// keep starts a slot if its component is there. The caller holds the lock. tried is closed after the first attempt to
// subscribe; it is nil when there is no component.
func (m *manager) keep(key any, s Subscription, open func(*broker) (*running, error)) (tried <-chan struct{}) {
	e := m.use(s.Component)
	if e == nil {
		return nil
	}
	ctx, stop := context.WithCancelCause(m.life)
	sl := &slot{subscription: s, stop: stop, tried: make(chan struct{}), done: make(chan struct{})}
	m.slots[key] = sl
	before := m.draining[key]
	m.tasks.Go(func() {
		defer m.drained(key, sl)
		defer close(sl.done)
		defer e.Release()
		tried := sync.OnceFunc(func() { close(sl.tried) })
		defer tried()
		if before != nil {
			// Two consumers of one group would share the messages between them, and the old one takes no more. Whoever waits
			// for this one waits for that one, too.
			<-before
		}
		if ctx.Err() != nil {
			return
		}
		m.maintain(ctx, &sl.subscription, func() (*running, error) { return open(e.Component) }, tried)
	})
	return sl.tried
}

// maintain subscribes, as often as it takes, waits for the end, and stops.
func (m *manager) maintain(ctx context.Context, s *Subscription, open func() (*running, error), tried func()) {
	r, err := open()
	if err != nil {
		m.block.options.Log.Error(fmt.Sprintf("failed to subscribe to %s: %s", s, err))
		return
	}
	wait := newBackoff(retryPause)
	for {
		err := r.start(ctx)
		tried()
		if err == nil {
			break
		}
		if ctx.Err() != nil {
			r.cancel()
			return
		}
		pause := wait.next()
		m.block.options.Log.Error(fmt.Sprintf("failed to subscribe to %s, retrying in %s: %s", s, pause.Round(time.Millisecond), err))
		if !m.sleep(ctx, pause) {
			r.cancel()
			return
		}
	}
	m.block.options.Log.Debug(fmt.Sprintf("subscribed to %s", s))
	<-ctx.Done()
	r.stop(m.life, context.Cause(ctx) == errPause)
}

// sleep waits; it is false when ctx ended before.
func (m *manager) sleep(ctx context.Context, d time.Duration) bool {
	timer := m.block.options.Clock.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.Chan():
		return true
	case <-ctx.Done():
		return false
	}
}

// Pauses between attempts to subscribe (Dapr API, subscriptions: starting).
const (
	retryPause    = 500 * time.Millisecond
	maxRetryPause = time.Minute
)

// backoff makes pauses that grow by half each time, give or take half.
type backoff struct{ pause time.Duration }

func newBackoff(first time.Duration) *backoff { return &backoff{first} }

func (b *backoff) next() time.Duration {
	d := time.Duration(float64(b.pause) * (0.5 + rand.Float64())) //nolint:gosec // jitter
	b.pause = min(b.pause*3/2, maxRetryPause)
	return min(d, maxRetryPause)
}

// brokerAdded starts what waited for a component.
func (m *manager) brokerAdded(name string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.removing, name)
	if m.stopped {
		return
	}
	for c := range m.consumers {
		if c.subscription.Component == name && m.slots[c] == nil {
			m.keep(c, c.subscription, c.open)
		}
	}
	if m.period != nil {
		select {
		case m.period.wake <- struct{}{}:
		default:
		}
	}
}

// brokerRemoved ends what uses a component, and returns when it has, or ctx ends.
func (m *manager) brokerRemoved(ctx context.Context, name string) {
	m.mu.Lock()
	m.removing[name] = struct{}{}
	var ending []<-chan struct{}
	for key, s := range m.slots {
		if s.subscription.Component == name {
			m.drop(key, errStop)
			ending = append(ending, s.done)
		}
	}
	for s := range m.streams {
		if s.subscription.Component == name {
			s.stop(errStop)
			ending = append(ending, s.done)
		}
	}
	m.mu.Unlock()
	for _, done := range ending {
		select {
		case <-done:
		case <-ctx.Done():
			return
		}
	}
}
