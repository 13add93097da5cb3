package mesh

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
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
	// Name is the type of the component as configured, such as "mdns", for messages.
	Name string
	// Namespace is that of the own app. With it, calls of another namespace through a component that cannot tell
	// namespaces apart are logged, once per namespace.
	Namespace string
	// Log is for what the component does that it should not; nil keeps silent.
	Log   *slog.Logger
	Clock clockwork.Clock
	// Rand is a random number in [0, n); nil means the process's source.
	Rand func(n int) int
}

// Resolver finds the address of the sidecar of an app through a name resolution component, with what is common to all of
// them: the choice among several addresses, the memory of lists, a second look for what is not there yet, and mistrust of
// what is no address (Dapr API, service invocation: name resolution). It is safe for concurrent use.
type Resolver struct {
	options ResolverOptions
	// list is the component if it returns lists, else nil. namespaced: it tells namespaces apart.
	list       nameresolution.ListResolver
	namespaced bool

	mu       sync.Mutex
	lists    map[nameresolution.Request]addressList
	lookups  map[nameresolution.Request]*lookup
	suspects nameresolution.Suspects
	foreign  map[string]bool // namespaces that were warned of
}

type addressList struct {
	addresses []string
	expires   time.Time
}

// lookup is a question to the component that several callers wait for. What is below done may be read once that is closed.
type lookup struct {
	done chan struct{}
	list addressList
	err  error
	// abandoned: the caller who asked gave up, which is no answer to the others.
	abandoned bool
}

const (
	listLife      = 20 * time.Second
	emptyRetries  = 5
	emptyInterval = 100 * time.Millisecond
	// manyEntries is the number of remembered lists above which the expired ones are cleared away.
	manyEntries = 256
	// manyNamespaces bounds the memory of warnings; callers name namespaces as they like.
	manyNamespaces = 1024
)

// NewResolver makes a resolver.
func NewResolver(o ResolverOptions) *Resolver {
	if o.Clock == nil {
		o.Clock = clockwork.NewRealClock()
	}
	if o.Rand == nil {
		o.Rand = rand.IntN
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Name == "" {
		o.Name = "configured"
	}
	r := &Resolver{
		options: o, lists: map[nameresolution.Request]addressList{}, lookups: map[nameresolution.Request]*lookup{},
		foreign: map[string]bool{},
	}
	r.list, _ = o.Resolver.(nameresolution.ListResolver)
	if n, ok := o.Resolver.(nameresolution.Namespaced); ok {
		r.namespaced = n.Namespaced()
	}
	return r
}

// ErrNoResolver is what every look-up fails with when the name resolution component could not be made.
var ErrNoResolver = errors.New("name resolver not initialized")

// Resolve returns the "host:port" of one of the app's sidecars.
func (r *Resolver) Resolve(ctx context.Context, req nameresolution.Request) (string, error) {
	component := r.options.Resolver
	if component == nil {
		return "", ErrNoResolver
	}
	if !r.namespaced && req.Namespace != r.options.Namespace && req.Namespace != "" && r.options.Namespace != "" {
		r.warnForeign(req)
	}
	if r.list != nil {
		return r.pick(ctx, req)
	}
	for attempt := 0; ; attempt++ {
		address, err := component.Resolve(ctx, req)
		if err != nil {
			return "", err
		}
		if address != "" {
			address, err = cleanAddress(address)
			if err != nil {
				return "", r.lie(req, err)
			}
			return address, nil
		}
		if attempt == emptyRetries {
			return "", fmt.Errorf("no address found for app id %s; check that the app runs with a sidecar that uses the same name resolution", req.ID)
		}
		timer := r.options.Clock.NewTimer(emptyInterval)
		select {
		case <-timer.Chan():
		case <-ctx.Done():
			timer.Stop()
			return "", ctx.Err()
		}
	}
}

// lie is the error about an answer of the component that is no address.
func (r *Resolver) lie(req nameresolution.Request, err error) error {
	return fmt.Errorf("the %s name resolver gave no usable address for app id %s: %w", r.options.Name, req.ID, err)
}

// warnForeign tells, once per namespace, that the component will find the app in any namespace.
func (r *Resolver) warnForeign(req nameresolution.Request) {
	r.mu.Lock()
	known := r.foreign[req.Namespace] || len(r.foreign) >= manyNamespaces
	if !known {
		r.foreign[req.Namespace] = true
	}
	r.mu.Unlock()
	if !known {
		r.options.Log.Warn(fmt.Sprintf("the %s name resolver cannot tell namespaces apart: calls of apps in namespace %s may reach an app of the same id in any other namespace; only mutual TLS would refuse that. Use the kubernetes name resolver, or app ids that differ",
			r.options.Name, req.Namespace), "appID", req.ID, "ownNamespace", r.options.Namespace)
	}
}

// pick chooses at random among the addresses of an app, which are remembered for a while.
func (r *Resolver) pick(ctx context.Context, req nameresolution.Request) (string, error) {
	for {
		r.mu.Lock()
		list, ok := r.lists[req]
		if ok && r.options.Clock.Now().Before(list.expires) {
			r.mu.Unlock()
			return list.addresses[r.options.Rand(len(list.addresses))], nil
		}
		l := r.lookups[req]
		if l == nil {
			l = &lookup{done: make(chan struct{})}
			r.lookups[req] = l
			r.mu.Unlock()
			r.look(ctx, req, l)
			if l.err != nil {
				return "", l.err
			}
			return l.list.addresses[r.options.Rand(len(l.list.addresses))], nil
		}
		r.mu.Unlock()
		select {
		case <-l.done:
		case <-ctx.Done():
			return "", ctx.Err()
		}
		if l.err == nil {
			return l.list.addresses[r.options.Rand(len(l.list.addresses))], nil
		}
		if !l.abandoned {
			return "", l.err
		}
	}
}

// look asks the component for the addresses of an app and tells all who wait.
func (r *Resolver) look(ctx context.Context, req nameresolution.Request, l *lookup) {
	l.err = fmt.Errorf("the %s name resolver failed for app id %s", r.options.Name, req.ID) // if it panics
	defer func() {
		r.mu.Lock()
		delete(r.lookups, req)
		if l.err == nil {
			r.remember(req, l.list)
		}
		r.mu.Unlock()
		close(l.done)
	}()
	found, err := r.list.ResolveAll(ctx, req)
	if err != nil {
		l.err, l.abandoned = err, ctx.Err() != nil
		if l.abandoned && !errors.Is(err, ctx.Err()) {
			l.err = fmt.Errorf("%w: %w", err, ctx.Err()) // look-ups in DNS hide it
		}
		return
	}
	usable := make([]string, 0, len(found))
	var problem error
	for _, address := range found {
		if address, err := cleanAddress(address); err != nil {
			problem = err
		} else {
			usable = append(usable, address)
		}
	}
	switch {
	case len(usable) > 0 && problem != nil:
		r.options.Log.Warn("the name resolver returned addresses that cannot be used", "nameResolver", r.options.Name, "appID", req.ID, "error", problem)
	case problem != nil:
		l.err = r.lie(req, problem)
		return
	case len(usable) == 0:
		l.err = fmt.Errorf("no address found for app id %s in namespace %s; check that the app runs and has a sidecar", req.ID, req.Namespace)
		return
	}
	l.list = addressList{addresses: r.suspects.Trusted(usable, r.options.Clock.Now()), expires: r.options.Clock.Now().Add(listLife)}
	l.err = nil
}

// remember keeps a list. The lock is held.
func (r *Resolver) remember(req nameresolution.Request, list addressList) {
	if len(r.lists) >= manyEntries {
		now := r.options.Clock.Now()
		for key, old := range r.lists {
			if !now.Before(old.expires) {
				delete(r.lists, key)
			}
		}
	}
	r.lists[req] = list
}

// Forget drops what is remembered of an app because an address did not answer, here and in the component. Of an app with
// several addresses this one is avoided for a while, so that a repeated call goes to another.
func (r *Resolver) Forget(req nameresolution.Request, address string) {
	if r.list != nil {
		r.mu.Lock()
		delete(r.lists, req)
		r.mu.Unlock()
		r.suspects.Add(address, r.options.Clock.Now(), listLife)
	}
	if failed, ok := r.options.Resolver.(nameresolution.Failed); ok {
		failed.Forget(req.ID, address)
	}
}
