package redis

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/redis/rueidis"

	"outrigger.dev/components/state"
)

// scanCount is how many keys the server looks at per step of a listing.
const scanCount = 1000

// KeysLike lists keys in their order. The token is the last key of the page before. Each page looks at all keys of the
// database, for Redis keeps them in no order.
func (s *Store) KeysLike(ctx context.Context, pattern, token string, limit int) (keys []string, next string, err error) {
	nodes := []rueidis.Client{s.client.Client}
	if s.client.Mode() == rueidis.ClientModeCluster {
		nodes = nodes[:0]
		for _, node := range s.client.Nodes() {
			nodes = append(nodes, node)
		}
	}
	match := globOf(pattern)
	for _, node := range nodes {
		var cursor uint64
		for {
			page, err := node.Do(ctx, node.B().Scan().Cursor(cursor).Match(match).Count(scanCount).Build()).AsScanEntry()
			if err != nil {
				return nil, "", fmt.Errorf("failed to list keys like %q: %w", pattern, err)
			}
			for _, k := range page.Elements {
				if k > token && state.MatchLike(pattern, k) {
					keys = append(keys, k)
				}
			}
			if cursor = page.Cursor; cursor == 0 {
				break
			}
		}
	}
	slices.Sort(keys)
	keys = slices.Compact(keys) // A scan may return a key more than once, and replicas return those of their masters.
	if limit > 0 && len(keys) > limit {
		keys = keys[:limit]
		next = keys[limit-1]
	}
	return keys, next, nil
}

// globOf makes a pattern of Redis that matches at least what the LIKE pattern matches. It can be wider, for ? is one byte
// and _ one character.
func globOf(like string) string {
	var glob strings.Builder
	for i := 0; i < len(like); i++ {
		c := like[i]
		switch c {
		case '%':
			glob.WriteByte('*')
			continue
		case '_':
			glob.WriteString("?*")
			continue
		case '\\':
			if i+1 < len(like) {
				i++
				c = like[i]
			}
		}
		if strings.IndexByte(`*?[]^\`, c) >= 0 {
			glob.WriteByte('\\')
		}
		glob.WriteByte(c)
	}
	return glob.String()
}
