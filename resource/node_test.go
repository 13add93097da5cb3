package resource

import (
	"encoding/json"
	"fmt"
	"reflect"
	"strings"
	"testing"

	"sigs.k8s.io/yaml"
)

// parse is the first document of a text as a node.
func parse(t *testing.T, text string) *node {
	t.Helper()
	n, _, err := parseNode(document{index: 1, line: 1, data: []byte(text)})
	if err != nil {
		t.Fatalf("parse %q: %v", text, err)
	}
	return n
}

// The JSON of a document must be what sigs.k8s.io/yaml makes of it: that is the typing users know from Kubernetes.
func TestTypingAgreesWithKubernetesYAML(t *testing.T) {
	scalars := []string{
		"yes", "Yes", "YES", "yEs", "no", "on", "off", "y", "n", "Y", "N", "true", "True", "tRUE", "false", "~", "null", "Null", `""`, "''", `"yes"`, "'5'",
		"0755", "0o17", "0x1F", "0b101", "-0b11", "1_000", "1__0", "1e3", "1E3", "1.10", "1.50", "1.5e300", "-1", "+1", "-0", "0", "00", "08", "09.5", ".5", ".5e3", ".", "-.5",
		"1.", "1.e2", "1e", "1e+", "9223372036854775807", "9223372036854775808", "18446744073709551615", "18446744073709551616", "-9223372036854775809",
		"2001-01-01", "2001-12-14t21:59:43.10-05:00", "12:30:45", "1.2.3", "v1", "0x", "0xG", "1e400", "infinity", "nan", "Inf", "+", "-", "_1", "1_", "1.5_0",
		"!!str 5", "!!str yes", "!!int 5", "!!float 5", "!!bool yes", "!!binary aGk=", "!custom x", "a b", `"a\tb"`, "'it''s'", "hello # comment", "<a&b>",
		"1000000.0", "123456789.125", "1e21", "1e-7", "0.0000001",
	}
	for _, s := range scalars {
		t.Run(s, func(t *testing.T) { compareWithOracle(t, "v: "+s+"\n") })
	}
	documents := []string{
		"a: 1\nb: [1, yes, ~, {c: d}]\n", "a: 1\na: 2\n", "1: x\nyes: y\n1.5: z\n", "a: |\n  line\n  more\nb: >-\n  folded\n  text\n",
		"base: &b {x: 1, y: 2}\nc: {<<: *b, z: 3}\n", "c: {z: 3, <<: [{x: 1}, {x: 2, w: 5}]}\n", "a: &x [1,2]\nb: *x\n", `{"a":{"b":[1,2.5,"x\u00e9"]}}`,
		"---\na: 1\n", "%YAML 1.1\n---\na: yes\n", "a: 1\n...\n", "# only\na:\n", "a:\n- b\n- - c\n  - d\n", "? a\n: b\n",
	}
	for _, d := range documents {
		t.Run(d, func(t *testing.T) { compareWithOracle(t, d) })
	}
}

func compareWithOracle(t *testing.T, text string) {
	t.Helper()
	want, wantErr := yaml.YAMLToJSON([]byte(text))
	n, _, err := parseNode(document{index: 1, line: 1, data: []byte(text)})
	if wantErr != nil || err != nil {
		if (wantErr != nil) != (err != nil) {
			t.Fatalf("%q: error %v, want %v", text, err, wantErr)
		}
		return
	}
	got, err := n.appendJSON(nil, false)
	if err != nil {
		t.Fatal(err)
	}
	var gotAny, wantAny any
	decode := func(data []byte, into *any) {
		d := json.NewDecoder(strings.NewReader(string(data)))
		d.UseNumber()
		if err := d.Decode(into); err != nil {
			t.Fatalf("%s: %v", data, err)
		}
	}
	decode(got, &gotAny)
	decode(want, &wantAny)
	if !reflect.DeepEqual(gotAny, wantAny) {
		t.Errorf("%q: got %s, want %s", text, got, want)
	}
}

func TestScalarsInStringFields(t *testing.T) {
	for in, want := range map[string]string{
		"5": "5", "yes": "true", "off": "false", "1.50": "1.5", "0x1F": "31", "0755": "493", "1_000": "1000", "1e3": "1000", `"1.50"`: "1.50", "text": "text", "18446744073709551615": "18446744073709551615",
		"3.14159265358979": "3.14159265358979", "~": "",
	} {
		var got struct {
			V string `json:"v"`
		}
		d := newDecoder(Origin{}, false)
		d.decode(parse(t, "V: "+in), elem(&got), "")
		if err := d.err(); err != nil || got.V != want {
			t.Errorf("%s: got %q, %v; want %q", in, got.V, err, want)
		}
		// Configuration files keep the text as it is written.
		exact := newDecoder(Origin{}, true)
		exact.decode(parse(t, "v: "+in), elem(&got), "")
		if written := strings.Trim(in, `"`); in != "~" && got.V != written {
			t.Errorf("%s in a configuration: got %q, want %q", in, got.V, written)
		}
	}
}

func TestTypeErrors(t *testing.T) {
	type target struct {
		B bool              `json:"b"`
		I int32             `json:"i"`
		S string            `json:"s"`
		L []string          `json:"l"`
		M map[string]string `json:"m"`
		O struct {
			X int `json:"x"`
		} `json:"o"`
		P *int     `json:"p"`
		D Duration `json:"d"`
		V Value    `json:"v"`
	}
	for _, tc := range []struct{ in, want string }{
		{"b: 'true'", `cannot unmarshal the text "true" into b, which must be true or false`},
		{"b: 1", "the number 1 into b"},
		{"i: '5'", `the text "5" into i, which must be a whole number of at most 32 bits`},
		{"i: 2147483648", "the number 2147483648 into i"},
		{"i: 1.5", "the number 1.5 into i"},
		{"i: yes", "the boolean yes into i"},
		{"s: [a]", "a list into s, which must be text"},
		{"s: {a: b}", "an object into s"},
		{"l: a", `the text "a" into l, which must be a list`},
		{"l: [[a]]", "a list into l[0]"},
		{"m: [a]", "a list into m, which must be an object"},
		{"m: {k: [a]}", "a list into m.k"},
		{"o: 5", "the number 5 into o, which must be an object"},
		{"o: {x: z}", "into o.x"},
		{"p: z", "into p"},
		{"d: 5", "the number 5 into d, which must be a duration"},
		{"d: soon", "into d"},
		{"v: .inf", "into v, which must be a value with a JSON form"},
		{"\n\nb: z\ni: z", "line 3: cannot unmarshal the text \"z\" into b"},
		{"\n\nb: z\ni: z", "line 4: cannot unmarshal the text \"z\" into i"},
		{"- a", "a list into "},
	} {
		var got target
		d := newDecoder(Origin{}, false)
		d.decode(parse(t, tc.in), elem(&got), "")
		if err := d.err(); err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%q: got %v, want %q", tc.in, err, tc.want)
		}
	}
	var ok target
	d := newDecoder(Origin{}, false)
	d.decode(parse(t, "b: on\ni: 1e3\ns: 1\nl: [1, true]\nm: {a: 1}\no: {X: 3}\np: 4\nd: 5s\nv: [1, {b: a}]\nl2: 1"), elem(&ok), "")
	if err := d.err(); err != nil {
		t.Fatal(err)
	}
	if got := fmt.Sprintln(ok.B, ok.I, ok.S, ok.L, ok.M, ok.O, *ok.P, int64(ok.D), ok.V); got != `true 1000 1 [1 true] map[a:1] {3} 4 5000000000 [1,{"b":"a"}]`+"\n" {
		t.Errorf("got %s", got)
	}
	if len(d.problems) != 1 || !strings.Contains(d.problems[0].String(), "unknown field l2") {
		t.Errorf("problems %v", d.problems)
	}
}

func TestMalformedDocuments(t *testing.T) {
	deep := strings.Repeat("[", maxDepth+5) + strings.Repeat("]", maxDepth+5)
	bomb := "a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n"
	for i := 1; i < 10; i++ {
		bomb += fmt.Sprintf("a%d: &a%d [%s]\n", i, i, strings.TrimSuffix(strings.Repeat(fmt.Sprintf("*a%d,", i-1), 10), ","))
	}
	for _, tc := range []struct{ name, in, want string }{
		{"tab", "a:\n\tb: 1\n", "yaml: line 2: "},
		{"colon", "a: b: c\n", "yaml: line 1: mapping values are not allowed"},
		{"anchor", "a: *x\n", "unknown anchor 'x'"},
		{"self", "a: &x\n  b: *x\n", "value contains itself"},
		{"deep", deep, "nested deeper than 1000 levels"},
		{"bomb", bomb, "excessive aliasing"},
		{"null key", "~: 1\n", "unsupported map key"},
		{"list key", "? [a]\n: 1\n", "unsupported map key"},
		{"merge", "a: {<<: 5}\n", "map merge requires map"},
		{"binary", "a: !!binary '!'\n", "invalid base64"},
		{"tag", "a: !!int abc\n", "as a !!int"},
		{"unclosed", "a: [1, 2\n", "yaml: line "},
	} {
		_, _, err := parseNode(document{index: 1, line: 1, data: []byte(tc.in)})
		if err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: got %v, want %q", tc.name, err, tc.want)
		}
		if err != nil && errorLine(err) == 0 {
			t.Errorf("%s: no line in %v", tc.name, err)
		}
	}
}

func TestJSONFallback(t *testing.T) {
	// YAML knows no surrogate pairs, JSON does.
	n := parse(t, `{"a": "\ud83d\ude00", "b": [1, true, null, 1.5]}`)
	got, err := n.appendJSON(nil, false)
	if err != nil || string(got) != `{"a":"😀","b":[1,true,null,1.5]}` {
		t.Errorf("got %s, %v", got, err)
	}
}

func TestSplitDocuments(t *testing.T) {
	type doc struct {
		index, line int
		data        string
	}
	for _, tc := range []struct {
		name, in string
		want     []doc
	}{
		{"one", "a: 1\n", []doc{{1, 1, "a: 1\n"}}},
		{"leading separator", "---\na: 1\n", []doc{{1, 1, "---\na: 1\n"}}},
		{"two", "a: 1\n---\nb: 2\n", []doc{{1, 1, "a: 1\n"}, {2, 2, "---\nb: 2\n"}}},
		{"no final newline", "a: 1\n---\nb: 2", []doc{{1, 1, "a: 1\n"}, {2, 2, "---\nb: 2"}}},
		{"comment first", "# x\n---\na: 1\n", []doc{{1, 2, "---\na: 1\n"}}},
		{"empty in between", "a: 1\n---\n# none\n---\nb: 2\n", []doc{{1, 1, "a: 1\n"}, {3, 4, "---\nb: 2\n"}}},
		{"trailing separator", "a: 1\n---\n", []doc{{1, 1, "a: 1\n"}}},
		{"separator with comment", "a: 1\n--- # next\nb: 2\n", []doc{{1, 1, "a: 1\n"}, {2, 2, "--- # next\nb: 2\n"}}},
		{"content on separator line", "--- {a: 1}\n--- {b: 2}\n", []doc{{1, 1, "--- {a: 1}\n"}, {2, 2, "--- {b: 2}\n"}}},
		{"decorated separator", "a: 1\n-----\nb: 2\n", []doc{{1, 1, "a: 1\n"}, {2, 3, "b: 2\n"}}},
		{"crlf", "a: 1\r\n---\r\nb: 2\r\n", []doc{{1, 1, "a: 1\r\n"}, {2, 2, "---\r\nb: 2\r\n"}}},
		{"byte order mark", "\xef\xbb\xbfa: 1\n", []doc{{1, 1, "a: 1\n"}}},
		{"indented dashes", "a: |\n  ---\n  x\n", []doc{{1, 1, "a: |\n  ---\n  x\n"}}},
		{"directive", "%YAML 1.1\n---\na: 1\n", []doc{{1, 2, "---\na: 1\n"}}},
		{"empty", "", nil},
	} {
		var got []doc
		for _, d := range splitDocuments([]byte(tc.in)) {
			got = append(got, doc{d.index, d.line, string(d.data)})
		}
		if !reflect.DeepEqual(got, tc.want) {
			t.Errorf("%s: got %+v, want %+v", tc.name, got, tc.want)
		}
	}
}

// Every field of every kind must be of a type that the decoder knows.
func TestEveryFieldTypeIsSupported(t *testing.T) {
	seen := map[reflect.Type]bool{}
	var walk func(reflect.Type, string)
	walk = func(typ reflect.Type, path string) {
		if seen[typ] {
			return
		}
		seen[typ] = true
		if reflect.PointerTo(typ).Implements(reflect.TypeFor[nodeDecoder]()) {
			return
		}
		switch typ.Kind() {
		case reflect.Struct:
			for i := range typ.NumField() {
				f := typ.Field(i)
				if f.Name != "_" && f.Tag.Get("json") != "-" {
					if !f.Anonymous && f.Tag.Get("json") == "" {
						t.Errorf("%s.%s has no json tag", path, f.Name)
					}
					walk(f.Type, path+"."+f.Name)
				}
			}
		case reflect.Slice, reflect.Pointer, reflect.Map:
			walk(typ.Elem(), path)
		case reflect.String, reflect.Bool, reflect.Int, reflect.Int32, reflect.Int64:
		default:
			t.Errorf("%s: type %s is not supported", path, typ)
		}
	}
	for _, r := range []Resource{&Component{}, &Configuration{}, &Subscription{}, &Resiliency{}, &HTTPEndpoint{}, &WorkflowAccessPolicy{}, &MCPServer{}} {
		walk(reflect.TypeOf(r).Elem(), reflect.TypeOf(r).Elem().Name())
	}
}
