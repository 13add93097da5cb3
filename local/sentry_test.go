package local

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"outrigger.dev/controlplane/sentry/ca"
	"outrigger.dev/identity/workload"
	"outrigger.dev/resource"
)

// settings are those of a Sentry whose credentials are beside the directory of the process.
func settings(t *testing.T, dir string, mtls resource.MTLS) SentrySettings {
	t.Helper()
	s, err := NewSentrySettings(filepath.Join(filepath.Dir(dir), "certs"), &mtls)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func ensureSentry(t *testing.T, l Launch, s SentrySettings) *Process {
	t.Helper()
	p, _, err := EnsureSentry(t.Context(), l, s)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// identity is the SPIFFE ID that what listens on the port proves by the trust anchors.
func identityFrom(t *testing.T, p *Process) string {
	t.Helper()
	conn, err := tls.DialWithDialer(&net.Dialer{Timeout: 10 * time.Second}, "tcp", p.Sentry.Address(), &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"h2"}}) // verified below, by the root
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	anchors, err := os.ReadFile(p.Sentry.Request.Anchors())
	if err != nil {
		t.Fatal(err)
	}
	roots, between := x509.NewCertPool(), x509.NewCertPool()
	roots.AppendCertsFromPEM(anchors)
	chain := conn.ConnectionState().PeerCertificates
	for _, c := range chain[1:] {
		between.AddCert(c)
	}
	if _, err := chain[0].Verify(x509.VerifyOptions{Roots: roots, Intermediates: between}); err != nil {
		t.Fatal(err)
	}
	return chain[0].URIs[0].String()
}

func TestSentry(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "local")
	l := launch(t, dir, 0)
	// The broker is there first, and goes on.
	first := ensure(t, l)
	if first.Sentry != nil || sentryOf(t, dir) != nil {
		t.Fatalf("Sentry runs though nobody wants it: %+v", first)
	}
	s := settings(t, dir, resource.MTLS{})
	p := ensureSentry(t, l, s)
	if p.PID != first.PID || p.Port != first.Port || p.Sentry.Port == p.Port || !p.Sentry.Ready {
		t.Errorf("first %+v, with Sentry %+v", first, p)
	}
	const own = "spiffe://localhost/ns/default/dapr-sentry"
	if got := identityFrom(t, p); got != own {
		t.Errorf("Sentry is %s, want %s", got, own)
	}
	// Asked again for the same it goes on; for something else there is another on the same port, with the same roots.
	if again := ensureSentry(t, l, s); again.Sentry.Port != p.Sentry.Port || again.Sentry.Request.At == p.Sentry.Request.At {
		t.Errorf("asked again %+v, before %+v", again.Sentry, p.Sentry)
	}
	anchors, err := os.ReadFile(s.Anchors())
	if err != nil {
		t.Fatal(err)
	}
	changed := ensureSentry(t, l, settings(t, dir, resource.MTLS{WorkloadCertTTL: "1h", AllowedClockSkew: "0s"}))
	if changed.Sentry.Port != p.Sentry.Port || changed.Sentry.Request.WorkloadTTL != time.Hour || changed.Sentry.Request.ClockSkew != 0 || changed.PID != p.PID {
		t.Errorf("with other settings %+v", changed.Sentry)
	}
	if now, err := os.ReadFile(s.Anchors()); err != nil || string(now) != string(anchors) {
		t.Errorf("with other settings there are other roots: %v", err)
	}
	if got := identityFrom(t, changed); got != own {
		t.Errorf("Sentry is %s, want %s", got, own)
	}
	// A process that was killed comes back with Sentry, without anybody asking for it.
	if err := kill(p.PID); err != nil {
		t.Fatal(err)
	}
	awaitGone(t, dir, p.PID)
	ensure(t, l)
	awaitState(t, dir, "Sentry is back", func(s *Sentry) bool { return s != nil && s.Ready })
	back := sentryOf(t, dir)
	if back.Port != p.Sentry.Port || back.Request.WorkloadTTL != time.Hour {
		t.Errorf("back it is %+v", back)
	}
}

// sentryOf is what the process tells of Sentry.
func sentryOf(t *testing.T, dir string) *Sentry {
	t.Helper()
	p, err := Find(dir)
	if err != nil || p == nil {
		t.Fatalf("process %+v, error %v", p, err)
	}
	return p.Sentry
}

func awaitGone(t *testing.T, dir string, pid int) {
	t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	for {
		p, err := Find(dir)
		if err != nil {
			t.Fatal(err)
		}
		if p == nil || p.PID != pid {
			return
		}
		if time.Now().After(deadline) {
			t.Fatal("the process does not end")
		}
		time.Sleep(5 * time.Millisecond)
	}
}

func awaitState(t *testing.T, dir, what string, holds func(*Sentry) bool) {
	t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	for !holds(sentryOf(t, dir)) {
		if time.Now().After(deadline) {
			t.Fatalf("it did not come true that %s: %+v", what, sentryOf(t, dir))
		}
		time.Sleep(5 * time.Millisecond)
	}
}

func TestManyWantSentry(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "local")
	l := launch(t, dir, 0)
	const callers = 6
	var found [callers]*Process
	var failures [callers]error
	var all sync.WaitGroup
	for i := range callers {
		ttl := []string{"1h", "2h"}[i%2]
		s := settings(t, dir, resource.MTLS{WorkloadCertTTL: ttl})
		all.Go(func() { found[i], _, failures[i] = EnsureSentry(t.Context(), l, s) })
	}
	all.Wait()
	for i := range callers {
		if failures[i] != nil {
			t.Fatal(failures[i])
		}
		if found[i].PID != found[0].PID || found[i].Sentry.Port != found[0].Sentry.Port {
			t.Errorf("caller %d found %+v, caller 0 %+v", i, found[i].Sentry, found[0].Sentry)
		}
	}
}

func TestSentryThatFails(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "local")
	l := launch(t, dir, 0)
	s := settings(t, dir, resource.MTLS{})
	if err := os.MkdirAll(s.Credentials, 0o700); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{ca.AnchorsName, ca.IssuerName, ca.IssuerKeyName} {
		if err := os.WriteFile(filepath.Join(s.Credentials, name), []byte("nothing"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	fails := func(s SentrySettings, want string) {
		t.Helper()
		if _, _, err := EnsureSentry(t.Context(), l, s); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v, want %q", err, want)
		}
	}
	fails(s, "the trust anchors (ca.crt) are not usable")
	fails(settings(t, dir, resource.MTLS{TokenValidators: []resource.TokenValidator{{Name: "insecure"}}}), "cannot be configured manually")
	// The broker has nothing to do with it.
	p := ensure(t, l)
	if _, err := Used(t.Context(), p); err != nil {
		t.Error(err)
	}
	// Once the files are gone it works, in the same process.
	if err := os.RemoveAll(s.Credentials); err != nil {
		t.Fatal(err)
	}
	if after := ensureSentry(t, l, s); after.PID != p.PID || after.Sentry.Error != "" {
		t.Errorf("after the repair %+v, before %+v", after, p)
	}
}

// With a token validator nobody gets a certificate by saying who they are.
func TestSentryWithTokenValidator(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "local")
	var mtls resource.MTLS
	const keys = `{"keys":[{"kty":"OKP","crv":"Ed25519","kid":"a","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}]}`
	if err := json.Unmarshal([]byte(`{"tokenValidators":[{"name":"jwks","options":{"source":`+strconv.Quote(keys)+`}}]}`), &mtls); err != nil {
		t.Fatal(err)
	}
	p := ensureSentry(t, launch(t, dir, 0), settings(t, dir, mtls))
	anchors, err := os.ReadFile(p.Sentry.Request.Anchors())
	if err != nil {
		t.Fatal(err)
	}
	source, err := workload.New(workload.Options{SentryAddress: p.Sentry.Address(), AppID: "anybody", TrustAnchors: anchors})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if err := source.Run(ctx); err == nil || !strings.Contains(err.Error(), "a validator name must be specified") {
		t.Errorf("without a token: %v", err)
	}
}

// A port that somebody else has taken since is given up.
func TestSentryPortTaken(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "local")
	l := launch(t, dir, 0)
	port, err := reserveOther(dir, 0, func(p *ports) *int { return &p.Sentry })
	if err != nil {
		t.Fatal(err)
	}
	if again, err := reserveOther(dir, 0, func(p *ports) *int { return &p.Sentry }); err != nil || again != port {
		t.Errorf("port %d, then %d, error %v", port, again, err)
	}
	taken, err := net.Listen("tcp", loopback(port))
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	p := ensureSentry(t, l, settings(t, dir, resource.MTLS{}))
	if p.Sentry.Port == port || p.Sentry.Port == p.Port {
		t.Errorf("Sentry is on port %d, NATS on %d, %d is taken", p.Sentry.Port, p.Port, port)
	}
	if remembered, err := rememberedPorts(dir); err != nil || remembered.Sentry != p.Sentry.Port || remembered.NATS != p.Port {
		t.Errorf("remembered %+v, error %v", remembered, err)
	}
}

func TestNewSentrySettings(t *testing.T) {
	t.Parallel()
	s, err := NewSentrySettings("d", &resource.MTLS{})
	if err != nil || s.WorkloadTTL != 24*time.Hour || s.ClockSkew != 15*time.Minute || s.Anchors() != filepath.Join("d", "ca.crt") {
		t.Errorf("settings %+v, error %v", s, err)
	}
	for _, tt := range []struct {
		mtls resource.MTLS
		want string
	}{
		{resource.MTLS{WorkloadCertTTL: "0s"}, `invalid spec.mtls.workloadCertTTL: "0s"`},
		{resource.MTLS{WorkloadCertTTL: "1d"}, `invalid spec.mtls.workloadCertTTL: "1d"`},
		{resource.MTLS{AllowedClockSkew: "-1s"}, `invalid spec.mtls.allowedClockSkew: "-1s"`},
	} {
		if _, err := NewSentrySettings("d", &tt.mtls); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("error %v, want %q", err, tt.want)
		}
	}
}
