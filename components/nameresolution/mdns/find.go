package mdns

import (
	"bytes"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/miekg/dns"
)

const (
	// maxInstances bounds what is remembered of one app, maxPointers what is read of one packet: anybody on the network
	// can send.
	maxInstances = 256
	maxPointers  = 64
	// maxApps bounds the apps that are known or looked for.
	maxApps = 16384
	// maxLabels is the number of apps above which packets are read without a look for their names first.
	maxLabels = 32
)

// app is what is known of one app. The resolver's lock guards it, except where noted.
type app struct {
	id string
	// name is the service name as it appears in packets, label its first part in the form that it has there.
	name  string
	label []byte
	// pinned is the own address when the app is the resolver's own; it does not age.
	pinned    string
	instances []*instance
	// browse is the search under way, or nil.
	browse *browse
	// idle counts the refreshes since anybody asked.
	idle int

	// These need no lock.
	addresses atomic.Pointer[addresses]
	next      atomic.Uint32
	used      atomic.Bool
}

func newApp(id, name string) *app {
	a := &app{id: id, name: name}
	buf := make([]byte, 256)
	if _, err := dns.PackDomainName(name, buf, 0, nil, false); err == nil {
		a.label = buf[:1+int(buf[0])]
	}
	return a
}

// mayConcern reports whether a response may be about an app that is known or wanted. The name of an app stands in it at least
// once in full; on a busy network most are about others, and to read them whole would cost more than all the rest.
func (r *Resolver) mayConcern(records []byte) bool {
	r.mu.RLock()
	defer r.mu.RUnlock()
	if len(r.apps) > maxLabels {
		return true
	}
	for _, a := range r.apps {
		if bytes.Contains(records, a.label) {
			return true
		}
	}
	return false
}

// instance is one sidecar of an app, as its last packet described it.
type instance struct {
	name   string
	port   uint16
	v4, v6 string // host:port, or ""
	seen   time.Time
}

// addresses are what callers choose from.
type addresses struct{ v4, v6 []string }

// browse is one search, shared by all who want the app.
type browse struct {
	// done is closed, under the resolver's lock, when the search ends. err may be read after that.
	done chan struct{}
	err  error
}

// publish makes the instances visible to callers.
func (a *app) publish() {
	var list addresses
	add := func(address string) {
		if address == "" {
			return
		}
		to := &list.v4
		if strings.HasPrefix(address, "[") {
			to = &list.v6
		}
		if !slices.Contains(*to, address) {
			*to = append(*to, address)
		}
	}
	add(a.pinned)
	for _, i := range a.instances {
		add(i.v4)
		add(i.v6)
	}
	a.addresses.Store(&list)
}

// pick returns the address whose turn it is.
func (a *app) pick() (string, bool) {
	list := a.addresses.Load()
	if list == nil {
		return "", false
	}
	from := list.v4
	if len(from) == 0 {
		from = list.v6
	}
	if len(from) == 0 {
		return "", false
	}
	if !a.used.Load() {
		a.used.Store(true)
	}
	return from[int((a.next.Add(1)-1)%uint32(len(from)))], true
}

// remove drops the instances that match and reports whether there were any.
func (a *app) remove(match func(*instance) bool) bool {
	before := len(a.instances)
	a.instances = slices.DeleteFunc(a.instances, match)
	if len(a.instances) == before {
		return false
	}
	a.publish()
	return true
}

// drop forgets an app. The lock is held.
func (r *Resolver) drop(a *app) {
	delete(r.apps, a.id)
	delete(r.byName, a.name)
}

// dropIfEmpty forgets an app of which nothing is known any more. The lock is held.
func (r *Resolver) dropIfEmpty(a *app) {
	if len(a.instances) == 0 && a.pinned == "" && a.browse == nil {
		r.drop(a)
	}
}

// browse joins the search for an app, or begins one.
func (r *Resolver) browse(id string) (*app, *browse, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return nil, nil, errClosed
	}
	a := r.apps[id]
	if a == nil {
		name, err := serviceName(id)
		if err != nil {
			return nil, nil, err
		}
		if other := r.byName[name]; other != nil {
			return nil, nil, fmt.Errorf("couldn't find service: %s: its DNS name is that of the app %s", id, other.id)
		}
		if len(r.apps) >= maxApps {
			return nil, nil, fmt.Errorf("couldn't find service: %s: %d other apps are looked for already; try again later", id, len(r.apps))
		}
		a = newApp(id, name)
		r.apps[id], r.byName[name] = a, a
	}
	b := a.browse
	if b == nil {
		b = &browse{done: make(chan struct{})}
		if len(a.instances) > 0 { // found since the caller looked
			close(b.done)
			return a, b, nil
		}
		a.browse = b
		r.wg.Go(func() { r.search(a, b) })
	}
	return a, b, nil
}

// search asks the network for an app until an answer came in or the time is up.
func (r *Resolver) search(a *app, b *browse) {
	end := r.clock.NewTimer(browseFor)
	defer end.Stop()
	again := r.clock.NewTimer(repeatAfter)
	defer again.Stop()
	r.query(a)
	if problem := r.link.problem(); problem != nil {
		r.finish(a, b, fmt.Errorf("couldn't find service: %s: multicast DNS does not work on this machine: %w; %s", a.id, problem, remedy))
		return
	}
	for {
		select {
		case <-b.done:
			// Further instances may have been missed; what answers within the next seconds is learned like all else.
			if r.sleep(time.Second) {
				r.query(a)
			}
			return
		case <-again.Chan():
			r.query(a)
		case <-end.Chan():
			r.finish(a, b, r.notFound(a.id))
			return
		case <-r.ctx.Done():
			r.finish(a, b, errClosed)
			return
		}
	}
}

// finish ends a search without success, unless it has ended.
func (r *Resolver) finish(a *app, b *browse, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if a.browse != b {
		return
	}
	b.err = err
	a.browse = nil
	close(b.done)
	r.dropIfEmpty(a)
}

// Questions are gathered: a sidecar that looks for many apps at once, among many that do, would otherwise make more packets
// than the sockets of the others hold.
const (
	// questionGap is the least time between two packets of questions.
	questionGap = 5 * time.Millisecond
	// questionsAtOnce is how many fit into a packet that no network cuts in pieces.
	questionsAtOnce = 16
)

// asking is what is to be asked when the gap after the last packet of questions is over.
type asking struct {
	mu        sync.Mutex
	last      time.Time
	names     []string
	scheduled bool
}

// query asks everybody for an app, now or within the gap. It is called by goroutines that Close waits for.
func (r *Resolver) query(a *app) {
	q := &r.asking
	q.mu.Lock()
	defer q.mu.Unlock()
	now := r.clock.Now()
	wait := q.last.Add(questionGap).Sub(now)
	if wait <= 0 && !q.scheduled {
		q.last = now
		r.ask(a.name)
		return
	}
	if !slices.Contains(q.names, a.name) {
		q.names = append(q.names, a.name)
	}
	if q.scheduled {
		return
	}
	q.scheduled = true
	r.wg.Go(func() {
		open := r.sleep(wait)
		q.mu.Lock()
		defer q.mu.Unlock()
		names := q.names
		q.names, q.scheduled, q.last = nil, false, r.clock.Now()
		if open {
			r.ask(names...)
		}
	})
}

// ask asks everybody for the apps of these names.
func (r *Resolver) ask(names ...string) {
	for some := range slices.Chunk(names, questionsAtOnce) {
		m := &dns.Msg{Compress: true}
		for _, name := range some {
			m.Question = append(m.Question, dns.Question{Name: name, Qtype: dns.TypePTR, Qclass: dns.ClassINET})
		}
		if data := pack(m); data != nil {
			r.link.multicast(data, everywhere)
		}
	}
}

// refresh looks again for the known apps, drops what has not answered for long, and follows changes of the interfaces.
func (r *Resolver) refresh() {
	for r.sleep(refreshEvery) {
		if r.link.refresh() && r.own != nil {
			r.wg.Go(r.announce)
		}
		var names []string
		for _, a := range r.age() {
			names = append(names, a.name)
		}
		r.ask(names...)
	}
}

// age drops instances not seen for long and apps not asked for, and returns the apps to look for again.
func (r *Resolver) age() []*app {
	now := r.clock.Now()
	r.mu.Lock()
	defer r.mu.Unlock()
	var wanted []*app
	for _, a := range r.apps {
		a.remove(func(i *instance) bool { return now.Sub(i.seen) >= maxAge })
		r.dropIfEmpty(a)
		if a.used.Swap(false) {
			a.idle = 0
		} else if a.idle++; a.idle >= idleRounds && a.browse == nil {
			if a.pinned == "" {
				r.drop(a)
			}
			continue
		}
		if r.apps[a.id] == a {
			wanted = append(wanted, a)
		}
	}
	return wanted
}

// learn takes the instances of known or wanted apps out of a response, solicited or not.
func (r *Resolver) learn(msg *dns.Msg, zone string) {
	records := slices.Concat(msg.Answer, msg.Ns, msg.Extra)
	var pointers []*dns.PTR
	r.mu.RLock()
	for _, rr := range records {
		if ptr, ok := rr.(*dns.PTR); ok && r.byName[ptr.Hdr.Name] != nil && len(pointers) < maxPointers {
			pointers = append(pointers, ptr)
		}
	}
	r.mu.RUnlock()
	for _, ptr := range pointers {
		i, text, alive := describe(ptr, records, zone)
		r.mu.Lock()
		// The app may have been dropped meanwhile.
		if a := r.byName[ptr.Hdr.Name]; a != nil {
			switch {
			case !alive:
				// Sidecars that share a process share an instance name, so the port decides where it is known.
				a.remove(func(k *instance) bool { return k.name == i.name && (i.port == 0 || k.port == i.port) })
				r.dropIfEmpty(a)
			case text == a.id && (i.v4 != "" || i.v6 != ""):
				i.seen = r.clock.Now()
				r.see(a, i)
			}
		}
		r.mu.Unlock()
	}
}

// see notes that an instance lives. The lock is held.
func (r *Resolver) see(a *app, i *instance) {
	for _, k := range a.instances {
		if k.v4 == i.v4 && k.v6 == i.v6 {
			k.name, k.port, k.seen = i.name, i.port, i.seen
			return
		}
	}
	if len(a.instances) >= maxInstances {
		return
	}
	a.instances = append(a.instances, i)
	a.publish()
	if a.browse != nil {
		close(a.browse.done)
		a.browse = nil
	}
}

// describe collects the records of the instance that a pointer names. text is its TXT record when that has exactly one
// string; alive is false for a goodbye. Of several addresses the first of each family counts (Dapr API, mDNS name
// resolver: resolution).
func describe(ptr *dns.PTR, records []dns.RR, zone string) (i *instance, text string, alive bool) {
	i = &instance{name: ptr.Ptr}
	alive = ptr.Hdr.Ttl > 0
	var target string
	for _, rr := range records {
		if rr.Header().Name != ptr.Ptr {
			continue
		}
		switch rr := rr.(type) {
		case *dns.SRV:
			target, i.port = rr.Target, rr.Port
			alive = alive && rr.Hdr.Ttl > 0
		case *dns.TXT:
			if len(rr.Txt) == 1 {
				text = unescapeText(rr.Txt[0])
			}
		}
	}
	if target == "" || i.port == 0 {
		return i, text, alive
	}
	for _, rr := range records {
		if rr.Header().Name != target {
			continue
		}
		switch rr := rr.(type) {
		case *dns.A:
			if ip, ok := netip.AddrFromSlice(rr.A); ok && i.v4 == "" && usable(ip.Unmap()) {
				i.v4 = netip.AddrPortFrom(ip.Unmap(), i.port).String()
			}
		case *dns.AAAA:
			ip, ok := netip.AddrFromSlice(rr.AAAA)
			if !ok || i.v6 != "" || !usable(ip) || ip.Is4In6() {
				continue
			}
			if ip.IsLinkLocalUnicast() {
				ip = ip.WithZone(zone)
			}
			i.v6 = netip.AddrPortFrom(ip, i.port).String()
		}
	}
	return i, text, alive
}

func usable(ip netip.Addr) bool { return ip.IsValid() && !ip.IsUnspecified() && !ip.IsMulticast() }
