package mdns

import (
	"context"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/jonboulle/clockwork"
	"github.com/miekg/dns"

	"outrigger.dev/components"
)

// bus is a network in memory: what one member sends, all get.
type bus struct {
	mu      sync.Mutex
	members []*member
	sent    []*dns.Msg // to the group
	direct  []*dns.Msg // to one receiver
}

// member is the link of one resolver on a bus.
type member struct {
	bus     *bus
	receive func(packet)
	broken  error
	halved  error
	// deaf members hear nothing.
	deaf  bool
	added bool
}

func (m *member) open(_ context.Context, receive func(packet)) error {
	m.receive = receive
	m.bus.mu.Lock()
	defer m.bus.mu.Unlock()
	m.bus.members = append(m.bus.members, m)
	return m.broken
}

func (m *member) refresh() bool  { return m.added }
func (m *member) problem() error { return m.broken }
func (m *member) partial() error { return m.halved }

func (m *member) multicast(data []byte, _ route) {
	if m.broken == nil {
		m.bus.send(data, netip.MustParseAddrPort("192.0.2.7:5353"))
	}
}

func (m *member) unicast(data []byte, _ netip.AddrPort, _ route) {
	m.bus.mu.Lock()
	defer m.bus.mu.Unlock()
	m.bus.direct = append(m.bus.direct, unpack(data))
}

func (m *member) close() {
	m.bus.mu.Lock()
	defer m.bus.mu.Unlock()
	for i, other := range m.bus.members {
		if other == m {
			m.bus.members = append(m.bus.members[:i:i], m.bus.members[i+1:]...)
			return
		}
	}
}

// send delivers a packet to everybody.
func (b *bus) send(data []byte, from netip.AddrPort) {
	b.mu.Lock()
	members := append([]*member(nil), b.members...)
	b.sent = append(b.sent, unpack(data))
	b.mu.Unlock()
	for _, m := range members {
		if m.deaf {
			continue
		}
		m.receive(packet{data: data, from: from, via: route{family: 4, index: 1}, zone: "eth9"})
	}
}

// count returns how many packets to the group match.
func (b *bus) count(match func(*dns.Msg) bool) int {
	b.mu.Lock()
	defer b.mu.Unlock()
	n := 0
	for _, m := range b.sent {
		if match(m) {
			n++
		}
	}
	return n
}

func unpack(data []byte) *dns.Msg {
	m := new(dns.Msg)
	if err := m.Unpack(data); err != nil {
		panic(err)
	}
	return m
}

// asksFor matches queries for an app.
func asksFor(id string) func(*dns.Msg) bool {
	return func(m *dns.Msg) bool {
		return !m.Response && slices.ContainsFunc(m.Question, func(q dns.Question) bool { return q.Name == id+".local." && q.Qtype == dns.TypePTR })
	}
}

// join starts a resolver for an app on the bus; an empty id only looks.
func (b *bus) join(t *testing.T, clock clockwork.Clock, id, host string, port int) (*Resolver, *member) {
	t.Helper()
	own, err := ownService(components.Sidecar{AppID: id, HostAddress: host, InternalPort: port})
	if err != nil {
		t.Fatal(err)
	}
	m := &member{bus: b}
	r := start(t.Context(), components.Instance{Clock: clock}, own, m)
	t.Cleanup(func() {
		if err := r.Close(); err != nil {
			t.Error(err)
		}
	})
	return r, m
}

// eventually waits for a condition.
func eventually(t *testing.T, what string, condition func() bool) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !condition(); {
		if time.Now().After(deadline) {
			t.Fatal("timed out: " + what)
		}
		time.Sleep(time.Millisecond)
	}
}
