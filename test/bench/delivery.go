package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/valyala/fasthttp"
)

// The topic that the app is subscribed to, where it gets the messages, and
// where it tells of them.
const (
	topic       = "bench"
	deliverPath = "/deliver"
	heardPath   = "/heard"
)

// deliveryLimit is when a message that has not arrived counts as lost.
const deliveryLimit = 10 * time.Second

// message is the payload that belongs to a connection of the load.
func message(connection, size int) string {
	head := fmt.Sprintf(`{"connection":%d,"v":"`, connection)
	return head + strings.Repeat("v", max(0, size-len(head)-2)) + `"}`
}

// connectionOf is the number in a message, inside whatever envelope.
func connectionOf(body []byte) (uint32, bool) {
	_, rest, found := bytes.Cut(body, []byte(`"connection":`))
	end := bytes.IndexByte(rest, ',')
	if !found || end < 0 {
		return 0, false
	}
	n, err := strconv.ParseUint(string(bytes.TrimSpace(rest[:end])), 10, 32)
	return uint32(n), err == nil
}

// deliveries is what the app got, told to the load process over one connection
// as numbers of 4 bytes.
type deliveries struct {
	listener atomic.Pointer[chan uint32]
}

func (d *deliveries) add(body []byte) {
	to := d.listener.Load()
	n, ok := connectionOf(body)
	if to == nil || !ok {
		return
	}
	select {
	case *to <- n:
	case <-time.After(deliveryLimit): // the load process is gone
	}
}

// serve gives the connection to what tells of the messages.
func (d *deliveries) serve(ctx *fasthttp.RequestCtx) {
	to := make(chan uint32, 1024)
	d.listener.Store(&to)
	ctx.HijackSetNoResponse(true)
	ctx.Hijack(func(c net.Conn) {
		defer d.listener.CompareAndSwap(&to, nil)
		var out []byte
		for n := range to {
			out = binary.BigEndian.AppendUint32(out[:0], n)
			for more := len(to); more > 0; more-- {
				out = binary.BigEndian.AppendUint32(out, <-to)
			}
			if _, err := c.Write(out); err != nil {
				return
			}
		}
	})
}

// deliveryCaller publishes a message and waits until the app has it.
type deliveryCaller struct {
	*httpCaller
	arrived chan struct{}
	lost    *time.Timer
}

var errNotDelivered = errors.New("a message was published, and has not arrived in time")

func (d *deliveryCaller) call() error {
	for len(d.arrived) > 0 { // of a message that came late, or twice
		<-d.arrived
	}
	if err := d.httpCaller.call(); err != nil {
		return err
	}
	d.lost.Reset(deliveryLimit)
	select {
	case <-d.arrived:
		return nil
	case <-d.lost.C:
		return errNotDelivered
	}
}

func (l *load) deliveryCallers(ctx context.Context) (open func(int) (caller, error), done func(), err error) {
	arrived := make([]chan struct{}, l.Connections)
	for i := range arrived {
		arrived[i] = make(chan struct{}, 16)
	}
	done, err = l.listen(ctx, func(n uint32) {
		if int(n) >= len(arrived) {
			return
		}
		select {
		case arrived[n] <- struct{}{}:
		default:
		}
	})
	if err != nil {
		return nil, nil, err
	}
	serials := newSerials()
	open = func(i int) (caller, error) {
		r, err := dialResponses(ctx, l.Addr)
		if err != nil {
			return nil, err
		}
		own := *l
		own.Requests = slices.Clone(l.Requests[i : i+1])
		lost := time.NewTimer(deliveryLimit)
		lost.Stop()
		return &deliveryCaller{
			httpCaller: &httpCaller{responses: r, load: &own, serials: serials, stop: context.AfterFunc(ctx, func() { r.conn.Close() })},
			arrived:    arrived[i], lost: lost,
		}, nil
	}
	return open, done, nil
}

// listen calls heard with the number in each message that the app gets, until stop.
func (l *load) listen(ctx context.Context, heard func(n uint32)) (stop func(), err error) {
	conn, err := (&net.Dialer{Timeout: 5 * time.Second}).DialContext(ctx, "tcp", l.App)
	if err != nil {
		return nil, err
	}
	if _, err := conn.Write(request("GET", heardPath, "", "")); err != nil {
		conn.Close()
		return nil, err
	}
	var listening sync.WaitGroup
	listening.Go(func() {
		in := bufio.NewReader(conn)
		var number [4]byte
		for {
			if _, err := io.ReadFull(in, number[:]); err != nil {
				return
			}
			heard(binary.BigEndian.Uint32(number[:]))
		}
	})
	return func() { conn.Close(); listening.Wait() }, nil
}
