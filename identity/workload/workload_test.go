package workload

import (
	"context"
	"crypto/ed25519"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/jonboulle/clockwork"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/timestamppb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	sentryv1 "outrigger.dev/api/gen/sentry/v1"
	"outrigger.dev/identity"
	"outrigger.dev/identity/identitytest"
	"outrigger.dev/telemetry/metrics/metricstest"
)

type (
	reply  = sentryv1.SignCertificateResponse
	answer = func(attempt int, usual *reply) (*reply, error)
)

func TestFirstCertificate(t *testing.T) {
	f := newSentry(t)
	o := f.options(f.serve("", sentryURI))
	o.JWTAudiences = []string{"x", "y"}
	o.Metrics = metricstest.New(t, "a")
	s, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.SVID(); err == nil || !strings.Contains(err.Error(), o.SentryAddress) {
		t.Errorf("before the first certificate: %v", err)
	}
	s = started(t, o)
	svid, err := s.SVID()
	if err != nil || svid.ID.String() != appURI || len(svid.Certificates) != 2 {
		t.Fatalf("%+v, %v", svid, err)
	}
	if _, ok := svid.PrivateKey.(ed25519.PrivateKey); !ok {
		t.Errorf("a key of type %T", svid.PrivateKey)
	}
	if _, _, err := identity.NewTLS(s, nil).Verify(svid.Certificates); err != nil {
		t.Error(err)
	}
	req := f.last()
	if req.Id != "a" || req.Namespace != "default" || req.Token != "" || req.TokenValidator != sentryv1.SignCertificateRequest_UNKNOWN || req.TrustDomain != "" ||
		strings.Join(req.JwtAudiences, ",") != "x,y" {
		t.Errorf("asked for %v", req)
	}
	block, _ := pem.Decode(req.CertificateSigningRequest)
	csr, err := x509.ParseCertificateRequest(block.Bytes)
	if err != nil || len(csr.URIs)+len(csr.DNSNames)+len(csr.Extensions) != 0 || csr.Subject.String() != "" {
		t.Errorf("request %+v, %v", csr, err)
	}
	if f.shown != 0 {
		t.Error("a client certificate was shown to Sentry")
	}
	if got := metricstest.Counted(t, o.Metrics, "dapr_runtime_mtls_init_total", "app_id"); got["a"] != 1 {
		t.Errorf("counted %v", got)
	}
}

func TestLocalIdentityAndKeyTypes(t *testing.T) {
	f := newSentry(t)
	o := f.options(f.serve("", sentryURI))
	for _, kind := range []KeyType{RSA2048, ECDSAP256} {
		o.LocalIdentity, o.TrustDomain, o.KeyType = "legacy", "td", kind
		svid, err := started(t, o).SVID()
		if err != nil || !strings.Contains(fmt.Sprintf("%T", svid.PrivateKey), strings.ToLower(string(kind)[:3])) {
			t.Errorf("%s: %T, %v", kind, svid.PrivateKey, err)
		}
		if req := f.last(); req.Id != "legacy" || req.TrustDomain != "td" {
			t.Errorf("asked for %v", req)
		}
	}
}

func TestToken(t *testing.T) {
	type validator = sentryv1.SignCertificateRequest_TokenValidator
	for _, test := range []struct {
		name       string
		file       string
		kubernetes bool
		files      map[string]string
		token      string
		validator  validator
		err        string
	}{
		{"none", "", false, nil, "", sentryv1.SignCertificateRequest_UNKNOWN, ""},
		{"file", "/t", false, map[string]string{"/t": "tok\n"}, "tok", sentryv1.SignCertificateRequest_JWKS, ""},
		{"file in Kubernetes", "/t", true, map[string]string{"/t": "tok", kubernetesToken: "no"}, "tok", sentryv1.SignCertificateRequest_KUBERNETES, ""},
		{"file missing", "/t", false, nil, "", 0, "/t"},
		{"file empty", "/t", false, map[string]string{"/t": " \n"}, "", 0, "/t is empty"},
		{"Kubernetes", "", true, map[string]string{kubernetesToken: "new", kubernetesLegacyToken: "old"}, "new", sentryv1.SignCertificateRequest_KUBERNETES, ""},
		{"Kubernetes, legacy", "", true, map[string]string{kubernetesLegacyToken: "old"}, "old", sentryv1.SignCertificateRequest_KUBERNETES, ""},
		{"Kubernetes, empty", "", true, map[string]string{kubernetesToken: "", kubernetesLegacyToken: "old"}, "", 0, kubernetesToken + " is empty"},
		{"Kubernetes, none", "", true, nil, "", sentryv1.SignCertificateRequest_UNKNOWN, ""},
		{"not Kubernetes", "", false, map[string]string{kubernetesToken: "new"}, "", sentryv1.SignCertificateRequest_UNKNOWN, ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			o := newSentry(t).options("127.0.0.1:1")
			o.TokenFile, o.Kubernetes = test.file, test.kubernetes
			o.ReadFile = func(name string) ([]byte, error) {
				if text, ok := test.files[name]; ok {
					return []byte(text), nil
				}
				return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrNotExist}
			}
			s, err := New(o)
			if err != nil {
				t.Fatal(err)
			}
			token, v, err := s.token()
			if test.err != "" {
				if err == nil || !strings.Contains(err.Error(), test.err) {
					t.Errorf("got %v", err)
				}
				// It is fatal: waiting does not help.
				if err := s.Run(within(t)); err == nil || !strings.Contains(err.Error(), test.err) {
					t.Errorf("Run: %v", err)
				}
				return
			}
			if err != nil || token != test.token || v != test.validator {
				t.Errorf("%q, %v, %v", token, v, err)
			}
		})
	}
}

// jwt is a token with claims and no true signature.
func jwt(claims map[string]any) string {
	part := func(v any) string {
		text, _ := json.Marshal(v)
		return base64.RawURLEncoding.EncodeToString(text)
	}
	return part(map[string]string{"alg": "RS256", "kid": "k"}) + "." + part(claims) + ".c2ln"
}

func TestBadAnswers(t *testing.T) {
	hour := time.Now().Add(time.Hour).Unix()
	for _, test := range []struct {
		name   string
		answer answer
		reason string
		want   []string
	}{
		{"refused", func(int, *reply) (*reply, error) {
			return nil, status.Error(codes.PermissionDenied, "app-id mismatch. expected: x, received: a")
		}, "sign", []string{"PermissionDenied", "app-id mismatch", `app "a"`, "check the app ID"}},
		{"always busy", func(int, *reply) (*reply, error) { return nil, status.Error(codes.ResourceExhausted, "later") }, "sign", []string{"ResourceExhausted"}},
		{"no time", func(_ int, r *reply) (*reply, error) { r.ValidUntil = nil; return r, nil }, "invalid_ts", []string{"valid"}},
		{"impossible time", func(_ int, r *reply) (*reply, error) {
			r.ValidUntil = &timestamppb.Timestamp{Nanos: -1}
			return r, nil
		}, "invalid_ts", []string{"valid"}},
		{"no certificate", func(_ int, r *reply) (*reply, error) { r.WorkloadCertificate = nil; return r, nil }, "sign", []string{"PEM"}},
		{"no PEM", func(_ int, r *reply) (*reply, error) { r.WorkloadCertificate = []byte("x"); return r, nil }, "sign", []string{"PEM"}},
		{"another PEM", func(_ int, r *reply) (*reply, error) {
			r.WorkloadCertificate = pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: []byte("x")})
			return r, nil
		}, "sign", []string{"PRIVATE KEY"}},
		{"no ID", func(_ int, r *reply) (*reply, error) {
			r.WorkloadCertificate = r.TrustChainCertificates[0]
			return r, nil
		}, "sign", []string{"SPIFFE ID"}},
		{"bad JWT", func(_ int, r *reply) (*reply, error) { r.Jwt = wrapperspb.String("x.y"); return r, nil }, "jwt_parse", []string{"three parts"}},
		{"expired JWT", func(_ int, r *reply) (*reply, error) {
			r.Jwt = wrapperspb.String(jwt(map[string]any{"aud": "public", "exp": time.Now().Add(-6 * time.Minute).Unix()}))
			return r, nil
		}, "jwt_parse", []string{"expired"}},
		{"JWT without audience", func(_ int, r *reply) (*reply, error) {
			r.Jwt = wrapperspb.String(jwt(map[string]any{"exp": hour}))
			return r, nil
		}, "jwt_aud", []string{"no audience"}},
		{"JWT for another audience", func(_ int, r *reply) (*reply, error) {
			r.PerAudienceJwts = map[string]*wrapperspb.StringValue{"x": wrapperspb.String(jwt(map[string]any{"aud": []string{"x", "y"}, "exp": hour}))}
			return r, nil
		}, "jwt_aud", []string{`audience "x"`}},
		{"bad JWT for an audience", func(_ int, r *reply) (*reply, error) {
			r.PerAudienceJwts = map[string]*wrapperspb.StringValue{"x": wrapperspb.String("")}
			return r, nil
		}, "jwt_parse", []string{`audience "x"`}},
	} {
		t.Run(test.name, func(t *testing.T) {
			f := newSentry(t)
			f.script(test.answer)
			o := f.options(f.serve("", sentryURI))
			o.Metrics = metricstest.New(t, "a")
			s, err := New(o)
			if err != nil {
				t.Fatal(err)
			}
			err = s.Run(within(t))
			if err == nil || !strings.Contains(err.Error(), o.SentryAddress) {
				t.Fatalf("got %v", err)
			}
			for _, want := range test.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("got %v, want %q in it", err, want)
				}
			}
			if werr := s.Wait(within(t)); !errors.Is(werr, err) {
				t.Errorf("Wait: %v", werr)
			}
			if got := metricstest.Counted(t, o.Metrics, "dapr_runtime_mtls_workload_cert_rotated_fail_total", "reason"); got[test.reason] != 1 || len(got) != 1 {
				t.Errorf("counted %v", got)
			}
			if got := metricstest.Counted(t, o.Metrics, "dapr_runtime_mtls_init_fail_total", "app_id"); got["a"] != 1 {
				t.Errorf("counted %v", got)
			}
		})
	}
}

func TestKeyOfAnother(t *testing.T) {
	f := newSentry(t)
	f.script(func(_ int, r *reply) (*reply, error) {
		r.WorkloadCertificate = identitytest.PEM(f.ca.Issue(t, appURI, nil).Certificates...)
		return r, nil
	})
	s, err := New(f.options(f.serve("", sentryURI)))
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Run(within(t)); err == nil || !strings.Contains(err.Error(), "another key") {
		t.Errorf("got %v", err)
	}
}

func TestCallIsRepeated(t *testing.T) {
	f := newSentry(t)
	f.script(func(attempt int, r *reply) (*reply, error) {
		switch attempt {
		case 1, 2:
			return nil, status.Error(codes.Unavailable, "starting")
		case 3, 4:
			return nil, status.Error(codes.ResourceExhausted, "busy")
		}
		return r, nil
	})
	started(t, f.options(f.serve("", sentryURI)))
	if n := f.count(); n != 5 {
		t.Errorf("%d requests", n)
	}
}

// TestHangingSentry gets its answer at the second attempt, after the bound of the first.
func TestHangingSentry(t *testing.T) {
	t.Parallel()
	f := newSentry(t)
	f.script(func(attempt int, r *reply) (*reply, error) {
		if attempt == 1 {
			time.Sleep(callTimeout + 100*time.Millisecond) // longer than the bound
		}
		return r, nil
	})
	began := time.Now()
	started(t, f.options(f.serve("", sentryURI)))
	if took := time.Since(began); f.count() != 2 || took < callTimeout {
		t.Errorf("%d requests in %s", f.count(), took)
	}
}

func TestUntrustedSentry(t *testing.T) {
	f, other := newSentry(t), newSentry(t)
	for _, test := range []struct {
		name string
		o    Options
		want []string
	}{
		{"foreign root", func() Options { o := f.options(other.serve("", sentryURI)); return o }(), []string{"not trusted", "unknown authority", EnvTrustAnchors}},
		{"other app", f.options(f.serve("", appURI)), []string{"is not Sentry", `unexpected SPIFFE ID: "` + appURI + `"`, "--control-plane-trust-domain"}},
		{"other trust domain", f.options(f.serve("", "spiffe://public/ns/default/dapr-sentry")), []string{"is not Sentry"}},
		{"further segments", f.options(f.serve("", sentryURI+"/x")), []string{"is not Sentry"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			s, err := New(test.o)
			if err != nil {
				t.Fatal(err)
			}
			err = s.Run(within(t))
			if err == nil {
				t.Fatal("accepted")
			}
			for _, want := range append(test.want, test.o.SentryAddress) {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("got %v, want %q in it", err, want)
				}
			}
		})
	}
	if f.count()+other.count() != 0 {
		t.Error("the request was sent nevertheless")
	}
}

func TestSentryComesLater(t *testing.T) {
	f := newSentry(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := l.Addr().String()
	_ = l.Close()
	clock := clockwork.NewFakeClock()
	clock.Advance(time.Until(clock.Now())) // the certificates are of today
	o := f.options(address)
	o.Clock = clock
	s := run(t, o)
	ctx, cancel := context.WithCancelCause(context.Background())
	cancel(errors.New("the start took too long"))
	if err := s.Wait(ctx); err == nil || !strings.Contains(err.Error(), address) || !strings.Contains(err.Error(), "took too long") {
		t.Errorf("Wait: %v", err)
	}
	for range 2 {
		if err := clock.BlockUntilContext(within(t), 1); err != nil {
			t.Fatal(err)
		}
		clock.Advance(time.Second)
	}
	if err := s.Wait(ctx); err == nil || !strings.Contains(err.Error(), "cannot be reached") || !strings.Contains(err.Error(), "took too long") {
		t.Errorf("Wait: %v", err)
	}
	f.serve(address, sentryURI)
	eventually(t, "the certificate", func() bool {
		clock.Advance(time.Second)
		_, err := s.SVID()
		return err == nil
	})
}

func TestUnreachable(t *testing.T) {
	o := newSentry(t).options("127.0.0.1:1")
	o.Dial = func(context.Context, string) (net.Conn, error) { return nil, errors.New("connection refused") }
	s, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	err = s.Run(ctx)
	if err == nil || !strings.Contains(err.Error(), "Sentry at 127.0.0.1:1 cannot be reached: connection refused; check") {
		t.Errorf("got %v", err)
	}
	if again := s.Run(ctx); again == nil || !strings.Contains(again.Error(), "already") {
		t.Errorf("a second Run: %v", again)
	}
}

func TestJWT(t *testing.T) {
	f := newSentry(t)
	o := f.options(f.serve("", sentryURI))
	s := started(t, o)
	if _, err := s.JWT(t.Context(), "public"); err == nil || !strings.Contains(err.Error(), "--jwt-enabled") {
		t.Errorf("without JWTs: %v", err)
	}
	exp := time.Now().Add(time.Hour).Unix()
	all, x := jwt(map[string]any{"aud": []string{"public", "x", "y"}, "exp": exp}), jwt(map[string]any{"aud": "x", "exp": exp})
	f.script(func(_ int, r *reply) (*reply, error) {
		r.Jwt = wrapperspb.String(all)
		r.PerAudienceJwts = map[string]*wrapperspb.StringValue{"x": wrapperspb.String(x)}
		return r, nil
	})
	s = started(t, o)
	for audience, want := range map[string]string{"x": x, "y": all, "public": all} {
		if got, err := s.JWT(t.Context(), audience); got != want || err != nil {
			t.Errorf("%s: %q, %v", audience, got, err)
		}
	}
	if _, err := s.JWT(t.Context(), "z"); err == nil || !strings.HasPrefix(err.Error(), "JWT SVID has different audiences than requested: ") {
		t.Errorf("another audience: %v", err)
	}
}

func FuzzParseToken(f *testing.F) {
	f.Add(jwt(map[string]any{"aud": []string{"a"}, "exp": 1e18, "nbf": -5, "iat": 0}))
	f.Add(jwt(map[string]any{"aud": 5}))
	f.Add("a.b.c")
	now := time.Now()
	f.Fuzz(func(t *testing.T, text string) {
		if parsed, err := parseToken(text, now); err == nil && (parsed.text != text || !parsed.expiry.IsZero() && now.After(parsed.expiry.Add(clockSkew))) {
			t.Errorf("%q became %+v", text, parsed)
		}
	})
}
