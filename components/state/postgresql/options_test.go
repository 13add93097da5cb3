package postgresql

import (
	"strings"
	"testing"
)

func TestOptions(t *testing.T) {
	for _, tc := range []struct {
		name, version string
		properties    map[string]string
		err           string
	}{
		{"nothing", "", nil, `"connectionString" is required`},
		{"timeout", "v2", map[string]string{"url": "host=h", "timeoutInSeconds": "10ms"}, `"timeout" is 10ms`},
		{"table", "", map[string]string{"url": "host=h", "tableName": "a b"}, `"tableName" is "a b"`},
		{"prefix", "v2", map[string]string{"url": "host=h", "tablePrefix": "a;b"}, `"tablePrefix" is "a;bstate"`},
		{"metadata table", "v2", map[string]string{"url": "host=h", "metadataTableName": "a.b.c"}, `"metadataTableName" is "a.b.c"`},
		{"mode", "", map[string]string{"url": "host=h", "queryExecMode": "fast"}, `"queryExecMode" is "fast"`},
	} {
		t.Run(tc.name, func(t *testing.T) {
			_, err := openStore(t, "postgresql", tc.version, tc.properties)
			if err == nil || !strings.Contains(err.Error(), tc.err) {
				t.Errorf("error %v, want one with %q", err, tc.err)
			}
		})
	}
}

func TestParseTableName(t *testing.T) {
	for _, tc := range []struct{ name, quoted, bare string }{
		{"state", `"state"`, "state"},
		{"State", `"state"`, "state"},
		{"Own.State_1", `"own"."state_1"`, "state_1"},
		{`"Own"."St ""x"" ate"`, `"Own"."St ""x"" ate"`, `St "x" ate`},
		{`own."S.t"`, `"own"."S.t"`, "S.t"},
		{"user", `"user"`, "user"},
		{"", "", ""},
		{".", "", ""},
		{"a.", "", ""},
		{"1a", "", ""},
		{"a-b", "", ""},
		{"a; DROP TABLE b", "", ""},
		{`"a`, "", ""},
		{`""`, "", ""},
		{`"a"b`, "", ""},
		{`"a".`, "", ""},
		{"a.b.c", "", ""},
		{"\"a\x00b\"", "", ""},
	} {
		got, err := parseTableName("tableName", tc.name)
		if (err != nil) != (tc.quoted == "") || err == nil && (got.quoted != tc.quoted || got.bare != tc.bare) {
			t.Errorf("parseTableName(%q) = %+v, %v; want %s", tc.name, got, err, tc.quoted)
		}
	}
}

func FuzzParseTableName(f *testing.F) {
	for _, seed := range []string{"state", "a.b", `"a""b".c`, `"`, `""".""`} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, name string) {
		n, err := parseTableName("tableName", name)
		if err != nil {
			return
		}
		// Outside of quotation marks there may only be a dot.
		in := false
		for i := range len(n.quoted) {
			switch c := n.quoted[i]; {
			case c == '"':
				in = !in
			case !in && c != '.':
				t.Fatalf("%q is quoted as %s", name, n.quoted)
			}
		}
		if in {
			t.Fatalf("%q is quoted as %s", name, n.quoted)
		}
	})
}
