package statetest

import (
	"strings"
	"testing"
	"time"

	"outrigger.dev/components/state"
)

func (s *suite) testETags(t *testing.T) {
	s.parallel(t, "change", s.etagsChange)
	s.parallel(t, "set", s.etagOnSet)
	s.parallel(t, "delete", s.etagOnDelete)
	s.parallel(t, "missing", s.etagOnMissingKey)
	s.parallel(t, "invalid", s.invalidETag)
	s.parallel(t, "lastwrite", s.etagWithLastWrite)
}

// etagsChange checks that every write makes a new version, and a read none.
func (s *suite) etagsChange(t *testing.T) {
	k := s.key(t, "k")
	s.set(t, k, text("v"))
	first := s.etag(t, k)
	if again := s.etag(t, k); again != first {
		t.Errorf("the etag changed from %q to %q by reading", first, again)
	}
	s.set(t, k, text("v"))
	if second := s.etag(t, k); second == first {
		t.Errorf("the etag is still %q after another write", second)
	}
}

func (s *suite) etagOnSet(t *testing.T) {
	k := s.key(t, "k")
	s.set(t, k, text("one"))
	old := s.etag(t, k)
	s.set(t, k, text("two"), withETag(old))
	s.expect(t, k, "two")
	expectMismatch(t, "Set with an old etag", s.try(t, k, text("three"), withETag(old)))
	s.expect(t, k, "two")
	s.set(t, k, text("three"), withETag(""))
	s.expect(t, k, "three")
	s.set(t, k, text("four"), withETag(s.etag(t, k)))
	s.expect(t, k, "four")
}

func (s *suite) etagOnDelete(t *testing.T) {
	ctx := bounded(t)
	k := s.key(t, "k")
	s.set(t, k, text("one"))
	old := s.etag(t, k)
	s.set(t, k, text("two"))
	expectMismatch(t, "Delete with an old etag", s.store.Delete(ctx, state.DeleteRequest{Key: k, ETag: old}))
	s.expect(t, k, "two")
	if err := s.store.Delete(ctx, state.DeleteRequest{Key: k, ETag: s.etag(t, k)}); err != nil {
		t.Errorf("Delete with the right etag: %v", err)
	}
	s.expectMissing(t, k)
}

func (s *suite) etagOnMissingKey(t *testing.T) {
	ctx := bounded(t)
	k, other := s.key(t, "k"), s.key(t, "other")
	s.set(t, other, text("gives an etag"))
	etag := s.etag(t, other)
	set := s.try(t, k, text("v"), withETag(etag))
	if s.cfg.ETagOnMissingKeySucceeds {
		if set != nil {
			t.Errorf("Set with an etag of a missing key: %v", set)
		}
		s.expect(t, k, "v")
		s.delete(t, k)
		if err := s.store.Delete(ctx, state.DeleteRequest{Key: k, ETag: etag}); err != nil {
			t.Errorf("Delete with an etag of a missing key: %v", err)
		}
		return
	}
	expectMismatch(t, "Set with an etag of a missing key", set)
	s.expectMissing(t, k)
	expectMismatch(t, "Delete with an etag of a missing key", s.store.Delete(ctx, state.DeleteRequest{Key: k, ETag: etag}))
}

func (s *suite) invalidETag(t *testing.T) {
	ctx := bounded(t)
	k := s.key(t, "k")
	s.set(t, k, text("v"))
	if s.cfg.InvalidETag == "" {
		expectMismatch(t, "Set with an etag that never was", s.try(t, k, text("w"), withETag("no etag at all")))
		expectMismatch(t, "Delete with an etag that never was", s.store.Delete(ctx, state.DeleteRequest{Key: k, ETag: "no etag at all"}))
	} else {
		for what, err := range map[string]error{
			"Set":    s.try(t, k, text("w"), withETag(s.cfg.InvalidETag)),
			"Delete": s.store.Delete(ctx, state.DeleteRequest{Key: k, ETag: s.cfg.InvalidETag}),
		} {
			if e, ok := state.AsETagError(err); !ok || !e.Invalid {
				t.Errorf("%s with the etag %q: error %v, want an invalid etag", what, s.cfg.InvalidETag, err)
			}
		}
	}
	s.expect(t, k, "v")
}

func (s *suite) etagWithLastWrite(t *testing.T) {
	k := s.key(t, "k")
	s.set(t, k, text("one"))
	old := s.etag(t, k)
	s.set(t, k, text("two"), withConcurrency(state.LastWrite))
	s.expect(t, k, "two")
	err := s.try(t, k, text("three"), withETag(old), withConcurrency(state.LastWrite))
	if s.cfg.LastWriteIgnoresETag {
		if err != nil {
			t.Errorf("Set with an old etag and last-write: %v", err)
		}
		s.expect(t, k, "three")
		return
	}
	expectMismatch(t, "Set with an old etag and last-write", err)
	s.expect(t, k, "two")
}

// options checks what a store makes of concurrency and consistency options as such.
func (s *suite) options(t *testing.T) {
	s.parallel(t, "known", func(t *testing.T) {
		ctx := bounded(t)
		for _, c := range []state.Consistency{"", state.Eventual, state.Strong} {
			k := s.key(t, "consistency-"+string(c))
			s.set(t, k, text("v"), withConsistency(c))
			item, err := s.store.Get(ctx, state.GetRequest{Key: k, Consistency: c})
			if err != nil || string(item.Data) != "v" {
				t.Errorf("Get with consistency %q = %q, %v", c, item.Data, err)
			}
			if err := s.store.Delete(ctx, state.DeleteRequest{Key: k, Options: state.Options{Consistency: c}}); err != nil {
				t.Errorf("Delete with consistency %q: %v", c, err)
			}
			s.expectMissing(t, k)
		}
	})
	s.parallel(t, "unknown", func(t *testing.T) {
		if s.cfg.IgnoresOptions {
			t.Skip("the store takes any option")
		}
		k := s.key(t, "k")
		s.set(t, k, text("v"))
		for _, c := range []struct {
			options state.Options
			want    string
		}{
			{state.Options{Concurrency: "wrong"}, "unrecognized concurrency model 'wrong'"},
			{state.Options{Consistency: "wrong"}, "unrecognized consistency model 'wrong'"},
		} {
			err := s.try(t, k, text("w"), func(r *state.SetRequest) { r.Options = c.options })
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("Set: error %v, want %q", err, c.want)
			}
			err = s.store.Delete(bounded(t), state.DeleteRequest{Key: k, Options: c.options})
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("Delete: error %v, want %q", err, c.want)
			}
		}
		s.expect(t, k, "v")
	})
}

func (s *suite) firstWrite(t *testing.T) {
	s.parallel(t, "fresh", func(t *testing.T) {
		k := s.key(t, "k")
		s.set(t, k, text("one"), withConcurrency(state.FirstWrite))
		s.expectConflict(t, "first-write over a first-write", s.try(t, k, text("two"), withConcurrency(state.FirstWrite)))
		s.expect(t, k, "one")
		s.delete(t, k)
		s.set(t, k, text("three"), withConcurrency(state.FirstWrite))
		s.expect(t, k, "three")
	})
	s.parallel(t, "existing", func(t *testing.T) {
		k := s.key(t, "k")
		s.set(t, k, text("one"))
		err := s.try(t, k, text("two"), withConcurrency(state.FirstWrite))
		if !s.cfg.FirstWriteSticks {
			s.expectConflict(t, "first-write over an item", err)
			s.expect(t, k, "one")
			s.set(t, k, text("three"))
			s.expect(t, k, "three")
			return
		}
		if err != nil {
			t.Errorf("first-write over an item that was never first-written: %v", err)
		}
		for _, c := range []state.Concurrency{"", state.LastWrite} {
			if err := s.try(t, k, text("three"), withConcurrency(c)); err == nil {
				t.Errorf("a write without an etag and with concurrency %q went over a first-written item", c)
			}
		}
		s.expect(t, k, "two")
		s.set(t, k, text("four"), withETag(s.etag(t, k)))
		s.expect(t, k, "four")
	})
	s.parallel(t, "withetag", func(t *testing.T) {
		k := s.key(t, "k")
		s.set(t, k, text("one"))
		old := s.etag(t, k)
		s.set(t, k, text("two"), withETag(old), withConcurrency(state.FirstWrite))
		s.expect(t, k, "two")
		expectMismatch(t, "first-write with an old etag", s.try(t, k, text("three"), withETag(old), withConcurrency(state.FirstWrite)))
		s.expect(t, k, "two")
	})
	s.parallel(t, "expired", func(t *testing.T) {
		if !s.ttl || s.cfg.FirstWriteSeesExpired {
			t.Skip("the store has no expiry, or documents that expired items count")
		}
		k := s.key(t, "k")
		s.set(t, k, text("one"), withTTL("1"))
		s.passes(t, time.Second, func() bool { return !s.get(t, k).Found })
		s.set(t, k, text("two"), withConcurrency(state.FirstWrite))
		s.expect(t, k, "two")
	})
}

// expectConflict checks the error of a first-write that came second.
func (s *suite) expectConflict(t *testing.T, what string, err error) {
	t.Helper()
	if !s.cfg.FirstWriteErrorGeneric {
		expectMismatch(t, what, err)
		return
	}
	if err == nil {
		t.Errorf("%s succeeded", what)
	} else if e, ok := state.AsETagError(err); ok {
		t.Errorf("%s: the etag error %v, want another error", what, e)
	}
}
