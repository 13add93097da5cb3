package mesh

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"

	commonv1 "outrigger.dev/api/gen/common/v1"
	internalsv1 "outrigger.dev/api/gen/internals/v1"
	"outrigger.dev/invocation"
)

type handler func(ctx context.Context, req *invocation.Request) (*invocation.Response, error)

func listen(t testing.TB, address string) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// startServer serves h on an address of its own, or the one given.
func startServer(t testing.TB, o ServerOptions, address ...string) (s *Server, at string) {
	t.Helper()
	address = append(address, "127.0.0.1:0")
	l := listen(t, address[0])
	s = NewServer(o)
	served := make(chan error, 1)
	go func() { served <- s.Serve(l) }()
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		_ = s.Shutdown(ctx)
		if err := <-served; err != nil {
			t.Errorf("Serve: %v", err)
		}
	})
	return s, l.Addr().String()
}

func newClient(t testing.TB, o ClientOptions) *Client {
	c := NewClient(o)
	t.Cleanup(c.Close)
	return c
}

func request(body string) *invocation.Request {
	req := &invocation.Request{AppID: "b", Method: "m/x", Verb: "POST", Body: []byte(body), ContentType: "text/plain"}
	req.Header.Add("dapr-caller-app-id", "a")
	return req
}

func within(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	t.Cleanup(cancel)
	return ctx
}

func eventually(t testing.TB, what string, f func() bool) {
	t.Helper()
	for deadline := time.Now().Add(5 * time.Second); !f(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not in time: %s", what)
		}
	}
}

func receiveWithin[T any](t testing.TB, what string, ch <-chan T) (v T) {
	t.Helper()
	select {
	case v = <-ch:
	case <-time.After(10 * time.Second):
		t.Fatalf("not in time: %s", what)
	}
	return v
}

// wires runs a test over both protocols.
func wires(t *testing.T, f func(t *testing.T, o ClientOptions)) {
	t.Run("exchange", func(t *testing.T) { f(t, ClientOptions{}) })
	t.Run("grpc", func(t *testing.T) { f(t, ClientOptions{GRPCOnly: true}) })
}

// pieces is a body fed by the test.
type pieces struct {
	next    chan string
	err     error
	aborted chan struct{}
	once    atomic.Bool
}

func newPieces() *pieces { return &pieces{next: make(chan string), aborted: make(chan struct{})} }

func (p *pieces) Read(b []byte) (int, error) {
	select {
	case piece, ok := <-p.next:
		if !ok {
			if p.err != nil {
				return 0, p.err
			}
			return 0, io.EOF
		}
		return copy(b, piece), nil
	case <-p.aborted:
		return 0, errors.New("aborted")
	}
}

func (p *pieces) Abort() {
	if !p.once.Swap(true) {
		close(p.aborted)
	}
}

func (p *pieces) Close() error { p.Abort(); return nil }

// zeros is a body of n bytes that are never in memory together.
type zeros struct{ n int64 }

func (z *zeros) Read(p []byte) (int, error) {
	if z.n == 0 {
		return 0, io.EOF
	}
	n := min(int64(len(p)), z.n)
	z.n -= n
	return int(n), nil
}

func (z *zeros) Close() error { return nil }

// peerServer is a sidecar that speaks only gRPC, as a test wants it.
type peerServer struct {
	internalsv1.UnimplementedServiceInvocationServer
	stream func(grpc.BidiStreamingServer[internalsv1.InternalInvokeRequestStream, internalsv1.InternalInvokeResponseStream]) error
	local  func(*internalsv1.InternalInvokeRequest) (*internalsv1.InternalInvokeResponse, error)
}

func (p *peerServer) CallLocalStream(s grpc.BidiStreamingServer[internalsv1.InternalInvokeRequestStream, internalsv1.InternalInvokeResponseStream]) error {
	if p.stream == nil {
		return p.UnimplementedServiceInvocationServer.CallLocalStream(s)
	}
	return p.stream(s)
}

func (p *peerServer) CallLocal(ctx context.Context, in *internalsv1.InternalInvokeRequest) (*internalsv1.InternalInvokeResponse, error) {
	if p.local == nil {
		return p.UnimplementedServiceInvocationServer.CallLocal(ctx, in)
	}
	return p.local(in)
}

func startPeer(t testing.TB, p *peerServer, address ...string) (at string, stop func()) {
	t.Helper()
	address = append(address, "127.0.0.1:0")
	l := listen(t, address[0])
	s := grpc.NewServer()
	internalsv1.RegisterServiceInvocationServer(s, p)
	done := make(chan struct{})
	go func() { defer close(done); _ = s.Serve(l) }()
	stop = func() { s.Stop(); <-done }
	t.Cleanup(stop)
	return l.Addr().String(), stop
}

// whole reads a call to its end as a peer would.
func whole(s grpc.BidiStreamingServer[internalsv1.InternalInvokeRequestStream, internalsv1.InternalInvokeResponseStream]) (in *internalsv1.InternalInvokeRequest, body []byte, err error) {
	for seq := uint64(0); ; {
		m, err := s.Recv()
		if err == io.EOF {
			return in, body, nil
		}
		if err != nil {
			return in, body, err
		}
		if in == nil {
			if in = m.GetRequest(); in == nil || len(in.GetMetadata()) == 0 || in.GetMessage() == nil || len(in.GetMessage().GetData().GetValue()) > 0 {
				return in, body, errors.New("bad leading message")
			}
		} else if m.GetRequest() != nil {
			return in, body, errors.New("a later message with a request")
		}
		if m.GetPayload() != nil {
			if m.GetPayload().GetSeq() != seq {
				return in, body, errors.New("bad sequence")
			}
			seq++
			body = append(body, m.GetPayload().GetData()...)
		}
	}
}

func payload(seq uint64, data string) *commonv1.StreamPayload {
	return &commonv1.StreamPayload{Seq: seq, Data: []byte(data)}
}

// echoHandler answers with the body of the request.
func echoHandler(_ context.Context, req *invocation.Request) (*invocation.Response, error) {
	body, err := req.ReadBody(0)
	if err != nil {
		return nil, err
	}
	return &invocation.Response{Status: 200, Body: bytes.Clone(body), ContentType: req.ContentType}, nil
}
