// Package placement is a sidecar's client of the placement service: it tells which actor types are hosted here and learns where the
// actors of all types are (Dapr API, placement: client protocol).
//
// Moves of actors are agreed on by all sidecars of a namespace in rounds of three orders: LOCK announces a table, UPDATE brings it, and
// UNLOCK says that everybody has it. This client guarantees that an actor is never taken for local while it may still be active elsewhere:
// between UPDATE and UNLOCK an actor whose owner is not the same before and after is nowhere, and after a lost connection every actor is,
// until the first UNLOCK of the next. Actors that stay where they are go on without noticing.
package placement

import (
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jonboulle/clockwork"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"

	"outrigger.dev/api"
)

// Owner is where an actor lives.
type Owner struct {
	// Address is that of the internal port of the owner's sidecar, "host:port", and AppID the app that it has to prove to be.
	Address, AppID string
	// Local tells that it is this sidecar.
	Local bool
}

// Hooks are implemented by the actor runtime.
type Hooks interface {
	// Halt ends every local instance for which stays is false (nil stays: all of them), draining turns within their types' timeouts,
	// and returns when no such turn runs any more, or was cancelled and given up. What [Client.IsLocal] says is true of the new table
	// before Halt is called, so that an instance made meanwhile can see that it must not be. The end of ctx says that waiting has to
	// end. When the connection is lost during a Halt, one for all instances is called while the first still runs.
	Halt(ctx context.Context, stays func(actorType, id string) bool)
	// Settled is called with the advertised types that are in force, sorted, before the look-ups go on that waited for it.
	Settled(types []string)
}

// Options of a client. Zero values mean the defaults given.
type Options struct {
	// Addresses of the placement service's instances, "host:port"; they are tried in turn until one is the leader.
	Addresses []string
	// Kubernetes says that the first address is a name which stands for all instances; it is resolved before every attempt.
	Kubernetes bool
	// Credentials secure the connection; they hold the service to its identity. Nil is clear text.
	Credentials credentials.TransportCredentials
	// HostName is how other sidecars reach this one: "host:port" of its internal port.
	HostName string
	// AppID and Namespace are this sidecar's.
	AppID, Namespace string
	// DisseminateTimeout is how long an UPDATE may take after its LOCK. Default 30 s.
	DisseminateTimeout time.Duration
	Hooks              Hooks
	Clock              clockwork.Clock
	// Rand is a random number in [0, 1); it spreads reconnects. Default: math/rand.
	Rand func() float64
	Log  *slog.Logger
	// Dial opens connections; it must honour its context. Default: TCP.
	Dial func(ctx context.Context, address string) (net.Conn, error)
	// Resolve finds the addresses of a host on Kubernetes. Default: the system's resolver.
	Resolve func(ctx context.Context, host string) ([]string, error)
}

// Errors of look-ups.
var (
	// ErrNoAddress is in the error of a look-up for a type that nobody hosts.
	ErrNoAddress = errors.New("did not find address for actor")
	// ErrNoHosts is that of a type whose ring has no hosts.
	ErrNoHosts = errors.New("no hosts added")
	// ErrClosed is that of look-ups after the client's end.
	ErrClosed = errors.New("the client of the placement service is closed")
)

const disseminateTimeout = 30 * time.Second

// Client is the client of the placement service. It is safe for concurrent use.
type Client struct {
	options Options
	core    *core

	connected atomic.Bool
	ready     chan struct{}
	readyOnce sync.Once

	advertised chan struct{} // wakes the session for new types
	mu         sync.Mutex
	types      []string

	// halting is closed when everything here has ended after a connection was lost; nil when nothing was. It belongs to the goroutine of Run.
	halting chan struct{}
	tasks   sync.WaitGroup // halts
}

// New makes a client; Run connects it.
func New(o Options) *Client {
	if o.DisseminateTimeout <= 0 {
		o.DisseminateTimeout = disseminateTimeout
	}
	if o.Credentials == nil {
		o.Credentials = insecure.NewCredentials()
	}
	if o.Clock == nil {
		o.Clock = clockwork.NewRealClock()
	}
	if o.Rand == nil {
		o.Rand = rand.Float64
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Dial == nil {
		// A sidecar whose connection is dead goes on with actors that others have been given: it has to find out soon.
		dialer := &net.Dialer{KeepAliveConfig: net.KeepAliveConfig{Enable: true, Idle: 3 * time.Second, Interval: time.Second, Count: 3}}
		o.Dial = func(ctx context.Context, address string) (net.Conn, error) {
			return dialer.DialContext(ctx, "tcp", address)
		}
	}
	if o.Resolve == nil {
		o.Resolve = net.DefaultResolver.LookupHost
	}
	if o.Hooks == nil {
		o.Hooks = nobody{}
	}
	return &Client{options: o, core: newCore(o.HostName), ready: make(chan struct{}), advertised: make(chan struct{}, 1)}
}

// nobody are the hooks of a sidecar without actors.
type nobody struct{}

func (nobody) Halt(context.Context, func(string, string) bool) {}
func (nobody) Settled([]string)                                {}

// Lookup finds the owner of an actor. It waits while there is no table and while the actor moves, until ctx ends. A type that nobody
// hosts is ErrNoAddress, within an *api.Error; a type without hosts is ErrNoHosts.
func (c *Client) Lookup(ctx context.Context, actorType, id string) (Owner, error) {
	for {
		v := c.core.view.Load()
		owner, finding := v.lookup(actorType, id)
		switch finding {
		case found:
			return owner, nil
		case noAddress:
			err := api.ErrActorNoAddress(actorType, id)
			err.Cause = ErrNoAddress
			return Owner{}, err
		case noHosts:
			return Owner{}, ErrNoHosts
		}
		if v.closed {
			return Owner{}, ErrClosed
		}
		select {
		case <-v.changed:
		case <-ctx.Done():
			return Owner{}, ctx.Err()
		}
	}
}

// IsLocal reports whether an actor belongs to this sidecar now. It never waits: it is false while the actor moves.
func (c *Client) IsLocal(actorType, id string) bool { return c.core.view.Load().isLocal(actorType, id) }

// Changed is closed when more is known about where actors are than now.
func (c *Client) Changed() <-chan struct{} { return c.core.view.Load().changed }

// Connected reports whether this sidecar takes part in placement: there is a stream, and it had its first UNLOCK.
func (c *Client) Connected() bool { return c.connected.Load() }

// Ready is closed at the first UNLOCK, and stays closed whatever happens later.
func (c *Client) Ready() <-chan struct{} { return c.ready }

// Advertise replaces the actor types that are hosted here. They are in force after the next round, which [Hooks] is told of.
func (c *Client) Advertise(types []string) {
	types = slices.Clone(types)
	slices.Sort(types)
	types = slices.Compact(types)
	c.mu.Lock()
	c.types = types
	c.mu.Unlock()
	select {
	case c.advertised <- struct{}{}:
	default:
	}
}

// current are the advertised types.
func (c *Client) current() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.types
}
