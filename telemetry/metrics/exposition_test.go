package metrics

import (
	"io"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
)

// base are options as a sidecar with Dapr's defaults has them.
func base() Options {
	return Options{AppID: "myapp", Namespace: "ns", Enabled: true, HTTP: HTTPOptions{IncreasedCardinality: true}}
}

func mustNew(t testing.TB, o Options) *Metrics {
	t.Helper()
	m, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// exposition is what a scrape of m returns, line by line, without comments.
func exposition(t testing.TB, m *Metrics) []string {
	t.Helper()
	rec := httptest.NewRecorder()
	m.Handler().ServeHTTP(rec, httptest.NewRequest("GET", "/any/path", nil))
	body, err := io.ReadAll(rec.Body)
	if err != nil || rec.Code != 200 {
		t.Fatalf("scrape: status %d, %v: %s", rec.Code, err, body)
	}
	var lines []string
	for line := range strings.Lines(string(body)) {
		if !strings.HasPrefix(line, "#") {
			lines = append(lines, strings.TrimSuffix(line, "\n"))
		}
	}
	return lines
}

// daprLines are the exposed lines of our own metrics, without the buckets of histograms.
func daprLines(t testing.TB, m *Metrics) []string {
	t.Helper()
	var out []string
	for _, line := range exposition(t, m) {
		if strings.HasPrefix(line, prefix) && !strings.Contains(line, "_bucket{") {
			out = append(out, line)
		}
	}
	slices.Sort(out)
	return out
}

func wantLines(t *testing.T, m *Metrics, want ...string) {
	t.Helper()
	got := daprLines(t, m)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Errorf("exposed\n  %s\nwant\n  %s", strings.Join(got, "\n  "), strings.Join(want, "\n  "))
	}
}
