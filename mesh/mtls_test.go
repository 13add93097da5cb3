package mesh

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/emptypb"

	commonv1 "outrigger.dev/api/gen/common/v1"
	internalsv1 "outrigger.dev/api/gen/internals/v1"
	"outrigger.dev/identity"
	"outrigger.dev/identity/identitytest"
	"outrigger.dev/invocation"
)

// The identities of the tests: the callee is in a trust domain of its own.
const (
	uriA = "spiffe://public/ns/default/a"
	uriB = "spiffe://td/ns/default/b"
)

// secure is a call to b in the namespace of its identity.
func secure(body string) *invocation.Request {
	req := request(body)
	req.Namespace = "default"
	return req
}

// whoHandler answers with the URI of the caller.
func whoHandler(_ context.Context, req *invocation.Request) (*invocation.Response, error) {
	if req.Caller == nil {
		return &invocation.Response{Status: 200, Body: []byte("nobody")}, nil
	}
	return &invocation.Response{Status: 200, Body: []byte(req.Caller.URI)}, nil
}

// invoke makes a call and returns the body of its answer.
func invoke(t testing.TB, c *Client, address string, req *invocation.Request) (string, error) {
	t.Helper()
	resp, err := c.Invoke(within(t), address, req)
	if err != nil {
		return "", err
	}
	if err := resp.Buffer(0); err != nil {
		return "", err
	}
	if resp.Status != 200 {
		return "", fmt.Errorf("status %d: %s", resp.Status, resp.Body)
	}
	return string(resp.Body), nil
}

func TestMTLSCaller(t *testing.T) {
	ca := identitytest.NewCA(t)
	for _, only := range []bool{false, true} {
		_, address := startServer(t, ServerOptions{Handler: whoHandler, Security: NewMTLS(ca.NewSource(t, uriB), nil), GRPCOnly: only})
		_, back := startServer(t, ServerOptions{Handler: whoHandler, Security: NewMTLS(ca.NewSource(t, uriA), nil), GRPCOnly: only})
		wires(t, func(t *testing.T, o ClientOptions) {
			o.Security = NewMTLS(ca.NewSource(t, uriA), nil)
			c := newClient(t, o)
			for range 3 {
				if got, err := invoke(t, c, address, secure("x")); got != uriA || err != nil {
					t.Errorf("GRPCOnly %v: %q, %v", only, got, err)
				}
			}
			o.Security = NewMTLS(ca.NewSource(t, uriB), nil)
			req := secure("x")
			req.AppID = "a"
			if got, err := invoke(t, newClient(t, o), back, req); got != uriB || err != nil {
				t.Errorf("GRPCOnly %v, the other way: %q, %v", only, got, err)
			}
		})
	}
}

func TestClearTextHasNoCaller(t *testing.T) {
	_, address := startServer(t, ServerOptions{Handler: whoHandler})
	wires(t, func(t *testing.T, o ClientOptions) {
		if got, err := invoke(t, newClient(t, o), address, secure("x")); got != "nobody" || err != nil {
			t.Errorf("%q, %v", got, err)
		}
	})
}

func TestMTLSUsesTheExchange(t *testing.T) {
	ca := identitytest.NewCA(t)
	_, address := startServer(t, ServerOptions{Handler: whoHandler, Security: NewMTLS(ca.NewSource(t, uriB), nil)})
	c := newClient(t, ClientOptions{Security: NewMTLS(ca.NewSource(t, uriA), nil)})
	if _, err := invoke(t, c, address, secure("x")); err != nil {
		t.Fatal(err)
	}
	p, err := c.acquire(address, secure(""))
	if err != nil {
		t.Fatal(err)
	}
	defer c.release(p)
	if p.mu.Lock(); p.speaks != speaksExchange || len(p.conns) != 0 {
		t.Error("gRPC was used")
	}
	p.mu.Unlock()
}

// daprTLS are credentials as a Dapr sidecar has them: those of grpc-go, that offer h2 alone.
func daprTLS(t testing.TB, ca *identitytest.CA, uri string) credentials.TransportCredentials {
	certificate := identity.Certificate(ca.Issue(t, uri, nil))
	roots := x509.NewCertPool()
	roots.AddCert(ca.Root)
	return credentials.NewTLS(&tls.Config{
		Certificates: []tls.Certificate{certificate}, ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: roots, InsecureSkipVerify: true,
	})
}

func TestMTLSWithDaprSidecars(t *testing.T) {
	ca := identitytest.NewCA(t)
	t.Run("as server", func(t *testing.T) {
		l := listen(t, "127.0.0.1:0")
		s := grpc.NewServer(grpc.Creds(daprTLS(t, ca, uriB)))
		internalsv1.RegisterServiceInvocationServer(s, &peerServer{stream: func(s grpc.BidiStreamingServer[internalsv1.InternalInvokeRequestStream, internalsv1.InternalInvokeResponseStream]) error {
			_, body, err := whole(s)
			if err != nil {
				return err
			}
			return s.Send(&internalsv1.InternalInvokeResponseStream{
				Response: &internalsv1.InternalInvokeResponse{Status: &internalsv1.Status{Code: 200}, Message: &commonv1.InvokeResponse{}},
				Payload:  payload(0, string(body)),
			})
		}})
		done := make(chan struct{})
		go func() { defer close(done); _ = s.Serve(l) }()
		defer func() { s.Stop(); <-done }()
		wires(t, func(t *testing.T, o ClientOptions) {
			o.Security = NewMTLS(ca.NewSource(t, uriA), nil)
			if got, err := invoke(t, newClient(t, o), l.Addr().String(), secure("hello")); got != "hello" || err != nil {
				t.Errorf("%q, %v", got, err)
			}
		})
	})
	t.Run("as client", func(t *testing.T) {
		_, address := startServer(t, ServerOptions{
			Handler: whoHandler, Security: NewMTLS(ca.NewSource(t, uriB), nil),
			Proxy: func(_ any, stream grpc.ServerStream) error {
				if p := identity.PeerFromContext(stream.Context()); p == nil || p.URI != uriA {
					return status.Errorf(codes.PermissionDenied, "caller %v", p)
				}
				return stream.SendMsg(&emptypb.Empty{})
			},
		})
		cc, err := grpc.NewClient(address, grpc.WithTransportCredentials(daprTLS(t, ca, uriA)))
		if err != nil {
			t.Fatal(err)
		}
		defer cc.Close()
		in := &internalsv1.InternalInvokeRequest{
			Ver: internalsv1.APIVersion_V1, Metadata: map[string]*internalsv1.ListStringValue{"x": {Values: []string{"1"}}},
			Message: &commonv1.InvokeRequest{Method: "m", HttpExtension: &commonv1.HTTPExtension{Verb: commonv1.HTTPExtension_GET}},
		}
		calls := internalsv1.NewServiceInvocationClient(cc)
		out, err := calls.CallLocal(within(t), in)
		if got := string(out.GetMessage().GetData().GetValue()); err != nil || got != uriA {
			t.Errorf("CallLocal: %q, %v", got, err)
		}
		stream, err := calls.CallLocalStream(within(t))
		if err != nil {
			t.Fatal(err)
		}
		if err := stream.Send(&internalsv1.InternalInvokeRequestStream{Request: in}); err != nil {
			t.Fatal(err)
		}
		_ = stream.CloseSend()
		if m, err := stream.Recv(); err != nil || string(m.GetPayload().GetData()) != uriA {
			t.Errorf("CallLocalStream: %v, %v", m, err)
		}
		if err := cc.Invoke(within(t), "/pkg.Other/Method", &emptypb.Empty{}, &emptypb.Empty{}); err != nil {
			t.Errorf("proxied: %v", err)
		}
	})
}

// load calls a server from several goroutines until stop is closed, over connections that are often replaced: every client
// opens new ones after some calls. It reports each failed call.
func load(t *testing.T, address string, o ClientOptions, stop <-chan struct{}) (calls int64) {
	t.Helper()
	var group sync.WaitGroup
	var done atomic.Int64
	for range 4 {
		group.Go(func() {
			lasting := NewClient(o)
			defer lasting.Close()
			for {
				passing := NewClient(o)
				for i := range 20 {
					select {
					case <-stop:
						passing.Close()
						return
					default:
					}
					c := passing
					if i%2 == 0 {
						c = lasting
					}
					if got, err := invoke(t, c, address, secure("x")); err != nil || got != uriA {
						t.Errorf("call %d: %q, %v", done.Load(), got, err)
						passing.Close()
						return
					}
					done.Add(1)
				}
				passing.Close()
			}
		})
	}
	group.Wait()
	return done.Load()
}

func TestRotationUnderLoad(t *testing.T) {
	for _, only := range []bool{false, true} {
		t.Run(fmt.Sprintf("grpc=%v", only), func(t *testing.T) {
			t.Parallel()
			ca := identitytest.NewCA(t)
			a, b := ca.NewSource(t, uriA), ca.NewSource(t, uriB)
			_, address := startServer(t, ServerOptions{Handler: whoHandler, Security: NewMTLS(b, nil), GRPCOnly: only})
			stop := make(chan struct{})
			var rotations int
			var group sync.WaitGroup
			group.Go(func() {
				defer close(stop)
				for range 30 {
					time.Sleep(100 * time.Millisecond) // the interval of the rotation, not a wait for something
					ca.NewIssuer(t)
					a.Set(ca.Issue(t, uriA, nil))
					b.Set(ca.Issue(t, uriB, nil))
					rotations++
				}
			})
			calls := load(t, address, ClientOptions{Security: NewMTLS(a, nil)}, stop)
			group.Wait()
			if calls < 100 {
				t.Errorf("only %d calls", calls)
			}
			t.Logf("%d calls during %d rotations", calls, rotations)
		})
	}
}

// TestRootRotationUnderLoad replaces the root step by step: both trust both, then both are of the new one, then it alone
// is trusted. At no moment do the two do a step together.
func TestRootRotationUnderLoad(t *testing.T) {
	old, next := identitytest.NewCA(t), identitytest.NewCA(t)
	a, b := old.NewSource(t, uriA), old.NewSource(t, uriB)
	_, address := startServer(t, ServerOptions{Handler: whoHandler, Security: NewMTLS(b, nil)})
	stop := make(chan struct{})
	go func() {
		defer close(stop)
		for _, step := range []func(){
			func() { a.Trust(old.Root, next.Root) },
			func() { b.Trust(old.Root, next.Root) },
			func() { b.Set(next.Issue(t, uriB, nil)) },
			func() { a.Set(next.Issue(t, uriA, nil)) },
			func() { a.Trust(next.Root) },
			func() { b.Trust(next.Root) },
		} {
			time.Sleep(100 * time.Millisecond) // calls go on between the steps
			step()
		}
		time.Sleep(100 * time.Millisecond)
	}()
	if calls := load(t, address, ClientOptions{Security: NewMTLS(a, nil)}, stop); calls < 50 {
		t.Errorf("only %d calls", calls)
	}
	a.Set(old.Issue(t, uriA, nil))
	if _, err := invoke(t, newClient(t, ClientOptions{Security: NewMTLS(a, nil)}), address, secure("x")); status.Code(err) != codes.Unavailable {
		t.Errorf("an identity of the old root: %v", err)
	}
}

// TestConnectionOutlivesItsIdentity keeps using a connection whose certificates have expired; a new one is refused.
func TestConnectionOutlivesItsIdentity(t *testing.T) {
	ca := identitytest.NewCA(t)
	a, b := ca.NewSource(t, uriA), ca.NewSource(t, uriB)
	var ahead atomic.Int64
	now := func() time.Time { return time.Now().Add(time.Duration(ahead.Load())) }
	wires(t, func(t *testing.T, o ClientOptions) {
		ahead.Store(0)
		_, address := startServer(t, ServerOptions{Handler: whoHandler, Security: NewMTLS(b, now)})
		o.Security = NewMTLS(a, now)
		c := newClient(t, o)
		if _, err := invoke(t, c, address, secure("x")); err != nil {
			t.Fatal(err)
		}
		ahead.Store(int64(2 * identitytest.Life))
		for range 5 {
			if got, err := invoke(t, c, address, secure("x")); got != uriA || err != nil {
				t.Errorf("over the existing connection: %q, %v", got, err)
			}
		}
		if _, err := invoke(t, newClient(t, o), address, secure("x")); err == nil || !strings.Contains(err.Error(), "expired") {
			t.Errorf("over a new connection: %v", err)
		}
	})
}

// TestMTLSCallerLeaves checks that the call of a caller that went away ends, though TLS hides that from a peek at the socket.
func TestMTLSCallerLeaves(t *testing.T) {
	ca := identitytest.NewCA(t)
	began, ended := make(chan struct{}, 1), make(chan struct{}, 1)
	_, address := startServer(t, ServerOptions{Security: NewMTLS(ca.NewSource(t, uriB), nil), Handler: func(ctx context.Context, _ *invocation.Request) (*invocation.Response, error) {
		began <- struct{}{}
		<-ctx.Done()
		ended <- struct{}{}
		return nil, ctx.Err()
	}})
	security := NewMTLS(ca.NewSource(t, uriA), nil)
	wires(t, func(t *testing.T, o ClientOptions) {
		o.Security = security
		c := newClient(t, o)
		ctx, cancel := context.WithCancel(within(t))
		failed := make(chan error, 1)
		go func() { _, err := c.Invoke(ctx, address, secure("x")); failed <- err }()
		receiveWithin(t, "the call", began)
		cancel()
		if err := receiveWithin(t, "the caller's end", failed); !errors.Is(err, context.Canceled) {
			t.Errorf("the caller got %v", err)
		}
		receiveWithin(t, "the end of the call", ended)
	})
	for _, orderly := range []bool{true, false} {
		raw, err := net.Dial("tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		c, _, err := security.Client(within(t), raw, Target{AppID: "b", Namespace: "default"}, []string{ProtocolExchange})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(c, "GET /m HTTP/1.1\r\nHost: x\r\nOutrigger-Exchange: 1\r\n\r\n"); err != nil {
			t.Fatal(err)
		}
		receiveWithin(t, "the call", began)
		if orderly {
			_ = c.Close() // says goodbye first, which stays unread in the socket
		} else {
			_ = raw.Close()
		}
		receiveWithin(t, fmt.Sprintf("the end of the call, orderly %v", orderly), ended)
	}
}

// TestIdleConnectionClosedByPeer is noticed under TLS too: the next call, which must not be sent twice, gets a new one.
func TestIdleConnectionClosedByPeer(t *testing.T) {
	ca := identitytest.NewCA(t)
	o := ServerOptions{Handler: whoHandler, Security: NewMTLS(ca.NewSource(t, uriB), nil)}
	first, address := startServer(t, o)
	c := newClient(t, ClientOptions{Security: NewMTLS(ca.NewSource(t, uriA), nil)})
	if _, err := invoke(t, c, address, secure("x")); err != nil {
		t.Fatal(err)
	}
	if err := first.Shutdown(within(t)); err != nil {
		t.Fatal(err)
	}
	startServer(t, o, address)
	req := secure("")
	req.Stream, req.Length = strings.NewReader("once"), -1
	time.Sleep(1100 * time.Millisecond) // connections are trusted for a second
	if got, err := invoke(t, c, address, req); got != uriA || err != nil {
		t.Errorf("%q, %v", got, err)
	}
}

// TestMTLSStreams sends long bodies both ways at once, of known and unknown length.
func TestMTLSStreams(t *testing.T) {
	ca := identitytest.NewCA(t)
	_, address := startServer(t, ServerOptions{Security: NewMTLS(ca.NewSource(t, uriB), nil), Handler: func(_ context.Context, req *invocation.Request) (*invocation.Response, error) {
		// The answer streams while the request still does: the caller has to be at both.
		return &invocation.Response{Status: 200, Stream: io.NopCloser(req.Stream), Length: req.Length}, nil
	}})
	const size = 8<<20 + 1
	wires(t, func(t *testing.T, o ClientOptions) {
		o.Security = NewMTLS(ca.NewSource(t, uriA), nil)
		c := newClient(t, o)
		for _, length := range []int64{size, -1} {
			req := secure("")
			req.Stream, req.Length = &zeros{n: size}, length
			resp, err := c.Invoke(within(t), address, req)
			if err != nil {
				t.Fatal(err)
			}
			n, err := io.Copy(io.Discard, resp.Stream)
			if cerr := resp.Close(); n != size || err != nil || cerr != nil {
				t.Errorf("length %d: %d bytes, %v, %v", length, n, err, cerr)
			}
		}
	})
}
