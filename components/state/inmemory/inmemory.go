// Package inmemory is the state store state.in-memory: items live in the sidecar's memory and end with it.
package inmemory

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/jonboulle/clockwork"

	"outrigger.dev/components"
	"outrigger.dev/components/state"
)

// Register adds state.in-memory to r.
func Register(r *components.Registry) {
	state.Register(r, components.Info{
		Name:         "in-memory",
		Version:      "v1",
		Status:       components.Stable,
		Description:  "Keeps state in the memory of the sidecar, for development and tests: it is lost when the sidecar ends.",
		Capabilities: []string{"ETAG", "TRANSACTIONAL", "TTL", "DELETE_WITH_PREFIX", "KEYS_LIKE", "ACTOR"},
	}, func(_ context.Context, inst components.Instance, _ Options) (state.Store, error) {
		return New(inst.Clock), nil
	})
}

// Options are the metadata of state.in-memory, which has none.
type Options struct{}

// purgeInterval is how often expired items are freed. Reads do not wait for it: they never show an expired item.
const purgeInterval = time.Second

// Store is a state store in memory.
type Store struct {
	clock clockwork.Clock

	mu    sync.RWMutex
	items map[string]entry
	// expiring are the keys of items that have an end, so that the purge need not look at the others.
	expiring map[string]struct{}

	// wake tells the purge that there is something to wait for.
	wake chan struct{}
	stop chan struct{}
	done sync.WaitGroup
}

// entry is a stored item. Its data is never changed, only replaced.
type entry struct {
	data []byte
	etag string
	// expires is in Unix nanoseconds, 0 for never.
	expires int64
}

var (
	_ state.ETagStore     = (*Store)(nil)
	_ state.TTLStore      = (*Store)(nil)
	_ state.BulkGetter    = (*Store)(nil)
	_ state.Transactor    = (*Store)(nil)
	_ state.KeysLister    = (*Store)(nil)
	_ state.PrefixDeleter = (*Store)(nil)
)

// New makes an empty store that takes time from the clock. Close ends it.
func New(clock clockwork.Clock) *Store {
	s := &Store{
		clock:    clock,
		items:    map[string]entry{},
		expiring: map[string]struct{}{},
		wake:     make(chan struct{}, 1),
		stop:     make(chan struct{}),
	}
	s.done.Go(s.purgeLoop)
	return s
}

// Close ends the purge and frees the items.
func (s *Store) Close() error {
	close(s.stop)
	s.done.Wait()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.items, s.expiring = map[string]entry{}, map[string]struct{}{}
	return nil
}

// ETags reports that the store keeps versions.
func (s *Store) ETags() bool { return true }

// TTL reports that items can expire.
func (s *Store) TTL() bool { return true }

// Get returns the item under the key.
func (s *Store) Get(ctx context.Context, req state.GetRequest) (state.Item, error) {
	if err := ctx.Err(); err != nil {
		return state.Item{}, err
	}
	s.mu.RLock()
	e, ok := s.items[req.Key]
	s.mu.RUnlock()
	return s.item(e, ok), nil
}

// BulkGet returns the items under the keys, as they are at one moment.
func (s *Store) BulkGet(ctx context.Context, reqs []state.GetRequest) ([]state.BulkItem, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	items := make([]state.BulkItem, len(reqs))
	s.mu.RLock()
	defer s.mu.RUnlock()
	for i, r := range reqs {
		e, ok := s.items[r.Key]
		items[i] = state.BulkItem{Key: r.Key, Item: s.item(e, ok)}
	}
	return items, nil
}

func (s *Store) item(e entry, ok bool) state.Item {
	if !ok || s.expired(e) {
		return state.Item{}
	}
	item := state.Item{Found: true, Data: slices.Clone(e.data), ETag: e.etag, HasETag: true}
	if e.expires != 0 {
		item.Metadata = state.ExpireTime(time.Unix(0, e.expires))
	}
	return item
}

func (s *Store) expired(e entry) bool {
	return e.expires != 0 && e.expires <= s.clock.Now().UnixNano()
}

// Set writes one item.
func (s *Store) Set(ctx context.Context, req state.SetRequest) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	e, err := s.newEntry(req)
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.set(&req, e)
}

// newEntry makes the entry for a request, outside of the lock.
func (s *Store) newEntry(req state.SetRequest) (entry, error) {
	if err := req.Options.Validate(); err != nil {
		return entry{}, err
	}
	seconds, err := parseTTL(req.Metadata)
	if err != nil {
		return entry{}, err
	}
	data := req.Value.Bytes
	if req.Value.JSON {
		data = state.EscapeHTML(data)
	}
	e := entry{data: slices.Clone(data), etag: newETag()}
	if seconds > 0 {
		e.expires = s.clock.Now().Add(time.Duration(seconds) * time.Second).UnixNano()
	}
	return e, nil
}

// set puts e under the request's key if the request allows it. The lock is held.
func (s *Store) set(req *state.SetRequest, e entry) error {
	if err := s.checkETag(req.Key, req.ETag); err != nil {
		return err
	}
	if req.FirstWrite() {
		if old, ok := s.items[req.Key]; ok && !s.expired(old) {
			return state.Mismatch(errors.New("item already exists and no etag was passed"))
		}
	}
	s.put(req.Key, e)
	return nil
}

// put writes an entry and notes its end. The lock is held.
func (s *Store) put(key string, e entry) {
	s.items[key] = e
	if e.expires == 0 {
		delete(s.expiring, key)
		return
	}
	s.expiring[key] = struct{}{}
	if len(s.expiring) == 1 {
		select {
		case s.wake <- struct{}{}:
		default:
		}
	}
}

// checkETag refuses an etag that is not the stored one. The lock is held.
func (s *Store) checkETag(key, etag string) error {
	if etag == "" {
		return nil
	}
	old, ok := s.items[key]
	if !ok || s.expired(old) {
		return state.Mismatch(fmt.Errorf("state etag not match for key=%s: the key does not exist, expect=%s", key, etag))
	}
	if old.etag != etag {
		return state.Mismatch(fmt.Errorf("state etag not match for key=%s: current=%s, expect=%s", key, old.etag, etag))
	}
	return nil
}

// Delete removes one item.
func (s *Store) Delete(ctx context.Context, req state.DeleteRequest) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := req.Options.Validate(); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.delete(&req)
}

// delete removes an item if the request allows it. The lock is held.
func (s *Store) delete(req *state.DeleteRequest) error {
	if err := s.checkETag(req.Key, req.ETag); err != nil {
		return err
	}
	s.remove(req.Key)
	return nil
}

// remove frees an item. The lock is held.
func (s *Store) remove(key string) {
	delete(s.items, key)
	delete(s.expiring, key)
}

// Transact applies the operations in order, or none of them.
func (s *Store) Transact(ctx context.Context, req state.TransactionRequest) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	entries := make([]entry, len(req.Operations))
	for i, op := range req.Operations {
		var err error
		if op.Set != nil {
			entries[i], err = s.newEntry(*op.Set)
		} else {
			err = op.Delete.Options.Validate()
		}
		if err != nil {
			return err
		}
	}
	type before struct {
		entry
		existed bool
	}
	undo := make([]before, 0, len(entries))
	s.mu.Lock()
	defer s.mu.Unlock()
	for i, op := range req.Operations {
		old, existed := s.items[op.Key()]
		var err error
		if op.Set != nil {
			err = s.set(op.Set, entries[i])
		} else {
			err = s.delete(op.Delete)
		}
		if err == nil {
			undo = append(undo, before{old, existed})
			continue
		}
		for i, b := range slices.Backward(undo) {
			if key := req.Operations[i].Key(); b.existed {
				s.put(key, b.entry)
			} else {
				s.remove(key)
			}
		}
		return err
	}
	return nil
}

// KeysLike lists keys in their order. The token is the last key of the page before.
func (s *Store) KeysLike(ctx context.Context, pattern, token string, limit int) (keys []string, next string, err error) {
	if err := ctx.Err(); err != nil {
		return nil, "", err
	}
	s.mu.RLock()
	for k, e := range s.items {
		if k > token && !s.expired(e) && state.MatchLike(pattern, k) {
			keys = append(keys, k)
		}
	}
	s.mu.RUnlock()
	slices.Sort(keys)
	if limit > 0 && len(keys) > limit {
		keys = keys[:limit]
		next = keys[limit-1]
	}
	return keys, next, nil
}

// DeleteWithPrefix removes the keys directly below the prefix.
func (s *Store) DeleteWithPrefix(ctx context.Context, prefix string) (deleted int64, err error) {
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	if !strings.HasSuffix(prefix, "||") {
		prefix += "||"
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for k, e := range s.items {
		if below, ok := strings.CutPrefix(k, prefix); !ok || strings.Contains(below, "||") {
			continue
		}
		if !s.expired(e) {
			deleted++
		}
		s.remove(k)
	}
	return deleted, nil
}

// purgeLoop frees expired items every second while there are items that can expire.
func (s *Store) purgeLoop() {
	for {
		select {
		case <-s.stop:
			return
		case <-s.wake:
		}
		ticker := s.clock.NewTicker(purgeInterval)
		for s.purge() > 0 {
			select {
			case <-s.stop:
				ticker.Stop()
				return
			case <-ticker.Chan():
			}
		}
		ticker.Stop()
	}
}

// purge frees expired items and returns how many may still expire.
func (s *Store) purge() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	for k := range s.expiring {
		if s.expired(s.items[k]) {
			s.remove(k)
		}
	}
	return len(s.expiring)
}

// parseTTL reads the life in seconds. Unlike other stores this one takes any negative number for no expiry, and tells of
// other text in the words of the number parser (Dapr API, state: TTL).
func parseTTL(metadata map[string]string) (seconds int, err error) {
	text := metadata[state.MetadataTTL]
	if text == "" {
		return 0, nil
	}
	n, err := strconv.Atoi(text)
	if err != nil {
		return 0, err
	}
	if n < 0 {
		return 0, nil
	}
	ttl, err := state.ParseTTL(metadata)
	return ttl.Seconds, err
}

// newETag makes a random UUID, version 4. It only has to be different, not secret.
func newETag() string {
	var raw [16]byte
	for i, word := range [2]uint64{rand.Uint64(), rand.Uint64()} {
		for j := range 8 {
			raw[8*i+j] = byte(word >> (8 * j))
		}
	}
	raw[6] = raw[6]&0x0f | 0x40
	raw[8] = raw[8]&0x3f | 0x80
	var text [36]byte
	hex.Encode(text[0:8], raw[0:4])
	hex.Encode(text[9:13], raw[4:6])
	hex.Encode(text[14:18], raw[6:8])
	hex.Encode(text[19:23], raw[8:10])
	hex.Encode(text[24:], raw[10:])
	text[8], text[13], text[18], text[23] = '-', '-', '-', '-'
	return string(text[:])
}
