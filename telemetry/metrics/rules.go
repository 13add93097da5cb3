package metrics

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
)

// Rule rewrites label values of one metric (Dapr API, Configuration: spec.metrics.rules).
type Rule struct {
	// Name is the metric's name, with or without the leading "dapr_". The metrics grpc_io_* may also be spelled grpc.io_*.
	Name string
	// Labels are the labels to rewrite.
	Labels []RuleLabel
}

// RuleLabel rewrites the values of one label.
type RuleLabel struct {
	// Name is the label's name.
	Name string
	// Regex maps a replacement to the regular expression whose matches it takes the place of; $1 stands for a group. Of several,
	// each is applied to the result of the one before, in the order of the replacements' spelling.
	Regex map[string]string
}

// rewrite is one regular expression and what replaces its matches.
type rewrite struct {
	regex       *regexp.Regexp
	replacement string
}

// rewrites are the rules by metric and label.
type rewrites map[[2]string][]rewrite

// compileRules turns rules into rewrites. The error names the metric, the label and the expression that is at fault.
func compileRules(rules []Rule) (rewrites, error) {
	out := make(rewrites)
	for _, r := range rules {
		metric := ruleMetric(r.Name)
		for _, l := range r.Labels {
			key := [2]string{metric, l.Name}
			replacements := make([]string, 0, len(l.Regex))
			for to := range l.Regex {
				replacements = append(replacements, to)
			}
			// A fixed order: rules that feed on each other give the same series after a restart.
			slices.Sort(replacements)
			for _, to := range replacements {
				re, err := regexp.Compile(l.Regex[to])
				if err != nil {
					return nil, fmt.Errorf("rule for label %q of metric %q: regular expression %q: %w", l.Name, r.Name, l.Regex[to], err)
				}
				out[key] = append(out[key], rewrite{regex: re, replacement: to})
			}
		}
	}
	return out, nil
}

// ruleMetric is the name a rule means, without prefix. Dapr's own name of the gRPC metrics has a dot, and its rules must be
// written that way; both spellings work here (Dapr API, metrics: rules).
func ruleMetric(name string) string {
	name = strings.TrimPrefix(name, prefix)
	if rest, ok := strings.CutPrefix(name, "grpc.io_"); ok {
		name = "grpc_io_" + rest
	}
	return name
}

// apply rewrites a value of a label of a metric (without prefix).
func (rs rewrites) apply(metric, label, value string) string {
	for _, r := range rs[[2]string{metric, label}] {
		value = r.regex.ReplaceAllString(value, r.replacement)
	}
	return value
}

// folding returns what makes values of a label that these metrics expose alike equal; nil if no rule is for the label in any of them.
func (rs rewrites) folding(label string, metrics ...string) func(value string) string {
	if !slices.ContainsFunc(metrics, func(m string) bool { return rs.touches(m, label) }) {
		return nil
	}
	return func(value string) string {
		var b strings.Builder
		for _, m := range metrics {
			b.WriteString(rs.apply(m, label, value))
			b.WriteByte(0)
		}
		return b.String()
	}
}

// touches says whether any rule is for this label of this metric.
func (rs rewrites) touches(metric, label string) bool {
	return len(rs[[2]string{metric, label}]) > 0
}
