package accesscontrol

import (
	"regexp"
	"strings"
	"testing"
)

// naive finds the rule of an operation without a tree: at each level it looks through all patterns that still share their
// beginning with the way taken, in the order of the list. The result is the index of the pattern, -1 for none.
func naive(patterns []string, operation string) int {
	var split [][]string
	for _, p := range patterns {
		split = append(split, strings.Split(p, "/")[1:])
	}
	var taken []string
	shares := func(p []string) bool {
		if len(p) < len(taken) {
			return false
		}
		for i := range taken {
			if p[i] != taken[i] {
				return false
			}
		}
		return true
	}
	ends := func(way []string) int {
		for i, p := range split {
			if strings.Join(p, "/") == strings.Join(way, "/") && len(p) == len(way) {
				return i
			}
		}
		return -1
	}
	segments := strings.Split(operation, "/")[1:]
	for i, segment := range segments {
		found := false
		for _, p := range split {
			if !shares(p) || len(p) == len(taken) {
				continue
			}
			next := p[len(taken)]
			fits := next == segment || next == "**"
			if !fits && next == "*" {
				fits = i == len(segments)-1
			} else if !fits && strings.Contains(next, "*") {
				expression := strings.ReplaceAll(regexp.QuoteMeta(next), `\*`, ".*")
				fits = regexp.MustCompile("(?s)^" + expression + "$").MatchString(segment)
			}
			if fits {
				taken, found = append(taken[:len(taken):len(taken)], next), true
				break
			}
		}
		if !found {
			return -1
		}
		if at := ends(taken); at >= 0 {
			return at
		}
	}
	for _, p := range split {
		if shares(p) && len(p) > len(taken) && (p[len(taken)] == "*" || p[len(taken)] == "**") {
			return ends(append(taken[:len(taken):len(taken)], p[len(taken)]))
		}
	}
	return -1
}

func FuzzTree(f *testing.F) {
	f.Add("/a/*\n/a/b\n/**/c\n/*", "/a/b")
	f.Add("/a*b*c\n/**", "/abc/d")
	f.Add("/a/**/b\n/a/*", "/a")
	f.Add("//\n/", "//")
	f.Add("/a/*/b\n/a/***", "/a/*/b/c")
	f.Fuzz(func(t *testing.T, list, operation string) {
		// Invalid UTF-8 is no part of YAML, and regexp, which stands for the definition of a glob, sees it otherwise.
		if len(list) > 300 || strings.ToValidUTF8(list, "") != list || strings.ToValidUTF8(operation, "") != operation {
			return
		}
		var tree node
		var patterns []string
		rules := map[*rule]int{}
		for i, p := range strings.Split(list, "\n") {
			p = slashed(p)
			patterns = append(patterns, p)
			r := &rule{}
			rules[r] = i
			tree.add(p, r)
		}
		operation = slashed(operation)
		got := -1
		if r := tree.find(operation); r != nil {
			got = rules[r]
		}
		if want := naive(patterns, operation); got != want {
			t.Errorf("%q in %q: rule %d, want %d", operation, patterns, got, want)
		}
	})
}
