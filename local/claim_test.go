package local

import (
	"os"
	"sync"
	"testing"
	"time"
)

// Directories that choose at the same time get different ports, though none of them listens yet.
func TestConcurrentChoices(t *testing.T) {
	t.Setenv("TMPDIR", t.TempDir())
	// All begin to look at the same place.
	taken := map[int]bool{}
	var mu sync.Mutex
	var group sync.WaitGroup
	for i := range 8 {
		group.Go(func() {
			for port := 22990; port < 23000; port++ {
				if claim(string(rune('a'+i)), port) {
					mu.Lock()
					defer mu.Unlock()
					if taken[port] {
						t.Errorf("two have claimed port %d", port)
					}
					taken[port] = true
					return
				}
			}
			t.Error("no port was left")
		})
	}
	group.Wait()
}

func TestClaim(t *testing.T) {
	t.Setenv("TMPDIR", t.TempDir())
	for range 2 {
		if !claim("a", 1) {
			t.Error("a directory does not get its own claim again")
		}
	}
	if claim("b", 1) {
		t.Error("two directories have claimed one port")
	}
	old := time.Now().Add(-2 * claimLife)
	if err := os.Chtimes(claimFile(1), old, old); err != nil {
		t.Fatal(err)
	}
	if !claim("b", 1) || claim("a", 1) {
		t.Error("a claim that is out of date can be taken over")
	}
	release(1)
	if !claim("a", 1) {
		t.Error("a claim that was released can be taken")
	}
}
