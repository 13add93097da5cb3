// Package sentinel is the middleware that controls the flow of requests by rules in the format of Sentinel (Dapr API,
// middleware.http.sentinel).
package sentinel

import (
	"context"
	"crypto/sha256"
	"log/slog"
	"net/http"
	"net/url"
	"sync"
	"time"

	"github.com/jonboulle/clockwork"

	"outrigger.dev/components"
	"outrigger.dev/components/middleware"
)

// Options are the metadata properties of the component.
type Options struct {
	AppName             string `name:"appName" help:"name of the app; it has no effect here"`
	LogDir              string `name:"logDir" help:"has no effect: what there is to say is in the sidecar's log"`
	FlowRules           string `name:"flowRules" help:"JSON array of Sentinel's flow rules; resources are named METHOD:path"`
	CircuitBreakerRules string `name:"circuitBreakerRules" help:"JSON array of Sentinel's circuit breaker rules; statuses of 500 and more are errors"`
	HotSpotParamRules   string `name:"hotSpotParamRules" help:"JSON array of Sentinel's hot spot rules; paramKey names a query parameter or else a header"`
	IsolationRules      string `name:"isolationRules" help:"JSON array of Sentinel's isolation rules"`
	SystemRules         string `name:"systemRules" help:"JSON array of Sentinel's system rules"`

	rules rules
}

// rules are those of all kinds.
type rules struct {
	flows     []flowRule
	breakers  []breakerRule
	hotSpots  []hotSpotRule
	isolation []isolationRule
	system    []systemRule
}

// Check refuses rules that cannot be read or make no sense. It implements [components.Checker].
func (o *Options) Check() (err error) {
	if o.rules.flows, err = parse[flowRule]("flowRules", o.FlowRules); err != nil {
		return err
	}
	if o.rules.breakers, err = parse[breakerRule]("circuitBreakerRules", o.CircuitBreakerRules); err != nil {
		return err
	}
	if o.rules.hotSpots, err = parse[hotSpotRule]("hotSpotParamRules", o.HotSpotParamRules); err != nil {
		return err
	}
	if o.rules.isolation, err = parse[isolationRule]("isolationRules", o.IsolationRules); err != nil {
		return err
	}
	o.rules.system, err = parse[systemRule]("systemRules", o.SystemRules)
	return err
}

// Register adds the component type to r.
func Register(r *components.Registry) {
	middleware.Register(r, components.Info{
		Name: "http.sentinel", Version: "v1", Status: components.Alpha,
		Description: "Controls the flow of requests by rules in the format of Sentinel: limits, throttling, circuit breakers.",
	}, func(_ context.Context, inst components.Instance, o Options) (middleware.Middleware, error) {
		return New(inst.Clock, inst.Log, o), nil
	})
}

// Sentinel is one instance.
type Sentinel struct {
	clock   clockwork.Clock
	log     *slog.Logger
	started time.Time
	machine *machine

	mu        sync.Mutex
	resources map[string]*resource
	watched   map[string][]*flow // by the resource that they count
	system    system
}

// resource has the rules of one resource at work.
type resource struct {
	flows    []*flow
	breakers []*breaker
	hotSpots []*hotSpot
	limits   []uint32 // of concurrent requests
	running  uint32
}

// New makes an instance of options that were checked.
func New(clock clockwork.Clock, log *slog.Logger, o Options) *Sentinel {
	s := &Sentinel{clock: clock, log: log, started: clock.Now(), machine: newMachine(clock), resources: map[string]*resource{}, watched: map[string][]*flow{}, system: newSystem(o.rules.system)}
	at := func(name string) *resource {
		r := s.resources[name]
		if r == nil {
			r = &resource{}
			s.resources[name] = r
		}
		return r
	}
	for _, rule := range o.rules.flows {
		f := newFlow(rule)
		at(rule.Resource).flows = append(at(rule.Resource).flows, f)
		s.watched[f.watched()] = append(s.watched[f.watched()], f)
	}
	for _, rule := range o.rules.breakers {
		at(rule.Resource).breakers = append(at(rule.Resource).breakers, newBreaker(rule))
	}
	for i, rule := range o.rules.hotSpots {
		if rule.ParamKey == "" {
			log.Warn("a hot spot rule has no effect: HTTP requests have no numbered parameters; name a query parameter or a header in paramKey", "rule", i, "resource", rule.Resource)
			continue
		}
		at(rule.Resource).hotSpots = append(at(rule.Resource).hotSpots, newHotSpot(rule))
	}
	for _, rule := range o.rules.isolation {
		at(rule.Resource).limits = append(at(rule.Resource).limits, rule.Threshold)
	}
	return s
}

// passage is a request that was let through.
type passage struct {
	resource *resource
	values   []string // of the parameters of the hot spot rules, "" for none
	started  time.Duration
}

// Handle passes a request on, after a while if need be, or refuses it. It implements [middleware.Middleware].
func (s *Sentinel) Handle(ctx context.Context, req *middleware.Request, next middleware.Handler) (*middleware.Response, error) {
	name := req.Method + ":" + req.DecodedPath()
	p, wait, blockedBy := s.enter(name, req)
	if blockedBy != "" {
		s.log.Debug("a request is refused", "resource", name, "by", blockedBy)
		return middleware.Text(http.StatusTooManyRequests, ""), nil
	}
	completed, failed := false, true
	defer func() { s.exit(p, completed, failed) }()
	if wait > 0 {
		timer := s.clock.NewTimer(wait)
		defer timer.Stop()
		select {
		case <-timer.Chan():
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	completed = true
	resp, err := next(ctx, req)
	failed = err != nil || resp.Status >= 500
	return resp, err
}

// Close has nothing to release.
func (s *Sentinel) Close() error { return nil }

// enter decides about a request, in the order of Sentinel's checks.
func (s *Sentinel) enter(name string, req *middleware.Request) (p passage, wait time.Duration, blockedBy string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.clock.Since(s.started)
	if !s.system.pass(now, s.machine) {
		return p, 0, "a system rule"
	}
	r := s.resources[name]
	if r != nil {
		for _, f := range r.flows {
			w, ok := f.pass(now, s.machine.memory)
			if !ok {
				return p, 0, "a flow rule"
			}
			wait = max(wait, w)
		}
		for _, limit := range r.limits {
			if r.running >= limit {
				return p, 0, "an isolation rule"
			}
		}
		for _, h := range r.hotSpots {
			value := parameter(req, h.rule.ParamKey)
			p.values = append(p.values, value)
			if value == "" {
				continue
			}
			w, ok := h.pass(now, value)
			if !ok {
				return p, 0, "a hot spot rule"
			}
			wait = max(wait, w)
		}
		for _, b := range r.breakers {
			if !b.allows(now) {
				return p, 0, "a circuit breaker rule"
			}
		}
		for _, b := range r.breakers {
			b.enter()
		}
		for i, h := range r.hotSpots {
			if p.values[i] != "" {
				h.begin(p.values[i])
			}
		}
		r.running++
	}
	for _, f := range s.watched[name] {
		f.count(now)
	}
	s.system.begin(now)
	p.resource, p.started = r, now+wait
	return p, wait, ""
}

// exit is the end of a request that was let through. completed is false for one that left while it waited.
func (s *Sentinel) exit(p passage, completed, failed bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.clock.Since(s.started)
	took := max(0, now-p.started)
	s.system.end(now, took, completed)
	if p.resource == nil {
		return
	}
	p.resource.running--
	for i, h := range p.resource.hotSpots {
		if p.values[i] != "" {
			h.end(p.values[i])
		}
	}
	for _, b := range p.resource.breakers {
		if completed {
			b.ended(now, took, failed)
		} else if b.state == halfOpen {
			b.state = open // the probe did not happen: the next request may be one
		}
	}
}

// parameter is the value of a query parameter, or else of a header; "" when the request has neither. A long one is represented by
// its digest.
func parameter(req *middleware.Request, key string) string {
	value := ""
	if req.RawQuery != "" {
		query, _ := url.ParseQuery(req.RawQuery)
		value = query.Get(key)
	}
	if value == "" {
		value = string(req.Header.Get(key))
	}
	if len(value) > 256 {
		sum := sha256.Sum256([]byte(value))
		return string(sum[:])
	}
	return value
}
