package mesh

import (
	"context"
	"errors"
	"fmt"
	"io"
	"runtime"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"outrigger.dev/invocation"
)

func TestCallerCancels(t *testing.T) {
	started, ended := make(chan struct{}, 1), make(chan error, 1)
	_, address := startServer(t, ServerOptions{Handler: func(ctx context.Context, req *invocation.Request) (*invocation.Response, error) {
		if req.Method == "stream" {
			r, w := io.Pipe()
			go func() {
				_, _ = w.Write([]byte("first"))
				<-ctx.Done()
				_ = w.CloseWithError(ctx.Err())
				ended <- ctx.Err()
			}()
			return &invocation.Response{Status: 200, Stream: r, Length: -1}, nil
		}
		started <- struct{}{}
		<-ctx.Done()
		ended <- ctx.Err()
		return nil, ctx.Err()
	}})
	wires(t, func(t *testing.T, o ClientOptions) {
		client := newClient(t, o)
		t.Run("before the answer", func(t *testing.T) {
			ctx, cancel := context.WithCancel(context.Background())
			result := make(chan error, 1)
			go func() {
				_, err := client.Invoke(ctx, address, request(""))
				result <- err
			}()
			receiveWithin(t, "the handler starts", started)
			cancel()
			if err := receiveWithin(t, "the call ends", result); !errors.Is(err, context.Canceled) || client.Retriable(err) {
				t.Errorf("the caller got %v", err)
			}
			if err := receiveWithin(t, "the handler hears of it", ended); !errors.Is(err, context.Canceled) {
				t.Errorf("the handler got %v", err)
			}
		})
		for _, how := range []string{"cancel", "close"} {
			t.Run(how+" within the answer", func(t *testing.T) {
				ctx, cancel := context.WithCancel(context.Background())
				defer cancel()
				req := request("")
				req.Method = "stream"
				resp, err := client.Invoke(ctx, address, req)
				if err != nil {
					t.Fatal(err)
				}
				if _, err := io.ReadFull(resp.Stream, make([]byte, 5)); err != nil {
					t.Fatal(err)
				}
				if how == "cancel" {
					cancel()
					if _, err := resp.Stream.Read(make([]byte, 5)); !errors.Is(err, context.Canceled) {
						t.Errorf("read: %v", err)
					}
				}
				_ = resp.Close()
				receiveWithin(t, "the handler hears of it", ended)
			})
		}
		t.Run("deadline", func(t *testing.T) {
			ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
			defer cancel()
			if _, err := client.Invoke(ctx, address, request("")); !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("got %v", err)
			}
			receiveWithin(t, "the handler starts", started)
			receiveWithin(t, "the handler hears of it", ended)
		})
	})
}

// TestDuplex reads the answer while the request is being sent.
func TestDuplex(t *testing.T) {
	_, address := startServer(t, ServerOptions{Handler: func(_ context.Context, req *invocation.Request) (*invocation.Response, error) {
		return &invocation.Response{Status: 200, Stream: io.NopCloser(req.Stream), Length: -1}, nil
	}})
	wires(t, func(t *testing.T, o ClientOptions) {
		body := newPieces()
		req := request("")
		req.Stream, req.Length = body, -1
		resp, err := newClient(t, o).Invoke(within(t), address, req)
		if err != nil {
			t.Fatal(err)
		}
		for i := range 20 {
			piece := fmt.Sprintf("piece%02d", i)
			body.next <- piece
			got := make([]byte, len(piece))
			if _, err := io.ReadFull(resp.Stream, got); err != nil || string(got) != piece {
				t.Fatalf("%q, %v", got, err)
			}
		}
		close(body.next)
		if rest, err := io.ReadAll(resp.Stream); err != nil || len(rest) > 0 {
			t.Errorf("%q, %v", rest, err)
		}
		_ = resp.Close()
	})
}

// TestEarlyAnswer closes an answer while the request's body still blocks.
func TestEarlyAnswer(t *testing.T) {
	_, address := startServer(t, ServerOptions{Handler: func(_ context.Context, req *invocation.Request) (*invocation.Response, error) {
		if req.Method == "error" {
			return nil, status.Error(codes.PermissionDenied, "no")
		}
		return &invocation.Response{Status: 413, Body: []byte("enough")}, nil
	}})
	wires(t, func(t *testing.T, o ClientOptions) {
		client := newClient(t, o)
		body := newPieces()
		req := request("")
		req.Stream, req.Length = body, -1
		resp, err := client.Invoke(within(t), address, req)
		if err != nil {
			t.Fatal(err)
		}
		if err := resp.Buffer(0); err != nil || resp.Status != 413 || string(resp.Body) != "enough" {
			t.Errorf("%d %q %v", resp.Status, resp.Body, err)
		}
		body = newPieces()
		req = request("")
		req.Method, req.Stream, req.Length = "error", body, -1
		if _, err := client.Invoke(within(t), address, req); status.Code(err) != codes.PermissionDenied {
			t.Errorf("got %v", err)
		}
	})
}

func TestBrokenRequestBody(t *testing.T) {
	broken := errors.New("the client went away")
	started, read := make(chan struct{}, 1), make(chan error, 1)
	_, address := startServer(t, ServerOptions{Handler: func(_ context.Context, req *invocation.Request) (*invocation.Response, error) {
		started <- struct{}{}
		_, err := req.ReadBody(0)
		read <- err
		return nil, err
	}})
	wires(t, func(t *testing.T, o ClientOptions) {
		for _, length := range []int64{-1, 100_000} {
			body := newPieces()
			body.err = broken
			req := request("")
			req.Stream, req.Length = body, length
			go func() {
				body.next <- "abc"
				<-started
				close(body.next)
			}()
			if _, err := newClient(t, o).Invoke(within(t), address, req); !errors.Is(err, broken) {
				t.Errorf("length %d: the caller got %v", length, err)
			}
			if err := receiveWithin(t, "the handler's read ends", read); err == nil {
				t.Errorf("length %d: the handler took the cut body for a whole one", length)
			}
		}
	})
}

func TestBrokenAnswer(t *testing.T) {
	var body *pieces
	_, address := startServer(t, ServerOptions{Handler: func(context.Context, *invocation.Request) (*invocation.Response, error) {
		return &invocation.Response{Status: 200, Stream: body, Length: -1}, nil
	}})
	wires(t, func(t *testing.T, o ClientOptions) {
		body = newPieces()
		body.err = errors.New("the app died")
		resp, err := newClient(t, o).Invoke(within(t), address, request(""))
		if err != nil {
			t.Fatal(err)
		}
		body.next <- "abc"
		close(body.next)
		got, err := io.ReadAll(resp.Stream)
		if err == nil || string(got) != "abc" {
			t.Errorf("the caller took %q for the whole answer: %v", got, err)
		}
		_ = resp.Close()
	})
}

func TestLargeStreams(t *testing.T) {
	if testing.Short() {
		t.Skip("100 MiB")
	}
	const size = 100 << 20
	_, address := startServer(t, ServerOptions{MaxBodySize: 4 << 20, Handler: func(_ context.Context, req *invocation.Request) (*invocation.Response, error) {
		return &invocation.Response{Status: 200, Stream: io.NopCloser(req.Stream), Length: req.Length}, nil
	}})
	wires(t, func(t *testing.T, o ClientOptions) {
		o.MaxBodySize = 4 << 20
		client := newClient(t, o)
		for _, length := range []int64{-1, size} {
			ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
			defer cancel()
			req := request("")
			req.Stream, req.Length = &zeros{size}, length
			resp, err := client.Invoke(ctx, address, req)
			if err != nil {
				t.Fatal(err)
			}
			var peak uint64
			buffer, total, next := make([]byte, 64<<10), int64(0), int64(0)
			for {
				n, err := resp.Stream.Read(buffer)
				total += int64(n)
				if total >= next {
					next += 10 << 20
					var m runtime.MemStats
					runtime.ReadMemStats(&m)
					peak = max(peak, m.HeapInuse)
				}
				if err == io.EOF {
					break
				}
				if err != nil {
					t.Fatal(err)
				}
			}
			_ = resp.Close()
			if total != size {
				t.Errorf("%d bytes came", total)
			}
			if peak > 64<<20 {
				t.Errorf("%d MiB of memory in use", peak>>20)
			}
		}
	})
}

func TestEvents(t *testing.T) {
	var body *pieces
	statusCode := 201
	_, address := startServer(t, ServerOptions{Handler: func(_ context.Context, req *invocation.Request) (*invocation.Response, error) {
		if !req.EventStream {
			return nil, errors.New("not an event stream")
		}
		return &invocation.Response{Status: statusCode, ContentType: "text/event-stream", Stream: body, Length: -1}, nil
	}})
	wires(t, func(t *testing.T, o ClientOptions) {
		client := newClient(t, o)
		for _, statusCode = range []int{200, 201, 500} {
			for _, events := range [][]string{nil, {"data: 1\n\n", "data: 2\n\n"}} {
				body = newPieces()
				req := request("")
				req.Verb, req.EventStream = "GET", true
				req.Header.Add("Accept", "text/event-stream")
				resp, err := client.Invoke(within(t), address, req)
				if err != nil {
					t.Fatal(err)
				}
				if resp.Status != statusCode || resp.ContentType != "text/event-stream" {
					t.Errorf("status %d, type %q", resp.Status, resp.ContentType)
				}
				for _, event := range events {
					body.next <- event
					got := make([]byte, len(event))
					if _, err := io.ReadFull(resp.Stream, got); err != nil || string(got) != event {
						t.Fatalf("%q, %v", got, err)
					}
				}
				close(body.next)
				if err := resp.Buffer(0); err != nil || len(resp.Body) > 0 {
					t.Errorf("%q, %v", resp.Body, err)
				}
			}
		}
	})
}
