package logging

import (
	"encoding/json"
	"math"
	"strconv"
	"testing"
)

func FuzzJSONFloat(f *testing.F) {
	for _, v := range []float64{0, 1, -1.5, 1e-6, 9e-7, 1e-10, 1e20, 1e21, math.MaxFloat64, math.SmallestNonzeroFloat64, math.Copysign(0, -1)} {
		f.Add(v)
	}
	f.Fuzz(func(t *testing.T, v float64) {
		want, err := json.Marshal(v)
		if err != nil {
			t.Skip("not a JSON number")
		}
		if got := appendJSONFloat(nil, v); string(got) != string(want) {
			t.Fatalf("got %s want %s", got, want)
		}
	})
}

func FuzzTextString(f *testing.F) {
	for _, s := range []string{"", "plain", "two words", "a=b", "\n", "\xff", "é"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		got := string(appendTextString(nil, s))
		if got == s {
			for _, r := range s {
				if r <= ' ' || r == '"' || r == '=' || r > '~' {
					t.Fatalf("%q is bare", s)
				}
			}
			return
		}
		if back, err := strconv.Unquote(got); err != nil || back != s {
			t.Fatalf("%q became %s, which reads %q, %v", s, got, back, err)
		}
	})
}
