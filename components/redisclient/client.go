package redisclient

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"runtime"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/redis/rueidis"
)

// Sizes of a connection's buffers. They are small, for an idle sidecar should cost little, and yet hold many pipelined
// commands; a value larger than a buffer goes through it in pieces.
const (
	bufferSize = 32 << 10
	ringScale  = 8 // 2^8 commands in flight per connection
)

// pingInterval is how often an idle connection is tried, so that one that died unseen is replaced before it is needed.
const pingInterval = 15 * time.Second

// topologyInterval is how often sentinels are asked for the master besides listening to their announcements, of which one
// may get lost.
const topologyInterval = 10 * time.Second

// Client is a connected client.
type Client struct {
	rueidis.Client
	// Address names the servers for messages: host:port, or a list of them.
	Address string

	retries            int
	minDelay, maxDelay time.Duration
}

// Open connects by options that [Options.Check] has let pass. minRetryInterval is the component's default for
// redisMinRetryInterval. When the server cannot be used the error names its address, the cause and a remedy. The client
// reconnects by itself later on.
func (o *Options) Open(ctx context.Context, minRetryInterval time.Duration) (*Client, error) {
	addresses, err := o.addresses()
	if err != nil {
		return nil, err
	}
	config, err := o.tlsConfig()
	if err != nil {
		return nil, err
	}
	c := &Client{Address: strings.Join(addresses, ","), retries: o.MaxRetries, minDelay: minRetryInterval, maxDelay: defaultMaxRetryInterval}
	if o.MinRetryInterval != nil {
		c.minDelay = max(0, time.Duration(*o.MinRetryInterval))
	}
	if o.MaxRetryInterval != nil {
		c.maxDelay = max(0, time.Duration(*o.MaxRetryInterval))
	}

	// While opening, dials also end with ctx.
	var opening atomic.Pointer[context.Context]
	opening.Store(&ctx)
	option := o.clientOption(addresses, config)
	option.RetryDelay = c.retryDelay
	option.DialCtxFn = func(dialing context.Context, address string, d *net.Dialer, config *tls.Config) (net.Conn, error) {
		if open := opening.Load(); open != nil {
			bounded, cancel := context.WithCancel(dialing)
			defer cancel()
			defer context.AfterFunc(*open, cancel)()
			dialing = bounded
		}
		if config != nil {
			return (&tls.Dialer{NetDialer: d, Config: config}).DialContext(dialing, "tcp", address)
		}
		return d.DialContext(dialing, "tcp", address)
	}
	c.Client, err = rueidis.NewClient(option)
	if err == nil {
		err = c.Do(ctx, c.B().Ping().Build()).Error()
	}
	opening.Store(nil)
	if err != nil {
		if c.Client != nil {
			c.Close()
		}
		return nil, o.explain(c.Address, err)
	}
	return c, nil
}

// clientOption maps the metadata to what the client library takes.
func (o *Options) clientOption(addresses []string, config *tls.Config) rueidis.ClientOption {
	option := rueidis.ClientOption{
		InitAddress:       addresses,
		TLSConfig:         config,
		Username:          o.Username,
		Password:          o.Password,
		SelectDB:          o.DB,
		ForceSingleClient: !o.cluster(),
		ClientSetInfo:     rueidis.DisableClientSetInfo,

		Dialer:           net.Dialer{Timeout: limit(time.Duration(o.DialTimeout)), KeepAlive: pingInterval},
		ConnWriteTimeout: time.Duration(max(o.ReadTimeout, o.WriteTimeout)),
		ConnLifetime:     max(0, time.Duration(o.MaxConnAge)),

		BlockingPoolSize:    o.PoolSize,
		BlockingPoolMinSize: max(0, o.MinIdleConns),
		BlockingPoolCleanup: max(0, time.Duration(o.IdleTimeout)),

		// One connection keeps up with two cores, and its pipelines are the fuller.
		PipelineMultiplex:   -1,
		RingScaleEachConn:   ringScale,
		ReadBufferEachConn:  bufferSize,
		WriteBufferEachConn: bufferSize,
		DisableCache:        true,
		// Reading all the time shows at once when the server went away; else the next command would find out.
		AlwaysPipelining: true,
	}
	if o.ReadTimeout < 0 {
		option.ConnWriteTimeout = -1
	}
	if option.BlockingPoolSize <= 0 {
		option.BlockingPoolSize = defaultPoolSize
	}
	if runtime.GOMAXPROCS(0) >= 4 {
		option.PipelineMultiplex = 1
	}
	if o.Failover {
		option.ForceSingleClient = false
		option.Sentinel = rueidis.SentinelOption{
			Dialer:                  option.Dialer,
			TLSConfig:               config,
			MasterSet:               o.SentinelMasterName,
			Username:                o.SentinelUsername,
			Password:                o.SentinelPassword,
			TopologyRefreshInterval: topologyInterval,
		}
	}
	return option
}

// limit turns "no limit" into one that nothing reaches.
func limit(d time.Duration) time.Duration {
	if d < 0 {
		return 24 * time.Hour
	}
	return d
}

// retryDelay is the wait before a retry: doubled each time, up to the longest, half of it by chance; negative when
// there have been enough.
func (c *Client) retryDelay(attempts int, _ rueidis.Completed, _ error) time.Duration {
	if attempts > c.retries {
		return -1
	}
	d := min(c.minDelay<<min(attempts-1, 20), c.maxDelay)
	if d <= 0 {
		return 0
	}
	return d/2 + rand.N(d/2+1)
}

// RetryUnsent runs a command that must not be repeated blindly, such as a write: it runs f again, with the waits and as
// often as the metadata says, while nothing was done: the connection could not even be made, or the server is loading its data
// and refuses all commands.
func (c *Client) RetryUnsent(ctx context.Context, f func() error) error {
	for attempt := 1; ; attempt++ {
		err := f()
		if err == nil || !unsent(err) || ctx.Err() != nil {
			return err
		}
		d := c.retryDelay(attempt, rueidis.Completed{}, err)
		if deadline, ok := ctx.Deadline(); d < 0 || ok && time.Until(deadline) <= d {
			return err
		}
		timer := time.NewTimer(d)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return err
		}
	}
}

// unsent reports whether the error is one of dialling, or of a server that does nothing yet.
func unsent(err error) bool {
	if refused, ok := rueidis.IsRedisErr(err); ok {
		return refused.IsLoading()
	}
	var op *net.OpError
	return errors.As(err, &op) && op.Op == "dial"
}

// ConnectedReplicas asks the server how many replicas follow it.
func (c *Client) ConnectedReplicas(ctx context.Context) (int, error) {
	text, err := c.Do(ctx, c.B().Info().Section("replication").Build()).ToString()
	if err != nil {
		return 0, fmt.Errorf("redis at %s does not tell its replicas: %w", c.Address, err)
	}
	for line := range strings.Lines(text) {
		if number, ok := strings.CutPrefix(strings.TrimSpace(line), "connected_slaves:"); ok {
			n, err := strconv.Atoi(number)
			if err != nil {
				return 0, fmt.Errorf("redis at %s tells connected_slaves:%s, which is not a number", c.Address, number)
			}
			return n, nil
		}
	}
	return 0, nil
}

// explain adds the address and a remedy to an error of connecting.
func (o *Options) explain(address string, err error) error {
	text := err.Error()
	var remedy string
	switch {
	case strings.Contains(text, "WRONGPASS") || strings.Contains(text, "NOAUTH") || strings.Contains(text, "AUTH"):
		remedy = "check redisUsername and redisPassword"
		if o.Failover {
			remedy += ", and sentinelUsername and sentinelPassword"
		}
	case strings.Contains(text, "NOPERM"):
		remedy = "the user may not do this: check the ACL of redisUsername"
	case strings.Contains(text, "x509:") || strings.Contains(text, "tls:"):
		remedy = "check enableTLS, clientCert and clientKey, and that the system trusts the authority of the server's certificate (SSL_CERT_FILE names another list of authorities)"
	case strings.Contains(text, "DB index"):
		remedy = "check redisDB"
	case o.cluster() && strings.Contains(strings.ToUpper(text), "CLUSTER"):
		remedy = "the server is no Redis Cluster: set redisType to node"
	case o.Failover && (rueidis.IsRedisNil(err) || strings.Contains(text, "No such master") || strings.Contains(text, "unknown command")):
		remedy = "check sentinelMasterName, and that redisHost names sentinels"
	case errors.Is(err, io.EOF) || errors.Is(err, context.DeadlineExceeded) || strings.Contains(text, "timeout") || strings.Contains(text, "reset by peer"):
		remedy = "it connects but does not answer: check that it is a Redis server, and whether it wants TLS (enableTLS)"
	default:
		remedy = "check that the server is running and that redisHost and redisPort are right"
	}
	return fmt.Errorf("redis at %s cannot be used: %w; %s", address, err, remedy)
}
