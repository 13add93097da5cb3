package local

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"path/filepath"
	"runtime"
	"sync"
	"time"

	"outrigger.dev/controlplane/placement"
	"outrigger.dev/controlplane/scheduler"
	"outrigger.dev/controlplane/scheduler/etcd"
)

// Service is the state of placement or of the scheduler in the process.
type Service struct {
	// Port is where it listens, on loopback; 0 before one was found.
	Port int `json:"port,omitempty"`
	// EtcdPort is where the scheduler's store listens, which tools read; 0 for placement.
	EtcdPort int `json:"etcdPort,omitempty"`
	// Ready tells that it serves.
	Ready bool `json:"ready"`
	// Error is why it does not; it is tried again.
	Error string `json:"error,omitempty"`
}

// Address is where the service listens.
func (s *Service) Address() string { return loopback(s.Port) }

// Times of placement and the scheduler.
const (
	// retryService is how soon a service that failed is tried again.
	retryService = 30 * time.Second
	// serviceTimeout bounds the wait for their first start. The process is ready then without them: the broker has nothing to do with them.
	serviceTimeout = 30 * time.Second
)

// firstChoice are the ports that sidecars expect services at (Dapr CLI, init); where they are taken, others serve as well, for `dapr run` tells
// the sidecars.
func firstChoice(unix, windows int) int {
	if runtime.GOOS == "windows" {
		return windows
	}
	return unix
}

// SchedulerDir is where the scheduler keeps jobs and reminders.
func SchedulerDir(dir string) string { return filepath.Join(dir, "scheduler") }

// runner runs one service for as long as the process lives.
type runner struct {
	name string
	// run runs the service on the ports that it reserves, and calls started with its state once it serves.
	run func(ctx context.Context, started func(Service)) error
	// field is where the process tells about it.
	field func(*Process) **Service
	told  *state
	log   *slog.Logger
	// tried is closed after the first attempt: it serves, or has failed.
	tried chan struct{}
	once  sync.Once
}

// follow keeps the service running until ctx ends.
func (r *runner) follow(ctx context.Context) {
	for {
		err := r.run(ctx, func(s Service) {
			s.Ready = true
			r.tell(s)
			r.log.Info("the local "+r.name+" is ready", "address", s.Address())
			r.once.Do(func() { close(r.tried) })
		})
		if ctx.Err() != nil {
			return
		}
		if err == nil {
			err = errors.New("it ended")
		}
		r.log.Error("the local "+r.name+" failed", "error", err)
		r.tell(Service{Error: err.Error()})
		r.once.Do(func() { close(r.tried) })
		timer := time.NewTimer(retryService)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return
		}
	}
}

func (r *runner) tell(s Service) {
	if err := r.told.change(func(p *Process) { *r.field(p) = &s }); err != nil {
		r.log.Error("the state of the local "+r.name+" cannot be told", "error", err)
	}
}

// controlPlane is placement and the scheduler of the process.
type controlPlane struct {
	cancel  context.CancelFunc
	running sync.WaitGroup
}

// startControlPlane starts both, and waits until they serve or have failed.
func startControlPlane(ctx context.Context, dir string, told *state, identities *trusted, log *slog.Logger) (*controlPlane, error) {
	ctx, cancel := context.WithCancel(ctx)
	c := &controlPlane{cancel: cancel}
	runners := []*runner{
		{name: "placement", field: func(p *Process) **Service { return &p.Placement }, run: func(ctx context.Context, started func(Service)) error {
			return runPlacement(ctx, dir, identities, log.With("service", "placement"), started)
		}},
		{name: "scheduler", field: func(p *Process) **Service { return &p.Scheduler }, run: func(ctx context.Context, started func(Service)) error {
			return runScheduler(ctx, dir, identities, log.With("service", "scheduler"), started)
		}},
	}
	for _, r := range runners {
		r.told, r.log, r.tried = told, log, make(chan struct{})
		c.running.Go(func() { r.follow(ctx) })
	}
	timer := time.NewTimer(serviceTimeout)
	defer timer.Stop()
	for _, r := range runners {
		select {
		case <-r.tried:
		case <-timer.C:
			log.Warn(fmt.Sprintf("the local %s has not started within %s; it is waited for no longer", r.name, serviceTimeout))
			return c, nil
		case <-ctx.Done():
			c.stop()
			return nil, ctx.Err()
		}
	}
	return c, nil
}

// runPlacement runs the placement service.
func runPlacement(ctx context.Context, dir string, identities *trusted, log *slog.Logger, started func(Service)) error {
	port, err := reserveOther(dir, firstChoice(50005, 6050), func(p *ports) *int { return &p.Placement })
	if err != nil {
		return err
	}
	return placement.Run(ctx, placement.Options{
		Listen: placement.Address{Host: "127.0.0.1", Port: port}, Observed: placement.Observed{Healthz: placement.Address{Host: "127.0.0.1"}}, State: true,
		Security: placement.EitherWay(&lateIdentity{appID: placement.AppID, trusted: identities, log: log}, id(placement.AppID)), Log: log,
		Started: func(placement.Addresses) {
			release(port)
			started(Service{Port: port})
		},
	})
}

// runScheduler runs the scheduler service with its store.
func runScheduler(ctx context.Context, dir string, identities *trusted, log *slog.Logger, started func(Service)) error {
	port, err := reserveOther(dir, firstChoice(50006, 6060), func(p *ports) *int { return &p.Scheduler })
	if err != nil {
		return err
	}
	store, err := reserveOther(dir, 2379, func(p *ports) *int { return &p.Etcd })
	if err != nil {
		return err
	}
	peers, err := net.Listen("tcp", loopback(0)) // nobody comes there: the store is alone
	if err != nil {
		return err
	}
	alone := peers.Addr().String()
	if err := peers.Close(); err != nil {
		return err
	}
	return scheduler.Run(ctx, scheduler.Options{
		Listen: scheduler.Address{Host: "127.0.0.1", Port: port}, Observed: scheduler.Observed{Healthz: scheduler.Address{Host: "127.0.0.1"}},
		Embedded: &etcd.Embedded{
			DataDir: SchedulerDir(dir), Namespace: "default", InitialCluster: scheduler.DefaultID + "=http://" + alone, ClientListenAddress: "127.0.0.1", ClientPort: store,
			InitialElectionTickAdvance: true,
		},
		Security: scheduler.EitherWay(&lateIdentity{appID: scheduler.AppID, trusted: identities, log: log}, id(scheduler.AppID)), Log: log,
		Started: func(scheduler.Addresses) {
			release(port)
			release(store)
			started(Service{Port: port, EtcdPort: store})
		},
	})
}

// stop ends both and returns when they are gone.
func (c *controlPlane) stop() {
	c.cancel()
	c.running.Wait()
}
