package statetest

import (
	"context"
	"errors"
	"testing"
	"time"

	"outrigger.dev/components/state"
)

// opSet and opDelete are steps of a transaction.
func opSet(key string, v state.Value, change ...func(*state.SetRequest)) state.Operation {
	req := &state.SetRequest{Key: key, Value: v}
	for _, c := range change {
		c(req)
	}
	return state.Operation{Set: req}
}

func opDelete(key, etag string) state.Operation {
	return state.Operation{Delete: &state.DeleteRequest{Key: key, ETag: etag}}
}

func (s *suite) transact(t *testing.T, ops ...state.Operation) error {
	t.Helper()
	return s.tx.Transact(bounded(t), state.TransactionRequest{Operations: ops})
}

func (s *suite) commit(t *testing.T, ops ...state.Operation) {
	t.Helper()
	if err := s.transact(t, ops...); err != nil {
		t.Fatalf("Transact: %v", err)
	}
}

func (s *suite) transactions(t *testing.T) {
	s.parallel(t, "empty", func(t *testing.T) { s.commit(t) })
	s.parallel(t, "single", func(t *testing.T) {
		k := s.key(t, "k")
		s.commit(t, opSet(k, text("v")))
		s.expect(t, k, "v")
		s.commit(t, opDelete(k, ""))
		s.expectMissing(t, k)
		s.commit(t, opDelete(k, ""))
	})
	s.parallel(t, "several", func(t *testing.T) {
		raw, doc, gone := s.key(t, "raw"), s.key(t, "doc"), s.key(t, "gone")
		s.set(t, gone, text("v"))
		s.commit(t, opSet(raw, text("\xffraw")), opSet(doc, jsonText(`{"t":1}`)), opDelete(gone, ""), opDelete(s.key(t, "never"), ""))
		s.expect(t, raw, "\xffraw")
		if item := s.get(t, doc); !sameJSON(t, item.Data, []byte(`{"t":1}`)) {
			t.Errorf("JSON came back as %s", item.Data)
		}
		s.expectMissing(t, gone)
	})
	s.parallel(t, "order", func(t *testing.T) {
		twice, back, away := s.key(t, "twice"), s.key(t, "back"), s.key(t, "away")
		s.set(t, back, text("old"))
		s.commit(t, opSet(twice, text("1")), opSet(twice, text("2")),
			opDelete(back, ""), opSet(back, text("new")),
			opSet(away, text("v")), opDelete(away, ""))
		s.expect(t, twice, "2")
		s.expect(t, back, "new")
		s.expectMissing(t, away)
	})
	s.parallel(t, "etags", s.transactionETags)
	s.parallel(t, "rollback", s.rollback)
	s.parallel(t, "firstwrite", s.transactionFirstWrite)
	s.parallel(t, "ttl", s.transactionTTL)
	s.parallel(t, "cancelled", func(t *testing.T) {
		k := s.key(t, "k")
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		err := s.tx.Transact(ctx, state.TransactionRequest{Operations: []state.Operation{opSet(k, text("v")), opSet(s.key(t, "l"), text("v"))}})
		if !errors.Is(err, context.Canceled) {
			t.Errorf("Transact of a cancelled caller: %v, want context.Canceled", err)
		}
		s.expectMissing(t, k)
	})
}

func (s *suite) transactionETags(t *testing.T) {
	if !s.etags {
		t.Skip("the store has no etags")
	}
	k, l := s.key(t, "k"), s.key(t, "l")
	s.set(t, k, text("one"))
	s.set(t, l, text("one"))
	old := s.etag(t, k)
	s.commit(t, opSet(k, text("two"), withETag(old)), opDelete(l, s.etag(t, l)))
	s.expect(t, k, "two")
	s.expectMissing(t, l)
	if s.etag(t, k) == old {
		t.Errorf("the etag is still %q after a transaction", old)
	}
	// A transaction of one operation goes its own way in some stores.
	expectMismatch(t, "Transact of one set with an old etag", s.transact(t, opSet(k, text("three"), withETag(old))))
	expectMismatch(t, "Transact of one delete with an old etag", s.transact(t, opDelete(k, old)))
	s.expect(t, k, "two")
}

// rollback checks that nothing of a transaction stays when one of its operations fails.
func (s *suite) rollback(t *testing.T) {
	if !s.etags {
		t.Skip("the store has no etags to make an operation fail with")
	}
	before, failing, after, gone := s.key(t, "before"), s.key(t, "failing"), s.key(t, "after"), s.key(t, "gone")
	s.set(t, failing, text("one"))
	old := s.etag(t, failing)
	s.set(t, failing, text("two"))
	s.set(t, gone, text("still here"))
	for name, op := range map[string]state.Operation{
		"set":    opSet(failing, text("three"), withETag(old)),
		"delete": opDelete(failing, old),
	} {
		err := s.transact(t, opSet(before, text("v")), opDelete(gone, ""), op, opSet(after, text("v")))
		expectMismatch(t, "Transact with an old etag in a "+name, err)
		s.expect(t, failing, "two")
		if s.cfg.NoRollback {
			s.expect(t, before, "v")
			s.expect(t, after, "v")
			s.expectMissing(t, gone)
			continue
		}
		s.expectMissing(t, before)
		s.expectMissing(t, after)
		s.expect(t, gone, "still here")
	}
}

func (s *suite) transactionFirstWrite(t *testing.T) {
	if !s.etags {
		t.Skip("the store has no first-write")
	}
	k, l := s.key(t, "k"), s.key(t, "l")
	s.commit(t, opSet(k, text("one"), withConcurrency(state.FirstWrite)), opSet(l, text("one")))
	err := s.transact(t, opSet(l, text("two")), opSet(k, text("two"), withConcurrency(state.FirstWrite)))
	if s.cfg.FirstWriteIgnoredInTransactions {
		if err != nil {
			t.Errorf("Transact with a first-write, which is to be ignored: %v", err)
		}
		s.expect(t, k, "two")
		return
	}
	s.expectConflict(t, "Transact with a first-write over an item", err)
	s.expect(t, k, "one")
	if !s.cfg.NoRollback {
		s.expect(t, l, "one")
	}
}

func (s *suite) transactionTTL(t *testing.T) {
	if !s.ttl {
		t.Skip("the store has no expiry")
	}
	k, l, forever := s.key(t, "k"), s.key(t, "l"), s.key(t, "forever")
	s.set(t, l, text("v"), withTTL("3600"))
	s.set(t, forever, text("v"), withTTL("1"))
	ops := []state.Operation{opSet(k, text("v"), withTTL("1")), opSet(l, text("w"), withTTL("1"))}
	if !s.cfg.NonPositiveTTLExpires {
		ops = append(ops, opSet(forever, text("w"), withTTL("-1")))
	}
	s.commit(t, ops...)
	s.passes(t, time.Second, func() bool { return !s.get(t, k).Found && !s.get(t, l).Found })
	if !s.cfg.NonPositiveTTLExpires {
		s.expect(t, forever, "w")
	}
	if err := s.transact(t, opSet(k, text("x")), opSet(l, text("x"), withTTL("soon"))); err == nil {
		t.Error("Transact with a life of \"soon\" succeeded")
	}
}
