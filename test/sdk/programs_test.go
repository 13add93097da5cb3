package sdk

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"outrigger.dev/test/servers"
)

// process is one of our programs at work.
type process struct {
	title, log string
	cmd        *exec.Cmd
	exited     chan struct{} // closed once cmd has ended
}

// start starts a program of ours with more environment. It is killed when the test ends, and its log shown if the test failed.
func start(t *testing.T, name, dir string, env []string, program string, args ...string) process {
	t.Helper()
	programs := compile(t)
	log, err := os.CreateTemp(dir, program+"-*.log")
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	p := process{title: name, log: log.Name(), cmd: exec.Command(filepath.Join(programs, program), args...), exited: make(chan struct{})}
	p.cmd.Dir = dir
	p.cmd.Env = append(cleanEnvironment(), env...)
	p.cmd.Stdout, p.cmd.Stderr = log, log
	if err := p.cmd.Start(); err != nil {
		t.Fatalf("cannot start %s: %v", name, err)
	}
	var waiting sync.WaitGroup
	waiting.Go(func() {
		_ = p.cmd.Wait() // ends looks at the state
		close(p.exited)
	})
	t.Cleanup(func() {
		_ = p.cmd.Process.Kill() // the error of one that has ended says just that
		waiting.Wait()
		if t.Failed() {
			t.Logf("log of %s, %s:\n%s", name, p.cmd.ProcessState, tail(p.log))
		}
	})
	return p
}

// tell tells the process to end, which it must not have done by itself.
func (p *process) tell(t *testing.T) {
	t.Helper()
	select {
	case <-p.exited:
		t.Errorf("%s ended by itself", p.title)
		return
	default:
	}
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Errorf("%s: %v", p.title, err)
	}
}

// ends waits until the process has ended, checks that it did so cleanly, and returns whether it ended at all.
func (p *process) ends(t *testing.T, limit time.Duration) bool {
	t.Helper()
	select {
	case <-p.exited:
		if code := p.cmd.ProcessState.ExitCode(); code != 0 {
			t.Errorf("%s ended with %s, want exit status 0", p.title, p.cmd.ProcessState)
		}
		return true
	case <-time.After(limit):
		return false
	}
}

// await waits until a path on a port of the process answers with a status.
func (p *process) await(t *testing.T, port int, path string, status int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), startLimit)
	defer cancel()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	url := fmt.Sprintf("http://127.0.0.1:%d%s", port, path)
	for {
		err := get(ctx, url, status)
		if err == nil {
			return
		}
		select {
		case <-p.exited:
			t.Fatalf("%s ended while starting: %s", p.title, p.cmd.ProcessState)
		case <-ctx.Done():
			t.Fatalf("%s is not ready after %s: %v", p.title, startLimit, err)
		case <-tick.C:
		}
	}
}

func get(ctx context.Context, url string, status int) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	res.Body.Close()
	if res.StatusCode != status {
		return errors.New(res.Status)
	}
	return nil
}

// tail is at most the last 16 KiB of a file.
func tail(path string) []byte {
	text, err := os.ReadFile(path)
	if err != nil {
		return []byte(err.Error())
	}
	return text[max(0, len(text)-16<<10):]
}

// build is our programs, compiled once for the tests of this package.
var build struct {
	sync.Mutex
	done   bool
	output []byte
	err    error
}

// compile returns the folder of the programs.
func compile(t *testing.T) string {
	t.Helper()
	build.Lock()
	defer build.Unlock()
	if !build.done {
		build.done = true
		cmd := newCommand(t, installLimit, suiteDir(t, filepath.Join("..", "..")), "go", "build", "-o", temp+string(filepath.Separator), "./cmd/daprd", "./cmd/placement", "./cmd/scheduler")
		build.output, build.err = cmd.CombinedOutput()
	}
	if build.err != nil {
		t.Fatalf("go build of daprd, placement and scheduler: %v\n%s", build.err, build.output)
	}
	return temp
}

// temp lives as long as the test binary.
var temp string

func TestMain(m *testing.M) {
	os.Exit(func() int {
		var err error
		if temp, err = os.MkdirTemp("", "outrigger-sdk-"); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		defer os.RemoveAll(temp)
		defer servers.StopAll()
		return m.Run()
	}())
}
