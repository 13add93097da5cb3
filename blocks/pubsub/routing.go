package pubsub

import (
	"fmt"
	"strings"

	"cel.dev/cel-go/cel"

	"outrigger.dev/blocks/internal/cloudevents"
	"outrigger.dev/expression"
	"outrigger.dev/invocation"
)

// router finds the path for an event (Dapr API, delivery: routing).
type router struct {
	rules []compiledRule
	// methods are the paths of the rules as methods of an HTTP app.
	methods map[string]string
}

type compiledRule struct {
	match string
	path  string
	// program is nil for a rule that holds for every event.
	program cel.Program
}

// newRouter compiles the rules. The error names the expression at fault and what is wrong with it.
func newRouter(rules []Rule) (*router, error) {
	r := &router{rules: make([]compiledRule, 0, len(rules)), methods: make(map[string]string, len(rules))}
	closed := false
	for _, rule := range rules {
		compiled, err := compileRule(rule)
		if err != nil {
			return nil, err
		}
		if !closed {
			r.rules = append(r.rules, compiled)
			r.methods[rule.Path] = invocation.CleanMethod(rule.Path)
		}
		closed = closed || compiled.program == nil // what follows is never reached
	}
	return r, nil
}

// CheckRule reports whether a rule can be followed. The error, which is the one that a subscription with the rule would fail with,
// names the expression of the rule and what is wrong with it.
func CheckRule(rule Rule) error {
	_, err := compileRule(rule)
	return err
}

func compileRule(rule Rule) (compiledRule, error) {
	compiled := compiledRule{match: strings.TrimSpace(rule.Match), path: rule.Path}
	if compiled.match == "" {
		return compiled, nil
	}
	var err error
	if compiled.program, err = expression.Compile(compiled.match); err != nil {
		return compiled, fmt.Errorf("the rule for path %s has a match that is no valid expression: %q: %w; see the CEL language, with the event as variable \"event\"", rule.Path, rule.Match, err)
	}
	return compiled, nil
}

// everything reports whether all events take the first rule, so that they need not be looked at.
func (r *router) everything() bool { return len(r.rules) > 0 && r.rules[0].program == nil }

// route is the path for an event; ok is false when no rule holds. An error means that a rule cannot be applied to this event.
func (r *router) route(event *cloudevents.Event) (path string, ok bool, err error) {
	if r.everything() {
		return r.rules[0].path, true, nil
	}
	if len(r.rules) == 0 {
		return "", false, nil
	}
	attributes, err := event.Map()
	if err != nil {
		return "", false, err
	}
	return r.evaluate(attributes)
}

// evaluate finds the path for the value of the variable "event".
func (r *router) evaluate(event any) (path string, ok bool, err error) {
	variables := map[string]any{"event": event}
	for i := range r.rules {
		rule := &r.rules[i]
		if rule.program == nil {
			return rule.path, true, nil
		}
		result, _, err := rule.program.Eval(variables)
		if err != nil {
			return "", false, fmt.Errorf("the match %q cannot be applied to the event: %w; test optional attributes with has()", rule.match, err)
		}
		holds, isBool := result.Value().(bool)
		if !isBool {
			return "", false, fmt.Errorf("the match %q has the result %v, which is neither true nor false", rule.match, result.Value())
		}
		if holds {
			return rule.path, true, nil
		}
	}
	return "", false, nil
}
