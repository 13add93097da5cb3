// Package statetest is the conformance suite that every state store must pass: a store's own test calls [Run] with a
// function that opens it, and names in [Config] the documented ways in which it differs from the general rules.
package statetest

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"reflect"
	"strings"
	"testing"
	"time"

	"outrigger.dev/components/state"
)

// Config names what is particular about a store. The zero Config is a store that keeps every general rule (Dapr API,
// state: etags, concurrency, TTL). What a store can do is not configured but seen from the interfaces it implements.
type Config struct {
	// ETagOnMissingKeySucceeds: a write or delete with an etag succeeds when the key does not exist.
	ETagOnMissingKeySucceeds bool
	// InvalidETag is a text that the store refuses as an invalid etag. Empty means that the store takes any text for a
	// version, so that a wrong one never is more than a mismatch.
	InvalidETag string
	// LastWriteIgnoresETag: an explicit last-write wins over an etag.
	LastWriteIgnoresETag bool
	// FirstWriteErrorGeneric: a first-write conflict is an error, but not an [*state.ETagError].
	FirstWriteErrorGeneric bool
	// FirstWriteSticks: first-write counts from the first first-write on. Over an item written otherwise it succeeds, and
	// after it every write without an etag fails until the key is deleted.
	FirstWriteSticks bool
	// FirstWriteIgnoredInTransactions: operations of a transaction take no notice of first-write.
	FirstWriteIgnoredInTransactions bool
	// FirstWriteSeesExpired: an expired item still counts as existing for first-write until it is purged.
	FirstWriteSeesExpired bool
	// IgnoresOptions: unknown concurrency and consistency options are no error.
	IgnoresOptions bool

	// KeepsTTLOnResave: saving again without a TTL keeps the old one.
	KeepsTTLOnResave bool
	// NonPositiveTTLExpires: a TTL of 0 or -1 makes the item expire at once.
	NonPositiveTTLExpires bool
	// NoTTLExpireTime: items do not tell when they expire.
	NoTTLExpireTime bool

	// NoRollback: a failing operation does not undo the others of its transaction.
	NoRollback bool
	// SplitTransactions: keys may lie in parts of the store, and only operations on one part are applied as one.
	SplitTransactions bool

	// FoldsKeys: keys that differ only in case, accents or trailing spaces are the same.
	FoldsKeys bool
	// KeysInKeyOrder: KeysLike lists by key instead of by time of insertion.
	KeysInKeyOrder bool
	// UnorderedKeys: KeysLike lists in an order of its own; pages still hold every key exactly once.
	UnorderedKeys bool

	// Advance moves the store's clock, for stores that take theirs from the test. Nil means that time passes by itself.
	Advance func(d time.Duration)
	// Reopen opens the store once more over the same data, for durable stores. It is called after the first was closed.
	Reopen func(t *testing.T) state.Store
}

// Run runs the suite on the store that open returns. The store may hold other data: keys of the suite begin with a random
// word. Run closes the store itself.
func Run(t *testing.T, cfg Config, open func(t *testing.T) state.Store) {
	t.Helper()
	s := &suite{cfg: cfg, store: open(t), app: fmt.Sprintf("st%08x", rand.Uint32())}
	closed := false
	defer func() {
		if !closed {
			_ = s.store.Close()
		}
	}()
	if e, ok := s.store.(state.ETagStore); ok {
		s.etags = e.ETags()
	}
	if e, ok := s.store.(state.TTLStore); ok {
		s.ttl = e.TTL()
	}
	s.bulk, _ = s.store.(state.BulkGetter)
	s.tx, _ = s.store.(state.Transactor)
	s.keysLike, _ = s.store.(state.KeysLister)
	s.prefix, _ = s.store.(state.PrefixDeleter)

	// The inner Run returns when its parallel children have ended.
	t.Run("Store", func(t *testing.T) {
		s.run(t, "Values", true, s.values)
		s.run(t, "ETags", s.etags, s.testETags)
		s.run(t, "Options", true, s.options)
		s.run(t, "FirstWrite", s.etags, s.firstWrite)
		s.run(t, "TTL", s.ttl, s.testTTL)
		s.run(t, "BulkGet", s.bulk != nil, s.bulkGet)
		s.run(t, "Transactions", s.tx != nil, s.transactions)
		s.run(t, "KeysLike", s.keysLike != nil, s.testKeysLike)
		s.run(t, "DeleteWithPrefix", s.prefix != nil, s.deleteWithPrefix)
		s.run(t, "Concurrency", true, s.concurrency)
		s.run(t, "Cancellation", true, s.cancellation)
	})
	k := s.app + "-reopen||k"
	if cfg.Reopen != nil {
		s.set(t, k, text("kept"))
	}
	closed = true
	if err := s.store.Close(); err != nil {
		t.Errorf("Close: %v", err)
	}
	if cfg.Reopen == nil {
		return
	}
	again := &suite{cfg: cfg, store: cfg.Reopen(t), app: s.app}
	again.expect(t, k, "kept")
	again.delete(t, k)
	if err := again.store.Close(); err != nil {
		t.Errorf("Close of the reopened store: %v", err)
	}
}

// suite is one run on one store, with the abilities it showed.
type suite struct {
	cfg        Config
	store      state.Store
	app        string
	etags, ttl bool
	bulk       state.BulkGetter
	tx         state.Transactor
	keysLike   state.KeysLister
	prefix     state.PrefixDeleter
}

func (s *suite) run(t *testing.T, name string, able bool, f func(t *testing.T)) {
	if able {
		s.parallel(t, name, f)
	}
}

// parallel runs a child test beside the others, so that waits for expiry overlap; unless the tests move the one clock.
func (s *suite) parallel(t *testing.T, name string, f func(t *testing.T)) {
	t.Run(name, func(t *testing.T) {
		if s.cfg.Advance == nil {
			t.Parallel()
		}
		f(t)
	})
}

// key is a stored key of the running test alone.
func (s *suite) key(t *testing.T, name string) string {
	words := strings.Split(t.Name(), "/")
	return s.app + "-" + strings.Join(words[max(0, len(words)-2):], "-") + "||" + name
}

// text is a value of plain bytes.
func text(s string) state.Value { return state.Value{Bytes: []byte(s)} }

// jsonText is a JSON value.
func jsonText(s string) state.Value { return state.Value{Bytes: []byte(s), JSON: true} }

// ttlOf is request metadata that asks for a life of the given seconds.
func ttlOf(seconds string) map[string]string { return map[string]string{state.MetadataTTL: seconds} }

func bounded(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	t.Cleanup(cancel)
	return ctx
}

// try sets an item after letting a function change the request.
func (s *suite) try(t *testing.T, key string, v state.Value, change ...func(*state.SetRequest)) error {
	t.Helper()
	req := state.SetRequest{Key: key, Value: v}
	for _, c := range change {
		c(&req)
	}
	return s.store.Set(bounded(t), req)
}

func (s *suite) set(t *testing.T, key string, v state.Value, change ...func(*state.SetRequest)) {
	t.Helper()
	if err := s.try(t, key, v, change...); err != nil {
		t.Fatalf("Set(%q): %v", key, err)
	}
}

func withETag(etag string) func(*state.SetRequest) {
	return func(r *state.SetRequest) { r.ETag = etag }
}

func withTTL(seconds string) func(*state.SetRequest) {
	return func(r *state.SetRequest) { r.Metadata = ttlOf(seconds) }
}

func withConcurrency(c state.Concurrency) func(*state.SetRequest) {
	return func(r *state.SetRequest) { r.Options.Concurrency = c }
}

func withConsistency(c state.Consistency) func(*state.SetRequest) {
	return func(r *state.SetRequest) { r.Options.Consistency = c }
}

func (s *suite) get(t *testing.T, key string) state.Item {
	t.Helper()
	item, err := s.store.Get(bounded(t), state.GetRequest{Key: key})
	if err != nil {
		t.Fatalf("Get(%q): %v", key, err)
	}
	if !item.Found && !reflect.DeepEqual(item, state.Item{}) {
		t.Errorf("Get(%q) of a missing item = %+v, want the zero Item", key, item)
	}
	return item
}

// expect checks the bytes of a stored item and returns it.
func (s *suite) expect(t *testing.T, key, want string) state.Item {
	t.Helper()
	item := s.get(t, key)
	if !item.Found || string(item.Data) != want {
		t.Errorf("Get(%q) = found %v, data %q; want %q", key, item.Found, short(item.Data), want)
	}
	return item
}

func (s *suite) expectMissing(t *testing.T, key string) {
	t.Helper()
	if item := s.get(t, key); item.Found {
		t.Errorf("Get(%q) found %q, want it missing", key, short(item.Data))
	}
}

func (s *suite) etag(t *testing.T, key string) string {
	t.Helper()
	item := s.get(t, key)
	if !item.Found || !item.HasETag || item.ETag == "" {
		t.Fatalf("Get(%q) = found %v, etag %q (%v); want an item with an etag", key, item.Found, item.ETag, item.HasETag)
	}
	return item.ETag
}

func (s *suite) delete(t *testing.T, key string) {
	t.Helper()
	if err := s.store.Delete(bounded(t), state.DeleteRequest{Key: key}); err != nil {
		t.Fatalf("Delete(%q): %v", key, err)
	}
}

// expectMismatch checks that err says the etag is not the stored one.
func expectMismatch(t *testing.T, what string, err error) {
	t.Helper()
	e, ok := state.AsETagError(err)
	if !ok || e.Invalid {
		t.Errorf("%s: error %v, want an etag mismatch", what, err)
	}
}

// passes lets the time go by in which an item with the given life expires, and waits until gone says it did.
func (s *suite) passes(t *testing.T, life time.Duration, gone func() bool) {
	t.Helper()
	if s.cfg.Advance != nil {
		s.cfg.Advance(life + time.Second)
	}
	// Stores count whole seconds, and some round up.
	waitFor(t, life+10*time.Second, "the item to expire", gone)
}

// waitFor polls until ok, and fails the test after the limit.
func waitFor(t *testing.T, limit time.Duration, what string, ok func() bool) {
	t.Helper()
	deadline := time.NewTimer(limit)
	defer deadline.Stop()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-deadline.C:
			t.Fatalf("waited %v in vain for %s", limit, what)
		case <-tick.C:
		}
	}
}

// sameJSON reports whether two JSON texts have the same meaning.
func sameJSON(t *testing.T, a, b []byte) bool {
	t.Helper()
	var x, y any
	if err := json.Unmarshal(a, &x); err != nil {
		t.Errorf("%q is no JSON: %v", short(a), err)
		return false
	}
	if err := json.Unmarshal(b, &y); err != nil {
		t.Errorf("%q is no JSON: %v", short(b), err)
		return false
	}
	return reflect.DeepEqual(x, y)
}

// short cuts data for messages.
func short(data []byte) string {
	if len(data) > 80 {
		return fmt.Sprintf("%s... (%d bytes)", bytes.ToValidUTF8(data[:80], []byte("?")), len(data))
	}
	return string(data)
}
