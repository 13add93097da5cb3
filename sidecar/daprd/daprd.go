// Package daprd is the process around a sidecar: the command line, the log, signals and exit codes (Dapr API, the sidecar process).
// It keeps no state of its own, so that a test can run several beside each other.
package daprd

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/pflag"

	"outrigger.dev/imagepages"
	"outrigger.dev/sidecar"
	"outrigger.dev/telemetry/logging"
)

// Exit codes of the process (Dapr API, sidecar: signals).
const (
	exitClean = 0
	exitFatal = 1
	exitUsage = 2
)

// Build says what the program was built from. Empty fields count as unknown.
type Build struct {
	Version, Commit, GitVersion string
}

// Process is what a program gets from the system.
type Process struct {
	Build Build
	// Args are the arguments without the program's name.
	Args []string
	// LookupEnv reads the environment; nil is that of the process.
	LookupEnv      func(string) (string, bool)
	Stdout, Stderr io.Writer
	// Signals brings the signals to the process; nil listens for those of the system.
	Signals <-chan os.Signal
}

// Main runs the program and returns its exit code: 0 after a clean end, 1 after a fatal error or a forced end, 2 for a mistake in
// the flags.
func Main(p Process) int {
	if p.Build.Version == "" {
		p.Build.Version = "edge"
	}
	if p.LookupEnv == nil {
		p.LookupEnv = os.LookupEnv
	}
	f := newFlags(p.Stderr)
	switch err := f.set.Parse(doubleDashes(p.Args)); {
	case errors.Is(err, pflag.ErrHelp):
		usage(p.Stdout, f)
		return exitClean
	case err != nil:
		usage(p.Stderr, f)
		fmt.Fprintln(p.Stderr, err)
		return exitUsage
	}
	switch {
	case f.version:
		fmt.Fprintln(p.Stdout, p.Build.Version)
		return exitClean
	case f.buildInfo:
		fmt.Fprintf(p.Stdout, "Version: %s\nGit Commit: %s\nGit Version: %s\n", p.Build.Version, p.Build.Commit, p.Build.GitVersion)
		return exitClean
	case f.waits:
		wait(p.Stderr, f.httpPort)
		return exitClean
	}
	return p.serve(f)
}

func usage(w io.Writer, f *flags) {
	fmt.Fprintf(w, "Usage of daprd:\n%s", f.set.FlagUsages())
}

// serve sets up the log and runs the sidecar.
func (p *Process) serve(f *flags) int {
	ctx := context.Background()
	plain := logging.New(logging.Options{Out: p.Stdout, Version: p.Build.Version})
	o := sidecar.Defaults()
	if err := f.parse(&o); err != nil {
		logging.Fatal(ctx, plain, fmt.Sprintf("Failed to parse flags: %s", err))
		return exitFatal
	}
	level, err := logging.ParseLevel(f.logLevel)
	if err != nil {
		logging.Fatal(ctx, plain, fmt.Sprintf("invalid value for --log-level: %s", f.logLevel))
		return exitFatal
	}
	out := p.Stdout
	if f.logFile != "" {
		file, err := logging.OpenFile(f.logFile)
		if err != nil {
			logging.Fatal(ctx, plain, err.Error())
			return exitFatal
		}
		defer file.Close()
		out = file
	}
	o.Log = logging.New(logging.Options{Out: out, Level: level, JSON: f.logAsJSON, AppID: f.appID, Version: p.Build.Version})
	o.LogOutput = out
	o.Version = p.Build.Version

	o.Log.Info(fmt.Sprintf("Starting Dapr Runtime -- version %s -- commit %s", p.Build.Version, p.Build.Commit))
	o.Log.Info("Log level set to: " + strings.ToLower(f.logLevel))
	if f.set.NArg() > 0 {
		// Often the value of a boolean flag, as in "--enable-metrics false".
		o.Log.Warn(fmt.Sprintf("the arguments %q are ignored: daprd takes only flags; write the value of a boolean flag as --flag=value", f.set.Args()))
	}
	if err := f.options(&o, p.LookupEnv); err != nil {
		return fatal(o.Log, err)
	}
	if o.GracefulShutdown == 0 {
		o.Log.Warn("Graceful shutdown timeout is infinite, will wait indefinitely to shutdown")
	}

	signals := p.Signals
	if signals == nil {
		// Whoever reads the log may be gone; that must not keep the sidecar from ending gracefully.
		signal.Ignore(syscall.SIGPIPE)
		system := make(chan os.Signal, 4)
		signal.Notify(system, syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
		defer signal.Stop(system)
		signals = system
	}
	return run(o, signals)
}

func fatal(log *slog.Logger, err error) int {
	logging.Fatal(context.Background(), log, "Fatal error from runtime: "+err.Error())
	return exitFatal
}

// run runs sidecars, one after the other for every SIGHUP, until one ends for good.
func run(o sidecar.Options, signals <-chan os.Signal) int {
	log := logging.Scope(o.Log, logging.ScopeSignals)
	for {
		restart, code := runOnce(o, signals, log)
		if !restart {
			return code
		}
	}
}

// runOnce runs one sidecar. It returns early, with the sidecar still shutting down, when a second signal asks to end at once.
func runOnce(o sidecar.Options, signals <-chan os.Signal, log *slog.Logger) (restart bool, code int) {
	s, err := sidecar.New(o)
	if err != nil {
		return false, fatal(o.Log, err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	parent := os.Getppid()
	stopping := false
	var stoppingSince time.Time
	ready := s.Ready()
	for {
		select {
		case <-ready:
			ready = nil
			defer imagepages.ReleaseLater(log)()
		case err := <-done:
			switch {
			case errors.Is(err, sidecar.ErrRestart) && !stopping:
				return true, exitClean
			case errors.Is(err, sidecar.ErrRestart): // the end was asked for meanwhile
			case errors.Is(err, sidecar.ErrShutdownTimeout):
				logging.Fatal(context.Background(), o.Log, err.Error())
				return false, exitFatal
			case errors.Is(err, sidecar.ErrForced):
				return false, exitFatal
			case err != nil:
				return false, fatal(o.Log, err)
			case restart && !stopping:
				return true, exitClean
			}
			o.Log.Info("Daprd shutdown gracefully")
			return false, exitClean
		case sig := <-signals:
			switch {
			case sig == syscall.SIGHUP:
				if !restart && !stopping {
					log.Info(fmt.Sprintf("Received signal '%s'; restarting", sig))
					restart = true
					cancel()
				}
			case stopping && parentDied(parent, stoppingSince):
			case stopping:
				logging.Fatal(context.Background(), log, fmt.Sprintf("Received signal '%s' during shutdown; exiting immediately", sig))
				return false, exitFatal
			default:
				log.Info(fmt.Sprintf("Received signal '%s'; beginning shutdown", sig))
				stopping, stoppingSince = true, time.Now()
				cancel()
			}
		}
	}
}

// parentDied tells whether a repeated signal is only the echo of the parent's death. Linux sends a program that asked for notice of
// it one signal for every thread of the parent, and not just one.
func parentDied(parent int, stoppingSince time.Time) bool {
	if time.Since(stoppingSince) > time.Second {
		return false
	}
	time.Sleep(100 * time.Millisecond) // the parent counts as such until its last thread is gone
	return os.Getppid() != parent
}
