package cli

import (
	"context"
	"errors"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// runFlags are those of run that do not go into the appSpec as they are.
type runFlags struct {
	spec           appSpec
	componentsPath string
	runFile        string
	kubernetes     bool
	stopWith       string
}

func (c *command) runCommand() *cobra.Command {
	f := &runFlags{}
	cmd := &cobra.Command{
		Use:   "run [flags] [command [args...]]",
		Short: "Run an app with a sidecar, or all apps of a run file",
		Example: `  dapr run --app-id orders --app-port 8080 -- python3 app.py   an app that listens on port 8080
  dapr run --app-id orders --dapr-http-port 3500               a sidecar alone
  dapr run -f .                                                all apps of ./dapr.yaml`,
		Args: cobra.ArbitraryArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			if f.kubernetes {
				c.print.failure("running on Kubernetes is not available in this version; leave --kubernetes out")
				return failed()
			}
			if f.runFile != "" {
				c.warnIgnored(cmd)
				return c.runMany(cmd.Context(), f)
			}
			if f.stopWith != "" {
				c.print.failure("--stop-with names an app of a run file; give the run file with --run-file")
				return failed()
			}
			return c.runOne(cmd, f, args)
		},
	}
	s, a := cmd.Flags(), &f.spec
	s.SetInterspersed(false)
	s.StringVarP(&a.appID, "app-id", "a", "", "The id of the app (default: generated)")
	s.IntVarP(&a.appPort, "app-port", "p", -1, "The port the app listens on")
	s.StringVarP(&a.appProtocol, "app-protocol", "P", "http", "How the app speaks: http, https, h2c, grpc or grpcs")
	s.StringVar(&a.appChannelAddress, "app-channel-address", "127.0.0.1", "The host the app listens on")
	s.IntVar(&a.appMaxConcurrency, "app-max-concurrency", -1, "How many calls the app may get at a time")
	s.BoolVar(&a.appSSL, "app-ssl", false, "Use TLS towards the app")
	s.StringVarP(&a.config, "config", "c", "", "Configuration file (default: config.yaml in the runtime directory)")
	s.StringVarP(&f.componentsPath, "components-path", "d", "", "Directory of resource files")
	s.StringSliceVar(&a.resources, "resources-path", nil, "Directory of resource files; may be repeated (default: components in the runtime directory)")
	s.IntVarP(&a.httpPort, "dapr-http-port", "H", -1, "The port of the HTTP API (default: a free one)")
	s.IntVarP(&a.grpcPort, "dapr-grpc-port", "G", -1, "The port of the gRPC API (default: a free one)")
	s.IntVarP(&a.internalPort, "dapr-internal-grpc-port", "I", -1, "The port for other sidecars (default: a free one)")
	s.IntVarP(&a.metricsPort, "metrics-port", "M", -1, "The port of the metrics (default: a free one)")
	s.BoolVar(&a.enableProfiling, "enable-profiling", false, "Serve pprof")
	s.IntVar(&a.profilePort, "profile-port", -1, "The port of the profiling server (default: a free one)")
	s.StringVar(&a.logLevel, "log-level", "info", "What the sidecar logs: debug, info, warn, error or fatal and above")
	s.StringVar(&a.maxBodySize, "max-body-size", "4Mi", "The largest request body, as a quantity such as 4Mi")
	s.StringVar(&a.readBufferSize, "read-buffer-size", "4Ki", "The largest HTTP header, as a quantity such as 4Ki")
	s.StringVarP(&a.unixDomainSocket, "unix-domain-socket", "u", "", "A directory for sockets of the APIs, instead of ports")
	s.BoolVar(&a.enableAppHealthCheck, "enable-app-health-check", false, "Check the health of the app")
	s.StringVar(&a.healthPath, "app-health-check-path", "", "The path that tells the app's health over HTTP")
	s.IntVar(&a.healthInterval, "app-health-probe-interval", 0, "Seconds between health checks")
	s.IntVar(&a.healthTimeout, "app-health-probe-timeout", 0, "Milliseconds that a health check may take")
	s.IntVar(&a.healthThreshold, "app-health-threshold", 0, "Failed checks in a row that make the app unhealthy")
	s.BoolVar(&a.enableAPILogging, "enable-api-logging", false, "Log every API call")
	s.StringVar(&a.listenAddresses, "dapr-listen-addresses", "", "Comma separated addresses of the APIs")
	s.StringVar(&a.placement, "placement-host-address", ownMachine, "Address of the placement service; empty for none")
	s.StringVar(&a.scheduler, "scheduler-host-address", ownMachine, "Address of the scheduler service; empty for none")
	s.StringVarP(&f.runFile, "run-file", "f", "", "A run file, a directory with dapr.yaml in it, or - for standard input")
	s.BoolVarP(&f.kubernetes, "kubernetes", "k", false, "Run on Kubernetes (not available in this version)")
	s.StringVar(&f.stopWith, "stop-with", "", "With --run-file: stop everything when this app exits, and exit with its code")
	_ = s.MarkDeprecated("app-ssl", "use --app-protocol https or grpcs")
	_ = s.MarkDeprecated("components-path", "use --resources-path")
	return cmd
}

// warnIgnored names the flags that mean nothing together with a run file.
func (c *command) warnIgnored(cmd *cobra.Command) {
	used := []string{"run-file", "kubernetes", "help", "version", "runtime-path", "log-as-json", "stop-with"}
	var ignored []string
	cmd.Flags().Visit(func(f *pflag.Flag) {
		if !slices.Contains(used, f.Name) {
			ignored = append(ignored, f.Name)
		}
	})
	if len(ignored) > 0 {
		c.print.warning("The following flags are ignored when using --run-file and should be configured in the run file instead: %s", strings.Join(ignored, ", "))
	}
}

// prepare fills in what the flags left open and checks the result.
func (c *command) prepare(ctx context.Context, f *runFlags) (daprd string, err error) {
	a := &f.spec
	if a.runtimeDir, err = runtimeDir(c.runtimePath); err != nil {
		return "", err
	}
	if daprd, err = findDaprd(a.runtimeDir); err != nil {
		return "", err
	}
	if err = prepareData(a.runtimeDir); err != nil {
		return "", err
	}
	if len(a.resources) == 0 && f.componentsPath != "" {
		a.resources = []string{f.componentsPath}
	}
	if len(a.resources) == 0 {
		if err = defaultComponents(a.runtimeDir); err != nil {
			return "", err
		}
		a.resources = []string{componentsDir(a.runtimeDir)}
	}
	for _, dir := range a.resources {
		if err = namedComponents(a.runtimeDir, a.path(dir)); err != nil {
			return "", err
		}
	}
	if a.config == "" {
		if err = defaultConfiguration(a.runtimeDir); err != nil {
			return "", err
		}
		a.config = configFile(a.runtimeDir)
	}
	a.logAsJSON = c.logAsJSON
	running, err := findInstances(ctx)
	if err != nil {
		running = nil // not fatal: it only serves to find clashes of ports before the sidecar does
	}
	if a.appID == "" {
		a.appID = randomAppID(running)
	}
	if err = a.check(ctx); err != nil {
		return "", err
	}
	if err = a.choosePorts(running); err != nil {
		return "", err
	}
	return daprd, c.startLocal(ctx, a)
}

// startLocal starts what an app's sidecar needs of the local services.
func (c *command) startLocal(ctx context.Context, a *appSpec) error {
	if err := c.startBroker(ctx, a); err != nil {
		return err
	}
	if err := c.startControlPlane(ctx, a); err != nil {
		return err
	}
	return c.startSentry(ctx, a)
}

// runOne runs one app with its sidecar until either ends or a signal comes (Dapr CLI, run: lifecycle).
func (c *command) runOne(cmd *cobra.Command, f *runFlags, args []string) error {
	a := &f.spec
	a.command = args
	s := listenForInterrupts(cmd.Context())
	defer s.close()
	daprd, err := c.prepare(s.ctx, f)
	if err != nil {
		c.print.failure("%s", err)
		return failed()
	}
	if len(args) == 0 {
		c.print.warning("WARNING: no application command found.")
	}
	if a.unixDomainSocket != "" {
		http, grpc := a.sockets()
		c.print.info("Starting Dapr with id %s. HTTP Socket: %s. gRPC Socket: %s.", a.appID, http, grpc)
	} else {
		c.print.info("Starting Dapr with id %s. HTTP Port: %d. gRPC Port: %d", a.appID, a.httpPort, a.grpcPort)
	}
	i, err := startSidecar(a, daprd, c.program.Stdout, c.program.Stderr, a.sidecarEnv())
	if err != nil {
		c.print.failure("%s", err)
		return failed()
	}
	bound := readyBound
	if a.appPort > 0 {
		bound = firstLook
	}
	err = i.await(s.ctx, bound)
	if errors.Is(err, errNotReady) && a.appPort <= 0 {
		c.print.warning("Dapr sidecar is not listening on its ports %d and %d after %s; the app is started all the same", a.httpPort, a.grpcPort, readyBound)
	}
	if err == nil || errors.Is(err, errNotReady) {
		if len(args) > 0 {
			if err := i.startApp(c.program.Stdin, c.program.Stdout, c.program.Stderr); err != nil {
				c.print.failure("%s", err)
				i.stop(s.hurry)
				return failed()
			}
		}
		c.whileRunning(s, i)
	}
	return c.end(s, i)
}

// whileRunning attaches the metadata and returns when the app or the sidecar ends, or a signal comes.
func (c *command) whileRunning(s *interrupts, i *instance) {
	ctx, cancel := context.WithCancel(s.ctx)
	attached := make(chan struct{})
	go func() {
		defer close(attached)
		i.attach(ctx, i.attachments(), func(text string) { c.print.warning("%s", text) })
		if ctx.Err() != nil || i.daprd.ended() {
			return
		}
		if i.app != nil {
			c.print.success("You're up and running! Both Dapr and your app logs will appear here.\n")
		} else {
			c.print.success("You're up and running! Dapr logs will appear here.\n")
		}
	}()
	defer func() {
		cancel()
		<-attached
	}()
	var app <-chan struct{}
	if i.app != nil {
		app = i.app.done
	}
	select {
	case <-s.ctx.Done():
	case <-i.daprd.done:
	case <-app:
	}
}

// end stops what still runs and tells how everything ended.
func (c *command) end(s *interrupts, i *instance) error {
	sidecarFirst := i.daprd.ended()
	appFirst := i.app != nil && i.app.ended()
	if s.ctx.Err() != nil {
		c.print.info("terminated signal received: shutting down")
	}
	i.stop(s.hurry)
	code := exitOK
	switch {
	case i.daprd.err == nil:
		c.print.success("Exited Dapr successfully")
	case sidecarFirst:
		code = exitFailure
		c.print.failure("The daprd process exited with error code: %s", i.daprd.err)
		if reason := i.out.reason(); reason != "" {
			c.print.failure("Dapr ended because: %s", reason)
		}
	default:
		code = exitFailure
		c.print.failure("Error exiting Dapr: %s", i.daprd.err)
	}
	if i.app != nil {
		switch {
		case i.app.err == nil || !appFirst:
			c.print.success("Exited App successfully")
		case signalOf(i.app.err) != "":
			code = exitFailure
			c.print.failure("The App process was terminated by signal: %s", signalOf(i.app.err))
		default:
			code = exitFailure
			c.print.failure("The App process exited with error code: %d", i.app.cmd.ProcessState.ExitCode())
		}
	}
	if code != exitOK {
		return &exitError{code: code}
	}
	return nil
}

// isTerminal tells whether w is a terminal, which gets colours.
func isTerminal(w any) bool {
	f, ok := w.(*os.File)
	if !ok {
		return false
	}
	info, err := f.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}
