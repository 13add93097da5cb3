package mesh_test

import (
	"bytes"
	"encoding/binary"
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
)

// h2 is a client of HTTP/2 that keeps no rule but those of framing.
type h2 struct {
	net.Conn
	*http2.Framer
	buffer *frames
	// gone is closed when the other side has ended the connection, or said that it will.
	gone    chan struct{}
	replies atomic.Int64
}

// frames gathers frames, so that they leave in large writes.
type frames struct {
	bytes.Buffer
	to net.Conn
}

func (f *frames) flush() error {
	_, err := f.to.Write(f.Bytes())
	f.Reset()
	return err
}

// openH2 opens a connection and begins it. Its reader ends with it.
func (d *door) openH2(t testing.TB, group *sync.WaitGroup, settings ...http2.Setting) *h2 {
	t.Helper()
	c := d.dial(t, "http2")
	if c == nil {
		return nil
	}
	buffer := &frames{to: c}
	h := &h2{Conn: c, Framer: http2.NewFramer(buffer, c), buffer: buffer, gone: make(chan struct{})}
	h.AllowIllegalWrites = true
	h.SetMaxReadFrameSize(1 << 20)
	buffer.WriteString(http2.ClientPreface)
	_ = h.WriteSettings(settings...)
	_ = c.SetDeadline(time.Now().Add(2 * patience))
	group.Go(func() {
		defer close(h.gone)
		for {
			frame, err := h.ReadFrame()
			if err != nil {
				return
			}
			switch f := frame.(type) {
			case *http2.GoAwayFrame:
				if f.ErrCode != http2.ErrCodeNo {
					return
				}
			case *http2.HeadersFrame:
				h.replies.Add(1)
			}
		}
	})
	return h
}

// ended reports whether the other side has had enough.
func (h *h2) ended() bool {
	select {
	case <-h.gone:
		return true
	default:
		return false
	}
}

// call is the header of a request that the door serves.
func (d *door) call() []byte {
	if d.method == "" {
		block, _ := headerBlock(":method", "GET", ":scheme", "http", ":path", d.path, ":authority", "x")
		return block
	}
	block, _ := headerBlock(":method", "POST", ":scheme", "http", ":path", d.method, ":authority", "x", "content-type", "application/grpc", "te", "trailers")
	return block
}

// What HTTP/2 lets a client ask for is bounded: a client that asks for more loses its connection, or is not listened to, and
// costs nobody else anything.
func TestHTTP2Floods(t *testing.T) {
	e := newEstate(t)
	long, _ := headerBlock("x-long", strings.Repeat("x", 15<<10))
	settings := make([]http2.Setting, 2700)
	for i := range settings {
		settings[i] = http2.Setting{ID: http2.SettingID(0x100 + i), Val: uint32(i)}
	}
	greedy := []http2.Setting{
		{ID: http2.SettingHeaderTableSize, Val: 1<<32 - 1},
		{ID: http2.SettingInitialWindowSize, Val: 1<<31 - 1},
		{ID: http2.SettingMaxHeaderListSize, Val: 1<<32 - 1},
		{ID: http2.SettingMaxFrameSize, Val: 1<<24 - 1},
		{ID: http2.SettingMaxConcurrentStreams, Val: 1<<32 - 1},
	}
	for _, attack := range []struct {
		name string
		// next writes the n-th piece of the flood.
		next func(h *h2, d *door, n uint32)
		// limit is how many pieces there are; must tells that the connection has to be lost before.
		limit uint32
		must  bool
	}{
		{"headers without end", func(h *h2, d *door, n uint32) {
			if n == 0 {
				_ = h.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: d.call()})
			}
			_ = h.WriteContinuation(1, false, long)
		}, 4000, true},
		{"headers that name others again and again", func(h *h2, d *door, n uint32) { // what is short on the wire is long in memory
			if n == 0 {
				block, _ := headerBlock("x-long", strings.Repeat("x", 3<<10))
				_ = h.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: append(d.call(), block...)})
			}
			_ = h.WriteContinuation(1, false, bytes.Repeat([]byte{0xbe}, 16<<10))
		}, 4000, true},
		{"rapid resets", func(h *h2, d *door, n uint32) {
			_ = h.WriteHeaders(http2.HeadersFrameParam{StreamID: 2*n + 1, BlockFragment: d.call(), EndHeaders: true})
			_ = h.WriteRSTStream(2*n+1, http2.ErrCodeCancel)
		}, 5000, false},
		{"resets that the server makes", func(h *h2, d *door, n uint32) {
			_ = h.WriteHeaders(http2.HeadersFrameParam{StreamID: 2*n + 1, BlockFragment: d.call(), EndHeaders: true})
			_ = h.WriteWindowUpdate(2*n+1, 0)
		}, 5000, false},
		{"calls whose answers are not read", func(h *h2, d *door, n uint32) {
			_ = h.WriteHeaders(http2.HeadersFrameParam{StreamID: 2*n + 1, BlockFragment: d.call(), EndHeaders: true, EndStream: true})
		}, 1000, false},
		{"settings", func(h *h2, _ *door, n uint32) { _ = h.WriteSettings(settings...) }, 500, false},
		{"greedy settings", func(h *h2, _ *door, n uint32) { _ = h.WriteSettings(greedy...) }, 20_000, false},
		{"pings", func(h *h2, _ *door, n uint32) { _ = h.WritePing(false, [8]byte{byte(n)}) }, 50_000, false},
		{"priorities", func(h *h2, _ *door, n uint32) {
			_ = h.WritePriority(2*n+1, http2.PriorityParam{StreamDep: 2*n + 3, Weight: 255})
		}, 50_000, false},
		{"window updates beyond all bounds", func(h *h2, _ *door, n uint32) { _ = h.WriteWindowUpdate(0, 1<<31-1) }, 100, false},
		{"a frame of 16 MiB", func(h *h2, _ *door, n uint32) {
			_ = h.WriteRawFrame(http2.FrameData, 0, 1, nil)
			h.buffer.Truncate(h.buffer.Len() - 9)
			h.buffer.Write([]byte{0xff, 0xff, 0xff, 0, 0, 0, 0, 0, 1})
			h.buffer.Write(long)
		}, 4000, true},
		{"data for no stream", func(h *h2, _ *door, n uint32) { _ = h.WriteData(2*n+1001, false, long) }, 1000, false},
		{"an unknown frame", func(h *h2, _ *door, n uint32) { _ = h.WriteRawFrame(0xee, 0xff, n, []byte("?")) }, 20_000, false},
	} {
		t.Run(attack.name, func(t *testing.T) {
			t.Parallel()
			var group sync.WaitGroup
			for _, d := range e.doors {
				if !d.http2 {
					continue
				}
				group.Go(func() {
					h := d.openH2(t, &group)
					if h == nil {
						return
					}
					defer h.Close()
					var err error
					for n := uint32(0); n < attack.limit && err == nil && !h.ended(); n++ {
						attack.next(h, d, n)
						if h.buffer.Len() > 32<<10 {
							err = h.buffer.flush()
						}
					}
					if err == nil {
						err = h.buffer.flush()
					}
					if !attack.must {
						return
					}
					select {
					case <-h.gone:
					case <-time.After(2 * patience):
						t.Errorf("%s: the connection goes on: %v", d.name, err)
					}
				})
			}
			group.Wait()
			e.well(t, "after "+attack.name)
		})
	}
}

// A message of the internal protocol that announces more than the limit is not waited for; one that is none is an error of its
// call alone.
func TestMalformedMessages(t *testing.T) {
	e := newEstate(t)
	prefix := func(flag byte, length uint32, rest ...byte) []byte {
		return append(binary.BigEndian.AppendUint32([]byte{flag}, length), rest...)
	}
	for name, message := range map[string][]byte{
		"4 GiB announced":        prefix(0, 1<<32-1, 1, 2, 3),
		"compressed by nobody":   prefix(1, 3, 1, 2, 3),
		"an unknown flag":        prefix(0x80, 3, 1, 2, 3),
		"no protobuf":            prefix(0, 3, 0xff, 0xff, 0xff),
		"a length in a length":   prefix(0, 6, 0x0a, 0xff, 0xff, 0xff, 0xff, 0x7f),
		"groups within groups":   prefix(0, 1<<10, bytes.Repeat([]byte{0x0b}, 1<<10)...),
		"messages in messages":   prefix(0, 2, 0x0a, 0),
		"invalid UTF-8":          prefix(0, 11, 0x0a, 9, 0x1a, 7, 0x0a, 5, 'm', 0xff, 0xfe, 'x', 'y'),
		"nothing":                prefix(0, 0),
		"cut in the prefix":      {0, 0, 0},
		"two, of which one ends": append(prefix(0, 0), prefix(0, 100, 1)...),
	} {
		var group sync.WaitGroup
		for _, d := range e.doors {
			if d.method == "" {
				continue
			}
			h := d.openH2(t, &group)
			if h == nil {
				continue
			}
			_ = h.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: d.call(), EndHeaders: true})
			_ = h.WriteData(1, true, message)
			if err := h.buffer.flush(); err != nil {
				t.Errorf("%s, %s: %v", d.name, name, err)
			}
			if d.name != "gRPC API" { // where a watch that was understood goes on
				eventually(t, fmt.Sprintf("%s answers to %s", d.name, name), func() bool { return h.replies.Load() > 0 || h.ended() })
			}
			_ = h.Close()
		}
		group.Wait()
	}
	e.well(t, "after malformed messages")
	for _, s := range []string{e.busy.Log.String(), e.secured.Log.String()} {
		if strings.Contains(s, "panic") {
			t.Errorf("something panicked:\n%s", s)
		}
	}
}

// A client that asks for a lot and reads nothing of it is not served more and more into memory.
func TestAnswersThatAreNotRead(t *testing.T) {
	e := newEstate(t)
	var group sync.WaitGroup
	for _, d := range e.doors {
		if !d.http1 {
			continue
		}
		c := d.dial(t, "http1")
		if c == nil {
			continue
		}
		defer c.Close()
		group.Go(func() {
			request := strings.Repeat("GET "+d.path+" HTTP/1.1\r\nHost: x\r\nOutrigger-Exchange: 1\r\n\r\n", 200)
			_ = c.SetWriteDeadline(time.Now().Add(time.Second))
			var err error
			total := 0
			for err == nil && total < swallowed {
				var n int
				n, err = io.WriteString(c, request)
				total += n
			}
			if total >= swallowed && !errors.Is(err, os.ErrDeadlineExceeded) {
				t.Errorf("%s: it took %d bytes of requests whose answers nobody reads", d.name, total)
			}
		})
	}
	group.Wait()
	e.well(t, "beside clients that read nothing")
}
