package components

import (
	"context"
	"errors"
	"reflect"
	"strconv"
	"strings"
	"testing"
	"time"
)

type shared struct {
	Timeout time.Duration `name:"timeout" aliases:"timeoutInSeconds" default:"20s" help:"how long a call may take"`
}

type options struct {
	shared
	Host     string          `name:"redisHost" required:"true" aliases:"host,addr" help:"host and port"`
	Secret   string          `name:"password" secret:"true"`
	TLS      bool            `name:"enableTLS"`
	Retries  int             `name:"maxRetries" default:"3"`
	Port     uint16          `name:"port"`
	Ratio    float64         `name:"ratio"`
	Interval Millis          `name:"retryInterval" default:"2s"`
	Size     ByteSize        `name:"maxSize" default:"4Mi"`
	Hosts    []string        `name:"hosts"`
	Backoffs []time.Duration `name:"backoffs"`
	Mode     string          `name:"mode" allowed:"node,cluster" default:"node"`
	Optional *int            `name:"optional"`
	Unmarked string
	//lint:ignore U1000 shows that unexported fields are left alone
	unexposed string
}

func registry(opened *options) *Registry {
	r := &Registry{}
	Register(r, State, Info{Name: "redis", Aliases: []string{"valkey"}, Version: "v1", Status: Stable}, func(_ context.Context, _ Instance, o options) (any, error) {
		*opened = o
		return "opened", nil
	})
	return r
}

func open(t *testing.T, properties map[string]string) (options, error) {
	t.Helper()
	var got options
	d, err := registry(&got).Lookup(State, "redis", "v1")
	if err != nil {
		t.Fatal(err)
	}
	_, err = d.Open(context.Background(), Instance{Properties: properties})
	return got, err
}

func TestDecode(t *testing.T) {
	seven := 7
	got, err := open(t, map[string]string{
		"REDISHOST": "h:1", "timeoutInSeconds": "5", "enabletls": "Yes", "maxRetries": "0x10", "port": "010", "ratio": "1.5",
		"retryInterval": "250", "maxSize": "1k", "hosts": "a, b,", "backoffs": "1s, 2 ,,3m", "mode": "Cluster", "optional": "7", "unknown": "x",
	})
	if err != nil {
		t.Fatal(err)
	}
	want := options{
		shared: shared{5 * time.Second}, Host: "h:1", TLS: true, Retries: 16, Port: 8, Ratio: 1.5, Interval: Millis(250 * time.Millisecond), Size: 1000,
		Hosts: []string{"a", " b", ""}, Backoffs: []time.Duration{time.Second, 2 * time.Second, 3 * time.Minute}, Mode: "Cluster", Optional: &seven,
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
}

func TestDecodeDefaults(t *testing.T) {
	got, err := open(t, map[string]string{"host": "first alias", "addr": "second alias"})
	if err != nil {
		t.Fatal(err)
	}
	want := options{shared: shared{20 * time.Second}, Host: "first alias", Retries: 3, Interval: Millis(2 * time.Second), Size: 4 << 20, Mode: "node"}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
}

func TestDecodeRefuses(t *testing.T) {
	for name, c := range map[string]struct {
		properties map[string]string
		want       string
	}{
		"required":        {nil, `metadata property "redisHost" is required: host and port`},
		"empty required":  {map[string]string{"redisHost": ""}, `"redisHost" is required`},
		"case twins":      {map[string]string{"redisHost": "a", "redishost": "b"}, "key redishost is duplicate in the metadata"},
		"int with blank":  {map[string]string{"redisHost": "a", "maxRetries": "1 "}, `"maxRetries" is "1 ", which is not a valid int: invalid syntax`},
		"int too large":   {map[string]string{"redisHost": "a", "port": "70000"}, "value out of range"},
		"fraction":        {map[string]string{"redisHost": "a", "timeout": "1.5"}, `"timeout" is "1.5", which is not a valid duration`},
		"duration blank":  {map[string]string{"redisHost": "a", "timeout": "5 s"}, "not a valid duration"},
		"quantity":        {map[string]string{"redisHost": "a", "maxSize": "4MB"}, "not a valid byte size"},
		"not allowed":     {map[string]string{"redisHost": "a", "mode": "ring"}, `"mode" is "ring", but must be one of node, cluster`},
		"alias is named":  {map[string]string{"redisHost": "a", "timeoutInSeconds": "x"}, `"timeoutInSeconds" is "x"`},
		"list of garbage": {map[string]string{"redisHost": "a", "backoffs": "1s,x"}, "not a valid list of durations"},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := open(t, c.properties); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want %q", err, c.want)
			}
		})
	}
}

func TestCheck(t *testing.T) {
	d, err := registry(&options{}).Lookup(State, "redis", "")
	if err != nil {
		t.Fatal(err)
	}
	findings := d.Check(map[string]string{"redisHots": "a", "keyPrefix": "none", "enableTLS": "enabled", "somethingElse": "1"})
	var texts []string
	for _, f := range findings {
		texts = append(texts, f.String())
	}
	all := strings.Join(texts, "\n")
	for _, want := range []string{
		`state.redis does not know the metadata property "redisHots", so it has no effect; did you mean "redisHost"?`,
		`"somethingElse", so it has no effect; remove it`,
		`metadata property "redisHost" is required`,
		`metadata property "enableTLS" is "enabled", which counts as false; write "true" or "false"`,
	} {
		if !strings.Contains(all, want) {
			t.Errorf("missing %q in\n%s", want, all)
		}
	}
	if len(findings) != 4 {
		t.Errorf("%d findings, want 4:\n%s", len(findings), all)
	}
	if findings := d.Check(map[string]string{"host": "a"}); len(findings) != 0 {
		t.Errorf("a correct component has findings: %v", findings)
	}
}

func TestSecretsAreNotShown(t *testing.T) {
	type secretive struct {
		Key int `name:"key" secret:"true"`
	}
	r := &Registry{}
	Register(r, State, Info{Name: "x", Version: "v1"}, func(context.Context, Instance, secretive) (any, error) { return 1, nil })
	d, _ := r.Lookup(State, "x", "v1")
	if _, err := d.Open(context.Background(), Instance{Properties: map[string]string{"key": "hunter2"}}); err == nil || strings.Contains(err.Error(), "hunter2") {
		t.Errorf("the error shows a secret, or is missing: %v", err)
	}
}

func TestLookup(t *testing.T) {
	r := registry(&options{})
	for _, v := range []string{"v2", "v1"} {
		Register(r, State, Info{Name: "postgresql", Version: v, Default: v == "v1"}, func(context.Context, Instance, struct{}) (any, error) { return nil, nil })
	}
	Register(r, State, Info{Name: "yugabyte", Version: "v2", Default: true}, func(context.Context, Instance, struct{}) (any, error) { return nil, nil })
	for _, c := range []struct{ name, version, want string }{
		{"redis", "", "redis/v1"},
		{"redis", "v0", "redis/v1"},
		{"Redis", "V1", "redis/v1"},
		{"valkey", "v1", "redis/v1"},
		{"postgresql", "", "postgresql/v1"},
		{"postgresql", "v2", "postgresql/v2"},
		{"yugabyte", "", "yugabyte/v2"},
	} {
		d, err := r.Lookup(State, c.name, c.version)
		if err != nil {
			t.Errorf("%s/%s: %v", c.name, c.version, err)
		} else if got := d.Name + "/" + d.Version; got != c.want {
			t.Errorf("%s/%s found %s, want %s", c.name, c.version, got, c.want)
		}
	}
	for _, c := range []struct{ name, version, want string }{
		{"rediss", "v1", "couldn't find state store state.rediss/v1 (did you mean state.redis?)"},
		{"redis", "v9", "couldn't find state store state.redis/v9 (state.redis has the versions v1)"},
		{"cassandra", "", "couldn't find state store state.cassandra/v1 (this build has postgresql, "},
	} {
		_, err := r.Lookup(State, c.name, c.version)
		if err == nil || !strings.HasPrefix(err.Error(), c.want) {
			t.Errorf("%s/%s: got %v, want %s", c.name, c.version, err, c.want)
		}
		if _, ok := errors.AsType[*NotFoundError](err); !ok {
			t.Errorf("%s: not a NotFoundError", c.name)
		}
	}
}

func TestRegisterTwicePanics(t *testing.T) {
	r := registry(&options{})
	defer func() {
		if recover() == nil {
			t.Error("no panic")
		}
	}()
	Register(r, State, Info{Name: "VALKEY", Version: "V1"}, func(context.Context, Instance, struct{}) (any, error) { return nil, nil })
}

func TestSplitType(t *testing.T) {
	for in, want := range map[string]bool{"state.redis": true, "secretstores.local.file": true, "State.redis": false, "state.": false, "state": false, "workflow.x": false} {
		if _, _, ok := SplitType(in); ok != want {
			t.Errorf("SplitType(%q) = %v", in, ok)
		}
	}
	if c, name, _ := SplitType("secretstores.local.file"); c != SecretStores || name != "local.file" {
		t.Errorf("got %s, %s", c, name)
	}
}

func TestTruthy(t *testing.T) {
	for in, want := range map[string]bool{"y": true, " YES ": true, "True": true, "t": true, "on": true, "1": true, "2": false, "enabled": false, "": false, "no": false} {
		if Truthy(in) != want {
			t.Errorf("Truthy(%q) = %v", in, !want)
		}
	}
}

func FuzzParseDuration(f *testing.F) {
	for _, s := range []string{"", "5", "-1", "5s", "1.5", "1h2m", "9223372036854775807"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		d, err := ParseDuration(s, time.Second)
		n, number := strconv.ParseInt(s, 10, 64)
		if err == nil && number == nil && d != time.Duration(n)*time.Second {
			t.Errorf("%q gives %v", s, d)
		}
		if err == nil && number == nil && (d < 0) != (n < 0) {
			t.Errorf("%q overflowed to %v", s, d)
		}
	})
}
