package servers

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"time"
)

// process is one server program that can be stopped, killed and started again
// on the same port with the same data. Its fields are set before the first start.
type process struct {
	name    string   // of the product, for messages
	command string   // path of the program
	args    []string // its arguments
	env     []string // added to serverEnv
	dir     string   // where it runs and logs
	port    int
	held    []*portLock // kept while the process may come back
	account *account    // to run under; nil means our own

	stopSignal    syscall.Signal // asks for an orderly end
	discardSignal syscall.Signal // ends it at once, leaving nothing outside its directory

	// ping returns nil when the server answers a request.
	ping func(context.Context) error

	op   sync.Mutex // held by start, stop and kill for their whole length
	mu   sync.Mutex // guards what follows
	live *child
}

// child is one life of a process.
type child struct {
	pid    int
	exited chan struct{} // closed once state is set
	state  string
}

func (p *process) current() *child {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.live
}

func (p *process) running() bool {
	c := p.current()
	if c == nil {
		return false
	}
	select {
	case <-c.exited:
		return false
	default:
		return true
	}
}

// start runs the program unless it runs, and returns when it answers.
func (p *process) start() error {
	p.op.Lock()
	defer p.op.Unlock()
	if p.running() {
		return nil
	}
	c, err := p.spawn()
	if err != nil {
		return err
	}
	err = await(startLimit, func(ctx context.Context) error {
		select {
		case <-c.exited:
			return final{fmt.Errorf("it ended: %s", c.state)}
		default:
			return p.ping(ctx)
		}
	})
	if err != nil {
		err = p.failure("did not start", err)
		return errors.Join(err, p.end(c))
	}
	return nil
}

func (p *process) spawn() (*child, error) {
	log, err := os.OpenFile(p.logFile(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return nil, fmt.Errorf("servers: log of %s: %w", p.name, err)
	}
	defer log.Close()
	cmd := exec.Command(p.command, p.args...)
	cmd.Dir = p.dir
	cmd.Stdout, cmd.Stderr = log, log
	cmd.Env = append(serverEnv(), p.env...)
	cmd.SysProcAttr = processAttributes(p.account, p.discardSignal)
	if err := ForkOnThread(cmd.Start); err != nil {
		return nil, fmt.Errorf("servers: cannot run %s: %w", p.command, err)
	}
	c := &child{pid: cmd.Process.Pid, exited: make(chan struct{})}
	go func() { // ends with the process, which stop, kill and discard wait for
		_ = cmd.Wait()
		c.state = cmd.ProcessState.String()
		close(c.exited)
	}()
	p.mu.Lock()
	p.live = c
	p.mu.Unlock()
	return c, nil
}

// stop asks the process to end and waits for it.
func (p *process) stop() error {
	p.op.Lock()
	defer p.op.Unlock()
	if !p.running() {
		return nil
	}
	c := p.current()
	if err := signal(c.pid, p.stopSignal); err != nil {
		return p.failure("did not take the signal to stop", err)
	}
	select {
	case <-c.exited:
		return nil
	case <-time.After(stopLimit):
		err := p.failure("did not stop", fmt.Errorf("still there %s after %s", stopLimit, p.stopSignal))
		return errors.Join(err, p.end(c))
	}
}

// kill ends the process and its children as a crash would.
func (p *process) kill() error {
	p.op.Lock()
	defer p.op.Unlock()
	if !p.running() {
		return nil
	}
	return p.end(p.current())
}

// end kills a process with all its descendants and waits until they are gone:
// a PostgreSQL backend that outlives its postmaster keeps the next one from starting.
func (p *process) end(c *child) error {
	select {
	case <-c.exited:
		return nil
	default:
	}
	// Stopped first, so that it has no further children while they are listed.
	_ = signal(c.pid, sigStop)
	children := descendants(c.pid)
	for _, pid := range append([]int{c.pid}, children...) {
		_ = signalGroup(pid, syscall.SIGKILL)
		_ = signal(pid, syscall.SIGKILL)
	}
	return await(stopLimit, func(context.Context) error {
		select {
		case <-c.exited:
		default:
			return p.failure("does not die", fmt.Errorf("process %d is still there after SIGKILL", c.pid))
		}
		for _, pid := range children {
			if alive(pid) {
				return p.failure("does not die", fmt.Errorf("its child process %d is still there after SIGKILL", pid))
			}
		}
		return nil
	})
}

// discard ends the process quickly and gives its ports back. It is not started again.
func (p *process) discard() {
	p.op.Lock()
	defer p.op.Unlock()
	if c := p.current(); c != nil && p.running() {
		if p.discardSignal != syscall.SIGKILL {
			_ = signal(c.pid, p.discardSignal)
			select {
			case <-c.exited:
			case <-time.After(5 * time.Second):
			}
		}
		_ = p.end(c)
	}
	for _, port := range p.held {
		port.release()
	}
	p.held = nil
}

func (p *process) logFile() string { return filepath.Join(p.dir, "server.log") }

// logTail is the end of the server's log.
func (p *process) logTail() string { return tail(p.logFile()) }

// failure is an error that names the server and shows the end of its log.
func (p *process) failure(what string, err error) error {
	return fmt.Errorf("servers: %s on %s %s: %w\n--- end of %s ---\n%s", p.name, loopback(p.port), what, err, p.logFile(), p.logTail())
}

// tail is at most the last 4 KiB of a file.
func tail(path string) string {
	f, err := os.Open(path)
	if err != nil {
		return err.Error()
	}
	defer f.Close()
	const most = 4 << 10
	if info, err := f.Stat(); err == nil && info.Size() > most {
		_, _ = f.Seek(-most, io.SeekEnd)
	}
	text, _ := io.ReadAll(io.LimitReader(f, most))
	return strings.TrimSpace(string(text))
}

// final is an error that makes await give up at once.
type final struct{ error }

// await tries a condition until it holds, fails for good, or the limit has passed.
// One attempt is given two seconds.
func await(limit time.Duration, condition func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		try, done := context.WithTimeout(ctx, 2*time.Second)
		err := condition(try)
		done()
		var f final
		switch {
		case err == nil:
			return nil
		case errors.As(err, &f):
			return f.error
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("not within %s: %w", limit, err)
		case <-tick.C:
		}
	}
}

// serverEnv is the environment of a server: ours without what redirects it to
// other data or another language.
func serverEnv() []string {
	env := make([]string, 0, len(os.Environ())+1)
	for _, kv := range os.Environ() {
		name, _, _ := strings.Cut(kv, "=")
		if strings.HasPrefix(name, "PG") || strings.HasPrefix(name, "MYSQL") || strings.HasPrefix(name, "LC_") ||
			name == "LANG" || name == "LANGUAGE" {
			continue
		}
		env = append(env, kv)
	}
	return append(env, "LC_ALL=C")
}

// runTool runs a program of a server to its end, with its output in the error.
func runTool(as *account, dir, command string, args ...string) error {
	ctx, cancel := context.WithTimeout(context.Background(), 2*startLimit)
	defer cancel()
	var out strings.Builder
	cmd := exec.CommandContext(ctx, command, args...)
	cmd.Dir = dir
	cmd.Env = serverEnv()
	cmd.Stdout, cmd.Stderr = &out, &out
	cmd.WaitDelay = time.Second
	cmd.SysProcAttr = processAttributes(as, syscall.SIGKILL)
	if err := ForkOnThread(cmd.Start); err != nil {
		return fmt.Errorf("servers: cannot run %s: %w", command, err)
	}
	if err := cmd.Wait(); err != nil {
		return fmt.Errorf("servers: %s %s: %w\n%s", command, strings.Join(args, " "), err, out.String())
	}
	return nil
}

// forks is where ForkOnThread's work is done. Linux sends the parent-death
// signal when the thread that forked ends, not the process, so all children
// are forked by one thread that lives as long as the test binary.
var forks = sync.OnceValue(func() chan<- func() {
	work := make(chan func())
	go func() {
		runtime.LockOSThread()
		for f := range work {
			f()
		}
	}()
	return work
})

// ForkOnThread starts a child process, such as by exec.Cmd.Start, so that the
// system ends it with the test binary if it was asked to, and not earlier.
func ForkOnThread(start func() error) error {
	done := make(chan error, 1)
	forks() <- func() { done <- start() }
	return <-done
}
