package ca

import (
	"crypto/x509"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

func testSettings(t testing.TB) Settings {
	t.Helper()
	s, err := Settings{TrustDomain: "localhost", Namespace: "default", ClockSkew: DefaultClockSkew, SelfRenewing: true}.Normalised()
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func instant(t testing.TB, text string) time.Time {
	t.Helper()
	at, err := time.Parse(time.RFC3339, text)
	if err != nil {
		t.Fatal(err)
	}
	return at
}

func mustMaintain(t testing.TB, s Settings, d Documents, now time.Time, asked Request) *result {
	t.Helper()
	res, err := s.maintain(d, now, asked)
	if err != nil {
		t.Fatalf("at %s: %v", now, err)
	}
	return res
}

// TestLifeOfAnAuthority walks through years, and checks at every step that whoever knew the roots one spread ago can verify what is
// signed now, and that there is never a time at which the authority is not usable.
func TestLifeOfAnAuthority(t *testing.T) {
	t.Parallel()
	day := 24 * time.Hour
	for _, tt := range []struct {
		name                   string
		root, issuer, workload time.Duration
		skew, step, span       time.Duration
		wantRoots, wantIssuers int
	}{
		{"defaults", 0, 0, 0, 15 * time.Minute, 24 * time.Hour, 3 * 365 * day, 4, 4},
		{"short issuers", 0, 90 * day, 0, 15 * time.Minute, 24 * time.Hour, 365 * day, 2, 6},
		{"workloads of a month", 0, 0, 30 * day, 15 * time.Minute, 48 * time.Hour, 3 * 365 * day, 4, 4},
		{"an hour", time.Hour, 20 * time.Minute, time.Minute, 0, 20 * time.Second, 4 * time.Hour, 5, 17},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := testSettings(t)
			s.ClockSkew = tt.skew
			if tt.root > 0 {
				s.RootTTL = tt.root
			}
			if tt.issuer > 0 {
				s.IssuerTTL = tt.issuer
			}
			if tt.workload > 0 {
				s.WorkloadTTL = tt.workload
			}
			start := instant(t, "2026-01-01T00:00:00Z")
			d := Documents{}
			type known struct {
				at      time.Time
				anchors []*x509.Certificate
			}
			var history []known
			roots, issuers := map[string]bool{}, map[string]bool{}
			for now := start; now.Before(start.Add(tt.span)); now = now.Add(tt.step) {
				res := mustMaintain(t, s, d, now, Request{})
				d = res.documents
				if res.origin != Generated {
					t.Fatalf("at %s the authority is %s", now, res.origin)
				}
				history = append(history, known{now, res.bundle.Anchors})
				roots[fingerprint(res.bundle.root())] = true
				issuers[fingerprint(res.bundle.Issuer())] = true
				if len(res.bundle.Anchors) > 2 {
					t.Fatalf("at %s there are %d roots", now, len(res.bundle.Anchors))
				}
				if res.next == nil || !res.next.At.After(now) {
					t.Fatalf("at %s the next step is %v", now, res.next)
				}
				leaf, err := newAuthority(&s, res).Sign(Workload{ID: spiffeid.RequireFromString("spiffe://public/ns/a/b"), PublicKey: res.bundle.IssuerKey.Public()}, now)
				if err != nil {
					t.Fatal(err)
				}
				// Whoever has renewed within the last spread knows enough.
				i := slices.IndexFunc(history, func(k known) bool { return now.Sub(k.at) <= s.spread() })
				old := history[max(i-1, 0)]
				if now.Sub(old.at) > s.spread()+tt.step {
					t.Fatalf("the test's history has a gap at %s", now)
				}
				pool, chain := x509.NewCertPool(), x509.NewCertPool()
				for _, c := range old.anchors {
					pool.AddCert(c)
				}
				for _, c := range res.bundle.Chain {
					chain.AddCert(c)
				}
				// The leaf has to hold until it is renewed.
				for _, at := range []time.Time{now, now.Add(s.WorkloadTTL / 2)} {
					if _, err := leaf.Verify(x509.VerifyOptions{Roots: pool, Intermediates: chain, CurrentTime: at, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}}); err != nil {
						t.Fatalf("signed at %s, verified at %s with the roots of %s: %v", now, at, old.at, err)
					}
				}
			}
			if len(roots) < tt.wantRoots || len(roots) > tt.wantRoots+1 {
				t.Errorf("%d roots have signed, want about %d", len(roots), tt.wantRoots)
			}
			if len(issuers) < tt.wantIssuers-1 || len(issuers) > tt.wantIssuers+2 {
				t.Errorf("%d issuers have signed, want about %d", len(issuers), tt.wantIssuers)
			}
		})
	}
}

func TestRootOverlap(t *testing.T) {
	s := testSettings(t)
	start := instant(t, "2026-01-01T00:00:00Z")
	first := mustMaintain(t, s, Documents{}, start, Request{})
	old := first.bundle.root()

	twoThirds := start.Add(s.RootTTL * 2 / 3)
	if got := mustMaintain(t, s, first.documents, twoThirds.Add(-time.Hour), Request{}); len(got.changes) > 0 {
		t.Fatalf("before two thirds: %q", got.changes)
	}
	announced := mustMaintain(t, s, first.documents, twoThirds.Add(time.Hour), Request{})
	if n := len(announced.bundle.Anchors); n != 2 || !announced.bundle.Anchors[0].Equal(old) || !announced.bundle.root().Equal(old) {
		t.Fatalf("after two thirds there are %d roots, the old one has to sign and be the first", n)
	}
	from := announced.next.At
	if remaining := old.NotAfter.Sub(from); remaining < 59*24*time.Hour || remaining > 62*24*time.Hour {
		t.Errorf("the new root signs %s before the old one ends, want half of the third of a year", remaining)
	}
	if got := mustMaintain(t, s, announced.documents, from.Add(-time.Second), Request{}); len(got.changes) > 0 {
		t.Fatalf("before the overlap is over: %q", got.changes)
	}
	switched := mustMaintain(t, s, announced.documents, from, Request{})
	if switched.bundle.root().Equal(old) || !switched.bundle.Anchors[0].Equal(switched.bundle.root()) || !switched.bundle.Anchors[1].Equal(old) {
		t.Fatal("after the overlap the new root signs and is the first, the old one is the second")
	}
	if strings.Count(string(switched.documents.Record), "PRIVATE KEY-----\\n\"") != 1 {
		t.Errorf("the key of the old root is kept:\n%s", switched.documents.Record)
	}
	if got := mustMaintain(t, s, switched.documents, old.NotAfter.Add(2*time.Second), Request{}); len(got.bundle.Anchors) != 1 {
		t.Errorf("after the end of the old root there are %d roots", len(got.bundle.Anchors))
	}
}

func TestSleepPastTheEnd(t *testing.T) {
	s := testSettings(t)
	start := instant(t, "2026-01-01T00:00:00Z")
	first := mustMaintain(t, s, Documents{}, start, Request{})
	late := start.Add(2 * s.RootTTL)
	got := mustMaintain(t, s, first.documents, late, Request{})
	if len(got.bundle.Anchors) != 1 || got.bundle.CheckTime(late) != nil || got.bundle.root().Equal(first.bundle.root()) {
		t.Errorf("an authority that has expired is not replaced: %q", got.changes)
	}
	// While an announced root waits.
	announced := mustMaintain(t, s, first.documents, start.Add(s.RootTTL*3/4), Request{})
	got = mustMaintain(t, s, announced.documents, start.Add(s.RootTTL+time.Hour), Request{})
	if !got.bundle.root().Equal(announced.bundle.Anchors[1]) {
		t.Error("the announced root does not take over when the old one has expired")
	}
	s.SelfRenewing = false
	if _, err := s.maintain(first.documents, late, Request{}); err == nil || !strings.Contains(err.Error(), "expired on 2027-01-01") {
		t.Errorf("an expired authority that does not renew itself: %v", err)
	}
}

// asDapr is what a Dapr Sentry would have left: no record.
func asDapr(d Documents) Documents {
	d.Record = nil
	return d
}

func TestOrigins(t *testing.T) {
	s := testSettings(t)
	now := instant(t, "2026-01-01T00:00:00Z")
	own := mustMaintain(t, s, Documents{}, now, Request{}).documents
	other := mustMaintain(t, s, Documents{}, now, Request{}).documents
	elsewhere := s
	elsewhere.TrustDomain = "example.org"
	foreign := mustMaintain(t, elsewhere, Documents{}, now, Request{}).documents
	replaced := other
	replaced.Record = own.Record
	added := own
	added.Anchors = append(slices.Clone(own.Anchors), foreign.Anchors...)
	for _, tt := range []struct {
		name string
		d    Documents
		want Origin
	}{
		{"generated", own, Generated},
		{"by Dapr", asDapr(own), GeneratedByDapr},
		{"provided", asDapr(foreign), Provided},
		{"replaced by an operator", replaced, Provided},
		{"another root added by an operator", added, Generated},
	} {
		t.Run(tt.name, func(t *testing.T) {
			late := now.Add(s.RootTTL * 3 / 4)
			res := mustMaintain(t, s, tt.d, now, Request{})
			if res.origin != tt.want {
				t.Errorf("origin %s, want %s", res.origin, tt.want)
			}
			renewed := mustMaintain(t, s, tt.d, late, Request{})
			if (len(renewed.changes) > 0) != (tt.want != Provided) {
				t.Errorf("changes late in life: %q", renewed.changes)
			}
			if tt.want == Provided && !renewed.documents.Equal(&tt.d) {
				t.Error("what was provided was changed")
			}
		})
	}
	t.Run("what an operator added stays for ever", func(t *testing.T) {
		d := added
		for now := now; now.Before(instant(t, "2029-01-01T00:00:00Z")); now = now.Add(96 * time.Hour) {
			d = mustMaintain(t, s, d, now, Request{}).documents
		}
		if !strings.Contains(string(d.Anchors), strings.TrimSpace(string(foreign.Anchors))) {
			t.Error("the root of the operator is gone")
		}
	})
	t.Run("an authority of Dapr gets a new root, and then is ours", func(t *testing.T) {
		announced := mustMaintain(t, s, asDapr(own), now.Add(s.RootTTL*3/4), Request{})
		if announced.origin != GeneratedByDapr || len(announced.bundle.Anchors) != 2 {
			t.Fatalf("%s with %d roots", announced.origin, len(announced.bundle.Anchors))
		}
		switched := mustMaintain(t, s, announced.documents, announced.next.At, Request{})
		if switched.origin != Generated || len(switched.changes) == 0 {
			t.Errorf("%s after %q", switched.origin, switched.changes)
		}
	})
	t.Run("a record that cannot be read", func(t *testing.T) {
		d := own
		d.Record = []byte("{")
		if _, err := s.maintain(d, now, Request{}); err == nil || !strings.Contains(err.Error(), RecordName) {
			t.Errorf("error %v", err)
		}
	})
}

func TestGeneratedCertificates(t *testing.T) {
	s := testSettings(t)
	now := instant(t, "2026-01-01T00:00:00Z")
	b := mustMaintain(t, s, Documents{}, now, Request{}).bundle
	root, issuer := b.root(), b.Issuer()
	if got := root.Subject.String(); got != "O=localhost" {
		t.Errorf("the root's subject is %s", got)
	}
	if got := issuer.Subject.Organization[0]; got != "spiffe://localhost/ns/default/dapr-sentry" {
		t.Errorf("the issuer's subject is %s", got)
	}
	for _, c := range []*x509.Certificate{root, issuer} {
		if !c.IsCA || c.PublicKeyAlgorithm != x509.Ed25519 || !c.NotBefore.Equal(now.Add(-15*time.Minute)) || !c.NotAfter.Equal(now.Add(365*24*time.Hour)) {
			t.Errorf("%s: authority %t, %s, from %s to %s", c.Subject, c.IsCA, c.PublicKeyAlgorithm, c.NotBefore, c.NotAfter)
		}
	}
	if root.KeyUsage != x509.KeyUsageDigitalSignature|x509.KeyUsageCertSign || issuer.KeyUsage != root.KeyUsage|x509.KeyUsageCRLSign {
		t.Errorf("key usages are %b and %b", root.KeyUsage, issuer.KeyUsage)
	}
}
