// Package http1 is a lean HTTP/1.1 client for one address: the channel to the app and the exchange between sidecars.
//
// It exists because a sidecar needs what general clients do not give together: a request that ends at once when its
// context does, bodies that stream in both directions at the same time, header bytes that pass through without being taken
// apart, and no goroutine or timer per request.
package http1

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/valyala/fasthttp"
)

// Options of a client. Zero values mean the defaults given.
type Options struct {
	// Dial opens a connection; it must honour its context.
	Dial func(ctx context.Context) (net.Conn, error)
	// MaxConns bounds the connections open at a time; a request beyond it waits. Default 1024.
	MaxConns int
	// MaxIdle is the number of unused connections kept. Default 64.
	MaxIdle int
	// IdleTimeout is how long an unused connection is kept. Default 90 s.
	IdleTimeout time.Duration
	// TrustIdle is how long an unused connection is taken to be open without looking; 0 always looks. It saves a system
	// call for servers that are known not to close connections without saying so.
	TrustIdle time.Duration
	// MaxHeaderBytes bounds the header of a response. Default 64 KiB.
	MaxHeaderBytes int
}

// Client sends requests to one address over kept-alive connections. It is safe for concurrent use.
type Client struct {
	options Options
	slots   chan struct{}

	mu      sync.Mutex
	idle    []*conn // oldest first
	busy    map[*conn]struct{}
	closed  bool
	sweeper *time.Timer
}

// ErrClosed is returned by requests on a closed client.
var ErrClosed = errors.New("http1: client is closed")

// New makes a client; it opens no connection yet.
func New(o Options) *Client {
	if o.MaxConns <= 0 {
		o.MaxConns = 1024
	}
	if o.MaxIdle <= 0 {
		o.MaxIdle = 64
	}
	if o.IdleTimeout <= 0 {
		o.IdleTimeout = 90 * time.Second
	}
	if o.MaxHeaderBytes <= 0 {
		o.MaxHeaderBytes = 64 << 10
	}
	return &Client{options: o, slots: make(chan struct{}, o.MaxConns), busy: map[*conn]struct{}{}}
}

// Close closes the unused connections at once and the others when their requests end; later requests fail.
func (c *Client) Close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closed = true
	for _, idle := range c.idle {
		_ = idle.Close()
	}
	c.idle = nil
	if c.sweeper != nil {
		c.sweeper.Stop()
	}
}

// Abort is Close that also breaks the connections in use.
func (c *Client) Abort() {
	c.Close()
	c.mu.Lock()
	defer c.mu.Unlock()
	for b := range c.busy {
		_ = b.Conn.SetDeadline(longAgo)
	}
}

var longAgo = time.Unix(1, 0)

// conn is one connection with its reader and the response header being read on it.
type conn struct {
	net.Conn
	client *Client
	reader *bufio.Reader
	header fasthttp.ResponseHeader
	// socket is the connection below TLS, where one can see whether the other side has closed it.
	socket net.Conn
	// since is when the connection became unused.
	since time.Time
	used  bool
}

// socket returns what lies below a TLS connection and other wrappings, or the connection itself.
func socket(c net.Conn) net.Conn {
	for {
		t, ok := c.(interface{ NetConn() net.Conn })
		if !ok {
			return c
		}
		c = t.NetConn()
	}
}

// encrypted reports whether a connection, or one that it wraps, is under TLS.
func encrypted(c net.Conn) bool {
	for {
		if _, ok := c.(interface{ ConnectionState() tls.ConnectionState }); ok {
			return true
		}
		t, ok := c.(interface{ NetConn() net.Conn })
		if !ok {
			return false
		}
		c = t.NetConn()
	}
}

// get returns a connection: an unused one that still lives, or a new one.
func (c *Client) get(ctx context.Context, fresh bool) (*conn, error) {
	select {
	case c.slots <- struct{}{}:
	default:
		select {
		case c.slots <- struct{}{}:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
	for !fresh {
		c.mu.Lock()
		if c.closed {
			c.mu.Unlock()
			<-c.slots
			return nil, ErrClosed
		}
		n := len(c.idle)
		if n == 0 {
			c.mu.Unlock()
			break
		}
		k := c.idle[n-1]
		c.idle[n-1] = nil
		c.idle = c.idle[:n-1]
		c.busy[k] = struct{}{}
		c.mu.Unlock()
		// A server that closes without saying so would cost a request that may not be sent twice.
		if idle := time.Since(k.since); idle < c.options.TrustIdle || idle < c.options.IdleTimeout && alive(k.socket) {
			k.used = true
			return k, nil
		}
		c.drop(k, false)
	}
	raw, err := c.options.Dial(ctx)
	if err != nil {
		<-c.slots
		return nil, &DialError{Err: err}
	}
	k := &conn{Conn: raw, socket: socket(raw), client: c, reader: bufio.NewReaderSize(raw, c.options.MaxHeaderBytes)}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		_ = raw.Close()
		<-c.slots
		return nil, ErrClosed
	}
	c.busy[k] = struct{}{}
	return k, nil
}

// put returns a connection whose exchange is complete.
func (c *Client) put(k *conn) {
	k.since = time.Now()
	c.mu.Lock()
	delete(c.busy, k)
	if c.closed || len(c.idle) >= c.options.MaxIdle || k.reader.Buffered() > 0 {
		c.mu.Unlock()
		_ = k.Close()
		<-c.slots
		return
	}
	c.idle = append(c.idle, k)
	if c.sweeper == nil {
		c.sweeper = time.AfterFunc(c.options.IdleTimeout, c.sweep)
	}
	c.mu.Unlock()
	<-c.slots
}

// drop closes a connection that cannot be used again.
func (c *Client) drop(k *conn, slot bool) {
	_ = k.Close()
	c.mu.Lock()
	delete(c.busy, k)
	c.mu.Unlock()
	if slot {
		<-c.slots
	}
}

// sweep closes connections that nobody used for long, and comes again while there are any.
func (c *Client) sweep() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return
	}
	old := 0
	for old < len(c.idle) && time.Since(c.idle[old].since) >= c.options.IdleTimeout {
		_ = c.idle[old].Close()
		old++
	}
	c.idle = append(c.idle[:0:0], c.idle[old:]...)
	if len(c.idle) == 0 {
		c.sweeper = nil
		return
	}
	c.sweeper.Reset(c.options.IdleTimeout)
}

// DialError is a failure to open a connection: nothing of the request was sent.
type DialError struct{ Err error }

func (e *DialError) Error() string { return e.Err.Error() }
func (e *DialError) Unwrap() error { return e.Err }

// ResponseError is a failure after the request, or a part of it, was sent: the other side may have acted on it.
type ResponseError struct{ Err error }

func (e *ResponseError) Error() string { return fmt.Sprintf("no complete response: %s", e.Err) }
func (e *ResponseError) Unwrap() error { return e.Err }

// Do sends the request and returns the response once its header is there. The response's body must be closed.
// The end of ctx breaks the exchange, also while the body is read. A request whose body is in memory is sent again, once,
// when a kept-alive connection turns out to be closed before a byte of the response came and the method is one that changes
// nothing (GET, HEAD, OPTIONS, TRACE).
func (c *Client) Do(ctx context.Context, req *Request) (*Response, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	k, err := c.get(ctx, false)
	if err != nil {
		return nil, err
	}
	resp, err := c.exchange(ctx, k, req)
	if err != nil && k.used && errors.Is(err, errNoByte) && req.replayable() && ctx.Err() == nil {
		if k, err = c.get(ctx, true); err != nil {
			return nil, err
		}
		resp, err = c.exchange(ctx, k, req)
	}
	return resp, err
}

// errNoByte marks a connection that ended before the first byte of a response.
var errNoByte = errors.New("the connection was closed before a response came")

func (c *Client) exchange(ctx context.Context, k *conn, req *Request) (*Response, error) {
	resp := &Response{ctx: ctx, conn: k, Header: &k.header}
	resp.stop = afterFunc(ctx, k)
	if req.Stream == nil {
		req.finish(int64(len(req.Body)))
	} else {
		req.finish(req.StreamLength)
	}
	if req.Stream == nil && req.whole() {
		if _, err := k.Write(req.buffer); err != nil {
			return nil, resp.fail(fmt.Errorf("%w: %w", errNoByte, err))
		}
	} else {
		resp.sender = newSender(k, req)
		go resp.sender.run()
	}
	if err := resp.readHeader(req.head); err != nil {
		return nil, resp.fail(err)
	}
	return resp, nil
}

// afterFunc arranges that the end of ctx breaks the connection's reads and writes.
func afterFunc(ctx context.Context, k *conn) (stop func() bool) {
	breakOff := func() { _ = k.SetDeadline(longAgo) }
	if f, ok := ctx.(interface{ AfterFunc(func()) func() bool }); ok {
		return f.AfterFunc(breakOff)
	}
	if ctx.Done() == nil {
		return func() bool { return true }
	}
	return context.AfterFunc(ctx, breakOff)
}

// sender writes a request with a streamed or large body while the response is being read: an app may answer, and stop
// reading, before it has seen all.
type sender struct {
	conn   *conn
	head   []byte
	memory []byte    // the body when it is in memory
	body   io.Reader // nil then
	length int64
	// last is set before the last bytes are written.
	last atomic.Bool
	done chan struct{}
	err  error
}

func newSender(k *conn, req *Request) *sender {
	s := &sender{conn: k, head: req.buffer, body: req.Stream, length: req.StreamLength, done: make(chan struct{})}
	if s.body == nil {
		s.memory = req.Body
	}
	return s
}

func (s *sender) run() {
	defer close(s.done)
	s.err = s.send()
	var body *BodyError
	if errors.As(s.err, &body) {
		// The other side waits for a body that will never be complete: end the exchange. When writing failed, what the other
		// side may have answered before is still worth reading.
		_ = s.conn.SetDeadline(longAgo)
	}
}

// bodyError is the failure of the body's reader, if that ended the exchange.
func (s *sender) bodyError() error {
	if s == nil {
		return nil
	}
	select {
	case <-s.done:
	default:
		return nil
	}
	var body *BodyError
	if errors.As(s.err, &body) {
		return body
	}
	return nil
}

// abort makes a blocked read of the body return.
func (s *sender) abort() {
	switch b := s.body.(type) {
	case interface{ Abort() }:
		b.Abort()
	case io.Closer:
		_ = b.Close()
	}
}

func (s *sender) send() error {
	if _, err := s.conn.Write(s.head); err != nil {
		return err
	}
	if s.body == nil {
		s.last.Store(true)
		_, err := s.conn.Write(s.memory)
		return err
	}
	block := blocks.Get().(*[blockSize]byte)
	defer blocks.Put(block)
	sent := int64(0)
	for {
		// Room before and after the data for a chunk's size line and end.
		const front = 10
		n, err := s.body.Read(block[front : blockSize-2])
		if n > 0 {
			sent += int64(n)
			out := block[front : front+n]
			if s.length < 0 {
				out = frameChunk(block[:], front, n)
			} else if sent > s.length {
				return &BodyError{Err: fmt.Errorf("the body is longer than the %d bytes announced", s.length)}
			}
			if sent == s.length {
				s.last.Store(true)
			}
			if _, err := s.conn.Write(out); err != nil {
				return err
			}
		}
		if err == io.EOF {
			break
		}
		if err != nil {
			return &BodyError{Err: err}
		}
	}
	if s.length < 0 {
		s.last.Store(true)
		_, err := s.conn.Write(lastChunk)
		return err
	}
	if sent < s.length {
		return &BodyError{Err: io.ErrUnexpectedEOF}
	}
	return nil
}

// BodyError is a failure of the reader that supplied the request's body.
type BodyError struct{ Err error }

func (e *BodyError) Error() string { return e.Err.Error() }
func (e *BodyError) Unwrap() error { return e.Err }

const blockSize = 32 << 10

var (
	blocks    = sync.Pool{New: func() any { return new([blockSize]byte) }}
	lastChunk = []byte("0\r\n\r\n")
)

// frameChunk puts the size line before and the line end after the n bytes at block[front:], in place.
func frameChunk(block []byte, front, n int) []byte {
	const digits = "0123456789abcdef"
	i := front
	i -= 2
	block[i], block[i+1] = '\r', '\n'
	for v := n; v > 0; v >>= 4 {
		i--
		block[i] = digits[v&15]
	}
	block[front+n], block[front+n+1] = '\r', '\n'
	return block[i : front+n+2]
}
