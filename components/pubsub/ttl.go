package pubsub

import (
	"math"
	"strconv"
	"strings"
	"time"
)

// TTL is how long a message lives by its metadata: ttl, or ttlInSeconds, in any case; a Go duration, or a whole number of
// seconds. A negative duration is 0, a number too large is the longest duration. ok is false without a usable value (Dapr
// API, publish: message TTL).
func TTL(metadata map[string]string) (ttl time.Duration, ok bool) {
	for _, name := range [...]string{"ttl", "ttlInSeconds"} {
		value, found := metadata[name]
		if !found {
			for k, v := range metadata {
				if strings.EqualFold(k, name) {
					value, found = v, true
					break
				}
			}
		}
		if found && value != "" {
			return parseTTL(value)
		}
	}
	return 0, false
}

func parseTTL(value string) (time.Duration, bool) {
	seconds, err := strconv.ParseInt(value, 10, 64)
	if err != nil {
		if numError, ok := err.(*strconv.NumError); ok && numError.Err == strconv.ErrRange && !strings.HasPrefix(value, "-") {
			return math.MaxInt64, true
		}
		d, err := time.ParseDuration(value)
		return max(0, d), err == nil
	}
	switch {
	case seconds <= 0:
		return 0, false
	case seconds > math.MaxInt64/int64(time.Second):
		return math.MaxInt64, true
	}
	return time.Duration(seconds) * time.Second, true
}
