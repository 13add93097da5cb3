package resource

import "strings"

// nearest returns the candidate closest to word, ignoring case, or "" when none is close enough to be a likely slip: at
// most one edit for short words, a third of the length (but no more than three) for longer ones.
func nearest(word string, candidates []string) string {
	const longest = 64 // nothing we know is longer; keeps the cost bounded for hostile input
	w := strings.ToLower(word)
	if len(w) == 0 || len(w) > longest {
		return ""
	}
	best, bestDistance := "", max(1, min(3, len(w)/3))+1
	for _, c := range candidates {
		if d := editDistance(w, strings.ToLower(c)); d < bestDistance {
			best, bestDistance = c, d
		}
	}
	return best
}

// editDistance counts insertions, deletions, substitutions and swaps of neighbours between a and b.
func editDistance(a, b string) int {
	previous2 := make([]int, len(b)+1)
	previous := make([]int, len(b)+1)
	current := make([]int, len(b)+1)
	for j := range previous {
		previous[j] = j
	}
	for i := 1; i <= len(a); i++ {
		current[0] = i
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			current[j] = min(previous[j]+1, current[j-1]+1, previous[j-1]+cost)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				current[j] = min(current[j], previous2[j-2]+1)
			}
		}
		previous2, previous, current = previous, current, previous2
	}
	return previous[len(b)]
}
