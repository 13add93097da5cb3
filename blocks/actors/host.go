package actors

import (
	"context"
	"errors"
	"time"

	"google.golang.org/protobuf/types/known/anypb"

	"outrigger.dev/invocation"
)

// Host runs the turns of actors: the app, called over HTTP or over a stream that it opened, or a part of the sidecar itself. It is
// called with the turn lock held, and ctx ends when the turn has to end. It is safe for concurrent use.
type Host interface {
	// Invoke runs a method. A response whose header has [ErrorHeader] is the actor's own error; it is returned to the caller. The
	// response's body is in memory. [ErrMethodNotFound] is final; any other error may be retried by a policy.
	Invoke(ctx context.Context, call *Call) (*invocation.Response, error)
	// Remind runs a reminder, or a timer if r.Timer is set. [ErrReminderCanceled] means that the actor wants no more of it.
	Remind(ctx context.Context, r *Reminder) error
	// Deactivate tells an instance that it is gone.
	Deactivate(ctx context.Context, actorType, id string) error
}

// Call is a call of a method of an actor.
type Call struct {
	Type, ID string
	// Method is cleaned: it has no "." and ".." segments and no leading slash.
	Method string
	// Request holds the header, the content type, the query and the body, which is in memory; its method and verb mean nothing.
	Request *invocation.Request
	// Remote says that the call came from another sidecar.
	Remote bool
	// ReentrancyID is that of the call chain, "" for types without reentrancy. The host tells it to the actor.
	ReentrancyID string
}

// Reminder is one firing of a reminder or of a timer.
type Reminder struct {
	Type, ID, Name string
	// Data is what was registered, nil for nothing.
	Data *anypb.Any
	// DueTime and Period are as the app is to see them: empty for what comes through the scheduler.
	DueTime, Period string
	// Callback is that of a timer.
	Callback string
	Timer    bool
	// SkipLock runs it without the turn lock, which only the sidecar's own actors ask for.
	SkipLock bool
	// ReentrancyID is as in [Call]; the runtime sets it.
	ReentrancyID string
}

// Headers between sidecar and app (Dapr API, actors: callbacks).
const (
	ErrorHeader          = "X-Daprerrorresponseheader"
	ReminderCancelHeader = "X-Daprremindercancel"
	ReentrancyHeader     = "Dapr-Reentrancy-Id"
	RemoteHeader         = "X-Dapr-Remote"
	APICallHeader        = "Dapr-API-Call"
)

// Outcomes of turns.
var (
	// ErrMethodNotFound is wrapped by the error of a method that the actor does not have: it is never retried.
	ErrMethodNotFound = errors.New("actor method not found")
	// ErrReminderCanceled says that the actor cancelled its reminder or timer. Other sidecars know it by its text.
	ErrReminderCanceled = errors.New("reminder has been canceled")
)

// TypeConfig is how actors of one type are hosted (Dapr API, actors: application configuration). The zero value is not the default:
// see [DefaultTypeConfig].
type TypeConfig struct {
	IdleTimeout time.Duration
	// DrainTimeout is how long turns may go on when their actor moves to another sidecar.
	DrainTimeout time.Duration
	Reentrant    bool
	// MaxStackDepth is how many calls of one chain may be inside an actor at a time.
	MaxStackDepth int
}

// Defaults of hosting.
const (
	DefaultIdleTimeout   = time.Hour
	DefaultDrainTimeout  = 2 * time.Second
	DefaultMaxStackDepth = 32
)

// DefaultTypeConfig is the hosting of a type of which nothing is said.
func DefaultTypeConfig() TypeConfig {
	return TypeConfig{IdleTimeout: DefaultIdleTimeout, DrainTimeout: DefaultDrainTimeout, MaxStackDepth: DefaultMaxStackDepth}
}

// Hosting is what one party offers to host.
type Hosting struct {
	Host Host
	// Types are the actor types with their settings; there may be none.
	Types map[string]TypeConfig
	// CancelRebalanced breaks off turns whose actor moves, instead of waiting for them.
	CancelRebalanced bool
}
