package etcd

import (
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/url"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/jonboulle/clockwork"
	"go.etcd.io/etcd/client/pkg/v3/types"

	"outrigger.dev/identity"
)

// Options of a store. Embedded and External are alternatives: one of them is set.
type Options struct {
	Embedded *Embedded
	External *External

	// Log is the log; nil discards.
	Log *slog.Logger
	// Clock tells the time; nil is the system's.
	Clock clockwork.Clock
}

// External is an etcd that others run. It is spoken to without TLS.
type External struct {
	// Endpoints are its addresses, "host:port" or URLs.
	Endpoints []string
	// Username and Password are those of its user; empty for none.
	Username, Password string
}

// Embedded is an etcd server in this process, one of the members of its cluster (Dapr API, scheduler: embedded etcd).
type Embedded struct {
	// ID is the name of this member, which has to be in InitialCluster: "id=URL" separated by commas, with the URLs of the peers.
	ID, InitialCluster string
	// DataDir is the directory of all data. Namespace tells those that share it apart; empty if nobody does, as in Kubernetes.
	DataDir, Namespace string
	// ClientListenAddress and ClientPort are where etcd serves other clients than the scheduler, as plain HTTP.
	ClientListenAddress string
	ClientPort          int

	// SpaceQuota is how large the database may grow, in bytes; 0 is etcd's default.
	SpaceQuota int64
	// CompactionMode is "revision" or "periodic", CompactionRetention how many revisions or how long the past is kept.
	CompactionMode, CompactionRetention string
	// SnapshotCount is after how many changes a snapshot is taken; MaxSnapshots and MaxWALs are how many files are kept.
	SnapshotCount         uint64
	MaxSnapshots, MaxWALs uint
	// BackendBatchLimit and BackendBatchInterval are after how many changes, or when, the database file is written; the log is written at once.
	BackendBatchLimit    int
	BackendBatchInterval time.Duration
	// MaxTxnOps is how many operations a transaction may have.
	MaxTxnOps uint
	// DefragThresholdMegabytes is how much must be gained for the database to be defragmented at the start.
	DefragThresholdMegabytes uint
	// InitialElectionTickAdvance makes the first election of a cluster faster. Metrics is "basic" or "extensive".
	InitialElectionTickAdvance bool
	Metrics                    string

	// Source is the identity by which peers prove themselves to each other; nil: they do not. IdentityDir is where it is written for etcd.
	Source      identity.Source
	IdentityDir string
	// PeerDomain is the domain of the peers' names, such as "dapr-system.svc.cluster.local"; needed with Source.
	PeerDomain string
}

// maxRequestBytes is the largest change. What is larger would hold the heartbeats of the members up.
const maxRequestBytes = 64 << 20

// leastTxnOps is what a transaction may have at least, whatever --etcd-max-txn-ops says: the engine puts the changes of many jobs into one.
const leastTxnOps = 128

// markerName is the file that says that the data of the directory belong to the cluster as it is formed now
// (Dapr API, scheduler: embedded etcd).
const markerName = "dapr-scheduler-existing-cluster"

// version is the name of the directory of etcd; it is that of the form of the data.
const version = "dapr-0.1"

// Defaults fills in what is zero with the defaults of the flags (Dapr API, scheduler: flags).
func (e *Embedded) Defaults() {
	def := func(p *string, v string) {
		if *p == "" {
			*p = v
		}
	}
	def(&e.ID, "dapr-scheduler-server-0")
	def(&e.InitialCluster, "dapr-scheduler-server-0=http://localhost:2380")
	def(&e.DataDir, "./data")
	def(&e.ClientListenAddress, "localhost")
	def(&e.CompactionMode, "revision")
	def(&e.CompactionRetention, "1000000")
	def(&e.Metrics, "basic")
	if e.SpaceQuota == 0 {
		e.SpaceQuota = 9_200_000_000_000_000_000
	}
	if e.SnapshotCount == 0 {
		e.SnapshotCount = 100000
	}
	if e.MaxSnapshots == 0 {
		e.MaxSnapshots = 10
	}
	if e.MaxWALs == 0 {
		e.MaxWALs = 10
	}
	if e.BackendBatchLimit == 0 {
		e.BackendBatchLimit = 10000
	}
	if e.BackendBatchInterval == 0 {
		e.BackendBatchInterval = 100 * time.Millisecond
	}
	if e.MaxTxnOps == 0 {
		e.MaxTxnOps = 10000
	}
	if e.DefragThresholdMegabytes == 0 {
		e.DefragThresholdMegabytes = 100
	}
}

// directory is that of the embedded server.
func (e *Embedded) directory() string {
	if e.Namespace == "" {
		return filepath.Join(e.DataDir, version)
	}
	return filepath.Join(e.DataDir, e.Namespace+"-"+e.ID, version)
}

// peers are the URLs at which this member is reached by the others, and the URLs that it listens on.
func (e *Embedded) peers() (advertised, listen []url.URL, err error) {
	members, err := types.NewURLsMap(e.InitialCluster)
	if err != nil {
		return nil, nil, fmt.Errorf("invalid value for --etcd-initial-cluster: %q: %w; write id=http://host:port, separated by commas", e.InitialCluster, err)
	}
	own, ok := members[e.ID]
	if !ok {
		return nil, nil, fmt.Errorf("scheduler ID: %s is not found in initial cluster %q: set --id to one of its names, or --etcd-initial-cluster", e.ID, e.InitialCluster)
	}
	for _, u := range own {
		advertised = append(advertised, u)
		if host := u.Hostname(); net.ParseIP(host) == nil && host != "localhost" {
			u.Host = net.JoinHostPort("0.0.0.0", u.Port())
		}
		listen = append(listen, u)
	}
	return advertised, listen, nil
}

// members is which one of the members of the cluster this one is, from 0 by the order of their names, and how many there are.
func (e *Embedded) members() (index, count int) {
	members, err := types.NewURLsMap(e.InitialCluster)
	if err != nil {
		return 0, 1
	}
	names := slices.Sorted(maps.Keys(members))
	return max(slices.Index(names, e.ID), 0), len(names)
}

// clientURL is where other clients are served.
func (e *Embedded) clientURL() url.URL {
	return url.URL{Scheme: "http", Host: net.JoinHostPort(e.ClientListenAddress, strconv.Itoa(e.ClientPort))}
}

// allowedPeers are the names of which a peer's certificate must have one (Dapr API, scheduler: embedded etcd).
func (e *Embedded) allowedPeers() []string {
	names := make([]string, 3)
	for i := range names {
		names[i] = fmt.Sprintf("dapr-scheduler-server-%d.dapr-scheduler-server.%s", i, e.PeerDomain)
	}
	return names
}

// validate names what is missing or does not fit together.
func (o *Options) validate() error {
	switch {
	case o.Embedded == nil && o.External == nil:
		return errors.New("the scheduler has no etcd: set Options.Embedded or Options.External")
	case o.Embedded != nil && o.External != nil:
		return errors.New("the scheduler has two etcds: --etcd-client-endpoints, --etcd-client-username and --etcd-client-password are for --etcd-embed=false")
	case o.External != nil:
		if len(o.External.Endpoints) == 0 {
			return errors.New("no etcd is named: --etcd-embed=false needs --etcd-client-endpoints")
		}
		if o.External.Username == "" && o.External.Password != "" {
			return errors.New("--etcd-client-password goes with --etcd-client-username: set both")
		}
		for _, e := range o.External.Endpoints {
			if strings.HasPrefix(e, "https://") {
				return fmt.Errorf("invalid value for --etcd-client-endpoints: %q: an external etcd is spoken to without TLS; write host:port", e)
			}
		}
		return nil
	}
	e := o.Embedded
	if e.Source != nil && (e.PeerDomain == "" || e.IdentityDir == "") {
		return errors.New("peers that prove their identity need Embedded.PeerDomain and Embedded.IdentityDir")
	}
	if e.CompactionMode != "revision" && e.CompactionMode != "periodic" {
		return fmt.Errorf("invalid value for --etcd-compaction-mode: %q; use revision or periodic", e.CompactionMode)
	}
	if e.Metrics != "basic" && e.Metrics != "extensive" {
		return fmt.Errorf("invalid value for --etcd-metrics: %q; use basic or extensive", e.Metrics)
	}
	if e.BackendBatchInterval <= 0 {
		return fmt.Errorf("invalid value for --etcd-backend-batch-interval: %s; it must be greater than 0", e.BackendBatchInterval)
	}
	_, _, err := e.peers()
	return err
}
