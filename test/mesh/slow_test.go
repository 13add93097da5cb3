package mesh_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// Nobody holds a connection by not getting on with it: in the handshake, in the preface of HTTP/2, in a header, however it is
// sliced. In the meantime, and with many such connections open, others are served.
func TestConnectionsThatDoNotGetOn(t *testing.T) {
	if testing.Short() {
		t.Skip("it takes as long as connections may take to begin")
	}
	t.Parallel()
	e := newEstate(t)
	headers, _ := headerBlock(":method", "POST", ":scheme", "http", ":path", "/m", ":authority", "x", "content-type", "application/grpc", "te", "trailers")
	var unfinished bytes.Buffer
	unfinished.WriteString(http2.ClientPreface)
	framer := http2.NewFramer(&unfinished, nil)
	_ = framer.WriteSettings()
	_ = framer.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: headers})
	var continued bytes.Buffer
	_ = http2.NewFramer(&continued, nil).WriteContinuation(1, false, nil)

	var group sync.WaitGroup
	defer group.Wait()
	stop := make(chan struct{})
	defer close(stop)
	for _, d := range e.doors {
		for _, attack := range []struct {
			name, protocol string
			at             bool   // the door has what it takes
			start          []byte // at once
			drip           []byte // again and again, a bit at a time
			whole          bool   // the drips are whole
			many           int
		}{
			{name: "silence", protocol: "raw", at: true, many: 20},
			{name: "a slow handshake", protocol: "raw", at: d.tls != nil, start: []byte{0x16, 3, 1, 2, 0, 1}, drip: []byte{0, 1, 0xfc, 3, 3}, many: 2},
			{name: "silence after the handshake", protocol: "http1", at: d.tls != nil && d.http1, many: 5},
			{name: "silence after the handshake, HTTP/2", protocol: "http2", at: d.tls != nil && d.http2, many: 5},
			{name: "a header by bytes", protocol: "http1", at: d.http1, start: []byte("GET " + d.path + " HTTP/1.1\r\nHost: x\r\nX: "), drip: []byte("x"), many: 2},
			{name: "a header by lines", protocol: "http1", at: d.http1, start: []byte("GET " + d.path + " HTTP/1.1\r\n"), drip: []byte("X: x\r\n"), whole: true, many: 2},
			{name: "empty lines", protocol: "http1", at: d.http1, drip: []byte("\r\n"), whole: true, many: 2},
			{name: "a preface by bytes", protocol: "http2", at: d.http2, drip: []byte(http2.ClientPreface[:len(http2.ClientPreface)-1]), many: 2},
			{name: "a preface that ends", protocol: "http2", at: d.http2, start: []byte("PRI * HTTP/2.0\r\n"), many: 2},
			{name: "a header without end", protocol: "http2", at: d.http2, start: unfinished.Bytes(), drip: continued.Bytes(), whole: true, many: 2},
			{name: "a frame without end", protocol: "http2", at: d.http2, start: append(bytes.Clone(unfinished.Bytes()), 0, 64, 0, 9, 0, 0, 0, 0, 1), drip: []byte{0}, many: 2},
		} {
			if !attack.at {
				continue
			}
			for range attack.many {
				group.Go(func() {
					c := d.dial(t, attack.protocol)
					if c == nil {
						return
					}
					defer c.Close()
					ended := make(chan struct{})
					group.Go(func() {
						defer close(ended)
						_, _ = io.Copy(io.Discard, c)
					})
					_, _ = c.Write(attack.start)
					tick := time.NewTicker(500 * time.Millisecond)
					defer tick.Stop()
					patient := time.NewTimer(45 * time.Second)
					defer patient.Stop()
					for rest := attack.drip; ; {
						select {
						case <-ended:
							return
						case <-stop:
							t.Errorf("%s: %s: the connection was still open at the end", d.name, attack.name)
							return
						case <-patient.C:
							t.Errorf("%s: %s: the connection is still open", d.name, attack.name)
							return
						case <-tick.C:
							n := 1
							if attack.whole {
								n = len(rest)
							}
							if len(rest) > 0 {
								_, _ = c.Write(rest[:n]) // its end is seen by the reader
								if rest = rest[n:]; len(rest) == 0 {
									rest = attack.drip
								}
							}
						}
					}
				})
			}
		}
	}
	for range 3 {
		time.Sleep(100 * time.Millisecond) // while all of them are open
		e.well(t, "beside connections that do not get on")
	}
	group.Wait()
	e.well(t, "after connections that did not get on")
}

// headerBlock encodes a header.
func headerBlock(pairs ...string) ([]byte, error) {
	var b bytes.Buffer
	encoder := hpack.NewEncoder(&b)
	for i := 0; i+1 < len(pairs); i += 2 {
		if err := encoder.WriteField(hpack.HeaderField{Name: pairs[i], Value: pairs[i+1]}); err != nil {
			return nil, err
		}
	}
	return b.Bytes(), nil
}

// swallowed is more than a port may take of what it does not want before it says so, with what is on its way in the buffers of
// the system.
const swallowed = 64 << 20

// flood writes a piece again and again until the other side has had enough. When it has answered it may go on reading for a
// moment, so that its answer is not lost.
func flood(c net.Conn, start, piece string) error {
	var answered atomic.Bool
	go func() { // ends with the connection
		block := make([]byte, 16<<10)
		for {
			n, err := c.Read(block)
			if n > 0 {
				answered.Store(true)
			}
			if err != nil {
				return
			}
		}
	}()
	if len(piece) < 16<<10 {
		piece = strings.Repeat(piece, 16<<10/len(piece))
	}
	end := time.Now().Add(patience)
	_ = c.SetWriteDeadline(end.Add(patience))
	total, err := io.WriteString(c, start)
	for err == nil {
		var n int
		n, err = io.WriteString(c, piece)
		total += n
		switch {
		case err != nil:
		case total > swallowed && !answered.Load():
			return fmt.Errorf("it took %d bytes and said nothing", total)
		case time.Now().After(end):
			return fmt.Errorf("it still reads, after %d bytes", total)
		}
	}
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return fmt.Errorf("it neither reads nor ends, after %d bytes", total)
	}
	return nil
}

// Headers and bodies over the limits are refused as soon as they are over them, not when they end.
func TestOversizedRequests(t *testing.T) {
	e := newEstate(t)
	var group sync.WaitGroup
	for _, d := range e.doors {
		if !d.http1 {
			continue
		}
		start := func(verb string) string {
			return verb + " " + d.path + " HTTP/1.1\r\nHost: x\r\nOutrigger-Exchange: 1\r\n"
		}
		// The answer to a header over the limit says so.
		group.Go(func() {
			c := d.dial(t, "http1")
			if c == nil {
				return
			}
			defer c.Close()
			_ = c.SetDeadline(time.Now().Add(patience))
			resp, _, err := roundTrip(c, start("GET")+"X: "+strings.Repeat("x", 40<<10)+"\r\n\r\n")
			var op *net.OpError // the rest of the header may be on its way when the connection ends
			if err == nil && resp.StatusCode != 431 || err != nil && !errors.As(err, &op) && !errors.Is(err, io.ErrUnexpectedEOF) {
				t.Errorf("%s: a header of 40 KiB: %v, %v", d.name, resp, err)
			}
		})
		floods := map[string][2]string{
			"a line":                {start("GET") + "X: ", "x"},
			"a name":                {start("GET"), "x"},
			"lines":                 {start("GET"), "X: x\r\n"},
			"folded lines":          {start("GET") + "X: x\r\n", " x\r\n"},
			"a request line":        {"GET /", "x"},
			"a verb":                {"", "G"},
			"a query":               {"GET " + d.path + "?", "x=x&"},
			"a body nobody reads":   {start("GET") + "Content-Length: 1000000000000\r\n\r\n", "x"},
			"chunks nobody reads":   {start("GET") + "Transfer-Encoding: chunked\r\n\r\n", "1\r\nx\r\n"},
			"a length out of range": {start("POST") + "Content-Length: 99999999999999999999999999\r\n\r\n", "x"},
			"trailers":              {start("GET") + "Transfer-Encoding: chunked\r\n\r\n0\r\n", "X: x\r\n"},
			"a chunk's extension":   {start("GET") + "Transfer-Encoding: chunked\r\n\r\n1;", "x"},
			"a chunk's length":      {start("GET") + "Transfer-Encoding: chunked\r\n\r\n", "0"},
			"empty lines":           {"", "\r\n"},
		}
		if strings.HasPrefix(d.name, "internal") {
			// The app gets bodies as they come, without a limit, in this protocol.
			delete(floods, "a body nobody reads")
			delete(floods, "chunks nobody reads")
		}
		if d.name == "HTTP API" {
			floods["a body"] = [2]string{"POST /v1.0/state/store HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000000000\r\n\r\n", "x"}
			floods["chunks"] = [2]string{"POST /v1.0/state/store HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n", "10\r\n0123456789abcdef\r\n"}
			floods["a body that is passed on"] = [2]string{"POST /v1.0/invoke/busy/method/m HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n", "10\r\n0123456789abcdef\r\n"}
			floods["a body before HTTP/2"] = [2]string{"POST /v1.0/state/store HTTP/1.1\r\nHost: x\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\nTransfer-Encoding: chunked\r\n\r\n", "4000\r\n" + strings.Repeat("x", 0x4000) + "\r\n"}
		}
		for name, f := range floods {
			group.Go(func() {
				c := d.dial(t, "http1")
				if c == nil {
					return
				}
				defer c.Close()
				if err := flood(c, f[0], f[1]); err != nil {
					t.Errorf("%s: %s: %v", d.name, name, err)
				}
			})
		}
	}
	group.Wait()
	e.well(t, "after what was too large")
}
