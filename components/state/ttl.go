package state

import (
	"fmt"
	"math"
	"strconv"
	"time"
)

// Metadata keys of requests and items (Dapr API, state: TTL and content type).
const (
	MetadataTTL           = "ttlInSeconds"
	MetadataTTLExpireTime = "ttlExpireTime"
	MetadataContentType   = "contentType"
	ContentTypeJSON       = "application/json"
)

// TTL is the life asked for an item.
type TTL struct {
	// Given is false when the metadata has no ttlInSeconds, or an empty one.
	Given bool
	// Seconds is the number given; 0 or less means the item never expires.
	Seconds int
}

// Expires reports whether the item is to expire at all.
func (t TTL) Expires() bool { return t.Given && t.Seconds > 0 }

// Duration is the life of an item that expires.
func (t TTL) Duration() time.Duration { return time.Duration(t.Seconds) * time.Second }

// ParseTTL reads ttlInSeconds from request metadata: an integer from -1 to 2147483647 (Dapr API, state: TTL).
func ParseTTL(metadata map[string]string) (TTL, error) {
	text, ok := metadata[MetadataTTL]
	if !ok || text == "" {
		return TTL{}, nil
	}
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil {
		return TTL{}, fmt.Errorf("incorrect value for metadata '%s': %q is not a whole number of seconds", MetadataTTL, text)
	}
	if n < -1 || n > math.MaxInt32 {
		return TTL{}, fmt.Errorf("incorrect value for metadata '%s': %d is outside the range from -1 to %d", MetadataTTL, n, math.MaxInt32)
	}
	return TTL{Given: true, Seconds: int(n)}, nil
}

// ExpireTime is the metadata of an item that expires at t: RFC 3339, in UTC, to the second.
func ExpireTime(t time.Time) map[string]string {
	return map[string]string{MetadataTTLExpireTime: t.UTC().Format(time.RFC3339)}
}
