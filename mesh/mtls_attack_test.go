package mesh

import (
	"context"
	"crypto/x509"
	"io"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	internalsv1 "outrigger.dev/api/gen/internals/v1"
	"outrigger.dev/identity/identitytest"
	"outrigger.dev/invocation"
	"outrigger.dev/telemetry/logging/logtest"
)

// TestMTLSRefuses has everything that must not get through, from either side.
func TestMTLSRefuses(t *testing.T) {
	ca, foreign := identitytest.NewCA(t), identitytest.NewCA(t)
	expired := func(c *x509.Certificate) {
		c.NotBefore, c.NotAfter = time.Now().Add(-2*time.Hour), time.Now().Add(-time.Minute)
	}
	future := func(c *x509.Certificate) { c.NotBefore = time.Now().Add(time.Minute) }
	for _, test := range []struct {
		name           string
		client, server *x509svid.SVID // nil: a good one
		want           string         // in the error, "" when the call gets through
		log            string         // in the server's log
	}{
		{name: "good"},
		{name: "malformed ID of a client, which access control refuses", client: ca.Issue(t, "spiffe://public/odd", nil)},
		{name: "server with further segments", server: ca.Issue(t, uriB+"/x", nil), want: `unexpected SPIFFE ID: "` + uriB + `/x"`},
		{name: "server is another app", server: ca.Issue(t, "spiffe://td/ns/default/c", nil), want: `unexpected SPIFFE ID: "spiffe://td/ns/default/c"`},
		{name: "server of another namespace", server: ca.Issue(t, "spiffe://td/ns/other/b", nil), want: "unexpected SPIFFE ID"},
		{name: "server with a malformed ID", server: ca.Issue(t, "spiffe://td/b", nil), want: "unexpected SPIFFE ID"},
		{name: "server of a foreign root", server: foreign.Issue(t, uriB, nil), want: "unknown authority"},
		{name: "server self-signed", server: identitytest.SelfSigned(t, uriB), want: "unknown authority"},
		{name: "server expired", server: ca.Issue(t, uriB, expired), want: "expired"},
		{name: "server not valid yet", server: ca.Issue(t, uriB, future), want: "not yet valid"},
		{name: "server is no workload", server: ca.Issue(t, "https://td/ns/default/b", nil), want: "no X.509-SVID"},
		{name: "client of a foreign root", client: foreign.Issue(t, uriA, nil), want: "refused the connection", log: "unknown authority"},
		{name: "client self-signed", client: identitytest.SelfSigned(t, uriA), want: "refused the connection", log: "unknown authority"},
		{name: "client expired", client: ca.Issue(t, uriA, expired), want: "has expired", log: "expired"},
		{name: "client not valid yet", client: ca.Issue(t, uriA, future), want: "refused the connection", log: "not yet valid"},
		{name: "client without ID", client: ca.Issue(t, uriA, func(c *x509.Certificate) { c.URIs = nil }), want: "refused the connection", log: "no X.509-SVID"},
		{name: "client is an authority", client: ca.Issue(t, uriA, func(c *x509.Certificate) {
			c.IsCA, c.BasicConstraintsValid, c.KeyUsage = true, true, x509.KeyUsageCertSign
		}), want: "refused the connection", log: "authority"},
	} {
		t.Run(test.name, func(t *testing.T) {
			a, b := ca.NewSource(t, uriA), ca.NewSource(t, uriB)
			if test.client != nil {
				a.Set(test.client)
			}
			if test.server != nil {
				b.Set(test.server)
			}
			var log logtest.Log
			var called atomic.Bool
			_, address := startServer(t, ServerOptions{Security: NewMTLS(b, nil), Log: log.Logger(), Handler: func(context.Context, *invocation.Request) (*invocation.Response, error) {
				called.Store(true)
				return &invocation.Response{Status: 200}, nil
			}})
			wires(t, func(t *testing.T, o ClientOptions) {
				o.Security = NewMTLS(a, nil)
				c := newClient(t, o)
				_, err := invoke(t, c, address, secure("x"))
				if test.want == "" {
					if err != nil {
						t.Error(err)
					}
					return
				}
				if status.Code(err) != codes.Unavailable || !strings.Contains(strings.ReplaceAll(err.Error(), `\"`, `"`), test.want) {
					t.Errorf("got %v, want %q", err, test.want)
				}
				if called.Load() {
					t.Error("the handler was called")
				}
				eventually(t, "the server's log", func() bool { return strings.Contains(log.String(), test.log) })
			})
		})
	}
}

func TestMTLSAndClearText(t *testing.T) {
	ca := identitytest.NewCA(t)
	_, secured := startServer(t, ServerOptions{Handler: whoHandler, Security: NewMTLS(ca.NewSource(t, uriB), nil)})
	_, clear := startServer(t, ServerOptions{Handler: whoHandler})
	wires(t, func(t *testing.T, o ClientOptions) {
		if got, err := invoke(t, newClient(t, o), secured, secure("x")); status.Code(err) != codes.Unavailable {
			t.Errorf("clear text to TLS: %q, %v", got, err)
		}
		o.Security = NewMTLS(ca.NewSource(t, uriA), nil)
		if got, err := invoke(t, newClient(t, o), clear, secure("x")); status.Code(err) != codes.Unavailable || !strings.Contains(err.Error(), "does not use mTLS") {
			t.Errorf("TLS to clear text: %q, %v", got, err)
		}
	})
}

// TestSlowPeersAreCutOff opens connections that get on too slowly, at each stage.
func TestSlowPeersAreCutOff(t *testing.T) {
	ca := identitytest.NewCA(t)
	const patience = 300 * time.Millisecond
	_, address := startServer(t, ServerOptions{Handler: whoHandler, Security: NewMTLS(ca.NewSource(t, uriB), nil), patience: patience})
	_, clear := startServer(t, ServerOptions{Handler: whoHandler, patience: patience})
	security := NewMTLS(ca.NewSource(t, uriA), nil)
	hello := []byte{0x16, 3, 1, 1, 0, 1, 0, 0, 0xfc}
	for _, test := range []struct {
		name     string
		address  string
		protocol string // secured first, when not empty
		drip     []byte
	}{
		{"handshake", address, "", hello},
		{"nothing", address, "", nil},
		{"header", address, ProtocolExchange, []byte("GET /m HTTP/1.1\r\nHost: x\r\nX: ")},
		{"nothing after the handshake", address, ProtocolExchange, nil},
		{"preface of HTTP/2", address, ProtocolGRPC, []byte("PRI * HTTP/2.0\r\n")},
		{"nothing after the handshake for HTTP/2", address, ProtocolGRPC, nil},
		{"nothing in clear text", clear, "", nil},
		{"header in clear text", clear, "", []byte("GET /m HTTP/1.1\r\nHost: x\r\nX: ")},
		{"preface of HTTP/2 in clear text", clear, "", []byte("PRI * HTTP/2.0\r\n")},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			raw, err := net.Dial("tcp", test.address)
			if err != nil {
				t.Fatal(err)
			}
			defer raw.Close()
			c := raw
			if test.protocol != "" {
				if c, _, err = security.Client(within(t), raw, Target{AppID: "b", Namespace: "default"}, []string{test.protocol}); err != nil {
					t.Fatal(err)
				}
			}
			cut := make(chan struct{})
			go func() { defer close(cut); _, _ = io.Copy(io.Discard, c) }()
			tick := time.NewTicker(patience / 10)
			defer tick.Stop()
			deadline := time.After(10 * time.Second)
			for rest := test.drip; ; {
				select {
				case <-cut:
					return
				case <-deadline:
					t.Fatal("the connection is still open")
				case <-tick.C:
					if len(rest) > 0 {
						_, _ = c.Write(rest[:1])
						if rest = rest[1:]; len(rest) == 0 && test.protocol == ProtocolExchange {
							rest = []byte("x")
						}
					}
				}
			}
		})
	}
}

func TestMTLSOversizedHeaders(t *testing.T) {
	ca := identitytest.NewCA(t)
	var called atomic.Bool
	_, address := startServer(t, ServerOptions{ReadBufferSize: 4 << 10, Security: NewMTLS(ca.NewSource(t, uriB), nil), Handler: func(context.Context, *invocation.Request) (*invocation.Response, error) {
		called.Store(true)
		return &invocation.Response{Status: 200}, nil
	}})
	security := NewMTLS(ca.NewSource(t, uriA), nil)
	raw, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	defer raw.Close()
	c, _, err := security.Client(within(t), raw, Target{AppID: "b", Namespace: "default"}, []string{ProtocolExchange})
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		_, _ = io.WriteString(c, "GET /m HTTP/1.1\r\nHost: x\r\nOutrigger-Exchange: 1\r\nX: "+strings.Repeat("x", 1<<20)+"\r\n\r\n")
	}()
	answer := make([]byte, 12)
	if _, err := io.ReadFull(c, answer); err != nil || string(answer) != "HTTP/1.1 431" {
		t.Errorf("%q, %v", answer, err)
	}
	cc, err := grpc.NewClient(address, grpc.WithTransportCredentials(daprTLS(t, ca, uriA)))
	if err != nil {
		t.Fatal(err)
	}
	defer cc.Close()
	// More than one field may have, and than all may have together.
	ctx := metadata.AppendToOutgoingContext(within(t), "x", strings.Repeat("x", 5<<20))
	if _, err := internalsv1.NewServiceInvocationClient(cc).CallLocal(ctx, &internalsv1.InternalInvokeRequest{}); err == nil {
		t.Error("5 MiB of metadata were accepted")
	}
	if called.Load() {
		t.Error("the handler was called")
	}
	if _, err := invoke(t, newClient(t, ClientOptions{Security: security}), address, secure("x")); err != nil {
		t.Errorf("afterwards: %v", err)
	}
}

// TestRefusalsAreLoggedNowAndThen does not let attackers fill the log.
func TestRefusalsAreLoggedNowAndThen(t *testing.T) {
	ca := identitytest.NewCA(t)
	var log logtest.Log
	_, address := startServer(t, ServerOptions{Handler: whoHandler, Log: log.Logger(), Security: NewMTLS(ca.NewSource(t, uriB), nil)})
	a := ca.NewSource(t, uriA)
	a.Set(identitytest.SelfSigned(t, uriA))
	for range 5 {
		_, _ = invoke(t, newClient(t, ClientOptions{Security: NewMTLS(a, nil)}), address, secure("x"))
	}
	eventually(t, "the log", func() bool { return log.Count("unknown authority") >= 5 })
	if n := strings.Count(log.String(), "WARN"); n != 1 {
		t.Errorf("%d warnings in\n%s", n, log.String())
	}
}
