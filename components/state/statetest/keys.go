package statetest

import (
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// like lists all keys of a pattern, page by page when limit is not 0.
func (s *suite) like(t *testing.T, pattern string, limit int) []string {
	t.Helper()
	var all []string
	token := ""
	for pages := 0; ; pages++ {
		keys, next, err := s.keysLike.KeysLike(bounded(t), pattern, token, limit)
		if err != nil {
			t.Fatalf("KeysLike(%q, %q, %d): %v", pattern, token, limit, err)
		}
		if limit > 0 && len(keys) > limit {
			t.Errorf("KeysLike(%q, %q, %d) returned %d keys", pattern, token, limit, len(keys))
		}
		all = append(all, keys...)
		if next == "" {
			return all
		}
		if limit == 0 || next == token || pages > 1000 {
			t.Fatalf("KeysLike(%q, %q, %d) returned the token %q", pattern, token, limit, next)
		}
		token = next
	}
}

// escapeLike makes a pattern of text that matches just it.
func escapeLike(text string) string {
	return strings.NewReplacer(`\`, `\\`, `%`, `\%`, `_`, `\_`).Replace(text)
}

func (s *suite) testKeysLike(t *testing.T) {
	s.parallel(t, "patterns", s.likePatterns)
	s.parallel(t, "order", s.likeOrder)
	s.parallel(t, "pages", s.likePages)
	s.parallel(t, "expired", func(t *testing.T) {
		if !s.ttl {
			t.Skip("the store has no expiry")
		}
		s.set(t, s.key(t, "k"), text("v"), withTTL("1"))
		s.set(t, s.key(t, "stays"), text("v"))
		s.set(t, s.key(t, "later"), text("v"), withTTL("3600"))
		s.passes(t, time.Second, func() bool {
			got := s.like(t, escapeLike(s.key(t, ""))+"%", 0)
			slices.Sort(got)
			return slices.Equal(got, []string{s.key(t, "later"), s.key(t, "stays")})
		})
	})
}

func (s *suite) likePatterns(t *testing.T) {
	names := []string{"a", "ab", "abc", "b", "a%b", "a_b", `a\b`, "a*b", "a?b", "a[b", "axb", "a.b", "a||b", "a'b", "žluť", "line\nbreak"}
	for _, n := range names {
		s.set(t, s.key(t, n), text("v"))
	}
	for _, c := range []struct {
		pattern string
		want    []string
	}{
		{"%", names},
		{"a", []string{"a"}},
		{"none", nil},
		{"a%", []string{"a", "ab", "abc", "a%b", "a_b", `a\b`, "a*b", "a?b", "a[b", "axb", "a.b", "a||b", "a'b"}},
		{"a_", []string{"ab"}},
		{"a_b", []string{"a%b", "a_b", `a\b`, "a*b", "a?b", "a[b", "axb", "a.b", "a'b"}},
		{`a\_b`, []string{"a_b"}},
		{`a\%b`, []string{"a%b"}},
		{`a\\b`, []string{`a\b`}},
		{"a*b", []string{"a*b"}},
		{"a?b", []string{"a?b"}},
		{"a[b", []string{"a[b"}},
		{"a.b", []string{"a.b"}},
		{"a'b", []string{"a'b"}},
		{"%b", []string{"ab", "b", "a%b", "a_b", `a\b`, "a*b", "a?b", "a[b", "axb", "a.b", "a||b", "a'b"}},
		{"%||%", []string{"a||b"}},
		{"_", []string{"a", "b"}},
		{"_lu_", []string{"žluť"}},
		{"line%break", []string{"line\nbreak"}},
	} {
		got := s.like(t, escapeLike(s.key(t, ""))+c.pattern, 0)
		var want []string
		for _, n := range c.want {
			want = append(want, s.key(t, n))
		}
		slices.Sort(got)
		slices.Sort(want)
		if !slices.Equal(got, want) {
			t.Errorf("pattern %q listed %q, want %q", c.pattern, got, want)
		}
	}
	// The pattern is for the whole key.
	if got := s.like(t, "KeysLike-patterns||a", 0); len(got) != 0 {
		t.Errorf("a pattern that lacks the beginning of the keys listed %q", got)
	}
}

func (s *suite) likeOrder(t *testing.T) {
	if s.cfg.UnorderedKeys {
		t.Skip("the store lists in an order of its own")
	}
	var want []string
	for _, n := range []string{"c", "a", "d", "b"} {
		s.set(t, s.key(t, n), text("v"))
		want = append(want, s.key(t, n))
	}
	if s.cfg.KeysInKeyOrder {
		slices.Sort(want)
	}
	for _, limit := range []int{0, 1, 3} {
		if got := s.like(t, escapeLike(s.key(t, ""))+"%", limit); !slices.Equal(got, want) {
			t.Errorf("with limit %d the keys are %q, want %q", limit, got, want)
		}
	}
}

// likePages checks that pages of any size hold every key exactly once, and that keys deleted or added between two pages
// do no harm to the others.
func (s *suite) likePages(t *testing.T) {
	var want []string
	for i := range 25 {
		k := s.key(t, strconv.Itoa(100+i))
		s.set(t, k, text("v"))
		want = append(want, k)
	}
	pattern := escapeLike(s.key(t, "")) + "%"
	for _, limit := range []int{1, 2, 7, 24, 25, 26, 1000} {
		got := s.like(t, pattern, limit)
		slices.Sort(got)
		if !slices.Equal(got, want) {
			t.Errorf("pages of %d hold %q, want %q", limit, got, want)
		}
	}
	first, token, err := s.keysLike.KeysLike(bounded(t), pattern, "", 10)
	if err != nil || len(first) != 10 || token == "" {
		t.Fatalf("the first page of 10 has %d keys, token %q, error %v", len(first), token, err)
	}
	s.delete(t, first[3])
	rest, _, err := s.keysLike.KeysLike(bounded(t), pattern, token, 0)
	if err != nil {
		t.Fatalf("the rest: %v", err)
	}
	all := slices.Concat(first, rest)
	slices.Sort(all)
	if !slices.Equal(all, want) {
		t.Errorf("a key deleted from the first page changed the rest: in all %q, want %q", all, want)
	}
}

func (s *suite) deleteWithPrefix(t *testing.T) {
	base := s.key(t, "actor")
	s.set(t, base, text("v"))
	below := []string{base + "||a", base + "||b", base + "||", base + "||with space%_"}
	beside := []string{base, base + "||a||c", base + "x||a", s.key(t, "other") + "||a"}
	reset := func() {
		for _, k := range slices.Concat(below, beside) {
			s.set(t, k, text("v"))
		}
	}
	for _, prefix := range []string{base, base + "||"} {
		reset()
		n, err := s.prefix.DeleteWithPrefix(bounded(t), prefix)
		if err != nil || n != int64(len(below)) {
			t.Errorf("DeleteWithPrefix(%q) = %d, %v; want %d", prefix, n, err, len(below))
		}
		for _, k := range below {
			s.expectMissing(t, k)
		}
		for _, k := range beside {
			s.expect(t, k, "v")
		}
		if n, err = s.prefix.DeleteWithPrefix(bounded(t), prefix); err != nil || n != 0 {
			t.Errorf("the second DeleteWithPrefix(%q) = %d, %v", prefix, n, err)
		}
	}
	wild := s.key(t, "%")
	if n, err := s.prefix.DeleteWithPrefix(bounded(t), wild); err != nil || n != 0 {
		t.Errorf("DeleteWithPrefix(%q) = %d, %v; a prefix is no pattern", wild, n, err)
	}
}
