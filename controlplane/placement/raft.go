package placement

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"syscall"
	"time"

	"github.com/hashicorp/raft"
)

// Timings of the election (Dapr API, placement: HA).
const (
	heartbeatTimeout = 2 * time.Second
	electionTimeout  = 2 * time.Second
	leaseTimeout     = 2 * time.Second
	commitTimeout    = 100 * time.Millisecond
)

// Looking up the own address (Dapr API, placement: HA).
const (
	resolveAttempts = 240
	resolvePause    = 500 * time.Millisecond
)

// elector elects the member of a cluster that leads. Raft is used for that alone: no data is replicated, and nothing is kept on disk.
type elector struct {
	o        Options
	server   *server
	raft     *raft.Raft
	leads    <-chan bool
	listener *peerListener
}

// newElector joins the election. The error names the address that cannot be listened on.
func newElector(ctx context.Context, o Options, s *server) (*elector, error) {
	self := o.self()
	raw, err := listenForPeers(ctx, self.Address)
	if err != nil {
		return nil, err
	}
	log := newRaftLog(o.Log)
	listener := newPeerListener(raw, self.Address, o.Security, o.Log)
	transport := raft.NewNetworkTransportWithConfig(&raft.NetworkTransportConfig{
		Stream: listener, MaxPool: len(o.Peers), Timeout: heartbeatTimeout, Logger: log,
	})
	config := raft.DefaultConfig()
	config.LocalID = raft.ServerID(o.ID)
	config.HeartbeatTimeout, config.ElectionTimeout = heartbeatTimeout, electionTimeout
	config.LeaderLeaseTimeout, config.CommitTimeout = leaseTimeout, commitTimeout
	config.Logger = log
	var members raft.Configuration
	for _, p := range o.Peers {
		members.Servers = append(members.Servers, raft.Server{ID: raft.ServerID(p.ID), Address: raft.ServerAddress(p.Address)})
	}
	store, snapshots := raft.NewInmemStore(), raft.NewInmemSnapshotStore()
	err = raft.BootstrapCluster(config, store, store, snapshots, transport, members)
	var node *raft.Raft
	if err == nil {
		node, err = raft.NewRaft(config, nothing{}, store, store, snapshots, transport)
	}
	if err != nil {
		transport.Close()
		listener.wait()
		return nil, fmt.Errorf("the election among --initial-cluster cannot begin: %w", err)
	}
	return &elector{o: o, server: s, raft: node, leads: node.LeaderCh(), listener: listener}, nil
}

// run follows the election until ctx ends. A member that loses the lead ends all streams, forgets what it knew, and goes on as a follower.
func (e *elector) run(ctx context.Context) error {
	defer e.close()
	for {
		select {
		case leads := <-e.leads:
			if leads {
				e.o.Log.Info(fmt.Sprintf("Placement service %s is the leader now", e.o.ID))
				e.server.lead()
			} else {
				e.o.Log.Warn(fmt.Sprintf("Placement service %s is not the leader any more; its sidecars connect to the new one", e.o.ID))
				e.server.follow()
			}
		case <-ctx.Done():
			return nil
		}
	}
}

// close hands the lead on, so that nobody has to wait for an election, and leaves.
func (e *elector) close() {
	if e.raft.State() == raft.Leader {
		if err := e.raft.LeadershipTransfer().Error(); err != nil {
			e.o.Log.Info("No other member takes the lead over; they elect one", "error", err)
		}
	}
	e.server.stop()
	if err := e.raft.Shutdown().Error(); err != nil {
		e.o.Log.Warn("The election did not end well", "error", err)
	}
	e.listener.Close()
	e.listener.wait()
}

// listenForPeers listens on the own address of the cluster, which may become known only some time after the start.
func listenForPeers(ctx context.Context, address string) (net.Listener, error) {
	var resolved *net.TCPAddr
	for attempt := 1; ; attempt++ {
		var err error
		if resolved, err = net.ResolveTCPAddr("tcp", address); err == nil {
			break
		}
		if attempt == resolveAttempts {
			return nil, fmt.Errorf("the own address %s in --initial-cluster is not known, after %d attempts: %w", address, attempt, err)
		}
		select {
		case <-time.After(resolvePause):
		case <-ctx.Done():
			return nil, fmt.Errorf("the own address %s in --initial-cluster is not known: %w", address, err)
		}
	}
	var config net.ListenConfig
	listener, err := config.Listen(ctx, "tcp", resolved.String())
	if errors.Is(err, syscall.EADDRNOTAVAIL) {
		// It is that of a service in front of this machine.
		listener, err = config.Listen(ctx, "tcp", fmt.Sprintf(":%d", resolved.Port))
	}
	if err != nil {
		return nil, fmt.Errorf("the own address %s in --initial-cluster is not to be listened on: %w; stop what holds the port, or choose another for all members", address, err)
	}
	return listener, nil
}

// nothing is what is replicated.
type nothing struct{}

// Apply implements [raft.FSM].
func (nothing) Apply(*raft.Log) any { return nil }

// Snapshot implements [raft.FSM].
func (n nothing) Snapshot() (raft.FSMSnapshot, error) { return n, nil }

// Restore implements [raft.FSM].
func (nothing) Restore(r io.ReadCloser) error { return r.Close() }

// Persist implements [raft.FSMSnapshot].
func (nothing) Persist(s raft.SnapshotSink) error { return s.Close() }

// Release implements [raft.FSMSnapshot].
func (nothing) Release() {}
