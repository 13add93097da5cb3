package actors

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jonboulle/clockwork"

	"outrigger.dev/api"
	stores "outrigger.dev/components/state"
	"outrigger.dev/resiliency"
	"outrigger.dev/telemetry/metrics"
)

// StateOptions are what the state of actors needs to know of its sidecar.
type StateOptions struct {
	// AppID is a part of every stored key.
	AppID string
	Core  Core
	// Settle waits while the actor is moving from one sidecar to another; its errors mean nothing but that there is no more to wait
	// for, unless the context has ended. Nil does not wait.
	Settle func(ctx context.Context, actorType, id string) error
	// TTL allows items that expire: the feature ActorStateTTL.
	TTL bool
	// Resiliency has the policies for the calls of the store; nil has none.
	Resiliency *resiliency.Engine
	// Metrics may be nil.
	Metrics *metrics.Operations
	// Clock measures latencies; nil is the system's clock.
	Clock clockwork.Clock
}

// State keeps the state of actors in the actor state store (Dapr API, actors: state). Its methods are safe for concurrent use.
type State struct {
	options StateOptions

	mu      sync.Mutex
	current *stateStore // nil when there is none
	// back is closed when the store has come back that was put on hold, or will not; nil when none is.
	back chan struct{}
}

// NewState makes a State without a store.
func NewState(o StateOptions) *State {
	if o.Clock == nil {
		o.Clock = clockwork.NewRealClock()
	}
	if o.Settle == nil {
		o.Settle = func(context.Context, string, string) error { return nil }
	}
	return &State{options: o}
}

// stateStore is a store in use.
type stateStore struct {
	name  string
	store stores.Store
	// transactor is nil for a store that cannot hold the state of actors.
	transactor stores.Transactor
	policy     *resiliency.Policy

	// users, out and idle belong to State.mu: how many calls there are, whether it was taken out, and what is closed when it was and
	// there is no more of them.
	users int
	out   bool
	idle  chan struct{}
}

// SetStore makes a store the actor state store. One of the same name is replaced: calls go to the new one from now on, and SetStore
// waits until those of the old one have ended, so that it can be closed; the context bounds this wait only. One of another name is
// the error.
func (s *State) SetStore(ctx context.Context, name string, store stores.Store) error {
	in := &stateStore{
		name: name, store: store, idle: make(chan struct{}),
		policy: s.options.Resiliency.Component(resiliency.Statestore, name, resiliency.Outbound),
	}
	if e, ok := store.(stores.ETagStore); ok && e.ETags() {
		in.transactor, _ = store.(stores.Transactor)
	}
	s.mu.Lock()
	old := s.current
	if old != nil && old.name != name {
		s.mu.Unlock()
		return fmt.Errorf("detected duplicate actor state store: %s and %s", old.name, name)
	}
	s.current = in
	s.retire(old)
	s.mu.Unlock()
	return s.drained(ctx, old)
}

// RemoveStore takes the actor state store out, if it is the one of this name, and waits until its calls have ended: then it may be
// closed. It is out even when the context ends the wait, which is the only error.
func (s *State) RemoveStore(ctx context.Context, name string) error {
	s.mu.Lock()
	old := s.current
	if old == nil || old.name != name {
		s.mu.Unlock()
		return nil
	}
	s.current = nil
	s.retire(old)
	s.mu.Unlock()
	return s.drained(ctx, old)
}

// retire marks a store that was taken out; the lock is held.
func (s *State) retire(old *stateStore) {
	if old == nil {
		return
	}
	old.out = true
	if old.users == 0 {
		close(old.idle)
	}
}

func (s *State) drained(ctx context.Context, old *stateStore) error {
	if old == nil {
		return nil
	}
	select {
	case <-old.idle: // even if the context has ended
		return nil
	default:
	}
	select {
	case <-old.idle:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("actor state store %q is still in use: %w", old.name, context.Cause(ctx))
	}
}

// HoldStore is [State.RemoveStore] of a store that is about to come back by [State.SetStore]: calls wait for it until [State.Release].
func (s *State) HoldStore(ctx context.Context, name string) error {
	s.mu.Lock()
	if s.current != nil && s.current.name == name && s.back == nil {
		s.back = make(chan struct{})
	}
	s.mu.Unlock()
	return s.RemoveStore(ctx, name)
}

// Release ends the wait for a store on hold, and tells whether there is one now; it is true when none was on hold.
func (s *State) Release() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.back == nil {
		return true
	}
	close(s.back)
	s.back = nil
	return s.current != nil
}

// Store is the name of the actor state store, "" when there is none.
func (s *State) Store() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.current == nil {
		return ""
	}
	return s.current.name
}

// use finds the store and keeps it from being closed until done is called.
func (s *State) use(ctx context.Context) (*stateStore, error) {
	for {
		s.mu.Lock()
		current, back := s.current, s.back
		if current != nil {
			current.users++
		}
		s.mu.Unlock()
		switch {
		case current != nil:
			return current, nil
		case back == nil:
			return nil, api.ErrActorRuntimeNotFound()
		}
		select {
		case <-back:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

func (s *State) done(in *stateStore) {
	s.mu.Lock()
	defer s.mu.Unlock()
	in.users--
	if in.out && in.users == 0 {
		close(in.idle)
	}
}

// errUnfit is a store without etags or transactions.
var errUnfit = errors.New(`actors: state store does not exist or incorrectly configured. Have you set the property '{"name": "actorStateStore", "value": "true"}' in your state store component file?`)

func (in *stateStore) fit() error {
	if in.transactor == nil {
		return errUnfit
	}
	return nil
}

// hold is what one operation holds on to: the store, and the claim on the actor. An attempt that a policy gave up because of its
// timeout may still be running when the operation has ended, and nothing may be let go before: the actor could live on another
// sidecar already when it writes.
type hold struct {
	state   *State
	in      *stateStore
	release func() // may be nil
	holders atomic.Int32
}

func (s *State) hold(in *stateStore, release func()) *hold {
	h := &hold{state: s, in: in, release: release}
	h.holders.Store(1)
	return h
}

func (h *hold) done() {
	if h.holders.Add(-1) > 0 {
		return
	}
	h.state.done(h.in)
	if h.release != nil {
		h.release()
	}
}

// attempt runs one attempt of a policy.
func attempt[T any](h *hold, op func() (T, error)) (T, error) {
	h.holders.Add(1)
	defer h.done()
	return op()
}

// partitionKey is the metadata key of requests that tells the store which partition they belong to.
const partitionKey = "partitionKey"

// base is what the keys of an actor begin with, and its partition (Dapr API, actors: state).
func (s *State) base(actorType, id string) string {
	return s.options.AppID + "||" + actorType + "||" + id
}

// Get reads one item of an actor's state; a missing one is no error. The actor need not be active. The errors are [*api.Error].
func (s *State) Get(ctx context.Context, actorType, id, key string) (stores.Item, error) {
	in, err := s.use(ctx)
	if err != nil {
		return stores.Item{}, err
	}
	release, active := s.options.Core.Enter(actorType, id)
	h := s.hold(in, release)
	defer h.done()
	if !active {
		// Somebody else may be writing the last of it.
		if err := s.options.Settle(ctx, actorType, id); err != nil && ctx.Err() != nil {
			return stores.Item{}, api.ErrActorStateGet(context.Cause(ctx))
		}
	}
	base := s.base(actorType, id)
	item, err := s.get(ctx, h, stores.GetRequest{Key: base + "||" + key, Metadata: map[string]string{partitionKey: base}})
	if err != nil {
		return stores.Item{}, api.ErrActorStateGet(err)
	}
	return item, nil
}

func (s *State) get(ctx context.Context, h *hold, req stores.GetRequest) (item stores.Item, err error) {
	in := h.in
	if err := in.fit(); err != nil {
		return stores.Item{}, err
	}
	start := s.begin()
	if in.policy == nil {
		item, err = in.store.Get(ctx, req)
	} else {
		item, err = resiliency.Run(ctx, in.policy, func(ctx context.Context) (stores.Item, error) {
			return attempt(h, func() (stores.Item, error) { return in.store.Get(ctx, req) })
		})
	}
	s.end(in, "get", err, start)
	return item, err
}

// Refusals of transactions.
var (
	errKeyMissing = errors.New("missing key")
	errTooMany    = errors.New("the transaction contains more operations than supported by the state store")
	errTTL        = errors.New(`ttlInSeconds is not supported without the "ActorStateTTL" feature enabled`)
)

// Transact applies operations on the state of an actor as one. The actor must be active on this sidecar, and stays here until the
// store has answered. The keys are the actor's; the requests are changed. None at all are for the store to judge. The errors are
// [*api.Error]; a wrong etag is a failed transaction like any other.
func (s *State) Transact(ctx context.Context, actorType, id string, operations []stores.Operation) error {
	in, err := s.use(ctx)
	if err != nil {
		return err
	}
	release, active := s.options.Core.Enter(actorType, id)
	h := s.hold(in, release)
	defer h.done()
	if !active {
		return api.ErrActorInstanceMissing()
	}
	base := s.base(actorType, id)
	for _, o := range operations {
		if err := s.prepare(o, base); err != nil {
			return api.ErrActorStateTransaction(err)
		}
	}
	err = s.transact(ctx, h, stores.TransactionRequest{Operations: operations, Metadata: map[string]string{partitionKey: base}})
	if err != nil {
		return api.ErrActorStateTransaction(err)
	}
	return nil
}

// prepare turns an operation on an actor's state into one on the store.
func (s *State) prepare(o stores.Operation, base string) error {
	if o.Key() == "" {
		return errKeyMissing
	}
	if o.Delete != nil {
		o.Delete.Key = base + "||" + o.Delete.Key
		return nil
	}
	if _, ok := o.Set.Metadata[stores.MetadataTTL]; ok && !s.options.TTL {
		return errTTL
	}
	o.Set.Key = base + "||" + o.Set.Key
	return nil
}

// transact runs a transaction whose keys are those of the store.
func (s *State) transact(ctx context.Context, h *hold, req stores.TransactionRequest) (err error) {
	in := h.in
	if err := in.fit(); err != nil {
		return err
	}
	if l, ok := in.store.(stores.TransactionLimiter); ok {
		if limit := l.MaxOperations(); limit > 0 && len(req.Operations) > limit {
			return fmt.Errorf("%w: %d operations where %s takes %d; split the transaction", errTooMany, len(req.Operations), in.name, limit)
		}
	}
	start := s.begin()
	if in.policy == nil {
		err = in.transactor.Transact(ctx, req)
	} else {
		_, err = resiliency.Run(ctx, in.policy, func(ctx context.Context) (struct{}, error) {
			return attempt(h, func() (struct{}, error) {
				err := in.transactor.Transact(ctx, req)
				if _, ok := stores.AsETagError(err); ok { // an answer: the store works, and would say the same again
					err = resiliency.Final(err)
				}
				return struct{}{}, err
			})
		})
	}
	s.end(in, "transaction", err, start)
	return err
}

// begin starts the measurement of an operation; without metrics it does not even look at the clock.
func (s *State) begin() time.Time {
	if s.options.Metrics == nil {
		return time.Time{}
	}
	return s.options.Clock.Now()
}

// end finishes it.
func (s *State) end(in *stateStore, operation string, err error, start time.Time) {
	if s.options.Metrics != nil {
		s.options.Metrics.Observe(in.name, operation, err == nil, s.options.Clock.Since(start))
	}
}
