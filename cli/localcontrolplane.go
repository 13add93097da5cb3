package cli

import (
	"context"

	"outrigger.dev/local"
)

// ownMachine is the address of placement and the scheduler that means those of this machine: the local services' (Dapr CLI, run: flags).
const ownMachine = "localhost"

// startControlPlane has placement and the scheduler run for the apps that are to use those of this machine, and says where they are. Without
// them the app can still do everything that is not actors, workflows or jobs.
func (c *command) startControlPlane(ctx context.Context, a *appSpec) error {
	if a.placement != ownMachine && a.scheduler != ownMachine {
		return nil
	}
	p, started, err := c.ensureLocal(ctx, a.runtimeDir, 0)
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if err != nil {
		p = &local.Process{Placement: &local.Service{Error: err.Error()}, Scheduler: &local.Service{Error: err.Error()}}
	}
	if started {
		c.print.info("Started the local services in the background (process %d): broker, placement and scheduler. They run on after the apps; dapr local stop ends them.", p.PID)
	}
	a.placement = c.localAddress(a.placement, "placement", "actors and workflows", p, p.Placement)
	a.scheduler = c.localAddress(a.scheduler, "scheduler", "jobs, reminders and workflows", p, p.Scheduler)
	return nil
}

// localAddress is where a service is: a wish for one elsewhere stays as it is. A service that does not run is left out, for the sidecar would
// never be ready.
func (c *command) localAddress(wanted, name, without string, p *local.Process, s *local.Service) string {
	switch {
	case wanted != ownMachine:
		return wanted
	case s == nil:
		c.print.warning("The local services (process %d, version %s) have no %s, so there will be no %s; put new ones in their place with `dapr local stop`", p.PID, p.Version, name, without)
		return ""
	case s.Error != "":
		c.print.warning("The local %s does not run, so there will be no %s: %s", name, without, s.Error)
		return ""
	}
	return s.Address()
}
