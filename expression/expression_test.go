package expression_test

import (
	"testing"

	"outrigger.dev/expression"
)

func TestCompile(t *testing.T) {
	for _, test := range []struct {
		text string
		vars map[string]any
		want any // nil: evaluating fails
	}{
		{"event.type == 'a'", map[string]any{"event": map[string]any{"type": "a"}}, true},
		{"[1, 2].exists(x, x == n)", map[string]any{"n": 2}, true},
		{"n > 5", map[string]any{"n": 6}, true},
		{"n > 5 && other", map[string]any{"n": 6, "other": false}, false},
		{"int('7') == 7", nil, true},
		{"missing", map[string]any{}, nil},
	} {
		program, err := expression.Compile(test.text, "n")
		if err != nil {
			t.Errorf("%s: %v", test.text, err)
			continue
		}
		vars := test.vars
		if vars == nil {
			vars = map[string]any{}
		}
		value, _, err := program.Eval(vars)
		if (err != nil) != (test.want == nil) || err == nil && value.Value() != test.want {
			t.Errorf("%s is %v, %v", test.text, value, err)
		}
	}
	for _, text := range []string{"", "n >", "n == 'text'", "'a' + 1"} {
		if _, err := expression.Compile(text, "n"); err == nil {
			t.Errorf("%q compiles", text)
		}
	}
}
