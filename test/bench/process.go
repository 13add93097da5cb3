package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// process is a child process.
type process struct {
	name   string
	cmd    *exec.Cmd
	log    string // the file with its output
	exited chan struct{}
	err    error // set once exited is closed
}

// startProcess starts a program with its output in a file. It is called on the
// main goroutine only (see init). prepare may be nil.
func startProcess(dir, name, path string, env, args []string, prepare func(*exec.Cmd) error) (*process, error) {
	log, err := os.CreateTemp(dir, name+"-*.log")
	if err != nil {
		return nil, err
	}
	defer log.Close()
	p := &process{name: name, cmd: exec.Command(path, args...), log: log.Name(), exited: make(chan struct{})}
	p.cmd.Env = env
	p.cmd.Stdout, p.cmd.Stderr = log, log
	p.cmd.SysProcAttr = processAttributes()
	if prepare != nil {
		if err := prepare(p.cmd); err != nil {
			return nil, err
		}
	}
	if err := p.cmd.Start(); err != nil {
		return nil, fmt.Errorf("cannot run %s: %w", path, err)
	}
	go func() { // ends with the process, which stop and kill wait for
		p.err = p.cmd.Wait()
		close(p.exited)
	}()
	return p, nil
}

func (p *process) pid() int { return p.cmd.Process.Pid }

// stop asks the process to end and kills it when it does not within 5 s.
func (p *process) stop() {
	_ = p.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-p.exited:
	case <-time.After(5 * time.Second):
		p.kill()
	}
}

func (p *process) kill() {
	_ = p.cmd.Process.Kill()
	<-p.exited
}

// failure is an error with the end of the process's output.
func (p *process) failure(err error) error {
	text, _ := os.ReadFile(p.log)
	text = text[max(0, len(text)-2000):]
	return fmt.Errorf("%s: %w\n%s", p.name, err, strings.TrimSpace(string(text)))
}

// await waits until the port replies to GET path with the status, asking again
// every pause, at most 30 s.
func (p *process) await(ctx context.Context, addr, path string, status int, pause time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	ask := request("GET", path, "", "")
	var conn *responses
	var last error
	for {
		var err error
		if conn == nil {
			conn, err = dialResponses(ctx, addr)
		}
		if err == nil {
			got := 0
			_ = conn.conn.SetDeadline(time.Now().Add(2 * time.Second))
			if got, _, err = conn.do(ask); err != nil {
				conn.conn.Close()
				conn = nil
			} else if got == status {
				return conn.conn.Close()
			} else {
				err = fmt.Errorf("GET %s replies %d instead of %d", path, got, status)
			}
		}
		last = err
		select {
		case <-p.exited:
			return p.failure(fmt.Errorf("it ended before it was ready: %w", errors.Join(p.err, last)))
		case <-ctx.Done():
			return p.failure(fmt.Errorf("not ready within 30 s: %w", last))
		case <-time.After(pause):
		}
	}
}

// freePorts finds ports that nothing listens on, below those that systems give
// to outgoing connections.
func freePorts(n int) (ports []int, err error) {
	var listeners []net.Listener
	defer func() {
		for _, l := range listeners {
			l.Close()
		}
	}()
	for range 1000 {
		port := 22000 + rand.IntN(10000)
		// On all addresses, as a sidecar's internal port is.
		l, err := net.Listen("tcp", ":"+strconv.Itoa(port))
		if err != nil {
			continue
		}
		listeners = append(listeners, l)
		if ports = append(ports, port); len(ports) == n {
			return ports, nil
		}
	}
	return nil, fmt.Errorf("no %d free ports between 22000 and 32000", n)
}

func loopback(port int) string { return "127.0.0.1:" + strconv.Itoa(port) }

// environment is ours without what would change a sidecar, and with what is added.
func environment(added ...string) []string {
	var env []string
	for _, kv := range os.Environ() {
		if !strings.HasPrefix(kv, "DAPR_") && !strings.HasPrefix(kv, "APP_API_TOKEN=") {
			env = append(env, kv)
		}
	}
	return append(env, added...)
}

// write makes a file in a directory that is made with it.
func write(text string, path ...string) error {
	file := filepath.Join(path...)
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		return err
	}
	return os.WriteFile(file, []byte(text), 0o600)
}
