// Package process is the program sentry around the service: the command line, the log, signals and exit codes, and the choice between a
// machine and Kubernetes (Dapr API, Sentry: process). It keeps no state of its own, so that a test can run several beside each other.
package process

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/spf13/pflag"

	"outrigger.dev/controlplane/sentry"
	"outrigger.dev/telemetry/logging"
)

// Exit codes of the program.
const (
	exitClean = 0
	exitFatal = 1
	exitUsage = 2
)

// scope is that of the program's log lines.
const scope = "dapr.sentry"

// Process is what the program gets from the system.
type Process struct {
	// Version and Commit say what the program was built from; empty fields count as unknown.
	Version, Commit string
	// Args are the arguments without the program's name.
	Args []string
	// LookupEnv reads the environment; nil is that of the process.
	LookupEnv      func(string) (string, bool)
	Stdout, Stderr io.Writer
	// Signals brings the signals to the process; nil listens for those of the system.
	Signals <-chan os.Signal
	// Started, if not nil, is told where the servers listen once everything is ready.
	Started func(sentry.Addresses)
}

// Main runs the program and returns its exit code: 0 after a clean end, 1 after a fatal error or a second signal, 2 for a mistake in the
// flags.
func Main(p Process) int {
	if p.Version == "" {
		p.Version = "edge"
	}
	if p.LookupEnv == nil {
		p.LookupEnv = os.LookupEnv
	}
	f := newFlags(p.Stderr)
	switch err := f.set.Parse(p.Args); {
	case errors.Is(err, pflag.ErrHelp):
		fmt.Fprintf(p.Stdout, "Usage of sentry:\n%s", f.set.FlagUsages())
		return exitClean
	case err != nil:
		fmt.Fprintf(p.Stderr, "Usage of sentry:\n%s%s\n", f.set.FlagUsages(), err)
		return exitUsage
	}
	if f.version {
		fmt.Fprintln(p.Stdout, p.Version)
		return exitClean
	}
	return p.serve(f)
}

// serve sets up the log and runs the service.
func (p *Process) serve(f *flags) int {
	ctx := context.Background()
	plain := logging.New(logging.Options{Out: p.Stdout, Version: p.Version, Scope: scope})
	level, err := logging.ParseLevel(f.logLevel)
	if err != nil {
		logging.Fatal(ctx, plain, "invalid value for --log-level: "+f.logLevel)
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
	log := logging.New(logging.Options{Out: out, Level: level, JSON: f.logAsJSON, Version: p.Version, Scope: scope})
	log.Info(fmt.Sprintf("Starting Dapr Sentry certificate authority -- version %s -- commit %s", p.Version, p.Commit))
	log.Info("Log level set to: " + strings.ToLower(f.logLevel))
	if f.set.NArg() > 0 {
		log.Warn(fmt.Sprintf("the arguments %q are ignored: sentry takes only flags; write the value of a boolean flag as --flag=value", f.set.Args()))
	}

	signals := p.Signals
	if signals == nil {
		signal.Ignore(syscall.SIGPIPE)
		system := make(chan os.Signal, 4)
		signal.Notify(system, syscall.SIGINT, syscall.SIGTERM)
		defer signal.Stop(system)
		signals = system
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	done := make(chan error, 1)
	go func() {
		o, err := f.options(ctx, p.LookupEnv, log)
		if err == nil {
			o.Started = p.Started
			err = sentry.Run(ctx, o)
		}
		done <- err
	}()
	stopping := false
	for {
		select {
		case err := <-done:
			if err != nil && !stopping {
				logging.Fatal(ctx, log, "Fatal error from sentry: "+err.Error())
				return exitFatal
			}
			log.Info("Sentry shut down gracefully")
			return exitClean
		case sig := <-signals:
			if stopping {
				logging.Fatal(ctx, log, fmt.Sprintf("Received signal '%s' during shutdown; exiting immediately", sig))
				return exitFatal
			}
			log.Info(fmt.Sprintf("Received signal '%s'; beginning shutdown", sig))
			stopping = true
			cancel()
		}
	}
}
