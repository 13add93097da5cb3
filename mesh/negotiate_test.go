package mesh

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jonboulle/clockwork"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	internalsv1 "outrigger.dev/api/gen/internals/v1"
	"outrigger.dev/invocation"
)

// accepted counts the connections of a listener by their first byte.
type counting struct {
	net.Listener
	conns atomic.Int32
}

func (l *counting) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err == nil {
		l.conns.Add(1)
	}
	return c, err
}

func (c *Client) knows(address string) speaks {
	c.mu.Lock()
	p := c.peers[Target{Address: address}]
	c.mu.Unlock()
	if p == nil {
		return speaksUnknown
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.speaks
}

// daprEcho is a peer that speaks only gRPC and echoes.
func daprEcho(s peerCall) error {
	_, body, err := whole(s)
	if err != nil {
		return err
	}
	return s.Send(&out{Response: &internalsv1.InternalInvokeResponse{Status: &internalsv1.Status{Code: 200}}, Payload: payload(0, "dapr "+string(body))})
}

func call(t testing.TB, c *Client, address, body string) (string, error) {
	t.Helper()
	resp, err := c.Invoke(within(t), address, request(body))
	if err != nil {
		return "", err
	}
	err = resp.Buffer(0)
	return string(resp.Body), err
}

func TestNegotiation(t *testing.T) {
	_, outrigger := startServer(t, ServerOptions{Handler: echoHandler})
	_, plain := startServer(t, ServerOptions{Handler: echoHandler, GRPCOnly: true})
	dapr, _ := startPeer(t, &peerServer{stream: daprEcho})
	client := newClient(t, ClientOptions{})
	for _, test := range []struct {
		address string
		want    speaks
		body    string
	}{{outrigger, speaksExchange, "x"}, {plain, speaksGRPC, "x"}, {dapr, speaksGRPC, "dapr x"}} {
		for range 3 {
			if got, err := call(t, client, test.address, "x"); err != nil || got != test.body {
				t.Errorf("%q, %v", got, err)
			}
			if got := client.knows(test.address); got != test.want {
				t.Errorf("the peer speaks %d, want %d", got, test.want)
			}
		}
	}
}

// TestSilentPeer takes a peer that does not answer the probe for one that speaks only gRPC.
func TestSilentPeer(t *testing.T) {
	l := listen(t, "127.0.0.1:0")
	defer l.Close()
	for name, answer := range map[string]string{
		"silent": "", "http": "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n", "another version": "HTTP/1.1 200 OK\r\nOutrigger-Exchange: 2\r\nContent-Length: 0\r\n\r\n",
		"no limit": "HTTP/1.1 200 OK\r\nOutrigger-Exchange: 1\r\nContent-Length: 0\r\n\r\n", "a body": "HTTP/1.1 200 OK\r\nOutrigger-Exchange: 1\r\nOutrigger-Limit: 9999\r\nContent-Length: 1\r\n\r\nx",
		"binary": "\x00\x00\x00\x04\x00\x00\x00\x00\x00\x00\x00\x00\x00",
	} {
		t.Run(name, func(t *testing.T) {
			client, server := net.Pipe()
			defer client.Close()
			go func() {
				_, _ = server.Read(make([]byte, 4096))
				_, _ = server.Write([]byte(answer))
				if answer != "" {
					_ = server.Close()
				}
			}()
			start := time.Now()
			if _, err := question(client, "h"); err == nil {
				t.Error("taken for an Outrigger")
			}
			if took := time.Since(start); took > 20*probeTimeout {
				t.Errorf("after %s", took)
			}
		})
	}
}

// TestProbesOnce lets many first calls come at once: they share one probe.
func TestProbesOnce(t *testing.T) {
	l := &counting{Listener: listen(t, "127.0.0.1:0")}
	s := NewServer(ServerOptions{Handler: echoHandler})
	var serving sync.WaitGroup
	serving.Go(func() { _ = s.Serve(l) })
	defer serving.Wait()
	defer func() { _ = s.Shutdown(within(t)) }()
	client := newClient(t, ClientOptions{})
	var calls sync.WaitGroup
	for range 50 {
		calls.Go(func() {
			if got, err := call(t, client, l.Addr().String(), "x"); err != nil || got != "x" {
				t.Errorf("%q, %v", got, err)
			}
		})
	}
	calls.Wait()
	if n := l.conns.Load(); n > 50 {
		t.Errorf("%d connections for 50 calls: the probe's was not used", n)
	}
	before := l.conns.Load()
	for range 20 {
		if _, err := call(t, client, l.Addr().String(), "x"); err != nil {
			t.Error(err)
		}
	}
	if n := l.conns.Load(); n != before {
		t.Errorf("%d new connections for calls one after another", n-before)
	}
}

// TestPeerReplaced starts another kind of sidecar at the same address.
func TestPeerReplaced(t *testing.T) {
	l := listen(t, "127.0.0.1:0")
	address := l.Addr().String()
	_ = l.Close()
	client := newClient(t, ClientOptions{})
	expect := func(want string, kind speaks) {
		t.Helper()
		got, err := call(t, client, address, "x")
		if err != nil && client.Retriable(err) { // what the built-in retries are for
			got, err = call(t, client, address, "x")
		}
		if err != nil || got != want || client.knows(address) != kind {
			t.Fatalf("%q, %v, speaks %d; want %q, %d", got, err, client.knows(address), want, kind)
		}
	}
	for range 2 {
		s, _ := startServer(t, ServerOptions{Handler: echoHandler}, address)
		expect("x", speaksExchange)
		if err := s.Shutdown(within(t)); err != nil {
			t.Fatal(err)
		}
		_, stop := startPeer(t, &peerServer{stream: daprEcho}, address)
		expect("dapr x", speaksGRPC)
		stop()
		if _, err := call(t, client, address, "x"); status.Code(err) != codes.Unavailable {
			t.Fatalf("nobody is there: %v", err)
		}
	}
}

// TestFallsBackWithinACall meets a peer that was replaced while its connections seemed well.
func TestFallsBackWithinACall(t *testing.T) {
	address, _ := startPeer(t, &peerServer{stream: daprEcho})
	client := newClient(t, ClientOptions{})
	wrong := func() {
		t.Helper()
		p, err := client.acquire(address, request(""))
		if err != nil {
			t.Fatal(err)
		}
		p.mu.Lock()
		p.speaks, p.limit = speaksExchange, minHeaderLimit
		p.mu.Unlock()
		client.release(p)
	}
	wrong()
	if got, err := call(t, client, address, "x"); err != nil || got != "dapr x" {
		t.Errorf("%q, %v", got, err)
	}
	wrong()
	req := request("")
	req.Stream, req.Length = strings.NewReader("x"), -1
	if _, err := client.Invoke(within(t), address, req); !client.Retriable(err) {
		t.Errorf("a stream cannot be sent twice: %v", err)
	}
}

func TestOldAnswerIsAskedAgain(t *testing.T) {
	clock := clockwork.NewFakeClock()
	_, address := startServer(t, ServerOptions{Handler: echoHandler})
	client := newClient(t, ClientOptions{Clock: clock})
	if _, err := call(t, client, address, "x"); err != nil {
		t.Fatal(err)
	}
	p := client.peers[Target{Address: address}]
	p.mu.Lock()
	p.speaks = speaksGRPC // as if it had been one
	p.mu.Unlock()
	clock.Advance(grpcLife - time.Second)
	if _, err := call(t, client, address, "x"); err != nil || client.knows(address) != speaksGRPC {
		t.Fatalf("asked too early: %v", err)
	}
	clock.Advance(2 * time.Second)
	eventually(t, "the peer is asked again", func() bool {
		if _, err := call(t, client, address, "x"); err != nil {
			t.Fatal(err)
		}
		return client.knows(address) == speaksExchange
	})
}

func TestLongHeaderGoesOverGRPC(t *testing.T) {
	_, address := startServer(t, ServerOptions{Handler: func(_ context.Context, req *invocation.Request) (*invocation.Response, error) {
		return &invocation.Response{Status: 200, Body: fmt.Append(nil, len(req.Header.Get("X-Long")))}, nil
	}})
	client := newClient(t, ClientOptions{})
	for _, size := range []int{10, 8 << 10, 15 << 10, 100 << 10} {
		req := request("")
		req.Header.Add("X-Long", strings.Repeat("x", size))
		resp, err := client.Invoke(within(t), address, req)
		if err != nil {
			t.Fatal(err)
		}
		if err := resp.Buffer(0); err != nil || string(resp.Body) != fmt.Sprint(size) {
			t.Errorf("%q, %v", resp.Body, err)
		}
	}
}

// TestStrangers calls the exchange as a browser or a scanner would.
func TestStrangers(t *testing.T) {
	_, address := startServer(t, ServerOptions{Handler: func(context.Context, *invocation.Request) (*invocation.Response, error) {
		t.Error("a stranger reached the app")
		return nil, errors.New("x")
	}})
	for _, version := range []string{"", "0", "2", "1 http"} {
		for _, method := range []string{"GET", "POST", "OPTIONS"} {
			req, err := http.NewRequestWithContext(within(t), method, "http://"+address+"/m", nil)
			if err != nil {
				t.Fatal(err)
			}
			if version != "" {
				req.Header.Set(headerExchange, version)
			}
			resp, err := http.DefaultClient.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			body, _ := io.ReadAll(resp.Body)
			_ = resp.Body.Close()
			if resp.StatusCode != 404 || !strings.HasPrefix(string(body), "404 ") || resp.Header.Get(headerExchange) != "" {
				t.Errorf("%s %q: %d %q", method, version, resp.StatusCode, body)
			}
		}
	}
}

func TestPool(t *testing.T) {
	release := make(chan struct{})
	var running atomic.Int32
	address, _ := startPeer(t, &peerServer{stream: func(s peerCall) error {
		_ = s.Send(&out{Response: &internalsv1.InternalInvokeResponse{Status: &internalsv1.Status{Code: 200}}, Payload: payload(0, "a")})
		running.Add(1)
		<-release
		return nil
	}})
	clock := clockwork.NewFakeClock()
	client := newClient(t, ClientOptions{Clock: clock, GRPCOnly: true})
	var open []*invocation.Response
	for range callsPerConn + 1 {
		resp, err := client.Invoke(within(t), address, request(""))
		if err != nil {
			t.Fatal(err)
		}
		open = append(open, resp)
	}
	p := client.peers[Target{Address: address}]
	conns := func() (n, active int) {
		p.mu.Lock()
		defer p.mu.Unlock()
		for _, c := range p.conns {
			active += c.active
		}
		return len(p.conns), active
	}
	if n, active := conns(); n != 2 || active != callsPerConn+1 {
		t.Errorf("%d connections with %d calls", n, active)
	}
	// A call runs until its answer is read, however long that takes.
	client.sweep()
	clock.Advance(time.Hour)
	client.sweep()
	if n, _ := conns(); n != 2 {
		t.Errorf("%d connections left of those in use", n)
	}
	close(release)
	for _, resp := range open {
		if err := resp.Buffer(0); err != nil || string(resp.Body) != "a" {
			t.Errorf("%q, %v", resp.Body, err)
		}
	}
	if n, active := conns(); n != 2 || active != 0 {
		t.Errorf("%d connections with %d calls", n, active)
	}
	clock.Advance(connIdle - time.Second)
	client.sweep()
	if n, _ := conns(); n != 2 {
		t.Errorf("%d connections left too early", n)
	}
	clock.Advance(time.Second)
	client.sweep()
	if n, _ := conns(); n != 0 {
		t.Errorf("%d unused connections left", n)
	}
	clock.Advance(peerIdle)
	client.sweep()
	if len(client.peers) != 0 {
		t.Error("the address is still remembered")
	}
	if got, err := call(t, client, address, ""); err != nil || got != "a" {
		t.Errorf("%q, %v", got, err)
	}
}

// TestDropKeepsOtherCalls gives up a connection because of one call while another one is still reading.
func TestDropKeepsOtherCalls(t *testing.T) {
	release := make(chan struct{})
	address, _ := startPeer(t, &peerServer{stream: func(s peerCall) error {
		in, _, err := whole(s)
		if err != nil {
			return err
		}
		if in.GetMessage().GetMethod() == "unavailable" {
			return status.Error(codes.Unavailable, "not now")
		}
		_ = s.Send(&out{Response: &internalsv1.InternalInvokeResponse{Status: &internalsv1.Status{Code: 200}}})
		<-release
		return s.Send(&out{Payload: payload(0, "abc")})
	}})
	client := newClient(t, ClientOptions{GRPCOnly: true})
	resp, err := client.Invoke(within(t), address, request(""))
	if err != nil {
		t.Fatal(err)
	}
	req := request("")
	req.Method = "unavailable"
	if _, err := client.Invoke(within(t), address, req); !client.Retriable(err) {
		t.Error(err)
	}
	p := client.peers[Target{Address: address}]
	if len(p.conns) != 0 {
		t.Error("the connection is still in the pool")
	}
	close(release)
	if err := resp.Buffer(0); err != nil || string(resp.Body) != "abc" {
		t.Errorf("%q, %v", resp.Body, err)
	}
}

func TestClientCloseBreaksCalls(t *testing.T) {
	_, address := startServer(t, ServerOptions{Handler: func(ctx context.Context, _ *invocation.Request) (*invocation.Response, error) {
		r, w := io.Pipe()
		context.AfterFunc(ctx, func() { _ = w.CloseWithError(ctx.Err()) })
		return &invocation.Response{Status: 200, Stream: r, Length: -1}, nil
	}})
	wires(t, func(t *testing.T, o ClientOptions) {
		client := NewClient(o)
		resp, err := client.Invoke(within(t), address, request(""))
		if err != nil {
			t.Fatal(err)
		}
		client.Close()
		if _, err := io.ReadAll(resp.Stream); err == nil {
			t.Error("the answer ended well")
		}
		_ = resp.Close()
	})
}

// security marks connections with a line each way that names the protocol, as TLS would.
type security struct {
	t       *testing.T
	refuse  bool
	targets chan Target
}

func (s *security) Client(ctx context.Context, c net.Conn, target Target, protocols []string) (net.Conn, string, error) {
	select {
	case s.targets <- target:
	default:
	}
	if s.refuse {
		return nil, "", errors.New("unknown authority")
	}
	if _, err := fmt.Fprintf(c, "%-40s", strings.Join(protocols, ",")); err != nil {
		return nil, "", err
	}
	answer := make([]byte, 20)
	_, err := io.ReadFull(c, answer)
	return c, strings.TrimSpace(string(answer)), err
}

func (s *security) Server(ctx context.Context, c net.Conn, protocols []string) (net.Conn, string, error) {
	offer := make([]byte, 40)
	if _, err := io.ReadFull(c, offer); err != nil {
		return nil, "", err
	}
	for _, p := range protocols {
		for o := range strings.SplitSeq(strings.TrimSpace(string(offer)), ",") {
			if o == p {
				_, err := fmt.Fprintf(c, "%-20s", p)
				return c, p, err
			}
		}
	}
	return nil, "", errors.New("no protocol in common")
}

func TestSecurity(t *testing.T) {
	sec := &security{t: t, targets: make(chan Target, 1)}
	for _, test := range []struct {
		server, client bool // GRPCOnly
	}{{false, false}, {true, false}, {false, true}} {
		_, address := startServer(t, ServerOptions{Handler: echoHandler, Security: sec, GRPCOnly: test.server})
		client := newClient(t, ClientOptions{Security: sec, GRPCOnly: test.client})
		for range 3 {
			req := request("x")
			req.Namespace = "ns"
			resp, err := client.Invoke(within(t), address, req)
			if err != nil {
				t.Fatal(err)
			}
			if err := resp.Buffer(0); err != nil || string(resp.Body) != "x" {
				t.Errorf("%q, %v", resp.Body, err)
			}
		}
		if got, want := receiveWithin(t, "a handshake", sec.targets), (Target{address, "b", "ns"}); got != want {
			t.Errorf("the handshake was for %v, want %v", got, want)
		}
		bad := newClient(t, ClientOptions{Security: &security{t: t, refuse: true}, GRPCOnly: test.client})
		if _, err := bad.Invoke(within(t), address, request("x")); !bad.Retriable(err) || !strings.Contains(err.Error(), "authentication handshake failed: unknown authority") {
			t.Errorf("got %v", err)
		}
	}
}
