package actors

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"outrigger.dev/api"
	"outrigger.dev/invocation"
	"outrigger.dev/mesh"
	"outrigger.dev/mesh/placement"
	"outrigger.dev/resiliency"
)

// Invoke calls a method of an actor, wherever it lives, under the policies for its type. It is the path of the API (Dapr API, actors:
// invocation). It sets ReentrancyID and Request.Method of the call. A response with [ErrorHeader] counts as a failure for policies,
// and is returned. Errors are *api.Error values.
func (r *Runtime) Invoke(ctx context.Context, call *Call) (*invocation.Response, error) {
	var (
		resp *invocation.Response
		err  error
	)
	if policy := r.options.Resiliency.Actor(call.Type, call.ID); policy == nil {
		resp, err = r.persist(ctx, call)
	} else {
		resp, err = r.underPolicy(ctx, policy, call)
	}
	if err == nil {
		return resp, nil
	}
	if remote, ok := err.(*remoteError); ok { //nolint:errorlint // One that is wrapped has words around it, which callers are to see.
		err = remote.err
	}
	return nil, api.ErrActorInvoke(err)
}

// errActorSaid is the failure of a call whose response has [ErrorHeader].
var errActorSaid = errors.New("the actor answered with an error")

// underPolicy makes a call under the retries and the circuit breaker for it.
func (r *Runtime) underPolicy(ctx context.Context, policy *resiliency.Policy, call *Call) (*invocation.Response, error) {
	resp, err := resiliency.RunWith(ctx, policy, func(ctx context.Context) (*invocation.Response, error) {
		resp, err := r.persist(ctx, call)
		switch {
		case err == nil && resp.Header.Get(ErrorHeader) != nil:
			return resp, errActorSaid
		case err != nil && permanent(err):
			err = resiliency.Final(err)
		}
		return resp, err
	}, resiliency.Hooks[*invocation.Response]{Stop: r.life.Done()})
	switch {
	case errors.Is(err, resiliency.ErrStopped):
		err = api.ErrActorRuntimeClosed()
	case resp != nil && errors.Is(err, errActorSaid):
		err = nil
	}
	return resp, err
}

// permanent reports whether another attempt would fare no better: the actor does not have the method, or the sidecar itself refuses.
func permanent(err error) bool {
	if errors.Is(err, ErrMethodNotFound) {
		return true
	}
	if own, ok := errors.AsType[*api.Error](err); ok && own.Code != "ERR_ACTOR_NO_ADDRESS" {
		return true
	}
	remote, ok := errors.AsType[*remoteError](err)
	if !ok {
		return false
	}
	s, _ := status.FromError(remote.err)
	return s.Code() == codes.Internal && strings.HasPrefix(s.Message(), invokePrefix+ErrMethodNotFound.Error())
}

// persist makes a call, with the built-in retries if the resources say nothing of the actor's type (Dapr API, actors: retries).
func (r *Runtime) persist(ctx context.Context, call *Call) (*invocation.Response, error) {
	changed := r.changed()
	resp, err := r.attempt(ctx, call)
	if err == nil || !passing(err) || r.options.Resiliency.HasActor(call.Type) {
		return resp, err
	}
	return again(ctx, r, changed, err, func(ctx context.Context) (*invocation.Response, error) { return r.attempt(ctx, call) })
}

// changed is closed when more is known about where actors are than now.
func (r *Runtime) changed() <-chan struct{} {
	if r.options.Placement == nil {
		return nil
	}
	return r.options.Placement.Changed()
}

// again repeats an operation that has failed with first, which is [passing]: at once when more is known about where actors are than before the
// operation, for that is mostly what it takes.
func again[T any](ctx context.Context, r *Runtime, changed <-chan struct{}, first error, op func(context.Context) (T, error)) (T, error) {
	var none T
	policy := r.options.Resiliency.BuiltIn(resiliency.BuiltInActorNotFoundRetries)
	if policy == nil {
		return none, first
	}
	retries := -1
	v, err := resiliency.RunWith(ctx, policy, func(ctx context.Context) (T, error) {
		if retries++; retries == 0 {
			return none, first
		}
		v, err := op(ctx)
		if err != nil && !passing(err) {
			err = resiliency.Final(err)
		}
		return v, err
	}, resiliency.Hooks[T]{Stop: r.life.Done(), Early: changed})
	if errors.Is(err, resiliency.ErrStopped) {
		return v, api.ErrActorRuntimeClosed()
	}
	if remote, ok := errors.AsType[*remoteError](err); ok && passing(err) && ctx.Err() == nil {
		err = fmt.Errorf("failed to invoke target %s after %d retries. Error: %w", remote.address, retries, err)
	}
	return v, err
}

// Errors that more than one place speaks of.
const (
	invokePrefix  = "error invoke actor method: "
	textMoved     = "remote actor moved"
	disseminating = ": placement is disseminating"
)

// lookupFailure says that it is not known where an actor lives.
type lookupFailure struct{ err error }

func (e *lookupFailure) Error() string { return "failed to lookup actor: " + e.err.Error() }
func (e *lookupFailure) Unwrap() error { return e.err }

// closedError says that a call was not made or not ended because its actor was halted.
type closedError struct {
	method string
	// cause is why a turn that ran was broken off.
	cause error
}

func (e *closedError) Error() string {
	text := "actor is closed, cannot handle " + e.method
	if e.cause != nil {
		text += ": " + e.cause.Error()
	}
	return text
}

func (e *closedError) Unwrap() error { return e.cause }

// remoteError is the error of a call of another sidecar.
type remoteError struct {
	err     error
	address string
}

func (e *remoteError) Error() string { return e.err.Error() }
func (e *remoteError) Unwrap() error { return e.err }

// passing reports whether an error stems from an actor's being on the move, so that the call may be made again.
func passing(err error) bool {
	if _, ok := errors.AsType[*lookupFailure](err); ok {
		return true
	}
	if _, ok := errors.AsType[*closedError](err); ok {
		return true
	}
	remote, ok := errors.AsType[*remoteError](err)
	if !ok {
		return false
	}
	s, ok := status.FromError(remote.err)
	if !ok {
		return false
	}
	switch s.Code() {
	case codes.Unavailable:
		return true
	case codes.Internal:
		return s.Message() == invokePrefix+textMoved || strings.HasSuffix(s.Message(), disseminating)
	case codes.Unknown: // of a reminder
		return s.Message() == textMoved
	}
	return false
}

// attempt makes a call once: here, or at the sidecar where the actor lives.
func (r *Runtime) attempt(ctx context.Context, call *Call) (*invocation.Response, error) {
	t := newTurn(ctx)
	defer t.cancel(nil)
	owner, err := r.reach(t, address{call.Type, call.ID}, chainOf(call), true)
	switch {
	case err != nil:
		return nil, t.explain(ctx, err, call.Method)
	case t.inst != nil:
		return r.run(ctx, t, call)
	}
	defer context.AfterFunc(r.life, t.end)()
	call.Request.Method = call.Method
	resp, err := r.options.Peers.CallActor(t.ctx, r.target(owner), mesh.Actor{Type: call.Type, ID: call.ID}, call.Request)
	if err != nil {
		return nil, r.remote(ctx, t, owner, err)
	}
	return resp, nil
}

// target is where calls of another sidecar go.
func (r *Runtime) target(owner placement.Owner) mesh.Target {
	return mesh.Target{Address: owner.Address, AppID: owner.AppID, Namespace: r.options.Namespace}
}

// remote is the error of a call of another sidecar.
func (r *Runtime) remote(ctx context.Context, t *turn, owner placement.Owner, err error) error {
	if ctx.Err() == nil && t.ctx.Err() != nil {
		return api.ErrActorRuntimeClosed()
	}
	return &remoteError{err, owner.Address}
}

// chainOf is the reentrancy id that a call came with.
func chainOf(call *Call) string {
	return string(call.Request.Header.Get(ReentrancyHeader))
}

// run is a call's turn. It has to be inside, and leaves.
func (r *Runtime) run(ctx context.Context, t *turn, call *Call) (*invocation.Response, error) {
	k := t.inst.kind
	defer r.leave(t)
	end, err := r.begin(t)
	if err != nil {
		return nil, t.explain(ctx, err, call.Method)
	}
	defer end()
	if k.timeout > 0 {
		defer r.limit(t, t.inst.actorType, k.timeout).Stop()
	}
	call.ReentrancyID = t.chain
	resp, err := k.hosting.host.Invoke(t.ctx, call)
	if err != nil {
		return nil, t.explain(ctx, err, call.Method)
	}
	return resp, nil
}

// abandonedFor is how long a turn may go on when its caller has gone.
const abandonedFor = time.Minute

// begin is the last moment before a turn that is inside goes to its host. From then on it does not end with its caller: a host that is
// broken off goes on for a while, nobody knows how long, and the actor would have another turn meanwhile. Only when nobody has been waiting for
// it for a long time it counts as hanging. A turn whose caller has gone already, or that was broken off, does not begin: the error says so. end is
// to be called when the host has answered.
func (r *Runtime) begin(t *turn) (end func(), err error) {
	sh := t.inst.shard
	sh.mu.Lock() // breakOff uses cancel
	defer sh.mu.Unlock()
	caller := t.ctx
	if err := caller.Err(); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancelCause(context.WithoutCancel(caller))
	t.ctx, t.cancel = ctx, cancel
	waits := context.AfterFunc(caller, func() {
		timer := r.clock.AfterFunc(abandonedFor, func() {
			cancel(&brokenOff{fmt.Sprintf("its caller has gone, and it did not end within %s", abandonedFor)})
		})
		context.AfterFunc(ctx, func() { timer.Stop() })
	})
	return func() {
		waits()
		cancel(nil)
	}, nil
}

// limit bounds a turn by the timeout of its type's policy.
func (r *Runtime) limit(t *turn, actorType string, d time.Duration) interface{ Stop() bool } {
	r.options.Resiliency.CountActorTimeout(actorType, false)
	cancel := t.cancel
	return r.clock.AfterFunc(d, func() {
		r.options.Resiliency.CountActorTimeout(actorType, true)
		cancel(context.DeadlineExceeded)
	})
}

// end breaks a turn off because of the end of the runtime.
func (t *turn) end() { t.cancel(api.ErrActorRuntimeClosed()) }

// explain is the error of a turn: why it was broken off, if it was, and not what its host made of that. ctx is the caller's.
func (t *turn) explain(ctx context.Context, err error, method string) error {
	if errors.Is(err, ErrMethodNotFound) || errors.Is(err, ErrReminderCanceled) {
		return err
	}
	if errors.Is(err, errBroken) {
		return &closedError{method: method}
	}
	if ctx.Err() != nil || t.ctx.Err() == nil {
		return err
	}
	cause := context.Cause(t.ctx)
	if b, ok := errors.AsType[*brokenOff](cause); ok {
		return &closedError{method, b}
	}
	return cause
}
