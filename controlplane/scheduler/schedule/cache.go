package schedule

import "sync"

// mostCached bounds a cache: schedules come from clients, who may make up a new one for every job.
const mostCached = 4096

// Cache reads schedules and keeps them, so that jobs with equal schedules share one and a time zone is not read from disk for
// each. Its zero value is ready to use, by any number of goroutines.
type Cache struct {
	mu    sync.RWMutex
	known map[string]*Schedule
}

// Parse is [Parse].
func (c *Cache) Parse(text string) (*Schedule, error) {
	c.mu.RLock()
	s := c.known[text]
	c.mu.RUnlock()
	if s != nil {
		return s, nil
	}
	s, err := Parse(text)
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.known == nil || len(c.known) >= mostCached {
		c.known = make(map[string]*Schedule)
	}
	c.known[text] = s
	return s, nil
}
