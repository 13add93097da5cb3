package app

import (
	"errors"
	"io"
)

// callBody is the body of a streamed response. The call ends, and its slot is free, when the body is read to its end or
// closed.
type callBody struct {
	body  io.ReadCloser
	start []byte // read before
	// release ends what accompanies the call; it is called once.
	release func()
	ended   bool
	err     error
}

var errBodyClosed = errors.New("the body of the response was closed")

// Read reads the body; an error ends the call.
func (b *callBody) Read(p []byte) (int, error) {
	if len(b.start) > 0 {
		n := copy(p, b.start)
		b.start = b.start[n:]
		return n, nil
	}
	if b.ended {
		return 0, b.err
	}
	n, err := b.body.Read(p)
	if err != nil {
		b.end(err)
	}
	return n, err
}

// Close ends the call.
func (b *callBody) Close() error {
	if !b.ended {
		b.end(errBodyClosed)
	}
	return nil
}

func (b *callBody) end(err error) {
	b.ended, b.err = true, err
	_ = b.body.Close()
	b.release()
}
