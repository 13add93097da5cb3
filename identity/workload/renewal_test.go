package workload

import (
	"crypto/ed25519"
	"crypto/x509"
	"testing"
	"time"

	"github.com/jonboulle/clockwork"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"outrigger.dev/telemetry/metrics/metricstest"
)

// advance moves the clock on, a step whenever the source waits, until f is true.
func advance(t *testing.T, clock *clockwork.FakeClock, step time.Duration, f func() bool) (moved time.Duration) {
	t.Helper()
	for range 2000 {
		if f() {
			return moved
		}
		if err := clock.BlockUntilContext(within(t), 1); err != nil {
			t.Fatal(err)
		}
		if f() {
			return moved
		}
		clock.Advance(step)
		moved += step
	}
	t.Fatal("it never came")
	return 0
}

func TestRenewal(t *testing.T) {
	f := newSentry(t)
	clock := clockwork.NewFakeClockAt(time.Now())
	start := clock.Now()
	f.valid(start.Add(-15*time.Minute), 15*time.Minute+24*time.Hour)
	o := f.options(f.serve("", sentryURI))
	o.Clock, o.Metrics = clock, metricstest.New(t, "a")
	s := started(t, o)
	first, _ := s.SVID()

	down := func(int, *reply) (*reply, error) { return nil, status.Error(codes.Internal, "down") }
	f.script(down)
	f.valid(start.Add(12*time.Hour), 24*time.Hour)
	advance(t, clock, 25*time.Second, func() bool { return clock.Since(start) >= 11*time.Hour+52*time.Minute })
	if f.count() != 1 {
		t.Error("renewed before the middle of the certificate's life")
	}
	advance(t, clock, 5*time.Second, func() bool { return f.count() == 2 })
	if late := clock.Since(start) - (11*time.Hour + 52*time.Minute + 30*time.Second); late < 0 || late > 10*time.Second {
		t.Errorf("renewed %s after the time", late)
	}
	if now, _ := s.SVID(); now != first {
		t.Error("a failed renewal lost the certificate")
	}
	if moved := advance(t, clock, time.Second, func() bool { return f.count() == 3 }); moved > 12*time.Second || moved < 4*time.Second {
		t.Errorf("tried again after %s", moved)
	}
	if moved := advance(t, clock, time.Second, func() bool { return f.count() == 4 }); moved > 12*time.Second || moved < 9*time.Second {
		t.Errorf("tried again after %s", moved)
	}
	f.script(nil)
	advance(t, clock, time.Second, func() bool { now, _ := s.SVID(); return now != first })
	now, _ := s.SVID()
	if now.PrivateKey.(ed25519.PrivateKey).Equal(first.PrivateKey) {
		t.Error("the key is the same")
	}
	eventually(t, "the metric", func() bool {
		return metricstest.Counted(t, o.Metrics, "dapr_runtime_mtls_workload_cert_rotated_total", "app_id")["a"] == 1
	})
}

func TestClockIsLookedAtEachMinute(t *testing.T) {
	f := newSentry(t)
	clock := clockwork.NewFakeClockAt(time.Now())
	f.valid(clock.Now(), 24*time.Hour)
	o := f.options(f.serve("", sentryURI))
	o.Clock = clock
	started(t, o)
	// A timer for twelve hours would wake up twelve hours after the machine does.
	if moved := advance(t, clock, time.Minute, func() bool { return f.count() == 2 }); moved < 12*time.Hour || moved > 12*time.Hour+2*time.Minute {
		t.Errorf("renewed after %s", moved)
	}
}

func TestRenewalTime(t *testing.T) {
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	const day, ago = 24 * time.Hour, -15 * time.Minute
	for _, test := range []struct {
		name          string
		before, after time.Duration // of the leaf, from now
		jwt           time.Duration // its expiry from now, 0 without
		issuer        time.Duration // its end from now, 0 when it outlasts the leaf
		want          time.Duration
	}{
		{"the middle", ago, day, 0, 0, 11*time.Hour + 52*time.Minute + 30*time.Second},
		{"a JWT that ends later", 0, day, 30 * time.Hour, 0, 12 * time.Hour},
		{"a JWT that ends sooner", 0, day, 2 * time.Hour, 0, time.Hour},
		{"the middle has passed", ago, 10 * time.Second, 0, 0, 5 * time.Second},
		{"never at once", ago, 10 * time.Millisecond, 0, 0, minInterval},
		{"expired already", ago, -time.Minute, 0, 0, minInterval},
		{"an issuer that ends sooner", 0, day, 0, 4 * time.Hour, 2 * time.Hour},
		{"an issuer that ends later", 0, day, 0, 25 * time.Hour, 12 * time.Hour},
		{"an issuer that ends now", 0, day, 0, time.Second, time.Minute},
		{"an issuer that has ended", 0, day, 0, -time.Hour, time.Minute},
		{"an issuer that ends soon, of short lives", 0, 2 * time.Second, 0, 600 * time.Millisecond, 300 * time.Millisecond},
	} {
		leaf := &x509.Certificate{NotBefore: now.Add(test.before), NotAfter: now.Add(test.after)}
		h := &held{svid: &x509svid.SVID{Certificates: []*x509.Certificate{leaf}}}
		if test.jwt != 0 {
			h.jwt = &token{expiry: now.Add(test.jwt)}
		}
		end := leaf.NotAfter
		if test.issuer != 0 {
			end = now.Add(test.issuer)
		}
		if got := renewalOf(now, h, end).Sub(now); got != test.want {
			t.Errorf("%s: after %s, want %s", test.name, got, test.want)
		}
	}
}

// TestIssuerEndsSooner renews before the issuer of a certificate expires, though the certificate itself lasts.
func TestIssuerEndsSooner(t *testing.T) {
	f := newSentry(t)
	now := time.Now()
	f.valid(now, 3*365*24*time.Hour) // the issuer of the tests lasts for a year
	s := started(t, f.options(f.serve("", sentryURI)))
	if at := s.held.Load().renewal.Sub(now); at > 184*24*time.Hour || at < 180*24*time.Hour {
		t.Errorf("renewal after %s", at)
	}
}
