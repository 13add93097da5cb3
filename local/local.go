// Package local is the self-hosted services of one machine in one background process, so that `dapr run` works where nothing is
// installed: a NATS server with JetStream, which is the default broker, placement and the scheduler, which actors, workflows and jobs stand on,
// and, once an app with mTLS wanted it, Sentry, the certificate authority. All listen on loopback only, and what NATS and the scheduler have
// acknowledged is on disk.
//
// [Run] is the process. [Ensure] and [EnsureSentry] find the one that runs or start one; [Stop] ends it; [Find] and [Status] tell about it. All
// of them meet in a directory, of which there is one for each runtime directory: a lock that the process holds while it lives
// says that there is one, so nothing stale is ever believed.
package local

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	"outrigger.dev/imagepages"
)

// Options are what the process runs with.
type Options struct {
	// Dir is the directory of the process: its data, locks, log and state. It is made when it is not there.
	Dir string
	// Port is the port of NATS; 0 is the remembered one, or the first choice (see [ReservePort]).
	Port int
	// Version is that of the program, for [Find].
	Version string
	// Log gets the messages of the services.
	Log *slog.Logger
	// Ready, when not nil, is called once the services can be used.
	Ready func(Process)
}

// Process describes the running process.
type Process struct {
	PID     int    `json:"pid"`
	Version string `json:"version"`
	// Port is that of NATS.
	Port    int       `json:"natsPort"`
	Started time.Time `json:"started"`
	// Ready is false while the services start.
	Ready bool `json:"ready"`
	// Placement and Scheduler are nil while they start for the first time, and in processes of versions that did not have them.
	Placement *Service `json:"placement,omitempty"`
	Scheduler *Service `json:"scheduler,omitempty"`
	// Sentry is nil as long as nobody wanted it.
	Sentry *Sentry `json:"sentry,omitempty"`
}

// NATSURL is where NATS listens.
func (p Process) NATSURL() string { return NATSURL(p.Port) }

// NATSURL is the address of NATS on a port.
func NATSURL(port int) string { return "nats://" + loopback(port) }

func loopback(port int) string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(port)) }

// The files of a directory. NATS keeps its data in jetstream.
func runningLock(dir string) string  { return filepath.Join(dir, "running.lock") }
func startingLock(dir string) string { return filepath.Join(dir, "starting.lock") }
func processFile(dir string) string  { return filepath.Join(dir, "process.json") }
func portsFile(dir string) string    { return filepath.Join(dir, "ports.json") }

// LogFile is where a process in the background writes its log.
func LogFile(dir string) string { return filepath.Join(dir, "local.log") }

// DataDir is where NATS keeps streams.
func DataDir(dir string) string { return filepath.Join(dir, "jetstream") }

// ErrRunning says that a process runs already.
var ErrRunning = errors.New("the local services run already")

// lockPatience is how long Run tries to get its lock, which others hold for moments to find out whether there is a process.
const lockPatience = 2 * time.Second

// Run runs the services until ctx ends or they fail. It returns ErrRunning when another process does so.
func Run(ctx context.Context, o Options) error {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if err := makeDir(o.Dir); err != nil {
		return err
	}
	waiting, cancel := context.WithTimeout(ctx, lockPatience)
	lock, err := acquire(waiting, runningLock(o.Dir))
	cancel()
	if errors.Is(err, errLocked) {
		return fmt.Errorf("%w with the directory %s", ErrRunning, o.Dir)
	}
	if err != nil {
		return err
	}
	defer lock.release()
	_ = os.Remove(processFile(o.Dir)) // of one that was killed
	defer func() { _ = os.Remove(processFile(o.Dir)) }()
	port, err := reservePort(o.Dir, o.Port)
	if err != nil {
		return err
	}
	told := &state{dir: o.Dir}
	err = told.change(func(p *Process) {
		*p = Process{PID: os.Getpid(), Version: o.Version, Port: port, Started: time.Now().UTC().Truncate(time.Second)}
	})
	if err != nil {
		return err
	}
	if err := checkFree(port, o.Dir); err != nil {
		return err
	}
	broker, err := startNATS(ctx, o.Dir, port, o.Log)
	if err != nil {
		return err
	}
	defer broker.stop()
	release(port)
	identities := newTrusted()
	keeper, err := startKeeper(ctx, o.Dir, told, identities, o.Log)
	if err != nil {
		return err
	}
	defer keeper.stop()
	services, err := startControlPlane(ctx, o.Dir, told, identities, o.Log)
	if err != nil {
		return err
	}
	defer services.stop()
	if err := told.change(func(p *Process) { p.Ready = true }); err != nil {
		return err
	}
	p := told.present()
	o.Log.Info("the local services are ready", "nats", p.NATSURL(), "data", DataDir(o.Dir), "version", o.Version)
	if o.Ready != nil {
		o.Ready(p)
	}
	defer imagepages.ReleaseLater(o.Log)()
	select {
	case <-ctx.Done():
		o.Log.Info("the local services end")
		return nil
	case err := <-broker.failed:
		return fmt.Errorf("NATS ended: %w", err)
	}
}

// state is what the process tells about itself. It is safe for concurrent use.
type state struct {
	dir     string
	mu      sync.Mutex
	process Process
}

// change changes what is told.
func (s *state) change(by func(*Process)) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	by(&s.process)
	return writeJSON(processFile(s.dir), s.process)
}

func (s *state) present() Process {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.process
}

// Find describes the process of a directory, nil when there is none. Only what the process itself wrote since it has the lock is
// believed.
func Find(dir string) (*Process, error) {
	held, err := isHeld(runningLock(dir))
	if err != nil || !held {
		return nil, err
	}
	p := &Process{}
	err = readJSON(processFile(dir), p)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	return p, nil // without a file it has just begun to start
}

// makeDir makes the directory of the process, for nobody but its user.
func makeDir(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return unusable("the directory "+dir+" of the local services cannot be made", err)
	}
	return nil
}

// unusable says what to do about files that cannot be made or written.
func unusable(what string, err error) error {
	return fmt.Errorf("%s: %w; make it writable for this user, or name another place with --runtime-path", what, err)
}

// writeJSON replaces a file at once.
func writeJSON(path string, value any) error {
	text, err := json.MarshalIndent(value, "", "  ")
	if err != nil {
		return err
	}
	aside, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+"-")
	if err != nil {
		return unusable(path+" cannot be written", err)
	}
	_, err = aside.Write(append(text, '\n'))
	if err = errors.Join(err, aside.Sync(), aside.Close()); err == nil {
		err = os.Rename(aside.Name(), path)
	}
	if err != nil {
		_ = os.Remove(aside.Name())
		return unusable(path+" cannot be written", err)
	}
	return nil
}

func readJSON(path string, into any) error {
	text, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(text, into); err != nil {
		return fmt.Errorf("%s cannot be read: %w; remove the file", path, err)
	}
	return nil
}
