// Package mdns is the name resolver nameresolution.mdns: sidecars announce themselves by DNS-SD over multicast DNS
// (RFC 6762, RFC 6763), and are found, within one network, without any server.
package mdns

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jonboulle/clockwork"

	"outrigger.dev/components"
	"outrigger.dev/components/nameresolution"
)

var (
	_ nameresolution.Resolver = (*Resolver)(nil)
	_ nameresolution.Failed   = (*Resolver)(nil)
)

// Options are the keys of the name resolution configuration; mDNS has none.
type Options struct{}

// Register adds nameresolution.mdns to r.
func Register(r *components.Registry) {
	nameresolution.Register(r, components.Info{
		Name:        "mdns",
		Version:     "v1",
		Status:      components.Stable,
		Description: "Finds sidecars of one network by multicast DNS; the default outside Kubernetes.",
	}, func(ctx context.Context, inst components.Instance, _ Options) (nameresolution.Resolver, error) {
		return Open(ctx, inst)
	})
}

// The times of the resolver (Dapr API, mDNS name resolver).
const (
	// browseFor is how long a caller waits for an app that is not known yet.
	browseFor = time.Second
	// repeatAfter is when a query goes out again, for multicast loses packets.
	repeatAfter = 400 * time.Millisecond
	// waitAtMost bounds the wait for a browse that another caller began.
	waitAtMost = 2 * time.Second
	// refreshEvery is how often known apps are looked for again.
	refreshEvery = 30 * time.Second
	// maxAge is how long an address is used after it was last seen.
	maxAge = 60 * time.Second
	// idleRounds is how many refreshes an app that nobody asks for is kept.
	idleRounds = 10
)

// Resolver announces a sidecar and finds others.
type Resolver struct {
	link  link
	own   *service // nil when nothing is announced
	clock clockwork.Clock
	log   *slog.Logger

	ctx    context.Context
	cancel context.CancelFunc
	wg     sync.WaitGroup

	// heard: a packet has come in. The own ones do too, so that without any there is no use in waiting.
	heard  atomic.Bool
	pace   pace
	asking asking

	mu     sync.RWMutex
	closed bool
	apps   map[string]*app // by id
	byName map[string]*app // by service name, as parsed from packets
}

// Open announces the sidecar of inst, unless it has no app id, and gets ready to find others. A machine whose network
// lacks multicast is no error, for the sidecar has other uses; it is logged, and finding apps then fails.
func Open(ctx context.Context, inst components.Instance) (nameresolution.Resolver, error) {
	own, err := ownService(inst.Sidecar)
	if err != nil {
		return nil, err
	}
	return start(ctx, inst, own, newNetwork(inst.Log)), nil
}

// ownService is what to announce for the sidecar.
func ownService(s components.Sidecar) (*service, error) {
	if s.AppID == "" {
		return nil, nil
	}
	host := s.HostAddress
	if strings.EqualFold(host, "localhost") {
		host = "127.0.0.1"
	}
	address, err := netip.ParseAddr(host)
	if err != nil || address.IsUnspecified() {
		return nil, fmt.Errorf("cannot announce the host address %q over mDNS: it must be an IP address that others can reach; set the environment variable DAPR_HOST_IP, or use the sqlite name resolver", s.HostAddress)
	}
	if s.InternalPort <= 0 || s.InternalPort > 65535 {
		return nil, fmt.Errorf("cannot announce the internal gRPC port %d over mDNS: it must be from 1 to 65535", s.InternalPort)
	}
	hostname, err := os.Hostname()
	if err != nil {
		return nil, fmt.Errorf("cannot announce the sidecar over mDNS, for the machine has no host name: %w", err)
	}
	return newService(s.AppID, hostname, os.Getpid(), address.Unmap().WithZone(""), uint16(s.InternalPort))
}

// start runs a resolver on a link.
func start(ctx context.Context, inst components.Instance, own *service, l link) *Resolver {
	r := &Resolver{
		link: l, own: own, clock: inst.Clock, log: inst.Log,
		apps: map[string]*app{}, byName: map[string]*app{},
	}
	if r.clock == nil {
		r.clock = clockwork.NewRealClock()
	}
	if r.log == nil {
		r.log = slog.New(slog.DiscardHandler)
	}
	r.ctx, r.cancel = context.WithCancel(context.Background())
	if own != nil {
		// The own app needs no search to be found, even where multicast does not work.
		a := newApp(own.id, own.name)
		a.pinned = own.addrPort().String()
		a.publish()
		r.apps[a.id], r.byName[a.name] = a, a
	}
	if err := l.open(ctx, r.receive); err != nil {
		r.log.Warn("multicast DNS does not work on this machine, so apps cannot find each other by it; "+remedy, "error", err)
	} else if err := l.partial(); err != nil {
		r.log.Warn("multicast DNS works on a part of this machine's network only; "+remedy, "error", err)
	}
	if own != nil {
		r.wg.Go(r.announce)
	}
	r.wg.Go(r.refresh)
	return r
}

// remedy is what to do where multicast DNS does not work.
const remedy = "use the sqlite name resolver for apps of one machine (spec.nameResolution.component: sqlite), or that of a server such as Consul"

// receive handles one packet; it runs on the goroutines of the link.
func (r *Resolver) receive(p packet) {
	if !r.heard.Load() {
		r.heard.Store(true)
	}
	if r.ctx.Err() != nil { // a closed service must not come back after its goodbye
		return
	}
	msg, ok := r.parse(p.data)
	if !ok {
		return
	}
	if !msg.Response {
		if r.own != nil {
			r.answer(msg, p)
		}
		return
	}
	r.learn(msg, p.zone)
}

// errClosed is what callers get of a resolver that was closed while they waited.
var errClosed = errors.New("the mDNS name resolver was closed")

// Resolve returns the address of one of the app's sidecars, IPv4 before IPv6, taking turns. An app not known yet is
// looked for during one second.
func (r *Resolver) Resolve(ctx context.Context, req nameresolution.Request) (string, error) {
	r.mu.RLock()
	a := r.apps[req.ID]
	r.mu.RUnlock()
	if a != nil {
		if address, ok := a.pick(); ok {
			return address, nil
		}
	}
	a, b, err := r.browse(req.ID)
	if err != nil {
		return "", err
	}
	t := r.clock.NewTimer(waitAtMost)
	defer t.Stop()
	select {
	case <-b.done:
	case <-t.Chan():
		return "", fmt.Errorf("timeout waiting for address for app id %s", req.ID)
	case <-ctx.Done():
		return "", ctx.Err()
	}
	if address, ok := a.pick(); ok {
		return address, nil
	}
	if b.err != nil {
		return "", b.err
	}
	return "", r.notFound(req.ID)
}

// notFound says that nobody has answered for an app, and why that may be the network's fault.
func (r *Resolver) notFound(id string) error {
	if !r.heard.Load() {
		return fmt.Errorf("couldn't find service: %s: no packet of multicast DNS arrives here, not even those that this sidecar itself has sent: a firewall, a VPN or the network of a container holds UDP port %d back; let it through, or %s", id, port, remedy)
	}
	if err := r.link.partial(); err != nil {
		return fmt.Errorf("couldn't find service: %s: multicast DNS works on a part of this machine's network only: %w; %s", id, err, remedy)
	}
	return fmt.Errorf("couldn't find service: %s", id)
}

// Forget drops an address that did not answer and looks for the app again.
func (r *Resolver) Forget(id, address string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	a := r.apps[id]
	if a == nil || !a.remove(func(i *instance) bool { return i.v4 == address || i.v6 == address }) {
		return
	}
	if len(a.instances) == 0 && a.pinned == "" {
		r.drop(a)
	}
}

// Close takes the announcement back and releases the sockets.
func (r *Resolver) Close() error {
	r.mu.Lock()
	closed := r.closed
	r.closed = true
	r.mu.Unlock()
	if closed {
		return nil
	}
	r.cancel()
	r.wg.Wait()
	if r.own != nil {
		r.link.multicast(r.own.goodbye, everywhere)
	}
	r.link.close()
	return nil
}

// packet is one datagram that came in.
type packet struct {
	data []byte
	from netip.AddrPort
	via  route
	// zone names the interface for addresses that are meaningful only there; "" when it is not known.
	zone string
}

// route says where a datagram leaves.
type route struct {
	// family is 4 or 6, or 0 for both.
	family int
	// index is the interface, or 0 for all.
	index int
}

var everywhere route

// link carries datagrams of multicast DNS.
type link interface {
	// open begins to hand incoming packets to receive, from any number of goroutines. It fails when nothing can be sent.
	open(ctx context.Context, receive func(packet)) error
	// refresh follows changes of the machine's interfaces, and reports whether there are new ones.
	refresh() (added bool)
	// problem is why nothing can be sent, or nil.
	problem() error
	// partial is why a part of the network is left out though the rest works, or nil.
	partial() error
	// multicast sends to the group; what went wrong shows in problem.
	multicast(data []byte, via route)
	unicast(data []byte, to netip.AddrPort, via route)
	// close ends receive; it returns when the last call has.
	close()
}

// group is the multicast address of a family.
func group(family int) *net.UDPAddr {
	if family == 4 {
		return &net.UDPAddr{IP: net.IPv4(224, 0, 0, 251), Port: port}
	}
	return &net.UDPAddr{IP: net.ParseIP("ff02::fb"), Port: port}
}

// port is the UDP port of multicast DNS (RFC 6762, section 2).
const port = 5353
