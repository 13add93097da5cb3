package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"strconv"
	"time"
)

// responses reads the replies of a kept HTTP/1.1 connection and counts their
// bodies: the least that a client can do, so that little of the machine goes to
// the load itself.
type responses struct {
	conn net.Conn // nil in tests
	in   io.Reader
	buf  []byte
	r, w int // what is read but not consumed
}

func newResponses(in io.Reader) *responses { return &responses{in: in, buf: make([]byte, 16<<10)} }

func dialResponses(ctx context.Context, addr string) (*responses, error) {
	d := net.Dialer{Timeout: 5 * time.Second}
	conn, err := d.DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, err
	}
	r := newResponses(conn)
	r.conn = conn
	return r, nil
}

// do sends a request and returns the status and the body's length in bytes.
// After an error, which is an errBroken, the connection is to be closed.
func (c *responses) do(request []byte) (status, body int, err error) {
	if _, err = c.conn.Write(request); err == nil {
		status, body, err = c.read()
	}
	if err != nil {
		err = fmt.Errorf("%w: %.60q: %w", errBroken, request, err)
	}
	return status, body, err
}

// read consumes one reply.
func (c *responses) read() (status, body int, err error) {
	head, err := c.head()
	if err != nil {
		return 0, 0, err
	}
	line, fields, _ := bytes.Cut(head, []byte("\r\n"))
	if len(line) < 12 || string(line[:7]) != "HTTP/1." {
		return 0, 0, fmt.Errorf("not an HTTP/1.1 reply: %.40q", line)
	}
	if status, err = strconv.Atoi(string(line[9:12])); err != nil {
		return 0, 0, fmt.Errorf("not a status: %.40q", line)
	}
	length, chunked := -1, false
	for len(fields) > 0 {
		line, fields, _ = bytes.Cut(fields, []byte("\r\n"))
		name, v, _ := bytes.Cut(line, []byte(":"))
		switch len(name) {
		case len("Content-Length"):
			if bytes.EqualFold(name, []byte("Content-Length")) {
				if length, err = strconv.Atoi(string(bytes.TrimSpace(v))); err != nil || length < 0 {
					return 0, 0, fmt.Errorf("not a length: %.60q", line)
				}
			}
		case len("Transfer-Encoding"):
			chunked = chunked || bytes.EqualFold(name, []byte("Transfer-Encoding")) && bytes.EqualFold(bytes.TrimSpace(v), []byte("chunked"))
		}
	}
	switch {
	case status == 204 || status == 304:
		return status, 0, nil
	case chunked:
		body, err = c.chunks()
		return status, body, err
	case length >= 0:
		return status, length, c.skip(length)
	}
	return 0, 0, fmt.Errorf("a reply of status %d without Content-Length", status)
}

// head consumes the status line and the fields. It is valid until the next read.
func (c *responses) head() ([]byte, error) {
	from := 0
	for {
		if i := bytes.Index(c.buf[c.r+from:c.w], []byte("\r\n\r\n")); i >= 0 {
			head := c.buf[c.r : c.r+from+i]
			c.r += from + i + 4
			return head, nil
		}
		from = max(0, c.w-c.r-3)
		if err := c.fill(); err != nil {
			return nil, err
		}
	}
}

// line consumes a line.
func (c *responses) line() ([]byte, error) {
	for {
		if i := bytes.IndexByte(c.buf[c.r:c.w], '\n'); i >= 0 {
			line := c.buf[c.r : c.r+i]
			c.r += i + 1
			return bytes.TrimSuffix(line, []byte("\r")), nil
		}
		if err := c.fill(); err != nil {
			return nil, err
		}
	}
}

// fill reads more behind what is not consumed.
func (c *responses) fill() error {
	if c.r == c.w {
		c.r, c.w = 0, 0
	}
	if c.w == len(c.buf) {
		if c.r == 0 {
			return fmt.Errorf("a head or line of more than %d bytes", len(c.buf))
		}
		c.w = copy(c.buf, c.buf[c.r:c.w])
		c.r = 0
	}
	n, err := c.in.Read(c.buf[c.w:])
	c.w += n
	if n > 0 {
		return nil
	}
	if err == nil {
		err = io.ErrNoProgress
	}
	return err
}

// skip consumes n bytes.
func (c *responses) skip(n int) error {
	for {
		have := min(n, c.w-c.r)
		c.r += have
		if n -= have; n == 0 {
			return nil
		}
		if err := c.fill(); err != nil {
			return err
		}
	}
}

// chunks consumes a chunked body and returns its length.
func (c *responses) chunks() (total int, err error) {
	for {
		line, err := c.line()
		if err != nil {
			return total, err
		}
		size, _, _ := bytes.Cut(line, []byte(";"))
		n, err := strconv.ParseUint(string(bytes.TrimSpace(size)), 16, 31)
		if err != nil {
			return total, fmt.Errorf("not a chunk's size: %.40q", line)
		}
		if n == 0 {
			break
		}
		if err := c.skip(int(n)); err != nil {
			return total, err
		}
		if line, err = c.line(); err != nil || len(line) > 0 {
			return total, fmt.Errorf("after a chunk: %.40q, %w", line, err)
		}
		total += int(n)
	}
	for { // trailers
		line, err := c.line()
		if err != nil || len(line) == 0 {
			return total, err
		}
	}
}
