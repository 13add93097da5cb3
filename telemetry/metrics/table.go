package metrics

import (
	"maps"
	"strings"
	"sync"
	"sync/atomic"
)

// table finds a value by a comparable key without a lock and without allocating, as long as the key has been seen before. It is a
// typed sync.Map for entries that are never removed: readers look in a published map that nobody writes to; new entries gather
// behind a mutex, and the published map is renewed each time the misses since the last time have paid for the copy.
type table[K comparable, V any] struct {
	limit int // most entries, 0 for any number
	read  atomic.Pointer[map[K]V]

	mu     sync.Mutex
	all    map[K]V
	misses int
}

func newTable[K comparable, V any](limit int) *table[K, V] {
	t := &table[K, V]{limit: limit, all: make(map[K]V)}
	t.publish()
	return t
}

// get finds a published entry. An entry just added may not be published yet; [table.add] then finds it.
func (t *table[K, V]) get(k K) (V, bool) {
	v, ok := (*t.read.Load())[k]
	return v, ok
}

// full says that no entry will be added any more. All entries are published then, so that a miss in get is final.
func (t *table[K, V]) full() bool {
	return t.limit > 0 && len(*t.read.Load()) >= t.limit
}

// add returns the entry of k, made by create if there is none. It returns false if the table is full and k is not in it.
func (t *table[K, V]) add(k K, create func(K) V) (V, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	v, ok := t.all[k]
	if !ok {
		if t.limit > 0 && len(t.all) >= t.limit {
			return v, false
		}
		v = create(k)
		t.all[k] = v
	}
	t.misses++
	if 2*t.misses >= len(t.all) || len(t.all) == t.limit {
		t.publish()
	}
	return v, true
}

// publish renews the map that readers see. The caller holds mu, or is the only one to know t.
func (t *table[K, V]) publish() {
	m := maps.Clone(t.all)
	t.read.Store(&m)
	t.misses = 0
}

// seriesKey is the set of label values that tells the series of a family apart.
type seriesKey[K any] interface {
	comparable
	// owned is the same key with strings that stay valid: a caller may hand in strings that lie in a request's buffer.
	owned() K
	// blank is the key under which everything is counted that comes when the family is full. It has no label left that
	// other parties can choose freely.
	blank() K
}

// maxLabel is how much of a label value is kept, in bytes. Clients choose paths, topics and operations as long as a request may be, and
// a histogram repeats its labels some forty times.
const maxLabel = 256

// own is a label value that stays valid, cut to [maxLabel].
func own(value string) string { return strings.Clone(value[:min(len(value), maxLabel)]) }

// family holds the series of one subject. After limit distinct keys, new ones are counted under their blank form: label values
// such as a caller's app id or a method name come from outside, and without a bound anybody could fill the memory of the sidecar,
// and of the Prometheus server behind it, with series.
type family[K seriesKey[K], V any] struct {
	known  *table[K, V]
	spill  *table[K, V]
	create func(K) V
	// fold gives keys whose series are exposed alike one form, and folded has the series of such forms; nil if no rule touches them. So a
	// rule that folds many values into one keeps them from using up the limit.
	fold   func(K) K
	folded *table[K, V]
}

// foldedBy has the family fold keys, unless fold is nil.
func (f *family[K, V]) foldedBy(limit int, fold func(K) K) *family[K, V] {
	if fold != nil {
		f.fold, f.folded = fold, newTable[K, V](limit)
	}
	return f
}

func newFamily[K seriesKey[K], V any](limit int, create func(K) V) *family[K, V] {
	return &family[K, V]{known: newTable[K, V](limit), spill: newTable[K, V](0), create: create}
}

// find is the series of a key.
func (f *family[K, V]) find(k K) V {
	if v, ok := f.known.get(k); ok {
		return v
	}
	return f.miss(k)
}

func (f *family[K, V]) miss(k K) V {
	if f.fold != nil {
		if v, ok := f.missFolded(k.owned()); ok {
			return v
		}
	} else if !f.known.full() {
		if v, ok := f.known.add(k.owned(), f.create); ok {
			return v
		}
	}
	k = k.blank()
	if v, ok := f.spill.get(k); ok {
		return v
	}
	v, _ := f.spill.add(k.owned(), f.create)
	return v
}

// missFolded is the series that keys which are exposed like k share. It is false when there are too many of such.
func (f *family[K, V]) missFolded(k K) (V, bool) {
	form := f.fold(k)
	v, ok := f.folded.get(form)
	if !ok {
		if f.folded.full() {
			return v, false
		}
		if v, ok = f.folded.add(form, func(K) V { return f.create(k) }); !ok {
			return v, false
		}
	}
	if !f.known.full() { // too many keys to remember each are not too many series
		f.known.add(k, func(K) V { return v })
	}
	return v, true
}
