package mqttclient

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"
)

const (
	// keepAlive is what the broker is told: it ends a connection that is silent for one and a half of it.
	keepAlive = 30 * time.Second
	// pingInterval is how often the broker is asked to answer, and silence how long it may say nothing.
	pingInterval = keepAlive / 2
	silence      = keepAlive + keepAlive/2
	// connectLimit bounds opening a connection with all handshakes.
	connectLimit = 10 * time.Second
	// writeLimit bounds writing one chunk.
	writeLimit = 20 * time.Second
	writeChunk = 64 << 10
	// batch is how many packets are written before those that wait for it are told.
	batch = 256
)

// connection is one network connection of a session.
type connection struct {
	net     net.Conn
	in      *bufio.Reader
	present bool // the broker had kept the session

	// first is written before anything of out.
	first [][]byte
	out   chan frame
	pongs chan chan struct{} // who waits for the next answer to a ping

	end  sync.Once
	dead chan struct{} // closed when err is set
	err  error
}

// patient is a network connection whose limits count from the last bytes that moved, so that a large packet may take its
// time on a slow line.
type patient struct{ net.Conn }

func (p patient) Read(b []byte) (int, error) {
	_ = p.SetReadDeadline(time.Now().Add(silence))
	return p.Conn.Read(b)
}

func (p patient) Write(b []byte) (written int, err error) {
	for {
		_ = p.SetWriteDeadline(time.Now().Add(writeLimit))
		n, err := p.Conn.Write(b[written:min(len(b), written+writeChunk)])
		written += n
		if err != nil || written == len(b) {
			return written, err
		}
		// No ping is sent meanwhile, so the broker may have nothing to say.
		_ = p.SetReadDeadline(time.Now().Add(silence))
	}
}

// frame is something to write. written, when there is one, is closed once it is.
type frame struct {
	data    []byte
	written chan struct{}
}

// connect opens a connection and asks for the session.
func (c *Client) connect(ctx context.Context) (*connection, error) {
	ctx, cancel := context.WithTimeout(ctx, connectLimit)
	defer cancel()
	transport, err := c.target.dial(ctx)
	if err != nil {
		return nil, c.connectError(ctx, err)
	}
	conn := patient{transport}
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	in := bufio.NewReaderSize(conn, 32<<10)
	present, err := c.session.handshake(c.target, in, conn)
	if !stop() && err == nil {
		err = ctx.Err()
	}
	if err != nil {
		conn.Close()
		return nil, c.connectError(ctx, err)
	}
	return &connection{
		net: conn, in: in, present: present,
		out: make(chan frame, batch), pongs: make(chan chan struct{}, 16), dead: make(chan struct{}),
	}, nil
}

func (c *Client) connectError(ctx context.Context, err error) error {
	if errors.Is(ctx.Err(), context.DeadlineExceeded) {
		err = fmt.Errorf("no answer in time: %w", ctx.Err())
	}
	err = fmt.Errorf("cannot connect to the MQTT broker at %s: %w", c.target.shown, err)
	if unreached(err) {
		err = fmt.Errorf("%w; %s", err, remedy)
	}
	return err
}

// remedy is for a broker that is not reached or does not answer.
const remedy = "check that the broker runs and that the metadata property \"url\" is right"

// unreached reports whether err is one of the network or of waiting, and not the word of the broker.
func unreached(err error) bool {
	var op *net.OpError
	if errors.As(err, &op) && (op.Op == "remote error" || op.Op == "local error") {
		return false // of TLS: there is a broker, which refuses us or is refused
	}
	var network net.Error // also the end of a context
	return errors.As(err, &network) || errors.Is(err, io.EOF)
}

// fail ends the connection. The first reason counts.
func (c *connection) fail(err error) {
	c.end.Do(func() {
		c.err = err
		close(c.dead)
		c.net.Close()
	})
}

// send hands a frame to the writer. It fails when the connection or ctx ends first.
func (c *connection) send(ctx context.Context, f frame) error {
	select {
	case c.out <- f:
		return nil
	default:
	}
	select {
	case c.out <- f:
		return nil
	case <-c.dead:
		return c.err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// flush returns when all that was sent before has been written, or cannot be.
func (c *connection) flush(ctx context.Context, last []byte) {
	written := make(chan struct{})
	if c.send(ctx, frame{last, written}) != nil {
		return
	}
	select {
	case <-written:
	case <-c.dead:
	case <-ctx.Done():
	}
}

// write sends what is put into out, and pings, until the connection ends.
func (c *connection) write() {
	w := bufio.NewWriterSize(c.net, 32<<10)
	ping := time.NewTicker(pingInterval)
	defer ping.Stop()
	var waiting []chan struct{}
	put := func(f frame) {
		w.Write(f.data) // the flush below repeats the error
		if f.written != nil {
			waiting = append(waiting, f.written)
		}
	}
	for {
		for _, data := range c.first {
			w.Write(data)
		}
		c.first = nil
		if err := w.Flush(); err != nil {
			c.fail(err)
			return
		}
		for _, written := range waiting {
			close(written)
		}
		waiting = waiting[:0]
		var f frame
		select {
		case f = <-c.out:
		case <-ping.C:
			f.data = []byte{firstPingreq, 0}
		case <-c.dead:
			return
		}
		put(f)
	more:
		for range batch {
			select {
			case f := <-c.out:
				put(f)
			default:
				break more
			}
		}
	}
}

// read hands every packet from the broker to the client, until the connection ends.
func (c *connection) read(client *Client) {
	for {
		p, err := readPacket(c.in)
		if err == nil {
			err = client.receive(c, p)
		}
		if err != nil {
			c.fail(err)
			return
		}
	}
}

// ping returns once the broker has answered.
func (c *connection) ping(ctx context.Context) error {
	pong := make(chan struct{})
	select {
	case c.pongs <- pong:
	case <-c.dead:
		return c.err
	case <-ctx.Done():
		return ctx.Err()
	}
	if err := c.send(ctx, frame{data: []byte{firstPingreq, 0}}); err != nil {
		return err
	}
	select {
	case <-pong:
		return nil
	case <-c.dead:
		return c.err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// ponged tells those that wait for an answer to a ping.
func (c *connection) ponged() {
	for {
		select {
		case pong := <-c.pongs:
			close(pong)
		default:
			return
		}
	}
}

// receive acts on one packet. An error ends the connection.
func (c *Client) receive(conn *connection, p packet) error {
	switch p.kind {
	case typePublish:
		c.deliver(conn, p)
		return nil
	case typePuback, typePubcomp, typeSuback, typeUnsuback:
		return c.complete(&p)
	case typePubrec:
		return c.release(conn, p.id)
	case typePubrel:
		c.released(conn, p.id)
		return nil
	case typePingresp:
		conn.ponged()
		return nil
	}
	return &malformedError{fmt.Sprintf("a packet of type %d in the middle of a session", p.kind)}
}
