package state

import (
	"strings"
	"testing"
)

func TestMatchLike(t *testing.T) {
	for _, c := range []struct {
		pattern, s string
		want       bool
	}{
		{"", "", true},
		{"", "a", false},
		{"a", "", false},
		{"%", "", true},
		{"%", "anything", true},
		{"%%", "x", true},
		{"a%", "a", true},
		{"a%", "abc", true},
		{"a%", "ba", false},
		{"%a", "bca", true},
		{"%a", "bcab", false},
		{"%ab%ab", "abxabyab", true},
		{"a%b%c", "a__b__b__c", true},
		{"a%b%c", "acb", false},
		{"_", "", false},
		{"_", "a", true},
		{"_", "ab", false},
		{"_", "ž", true},
		{"__", "ž", false},
		{"_", "\xff", true},
		{"%_", "🐎", true},
		{`\%`, "%", true},
		{`\%`, "a", false},
		{`\_`, "_", true},
		{`\_`, "a", false},
		{`\\`, `\`, true},
		{`a\`, `a\`, true},
		{`\a`, "a", true},
		{"A", "a", false},
	} {
		if got := MatchLike(c.pattern, c.s); got != c.want {
			t.Errorf("MatchLike(%q, %q) = %v", c.pattern, c.s, got)
		}
	}
}

func FuzzMatchLike(f *testing.F) {
	f.Add("a%b_c", "axxbyc")
	f.Add(`\%%`, "%a")
	f.Fuzz(func(t *testing.T, pattern, s string) {
		if len(pattern) > 200 || len(s) > 2000 {
			return
		}
		MatchLike(pattern, s)
		escaped := strings.NewReplacer(`\`, `\\`, `%`, `\%`, `_`, `\_`).Replace(s)
		if !MatchLike(escaped, s) || !MatchLike("%"+escaped+"%", s) {
			t.Errorf("%q does not match its own escaped text", s)
		}
		if MatchLike(escaped, s+"x") {
			t.Errorf("the escaped text of %q matches more", s)
		}
	})
}
