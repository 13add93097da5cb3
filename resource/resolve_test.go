package resource

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"
	"testing/iotest"
)

// stores is a SecretReader over maps that records its calls.
type stores struct {
	secrets map[string]map[string]string // "store/name" -> entries
	loaded  map[string]bool
	calls   []string
}

func (s *stores) GetSecret(ctx context.Context, store, name string, metadata map[string]string) (map[string]string, error) {
	s.calls = append(s.calls, store+"/"+name+"@"+metadata["namespace"])
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if !s.loaded[store] {
		return nil, fmt.Errorf("no store %s: %w", store, ErrStoreNotLoaded)
	}
	entries, ok := s.secrets[store+"/"+name]
	if !ok {
		return nil, errors.New("no such secret")
	}
	return entries, nil
}

func item(name, value string) NameValue { return NameValue{Name: name, Value: TextValue(value)} }
func secretItem(name, secret, key string) NameValue {
	return NameValue{Name: name, SecretKeyRef: SecretKeyRef{Name: secret, Key: key}}
}

func TestResolve(t *testing.T) {
	b64 := base64.StdEncoding.EncodeToString
	withValue := secretItem("k", "none", "x")
	withValue.Value = TextValue("literal")
	replaced := secretItem("k", "s", "x")
	replaced.Value = TextValue("literal")
	inlined := secretItem("k", "s", "x")
	inlined.Value = TextValue(b64([]byte("plain")))
	broken := secretItem("k", "s", "x")
	broken.Value = TextValue("%%%")
	both := NameValue{Name: "k", Value: TextValue("v"), EnvRef: "A"}
	fallback := NameValue{Name: "k", Value: TextValue(""), EnvRef: "A"}
	for _, tc := range []struct {
		name       string
		kubernetes bool
		store      string
		item       NameValue
		want       string
		problem    string // part of the one problem
		parked     bool
		calls      string
	}{
		{name: "literal", item: item("k", "v"), want: "v"},
		{name: "quoted literal is kept", item: item("k", `"v"`), want: `"v"`},
		{name: "env", item: NameValue{Name: "k", EnvRef: "A"}, want: "a"},
		{name: "env in quotes", item: NameValue{Name: "k", EnvRef: "Q"}, want: "q\n"},
		{name: "env unset", item: NameValue{Name: "k", EnvRef: "NOPE"}, want: ""},
		{name: "env forbidden", item: NameValue{Name: "k", EnvRef: "dapr_x"}, problem: "k stays empty: environment variable \"dapr_x\" may not be read"},
		{name: "value before env", item: both, want: "v"},
		{name: "empty value is a value", item: fallback, want: ""},
		{name: "secret", store: "st", item: secretItem("k", "s", "x"), want: "secret", calls: "st/s@ns"},
		{name: "key defaults to name", store: "st", item: secretItem("k", "s", ""), want: "same", calls: "st/s@ns"},
		{name: "secret in quotes", store: "st", item: secretItem("k", "s", "q"), want: "quoted", calls: "st/s@ns"},
		{name: "secret replaces literal", store: "st", item: replaced, want: "secret", calls: "st/s@ns"},
		{name: "failed read keeps literal", store: "st", item: withValue, want: "literal", problem: "Error getting secret: no such secret", calls: "st/none@ns"},
		{name: "missing key", store: "st", item: secretItem("k", "s", "zz"), problem: `the secret "s" of store st has no value under the key "zz"`, calls: "st/s@ns"},
		{name: "empty entry", store: "st", item: secretItem("k", "s", "empty"), problem: "has no value", calls: "st/s@ns"},
		{name: "no store named", item: secretItem("k", "s", "x"), problem: "the resource names no secret store"},
		{name: "store not loaded", store: "later", item: secretItem("k", "s", "x"), parked: true, calls: "later/s@ns"},
		{name: "kubernetes default", kubernetes: true, item: inlined, want: "plain"},
		{name: "kubernetes explicit", kubernetes: true, store: "kubernetes", item: inlined, want: "plain"},
		{name: "kubernetes nothing inlined", kubernetes: true, item: secretItem("k", "s", "x"), want: ""},
		{name: "kubernetes not base64", kubernetes: true, item: broken, want: "%%%", problem: "is not base64"},
		{name: "kubernetes with other store", kubernetes: true, store: "st", item: secretItem("k", "s", "x"), want: "secret", calls: "st/s@ns"},
		{name: "standalone store named kubernetes", store: "kubernetes", item: secretItem("k", "s", "x"), parked: true, calls: "kubernetes/s@ns"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			reader := &stores{loaded: map[string]bool{"st": true}, secrets: map[string]map[string]string{"st/s": {"x": "secret", "s": "same", "q": "`quoted`", "empty": ""}}}
			r := &Resolver{Kubernetes: tc.kubernetes, Secrets: reader, Env: NewEnv(environment(map[string]string{"A": "a", "Q": `"q\n"`, "DAPR_X": "x"}))}
			in := []NameValue{tc.item}
			out, problems, err := r.Resolve(t.Context(), Reference{Kind: KindComponent, Name: "n", Namespace: "ns", SecretStore: tc.store}, in)
			if !reflect.DeepEqual(in[0], tc.item) {
				t.Error("the input was changed")
			}
			if len(out) != 1 || out[0].Value.String() != tc.want || out[0].Name != tc.item.Name {
				t.Errorf("got %+v, want %q", out, tc.want)
			}
			if got := texts(problems); (tc.problem == "") != (got == "") || !strings.Contains(got, tc.problem) {
				t.Errorf("problems %q, want %q", got, tc.problem)
			}
			var parked *StoreNotLoadedError
			if errors.As(err, &parked) != tc.parked || errors.Is(err, ErrStoreNotLoaded) != tc.parked {
				t.Errorf("error %v", err)
			}
			if tc.parked && err.Error() != "Component n references a secret store that isn't loaded: "+tc.store {
				t.Errorf("error %v", err)
			}
			if got := strings.Join(reader.calls, " "); got != tc.calls {
				t.Errorf("calls %q, want %q", got, tc.calls)
			}
		})
	}
}

func TestResolveReadsEachSecretOnce(t *testing.T) {
	reader := &stores{loaded: map[string]bool{"st": true}, secrets: map[string]map[string]string{"st/s": {"a": "1", "b": "2"}}}
	r := &Resolver{Secrets: reader}
	h := &HTTPEndpoint{Header: Header{Kind: KindHTTPEndpoint, Metadata: Metadata{Name: "e", Namespace: "ns"}}, Auth: Auth{SecretStore: "st"}, Spec: HTTPEndpointSpec{
		Headers:   []NameValue{secretItem("A", "s", "a"), secretItem("B", "s", "b"), secretItem("C", "gone", "")},
		ClientTLS: &TLS{RootCA: &TLSDocument{SecretKeyRef: SecretKeyRef{"s", "a"}}, PrivateKey: &TLSDocument{SecretKeyRef: SecretKeyRef{"gone", ""}}},
	}}
	got, problems, err := r.HTTPEndpoint(t.Context(), h)
	if err != nil || len(problems) != 1 || strings.Join(reader.calls, " ") != "st/s@ns st/gone@ns" {
		t.Errorf("%v, %s, calls %v", err, texts(problems), reader.calls)
	}
	if got.Spec.Headers[1].Value.String() != "2" || got.Spec.ClientTLS.RootCA.Text() != "1" || got.Spec.ClientTLS.Certificate.Text() != "" || got.Spec.ClientTLS.RenegotiationOrDefault() != "Never" {
		t.Errorf("got %+v", got.Spec)
	}
	if h.Spec.Headers[1].Value.IsSet() || h.Spec.ClientTLS.RootCA.Value.IsSet() {
		t.Error("the input was changed")
	}
}

func TestResolveComponentAndServer(t *testing.T) {
	r := &Resolver{Secrets: &stores{loaded: map[string]bool{"st": true}, secrets: map[string]map[string]string{"st/s": {"s": "v"}}}, Env: NewEnv(environment(map[string]string{"E": "e"}))}
	c, _, err := r.Component(t.Context(), &Component{Auth: Auth{SecretStore: "st"}, Spec: ComponentSpec{Metadata: []NameValue{secretItem("k", "s", ""), {Name: "e", EnvRef: "E"}}}})
	if got := Properties(c.Spec.Metadata); err != nil || !reflect.DeepEqual(got, map[string]string{"k": "v", "e": "e"}) {
		t.Errorf("%v, %v", got, err)
	}
	m := &MCPServer{Header: Header{Kind: KindMCPServer, Metadata: Metadata{Name: "m"}}}
	m.Spec.Endpoint = MCPEndpoint{
		StreamableHTTP: &MCPHTTP{Headers: []NameValue{secretItem("h", "s", "")}, Auth: MCPAuth{SecretStore: "st"}},
		SSE:            &MCPHTTP{Headers: []NameValue{secretItem("h", "s", "")}, Auth: MCPAuth{SecretStore: "gone"}},
		Stdio:          &MCPStdio{Env: []NameValue{{Name: "e", EnvRef: "E"}, secretItem("x", "s", "")}},
	}
	got, problems, err := r.MCPServer(t.Context(), m)
	var parked *StoreNotLoadedError
	if !errors.As(err, &parked) || parked.Store != "gone" || len(problems) != 1 {
		t.Errorf("%v, %s", err, texts(problems))
	}
	e := got.Spec.Endpoint
	if e.StreamableHTTP.Headers[0].Value.String() != "v" || e.SSE.Headers[0].Value.IsSet() || e.Stdio.Env[0].Value.String() != "e" || m.Spec.Endpoint.Stdio.Env[0].Value.IsSet() {
		t.Errorf("got %+v", e)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, _, err := r.Resolve(ctx, Reference{SecretStore: "st"}, []NameValue{secretItem("k", "s", "")}); !errors.Is(err, context.Canceled) {
		t.Errorf("error %v", err)
	}
	if _, _, err := (&Resolver{}).Resolve(t.Context(), Reference{SecretStore: "st"}, []NameValue{secretItem("k", "s", "")}); !errors.Is(err, ErrStoreNotLoaded) {
		t.Errorf("without reader: %v", err)
	}
	if _, problems, _ := (&Resolver{}).Resolve(t.Context(), Reference{}, []NameValue{{Name: "k", EnvRef: "E"}}); len(problems) != 1 {
		t.Errorf("without env: %v", problems)
	}
}

func TestEnv(t *testing.T) {
	vars := map[string]string{"A": "1", "lower": "2", "APP_API_TOKEN": "t", "DAPR_API_TOKEN": "t", "app_api_token": "t"}
	listed := map[string]string{"DAPR_ENV_KEYS": " A  LOWER DAPR_API_TOKEN", "A": "1", "lower": "2", "B": "3"}
	for _, tc := range []struct {
		vars       map[string]string
		name, want string
		refused    string
	}{
		{vars, "A", "1", ""},
		{vars, "lower", "2", ""},
		{vars, "UNSET", "", ""},
		{vars, "", "", "is empty"},
		{vars, "A B", "", "contains a space"},
		{vars, "APP_API_TOKEN", "", "reserved"},
		{vars, "app_api_token", "", "reserved"},
		{vars, "DAPR_API_TOKEN", "", "reserved"},
		{vars, "dapr_x", "", "reserved"},
		{listed, "A", "1", ""},
		{listed, "lower", "2", ""},
		{listed, "B", "", "not listed in DAPR_ENV_KEYS"},
		{listed, "DAPR_API_TOKEN", "", "reserved"},
	} {
		got, err := NewEnv(environment(tc.vars)).Get(tc.name)
		if got != tc.want || (err != nil) != (tc.refused != "") || err != nil && !strings.Contains(err.Error(), tc.refused) {
			t.Errorf("%q: %q, %v", tc.name, got, err)
		}
	}
}

func TestTemplates(t *testing.T) {
	templates := Templates{PodName: "pod", Namespace: "ns", AppID: "app", Random: strings.NewReader(strings.Repeat("0123456789abcdef", 4))}
	for _, tc := range []struct {
		in, want   string
		namespaced bool
	}{
		{"plain", "plain", false},
		{"{appID}", "app", false},
		{"a-{podName}-{appID}{", "a-pod-app{", false},
		{"{namespace}", "ns.app", true},
		{"{namespace}/{namespace}", "ns.app/ns.app", true},
		{"{APPID} {uuid", "{APPID} {uuid", false},
		{"{{appID}}", "{app}", false},
		{`{"a":"{appID}"}`, `{"a":"app"}`, false},
	} {
		in := []NameValue{item("k", tc.in)}
		got, namespaced, err := templates.Expand(in)
		if err != nil || got[0].Value.String() != tc.want || namespaced != tc.namespaced || in[0].Value.String() != tc.in {
			t.Errorf("%q: %v, %t, %v", tc.in, got, namespaced, err)
		}
	}
	got, _, err := templates.Expand([]NameValue{item("a", "{uuid}/{uuid}"), item("b", "{uuid}")})
	if err != nil || got[0].Value.String() != "30313233-3435-4637-b839-616263646566/30313233-3435-4637-b839-616263646566" || len(got[1].Value.String()) != 36 {
		t.Errorf("%v, %v", got, err)
	}
	templates.PodName = ""
	if _, _, err := templates.Expand([]NameValue{item("P", "x{podName}")}); err == nil || err.Error() != "failed to parse metadata: property P refers to {podName} but podName is not set" {
		t.Errorf("error %v", err)
	}
	templates.Random = iotest.ErrReader(errors.New("no entropy"))
	if _, _, err := templates.Expand([]NameValue{item("P", "{uuid}")}); err == nil || !strings.Contains(err.Error(), "no entropy") {
		t.Errorf("error %v", err)
	}
	jsonValue := []NameValue{{Name: "k", Value: Value{`["{appID}"]`, valueJSON}}}
	if got, _, _ := templates.Expand(jsonValue); got[0].Value != TextValue(`["app"]`) {
		t.Errorf("got %v", got)
	}
}

func TestValues(t *testing.T) {
	for _, tc := range []struct {
		yaml, text, json string
		set              bool
	}{
		{"abc", "abc", `"abc"`, true},
		{`'"abc"'`, `"abc"`, `"\"abc\""`, true},
		{"5", "5", "5", true},
		{"1.10", "1.1", "1.1", true},
		{"yes", "true", "true", true},
		{`"5"`, "5", `"5"`, true},
		{"~", "", "null", false},
		{"", "", "null", false},
		{`""`, "", `""`, true},
		{"[1, a, {c: d, b: no}]", `[1,"a",{"b":false,"c":"d"}]`, `[1,"a",{"b":false,"c":"d"}]`, true},
		{"<&>", "<&>", `"<&>"`, true},
		{"[<]", `["<"]`, `["<"]`, true},
		{"0x10", "16", "16", true},
	} {
		var got struct {
			V Value `json:"v"`
		}
		d := newDecoder(Origin{}, false)
		d.decode(parse(t, "v: "+tc.yaml), elem(&got), "")
		if d.err() != nil || got.V.String() != tc.text || string(got.V.JSON()) != tc.json || got.V.IsSet() != tc.set {
			t.Errorf("%s: %+v, %s, %v", tc.yaml, got.V, got.V.JSON(), d.err())
		}
		var again Value
		if err := again.UnmarshalJSON(got.V.JSON()); err != nil || again != got.V {
			t.Errorf("%s after JSON: %+v, %v", tc.yaml, again, err)
		}
	}
	if text, _ := json.Marshal(NameValue{Name: "a"}); string(text) != `{"name":"a"}` {
		t.Errorf("an absent value is written: %s", text)
	}
	var v Value
	if v.UnmarshalJSON([]byte("{")) == nil || v.UnmarshalJSON([]byte(`"`)) == nil {
		t.Error("broken JSON is accepted")
	}
}

func TestUnquoteLiteral(t *testing.T) {
	for in, want := range map[string]string{
		`"a\tb"`: "a\tb", "`a\\tb`": `a\tb`, `'x'`: "x", `'xy'`: "'xy'", `"a`: `"a`, `a"b"`: `a"b"`, `""`: "", `"\""`: `"`, `"a" `: `"a" `, "": "", `"`: `"`, `""a""`: `""a""`, `"\q"`: `"\q"`, `"\u00e9"`: "é",
	} {
		if got := SubstitutedValue(in).String(); got != want {
			t.Errorf("%q: got %q, want %q", in, got, want)
		}
	}
}

func FuzzValue(f *testing.F) {
	for _, s := range []string{`"a"`, `'x'`, "`r`", `{"a":[1,"\ud83d\ude00"]}`, "null", `"\q"`, "1e5"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		once := unquoteLiteral(s)
		if len(s) > 0 && !strings.ContainsRune("\"'`", rune(s[0])) && once != s {
			t.Errorf("%q became %q", s, once)
		}
		var v Value
		if err := v.UnmarshalJSON([]byte(s)); err != nil {
			return
		}
		if !json.Valid(v.JSON()) {
			t.Errorf("%q gives the JSON %s", s, v.JSON())
		}
		var again Value
		if err := again.UnmarshalJSON(v.JSON()); err != nil || again != v {
			t.Errorf("%q: %+v, then %+v, %v", s, v, again, err)
		}
	})
}
