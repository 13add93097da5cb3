package resiliency

import (
	"container/list"
	"strings"
)

// lru keeps the values of the keys used last, up to a number of them. It is not safe for concurrent use.
type lru[V any] struct {
	size    int
	order   *list.List // the one used last in front
	entries map[string]*list.Element
}

type lruEntry[V any] struct {
	key   string
	value V
}

func newLRU[V any](size int) *lru[V] {
	return &lru[V]{size: size, order: list.New(), entries: make(map[string]*list.Element)}
}

// get returns the value of a key.
func (l *lru[V]) get(key string) (v V, ok bool) {
	element, ok := l.entries[key]
	if !ok {
		return v, false
	}
	l.order.MoveToFront(element)
	return element.Value.(*lruEntry[V]).value, true
}

// add adds the value of a key that get does not find; that of the key that was not used for longest may be forgotten for it. The key
// is the caller's own: it does not lie in the buffer of a request.
func (l *lru[V]) add(key string, value V) {
	if len(l.entries) >= l.size {
		oldest := l.order.Back()
		l.order.Remove(oldest)
		delete(l.entries, oldest.Value.(*lruEntry[V]).key)
	}
	l.entries[key] = l.order.PushFront(&lruEntry[V]{key, value})
}

// findOrAdd is get, or add of what create makes of the key.
func (l *lru[V]) findOrAdd(key string, create func(key string) V) V {
	if v, ok := l.get(key); ok {
		return v
	}
	key = strings.Clone(key)
	v := create(key)
	l.add(key, v)
	return v
}
