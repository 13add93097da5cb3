package cli

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"outrigger.dev/local"
)

// localDir is the directory of the background process with the default broker.
func localDir(runtimeDir string) string { return filepath.Join(runtimeDir, "local") }

// serveCommand is the hidden subcommand that is the background process.
const serveCommand = "serve"

func (c *command) localCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "local",
		Short: "Start, stop and inspect the local services",
		Long: `The local services are a background process with the default broker, NATS JetStream, with placement and the scheduler, on
which actors, workflows and jobs stand, and, once an app with mTLS was run, with Sentry, the certificate authority. It listens on
127.0.0.1 only and keeps messages, jobs and reminders under the runtime directory. dapr run starts it unless the app uses nothing
of it; it goes on after that, so that nothing published is lost, jobs are triggered and certificates are renewed, until dapr local
stop or the end of the machine.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(c.localStartCommand(), c.localStopCommand(), c.localStatusCommand(), c.localServeCommand())
	return cmd
}

func (c *command) localStartCommand() *cobra.Command {
	var port int
	cmd := &cobra.Command{
		Use: "start", Short: "Start the local services in the background, unless they run", Args: cobra.NoArgs,
		Example: "  dapr local start\n  dapr local start --port 22500   and write the port into natsURL of the component files",
		RunE: func(cmd *cobra.Command, _ []string) error {
			s := listenForInterrupts(cmd.Context())
			defer s.close()
			dir, err := runtimeDir(c.runtimePath)
			if err == nil {
				var p *local.Process
				var started bool
				if p, started, err = c.ensureLocal(s.ctx, dir, port); err == nil {
					c.localReady(p, started)
					return nil
				}
			}
			c.print.failure("%s", err)
			return failed()
		},
	}
	cmd.Flags().IntVar(&port, "port", 0, "The port of the broker from now on (default: the one it has had, at first a free one)")
	return cmd
}

// localReady says where the local services are.
func (c *command) localReady(p *local.Process, started bool) {
	if started {
		c.print.success("Started the local services: broker %s, process %d", p.NATSURL(), p.PID)
	} else {
		c.print.success("The local services run: broker %s, process %d", p.NATSURL(), p.PID)
	}
}

func (c *command) localStopCommand() *cobra.Command {
	return &cobra.Command{
		Use: "stop", Short: "Stop the local services; what they hold stays", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			s := listenForInterrupts(cmd.Context())
			defer s.close()
			dir, err := runtimeDir(c.runtimePath)
			var p *local.Process
			if err == nil {
				p, err = local.Stop(s.ctx, localDir(dir))
			}
			switch {
			case err != nil:
				c.print.failure("%s", err)
				return failed()
			case p == nil:
				c.print.success("The local services did not run")
			default:
				c.print.success("The local services have been stopped (process %d)", p.PID)
			}
			return nil
		},
	}
}

// localStatus is what status tells, in its structured forms.
type localStatus struct {
	Running bool   `json:"running"`
	Ready   bool   `json:"ready"`
	PID     int    `json:"pid,omitempty"`
	Version string `json:"version,omitempty"`
	NATSURL string `json:"natsURL,omitempty"`
	Started string `json:"started,omitempty"`
	Age     string `json:"age,omitempty"`
	Data    string `json:"data"`
	Log     string `json:"log"`
	// Usage is missing when there is none, or it does not tell.
	Usage     *local.Usage   `json:"usage,omitempty"`
	Placement *local.Service `json:"placement,omitempty"`
	Scheduler *local.Service `json:"scheduler,omitempty"`
	// Sentry is missing when no app has wanted mTLS.
	Sentry *localSentry `json:"sentry,omitempty"`
}

// localSentry is what status tells of the certificate authority.
type localSentry struct {
	Ready       bool   `json:"ready"`
	Address     string `json:"address,omitempty"`
	Credentials string `json:"credentials"`
	Error       string `json:"error,omitempty"`
}

func (c *command) localStatusCommand() *cobra.Command {
	var output string
	cmd := &cobra.Command{
		Use: "status", Short: "Tell whether the local services run, and what they hold", Args: cobra.NoArgs,
		Long: "Tell whether the local services run, and what they hold. The exit code is 1 when they do not run.",
		RunE: func(cmd *cobra.Command, _ []string) error {
			switch output {
			case "table", "", "json", "yaml":
			default:
				c.print.failure("An invalid output format was specified.")
				return failed()
			}
			status, err := c.localStatus(cmd.Context())
			if err != nil {
				c.print.failure("%s", err)
				return failed()
			}
			if output == "json" || output == "yaml" {
				if err := writeStructured(c.program.Stdout, output, status); err != nil {
					return err
				}
			} else {
				c.localTable(status)
			}
			if !status.Running {
				return failed()
			}
			return nil
		},
	}
	cmd.Flags().StringVarP(&output, "output", "o", "table", "table, json or yaml")
	return cmd
}

func (c *command) localStatus(ctx context.Context) (*localStatus, error) {
	dir, err := runtimeDir(c.runtimePath)
	if err != nil {
		return nil, err
	}
	dir = localDir(dir)
	p, err := local.Find(dir)
	if err != nil {
		return nil, err
	}
	status := &localStatus{Data: local.DataDir(dir), Log: local.LogFile(dir)}
	if p == nil {
		return status, nil
	}
	status.Running, status.Ready, status.PID, status.Version = true, p.Ready, p.PID, p.Version
	if p.PID != 0 {
		status.NATSURL = p.NATSURL()
		status.Started, status.Age = p.Started.Local().Format(createdLayout), age(time.Since(p.Started))
	}
	status.Placement, status.Scheduler = p.Placement, p.Scheduler
	if s := p.Sentry; s != nil {
		status.Sentry = &localSentry{Ready: s.Ready, Credentials: s.Request.Credentials, Error: s.Error}
		if s.Port != 0 {
			status.Sentry.Address = s.Address()
		}
	}
	if p.Ready {
		usage, err := local.Used(ctx, p)
		if err != nil {
			c.print.warning("%s", err)
			return status, nil
		}
		status.Usage = &usage
	}
	return status, nil
}

func (c *command) localTable(s *localStatus) {
	if !s.Running {
		c.print.plain("The local services do not run. Their data is in %s.\n", s.Data)
		return
	}
	state, streams, held := "ready", "", ""
	if !s.Ready {
		state = "starting"
	}
	if s.Usage != nil {
		streams, held = strconv.Itoa(s.Usage.Streams), fmt.Sprintf("%.1f MiB", float64(s.Usage.Bytes)/(1<<20))
	}
	sentry := ""
	switch {
	case s.Sentry == nil:
	case s.Sentry.Ready:
		sentry = s.Sentry.Address
	case s.Sentry.Error != "":
		sentry = "failed"
	default:
		sentry = "starting"
	}
	service := func(s *local.Service) string {
		switch {
		case s == nil:
			return ""
		case s.Error != "":
			return "failed"
		}
		return s.Address()
	}
	writeTable(c.program.Stdout, []string{"STATE", "BROKER", "PLACEMENT", "SCHEDULER", "SENTRY", "PID", "VERSION", "AGE", "STREAMS", "SIZE", "LOG"},
		[][]string{{state, s.NATSURL, service(s.Placement), service(s.Scheduler), sentry, strconv.Itoa(s.PID), s.Version, s.Age, streams, held, s.Log}})
	if s.Sentry != nil && s.Sentry.Error != "" {
		c.print.warning("The local Sentry does not run: %s; `dapr mtls check` examines its credentials in %s", s.Sentry.Error, s.Sentry.Credentials)
	}
	for _, told := range []struct {
		name string
		s    *local.Service
	}{{"placement", s.Placement}, {"scheduler", s.Scheduler}} {
		if told.s != nil && told.s.Error != "" {
			c.print.warning("The local %s does not run: %s; it is tried again", told.name, told.s.Error)
		}
	}
	if s.Version != c.program.Version {
		c.print.info("They were started by version %s of this command (this is %s); `dapr local stop` and `dapr local start` put the new one in place", s.Version, c.program.Version)
	}
}

// localServeCommand is the background process itself.
func (c *command) localServeCommand() *cobra.Command {
	var port int
	cmd := &cobra.Command{
		Use: serveCommand, Short: "Run the local services in the foreground", Args: cobra.NoArgs, Hidden: true,
		RunE: func(cmd *cobra.Command, _ []string) error {
			// Nobody may be listening any more when there is something to report.
			signal.Ignore(syscall.SIGPIPE)
			ctx, stop := signal.NotifyContext(cmd.Context(), os.Interrupt, syscall.SIGTERM)
			defer stop()
			log := slog.New(slog.NewTextHandler(os.Stderr, nil))
			dir, err := runtimeDir(c.runtimePath)
			if err == nil {
				err = local.Run(ctx, local.Options{
					Dir: localDir(dir), Port: port, Version: c.program.Version, Log: log,
					Ready: func(p local.Process) { local.Report(os.Stdout, &p, nil) },
				})
			}
			if err != nil {
				log.Error("the local services failed", "error", err)
				local.Report(os.Stdout, nil, err)
				return failed()
			}
			return nil
		},
	}
	cmd.Flags().IntVar(&port, "port", 0, "The port of the broker")
	return cmd
}

// ensureLocal has the local services of a runtime directory run.
func (c *command) ensureLocal(ctx context.Context, runtimeDir string, port int) (*local.Process, bool, error) {
	launch, err := localLaunch(runtimeDir, port)
	if err != nil {
		return nil, false, err
	}
	return local.Ensure(ctx, launch)
}

// localLaunch says how this program starts the local services.
func localLaunch(runtimeDir string, port int) (local.Launch, error) {
	self, err := os.Executable()
	if err != nil {
		return local.Launch{}, fmt.Errorf("the local services cannot be started, since this program does not find itself: %w", err)
	}
	return local.Launch{
		Dir: localDir(runtimeDir), Port: port,
		Command: []string{self, "local", serveCommand, "--runtime-path", filepath.Dir(runtimeDir), "--port", strconv.Itoa(port)},
	}, nil
}
