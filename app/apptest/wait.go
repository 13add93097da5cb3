package apptest

import (
	"testing"
	"time"
)

// patience is how long a test waits for what must happen: long enough for a slow machine.
const patience = 20 * time.Second

// Until waits for a condition. The test fails when it does not come true within 20 seconds; what completes "waited too long until".
func Until(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !ok(); {
		if time.Now().After(deadline) {
			t.Fatalf("waited too long until %s", what)
		}
		time.Sleep(time.Millisecond)
	}
}

// Receive receives from a channel. The test fails when nothing comes within 20 seconds; what completes "waited too long for".
func Receive[T any](t testing.TB, what string, c <-chan T) T {
	t.Helper()
	select {
	case v := <-c:
		return v
	case <-time.After(patience):
		t.Fatalf("waited too long for %s", what)
		panic("unreachable")
	}
}
