package nameresolution

import (
	"sync"
	"time"
)

// Suspects are addresses that calls have failed at, which are avoided for a while. The zero value is empty and ready to use; the
// methods are safe for concurrent use.
type Suspects struct {
	mu    sync.Mutex
	until map[string]time.Time
}

// manySuspects bounds them.
const manySuspects = 256

// Add avoids an address from now on for as long as life.
func (s *Suspects) Add(address string, now time.Time, life time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.until == nil {
		s.until = map[string]time.Time{}
	}
	if len(s.until) >= manySuspects {
		for a, until := range s.until {
			if !now.Before(until) {
				delete(s.until, a)
			}
		}
	}
	if len(s.until) < manySuspects {
		s.until[address] = now.Add(life)
	}
}

// Trusted are the addresses that no call has failed at lately, or all if there are none.
func (s *Suspects) Trusted(addresses []string, now time.Time) []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.until) == 0 {
		return addresses
	}
	var trusted []string
	for _, a := range addresses {
		if until, ok := s.until[a]; !ok || !now.Before(until) {
			trusted = append(trusted, a)
		}
	}
	if len(trusted) == 0 {
		return addresses
	}
	return trusted
}
