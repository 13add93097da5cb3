package local

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strings"
	"time"
)

// Times of starting and stopping.
const (
	// startTimeout bounds [Ensure], the wait for another command that starts the process included.
	startTimeout = 90 * time.Second
	stopTimeout  = 20 * time.Second
	killTimeout  = 5 * time.Second
	greetTimeout = 2 * time.Second
	statePoll    = 20 * time.Millisecond
	// largestLog is the size from which on a log is put aside when a process starts.
	largestLog = 8 << 20
)

// Launch says how to start the process in the background.
type Launch struct {
	// Dir is the directory of the process, see [Options].
	Dir string
	// Port is that of NATS; 0 for the remembered one.
	Port int
	// Command is the program with its arguments. It calls [Run] with the same directory and port, and [Report] at its end.
	Command []string
}

// Ensure returns the process of the directory when its services can be used: the one that runs, of whatever version, or one that
// it starts. Of several callers at the same time one starts it, and started tells which.
func Ensure(ctx context.Context, l Launch) (p *Process, started bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	if p, err := Find(l.Dir); err == nil && p != nil && p.Ready && answers(ctx, p.Port) {
		return p, false, l.checkPort(p)
	}
	if err := makeDir(l.Dir); err != nil {
		return nil, false, err
	}
	lock, err := acquire(ctx, startingLock(l.Dir))
	if errors.Is(err, errLocked) {
		return nil, false, fmt.Errorf("another command has been starting the local services for a long time: %w; see %s, and end that command", err, LogFile(l.Dir))
	}
	if err != nil {
		return nil, false, err
	}
	defer lock.release()
	for {
		p, err := Find(l.Dir)
		switch {
		case err != nil:
			return nil, false, err
		case p == nil:
			p, err := l.start(ctx)
			return p, err == nil, err
		case p.Ready && answers(ctx, p.Port):
			return p, false, l.checkPort(p)
		}
		// Started by hand, or left by a command that was interrupted.
		if err := pause(ctx); err != nil {
			return nil, false, fmt.Errorf("the local services (process %d) have not become ready; see %s, or end them with `dapr local stop`", p.PID, LogFile(l.Dir))
		}
	}
}

// answers tells whether NATS greets on a port. In the moment in which a process starts, the state is still that of one before it
// that was killed.
func answers(ctx context.Context, port int) bool {
	ctx, cancel := context.WithTimeout(ctx, greetTimeout)
	defer cancel()
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", loopback(port))
	if err != nil {
		return false
	}
	defer conn.Close()
	_ = conn.SetReadDeadline(time.Now().Add(greetTimeout))
	greeting := make([]byte, len("INFO "))
	_, err = io.ReadFull(conn, greeting)
	return err == nil && string(greeting) == "INFO "
}

// checkPort tells whether a running process has the port that is wanted.
func (l Launch) checkPort(p *Process) error {
	if l.Port != 0 && l.Port != p.Port {
		return fmt.Errorf("the local broker runs on port %d (process %d), not on %d; stop it first with `dapr local stop`, or write %d into natsURL of the component file", p.Port, p.PID, l.Port, p.Port)
	}
	return nil
}

func pause(ctx context.Context) error {
	timer := time.NewTimer(statePoll)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// report is what the process says to the command that started it, as one line of JSON on its standard output.
type report struct {
	Process *Process `json:"process,omitempty"`
	Error   string   `json:"error,omitempty"`
}

// Report tells the command that started this process how that went: the process when it is ready, or the error. Nobody may listen any more.
func Report(out io.WriteCloser, p *Process, err error) {
	r := report{Process: p}
	if err != nil {
		r.Error = err.Error()
	}
	line, _ := json.Marshal(r) // of texts and numbers
	_, _ = out.Write(append(line, '\n'))
	_ = out.Close()
}

// start starts the process and waits until it reports.
func (l Launch) start(ctx context.Context) (*Process, error) {
	log, err := openLog(LogFile(l.Dir))
	if err != nil {
		return nil, err
	}
	defer log.Close()
	reading, writing, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer reading.Close()
	cmd := exec.Command(l.Command[0], l.Command[1:]...)
	cmd.Dir = l.Dir
	cmd.Stdout, cmd.Stderr = writing, log
	cmd.Env = environment(os.Environ())
	detach(cmd)
	err = cmd.Start()
	_ = writing.Close()
	if err != nil {
		return nil, fmt.Errorf("the local services cannot be started: %w", err)
	}
	heard := make(chan report, 1)
	go func() { // ends with the process's output, at the latest when it is killed below
		var r report
		line, err := bufio.NewReader(reading).ReadBytes('\n')
		if err == nil {
			err = json.Unmarshal(line, &r)
		}
		if err != nil {
			r = report{Error: "they ended without saying why"}
		}
		heard <- r
	}()
	select {
	case r := <-heard:
		if r.Error == "" && r.Process != nil {
			return r.Process, cmd.Process.Release()
		}
		defer context.AfterFunc(ctx, func() { _ = cmd.Process.Kill() })()
		_ = cmd.Wait() // it has nothing left to do, unless it is another program
		return nil, fmt.Errorf("the local services did not start: %s (log: %s)", r.Error, LogFile(l.Dir))
	case <-ctx.Done():
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		<-heard
		return nil, fmt.Errorf("the local services did not become ready: %w (log: %s)", ctx.Err(), LogFile(l.Dir))
	}
}

// openLog opens the log for adding to it; a large one is put aside.
func openLog(path string) (*os.File, error) {
	if info, err := os.Stat(path); err == nil && info.Size() > largestLog {
		_ = os.Rename(path, path+".old")
	}
	log, err := os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, unusable("the log of the local services cannot be written", err)
	}
	return log, nil
}

// environment makes the process a small one: collecting garbage early costs it little, since it idles most of the time.
func environment(env []string) []string {
	for _, e := range []string{"GOMEMLIMIT=256MiB", "GOGC=50"} {
		name, _, _ := strings.Cut(e, "=")
		if _, given := os.LookupEnv(name); !given {
			env = append(env, e)
		}
	}
	return env
}

// Stop ends the process of the directory, and returns it when it is gone: nil when there was none.
func Stop(ctx context.Context, dir string) (*Process, error) {
	ctx, cancel := context.WithTimeout(ctx, stopTimeout)
	defer cancel()
	p, err := Find(dir)
	for err == nil && p != nil && p.PID == 0 { // it is about to write its state
		if err = pause(ctx); err == nil {
			p, err = Find(dir)
		}
	}
	if err != nil || p == nil {
		return nil, err
	}
	if err := terminate(p.PID); err != nil {
		return nil, fmt.Errorf("the local services (process %d) cannot be ended: %w", p.PID, err)
	}
	if gone, err := awaitEnd(ctx, dir, p.PID); gone || err != nil {
		return p, err
	}
	_ = kill(p.PID)
	last, cancelLast := context.WithTimeout(context.WithoutCancel(ctx), killTimeout)
	defer cancelLast()
	gone, err := awaitEnd(last, dir, p.PID)
	if !gone && err == nil {
		err = fmt.Errorf("the local services (process %d) do not end", p.PID)
	}
	return p, err
}

// awaitEnd waits until the process is gone; another may have taken its place.
func awaitEnd(ctx context.Context, dir string, pid int) (bool, error) {
	for {
		p, err := Find(dir)
		if err != nil {
			return false, err
		}
		if p == nil || p.PID != pid && p.PID != 0 {
			return true, nil
		}
		if err := pause(ctx); err != nil {
			if errors.Is(err, context.Canceled) {
				return false, err
			}
			return false, nil
		}
	}
}
