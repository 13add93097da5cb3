package process

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/pflag"

	"outrigger.dev/controlplane/internal/program"
	"outrigger.dev/controlplane/scheduler"
	"outrigger.dev/controlplane/scheduler/etcd"
	"outrigger.dev/controlplane/scheduler/kubernetes"
	"outrigger.dev/resource"
)

// flags are the values of the command line (Dapr API, scheduler: flags).
type flags struct {
	set      *pflag.FlagSet
	common   program.Common
	security program.Security

	port                     int
	listenAddress, broadcast string
	id                       string
	workers                  int
	kubeconfig, identityDir  string

	embed                               bool
	cluster, dataDir                    string
	clientPort                          int
	clientAddress                       string
	spaceQuota                          string
	compactionMode, compactionRetention string
	snapshotCount                       uint64
	maxSnapshots, maxWALs, maxTxnOps    uint
	batchLimit                          int
	batchInterval                       time.Duration
	defragThreshold                     uint
	electionTickAdvance                 bool
	metrics                             string
	endpoints                           []string
	clientUsername, clientPassword      string
}

// newFlags declares all flags. lookup stands for os.LookupEnv.
func newFlags(stderr io.Writer, lookup func(string) (string, bool)) *flags {
	f := &flags{set: program.NewFlags("scheduler", stderr)}
	s := f.set
	s.IntVar(&f.port, "port", 50006, "The gRPC port")
	s.StringVar(&f.listenAddress, "listen-address", "", "The address of the gRPC port; empty for all")
	s.StringVar(&f.broadcast, "override-broadcast-host-port", "", "The host:port at which sidecars reach this instance, if it is not the one that it listens on")
	s.StringVar(&f.id, "id", scheduler.DefaultID, "The ID of this instance, which is its name in --etcd-initial-cluster")
	s.IntVar(&f.workers, "workers", 2048, "How many counters of jobs are written at a time")

	s.BoolVar(&f.embed, "etcd-embed", true, "Keep the jobs in an etcd server in this process; else at --etcd-client-endpoints")
	s.StringVar(&f.cluster, "etcd-initial-cluster", scheduler.DefaultID+"=http://localhost:2380", "All members of the cluster, as id=URL,id=URL")
	s.StringVar(&f.dataDir, "etcd-data-dir", "./data", "The directory of the data")
	s.IntVar(&f.clientPort, "etcd-client-port", 2379, "The port of the embedded etcd for other clients")
	s.StringVar(&f.clientAddress, "etcd-client-listen-address", "localhost", "The address of that port")
	s.StringVar(&f.spaceQuota, "etcd-space-quota", "9.2E", "How large the database may grow, as a Kubernetes quantity")
	s.StringVar(&f.compactionMode, "etcd-compaction-mode", "revision", "What the retention counts: revision or periodic")
	s.StringVar(&f.compactionRetention, "etcd-compaction-retention", "1000000", "How many revisions, or how long the past, are kept")
	s.Uint64Var(&f.snapshotCount, "etcd-snapshot-count", 100000, "After how many changes a snapshot is taken")
	s.UintVar(&f.maxSnapshots, "etcd-max-snapshots", 10, "How many snapshots are kept; 0 for all")
	s.UintVar(&f.maxWALs, "etcd-max-wals", 10, "How many files of the log are kept; 0 for all")
	s.IntVar(&f.batchLimit, "etcd-backend-batch-limit", 10000, "After how many changes the database file is written")
	s.DurationVar(&f.batchInterval, "etcd-backend-batch-interval", 100*time.Millisecond, "After what time the database file is written")
	s.UintVar(&f.maxTxnOps, "etcd-max-txn-ops", 10000, "How many operations a transaction may have")
	s.UintVar(&f.defragThreshold, "etcd-experimental-bootstrap-defrag-threshold-megabytes", 100, "How many megabytes must be gained for the database to be defragmented at the start")
	s.BoolVar(&f.electionTickAdvance, "etcd-initial-election-tick-advance", false, "Make the first election of a cluster faster")
	s.StringVar(&f.metrics, "etcd-metrics", "basic", "Which metrics etcd has: basic or extensive")
	s.StringSliceVar(&f.endpoints, "etcd-client-endpoints", nil, "The addresses of an etcd elsewhere; with --etcd-embed=false")
	s.StringVar(&f.clientUsername, "etcd-client-username", "", "The user there")
	s.StringVar(&f.clientPassword, "etcd-client-password", "", "The password of that user")

	s.StringVar(&f.kubeconfig, "kubeconfig", "", "Path of a kubeconfig file; empty for the service account of the pod")
	s.StringVar(&f.identityDir, "identity-directory-write", filepath.Join(os.TempDir(), "secrets", "dapr.io", "tls"), "The directory that the identity is written to for etcd")
	for _, hidden := range []string{"kubeconfig", "identity-directory-write"} {
		s.Lookup(hidden).Hidden = true
	}
	f.security.Declare(s, lookup)
	f.common.Declare(s)
	return f
}

// options turns flags and environment into the options of the service.
func (f *flags) options(ctx context.Context, lookup func(string) (string, bool), log *slog.Logger) (scheduler.Options, error) {
	o := scheduler.Options{
		ID: f.id, Listen: scheduler.Address{Host: f.listenAddress, Port: f.port}, Broadcast: f.broadcast, Observed: f.common.Observed(),
		Workers: f.workers, Log: log,
	}
	if f.workers <= 0 {
		return o, fmt.Errorf("invalid value for --workers: %d; it must be greater than 0", f.workers)
	}
	inKubernetes, err := f.security.Kubernetes()
	if err != nil {
		return o, err
	}
	if f.kubeconfig != "" && !inKubernetes {
		return o, errors.New("--kubeconfig is only for --mode=kubernetes")
	}
	if o.Security, err = f.security.Open(scheduler.AppID, lookup, log); err != nil {
		return o, err
	}
	if err := f.store(&o, inKubernetes, lookup); err != nil {
		return o, err
	}
	if inKubernetes {
		client, err := kubernetes.Connect(f.kubeconfig)
		if err != nil {
			return o, err
		}
		o.Namespaces = &kubernetes.Namespaces{Client: client, Log: log}
		if o.Embedded != nil {
			if domain := program.ClusterDomain(ctx); domain != "" {
				o.Embedded.PeerDomain = program.Namespace(lookup) + ".svc." + domain
			}
		}
	}
	return o, nil
}

// store sets the etcd.
func (f *flags) store(o *scheduler.Options, inKubernetes bool, lookup func(string) (string, bool)) error {
	if !f.embed {
		if len(f.endpoints) == 0 {
			return errors.New("no etcd is named: --etcd-embed=false needs --etcd-client-endpoints")
		}
		o.External = &etcd.External{Endpoints: f.endpoints, Username: f.clientUsername, Password: f.clientPassword}
		return nil
	}
	for _, name := range []string{"etcd-client-endpoints", "etcd-client-username", "etcd-client-password"} {
		if f.set.Changed(name) {
			return fmt.Errorf("--%s is for an etcd elsewhere: set --etcd-embed=false, or leave it out", name)
		}
	}
	quota, err := resource.ParseQuantity(f.spaceQuota)
	if err != nil || quota <= 0 {
		return fmt.Errorf("invalid value for --etcd-space-quota: %q; write a number of bytes with an optional suffix, such as 8Gi", f.spaceQuota)
	}
	o.Embedded = &etcd.Embedded{
		ID: f.id, InitialCluster: f.cluster, DataDir: f.dataDir, Namespace: program.Namespace(lookup),
		ClientListenAddress: f.clientAddress, ClientPort: f.clientPort, SpaceQuota: quota,
		CompactionMode: f.compactionMode, CompactionRetention: f.compactionRetention,
		SnapshotCount: f.snapshotCount, MaxSnapshots: f.maxSnapshots, MaxWALs: f.maxWALs, MaxTxnOps: f.maxTxnOps,
		BackendBatchLimit: f.batchLimit, BackendBatchInterval: f.batchInterval, DefragThresholdMegabytes: f.defragThreshold,
		InitialElectionTickAdvance: f.electionTickAdvance, Metrics: f.metrics, IdentityDir: f.identityDir,
	}
	if inKubernetes {
		o.Embedded.Namespace = ""
	}
	return nil
}
