package workload

import (
	"bytes"
	"context"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jonboulle/clockwork"

	"outrigger.dev/identity/identitytest"
)

func TestAnchorsOfSentry(t *testing.T) {
	next, third := identitytest.NewCA(t), identitytest.NewCA(t)
	for _, test := range []struct {
		name  string
		chain func(own *identitytest.CA) [][]byte
		want  int
	}{
		{"the same", func(own *identitytest.CA) [][]byte { return [][]byte{identitytest.PEM(own.Root)} }, 1},
		{"overlap", func(own *identitytest.CA) [][]byte { return [][]byte{identitytest.PEM(own.Root, next.Root)} }, 2},
		{"overlap in two texts", func(own *identitytest.CA) [][]byte {
			return [][]byte{identitytest.PEM(next.Root), identitytest.PEM(own.Root, third.Root)}
		}, 3},
		{"without that of Sentry", func(*identitytest.CA) [][]byte { return [][]byte{identitytest.PEM(next.Root)} }, 1},
		{"with an issuer", func(own *identitytest.CA) [][]byte { return [][]byte{identitytest.PEM(own.Root, next.Issuer)} }, 1},
		{"no PEM", func(*identitytest.CA) [][]byte { return [][]byte{[]byte("x")} }, 1},
		{"none", func(*identitytest.CA) [][]byte { return nil }, 1},
		{"too many", func(own *identitytest.CA) [][]byte {
			return [][]byte{bytes.Repeat(identitytest.PEM(own.Root), maxAdopted+1)}
		}, 1},
	} {
		t.Run(test.name, func(t *testing.T) {
			f := newSentry(t)
			f.script(func(_ int, r *reply) (*reply, error) { r.TrustChainCertificates = test.chain(f.ca); return r, nil })
			s := started(t, f.options(f.serve("", sentryURI)))
			if got := s.TrustAnchors(); len(got) != test.want || !got[0].Equal(f.ca.Root) {
				t.Errorf("%d anchors, want %d", len(got), test.want)
			}
		})
	}
}

// TestRootIsReplaced renews through the replacement of a root: Sentry announces the new one, and then uses it.
func TestRootIsReplaced(t *testing.T) {
	f := newSentry(t)
	old := f.ca
	next := identitytest.NewCA(t)
	clock := clockwork.NewFakeClockAt(time.Now())
	f.script(func(_ int, r *reply) (*reply, error) {
		r.TrustChainCertificates = [][]byte{identitytest.PEM(old.Root, next.Root)}
		return r, nil
	})
	successor := newSentry(t)
	successor.ca = next
	address, later := f.serve("", sentryURI), successor.serve("", sentryURI)
	o := f.options(address)
	o.Clock = clock
	var mu sync.Mutex
	target := address
	o.Dial = func(ctx context.Context, _ string) (net.Conn, error) {
		mu.Lock()
		defer mu.Unlock()
		return (&net.Dialer{}).DialContext(ctx, "tcp", target)
	}
	s := started(t, o)
	mu.Lock()
	target = later
	mu.Unlock()
	advance(t, clock, time.Minute, func() bool { return successor.count() == 1 })
	eventually(t, "the new root", func() bool {
		svid, _ := s.SVID()
		return svid.Certificates[1].Equal(next.Issuer)
	})
	if got := s.TrustAnchors(); len(got) != 2 || !got[0].Equal(old.Root) || !got[1].Equal(next.Root) {
		t.Errorf("%d anchors: the configured one must stay", len(got))
	}
}

func TestAnchorsFile(t *testing.T) {
	f := newSentry(t)
	next := identitytest.NewCA(t)
	clock := clockwork.NewFakeClockAt(time.Now())
	path := filepath.Join(t.TempDir(), "ca.crt")
	o := f.options(f.serve("", sentryURI))
	o.TrustAnchors, o.TrustAnchorsFile, o.Clock = nil, path, clock
	f.script(func(_ int, r *reply) (*reply, error) {
		r.TrustChainCertificates = [][]byte{identitytest.PEM(f.ca.Root, next.Root)}
		return r, nil
	})
	write := func(text []byte) {
		t.Helper()
		if err := os.WriteFile(path+".new", text, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(path+".new", path); err != nil {
			t.Fatal(err)
		}
	}
	s := run(t, o)
	if err := clock.BlockUntilContext(within(t), 1); err != nil { // it waits for the file
		t.Fatal(err)
	}
	if f.count() != 0 {
		t.Fatal("asked without anchors")
	}
	write(nil) // as by somebody who is about to write it
	for range 2 {
		clock.Advance(time.Second)
		if err := clock.BlockUntilContext(within(t), 1); err != nil {
			t.Fatal(err)
		}
	}
	write(identitytest.PEM(f.ca.Root))
	advance(t, clock, time.Second, func() bool { _, err := s.SVID(); return err == nil })
	if got := s.TrustAnchors(); len(got) != 1 {
		t.Errorf("%d anchors: the file alone counts", len(got))
	}
	write(identitytest.PEM(f.ca.Root, next.Root))
	if moved := advance(t, clock, time.Second, func() bool { return len(s.TrustAnchors()) == 2 }); moved > 2*fileInterval {
		t.Errorf("noticed after %s", moved)
	}
	write([]byte("rubbish"))
	before := clock.Now()
	advance(t, clock, time.Second, func() bool { return clock.Since(before) > 3*fileInterval })
	if len(s.TrustAnchors()) != 2 {
		t.Error("a bad file lost the anchors")
	}
	write(identitytest.PEM(next.Root))
	advance(t, clock, time.Second, func() bool { return len(s.TrustAnchors()) == 1 })
	if !s.TrustAnchors()[0].Equal(next.Root) {
		t.Error("the wrong anchor stayed")
	}
}

func TestBadAnchorsFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "ca.crt")
	if err := os.WriteFile(path, []byte("rubbish"), 0o600); err != nil {
		t.Fatal(err)
	}
	s, err := New(Options{SentryAddress: "127.0.0.1:1", AppID: "a", TrustAnchorsFile: path})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Run(within(t)); err == nil || !strings.Contains(err.Error(), path) || !strings.Contains(err.Error(), "PEM") {
		t.Errorf("got %v", err)
	}
}

func TestUntrustedSentryWithFileIsWaitedFor(t *testing.T) {
	f := newSentry(t)
	clock := clockwork.NewFakeClockAt(time.Now())
	path := filepath.Join(t.TempDir(), "ca.crt")
	if err := os.WriteFile(path, identitytest.PEM(identitytest.NewCA(t).Root), 0o600); err != nil {
		t.Fatal(err)
	}
	o := f.options(f.serve("", sentryURI))
	o.TrustAnchors, o.TrustAnchorsFile, o.Clock = nil, path, clock
	s := run(t, o)
	for range 3 {
		if err := clock.BlockUntilContext(within(t), 1); err != nil {
			t.Fatal(err)
		}
		clock.Advance(time.Second)
	}
	if err := os.WriteFile(path, identitytest.PEM(f.ca.Root), 0o600); err != nil {
		t.Fatal(err)
	}
	advance(t, clock, time.Second, func() bool { _, err := s.SVID(); return err == nil })
}
