// Package placement is the placement service: it tells every sidecar which host owns which actor, so that each actor runs at one place
// (Dapr API, placement). The order of its messages is decided in package dissemination; here are the streams that carry them, who may say what,
// and the election of the one member of a cluster that serves.
package placement

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strings"
	"time"

	"github.com/jonboulle/clockwork"

	"outrigger.dev/controlplane/internal/serving"
	"outrigger.dev/identity"
)

// AppID is the app ID of the service's identity (Dapr API, placement: SPIFFE ID).
const AppID = "dapr-placement"

// Address is where a server listens, Observed are the health port and the metrics port, Security is how connections are secured.
type (
	Address  = serving.Address
	Observed = serving.Observed
	Security = serving.Security
)

// EitherWay is the security of a placement service on a machine where only some apps have identities; see [serving.EitherWay].
func EitherWay(source serving.Source, id identity.ID) *Security { return serving.EitherWay(source, id) }

// Peer is a member of the cluster.
type Peer struct {
	ID string
	// Address is where it listens for the other members, "host:port".
	Address string
}

// ParsePeers reads the members of a cluster, written as id=host:port,id=host:port (Dapr API, placement: flag initial-cluster).
func ParsePeers(text string) ([]Peer, error) {
	var peers []Peer
	for part := range strings.SplitSeq(text, ",") {
		if part = strings.TrimSpace(part); part == "" {
			continue
		}
		id, address, ok := strings.Cut(part, "=")
		if _, _, err := net.SplitHostPort(address); !ok || id == "" || err != nil {
			return nil, fmt.Errorf("the member %q of the cluster is not to be read: write id=host:port, and commas between members", part)
		}
		for _, p := range peers {
			if p.ID == id {
				return nil, fmt.Errorf("the member %q is in the cluster twice, at %s and %s: give each member an ID of its own", id, p.Address, address)
			}
		}
		peers = append(peers, Peer{ID: id, Address: address})
	}
	if len(peers) == 0 {
		return nil, errors.New("the cluster has no members: give them as id=host:port")
	}
	return peers, nil
}

// Options of a placement service. Zero values mean the defaults given.
type Options struct {
	// ID is this member's. Default: "dapr-placement-0".
	ID string
	// Peers are all members of the cluster, this one among them. Default: this one alone. A member that is alone leads without an election and
	// does not listen for others.
	Peers []Peer
	// Listen is where the gRPC server listens.
	Listen Address
	// Observed are the health port and the metrics port.
	Observed Observed
	// State serves the tables at /placement/state on the health port.
	State bool
	// ReplicationFactor is the number of points that a host has on a ring. Default: 100.
	ReplicationFactor int64
	// KeepaliveTime is how often connections are tried, KeepaliveTimeout how long an answer may take. Defaults: 2 s and 3 s; each 1 to 10 s.
	KeepaliveTime, KeepaliveTimeout time.Duration
	// DisseminateTimeout is how long a round may take. Default: 8 s.
	DisseminateTimeout time.Duration
	// CoalesceWindow is how long changes are collected after a round. Default: not at all.
	CoalesceWindow time.Duration
	// RejoinWindow is how long after beginning to lead, and after having lost all sidecars of a namespace, the first round waits for the sidecars
	// to be there again. They try every 250 to 750 ms, and end their actors only while they do. Default: 1.5 s; negative: not at all.
	RejoinWindow time.Duration
	// Security of all connections; nil is clear text.
	Security *Security

	// Log is the log; nil discards.
	Log *slog.Logger
	// Clock tells the time of dissemination; nil is the system's.
	Clock clockwork.Clock
	// Started, if not nil, is told where the servers listen once everything is ready.
	Started func(Addresses)
}

// Addresses are where the servers listen; nil ones do not.
type Addresses struct {
	GRPC, Healthz, Metrics net.Addr
	// Raft is where this member listens for the others.
	Raft net.Addr
}

// Bounds of keepalive times.
const (
	minKeepalive = time.Second
	maxKeepalive = 10 * time.Second
)

// normalised is the options with defaults; the error names what is wrong.
func (o Options) normalised() (Options, error) {
	if o.ID == "" {
		o.ID = "dapr-placement-0"
	}
	if len(o.Peers) == 0 {
		o.Peers = []Peer{{ID: o.ID}}
	}
	if o.self() == nil {
		var known []string
		for _, p := range o.Peers {
			known = append(known, p.ID)
		}
		return o, fmt.Errorf("address for node %s not found in raft peers [%s]: --id must be one of --initial-cluster", o.ID, strings.Join(known, " "))
	}
	if o.ReplicationFactor == 0 {
		o.ReplicationFactor = 100
	}
	for _, d := range []struct {
		flag      string
		value     *time.Duration
		standard  time.Duration
		low, high time.Duration
	}{
		{"keepalive-time", &o.KeepaliveTime, 2 * time.Second, minKeepalive, maxKeepalive},
		{"keepalive-timeout", &o.KeepaliveTimeout, 3 * time.Second, minKeepalive, maxKeepalive},
		{"disseminate-timeout", &o.DisseminateTimeout, 8 * time.Second, time.Millisecond, time.Hour},
		{"disseminate-coalesce-window", &o.CoalesceWindow, 0, 0, time.Hour},
	} {
		if *d.value == 0 {
			*d.value = d.standard
		}
		if *d.value < d.low || *d.value > d.high {
			return o, fmt.Errorf("invalid value for --%s: %s; it must be between %s and %s", d.flag, *d.value, d.low, d.high)
		}
	}
	if o.ReplicationFactor < 1 || o.ReplicationFactor > 1<<20 {
		return o, fmt.Errorf("invalid value for --replicationFactor: %d; it must be between 1 and %d", o.ReplicationFactor, 1<<20)
	}
	if o.RejoinWindow == 0 {
		o.RejoinWindow = 1500 * time.Millisecond
	}
	if o.Security == nil {
		o.Security = serving.ClearText()
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Clock == nil {
		o.Clock = clockwork.NewRealClock()
	}
	return o, nil
}

// self is this member; nil when it is not one.
func (o Options) self() *Peer {
	for i := range o.Peers {
		if o.Peers[i].ID == o.ID {
			return &o.Peers[i]
		}
	}
	return nil
}
