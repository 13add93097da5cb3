package resiliency

import (
	"strings"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/common/ast"

	"outrigger.dev/resource"
)

// tripVariables are the names that trip expressions know (Dapr API, resiliency: schema).
func tripVariables() []string {
	return []string{"requests", "totalSuccesses", "totalFailures", "consecutiveSuccesses", "consecutiveFailures"}
}

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
func compileTrip(expression string) (func(counts) bool, error) {
	if expression == resource.DefaultBreakerTrip { // the language need not be loaded for most
		return func(c counts) bool { return c.consecutiveFailures > 5 }, nil
	}
	program, err := compile(expression)
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

// compile makes a program of an expression. Names other than those of the counts are of dynamic type, and have no value.
func compile(expression string) (cel.Program, error) {
	bare, err := cel.NewEnv()
	if err != nil {
		return nil, err
	}
	parsed, issues := bare.Parse(expression)
	if issues.Err() != nil {
		return nil, issues.Err()
	}
	var names []cel.EnvOption
	seen := map[string]bool{}
	for _, name := range tripVariables() {
		seen[name] = true
		names = append(names, cel.Variable(name, cel.IntType))
	}
	ast.PreOrderVisit(parsed.NativeRep().Expr(), ast.NewExprVisitor(func(e ast.Expr) {
		if e.Kind() == ast.IdentKind && !seen[e.AsIdent()] && declarable(e.AsIdent()) {
			seen[e.AsIdent()] = true
			names = append(names, cel.Variable(e.AsIdent(), cel.DynType))
		}
	}))
	env, err := bare.Extend(names...)
	if err != nil {
		return nil, err
	}
	checked, issues := env.Check(parsed)
	if issues.Err() != nil {
		return nil, issues.Err()
	}
	return env.Program(checked)
}

// declarable reports whether a name is a free one: neither a type of the language nor a variable that a macro made.
func declarable(name string) bool {
	switch name {
	case "bool", "bytes", "double", "dyn", "int", "list", "map", "null_type", "string", "type", "uint":
		return false
	}
	return !strings.HasPrefix(name, "@") && !strings.HasPrefix(name, "__")
}
