package mesh_test

import (
	"bufio"
	"context"
	"crypto"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	commonv1 "outrigger.dev/api/gen/common/v1"
	internalsv1 "outrigger.dev/api/gen/internals/v1"
	"outrigger.dev/components"
	"outrigger.dev/components/nameresolution"
	"outrigger.dev/identity"
	"outrigger.dev/identity/identitytest"
	"outrigger.dev/mesh"
	"outrigger.dev/sidecar"
	"outrigger.dev/sidecar/sidecartest"
)

// certificates reads a file of the authority.
func (a *authority) certificates(name string) []*x509.Certificate {
	a.t.Helper()
	text, err := os.ReadFile(filepath.Join(a.dir, name))
	if err != nil {
		a.t.Fatal(err)
	}
	var found []*x509.Certificate
	for block, rest := pem.Decode(text); block != nil; block, rest = pem.Decode(rest) {
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			a.t.Fatal(err)
		}
		found = append(found, c)
	}
	if len(found) == 0 {
		a.t.Fatalf("%s has no certificate", name)
	}
	return found
}

// issuer is the authority's issuing certificate and its key.
func (a *authority) issuer() (*x509.Certificate, crypto.Signer) {
	a.t.Helper()
	text, err := os.ReadFile(filepath.Join(a.dir, "issuer.key"))
	if err != nil {
		a.t.Fatal(err)
	}
	block, _ := pem.Decode(text)
	if block == nil {
		a.t.Fatal("the issuer's key is no PEM")
	}
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		if key, err = x509.ParseECPrivateKey(block.Bytes); err != nil {
			a.t.Fatal(err)
		}
	}
	return a.certificates("issuer.crt")[0], key.(crypto.Signer)
}

// forge makes a certificate that the authority's own key has signed, as nobody but the authority can: with it everything but
// what change has changed is right.
func (a *authority) forge(uri string, change func(*x509.Certificate)) *x509svid.SVID {
	a.t.Helper()
	issuer, issuerKey := a.issuer()
	public, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		a.t.Fatal(err)
	}
	parsed, err := url.Parse(uri)
	if err != nil {
		a.t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), URIs: []*url.URL{parsed},
		NotBefore: time.Now().Add(-time.Minute), NotAfter: time.Now().Add(time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	if change != nil {
		change(template)
	}
	der, err := x509.CreateCertificate(rand.Reader, template, issuer, public, issuerKey)
	if err != nil {
		a.t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		a.t.Fatal(err)
	}
	svid := &x509svid.SVID{Certificates: append([]*x509.Certificate{leaf}, a.certificates("issuer.crt")...), PrivateKey: key}
	svid.ID, _ = spiffeid.FromString(uri)
	return svid
}

// source is an identity that trusts the authority.
func (a *authority) source(svid *x509svid.SVID) *identitytest.Source {
	s := &identitytest.Source{}
	s.Set(svid)
	s.Trust(a.certificates("ca.crt")...)
	return s
}

// attacker speaks to the internal port of a sidecar with an identity of its own, or in clear text, and without any of the care
// that sidecars take.
type attacker struct {
	t       testing.TB
	address string
	tls     func(protocol string) *tls.Config // nil: clear text

	once sync.Once
	cc   *grpc.ClientConn
}

// attack makes an attacker with an identity; nil is one without certificate.
func (a *authority) attack(t testing.TB, target *sidecartest.Sidecar, svid *x509svid.SVID) *attacker {
	source := a.source(svid)
	config := identity.NewTLS(source, nil)
	return &attacker{t: t, address: target.InternalAddress(), tls: func(protocol string) *tls.Config {
		c := config.Client(func(*identity.Peer) error { return nil }, protocol)
		// What the other side is does not matter to an attacker, and who verifies nothing is not stopped by it.
		c.VerifyConnection = nil
		if svid == nil {
			c.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &tls.Certificate{}, nil }
		}
		return c
	}}
}

// dial opens a connection that speaks a protocol.
func (a *attacker) dial(protocol string) (net.Conn, error) {
	c, err := net.DialTimeout("tcp", a.address, patience)
	if err != nil {
		return nil, err
	}
	if err := c.SetDeadline(time.Now().Add(2 * patience)); err != nil {
		return nil, err
	}
	if a.tls == nil {
		return c, nil
	}
	secured := tls.Client(c, a.tls(protocol))
	if err := secured.Handshake(); err != nil {
		_ = c.Close()
		return nil, err
	}
	return secured, nil
}

// exchange sends the very bytes of a request of the exchange and reads the answer.
func (a *attacker) exchange(request string) (*http.Response, string, error) {
	c, err := a.dial(mesh.ProtocolExchange)
	if err != nil {
		return nil, "", err
	}
	defer c.Close()
	return roundTrip(c, request)
}

// roundTrip sends bytes and reads the answer of HTTP/1.1 to them.
func roundTrip(c net.Conn, request string) (*http.Response, string, error) {
	if _, err := io.WriteString(c, request); err != nil {
		return nil, "", err
	}
	method, _, _ := strings.Cut(request, " ")
	resp, err := http.ReadResponse(bufio.NewReader(c), &http.Request{Method: method})
	if err != nil {
		return nil, "", err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	return resp, string(body), err
}

// conn is a gRPC connection.
func (a *attacker) conn() *grpc.ClientConn {
	a.once.Do(func() {
		creds := insecure.NewCredentials()
		if a.tls != nil {
			creds = credentials.NewTLS(a.tls(mesh.ProtocolGRPC))
		}
		cc, err := grpc.NewClient("passthrough:///"+a.address, grpc.WithTransportCredentials(creds), grpc.WithNoProxy())
		if err != nil {
			a.t.Fatal(err)
		}
		a.cc = cc
		a.t.Cleanup(func() { _ = cc.Close() })
	})
	return a.cc
}

// call is one call of a method of an app in the way of a sidecar.
type call struct {
	verb, method, query string
	header              [][2]string
}

func (c call) leading() *internalsv1.InternalInvokeRequest {
	md := map[string]*internalsv1.ListStringValue{"user-agent": {Values: []string{"attack"}}}
	for _, h := range c.header {
		list := md[h[0]]
		if list == nil {
			list = &internalsv1.ListStringValue{}
			md[h[0]] = list
		}
		list.Values = append(list.Values, h[1])
	}
	return &internalsv1.InternalInvokeRequest{
		Ver: internalsv1.APIVersion_V1, Metadata: md,
		Message: &commonv1.InvokeRequest{Method: c.method, HttpExtension: &commonv1.HTTPExtension{
			Verb: commonv1.HTTPExtension_Verb(commonv1.HTTPExtension_Verb_value[c.verb]), Querystring: c.query,
		}},
	}
}

// outcome is what came of a call: the app's status, or the error's text.
type outcome struct {
	status int
	err    string
}

func (o outcome) String() string {
	if o.err != "" {
		return o.err
	}
	return fmt.Sprintf("the app's status %d", o.status)
}

// denied reports whether access control refused the call.
func (o outcome) denied() bool { return strings.Contains(o.err, "PermissionDenied") }

// ways are the ways to call a method on the internal port. In the exchange the method is the request target as it stands.
var ways = []string{"exchange", "gRPC", "gRPC stream"}

func (a *attacker) call(way string, c call) outcome {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	client := internalsv1.NewServiceInvocationClient(a.conn())
	failed := func(err error) outcome { return outcome{err: fmt.Sprintf("%s: %s", status.Code(err), err)} }
	switch way {
	case "exchange":
		var b strings.Builder
		fmt.Fprintf(&b, "%s %s", c.verb, c.method)
		if c.query != "" {
			b.WriteString("?" + c.query)
		}
		b.WriteString(" HTTP/1.1\r\nHost: x\r\nOutrigger-Exchange: 1\r\n")
		for _, h := range c.header {
			fmt.Fprintf(&b, "%s: %s\r\n", h[0], h[1])
		}
		if c.verb == "POST" {
			b.WriteString("Content-Length: 0\r\n")
		}
		resp, _, err := a.exchange(b.String() + "\r\n")
		if err != nil {
			return outcome{err: err.Error()}
		}
		if code := resp.Header.Get("Outrigger-Status"); resp.Header.Get("Outrigger-Exchange") == "error" {
			message, _ := url.PathUnescape(resp.Header.Get("Outrigger-Message"))
			if code == "7" {
				code = "PermissionDenied"
			}
			return outcome{err: code + ": " + message}
		}
		return outcome{status: resp.StatusCode}
	case "gRPC":
		out, err := client.CallLocal(ctx, c.leading())
		if err != nil {
			return failed(err)
		}
		return outcome{status: int(out.GetStatus().GetCode())}
	default:
		stream, err := client.CallLocalStream(ctx)
		if err != nil {
			return failed(err)
		}
		if err := stream.Send(&internalsv1.InternalInvokeRequestStream{Request: c.leading()}); err != nil && !errors.Is(err, io.EOF) {
			return failed(err)
		}
		_ = stream.CloseSend()
		out, err := stream.Recv()
		if err != nil {
			return failed(err)
		}
		return outcome{status: int(out.GetResponse().GetStatus().GetCode())}
	}
}

// to is the context of a call that is proxied to an app.
func to(t testing.TB, app string, more ...string) context.Context {
	ctx, cancel := context.WithTimeout(metadata.AppendToOutgoingContext(context.Background(), append([]string{"dapr-app-id", app}, more...)...), patience)
	t.Cleanup(cancel)
	return ctx
}

// seen is a request as an app got it.
type seen struct {
	target string // the request target as it stood in the request
	path   string // decoded
	verb   string
	header http.Header
	body   string
}

// recorder is an HTTP app that remembers what it got, but for what its sidecar asks by itself.
type recorder struct {
	mu   sync.Mutex
	seen []seen
}

func (r *recorder) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	if strings.HasPrefix(req.URL.Path, "/dapr/") {
		http.NotFound(w, req)
		return
	}
	body, _ := io.ReadAll(io.LimitReader(req.Body, 64<<10))
	r.mu.Lock()
	defer r.mu.Unlock()
	r.seen = append(r.seen, seen{req.RequestURI, req.URL.Path, req.Method, req.Header.Clone(), string(body)})
}

// take returns what came since the last time.
func (r *recorder) take() []seen {
	r.mu.Lock()
	defer r.mu.Unlock()
	taken := r.seen
	r.seen = nil
	return taken
}

// one returns the one request that came since the last time.
func (r *recorder) one(t testing.TB) seen {
	t.Helper()
	taken := r.take()
	if len(taken) != 1 {
		t.Fatalf("the app got %d requests: %+v", len(taken), taken)
	}
	return taken[0]
}

// guide is a name resolution that says what a test wants.
type guide struct {
	mu        sync.Mutex
	addresses map[string]string
	resolve   func(id string) (string, error)
}

func (g *guide) put(id, address string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.addresses == nil {
		g.addresses = map[string]string{}
	}
	g.addresses[id] = address
}

// Resolve implements [nameresolution.Resolver].
func (g *guide) Resolve(_ context.Context, req nameresolution.Request) (string, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if address, ok := g.addresses[req.ID]; ok {
		return address, nil
	}
	if g.resolve != nil {
		return g.resolve(req.ID)
	}
	return "", fmt.Errorf("couldn't find service: %s", req.ID)
}

// Close implements [nameresolution.Resolver].
func (*guide) Close() error { return nil }

// join gives a sidecar its app ID and its guide.
func (g *guide) join(id string) sidecartest.Option {
	return sidecartest.With(func(o *sidecar.Options) {
		o.AppID, o.NameResolution = id, "guide"
		nameresolution.Register(o.Registry, components.Info{Name: "guide", Version: "v1", Status: components.Stable, Description: "Says what a test wants."},
			func(_ context.Context, inst components.Instance, _ struct{}) (nameresolution.Resolver, error) {
				g.mu.Lock()
				defer g.mu.Unlock()
				if g.addresses == nil {
					g.addresses = map[string]string{}
				}
				g.addresses[inst.Sidecar.AppID] = net.JoinHostPort(inst.Sidecar.HostAddress, fmt.Sprint(inst.Sidecar.InternalPort))
				return g, nil
			})
	})
}

// eventually waits for what must become true.
func eventually(t testing.TB, what string, met func() bool) {
	t.Helper()
	for deadline := time.Now().Add(2 * patience); !met(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("it did not happen: %s", what)
		}
	}
}

// values are the values of a header, whatever the spelling of its name.
func values(h http.Header, name string) []string {
	var found []string
	for key, list := range h {
		if strings.EqualFold(key, name) {
			found = append(found, list...)
		}
	}
	slices.Sort(found)
	return found
}

// raw sends the very bytes of a request in clear text and reads the answer.
func raw(t testing.TB, address, request string) (*http.Response, string, error) {
	t.Helper()
	c, err := net.DialTimeout("tcp", address, patience)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(2 * patience)); err != nil {
		t.Fatal(err)
	}
	return roundTrip(c, request)
}
