package cli

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// How long programs may take to end (Dapr CLI, run: lifecycle). The sidecar's bound is above its own default of 5 seconds.
const (
	appGrace     = 5 * time.Second
	sidecarGrace = 10 * time.Second
	groupPoll    = 20 * time.Millisecond
	// outputGrace is how long output is still read after a program's end when its children keep the pipe open.
	outputGrace = time.Second
)

// process is a started program in a process group of its own.
type process struct {
	cmd *exec.Cmd
	// done is closed when it has ended; err is its outcome then.
	done chan struct{}
	err  error
}

// start starts a program. On Linux it gets SIGTERM when this process dies.
func start(cmd *exec.Cmd) (*process, error) {
	ownGroup(cmd)
	cmd.WaitDelay = outputGrace
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	p := &process{cmd: cmd, done: make(chan struct{})}
	go func() {
		p.err = cmd.Wait()
		if errors.Is(p.err, exec.ErrWaitDelay) {
			p.err = nil
		}
		close(p.done)
	}()
	return p, nil
}

func (p *process) pid() int { return p.cmd.Process.Pid }

// ended tells whether the program has ended.
func (p *process) ended() bool {
	select {
	case <-p.done:
		return true
	default:
		return false
	}
}

// stop asks the process group to end, and kills what is left of it after the grace period or when hurry is closed. It returns when
// the program has ended.
func (p *process) stop(grace time.Duration, hurry <-chan struct{}) {
	p.terminate()
	deadline := time.NewTimer(grace)
	defer deadline.Stop()
	poll := time.NewTicker(groupPoll)
	defer poll.Stop()
	for {
		select {
		case <-deadline.C:
			p.kill()
			<-p.done
			return
		case <-hurry:
			p.kill()
			<-p.done
			return
		case <-poll.C:
			if p.ended() && !p.groupAlive() {
				return
			}
		}
	}
}

// lookCommand finds the program of an app as a shell in its directory and environment would.
func lookCommand(name, dir string, env []string) (string, error) {
	if filepath.IsAbs(name) {
		return name, executable(name)
	}
	if strings.ContainsRune(name, '/') || strings.ContainsRune(name, filepath.Separator) {
		path, err := absolute(dir, name)
		if err != nil {
			return "", err
		}
		return path, executable(path)
	}
	path := os.Getenv("PATH")
	for _, e := range env {
		if value, ok := strings.CutPrefix(e, "PATH="); ok {
			path = value
		}
	}
	if path == os.Getenv("PATH") {
		return exec.LookPath(name)
	}
	for _, d := range filepath.SplitList(path) {
		if !filepath.IsAbs(d) {
			continue
		}
		if candidate := filepath.Join(d, name); executable(candidate) == nil {
			return candidate, nil
		}
	}
	return "", &exec.Error{Name: name, Err: exec.ErrNotFound}
}

// executable tells why a file cannot be run, if it cannot.
func executable(path string) error {
	_, err := exec.LookPath(path)
	return err
}
