package pluggable

import (
	"context"
	"encoding/json"
	"errors"

	"google.golang.org/protobuf/types/known/anypb"

	componentsv1 "outrigger.dev/api/gen/components/v1"
	"outrigger.dev/components/state"
)

// stateQuery is the part of a state store that claims the feature QUERY_API.
type stateQuery struct {
	link *link[stateClients]
}

// Queries reports that the process answers queries.
func (q stateQuery) Queries() bool { return true }

// Query lets the process answer a query.
func (q stateQuery) Query(ctx context.Context, query state.Query, metadata map[string]string) (state.QueryResult, error) {
	in, err := queryRequest(query, metadata)
	if err != nil {
		return state.QueryResult{}, err
	}
	r, err := call(ctx, q.link, true, func(ctx context.Context, c stateClients) (*componentsv1.QueryResponse, error) {
		return c.query.Query(ctx, in)
	})
	if err != nil {
		return state.QueryResult{}, stateError(err)
	}
	result := state.QueryResult{Token: r.GetToken(), Metadata: r.GetMetadata()}
	for _, got := range r.GetItems() {
		one := state.QueryItem{Key: got.GetKey(), Data: got.GetData(), ETag: got.GetEtag().GetValue(), HasETag: got.GetEtag().GetValue() != ""}
		if text := got.GetError(); text != "" {
			one.Err = errors.New(text)
		}
		result.Items = append(result.Items, one)
	}
	return result, nil
}

// queryRequest writes a query for the wire. Its filter is the object of the query API, a map with the operator as its one key;
// the operand is JSON text as the value of an Any without a type.
func queryRequest(q state.Query, metadata map[string]string) (*componentsv1.QueryRequest, error) {
	out := &componentsv1.Query{Pagination: &componentsv1.Pagination{Limit: int64(q.Page.Limit), Token: q.Page.Token}}
	if q.Filter != nil {
		operand, err := json.Marshal(operand(q.Filter))
		if err != nil {
			return nil, err
		}
		out.Filter = map[string]*anypb.Any{string(q.Filter.Op): {Value: operand}}
	}
	for _, s := range q.Sort {
		order := componentsv1.Sorting_ASC
		if s.Descending {
			order = componentsv1.Sorting_DESC
		}
		out.Sort = append(out.Sort, &componentsv1.Sorting{Key: s.Key, Order: order})
	}
	return &componentsv1.QueryRequest{Query: out, Metadata: metadata}, nil
}

// operand is what stands behind the operator of a filter in JSON.
func operand(f *state.Filter) any {
	switch f.Op {
	case state.OpAND, state.OpOR:
		all := make([]map[state.Op]any, len(f.Filters))
		for i := range f.Filters {
			all[i] = map[state.Op]any{f.Filters[i].Op: operand(&f.Filters[i])}
		}
		return all
	case state.OpIN:
		return map[string]any{f.Key: f.Values}
	default:
		return map[string]any{f.Key: f.Value}
	}
}
