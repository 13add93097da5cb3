// Package suggest finds the name a person probably meant when they typed one that does not exist.
package suggest

import "strings"

// Nearest returns the candidate closest to word by edit distance, ignoring case, and whether it is close enough to be
// worth proposing: at most a third of the longer name may differ, and never more than three edits.
// Among equally close candidates the first wins.
func Nearest(word string, candidates []string) (string, bool) {
	w := strings.ToLower(word)
	best, bestDistance := "", 4
	for _, c := range candidates {
		limit := min(bestDistance-1, max(len(w), len(c))/3)
		if d := distance(w, strings.ToLower(c), limit); d <= limit {
			best, bestDistance = c, d
		}
	}
	return best, best != ""
}

// distance is the optimal string alignment distance (insertions, deletions, substitutions and swaps of neighbours)
// between a and b in bytes; any value above limit stands for "further than limit".
func distance(a, b string, limit int) int {
	if abs(len(a)-len(b)) > limit {
		return limit + 1
	}
	before, previous, current := make([]int, len(b)+1), make([]int, len(b)+1), make([]int, len(b)+1)
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
				current[j] = min(current[j], before[j-2]+1)
			}
		}
		before, previous, current = previous, current, before
	}
	return previous[len(b)]
}

func abs(n int) int {
	if n < 0 {
		return -n
	}
	return n
}
