package server

import (
	"context"
	"math/rand/v2"
	"net"
	"net/http"
	"testing"

	"outrigger.dev/api"
	"outrigger.dev/http1"
	"outrigger.dev/telemetry/tracing"
)

// BenchmarkTracing is what a request costs in each mode, from the client's write to its read.
func BenchmarkTracing(b *testing.B) {
	for name, tracer := range map[string]*tracing.Tracer{"off": nil, "passing through": tracing.PassThrough(), "unsampled": tracing.New(tracing.Options{Random: rand.Uint64})} {
		b.Run(name, func(b *testing.B) {
			s := NewHTTP(HTTPOptions{Tracer: tracer, Routes: []*api.Route{{Methods: []string{"GET"}, Path: "/v1.0/x", Group: "v1/x", Handler: func(c *api.Call) error { c.NoContent(); return nil }}}})
			l, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				b.Fatal(err)
			}
			done := make(chan struct{})
			go func() { defer close(done); _ = s.Serve(l) }()
			defer func() { _ = s.Shutdown(context.Background()); <-done }()
			c, err := net.Dial("tcp", l.Addr().String())
			if err != nil {
				b.Fatal(err)
			}
			defer c.Close()
			request, reply := []byte("GET /v1.0/x HTTP/1.1\r\nHost: h\r\nUser-Agent: bench\r\nAccept: */*\r\n\r\n"), make([]byte, 4096)
			b.ReportAllocs()
			for b.Loop() {
				if _, err := c.Write(request); err != nil {
					b.Fatal(err)
				}
				if _, err := c.Read(reply); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// The connection's own context is asked for the span, without another around it.
func TestSpanInContext(t *testing.T) {
	var _ served = (*http1.Exchange)(nil)
	var _ served = (*h2Exchange)(nil)
	var seen *tracing.Span
	s := NewHTTP(HTTPOptions{H2C: true, Tracer: tracing.PassThrough(), Routes: []*api.Route{{Methods: []string{"GET"}, Path: "/v1.0/x", Group: "v1/x", Handler: func(c *api.Call) error {
		ctx, cancel := context.WithCancel(c.Context())
		defer cancel()
		seen = tracing.FromContext(ctx)
		c.SetHeader("Traceparent", "the handler's")
		return nil
	}}}})
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() { defer close(done); _ = s.Serve(l) }()
	defer func() { _ = s.Shutdown(context.Background()); <-done }()
	const parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
	for _, h2 := range []bool{false, true} {
		seen = nil
		header := get(t, l.Addr().String(), h2, parent)
		if seen.Parent() != parent {
			t.Errorf("HTTP/2 %v: the handler sees the span %q", h2, seen.Parent())
		}
		if got := header.Values("Traceparent"); len(got) != 1 || got[0] != "the handler's" {
			t.Errorf("HTTP/2 %v: the reply has %q", h2, got)
		}
	}
}

// get makes a request with a traceparent and returns the header of the reply.
func get(t *testing.T, address string, h2 bool, parent string) http.Header {
	t.Helper()
	protocols := new(http.Protocols)
	protocols.SetHTTP1(!h2)
	protocols.SetUnencryptedHTTP2(h2)
	transport := &http.Transport{Protocols: protocols}
	defer transport.CloseIdleConnections()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+address+"/v1.0/x", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Traceparent", parent)
	resp, err := (&http.Client{Transport: transport}).Do(req)
	if err != nil {
		t.Fatal(err)
	}
	_ = resp.Body.Close()
	if h2 != (resp.ProtoMajor == 2) {
		t.Fatalf("it was HTTP/%d", resp.ProtoMajor)
	}
	return resp.Header
}
