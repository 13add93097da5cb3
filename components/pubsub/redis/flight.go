package redis

import (
	"sync"
	"time"
)

// delivery is a message in hand: read, and not yet acknowledged or given up.
type delivery struct {
	sub *subscription
	id  string
	// data and metadata are the fields of the entry.
	data, metadata string
	// touched is when the server last counted the message as delivered; the flight's lock guards it.
	touched time.Time
}

// flight are the deliveries of one topic. A message is in it at most once, so no two handlers of this process have it at a time.
type flight struct {
	mu  sync.Mutex
	ids map[string]*delivery
}

// flight of a topic; b.mu is held.
func (b *Broker) flight(topic string) *flight {
	f := b.flights[topic]
	if f == nil {
		f = &flight{ids: map[string]*delivery{}}
		b.flights[topic] = f
	}
	return f
}

// add takes a delivery in, unless the message is in hand already.
func (f *flight) add(d *delivery) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if _, twice := f.ids[d.id]; twice {
		return false
	}
	f.ids[d.id] = d
	return true
}

func (f *flight) has(id string) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	_, found := f.ids[id]
	return found
}

// remove gives messages out of hand.
func (f *flight) remove(ids ...string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, id := range ids {
		delete(f.ids, id)
	}
}

// untouched returns the ids of s that the server has counted as delivered before the given time, and marks them as touched now.
func (f *flight) untouched(s *subscription, before, now time.Time) []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	var ids []string
	for id, d := range f.ids {
		if d.sub == s && d.touched.Before(before) {
			d.touched = now
			ids = append(ids, id)
		}
	}
	return ids
}

// leave removes all deliveries of s and returns their ids, without those in but.
func (f *flight) leave(s *subscription, but []string) []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, id := range but {
		delete(f.ids, id)
	}
	var ids []string
	for id, d := range f.ids {
		if d.sub == s {
			delete(f.ids, id)
			ids = append(ids, id)
		}
	}
	return ids
}
