package http1

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http/httputil"
	"os"
	"strings"
	"time"

	"github.com/valyala/fasthttp"
)

// Response is the answer to a request. Its header is valid until Close.
type Response struct {
	Header *fasthttp.ResponseHeader

	ctx    context.Context
	conn   *conn
	stop   func() bool
	sender *sender

	// left is the number of body bytes still to come; -1 for a chunked body, -2 for one that ends with the connection.
	left    int64
	length  int64
	chunked io.Reader
	atEnd   bool
	broken  bool
	closed  bool
}

// maxInterim bounds the 1xx responses before the final one.
const maxInterim = 100

func (r *Response) readHeader(head bool) error {
	for range maxInterim {
		if _, err := r.conn.reader.Peek(1); err != nil {
			return fmt.Errorf("%w: %w", errNoByte, err)
		}
		r.Header.Reset()
		r.Header.SetNoDefaultContentType(true)
		if err := r.Header.Read(r.conn.reader); err != nil {
			var small *fasthttp.ErrSmallBuffer
			if errors.As(err, &small) {
				return &HeaderTooLargeError{Limit: r.conn.client.options.MaxHeaderBytes}
			}
			return malformed(err)
		}
		if status := r.Header.StatusCode(); status >= 200 || status == 101 {
			r.begin(head, status)
			return nil
		}
	}
	return fmt.Errorf("more than %d interim responses", maxInterim)
}

// HeaderTooLargeError is a response whose header is over the limit.
type HeaderTooLargeError struct {
	// Limit is the limit in bytes.
	Limit int
}

func (e *HeaderTooLargeError) Error() string {
	return fmt.Sprintf("the response header is larger than %d bytes", e.Limit)
}

// malformed puts the library's error about a header into words: without the bytes received, which it appends.
func malformed(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	if inner := errors.Unwrap(err); inner != nil {
		err = inner
	}
	text := err.Error()
	if len(text) > 200 {
		text = text[:200] + "..."
	}
	return errors.New("malformed HTTP response: " + text)
}

func (r *Response) begin(head bool, status int) {
	length := int64(r.Header.ContentLength())
	if status == 204 && (length > 0 || length == -1) {
		// An app that announces a body where none can be (RFC 9110, 204) sends it as well, before its next response.
		r.broken = true
	}
	if head || status == 204 || status == 304 || status == 101 {
		length = 0
	}
	r.left, r.length = length, length
	switch {
	case length == 0:
		r.atEnd = true
	case length == -1:
		r.chunked = httputil.NewChunkedReader(r.conn.reader)
	}
}

// Status is the HTTP status.
func (r *Response) Status() int { return r.Header.StatusCode() }

// Length is the body's length in bytes, -1 when it is unknown.
func (r *Response) Length() int64 {
	if r.length < 0 {
		return -1
	}
	return r.length
}

// Read reads the body. A body that is cut short ends with io.ErrUnexpectedEOF, or the error of the context.
func (r *Response) Read(p []byte) (int, error) {
	if r.closed { // the connection may serve another request by now
		return 0, errBodyClosed
	}
	if r.atEnd {
		return 0, io.EOF
	}
	if len(p) == 0 {
		return 0, nil
	}
	n, err := r.readSome(p)
	if err != nil && err != io.EOF {
		r.broken = true
		if cause := r.ctx.Err(); cause != nil {
			err = cause
		} else if cause := r.sender.bodyError(); cause != nil {
			err = cause
		}
	}
	return n, err
}

var errBodyClosed = errors.New("http1: read of a response that was closed")

func (r *Response) readSome(p []byte) (int, error) {
	switch {
	case r.chunked != nil:
		n, err := r.chunked.Read(p)
		if err == io.EOF {
			if err = skipTrailer(r.conn.reader); err != nil {
				return n, err
			}
			r.atEnd = true
			return n, io.EOF
		}
		return n, err
	case r.left < 0:
		n, err := r.conn.reader.Read(p)
		if err == io.EOF {
			r.atEnd, r.broken = true, true // the connection is used up
		}
		return n, err
	default:
		if int64(len(p)) > r.left {
			p = p[:r.left]
		}
		n, err := r.conn.reader.Read(p)
		r.left -= int64(n)
		if r.left == 0 {
			r.atEnd = true
			return n, io.EOF
		}
		if err == io.EOF {
			err = io.ErrUnexpectedEOF
		}
		return n, err
	}
}

// skipTrailer reads the trailer section of a chunked body, which is not passed on.
func skipTrailer(br *bufio.Reader) error {
	for range 64 {
		line, err := br.ReadSlice('\n')
		if err != nil {
			if err == io.EOF {
				err = io.ErrUnexpectedEOF
			}
			return err
		}
		if len(bytes.TrimRight(line, "\r\n")) == 0 {
			return nil
		}
	}
	return errors.New("the trailer of the response has too many lines")
}

// ReadAll appends the rest of the body to dst, up to limit bytes in all (no limit when 0 or less).
func (r *Response) ReadAll(dst []byte, limit int64) ([]byte, error) {
	if r.left > 0 && (limit <= 0 || r.left <= limit) && int64(cap(dst)-len(dst)) < r.left && r.left < 64<<20 {
		grown := make([]byte, len(dst), int64(len(dst))+r.left)
		copy(grown, dst)
		dst = grown
	}
	for {
		if len(dst) == cap(dst) {
			dst = append(dst, 0)[:len(dst)]
		}
		n, err := r.Read(dst[len(dst):cap(dst)])
		dst = dst[:len(dst)+n]
		if limit > 0 && int64(len(dst)) > limit {
			return dst, fmt.Errorf("the response is larger than %d bytes", limit)
		}
		if err == io.EOF {
			return dst, nil
		}
		if err != nil {
			return dst, err
		}
	}
}

// Close ends the exchange. The connection is kept for another request when response and request are complete.
func (r *Response) Close() error {
	if r.closed {
		return nil
	}
	r.closed = true
	reusable := r.end()
	k := r.conn
	reusable = reusable && r.atEnd && !r.broken && !r.lastOfConnection()
	if reusable {
		k.client.put(k)
	} else {
		k.client.drop(k, true)
	}
	return nil
}

// lastOfConnection reports whether the other side will take no further request on the connection. The library recognises
// "close" only alone and in lower case.
func (r *Response) lastOfConnection() bool {
	if r.Header.ConnectionClose() || r.Header.StatusCode() == 101 {
		return true
	}
	for _, value := range r.Header.PeekAll("Connection") {
		for token := range bytes.SplitSeq(value, comma) {
			if bytes.EqualFold(bytes.TrimSpace(token), closeToken) {
				return true
			}
		}
	}
	return false
}

var (
	comma      = []byte(",")
	closeToken = []byte("close")
)

// finished reports whether the request is sent. A sender that is at its last bytes gets a moment: the other side may have
// answered before this one came to know that they are gone.
func (s *sender) finished() bool {
	select {
	case <-s.done:
		return true
	default:
	}
	if !s.last.Load() {
		return false
	}
	moment := time.NewTimer(100 * time.Millisecond)
	defer moment.Stop()
	select {
	case <-s.done:
		return true
	case <-moment.C:
		return false
	}
}

// end stops what accompanies the exchange and reports whether the connection is still in a known state.
func (r *Response) end() (known bool) {
	known = true
	if r.sender != nil {
		if !r.sender.finished() {
			// The response is done before the request: nobody wants the rest of it.
			known = false
			r.sender.abort()
			_ = r.conn.SetDeadline(longAgo)
			<-r.sender.done
		}
		if r.sender.err != nil {
			known = false
		}
	}
	// When the context ended meanwhile, the deadline it set is, or is about to be, on the connection.
	return r.stop() && known
}

// fail ends an exchange that has no response, and finds the most telling error.
func (r *Response) fail(err error) error {
	r.closed = true
	r.end()
	sender := r.sender
	r.conn.client.drop(r.conn, true)
	if cause := r.ctx.Err(); cause != nil {
		return cause
	}
	if cause := sender.bodyError(); cause != nil {
		return cause
	}
	return &ResponseError{Err: plain(err)}
}

// plain puts the usual ways of a connection to end into words, keeping the error tree.
func plain(err error) error {
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded):
		return fmt.Errorf("the exchange was broken off: %w", err)
	case errors.Is(err, net.ErrClosed):
		return fmt.Errorf("the client was closed: %w", err)
	case strings.HasSuffix(err.Error(), "EOF") && errors.Is(err, errNoByte):
		return errEmpty{err}
	}
	return err
}

// errEmpty reads "EOF", as the standard library says it, for a connection closed instead of an answer.
type errEmpty struct{ err error }

func (errEmpty) Error() string   { return "EOF" }
func (e errEmpty) Unwrap() error { return e.err }
