package mdns

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jonboulle/clockwork"
	"github.com/miekg/dns"

	"outrigger.dev/components"
	"outrigger.dev/components/nameresolution"
)

func resolve(t *testing.T, r nameresolution.Resolver, id string) string {
	t.Helper()
	address, err := r.Resolve(t.Context(), nameresolution.Request{ID: id})
	if err != nil {
		t.Fatal(err)
	}
	return address
}

// known waits until n instances of an app are known; the first one ends the wait of Resolve.
func known(t *testing.T, r *Resolver, id string, n int) {
	t.Helper()
	eventually(t, "all instances", func() bool {
		r.mu.RLock()
		defer r.mu.RUnlock()
		a := r.apps[id]
		return a != nil && len(a.instances) == n
	})
}

func TestFindEachOther(t *testing.T) {
	for _, tt := range []struct{ host, want string }{
		{"10.1.2.3", "10.1.2.3:4567"},
		{"localhost", "127.0.0.1:4567"},
		{"2001:db8::1", "[2001:db8::1]:4567"},
		{"fe80::1", "[fe80::1%eth9]:4567"},
		{"::ffff:10.1.2.3", "10.1.2.3:4567"},
	} {
		t.Run(tt.host, func(t *testing.T) {
			var b bus
			clock := clockwork.NewFakeClock()
			b.join(t, clock, "app-1", tt.host, 4567)
			r, _ := b.join(t, clock, "app-2", "10.9.9.9", 1)
			if got := resolve(t, r, "app-1"); got != tt.want {
				t.Errorf("got %s, want %s", got, tt.want)
			}
		})
	}
}

func TestUnusualIDs(t *testing.T) {
	for _, id := range []string{"with space", "café", `quo"te`, "semi;colon", "dotted.id", "UPPER"} {
		t.Run(id, func(t *testing.T) {
			var b bus
			clock := clockwork.NewFakeClock()
			b.join(t, clock, id, "10.1.2.3", 4567)
			r, _ := b.join(t, clock, "", "", 0)
			if got := resolve(t, r, id); got != "10.1.2.3:4567" {
				t.Errorf("got %s", got)
			}
		})
	}
}

func TestOwnAppNeedsNoNetwork(t *testing.T) {
	var b bus
	own, err := ownService(components.Sidecar{AppID: "me", HostAddress: "10.1.2.3", InternalPort: 50002})
	if err != nil {
		t.Fatal(err)
	}
	r := start(t.Context(), components.Instance{}, own, &member{bus: &b, broken: errors.New("no multicast")})
	defer func() { _ = r.Close() }()
	if got := resolve(t, r, "me"); got != "10.1.2.3:50002" {
		t.Errorf("got %s", got)
	}
}

func TestBrokenNetwork(t *testing.T) {
	var b bus
	r := start(t.Context(), components.Instance{}, nil, &member{bus: &b, broken: errors.New("no interface has multicast")})
	defer func() { _ = r.Close() }()
	_, err := r.Resolve(t.Context(), nameresolution.Request{ID: "other"})
	for _, part := range []string{"couldn't find service: other", "no interface has multicast", "sqlite"} {
		if err == nil || !strings.Contains(err.Error(), part) {
			t.Errorf("error %v does not contain %q", err, part)
		}
	}
}

func TestUnknownApp(t *testing.T) {
	var b bus
	clock := clockwork.NewFakeClock()
	r, _ := b.join(t, clock, "", "", 0)
	const callers = 5
	results := make(chan error, callers)
	for range callers {
		go func() {
			_, err := r.Resolve(t.Context(), nameresolution.Request{ID: "ghost"})
			results <- err
		}()
	}
	// The refresh, the two timers of the shared search, and the bound of each caller.
	if err := clock.BlockUntilContext(t.Context(), 3+callers); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the first query", func() bool { return b.count(asksFor("ghost")) == 1 })
	clock.Advance(repeatAfter)
	eventually(t, "the second query", func() bool { return b.count(asksFor("ghost")) == 2 })
	clock.Advance(browseFor - repeatAfter)
	for range callers {
		if err := <-results; err == nil || err.Error() != "couldn't find service: ghost" {
			t.Errorf("got the error %v", err)
		}
	}
	if n := b.count(asksFor("ghost")); n != 2 {
		t.Errorf("%d queries for %d callers, want 2", n, callers)
	}
	r.mu.RLock()
	defer r.mu.RUnlock()
	if len(r.apps) != 0 || len(r.byName) != 0 {
		t.Errorf("an unknown app is remembered: %v", r.apps)
	}
}

func TestLateAnswerEndsTheWait(t *testing.T) {
	var b bus
	clock := clockwork.NewFakeClock()
	r, _ := b.join(t, clock, "", "", 0)
	found := make(chan string)
	go func() {
		address, err := r.Resolve(t.Context(), nameresolution.Request{ID: "late"})
		if err != nil {
			address = err.Error()
		}
		found <- address
	}()
	eventually(t, "the query", func() bool { return b.count(asksFor("late")) == 1 })
	b.join(t, clock, "late", "10.0.0.1", 1000) // it sends its first announcement after two probes
	if err := clock.BlockUntilContext(t.Context(), 4); err != nil {
		t.Fatal(err)
	}
	for {
		select {
		case got := <-found:
			if got != "10.0.0.1:1000" {
				t.Errorf("got %s", got)
			}
			return
		default:
			clock.Advance(10 * time.Millisecond)
			time.Sleep(time.Millisecond)
		}
	}
}

func TestCallerGivesUp(t *testing.T) {
	var b bus
	r, _ := b.join(t, clockwork.NewFakeClock(), "", "", 0)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := r.Resolve(ctx, nameresolution.Request{ID: "ghost"}); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}

func TestCloseEndsTheWait(t *testing.T) {
	var b bus
	r, _ := b.join(t, clockwork.NewFakeClock(), "", "", 0)
	result := make(chan error)
	go func() {
		_, err := r.Resolve(t.Context(), nameresolution.Request{ID: "ghost"})
		result <- err
	}()
	eventually(t, "the query", func() bool { return b.count(asksFor("ghost")) == 1 })
	_ = r.Close()
	if err := <-result; !errors.Is(err, errClosed) {
		t.Errorf("got %v", err)
	}
	if _, err := r.Resolve(t.Context(), nameresolution.Request{ID: "ghost"}); !errors.Is(err, errClosed) {
		t.Errorf("after Close: %v", err)
	}
}

func TestTakingTurns(t *testing.T) {
	var b bus
	clock := clockwork.NewFakeClock()
	b.join(t, clock, "app", "10.0.0.1", 1000)
	b.join(t, clock, "app", "10.0.0.2", 1000)
	b.join(t, clock, "app", "2001:db8::1", 1000)
	r, _ := b.join(t, clock, "", "", 0)
	counts := map[string]int{}
	resolve(t, r, "app")
	known(t, r, "app", 3)
	for range 10 {
		counts[resolve(t, r, "app")]++
	}
	if counts["10.0.0.1:1000"] != 5 || counts["10.0.0.2:1000"] != 5 {
		t.Errorf("not in turns, or not IPv4 first: %v", counts)
	}
	if n := b.count(asksFor("app")); n != 1 {
		t.Errorf("%d queries, want 1", n)
	}
	r.Forget("app", "10.0.0.1:1000")
	r.Forget("app", "10.0.0.1:1000")
	for range 3 {
		if got := resolve(t, r, "app"); got != "10.0.0.2:1000" {
			t.Errorf("after Forget: got %s", got)
		}
	}
	r.Forget("app", "10.0.0.2:1000")
	if got := resolve(t, r, "app"); got != "[2001:db8::1]:1000" {
		t.Errorf("without IPv4: got %s", got)
	}
}

func TestGoodbyeRemovesAtOnce(t *testing.T) {
	var b bus
	clock := clockwork.NewFakeClock()
	leaving, _ := b.join(t, clock, "app", "10.0.0.1", 1000)
	b.join(t, clock, "app", "10.0.0.2", 2000) // of the same process, thus with the same instance name
	r, _ := b.join(t, clock, "", "", 0)
	resolve(t, r, "app")
	known(t, r, "app", 2)
	_ = leaving.Close()
	for range 4 {
		if got := resolve(t, r, "app"); got != "10.0.0.2:2000" {
			t.Errorf("got %s", got)
		}
	}
}

func TestAgeing(t *testing.T) {
	var b bus
	clock := clockwork.NewFakeClock()
	_, silent := b.join(t, clock, "app", "10.0.0.1", 1000)
	b.join(t, clock, "app", "10.0.0.2", 1000)
	r, _ := b.join(t, clock, "", "", 0)
	resolve(t, r, "app")
	known(t, r, "app", 2)
	silent.close() // without a goodbye
	list := func() []string { return r.apps["app"].addresses.Load().v4 }
	eventually(t, "the silent one to go", func() bool {
		clock.Advance(time.Second)
		r.mu.RLock()
		defer r.mu.RUnlock()
		return slices.Equal(list(), []string{"10.0.0.2:1000"})
	})
}

func TestIdleAppsAreForgotten(t *testing.T) {
	var b bus
	clock := clockwork.NewFakeClock()
	b.join(t, clock, "app", "10.0.0.1", 1000)
	r, _ := b.join(t, clock, "me", "10.0.0.2", 1000)
	resolve(t, r, "app")
	for range idleRounds + 1 { // the first round notes the use
		if got := resolve(t, r, "me"); got != "10.0.0.2:1000" {
			t.Errorf("own app: got %s", got)
		}
		r.age()
	}
	if r.apps["app"] != nil || r.apps["me"] == nil {
		t.Errorf("remembered: %v", r.apps)
	}
}

func TestForgeries(t *testing.T) {
	good := func() *dns.Msg {
		s, err := newService("app", "host", 1, netip.MustParseAddr("10.0.0.1"), 1000)
		if err != nil {
			t.Fatal(err)
		}
		return unpack(s.browseReply)
	}
	tests := []struct {
		name   string
		change func(*dns.Msg)
		want   int
	}{
		{"unchanged", func(*dns.Msg) {}, 1},
		{"other text", func(m *dns.Msg) { m.Extra[1].(*dns.TXT).Txt = []string{"else"} }, 0},
		{"several texts", func(m *dns.Msg) { m.Extra[1].(*dns.TXT).Txt = []string{"app", "app"} }, 0},
		{"no port", func(m *dns.Msg) { m.Extra[0].(*dns.SRV).Port = 0 }, 0},
		{"no address", func(m *dns.Msg) { m.Extra = m.Extra[:2] }, 0},
		{"unspecified address", func(m *dns.Msg) { m.Extra[2].(*dns.A).A = net.IPv4zero }, 0},
		{"multicast address", func(m *dns.Msg) { m.Extra[2].(*dns.A).A = net.IPv4(224, 0, 0, 251) }, 0},
		{"an error code", func(m *dns.Msg) { m.Rcode = dns.RcodeServerFailure }, 0},
		{"a query", func(m *dns.Msg) { m.Response = false }, 0},
		{"another app", func(m *dns.Msg) { m.Answer[0].Header().Name = "other.local." }, 0},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var b bus
			r, _ := b.join(t, clockwork.NewFakeClock(), "", "", 0)
			a := &app{id: "app", name: "app.local."}
			r.apps["app"], r.byName["app.local."] = a, a
			m := good()
			tt.change(m)
			b.send(pack(m), netip.MustParseAddrPort("10.0.0.1:5353"))
			if len(a.instances) != tt.want {
				t.Errorf("learned %v", a.instances)
			}
		})
	}
}

func TestOpenRefusesWhatCannotBeAnnounced(t *testing.T) {
	tests := []struct {
		sidecar components.Sidecar
		want    string
	}{
		{components.Sidecar{AppID: "a", HostAddress: "my.host", InternalPort: 1}, `"my.host"`},
		{components.Sidecar{AppID: "a", HostAddress: "", InternalPort: 1}, "DAPR_HOST_IP"},
		{components.Sidecar{AppID: "a", HostAddress: "10.0.0.1"}, "port 0"},
		{components.Sidecar{AppID: strings.Repeat("a", 64), HostAddress: "10.0.0.1", InternalPort: 1}, "1 to 63 bytes"},
	}
	for _, tt := range tests {
		var reg components.Registry
		Register(&reg)
		d, err := reg.Lookup(components.NameResolution, "mdns", "")
		if err != nil {
			t.Fatal(err)
		}
		_, err = d.Open(t.Context(), components.Instance{Sidecar: tt.sidecar})
		if err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%+v: got the error %v, want one with %q", tt.sidecar, err, tt.want)
		}
	}
}

// Two sidecars find each other through the kernel.
func TestRealMulticast(t *testing.T) {
	var reg components.Registry
	Register(&reg)
	d, err := reg.Lookup(components.NameResolution, "mdns", "v1")
	if err != nil {
		t.Fatal(err)
	}
	suffix := strconv.Itoa(os.Getpid()) + "-" + strconv.FormatInt(time.Now().UnixNano()%1e9, 36)
	ids := []string{"outrigger-test-a-" + suffix, "outrigger-test-b-" + suffix}
	hosts := []string{"127.0.0.1", "::1"}
	wants := []string{"127.0.0.1:4001", "[::1]:4002"}
	var resolvers []*Resolver
	for i := range ids {
		c, err := d.Open(t.Context(), components.Instance{Sidecar: components.Sidecar{AppID: ids[i], HostAddress: hosts[i], InternalPort: 4001 + i}})
		if err != nil {
			t.Fatal(err)
		}
		r := c.(*Resolver)
		defer func() { _ = r.Close() }()
		if problem := r.link.problem(); problem != nil {
			t.Skip("this machine has no multicast: " + problem.Error())
		}
		resolvers = append(resolvers, r)
	}
	began := time.Now()
	var wg sync.WaitGroup
	for i := range ids {
		wg.Go(func() {
			address, err := resolvers[1-i].Resolve(t.Context(), nameresolution.Request{ID: ids[i]})
			if err != nil || address != wants[i] {
				t.Errorf("%s: got %s, %v, want %s", ids[i], address, err, wants[i])
			}
		})
	}
	wg.Wait()
	t.Logf("found each other after %s", time.Since(began))
	_ = resolvers[0].Close()
	eventually(t, "the goodbye", func() bool {
		r := resolvers[1]
		r.mu.RLock()
		defer r.mu.RUnlock()
		return r.apps[ids[0]] == nil
	})
	if _, err := resolvers[1].Resolve(t.Context(), nameresolution.Request{ID: ids[0]}); err == nil || err.Error() != "couldn't find service: "+ids[0] {
		t.Errorf("got the error %v", err)
	}
}

// Loopback alone is enough for the sidecars of one machine.
func TestRealLoopback(t *testing.T) {
	id := "outrigger-test-lo-" + strconv.Itoa(os.Getpid())
	var links []*network
	for range 2 {
		n := newNetwork(nil)
		own := (*service)(nil)
		if len(links) == 0 {
			var err error
			if own, err = ownService(components.Sidecar{AppID: id, HostAddress: "127.0.0.1", InternalPort: 4003}); err != nil {
				t.Fatal(err)
			}
		}
		r := start(t.Context(), components.Instance{}, own, n)
		defer func() { _ = r.Close() }()
		n.mu.Lock()
		carriers := 0
		for _, s := range n.sockets {
			for index, i := range s.joined {
				if i.Flags&net.FlagLoopback == 0 || s.family == 6 {
					delete(s.joined, index)
				} else {
					carriers++
				}
			}
		}
		n.mu.Unlock()
		if carriers == 0 {
			t.Skip("this machine has no multicast on loopback")
		}
		links = append(links, n)
		if len(links) == 2 {
			if got := resolve(t, r, id); got != "127.0.0.1:4003" {
				t.Errorf("got %s", got)
			}
		}
	}
}

func BenchmarkResolveKnown(b *testing.B) {
	r := &Resolver{apps: map[string]*app{}}
	a := &app{id: "app", instances: []*instance{{v4: "10.0.0.1:1"}, {v4: "10.0.0.2:1"}}}
	a.publish()
	r.apps["app"] = a
	b.ReportAllocs()
	for b.Loop() {
		if _, err := r.Resolve(b.Context(), nameresolution.Request{ID: "app"}); err != nil {
			b.Fatal(err)
		}
	}
}
