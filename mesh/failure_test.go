package mesh

import (
	"context"
	"errors"
	"io"
	"net"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"outrigger.dev/invocation"
)

// faulty is an address whose connections a test spoils; n counts them from 1.
func faulty(t testing.TB, serve func(n int, c *net.TCPConn)) string {
	l := listen(t, "127.0.0.1:0")
	var tasks sync.WaitGroup
	var mu sync.Mutex
	open := map[net.Conn]bool{}
	t.Cleanup(func() {
		_ = l.Close()
		mu.Lock()
		for c := range open {
			_ = c.Close()
		}
		mu.Unlock()
		tasks.Wait()
	})
	tasks.Go(func() {
		for n := 1; ; n++ {
			c, err := l.Accept()
			if err != nil {
				return
			}
			mu.Lock()
			open[c] = true
			mu.Unlock()
			tasks.Go(func() {
				defer c.Close()
				serve(n, c.(*net.TCPConn))
			})
		}
	})
	return l.Addr().String()
}

// reset breaks a connection as a host does that knows nothing of it.
func reset(c *net.TCPConn) {
	_ = c.SetLinger(0)
	_ = c.Close()
}

// pass passes a connection on to an address, until so many bytes of answers came; 0 is no limit.
func pass(c *net.TCPConn, to string, limit int64) {
	up, err := net.Dial("tcp", to)
	if err != nil {
		return
	}
	defer up.Close()
	go func() {
		_, _ = io.Copy(up, c)
		_ = up.Close()
	}()
	if limit > 0 {
		_, _ = io.CopyN(c, up, limit)
		reset(c)
		return
	}
	_, _ = io.Copy(c, up)
}

// ways are the three ways to call a peer. Each call is one round trip.
func ways(t *testing.T, timeout time.Duration, f func(t *testing.T, c *Client, call func(ctx context.Context, at string) error)) {
	wires(t, func(t *testing.T, o ClientOptions) {
		o.DialTimeout = timeout
		c := newClient(t, o)
		f(t, c, func(ctx context.Context, at string) error {
			resp, err := c.Invoke(ctx, at, request("hello"))
			if err != nil {
				return err
			}
			defer resp.Close()
			return resp.Buffer(0)
		})
	})
	t.Run("proxied", func(t *testing.T) {
		c := newClient(t, ClientOptions{DialTimeout: timeout})
		f(t, c, func(ctx context.Context, at string) error {
			s, err := c.NewStream(ctx, Target{Address: at, AppID: "b"}, anyMethod)
			if err != nil {
				return err
			}
			return roundTrip(s, "hello")
		})
	})
}

// A peer that takes connections and says nothing costs the caller no more than its deadline, or the time to connect.
func TestHangingPeer(t *testing.T) {
	ways(t, 300*time.Millisecond, func(t *testing.T, c *Client, call func(ctx context.Context, at string) error) {
		at := faulty(t, func(_ int, c *net.TCPConn) { _, _ = io.Copy(io.Discard, c) })
		ctx, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
		defer cancel()
		start := time.Now()
		if err := call(ctx, at); !errors.Is(err, context.DeadlineExceeded) && status.Code(err) != codes.DeadlineExceeded {
			t.Errorf("got %v", err)
		}
		if took := time.Since(start); took > 3*time.Second {
			t.Errorf("a call with a deadline took %s", took)
		}
		start = time.Now()
		if err := call(within(t), at); !c.Retriable(err) {
			t.Errorf("without a deadline: %v", err)
		}
		if took := time.Since(start); took > 10*time.Second {
			t.Errorf("a call without a deadline took %s", took)
		}
	})
}

// A peer that resets connections was not reached, and is called again as soon as it is well.
func TestFlappingPeer(t *testing.T) {
	_, real := startServer(t, ServerOptions{Handler: echoHandler, Proxy: echoFrames})
	ways(t, time.Second, func(t *testing.T, c *Client, call func(ctx context.Context, at string) error) {
		var mu sync.Mutex
		ill := true
		set := func(now bool) {
			mu.Lock()
			defer mu.Unlock()
			ill = now
		}
		at := faulty(t, func(_ int, c *net.TCPConn) {
			mu.Lock()
			now := ill
			mu.Unlock()
			if now {
				reset(c)
				return
			}
			pass(c, real, 0)
		})
		for range 3 {
			set(true)
			if err := call(within(t), at); err != nil && !c.Retriable(err) { // a connection that it has may go on
				t.Errorf("while it is ill: %v", err)
			}
			set(false)
			start := time.Now()
			if err := call(within(t), at); err != nil {
				t.Errorf("when it is well: %v", err)
			}
			if took := time.Since(start); took > 5*time.Second {
				t.Errorf("it took %s to notice", took)
			}
		}
	})
}

// An answer that is cut anywhere is an error, never a shorter answer.
func TestHalfAnswers(t *testing.T) {
	const size = 300 << 10
	whole := func(_ context.Context, _ *invocation.Request) (*invocation.Response, error) {
		return &invocation.Response{Status: 200, Stream: &zeros{size}, Length: size}, nil
	}
	_, real := startServer(t, ServerOptions{Handler: whole, Proxy: echoFrames})
	for _, cut := range []int64{1, 60, 300, 5 << 10, 200 << 10} {
		wires(t, func(t *testing.T, o ClientOptions) {
			at := faulty(t, func(_ int, c *net.TCPConn) { pass(c, real, cut) })
			c := newClient(t, o)
			resp, err := c.Invoke(within(t), at, request("hello"))
			if err == nil {
				n, rerr := io.Copy(io.Discard, resp.Stream)
				_ = resp.Close()
				if err = rerr; err == nil {
					t.Errorf("cut after %d bytes: an answer of %d bytes, and no error", cut, n)
				}
			}
			if status.Code(err) != codes.Unavailable && status.Code(err) != codes.Internal {
				t.Errorf("cut after %d bytes: %v", cut, err)
			}
		})
		t.Run("proxied", func(t *testing.T) {
			at := faulty(t, func(_ int, c *net.TCPConn) { pass(c, real, cut) })
			c := newClient(t, ClientOptions{})
			s, err := c.NewStream(within(t), Target{Address: at, AppID: "b"}, anyMethod)
			if err == nil {
				var f invocation.Frame
				f.SetBytes(make([]byte, size))
				if err = s.SendMsg(&f); err == nil || err == io.EOF {
					err = s.RecvMsg(&f)
				}
			}
			if status.Code(err) != codes.Unavailable && status.Code(err) != codes.Internal {
				t.Errorf("cut after %d bytes: %v", cut, err)
			}
		})
	}
}
