package http1

import (
	"bytes"
	"io"
	"strconv"
	"sync"
)

// Request is an HTTP request under construction: its header as bytes, and its body in memory or as a stream.
type Request struct {
	// Body is the body in memory, used when Stream is nil.
	Body []byte
	// Stream is read while the response is already being received. When it has a method Abort(), or else Close(), that must
	// make a blocked Read return; it is called when the exchange ends before the stream.
	Stream io.Reader
	// StreamLength is the stream's length in bytes, -1 when it is unknown.
	StreamLength int64

	buffer     []byte
	head       bool
	idempotent bool
	mayHave    bool
	finished   bool
}

var requests = sync.Pool{New: func() any { return &Request{buffer: make([]byte, 0, 2048)} }}

// NewRequest starts a request. target is the path with query, already escaped.
func NewRequest(method string, target []byte, host string) *Request {
	r := requests.Get().(*Request)
	r.head = method == "HEAD"
	switch method {
	case "GET", "HEAD", "OPTIONS", "TRACE":
		// Not PUT and DELETE, idempotent as they should be: actor methods are called with PUT.
		r.idempotent = true
	}
	r.mayHave = method != "GET" && method != "HEAD" && method != "DELETE" && method != "OPTIONS" && method != "TRACE"
	b := append(r.buffer[:0], method...)
	b = append(b, ' ')
	b = appendClean(b, target)
	b = append(b, " HTTP/1.1\r\nHost: "...)
	b = appendClean(b, []byte(host))
	r.buffer = append(b, '\r', '\n')
	return r
}

// Release gives the request back for reuse; it must not be used afterwards. A streamed request may be released only after
// its response is closed.
func (r *Request) Release() {
	b := r.buffer
	if cap(b) > 64<<10 {
		b = make([]byte, 0, 2048)
	}
	*r = Request{buffer: b[:0]}
	requests.Put(r)
}

// AddHeader adds a header line. Line breaks in name or value become spaces. Content-Length and Transfer-Encoding come from
// the body and must not be added.
func (r *Request) AddHeader(name, value []byte) {
	r.buffer = appendClean(r.buffer, name)
	r.buffer = append(r.buffer, ':', ' ')
	r.buffer = appendClean(r.buffer, value)
	r.buffer = append(r.buffer, '\r', '\n')
}

// AddHeaderString is AddHeader for strings.
func (r *Request) AddHeaderString(name, value string) {
	start := len(r.buffer)
	r.buffer = append(r.buffer, name...)
	r.buffer = append(r.buffer, ':', ' ')
	r.buffer = append(r.buffer, value...)
	clean(r.buffer[start:])
	r.buffer = append(r.buffer, '\r', '\n')
}

func appendClean(dst, text []byte) []byte {
	start := len(dst)
	dst = append(dst, text...)
	if bytes.IndexByte(text, '\n') >= 0 || bytes.IndexByte(text, '\r') >= 0 || bytes.IndexByte(text, 0) >= 0 {
		clean(dst[start:])
	}
	return dst
}

func clean(text []byte) {
	for i, c := range text {
		if c == '\n' || c == '\r' || c == 0 {
			text[i] = ' '
		}
	}
}

// inline is the size in bytes up to which a body in memory is sent together with the header.
const inline = 64 << 10

// whole reports whether the buffer of a finished request without a stream holds its body too.
func (r *Request) whole() bool { return len(r.Body) <= inline }

func (r *Request) replayable() bool { return r.Stream == nil && r.idempotent }

// finish completes the header for a body of the given length (-1: chunked) and appends a body in memory, so that small
// requests leave in one write.
func (r *Request) finish(length int64) {
	if r.finished { // it is sent a second time
		return
	}
	r.finished = true
	switch {
	case length < 0:
		r.buffer = append(r.buffer, "Transfer-Encoding: chunked\r\n"...)
	case length > 0 || r.mayHave:
		r.buffer = append(r.buffer, "Content-Length: "...)
		r.buffer = strconv.AppendInt(r.buffer, length, 10)
		r.buffer = append(r.buffer, '\r', '\n')
	}
	r.buffer = append(r.buffer, '\r', '\n')
	if r.Stream == nil && r.whole() {
		r.buffer = append(r.buffer, r.Body...)
	}
}
