package opa

import (
	"context"
	"encoding/json"
	"net/url"
	"strings"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/storage/inmem"
	"github.com/open-policy-agent/opa/v1/topdown"

	"outrigger.dev/components/middleware"
)

// policy is a compiled module. It uses the evaluator of Open Policy Agent without its package rego, which brings the rest of it
// along.
type policy struct {
	compiler *ast.Compiler
	query    ast.Body
}

// compile compiles a module of Rego v0.
func compile(text string) (*policy, error) {
	module, err := ast.ParseModuleWithOpts("policy.rego", text, ast.ParserOptions{RegoVersion: ast.RegoV0})
	if err != nil {
		return nil, err
	}
	compiler := ast.NewCompiler().WithDefaultRegoVersion(ast.RegoV0)
	compiler.Compile(map[string]*ast.Module{"policy.rego": module})
	if compiler.Failed() {
		return nil, compiler.Errors
	}
	query, err := ast.ParseBodyWithOpts("result = data.http.allow", ast.ParserOptions{RegoVersion: ast.RegoV0})
	if err != nil {
		return nil, err
	}
	if query, err = compiler.QueryCompiler().Compile(query); err != nil {
		return nil, err
	}
	return &policy{compiler: compiler, query: query}, nil
}

// decide evaluates the policy. The end of ctx ends it.
func (p *policy) decide(ctx context.Context, input *ast.Term) (decision, error) {
	store := inmem.New()
	txn, err := store.NewTransaction(ctx)
	if err != nil {
		return decision{}, err
	}
	defer store.Abort(ctx, txn)
	cancel := topdown.NewCancel()
	stop := context.AfterFunc(ctx, cancel.Cancel)
	defer stop()
	results, err := topdown.NewQuery(p.query).WithCompiler(p.compiler).WithStore(store).WithTransaction(txn).WithCancel(cancel).WithInput(input).Run(ctx)
	if err != nil {
		return decision{}, err
	}
	if len(results) == 0 {
		return decision{}, errUndecided
	}
	value, err := ast.JSON(results[0][ast.Var("result")].Value)
	if err != nil {
		return decision{}, err
	}
	return decisionOf(value)
}

// number reads a whole number of a result.
func number(value any) (int, bool) {
	switch n := value.(type) {
	case json.Number:
		i, err := n.Int64()
		return int(i), err == nil
	case float64:
		return int(n), n == float64(int(n))
	case int:
		return n, true
	case int64:
		return int(n), true
	}
	return 0, false
}

// input is what the policy sees as input: {"request": {...}} (Dapr API, middleware.http.opa).
func (m *OPA) input(req *middleware.Request, body []byte) *ast.Term {
	path := req.DecodedPath()
	var parts []*ast.Term
	for part := range strings.SplitSeq(strings.Trim(path, "/"), "/") {
		parts = append(parts, ast.StringTerm(part))
	}
	parsed, _ := url.ParseQuery(req.RawQuery)
	query := ast.NewObject()
	for name, values := range parsed {
		list := make([]*ast.Term, len(values))
		for i, v := range values {
			list[i] = ast.StringTerm(v)
		}
		query.Insert(ast.StringTerm(name), ast.ArrayTerm(list...))
	}
	headers := ast.NewObject()
	for _, name := range m.headers {
		var values []string
		for _, f := range req.Header {
			if strings.EqualFold(string(f.Name), name) {
				values = append(values, string(f.Value))
			}
		}
		if name == "Host" && values == nil && req.Host != "" {
			values = []string{req.Host}
		}
		if values != nil {
			headers.Insert(ast.StringTerm(name), ast.StringTerm(strings.Join(values, ", ")))
		}
	}
	request := ast.NewObject(
		[2]*ast.Term{ast.StringTerm("method"), ast.StringTerm(req.Method)},
		[2]*ast.Term{ast.StringTerm("path"), ast.StringTerm(path)},
		[2]*ast.Term{ast.StringTerm("path_parts"), ast.ArrayTerm(parts...)},
		[2]*ast.Term{ast.StringTerm("raw_query"), ast.StringTerm(req.RawQuery)},
		[2]*ast.Term{ast.StringTerm("query"), ast.NewTerm(query)},
		[2]*ast.Term{ast.StringTerm("headers"), ast.NewTerm(headers)},
		[2]*ast.Term{ast.StringTerm("scheme"), ast.StringTerm(req.Scheme)},
		[2]*ast.Term{ast.StringTerm("body"), ast.StringTerm(string(body))},
	)
	return ast.ObjectTerm([2]*ast.Term{ast.StringTerm("request"), ast.NewTerm(request)})
}
