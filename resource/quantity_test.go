package resource

import (
	"math"
	"strings"
	"testing"
)

func TestParseQuantity(t *testing.T) {
	for _, tc := range []struct {
		in   string
		want int64
	}{
		{"0", 0},
		{"1", 1},
		{"-1", -1},
		{"+1", 1},
		{"1000", 1000},
		{"007", 7},
		{"1k", 1000},
		{"1M", 1e6},
		{"1G", 1e9},
		{"1T", 1e12},
		{"1P", 1e15},
		{"1E", 1e18},
		{"1Ki", 1024},
		{"4Ki", 4096},
		{"4Mi", 4 << 20},
		{"1Gi", 1 << 30},
		{"1Ti", 1 << 40},
		{"1Pi", 1 << 50},
		{"1Ei", 1 << 60},
		{"-2Mi", -2 << 20},
		{"1.5Gi", 3 << 29},
		{"1.5", 2},
		{"-1.5", -2},
		{"0.1", 1},
		{".5k", 500},
		{"1.", 1},
		{"100m", 1},
		{"1000m", 1},
		{"1500m", 2},
		{"1u", 1},
		{"0n", 0},
		{"1e3", 1000},
		{"1E3", 1000},
		{"1e+3", 1000},
		{"15e-1", 2},
		{"0e99", 0},
		{"9223372036854775807", math.MaxInt64},
		{"-9223372036854775808", math.MinInt64},
	} {
		if got, err := ParseQuantity(tc.in); err != nil || got != tc.want {
			t.Errorf("%q: got %d, %v; want %d", tc.in, got, err, tc.want)
		}
	}
	for _, in := range []string{
		"", " ", "4MB", "4 Mi", " 4Mi", "4Mi ", "K", "1K", "1ki", "1mi", "Mi", "-", "+", ".", "1..5", "1.2.3", "--1", "+-1", "0x10", "1_000", "1e", "1e1.5", "1e3Ki", "1e+-3", "1e101", "ten", "1Zi", "1Kib", "١",
		strings.Repeat("1", 65), "9223372036854775808", "10E", "8Ei", "1e30",
	} {
		if got, err := ParseQuantity(in); err == nil {
			t.Errorf("%q: got %d, want an error", in, got)
		}
	}
	if _, err := ParseQuantity("4MB"); err == nil || !strings.Contains(err.Error(), `invalid quantity "4MB": write a number with an optional suffix`) {
		t.Errorf("text %v", err)
	}
}

func FuzzParseQuantity(f *testing.F) {
	for _, s := range []string{"4Mi", "1k", "-1", "1.5Gi", "1e3", "100m", "", "4MB"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		n, err := ParseQuantity(s)
		if err != nil {
			if n != 0 {
				t.Errorf("%q: %d with an error", s, n)
			}
			return
		}
		if n != 0 && n != math.MinInt64 && s[0] != '-' && s[0] != '+' {
			if m, err := ParseQuantity("-" + s); err != nil || m != -n {
				t.Errorf("%q: %d, but negated %d, %v", s, n, m, err)
			}
		}
	})
}
