package pluggable

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
)

// longestPath is the length in bytes of a socket's path that every Unix takes.
const longestPath = 100

// dial connects to a socket. A path that is too long for a socket address is reached through the open folder, where the system
// has /proc.
func dial(ctx context.Context, path string) (net.Conn, error) {
	var d net.Dialer
	if len(path) <= longestPath {
		return d.DialContext(ctx, "unix", path)
	}
	folder, err := os.Open(filepath.Dir(path))
	if err != nil {
		return nil, err
	}
	defer func() { _ = folder.Close() }()
	short := fmt.Sprintf("/proc/self/fd/%d/%s", folder.Fd(), filepath.Base(path))
	if _, err := os.Stat(short); err != nil || len(short) > longestPath {
		return nil, fmt.Errorf("its path has %d bytes, which is more than a socket address holds (%d): move the folder, or shorten the file's name", len(path), longestPath)
	}
	return d.DialContext(ctx, "unix", short)
}

// explainDial says what a failed dial means, and what to do about it where a restart of the process is not enough.
func explainDial(err error) (remedy string, explained error) {
	switch {
	case errors.Is(err, syscall.ECONNREFUSED):
		return "start the component, or remove the stale socket", fmt.Errorf("no process listens on it: %w", err)
	case errors.Is(err, fs.ErrNotExist):
		return "start the component", fmt.Errorf("it does not exist: %w", err)
	case errors.Is(err, fs.ErrPermission):
		return "let the component create it with permission to write for the sidecar's user", fmt.Errorf("the sidecar may not open it: %w", err)
	default:
		return "look at the component's process", err
	}
}

// instanceHeader tells a process which component a call is for.
const instanceHeader = "x-component-instance"

// largestMessage bounds in bytes what a component may send at once.
const largestMessage = 256 << 20

// errUsedUp is why a connection is not made anew by gRPC: what comes after it has to be initialised first.
var errUsedUp = errors.New("the connection to the component has ended and is being made anew")

// conn is one gRPC connection over one connection to a socket. It does not reconnect.
type conn struct {
	cc  *grpc.ClientConn
	raw net.Conn
	// lost is closed when no further call can be made: the other side has gone, or wants no new ones.
	lost chan struct{}
	// ended is closed when the socket's connection is.
	ended            chan struct{}
	isLost           atomic.Bool
	losing, endingIt sync.Once
	used             atomic.Bool
}

// newConn puts gRPC on a connection, which it owns from here on. Calls carry what headers returns.
func newConn(raw net.Conn, headers func(ctx context.Context) []string) (*conn, error) {
	c := &conn{raw: raw, lost: make(chan struct{}), ended: make(chan struct{})}
	watched := &watchedConn{Conn: raw, c: c}
	options := []grpc.DialOption{
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(context.Context, string) (net.Conn, error) {
			if c.used.Swap(true) {
				c.lose()
				return nil, errUsedUp
			}
			return watched, nil
		}),
		grpc.WithAuthority("localhost"), // servers refuse paths of sockets here
		grpc.WithIdleTimeout(0),
		grpc.WithDisableServiceConfig(),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(largestMessage), grpc.MaxCallSendMsgSize(largestMessage)),
	}
	if headers != nil {
		options = append(options,
			grpc.WithUnaryInterceptor(func(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoker grpc.UnaryInvoker, opts ...grpc.CallOption) error {
				return invoker(metadata.AppendToOutgoingContext(ctx, headers(ctx)...), method, req, reply, cc, opts...)
			}),
			grpc.WithStreamInterceptor(func(ctx context.Context, desc *grpc.StreamDesc, cc *grpc.ClientConn, method string, streamer grpc.Streamer, opts ...grpc.CallOption) (grpc.ClientStream, error) {
				return streamer(metadata.AppendToOutgoingContext(ctx, headers(ctx)...), desc, cc, method, opts...)
			}))
	}
	cc, err := grpc.NewClient("passthrough:///pluggable", options...)
	if err != nil {
		return nil, errors.Join(err, raw.Close())
	}
	c.cc = cc
	cc.Connect()
	return c, nil
}

func (c *conn) lose() {
	c.losing.Do(func() {
		c.isLost.Store(true)
		close(c.lost)
	})
}

// close ends the connection.
func (c *conn) close() {
	c.lose()
	_ = c.cc.Close()
	_ = c.raw.Close() // for the case that gRPC never got it
}

// watchedConn tells its conn when it ends.
type watchedConn struct {
	net.Conn
	c *conn
}

func (w *watchedConn) Read(b []byte) (int, error) {
	n, err := w.Conn.Read(b)
	if err != nil {
		w.c.lose()
	}
	return n, err
}

func (w *watchedConn) Write(b []byte) (int, error) {
	n, err := w.Conn.Write(b)
	if err != nil {
		w.c.lose()
	}
	return n, err
}

func (w *watchedConn) Close() error {
	w.c.lose()
	w.c.endingIt.Do(func() { close(w.c.ended) })
	return w.Conn.Close()
}
