// Package expression compiles expressions of the Common Expression Language that users write into resources: routing rules of
// subscriptions and conditions of circuit breakers (Dapr API, routing of events, resiliency: circuit breakers).
package expression

import (
	"strings"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/common/ast"
)

// Compile makes a program of an expression. The names in ints are whole numbers; every other name in it is declared with a dynamic
// type, so that what it means is decided when the program runs.
func Compile(text string, ints ...string) (cel.Program, error) {
	bare, err := cel.NewEnv()
	if err != nil {
		return nil, err
	}
	parsed, issues := bare.Parse(text)
	if issues.Err() != nil {
		return nil, issues.Err()
	}
	var names []cel.EnvOption
	seen := map[string]bool{}
	for _, name := range ints {
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
