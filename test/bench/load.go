package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// load is what the load process is to do. It reaches it as a line of JSON.
type load struct {
	Kind        string // "http", "delivery", "trigger", "grpc-get", "grpc-save", "placement-join" or "placement-leave"
	Addr        string
	App         string // the app's address, of deliveries and triggers
	Connections int    // of HTTP; of gRPC calls in flight
	Warmup      time.Duration
	Duration    time.Duration

	// HTTP: each connection sends the requests in turn, one at a time.
	Requests [][]byte
	Status   []int // that are a success
	Body     int   // bytes that a successful reply has

	Keys  int           // gRPC
	Jobs  int           // that are due at once, of triggers
	Size  int           // bytes of a job's data
	Lead  time.Duration // between the time that scheduling should take at most and the moment that jobs are due
	Hosts int           // placement

	Patience time.Duration // that it may take beyond Warmup and Duration
}

// outcome is what the load process measured, as a line of JSON.
type outcome struct {
	Seconds  float64
	Errors   int
	Error    string    `json:",omitempty"` // the first one
	Latency  histogram // of the successful requests
	Requests int       // that succeeded
}

// phases of a load.
const (
	warming int32 = iota
	measuring
	stopping
)

// caller makes one request at a time. It is used by one goroutine.
type caller interface {
	call() error
	close()
}

// timed is a caller of which only a part of a call is measured.
type timed interface {
	// took is that part of the last call.
	took() time.Duration
}

// errBroken wraps an error after which the caller's connection is of no more use.
var errBroken = errors.New("connection lost")

// runLoad is the load process: a [load] comes in, "ready" goes out once it is
// warm, "go" comes in, an [outcome] goes out. It keeps the load up in between.
func runLoad(in io.Reader, out io.Writer) error {
	lines := bufio.NewReaderSize(in, 1<<16)
	text, err := lines.ReadBytes('\n')
	if err != nil {
		return fmt.Errorf("load: %w", err)
	}
	var l load
	if err := json.Unmarshal(text, &l); err != nil {
		return fmt.Errorf("load: %w", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	if l.Kind == "trigger" {
		return l.runTrigger(ctx, lines, out)
	}
	open, done, err := l.callers(ctx)
	if err != nil {
		return err
	}
	defer done()

	var (
		phase   atomic.Int32
		wg      sync.WaitGroup
		workers = make([]worker, l.Connections)
	)
	for i := range workers {
		w := &workers[i]
		wg.Go(func() { w.run(ctx, &phase, func() (caller, error) { return open(i) }) })
	}
	time.Sleep(l.Warmup)
	fmt.Fprintln(out, "ready")
	if _, err := lines.ReadString('\n'); err != nil {
		return nil // the benchmark is gone
	}
	phase.Store(measuring)
	start := time.Now()
	time.Sleep(l.Duration)
	phase.Store(stopping)
	o := outcome{Seconds: time.Since(start).Seconds()}

	// What has no reply by now has had its time.
	ended := make(chan struct{})
	go func() { wg.Wait(); close(ended) }()
	select {
	case <-ended:
	case <-time.After(3 * time.Second):
		cancel()
		<-ended
	}
	for i := range workers {
		o.add(&workers[i])
	}
	if o.Requests == 0 && o.Error == "" {
		o.Error = "no request was answered"
	}
	return json.NewEncoder(out).Encode(&o)
}

func (o *outcome) add(w *worker) {
	o.Errors += w.errors
	if o.Error == "" && w.err != nil {
		o.Error = w.err.Error()
	}
	o.Latency.merge(w.latency)
	o.Requests = o.Latency.count()
}

// callers opens the load's connections; done closes what they share.
func (l *load) callers(ctx context.Context) (open func(i int) (caller, error), done func(), err error) {
	switch l.Kind {
	case "delivery":
		return l.deliveryCallers(ctx)
	case "http":
		serials := newSerials()
		return func(i int) (caller, error) {
			c, err := dialHTTP(ctx, l, i, serials)
			if err != nil {
				return nil, err
			}
			return c, nil
		}, func() {}, nil
	case "placement-join", "placement-leave":
		return l.placementCallers(ctx)
	}
	return l.grpcCallers(ctx)
}

// worker is one connection's work and what came of it.
type worker struct {
	latency histogram
	errors  int
	err     error
	_       [64]byte // no other worker in the same cache line
}

func (w *worker) run(ctx context.Context, phase *atomic.Int32, open func() (caller, error)) {
	w.latency = make(histogram, histogramSize)
	var c caller
	defer func() {
		if c != nil {
			c.close()
		}
	}()
	for {
		p := phase.Load()
		if p == stopping || ctx.Err() != nil {
			return
		}
		var err error
		if c == nil {
			c, err = open()
		}
		if err == nil {
			start := time.Now()
			if err = c.call(); err == nil {
				if p == measuring {
					d := time.Since(start)
					if own, ok := c.(timed); ok {
						d = own.took()
					}
					w.latency.add(d)
				}
				continue
			}
		}
		w.errors++
		if w.err == nil {
			w.err = err
		}
		if c != nil && errors.Is(err, errBroken) {
			c.close()
			c = nil
		}
		time.Sleep(5 * time.Millisecond) // a failing sidecar is not to be flooded
	}
}

// httpCaller sends the load's requests over one kept connection.
type httpCaller struct {
	*responses
	load *load
	next int
	stop func() bool

	serials *atomic.Uint64
	stamped []byte // the request that is sent, if it had a mark
}

// serialMark stands in a request for 16 digits that no other request of the benchmark has.
const serialMark = "@@@@@@@@@@@@@@@@"

// newSerials counts from the time in nanoseconds: no load sends a request that soon.
func newSerials() *atomic.Uint64 {
	n := new(atomic.Uint64)
	n.Store(uint64(time.Now().UnixNano()))
	return n
}

// stamp returns the request with digits in place of the mark.
func (h *httpCaller) stamp(r []byte) []byte {
	at := bytes.Index(r, []byte(serialMark))
	if at < 0 {
		return r
	}
	h.stamped = append(h.stamped[:0], r[:at]...)
	h.stamped = fmt.Appendf(h.stamped, "%0*x", len(serialMark), h.serials.Add(1))
	h.stamped = append(h.stamped, r[at+len(serialMark):]...)
	return h.stamped
}

func (h *httpCaller) call() error {
	r := h.load.Requests[h.next]
	if h.next++; h.next == len(h.load.Requests) {
		h.next = 0
	}
	return h.send(r)
}

func (h *httpCaller) send(r []byte) error {
	status, body, err := h.do(h.stamp(r))
	if err != nil {
		return err
	}
	if !slices.Contains(h.load.Status, status) {
		return fmt.Errorf("%.60q: status %d instead of %v", r, status, h.load.Status)
	}
	if body != h.load.Body {
		return fmt.Errorf("%.60q: a body of %d bytes instead of %d", r, body, h.load.Body)
	}
	return nil
}

func (h *httpCaller) close() {
	h.stop()
	h.conn.Close()
}

func dialHTTP(ctx context.Context, l *load, i int, serials *atomic.Uint64) (*httpCaller, error) {
	r, err := dialResponses(ctx, l.Addr)
	if err != nil {
		return nil, err
	}
	// Connections begin at different requests, so that they do not all want the same key at once.
	return &httpCaller{
		responses: r, load: l, next: i * len(l.Requests) / l.Connections, serials: serials,
		stop: context.AfterFunc(ctx, func() { r.conn.Close() }),
	}, nil
}
