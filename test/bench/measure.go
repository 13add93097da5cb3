package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"
)

// measure takes the figures of a group that are wanted. What cannot be had for
// one target is a line in the report; only an interrupt is an error.
func (b *bench) measure(ctx context.Context, g group, r *report) error {
	b.ctx = ctx
	var wanted []figure
	for _, f := range g.figures {
		if b.only.MatchString(f.name) {
			wanted = append(wanted, f)
		}
	}
	if len(wanted) == 0 {
		return ctx.Err()
	}
	if g.special != nil {
		if err := g.special(b, wanted, r); err != nil {
			r.note(g.name, err)
		}
		return ctx.Err()
	}
	server, err := b.servers.get(g.server)
	if err != nil {
		r.note(g.name, err)
		return ctx.Err()
	}
	beds := make([]*bed, len(b.targets))
	defer func() {
		for _, bed := range beds {
			if bed != nil {
				bed.stop()
			}
		}
	}()
	for i, t := range b.targets {
		if g.once && i > 0 {
			break
		}
		bed, err := g.start(b, t, server)
		if err != nil {
			r.note(g.name+", "+t.name, err)
			if bed != nil {
				bed.stop()
			}
			continue
		}
		beds[i] = bed
	}
	for _, f := range wanted {
		fmt.Fprintf(os.Stderr, "%s\n", f.name)
		row := newRow(f, len(b.targets))
		for round := range b.rounds {
			for i, bed := range beds {
				if bed == nil {
					continue
				}
				sample, err := b.sample(f, bed, round)
				if err != nil {
					if ctx.Err() != nil {
						return ctx.Err()
					}
					r.note(f.name+", "+bed.target.name, err)
				}
				if sample != nil {
					row.Samples[i].add(sample)
				}
			}
		}
		r.add(row)
	}
	return ctx.Err()
}

// sample is what was measured of one target.
type sample struct {
	Seconds   float64
	Requests  int
	Errors    int
	Error     string          `json:",omitempty"` // the first one
	CPU       []time.Duration // of each sidecar
	Resident  []float64       // MiB of each sidecar after the load
	Anonymous []float64
	Latency   histogram `json:"-"`
}

func (s *sample) add(o *sample) {
	s.Seconds += o.Seconds
	s.Requests += o.Requests
	s.Errors += o.Errors
	if s.Error == "" {
		s.Error = o.Error
	}
	if s.CPU == nil {
		s.CPU = make([]time.Duration, len(o.CPU))
	}
	for i := range o.CPU {
		s.CPU[i] += o.CPU[i]
	}
	s.Resident, s.Anonymous = o.Resident, o.Anonymous
	s.Latency.merge(o.Latency)
}

// sample runs the load of a figure once. A sample that comes with an error is
// good: a profile of it is missing.
func (b *bench) sample(f figure, bed *bed, round int) (*sample, error) {
	l := f.load(b.settings, bed)
	l.Duration, l.Warmup = b.duration, b.warmup
	if round > 0 {
		l.Warmup /= 2
	}
	var before []time.Duration
	var profiles sync.WaitGroup
	defer profiles.Wait()
	var notes []error // of the profiles, each its own element
	o, err := b.runLoad(bed.dir, l, func() (err error) {
		if b.profiles != "" && round == 0 {
			notes = b.profile(&profiles, f, bed)
		}
		before, err = bed.cpu()
		return err
	})
	if err != nil {
		return nil, err
	}
	after, err := bed.cpu()
	if err != nil {
		return nil, err
	}
	s := &sample{Seconds: o.Seconds, Requests: o.Requests, Errors: o.Errors, Error: o.Error, Latency: o.Latency}
	for i := range after {
		s.CPU = append(s.CPU, after[i]-before[i])
	}
	if measuresProcesses {
		for _, sidecar := range bed.sidecars {
			resident, anonymous, err := memory(sidecar.pid())
			if err != nil {
				return nil, sidecar.failure(err)
			}
			s.Resident, s.Anonymous = append(s.Resident, resident), append(s.Anonymous, anonymous)
		}
	}
	profiles.Wait()
	return s, errors.Join(notes...)
}

// cpu is the CPU time of each sidecar so far; nothing where it cannot be read.
func (b *bed) cpu() (times []time.Duration, err error) {
	if !measuresProcesses {
		return nil, nil
	}
	for _, s := range b.sidecars {
		t, err := cpuTime(s.pid())
		if err != nil {
			return nil, s.failure(err)
		}
		times = append(times, t)
	}
	return times, nil
}

// runLoad runs a load in a process of its own. begin is called when the load is
// warm, right before it is measured.
func (b *bench) runLoad(dir string, l load, begin func() error) (*outcome, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	var in io.WriteCloser
	var out *os.File
	p, err := startProcess(dir, "load", self, os.Environ(), []string{"load"}, func(c *exec.Cmd) (err error) {
		if in, err = c.StdinPipe(); err != nil {
			return err
		}
		// Not StdoutPipe: Wait, which runs meanwhile, would close it before it is read.
		read, write, err := os.Pipe()
		out, c.Stdout = read, write
		return err
	})
	if out != nil {
		defer out.Close()
	}
	if err != nil {
		return nil, err
	}
	p.cmd.Stdout.(*os.File).Close() // the child's end
	stop := context.AfterFunc(b.ctx, func() { _ = p.cmd.Process.Kill() })
	defer stop()
	defer p.kill()
	late := time.AfterFunc(l.Warmup+l.Duration+l.Patience+30*time.Second, func() { _ = p.cmd.Process.Kill() })
	defer late.Stop()

	var o outcome
	err = func() error {
		if err := json.NewEncoder(in).Encode(l); err != nil {
			return err
		}
		lines := bufio.NewReaderSize(out, 1<<16)
		if _, err := lines.ReadString('\n'); err != nil {
			return err
		}
		if err := begin(); err != nil {
			return err
		}
		if _, err := io.WriteString(in, "go\n"); err != nil {
			return err
		}
		return json.NewDecoder(lines).Decode(&o)
	}()
	if err != nil {
		return nil, p.failure(err)
	}
	if o.Requests == 0 {
		return nil, fmt.Errorf("no request succeeded: %s", o.Error)
	}
	return &o, nil
}

// profile takes a CPU profile of each sidecar of the bed while a load is
// measured. The errors are to be read once the group is done.
func (b *bench) profile(wg *sync.WaitGroup, f figure, bed *bed) []error {
	seconds := max(1, int(b.duration.Seconds()))
	notes := make([]error, len(bed.sidecars))
	for i, s := range bed.sidecars {
		name := strings.NewReplacer("/", "-", " ", "-").Replace(f.name) + "." + bed.target.name + "." + s.role + ".pprof"
		if s.profile == 0 {
			continue // the app, as the floor
		}
		wg.Go(func() {
			notes[i] = fetch(b.ctx, fmt.Sprintf("http://%s/debug/pprof/profile?seconds=%d", loopback(s.profile), seconds),
				filepath.Join(b.profiles, name))
		})
	}
	return notes
}

// fetch stores what a URL gives in a file.
func fetch(ctx context.Context, url, file string) error {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	reply, err := http.DefaultClient.Do(request)
	if err != nil {
		return err
	}
	defer reply.Body.Close()
	if reply.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s", url, reply.Status)
	}
	out, err := os.Create(file)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, reply.Body)
	return errors.Join(err, out.Close())
}

// measureStart is the time from starting a sidecar, with an in-memory store and
// an app that listens already, until it says that it is healthy.
func measureStart(b *bench, wanted []figure, r *report) error {
	const starts = 10
	row := newPlainRow(wanted[0], len(b.targets))
	times := make([][]float64, len(b.targets))
	for range starts {
		for i, t := range b.targets {
			d, err := b.startOnce(t)
			if err != nil {
				return fmt.Errorf("%s: %w", t.name, err)
			}
			times[i] = append(times[i], float64(d.Microseconds())/1000)
		}
	}
	for i := range times {
		slices.Sort(times[i])
		row.Values[i] = (times[i][(starts-1)/2] + times[i][starts/2]) / 2
	}
	r.add(row)
	return nil
}

func (b *bench) startOnce(t target) (time.Duration, error) {
	bed, err := b.startAppAndStore(t)
	if bed != nil {
		defer bed.stop()
	}
	if err != nil {
		return 0, err
	}
	port := bed.appPort
	start := time.Now()
	s, err := b.spawn(bed.bed, "sidecar", callerID+"-"+t.name, port)
	if err != nil {
		return 0, err
	}
	if err := s.healthy(b.ctx, 500*time.Microsecond); err != nil {
		return 0, err
	}
	d := time.Since(start)
	s.kill() // there is nothing to say goodbye for
	return d, nil
}

// appBed is a bed whose app listens and whose sidecar is yet to start.
type appBed struct {
	*bed
	appPort int
}

func (b *bench) startAppAndStore(t target) (*appBed, error) {
	bed, err := b.newBed(t)
	if err != nil {
		return nil, err
	}
	a := &appBed{bed: bed}
	if err := writeStore(bed, "in-memory", ""); err != nil {
		return a, err
	}
	a.appPort, err = b.startApp(bed, b.size)
	return a, err
}

// measureMemory reads a sidecar's memory after 5 s without work, and right
// after the load of setting values in memory.
func measureMemory(b *bench, wanted []figure, r *report) error {
	const idle = 5 * time.Second
	if !measuresProcesses {
		return nil
	}
	figures := groupByName("memory").figures
	rows := make([]*row, len(figures))
	for i := range figures {
		rows[i] = newPlainRow(figures[i], len(b.targets))
	}
	beds := make([]*appBed, len(b.targets))
	defer func() {
		for _, bed := range beds {
			if bed != nil {
				bed.stop()
			}
		}
	}()
	for i, t := range b.targets {
		bed, err := b.startAppAndStore(t)
		beds[i] = bed
		if err != nil {
			return err
		}
		s, err := b.spawn(bed.bed, "sidecar", callerID+"-"+t.name, bed.appPort)
		if err != nil {
			return err
		}
		if err := s.healthy(b.ctx, 5*time.Millisecond); err != nil {
			return err
		}
	}
	select {
	case <-time.After(idle):
	case <-b.ctx.Done():
		return b.ctx.Err()
	}
	var err error
	for i, bed := range beds {
		if rows[0].Values[i], rows[1].Values[i], err = memory(bed.entry().pid()); err != nil {
			return bed.entry().failure(err)
		}
	}
	for i, bed := range beds {
		l := stateSet(b.settings, bed.bed)
		l.Warmup, l.Duration = b.warmup, b.duration
		if _, err := b.runLoad(bed.dir, l, func() error { return nil }); err != nil {
			return err
		}
		if rows[2].Values[i], rows[3].Values[i], err = memory(bed.entry().pid()); err != nil {
			return bed.entry().failure(err)
		}
	}
	for _, row := range rows {
		if slices.ContainsFunc(wanted, func(f figure) bool { return f.name == row.Name }) {
			r.add(row)
		}
	}
	return nil
}

func groupByName(name string) group {
	all := groups()
	return all[slices.IndexFunc(all, func(g group) bool { return g.name == name })]
}

// measureBinary is the size of the programs.
func measureBinary(b *bench, wanted []figure, r *report) error {
	row := newPlainRow(wanted[0], len(b.targets))
	for i, t := range b.targets {
		info, err := os.Stat(t.path)
		if err != nil {
			return err
		}
		row.Values[i] = float64(info.Size()) / (1 << 20)
	}
	r.add(row)
	return nil
}
