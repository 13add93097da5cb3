package outbox

import "sync"

// remembered is the number of events that a consumer knows to be done with.
const remembered = 1024

// finished remembers the latest events that were published and have no marker any more. A broker may deliver such an event
// again, when the acknowledgement is lost with a connection; without this memory it would never find the marker and come
// again and again.
type finished struct {
	mu     sync.Mutex
	marks  map[string]struct{}
	latest []string
	// oldest is the position in latest that is overwritten next, once it is full.
	oldest int
}

func (f *finished) add(marker string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.marks == nil {
		f.marks = map[string]struct{}{}
	}
	f.marks[marker] = struct{}{}
	if len(f.latest) < remembered {
		f.latest = append(f.latest, marker)
		return
	}
	delete(f.marks, f.latest[f.oldest])
	f.latest[f.oldest] = marker
	f.oldest = (f.oldest + 1) % remembered
}

func (f *finished) has(marker string) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	_, ok := f.marks[marker]
	return ok
}
