// Package consul is the name resolver nameresolution.hashicorp.consul: sidecars are services of Consul, which one registers
// at the agent of the machine and finds by asking it for the healthy ones.
package consul

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/jonboulle/clockwork"

	"outrigger.dev/components"
	"outrigger.dev/components/nameresolution"
)

var (
	_ nameresolution.Resolver = (*Resolver)(nil)
	_ nameresolution.Failed   = (*Resolver)(nil)
)

// Register adds nameresolution.hashicorp.consul, alias consul, to r.
func Register(r *components.Registry) {
	nameresolution.Register(r, components.Info{
		Name:        "hashicorp.consul",
		Aliases:     []string{"consul"},
		Version:     "v1",
		Status:      components.Alpha,
		Description: "Finds sidecars among the healthy services of HashiCorp Consul.",
	}, func(ctx context.Context, inst components.Instance, o Options) (nameresolution.Resolver, error) {
		return open(ctx, inst, o, os.Getenv, net.DefaultResolver)
	})
}

// Bounds of the calls.
const (
	// startTimeout bounds the registration, or the first call, closeTimeout the deregistration.
	startTimeout = 10 * time.Second
	closeTimeout = 3 * time.Second
	// queryTimeout bounds a query beyond the time that Consul is asked to wait; the caller's context may end it earlier.
	queryTimeout = 10 * time.Second
	// suspectLife is how long an address that did not answer is avoided.
	suspectLife = 15 * time.Second
)

// lookup is the part of [net.Resolver] that is needed.
type lookup interface {
	LookupHost(ctx context.Context, host string) ([]string, error)
}

// Resolver registers a sidecar at Consul, when asked to, and finds others.
type Resolver struct {
	options  Options
	settings settings
	client   *client
	dns      lookup
	clock    clockwork.Clock
	log      *slog.Logger
	service  string // id of the registration; "" when nothing is registered
	cache    *cache // nil without useCache

	suspects nameresolution.Suspects
	close    func() error
}

func open(ctx context.Context, inst components.Instance, o Options, getenv func(string) string, dns lookup) (*Resolver, error) {
	if err := o.Check(); err != nil {
		return nil, err
	}
	c, err := newClient(o.settings.client, getenv)
	if err != nil {
		return nil, err
	}
	r := &Resolver{options: o, settings: o.settings, client: c, dns: dns, clock: inst.Clock, log: inst.Log}
	if r.clock == nil {
		r.clock = clockwork.NewRealClock()
	}
	if r.log == nil {
		r.log = slog.New(slog.DiscardHandler)
	}
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	if err := r.start(ctx, inst.Sidecar); err != nil {
		c.close()
		return nil, err
	}
	if o.UseCache {
		r.cache = newCache(r)
	}
	r.close = sync.OnceValue(r.shutDown)
	return r, nil
}

// start registers the sidecar, or makes sure that the agent answers.
func (r *Resolver) start(ctx context.Context, s components.Sidecar) error {
	registration, id, err := r.registration(s)
	if err != nil {
		return err
	}
	if registration == nil {
		_, _, err := r.client.do(ctx, &call{method: http.MethodGet, path: "/v1/agent/self"})
		return err
	}
	if _, _, err := r.client.do(ctx, &call{method: http.MethodPut, path: "/v1/agent/service/register", body: registration}); err != nil {
		return fmt.Errorf("cannot register the service %s: %w", id, err)
	}
	r.service = id
	return nil
}

// Close takes the registration back, when asked to, and ends what runs.
func (r *Resolver) Close() error { return r.close() }

func (r *Resolver) shutDown() error {
	defer r.client.close()
	var err error
	if r.service != "" && r.options.SelfDeregister {
		ctx, cancel := context.WithTimeout(context.Background(), closeTimeout)
		defer cancel()
		if _, _, err = r.client.do(ctx, &call{method: http.MethodPut, path: "/v1/agent/service/deregister/" + r.service}); err != nil {
			err = fmt.Errorf("cannot take the registration of the service %s back: %w", r.service, err)
		}
	}
	if r.cache != nil {
		r.cache.close()
	}
	return err
}

// Resolve returns the address of one of the app's healthy sidecars, chosen at random. The namespace is not used.
func (r *Resolver) Resolve(ctx context.Context, req nameresolution.Request) (string, error) {
	if r.cache != nil {
		if address, ok := r.cache.pick(req.ID); ok {
			return address, nil
		}
	}
	found, err := r.find(ctx, req.ID, false)
	if err != nil {
		return "", err
	}
	if r.cache != nil {
		r.cache.want(req.ID)
	}
	addresses := r.suspects.Trusted(found.addresses, r.clock.Now())
	return addresses[rand.IntN(len(addresses))], nil
}

// Forget avoids an address that did not answer for a while, as long as the app has another.
func (r *Resolver) Forget(id, address string) {
	r.suspects.Add(address, r.clock.Now(), suspectLife)
	if r.cache != nil {
		r.cache.forget(id)
	}
}

// instance is one instance of a service in an answer of Consul's health API.
type instance struct {
	Node struct {
		Node, Address string
	}
	Service struct {
		ID, Address string
		Meta        map[string]string
	}
	Checks []struct {
		ServiceID string
	}
}

// found is what a query gave.
type found struct {
	// addresses are those of the instances that can be used, at least one.
	addresses []string
	// unwatched: an instance has no check of its own, so that nothing tells when it goes.
	unwatched bool
}

// appError is an error about an app, as opposed to one about Consul.
type appError struct{ error }

func (e *appError) Unwrap() error { return e.error }

func appErrorf(format string, args ...any) error { return &appError{fmt.Errorf(format, args...)} }

// find asks Consul for the healthy sidecars of an app; fresh bypasses caches and followers of Consul.
func (r *Resolver) find(ctx context.Context, id string, fresh bool) (*found, error) {
	if id == "" || id == "." || id == ".." || strings.Contains(id, "/") { // it becomes a part of a path
		return nil, appErrorf("no healthy services found with AppID '%s': it cannot be the name of a service", id)
	}
	q := r.settings.query
	if fresh {
		q.UseCache, q.AllowStale, q.WaitIndex, q.WaitHash = false, false, 0, ""
	}
	query, cacheControl := q.encode()
	query.Set("passing", "1")
	timeout := queryTimeout
	if q.WaitIndex > 0 || q.WaitHash != "" {
		wait := q.wait(&r.settings.client)
		query.Set("wait", milliseconds(wait))
		timeout += wait + wait/16 // by which Consul stretches it
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	data, _, err := r.client.do(ctx, &call{method: http.MethodGet, path: "/v1/health/service/" + id, query: query, token: q.Token, cacheControl: cacheControl})
	if err != nil {
		return nil, fmt.Errorf("cannot find app id %s: %w", id, err)
	}
	var instances []instance
	if err := json.Unmarshal(data, &instances); err != nil {
		return nil, fmt.Errorf("cannot find app id %s: what the Consul agent %s answers is not a list of services: %w", id, r.client.where(), err)
	}
	if len(instances) == 0 {
		return nil, appErrorf("no healthy services found with AppID '%s'", id)
	}
	return r.usable(ctx, id, instances)
}

// usable are the instances whose sidecar can be called. The error is the last one's if there are none.
func (r *Resolver) usable(ctx context.Context, id string, instances []instance) (*found, error) {
	f := &found{}
	var problem error
	for i := range instances {
		in := &instances[i]
		watched := false
		for _, c := range in.Checks {
			watched = watched || c.ServiceID != "" && c.ServiceID == in.Service.ID
		}
		f.unwatched = f.unwatched || !watched
		if address, err := r.address(ctx, id, in); err != nil {
			problem = err
		} else {
			f.addresses = append(f.addresses, address)
		}
	}
	if len(f.addresses) == 0 {
		return nil, problem
	}
	return f, nil
}

// address is where the sidecar of an instance listens.
func (r *Resolver) address(ctx context.Context, id string, in *instance) (string, error) {
	key := r.options.DaprPortMetaKey
	port, ok := in.Service.Meta[key]
	if !ok || port == "" {
		return "", appErrorf("target service AppID '%s' found but %s missing from meta", id, key)
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
		return "", appErrorf("target service AppID '%s' found but %s of its meta is %.20q; it must be the internal gRPC port of its sidecar", id, key, port)
	}
	host := in.Service.Address
	if host == "" {
		host = in.Node.Address
	}
	host = strings.TrimSuffix(strings.TrimPrefix(host, "["), "]")
	if host == "" {
		return "", appErrorf("target service AppID '%s' found but neither it nor its node has an address", id)
	}
	if _, err := netip.ParseAddr(host); err != nil {
		if _, err := r.dns.LookupHost(ctx, host); err != nil {
			return "", appErrorf("target service AppID '%s' found but its address %.253q does not resolve: %w", id, host, err)
		}
	}
	return net.JoinHostPort(host, port), nil
}

// encode is the query as Consul's HTTP API wants it, and the Cache-Control header.
func (q *queryOptions) encode() (url.Values, string) {
	v := url.Values{}
	for name, value := range map[string]string{"ns": q.Namespace, "partition": q.Partition, "dc": q.Datacenter, "hash": q.WaitHash, "near": q.Near, "filter": q.Filter} {
		if value != "" {
			v.Set(name, value)
		}
	}
	for name, set := range map[string]bool{"stale": q.AllowStale, "consistent": q.RequireConsistent, "local-only": q.LocalOnly, "connect": q.Connect} {
		if set {
			v.Set(name, "true")
		}
	}
	if q.WaitIndex > 0 {
		v.Set("index", strconv.FormatUint(q.WaitIndex, 10))
	}
	if q.WaitTime > 0 {
		v.Set("wait", milliseconds(time.Duration(q.WaitTime)))
	}
	if q.RelayFactor > 0 {
		v.Set("relay-factor", strconv.Itoa(int(q.RelayFactor)))
	}
	for name, value := range q.NodeMeta {
		v.Add("node-meta", name+":"+value)
	}
	var control []string
	if q.UseCache && !q.RequireConsistent {
		v.Set("cached", "true")
		if q.MaxAge > 0 {
			control = append(control, fmt.Sprintf("max-age=%.0f", time.Duration(q.MaxAge).Seconds()))
		}
		if q.StaleIfError > 0 {
			control = append(control, fmt.Sprintf("stale-if-error=%.0f", time.Duration(q.StaleIfError).Seconds()))
		}
	}
	return v, strings.Join(control, ", ")
}

// defaultWait is how long a query waits for a change, as Consul itself has it.
const defaultWait = 5 * time.Minute

// wait is how long a blocking query waits at Consul.
func (q *queryOptions) wait(c *clientSettings) time.Duration {
	for _, d := range []duration{q.WaitTime, c.WaitTime} {
		if d > 0 {
			return min(time.Duration(d), 10*time.Minute) // Consul's own limit
		}
	}
	return defaultWait
}

func milliseconds(d time.Duration) string {
	return strconv.FormatInt(max(d.Milliseconds(), 1), 10) + "ms"
}
