package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"io"
	"math"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestHistogram(t *testing.T) {
	for d := time.Duration(0); d < 20*time.Second; d = d*9/8 + 1 {
		if got := bound(bucket(d)); math.Abs(got-float64(d)) > float64(d)/200+1 {
			t.Fatalf("%d ns is counted as %.0f", d, got)
		}
	}
	if i := bucket(math.MaxInt64); i != histogramSize-1 {
		t.Errorf("the longest duration is in bucket %d of %d", i, histogramSize)
	}
	var all histogram
	for _, factor := range []int{1, 2} {
		h := make(histogram, histogramSize)
		for i := 1; i <= 1000; i++ {
			h.add(time.Duration(i*factor) * time.Microsecond)
		}
		all.merge(h)
	}
	if all.count() != 2000 {
		t.Errorf("%d counted instead of 2000", all.count())
	}
	if got := all.longest(); math.Abs(got-2000) > 20 {
		t.Errorf("the longest is %g us instead of 2000", got)
	}
	if got := make(histogram, histogramSize).longest(); got != 0 {
		t.Errorf("the longest of none is %g us", got)
	}
	for q, want := range map[float64]float64{0: 1, 0.5: 667, 0.99: 1960, 1: 0} {
		if got := all.quantile(q); math.Abs(got-want) > want/50+0.1 {
			t.Errorf("quantile %g is %g us instead of %g", q, got, want)
		}
	}
}

// play runs the load process's work against a server, as the benchmark would.
func play(t *testing.T, l load) outcome {
	t.Helper()
	toLoad, in := io.Pipe()
	out, fromLoad := io.Pipe()
	ended := make(chan error, 1)
	go func() {
		err := runLoad(toLoad, fromLoad)
		fromLoad.CloseWithError(errors.Join(err, io.EOF))
		ended <- err
	}()
	if err := json.NewEncoder(in).Encode(l); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewReader(out)
	if line, err := lines.ReadString('\n'); line != "ready\n" {
		t.Fatalf("%q, %v instead of ready", line, err)
	}
	if _, err := io.WriteString(in, "go\n"); err != nil {
		t.Fatal(err)
	}
	var o outcome
	if err := json.NewDecoder(lines).Decode(&o); err != nil {
		t.Fatal(err)
	}
	if err := <-ended; err != nil {
		t.Fatal(err)
	}
	return o
}

func TestLoad(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/closed" {
			w.Header().Set("Connection", "close")
		}
		n, _ := io.Copy(w, r.Body)
		if n == 0 {
			_, _ = io.WriteString(w, "none")
		}
	}))
	defer server.Close()
	base := load{
		Kind: "http", Addr: strings.TrimPrefix(server.URL, "http://"), Connections: 3, Warmup: 10 * time.Millisecond,
		Duration: 100 * time.Millisecond, Status: []int{200}, Body: 4,
	}
	tests := []struct {
		name   string
		change func(*load)
		ok     bool
		err    string
	}{
		{"get and post", func(l *load) {
			l.Requests = [][]byte{request("GET", "/", "", ""), request("POST", "/", "text/plain", "four")}
		}, true, ""},
		{"status", func(l *load) { l.Requests, l.Status = [][]byte{request("GET", "/", "", "")}, []int{204} }, false, "status 200 instead of [204]"},
		{"body", func(l *load) { l.Requests = [][]byte{request("POST", "/", "text/plain", "fives")} }, false, "a body of 5 bytes instead of 4"},
		{"reconnects", func(l *load) { l.Requests = [][]byte{request("GET", "/closed", "", "")} }, true, "connection lost"},
		{"nobody there", func(l *load) { l.Requests, l.Addr = [][]byte{request("GET", "/", "", "")}, "127.0.0.1:1" }, false, "refused"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			l := base
			tt.change(&l)
			o := play(t, l)
			if (o.Requests > 0) != tt.ok || o.Requests != o.Latency.count() || o.Seconds < 0.1 {
				t.Errorf("%d requests in %g s", o.Requests, o.Seconds)
			}
			if (o.Errors > 0) != (tt.err != "") || !strings.Contains(o.Error, tt.err) {
				t.Errorf("%d errors, the first %q; want %q", o.Errors, o.Error, tt.err)
			}
		})
	}
}

func TestBudget(t *testing.T) {
	s := &sample{Seconds: 2, Requests: 1000, CPU: []time.Duration{30 * time.Millisecond, 20 * time.Millisecond}, Latency: make(histogram, histogramSize)}
	for range s.Requests {
		s.Latency.add(300 * time.Microsecond)
	}
	if s.rate() != 500 || s.micros() != 50 {
		t.Fatalf("%g req/s and %g us instead of 500 and 50", s.rate(), s.micros())
	}
	for want, b := range map[string]budget{
		"":                    {},
		"yes":                 {CPU: 50, Rate: 500, P50: 310},
		"no: CPU":             {CPU: 49, Rate: 500},
		"no: CPU, req/s, p50": {CPU: 49, Rate: 501, P50: 290},
	} {
		if got := b.met(s); got != want {
			t.Errorf("%s: %q instead of %q", b, got, want)
		}
	}
}

func TestReport(t *testing.T) {
	r := &report{targets: []target{{name: "daprd"}, {name: "peer"}}}
	loaded := newRow(figure{name: "invoke", budget: budget{CPU: 80}}, 2)
	for i := range loaded.Samples {
		s := &sample{
			Seconds: 1, Requests: 1000, CPU: []time.Duration{time.Duration(i+1) * 50 * time.Millisecond},
			Resident: []float64{20}, Anonymous: []float64{5}, Latency: make(histogram, histogramSize),
		}
		s.Latency.add(time.Millisecond)
		loaded.Samples[i].add(s)
		loaded.Samples[i].add(s)
	}
	r.add(loaded)
	r.add(&row{Name: "start", Budget: budget{Size: 20}, Values: []float64{25, 50}})
	var out bytes.Buffer
	if err := r.print(&out); err != nil {
		t.Fatal(err)
	}
	got := strings.Fields(out.String())
	for _, want := range []string{"invoke daprd 1000", "50.0 50.0 20/5 0 80 us CPU yes", "peer 1000", "100.0 100.0", "gain 1.00x 1.00x 1.00x 1.00x 2.00x", "start 25.0 50.0 2.00x 20 no"} {
		if !strings.Contains(strings.Join(got, " "), want) {
			t.Errorf("no %q in\n%s", want, out.String())
		}
	}
	file := filepath.Join(t.TempDir(), "out.json")
	if err := r.save(file); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var saved struct {
		Figures []struct {
			Figure string
			Load   []struct{ CPU, P50, RequestsPerSecond float64 }
			Values map[string]float64
		}
	}
	if err := json.Unmarshal(text, &saved); err != nil {
		t.Fatal(err)
	}
	if len(saved.Figures) != 2 || saved.Figures[0].Load[1].CPU != 100 || saved.Figures[1].Values["peer"] != 50 {
		t.Errorf("saved %s", text)
	}
}

func TestParse(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	s, err := parse([]string{"-daprd", self, "-peer", self, "-peer-env", "GOGC=50", "-peer-env", "A=b", "-only", "state", "-duration", "1s"})
	if err != nil {
		t.Fatal(err)
	}
	if len(s.targets) != 2 || len(s.targets[1].env) != 2 || s.duration != time.Second || !s.only.MatchString("state/redis/get") {
		t.Errorf("%+v", s)
	}
	if dir := filepath.Dir(self); s.placement != filepath.Join(dir, "placement"+filepath.Ext(self)) || s.scheduler != filepath.Join(dir, "scheduler"+filepath.Ext(self)) {
		t.Errorf("placement %s, scheduler %s", s.placement, s.scheduler)
	}
	if s, err = parse([]string{"-daprd", self, "-placement", self, "-scheduler", self}); err != nil || s.placement != self || s.scheduler != self {
		t.Errorf("%+v, %v", s, err)
	}
	for want, args := range map[string][]string{
		"no placement at":     {"-daprd", self, "-placement", "/nowhere"},
		"no scheduler at":     {"-daprd", self, "-scheduler", "/nowhere"},
		"no sidecar at":       {"-daprd", "/nowhere"},
		"unexpected argument": {"-daprd", self, "x"},
		"-only":               {"-daprd", self, "-only", "("},
		"-rounds 0":           {"-daprd", self, "-rounds", "0"},
	} {
		if _, err := parse(args); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v", args, err)
		}
	}
	if _, err := parse([]string{"-list"}); !errors.Is(err, flag.ErrHelp) {
		t.Errorf("-list: %v", err)
	}
}

func TestFiguresHaveOneNameEach(t *testing.T) {
	seen := map[string]bool{}
	for _, g := range groups() {
		for _, f := range g.figures {
			if seen[f.name] {
				t.Errorf("%s twice", f.name)
			}
			seen[f.name] = true
			if (f.load == nil) != (g.special != nil) || (g.start == nil) != (g.special != nil) {
				t.Errorf("%s is measured in no way or in two", f.name)
			}
		}
	}
}
