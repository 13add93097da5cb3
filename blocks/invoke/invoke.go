// Package invoke is the service invocation building block: it takes a call of a method of an app, finds where the app is,
// and brings the call there (Dapr API, service invocation).
package invoke

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strings"
	"time"

	"github.com/jonboulle/clockwork"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"outrigger.dev/components/nameresolution"
	"outrigger.dev/invocation"
	"outrigger.dev/telemetry/metrics"
)

// Channel hands a call to the sidecar's own app.
type Channel interface {
	Invoke(ctx context.Context, req *invocation.Request) (*invocation.Response, error)
}

// External calls what is named like an app but is none: HTTPEndpoint resources and absolute URLs.
type External interface {
	// BaseURL tells whether there is an endpoint of this name.
	BaseURL(name string) (string, bool)
	// Invoke calls a named endpoint or an absolute URL.
	Invoke(ctx context.Context, target string, req *invocation.Request) (*invocation.Response, error)
}

// Peers brings a call to the sidecar at an address.
type Peers interface {
	Invoke(ctx context.Context, address string, req *invocation.Request) (*invocation.Response, error)
	// Retriable reports whether an error of Invoke means that the peer did not take the call.
	Retriable(err error) bool
}

// Resolver finds the address of the sidecar of an app.
type Resolver interface {
	Resolve(ctx context.Context, req nameresolution.Request) (string, error)
	// Forget drops an address that did not answer from what the resolver remembers.
	Forget(req nameresolution.Request, address string)
}

// Options of the block.
type Options struct {
	// AppID and Namespace are this sidecar's.
	AppID, Namespace string
	// HostAddress and HostName go into the forwarding headers of remote calls.
	HostAddress, HostName string
	// InternalPort is the port that resolvers which know only hosts assume.
	InternalPort int
	// App is the channel to this sidecar's app, nil when there is none.
	App Channel
	// Peers and Resolver reach other sidecars.
	Peers    Peers
	Resolver Resolver
	// External calls HTTPEndpoint resources and absolute URLs; nil when their channels could not be made.
	External External
	// MaxBodyBytes bounds bodies that have to be held in memory; 0 or less means no limit.
	MaxBodyBytes int64
	Metrics      *metrics.Metrics
	Log          *slog.Logger
	Clock        clockwork.Clock
}

// Block is the service invocation block.
type Block struct {
	options Options
	// identity are the headers of every remote call that say who calls; they are never changed.
	identity invocation.Header
}

// New makes the block.
func New(o Options) *Block {
	if o.Clock == nil {
		o.Clock = clockwork.NewRealClock()
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	address := o.HostAddress
	if ip := net.ParseIP(address); ip != nil && ip.To4() == nil {
		address = `"[` + address + `]"`
	}
	b := &Block{options: o}
	b.identity.Add(invocation.CallerAppID, o.AppID)
	b.identity.Add(invocation.CallerNamespace, o.Namespace)
	b.identity.Add("X-Forwarded-For", o.HostAddress)
	b.identity.Add("X-Forwarded-Host", o.HostName)
	b.identity.Add("Forwarded", "for="+address+";by="+address+";host="+o.HostName)
	return b
}

// The built-in retries of calls to other sidecars (Dapr API, service invocation: resiliency).
const (
	retries       = 3
	retryInterval = time.Second
)

// Invoke brings a call to the target, in one of the forms of the Dapr API: an app id, an app id with namespace, the name of
// an HTTPEndpoint, or an absolute URL. The method must be clean already. Errors are the cause alone; the faces wrap them.
func (b *Block) Invoke(ctx context.Context, target string, req *invocation.Request) (*invocation.Response, error) {
	if err := invocation.CheckMethod(req.Method); err != nil {
		return nil, status.Error(codes.InvalidArgument, err.Error())
	}
	if strings.HasPrefix(target, "http://") || strings.HasPrefix(target, "https://") {
		if b.options.External == nil {
			return nil, errors.New("the channels to HTTP endpoints could not be opened; see the sidecar's log")
		}
		return b.external(ctx, target, req)
	}
	id, namespace, dotted := strings.Cut(target, ".")
	if strings.Contains(namespace, ".") {
		return nil, fmt.Errorf("invalid app id %s", target)
	}
	if id == "" {
		return nil, errors.New("app id is empty")
	}
	if b.options.External != nil {
		if _, ok := b.options.External.BaseURL(id); ok {
			return b.external(ctx, id, req)
		}
	}
	if !dotted || namespace == "" {
		namespace = b.options.Namespace
	}
	if id == b.options.AppID && namespace == b.options.Namespace {
		if b.options.App == nil {
			return nil, errors.New("cannot invoke local endpoint: app channel not initialized")
		}
		anonymise(&req.Header)
		return b.options.App.Invoke(ctx, req)
	}
	req.AppID, req.Namespace = id, namespace
	return b.remote(ctx, req)
}

// external calls an endpoint outside of the mesh.
func (b *Block) external(ctx context.Context, name string, req *invocation.Request) (*invocation.Response, error) {
	start := b.options.Clock.Now()
	b.options.Metrics.Invocation().ReqSent(name, !req.Replayable())
	resp, err := b.options.External.Invoke(ctx, name, req)
	b.received(name, req, resp, err, start)
	return resp, err
}

func (b *Block) received(name string, req *invocation.Request, resp *invocation.Response, err error, start time.Time) {
	code := int(status.Code(err))
	if err == nil {
		code = resp.Status
	}
	b.options.Metrics.Invocation().ResRecv(name, code, !req.Replayable(), b.options.Clock.Since(start))
}

// remote calls the sidecar of another app. A call that a peer did not take is tried again, each time where the resolver
// then finds the app, unless its body is a stream that may be half gone.
func (b *Block) remote(ctx context.Context, req *invocation.Request) (*invocation.Response, error) {
	b.identify(req)
	where := nameresolution.Request{ID: req.AppID, Namespace: req.Namespace, Port: b.options.InternalPort}
	start := b.options.Clock.Now()
	b.options.Metrics.Invocation().ReqSent(req.AppID, !req.Replayable())
	for attempt := 0; ; attempt++ {
		address, err := b.options.Resolver.Resolve(ctx, where)
		if err != nil {
			return nil, err
		}
		resp, err := b.options.Peers.Invoke(ctx, address, req)
		if err == nil || !b.options.Peers.Retriable(err) {
			b.received(req.AppID, req, resp, err, start)
			return resp, err
		}
		b.options.Resolver.Forget(where, address)
		if !req.Replayable() {
			b.received(req.AppID, req, resp, err, start)
			return nil, err
		}
		if attempt == retries {
			b.received(req.AppID, req, resp, err, start)
			return nil, fmt.Errorf("failed to invoke target %s after %d retries. Error: %w", req.AppID, retries, err)
		}
		b.options.Log.Warn(fmt.Sprintf("Error processing operation DaprBuiltInServiceRetries. Retrying in %s…", retryInterval), "app", req.AppID, "address", address, "error", err)
		select {
		case <-b.options.Clock.After(retryInterval):
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// identify puts the headers of a remote call in place of any that the client sent under those names.
func (b *Block) identify(req *invocation.Request) {
	h := &req.Header
	anonymise(h)
	callee := []byte(req.AppID)
	*h = append(*h, b.identity...)
	*h = append(*h, invocation.Field{Name: calleeAppID, Value: callee}, invocation.Field{Name: destinationAppID, Value: callee})
}

var (
	calleeAppID      = []byte(invocation.CalleeAppID)
	destinationAppID = []byte(invocation.DestinationAppID)
)

// anonymise takes out the headers by which an app knows who calls it: only sidecars may say that.
func anonymise(h *invocation.Header) {
	kept := (*h)[:0]
	for _, f := range *h {
		if !identity(f.Name) {
			kept = append(kept, f)
		}
	}
	*h = kept
}

// identity reports whether a header is one of those that say who calls whom.
func identity(name []byte) bool {
	if len(name) < 18 || (name[0] != 'd' && name[0] != 'D') {
		return false
	}
	return invocation.Is(name, invocation.CallerAppID) || invocation.Is(name, invocation.CallerNamespace) ||
		invocation.Is(name, invocation.CalleeAppID) || invocation.Is(name, invocation.DestinationAppID)
}

// Receive serves a call that came from another sidecar: it is the handler of the internal port. Its errors are gRPC
// statuses (Dapr API, internal protocol: errors before the first response message).
func (b *Block) Receive(ctx context.Context, req *invocation.Request) (*invocation.Response, error) {
	caller := string(req.Header.Get(invocation.CallerAppID))
	b.options.Metrics.Invocation().ReqRecv(caller)
	resp, err := b.receive(ctx, req)
	code := int(status.Code(err))
	if err == nil {
		code = resp.Status
	}
	b.options.Metrics.Invocation().ResSent(caller, code)
	return resp, err
}

func (b *Block) receive(ctx context.Context, req *invocation.Request) (*invocation.Response, error) {
	if b.options.App == nil {
		return nil, status.Error(codes.Internal, "app channel is not initialized")
	}
	req.Method = invocation.CleanMethod(req.Method)
	if err := invocation.CheckMethod(req.Method); err != nil {
		return nil, status.Error(codes.InvalidArgument, err.Error())
	}
	req.Header.Del(invocation.DestinationAppID)
	resp, err := b.options.App.Invoke(ctx, req)
	if err != nil {
		return nil, status.Errorf(codes.Internal, "error invoking app channel: %s", err)
	}
	return resp, nil
}
