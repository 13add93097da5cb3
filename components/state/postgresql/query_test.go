package postgresql

import (
	"context"
	"slices"
	"strings"
	"testing"

	"outrigger.dev/components/state"
	"outrigger.dev/test/servers"
)

func TestQuery(t *testing.T) {
	s := mustOpen(t, "", map[string]string{"connectionString": servers.Postgres(t).Database()})
	defer s.Close()
	for key, value := range map[string]string{
		"1": `{"person":{"org":"A","id":1036},"city":"Seattle","state":"WA","ok":true}`,
		"2": `{"person":{"org":"B","id":1028},"city":"Portland","state":"OR","ok":false}`,
		"3": `{"person":{"org":"A","id":1071},"city":"San Francisco","state":"CA","tags":["x","y"]}`,
		"4": `{"person":{"org":"C","id":1054.5},"city":"Spokane","state":"WA","it's":"quoted","back\\slash":1}`,
	} {
		set(t, s, "app||"+key, value)
	}
	if err := s.Set(context.Background(), state.SetRequest{Key: "app||gone", Value: state.Value{Bytes: []byte(`{"state":"WA"}`), JSON: true}, Metadata: map[string]string{"ttlInSeconds": "1"}}); err != nil {
		t.Fatal(err)
	}
	if _, err := s.pool.Exec(context.Background(), "UPDATE state SET expiredate = now() - interval '1 s' WHERE expiredate IS NOT NULL"); err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		name, query string
		want        string // the last characters of the keys
		sorted      bool
		token       string
	}{
		{"all", `{}`, "1234", false, ""},
		{"EQ", `{"filter":{"EQ":{"state":"WA"}}}`, "14", false, ""},
		{"EQ of a path", `{"filter":{"EQ":{"person.org":"A"}}}`, "13", false, ""},
		{"EQ of a number", `{"filter":{"EQ":{"person.id":1036}}}`, "1", false, ""},
		{"EQ of a fraction", `{"filter":{"EQ":{"person.id":1054.5}}}`, "4", false, ""},
		{"EQ of a boolean", `{"filter":{"EQ":{"ok":true}}}`, "1", false, ""},
		{"EQ of nothing", `{"filter":{"EQ":{"ok":null}}}`, "34", false, ""},
		{"NEQ of nothing", `{"filter":{"NEQ":{"ok":null}}}`, "12", false, ""},
		{"EQ of an array", `{"filter":{"EQ":{"tags":["x","y"]}}}`, "3", false, ""},
		{"EQ of an object", `{"filter":{"EQ":{"person":{"id":1028,"org":"B"}}}}`, "2", false, ""},
		{"NEQ", `{"filter":{"NEQ":{"state":"WA"}}}`, "23", false, ""},
		{"GT", `{"filter":{"GT":{"person.id":1036}}}`, "34", false, ""},
		{"GTE", `{"filter":{"GTE":{"person.id":1036}}}`, "134", false, ""},
		{"LT", `{"filter":{"LT":{"person.id":1036}}}`, "2", false, ""},
		{"LTE", `{"filter":{"LTE":{"person.id":1036}}}`, "12", false, ""},
		{"IN", `{"filter":{"IN":{"state":["CA","OR","x"]}}}`, "23", false, ""},
		{"IN of nothing", `{"filter":{"IN":{"state":[]}}}`, "", false, ""},
		{"AND", `{"filter":{"AND":[{"EQ":{"state":"WA"}},{"EQ":{"person.org":"A"}}]}}`, "1", false, ""},
		{"OR and AND", `{"filter":{"OR":[{"EQ":{"person.org":"B"}},{"AND":[{"EQ":{"state":"WA"}},{"NEQ":{"city":"Seattle"}}]}]}}`, "24", false, ""},
		{"sort", `{"sort":[{"key":"state","order":"DESC"},{"key":"person.org"}]}`, "1423", true, ""},
		{"sort back", `{"sort":[{"key":"city"}]}`, "2314", true, ""},
		{"first page", `{"sort":[{"key":"city"}],"page":{"limit":3}}`, "231", true, "3"},
		{"second page", `{"sort":[{"key":"city"}],"page":{"limit":3,"token":"3"}}`, "4", true, "4"},
		{"page after the last", `{"sort":[{"key":"city"}],"page":{"limit":3,"token":"4"}}`, "", true, ""},
		{"quotes", `{"filter":{"EQ":{"it's":"quoted"}}}`, "4", false, ""},
		{"backslash", `{"filter":{"EQ":{"back\\slash":1}},"sort":[{"key":"back\\' OR 1=1"}]}`, "4", false, ""},
		{"injection in a key", `{"filter":{"EQ":{"a' = 'b' OR true --":"x"}},"sort":[{"key":"x'; DROP TABLE state; --"}]}`, "", false, ""},
		{"injection in a value", `{"filter":{"EQ":{"state":"WA' OR 'a'='a"}}}`, "", false, ""},
	} {
		for _, conforming := range []string{"on", "off"} {
			t.Run(tc.name+"/"+conforming, func(t *testing.T) {
				if _, err := s.pool.Exec(context.Background(), "SET standard_conforming_strings = "+conforming); err != nil {
					t.Fatal(err)
				}
				q, err := state.ParseQuery([]byte(tc.query))
				if err != nil {
					t.Fatal(err)
				}
				r, err := s.Query(context.Background(), q, nil)
				if err != nil {
					t.Fatal(err)
				}
				var keys []string
				for _, i := range r.Items {
					keys = append(keys, strings.TrimPrefix(i.Key, "app||"))
					if !i.HasETag || i.ETag == "" || len(i.Data) == 0 {
						t.Errorf("item %+v lacks something", i)
					}
				}
				if !tc.sorted {
					slices.Sort(keys)
				}
				if got := strings.Join(keys, ""); got != tc.want || r.Token != tc.token {
					t.Errorf("found %q, token %q; want %q, %q", got, r.Token, tc.want, tc.token)
				}
			})
		}
	}
	for _, bad := range []state.Query{{Page: state.Page{Token: "x"}}, {Sort: []state.Sorting{{Key: "a\x00b"}}}} {
		if _, err := s.Query(context.Background(), bad, nil); err == nil {
			t.Errorf("query %+v succeeded", bad)
		}
	}
}
