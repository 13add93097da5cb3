package localenv

import (
	"reflect"
	"strings"
	"testing"

	"outrigger.dev/components"
	"outrigger.dev/components/secretstores"
)

func environment(list ...string) Environment {
	return Environment{
		Lookup: func(name string) (string, bool) {
			for _, item := range list {
				if value, ok := strings.CutPrefix(item, name+"="); ok {
					return value, true
				}
			}
			return "", false
		},
		List: func() []string { return list },
	}
}

func openStore(t *testing.T, register func(*components.Registry), properties map[string]string) secretstores.Store {
	t.Helper()
	var r components.Registry
	register(&r)
	d, err := r.Lookup(components.SecretStores, "local.env", "v1")
	if err != nil {
		t.Fatal(err)
	}
	s, err := d.Open(t.Context(), components.Instance{Name: "env", Properties: properties})
	if err != nil {
		t.Fatal(err)
	}
	return s.(secretstores.Store)
}

var list = []string{"GOLDEN_ENV_SECRET=fromenv", "GOLDEN_=unnamed", "GOLDEN_EQ=a=b", "GOLDEN_EMPTY=", "DAPR_API_TOKEN=hidden", "dapr_low=hidden", "App_Api_Token=hidden", "PATH=/bin", "=C:=C:\\", "odd"}

func TestGet(t *testing.T) {
	tests := []struct {
		name, prefix, key, want string
	}{
		{"plain", "", "PATH", "/bin"},
		{"prefix", "GOLDEN_", "ENV_SECRET", "fromenv"},
		{"value with equals sign", "GOLDEN_", "EQ", "a=b"},
		{"outside the prefix", "GOLDEN_", "PATH", ""},
		{"missing", "", "NO_SUCH", ""},
		{"sidecar setting", "", "DAPR_API_TOKEN", ""},
		{"sidecar setting in lower case", "", "dapr_low", ""},
		{"sidecar setting through the prefix", "DAPR", "_API_TOKEN", ""},
		{"app token", "", "App_Api_Token", ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := openStore(t, func(r *components.Registry) { RegisterWith(r, environment(list...)) }, map[string]string{"prefix": tt.prefix})
			got, err := s.Get(t.Context(), tt.key, nil)
			if want := map[string]string{tt.key: tt.want}; err != nil || !reflect.DeepEqual(got, want) {
				t.Errorf("got %v, %v, want %v", got, err, want)
			}
		})
	}
}

func TestBulkGet(t *testing.T) {
	tests := []struct {
		name, prefix string
		want         map[string]string
	}{
		{"prefix", "GOLDEN_", map[string]string{"ENV_SECRET": "fromenv", "EQ": "a=b", "EMPTY": ""}},
		{"no prefix", "", map[string]string{"GOLDEN_ENV_SECRET": "fromenv", "GOLDEN_": "unnamed", "GOLDEN_EQ": "a=b", "GOLDEN_EMPTY": "", "PATH": "/bin"}},
		{"prefix of hidden ones", "DAPR_", map[string]string{}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := openStore(t, func(r *components.Registry) { RegisterWith(r, environment(list...)) }, map[string]string{"prefix": tt.prefix})
			all, err := s.BulkGet(t.Context(), nil)
			if err != nil {
				t.Fatal(err)
			}
			got := map[string]string{}
			for name, entries := range all {
				if len(entries) != 1 {
					t.Errorf("%s has the entries %v", name, entries)
				}
				got[name] = entries[name]
			}
			if !reflect.DeepEqual(got, tt.want) {
				t.Errorf("got %v, want %v", got, tt.want)
			}
		})
	}
}

func TestProcessEnvironment(t *testing.T) {
	t.Setenv("OUTRIGGER_TEST_SECRET", "here")
	s := openStore(t, Register, map[string]string{"prefix": "OUTRIGGER_TEST_"})
	got, err := s.Get(t.Context(), "SECRET", nil)
	if err != nil || got["SECRET"] != "here" {
		t.Errorf("got %v, %v", got, err)
	}
	if got := secretstores.Capabilities(s); got != nil {
		t.Errorf("capabilities %v, want none", got)
	}
}
