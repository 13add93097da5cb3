package sidecar

import (
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

func TestExtendedMetadataIsBounded(t *testing.T) {
	var e extended
	half := strings.Repeat("x", maxExtended/2)
	for _, c := range []struct {
		key, value string
		fits       bool
	}{
		{"a", half, true},
		{"b", half, false}, // the keys count too
		{"b", half[2:], true},
		{"c", "", false},
		{"a", half[1:], true}, // a new value takes the place of the old
		{"c", "", true},
		{"d", "x", false},
		{"a", "small", true},
		{"d", "x", true},
	} {
		err := e.set(c.key, c.value)
		if (err == nil) != c.fits {
			t.Errorf("%s of %d bytes: %v", c.key, len(c.value), err)
		}
		if err != nil && (status.Code(err) != codes.ResourceExhausted || !strings.Contains(err.Error(), `"`+c.key+`"`)) {
			t.Errorf("%v", err)
		}
	}
	if got := e.all(); len(got) != 4 || got["a"] != "small" {
		t.Errorf("%d values", len(got))
	}
}
