package mdns

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jonboulle/clockwork"
	"github.com/miekg/dns"

	"outrigger.dev/components"
	"outrigger.dev/components/nameresolution"
)

// failure is the error of looking for an app that does not answer.
func failure(t *testing.T, m *member) error {
	t.Helper()
	clock := clockwork.NewFakeClock()
	r := start(t.Context(), components.Instance{Clock: clock}, nil, m)
	t.Cleanup(func() { _ = r.Close() })
	failed := make(chan error, 1)
	go func() {
		_, err := r.Resolve(context.Background(), nameresolution.Request{ID: "ghost"})
		failed <- err
	}()
	// The refresh, the two timers of the search, and the bound of the caller.
	if err := clock.BlockUntilContext(t.Context(), 4); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the query", func() bool { return m.bus.count(asksFor("ghost")) == 1 })
	clock.Advance(browseFor)
	return <-failed
}

func TestWhyNothingIsFound(t *testing.T) {
	for _, tc := range []struct {
		name   string
		member *member
		want   []string
		exact  bool
	}{
		{"it is not there", &member{bus: &bus{}}, []string{"couldn't find service: ghost"}, true},
		{"packets are held back", &member{bus: &bus{}, deaf: true}, []string{"couldn't find service: ghost: no packet", "5353", "sqlite"}, false},
		{"half a network", &member{bus: &bus{}, halved: errTaken}, []string{"couldn't find service: ghost: ", "a part of this machine's network", "another program has it", "sqlite"}, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			err := failure(t, tc.member)
			for _, want := range tc.want {
				if err == nil || !strings.Contains(err.Error(), want) || tc.exact && err.Error() != want {
					t.Errorf("%v; want %q", err, want)
				}
			}
		})
	}
}

// TestPortTaken has another program hold the port without sharing it.
func TestPortTaken(t *testing.T) {
	v4, err := net.ListenPacket("udp4", "0.0.0.0:0")
	if err != nil {
		t.Fatal(err)
	}
	defer v4.Close()
	taken := v4.LocalAddr().(*net.UDPAddr).Port
	if v6, err := net.ListenPacket("udp6", fmt.Sprintf("[::]:%d", taken)); err == nil {
		defer v6.Close()
	}
	n := newNetwork(nil)
	n.port = taken
	r := start(t.Context(), components.Instance{}, nil, n)
	defer func() { _ = r.Close() }()
	began := time.Now()
	_, err = r.Resolve(t.Context(), nameresolution.Request{ID: "other"})
	for _, want := range []string{"couldn't find service: other", fmt.Sprintf("cannot open UDP port %d for IPv4: another program has it", taken), "stop it", "sqlite"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v; want %q", err, want)
		}
	}
	if err != nil && strings.Contains(err.Error(), "\n") {
		t.Errorf("more than one line: %q", err)
	}
	if d := time.Since(began); d >= browseFor {
		t.Errorf("it took %s to say so", d)
	}
}

func TestHalfTaken(t *testing.T) {
	v4, err := net.ListenPacket("udp4", "0.0.0.0:0")
	if err != nil {
		t.Fatal(err)
	}
	defer v4.Close()
	n := newNetwork(nil)
	n.port = v4.LocalAddr().(*net.UDPAddr).Port
	if err := n.open(t.Context(), func(packet) {}); err != nil {
		t.Skip("this machine has no IPv6: " + err.Error())
	}
	if err := n.partial(); !errors.Is(err, errTaken) {
		t.Errorf("partial: %v", err)
	}
	// It is had as soon as the other program ends.
	_ = v4.Close()
	n.refresh()
	if err := n.partial(); err != nil {
		t.Errorf("after the other program's end: %v", err)
	}
	n.close()
}

func TestFloodOfQuestions(t *testing.T) {
	var b bus
	clock := clockwork.NewFakeClock()
	b.join(t, clock, "app", "10.0.0.1", 1000)
	if err := clock.BlockUntilContext(t.Context(), 2); err != nil { // announcement and refresh
		t.Fatal(err)
	}
	replies := func() int {
		return b.count(func(m *dns.Msg) bool { return m.Response && len(m.Answer) == 1 && len(m.Extra) == 3 })
	}
	ask := func(class uint16, from string, times int) {
		q := pack(&dns.Msg{Question: []dns.Question{{Name: "app.local.", Qtype: dns.TypePTR, Qclass: class}}})
		for range times {
			b.send(q, netip.MustParseAddrPort(from))
		}
	}
	ask(dns.ClassINET, "10.0.0.2:5353", 1000)
	if n := replies(); n != 1 {
		t.Errorf("%d replies at once", n)
	}
	if err := clock.BlockUntilContext(t.Context(), 3); err != nil { // the one that is due
		t.Fatal(err)
	}
	clock.Advance(replyGap)
	eventually(t, "all who asked meanwhile get one reply", func() bool { return replies() == 2 })
	ask(dns.ClassINET|unicastResponse, "10.0.0.2:5353", 1000)
	ask(dns.ClassINET, "10.0.0.2:999", 1000)
	b.mu.Lock()
	direct := len(b.direct)
	b.mu.Unlock()
	if direct > otherReplies || direct < otherReplies-2 { // the sidecar's own probes count too
		t.Errorf("%d direct replies", direct)
	}
	clock.Advance(time.Second)
	ask(dns.ClassINET, "10.0.0.2:999", 1)
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.direct) != direct+1 {
		t.Error("no reply after the flood")
	}
}

func TestFloodOfAnswers(t *testing.T) {
	var b bus
	clock := clockwork.NewFakeClock()
	b.join(t, clock, "app", "10.0.0.1", 1000)
	r, _ := b.join(t, clock, "", "", 0)
	resolve(t, r, "app")
	for i := range 4 * maxInstances {
		s, err := newService("app", fmt.Sprintf("forged%d", i), i, netip.AddrFrom4([4]byte{10, 9, byte(i >> 8), byte(i)}), 1)
		if err != nil {
			t.Fatal(err)
		}
		b.send(s.browseReply, netip.MustParseAddrPort("10.0.0.66:5353"))
		other, err := newService(fmt.Sprintf("unwanted%d", i), "h", i, netip.MustParseAddr("10.0.0.66"), 1)
		if err != nil {
			t.Fatal(err)
		}
		b.send(other.announcement, netip.MustParseAddrPort("10.0.0.66:5353"))
	}
	r.mu.RLock()
	defer r.mu.RUnlock()
	if len(r.apps) != 1 || len(r.apps["app"].instances) != maxInstances {
		t.Errorf("%d apps, %d instances are remembered", len(r.apps), len(r.apps["app"].instances))
	}
}

func TestConcerns(t *testing.T) {
	s := sampleService(t)
	question := func(names ...string) []byte {
		m := &dns.Msg{}
		for _, n := range names {
			m.Question = append(m.Question, dns.Question{Name: n, Qtype: dns.TypePTR, Qclass: dns.ClassINET})
		}
		return pack(m)
	}
	for _, tc := range []struct {
		name string
		data []byte
		want bool
	}{
		{"service", question(s.name), true},
		{"other case", question(strings.ToUpper(s.name)), true},
		{"instance", question(s.instance), true},
		{"host", question(s.host), true},
		{"catalogue", question(catalogue), true},
		{"second", question("other.local.", s.name), true},
		{"compressed", func() []byte {
			m := &dns.Msg{Compress: true, Question: []dns.Question{{Name: "other.local.", Qtype: 1, Qclass: 1}, {Name: s.name, Qtype: 1, Qclass: 1}}}
			return pack(m)
		}(), true},
		{"other", question("other.local."), false},
		{"longer", question("x" + s.name), false},
		{"below", question("x." + s.name), false},
		{"root", question("."), false},
		{"nothing", question(), false},
		{"cut", question(s.name)[:16], false},
	} {
		if got := s.concerns(tc.data[12:], int(tc.data[5])); got != tc.want {
			t.Errorf("%s: %v", tc.name, got)
		}
	}
}

func FuzzConcerns(f *testing.F) {
	s := sampleService(f)
	f.Add(pack(&dns.Msg{Question: []dns.Question{{Name: s.name, Qtype: 1, Qclass: 1}}}))
	f.Fuzz(func(t *testing.T, data []byte) {
		var msg dns.Msg
		if len(data) < 12 || msg.Unpack(data) != nil {
			return
		}
		wanted := false
		for _, q := range msg.Question {
			wanted = wanted || s.reply(q, nil) != nil
		}
		if wanted && !s.concerns(data[12:], int(data[4])<<8|int(data[5])) {
			t.Errorf("a question for the service is dropped: %v", msg.Question)
		}
	})
}

func TestManyApps(t *testing.T) {
	var b bus
	const apps, callers = 200, 20
	for i := range apps {
		own, err := ownService(components.Sidecar{AppID: fmt.Sprintf("app-%d", i), HostAddress: "10.0.0.1", InternalPort: 1000 + i})
		if err != nil {
			t.Fatal(err)
		}
		m := &member{bus: &b}
		r := start(t.Context(), components.Instance{Clock: clockwork.NewFakeClock()}, own, m)
		defer func() { _ = r.Close() }()
	}
	r, _ := b.join(t, clockwork.NewRealClock(), "", "", 0)
	var wg sync.WaitGroup
	for range callers {
		wg.Go(func() {
			for i := range apps {
				address, err := r.Resolve(t.Context(), nameresolution.Request{ID: fmt.Sprintf("app-%d", i)})
				if want := fmt.Sprintf("10.0.0.1:%d", 1000+i); err != nil || address != want {
					t.Errorf("app-%d: %q, %v", i, address, err)
				}
			}
		})
	}
	wg.Wait()
	for i := range apps {
		if n := b.count(asksFor(fmt.Sprintf("app-%d", i))); n > 2 { // the search, and a second one for further instances
			t.Errorf("app-%d was asked for %d times", i, n)
		}
	}
}

// TestRealCrowd has many sidecars of one machine look for each other at the same time, through the kernel.
func TestRealCrowd(t *testing.T) {
	const sidecars, each, tries = 30, 8, 5
	prefix := fmt.Sprintf("outrigger-crowd-%d-%d-", os.Getpid(), time.Now().UnixNano()%1e6)
	var resolvers []*Resolver
	for i := range sidecars {
		r, err := Open(t.Context(), components.Instance{Clock: clockwork.NewRealClock(), Sidecar: components.Sidecar{AppID: fmt.Sprint(prefix, i), HostAddress: "127.0.0.1", InternalPort: 2000 + i}})
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = r.Close() }()
		if problem := r.(*Resolver).link.problem(); problem != nil {
			t.Skip("this machine has no multicast: " + problem.Error())
		}
		resolvers = append(resolvers, r.(*Resolver))
	}
	var wg sync.WaitGroup
	var again atomic.Int64
	for i, r := range resolvers {
		for n := range each {
			wg.Go(func() {
				other := (i + 1 + 3*n) % sidecars
				address, err := r.Resolve(t.Context(), nameresolution.Request{ID: fmt.Sprint(prefix, other)})
				for try := 1; err != nil && try < tries; try++ { // a machine that has other work to do loses packets
					again.Add(1)
					address, err = r.Resolve(t.Context(), nameresolution.Request{ID: fmt.Sprint(prefix, other)})
				}
				if want := fmt.Sprintf("127.0.0.1:%d", 2000+other); err != nil || address != want {
					t.Errorf("%d looks for %d: %q, %v", i, other, address, err)
				}
			})
		}
	}
	wg.Wait()
	t.Logf("%d of %d look-ups were repeated", again.Load(), sidecars*each)
}

func TestCloseEndsEverything(t *testing.T) {
	before := runtime.NumGoroutine()
	for range 5 {
		own, err := ownService(components.Sidecar{AppID: "closing", HostAddress: "127.0.0.1", InternalPort: 1})
		if err != nil {
			t.Fatal(err)
		}
		r := start(t.Context(), components.Instance{}, own, newNetwork(nil))
		var wg sync.WaitGroup
		for i := range 20 {
			wg.Go(func() { _, _ = r.Resolve(t.Context(), nameresolution.Request{ID: fmt.Sprintf("ghost-%d", i)}) })
		}
		q := pack(&dns.Msg{Question: []dns.Question{{Name: "closing.local.", Qtype: dns.TypePTR, Qclass: dns.ClassINET}}})
		for range 10 { // so that a reply is due
			r.receive(packet{data: q, from: netip.MustParseAddrPort("127.0.0.1:5353"), via: route{family: 4, index: 1}})
		}
		if err := r.Close(); err != nil {
			t.Error(err)
		}
		wg.Wait()
		r.receive(packet{data: q, from: netip.MustParseAddrPort("127.0.0.1:5353")})
		if _, err := r.Resolve(t.Context(), nameresolution.Request{ID: "late"}); !errors.Is(err, errClosed) {
			t.Errorf("after Close: %v", err)
		}
	}
	eventually(t, "all goroutines end", func() bool { return runtime.NumGoroutine() <= before })
}

func BenchmarkResolveKnownParallel(b *testing.B) {
	r := &Resolver{apps: map[string]*app{}}
	for i := range 100 {
		a := &app{id: fmt.Sprintf("app-%d", i), instances: []*instance{{v4: "10.0.0.1:1"}}}
		a.publish()
		r.apps[a.id] = a
	}
	b.ReportAllocs()
	b.RunParallel(func(p *testing.PB) {
		for p.Next() {
			if _, err := r.Resolve(context.Background(), nameresolution.Request{ID: "app-7"}); err != nil {
				b.Fatal(err)
			}
		}
	})
}

func BenchmarkUnrelatedPacket(b *testing.B) {
	s, err := newService("unrelated", "host", 1, netip.MustParseAddr("10.0.0.1"), 1)
	if err != nil {
		b.Fatal(err)
	}
	r := &Resolver{apps: map[string]*app{}, byName: map[string]*app{}, ctx: context.Background()}
	for b.Loop() {
		r.receive(packet{data: s.announcement})
	}
}
