package resiliency

import (
	"fmt"
	"time"

	"outrigger.dev/resource"
)

// The waits of exponential retries (Dapr API, resiliency: schema).
const (
	exponentialInitial    = 500 * time.Millisecond
	exponentialFactor     = 1.5
	exponentialRandomness = 0.5
	exponentialLimit      = 15 * time.Minute
)

// retry is a retry policy.
type retry struct {
	exponential bool
	// duration is the wait of a constant policy, maxInterval the longest wait of an exponential one.
	duration, maxInterval time.Duration
	// max is the number of retries; below 0 is without limit.
	max int
	// limit is the time after the first try after which an exponential policy gives up.
	limit time.Duration
	// http and grpc are the codes that are retried; nil is every code.
	http, grpc *codeSet
}

func parseRetry(source *resource.Retry) (*retry, error) {
	r := &retry{max: max(source.MaxRetriesOrDefault(), -1), limit: exponentialLimit}
	var err error
	if r.exponential, err = source.Exponential(); err != nil {
		return nil, fmt.Errorf("policy: %w", err)
	}
	if r.duration, err = resource.ParsePolicyDuration(source.Duration, resource.DefaultRetryDuration); err != nil {
		return nil, fmt.Errorf("duration: %w", err)
	}
	if r.maxInterval, err = resource.ParsePolicyDuration(source.MaxInterval, resource.DefaultRetryMaxInterval); err != nil {
		return nil, fmt.Errorf("maxInterval: %w", err)
	}
	if r.maxInterval <= 0 {
		r.maxInterval = resource.DefaultRetryMaxInterval
	}
	if r.http, err = parseCodes(source.Matching.HTTPStatusCodes, resource.MinHTTPStatusCode, resource.MaxHTTPStatusCode); err != nil {
		return nil, fmt.Errorf("matching.httpStatusCodes: %w", err)
	}
	if r.grpc, err = parseCodes(source.Matching.GRPCStatusCodes, resource.MinGRPCStatusCode, resource.MaxGRPCStatusCode); err != nil {
		return nil, fmt.Errorf("matching.gRPCStatusCodes: %w", err)
	}
	return r, nil
}

// matches tells whether a failure with the code is retried (Dapr API, resiliency: matching).
func (r *retry) matches(code int) bool {
	switch {
	case code >= resource.MinGRPCStatusCode && code <= resource.MaxGRPCStatusCode:
		return r.grpc == nil || r.grpc.has(code)
	case code >= resource.MinHTTPStatusCode && code <= resource.MaxHTTPStatusCode:
		return r.http == nil || r.http.has(code)
	}
	return false
}

// wait is the time before a retry, the first of which is 0. elapsed is the time since the first try; false says to give up.
func (r *retry) wait(retried int, elapsed time.Duration, random func() float64) (time.Duration, bool) {
	if r.max >= 0 && retried >= r.max {
		return 0, false
	}
	if !r.exponential {
		return max(r.duration, 0), true
	}
	base := float64(exponentialInitial)
	for range retried {
		if base >= float64(r.maxInterval) {
			break
		}
		base *= exponentialFactor
	}
	base = min(base, float64(r.maxInterval))
	d := time.Duration(base * (1 - exponentialRandomness + 2*exponentialRandomness*random()))
	d = min(d, r.maxInterval)
	return d, elapsed+d <= r.limit
}

// codeSet is a set of status codes.
type codeSet []resource.CodeRange

// parseCodes reads a list; nil, which is none, and an empty one are every code.
func parseCodes(list *string, lowest, highest int) (*codeSet, error) {
	if list == nil {
		return nil, nil
	}
	ranges, err := resource.ParseStatusCodes(*list, lowest, highest)
	if err != nil || len(ranges) == 0 {
		return nil, err
	}
	set := codeSet(ranges)
	return &set, nil
}

func (s codeSet) has(code int) bool {
	for _, r := range s {
		if code >= r.From && code <= r.To {
			return true
		}
	}
	return false
}
