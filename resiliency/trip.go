package resiliency

import (
	"outrigger.dev/expression"
	"outrigger.dev/resource"
)

// variables are the counts as an expression sees them.
func (c counts) variables() map[string]any {
	return map[string]any{
		"requests":             int64(c.requests),
		"totalSuccesses":       int64(c.totalSuccesses),
		"totalFailures":        int64(c.totalFailures),
		"consecutiveSuccesses": int64(c.consecutiveSuccesses),
		"consecutiveFailures":  int64(c.consecutiveFailures),
	}
}

// compileTrip compiles an expression that says when a circuit breaker opens. An expression that cannot be evaluated, for it has
// other variables than the counts, or that is not of a truth value, never opens it.
func compileTrip(trip string) (func(counts) bool, error) {
	if trip == resource.DefaultBreakerTrip { // the language need not be loaded for most
		return func(c counts) bool { return c.consecutiveFailures > 5 }, nil
	}
	program, err := expression.Compile(trip, resource.TripVariables()...)
	if err != nil {
		return nil, err
	}
	return func(c counts) bool {
		result, _, err := program.Eval(c.variables())
		if err != nil {
			return false
		}
		holds, _ := result.Value().(bool)
		return holds
	}, nil
}
