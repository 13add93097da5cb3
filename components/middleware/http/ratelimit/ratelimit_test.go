package ratelimit

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/jonboulle/clockwork"

	"outrigger.dev/components/middleware"
	"outrigger.dev/components/middleware/middlewaretest"
)

var opener = middlewaretest.Opener{Register: Register, Name: "http.ratelimit"}

func TestLimit(t *testing.T) {
	clock := clockwork.NewFakeClock()
	o := opener
	o.Clock = clock
	mw := o.Open(t, map[string]string{"maxRequestsPerSecond": "2.5"})
	send := func(target string, header ...string) middlewaretest.Result {
		return middlewaretest.Do(t, mw, middlewaretest.Request("GET", target, header...))
	}
	first := send("/a")
	if first.Status != 200 || first.Text != "ok" {
		t.Fatal(first.Status, first.Text)
	}
	for name, want := range map[string]string{
		"X-Rate-Limit-Limit": "2.50", "X-Rate-Limit-Duration": "1", "X-Rate-Limit-Request-Remote-Addr": "192.0.2.1:1234",
		"RateLimit-Limit": "3", "RateLimit-Reset": "1", "RateLimit-Remaining": "1",
	} {
		if got := first.Values(name); len(got) != 1 || got[0] != want {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
	if got := first.Values("X-Rate-Limit-Request-Forwarded-For"); got != nil {
		t.Error("forwarded for", got)
	}
	if r := send("/a"); r.Status != 200 {
		t.Fatal(r.Status)
	}
	over := send("/a")
	over.Refused(t, 429, "You have reached maximum request limit.")
	if over.Values("RateLimit-Remaining")[0] != "0" || over.Values("X-Rate-Limit-Limit")[0] != "2.50" {
		t.Error(over.Header)
	}
	// Other spellings of the path are the same path, other paths and clients are not.
	send("//x/../%61/").Refused(t, 429, "You have reached maximum request limit.")
	if r := send("/b"); r.Status != 200 {
		t.Error("another path is refused")
	}
	forwarded := send("/a", "X-Forwarded-For: 192.0.2.1, 198.51.100.7")
	if forwarded.Status != 200 || forwarded.Values("X-Rate-Limit-Request-Forwarded-For")[0] != "192.0.2.1, 198.51.100.7" {
		t.Error("another client is refused", forwarded.Header)
	}
	clock.Advance(400 * time.Millisecond)
	if r := send("/a"); r.Status != 200 {
		t.Error("a token should be there after 0.4 s")
	}
	send("/a").Refused(t, 429, "You have reached maximum request limit.")
}

func TestSlowLimit(t *testing.T) {
	clock := clockwork.NewFakeClock()
	o := opener
	o.Clock = clock
	mw := o.Open(t, map[string]string{"maxRequestsPerSecond": "0.1"})
	ok := func() bool {
		return middlewaretest.Do(t, mw, middlewaretest.Request("GET", "/")).Status == 200
	}
	if !ok() || ok() {
		t.Error("the burst of a slow limit is one")
	}
	for range 9 {
		if clock.Advance(time.Second); ok() {
			t.Error("too early")
		}
	}
	if clock.Advance(1100 * time.Millisecond); !ok() {
		t.Error("refused after 10 s")
	}
}

func TestClientIP(t *testing.T) {
	for _, c := range []struct{ forwarded, real, remote, want string }{
		{"203.0.113.5", "", "192.0.2.1:5", "203.0.113.5"},
		{"203.0.113.5, 203.0.113.6", "198.51.100.1", "192.0.2.1:5", "203.0.113.6"},
		{"203.0.113.5:99", "", "", "203.0.113.5"},
		{"unknown", "198.51.100.1", "192.0.2.1:5", "198.51.100.1"},
		{"", "", "192.0.2.1:5", "192.0.2.1"},
		{"", "", "[2001:db8:1:2:3:4:5:6]:80", "2001:db8:1:2::"},
		{"2001:db8:1:2:ffff::1", "", "", "2001:db8:1:2::"},
		{"::ffff:192.0.2.9", "", "", "192.0.2.9"},
		{"", "", "fe80::1%eth0", "fe80::"},
		{"", "", "", "0.0.0.0"},
		{"", "", "@", "0.0.0.0"},
	} {
		if got := clientIP(c.forwarded, c.real, c.remote); got != netip.MustParseAddr(c.want) {
			t.Errorf("%+v: %s", c, got)
		}
	}
}

func TestBucketsAreForgotten(t *testing.T) {
	now := time.Unix(0, 0)
	b := newBuckets(10, now)
	for key := range uint64(5 * maxBuckets) {
		b.take(key, now)
	}
	if n := len(b.young) + len(b.old); n > 2*maxBuckets {
		t.Errorf("%d buckets", n)
	}
	// What is idle goes, and what is not stays as it is.
	hot := uint64(1 << 40)
	for range 10 {
		b.take(hot, now)
	}
	now = now.Add(b.fill)
	b.take(1, now)
	now = now.Add(b.fill)
	b.take(2, now)
	if n := len(b.young) + len(b.old); n > 2 {
		t.Errorf("%d buckets after a pause", n)
	}
	for range 10 {
		if ok, _ := b.take(hot, now); !ok {
			t.Fatal("a forgotten bucket is not full")
		}
	}
	if ok, _ := b.take(hot, now); ok {
		t.Error("the limit does not hold")
	}
}

func TestOptions(t *testing.T) {
	for value, want := range map[string]string{"0": "must be a number over 0", "-1": "over 0", "NaN": "over 0", "Inf": "over 0", "x": "not a valid float"} {
		if _, err := opener.Try(t, map[string]string{"maxRequestsPerSecond": value}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", value, err)
		}
	}
	if mw := opener.Open(t, nil).(*Limiter); mw.limit != "100.00" {
		t.Error("the default is", mw.limit)
	}
}

func TestSuite(t *testing.T) {
	middlewaretest.Suite(t, func(t testing.TB) middleware.Middleware {
		return opener.Open(t, map[string]string{"maxRequestsPerSecond": "1000000"})
	}, func() *middleware.Request { return middlewaretest.Request("POST", "/") })
}

func FuzzClientIP(f *testing.F) {
	f.Add("1.2.3.4, [::1]:80", "x", "1.2.3.4:5")
	f.Fuzz(func(t *testing.T, forwarded, real, remote string) {
		ip := clientIP(forwarded, real, remote)
		if !ip.IsValid() || ip.Zone() != "" || ip.Is4In6() {
			t.Error(ip)
		}
	})
}
