package redis

import (
	"context"
	"fmt"
	"path"
	"slices"
	"strings"
	"testing"

	"outrigger.dev/components/state"
)

const people = `[{"name":"people","indexes":[{"key":"person.org","type":"TEXT"},{"key":"person.id","type":"NUMERIC"},{"key":"state","type":"TAG"}]}]`

func TestQueryIndexes(t *testing.T) {
	specs, err := parseIndexes(people)
	if err != nil || len(specs) != 1 {
		t.Fatalf("parseIndexes = %v, %v", specs, err)
	}
	args, _ := specs[0].createArguments()
	want := "people ON JSON SCHEMA $.data.person.org AS var0 TEXT SORTABLE $.data.person.id AS var1 NUMERIC SORTABLE $.data.state AS var2 TAG SORTABLE"
	if got := strings.Join(args, " "); got != want {
		t.Errorf("FT.CREATE %s, want %s", got, want)
	}
	for _, text := range []string{"x", "{}", `[{"indexes":[{"key":"a","type":"TEXT"}]}]`, `[{"name":"a"}]`, `[{"name":"a","indexes":[{"key":"a"}]}]`} {
		if _, err := parseIndexes(text); err == nil || !strings.Contains(err.Error(), "queryIndexes") {
			t.Errorf("parseIndexes(%s): error %v, want one that names queryIndexes", text, err)
		}
	}
	if specs, err := parseIndexes(" "); err != nil || specs != nil {
		t.Errorf("parseIndexes of nothing = %v, %v", specs, err)
	}
}

func TestSearchArguments(t *testing.T) {
	specs, err := parseIndexes(people)
	if err != nil {
		t.Fatal(err)
	}
	_, known := specs[0].createArguments()
	for _, c := range []struct{ query, want, err string }{
		{`{}`, "*", ""},
		{`{"filter":{"EQ":{"person.org":"Dev Ops"}}}`, "@var0:(Dev Ops)", ""},
		{`{"filter":{"EQ":{"person.id":1036}}}`, "@var1:[1036 1036]", ""},
		{`{"filter":{"EQ":{"person.id":0.5}}}`, "@var1:[0.5 0.5]", ""},
		{`{"filter":{"EQ":{"state":"New York-1"}}}`, `@var2:{New\ York\-1}`, ""},
		{`{"filter":{"EQ":{"state":true}}}`, "@var2:{true}", ""},
		{`{"filter":{"NEQ":{"person.org":"A"}}}`, "-@var0:(A)", ""},
		{`{"filter":{"GT":{"person.id":1}}}`, "@var1:[(1 inf]", ""},
		{`{"filter":{"GTE":{"person.id":1}}}`, "@var1:[1 inf]", ""},
		{`{"filter":{"LT":{"person.id":1}}}`, "@var1:[-inf (1]", ""},
		{`{"filter":{"LTE":{"person.id":-1e3}}}`, "@var1:[-inf -1000]", ""},
		{`{"filter":{"IN":{"person.org":["A","B"]}}}`, "(@var0:(A)|@var0:(B))", ""},
		{`{"filter":{"IN":{"person.id":[1,2]}}}`, "(@var1:[1 1]|@var1:[2 2])", ""},
		{`{"filter":{"AND":[{"EQ":{"person.org":"A"}},{"NEQ":{"state":"CA"}}]}}`, "(@var0:(A) -@var2:{CA})", ""},
		{`{"filter":{"OR":[{"EQ":{"person.org":"A"}},{"AND":[{"EQ":{"person.id":1}},{"NEQ":{"person.org":"B"}}]}]}}`, "(@var0:(A)|(@var1:[1 1] -@var0:(B)))", ""},
		{`{"filter":{"EQ":{"person.org":"x) | @var1:[0 inf] (y"}}}`, "@var0:(x var1 0 inf y)", ""},
		{`{"sort":[{"key":"person.id","order":"DESC"}]}`, "* SORTBY var1 DESC", ""},
		{`{"sort":[{"key":"state"}]}`, "* SORTBY var2 ASC", ""},
		{`{"sort":[{"key":"state"},{"key":"person.id"}]}`, "", "by one only"},
		{`{"sort":[{"key":"other"}]}`, "", `"other" is not indexed`},
		{`{"filter":{"EQ":{"other":"A"}}}`, "", `"other" is not indexed`},
		{`{"filter":{"OR":[{"EQ":{"person.org":"A"}},{"EQ":{"other":"A"}}]}}`, "", `"other" is not indexed`},
		{`{"filter":{"IN":{"state":["CA"]}}}`, "", "at least two"},
		{`{"filter":{"EQ":{"person.org":"--"}}}`, "", "no word"},
		{`{"filter":{"EQ":{"person.org":null}}}`, "", "unsupported type"},
		{`{"filter":{"EQ":{"person.org":true}}}`, "", "unsupported type"},
		{`{"filter":{"GT":{"person.id":true}}}`, "", "only numbers"},
	} {
		q, err := state.ParseQuery([]byte(c.query))
		if err != nil {
			t.Errorf("%s: %v", c.query, err)
			continue
		}
		args, err := searchArguments("people", known, q)
		if c.err != "" {
			if err == nil || !strings.Contains(err.Error(), c.err) {
				t.Errorf("%s: error %v, want %q", c.query, err, c.err)
			}
			continue
		}
		if got := strings.Join(args, " "); err != nil || got != "people "+c.want+" RETURN 1 $" {
			t.Errorf("%s: %s, %v; want people %s RETURN 1 $", c.query, got, err, c.want)
		}
	}
}

// TestQuery runs queries against replies of both protocol versions.
func TestQuery(t *testing.T) {
	created := 0
	resp3 := func(docs ...string) string {
		text := fmt.Sprintf("%%2\r\n+total_results\r\n:9\r\n+results\r\n*%d\r\n", len(docs)/2)
		for i := 0; i < len(docs); i += 2 {
			text += "%2\r\n+id\r\n" + bulk(docs[i]) + "+extra_attributes\r\n%1\r\n+$\r\n" + bulk(docs[i+1])
		}
		return text
	}
	reply := ""
	f := newFakeServer(t, func(command []string) string {
		switch command[0] {
		case "JSON.GET":
			return "-ERR wrong number of arguments for 'JSON.GET' command\r\n"
		case "FT.CREATE":
			if created++; created == 1 {
				return "-Index already exists\r\n"
			}
			return "+OK\r\n"
		case "FT.DROPINDEX":
			return "+OK\r\n"
		case "FT.SEARCH":
			return reply
		}
		return ""
	})
	s := connect(t, properties{"redisHost": f.address, "queryIndexes": people})
	var names []string
	for _, c := range f.commands() {
		names = append(names, strings.Join(c[:min(2, len(c))], " "))
	}
	if want := []string{"JSON.GET", "FT.CREATE people", "FT.DROPINDEX people", "FT.CREATE people"}; !slices.Equal(names, want) {
		t.Errorf("opening sent %q, want %q", names, want)
	}
	ctx := context.Background()
	named := map[string]string{"queryIndexName": "people"}
	replies := map[string]string{
		"resp2":    "*5\r\n:9\r\n" + bulk("app||1") + "*2\r\n+$\r\n" + bulk(`{"data":{"a":1},"version":4}`) + bulk("app||2") + "*2\r\n+$\r\n" + bulk(`{"data":"x","version":1}`),
		"resp3":    resp3("app||1", `{"data":{"a":1},"version":4}`, "app||2", `{"data":"x","version":1}`),
		"dialect3": resp3("app||1", `[{"data":{"a":1},"version":4}]`, "app||2", `[{"data":"x","version":1}]`),
	}
	for name, text := range replies {
		reply = text
		got, err := s.Query(ctx, state.Query{Page: state.Page{Limit: 2, Token: "4"}}, named)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		want := []state.QueryItem{
			{Key: "app||1", Data: []byte(`{"a":1}`), ETag: "4", HasETag: true},
			{Key: "app||2", Data: []byte(`"x"`), ETag: "1", HasETag: true},
		}
		if fmt.Sprint(got.Items) != fmt.Sprint(want) || got.Token != "6" {
			t.Errorf("%s: %v, token %q; want %v, token 6", name, got.Items, got.Token, want)
		}
		if sent := f.commands(); len(sent) != 1 || strings.Join(sent[0], " ") != "FT.SEARCH people * RETURN 1 $ LIMIT 4 2" {
			t.Errorf("%s: sent %q", name, sent)
		}
	}
	reply = resp3("app||odd", `{"version":4}`)
	got, err := s.Query(ctx, state.Query{}, named)
	if err != nil || len(got.Items) != 1 || got.Items[0].Err == nil || got.Token != "" {
		t.Errorf("a document without data gives %+v, %v; want an error of the item alone", got, err)
	}
	reply = resp3()
	if got, err = s.Query(ctx, state.Query{Page: state.Page{Limit: 2}}, named); err != nil || len(got.Items) != 0 || got.Token != "" {
		t.Errorf("nothing found gives %+v, %v", got, err)
	}
	reply = "-Syntax error at offset 3\r\n"
	_, err = s.Query(ctx, state.Query{}, named)
	expectError(t, err, "Syntax error")
	_, err = s.Query(ctx, state.Query{}, nil)
	expectError(t, err, "query index not found")
	_, err = s.Query(ctx, state.Query{}, map[string]string{"queryIndexName": "x"})
	expectError(t, err, `query index schema "x" not found`)
	_, err = s.Query(ctx, state.Query{Page: state.Page{Token: "x"}}, named)
	expectError(t, err, "page token")
}

// TestQueryIndexFails checks that a server without RediSearch is named with a remedy.
func TestQueryIndexFails(t *testing.T) {
	f := newFakeServer(t, func(command []string) string {
		if command[0] == "JSON.GET" {
			return "-ERR wrong number of arguments for 'JSON.GET' command\r\n"
		}
		return ""
	})
	_, err := tryOpen(t, properties{"redisHost": f.address, "queryIndexes": people})
	expectError(t, err, f.address, "people", "RediSearch", "unknown command")
}

func FuzzSearchWords(f *testing.F) {
	f.Add("plain words")
	f.Add(`x) | @var1:[0 inf] ("y\`)
	f.Fuzz(func(t *testing.T, text string) {
		if words := searchWords(text); strings.ContainsAny(words, "()[]{}@|-*\"\\:'~%") {
			t.Errorf("%q becomes %q, which means something in a query", text, words)
		}
		tag := escapeTag(text)
		for i := 0; i < len(tag); i++ {
			if tag[i] == '\\' {
				i++
			} else if strings.IndexByte("{}|@ *\"", tag[i]) >= 0 {
				t.Errorf("%q becomes the tag %q, with %q not escaped", text, tag, tag[i])
			}
		}
	})
}

func FuzzGlob(f *testing.F) {
	f.Add(`app||a\_%_*[x]`, "app||a_bc*[x]")
	f.Add("ž_", "žé")
	f.Fuzz(func(t *testing.T, like, key string) {
		// Globs of paths are those of Redis but for the slash, and for ?, which is a byte there and a character here.
		if strings.Contains(like+key, "/") || !state.MatchLike(like, key) {
			return
		}
		if ok, err := path.Match(globOf(like), key); !ok || err != nil {
			t.Errorf("%q matches %q, but the glob %q does not: %v", like, key, globOf(like), err)
		}
	})
}

func FuzzDocument(f *testing.F) {
	f.Add([]byte(`{"data":1,"version":2}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		if item, err := parseDocument(text); err == nil && (!item.Found || item.Data == nil) {
			t.Errorf("%q gives %+v and no error", text, item)
		}
	})
}
