// Package scheduler is the sidecar's client of the scheduler service, which keeps jobs and reminders and triggers them in time (Dapr API,
// scheduler).
//
// A [Client] asks one of the configured addresses for the list of all schedulers and follows its changes. Jobs are stored and read over one
// connection to each of them, in turns. Triggers come over streams: a sidecar has some to every scheduler, for each scheduler triggers the
// jobs that it owns. What a sidecar takes, it says when a stream opens; [Client.Accept] changes that, by new streams that replace the old ones.
//
//	hosts.go   following the list
//	calls.go   storing, reading, deleting and listing
//	link.go    one connection for triggers, and the streams that follow each other on it
//	stream.go  one stream: its triggers, their results, and its end
package scheduler

import (
	"context"
	"errors"
	"log/slog"
	"math"
	"math/rand/v2"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jonboulle/clockwork"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/resolver/manual"

	schedulerv1 "outrigger.dev/api/gen/scheduler/v1"
)

// DefaultJobStreams is how many streams go to each scheduler when the options do not say (Dapr API, scheduler: --scheduler-job-streams).
const DefaultJobStreams = 3

// DefaultGrace is how long deliveries may run on when their stream is replaced and the options do not say.
const DefaultGrace = 30 * time.Second

const (
	// settleTime is what a replaced stream gets for its very end: to bring the last results to the scheduler, or to finish deliveries while
	// triggers are held back.
	settleTime = time.Second
	// dialTimeout bounds an attempt to connect.
	dialTimeout = 10 * time.Second
	// firstListTimeout bounds the wait for the first list of schedulers from one of them.
	firstListTimeout = 30 * time.Second
	// pingAfter and pingTimeout tell when a connection with a stream on it is dead; gRPC sends no pings more often.
	pingAfter, pingTimeout = 10 * time.Second, 5 * time.Second
)

// ErrDisabled is what calls fail with when no scheduler is configured (Dapr API, jobs: scheduler call).
var ErrDisabled = errors.New("scheduler clients are disabled")

// ErrClosed is what calls fail with once Run has ended.
var ErrClosed = errors.New("the client of the scheduler is closed: the sidecar is shutting down")

// Options of a client.
type Options struct {
	// Addresses are the configured schedulers, each "host:port". None disables the client.
	Addresses []string
	// Credentials secure the connections; nil is clear text.
	Credentials credentials.TransportCredentials
	// AppID and Namespace are the sidecar's own.
	AppID, Namespace string
	// JobStreams is the number of streams to each scheduler, each on a connection of its own; 0 and less mean [DefaultJobStreams].
	JobStreams int
	// Trigger handles a trigger and returns its result. It is called concurrently, once for each trigger. Its context ends when the result
	// is of no use any more, for then the scheduler triggers again. Nil fails every trigger.
	Trigger func(ctx context.Context, job *schedulerv1.WatchJobsResponse) schedulerv1.WatchJobsRequestResultStatus
	// Grace is how long running deliveries may go on when their stream is replaced, because the schedulers or what is accepted changed;
	// 0 means [DefaultGrace].
	Grace time.Duration
	// Clock is the time; nil is the system's.
	Clock clockwork.Clock
	// Rand are numbers from 0 to below 1, to spread what many sidecars do; nil is a source of its own. It is called concurrently.
	Rand func() float64
	// Log is nil to discard.
	Log *slog.Logger
	// Dial opens connections; nil is TCP.
	Dial func(ctx context.Context, address string) (net.Conn, error)
}

// Client talks to the schedulers. Its methods are safe for concurrent use.
type Client struct {
	options   Options
	addresses *manual.Resolver

	ready  chan struct{} // closed when the first list of schedulers is in force; calls may be made then
	closed chan struct{} // closed when Run has ended
	tasks  sync.WaitGroup

	conn atomic.Pointer[grpc.ClientConn] // to all schedulers, for calls

	mu      sync.Mutex
	hosts   []string // the list in force
	failure error    // of the last attempt to get a list; nil when there is one
	want    *want
	changed chan struct{} // closed when want is replaced
	// open counts the streams that are being opened, open, or still have deliveries; quiet is closed when it changes.
	open  int
	quiet chan struct{}

	// links belong to the goroutine of Run.
	links map[string][]*link
}

// New makes a client. It connects in [Client.Run].
func New(o Options) *Client {
	if o.JobStreams <= 0 {
		o.JobStreams = DefaultJobStreams
	}
	if o.Grace <= 0 {
		o.Grace = DefaultGrace
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
	if o.Credentials == nil {
		o.Credentials = insecure.NewCredentials()
	}
	if o.Dial == nil {
		o.Dial = func(ctx context.Context, address string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "tcp", address)
		}
	}
	o.Addresses = unique(o.Addresses)
	c := &Client{
		options: o, addresses: manual.NewBuilderWithScheme("schedulers"),
		ready: make(chan struct{}), closed: make(chan struct{}), changed: make(chan struct{}), quiet: make(chan struct{}),
		want: &want{}, links: map[string][]*link{},
	}
	if c.disabled() {
		close(c.ready)
	}
	return c
}

// unique are the addresses without repetitions and empty ones, in their order.
func unique(addresses []string) []string {
	kept := make([]string, 0, len(addresses))
	for _, a := range addresses {
		if a != "" && !slices.Contains(kept, a) {
			kept = append(kept, a)
		}
	}
	return kept
}

func (c *Client) disabled() bool { return len(c.options.Addresses) == 0 }

// Run keeps the connections until ctx ends, and returns nil when all that it started has ended. Deliveries that still run then are broken off
// and their triggers come again, to another sidecar or later; call [Client.Drain] first to let them finish. It is to be called once.
func (c *Client) Run(ctx context.Context) error {
	defer close(c.closed)
	if c.disabled() {
		<-ctx.Done()
		return nil
	}
	calls, err := grpc.NewClient("schedulers:///", c.dialOptions(
		grpc.WithResolvers(c.addresses),
		grpc.WithDefaultServiceConfig(`{"loadBalancingConfig":[{"round_robin":{}}]}`),
	)...)
	if err != nil {
		return err
	}
	c.conn.Store(calls)
	ctx, cancel := context.WithCancel(ctx)
	defer func() {
		cancel()
		c.tasks.Wait()
		_ = calls.Close() // it has nothing to say
		c.mu.Lock()
		c.hosts = nil
		c.mu.Unlock()
	}()
	c.follow(ctx)
	return nil
}

// dialOptions are those of all connections. A name in an address is resolved anew at each attempt, by the dialler.
func (c *Client) dialOptions(more ...grpc.DialOption) []grpc.DialOption {
	return append([]grpc.DialOption{
		grpc.WithTransportCredentials(c.options.Credentials), grpc.WithContextDialer(c.options.Dial), grpc.WithNoProxy(), grpc.WithDisableServiceConfig(),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(math.MaxInt32), grpc.MaxCallSendMsgSize(math.MaxInt32)),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: pingAfter, Timeout: pingTimeout}),
		grpc.WithIdleTimeout(0),
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: 250 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: time.Second},
			MinConnectTimeout: dialTimeout,
		}),
	}, more...)
}

// Ready is closed when the first list of schedulers has come, and from the beginning when the client is disabled (Dapr API, readiness:
// scheduler-watch-hosts).
func (c *Client) Ready() <-chan struct{} { return c.ready }

// Connected are the addresses of the schedulers in use, nil when there are none (Dapr API, metadata: scheduler.connected_addresses).
func (c *Client) Connected() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.hosts)
}

// between is a random time from lowest to highest.
func (c *Client) between(lowest, highest time.Duration) time.Duration {
	return lowest + time.Duration(c.options.Rand()*float64(highest-lowest))
}

// pause waits, and reports false when ctx has ended.
func (c *Client) pause(ctx context.Context, d time.Duration) bool {
	timer := c.options.Clock.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.Chan():
		return ctx.Err() == nil
	case <-ctx.Done():
		return false
	}
}
