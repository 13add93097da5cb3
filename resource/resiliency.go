package resource

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"outrigger.dev/expression"
	"outrigger.dev/suggest"
)

// Resiliency declares timeouts, retries and circuit breakers, and what they apply to. The types here are the document as
// written; the defaults are applied by the Or... methods, and durations are read with ParsePolicyDuration.
type Resiliency struct {
	Header
	Spec   ResiliencySpec `json:"spec"`
	Scopes []string       `json:"scopes,omitempty"`
}

// ResiliencySpec is the spec of a Resiliency.
type ResiliencySpec struct {
	Policies Policies `json:"policies"`
	Targets  Targets  `json:"targets"`
}

// Policies are the named policies that targets refer to.
type Policies struct {
	// Timeouts are durations by name.
	Timeouts        map[string]string         `json:"timeouts,omitempty"`
	Retries         map[string]Retry          `json:"retries,omitempty"`
	CircuitBreakers map[string]CircuitBreaker `json:"circuitBreakers,omitempty"`
}

// Defaults of the policies (Dapr API, resiliency: schema).
const (
	DefaultRetryDuration         = 5 * time.Second
	DefaultRetryMaxInterval      = 60 * time.Second
	DefaultRetryMaxRetries       = -1
	DefaultBreakerTimeout        = 60 * time.Second
	DefaultBreakerMaxRequests    = 1
	DefaultBreakerTrip           = "consecutiveFailures > 5"
	DefaultAppBreakerCacheSize   = 100
	DefaultActorBreakerCacheSize = 5000
)

// Retry is a retry policy.
type Retry struct {
	// Policy is constant (default) or exponential, in any case.
	Policy string `json:"policy,omitempty"`
	// Duration is the wait of the constant policy.
	Duration string `json:"duration,omitempty"`
	// MaxInterval caps the wait of the exponential policy.
	MaxInterval string `json:"maxInterval,omitempty"`
	// MaxRetries is the number of retries after the first try; nil or negative is without limit.
	MaxRetries *int          `json:"maxRetries,omitempty"`
	Matching   RetryMatching `json:"matching,omitzero"`
}

// RetryMatching limits retries to status codes; see ParseStatusCodes. Nil means every code.
type RetryMatching struct {
	HTTPStatusCodes *string `json:"httpStatusCodes,omitempty"`
	GRPCStatusCodes *string `json:"gRPCStatusCodes,omitempty"`
}

// CircuitBreaker is a circuit breaker policy.
type CircuitBreaker struct {
	// MaxRequests are the calls let through while half-open; 0 means 1.
	MaxRequests int `json:"maxRequests,omitempty"`
	// Interval after which the counters of the closed state are cleared; empty or 0 is never.
	Interval string `json:"interval,omitempty"`
	// Timeout after which an open breaker is half-open; empty or not positive is 60 s.
	Timeout string `json:"timeout,omitempty"`
	// Trip is a CEL expression; empty is "consecutiveFailures > 5".
	Trip string `json:"trip,omitempty"`
}

// TripVariables are the counts that trip expressions know, all whole numbers (Dapr API, resiliency: schema).
func TripVariables() []string {
	return []string{"requests", "totalSuccesses", "totalFailures", "consecutiveSuccesses", "consecutiveFailures"}
}

// Targets say which policies apply to what.
type Targets struct {
	// Apps are by app id, HTTPEndpoint name or URL.
	Apps map[string]AppTarget `json:"apps,omitempty"`
	// Actors are by actor type.
	Actors map[string]ActorTarget `json:"actors,omitempty"`
	// Components are by component name.
	Components map[string]ComponentTarget `json:"components,omitempty"`
}

// PolicyNames name the policies of one target or direction; empty is none.
type PolicyNames struct {
	Timeout        string `json:"timeout,omitempty"`
	Retry          string `json:"retry,omitempty"`
	CircuitBreaker string `json:"circuitBreaker,omitempty"`
}

// AppTarget applies to calls of an app.
type AppTarget struct {
	PolicyNames
	// CircuitBreakerCacheSize is the number of breakers kept; 0 means 100.
	CircuitBreakerCacheSize int `json:"circuitBreakerCacheSize,omitempty"`
}

// ActorTarget applies to calls of an actor type.
type ActorTarget struct {
	PolicyNames
	// CircuitBreakerScope is type, id or both; required with a circuit breaker.
	CircuitBreakerScope string `json:"circuitBreakerScope,omitempty"`
	// CircuitBreakerCacheSize is the number of breakers kept; 0 means 5000.
	CircuitBreakerCacheSize int `json:"circuitBreakerCacheSize,omitempty"`
}

// ComponentTarget applies to calls from and to a component.
type ComponentTarget struct {
	Inbound  PolicyNames `json:"inbound,omitzero"`
	Outbound PolicyNames `json:"outbound,omitzero"`
}

// AppScopes implements Resource.
func (r *Resiliency) AppScopes() []string { return r.Scopes }

func (r *Resiliency) identity() any { return [3]any{r.Metadata.Name, r.Spec, r.Scopes} }

// ParsePolicyDuration reads a duration of a policy: a Go duration or a whole number of milliseconds; empty is the default given.
func ParsePolicyDuration(text string, whenEmpty time.Duration) (time.Duration, error) {
	if text == "" {
		return whenEmpty, nil
	}
	if d, err := time.ParseDuration(text); err == nil {
		return d, nil
	}
	ms, err := strconv.ParseInt(text, 10, 64)
	if err != nil {
		return 0, fmt.Errorf("invalid duration %s: write a duration such as 500ms or 5s, or a number of milliseconds", quote(text))
	}
	d := time.Duration(ms) * time.Millisecond
	if d/time.Millisecond != time.Duration(ms) {
		return 0, fmt.Errorf("invalid duration %s: too long", quote(text))
	}
	return d, nil
}

// Exponential tells which policy it is. The error names an unknown one.
func (r *Retry) Exponential() (bool, error) {
	switch strings.ToLower(r.Policy) {
	case "", "constant":
		return false, nil
	case "exponential":
		return true, nil
	}
	return false, fmt.Errorf("invalid retry policy %s: use constant or exponential", quote(r.Policy))
}

// MaxRetriesOrDefault returns the number of retries, -1 for no limit.
func (r *Retry) MaxRetriesOrDefault() int {
	if r.MaxRetries == nil {
		return DefaultRetryMaxRetries
	}
	return *r.MaxRetries
}

// MaxRequestsOrDefault returns maxRequests, 1 if that is 0.
func (c *CircuitBreaker) MaxRequestsOrDefault() int {
	if c.MaxRequests == 0 {
		return DefaultBreakerMaxRequests
	}
	return c.MaxRequests
}

// TripOrDefault returns the trip expression.
func (c *CircuitBreaker) TripOrDefault() string {
	if strings.TrimSpace(c.Trip) == "" {
		return DefaultBreakerTrip
	}
	return c.Trip
}

// CacheSizeOrDefault returns the number of breakers kept.
func (a *AppTarget) CacheSizeOrDefault() int {
	if a.CircuitBreakerCacheSize <= 0 {
		return DefaultAppBreakerCacheSize
	}
	return a.CircuitBreakerCacheSize
}

// CacheSizeOrDefault returns the number of breakers kept.
func (a *ActorTarget) CacheSizeOrDefault() int {
	if a.CircuitBreakerCacheSize <= 0 {
		return DefaultActorBreakerCacheSize
	}
	return a.CircuitBreakerCacheSize
}

// Limits of status codes in RetryMatching.
const (
	MinHTTPStatusCode = 100
	MaxHTTPStatusCode = 599
	MinGRPCStatusCode = 0
	MaxGRPCStatusCode = 16
)

// CodeRange is a range of status codes, both ends included.
type CodeRange struct{ From, To int }

// ParseStatusCodes reads a list such as "429,500-599" whose codes lie between lowest and highest. Empty items are ignored, blanks
// are an error.
func ParseStatusCodes(list string, lowest, highest int) ([]CodeRange, error) {
	var ranges []CodeRange
	for item := range strings.SplitSeq(list, ",") {
		if item == "" {
			continue
		}
		from, to, isRange := strings.Cut(item, "-")
		if !isRange {
			to = from
		}
		a, errA := parseCode(from)
		b, errB := parseCode(to)
		if errA != nil || errB != nil || a > b || a < lowest || b > highest {
			return nil, fmt.Errorf("invalid status codes %s in %s: use codes or ranges from %d to %d, such as \"%d,%d-%d\", without blanks",
				quote(item), quote(list), lowest, highest, lowest, lowest+1, highest)
		}
		ranges = append(ranges, CodeRange{a, b})
	}
	return ranges, nil
}

func parseCode(s string) (int, error) {
	if !digits(s) {
		return 0, strconv.ErrSyntax
	}
	return strconv.Atoi(s)
}

// check reports what the resiliency engine will refuse, and references to policies that this resource does not define.
// They may be defined by another resource, so the latter is a warning with a hint.
func (r *Resiliency) check(rep *reporter) {
	p := &r.Spec.Policies
	duration := func(path, text string) {
		if _, err := ParsePolicyDuration(text, 0); err != nil {
			rep.warn(path+": "+err.Error(), "")
		}
	}
	for _, name := range sortedKeys(p.Timeouts) {
		duration("spec.policies.timeouts."+name, p.Timeouts[name])
	}
	for _, name := range sortedKeys(p.Retries) {
		retry, at := p.Retries[name], "spec.policies.retries."+name
		if _, err := retry.Exponential(); err != nil {
			rep.warn(at+".policy: "+err.Error(), "")
		}
		duration(at+".duration", retry.Duration)
		duration(at+".maxInterval", retry.MaxInterval)
		if codes := retry.Matching.HTTPStatusCodes; codes != nil {
			if _, err := ParseStatusCodes(*codes, MinHTTPStatusCode, MaxHTTPStatusCode); err != nil {
				rep.warn(at+".matching.httpStatusCodes: "+err.Error(), "")
			}
		}
		if codes := retry.Matching.GRPCStatusCodes; codes != nil {
			if _, err := ParseStatusCodes(*codes, MinGRPCStatusCode, MaxGRPCStatusCode); err != nil {
				rep.warn(at+".matching.gRPCStatusCodes: "+err.Error(), "")
			}
		}
	}
	for _, name := range sortedKeys(p.CircuitBreakers) {
		b, at := p.CircuitBreakers[name], "spec.policies.circuitBreakers."+name
		duration(at+".interval", b.Interval)
		duration(at+".timeout", b.Timeout)
		if trip := b.TripOrDefault(); trip != DefaultBreakerTrip {
			if _, err := expression.Compile(trip, TripVariables()...); err != nil {
				rep.warn(at+".trip "+quote(trip)+" is no valid expression: "+clip(err.Error()), "write it in CEL, with the counts "+strings.Join(TripVariables(), ", "))
			}
		}
		if b.MaxRequests < 0 {
			rep.warn(at+".maxRequests is negative", "use 1 or more")
		}
	}
	r.checkTargets(rep)
}

func (r *Resiliency) checkTargets(rep *reporter) {
	p, t := &r.Spec.Policies, &r.Spec.Targets
	reference := func(at, name string, known []string) {
		if name == "" || slices.Contains(known, name) {
			return
		}
		remedy := "define it under spec.policies, unless another Resiliency resource does"
		if near, ok := suggest.Nearest(name, known); ok {
			remedy = "did you mean " + near + "?"
		}
		rep.warn(fmt.Sprintf("%s names the policy %q, which this resource does not define", at, name), remedy)
	}
	names := func(at string, n PolicyNames) {
		reference(at+".timeout", n.Timeout, sortedKeys(p.Timeouts))
		reference(at+".retry", n.Retry, sortedKeys(p.Retries))
		reference(at+".circuitBreaker", n.CircuitBreaker, sortedKeys(p.CircuitBreakers))
	}
	for _, id := range sortedKeys(t.Apps) {
		names("spec.targets.apps."+id, t.Apps[id].PolicyNames)
	}
	for _, actorType := range sortedKeys(t.Actors) {
		target, at := t.Actors[actorType], "spec.targets.actors."+actorType
		names(at, target.PolicyNames)
		switch target.CircuitBreakerScope {
		case "type", "id", "both":
		case "":
			if target.CircuitBreaker != "" {
				rep.warn(at+".circuitBreakerScope is missing", "set it to type, id or both")
			}
		default:
			rep.warn(at+".circuitBreakerScope "+quote(target.CircuitBreakerScope)+" is unknown", "use type, id or both")
		}
	}
	for _, name := range sortedKeys(t.Components) {
		names("spec.targets.components."+name+".inbound", t.Components[name].Inbound)
		names("spec.targets.components."+name+".outbound", t.Components[name].Outbound)
	}
}

func sortedKeys[T any](m map[string]T) []string { return slices.Sorted(maps.Keys(m)) }
