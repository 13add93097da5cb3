package chaos

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"outrigger.dev/test/servers"
)

// limit bounds every wait for something that is expected to happen.
const limit = 60 * time.Second

// programs is the folder of the programs under test; TestMain fills it once, before the tests run.
var programs string

// builds compiles the programs.
func builds(dir string) error {
	build := exec.Command("go", "build", "-o", dir+string(filepath.Separator),
		"outrigger.dev/cmd/daprd", "outrigger.dev/cmd/placement", "outrigger.dev/cmd/scheduler", "outrigger.dev/test/chaos/app")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		return fmt.Errorf("the programs cannot be built: %w\n%s", err, out)
	}
	return nil
}

// process is a program that is started again and again with the same arguments.
type process struct {
	t       *testing.T
	name    string
	program string
	args    []string
	dir     string
	log     string // the path of its log

	mu     sync.Mutex
	cmd    *exec.Cmd
	exited chan struct{}
}

func newProcess(t *testing.T, dir, name, program string, args ...string) *process {
	p := &process{t: t, name: name, program: program, args: args, dir: dir, log: filepath.Join(dir, name+".log")}
	t.Cleanup(func() {
		p.kill()
		if t.Failed() {
			t.Logf("the end of the log of %s:\n%s", p.name, p.tail())
		}
	})
	return p
}

// start starts it. It must not run.
func (p *process) start() {
	log, err := os.OpenFile(p.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		p.t.Error(err)
		return
	}
	defer log.Close()
	cmd := exec.Command(filepath.Join(programs, p.program), p.args...)
	cmd.Dir, cmd.Stdout, cmd.Stderr = p.dir, log, log
	cmd.SysProcAttr = attributes()
	cmd.Env = environment()
	if err := servers.ForkOnThread(cmd.Start); err != nil {
		p.t.Errorf("%s does not start: %v", p.name, err)
		return
	}
	exited := make(chan struct{})
	go func() { // kill and terminate wait for it
		_ = cmd.Wait()
		close(exited)
	}()
	p.mu.Lock()
	defer p.mu.Unlock()
	p.cmd, p.exited = cmd, exited
}

// environment is ours without what would change a sidecar.
func environment() (kept []string) {
	for _, e := range os.Environ() {
		name, _, _ := strings.Cut(e, "=")
		if !strings.HasPrefix(name, "DAPR_") && !strings.HasPrefix(name, "APP_") && name != "NAMESPACE" {
			kept = append(kept, e)
		}
	}
	return append(kept, "DAPR_HOST_IP=127.0.0.1")
}

// pid is the number of the running process, 0 for none.
func (p *process) pid() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.cmd == nil {
		return 0
	}
	return p.cmd.Process.Pid
}

// signal sends a signal without waiting.
func (p *process) signal(s syscall.Signal) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.cmd != nil {
		_ = p.cmd.Process.Signal(s) // it may have ended
	}
}

// kill ends it as a crash does, and waits until it is gone.
func (p *process) kill() {
	p.signal(syscall.SIGKILL)
	p.gone(limit)
}

// terminate asks it to end, and expects that it does so cleanly.
func (p *process) terminate() error {
	p.signal(syscall.SIGTERM)
	return p.terminated()
}

// terminated waits for the end after SIGTERM.
func (p *process) terminated() error {
	if !p.gone(limit) {
		return fmt.Errorf("%s did not end within %s after SIGTERM", p.name, limit)
	}
	if code := p.cmd.ProcessState.ExitCode(); code != 0 {
		return fmt.Errorf("%s ended with %s after SIGTERM", p.name, p.cmd.ProcessState)
	}
	return nil
}

// ended says how it ended by itself; nil while it runs.
func (p *process) ended() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.cmd == nil {
		return errors.New("it was not started")
	}
	select {
	case <-p.exited:
		return fmt.Errorf("%s ended with %s", p.name, p.cmd.ProcessState)
	default:
		return nil
	}
}

func (p *process) gone(limit time.Duration) bool {
	p.mu.Lock()
	exited := p.exited
	p.mu.Unlock()
	if exited == nil {
		return true
	}
	select {
	case <-exited:
		return true
	case <-time.After(limit):
		return false
	}
}

// tail is the end of its log.
func (p *process) tail() string {
	text, err := os.ReadFile(p.log)
	if err != nil {
		return err.Error()
	}
	const most = 6 << 10
	return string(text[max(0, len(text)-most):])
}
