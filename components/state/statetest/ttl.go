package statetest

import (
	"strconv"
	"testing"
	"time"

	"outrigger.dev/components/state"
)

func (s *suite) testTTL(t *testing.T) {
	s.parallel(t, "expires", s.expires)
	s.parallel(t, "told", s.expireTimeTold)
	s.parallel(t, "cleared", s.ttlCleared)
	s.parallel(t, "replaced", s.ttlReplaced)
	s.parallel(t, "nonpositive", s.nonPositiveTTL)
	s.parallel(t, "invalid", s.invalidTTL)
	s.parallel(t, "overexpired", s.writeOverExpired)
}

// expires checks that an item is invisible once its life is over, and another one still there.
func (s *suite) expires(t *testing.T) {
	k, longer, forever := s.key(t, "k"), s.key(t, "longer"), s.key(t, "forever")
	s.set(t, k, text("v"), withTTL("2"))
	s.set(t, longer, text("v"), withTTL("3600"))
	s.set(t, forever, text("v"))
	s.expect(t, k, "v")
	s.passes(t, 2*time.Second, func() bool { return !s.get(t, k).Found })
	s.expect(t, longer, "v")
	s.expect(t, forever, "v")
	s.delete(t, k)
	if s.bulk == nil {
		return
	}
	s.set(t, k, text("v"), withTTL("1"))
	s.passes(t, time.Second, func() bool {
		return !s.bulkItems(t, []state.GetRequest{{Key: k}, {Key: forever}})[k].Found
	})
}

// expireTimeTold checks ttlExpireTime, in UTC with a precision of seconds.
func (s *suite) expireTimeTold(t *testing.T) {
	k, forever := s.key(t, "k"), s.key(t, "forever")
	s.set(t, k, text("v"), withTTL("3600"))
	s.set(t, forever, text("v"))
	if at := s.get(t, forever).Metadata[state.MetadataTTLExpireTime]; at != "" {
		t.Errorf("an item without a life has %s %q", state.MetadataTTLExpireTime, at)
	}
	told := map[string]string{"Get": s.get(t, k).Metadata[state.MetadataTTLExpireTime]}
	if s.bulk != nil {
		told["BulkGet"] = s.bulkItems(t, []state.GetRequest{{Key: k}})[k].Metadata[state.MetadataTTLExpireTime]
	}
	for from, at := range told {
		if s.cfg.NoTTLExpireTime {
			if at != "" {
				t.Errorf("%s tells %s %q, but the store is said not to", from, state.MetadataTTLExpireTime, at)
			}
			continue
		}
		when, err := time.Parse("2006-01-02T15:04:05Z", at)
		if err != nil {
			t.Errorf("%s: %s is %q: %v", from, state.MetadataTTLExpireTime, at, err)
			continue
		}
		if s.cfg.Advance != nil {
			continue // The store's clock is not this one.
		}
		if left := time.Until(when); left < 3500*time.Second || left > 3700*time.Second {
			t.Errorf("%s: %s is %q, which is %v from now, want an hour", from, state.MetadataTTLExpireTime, at, left)
		}
	}
}

// ttlCleared checks what saving again without a life, or with -1 or 0, does to the old one.
func (s *suite) ttlCleared(t *testing.T) {
	resaved, minus, zero, control := s.key(t, "resaved"), s.key(t, "minus"), s.key(t, "zero"), s.key(t, "control")
	// The life is long enough for the second writes to come in time on a slow machine.
	for _, k := range []string{resaved, minus, zero, control} {
		s.set(t, k, text("v"), withTTL("2"))
	}
	s.set(t, resaved, text("w"))
	if !s.cfg.NonPositiveTTLExpires {
		s.set(t, minus, text("w"), withTTL("-1"))
		s.set(t, zero, text("w"), withTTL("0"))
	}
	s.passes(t, 2*time.Second, func() bool { return !s.get(t, control).Found })
	if s.cfg.KeepsTTLOnResave {
		s.passes(t, 0, func() bool { return !s.get(t, resaved).Found })
	} else {
		s.expect(t, resaved, "w")
	}
	if !s.cfg.NonPositiveTTLExpires {
		s.expect(t, minus, "w")
		s.expect(t, zero, "w")
	}
}

// ttlReplaced checks that the last life given counts, with an etag as without.
func (s *suite) ttlReplaced(t *testing.T) {
	extended, shortened, tagged := s.key(t, "extended"), s.key(t, "shortened"), s.key(t, "tagged")
	s.set(t, extended, text("v"), withTTL("1"))
	s.set(t, extended, text("w"), withTTL("3600"))
	s.set(t, shortened, text("v"), withTTL("3600"))
	s.set(t, shortened, text("w"), withTTL("1"))
	s.set(t, tagged, text("v"), withTTL("3600"))
	if s.etags {
		s.set(t, tagged, text("w"), withETag(s.etag(t, tagged)), withTTL("1"))
	} else {
		s.set(t, tagged, text("w"), withTTL("1"))
	}
	s.passes(t, time.Second, func() bool { return !s.get(t, shortened).Found && !s.get(t, tagged).Found })
	s.expect(t, extended, "w")
}

func (s *suite) nonPositiveTTL(t *testing.T) {
	for _, seconds := range []string{"0", "-1"} {
		k := s.key(t, seconds)
		s.set(t, k, text("v"), withTTL(seconds))
		if s.cfg.NonPositiveTTLExpires {
			s.passes(t, 0, func() bool { return !s.get(t, k).Found })
			continue
		}
		item := s.expect(t, k, "v")
		if at := item.Metadata[state.MetadataTTLExpireTime]; at != "" {
			t.Errorf("with a life of %s the item has %s %q", seconds, state.MetadataTTLExpireTime, at)
		}
	}
	k := s.key(t, "empty")
	s.set(t, k, text("v"), withTTL(""))
	s.expect(t, k, "v")
	k = s.key(t, "most")
	s.set(t, k, text("v"), withTTL(strconv.Itoa(1<<31-1)))
	s.expect(t, k, "v")
}

func (s *suite) invalidTTL(t *testing.T) {
	k := s.key(t, "k")
	s.set(t, k, text("v"))
	for _, seconds := range []string{"soon", "1.5", "10s", "99999999999999999999", "2147483648"} {
		err := s.try(t, k, text("w"), withTTL(seconds))
		if err == nil {
			t.Errorf("Set with a life of %q succeeded", seconds)
		} else if _, ok := state.AsETagError(err); ok {
			t.Errorf("Set with a life of %q: the etag error %v", seconds, err)
		}
	}
	s.expect(t, k, "v")
}

// writeOverExpired checks that an expired item is as good as none, whether or not it was purged.
func (s *suite) writeOverExpired(t *testing.T) {
	k, tagged := s.key(t, "k"), s.key(t, "tagged")
	s.set(t, k, text("one"), withTTL("1"))
	s.set(t, tagged, text("one"), withTTL("1"))
	etag := ""
	if s.etags {
		if item := s.get(t, tagged); item.Found {
			etag = item.ETag
		}
	}
	s.passes(t, time.Second, func() bool { return !s.get(t, k).Found && !s.get(t, tagged).Found })
	s.set(t, k, text("two"))
	s.expect(t, k, "two")
	if etag != "" && !s.cfg.ETagOnMissingKeySucceeds {
		expectMismatch(t, "Set with the etag of an expired item", s.try(t, tagged, text("two"), withETag(etag)))
		s.expectMissing(t, tagged)
	}
}
