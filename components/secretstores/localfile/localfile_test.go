package localfile

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"outrigger.dev/components"
	"outrigger.dev/components/secretstores"
)

const sample = `{"db-password": "s3cret", "nested": {"a": "1", "b": {"c": "2"}}, "list": ["x", "y"], "num": 5, "flag": true, "empty": ""}`

func write(t *testing.T, content string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "secrets.json")
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func openStore(t *testing.T, properties map[string]string) (secretstores.Store, error) {
	t.Helper()
	var r components.Registry
	Register(&r)
	d, err := r.Lookup(components.SecretStores, "local.file", "")
	if err != nil {
		t.Fatal(err)
	}
	s, err := d.Open(t.Context(), components.Instance{Name: "file", Properties: properties})
	if err != nil {
		return nil, err
	}
	t.Cleanup(func() {
		if err := s.(secretstores.Store).Close(); err != nil {
			t.Error(err)
		}
	})
	return s.(secretstores.Store), nil
}

func TestGet(t *testing.T) {
	path := write(t, sample)
	single := map[string]string{"secretsFile": path}
	dotted := map[string]string{"secretsFile": path, "nestedSeparator": "."}
	multi := map[string]string{"secretsFile": path, "multiValued": "true"}
	blank := map[string]string{"secretsFile": path, "nestedSeparator": ""}
	tests := []struct {
		name       string
		properties map[string]string
		key        string
		want       map[string]string // nil: not found
	}{
		{"string", single, "db-password", map[string]string{"db-password": "s3cret"}},
		{"inner node", single, "nested", nil},
		{"leaf", single, "nested:a", map[string]string{"nested:a": "1"}},
		{"deep leaf", single, "nested:b:c", map[string]string{"nested:b:c": "2"}},
		{"other separator", single, "nested.b.c", nil},
		{"array", single, "list", nil},
		{"array item", single, "list:0", map[string]string{"list:0": "x"}},
		{"number", single, "num", map[string]string{"num": "5"}},
		{"boolean", single, "flag", map[string]string{"flag": "true"}},
		{"empty", single, "empty", map[string]string{"empty": ""}},
		{"missing", single, "missing", nil},
		{"empty separator is the default", blank, "nested:a", map[string]string{"nested:a": "1"}},
		{"dotted leaf", dotted, "nested.b.c", map[string]string{"nested.b.c": "2"}},
		{"dotted with colon", dotted, "nested:a", nil},
		{"multi string", multi, "db-password", map[string]string{"db-password": "s3cret"}},
		{"multi object", multi, "nested", map[string]string{"a": "1", "b:c": "2"}},
		{"multi leaf", multi, "nested:a", nil},
		{"multi array", multi, "list", nil},
		{"multi number", multi, "num", nil},
		{"multi boolean", multi, "flag", nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s, err := openStore(t, tt.properties)
			if err != nil {
				t.Fatal(err)
			}
			got, err := s.Get(t.Context(), tt.key, nil)
			if tt.want == nil {
				if want := "secret " + tt.key + " not found"; err == nil || err.Error() != want {
					t.Fatalf("got %v, %v, want the error %q", got, err, want)
				}
				return
			}
			if err != nil || !reflect.DeepEqual(got, tt.want) {
				t.Fatalf("got %v, %v, want %v", got, err, tt.want)
			}
		})
	}
}

func TestBulkGet(t *testing.T) {
	path := write(t, sample)
	tests := []struct {
		name       string
		properties map[string]string
		want       string
		features   []string
	}{
		{
			"single",
			map[string]string{"secretsFile": path},
			`{"db-password":{"db-password":"s3cret"},"empty":{"empty":""},"flag":{"flag":"true"},"list:0":{"list:0":"x"},"list:1":{"list:1":"y"},"nested:a":{"nested:a":"1"},"nested:b:c":{"nested:b:c":"2"},"num":{"num":"5"}}`,
			nil,
		},
		{
			"multi",
			map[string]string{"secretsFile": path, "multiValued": "true"},
			`{"db-password":{"db-password":"s3cret"},"empty":{"empty":""},"nested":{"a":"1","b:c":"2"}}`,
			[]string{"MULTIPLE_KEY_VALUES_PER_SECRET"},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s, err := openStore(t, tt.properties)
			if err != nil {
				t.Fatal(err)
			}
			for range 2 { // what a caller does with the result must not show in the next one
				all, err := s.BulkGet(t.Context(), nil)
				if err != nil {
					t.Fatal(err)
				}
				got, _ := json.Marshal(all)
				if string(got) != tt.want {
					t.Fatalf("got  %s\nwant %s", got, tt.want)
				}
				for name := range all {
					clear(all[name])
					delete(all, name)
				}
			}
			if got := secretstores.Capabilities(s); !slices.Equal(got, tt.features) {
				t.Errorf("capabilities %v, want %v", got, tt.features)
			}
		})
	}
}

func TestLeavesKeepTheirText(t *testing.T) {
	s, err := openStore(t, map[string]string{"secretsFile": write(t, `{"a": 5.10, "b": 1e3, "c": 12345678901234567890123, "d": null, "e": -0, "f": false, "g": {}, "h": [], "i": [null, [7]], "": "unnamed"}`)})
	if err != nil {
		t.Fatal(err)
	}
	all, err := s.BulkGet(context.Background(), nil)
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]string{"a": "5.10", "b": "1e3", "c": "12345678901234567890123", "d": "", "e": "-0", "f": "false", "i:0": "", "i:1:0": "7", "": "unnamed"}
	got := map[string]string{}
	for name, entries := range all {
		got[name] = entries[name]
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

func TestBrokenFiles(t *testing.T) {
	missing := filepath.Join(t.TempDir(), "nowhere.json")
	tests := []struct {
		name, path string
		extra      map[string]string
		want       []string // parts of the error
	}{
		{"no property", "", nil, []string{`"secretsFile" is required`}},
		{"missing", missing, nil, []string{missing, "does not exist", "secretsFile"}},
		{"folder", t.TempDir(), nil, []string{"cannot be read", "secretsFile"}},
		{"empty", write(t, " \n"), nil, []string{"secrets.json", "is empty"}},
		{"syntax", write(t, "{\n  \"a\": \"b\",\n  oops\n}"), nil, []string{"secrets.json", "line 3, column 3"}},
		{"cut off", write(t, "{\n\"a\": \"hidden"), nil, []string{"line 2", "ends too early"}},
		{"array", write(t, `["a"]`), nil, []string{"JSON array", "object"}},
		{"null", write(t, `null`), nil, []string{"JSON null", "object"}},
		{"trailing", write(t, "{}\n {}"), nil, []string{"after the end", "line 2, column 2"}},
		{"conflict", write(t, `{"a":{"b":"hidden"},"a:b":"hidden"}`), nil, []string{`the name "a:b"`, "nestedSeparator", "secrets.json"}},
		{"conflict within a secret", write(t, `{"s":{"a":{"b":"hidden"},"a:b":"hidden"}}`), map[string]string{"multiValued": "true"}, []string{`secret "s"`, `the name "a:b"`}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			properties := map[string]string{"secretsFile": tt.path}
			for k, v := range tt.extra {
				properties[k] = v
			}
			_, err := openStore(t, properties)
			if err == nil {
				t.Fatal("no error")
			}
			for _, part := range tt.want {
				if !strings.Contains(err.Error(), part) {
					t.Errorf("error %q does not contain %q", err, part)
				}
			}
			if strings.Contains(err.Error(), "hidden") {
				t.Errorf("error %q shows a secret", err)
			}
		})
	}
}

// A conflict in one mode may be none under another separator.
func TestSeparatorResolvesConflict(t *testing.T) {
	path := write(t, `{"a":{"b":"1"},"a:b":"2"}`)
	s, err := openStore(t, map[string]string{"secretsFile": path, "nestedSeparator": "/"})
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{"a/b": "1", "a:b": "2"} {
		if got, err := s.Get(t.Context(), name, nil); err != nil || got[name] != want {
			t.Errorf("%s: got %v, %v", name, got, err)
		}
	}
}

func FuzzFlatten(f *testing.F) {
	f.Add([]byte(sample), ":")
	f.Add([]byte(`{"a":{"b":1},"a:b":2}`), ":")
	f.Add([]byte(`{"a":[[],{}],"b":[null,{"c":1e9}]}`), "")
	f.Add([]byte(`{"a":1} x`), ".")
	f.Add([]byte(`[1`), ".")
	f.Fuzz(func(t *testing.T, data []byte, separator string) {
		document, err := parse(data)
		if err != nil {
			return
		}
		leaves := countLeaves(document)
		if secrets, err := singleValued(document, separator); err == nil {
			if len(secrets) != leaves {
				t.Errorf("%d leaves became %d secrets", leaves, len(secrets))
			}
			for name, entries := range secrets {
				if _, ok := entries[name]; !ok || len(entries) != 1 {
					t.Errorf("secret %q has the entries %v", name, entries)
				}
			}
		}
		if secrets, err := multiValued(document, separator); err == nil {
			for name, entries := range secrets {
				if m, ok := document[name].(map[string]any); ok && countLeaves(m) != len(entries) {
					t.Errorf("secret %q lost entries: %v", name, entries)
				}
			}
		}
	})
}

func countLeaves(v any) int {
	n := 0
	switch v := v.(type) {
	case map[string]any:
		for _, item := range v {
			n += countLeaves(item)
		}
	case []any:
		for _, item := range v {
			n += countLeaves(item)
		}
	default:
		return 1
	}
	return n
}
