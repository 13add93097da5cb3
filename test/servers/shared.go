package servers

import (
	"errors"
	"fmt"
	"os"
	"sync"
)

// running holds the servers of this test binary. It is the one piece of
// package-level state here, because its life is the binary's: tests of
// different files share a server without passing anything between them.
var running registry

// cluster is one or more processes that are launched and discarded together.
type cluster interface {
	processes() []*process
	// ready waits until the whole answers, once its processes do.
	ready() error
}

// registry knows the run directories, the shared servers by key, and all servers.
type registry struct {
	mu     sync.Mutex
	runs   map[string]*runDir // by the directory they are in
	shared map[string]*launched
	all    map[cluster]string // to its directory
}

// launched is a shared server, or the error of the one attempt to launch it.
type launched struct {
	mu      sync.Mutex
	done    bool
	cluster cluster
	err     error
}

// get returns a running server: a fresh one when the options say own, else the
// shared one, which is brought back when an earlier test left it down.
func (r *registry) get(k kind, o options, launch func(dir string) (cluster, error)) (cluster, error) {
	if o.own {
		return r.launch(k, o, launch)
	}
	key := fmt.Sprintf("%s %+v", k, o)
	r.mu.Lock()
	if r.shared == nil {
		r.shared = make(map[string]*launched)
	}
	l := r.shared[key]
	if l == nil {
		l = &launched{}
		r.shared[key] = l
	}
	r.mu.Unlock()

	l.mu.Lock() // of this server alone: others start meanwhile
	defer l.mu.Unlock()
	if !l.done {
		l.done = true
		l.cluster, l.err = r.launch(k, o, launch)
		return l.cluster, l.err
	}
	if l.err != nil {
		return nil, l.err
	}
	return l.cluster, restart(l.cluster)
}

// restart starts what is down of a cluster and waits until the whole is ready.
func restart(c cluster) error {
	down := false
	for _, p := range c.processes() {
		if !p.running() {
			down = true
			if err := p.start(); err != nil {
				return err
			}
		}
	}
	if !down {
		return nil
	}
	return c.ready()
}

func (r *registry) launch(k kind, o options, launch func(dir string) (cluster, error)) (cluster, error) {
	dir, err := r.newDir(k, o.durable)
	if err != nil {
		return nil, err
	}
	c, err := launch(dir)
	if err != nil {
		return nil, errors.Join(err, os.RemoveAll(dir))
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.all == nil {
		r.all = make(map[cluster]string)
	}
	r.all[c] = dir
	return c, nil
}

// newDir makes a directory for a server: in memory where that is possible and
// nothing durable is asked for, as making and dropping databases is several
// times faster there, else on disk.
func (r *registry) newDir(k kind, durable bool) (string, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	temp := memoryDir()
	if durable || temp == "" {
		temp = tempDir()
	}
	run := r.runs[temp]
	if run == nil {
		var err error
		if run, err = newRunDir(temp); err != nil {
			return "", err
		}
		if r.runs == nil {
			r.runs = make(map[string]*runDir)
		}
		r.runs[temp] = run
	}
	dir, err := os.MkdirTemp(run.path, k.String()+"-")
	if err != nil {
		return "", fmt.Errorf("servers: no directory for %s: %w", k, err)
	}
	// A server that runs under another account must get through to its data.
	return dir, os.Chmod(dir, 0o755)
}

// discard ends a server for good and removes its data and port reservations.
func (r *registry) discard(c cluster) {
	r.mu.Lock()
	dir, ok := r.all[c]
	delete(r.all, c)
	r.mu.Unlock()
	if ok {
		discardProcesses(c.processes()...)
		_ = os.RemoveAll(dir) // what stays is removed with the run directory
	}
}

// discardProcesses ends processes whose data nobody wants any more.
func discardProcesses(ps ...*process) {
	var wg sync.WaitGroup
	for _, p := range ps {
		wg.Go(p.discard)
	}
	wg.Wait()
}

func (r *registry) close() {
	r.mu.Lock()
	all, runs := r.all, r.runs
	r.all, r.runs, r.shared = nil, nil, nil
	r.mu.Unlock()
	var ps []*process
	for c := range all {
		ps = append(ps, c.processes()...)
	}
	discardProcesses(ps...)
	for _, run := range runs {
		run.remove()
	}
}
