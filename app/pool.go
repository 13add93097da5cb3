package app

import (
	"context"
	"math"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"outrigger.dev/invocation"
	"outrigger.dev/telemetry/metrics"
)

// Conns are the connections to a gRPC app: each is shared by up to 100 calls at a time, then there is another; those unused
// for 3 minutes are closed, but for one (Dapr API, app channel: gRPC app). It is a [grpc.ClientConnInterface] that adds the
// app's API token to each call, in place of one of the client.
type Conns struct {
	target  string
	token   string
	options []grpc.DialOption
	metrics *metrics.GRPCClient

	mu      sync.Mutex
	conns   []*pooled
	closed  bool
	sweeper *time.Timer
}

var _ grpc.ClientConnInterface = (*Conns)(nil)

// pooled is one connection.
type pooled struct {
	*grpc.ClientConn
	calls  int
	unused time.Time // since when, if calls is 0
}

const (
	callsPerConn = 100
	connIdle     = 3 * time.Minute
)

func newPool(o Options) *Conns {
	limit := math.MaxInt32
	if o.MaxBodySize > 0 && o.MaxBodySize < math.MaxInt32 {
		limit = int(o.MaxBodySize)
	}
	security := insecure.NewCredentials()
	if o.Protocol.IsTLS() {
		security = credentials.NewTLS(appTLS())
	}
	return &Conns{
		target:  "passthrough:///" + o.hostPort(),
		token:   o.APIToken,
		metrics: o.Metrics.GRPCClient(),
		options: []grpc.DialOption{
			grpc.WithTransportCredentials(security),
			grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(limit), grpc.MaxCallSendMsgSize(limit)),
			grpc.WithConnectParams(grpc.ConnectParams{
				Backoff:           backoff.Config{BaseDelay: time.Second, Multiplier: 1.6, Jitter: 0.2, MaxDelay: 120 * time.Second},
				MinConnectTimeout: 20 * time.Second,
			}),
			grpc.WithNoProxy(),
			grpc.WithDisableServiceConfig(),
		},
	}
}

// acquire returns a connection that has room for another call.
func (c *Conns) acquire() (*pooled, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return nil, ErrClosed
	}
	for _, p := range c.conns {
		if p.calls < callsPerConn {
			p.calls++
			if p.GetState() == connectivity.TransientFailure {
				// The app is on this machine, as a rule, and may have come back just now: do not sit out the pause.
				p.ResetConnectBackoff()
			}
			return p, nil
		}
	}
	conn, err := grpc.NewClient(c.target, c.options...)
	if err != nil {
		return nil, err
	}
	p := &pooled{ClientConn: conn, calls: 1}
	c.conns = append(c.conns, p)
	return p, nil
}

// release ends a call on a connection.
func (c *Conns) release(p *pooled) {
	c.mu.Lock()
	defer c.mu.Unlock()
	p.calls--
	if p.calls > 0 || c.closed {
		return
	}
	p.unused = time.Now()
	if len(c.conns) > 1 && c.sweeper == nil {
		c.sweeper = time.AfterFunc(connIdle, c.sweep)
	}
}

// sweep closes the connections that nobody used for long, but for one, and comes again while there are several.
func (c *Conns) sweep() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return
	}
	c.closeUnused(time.Now())
	if len(c.conns) > 1 {
		c.sweeper.Reset(connIdle)
	} else {
		c.sweeper = nil
	}
}

// closeUnused is called with mu held. The first connection stays.
func (c *Conns) closeUnused(now time.Time) {
	kept := c.conns[:0]
	for i, p := range c.conns {
		if i > 0 && p.calls == 0 && now.Sub(p.unused) >= connIdle {
			_ = p.Close()
			continue
		}
		kept = append(kept, p)
	}
	clear(c.conns[len(kept):])
	c.conns = kept
}

// close breaks off all calls.
func (c *Conns) close() {
	c.mu.Lock()
	c.closed = true
	all := c.conns
	c.conns = nil
	if c.sweeper != nil {
		c.sweeper.Stop()
	}
	c.mu.Unlock()
	for _, p := range all {
		_ = p.Close()
	}
}

// Invoke makes a unary call.
func (c *Conns) Invoke(ctx context.Context, method string, in, out any, options ...grpc.CallOption) error {
	start := time.Now()
	err := c.unary(c.authorise(ctx), method, in, out, options)
	received := int64(-1)
	if err == nil {
		received = size(out)
	}
	c.metrics.Observe(method, status.Code(err), time.Since(start), size(in), received)
	return err
}

func (c *Conns) unary(ctx context.Context, method string, in, out any, options []grpc.CallOption) error {
	p, err := c.acquire()
	if err != nil {
		return err
	}
	defer c.release(p)
	return p.Invoke(ctx, method, in, out, options...)
}

// NewStream opens a stream, which counts as a call of its connection until it ends. Streams are not measured: whoever proxies
// does that.
func (c *Conns) NewStream(ctx context.Context, desc *grpc.StreamDesc, method string, options ...grpc.CallOption) (grpc.ClientStream, error) {
	p, err := c.acquire()
	if err != nil {
		return nil, err
	}
	release := sync.OnceFunc(func() { c.release(p) })
	options = append(options[:len(options):len(options)], grpc.OnFinish(func(error) { release() }))
	stream, err := p.NewStream(c.authorise(ctx), desc, method, options...)
	if err != nil {
		release()
	}
	return stream, err
}

// authorise sets the app's token in the outgoing metadata.
func (c *Conns) authorise(ctx context.Context) context.Context {
	if c.token == "" {
		return ctx
	}
	md, ok := metadata.FromOutgoingContext(ctx) // a copy
	if !ok {
		md = metadata.MD{}
	}
	md[invocation.APIToken] = []string{c.token}
	return metadata.NewOutgoingContext(ctx, md)
}

// bare is Conns without token and metrics: for health probes, which have neither.
func (c *Conns) bare() grpc.ClientConnInterface { return bareConns{c} }

type bareConns struct{ c *Conns }

func (b bareConns) Invoke(ctx context.Context, method string, in, out any, options ...grpc.CallOption) error {
	return b.c.unary(ctx, method, in, out, options)
}

func (b bareConns) NewStream(ctx context.Context, desc *grpc.StreamDesc, method string, options ...grpc.CallOption) (grpc.ClientStream, error) {
	return b.c.NewStream(ctx, desc, method, options...)
}
