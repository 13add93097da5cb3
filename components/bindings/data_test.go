package bindings

import (
	"encoding/json"
	"maps"
	"strings"
	"testing"
	"time"
)

func TestUnquoted(t *testing.T) {
	for in, want := range map[string]string{
		`"text"`:                "text",
		` "a\nb\u00e9\/" `:      "a\nb\u00e9/",
		`""`:                    "",
		`"`:                     `"`,
		`"a" "b"`:               `"a" "b"`,
		`{"a":1}`:               `{"a":1}`,
		"plain":                 "plain",
		"'x'":                   "'x'",
		"`x`":                   "`x`",
		"":                      "",
		"null":                  "null",
		`"\ud83d\ude00 \u003c"`: "\U0001F600 <",
		"\"open":                "\"open",
		"\xff\"":                "\xff\"",
	} {
		if got := string(Unquoted([]byte(in))); got != want {
			t.Errorf("Unquoted(%q) = %q, want %q", in, got, want)
		}
	}
}

func FuzzUnquoted(f *testing.F) {
	f.Add("text")
	f.Add("\u2028<&>")
	f.Fuzz(func(t *testing.T, text string) {
		quoted, err := json.Marshal(text)
		if err != nil {
			t.Fatal(err)
		}
		if got := string(Unquoted(quoted)); got != strings.ToValidUTF8(text, "\uFFFD") && got != string([]rune(text)) {
			t.Fatalf("%q became %q", text, got)
		}
	})
}

func TestNoData(t *testing.T) {
	for in, want := range map[string]bool{"": true, " null\n": true, "0": false, `""`: false, "nullx": false} {
		if got := NoData([]byte(in)); got != want {
			t.Errorf("NoData(%q) = %t", in, got)
		}
	}
}

func TestFlag(t *testing.T) {
	for _, tc := range []struct {
		text      string
		byDefault bool
		want, bad bool
	}{{"", true, true, false}, {"", false, false, false}, {"true", false, true, false}, {"False", true, false, false}, {"yes", false, true, false}, {"off", true, false, false}, {"maybe", false, false, true}} {
		got, err := Request{Metadata: map[string]string{"f": tc.text}}.Flag("f", tc.byDefault)
		if got != tc.want || (err != nil) != tc.bad {
			t.Errorf("Flag(%q, %t) = %t, %v", tc.text, tc.byDefault, got, err)
		}
		if tc.bad && !strings.Contains(err.Error(), `"f" of the request is "maybe"`) {
			t.Errorf("error %v", err)
		}
	}
	if err := (&ParameterError{Name: "sql", Remedy: "give it"}); !strings.Contains(err.Error(), `required metadata "sql" is not set`) {
		t.Errorf("error %v", err)
	}
}

func TestCheckResult(t *testing.T) {
	if err := CheckResult(LongestResult); err != nil {
		t.Error(err)
	}
	if err := CheckResult(LongestResult + 1); err == nil || !strings.Contains(err.Error(), "268435456 bytes; ask for fewer") {
		t.Errorf("error %v", err)
	}
}

func TestTiming(t *testing.T) {
	start := time.Date(2026, 1, 2, 3, 4, 5, 6000, time.FixedZone("", 3600))
	want := map[string]string{
		"operation": "exec", "start-time": "2026-01-02T02:04:05.000006Z", "end-time": "2026-01-02T02:04:05.0003Z", "duration": "294µs",
	}
	if got := Timing("exec", start, start.Add(294*time.Microsecond)); !maps.Equal(got, want) {
		t.Errorf("got %v", got)
	}
}
