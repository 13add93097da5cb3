package postgresql

import (
	"encoding/json"
	"maps"
	"net/url"
	"strings"
	"testing"

	"outrigger.dev/components/bindings"
	"outrigger.dev/components/bindings/bindingstest"
	"outrigger.dev/components/bindings/sqlbinding"
	"outrigger.dev/test/servers"
)

func TestMain(m *testing.M) { servers.Main(m) }

// binding is the type under test.
var binding = bindingstest.Type[*Binding]{Register: Register, Name: "postgres"}

func TestStatements(t *testing.T) {
	server := servers.Postgres(t)
	dsn := server.Database()
	for _, mode := range []string{"", "simple_protocol", "exec", "describe_exec", "cache_describe"} {
		t.Run(mode, func(t *testing.T) {
			b := binding.MustOpen(t, map[string]string{"url": dsn, "queryExecMode": mode, "maxConns": "3"})
			run := func(operation, sql, params string) *bindings.Response {
				t.Helper()
				return bindingstest.MustInvokeSQL(t, b, operation, sql, params)
			}
			run("exec", "DROP TABLE IF EXISTS foo", "")
			run("exec", "CREATE TABLE foo (id bigint PRIMARY KEY, c1 text, ts timestamptz)", "")
			resp := run("exec", "INSERT INTO foo (id, c1, ts) VALUES ($1, $2, $3), ($4, $5, NULL)", `[9007199254740993, "it's", "2026-09-24T11:45:05Z", 2, null]`)
			m := resp.Metadata
			bindingstest.TakeTiming(t, m)
			if want := map[string]string{"operation": "exec", "rows-affected": "2", "sql": "INSERT INTO foo (id, c1, ts) VALUES ($1, $2, $3), ($4, $5, NULL)"}; !maps.Equal(m, want) || resp.Data != nil {
				t.Errorf("metadata %v, data %s", m, resp.Data)
			}
			resp = run("query", "SELECT id, c1, ts AT TIME ZONE 'UTC' FROM foo WHERE id > $1 ORDER BY id DESC", "[1]")
			if string(resp.Data) != `[[9007199254740993,"it's","2026-09-24T11:45:05Z"],[2,null,null]]` || resp.Metadata["operation"] != "query" {
				t.Errorf("rows %s, metadata %v", resp.Data, resp.Metadata)
			}
			if _, has := resp.Metadata["rows-affected"]; has {
				t.Errorf("a query affected rows: %v", resp.Metadata)
			}
			if resp = run("query", "SELECT id FROM foo WHERE id = $1", "[7]"); string(resp.Data) != "[]" {
				t.Errorf("no rows are %s", resp.Data)
			}
			if resp = run("exec", "DELETE FROM foo", " "); resp.Metadata["rows-affected"] != "2" {
				t.Errorf("metadata %v", resp.Metadata)
			}
		})
	}
}

func TestValues(t *testing.T) {
	b := binding.MustOpen(t, map[string]string{"connectionString": servers.Postgres(t).ConnectionString()})
	for expression, want := range map[string]string{
		"1::smallint":                             "1",
		"9007199254740993::bigint":                "9007199254740993",
		"1.5::real":                               "1.5",
		"0.1::double precision":                   "0.1",
		"'NaN'::double precision":                 `"NaN"`,
		"'-Infinity'::real":                       `"-Inf"`,
		"12345678901234567890.123456789::numeric": "12345678901234567890.123456789",
		"'NaN'::numeric":                          `"NaN"`,
		"true":                                    "true",
		"NULL":                                    "null",
		"'<&>'::text":                             `"\u003c\u0026\u003e"`,
		"'a'::varchar(3)":                         `"a"`,
		`'\x00ff'::bytea`:                         `"AP8="`,
		"'{\"a\": [1, null]}'::jsonb":             `{"a":[1,null]}`,
		"'[1]'::json":                             "[1]",
		"'7b0c1a9e-1f52-4f0b-8d0e-0a1b2c3d4e5f'::uuid":        `"7b0c1a9e-1f52-4f0b-8d0e-0a1b2c3d4e5f"`,
		"ARRAY[1,2,NULL]::int[]":                              "[1,2,null]",
		"ARRAY['a','b']":                                      `["a","b"]`,
		"ARRAY['7b0c1a9e-1f52-4f0b-8d0e-0a1b2c3d4e5f'::uuid]": `["7b0c1a9e-1f52-4f0b-8d0e-0a1b2c3d4e5f"]`,
		"'2026-01-02'::date":                                  `"2026-01-02T00:00:00Z"`,
		"'2026-01-02 03:04:05.6'::timestamp":                  `"2026-01-02T03:04:05.6Z"`,
		"'infinity'::timestamp":                               `"infinity"`,
		"'03:04:05'::time":                                    `"03:04:05.000000"`,
		"'1 day 02:00'::interval":                             `"1 day 02:00:00"`,
		"'10.0.0.1/8'::inet":                                  `"10.0.0.1/8"`,
		"'10.0.0.0/8'::cidr":                                  `"10.0.0.0/8"`,
		"'08:00:2b:01:02:03'::macaddr":                        `"08:00:2b:01:02:03"`,
		"'[1,5)'::int4range":                                  `"[1,5)"`,
		"ARRAY['[1,5)'::int4range]":                           `["[1,5)"]`,
		"'{[1,5),[7,9)}'::int4multirange":                     `"{[1,5),[7,9)}"`,
		"to_tsvector('simple', 'a b')":                        `"'a':1 'b':2"`,
		"'a'::\"char\"":                                       `97`,
		"'empty'::int4range":                                  `"empty"`,
		"'(,5.5]'::numrange":                                  `"(,5.5]"`,
		"'[\"a\",\"b c\")'::text":                             `"[\"a\",\"b c\")"`,
		"'[2026-01-01 10:00,2026-01-02)'::tsrange":            `"[\"2026-01-01 10:00:00\",\"2026-01-02 00:00:00\")"`,
		"1::oid":                  "1",
		"'{\"a\":\"NaN\"}'::json": `{"a":"NaN"}`,
		"ROW(1,'a')":              `[1,"a"]`,
		"B'101'":                  `"101"`,
		"point(1,2)":              `"(1,2)"`,
		"'3.50'::money":           `"$3.50"`,
	} {
		resp, err := bindingstest.InvokeSQL(b, "query", "SELECT "+expression, "")
		if err != nil {
			t.Errorf("%s: %v", expression, err)
			continue
		}
		if got := string(resp.Data); got != "[["+want+"]]" {
			t.Errorf("%s is %s, want [[%s]]", expression, got, want)
		}
	}
	// And the other way.
	for _, tc := range []struct{ expression, params, want string }{
		{"$1::int[]", "[[1,2]]", "[1,2]"},
		{"$1::jsonb", `[{"b":[1.5,"x"]}]`, `{"b":[1.5,"x"]}`},
		{"$1::numeric", `["0.10"]`, "0.10"},
		{"$1::numeric", `[1.5]`, "1.5"},
		{"$1::timestamptz AT TIME ZONE 'UTC'", `["2026-01-02T03:04:05Z"]`, `"2026-01-02T03:04:05Z"`},
		{"$1::bool", "[true]", "true"},
		{"$1::uuid", `["7b0c1a9e-1f52-4f0b-8d0e-0a1b2c3d4e5f"]`, `"7b0c1a9e-1f52-4f0b-8d0e-0a1b2c3d4e5f"`},
		{"$1::double precision", "[2]", "2"},
	} {
		resp, err := bindingstest.InvokeSQL(b, "query", "SELECT "+tc.expression, tc.params)
		if err != nil || string(resp.Data) != "[["+tc.want+"]]" {
			t.Errorf("%s with %s: %+v, %v; want [[%s]]", tc.expression, tc.params, resp, err, tc.want)
		}
	}
}

func TestErrors(t *testing.T) {
	server := servers.Postgres(t)
	b := binding.MustOpen(t, map[string]string{"connectionString": server.ConnectionString(), "timeout": "1s"})
	bindingstest.CheckSQLErrors(t, b, []bindingstest.SQLError{
		{Operation: "query", SQL: "SELEC 1", Want: "syntax error"},
		{Operation: "exec", SQL: "SELECT $1::int", Params: `["x"]`, Want: "x"},
		{Operation: "query", SQL: "SELECT 1/(2-x) FROM generate_series(1,3) x", Want: "division by zero"},
		{Operation: "exec", SQL: "SELECT pg_sleep(30)", Want: `"timeout" is 1s`},
	})
}

func TestOpen(t *testing.T) {
	server := servers.Postgres(t)
	u, err := url.Parse(server.ConnectionString())
	if err != nil {
		t.Fatal(err)
	}
	b := binding.MustOpen(t, map[string]string{"host": server.Host, "port": u.Port(), "user": server.User, "password": server.Password, "database": "postgres"})
	if resp, err := bindingstest.InvokeSQL(b, "query", "SELECT current_user, current_setting('application_name')", ""); err != nil || string(resp.Data) != `[["postgres","dapr"]]` {
		t.Errorf("response %+v, %v", resp, err)
	}
	for _, tc := range []struct {
		properties map[string]string
		err        string
	}{
		{nil, `"connectionString" is required`},
		{map[string]string{"url": server.ConnectionString(), "password": "wrong"}, "cannot connect"},
		{map[string]string{"url": server.ConnectionString(), "database": "none"}, `"none"`},
		{map[string]string{"url": "host=127.0.0.1 port=1 user=u"}, "127.0.0.1:1"},
		{map[string]string{"url": "host=h", "timeout": "1ms"}, `"timeout"`},
	} {
		if _, err := binding.Open(t, tc.properties); err == nil || !strings.Contains(err.Error(), tc.err) || strings.Contains(err.Error(), server.Password) {
			t.Errorf("%v: error %v, want one with %q", tc.properties, err, tc.err)
		}
	}
}

func TestRestart(t *testing.T) {
	server := servers.Postgres(t, servers.Own())
	b := binding.MustOpen(t, map[string]string{"connectionString": server.ConnectionString(), "timeout": "5s"})
	server.Kill()
	if _, err := bindingstest.InvokeSQL(b, "query", "SELECT 1", ""); err == nil {
		t.Error("the killed server answered")
	}
	if _, err := bindingstest.InvokeSQL(b, "query", "SELECT 1", ""); err == nil || !strings.Contains(err.Error(), server.Addr) {
		t.Errorf("server that is down: %v", err)
	}
	server.Start()
	if resp, err := bindingstest.InvokeSQL(b, "query", "SELECT 1", ""); err != nil || string(resp.Data) != "[[1]]" {
		t.Errorf("after the restart: %+v, %v", resp, err)
	}
}

func FuzzParseParams(f *testing.F) {
	for _, seed := range []string{"[]", `[1, "a", null, true, 1.5, {"a":[1e9]}]`, "[1e999]", "{}", "[[]]x"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		params, err := sqlbinding.Params(text, parameter)
		if err != nil {
			return
		}
		if len(params) > 0 {
			if _, err := json.Marshal(params); err != nil {
				t.Fatalf("%q became %v: %v", text, params, err)
			}
		}
	})
}
