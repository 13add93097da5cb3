// Package program is what the programs of the control plane have in common around their services: the command line, the log, signals and exit
// codes (Dapr API, control plane: process). It keeps no state of its own, so that a test can run several programs beside each other.
//
//	return program.Main(p, program.Program{Name: "sentry", ..., Flags: set, Common: common, Serve: func(ctx, log) error { ... }})
package program

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

	"github.com/spf13/pflag"

	"outrigger.dev/imagepages"
	"outrigger.dev/telemetry/logging"
)

// Exit codes of the programs.
const (
	ExitClean = 0
	ExitFatal = 1
	ExitUsage = 2
)

// Process is what a program gets from the system. A is what its service tells about where it listens.
type Process[A any] struct {
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
	Started func(A)
}

// Environment is LookupEnv, or the environment of the process.
func (p Process[A]) Environment() func(string) (string, bool) {
	if p.LookupEnv == nil {
		return os.LookupEnv
	}
	return p.LookupEnv
}

// Program is one program of the control plane. All fields are needed, unless they say otherwise.
type Program struct {
	// Name is what the program is called on the command line, in lower case. Label names it at the beginning of a sentence.
	Name, Label string
	// Title is what the first line of the log calls it.
	Title string
	// Scope is that of the program's log lines.
	Scope string
	// Flags are all flags, those of Common among them. Its output and usage are set by [NewFlags].
	Flags  *pflag.FlagSet
	Common *Common
	// SingleDash accepts flags with one dash too: -port as --port. Optional.
	SingleDash bool
	// Serve runs the service until ctx ends, which is no error. It reads the flags.
	Serve func(ctx context.Context, log *slog.Logger) error
}

// Main runs the program and returns its exit code: 0 after a clean end, 1 after a fatal error or a second signal, 2 for a mistake in the
// flags.
func Main[A any](p Process[A], program Program) int {
	if p.Version == "" {
		p.Version = "edge"
	}
	args := p.Args
	if program.SingleDash {
		args = doubleDashes(program.Flags, args)
	}
	switch err := program.Flags.Parse(args); {
	case errors.Is(err, pflag.ErrHelp):
		fmt.Fprintf(p.Stdout, "Usage of %s:\n%s", program.Name, program.Flags.FlagUsages())
		return ExitClean
	case err != nil:
		fmt.Fprintf(p.Stderr, "Usage of %s:\n%s%s\n", program.Name, program.Flags.FlagUsages(), err)
		return ExitUsage
	}
	if program.Common.Version {
		fmt.Fprintln(p.Stdout, p.Version)
		return ExitClean
	}
	return serve(p, program)
}

// serve sets up the log and runs the service.
func serve[A any](p Process[A], program Program) int {
	ctx, common := context.Background(), program.Common
	plain := logging.New(logging.Options{Out: p.Stdout, Version: p.Version, Scope: program.Scope})
	level, err := logging.ParseLevel(common.LogLevel)
	if err != nil {
		logging.Fatal(ctx, plain, "invalid value for --log-level: "+common.LogLevel)
		return ExitFatal
	}
	out := p.Stdout
	if common.LogFile != "" {
		file, err := logging.OpenFile(common.LogFile)
		if err != nil {
			logging.Fatal(ctx, plain, err.Error())
			return ExitFatal
		}
		defer file.Close()
		out = file
	}
	log := logging.New(logging.Options{Out: out, Level: level, JSON: common.LogAsJSON, Version: p.Version, Scope: program.Scope})
	log.Info(fmt.Sprintf("Starting %s -- version %s -- commit %s", program.Title, p.Version, p.Commit))
	log.Info("Log level set to: " + strings.ToLower(common.LogLevel))
	if program.Flags.NArg() > 0 {
		log.Warn(fmt.Sprintf("the arguments %q are ignored: %s takes only flags; write the value of a boolean flag as --flag=value", program.Flags.Args(), program.Name))
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
	go func() { done <- program.Serve(ctx, log) }()
	stopping := false
	defer imagepages.ReleaseLater(log)()
	for {
		select {
		case err := <-done:
			if err != nil && !stopping {
				logging.Fatal(ctx, log, fmt.Sprintf("Fatal error from %s: %s", program.Name, err))
				return ExitFatal
			}
			log.Info(program.Label + " shut down gracefully")
			return ExitClean
		case sig := <-signals:
			if stopping {
				logging.Fatal(ctx, log, fmt.Sprintf("Received signal '%s' during shutdown; exiting immediately", sig))
				return ExitFatal
			}
			log.Info(fmt.Sprintf("Received signal '%s'; beginning shutdown", sig))
			stopping = true
			cancel()
		}
	}
}
