package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"
	"time"
)

// report collects the rows and what could not be measured.
type report struct {
	targets []target
	rows    []*row
	notes   []string
}

// row is a figure of every target, in their order.
type row struct {
	Name    string
	Budget  budget
	Samples []*sample `json:",omitempty"` // of figures under load
	Values  []float64 `json:",omitempty"` // of others
}

func newRow(f figure, targets int) *row {
	r := &row{Name: f.name, Budget: f.budget}
	for range targets {
		r.Samples = append(r.Samples, &sample{})
	}
	return r
}

func newPlainRow(f figure, targets int) *row {
	return &row{Name: f.name, Budget: f.budget, Values: make([]float64, targets)}
}

func (r *report) add(row *row) { r.rows = append(r.rows, row) }

func (r *report) note(what string, err error) {
	text := what + ": " + err.Error()
	r.notes = append(r.notes, text)
	fmt.Fprintln(os.Stderr, "bench:", text)
}

func (s *sample) rate() float64 {
	if s.Seconds == 0 {
		return 0
	}
	return float64(s.Requests) / s.Seconds
}

// micros is the CPU time of all sidecars together per request, in microseconds.
func (s *sample) micros() float64 {
	var sum time.Duration
	for _, d := range s.CPU {
		sum += d
	}
	return s.perRequest(sum)
}

func (s *sample) perRequest(d time.Duration) float64 {
	if s.Requests == 0 {
		return 0
	}
	return float64(d) / 1000 / float64(s.Requests)
}

// print writes the figures as two tables, under load and others.
func (r *report) print(out io.Writer) error {
	text := map[string]bool{"figure": true, "sidecar": true, "budget": true, "met": true}
	loads, plains := table{left: text}, table{left: text}
	loads.line("figure", "sidecar", "req/s", "p50 us", "p99 us", "max us", "CPU us/req", "of each", "RSS/anon MiB", "errors", "budget", "met")
	head := []string{"figure"}
	for _, target := range r.targets {
		head = append(head, target.name)
	}
	if len(r.targets) > 1 {
		head = append(head, "gain")
	}
	plains.line(append(head, "budget", "met")...)
	for _, w := range r.rows {
		if w.Samples != nil {
			w.load(r.targets, loads.line)
		} else {
			w.plain(plains.line)
		}
	}
	for _, t := range []table{loads, plains} {
		if len(t.lines) == 1 {
			continue
		}
		if err := t.print(out); err != nil {
			return err
		}
		fmt.Fprintln(out)
	}
	if len(r.targets) > 1 {
		fmt.Fprintf(out, "gain: how many times better than the peer %s is (more requests, less of the rest)\n", r.targets[0].name)
	}
	for _, n := range r.notes {
		fmt.Fprintf(out, "failed: %s\n", n)
	}
	return nil
}

// load adds the lines of a figure under load: one per target, and the gain.
func (w *row) load(targets []target, line func(...string)) {
	for i, s := range w.Samples {
		name, want, met := w.Name, "", ""
		if i == 0 {
			want, met = w.Budget.String(), w.Budget.met(s)
		} else {
			name = ""
		}
		if s.Requests == 0 {
			line(name, targets[i].name, "-", "-", "-", "-", "-", "-", "-", "-", want, met)
			continue
		}
		cpu, each, mem := "-", "-", "-"
		if len(s.CPU) > 0 {
			cpu = fmt.Sprintf("%.1f", s.micros())
			var parts, mems []string
			for k := range s.CPU {
				parts = append(parts, fmt.Sprintf("%.1f", s.perRequest(s.CPU[k])))
				mems = append(mems, fmt.Sprintf("%.0f/%.0f", s.Resident[k], s.Anonymous[k]))
			}
			each, mem = strings.Join(parts, "+"), strings.Join(mems, " ")
		}
		line(name, targets[i].name, fmt.Sprintf("%.0f", s.rate()), fmt.Sprintf("%.0f", s.Latency.quantile(0.5)),
			fmt.Sprintf("%.0f", s.Latency.quantile(0.99)), fmt.Sprintf("%.0f", s.Latency.longest()), cpu, each, mem, fmt.Sprint(s.Errors), want, met)
	}
	if len(w.Samples) == 2 {
		a, b := w.Samples[0], w.Samples[1]
		line("", "gain", times(a.rate(), b.rate()), times(b.Latency.quantile(0.5), a.Latency.quantile(0.5)),
			times(b.Latency.quantile(0.99), a.Latency.quantile(0.99)), times(b.Latency.longest(), a.Latency.longest()), times(b.micros(), a.micros()), "", "", "", "", "")
	}
}

// plain adds the line of another figure.
func (w *row) plain(line func(...string)) {
	cells := []string{w.Name}
	for _, v := range w.Values {
		cells = append(cells, fmt.Sprintf("%.1f", v))
	}
	if len(w.Values) == 2 {
		cells = append(cells, times(w.Values[1], w.Values[0]))
	}
	want, met := "", ""
	if w.Budget.Size > 0 {
		want, met = fmt.Sprintf("%.0f", w.Budget.Size), verdict(w.Values[0] > w.Budget.Size, "")
	}
	line(append(cells, want, met)...)
}

// times is a ratio as a factor.
func times(a, b float64) string {
	if a == 0 || b == 0 {
		return "-"
	}
	return fmt.Sprintf("%.2fx", a/b)
}

func (b budget) String() string {
	var parts []string
	if b.CPU > 0 {
		parts = append(parts, fmt.Sprintf("%.0f us CPU", b.CPU))
	}
	if b.Rate > 0 {
		parts = append(parts, fmt.Sprintf("%.0f req/s", b.Rate))
	}
	if b.P50 > 0 {
		parts = append(parts, fmt.Sprintf("p50 %.0f us", b.P50))
	}
	return strings.Join(parts, ", ")
}

// met says whether a sample keeps the budget, and which part it does not keep.
func (b budget) met(s *sample) string {
	if s.Requests == 0 || b == (budget{}) {
		return ""
	}
	var missed []string
	if b.CPU > 0 && s.micros() > b.CPU {
		missed = append(missed, "CPU")
	}
	if b.Rate > 0 && s.rate() < b.Rate {
		missed = append(missed, "req/s")
	}
	if b.P50 > 0 && s.Latency.quantile(0.5) > b.P50 {
		missed = append(missed, "p50")
	}
	return verdict(len(missed) > 0, strings.Join(missed, ", "))
}

func verdict(missed bool, what string) string {
	switch {
	case !missed:
		return "yes"
	case what == "":
		return "no"
	}
	return "no: " + what
}

// save writes the figures as JSON.
func (r *report) save(file string) error {
	type under struct {
		Sidecar             string
		RequestsPerSecond   float64
		P50, P90, P99, Max  float64   // microseconds
		CPU                 float64   // microseconds per request
		CPUOfEach           []float64 // the same of each sidecar
		Resident, Anonymous []float64 `json:",omitempty"` // MiB of each
		Errors              int
		Error               string `json:",omitempty"`
	}
	type entry struct {
		Figure string
		Budget budget
		Load   []under            `json:",omitempty"`
		Values map[string]float64 `json:",omitempty"`
	}
	var entries []entry
	for _, w := range r.rows {
		e := entry{Figure: w.Name, Budget: w.Budget}
		for i, s := range w.Samples {
			u := under{
				Sidecar: r.targets[i].name, RequestsPerSecond: s.rate(), P50: s.Latency.quantile(0.5), P90: s.Latency.quantile(0.9),
				P99: s.Latency.quantile(0.99), Max: s.Latency.longest(), CPU: s.micros(), Resident: s.Resident, Anonymous: s.Anonymous, Errors: s.Errors, Error: s.Error,
			}
			for _, d := range s.CPU {
				u.CPUOfEach = append(u.CPUOfEach, s.perRequest(d))
			}
			e.Load = append(e.Load, u)
		}
		for i, v := range w.Values {
			if e.Values == nil {
				e.Values = make(map[string]float64)
			}
			e.Values[r.targets[i].name] = v
		}
		entries = append(entries, e)
	}
	text, err := json.MarshalIndent(map[string]any{"figures": entries, "notMeasured": r.notes}, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(file, append(text, '\n'), 0o644)
}
