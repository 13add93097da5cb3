package identity_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net"
	"net/url"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/peer"

	"outrigger.dev/identity"
	"outrigger.dev/identity/identitytest"
)

func TestParseID(t *testing.T) {
	for _, test := range []struct {
		uri  string
		want identity.ID
		ok   bool
	}{
		{"spiffe://public/ns/default/a", identity.ID{TrustDomain: "public", Namespace: "default", AppID: "a"}, true},
		{"spiffe://td.example/ns/n/app/more/segments", identity.ID{TrustDomain: "td.example", Namespace: "n", AppID: "app"}, true},
		{"spiffe://public/ns/default", identity.ID{}, false},
		{"spiffe://public/ns", identity.ID{}, false},
		{"spiffe://public", identity.ID{}, false},
		{"spiffe://public/xx/default/a", identity.ID{}, false},
		{"spiffe://public/ns//a", identity.ID{}, false},
		{"spiffe://public/ns/default/", identity.ID{}, false},
		{"spiffe://public/ns/../a", identity.ID{}, false},
		{"spiffe:///ns/default/a", identity.ID{}, false},
		{"http://public/ns/default/a", identity.ID{}, false},
		{"", identity.ID{}, false},
	} {
		got, err := identity.ParseID(test.uri)
		var malformed *identity.MalformedError
		if got != test.want || (err == nil) != test.ok || err != nil && (!errors.As(err, &malformed) || err.Error() != "malformed SPIFFE ID: "+test.uri) {
			t.Errorf("%q: %+v, %v", test.uri, got, err)
		}
	}
	id := identity.ID{TrustDomain: "td", Namespace: "n", AppID: "a"}
	if back, err := identity.ParseID(id.String()); back != id || err != nil {
		t.Errorf("%v: %v, %v", id, back, err)
	}
}

func FuzzParseID(f *testing.F) {
	f.Add("spiffe://public/ns/default/a")
	f.Add("spiffe://public/ns/default/a/b")
	f.Fuzz(func(t *testing.T, uri string) {
		id, err := identity.ParseID(uri)
		if err != nil {
			return
		}
		if id.TrustDomain == "" || id.Namespace == "" || id.AppID == "" || !strings.HasPrefix(uri, id.String()) {
			t.Errorf("%q became %+v", uri, id)
		}
	})
}

func TestPeerFromContext(t *testing.T) {
	p, other := &identity.Peer{URI: "x"}, &identity.Peer{URI: "y"}
	ctx := t.Context()
	if got := identity.PeerFromContext(ctx); got != nil {
		t.Errorf("out of nothing: %v", got)
	}
	clear := peer.NewContext(ctx, &peer.Peer{})
	if got := identity.PeerFromContext(clear); got != nil {
		t.Errorf("in clear text: %v", got)
	}
	secured := peer.NewContext(ctx, &peer.Peer{AuthInfo: identity.AuthInfo{Peer: p}})
	if got := identity.PeerFromContext(secured); got != p {
		t.Errorf("of the connection: %v", got)
	}
	if got := identity.PeerFromContext(identity.WithPeer(secured, other)); got != other {
		t.Errorf("as set: %v", got)
	}
	if got := identity.PeerFromContext(identity.WithPeer(secured, nil)); got != nil {
		t.Errorf("as set to nobody: %v", got)
	}
}

const (
	uriA = "spiffe://public/ns/default/a"
	uriB = "spiffe://td/ns/default/b"
)

func TestVerify(t *testing.T) {
	ca, foreign := identitytest.NewCA(t), identitytest.NewCA(t)
	now := time.Now()
	for _, test := range []struct {
		name  string
		chain []*x509.Certificate
		now   time.Time
		want  string // of the error
	}{
		{"good", ca.Issue(t, uriA, nil).Certificates, now, ""},
		{"malformed ID, for access control to refuse", ca.Issue(t, "spiffe://public/x", nil).Certificates, now, ""},
		{"expired", ca.Issue(t, uriA, nil).Certificates, now.Add(identitytest.Life + time.Second), "expired"},
		{"not valid yet", ca.Issue(t, uriA, nil).Certificates, now.Add(-2 * time.Hour), "not yet valid"},
		{"foreign", foreign.Issue(t, uriA, nil).Certificates, now, "unknown authority"},
		{"self-signed", identitytest.SelfSigned(t, uriA).Certificates, now, "unknown authority"},
		{"without issuer", ca.Issue(t, uriA, nil).Certificates[:1], now, "unknown authority"},
		{"foreign leaf with a good issuer", []*x509.Certificate{foreign.Issue(t, uriA, nil).Certificates[0], ca.Issuer}, now, "unknown authority"},
		{"no ID", ca.Issue(t, uriA, func(c *x509.Certificate) { c.URIs = nil; c.DNSNames = []string{"a"} }).Certificates, now, "no URI SAN"},
		{"two IDs", ca.Issue(t, uriA, func(c *x509.Certificate) {
			c.URIs = append(c.URIs, &url.URL{Scheme: "spiffe", Host: "public", Path: "/ns/default/b"})
		}).Certificates, now, "more than one"},
		{"not SPIFFE", ca.Issue(t, "https://public/ns/default/a", nil).Certificates, now, "scheme"},
		{"an authority itself", []*x509.Certificate{ca.Issuer, ca.Root}, now, "no URI SAN"},
		{"an authority with an ID", ca.Issue(t, uriA, func(c *x509.Certificate) {
			c.IsCA, c.BasicConstraintsValid, c.KeyUsage = true, true, x509.KeyUsageCertSign
		}).Certificates, now, "authority"},
		{"none", nil, now, "showed none"},
	} {
		t.Run(test.name, func(t *testing.T) {
			source := ca.NewSource(t, uriB)
			p, chains, err := identity.NewTLS(source, func() time.Time { return test.now }).Verify(test.chain)
			if test.want == "" {
				if err != nil || p.URI != test.chain[0].URIs[0].String() || len(chains) != 1 || !chains[0][len(chains[0])-1].Equal(ca.Root) {
					t.Errorf("%+v, %v", p, err)
				}
				return
			}
			var untrusted *identity.UntrustedError
			if !errors.As(err, &untrusted) || !strings.Contains(err.Error(), test.want) {
				t.Errorf("got %v, want %q", err, test.want)
			}
		})
	}
}

// shake makes a connection between two sources and returns the errors of both ends.
func shake(t *testing.T, client, server *tls.Config) (clientErr, serverErr error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	done := make(chan error, 1)
	go func() {
		c, err := l.Accept()
		if err != nil {
			done <- err
			return
		}
		defer c.Close()
		s := tls.Server(c, server)
		if err = s.HandshakeContext(ctx); err == nil {
			_, err = s.Write([]byte("x"))
		}
		done <- err
	}()
	raw, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer raw.Close()
	c := tls.Client(raw, client)
	if clientErr = c.HandshakeContext(ctx); clientErr == nil {
		_, clientErr = c.Read(make([]byte, 1))
	} else {
		raw.Close()
	}
	return clientErr, <-done
}

func TestExpectations(t *testing.T) {
	ca := identitytest.NewCA(t)
	client := identity.NewTLS(ca.NewSource(t, uriA), nil)
	server := identity.NewTLS(ca.NewSource(t, uriB), nil)
	for _, test := range []struct {
		name   string
		expect func(*identity.Peer) error
		want   string
	}{
		{"exactly", identity.Exactly(identity.ID{TrustDomain: "td", Namespace: "default", AppID: "b"}), ""},
		{"exactly, other trust domain", identity.Exactly(identity.ID{TrustDomain: "public", Namespace: "default", AppID: "b"}), `unexpected SPIFFE ID: "spiffe://td/ns/default/b"`},
		{"workload", identity.Workload("default", "b"), ""},
		{"workload, other app", identity.Workload("default", "c"), `unexpected SPIFFE ID: "spiffe://td/ns/default/b"`},
		{"workload, other namespace", identity.Workload("n", "b"), `unexpected SPIFFE ID: "spiffe://td/ns/default/b"`},
		{"workload, beginning of the name", identity.Workload("default", ""), "unexpected"},
	} {
		err, _ := shake(t, client.Client(test.expect, "h2"), server.Server("h2"))
		if test.want == "" && err != nil || test.want != "" && (err == nil || !strings.Contains(err.Error(), test.want)) {
			t.Errorf("%s: got %v, want %q", test.name, err, test.want)
		}
	}
}

func TestServerWantsCertificate(t *testing.T) {
	ca := identitytest.NewCA(t)
	server := identity.NewTLS(ca.NewSource(t, uriB), nil)
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		none := &tls.Config{InsecureSkipVerify: true, MinVersion: version, MaxVersion: version}
		clientErr, serverErr := shake(t, none, server.Server())
		if clientErr == nil || serverErr == nil || !strings.Contains(serverErr.Error(), "didn't provide a certificate") {
			t.Errorf("version %x without certificate: %v, %v", version, clientErr, serverErr)
		}
	}
	old := &tls.Config{InsecureSkipVerify: true, MinVersion: tls.VersionTLS10, MaxVersion: tls.VersionTLS11}
	if _, err := shake(t, old, server.Server()); err == nil {
		t.Error("TLS 1.1 was accepted")
	}
	client := identity.NewTLS(ca.NewSource(t, uriA), nil).Client(identity.Workload("default", "b"))
	client.MaxVersion = tls.VersionTLS12
	if a, b := shake(t, client, server.Server()); a != nil || b != nil {
		t.Errorf("TLS 1.2: %v, %v", a, b)
	}
}

// TestNoResumption keeps identities from outliving their end by a resumed session, even for a client that would resume.
func TestNoResumption(t *testing.T) {
	ca := identitytest.NewCA(t)
	source := ca.NewSource(t, uriB)
	server := identity.NewTLS(source, nil).Server()
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		client := identity.NewTLS(ca.NewSource(t, uriA), nil).Client(identity.Workload("default", "b"))
		client.ClientSessionCache = tls.NewLRUClientSessionCache(8)
		client.ServerName, client.MaxVersion = "b", version
		resumed := false
		inner := client.VerifyConnection
		client.VerifyConnection = func(s tls.ConnectionState) error { resumed = resumed || s.DidResume; return inner(s) }
		for range 3 {
			if a, b := shake(t, client, server); a != nil || b != nil {
				t.Fatal(a, b)
			}
		}
		if resumed {
			t.Errorf("version %x resumed a session", version)
		}
	}
	source.Trust(identitytest.NewCA(t).Root)
	if _, err := shake(t, identity.NewTLS(ca.NewSource(t, uriA), nil).Client(identity.Workload("default", "b")), server); err == nil {
		t.Error("the anchors of the server changed, but it still accepts")
	}
}

func TestNoIdentity(t *testing.T) {
	ca := identitytest.NewCA(t)
	source := ca.NewSource(t, uriA)
	source.Set(nil)
	err, _ := shake(t, identity.NewTLS(source, nil).Client(identity.Workload("default", "b")), identity.NewTLS(ca.NewSource(t, uriB), nil).Server())
	if err == nil || !strings.Contains(err.Error(), "no certificate of this process's identity") {
		t.Errorf("got %v", err)
	}
}
