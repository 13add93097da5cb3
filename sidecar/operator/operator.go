// Package operator is the client of the operator: a sidecar in Kubernetes mode has its Configuration and its resources from
// there, instead of from files (Dapr API, Kubernetes: operator).
package operator

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strings"
	"sync"
	"time"

	"github.com/jonboulle/clockwork"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/status"

	operatorv1 "outrigger.dev/api/gen/operator/v1"
	"outrigger.dev/resource"
)

// Options of a client.
type Options struct {
	// Address is the operator's, "host:port".
	Address string
	// Namespace is the sidecar's own.
	Namespace string
	// Credentials secure the connection; they hold the operator to its identity.
	Credentials credentials.TransportCredentials
	// Dial opens connections; nil is TCP.
	Dial func(ctx context.Context, address string) (net.Conn, error)
	// ConnectTimeout bounds reaching the operator for the first time; 0 means 30 s.
	ConnectTimeout time.Duration
	Clock          clockwork.Clock
	Log            *slog.Logger
}

// Bounds of talking to the operator (Dapr API, Kubernetes: operator).
const (
	connectTimeout = 30 * time.Second
	attemptTimeout = 5 * time.Second
	attempts       = 100
	attemptPause   = time.Second

	firstReconnect = 500 * time.Millisecond
	lastReconnect  = 30 * time.Second
	// lastRedial is the longest pause between attempts to connect.
	lastRedial = 5 * time.Second

	// maxMessage bounds a list, in bytes.
	maxMessage = 64 << 20
)

// Client is a connection to the operator.
type Client struct {
	options Options
	conn    *grpc.ClientConn
	calls   operatorv1.OperatorClient

	out    chan struct{}
	ctx    context.Context
	cancel context.CancelFunc
	tasks  sync.WaitGroup
}

// Open connects to the operator. The error says where it was looked for and why it cannot be reached.
func Open(ctx context.Context, o Options) (*Client, error) {
	if o.Address == "" {
		return nil, errors.New("the address of the operator is missing: give --control-plane-address host:port")
	}
	if o.Clock == nil {
		o.Clock = clockwork.NewRealClock()
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.ConnectTimeout <= 0 {
		o.ConnectTimeout = connectTimeout
	}
	if o.Dial == nil {
		o.Dial = func(ctx context.Context, address string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "tcp", address)
		}
	}
	tried := &attempt{}
	options := []grpc.DialOption{
		grpc.WithTransportCredentials(watched{o.Credentials, tried}), grpc.WithNoProxy(), grpc.WithContextDialer(tried.dialing(o.Dial)),
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: firstReconnect, Multiplier: 1.6, Jitter: 0.2, MaxDelay: lastRedial},
			MinConnectTimeout: 10 * time.Second,
		}),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 10 * time.Second, Timeout: 5 * time.Second, PermitWithoutStream: true}),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxMessage)),
	}
	// The name is resolved anew at every attempt, by the dialer.
	conn, err := grpc.NewClient("passthrough:///"+o.Address, options...)
	if err != nil {
		return nil, fmt.Errorf("the operator's address %q cannot be used: %w", o.Address, err)
	}
	if err := connect(ctx, conn, o.ConnectTimeout); err != nil {
		if last := tried.last(); last != nil {
			err = last
		}
		return nil, errors.Join(fmt.Errorf("the operator at %s cannot be reached within %s: %w; check that it runs, that the control plane's trust domain and namespace are right, and that its certificate chains to this sidecar's trust anchors",
			o.Address, o.ConnectTimeout, err), conn.Close())
	}
	c := &Client{options: o, conn: conn, calls: operatorv1.NewOperatorClient(conn), out: make(chan struct{}, 1)}
	c.ctx, c.cancel = context.WithCancel(context.Background())
	return c, nil
}

// connect waits until a connection is made.
func connect(ctx context.Context, conn *grpc.ClientConn, bound time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, bound)
	defer cancel()
	for {
		conn.Connect()
		state := conn.GetState()
		if state == connectivity.Ready {
			return nil
		}
		if !conn.WaitForStateChange(ctx, state) {
			return ctx.Err()
		}
	}
}

// Close ends the following of changes and the connection.
func (c *Client) Close() error {
	c.cancel()
	err := c.conn.Close()
	c.tasks.Wait()
	return err
}

// Configuration reads a Configuration of the sidecar's namespace.
func (c *Client) Configuration(ctx context.Context, name string) (*resource.Configuration, []resource.Problem, error) {
	reply, err := retry(ctx, c, func(ctx context.Context) (*operatorv1.GetConfigurationResponse, error) {
		return c.calls.GetConfiguration(ctx, &operatorv1.GetConfigurationRequest{Name: name, Namespace: c.options.Namespace})
	})
	if status.Code(err) == codes.NotFound || err != nil && strings.Contains(status.Convert(err).Message(), "not found") {
		return nil, nil, c.notFound(name, err)
	}
	if err != nil {
		return nil, nil, fmt.Errorf("error getting configuration %s/%s: %w", c.options.Namespace, name, err)
	}
	if len(reply.GetConfiguration()) == 0 {
		return nil, nil, c.notFound(name, errors.New("the operator sent nothing"))
	}
	return resource.DecodeConfiguration(reply.GetConfiguration(), resource.Origin{File: "operator", Document: 1, Line: 1})
}

func (c *Client) notFound(name string, err error) error {
	return fmt.Errorf("configuration %s not found: %w; create the Configuration in namespace %s, or correct the annotation dapr.io/config", name, err, c.options.Namespace)
}

// retry calls the operator, again while it is not there or overloaded.
func retry[T any](ctx context.Context, c *Client, call func(ctx context.Context) (T, error)) (T, error) {
	for attempt := 1; ; attempt++ {
		bounded, cancel := context.WithTimeout(ctx, attemptTimeout)
		reply, err := call(bounded)
		cancel()
		code := status.Code(err)
		again := transient(code) && ctx.Err() == nil
		if err == nil || !again || attempt == attempts {
			return reply, err
		}
		c.options.Log.Debug("the operator did not answer; it is asked again", "attempt", attempt, "error", err)
		select {
		case <-c.options.Clock.After(attemptPause):
		case <-ctx.Done():
			return reply, ctx.Err()
		}
	}
}

// transient reports whether a call may succeed when it is made again.
func transient(code codes.Code) bool {
	return code == codes.Unavailable || code == codes.ResourceExhausted || code == codes.DeadlineExceeded
}
