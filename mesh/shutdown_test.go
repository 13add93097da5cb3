package mesh

import (
	"context"
	"errors"
	"fmt"
	"net"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"outrigger.dev/invocation"
)

func TestShutdown(t *testing.T) {
	wires(t, func(t *testing.T, o ClientOptions) {
		t.Run("a running call ends well", func(t *testing.T) {
			started, release := make(chan struct{}), make(chan struct{})
			s, address := startServer(t, ServerOptions{Handler: func(context.Context, *invocation.Request) (*invocation.Response, error) {
				close(started)
				<-release
				return &invocation.Response{Status: 200, Body: []byte("done")}, nil
			}})
			client := newClient(t, o)
			result := make(chan error, 1)
			go func() {
				resp, err := client.Invoke(within(t), address, request(""))
				if err == nil {
					err = resp.Buffer(0)
				}
				if err == nil && string(resp.Body) != "done" {
					err = fmt.Errorf("got %q", resp.Body)
				}
				result <- err
			}()
			receiveWithin(t, "the call starts", started)
			ended := make(chan error, 1)
			go func() { ended <- s.Shutdown(within(t)) }()
			eventually(t, "new connections are refused", func() bool {
				c, err := net.Dial("tcp", address)
				if err == nil {
					_ = c.Close()
				}
				return err != nil
			})
			close(release)
			if err := receiveWithin(t, "the call ends", result); err != nil {
				t.Error(err)
			}
			if err := receiveWithin(t, "the server ends", ended); err != nil {
				t.Error(err)
			}
			if _, err := client.Invoke(within(t), address, request("")); status.Code(err) != codes.Unavailable {
				t.Errorf("a later call: %v", err)
			}
		})
		for _, stubborn := range []bool{false, true} {
			t.Run(fmt.Sprintf("an open stream is bounded, stubborn=%v", stubborn), func(t *testing.T) {
				body := newPieces()
				release := make(chan struct{})
				s, address := startServer(t, ServerOptions{Handler: func(ctx context.Context, req *invocation.Request) (*invocation.Response, error) {
					if stubborn {
						<-release
						return nil, errors.New("late")
					}
					context.AfterFunc(ctx, body.Abort)
					return &invocation.Response{Status: 200, Stream: body, Length: -1}, nil
				}})
				t.Cleanup(func() { close(release) })
				client := newClient(t, o)
				result := make(chan error, 1)
				go func() {
					resp, err := client.Invoke(within(t), address, request(""))
					if err == nil {
						err = resp.Buffer(0)
					}
					result <- err
				}()
				if !stubborn {
					body.next <- "first"
				} else {
					eventually(t, "the call is under way", func() bool {
						client.mu.Lock()
						defer client.mu.Unlock()
						for _, p := range client.peers {
							p.mu.Lock()
							known := p.speaks != speaksUnknown
							p.mu.Unlock()
							if known {
								return true
							}
						}
						return false
					})
					<-time.After(50 * time.Millisecond)
				}
				ctx, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
				defer cancel()
				start := time.Now()
				if err := s.Shutdown(ctx); !errors.Is(err, context.DeadlineExceeded) {
					t.Errorf("Shutdown: %v", err)
				}
				if took := time.Since(start); took > 4*time.Second {
					t.Errorf("Shutdown took %s", took)
				}
				if err := receiveWithin(t, "the call ends", result); err == nil {
					t.Error("the caller took the cut answer for a whole one")
				}
			})
		}
	})
}
