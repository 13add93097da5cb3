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
	"sync"
	"sync/atomic"
	"time"

	"github.com/jonboulle/clockwork"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"outrigger.dev/components/nameresolution"
	"outrigger.dev/invocation"
	"outrigger.dev/resiliency"
	"outrigger.dev/telemetry/metrics"
	"outrigger.dev/telemetry/tracing"
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
	// Forward passes proxied gRPC calls on to the app, nil when there is none.
	Forward Forwarder
	// Access is the app's access control list; nil, which is the interface without a value in it, allows everything.
	Access Access
	// Resiliency has the policies for calls of apps, endpoints and URLs; nil means the built-in retries alone.
	Resiliency *resiliency.Engine
	// Streams passes proxied gRPC calls on to other sidecars.
	Streams PeerStreams
	// Peers and Resolver reach other sidecars.
	Peers    Peers
	Resolver Resolver
	// External calls HTTPEndpoint resources and absolute URLs; nil when their channels could not be made.
	External External
	// MaxBodyBytes bounds bodies that have to be held in memory; 0 or less means no limit.
	MaxBodyBytes int64
	// Tracer makes the spans of calls that come from other sidecars; nil is off.
	Tracer  *tracing.Tracer
	Metrics *metrics.Metrics
	Log     *slog.Logger
	Clock   clockwork.Clock
}

// Block is the service invocation block.
type Block struct {
	options Options
	// identity are the headers of every remote call that say who calls; they are never changed.
	identity invocation.Header
	// forwarders are the goroutines that pass the messages of clients on.
	forwarders sync.WaitGroup
	// ending ends when proxied calls have to; end ends it.
	ending context.Context
	end    context.CancelFunc
	// noted is when a call for another app was last noted, in Unix seconds.
	noted atomic.Int64
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
	if o.Resiliency == nil {
		o.Resiliency = resiliency.New(resiliency.Options{Clock: o.Clock, Log: o.Log})
	}
	b := &Block{options: o}
	b.ending, b.end = context.WithCancel(context.Background())
	b.identity.Add(invocation.CallerAppID, o.AppID)
	b.identity.Add(invocation.CallerNamespace, o.Namespace)
	b.identity.Add("X-Forwarded-For", o.HostAddress)
	b.identity.Add("X-Forwarded-Host", o.HostName)
	b.identity.Add("Forwarded", "for="+address+";by="+address+";host="+o.HostName)
	return b
}

// Invoke brings a call to the target, in one of the forms of the Dapr API: an app id, an app id with namespace, the name of
// an HTTPEndpoint, or an absolute URL. The method must be clean already. Errors are the cause alone; the faces wrap them.
func (b *Block) Invoke(ctx context.Context, target string, req *invocation.Request) (*invocation.Response, error) {
	if err := invocation.CheckMethod(req.Method); err != nil {
		return nil, status.Error(codes.InvalidArgument, err.Error())
	}
	r, err := b.route(target, req)
	if err != nil {
		return nil, err
	}
	if b.options.Resiliency.CoversApp(target) {
		return b.underPolicies(ctx, target, r, req)
	}
	return b.call(ctx, r, req)
}

// route is the way of a call.
type route struct {
	kind routeKind
	// endpoint is the name of the HTTPEndpoint or the URL of an external call.
	endpoint string
}

type routeKind int

const (
	toOwnApp routeKind = iota
	toPeer
	toEndpoint
	toURL
)

// route finds the way to a target, and makes the request fit for it.
func (b *Block) route(target string, req *invocation.Request) (route, error) {
	if strings.HasPrefix(target, "http://") || strings.HasPrefix(target, "https://") {
		if b.options.External == nil {
			return route{}, errors.New("the channels to HTTP endpoints could not be opened; see the sidecar's log")
		}
		return route{toURL, target}, nil
	}
	id, namespace, err := b.appID(target)
	if err != nil {
		return route{}, err
	}
	if b.options.External != nil {
		if _, ok := b.options.External.BaseURL(id); ok {
			return route{toEndpoint, id}, nil
		}
	}
	if b.isOwn(id, namespace) {
		if b.options.App == nil {
			return route{}, errors.New("cannot invoke local endpoint: app channel not initialized")
		}
		anonymise(&req.Header)
		return route{kind: toOwnApp}, nil
	}
	req.AppID, req.Namespace = id, namespace
	b.identify(req)
	return route{kind: toPeer}, nil
}

// appID takes an app id apart that may have a namespace.
func (b *Block) appID(target string) (id, namespace string, err error) {
	id, namespace, _ = strings.Cut(target, ".")
	if strings.Contains(namespace, ".") {
		return "", "", fmt.Errorf("invalid app id %s", target)
	}
	if id == "" {
		return "", "", errors.New("app id is empty")
	}
	if namespace == "" {
		namespace = b.options.Namespace
	}
	return id, namespace, nil
}

// isOwn reports whether an app is this sidecar's.
func (b *Block) isOwn(id, namespace string) bool {
	return id == b.options.AppID && namespace == b.options.Namespace
}

// call makes a call once, apart from the built-in retries.
func (b *Block) call(ctx context.Context, r route, req *invocation.Request) (*invocation.Response, error) {
	switch r.kind {
	case toOwnApp:
		return b.options.App.Invoke(ctx, req)
	case toPeer:
		return b.remote(ctx, req)
	default:
		return b.external(ctx, r.endpoint, req)
	}
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

// remote calls the sidecar of another app.
func (b *Block) remote(ctx context.Context, req *invocation.Request) (*invocation.Response, error) {
	resp, notTaken, err := b.once(ctx, req)
	if notTaken && req.Replayable() && !b.options.Resiliency.HasApp(req.AppID) {
		return b.again(ctx, req, err)
	}
	return resp, err
}

// once calls the sidecar of another app where the resolver finds it. notTaken tells that the peer did not take the call.
func (b *Block) once(ctx context.Context, req *invocation.Request) (resp *invocation.Response, notTaken bool, err error) {
	where := nameresolution.Request{ID: req.AppID, Namespace: req.Namespace, Port: b.options.InternalPort}
	address, err := b.options.Resolver.Resolve(ctx, where)
	if err != nil {
		return nil, false, err
	}
	start := b.options.Clock.Now()
	b.options.Metrics.Invocation().ReqSent(req.AppID, !req.Replayable())
	resp, err = b.options.Peers.Invoke(ctx, address, req)
	b.received(req.AppID, req, resp, err, start)
	if err == nil || !b.options.Peers.Retriable(err) {
		return resp, false, err
	}
	b.options.Resolver.Forget(where, address)
	return nil, true, err
}

// again goes on with a call that a peer did not take: the built-in retries, each where the resolver then finds the app (Dapr
// API, service invocation: resiliency).
func (b *Block) again(ctx context.Context, req *invocation.Request, first error) (*invocation.Response, error) {
	attempts, notTaken := 0, true
	resp, err := resiliency.Run(ctx, b.options.Resiliency.BuiltIn(resiliency.BuiltInServiceRetries), func(ctx context.Context) (*invocation.Response, error) {
		if attempts++; attempts == 1 {
			return nil, first
		}
		resp, not, err := b.once(ctx, req)
		notTaken = not
		if err != nil && !not {
			err = resiliency.Final(err)
		}
		return resp, err
	})
	if err != nil && ctx.Err() != nil {
		return nil, ctx.Err()
	}
	if err != nil && notTaken {
		return nil, fmt.Errorf("failed to invoke target %s after %d retries. Error: %w", req.AppID, attempts-1, err)
	}
	return resp, err
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
		if !saysWho(f.Name) {
			kept = append(kept, f)
		}
	}
	*h = kept
}

// saysWho reports whether a header is one of those that say who calls whom.
func saysWho(name []byte) bool {
	if len(name) < 18 || (name[0] != 'd' && name[0] != 'D') {
		return false
	}
	return invocation.Is(name, invocation.CallerAppID) || invocation.Is(name, invocation.CallerNamespace) ||
		invocation.Is(name, invocation.CalleeAppID) || invocation.Is(name, invocation.DestinationAppID)
}

// Receive serves a call that came from another sidecar: it is the handler of the internal port. Its errors are gRPC
// statuses (Dapr API, internal protocol: errors before the first response message).
func (b *Block) Receive(ctx context.Context, req *invocation.Request) (*invocation.Response, error) {
	vouch(&req.Header, req.Caller)
	caller := string(req.Header.Get(invocation.CallerAppID))
	b.options.Metrics.Invocation().ReqRecv(caller)
	b.noteMisled(req)
	span := b.receivedSpan(ctx, req)
	resp, err := b.receive(ctx, req)
	finish(span, err)
	code := int(status.Code(err))
	if err == nil {
		code = resp.Status
	}
	b.options.Metrics.Invocation().ResSent(caller, code)
	return resp, err
}

// noteMisled notes a call that was meant for another app. Without mTLS nothing but this tells of name resolution that leads
// calls astray; the app is called all the same, for it may be known by several names.
func (b *Block) noteMisled(req *invocation.Request) {
	meant := req.Header.Get(invocation.CalleeAppID)
	if len(meant) == 0 || string(meant) == b.options.AppID {
		return
	}
	now, last := b.options.Clock.Now().Unix(), b.noted.Load()
	if now-last >= noteInterval && b.noted.CompareAndSwap(last, now) {
		b.options.Log.Warn("a call for another app has come to this one's sidecar; check the name resolution of the caller", "app", b.options.AppID,
			"meant", string(meant), "caller", string(req.Header.Get(invocation.CallerAppID)))
	}
}

// noteInterval is the least time between two notes of misled calls, in seconds.
const noteInterval = 10

func (b *Block) receive(ctx context.Context, req *invocation.Request) (*invocation.Response, error) {
	if b.options.App == nil {
		return nil, status.Error(codes.Internal, "app channel is not initialized")
	}
	req.Method = invocation.CleanMethod(req.Method)
	if err := invocation.CheckMethod(req.Method); err != nil {
		return nil, status.Error(codes.InvalidArgument, err.Error())
	}
	if err := b.check(req.Caller, req.Method, req.Verb); err != nil {
		return nil, err
	}
	req.Header.Del(invocation.DestinationAppID)
	resp, err := b.options.App.Invoke(ctx, req)
	if err != nil {
		return nil, status.Errorf(codes.Internal, "error invoking app channel: %s", err)
	}
	return resp, nil
}
