package state

import (
	"reflect"
	"strings"
	"testing"
)

func TestParseQuery(t *testing.T) {
	eq := func(k string, v any) Filter { return Filter{Op: OpEQ, Key: k, Value: v} }
	for _, tc := range []struct {
		name, text string
		want       Query
		err        string
	}{
		{name: "empty", text: `{}`},
		{name: "empty filter", text: `{"filter":{}}`},
		{name: "null filter", text: `{"filter":null,"sort":null,"page":null}`},
		{
			name: "all parts",
			text: `{"filter":{"AND":[{"EQ":{"person.org":"A"}},{"IN":{"state":["CA","WA"]}}]},
				"sort":[{"key":"state","order":"DESC"},{"key":"person.name"},{"key":"x","order":"ASC"}],"page":{"limit":10,"token":"20"}}`,
			want: Query{
				Filter: &Filter{Op: OpAND, Filters: []Filter{eq("person.org", "A"), {Op: OpIN, Key: "state", Values: []any{"CA", "WA"}}}},
				Sort:   []Sorting{{Key: "state", Descending: true}, {Key: "person.name"}, {Key: "x"}},
				Page:   Page{Limit: 10, Token: "20"},
			},
		},
		{
			name: "nested", text: `{"filter":{"OR":[{"EQ":{"a":1}},{"AND":[{"EQ":{"b":true}},{"NEQ":{"c":null}}]}]}}`,
			want: Query{Filter: &Filter{Op: OpOR, Filters: []Filter{eq("a", 1.0), {Op: OpAND, Filters: []Filter{eq("b", true), {Op: OpNEQ, Key: "c"}}}}}},
		},
		{name: "GT", text: `{"filter":{"GT":{"a":1}}}`, want: Query{Filter: &Filter{Op: OpGT, Key: "a", Value: 1.0}}},
		{name: "GTE", text: `{"filter":{"GTE":{"a":1}}}`, want: Query{Filter: &Filter{Op: OpGTE, Key: "a", Value: 1.0}}},
		{name: "LT", text: `{"filter":{"LT":{"a":1}}}`, want: Query{Filter: &Filter{Op: OpLT, Key: "a", Value: 1.0}}},
		{name: "LTE", text: `{"filter":{"LTE":{"a":1}}}`, want: Query{Filter: &Filter{Op: OpLTE, Key: "a", Value: 1.0}}},
		{name: "negative limit", text: `{"page":{"limit":-3}}`},
		{name: "unknown operator", text: `{"filter":{"eq":{"a":1}}}`, err: `unsupported filter "eq"`},
		{name: "two operators", text: `{"filter":{"EQ":{"a":1},"NEQ":{"a":1}}}`, err: `filter unit must have a single element`},
		{name: "empty inner", text: `{"filter":{"AND":[{},{"EQ":{"a":1}}]}}`, err: `filter unit must have a single element`},
		{name: "inner no object", text: `{"filter":{"AND":[1,2]}}`, err: `filter unit must be a map`},
		{name: "EQ no object", text: `{"filter":{"EQ":1}}`, err: `EQ filter must be a map`},
		{name: "IN no object", text: `{"filter":{"IN":[1]}}`, err: `IN filter must be a map`},
		{name: "EQ two keys", text: `{"filter":{"EQ":{"a":1,"b":2}}}`, err: `EQ filter must contain a single key/value pair`},
		{name: "IN no keys", text: `{"filter":{"IN":{}}}`, err: `IN filter must contain a single key/value pair`},
		{name: "IN no array", text: `{"filter":{"IN":{"a":"b"}}}`, err: `IN filter value must be an array`},
		{name: "AND no array", text: `{"filter":{"AND":{"EQ":{"a":1}}}}`, err: `AND filter must be an array`},
		{name: "OR of one", text: `{"filter":{"OR":[{"EQ":{"a":1}}]}}`, err: `OR filter must contain at least two entries`},
		{name: "GT of a string", text: `{"filter":{"GT":{"a":"x"}}}`, err: `unsupported type of value x; string type not permitted`},
		{name: "LTE of a string", text: `{"filter":{"LTE":{"a":"x"}}}`, err: `unsupported type of value x; string type not permitted`},
		{name: "sort order", text: `{"sort":[{"key":"a","order":"; DROP TABLE state"}]}`, err: `unsupported sort order "; DROP TABLE state" of key "a"; it must be ASC or DESC`},
		{name: "no JSON", text: ``, err: `unexpected end of JSON input`},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got, err := ParseQuery([]byte(tc.text))
			if tc.err != "" {
				if err == nil || err.Error() != "failed to parse JSON query body: "+tc.err {
					t.Fatalf("error %v, want %q behind the prefix", err, tc.err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if !reflect.DeepEqual(got, tc.want) {
				t.Errorf("got %+v, want %+v", got, tc.want)
			}
		})
	}
}

func TestPage(t *testing.T) {
	for _, tc := range []struct {
		token string
		want  int64
		bad   bool
	}{{"", 0, false}, {"20", 20, false}, {"-1", 0, true}, {"x", 0, true}, {"1;2", 0, true}} {
		got, err := Page{Token: tc.token}.Offset()
		if (err != nil) != tc.bad || got != tc.want {
			t.Errorf("token %q: %d, %v", tc.token, got, err)
		}
	}
	if got := (Page{Limit: 5}).Next(20, 5); got != "25" {
		t.Errorf("next token %q, want 25", got)
	}
	if got := (Page{Limit: 5}).Next(20, 0); got != "" {
		t.Errorf("next token %q of an empty page", got)
	}
	if got := (Page{}).Next(0, 5); got != "" {
		t.Errorf("next token %q without a limit", got)
	}
}

func FuzzParseQuery(f *testing.F) {
	f.Add([]byte(`{"filter":{"AND":[{"EQ":{"a.b":"c"}},{"OR":[{"IN":{"x":[1,2]}},{"LT":{"y":3}}]}]},"sort":[{"key":"a"}],"page":{"limit":1,"token":"2"}}`))
	f.Add([]byte(`{"filter":{"EQ":null}}`))
	f.Add([]byte(`{"filter":{"IN":{"":null}}}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		q, err := ParseQuery(text)
		if err != nil {
			if !strings.HasPrefix(err.Error(), "failed to parse JSON query body: ") {
				t.Errorf("error without its prefix: %v", err)
			}
			return
		}
		if q.Page.Limit < 0 {
			t.Errorf("limit %d", q.Page.Limit)
		}
		if q.Filter != nil {
			checkFilter(t, *q.Filter)
		}
	})
}

func checkFilter(t *testing.T, f Filter) {
	switch f.Op {
	case OpAND, OpOR:
		if len(f.Filters) < 2 {
			t.Errorf("%s of %d filters", f.Op, len(f.Filters))
		}
		for _, g := range f.Filters {
			checkFilter(t, g)
		}
	case OpGT, OpGTE, OpLT, OpLTE:
		if _, ok := f.Value.(string); ok {
			t.Errorf("%s with a string", f.Op)
		}
	case OpEQ, OpNEQ, OpIN:
	default:
		t.Errorf("operator %q", f.Op)
	}
}
