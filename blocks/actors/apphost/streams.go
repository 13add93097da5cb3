package apphost

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"slices"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	runtimev1 "outrigger.dev/api/gen/runtime/v1"
	"outrigger.dev/blocks/actors"
)

// EventStream is the sidecar's side of SubscribeActorEventsAlpha1.
type EventStream = grpc.BidiStreamingServer[runtimev1.SubscribeActorEventsRequestAlpha1, runtimev1.SubscribeActorEventsResponseAlpha1]

// StreamsOptions are what hosting over streams depends on.
type StreamsOptions struct {
	// AppID and Namespace are this sidecar's.
	AppID, Namespace string
	// HTTPApp says that the app is called over HTTP: such an app hosts actors that way, and its streams are refused.
	HTTPApp bool
	// DisseminateTimeout is as in [ConfigOptions]. It also bounds how long the end of a stream waits for its actors to end.
	DisseminateTimeout time.Duration
	// Log gets warnings; nil discards them.
	Log *slog.Logger
}

// Streams are the streams that an app has opened to host actors (Dapr API, actors: SubscribeActorEventsAlpha1). Each stream is a hosting
// of its own. Of several that host a type, the newest gets the callbacks; older ones may still answer what they got.
type Streams struct {
	options  StreamsOptions
	identity identity

	mu     sync.Mutex
	open   []*stream // those that can be called, the oldest first
	all    map[*stream]struct{}
	closed bool
	served sync.WaitGroup
}

// NewStreams makes a place for streams.
func NewStreams(o StreamsOptions) *Streams {
	c := ConfigOptions{DisseminateTimeout: o.DisseminateTimeout, Log: o.Log}
	c.fill()
	o.DisseminateTimeout, o.Log = c.DisseminateTimeout, c.Log
	return &Streams{options: o, identity: newIdentity(o.AppID, o.Namespace), all: map[*stream]struct{}{}}
}

// Serve serves a stream until it ends: when the app or [Streams.Close] ends it. The error is the status that the app sees. register
// offers the actors to the runtime and returns what takes the offer back.
func (h *Streams) Serve(client EventStream, register func(actors.Hosting) (withdraw func(context.Context), err error)) error {
	if h.options.HTTPApp {
		return status.Error(codes.FailedPrecondition, "actor callback streaming requires a gRPC app channel")
	}
	s := newStream(h, client)
	if !h.add(s) {
		return status.Error(codes.Unavailable, "the sidecar is shutting down")
	}
	defer h.remove(s)
	// Only the return of this function ends a Recv or a blocked Send, so nobody can wait here for what reads and sends.
	defer close(s.done)
	go s.receive()
	select {
	case <-s.first:
	case <-s.gone:
		return s.end()
	case <-s.stop:
		return nil
	}
	hosting, err := streamConfig(s.initial, ConfigOptions{DisseminateTimeout: h.options.DisseminateTimeout, Log: h.options.Log})
	var withdraw func(context.Context)
	if err == nil {
		s.types, hosting.Host = hosting.Types, s
		withdraw, err = register(hosting)
	}
	if err != nil {
		s.leave(nil)
		return status.Error(codes.Internal, "failed to register hosted actors: "+err.Error())
	}
	h.opened(s)
	go s.send()
	select {
	case <-s.gone:
	case <-s.stop:
	}
	// No answer can come any more, so nobody waits for one; then the runtime is told. The actors' end must not wait for the app.
	h.shut(s)
	s.leave(nil)
	ctx, cancel := context.WithTimeout(context.WithoutCancel(client.Context()), h.options.DisseminateTimeout)
	defer cancel()
	if withdraw != nil {
		withdraw(ctx)
	}
	return s.end()
}

// Close ends all streams without an error, refuses new ones, and waits until they have ended. It returns the error of ctx if that ends
// before.
func (h *Streams) Close(ctx context.Context) error {
	h.mu.Lock()
	h.closed = true
	for s := range h.all {
		s.halt()
	}
	h.mu.Unlock()
	done := make(chan struct{})
	go func() { defer close(done); h.served.Wait() }()
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// add counts a stream in, unless the place is closed.
func (h *Streams) add(s *stream) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed {
		return false
	}
	h.all[s] = struct{}{}
	h.served.Add(1)
	return true
}

func (h *Streams) remove(s *stream) {
	h.mu.Lock()
	delete(h.all, s)
	h.mu.Unlock()
	h.served.Done()
}

// opened makes a stream the newest that can be called.
func (h *Streams) opened(s *stream) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.open = append(h.open, s)
	close(s.ready)
}

// shut takes a stream out of those that can be called.
func (h *Streams) shut(s *stream) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if i := slices.Index(h.open, s); i >= 0 {
		h.open = slices.Delete(h.open, i, i+1)
	}
}

// newest is the stream to call for actors of a type: the newest one that hosts it, nil when there is none.
func (h *Streams) newest(actorType string) *stream {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, s := range slices.Backward(h.open) {
		if _, ok := s.types[actorType]; ok {
			return s
		}
	}
	return nil
}

// errNotConnected and errDisconnected are what callbacks fail with that no stream can take, or whose stream ended before the answer.
var (
	errNotConnected = errors.New("actor host is not connected")
	errDisconnected = errors.New("actor host disconnected before responding")
)

// ended is the error that a stream ends with when receiving fails: none when the app has closed it.
func ended(err error) error {
	if err == nil || errors.Is(err, io.EOF) {
		return nil
	}
	return err
}
