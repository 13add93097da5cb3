// Package pluggable makes component types out of other processes: what serves one of the pluggable components' gRPC services on
// a Unix socket in the sidecar's folder is a component type named after the socket's file (Dapr API, pluggable components).
//
// [Folder] finds the sockets and registers their types. A component of such a type has a connection of its own to the socket.
// When the process behind it ends and comes back, the connection is made anew and the component initialised again before any
// call gets through; streams of messages and events are opened again.
package pluggable

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/jonboulle/clockwork"

	"outrigger.dev/components"
)

// DefaultFolder is where sockets are looked for unless DAPR_COMPONENTS_SOCKETS_FOLDER says otherwise.
const DefaultFolder = "/tmp/dapr-components-sockets"

// DefaultBound is how long a socket may take to answer.
const DefaultBound = 5 * time.Second

// Options say where the sockets are and where their types go.
type Options struct {
	// Folder holds the sockets; empty is [DefaultFolder].
	Folder string
	// Registry gets the types. It should be the sidecar's own, for what one sidecar finds does not concern another: see
	// [components.Registry.Clone].
	Registry *components.Registry
	// Bound is how long a socket may take to be dialled and to name its services, and a component to come back after its process
	// has ended before calls fail; 0 is [DefaultBound].
	Bound time.Duration
	// Headers are further metadata of the calls to components, names and values in turn, such as the trace context of the call's
	// ctx; nil for none.
	Headers func(ctx context.Context) []string
	// Log is nil for none, Clock nil for the real one.
	Log   *slog.Logger
	Clock clockwork.Clock
}

// Folder is a folder with the sockets of pluggable components. Its methods are safe for concurrent use.
type Folder struct {
	options Options

	mu sync.Mutex // held while types are registered
	// known are the services that were found, by socket, so that each is announced once.
	known map[string]map[string]bool
}

// New makes a Folder. It looks at nothing yet.
func New(o Options) *Folder {
	if o.Folder == "" {
		o.Folder = DefaultFolder
	}
	if o.Bound <= 0 {
		o.Bound = DefaultBound
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Clock == nil {
		o.Clock = clockwork.NewRealClock()
	}
	return &Folder{options: o, known: map[string]map[string]bool{}}
}

// Properties are the metadata of a component: all go to its process.
type Properties struct {
	All map[string]string `name:"*"`
}
