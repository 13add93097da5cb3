package suggest

import (
	"strings"
	"testing"
)

func TestNearest(t *testing.T) {
	fields := []string{"redisHost", "redisPassword", "tableName", "ttlInSeconds", "url"}
	for _, c := range []struct {
		word, want string
		found      bool
	}{
		{"redisHots", "redisHost", true},
		{"REDISHOST", "redisHost", true},
		{"redis_host", "redisHost", true},
		{"tablename2", "tableName", true},
		{"ttlInSecond", "ttlInSeconds", true},
		{"url", "url", true},
		{"ulr", "url", true},
		{"uri", "url", true},
		{"completelyOther", "", false},
		{"", "", false},
		{"tabelName", "tableName", true},
		{strings.Repeat("x", 1000), "", false},
	} {
		got, found := Nearest(c.word, fields)
		if got != c.want || found != c.found {
			t.Errorf("Nearest(%q) = %q, %v; want %q, %v", c.word, got, found, c.want, c.found)
		}
	}
}
