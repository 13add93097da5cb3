package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
	"time"
)

// logStamp is the form of the time in the names of log files.
const logStamp = "20060102150405"

// runningApp is a started app of a run file.
type runningApp struct {
	*plannedApp
	*instance
	logs *appLogs
}

// runMany runs the apps of a run file until a signal comes (Dapr CLI, run -f: lifecycle).
func (c *command) runMany(ctx context.Context, f *runFlags) error {
	s := listenForInterrupts(ctx)
	defer s.close()
	path, file, apps, err := c.loadPlan(s.ctx, f.runFile)
	if err == nil {
		err = checkStopWith(apps, f.stopWith)
	}
	if err != nil {
		fmt.Fprintf(c.program.Stdout, "Error getting apps from config file: %s\n", err)
		return failed()
	}
	all := &supervisor{command: c, file: path, name: file.Name, ctx: s.ctx, hurry: s.hurry, finished: make(chan *runningApp, len(apps))}
	all.attaching, all.stopAttaching = context.WithCancel(s.ctx)
	for _, app := range apps {
		if s.ctx.Err() != nil {
			break
		}
		err := all.start(app)
		if s.ctx.Err() != nil {
			break // whatever went wrong, the signal did it
		}
		if err != nil {
			c.print.failure("%s", err)
			all.stop()
			return failed()
		}
	}
	code := all.watch(f.stopWith)
	all.stop()
	if code != exitOK {
		return &exitError{code: code}
	}
	return nil
}

func checkStopWith(apps []*plannedApp, stopWith string) error {
	if stopWith == "" {
		return nil
	}
	for _, a := range apps {
		if a.appID == stopWith && len(a.command) > 0 {
			return nil
		}
	}
	return fmt.Errorf("--stop-with names the app %q, but the run file has no app of that id with a command", stopWith)
}

// supervisor owns the apps of a run file.
type supervisor struct {
	*command
	file, name string
	ctx        context.Context
	hurry      <-chan struct{}

	apps          []*runningApp
	finished      chan *runningApp // apps whose command has ended
	watching      sync.WaitGroup
	attaching     context.Context
	stopAttaching context.CancelFunc
}

// start starts an app with its sidecar.
func (m *supervisor) start(a *plannedApp) error {
	m.print.info("Validating config and starting app %q", a.appID)
	invalid := func(err error) error {
		return fmt.Errorf("Error validating run config for app %q present in %s: %w", a.appID, m.file, err)
	}
	a.logAsJSON = m.logAsJSON
	running, err := findInstances(m.ctx)
	if err != nil {
		running = nil // it only serves to find clashes of ports early
	}
	daprd, err := findDaprd(a.runtimeDir)
	if err == nil {
		err = a.check(m.ctx)
	}
	if err == nil {
		err = a.choosePorts(running)
	}
	if err != nil {
		return invalid(err)
	}
	if err := m.startLocal(m.ctx, &a.appSpec); err != nil {
		return fmt.Errorf("Error starting Dapr and app (%q): %w", a.appID, err)
	}
	logs, err := openLogs(a, m.program.Stdout, time.Now())
	if err != nil {
		return err
	}
	var env []string
	if os.Getenv("DAPR_HOST_IP") == "" {
		env = []string{"DAPR_HOST_IP=127.0.0.1"}
	}
	i, err := startSidecar(&a.appSpec, daprd, logs.daprd, logs.daprd, a.sidecarEnv(env...))
	if err != nil {
		return errors.Join(fmt.Errorf("Error starting Dapr and app (%q): %w", a.appID, err), logs.close())
	}
	app := &runningApp{plannedApp: a, instance: i, logs: logs}
	// From here on stop takes care of it.
	m.apps = append(m.apps, app)
	if err := m.startCommand(app); err != nil {
		return fmt.Errorf("Error starting Dapr and app (%q): %w", a.appID, err)
	}
	m.watching.Go(func() { m.attach(app) })
	m.watching.Go(func() { m.report(app) })
	m.print.success("Started Dapr with app id %q. HTTP Port: %d. gRPC Port: %d", a.appID, a.httpPort, a.grpcPort)
	if logs.dir != "" {
		m.print.info("Writing log files to directory : %s", logs.dir)
	}
	return nil
}

// startCommand waits for the sidecar and starts the app.
func (m *supervisor) startCommand(app *runningApp) error {
	bound := readyBound
	if app.appPort > 0 {
		bound = firstLook
	}
	switch err := app.await(m.ctx, bound); {
	case errors.Is(err, errSidecarEnded):
		return app.failure()
	case errors.Is(err, errNotReady):
		if app.appPort <= 0 {
			app.logs.daprdNote("Dapr sidecar is not listening on its ports %d and %d after %s; the app is started all the same", app.httpPort, app.grpcPort, readyBound)
		}
	case err != nil:
		return err
	}
	if len(app.command) == 0 {
		m.print.warning("No application command found for app %q present in %s", app.appID, m.file)
		return nil
	}
	return app.startApp(nil, app.logs.app, app.logs.app)
}

// attach puts the metadata that list and stop rely on into the sidecar.
func (m *supervisor) attach(app *runningApp) {
	more := []attachment{{"runTemplatePath", m.file}, {"runTemplateName", m.name}}
	if app.logs.appPath != "" {
		more = append(more, attachment{"appLogPath", app.logs.appPath})
	}
	if app.logs.daprdPath != "" {
		more = append(more, attachment{"daprdLogPath", app.logs.daprdPath})
	}
	app.instance.attach(m.attaching, app.attachments(more...), func(text string) { app.logs.daprdNote("%s", text) })
}

// report notes in an app's logs how its processes end.
func (m *supervisor) report(app *runningApp) {
	if app.app != nil {
		<-app.app.done
		if err := app.app.err; err != nil {
			app.logs.appNote("The App process exited with error code: %s", err)
		} else {
			app.logs.appNote("Exited App successfully")
		}
		m.finished <- app
	}
	<-app.daprd.done
	if err := app.daprd.err; err != nil {
		app.logs.daprdNote("The daprd process exited with error code: %s", err)
	} else {
		app.logs.daprdNote("Exited Dapr successfully")
	}
}

// watch returns when a signal comes, or the app that everything depends on ends, with the code to exit with.
func (m *supervisor) watch(stopWith string) int {
	for {
		select {
		case <-m.ctx.Done():
			m.print.info("Received signal to stop Dapr and app processes. Shutting down Dapr and app processes.")
			return exitOK
		case app := <-m.finished:
			if stopWith == "" || app.appID != stopWith {
				continue
			}
			m.print.info("App %q has ended. Shutting down Dapr and app processes.", app.appID)
			if code := app.app.cmd.ProcessState.ExitCode(); code >= 0 {
				return code
			}
			return exitFailure // ended by a signal
		}
	}
}

// stop ends all apps, side by side, and then waits for everything that watches them.
func (m *supervisor) stop() {
	m.stopAttaching()
	var stopping sync.WaitGroup
	for _, app := range m.apps {
		app.logs.daprdNote("termination signal received: shutting down")
		stopping.Go(func() { app.instance.stop(m.hurry) })
	}
	stopping.Wait()
	m.watching.Wait()
	for _, app := range m.apps {
		if err := app.logs.close(); err != nil {
			m.print.warning("a log file of app %q was not closed cleanly: %s", app.appID, err)
		}
	}
}

// appLogs are the logs of an app and its sidecar (Dapr CLI, run -f: logs).
type appLogs struct {
	dir, appPath, daprdPath string // empty without files
	app, daprd              *lines
	files                   []io.Closer
}

// console writes whole lines of several apps to one output.
type console struct {
	out    io.Writer
	colour bool
}

func (c *console) line(prefix string, line []byte) {
	if c.colour && prefix != "" {
		prefix = "\x1b[94m" + prefix + "\x1b[0m"
	}
	buffer := make([]byte, 0, len(prefix)+len(line)+1)
	buffer = append(append(append(buffer, prefix...), line...), '\n')
	_, _ = c.out.Write(buffer) // one write for each line, so that lines do not mix
}

// openLogs opens the logs of an app, named after the time of its start.
func openLogs(a *plannedApp, stdout io.Writer, now time.Time) (*appLogs, error) {
	logs := &appLogs{}
	screen := &console{out: stdout, colour: isTerminal(stdout)}
	open := func(kind string, d destination, prefix string) (path string, log *lines, err error) {
		var file *os.File
		if d.file {
			logs.dir = filepath.Join(a.dir, ".dapr", "logs")
			path = filepath.Join(logs.dir, fmt.Sprintf("%s_%s_%s.log", a.appID, kind, now.Format(logStamp)))
			if err = os.MkdirAll(logs.dir, 0o755); err == nil {
				file, err = os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
			}
			if err != nil {
				return "", nil, fmt.Errorf("Error getting %s log file for app %q: %w", kind, a.appID, err)
			}
			logs.files = append(logs.files, file)
		}
		log = &lines{emit: func(line []byte) {
			if file != nil {
				_, _ = fmt.Fprintf(file, "%s%s\n", prefix, withoutColours(line)) // a full disk must not stop the app
			}
			if d.console {
				screen.line(prefix, line)
			}
		}}
		return path, log, nil
	}
	var err error
	if logs.daprdPath, logs.daprd, err = open("daprd", a.daprdLog, ""); err != nil {
		return nil, err
	}
	appLog := a.appLog
	if len(a.command) == 0 {
		appLog.file = false
	}
	if logs.appPath, logs.app, err = open("app", appLog, "== APP - "+a.appID+" == "); err != nil {
		return nil, errors.Join(err, logs.close())
	}
	return logs, nil
}

func (l *appLogs) appNote(format string, args ...any) { note(l.app, format, args) }

func (l *appLogs) daprdNote(format string, args ...any) { note(l.daprd, format, args) }

// note writes a status line of ours, after whatever the program wrote without ending its line.
func note(log *lines, format string, args []any) {
	log.flush()
	fmt.Fprintf(log, format+"\n", args...)
}

func (l *appLogs) close() error {
	for _, log := range []*lines{l.app, l.daprd} {
		if log != nil {
			log.flush()
		}
	}
	var errs []error
	for _, f := range l.files {
		errs = append(errs, f.Close())
	}
	return errors.Join(errs...)
}

// withoutColours removes the escape sequences that set colours.
func withoutColours(line []byte) []byte {
	var out []byte
	for i := 0; i < len(line); i++ {
		if line[i] == 0x1b && i+1 < len(line) && line[i+1] == '[' {
			end := i + 2
			for end < len(line) && (line[end] >= '0' && line[end] <= '9' || line[end] == ';') {
				end++
			}
			if end < len(line) && line[end] == 'm' {
				if out == nil {
					out = append(make([]byte, 0, len(line)), line[:i]...)
				}
				i = end
				continue
			}
		}
		if out != nil {
			out = append(out, line[i])
		}
	}
	if out == nil {
		return line
	}
	return out
}
