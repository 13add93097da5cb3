package kafkaclient

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/jonboulle/clockwork"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
)

// Bounds that the properties do not set.
const (
	openTimeout  = 30 * time.Second // to reach a broker when opening
	closeTimeout = 5 * time.Second  // to leave a group and commit when closing
	// idleTimeout is shorter than the ten minutes after which brokers close idle connections themselves.
	idleTimeout   = 9 * time.Minute
	longestWait   = 2500 * time.Millisecond // before a request is tried again, unless consumeRetryInterval is longer
	deliveryLimit = 15 * time.Second        // to publish a message with all retries
	producerBytes = 64 << 20                // waiting to be sent
)

// ErrClosed is what a closed producer or consumer answers.
var ErrClosed = errors.New("component is closed")

// Client holds what the producers and consumers of one component have in common.
type Client struct {
	options  Options
	log      *slog.Logger
	clock    clockwork.Clock
	base     []kgo.Opt
	exclude  *regexp.Regexp // nil: nothing
	registry *registry      // nil without a schema registry
}

// New checks the options and prepares for connecting, which [Client.OpenProducer] and [Client.NewConsumer] do.
func New(ctx context.Context, o Options, log *slog.Logger, clock clockwork.Clock) (*Client, error) {
	if err := o.Check(); err != nil {
		return nil, err
	}
	c := &Client{options: o, log: log, clock: clock}
	config, err := o.tlsConfig()
	if err != nil {
		return nil, err
	}
	if name := o.idle(); name != "" {
		log.Warn("the metadata property " + name + " has no effect, for the brokers are talked to in clear text; choose an authType other than none, and leave disableTls out, for TLS")
	}
	mechanism, err := o.mechanism(ctx, clock)
	if err != nil {
		return nil, err
	}
	if o.ExcludeHeaderMeta != "" {
		c.exclude = regexp.MustCompile(o.ExcludeHeaderMeta) // Check compiled it
	}
	if o.SchemaRegistryURL != "" {
		if c.registry, err = newRegistry(&o, clock); err != nil {
			return nil, err
		}
	}
	retry := time.Duration(o.ConsumeRetryInterval)
	c.base = []kgo.Opt{
		kgo.SeedBrokers(o.brokers()...),
		kgo.ClientID(o.ClientID),
		kgo.DialTimeout(o.DialTimeout),
		kgo.RequestTimeoutOverhead(max(o.ReadTimeout, o.WriteTimeout)),
		kgo.MetadataMaxAge(o.MetadataRefresh),
		kgo.MetadataMinAge(min(100*time.Millisecond, o.MetadataRefresh)),
		kgo.ConnIdleTimeout(idleTimeout),
		kgo.AllowAutoTopicCreation(),
		kgo.DisableClientMetrics(),
		kgo.RetryBackoffFn(func(fails int) time.Duration {
			return min(max(retry, 10*time.Millisecond)<<min(max(fails-1, 0), 10), max(longestWait, retry))
		}),
		kgo.WithLogger(newLogger(log, clock)),
	}
	if o.ConnKeepAlive > 0 {
		c.base = append(c.base, kgo.ConnIdleTimeout(max(o.ConnKeepAlive, time.Second)))
	}
	if limit := o.MetadataTimeout; limit > 0 {
		const metadataKey = 3
		c.base = append(c.base, kgo.RetryTimeoutFn(func(key int16) time.Duration {
			if key == metadataKey {
				return limit
			}
			return max(o.ReadTimeout, o.SessionTimeout)
		}))
	}
	if config != nil {
		c.base = append(c.base, kgo.DialTLSConfig(config))
	}
	if mechanism != nil {
		c.base = append(c.base, kgo.SASL(mechanism))
	}
	return c, nil
}

// connect makes a client and reaches a broker with it.
func (c *Client) connect(ctx context.Context, opts ...kgo.Opt) (*kgo.Client, error) {
	cl, err := kgo.NewClient(slices.Concat(c.base, opts)...)
	if err != nil {
		return nil, fmt.Errorf("kafka client: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, openTimeout)
	defer cancel()
	if err := cl.Ping(ctx); err != nil {
		cl.Close()
		return nil, c.explain(err)
	}
	return cl, nil
}

// explain adds the brokers and a remedy to an error of connecting.
func (c *Client) explain(err error) error {
	text := err.Error()
	var remedy string
	switch {
	case strings.Contains(text, "no access token"), strings.Contains(text, "no AWS credentials"):
		remedy = "the brokers were not asked"
	case errors.Is(err, kerr.SaslAuthenticationFailed), strings.Contains(text, "SASL"):
		remedy = "check authType (" + c.options.auth() + ") and its properties"
		if c.options.auth() == authPassword {
			remedy = "check saslUsername, saslPassword and saslMechanism (" + c.options.SASLMechanism + ")"
		}
	case strings.Contains(text, "x509:"):
		remedy = "check caCert, which names the authority of the brokers' certificates"
	case strings.Contains(text, "tls:"):
		remedy = "check that the brokers speak TLS on this port (else set disableTls to true), and clientCert and clientKey"
	case errors.Is(err, io.EOF), errors.Is(err, syscall.ECONNRESET), errors.Is(err, context.DeadlineExceeded), strings.Contains(text, "i/o timeout"):
		remedy = "they are not reached or do not answer: check brokers, and whether they want TLS or a login on this port (authType, disableTls)"
		if c.options.auth() == authPassword { // some only hang up on a login that they refuse
			remedy += ", and saslUsername, saslPassword and saslMechanism (" + c.options.SASLMechanism + ")"
		}
	default:
		remedy = "check that they are running and that brokers is right"
	}
	return fmt.Errorf("kafka at %s cannot be used: %w; %s", strings.Join(c.options.brokers(), ","), err, remedy)
}

// Permanent reports whether the same call can never succeed.
func Permanent(err error) bool {
	var refused *RequestError
	switch {
	case errors.As(err, &refused), errors.Is(err, ErrClosed):
		return true
	}
	var code *kerr.Error
	return errors.As(err, &code) && !code.Retriable
}

// RequestError says that a message cannot be published as it is.
type RequestError struct{ Err error }

func (e *RequestError) Error() string { return e.Err.Error() }

// Unwrap is the cause.
func (e *RequestError) Unwrap() error { return e.Err }

func refuse(format string, args ...any) error { return &RequestError{fmt.Errorf(format, args...)} }

// quiet is how long a warning of the client library that was passed on is not repeated: while brokers are away it would come
// several times a second.
const quiet = 30 * time.Second

// logger passes on what the client library finds worth a warning.
type logger struct {
	log   *slog.Logger
	clock clockwork.Clock

	mu   sync.Mutex
	last map[string]time.Time // by text, of which the library has few
}

func newLogger(log *slog.Logger, clock clockwork.Clock) *logger {
	return &logger{log: log, clock: clock, last: map[string]time.Time{}}
}

// Level is the least severe level that Log is called with.
func (*logger) Level() kgo.LogLevel { return kgo.LogLevelWarn }

// Log takes one message with pairs of names and values.
func (l *logger) Log(_ kgo.LogLevel, text string, pairs ...any) {
	now := l.clock.Now()
	l.mu.Lock()
	last, known := l.last[text]
	repeated := known && now.Sub(last) < quiet
	if !repeated {
		l.last[text] = now
	}
	l.mu.Unlock()
	if !repeated {
		l.log.Warn("kafka: "+text, pairs...)
	}
}
