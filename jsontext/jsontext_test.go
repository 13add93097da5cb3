package jsontext

import (
	"bytes"
	"encoding/json"
	"reflect"
	"strings"
	"testing"
)

func TestCanonical(t *testing.T) {
	for _, tc := range []struct{ name, in, want string }{
		{"null", " null ", "null"},
		{"booleans", "[true,\tfalse]", "[true,false]"},
		{"empty containers", "[ { } , [ ] ]", "[{},[]]"},
		{"sorted already", `{"a":1,"b":[1, 2]}`, `{"a":1,"b":[1,2]}`},
		{"sorted by bytes", `{"b":1,"B":2,"é":3,"a":4}`, `{"B":2,"a":4,"b":1,"é":3}`},
		{"sorted inside", `[{"b":{"d":1,"c":2},"a":3}]`, `[{"a":3,"b":{"c":2,"d":1}}]`},
		{"last of repeated names", `{"a":1,"b":2,"a":3}`, `{"a":3,"b":2}`},
		{"repeated in other spelling", `{"a":1,"\u0061":2}`, `{"a":2}`},
		{"names sorted as characters", `{"\n":1,"!":2,"\"":3,"#":4,"\u0000":5}`, `{"\u0000":5,"\n":1,"!":2,"\"":3,"#":4}`},
		{
			"many names", `{"s":0,"r":0,"q":0,"p":0,"o":0,"n":0,"m":0,"l":0,"k":0,"j":0,"i":0,"h":0,"g":0,"f":0,"e":0,"d":0,"c":0,"b":0,"a":0}`,
			`{"a":0,"b":0,"c":0,"d":0,"e":0,"f":0,"g":0,"h":0,"i":0,"j":0,"k":0,"l":0,"m":0,"n":0,"o":0,"p":0,"q":0,"r":0,"s":0}`,
		},
		{"escapes", `"\u0041\/\"\\\b\f\n\r\t\u001f\u00e9"`, `"A/\"\\\b\f\n\r\t\u001fé"`},
		{"no HTML escapes", `"<&>\u003c\u2028"`, "\"<&><\u2028\""},
		{"surrogates", `"\ud83d\udc0e \ud83d \udc0e \ud83d\u0041"`, `"🐎 � � �A"`},
		{"invalid UTF-8", "\"a\xffb\xe2\x82\"", "\"a�b��\""},
		{"long whole number", `12345678901234567890123`, `12345678901234567890123`},
		{"minus zero", `-0`, `-0`},
		{"floats", `[1.0, 3.50, 1e3, 1E21, 1e+21, 1e-7, 0.000001, 2.5e-1, 0e99, -0.0]`, `[1,3.5,1000,1e+21,1e+21,1e-7,0.000001,0.25,0,-0]`},
		{"floats beyond float64", `[3.14159265358979323846, 0.1000000000000000000001, 1e-400, 9007199254740993.0]`, `[3.14159265358979323846,0.1000000000000000000001,1e-400,9007199254740993.0]`},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got, err := Canonical([]byte(tc.in))
			if err != nil {
				t.Fatal(err)
			}
			if string(got) != tc.want {
				t.Errorf("got  %s\nwant %s", got, tc.want)
			}
		})
	}
}

var malformed = []string{
	``, ` `, `garbage`, `nul`, `tru`, `[`, `[1`, `[1,`, `[1,]`, `[,]`, `{`, `{"a"`, `{"a":`, `{"a":1`, `{"a":1,`, `{"a":1,}`, `{a:1}`, `{"a" 1}`, `"`, `"\`, `"\x"`, `"\u12"`, `"\u12G4"`,
	"\"\n\"", `01`, `-`, `+1`, `1.`, `.5`, `1e`, `1e+`, `1 2`, `[1] x`, `1e400`, `-1e400`, strings.Repeat("9", 400), `{"a":1e999}`, strings.Repeat("[", 10001) + strings.Repeat("]", 10001),
	strings.Repeat(`{"a":`, 10001) + "1" + strings.Repeat("}", 10001),
}

func TestCanonicalErrors(t *testing.T) {
	for _, in := range malformed {
		var v any
		want := json.Unmarshal([]byte(in), &v)
		got, err := AppendCanonical([]byte("before"), []byte(in))
		if want == nil || err == nil || err.Error() != want.Error() {
			t.Errorf("%.40q: error %v, want %v", in, err, want)
		}
		if string(got) != "before" {
			t.Errorf("%.40q: left %q behind", in, got)
		}
	}
}

func TestDeepDisorder(t *testing.T) {
	const depth = 5000
	var text strings.Builder
	for range depth {
		text.WriteString(`{"b":1,"padding":"` + strings.Repeat("x", 100) + `","a":`)
	}
	text.WriteString("1.50")
	text.WriteString(strings.Repeat("}", depth))
	got, err := Canonical([]byte(text.String()))
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.HasPrefix(got, []byte(`{"a":{"a":`)) || !bytes.Contains(got, []byte(`{"a":1.5,"b":1,"padding"`)) {
		t.Errorf("not in order: %.60s", got)
	}
	w := Walk([]byte("[" + text.String() + ",2]"))
	w.Array()
	w.Element()
	if again := w.Canonical(nil); !bytes.Equal(again, got) {
		t.Error("the walker made something else of it")
	}
	if !w.Element() || w.Int() != 2 || w.Element() || w.Err() != nil {
		t.Errorf("lost behind it: %v", w.Err())
	}
}

func TestAllocations(t *testing.T) {
	for _, in := range []string{`42`, `"text"`, `{"item":"pizza","qty":2.5,"tags":["a","b"]}`} {
		if n := testing.AllocsPerRun(100, func() { _, _ = Canonical([]byte(in)) }); n > 2 { // one for the conversion in this test
			t.Errorf("%s: %v allocations", in, n)
		}
	}
}

func TestStrings(t *testing.T) {
	for _, s := range []string{"", "plain", "<a>&\"\\/\b\f\n\r\t\x00\x1f\x7f", "žluťoučký 🐎", "\u2028\u2029", "a\xffb\xe2\x82", "�"} {
		want, err := json.Marshal(s)
		if err != nil {
			t.Fatal(err)
		}
		if got := AppendString(nil, s); !bytes.Equal(got, want) {
			t.Errorf("AppendString(%q) = %s, want %s", s, got, want)
		}
		var back string
		if err := json.Unmarshal(want, &back); err != nil {
			t.Fatal(err)
		}
		if got, ok := Unquote(want); !ok || string(got) != back {
			t.Errorf("Unquote(%s) = %q, %v", want, got, ok)
		}
	}
	for _, in := range []string{``, `1`, `"a`, `"a" 1`, `"\q"`} {
		if got, ok := Unquote([]byte(in)); ok {
			t.Errorf("Unquote(%q) = %q", in, got)
		}
	}
}

func TestEmbedded(t *testing.T) {
	for _, tc := range []struct{ in, want string }{
		{` { "a" : [ 1 , "x y" ] } `, `{"a":[1,"x y"]}`},
		{`"<&>\"<\\"`, `"\u003c\u0026\u003e\"\u003c\\"`},
		{"\"\u2028\u2029\u202a\"", "\"\\u2028\\u2029\u202a\""},
		{`plain <words>`, `"plain \u003cwords\u003e"`},
		{"\x00\xff", `"AP8="`},
		{``, `""`},
	} {
		if got := AppendData(nil, []byte(tc.in)); string(got) != tc.want {
			t.Errorf("%q: got %s, want %s", tc.in, got, tc.want)
		}
	}
}

func TestWalker(t *testing.T) {
	type item struct {
		key, value string
		metadata   map[string]string
		n          int
	}
	read := func(text string) (items []item, err error) {
		w := Walk([]byte(text))
		for w.Array(); w.Element(); {
			var it item
			for w.Object(); w.Member(); {
				switch {
				case w.Named("key"):
					it.key = w.String()
				case w.Named("value"):
					it.value = string(w.Raw())
				case w.Named("metadata"):
					it.metadata = w.Strings(it.metadata)
				case w.Named("n"):
					it.n = w.Int()
				default:
					w.Skip()
				}
			}
			items = append(items, it)
		}
		return items, w.Err()
	}
	for _, tc := range []struct {
		in   string
		want []item
		err  string
	}{
		{in: `[]`},
		{in: ` [ ] trailing`},
		{in: `[{}]`, want: []item{{}}},
		{
			in:   `[{"KEY":"a","Value": {"x":[1]} ,"other":[{}],"n":-3},{"\u006bey":"b\n","metadata":{"a":"1","b":null},"metadata":{"c":"2"}}] x`,
			want: []item{{key: "a", value: `{"x":[1]}`, n: -3}, {key: "b\n", metadata: map[string]string{"a": "1", "b": "", "c": "2"}}},
		},
		{in: `[{"key":null,"metadata":null,"n":null}]`, want: []item{{}}},
		{in: `{"a":1}`, err: "object at byte 0 where a JSON array is wanted"},
		{in: `[1]`, err: "number at byte 1 where a JSON object is wanted"},
		{in: `[{"key":1}]`, err: "number at byte 8 where a JSON string is wanted"},
		{in: `[{"n":"1"}]`, err: "string at byte 6 where a JSON number is wanted"},
		{in: `[{"n":1.5}]`, err: "number 1.5 is not a whole number of at most 64 bits"},
		{in: `[{"metadata":{"a":1}}]`, err: "number at byte 18 where a JSON string is wanted"},
		{in: ``, err: "unexpected end of JSON input"},
		{in: `[`, err: "unexpected end of JSON input"},
		{in: `[{}`, err: "unexpected end of JSON input"},
		{in: `[{},]`, err: "invalid JSON at byte 4"},
		{in: `[{} {}]`, err: "invalid JSON at byte 4"},
		{in: `[{"key":"a"`, err: "unexpected end of JSON input"},
		{in: `[{"key" "a"}]`, err: "invalid JSON at byte 8"},
		{in: `[{"key":"a",}]`, err: "invalid JSON at byte 12"},
		{in: `[{"value":tru}]`, err: "invalid JSON at byte 10"},
	} {
		got, err := read(tc.in)
		if tc.err != "" {
			if err == nil || err.Error() != tc.err {
				t.Errorf("%s: error %v, want %s", tc.in, err, tc.err)
			}
			continue
		}
		if err != nil || !reflect.DeepEqual(got, tc.want) {
			t.Errorf("%s: got %+v, %v; want %+v", tc.in, got, err, tc.want)
		}
	}
}

func seeds(f *testing.F) {
	for _, s := range malformed {
		if len(s) < 1000 {
			f.Add([]byte(s))
		}
	}
	for _, s := range []string{`{"b":[1,2.50,{"a":null}],"a":"\u00e9\ud83d\ude00<","a":-0.0e5}`, "\"\xff\xe2\x82\"", `{"\u0001":1,"\n":2,"":3}`, `123456789012345678901234567890`, `[1e308,1.7976931348623157e308]`} {
		f.Add([]byte(s))
	}
}

// FuzzCanonical holds the canonical form against encoding/json: the same text is accepted, and stands for the same value.
func FuzzCanonical(f *testing.F) {
	seeds(f)
	f.Fuzz(func(t *testing.T, text []byte) {
		var want any
		wantErr := json.Unmarshal(text, &want)
		got, err := Canonical(text)
		if (err == nil) != (wantErr == nil) || err != nil && err.Error() != wantErr.Error() {
			t.Fatalf("error %v, want %v", err, wantErr)
		}
		if valid := Valid(text); valid != json.Valid(text) {
			t.Fatalf("Valid is %v", valid)
		}
		if err != nil {
			return
		}
		var value any
		if err := json.Unmarshal(got, &value); err != nil || !reflect.DeepEqual(value, want) {
			t.Fatalf("%s means %#v (%v), want %#v", got, value, err, want)
		}
		again, err := Canonical(got)
		if err != nil || !bytes.Equal(again, got) {
			t.Fatalf("%s becomes %s, %v", got, again, err)
		}
		slow, err := appendCanonicalSlowly(nil, text)
		if err != nil || !bytes.Equal(slow, got) {
			t.Fatalf("the slow way makes %s (%v) of %s", slow, err, got)
		}
		w := Walk(text)
		if walked := w.Canonical(nil); w.Err() != nil || !bytes.Equal(walked, got) {
			t.Fatalf("the walker makes %s, %v", walked, w.Err())
		}
	})
}

// FuzzEmbedded holds embedding against encoding/json's treatment of a json.RawMessage.
func FuzzEmbedded(f *testing.F) {
	seeds(f)
	f.Fuzz(func(t *testing.T, text []byte) {
		got, ok := AppendEmbedded(nil, text)
		want, err := json.Marshal(json.RawMessage(text))
		if ok != (err == nil) || ok && !bytes.Equal(got, want) {
			t.Fatalf("got %s, %v; want %s, %v", got, ok, want, err)
		}
		data := AppendData(nil, text)
		if !json.Valid(data) {
			t.Fatalf("AppendData gives %s", data)
		}
		if s := AppendString(nil, string(text)); !json.Valid(s) {
			t.Fatalf("AppendString gives %s", s)
		}
	})
}

func BenchmarkCanonical(b *testing.B) {
	for _, tc := range []struct{ name, text string }{
		{"scalar", `42`},
		{"sorted", `{"item":"pizza","qty":2}`},
		{"unsorted", `{"qty":2,"item":"pizza","nested":{"b":1,"a":[1,2.5,null]}}`},
		{"1KiB string", `"` + strings.Repeat("x", 1022) + `"`},
	} {
		text := []byte(tc.text)
		b.Run(tc.name, func(b *testing.B) {
			b.ReportAllocs()
			b.SetBytes(int64(len(text)))
			for b.Loop() {
				if _, err := Canonical(text); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func TestAppendStrings(t *testing.T) {
	for _, m := range []map[string]string{nil, {}, {"a": "1"}, {"b": "<", "a\"": "\n", "": ""}} {
		want, err := json.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		if got := AppendStrings([]byte("x"), m); string(got) != "x"+string(want) {
			t.Errorf("AppendStrings(%v) = %s, want x%s", m, got, want)
		}
	}
}

func FuzzAppendString(f *testing.F) {
	for _, s := range []string{"", "plain", "a\"b\\c", "\x00\x1f\b\f\n\r\t\x7f", "<&>", "\xff\xc3", "é\u2028\u2029\U0001F600", "\ufffd"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		want, err := json.Marshal(s)
		if err != nil {
			t.Fatal(err)
		}
		if got := AppendString(nil, s); string(got) != string(want) {
			t.Fatalf("%q: got %s want %s", s, got, want)
		}
	})
}
