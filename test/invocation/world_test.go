// Package invocation_test calls apps through real sidecars over loopback: every kind of caller with every kind of app, over
// every way that a call can take.
package invocation_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/anypb"

	commonv1 "outrigger.dev/api/gen/common/v1"
	runtimev1 "outrigger.dev/api/gen/runtime/v1"
	"outrigger.dev/components"
	"outrigger.dev/components/nameresolution"
	"outrigger.dev/sidecar"
	"outrigger.dev/sidecar/sidecartest"
	"outrigger.dev/test/servers"
)

// patience bounds waiting for what must happen.
const patience = 30 * time.Second

// directory is where the sidecars of a test find each other. Members that resolve through its relayed view reach the others
// only by gRPC, as they would reach a sidecar of Dapr.
type directory struct {
	t     testing.TB
	mu    sync.Mutex
	plain map[string]string // app id to address of its internal port
	relay map[string]string // the same behind relays
}

func newDirectory(t testing.TB) *directory {
	return &directory{t: t, plain: map[string]string{}, relay: map[string]string{}}
}

// view is the resolver of one member.
type view struct {
	d       *directory
	relayed bool
}

func (v view) Resolve(_ context.Context, req nameresolution.Request) (string, error) {
	if address := v.d.address(req.ID, v.relayed); address != "" {
		return address, nil
	}
	return "", fmt.Errorf("couldn't find service: %s", req.ID)
}

func (view) Close() error { return nil }

// address is where an app's sidecar is reached.
func (d *directory) address(id string, relayed bool) string {
	d.mu.Lock()
	defer d.mu.Unlock()
	if !relayed {
		return d.plain[id]
	}
	if address, ok := d.relay[id]; ok {
		return address
	}
	address := d.plain[id]
	if address != "" {
		address = onlyGRPC(d.t, address)
		d.relay[id] = address
	}
	return address
}

// put enters an address by hand.
func (d *directory) put(id, address string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.plain[id] = address
	delete(d.relay, id)
}

// join gives a sidecar its app id and its view of the directory.
func (d *directory) join(id string, relayed bool) sidecartest.Option {
	return sidecartest.With(func(o *sidecar.Options) {
		o.AppID, o.NameResolution = id, "directory"
		o.InternalPort = servers.FreePort(d.t)
		nameresolution.Register(o.Registry, components.Info{Name: "directory", Version: "v1", Status: components.Stable, Description: "Finds the sidecars of one test."},
			func(_ context.Context, inst components.Instance, _ struct{}) (nameresolution.Resolver, error) {
				d.put(inst.Sidecar.AppID, net.JoinHostPort(inst.Sidecar.HostAddress, strconv.Itoa(inst.Sidecar.InternalPort)))
				return view{d, relayed}, nil
			})
	})
}

// onlyGRPC passes connections on to an address if they speak HTTP/2 from the start, and closes all others, as a sidecar does
// that knows nothing but gRPC.
func onlyGRPC(t testing.TB, to string) string {
	return tcpRelay(t, func() (net.Conn, error) { return net.Dial("tcp", to) }, func(first string) bool { return strings.HasPrefix(first, "PRI") })
}

// tcpRelay accepts connections and passes those on whose first bytes are admitted.
func tcpRelay(t testing.TB, dial func() (net.Conn, error), admit func(first string) bool) string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var tasks sync.WaitGroup
	var mu sync.Mutex
	open := map[net.Conn]bool{}
	closed := false
	keep := func(c net.Conn) bool {
		mu.Lock()
		defer mu.Unlock()
		if closed {
			_ = c.Close()
			return false
		}
		open[c] = true
		return true
	}
	t.Cleanup(func() {
		_ = l.Close()
		mu.Lock()
		closed = true
		for c := range open {
			_ = c.Close()
		}
		mu.Unlock()
		tasks.Wait()
	})
	serve := func(c net.Conn) {
		defer c.Close()
		r := bufio.NewReader(c)
		if first, err := r.Peek(3); err != nil || !admit(string(first)) {
			return
		}
		up, err := dial()
		if err != nil || !keep(up) {
			return
		}
		defer up.Close()
		tasks.Go(func() {
			_, _ = io.Copy(up, r)
			_ = up.(*net.TCPConn).CloseWrite()
		})
		_, _ = io.Copy(c, up)
	}
	tasks.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			if keep(c) {
				tasks.Go(func() { serve(c) })
			}
		}
	})
	return l.Addr().String()
}

// seen is what an app saw of a call.
type seen struct {
	Proto, Verb, Path, Query, ContentType, TypeURL, Body, Host string
	Length                                                     int64
	Header                                                     map[string][]string // names in lower case
}

// get is the first value of a header.
func (s seen) get(name string) string {
	if v := s.Header[name]; len(v) > 0 {
		return v[0]
	}
	return ""
}

// httpApp is an app that tells what it saw, or answers as the method says.
func httpApp(w http.ResponseWriter, r *http.Request) {
	first, rest, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/"), "/")
	switch first {
	case "status":
		code, _ := strconv.Atoi(rest)
		w.Header().Set("X-App", "yes")
		w.Header().Set("Content-Type", "text/plain")
		if code >= 300 && code < 400 {
			w.Header().Set("Location", "/elsewhere")
		}
		w.WriteHeader(code)
		if code != 204 && code != 304 {
			fmt.Fprintf(w, "body of %d", code)
		}
	case "bare": // a status without anything else
		code, _ := strconv.Atoi(rest)
		w.Header()["Content-Type"] = nil
		w.WriteHeader(code)
	case "headers":
		h := w.Header()
		h["X-Twice"] = []string{"1", "2"}
		h["Set-Cookie"] = []string{"a=1; Path=/", "a=2; Path=/b", "c=3; HttpOnly"}
		h.Set("X-Data-Bin", "AAAA")
		h.Set("Grpc-Thing", "g")
		h.Set("Keep-Alive", "timeout=9")
		h.Set("Proxy-Authenticate", "Basic")
		h.Set("Cache-Control", "no-store")
		h.Set("Server", "the-app/1")
		h.Set("Date", "Mon, 02 Jan 2006 15:04:05 GMT")
		h.Set("Etag", `"e"`)
		h.Set("Content-Language", "de")
		h.Set("X-Latin", "gr\xfc\xdfe")
		h.Set("X.Odd!Name", "odd")
		h.Set("Content-Type", "text/x-special; charset=utf-8")
		h.Set("Trailer", "X-Trailer")
		_, _ = io.WriteString(w, "with headers")
		h.Set("X-Trailer", "t")
	default:
		body, _ := io.ReadAll(r.Body)
		s := seen{
			Proto: r.Proto, Verb: r.Method, Path: r.URL.Path, Query: r.URL.RawQuery, ContentType: r.Header.Get("Content-Type"),
			Body: string(body), Host: r.Host, Length: r.ContentLength, Header: map[string][]string{},
		}
		for name, values := range r.Header {
			s.Header[strings.ToLower(name)] = values
		}
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(s)
	}
}

// grpcApp is the same for gRPC.
type grpcApp struct {
	runtimev1.UnimplementedAppCallbackServer
	runtimev1.UnimplementedAppCallbackHealthCheckServer
	// before, when set, is called first.
	before func(ctx context.Context, in *commonv1.InvokeRequest) error
}

func (a grpcApp) OnInvoke(ctx context.Context, in *commonv1.InvokeRequest) (*commonv1.InvokeResponse, error) {
	if a.before != nil {
		if err := a.before(ctx, in); err != nil {
			return nil, err
		}
	}
	md, _ := metadata.FromIncomingContext(ctx)
	first, rest, _ := strings.Cut(in.GetMethod(), "/")
	switch first {
	case "status":
		_ = grpc.SetHeader(ctx, metadata.Pairs("x-app", "yes"))
		_ = grpc.SetTrailer(ctx, metadata.Pairs("x-trailer", "t"))
		code, _ := strconv.Atoi(rest)
		st, err := status.New(codes.Code(code), "message of "+rest).WithDetails(&errdetails.ErrorInfo{Reason: "R", Domain: "D"})
		if err != nil {
			return nil, err
		}
		return nil, st.Err()
	case "headers":
		_ = grpc.SetHeader(ctx, metadata.Pairs("x-twice", "1", "x-twice", "2", "x-data-bin", "\x00\x01\xff", "cache-control", "no-store"))
		_ = grpc.SetTrailer(ctx, metadata.Pairs("x-trailer", "t", "x-end-bin", "\x00\xfe"))
		return &commonv1.InvokeResponse{Data: &anypb.Any{Value: []byte("with headers")}, ContentType: "text/x-special"}, nil
	case "typed":
		return &commonv1.InvokeResponse{Data: &anypb.Any{Value: []byte("typed"), TypeUrl: "type.googleapis.com/a.B"}}, nil
	case "empty":
		return &commonv1.InvokeResponse{}, nil
	}
	s := seen{
		Proto: "grpc", Verb: in.GetHttpExtension().GetVerb().String(), Path: in.GetMethod(), Query: in.GetHttpExtension().GetQuerystring(),
		ContentType: in.GetContentType(), TypeURL: in.GetData().GetTypeUrl(), Body: string(in.GetData().GetValue()), Header: md,
	}
	if in.GetHttpExtension() == nil {
		s.Verb = "absent"
	}
	text, err := json.Marshal(s)
	return &commonv1.InvokeResponse{Data: &anypb.Any{Value: text}, ContentType: "application/json"}, err
}

// startHTTP serves an HTTP app and returns the option for its sidecar.
func startHTTP(t testing.TB, protocol string, h http.Handler) sidecartest.Option {
	s := httptest.NewUnstartedServer(h)
	switch protocol {
	case "https":
		s.StartTLS()
	case "h2c":
		s.Config.Protocols = new(http.Protocols)
		s.Config.Protocols.SetHTTP1(true) // for the answer to a wrong protocol only
		s.Config.Protocols.SetUnencryptedHTTP2(true)
		s.Start()
	default:
		s.Start()
	}
	t.Cleanup(s.Close)
	return appAt(protocol, s.Listener.Addr().(*net.TCPAddr).Port)
}

// startGRPC serves a gRPC app and returns the option for its sidecar.
func startGRPC(t testing.TB, protocol string, app grpcApp) sidecartest.Option {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return serveGRPC(t, protocol, l, app)
}

func serveGRPC(t testing.TB, protocol string, l net.Listener, app grpcApp) sidecartest.Option {
	var options []grpc.ServerOption
	if protocol == "grpcs" {
		options = append(options, grpc.Creds(credentials.NewTLS(&tls.Config{Certificates: []tls.Certificate{certificate(t)}})))
	}
	s := grpc.NewServer(options...)
	runtimev1.RegisterAppCallbackServer(s, app)
	runtimev1.RegisterAppCallbackHealthCheckServer(s, app)
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = s.Serve(l)
	}()
	t.Cleanup(func() { s.Stop(); <-done })
	return appAt(protocol, l.Addr().(*net.TCPAddr).Port)
}

// certificate is one for 127.0.0.1 that nobody trusts.
func certificate(t testing.TB) tls.Certificate {
	s := httptest.NewTLSServer(http.NotFoundHandler())
	defer s.Close()
	return s.TLS.Certificates[0]
}

func appAt(protocol string, port int) sidecartest.Option {
	return sidecartest.With(func(o *sidecar.Options) { o.AppProtocol, o.AppPort = protocol, port })
}

// startApp serves the telling app over any protocol.
func startApp(t testing.TB, protocol string) sidecartest.Option {
	if strings.HasPrefix(protocol, "grpc") {
		return startGRPC(t, protocol, grpcApp{})
	}
	return startHTTP(t, protocol, http.HandlerFunc(httpApp))
}

// h2cClient speaks HTTP/2 in clear text.
func h2cClient(t testing.TB) *http.Client {
	transport := &http.Transport{Protocols: new(http.Protocols), DisableCompression: true}
	transport.Protocols.SetUnencryptedHTTP2(true)
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
}

// h1Client speaks HTTP/1.1, follows no redirect and asks for no compression.
func h1Client(t testing.TB) *http.Client {
	transport := &http.Transport{DisableCompression: true}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
}

// withTimeout is a context for one test.
func withTimeout(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 2*patience)
	t.Cleanup(cancel)
	return ctx
}

// decode reads what an app saw out of a body.
func decode(t testing.TB, body string) seen {
	t.Helper()
	var s seen
	if err := json.Unmarshal([]byte(body), &s); err != nil {
		t.Fatalf("the body is not what an app saw: %v: %q", err, body)
	}
	return s
}

// wait waits for a channel.
func wait[T any](t testing.TB, c <-chan T, what string) T {
	t.Helper()
	select {
	case v := <-c:
		return v
	case <-time.After(patience):
		t.Fatalf("%s did not happen within %s", what, patience)
		panic("unreachable")
	}
}

// waitFor waits for a condition.
func waitFor(t testing.TB, what string, condition func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !condition(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%s did not happen within %s", what, patience)
		}
	}
}

// raw sends bytes to a sidecar's HTTP API on a connection of their own and reads the reply.
func raw(t testing.TB, s *sidecartest.Sidecar, request string) (*http.Response, string, error) {
	t.Helper()
	c, err := net.Dial("tcp", s.HTTPAddress())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(patience))
	if _, err := io.WriteString(c, request); err != nil {
		return nil, "", err
	}
	verb, _, _ := strings.Cut(request, " ")
	resp, err := http.ReadResponse(bufio.NewReader(c), &http.Request{Method: verb})
	if err != nil {
		return nil, "", err
	}
	body, err := io.ReadAll(resp.Body)
	return resp, string(body), errors.Join(err, resp.Body.Close())
}

// mustRaw is raw for replies that must come.
func mustRaw(t testing.TB, s *sidecartest.Sidecar, request string) (*http.Response, string) {
	t.Helper()
	resp, body, err := raw(t, s, request)
	if err != nil {
		t.Fatalf("no reply to %q: %v", request[:min(len(request), 200)], err)
	}
	return resp, body
}

func message(t testing.TB, body string) string {
	t.Helper()
	var e struct{ ErrorCode, Message string }
	if err := json.Unmarshal([]byte(body), &e); err != nil || e.ErrorCode != "ERR_DIRECT_INVOKE" {
		t.Errorf("not an error of service invocation: %q (%v)", body, err)
	}
	return e.Message
}
