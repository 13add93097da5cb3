package state

import (
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// Query is what the query API asks of a store (Dapr API, state: query).
type Query struct {
	// Filter chooses the items; nil chooses all.
	Filter *Filter
	// Sort is the order, the most significant key first; empty means any order.
	Sort []Sorting
	Page Page
}

// Op is the operator of a [Filter].
type Op string

// The operators, upper-case as queries must write them.
const (
	OpEQ  Op = "EQ"
	OpNEQ Op = "NEQ"
	OpGT  Op = "GT"
	OpGTE Op = "GTE"
	OpLT  Op = "LT"
	OpLTE Op = "LTE"
	OpIN  Op = "IN"
	OpAND Op = "AND"
	OpOR  Op = "OR"
)

// Filter is a node of a query's filter tree.
type Filter struct {
	Op Op
	// Key is the dot path into the JSON value that comparisons and IN look at.
	Key string
	// Value is what comparisons compare with: nil, bool, float64, string, []any or map[string]any. It is never a string
	// for GT, GTE, LT and LTE.
	Value any
	// Values are the candidates of IN.
	Values []any
	// Filters are the operands of AND and OR, at least two.
	Filters []Filter
}

// Path is the key cut at its dots.
func (f *Filter) Path() []string { return strings.Split(f.Key, ".") }

// Sorting is one key of a query's order.
type Sorting struct {
	// Key is a dot path into the JSON value.
	Key string
	// Descending turns the order round.
	Descending bool
}

// Path is the key cut at its dots.
func (s Sorting) Path() []string { return strings.Split(s.Key, ".") }

// Page is the part of the results that a query wants.
type Page struct {
	// Limit is the number of items wanted; 0 means all. It is never negative.
	Limit int
	// Token is the opaque token of the page, as an earlier result gave it; "" is the first page.
	Token string
}

// Offset reads the token of stores whose tokens are the number of items to skip.
func (p Page) Offset() (int64, error) {
	if p.Token == "" {
		return 0, nil
	}
	n, err := strconv.ParseInt(p.Token, 10, 64)
	if err != nil || n < 0 {
		return 0, fmt.Errorf("page token %q is not one that this store gave out; leave it empty for the first page", p.Token)
	}
	return n, nil
}

// Next is the token to return with a page of n items from stores whose tokens are the number of items to skip. It is given
// whenever a limit was asked for and items came back, so that the end is the first empty page (Dapr API, state: query).
func (p Page) Next(offset int64, n int) string {
	if p.Limit == 0 || n == 0 {
		return ""
	}
	return strconv.FormatInt(offset+int64(n), 10)
}

// QueryResult is what a query found.
type QueryResult struct {
	Items []QueryItem
	// Token is the opaque token of the next page; "" when there is none.
	Token    string
	Metadata map[string]string
}

// QueryItem is one found item. Key is the stored key, prefix and all.
type QueryItem struct {
	Key     string
	Data    []byte
	ETag    string
	HasETag bool
	// Err is what went wrong with this item alone.
	Err error
}

// ParseQuery reads a query in JSON. Its errors are those of the Dapr API, complete with the words that the API puts in front:
// "failed to parse JSON query body: ".
func ParseQuery(text []byte) (Query, error) {
	q, err := parseQuery(text)
	if err != nil {
		return Query{}, fmt.Errorf("failed to parse JSON query body: %w", err)
	}
	return q, nil
}

func parseQuery(text []byte) (Query, error) {
	var raw struct {
		Filter map[string]any `json:"filter"`
		Sort   []struct {
			Key   string `json:"key"`
			Order string `json:"order"`
		} `json:"sort"`
		Page struct {
			Limit int    `json:"limit"`
			Token string `json:"token"`
		} `json:"page"`
	}
	if err := json.Unmarshal(text, &raw); err != nil {
		return Query{}, err
	}
	q := Query{Page: Page{Limit: max(raw.Page.Limit, 0), Token: raw.Page.Token}}
	for _, s := range raw.Sort {
		switch strings.ToUpper(s.Order) {
		case "", "ASC":
			q.Sort = append(q.Sort, Sorting{Key: s.Key})
		case "DESC":
			q.Sort = append(q.Sort, Sorting{Key: s.Key, Descending: true})
		default:
			return Query{}, fmt.Errorf("unsupported sort order %q of key %q; it must be ASC or DESC", s.Order, s.Key)
		}
	}
	if len(raw.Filter) > 0 {
		f, err := parseFilter(raw.Filter)
		if err != nil {
			return Query{}, err
		}
		q.Filter = &f
	}
	return q, nil
}

// parseFilter reads an object whose one name is the operator.
func parseFilter(unit any) (Filter, error) {
	m, ok := unit.(map[string]any)
	if !ok {
		return Filter{}, errors.New("filter unit must be a map")
	}
	if len(m) != 1 {
		return Filter{}, errors.New("filter unit must have a single element")
	}
	for name, operand := range m {
		switch op := Op(name); op {
		case OpEQ, OpNEQ, OpGT, OpGTE, OpLT, OpLTE, OpIN:
			return parseComparison(op, operand)
		case OpAND, OpOR:
			return parseJunction(op, operand)
		default:
			return Filter{}, fmt.Errorf("unsupported filter %q", name)
		}
	}
	panic("unreachable")
}

func parseComparison(op Op, operand any) (Filter, error) {
	m, ok := operand.(map[string]any)
	if !ok {
		return Filter{}, fmt.Errorf("%s filter must be a map", op)
	}
	if len(m) != 1 {
		return Filter{}, fmt.Errorf("%s filter must contain a single key/value pair", op)
	}
	f := Filter{Op: op}
	for f.Key, f.Value = range m {
	}
	switch op {
	case OpIN:
		if f.Values, ok = f.Value.([]any); !ok {
			return Filter{}, errors.New("IN filter value must be an array")
		}
		f.Value = nil
	case OpGT, OpGTE, OpLT, OpLTE:
		if s, ok := f.Value.(string); ok {
			return Filter{}, fmt.Errorf("unsupported type of value %s; string type not permitted", s)
		}
	}
	return f, nil
}

func parseJunction(op Op, operand any) (Filter, error) {
	units, ok := operand.([]any)
	if !ok {
		return Filter{}, fmt.Errorf("%s filter must be an array", op)
	}
	if len(units) < 2 {
		return Filter{}, fmt.Errorf("%s filter must contain at least two entries", op)
	}
	f := Filter{Op: op, Filters: make([]Filter, len(units))}
	for i, unit := range units {
		var err error
		if f.Filters[i], err = parseFilter(unit); err != nil {
			return Filter{}, err
		}
	}
	return f, nil
}
