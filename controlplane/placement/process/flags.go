package process

import (
	"fmt"
	"io"
	"log/slog"
	"strings"
	"time"

	"github.com/spf13/pflag"

	"outrigger.dev/controlplane/internal/program"
	"outrigger.dev/controlplane/placement"
)

// flags are the values of the command line (Dapr API, placement: flags).
type flags struct {
	set      *pflag.FlagSet
	common   program.Common
	security program.Security

	id, initialCluster                  string
	listenAddress                       string
	port                                int
	metadata                            bool
	replicationFactor                   int64
	keepaliveTime, keepaliveTimeout     time.Duration
	disseminateTimeout, disseminateWait time.Duration
	rejoin                              time.Duration
}

// ignored are the flags that Dapr's program takes and makes no use of, with their defaults. It is never written.
var ignored = [...]struct{ name, standard string }{
	{"inmem-store-enabled", "true"}, {"raft-logstore-path", ""}, {"max-api-level", "10"}, {"min-api-level", "0"},
}

// newFlags declares all flags. lookup stands for os.LookupEnv.
func newFlags(stderr io.Writer, lookup func(string) (string, bool)) *flags {
	f := &flags{set: program.NewFlags("placement", stderr)}
	s := f.set
	metadata, _ := lookup("DAPR_PLACEMENT_METADATA_ENABLED")

	s.StringVar(&f.id, "id", "dapr-placement-0", "The ID of this member of the cluster")
	s.StringVar(&f.initialCluster, "initial-cluster", "dapr-placement-0=127.0.0.1:8201", "All members of the cluster, as id=host:port,id=host:port")
	s.StringVar(&f.listenAddress, "listen-address", "", "The address of the gRPC port; empty for all")
	s.IntVar(&f.port, "port", 50005, "The gRPC port")
	s.BoolVar(&f.metadata, "metadata-enabled", truthy(metadata), "Serve the tables at /placement/state on the health port")
	s.Int64Var(&f.replicationFactor, "replicationFactor", 100, "The number of points that a host has on the ring of an actor type")
	s.DurationVar(&f.keepaliveTime, "keepalive-time", 2*time.Second, "How often the connections of sidecars are tried: 1s to 10s")
	s.DurationVar(&f.keepaliveTimeout, "keepalive-timeout", 3*time.Second, "How long a sidecar may take to answer that: 1s to 10s")
	s.DurationVar(&f.disseminateTimeout, "disseminate-timeout", 8*time.Second, "How long the dissemination of a table may take before sidecars that do not answer are left out")
	s.DurationVar(&f.rejoin, "rejoin-window", 1500*time.Millisecond, "How long a new leader waits for the sidecars to be there again before its first dissemination; 0 for not at all")
	s.DurationVar(&f.disseminateWait, "disseminate-coalesce-window", 0, "How long changes are collected after a dissemination; 0 for not at all")
	f.security.Declare(s, lookup)
	f.common.Declare(s)

	for _, i := range ignored {
		s.String(i.name, i.standard, "Has no effect")
		flag := s.Lookup(i.name)
		flag.Hidden = true
		if i.name == "inmem-store-enabled" {
			flag.NoOptDefVal = "true"
		}
	}
	return f
}

// options turns flags and environment into the options of the service.
func (f *flags) options(lookup func(string) (string, bool), log *slog.Logger) (placement.Options, error) {
	o := placement.Options{
		ID: f.id, Listen: placement.Address{Host: f.listenAddress, Port: f.port}, Observed: f.common.Observed(), State: f.metadata,
		ReplicationFactor: f.replicationFactor, KeepaliveTime: f.keepaliveTime, KeepaliveTimeout: f.keepaliveTimeout,
		DisseminateTimeout: f.disseminateTimeout, CoalesceWindow: f.disseminateWait, RejoinWindow: f.rejoin, Log: log,
	}
	if f.rejoin <= 0 {
		o.RejoinWindow = -1
	}
	for _, d := range []struct {
		name  string
		value int64
	}{
		{"replicationFactor", f.replicationFactor},
		{"keepalive-time", int64(f.keepaliveTime)},
		{"keepalive-timeout", int64(f.keepaliveTimeout)},
		{"disseminate-timeout", int64(f.disseminateTimeout)},
	} {
		if d.value <= 0 {
			return o, fmt.Errorf("invalid value for --%s: %s; it must be greater than 0", d.name, f.set.Lookup(d.name).Value)
		}
	}
	var err error
	if o.Peers, err = placement.ParsePeers(f.initialCluster); err != nil {
		return o, fmt.Errorf("invalid value for --initial-cluster: %w", err)
	}
	for _, i := range ignored {
		if f.set.Changed(i.name) {
			log.Warn("The flag --" + i.name + " has no effect; leave it out")
		}
	}
	o.Security, err = f.security.Open(placement.AppID, lookup, log)
	return o, err
}

// truthy reads a switch of the environment.
func truthy(text string) bool {
	switch strings.ToLower(strings.TrimSpace(text)) {
	case "y", "yes", "true", "t", "on", "1":
		return true
	}
	return false
}
