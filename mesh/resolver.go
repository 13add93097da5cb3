package mesh

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/jonboulle/clockwork"

	"outrigger.dev/components/nameresolution"
)

// ResolverOptions of a resolver.
type ResolverOptions struct {
	// Resolver is the name resolution component; nil when none could be made, and then every call fails.
	Resolver nameresolution.Resolver
	Clock    clockwork.Clock
	// Rand is a random number in [0, n); nil means the process's source.
	Rand func(n int) int
}

// Resolver finds the address of the sidecar of an app through a name resolution component, with what is common to all of
// them: the choice among several addresses, the memory of lists, and a second look for what is not there yet (Dapr API,
// service invocation: name resolution). It is safe for concurrent use.
type Resolver struct {
	options ResolverOptions

	mu    sync.Mutex
	lists map[nameresolution.Request]addressList
}

type addressList struct {
	addresses []string
	expires   time.Time
}

const (
	listLife      = 20 * time.Second
	emptyRetries  = 5
	emptyInterval = 100 * time.Millisecond
	// manyLists is the number of remembered lists above which the expired ones are cleared away.
	manyLists = 256
)

// NewResolver makes a resolver.
func NewResolver(o ResolverOptions) *Resolver {
	if o.Clock == nil {
		o.Clock = clockwork.NewRealClock()
	}
	if o.Rand == nil {
		o.Rand = rand.IntN
	}
	return &Resolver{options: o, lists: map[nameresolution.Request]addressList{}}
}

// ErrNoResolver is what every look-up fails with when the name resolution component could not be made.
var ErrNoResolver = errors.New("name resolver not initialized")

// Resolve returns the "host:port" of one of the app's sidecars.
func (r *Resolver) Resolve(ctx context.Context, req nameresolution.Request) (string, error) {
	component := r.options.Resolver
	if component == nil {
		return "", ErrNoResolver
	}
	if list, ok := component.(nameresolution.ListResolver); ok {
		return r.pick(ctx, list, req)
	}
	for attempt := 0; ; attempt++ {
		address, err := component.Resolve(ctx, req)
		if err != nil {
			return "", err
		}
		if address != "" {
			return address, nil
		}
		if attempt == emptyRetries {
			return "", fmt.Errorf("no address found for app id %s; check that the app runs with a sidecar that uses the same name resolution", req.ID)
		}
		select {
		case <-r.options.Clock.After(emptyInterval):
		case <-ctx.Done():
			return "", ctx.Err()
		}
	}
}

// pick chooses at random among the addresses of an app, which are remembered for a while.
func (r *Resolver) pick(ctx context.Context, component nameresolution.ListResolver, req nameresolution.Request) (string, error) {
	r.mu.Lock()
	list, ok := r.lists[req]
	r.mu.Unlock()
	now := r.options.Clock.Now()
	if !ok || !now.Before(list.expires) {
		addresses, err := component.ResolveAll(ctx, req)
		if err != nil {
			return "", err
		}
		if len(addresses) == 0 {
			return "", fmt.Errorf("no address found for app id %s in namespace %s; check that the app runs and has a sidecar", req.ID, req.Namespace)
		}
		list = addressList{addresses: addresses, expires: now.Add(listLife)}
		r.mu.Lock()
		if len(r.lists) >= manyLists {
			for key, old := range r.lists {
				if !now.Before(old.expires) {
					delete(r.lists, key)
				}
			}
		}
		r.lists[req] = list
		r.mu.Unlock()
	}
	return list.addresses[r.options.Rand(len(list.addresses))], nil
}

// Forget drops what is remembered of an app because an address did not answer, here and in the component.
func (r *Resolver) Forget(req nameresolution.Request, address string) {
	r.mu.Lock()
	delete(r.lists, req)
	r.mu.Unlock()
	if failed, ok := r.options.Resolver.(nameresolution.Failed); ok {
		failed.Forget(req.ID, address)
	}
}
