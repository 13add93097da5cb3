package resource

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
)

// writeFiles writes files by name into a new directory.
func writeFiles(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, content := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func componentYAML(name, kind string, extra ...string) string {
	return fmt.Sprintf("apiVersion: dapr.io/v1alpha1\nkind: Component\nmetadata:\n  name: %s\n%sspec:\n  type: %s\n  version: v1\n  metadata: []\n", name, strings.Join(extra, ""), kind)
}

func texts(problems []Problem) string {
	var lines []string
	for _, p := range problems {
		lines = append(lines, p.String())
	}
	return strings.Join(lines, "\n")
}

func TestLoadOrderAndKinds(t *testing.T) {
	first := writeFiles(t, map[string]string{
		"b.yaml": componentYAML("b1", "state.x") + "---\n" + componentYAML("b2", "pubsub.y"),
		"a.YML":  componentYAML("a", "state.x"),
		"c.yaml": `{"apiVersion": "dapr.io/v1alpha1", "KIND": "Resiliency", "metadata": {"name": "r1"}, "spec": {}}
---
apiVersion: dapr.io/v1alpha1
kind: Resiliency
metadata: {name: r2}
spec: {policies: {timeouts: {t: 5}}}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: other}
---
apiVersion: dapr.io/v1alpha1
kind: Configuration
metadata: {name: cfg}
`,
		"d.yaml": `apiVersion: dapr.io/v1alpha1
kind: HTTPEndpoint
metadata: {name: e}
spec: {baseUrl: "https://x"}
---
apiVersion: dapr.io/v1alpha1
kind: MCPServer
metadata: {name: m}
spec: {endpoint: {stdio: {command: x}}}
---
apiVersion: dapr.io/v1alpha1
kind: WorkflowAccessPolicy
metadata: {name: w}
spec: {rules: [{callers: [{appID: a}], activities: [{name: "*"}]}]}
---
apiVersion: dapr.io/v1alpha1
kind: Subscription
metadata: {name: s1}
spec: {pubsubname: p, topic: t, route: /v1}
---
apiVersion: dapr.io/v2alpha1
kind: Subscription
metadata: {name: s2}
spec: {pubsubname: p, topic: t, routes: {default: /v2}}
`,
	})
	second := writeFiles(t, map[string]string{"a.yaml": componentYAML("second", "state.x")})
	if err := os.Mkdir(filepath.Join(first, "sub.yaml"), 0o700); err != nil {
		t.Fatal(err)
	}
	set, problems, err := Load(t.Context(), Options{Dirs: []string{first, second}, AppID: "app"})
	if err != nil || len(problems) != 0 {
		t.Fatalf("error %v, problems %s", err, texts(problems))
	}
	var names []string
	for _, c := range set.Components {
		names = append(names, c.Metadata.Name)
	}
	if want := []string{"a", "b1", "b2", "second"}; !slices.Equal(names, want) {
		t.Errorf("components %v, want %v", names, want)
	}
	if o := set.Components[2].Origin; o.File != filepath.Join(first, "b.yaml") || o.Document != 2 || o.Line != 10 {
		t.Errorf("origin of b2 is %v", o)
	}
	if len(set.Resiliencies) != 2 || len(set.HTTPEndpoints) != 1 || len(set.MCPServers) != 1 || len(set.WorkflowAccessPolicies) != 1 || len(set.Subscriptions) != 2 {
		t.Errorf("set %+v", set)
	}
	if r := set.Subscriptions[0].Rules(); len(r) != 1 || r[0].Path != "/v1" {
		t.Errorf("v1alpha1 rules %v", r)
	}
	if r := set.Subscriptions[1].Rules(); len(r) != 1 || r[0].Path != "/v2" {
		t.Errorf("v2alpha1 rules %v", r)
	}
}

func TestLoadProblems(t *testing.T) {
	for _, tc := range []struct {
		name, file, content string
		want                []string // parts of the one problem
		loaded              int      // components
	}{
		{"not yaml", "x.json", "{}", []string{"warning: ", "A non-YAML Component file x.json was detected, it will not be loaded", "rename it to .yaml"}, 0},
		{
			"syntax", "x.yaml", componentYAML("a", "state.x") + "---\nkind: HTTPEndpoint\na: b: c\n---\n" + componentYAML("b", "state.x"),
			[]string{"error: ", "document 2, line 11: HTTPEndpoint: daprd load HTTPEndpoint error when parsing manifests yaml resource in ", "yaml: line 11: mapping values are not allowed"},
			2,
		},
		{
			"type", "x.yaml", componentYAML("a", "state.x") + "  ignoreErrors: 'yes'\n",
			[]string{`document 1, line 1: Component "a": daprd load Component error`, `line 9: cannot unmarshal the text "yes" into spec.ignoreErrors, which must be true or false`},
			0,
		},
		{"scalar document", "x.yaml", "hello\n", []string{`the document is the text "hello", not an object`}, 0},
		{"dot", "x.yaml", componentYAML("..", "state.x"), []string{"metadata.name may not be '..'"}, 0},
		{"slash", "x.yaml", componentYAML("a/b", "state.x"), []string{`daprd load Component error`, `metadata.name "a/b" may not contain '/'`}, 0},
		{"percent", "x.yaml", componentYAML("'a%b'", "state.x"), []string{`metadata.name "a%b" may not contain '%'`}, 0},
		{"no name", "x.yaml", componentYAML(`""`, "state.x"), []string{"warning: ", "metadata.name is missing, so the document is ignored"}, 0},
		{"unknown field", "x.yaml", componentYAML("a", "state.x") + "  initTimout: 3s\n", []string{"warning: ", "document 1, line 9: Component \"a\": unknown field spec.initTimout is ignored; fix: did you mean initTimeout?"}, 1},
		{"unknown item field", "x.yaml", "apiVersion: dapr.io/v1alpha1\nkind: Component\nmetadata: {name: a}\nspec:\n  type: state.x\n  metadata:\n  - name: k\n    valeu: v\n", []string{"line 8: ", "unknown field spec.metadata[0].valeu is ignored; fix: did you mean value?"}, 1},
		{"repeated key", "x.yaml", componentYAML("a", "state.x") + "  type: state.z\n", []string{"key type is written twice; the last one is used"}, 1},
		{"wrong case twice", "x.yaml", componentYAML("a", "state.x") + "  Type: state.z\n", []string{"field spec.Type is written twice, also as type, which is used"}, 1},
		{"misspelt kind", "x.yaml", strings.Replace(componentYAML("a", "state.x"), "Component", "Componnet", 1), []string{`kind "Componnet" of dapr.io/v1alpha1 is unknown, so the document is ignored; fix: did you mean kind: Component?`}, 0},
		{"kind case", "x.yaml", strings.Replace(componentYAML("a", "state.x"), "Component", "component", 1), []string{"did you mean kind: Component?"}, 0},
		{"unknown kind", "x.yaml", strings.Replace(componentYAML("a", "state.x"), "Component", "Gateway", 1), []string{"use one of Component, Configuration"}, 0},
		{"wrong version", "x.yaml", strings.Replace(componentYAML("a", "state.x"), "v1alpha1", "v1", 1), []string{`apiVersion "dapr.io/v1" is not a version of Component, so the document is ignored; fix: set apiVersion: dapr.io/v1alpha1`}, 0},
		{"no version", "x.yaml", strings.Replace(componentYAML("a", "state.x"), "apiVersion: dapr.io/v1alpha1", "", 1), []string{`apiVersion "" is not a version of Component`}, 0},
		{"wrong group", "x.yaml", strings.Replace(componentYAML("a", "state.x"), "dapr.io", "dapr.oi", 1), []string{`apiVersion "dapr.oi/v1alpha1" is not a version of Component`}, 0},
		{"subscription version", "x.yaml", "apiVersion: dapr.io/v3\nkind: Subscription\nmetadata: {name: a}\n", []string{"set apiVersion: dapr.io/v1alpha1 or dapr.io/v2alpha1"}, 0},
		{"resiliency version", "x.yaml", "apiVersion: dapr.io/v1\nkind: Resiliency\nmetadata: {name: a}\n", []string{"not a known version of Resiliency; the document is loaded all the same"}, 0},
		{"category", "x.yaml", componentYAML("a", "stat.x"), []string{"incorrect type stat.x; fix: did you mean state.x?"}, 1},
		{"name like a boolean", "x.yaml", componentYAML("n", "state.x"), []string{`line 4: Component "false": metadata.name is written n, which YAML reads as false; fix: put it in quotes to keep it as it is`}, 1},
		{"version in a value", "x.yaml", strings.Replace(componentYAML("a", "state.x"), "[]", "[{name: apiVersion, value: 1.10}]", 1), []string{"spec.metadata[0].value is written 1.10, which YAML reads as 1.1"}, 1},
		{"label key", "x.yaml", componentYAML("a", "state.x", "  labels: {on: 'x'}\n"), []string{"a key of metadata.labels is written on, which YAML reads as true"}, 1},
		{"no type", "x.yaml", componentYAML("a", `""`), []string{"spec.type is missing"}, 1},
		{"bare type", "x.yaml", componentYAML("a", "state"), []string{"not of the form category.name"}, 1},
		{"init timeout", "x.yaml", componentYAML("a", "state.x") + "  initTimeout: soon\n", []string{`spec.initTimeout "soon" is not a duration, so 5s is used`}, 1},
		{
			"policy", "x.yaml", "apiVersion: dapr.io/v1alpha1\nkind: WorkflowAccessPolicy\nmetadata: {name: w}\nspec: {rules: [{callers: [], activities: [{name: x}]}]}\n",
			[]string{`error: `, `WorkflowAccessPolicy "w" failed validation, skipping: spec.rules[0].callers must have at least 1 item`},
			0,
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			dir := writeFiles(t, map[string]string{tc.file: tc.content})
			set, problems, err := Load(t.Context(), Options{Dirs: []string{dir}})
			if err != nil {
				t.Fatal(err)
			}
			if len(problems) != 1 {
				t.Fatalf("want one problem, got:\n%s", texts(problems))
			}
			got := problems[0].String()
			for _, part := range tc.want {
				if !strings.Contains(got, part) {
					t.Errorf("got  %s\nwant %s", got, part)
				}
			}
			if !strings.Contains(got, filepath.Join(dir, tc.file)) {
				t.Errorf("no file in %s", got)
			}
			if len(set.Components) != tc.loaded {
				t.Errorf("%d components, want %d", len(set.Components), tc.loaded)
			}
			if len(set.WorkflowAccessPolicies) != 0 {
				t.Errorf("policies %v", set.WorkflowAccessPolicies)
			}
		})
	}
}

func TestForeignDocumentsAreSilent(t *testing.T) {
	dir := writeFiles(t, map[string]string{"x.yaml": "apiVersion: v1\nkind: Configuration\n---\napiVersion: core.oam.dev/v1\nkind: Component\n---\nkind: Kustomization\n---\nservices: {}\n---\napiVersion: dapr.io/v1alpha1\nkind: Configuration\nmetadata: {name: c}\n"})
	_, problems, err := Load(t.Context(), Options{Dirs: []string{dir}})
	if err != nil || len(problems) != 0 {
		t.Errorf("error %v, problems %s", err, texts(problems))
	}
}

func TestFilters(t *testing.T) {
	scoped := "scopes: [other]\n"
	mine := "scopes: [other, app]\n"
	for _, tc := range []struct {
		name, doc, namespace string
		deny                 []string
		want                 int
	}{
		{"no namespace anywhere", componentYAML("a", "state.x"), "", nil, 1},
		{"resource without namespace", componentYAML("a", "state.x"), "ns", nil, 1},
		{"same namespace", componentYAML("a", "state.x", "  namespace: ns\n"), "ns", nil, 1},
		{"other namespace", componentYAML("a", "state.x", "  namespace: other\n"), "ns", nil, 0},
		{"process without namespace", componentYAML("a", "state.x", "  namespace: other\n"), "", nil, 1},
		{"out of scope", componentYAML("a", "state.x") + scoped, "", nil, 0},
		{"in scope", componentYAML("a", "state.x") + mine, "", nil, 1},
		{"empty scopes", componentYAML("a", "state.x") + "scopes: []\n", "", nil, 1},
		{"denied type", componentYAML("a", "state.x"), "", []string{"state.x"}, 0},
		{"denied version", componentYAML("a", "state.x"), "", []string{"state.x/v1"}, 0},
		{"denied other version", componentYAML("a", "state.x"), "", []string{"state.x/v2"}, 1},
		{"denied in other case", componentYAML("a", "state.x"), "", []string{"State.X"}, 1},
		{"no version with deny list", strings.Replace(componentYAML("a", "state.x"), "version: v1", "version: ''", 1), "", []string{"state.y"}, 0},
	} {
		t.Run(tc.name, func(t *testing.T) {
			dir := writeFiles(t, map[string]string{"a.yaml": tc.doc})
			set, problems, err := Load(t.Context(), Options{Dirs: []string{dir}, Namespace: tc.namespace, AppID: "app", Deny: tc.deny})
			if err != nil || len(set.Components) != tc.want {
				t.Errorf("%d components, error %v", len(set.Components), err)
			}
			if denied := tc.deny != nil && tc.want == 0; denied != (len(problems) == 1) {
				t.Errorf("problems %s", texts(problems))
			}
		})
	}
}

func TestFiltersOfOtherKinds(t *testing.T) {
	doc := "apiVersion: dapr.io/v1alpha1\nkind: %s\nmetadata: {name: a, namespace: other}\nspec: %s\nscopes: [app]\n"
	specs := map[string]string{
		KindSubscription: "{pubsubname: p, topic: t, route: /r}", KindResiliency: "{}", KindHTTPEndpoint: "{baseUrl: 'http://x'}",
		KindMCPServer: "{endpoint: {stdio: {command: x}}}", KindWorkflowAccessPolicy: "{rules: []}",
	}
	for kind, spec := range specs {
		for _, app := range []string{"app", "else"} {
			dir := writeFiles(t, map[string]string{"a.yaml": fmt.Sprintf(doc, kind, spec)})
			set, _, err := Load(t.Context(), Options{Dirs: []string{dir}, Namespace: "ns", AppID: app})
			if err != nil {
				t.Fatal(err)
			}
			n := len(set.Subscriptions) + len(set.Resiliencies) + len(set.HTTPEndpoints) + len(set.MCPServers) + len(set.WorkflowAccessPolicies)
			want := 0
			if app == "app" && (kind == KindSubscription || kind == KindResiliency) { // no namespace filter
				want = 1
			}
			if n != want {
				t.Errorf("%s for %s: %d loaded, want %d", kind, app, n, want)
			}
		}
	}
}

func TestDuplicates(t *testing.T) {
	endpoint := "apiVersion: dapr.io/v1alpha1\nkind: HTTPEndpoint\nmetadata: {name: a}\nspec: {baseUrl: 'http://x'}\n"
	policy := "apiVersion: dapr.io/v1alpha1\nkind: WorkflowAccessPolicy\nmetadata: {name: a}\nspec: {}\n"
	server := "apiVersion: dapr.io/v1alpha1\nkind: MCPServer\nmetadata: {name: a}\nspec: {endpoint: {stdio: {command: x}}}\n"
	sub := "apiVersion: dapr.io/v2alpha1\nkind: Subscription\nmetadata: {name: %s}\nspec: {pubsubname: p, topic: %s, routes: {default: /r}}\n"
	load := func(t *testing.T, files map[string]string) (string, *Set, []Problem, error) {
		dir := writeFiles(t, files)
		set, problems, err := Load(t.Context(), Options{Dirs: []string{dir}, Namespace: "ns", AppID: "app"})
		return dir, set, problems, err
	}
	t.Run("components", func(t *testing.T) {
		dir, set, _, err := load(t, map[string]string{"a.yaml": componentYAML("a", "state.y"), "b.yaml": componentYAML("a", "state.x") + "---\n" + componentYAML("a", "pubsub.z"), "e.yaml": endpoint})
		var fatal *LoadError
		if !errors.As(err, &fatal) || fatal.Kind != KindComponent {
			t.Fatalf("error %v", err)
		}
		lines := strings.Split(err.Error(), "\n")
		if len(lines) != 2 || !strings.HasPrefix(lines[0], "duplicate definition of Component name a (state.x/v1) with existing a (state.y/v1)") ||
			!strings.HasPrefix(lines[1], "duplicate definition of Component name a (pubsub.z/v1) with existing a (state.y/v1)") {
			t.Errorf("text %q", err)
		}
		if want := filepath.Join(dir, "b.yaml") + ", document 1, line 1 repeats " + filepath.Join(dir, "a.yaml") + ", document 1, line 1"; !strings.Contains(lines[0], want) {
			t.Errorf("text %q lacks %q", lines[0], want)
		}
		if len(set.Components) != 0 || len(set.HTTPEndpoints) != 1 {
			t.Errorf("set %+v", set)
		}
	})
	t.Run("other namespace", func(t *testing.T) {
		_, set, _, err := load(t, map[string]string{"a.yaml": componentYAML("a", "state.y", "  namespace: other\n") + "---\n" + componentYAML("a", "state.x")})
		if err != nil || len(set.Components) != 1 {
			t.Errorf("%v, %v", set.Components, err)
		}
	})
	t.Run("second out of scope", func(t *testing.T) {
		_, _, _, err := load(t, map[string]string{"a.yaml": componentYAML("a", "state.x") + "---\n" + componentYAML("a", "state.y") + "scopes: [other]\n"})
		if err == nil {
			t.Error("no error")
		}
	})
	t.Run("first out of scope", func(t *testing.T) {
		_, set, _, err := load(t, map[string]string{"a.yaml": componentYAML("a", "state.x") + "scopes: [other]\n---\n" + componentYAML("a", "state.y")})
		if err != nil || len(set.Components) != 1 || set.Components[0].Spec.Type != "state.y" {
			t.Errorf("%v, %v", set.Components, err)
		}
	})
	t.Run("servers and policies", func(t *testing.T) {
		_, set, _, err := load(t, map[string]string{"a.yaml": server + "---\n" + server + "---\n" + policy + "---\n" + policy + "---\n" + componentYAML("a", "state.x")})
		if err == nil || !strings.Contains(err.Error(), "duplicate definition of MCPServer name a with existing a") || !strings.Contains(err.Error(), "duplicate definition of WorkflowAccessPolicy name a with existing a") {
			t.Errorf("error %v", err)
		}
		if len(set.MCPServers)+len(set.WorkflowAccessPolicies) != 0 || len(set.Components) != 1 {
			t.Errorf("set %+v", set)
		}
	})
	t.Run("endpoints", func(t *testing.T) {
		_, set, problems, err := load(t, map[string]string{"a.yaml": endpoint + "---\n" + endpoint})
		if err != nil || len(set.HTTPEndpoints) != 0 || !strings.Contains(texts(problems), "duplicate definition of HTTPEndpoint name a with existing a") {
			t.Errorf("%v, %v, %s", set.HTTPEndpoints, err, texts(problems))
		}
	})
	t.Run("subscriptions", func(t *testing.T) {
		_, set, problems, err := load(t, map[string]string{"a.yaml": fmt.Sprintf(sub, "s", "1") + "---\n" + fmt.Sprintf(sub, "x", "2") + "---\n" + fmt.Sprintf(sub, "s", "3") + "---\n" + fmt.Sprintf(sub, "s", "4")})
		var topics []string
		for _, s := range set.Subscriptions {
			topics = append(topics, s.Spec.Topic)
		}
		if err != nil || !slices.Equal(topics, []string{"2", "4"}) || len(problems) != 2 {
			t.Errorf("%v, %v, %s", topics, err, texts(problems))
		}
	})
}

func TestUnreadable(t *testing.T) {
	missing := filepath.Join(t.TempDir(), "none")
	good := writeFiles(t, map[string]string{"a.yaml": componentYAML("a", "state.x")})
	set, _, err := Load(t.Context(), Options{Dirs: []string{missing, good}})
	var fatal *LoadError
	if !errors.As(err, &fatal) || !errors.Is(err, os.ErrNotExist) || fatal.Kind != "" || !strings.Contains(err.Error(), missing) {
		t.Errorf("error %v", err)
	}
	if len(set.Components) != 1 {
		t.Errorf("components %v", set.Components)
	}
	if err := os.Symlink(filepath.Join(missing, "x"), filepath.Join(good, "dangling.yaml")); err != nil {
		t.Skip(err)
	}
	if err := os.Symlink(good, filepath.Join(good, "..data")); err != nil {
		t.Fatal(err)
	}
	_, problems, err := Load(t.Context(), Options{Dirs: []string{good}})
	if err != nil || len(problems) != 1 || !strings.Contains(problems[0].String(), "cannot read the resource file") {
		t.Errorf("%v, %s", err, texts(problems))
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, _, err := Load(ctx, Options{Dirs: []string{good}}); !errors.Is(err, context.Canceled) {
		t.Errorf("error %v", err)
	}
}

func TestLargeDocuments(t *testing.T) {
	large := componentYAML("a", "state.x") + "# " + strings.Repeat("x", 200<<10) + "\n---\n" +
		strings.Replace(componentYAML("b", "state.x"), "metadata: []", "metadata: [{name: k, value: "+strings.Repeat("y", 1<<20)+"}]", 1)
	huge := "# " + strings.Repeat("x", MaxFileSize)
	dir := writeFiles(t, map[string]string{"a.yaml": large, "b.yaml": huge})
	set, problems, err := Load(t.Context(), Options{Dirs: []string{dir}})
	if err != nil || len(set.Components) != 2 || len(set.Components[1].Spec.Metadata[0].Value.String()) != 1<<20 {
		t.Errorf("%d components, %v", len(set.Components), err)
	}
	if len(problems) != 1 || !strings.Contains(problems[0].String(), "b.yaml is larger than the limit of 16 MiB") {
		t.Errorf("problems %s", texts(problems))
	}
}

func TestSame(t *testing.T) {
	read := func(text string) *Component {
		t.Helper()
		c := &Component{}
		if _, err := Decode([]byte(text), Origin{}, c); err != nil {
			t.Fatal(err)
		}
		return c
	}
	base := componentYAML("a", "state.x")
	for _, tc := range []struct {
		name, other string
		want        bool
	}{
		{"identical", base, true},
		{"moved and labelled", "\n\n" + strings.Replace(base, "  name: a\n", "  name: a\n  labels: {x: y}\n", 1), true},
		{"name", strings.Replace(base, "name: a", "name: b", 1), false},
		{"spec", strings.Replace(base, "state.x", "state.y", 1), false},
		{"scopes", base + "scopes: [a]\n", false},
		{"auth", base + "auth: {secretStore: s}\n", false},
	} {
		if got := Same(read(base), read(tc.other)); got != tc.want {
			t.Errorf("%s: %t", tc.name, got)
		}
	}
	if Same(&Component{}, &Component{Header: Header{Kind: "x"}}) || !reflect.DeepEqual(read(base), read(base)) {
		t.Error("kinds are not compared")
	}
}

func FuzzLoad(f *testing.F) {
	f.Add([]byte(componentYAML("a", "state.x")))
	f.Add([]byte("\r\r0"))
	f.Add([]byte("a: &x [1]\n---\nb: {<<: *x}\n--- |\n  text\n"))
	f.Add([]byte("apiVersion: dapr.io/v1alpha1\nkind: Resiliency\nspec: {policies: {retries: {r: {maxRetries: 3, matching: {httpStatusCodes: '429,500-'}}}}}\n"))
	f.Add([]byte("apiVersion: dapr.io/v2alpha1\nkind: Subscription\nspec: {routes: {rules: [{match: x}]}}\n"))
	f.Add([]byte("apiVersion: dapr.io/v1alpha1\nkind: WorkflowAccessPolicy\nspec: {rules: [{}]}\n"))
	f.Add([]byte("apiVersion: dapr.io/v1alpha1\nkind: MCPServer\nmetadata: {name: m}\nspec: {endpoint: {sse: {url: x, headers: [{name: !!binary aGk=}]}}}\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		l := newLoader(Options{})
		l.read("f.yaml", data)
		l.finish()
		// YAML breaks lines at more than newlines.
		lines := 1
		for _, c := range "\n\r\u0085\u2028\u2029" {
			lines += strings.Count(string(data), string(c))
		}
		for _, p := range l.problems {
			if p.Message == "" || p.Origin.Line > lines+1 {
				t.Errorf("problem %v", p)
			}
		}
		for _, c := range l.set.Components {
			if c.Metadata.Name == "" || checkName(c.Metadata.Name) != nil || c.Origin.Document < 1 || c.Origin.Line < 1 {
				t.Errorf("component %+v", c)
			}
		}
		if c, _, err := DecodeConfiguration(data, Origin{}); err == nil {
			_ = c.EffectiveMetrics()
		}
	})
}
