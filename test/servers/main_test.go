package servers

import (
	"context"
	"os"
	"testing"
	"time"
)

// childVariable makes the test binary play a part in a test of itself, instead of running tests.
const childVariable = "OUTRIGGER_SERVERS_TEST_CHILD"

func TestMain(m *testing.M) {
	if part := os.Getenv(childVariable); part != "" {
		playChild(part)
	}
	Main(m)
}

// within is a context for one step of a test.
func within(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	t.Cleanup(cancel)
	return ctx
}

// measured logs how long a server took, as fast starts are what this package is for.
func measured[T any](t *testing.T, what string, start func() T) T {
	t.Helper()
	began := time.Now()
	s := start()
	t.Logf("%s: %d ms", what, time.Since(began).Milliseconds())
	return s
}
