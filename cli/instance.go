package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// The times of starting (Dapr CLI, run: lifecycle).
const (
	readyPoll  = 20 * time.Millisecond
	readyBound = 60 * time.Second
	// firstLook is how long an app that its sidecar waits for is held back, so that a sidecar that cannot start at all is
	// noticed before the app runs.
	firstLook = 300 * time.Millisecond
)

var (
	errSidecarEnded = errors.New("the sidecar ended")
	errNotReady     = errors.New("the sidecar did not get ready in time")
)

// instance is a started sidecar and its app.
type instance struct {
	spec   *appSpec
	daprd  *process
	app    *process // nil without one
	out    *tap
	client *sidecarClient
}

// startSidecar starts the sidecar. Its output goes to out and errOut, which may be the same.
func startSidecar(spec *appSpec, daprd string, out, errOut io.Writer, env []string) (*instance, error) {
	i := &instance{spec: spec, out: newTap(out)}
	cmd := exec.Command(daprd, spec.args()...)
	cmd.Dir = spec.dir
	cmd.Env = env
	cmd.Stdout, cmd.Stderr = i.out, i.out
	if errOut != out {
		// Flag errors go to standard error, so the reason may be there.
		cmd.Stderr = &lines{emit: func(line []byte) {
			fmt.Fprintf(errOut, "%s\n", line)
			i.out.line(line)
		}}
	}
	var err error
	if i.daprd, err = start(cmd); err != nil {
		return nil, fmt.Errorf("the sidecar %s cannot be started: %w", daprd, err)
	}
	http, _ := spec.sockets()
	i.client = newSidecarClient(spec.httpPort, http)
	return i, nil
}

// await returns when both APIs accept connections. Otherwise the error is errSidecarEnded, errNotReady after the bound, or the
// context's.
func (i *instance) await(ctx context.Context, bound time.Duration) error {
	_, grpcSocket := i.spec.sockets()
	grpc := newSidecarClient(i.spec.grpcPort, grpcSocket)
	defer grpc.close()
	deadline := time.NewTimer(bound)
	defer deadline.Stop()
	poll := time.NewTicker(readyPoll)
	defer poll.Stop()
	for _, api := range []*sidecarClient{i.client, grpc} {
		for !api.reachable(ctx) {
			select {
			case <-poll.C:
			case <-i.daprd.done:
				return errSidecarEnded
			case <-deadline.C:
				return errNotReady
			case <-ctx.Done():
				return ctx.Err()
			}
		}
	}
	return nil
}

// failure says why the sidecar ended.
func (i *instance) failure() error {
	reason := i.out.reason()
	switch {
	case i.daprd.err == nil:
		return errors.New("the sidecar ended without an error")
	case reason == "":
		return i.daprd.err
	default:
		return fmt.Errorf("%s (%w)", reason, i.daprd.err)
	}
}

// startApp starts the app's command.
func (i *instance) startApp(stdin io.Reader, stdout, stderr io.Writer) error {
	name := i.spec.command[0]
	if strings.TrimSpace(name) == "" {
		return errors.New("exec: no command")
	}
	env := i.spec.appEnv()
	path, err := lookCommand(name, i.spec.dir, env)
	if err != nil {
		return &commandError{name: name, err: err}
	}
	cmd := exec.Command(path, i.spec.command[1:]...)
	cmd.Args[0] = name
	cmd.Dir = i.spec.dir
	cmd.Env = env
	cmd.Stdin, cmd.Stdout, cmd.Stderr = stdin, stdout, stderr
	i.app, err = start(cmd)
	return err
}

// commandError says that the command of an app is not there (Dapr CLI, run: lifecycle).
type commandError struct {
	name string
	err  error
}

func (e *commandError) Error() string {
	return "Failed to find command " + e.name + ": " + e.err.Error()
}

func (e *commandError) Unwrap() error { return e.err }

// attachment is an entry for the sidecar's metadata.
type attachment struct{ key, value string }

// attachments are the entries that list and stop rely on.
func (i *instance) attachments(more ...attachment) []attachment {
	entries := append([]attachment{{"cliPID", strconv.Itoa(os.Getpid())}}, more...)
	if i.app != nil {
		entries = append(entries, attachment{"appCommand", strings.Join(i.spec.command, " ")}, attachment{"appPID", strconv.Itoa(i.app.pid())})
	}
	return entries
}

// attach waits for the sidecar and puts the entries into its metadata; report hears what failed.
func (i *instance) attach(ctx context.Context, entries []attachment, report func(string)) {
	// A sidecar that is not ready in time may still be later, so the attempt is made all the same.
	if err := i.await(ctx, readyBound); errors.Is(err, errSidecarEnded) || ctx.Err() != nil {
		return
	}
	for _, e := range entries {
		if err := i.client.put(ctx, e.key, e.value); err != nil {
			if ctx.Err() != nil || i.daprd.ended() {
				return
			}
			report(fmt.Sprintf("Could not update sidecar metadata for %s: %s", e.key, err))
		}
	}
}

// stop ends the app and then the sidecar, so that the app can use it until its end. Closing hurry kills both.
func (i *instance) stop(hurry <-chan struct{}) {
	if i.app != nil {
		i.app.stop(appGrace, hurry)
	}
	i.daprd.stop(sidecarGrace, hurry)
	i.client.close()
	http, grpc := i.spec.sockets()
	for _, socket := range []string{http, grpc} {
		if socket != "" {
			_ = os.Remove(socket) // there only if the sidecar had to be killed
		}
	}
}

// interrupts turns signals into the end of a context, and a second signal into the closing of hurry.
type interrupts struct {
	ctx     context.Context
	hurry   chan struct{}
	signals chan os.Signal
	quit    chan struct{}
	ended   chan struct{}
}

func listenForInterrupts(parent context.Context) *interrupts {
	ctx, cancel := context.WithCancel(parent)
	s := &interrupts{ctx: ctx, hurry: make(chan struct{}), signals: make(chan os.Signal, 4), quit: make(chan struct{}), ended: make(chan struct{})}
	signal.Notify(s.signals, os.Interrupt, syscall.SIGTERM)
	go func() {
		defer close(s.ended)
		defer cancel()
		for first := true; ; first = false {
			select {
			case <-s.signals:
			case <-s.quit:
				return
			}
			if !first {
				close(s.hurry)
				return
			}
			cancel()
		}
	}()
	return s
}

func (s *interrupts) close() {
	signal.Stop(s.signals)
	close(s.quit)
	<-s.ended
}
