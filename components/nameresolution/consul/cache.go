package consul

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"hash/maphash"
	"math/rand/v2"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// The times and bounds of the cache.
const (
	// firstBackOff and lastBackOff are the pauses after the watcher failed (Dapr API, Consul name resolver: useCache).
	firstBackOff = 5 * time.Second
	lastBackOff  = 180 * time.Second
	// rereadEvery is how often services are read of whose health nothing tells.
	rereadEvery = 20 * time.Second
	// idleFor is after how long an app that nobody asks for is dropped.
	idleFor = 15 * time.Minute
	// manyApps bounds the apps that are watched, manyNames those that a query names: with more it asks for all.
	manyApps  = 4096
	manyNames = 32
	// readers is how many services are read at the same time.
	readers = 8
	// roundEvery is the least time between two rounds without anything new asked for: in a large cluster something
	// changes all the time.
	roundEvery = 200 * time.Millisecond
)

// cache keeps the addresses of the apps that were asked for. One goroutine, the watcher, waits at Consul for changes of the
// health of any of them and reads the services that have changed. While it cannot, the cache is empty and callers ask Consul.
type cache struct {
	r      *Resolver
	cancel context.CancelFunc
	ctx    context.Context
	wg     sync.WaitGroup
	seed   maphash.Seed

	mu   sync.RWMutex
	apps map[string]*entry
	// wake ends the wait for changes, so that a new or doubtful app is looked at; nil while there is none.
	wake context.CancelFunc
	// pending: something has to be looked at.
	pending bool
	// changed is closed, and replaced, when there is something to look at.
	changed chan struct{}
}

// entry is an app that is watched.
type entry struct {
	addresses atomic.Pointer[[]string] // nil or empty while not known
	used      atomic.Bool
	// What follows belongs to the watcher.
	health    uint64 // sum of what was last seen of its health
	unwatched bool
	read      bool
	readAt    time.Time
	usedAt    time.Time
}

func newCache(r *Resolver) *cache {
	c := &cache{r: r, seed: maphash.MakeSeed(), apps: map[string]*entry{}, changed: make(chan struct{})}
	c.ctx, c.cancel = context.WithCancel(context.Background())
	c.wg.Go(c.watch)
	return c
}

func (c *cache) close() {
	c.cancel()
	c.wg.Wait()
}

// pick is one of the addresses of an app, at random.
func (c *cache) pick(id string) (string, bool) {
	c.mu.RLock()
	e := c.apps[id]
	c.mu.RUnlock()
	if e == nil {
		return "", false
	}
	if !e.used.Load() {
		e.used.Store(true)
	}
	list := e.addresses.Load()
	if list == nil || len(*list) == 0 {
		return "", false
	}
	addresses := c.r.suspects.Trusted(*list, c.r.clock.Now())
	return addresses[rand.IntN(len(addresses))], true
}

// want has an app watched that is not yet.
func (c *cache) want(id string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.apps[id] != nil || len(c.apps) >= manyApps {
		return
	}
	c.apps[id] = &entry{}
	c.stir()
}

// forget empties what is known of an app and has it read again.
func (c *cache) forget(id string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if e := c.apps[id]; e != nil && e.addresses.Swap(nil) != nil {
		c.stir()
	}
}

// stir ends the watcher's wait. The lock is held.
func (c *cache) stir() {
	c.pending = true
	if c.wake != nil {
		c.wake()
	}
	close(c.changed)
	c.changed = make(chan struct{})
}

// watch is the watcher.
func (c *cache) watch() {
	var index uint64
	backOff := firstBackOff
	for c.ctx.Err() == nil {
		began := c.r.clock.Now()
		apps, ctx, done, changed, fresh := c.begin()
		if len(apps) == 0 {
			done()
			select {
			case <-changed:
			case <-c.ctx.Done():
			}
			continue
		}
		if fresh {
			index = 0 // so that the round is answered at once
		}
		next, err := c.round(ctx, apps, index)
		stirred := ctx.Err() != nil
		done()
		switch {
		case c.ctx.Err() != nil:
			return
		case stirred:
		case err != nil:
			c.empty()
			c.r.log.Warn("cannot follow the changes of services in Consul; it is asked directly until that works again", "error", err, "retryIn", backOff)
			c.sleep(backOff, nil)
			index, backOff = 0, min(2*backOff, lastBackOff)
		default:
			if next < index { // the cluster was made anew
				next = 0
			}
			index, backOff = next, firstBackOff
			c.sleep(roundEvery-c.r.clock.Since(began), changed)
		}
	}
}

// sleep waits for d, or less when changed is closed or the cache is.
func (c *cache) sleep(d time.Duration, changed <-chan struct{}) {
	if d <= 0 {
		return
	}
	t := c.r.clock.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.Chan():
	case <-changed:
	case <-c.ctx.Done():
	}
}

// begin is the start of a round: the apps to watch, and a context that ends, as changed does, when there is something new to
// look at; fresh when there is already.
func (c *cache) begin() (apps map[string]*entry, ctx context.Context, done func(), changed <-chan struct{}, fresh bool) {
	now := c.r.clock.Now()
	c.mu.Lock()
	defer c.mu.Unlock()
	apps = make(map[string]*entry, len(c.apps))
	for id, e := range c.apps {
		if e.usedAt.IsZero() || e.used.Swap(false) {
			e.usedAt = now
		} else if now.Sub(e.usedAt) >= idleFor {
			delete(c.apps, id)
			continue
		}
		apps[id] = e
	}
	fresh, c.pending = c.pending, false
	ctx, cancel := context.WithCancel(c.ctx)
	c.wake = cancel
	return apps, ctx, func() {
		c.mu.Lock()
		c.wake = nil
		c.mu.Unlock()
		cancel()
	}, c.changed, fresh
}

// empty makes callers ask Consul themselves.
func (c *cache) empty() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, e := range c.apps {
		e.addresses.Store(nil)
		e.read = false
	}
}

// healthState is one check in an answer of Consul's health API.
type healthState struct {
	Node, CheckID, Status, ServiceID, ServiceName string
	ModifyIndex                                   uint64
}

// round waits for a change after index and reads the services that it concerns.
func (c *cache) round(ctx context.Context, apps map[string]*entry, index uint64) (next uint64, err error) {
	states, next, err := c.states(ctx, apps, index)
	if err != nil {
		return 0, err
	}
	health := make(map[string]uint64, len(apps))
	var h maphash.Hash
	h.SetSeed(c.seed)
	for i := range states {
		s := &states[i]
		if apps[s.ServiceName] == nil {
			continue
		}
		h.Reset()
		for _, text := range []string{s.Node, s.CheckID, s.Status, s.ServiceID, strconv.FormatUint(s.ModifyIndex, 10)} {
			_, _ = h.WriteString(text)
			_ = h.WriteByte(0)
		}
		health[s.ServiceName] += h.Sum64() | 1 // a sum, as the order does not matter
	}
	now := c.r.clock.Now()
	var stale []string
	for id, e := range apps {
		list := e.addresses.Load()
		if !e.read || list == nil || e.health != health[id] || (e.unwatched || health[id] == 0) && now.Sub(e.readAt) >= rereadEvery {
			stale = append(stale, id)
		}
	}
	return next, c.reread(ctx, apps, health, stale)
}

// reread reads services and keeps what it finds. An app without healthy instances is no failure.
func (c *cache) reread(ctx context.Context, apps map[string]*entry, health map[string]uint64, stale []string) error {
	var wg sync.WaitGroup
	errs := make([]error, min(readers, len(stale)))
	for n := range errs {
		wg.Go(func() {
			for i := n; i < len(stale); i += len(errs) {
				id := stale[i]
				e := apps[id]
				f, err := c.r.find(ctx, id, true)
				if _, about := errors.AsType[*appError](err); about {
					e.addresses.Store(nil)
					f = &found{}
				} else if err != nil {
					errs[n] = err
					return
				}
				e.health, e.unwatched, e.read, e.readAt = health[id], f.unwatched, true, c.r.clock.Now()
				if len(f.addresses) > 0 {
					e.addresses.Store(&f.addresses)
				}
			}
		})
	}
	wg.Wait()
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

// states waits until the health of one of the apps may have changed since index, 0 for not at all, or the time is up.
func (c *cache) states(ctx context.Context, apps map[string]*entry, index uint64) ([]healthState, uint64, error) {
	q := &c.r.settings.query
	wait := q.wait(&c.r.settings.client)
	for _, e := range apps {
		// An app that nothing tells about, or that is not there now and may come back without checks, is looked at again.
		if e.unwatched || e.addresses.Load() == nil || e.health == 0 {
			wait = min(wait, rereadEvery)
		}
	}
	query := url.Values{"index": {strconv.FormatUint(index, 10)}, "wait": {milliseconds(wait)}}
	for name, value := range map[string]string{"dc": q.Datacenter, "ns": q.Namespace, "partition": q.Partition} {
		if value != "" {
			query.Set(name, value)
		}
	}
	if q.AllowStale {
		query.Set("stale", "true")
	}
	if filter := filterOf(apps); filter != "" {
		query.Set("filter", filter)
	}
	ctx, cancel := context.WithTimeout(ctx, wait+wait/16+queryTimeout)
	defer cancel()
	data, header, err := c.r.client.do(ctx, &call{method: http.MethodGet, path: "/v1/health/state/any", query: query, token: q.Token})
	if err != nil {
		return nil, 0, err
	}
	var states []healthState
	if err := json.Unmarshal(data, &states); err != nil {
		return nil, 0, fmt.Errorf("what the Consul agent %s answers is not a list of checks: %w", c.r.client.where(), err)
	}
	next, err := strconv.ParseUint(header.Get("X-Consul-Index"), 10, 64)
	if err != nil || next == 0 {
		return nil, 0, fmt.Errorf("the Consul agent %s gave the index %q, so that changes cannot be waited for; check that client.address is that of a Consul agent", c.r.client.where(), header.Get("X-Consul-Index"))
	}
	return states, next, nil
}

// filterOf is the expression for the apps, empty when they are too many.
func filterOf(apps map[string]*entry) string {
	if len(apps) > manyNames {
		return ""
	}
	var terms []string
	for id := range apps {
		if strings.ContainsAny(id, "`\"\\") || strings.ContainsFunc(id, func(c rune) bool { return c < ' ' }) {
			return ""
		}
		terms = append(terms, `ServiceName == "`+id+`"`)
	}
	slices.Sort(terms)
	return strings.Join(terms, " or ")
}
