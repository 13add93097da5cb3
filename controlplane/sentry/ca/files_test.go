package ca

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/jonboulle/clockwork"

	"outrigger.dev/telemetry/logging/logtest"
)

func b64(data []byte) string { return base64.StdEncoding.EncodeToString(data) }

func jwtAlgorithm(name string) jose.SignatureAlgorithm { return jose.SignatureAlgorithm(name) }

func testManager(t *testing.T, store Store, s Settings, clock clockwork.Clock) *Manager {
	t.Helper()
	m, err := NewManager(t.Context(), ManagerOptions{Store: store, Settings: s, Clock: clock, Log: (&logtest.Log{}).Logger(), Batch: 20 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func TestFilesBootstrap(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "new", "credentials")
	s := testSettings(t)
	s.JWT.Enabled, s.JWT.Algorithm = true, "EdDSA"
	m := testManager(t, &Files{Directory: dir}, s, clockwork.NewRealClock())
	for _, name := range []string{AnchorsName, IssuerName, IssuerKeyName, JWTKeyName, JWKSName, RecordName} {
		info, err := os.Stat(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		if info.Mode().Perm() != 0o600 {
			t.Errorf("%s has mode %s", name, info.Mode())
		}
	}
	left, err := filepath.Glob(filepath.Join(dir, ".sentry-*"))
	if err != nil || len(left) > 0 {
		t.Errorf("left behind: %q %v", left, err)
	}
	again := testManager(t, &Files{Directory: dir}, s, clockwork.NewRealClock())
	if !again.Authority().Issuer().Equal(m.Authority().Issuer()) {
		t.Error("a second start makes another issuer")
	}
}

func TestFilesNames(t *testing.T) {
	dir, elsewhere := t.TempDir(), t.TempDir()
	f := &Files{Directory: dir, Anchors: "roots.pem", IssuerKey: filepath.Join(elsewhere, "k.pem")}
	testManager(t, f, testSettings(t), clockwork.NewRealClock())
	for _, path := range []string{filepath.Join(dir, "roots.pem"), filepath.Join(dir, IssuerName), filepath.Join(elsewhere, "k.pem")} {
		if _, err := os.Stat(path); err != nil {
			t.Error(err)
		}
	}
	if got := f.Watch(); len(got) != 2 {
		t.Errorf("watched are %q", got)
	}
}

// TestManyStartOnAnEmptyDirectory is about processes: locks of different files exclude each other within one process as well.
func TestManyStartOnAnEmptyDirectory(t *testing.T) {
	dir := t.TempDir()
	const n = 8
	var wg sync.WaitGroup
	var mu sync.Mutex
	issuers := map[string]int{}
	for range n {
		wg.Go(func() {
			m, err := NewManager(t.Context(), ManagerOptions{Store: &Files{Directory: dir}, Settings: testSettings(t), Clock: clockwork.NewRealClock(), Log: (&logtest.Log{}).Logger()})
			if err != nil {
				t.Error(err)
				return
			}
			mu.Lock()
			issuers[fingerprint(m.Authority().Issuer())]++
			mu.Unlock()
		})
	}
	wg.Wait()
	if len(issuers) != 1 {
		t.Errorf("%d processes have %d authorities", n, len(issuers))
	}
}

func TestLockIsWaitedForNoLongerThanTheContext(t *testing.T) {
	f := &Files{Directory: t.TempDir()}
	err := f.Update(t.Context(), func(d Documents) (Documents, bool, error) {
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		defer cancel()
		err := f.Update(ctx, func(d Documents) (Documents, bool, error) { return d, false, nil })
		if !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "another process holds the lock") {
			t.Errorf("error %v", err)
		}
		return d, false, nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestInterruptedWriter(t *testing.T) {
	s, now := testSettings(t), time.Now()
	first := mustMaintain(t, s, Documents{}, now, Request{}).documents
	second := mustMaintain(t, s, first, now, Request{Root: true, AtOnce: true}).documents
	write := func(dir string, d Documents, names ...string) {
		t.Helper()
		f := &Files{Directory: dir}
		for i, path := range f.paths() {
			for _, name := range names {
				if filepath.Base(path) == name {
					if err := os.WriteFile(path, *d.list()[i], 0o600); err != nil {
						t.Fatal(err)
					}
				}
			}
		}
	}
	all := []string{AnchorsName, IssuerName, IssuerKeyName, RecordName}
	for i := range len(all) + 1 {
		t.Run(fmt.Sprintf("after %d files", i), func(t *testing.T) {
			dir := t.TempDir()
			f := &Files{Directory: dir}
			// The crash: the journal is there, and the first files are replaced.
			if err := f.Update(t.Context(), func(Documents) (Documents, bool, error) { return second, true, nil }); err != nil {
				t.Fatal(err)
			}
			write(dir, first, all[i:]...)
			journal := filepath.Join(dir, journalName)
			text := fmt.Sprintf(`{"Anchors":%q,"IssuerChain":%q,"IssuerKey":%q,"Record":%q}`, b64(second.Anchors), b64(second.IssuerChain), b64(second.IssuerKey), b64(second.Record))
			if err := os.WriteFile(journal, []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
			got, err := f.Load(t.Context())
			if err != nil || !got.Equal(&second) {
				t.Fatalf("after the crash what is read is not what was being written: %v", err)
			}
			if err := f.Update(t.Context(), func(d Documents) (Documents, bool, error) { return d, false, nil }); err != nil {
				t.Fatal(err)
			}
			if _, err := os.Stat(journal); !errors.Is(err, fs.ErrNotExist) {
				t.Error("the journal is still there")
			}
			if got, err := f.Load(t.Context()); err != nil || !got.Equal(&second) {
				t.Errorf("the write was not completed: %v", err)
			}
		})
	}
}

func TestReloadOfReplacedFiles(t *testing.T) {
	dir := t.TempDir()
	s := testSettings(t)
	log := &logtest.Log{}
	changed := make(chan *Authority, 10)
	m, err := NewManager(t.Context(), ManagerOptions{
		Store: &Files{Directory: dir}, Settings: s, Clock: clockwork.NewRealClock(), Log: log.Logger(), Batch: 20 * time.Millisecond,
		Changed: func(_, present *Authority, _ bool) { changed <- present },
	})
	if err != nil {
		t.Fatal(err)
	}
	first := <-changed
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- m.Run(ctx) }()
	defer func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}()
	await := func(what string, met func() bool) {
		t.Helper()
		for deadline := time.Now().Add(10 * time.Second); !met(); time.Sleep(5 * time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatalf("%s does not happen; log:\n%s", what, log)
			}
		}
	}
	// An unusable file leaves the present authority in use. It is written until noticed, as the watch may not have begun.
	await("the error", func() bool {
		if err := os.WriteFile(filepath.Join(dir, IssuerKeyName), []byte("broken"), 0o600); err != nil {
			t.Fatal(err)
		}
		return log.Count("ERROR The credentials are not usable; those in use stay: the issuer's key (issuer.key)") > 0
	})
	if m.Authority() != first {
		t.Error("a broken file replaced the authority")
	}
	// Another authority, as an operator provides it.
	p := provided{t, time.Now()}
	rootKey, issuerKey := p.key("ec"), p.key("ec")
	root := p.certificate("root", true, rootKey, nil, nil)
	issuer := p.certificate("issuer", true, issuerKey, root, rootKey)
	for name, text := range map[string][]byte{AnchorsName: encodeCertificates(root), IssuerName: encodeCertificates(issuer), IssuerKeyName: keyDocument(t, issuerKey)} {
		if err := os.WriteFile(filepath.Join(dir, name), text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	await("the new authority", func() bool { return m.Authority().Issuer().Equal(issuer) })
	if m.Authority().Origin() != Provided {
		t.Errorf("it is %s", m.Authority().Origin())
	}
}

// TestRenewsByTheClock lets the time of a fake clock pass until the root has been replaced.
func TestRenewsByTheClock(t *testing.T) {
	clock := clockwork.NewFakeClockAt(time.Now())
	dir := t.TempDir()
	m := testManager(t, &Files{Directory: dir}, testSettings(t), clock)
	other := testManager(t, &Files{Directory: dir}, testSettings(t), clock)
	first := m.Authority()
	for i := 0; m.Authority().Issuer().Equal(first.Issuer()); i++ {
		if i > 400 {
			t.Fatal("the issuer is never replaced")
		}
		clock.Advance(48 * time.Hour)
		for _, m := range []*Manager{m, other} {
			if err := m.Refresh(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		if string(m.Authority().TrustAnchors()) != string(other.Authority().TrustAnchors()) {
			t.Fatalf("on step %d two replicas have different roots", i)
		}
	}
	if n := strings.Count(string(m.Authority().TrustAnchors()), "BEGIN"); n != 2 {
		t.Errorf("%d trust anchors after the change", n)
	}
}

func TestRenewalThatCannotBeStored(t *testing.T) {
	clock := clockwork.NewFakeClockAt(time.Now())
	store := &refusing{Files: &Files{Directory: t.TempDir()}}
	m := testManager(t, store, testSettings(t), clock)
	first := m.Authority().Issuer()
	store.refuse = true
	clock.Advance(DefaultRootTTL * 9 / 10)
	if err := m.Refresh(t.Context()); err != nil || !m.Authority().Issuer().Equal(first) {
		t.Fatalf("it goes on with what it has: %v", err)
	}
	store.refuse = false
	if err := m.Refresh(t.Context()); err != nil || strings.Count(string(m.Authority().TrustAnchors()), "BEGIN") != 2 {
		t.Errorf("the renewal is not made up for: %v", err)
	}
}

// TestOverdueRenewalIsTriedAtThePaceOfPolls makes sure that a store that stays read-only is not asked without pause.
func TestOverdueRenewalIsTriedAtThePaceOfPolls(t *testing.T) {
	clock := clockwork.NewFakeClockAt(time.Now())
	store := &refusing{Files: &Files{Directory: t.TempDir()}}
	m := testManager(t, store, testSettings(t), clock)
	store.refuse = true
	store.attempts.Store(0)
	clock.Advance(DefaultRootTTL * 9 / 10)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- m.Run(ctx) }()
	for want := int32(1); want <= 3; want++ {
		if err := clock.BlockUntilContext(t.Context(), 1); err != nil {
			t.Fatal(err)
		}
		if got := store.attempts.Load(); got != want {
			t.Errorf("%d attempts, want %d", got, want)
		}
		clock.Advance(defaultPoll - time.Second)
		if got := store.attempts.Load(); got != want {
			t.Errorf("%d attempts before a minute is over, want %d", got, want)
		}
		clock.Advance(time.Second)
		for deadline := time.Now().Add(10 * time.Second); store.attempts.Load() == want; time.Sleep(time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatal("it is not tried again")
			}
		}
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// refusing is a store that can be read-only.
type refusing struct {
	*Files
	refuse   bool
	attempts atomic.Int32
}

func (r *refusing) Update(ctx context.Context, change func(Documents) (Documents, bool, error)) error {
	r.attempts.Add(1)
	if r.refuse {
		return errors.New("read-only")
	}
	return r.Files.Update(ctx, change)
}

func TestDescribeAndRenew(t *testing.T) {
	now := time.Now()
	files := &Files{Directory: t.TempDir()}
	settings := Settings{ClockSkew: DefaultClockSkew, SelfRenewing: true}
	if _, err := Describe(t.Context(), files, settings, now); !errors.Is(err, ErrNoCredentials) {
		t.Errorf("an empty directory: %v", err)
	}
	s := testSettings(t)
	s.TrustDomain, s.Namespace = "example.org", "mesh"
	testManager(t, files, s, clockwork.NewFakeClockAt(now))
	d, err := Describe(t.Context(), files, settings, now)
	if err != nil {
		t.Fatal(err)
	}
	if d.Origin != Generated || !d.SelfRenewing || d.Next == nil || len(d.Roots) != 1 || !d.Roots[0].Signs || !d.Roots[0].KeyKept || d.Problem != nil {
		t.Errorf("%+v", d)
	}
	if d.Issuer.Subject != `O=spiffe://example.org/ns/mesh/dapr-sentry` || d.Issuer.Algorithm != "Ed25519" {
		t.Errorf("issuer %+v", d.Issuer)
	}
	issuer := d.Issuer.Fingerprint
	for _, step := range []struct {
		asked   Request
		roots   int
		changed bool
	}{
		{Request{}, 1, true},
		{Request{Root: true}, 2, false},
		{Request{AtOnce: true}, 2, true},
	} {
		changes, err := Renew(t.Context(), files, settings, now, step.asked)
		if err != nil || len(changes) == 0 {
			t.Fatalf("%+v: %q %v", step.asked, changes, err)
		}
		d, err := Describe(t.Context(), files, settings, now)
		if err != nil {
			t.Fatal(err)
		}
		if len(d.Roots) != step.roots || (d.Issuer.Fingerprint != issuer) != step.changed || d.Origin != Generated {
			t.Errorf("after %+v: %+v", step.asked, d)
		}
		issuer = d.Issuer.Fingerprint
	}
}

func TestRenewOfWhatWasProvided(t *testing.T) {
	now := time.Now()
	p := provided{t, now}
	rootKey, issuerKey := p.key("ec"), p.key("ec")
	root := p.certificate("root", true, rootKey, nil, nil)
	issuer := p.certificate("issuer", true, issuerKey, root, rootKey)
	files := &Files{Directory: t.TempDir()}
	d := Documents{Anchors: encodeCertificates(root), IssuerChain: encodeCertificates(issuer), IssuerKey: keyDocument(t, issuerKey)}
	if err := files.Update(t.Context(), func(Documents) (Documents, bool, error) { return d, true, nil }); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		asked Request
		err   string
	}{
		{Request{}, "was provided"},
		{Request{Root: true}, "was provided"},
		{Request{Adopt: true}, "not at hand"},
	} {
		if _, err := Renew(t.Context(), files, Settings{}, now, tt.asked); err == nil || !strings.Contains(err.Error(), tt.err) {
			t.Errorf("%+v: %v", tt.asked, err)
		}
	}
	if got, err := files.Load(t.Context()); err != nil || !got.Equal(&d) {
		t.Fatalf("a refused renewal changed something: %v", err)
	}
	if _, err := Renew(t.Context(), files, Settings{}, now, Request{Adopt: true, Root: true}); err != nil {
		t.Fatal(err)
	}
	got, err := Describe(t.Context(), files, Settings{SelfRenewing: true}, now)
	if err != nil || len(got.Roots) != 2 || got.Next == nil || got.Origin != GeneratedByDapr {
		t.Errorf("adopted: %+v %v", got, err)
	}
}
