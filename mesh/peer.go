package mesh

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/valyala/fasthttp"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"outrigger.dev/http1"
	"outrigger.dev/invocation"
)

// speaks is what is known of the protocols of a peer.
type speaks int

const (
	speaksUnknown speaks = iota
	speaksGRPC
	speaksExchange
)

// peer is the sidecar at an address.
type peer struct {
	client *Client
	target Target
	// host is the address as it is dialled.
	host string
	// dialTimeout bounds the opening of a connection with its handshake.
	dialTimeout time.Duration
	http        *http1.Client

	// users and lastUse belong to the client's lock.
	users   int
	lastUse time.Time

	mu      sync.Mutex
	speaks  speaks
	since   time.Time
	limit   int // of an exchange's request header, in bytes
	probing *probe
	spare   net.Conn // the probe's connection, for the first exchange
	conns   []*grpcConn
	closed  bool
}

// probe is a question to the peer, under way for everybody who waits for its answer.
type probe struct {
	done chan struct{}
	err  error
}

func newPeer(c *Client, target Target, dialTimeout time.Duration) *peer {
	p := &peer{client: c, target: target, host: strings.TrimPrefix(target.Address, "dns:///"), dialTimeout: dialTimeout}
	if c.options.GRPCOnly {
		p.speaks = speaksGRPC
	}
	p.http = http1.New(http1.Options{Dial: p.dialExchange, MaxHeaderBytes: maxResponseHeader, TrustIdle: time.Second})
	return p
}

// maxResponseHeader is an app's longest response header and what the callee's sidecar adds to it, in bytes.
const maxResponseHeader = 64<<10 + maxMessage + 4<<10

// protocol tells how to speak to the peer, and asks it first if that is not known. Concurrent callers wait for the same
// answer; callers of a peer whose answer has only grown old do not wait.
func (p *peer) protocol(ctx context.Context) (speaks, error) {
	p.mu.Lock()
	known := p.speaks
	switch {
	case known == speaksExchange, p.client.options.GRPCOnly:
		p.mu.Unlock()
		return known, nil
	case known == speaksGRPC:
		if p.probing == nil && p.client.options.Clock.Since(p.since) >= grpcLife {
			p.since = p.client.options.Clock.Now()
			p.start()
		}
		p.mu.Unlock()
		return known, nil
	}
	running := p.probing
	if running == nil {
		running = p.start()
	}
	p.mu.Unlock()
	select {
	case <-running.done:
	case <-ctx.Done():
		return 0, ctx.Err()
	}
	if running.err != nil {
		return 0, running.err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.speaks == speaksUnknown { // it failed again meanwhile: gRPC finds out what is wrong
		return speaksGRPC, nil
	}
	return p.speaks, nil
}

// start begins a probe; mu is held. It belongs to the client and outlives the call that caused it.
func (p *peer) start() *probe {
	running := &probe{done: make(chan struct{})}
	if p.closed {
		running.err = ErrClosed
		close(running.done)
		return running
	}
	p.probing = running
	p.client.tasks.Go(func() {
		found, limit, conn, err := p.ask(p.client.ctx)
		p.mu.Lock()
		defer p.mu.Unlock()
		defer close(running.done)
		p.probing = nil
		if err != nil {
			running.err = err
			return
		}
		p.speaks, p.limit, p.since = found, limit, p.client.options.Clock.Now()
		if conn == nil {
			return
		}
		if p.spare != nil || p.closed {
			_ = conn.Close()
			return
		}
		p.spare = conn
	})
	return running
}

// forget makes the next call ask again.
func (p *peer) forget() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.client.options.GRPCOnly {
		p.speaks = speaksUnknown
	}
}

// fits reports whether a request's header is within what the peer's exchange accepts.
func (p *peer) fits(req *invocation.Request) bool {
	p.mu.Lock()
	limit := p.limit
	p.mu.Unlock()
	return headerSize(req) <= limit
}

// probeTimeout is how long a peer has to answer the probe; one that speaks only gRPC may never do.
const probeTimeout = 500 * time.Millisecond

// ask opens a connection and asks the peer whether it speaks the exchange. The connection is returned when it does. An
// error means that the peer could not be reached.
func (p *peer) ask(ctx context.Context) (found speaks, limit int, c net.Conn, err error) {
	c, protocol, err := p.dial(ctx, ProtocolExchange, ProtocolGRPC)
	if err != nil {
		return 0, 0, nil, unreachable(err)
	}
	if protocol == ProtocolGRPC {
		_ = c.Close()
		return speaksGRPC, 0, nil, nil
	}
	stop := context.AfterFunc(ctx, func() { _ = c.Close() })
	defer stop()
	limit, err = question(c, p.host)
	if err != nil {
		_ = c.Close()
		if ctx.Err() != nil {
			return 0, 0, nil, ErrClosed
		}
		if refused(err) {
			return 0, 0, nil, unreachable(fmt.Errorf("authentication handshake failed: %w", err))
		}
		p.client.options.Log.Debug("a sidecar speaks only gRPC", "address", p.target.Address, "reason", err)
		return speaksGRPC, 0, nil, nil
	}
	return speaksExchange, limit, c, nil
}

// question sends the probe's request on c and reads its answer.
func question(c net.Conn, host string) (limit int, err error) {
	if err := c.SetDeadline(time.Now().Add(probeTimeout)); err != nil {
		return 0, err
	}
	request := "OPTIONS * HTTP/1.1\r\nHost: " + host + "\r\n" + headerExchange + ": " + exchangeVersion + "\r\n\r\n"
	if _, err := c.Write([]byte(request)); err != nil {
		return 0, err
	}
	reader := bufio.NewReaderSize(c, 4<<10)
	if start, err := reader.Peek(len("HTTP/1.1 200")); err != nil || string(start) != "HTTP/1.1 200" {
		return 0, fmt.Errorf("the answer to the probe begins with %q: %w", start, errors.Join(errNotExchange, err))
	}
	var header fasthttp.ResponseHeader
	if err := header.Read(reader); err != nil {
		return 0, err
	}
	if version := header.Peek(headerExchange); string(version) != exchangeVersion {
		return 0, fmt.Errorf("version %q: %w", version, errNotExchange)
	}
	limit, err = strconv.Atoi(string(header.Peek(headerLimit)))
	if err != nil || limit <= 0 {
		return 0, fmt.Errorf("%s is no limit: %w", headerLimit, errNotExchange)
	}
	if header.ContentLength() != 0 || reader.Buffered() > 0 {
		return 0, fmt.Errorf("more than a header: %w", errNotExchange)
	}
	return limit, c.SetDeadline(time.Time{})
}

// dial opens a connection to the peer and secures it.
func (p *peer) dial(ctx context.Context, protocols ...string) (c net.Conn, protocol string, err error) {
	ctx, cancel := context.WithTimeout(ctx, p.dialTimeout)
	defer cancel()
	raw, err := p.client.options.Dial(ctx, p.host)
	if err != nil {
		return nil, "", err
	}
	if p.client.options.Security == nil {
		return raw, "", nil
	}
	c, protocol, err = p.client.options.Security.Client(ctx, raw, p.target, protocols)
	if err != nil {
		_ = raw.Close()
		return nil, "", fmt.Errorf("authentication handshake failed: %w", err)
	}
	return c, protocol, nil
}

// dialExchange opens a connection for the exchange, or returns that of the probe.
func (p *peer) dialExchange(ctx context.Context) (net.Conn, error) {
	p.mu.Lock()
	c := p.spare
	p.spare = nil
	p.mu.Unlock()
	if c != nil {
		return c, nil
	}
	c, protocol, err := p.dial(ctx, ProtocolExchange)
	if err == nil && protocol != "" && protocol != ProtocolExchange {
		_ = c.Close()
		return nil, fmt.Errorf("the sidecar at %s does not speak the exchange any more", p.target.Address)
	}
	return c, err
}

// unreachable is the status of a peer to which no connection could be opened.
func unreachable(err error) error {
	if errors.Is(err, context.Canceled) {
		return ErrClosed
	}
	return status.Errorf(codes.Unavailable, "connection error: desc = \"transport: Error while dialing: %s\"", err)
}

// close breaks everything.
func (p *peer) close() {
	p.mu.Lock()
	p.closed = true
	conns, spare := p.conns, p.spare
	p.conns, p.spare = nil, nil
	p.mu.Unlock()
	if spare != nil {
		_ = spare.Close()
	}
	for _, conn := range conns {
		_ = conn.cc.Close()
	}
	p.http.Abort()
}
