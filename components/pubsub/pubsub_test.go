package pubsub

import (
	"errors"
	"math"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

func TestTTL(t *testing.T) {
	for _, test := range []struct {
		metadata map[string]string
		ttl      time.Duration
		ok       bool
	}{
		{nil, 0, false},
		{map[string]string{"ttlInSeconds": "10"}, 10 * time.Second, true},
		{map[string]string{"TTLINSECONDS": "1h"}, time.Hour, true},
		{map[string]string{"ttl": "5s", "ttlInSeconds": "10"}, 5 * time.Second, true},
		{map[string]string{"Ttl": "-5s"}, 0, true},
		{map[string]string{"ttl": "0"}, 0, false},
		{map[string]string{"ttl": "-3"}, 0, false},
		{map[string]string{"ttl": "soon"}, 0, false},
		{map[string]string{"ttl": "9223372036854775807"}, math.MaxInt64, true},
		{map[string]string{"ttl": "99999999999999999999"}, math.MaxInt64, true},
		{map[string]string{"ttl": "-99999999999999999999"}, 0, false},
	} {
		ttl, ok := TTL(test.metadata)
		if ttl != test.ttl || ok != test.ok {
			t.Errorf("%v: %v %v, want %v %v", test.metadata, ttl, ok, test.ttl, test.ok)
		}
	}
}

func TestErrorClasses(t *testing.T) {
	cause := errors.New("no route to host")
	for _, test := range []struct {
		err  error
		code codes.Code
	}{{Transient(cause), codes.Unavailable}, {Terminal(cause), codes.FailedPrecondition}, {ErrClosed, codes.FailedPrecondition}, {Transient(Terminal(cause)), codes.FailedPrecondition}} {
		if s, ok := status.FromError(test.err); !ok || s.Code() != test.code {
			t.Errorf("%v has code %v, want %v", test.err, s.Code(), test.code)
		}
	}
	if !errors.Is(Transient(cause), cause) || Transient(nil) != nil {
		t.Error("the cause is lost, or nil is not nil")
	}
}
