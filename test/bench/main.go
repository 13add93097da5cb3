// Bench measures what a sidecar costs: CPU time per request, throughput,
// latency, memory, start-up time and size, against the budgets of the project,
// and against another Dapr-compatible sidecar under the same load in the same run.
//
//	go run ./test/bench -daprd bin/daprd [-peer /path/to/other/daprd] [-only 'invoke|state/redis']
//
// Actors, reminders and jobs are measured with a placement and a scheduler service
// from beside the sidecar, or from -placement and -scheduler. They serve a peer too.
//
// The load generator and the app that is called are processes of their own
// (this program again, as "bench load" and "bench app"), so that the CPU time of
// a sidecar is its own. It is read from the kernel (/proc, on Linux only) around
// a load that was warmed up first. With a peer the two take turns: ABAB.
//
// A benchmark is not a test: what misses its budget is said, and the exit code
// is 0 as long as the figures could be taken at all.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"syscall"
	"time"
)

// The kernel ends our children with the thread that forked them, so that none
// outlives a killed benchmark. All are forked here, on the thread of main.
func init() { runtime.LockOSThread() }

func main() {
	if len(os.Args) > 1 {
		switch os.Args[1] {
		case "app":
			exit(runApp(os.Args[2:]))
		case "load":
			exit(runLoad(os.Stdin, os.Stdout))
		}
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx)
	stop()
	exit(err)
}

func exit(err error) {
	if err != nil && !errors.Is(err, flag.ErrHelp) {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
	os.Exit(0)
}

// settings is what the command line asks for.
type settings struct {
	targets []target // ours, then the peer if there is one
	// The services of the control plane, the same for all targets. They need not exist for other figures.
	placement, scheduler string
	only                 *regexp.Regexp
	duration             time.Duration // of one measured load
	warmup               time.Duration // before the first load of a figure; half of it before each further one
	rounds               int           // how often each sidecar is measured per figure
	size                 int           // bytes of a body or value
	profiles             string        // directory for CPU profiles; empty for none
	json                 string        // file for the figures; empty for none
	dir                  string        // for temporary files
}

// target is a sidecar program under test.
type target struct {
	name string // in the table
	path string
	env  []string // added to its environment
}

// list is a flag that may be given several times.
type list []string

func (l *list) String() string     { return strings.Join(*l, " ") }
func (l *list) Set(s string) error { *l = append(*l, s); return nil }

func parse(args []string) (*settings, error) {
	var (
		s              settings
		daprd, peer    string
		only           string
		listFigures    bool
		env, peerEnv   list
		set            = flag.NewFlagSet("bench", flag.ContinueOnError)
		executableName = func(path string) string { return strings.TrimSuffix(filepath.Base(path), ".exe") }
	)
	set.StringVar(&daprd, "daprd", "bin/daprd", "the sidecar to measure")
	set.StringVar(&peer, "peer", "", "another Dapr-compatible sidecar, measured in turns under the same load")
	set.StringVar(&s.placement, "placement", "", "the placement service for all sidecars (default: placement beside -daprd)")
	set.StringVar(&s.scheduler, "scheduler", "", "the scheduler service for all sidecars (default: scheduler beside -daprd)")
	set.Var(&env, "env", "NAME=VALUE for the environment of the sidecar, e.g. GOGC=200 (repeatable)")
	set.Var(&peerEnv, "peer-env", "NAME=VALUE for the environment of the peer (repeatable); the same program as -peer compares settings")
	set.StringVar(&only, "only", "", "regular expression of the figures to measure (see -list)")
	set.BoolVar(&listFigures, "list", false, "print the names of the figures and end")
	set.DurationVar(&s.duration, "duration", 3*time.Second, "how long one load is measured")
	set.DurationVar(&s.warmup, "warmup", time.Second, "how long it runs before")
	set.IntVar(&s.rounds, "rounds", 2, "how often each sidecar is measured per figure, in turns")
	set.IntVar(&s.size, "size", 1024, "bytes of a body or value")
	set.StringVar(&s.profiles, "profile", "",
		"directory for a CPU profile of each sidecar during each load (go tool pprof -top FILE); profiling itself costs a few percent")
	set.StringVar(&s.json, "json", "", "file for the figures as JSON")
	if err := set.Parse(args); err != nil {
		return nil, err
	}
	if set.NArg() > 0 {
		return nil, fmt.Errorf("unexpected argument %q; see -help", set.Arg(0))
	}
	var err error
	if s.only, err = regexp.Compile(only); err != nil {
		return nil, fmt.Errorf("-only: %w", err)
	}
	if listFigures {
		for _, name := range figureNames() {
			fmt.Println(name)
		}
		return nil, flag.ErrHelp
	}
	if s.duration < 100*time.Millisecond || s.warmup < 0 || s.rounds < 1 || s.size < 16 {
		return nil, fmt.Errorf("-duration %s, -warmup %s, -rounds %d, -size %d: at least 100ms, 0s, 1 and 16 are needed",
			s.duration, s.warmup, s.rounds, s.size)
	}
	s.targets = []target{{name: executableName(daprd), path: daprd, env: env}}
	if peer != "" {
		s.targets = append(s.targets, target{name: "peer", path: peer, env: peerEnv})
	}
	for i := range s.targets {
		t := &s.targets[i]
		if t.path, err = filepath.Abs(t.path); err != nil {
			return nil, err
		}
		if info, err := os.Stat(t.path); err != nil || info.IsDir() {
			return nil, fmt.Errorf("no sidecar at %s; build it (make build) or name one with -daprd and -peer", t.path)
		}
	}
	for name, path := range map[string]*string{"placement": &s.placement, "scheduler": &s.scheduler} {
		given := *path != ""
		if !given {
			*path = filepath.Join(filepath.Dir(s.targets[0].path), name+filepath.Ext(s.targets[0].path))
		}
		if *path, err = filepath.Abs(*path); err != nil {
			return nil, err
		}
		if info, err := os.Stat(*path); given && (err != nil || info.IsDir()) {
			return nil, fmt.Errorf("no %s at %s; build it (make build) or leave out -%s", name, *path, name)
		}
	}
	return &s, nil
}

func run(ctx context.Context) (err error) {
	s, err := parse(os.Args[1:])
	if err != nil {
		return err
	}
	if s.dir, err = os.MkdirTemp("", "bench-"); err != nil {
		return err
	}
	defer os.RemoveAll(s.dir)
	if s.profiles != "" {
		if err := os.MkdirAll(s.profiles, 0o755); err != nil {
			return err
		}
	}
	b := &bench{settings: s}
	defer b.close()
	r := &report{targets: s.targets}
	b.describe(os.Stdout)
	if !measuresProcesses {
		fmt.Println("CPU and memory figures are taken on Linux only: they are left out here.")
	}
	for _, g := range groups() {
		if err := b.measure(ctx, g, r); err != nil {
			return err
		}
	}
	if s.json != "" {
		if err := r.save(s.json); err != nil {
			return err
		}
	}
	return r.print(os.Stdout)
}
