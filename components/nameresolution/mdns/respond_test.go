package mdns

import (
	"net"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/jonboulle/clockwork"
	"github.com/miekg/dns"

	"outrigger.dev/components/nameresolution"
)

func sampleService(t testing.TB) *service {
	t.Helper()
	s, err := newService("myapp", "box", 42, netip.MustParseAddr("10.0.0.1"), 50002)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// lines writes records as zone file lines without tabs; the cache-flush bit shows as the class CLASS32769.
func lines(rrs []dns.RR) []string {
	var all []string
	for _, rr := range rrs {
		all = append(all, strings.ReplaceAll(rr.String(), "\t", " "))
	}
	return all
}

func TestPackets(t *testing.T) {
	s := sampleService(t)
	const flush = "CLASS32769"
	tests := []struct {
		name              string
		data              []byte
		response          bool
		question          string
		answer, ns, extra []string
	}{
		{
			name: "browse reply", data: s.browseReply, response: true,
			answer: []string{"myapp.local. 3200 IN PTR box:42.myapp.local."},
			extra:  []string{"box:42.myapp.local. 3200 IN SRV 0 0 50002 box.local.", `box:42.myapp.local. 3200 IN TXT "myapp"`, "box.local. 120 IN A 10.0.0.1"},
		},
		{
			name: "probe", data: s.probe, question: ";box:42.myapp.local. IN  ANY",
			ns: []string{"box:42.myapp.local. 3200 IN SRV 0 0 50002 box.local.", `box:42.myapp.local. 3200 IN TXT "myapp"`},
		},
		{
			name: "announcement", data: s.announcement, response: true,
			answer: []string{
				"box:42.myapp.local. 3200 " + flush + " SRV 0 0 50002 box.local.", "box:42.myapp.local. 3200 " + flush + ` TXT "myapp"`,
				"myapp.local. 3200 IN PTR box:42.myapp.local.", "_services._dns-sd._udp.local. 3200 IN PTR myapp.local.", "box.local. 120 " + flush + " A 10.0.0.1",
			},
		},
		{
			name: "goodbye", data: s.goodbye, response: true,
			answer: []string{
				"box:42.myapp.local. 0 " + flush + " SRV 0 0 50002 box.local.", "box:42.myapp.local. 0 " + flush + ` TXT "myapp"`,
				"myapp.local. 0 IN PTR box:42.myapp.local.", "_services._dns-sd._udp.local. 0 IN PTR myapp.local.", "box.local. 0 " + flush + " A 10.0.0.1",
			},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			m := unpack(tt.data)
			if m.Response != tt.response || m.Authoritative != tt.response || m.Id != 0 || m.RecursionDesired {
				t.Errorf("header %+v", m.MsgHdr)
			}
			question := ""
			if len(m.Question) > 0 {
				question = strings.ReplaceAll(m.Question[0].String(), "\t", " ")
			}
			if question != tt.question {
				t.Errorf("question %q, want %q", question, tt.question)
			}
			for _, section := range []struct {
				name      string
				got, want []string
			}{{"answer", lines(m.Answer), tt.answer}, {"authority", lines(m.Ns), tt.ns}, {"additional", lines(m.Extra), tt.extra}} {
				if !slices.Equal(section.got, section.want) {
					t.Errorf("%s section\n got %q\nwant %q", section.name, section.got, section.want)
				}
			}
		})
	}
}

func TestReply(t *testing.T) {
	s := sampleService(t)
	pointer := "myapp.local. 3200 IN PTR box:42.myapp.local."
	fresh := []dns.RR{s.pointer(serviceTTL / 2)}
	tests := []struct {
		name  string
		qname string
		qtype uint16
		known []dns.RR
		want  []string
		extra int
	}{
		{"browse", "myapp.local.", dns.TypePTR, nil, []string{pointer}, 3},
		{"any", "myapp.local.", dns.TypeANY, nil, []string{pointer}, 3},
		{"names have no case", "MyApp.LOCAL.", dns.TypePTR, nil, []string{pointer}, 3},
		{"known", "myapp.local.", dns.TypePTR, fresh, nil, 0},
		{"known but old", "myapp.local.", dns.TypePTR, []dns.RR{s.pointer(serviceTTL/2 - 1)}, []string{pointer}, 3},
		{"another instance known", "myapp.local.", dns.TypePTR, []dns.RR{&dns.PTR{Hdr: header("myapp.local.", dns.TypePTR, 0, 3200), Ptr: "x.myapp.local."}}, []string{pointer}, 3},
		{"catalogue", "_services._dns-sd._udp.local.", dns.TypePTR, nil, []string{"_services._dns-sd._udp.local. 3200 IN PTR myapp.local."}, 0},
		{"instance", "box:42.myapp.local.", dns.TypeANY, nil, []string{"box:42.myapp.local. 3200 IN SRV 0 0 50002 box.local.", `box:42.myapp.local. 3200 IN TXT "myapp"`}, 1},
		{"text", "box:42.myapp.local.", dns.TypeTXT, nil, []string{`box:42.myapp.local. 3200 IN TXT "myapp"`}, 1},
		{"host", "box.local.", dns.TypeA, nil, []string{"box.local. 120 IN A 10.0.0.1"}, 0},
		{"host in the other family", "box.local.", dns.TypeAAAA, nil, nil, 0},
		{"other app", "yourapp.local.", dns.TypePTR, nil, nil, 0},
		{"other type", "myapp.local.", dns.TypeA, nil, nil, 0},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			m := s.reply(dns.Question{Name: tt.qname, Qtype: tt.qtype, Qclass: dns.ClassINET}, tt.known)
			if m == nil {
				if tt.want != nil {
					t.Fatal("no reply")
				}
				return
			}
			if got := lines(m.Answer); !slices.Equal(got, tt.want) || len(m.Extra) != tt.extra {
				t.Errorf("got %q and %d more, want %q and %d", got, len(m.Extra), tt.want, tt.extra)
			}
		})
	}
}

func TestWayOfReply(t *testing.T) {
	tests := []struct {
		name          string
		class         uint16
		from          string
		group, direct int
	}{
		{"multicast", dns.ClassINET, "10.0.0.2:5353", 1, 0},
		{"unicast wanted", dns.ClassINET | unicastResponse, "10.0.0.2:5353", 0, 1},
		{"legacy", dns.ClassINET, "10.0.0.2:40000", 0, 1},
		{"other class", dns.ClassCHAOS, "10.0.0.2:5353", 0, 0},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var b bus
			clock := clockwork.NewFakeClock()
			b.join(t, clock, "app", "10.0.0.1", 1000)
			q := &dns.Msg{MsgHdr: dns.MsgHdr{Id: 77}, Question: []dns.Question{{Name: "app.local.", Qtype: dns.TypePTR, Qclass: tt.class}}}
			b.send(pack(q), netip.MustParseAddrPort(tt.from))
			group := b.count(func(m *dns.Msg) bool { return m.Response && len(m.Extra) == 3 })
			if group != tt.group || len(b.direct) != tt.direct {
				t.Fatalf("%d to the group and %d direct, want %d and %d", group, len(b.direct), tt.group, tt.direct)
			}
			if tt.name == "legacy" {
				m := b.direct[0]
				if m.Id != 77 || len(m.Question) != 1 || m.Answer[0].Header().Ttl != legacyTTL || m.Extra[2].Header().Ttl != legacyTTL {
					t.Errorf("not a legacy reply: %v", m)
				}
			}
		})
	}
}

func TestAnnounce(t *testing.T) {
	var b bus
	clock := clockwork.NewFakeClock()
	r, m := b.join(t, clock, "app", "10.0.0.1", 1000)
	probes := func() int {
		return b.count(func(m *dns.Msg) bool { return !m.Response && len(m.Ns) == 2 })
	}
	announcements := func() int {
		return b.count(func(m *dns.Msg) bool {
			return m.Response && len(m.Answer) == 5 && m.Answer[0].Header().Ttl == serviceTTL
		})
	}
	step := func() { // both the refresh and the announcement wait
		t.Helper()
		if err := clock.BlockUntilContext(t.Context(), 2); err != nil {
			t.Fatal(err)
		}
	}
	step()
	if probes() != 1 || announcements() != 0 {
		t.Fatalf("at first: %d probes, %d announcements", probes(), announcements())
	}
	clock.Advance(250 * time.Millisecond)
	eventually(t, "the second probe", func() bool { return probes() == 2 })
	step()
	clock.Advance(250 * time.Millisecond)
	eventually(t, "the first announcement", func() bool { return announcements() == 1 })
	step()
	clock.Advance(time.Second)
	eventually(t, "the second announcement", func() bool { return announcements() == 2 })

	m.added = true // a network has come up
	clock.Advance(refreshEvery)
	eventually(t, "the announcement on the new interface", func() bool {
		clock.Advance(250 * time.Millisecond)
		return announcements() > 2
	})

	goodbyes := func() int {
		return b.count(func(m *dns.Msg) bool {
			return m.Response && len(m.Answer) == 5 && !slices.ContainsFunc(m.Answer, func(rr dns.RR) bool { return rr.Header().Ttl != 0 })
		})
	}
	if goodbyes() != 0 {
		t.Fatal("a goodbye before the end")
	}
	_ = r.Close()
	_ = r.Close()
	if goodbyes() != 1 {
		t.Errorf("%d goodbyes", goodbyes())
	}
}

func TestInstanceName(t *testing.T) {
	own, err := newService("a", "my.box", 7, netip.MustParseAddr("::1"), 1)
	if err != nil {
		t.Fatal(err)
	}
	if own.instance != "my.box:7.a.local." || own.host != "my.box.local." {
		t.Errorf("got %s and %s", own.instance, own.host)
	}
	m := unpack(own.browseReply)
	if aaaa, ok := m.Extra[2].(*dns.AAAA); !ok || !aaaa.AAAA.Equal(net.IPv6loopback) || aaaa.Hdr.Ttl != addressTTL {
		t.Errorf("got %v", m.Extra[2])
	}
	var b bus
	r, _ := b.join(t, clockwork.NewFakeClock(), "here", "10.0.0.1", 1)
	hostname, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	if want := hostname + ":" + strconv.Itoa(os.Getpid()) + ".here.local."; r.own.instance != want {
		t.Errorf("got %s, want %s", r.own.instance, want)
	}
}

func FuzzReceive(f *testing.F) {
	s := sampleService(f)
	for _, p := range [][]byte{s.browseReply, s.probe, s.announcement, s.goodbye} {
		f.Add(p)
	}
	for _, name := range []string{s.name, catalogue, s.instance, s.host} {
		f.Add(pack(&dns.Msg{Question: []dns.Question{{Name: name, Qtype: dns.TypeANY, Qclass: dns.ClassINET | unicastResponse}}}))
	}
	f.Add([]byte{0, 0, 0x84})
	f.Fuzz(func(t *testing.T, data []byte) {
		var b bus
		own, err := newService("self", "box", 1, netip.MustParseAddr("10.0.0.9"), 1)
		if err != nil {
			t.Fatal(err)
		}
		r := &Resolver{own: own, link: &member{bus: &b}, clock: clockwork.NewFakeClock(), ctx: t.Context(), apps: map[string]*app{}, byName: map[string]*app{}}
		wanted := &app{id: "myapp", name: "myapp.local.", browse: &browse{done: make(chan struct{})}}
		r.apps[wanted.id], r.byName[wanted.name] = wanted, wanted
		for range 2 {
			r.receive(packet{data: data, from: netip.MustParseAddrPort("10.0.0.2:5353"), zone: "eth0"})
		}
		if len(wanted.instances) == 0 {
			return
		}
		address, err := r.Resolve(t.Context(), nameresolution.Request{ID: "myapp"})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := netip.ParseAddrPort(address); err != nil {
			t.Errorf("learned the address %q: %v", address, err)
		}
	})
}
