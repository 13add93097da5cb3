// Package app is the channel from a sidecar to its own app, and to the external endpoints that stand in for apps: it turns
// an [invocation.Request] into the protocol the app speaks and the app's answer into an [invocation.Response], watches the
// app's health and bounds how many calls it gets at a time (Dapr API, service invocation: app channel).
package app

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strconv"
	"strings"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"outrigger.dev/invocation"
	"outrigger.dev/telemetry/metrics"
)

// Protocol is how an app is spoken to: the value of --app-protocol.
type Protocol string

// The protocols (Dapr API, app channel: options).
const (
	HTTP  Protocol = "http"
	HTTPS Protocol = "https"
	H2C   Protocol = "h2c"
	GRPC  Protocol = "grpc"
	GRPCS Protocol = "grpcs"
)

// ParseProtocol reads the value of --app-protocol, without regard to case; empty means http.
func ParseProtocol(text string) (Protocol, error) {
	switch p := Protocol(strings.ToLower(text)); p {
	case "":
		return HTTP, nil
	case HTTP, HTTPS, H2C, GRPC, GRPCS:
		return p, nil
	}
	return "", fmt.Errorf("invalid value for 'app-protocol': %s", text)
}

// IsGRPC reports whether the app is called by gRPC.
func (p Protocol) IsGRPC() bool { return p == GRPC || p == GRPCS }

// IsTLS reports whether the connection is encrypted. The app's certificate is never verified.
func (p Protocol) IsTLS() bool { return p == HTTPS || p == GRPCS }

// Options of a channel.
type Options struct {
	// Protocol is the app's; empty means http.
	Protocol Protocol
	// Address is the app's host name or IP; empty means 127.0.0.1.
	Address string
	// Port is the app's.
	Port int
	// MaxConcurrency bounds the calls that the app gets at a time; 0 and less mean no bound. Health probes are not counted,
	// nor are gRPC calls other than OnInvoke.
	MaxConcurrency int
	// MaxBodySize is in bytes; 0 and less mean no limit. It bounds gRPC messages in both directions, and how much of an HTTP
	// error response is read into memory before it is passed on as a stream.
	MaxBodySize int64
	// ReadBufferSize bounds the header of an HTTP response, in bytes; 0 and less mean 4096.
	ReadBufferSize int
	// APIToken is sent to the app as dapr-api-token with each call; empty means none.
	APIToken string
	// AppID is the app's own ID, named in the request for its configuration.
	AppID string
	// Health configures the app's health checks; nil means that there are none, and the app counts as healthy.
	Health *HealthOptions
	// Pipeline stands around all calls of an HTTP app but the health probes; nil is none.
	Pipeline Pipeline
	// Log is the logger of the channel; nil discards.
	Log *slog.Logger
	// Metrics may be nil.
	Metrics *metrics.Metrics
}

// Channel calls the app. It is safe for concurrent use.
type Channel interface {
	// Invoke calls a method of the app. An answer of the app is a response whatever its status; an error means that there is
	// none: the app cannot be reached ([*CallError]), is not healthy ([ErrUnhealthy]), or ctx ended while the call waited or
	// ran. The response must be closed. A streamed request body is not read any more once Invoke has failed or the response
	// is closed. The end of ctx breaks the call, also while the response's body is read.
	Invoke(ctx context.Context, req *invocation.Request) (*invocation.Response, error)
	// Config is what the app says about itself: the answer to GET /dapr/config if its status is 200, else nil. A gRPC app has
	// nothing to say.
	Config(ctx context.Context) ([]byte, error)
	// Health is the app's health. Its owner runs it.
	Health() *Health
	// Protocol is the app's protocol.
	Protocol() Protocol
	// Close refuses new calls, waits for those that run, and breaks them off when ctx ends. It returns the error of ctx then.
	Close(ctx context.Context) error
}

// ErrUnhealthy is what calls fail with while the app is not healthy.
var ErrUnhealthy = status.Error(codes.Internal, "app is not in a healthy state")

// ErrInvalidVerb is what calls of HTTP apps fail with when they have no verb that can be sent.
var ErrInvalidVerb = errors.New("invalid HTTP verb")

// ErrClosed is what calls fail with once the channel is closed.
var ErrClosed = errors.New("the app channel is closed")

// dialTimeout bounds the opening of a connection to an HTTP app.
const dialTimeout = 30 * time.Second

// New makes the channel to an app; it opens no connection yet. The error names the option that makes no sense.
func New(o Options) (Channel, error) {
	protocol, err := ParseProtocol(string(o.Protocol))
	if err != nil {
		return nil, err
	}
	o.Protocol = protocol
	if o.Port <= 0 || o.Port > 65535 {
		return nil, fmt.Errorf("invalid value for 'app-port': %d; use a number from 1 to 65535", o.Port)
	}
	if o.Address == "" {
		o.Address = "127.0.0.1"
	}
	if o.ReadBufferSize <= 0 {
		o.ReadBufferSize = 4096
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	switch o.Protocol {
	case GRPC, GRPCS:
		return newGRPCChannel(o)
	case H2C:
		c, err := newH2CChannel(o)
		if err != nil {
			return nil, err
		}
		return withPipeline(c, &o), nil
	default:
		c, err := newHTTPChannel(o)
		if err != nil {
			return nil, err
		}
		return withPipeline(c, &o), nil
	}
}

func (o *Options) hostPort() string {
	return net.JoinHostPort(strings.Trim(o.Address, "[]"), strconv.Itoa(o.Port))
}

// CallError is a call that got no answer. Its text is that of Go's HTTP client, which tools look for.
type CallError struct {
	// Verb is the HTTP verb and URL where the call went.
	Verb, URL string
	Err       error
}

func (e *CallError) Error() string {
	verb := e.Verb
	if len(verb) > 1 {
		verb = verb[:1] + strings.ToLower(verb[1:])
	}
	return fmt.Sprintf("%s %q: %s", verb, e.URL, causeText(e.Err))
}

func (e *CallError) Unwrap() error { return e.Err }
