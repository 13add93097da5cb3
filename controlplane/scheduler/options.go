// Package scheduler is the scheduler service: it keeps jobs and the reminders of actors, and triggers them at sidecars when they are due
// (Dapr API, scheduler). What is due is decided in package engine, where jobs are kept in package etcd, who gets them in package delivery; here
// is the gRPC service around these, and who may ask for what.
package scheduler

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"strconv"
	"time"

	"github.com/jonboulle/clockwork"

	"outrigger.dev/controlplane/internal/serving"
	"outrigger.dev/controlplane/scheduler/engine"
	"outrigger.dev/controlplane/scheduler/etcd"
	"outrigger.dev/hostaddress"
	"outrigger.dev/identity"
)

// AppID is the app ID of the service's identity (Dapr API, scheduler: authorisation).
const AppID = "dapr-scheduler"

// DefaultID is the ID of a scheduler that is alone.
const DefaultID = "dapr-scheduler-server-0"

// Address is where a server listens, Observed are the health port and the metrics port, Security is how connections are secured.
type (
	Address  = serving.Address
	Observed = serving.Observed
	Security = serving.Security
)

// EitherWay is the security of a scheduler on a machine where only some apps have identities; see [serving.EitherWay].
func EitherWay(source serving.Source, id identity.ID) *Security { return serving.EitherWay(source, id) }

// Namespaces tells of namespaces that are gone, with all their apps.
type Namespaces interface {
	// Run calls ready once it watches, and deleted for every namespace that is deleted from then on, until ctx ends, which is no error. A
	// failing deleted is called again.
	Run(ctx context.Context, ready func(), deleted func(ctx context.Context, namespace string) error) error
}

// Options of a scheduler service. Zero values mean the defaults given.
type Options struct {
	// ID is this instance's. Default: [DefaultID].
	ID string
	// Listen is where the gRPC server listens.
	Listen Address
	// Broadcast is the "host:port" at which sidecars reach this instance. Default: Listen if it is a loopback, else the address of this host.
	Broadcast string
	// Observed are the health port and the metrics port.
	Observed Observed
	// Workers is how many counters are written at a time. Default: 2048.
	Workers int
	// Embedded or External is the etcd; Embedded is completed with ID and the identity of Security. Default: an embedded one with its defaults.
	Embedded *etcd.Embedded
	External *etcd.External
	// Security of all connections; nil is clear text.
	Security *Security
	// Namespaces tells whose jobs to delete; nil where there is none, as on a machine.
	Namespaces Namespaces

	// Stall is how long a sidecar may leave a trigger unread before its stream is ended. Default: 30 s.
	Stall time.Duration
	// Log is the log; nil discards.
	Log *slog.Logger
	// Clock tells the time; nil is the system's.
	Clock clockwork.Clock
	// Started, if not nil, is told where the servers listen once everything is ready.
	Started func(Addresses)
}

// Addresses are where the servers listen; nil ones do not. Etcd is the client port of the embedded server.
type Addresses struct {
	GRPC, Healthz, Metrics net.Addr
	Etcd                   string
}

// normalised is the options with defaults; the error names what is wrong.
func (o Options) normalised() (Options, error) {
	if o.ID == "" {
		o.ID = DefaultID
	}
	if o.Workers < 0 {
		return o, fmt.Errorf("invalid value for --workers: %d; it must be greater than 0", o.Workers)
	}
	if o.Workers == 0 {
		o.Workers = engine.DefaultWorkers
	}
	if o.Broadcast != "" {
		if _, _, err := net.SplitHostPort(o.Broadcast); err != nil {
			return o, fmt.Errorf("invalid value for --override-broadcast-host-port: %q: %w; write host:port", o.Broadcast, err)
		}
	}
	if o.Stall <= 0 {
		o.Stall = 30 * time.Second
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
	if o.External == nil {
		e := etcd.Embedded{}
		if o.Embedded != nil {
			e = *o.Embedded
		}
		e.ID = o.ID
		e.Defaults()
		o.Embedded = &e
	}
	return o, nil
}

// broadcast is the address that sidecars are told (Dapr API, scheduler: RPCs).
func (o Options) broadcast(at net.Addr) string {
	if o.Broadcast != "" {
		return o.Broadcast
	}
	port := strconv.Itoa(at.(*net.TCPAddr).Port)
	if ip := net.ParseIP(o.Listen.Host); o.Listen.Host == "localhost" || (ip != nil && ip.IsLoopback()) {
		return net.JoinHostPort(o.Listen.Host, port)
	}
	host, err := hostaddress.Outward()
	if err != nil {
		o.Log.Warn("Only sidecars on this host reach the scheduler; set --override-broadcast-host-port if there are others", "error", err)
		host = hostaddress.Loopback
	}
	return net.JoinHostPort(host, port)
}
