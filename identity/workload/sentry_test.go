package workload

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/jonboulle/clockwork"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/peer"
	"google.golang.org/protobuf/types/known/timestamppb"

	sentryv1 "outrigger.dev/api/gen/sentry/v1"
	"outrigger.dev/identity/identitytest"
)

const (
	sentryURI = "spiffe://localhost/ns/default/dapr-sentry"
	appURI    = "spiffe://public/ns/default/a"
)

// fakeSentry is a Sentry that does what the test says.
type fakeSentry struct {
	sentryv1.UnimplementedCAServer
	t  testing.TB
	ca *identitytest.CA

	mu       sync.Mutex
	requests []*sentryv1.SignCertificateRequest
	shown    int // client certificates seen
	// answer replaces the usual answer; attempt counts from 1.
	answer func(attempt int, usual *sentryv1.SignCertificateResponse) (*sentryv1.SignCertificateResponse, error)
	// life is how long certificates are valid, counted from start.
	start time.Time
	life  time.Duration
}

func newSentry(t testing.TB) *fakeSentry {
	return &fakeSentry{t: t, ca: identitytest.NewCA(t), start: time.Now().Add(-time.Minute), life: time.Hour}
}

// serve serves on an address, or a new one when it is empty, with a certificate.
func (f *fakeSentry) serve(address string, uri string) (at string) {
	f.t.Helper()
	if address == "" {
		address = "127.0.0.1:0"
	}
	l, err := net.Listen("tcp", address)
	if err != nil {
		f.t.Fatal(err)
	}
	svid := f.ca.Issue(f.t, uri, func(c *x509.Certificate) { c.NotAfter = time.Now().AddDate(0, 6, 0) }) // clocks of tests run ahead
	certificate := tls.Certificate{PrivateKey: svid.PrivateKey}
	for _, c := range svid.Certificates {
		certificate.Certificate = append(certificate.Certificate, c.Raw)
	}
	// It would take a certificate, to see that none is shown.
	s := grpc.NewServer(grpc.Creds(credentials.NewTLS(&tls.Config{Certificates: []tls.Certificate{certificate}, ClientAuth: tls.RequestClientCert})))
	sentryv1.RegisterCAServer(s, f)
	done := make(chan struct{})
	go func() { defer close(done); _ = s.Serve(l) }()
	f.t.Cleanup(func() { s.Stop(); <-done })
	return l.Addr().String()
}

func (f *fakeSentry) SignCertificate(ctx context.Context, req *sentryv1.SignCertificateRequest) (*sentryv1.SignCertificateResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.requests = append(f.requests, req)
	if p, ok := peer.FromContext(ctx); ok {
		f.shown += len(p.AuthInfo.(credentials.TLSInfo).State.PeerCertificates)
	}
	block, _ := pem.Decode(req.GetCertificateSigningRequest())
	if block == nil || block.Type != "CERTIFICATE REQUEST" {
		return nil, errors.New("no certificate request")
	}
	csr, err := x509.ParseCertificateRequest(block.Bytes)
	if err != nil {
		return nil, err
	}
	if err := csr.CheckSignature(); err != nil {
		return nil, err
	}
	end := f.start.Add(f.life)
	chain := f.ca.Sign(f.t, "spiffe://public/ns/"+req.GetNamespace()+"/"+req.GetId(), csr.PublicKey, func(c *x509.Certificate) {
		c.NotBefore, c.NotAfter = f.start, end
	})
	usual := &sentryv1.SignCertificateResponse{
		WorkloadCertificate: identitytest.PEM(chain...), TrustChainCertificates: [][]byte{identitytest.PEM(f.ca.Root)}, ValidUntil: timestamppb.New(end),
	}
	if f.answer != nil {
		return f.answer(len(f.requests), usual)
	}
	return usual, nil
}

// script changes how the server answers.
func (f *fakeSentry) script(answer func(attempt int, usual *sentryv1.SignCertificateResponse) (*sentryv1.SignCertificateResponse, error)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.answer = answer
}

func (f *fakeSentry) valid(start time.Time, life time.Duration) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.start, f.life = start, life
}

func (f *fakeSentry) count() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.requests)
}

func (f *fakeSentry) last() *sentryv1.SignCertificateRequest {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.requests[len(f.requests)-1]
}

// options are those of an app that has its certificate of f.
func (f *fakeSentry) options(address string) Options {
	return Options{SentryAddress: address, TrustAnchors: identitytest.PEM(f.ca.Root), AppID: "a", Clock: clockwork.NewRealClock()}
}

// run runs a source until the test ends.
func run(t testing.TB, o Options) *Source {
	t.Helper()
	s, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); _ = s.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		select {
		case <-done:
		case <-time.After(10 * time.Second):
			t.Error("Run does not end with its context")
		}
	})
	return s
}

// started is a running source that has its first certificate.
func started(t testing.TB, o Options) *Source {
	t.Helper()
	s := run(t, o)
	if err := s.Wait(within(t)); err != nil {
		t.Fatal(err)
	}
	return s
}

func within(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 15*time.Second)
	t.Cleanup(cancel)
	return ctx
}

func eventually(t testing.TB, what string, f func() bool) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !f(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not in time: %s", what)
		}
	}
}
