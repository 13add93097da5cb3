// Package process is the program scheduler around the service: the command line (Dapr API, scheduler: flags), and the choice between a machine
// and Kubernetes. It keeps no state of its own, so that a test can run several beside each other.
package process

import (
	"context"
	"log/slog"

	"outrigger.dev/controlplane/internal/program"
	"outrigger.dev/controlplane/scheduler"
)

// Process is what the program gets from the system.
type Process = program.Process[scheduler.Addresses]

// Main runs the program and returns its exit code: 0 after a clean end, 1 after a fatal error or a second signal, 2 for a mistake in the
// flags.
func Main(p Process) int {
	f := newFlags(p.Stderr, p.Environment())
	return program.Main(p, program.Program{
		Name: "scheduler", Label: "Scheduler", Title: "Dapr Scheduler Service", Scope: "dapr.scheduler", Flags: f.set, Common: &f.common, SingleDash: true,
		Serve: func(ctx context.Context, log *slog.Logger) error {
			o, err := f.options(ctx, p.Environment(), log)
			if err != nil {
				return err
			}
			o.Started = p.Started
			return scheduler.Run(ctx, o)
		},
	})
}
