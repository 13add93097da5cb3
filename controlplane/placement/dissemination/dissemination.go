// Package dissemination decides which order of a table update goes to which sidecar and when: the protocol of the placement service as a state
// machine, without transport and without a clock of its own, so that a test can run it through any course of events (Dapr API, placement:
// dissemination).
//
// One [Namespace] has the streams of the sidecars of one namespace. A change of the table starts a round, with a new version: LOCK to all
// streams; when those that are waited for have acknowledged it, UPDATE with the table; then UNLOCK. Waited for are the hosts of the types whose
// hosts have changed since the last round that came to its end: an actor can move between these alone, so that only they have something to end
// before its new owner begins. All other streams get the same orders at the same time without delaying anyone. A host among them that does not
// answer within the timeout is expelled nevertheless, as it would not serve calls either.
package dissemination

import (
	"slices"
	"strconv"
	"strings"
	"time"

	placementv1 "outrigger.dev/api/gen/placement/v1"
)

// ID names a stream. IDs rise in the order in which streams join.
type ID uint64

// Phase is a step of a round.
type Phase int

// The phases. Idle is between rounds; the others are orders, too.
const (
	Idle Phase = iota
	Lock
	Update
	Unlock
)

// String is the phase as orders name it.
func (p Phase) String() string { return [...]string{"idle", "lock", "update", "unlock"}[p] }

// Order is what a sidecar is told.
type Order struct {
	Phase   Phase
	Version uint64
	// Table is that of Update, otherwise nil. It is shared: nobody may change it.
	Table *placementv1.PlacementTables
}

// Receiver carries out what the state machine decides. Its methods must neither block nor call the state machine.
type Receiver interface {
	// Send sends an order to a stream, after all that were sent to it before.
	Send(ID, Order)
	// Expel ends a stream that did not answer in the round of a version. The state machine knows it no more.
	Expel(id ID, version uint64)
}

// Options of a namespace.
type Options struct {
	// ReplicationFactor is the number of points that each host has on a ring.
	ReplicationFactor int64
	// Timeout bounds a round.
	Timeout time.Duration
	// Window is how long joins and removals are collected after a round; 0 not at all.
	Window time.Duration
	// Gather is until when they are collected before the first round; zero not at all. Who has just begun to lead knows nobody: a host that is
	// alone in the first table would be given actors that others, who are about to return, still have.
	Gather time.Time
}

// Namespace is the state of one namespace. It is not safe for concurrent use. The times that its methods get must not go back.
type Namespace struct {
	options Options
	out     Receiver

	streams map[ID]*stream
	order   []*stream // by ID
	waiting int       // streams that are not in yet

	phase   Phase
	version uint64
	table   *placementv1.PlacementTables // of the present round
	missing int                          // answers to the present phase
	// touched are the types whose hosts have changed since the settled table, queued those whose change is not in the table yet.
	touched, queued map[string]struct{}

	settled        *placementv1.PlacementTables
	settledVersion uint64

	// When the round has to be over, the collecting ends, and the next look at hosts that are not waited for is due; zero for never.
	deadline, window, look time.Time
}

// stream is one sidecar.
type stream struct {
	id   ID
	host *placementv1.Host
	// in says that it takes part: hosts that join during a round do so only from the next one on.
	in bool
	// types are all that it had since the settled table.
	types   []string
	awaited bool
	// sent and acked are the last order and the last answer of a version.
	version     uint64
	sent, acked Phase
	// progress is when it began to owe an answer, or was last heard of since.
	progress time.Time
}

// New is a namespace without streams.
func New(o Options, out Receiver) *Namespace {
	n := &Namespace{options: o, out: out, streams: map[ID]*stream{}, touched: map[string]struct{}{}, queued: map[string]struct{}{}}
	n.settled = n.build()
	n.window = o.Gather
	return n
}

// Version is that of the newest round.
func (n *Namespace) Version() uint64 { return n.version }

// Hosts are the sidecars that have announced types and take part, by name. They must not be changed.
func (n *Namespace) Hosts() []*placementv1.Host {
	var hosts []*placementv1.Host
	for _, s := range n.order {
		if s.in && len(s.host.Entities) > 0 {
			hosts = append(hosts, s.host)
		}
	}
	slices.SortStableFunc(hosts, func(a, b *placementv1.Host) int { return strings.Compare(a.Name, b.Name) })
	return hosts
}

// Join adds a stream by its first report.
func (n *Namespace) Join(now time.Time, id ID, report *placementv1.Host) {
	s := &stream{id: id, host: stored(report)}
	n.streams[id] = s
	n.order = append(n.order, s)
	if len(s.host.Entities) == 0 {
		n.observe(s)
		return
	}
	n.waiting++
	s.types = s.host.Entities
	n.change(now)
}

// observe brings a stream without types up to date. Nobody is moved by it, so that it need not wait for a round: it gets the settled table at
// once, and then goes along with the present round. The exception are tables that still have a former sidecar of its name: if it announced types
// next, it would take itself for the owner of actors that are about to move away.
func (n *Namespace) observe(s *stream) {
	outdated := n.outdated(n.settled, s)
	if n.phase == Idle && outdated || n.phase != Idle && n.outdated(n.table, s) {
		n.waiting++ // the removal of the former one is queued
		return
	}
	s.in = true
	if !outdated && (n.phase == Idle || n.settledVersion > 0) {
		s.version, s.sent, s.acked = n.settledVersion, Unlock, Idle
		n.send(s.id, Lock, n.settledVersion, n.settled)
		n.send(s.id, Update, n.settledVersion, n.settled)
		n.send(s.id, Unlock, n.settledVersion, n.settled)
	}
	if n.phase == Idle {
		return
	}
	s.version, s.sent, s.acked, s.awaited = n.version, n.phase, Idle, false
	for p := Lock; p <= n.phase; p++ {
		n.send(s.id, p, n.version, n.table)
	}
}

// outdated reports whether a table has a host of the stream's name that is gone.
func (n *Namespace) outdated(t *placementv1.PlacementTables, s *stream) bool {
	listed := false
	for _, entry := range t.Entries {
		if _, listed = entry.LoadMap[s.host.Name]; listed {
			break
		}
	}
	return listed && !slices.ContainsFunc(n.order, func(o *stream) bool { return o.in && o.host.Name == s.host.Name && len(o.host.Entities) > 0 })
}

// change starts a round for a join or a removal, unless it has to wait for one, or for others to collect.
func (n *Namespace) change(now time.Time) {
	if n.phase == Idle && n.window.IsZero() {
		n.begin(now)
	}
}

// Report takes a later report of a stream. One that changes the table starts a round at once.
func (n *Namespace) Report(now time.Time, id ID, report *placementv1.Host) {
	s := n.streams[id]
	if s == nil {
		return
	}
	s.progress = now
	former, host := s.host, stored(report)
	if same(former, host) {
		return
	}
	s.host = host
	if !s.in {
		s.types = host.Entities
		if len(host.Entities) == 0 {
			n.waiting--
			n.observe(s)
		}
		return
	}
	if len(former.Entities) == 0 && len(host.Entities) == 0 {
		return
	}
	s.types = union(s.types, host.Entities)
	moved := former.Name != host.Name || former.Port != host.Port || former.Id != host.Id || former.Namespace != host.Namespace
	n.queue(former.Entities, func(t string) bool { return moved || !has(host.Entities, t) })
	n.queue(host.Entities, func(t string) bool { return moved || !has(former.Entities, t) })
	n.begin(now)
}

// queue notes types whose hosts change with the next round.
func (n *Namespace) queue(types []string, changed func(string) bool) {
	for _, t := range types {
		if changed == nil || changed(t) {
			n.queued[t] = struct{}{}
		}
	}
}

// Ack takes the answer to an order. Those of former versions say no more than that the stream is alive.
func (n *Namespace) Ack(now time.Time, id ID, phase Phase, version uint64) {
	s := n.streams[id]
	if s == nil || !s.in {
		return
	}
	s.progress = now
	if version != s.version || phase <= s.acked || phase > s.sent {
		return
	}
	s.acked = phase
	if s.awaited && n.phase == phase && version == n.version {
		n.missing--
		n.advance(now)
	}
}

// Unversioned takes a message of a sidecar that knows no versions: the answer to the present phase, or a report when there is none.
func (n *Namespace) Unversioned(now time.Time, id ID, report *placementv1.Host) {
	if s := n.streams[id]; s != nil && s.in && n.phase != Idle {
		n.Ack(now, id, n.phase, n.version)
		return
	}
	n.Report(now, id, report)
}

// Close removes a stream that has ended.
func (n *Namespace) Close(now time.Time, id ID) {
	if s := n.streams[id]; s != nil {
		n.remove(s)
		if len(n.queued) > 0 {
			n.change(now)
		}
		n.advance(now)
	}
}

// remove forgets a stream, and queues its removal from the table.
func (n *Namespace) remove(s *stream) {
	delete(n.streams, s.id)
	at := slices.Index(n.order, s)
	n.order = slices.Delete(n.order, at, at+1)
	if !s.in {
		n.waiting--
		return
	}
	n.queue(s.host.Entities, nil)
	if s.awaited && s.acked < n.phase {
		n.missing--
	}
}

// begin starts a round with all that is queued.
func (n *Namespace) begin(now time.Time) {
	n.window, n.deadline = time.Time{}, time.Time{}
	if len(n.order) == 0 {
		n.phase, n.missing = Idle, 0
		clear(n.queued)
		clear(n.touched)
		n.settled, n.settledVersion = n.build(), n.version
		return
	}
	n.version++
	for _, s := range n.order {
		if !s.in {
			s.in, s.progress = true, now
			n.queue(s.host.Entities, nil)
		}
	}
	n.waiting = 0
	for t := range n.queued {
		n.touched[t] = struct{}{}
	}
	clear(n.queued)
	n.table = n.build()
	n.deadline = now.Add(n.options.Timeout)
	if n.look.IsZero() {
		n.look = n.deadline
	}
	for _, s := range n.order {
		if s.acked == s.sent {
			s.progress = now
		}
		s.acked = Idle
		s.awaited = slices.ContainsFunc(s.types, func(t string) bool { _, ok := n.touched[t]; return ok })
	}
	n.enter(now, Lock)
	n.advance(now)
}

// enter sends the order of a phase to all streams that take part.
func (n *Namespace) enter(now time.Time, p Phase) {
	n.phase, n.missing = p, 0
	for _, s := range n.order {
		if !s.in {
			continue
		}
		if s.acked == s.sent {
			s.progress = now
		}
		s.version, s.sent = n.version, p
		if s.awaited {
			n.missing++
		}
		n.send(s.id, p, n.version, n.table)
	}
}

func (n *Namespace) send(id ID, p Phase, version uint64, table *placementv1.PlacementTables) {
	if p != Update {
		table = nil
	}
	n.out.Send(id, Order{Phase: p, Version: version, Table: table})
}

// advance goes on to the next phase as often as nothing is missing.
func (n *Namespace) advance(now time.Time) {
	for n.missing == 0 {
		switch n.phase {
		case Idle:
			return
		case Lock:
			n.enter(now, Update)
		case Update:
			n.enter(now, Unlock)
		case Unlock:
			n.settle(now)
			return
		}
	}
}

// settle ends a round, and starts the next one if something waits.
func (n *Namespace) settle(now time.Time) {
	n.phase, n.deadline = Idle, time.Time{}
	n.settled, n.settledVersion = n.table, n.version
	clear(n.touched)
	for _, s := range n.order {
		s.types, s.awaited = s.host.Entities, false
	}
	if n.options.Window > 0 {
		n.window = now.Add(n.options.Window)
		return
	}
	if n.pending() {
		n.begin(now)
	}
}

func (n *Namespace) pending() bool { return n.waiting > 0 || len(n.queued) > 0 }

// Deadline is when Tick is to be called next; the zero time means never.
func (n *Namespace) Deadline() time.Time {
	var first time.Time
	for _, t := range []time.Time{n.deadline, n.window, n.look} {
		if !t.IsZero() && (first.IsZero() || t.Before(first)) {
			first = t
		}
	}
	return first
}

// Tick does what is due.
func (n *Namespace) Tick(now time.Time) {
	if due(n.deadline, now) {
		n.expire(now)
	}
	if due(n.look, now) {
		n.inspect(now)
	}
	if due(n.window, now) {
		n.window = time.Time{}
		if n.pending() {
			n.begin(now)
		}
	}
}

// expire ends a round that takes too long, without those that it waits for, and starts another one.
func (n *Namespace) expire(now time.Time) {
	for _, s := range slices.Clone(n.order) {
		if s.in && s.awaited && s.acked < n.phase {
			n.remove(s)
			n.out.Expel(s.id, n.version)
		}
	}
	n.begin(now)
}

// inspect expels the hosts that owe an answer and gave none for the length of a round: those that no round waits for, and those that rounds which
// follow each other too fast would wait for without end.
func (n *Namespace) inspect(now time.Time) {
	n.look = time.Time{}
	var next time.Time
	gone := false
	for _, s := range slices.Clone(n.order) {
		if !s.in || s.acked == s.sent || len(s.host.Entities) == 0 {
			continue
		}
		bound := s.progress.Add(n.options.Timeout)
		if due(bound, now) {
			gone = true
			n.remove(s)
			n.out.Expel(s.id, s.version)
		} else if next.IsZero() || bound.Before(next) {
			next = bound
		}
	}
	if n.phase != Idle && next.IsZero() && len(n.order) > 0 {
		next = now.Add(n.options.Timeout)
	}
	n.look = next
	if gone {
		n.change(now)
		n.advance(now)
	}
}

func due(t, now time.Time) bool { return !t.IsZero() && !now.Before(t) }

// build makes the table of the streams that take part. Of several with one name the youngest counts.
func (n *Namespace) build() *placementv1.PlacementTables {
	t := &placementv1.PlacementTables{
		Version: strconv.FormatUint(n.version, 10), ReplicationFactor: n.options.ReplicationFactor, Entries: map[string]*placementv1.PlacementTable{},
	}
	for _, s := range n.order {
		if !s.in {
			continue
		}
		for _, e := range s.host.Entities {
			entry := t.Entries[e]
			if entry == nil {
				entry = &placementv1.PlacementTable{LoadMap: map[string]*placementv1.Host{}}
				t.Entries[e] = entry
			}
			entry.LoadMap[s.host.Name] = s.host
		}
	}
	return t
}

// stored is a report as it is kept: with its types sorted, each once.
func stored(report *placementv1.Host) *placementv1.Host {
	types := slices.Clone(report.Entities)
	slices.Sort(types)
	types = slices.Compact(types)
	return &placementv1.Host{
		Name: report.Name, Port: report.Port, Load: report.Load, Entities: types, Id: report.Id, Pod: report.Pod, ApiLevel: report.ApiLevel,
		Namespace: report.Namespace, Operation: placementv1.HostOperation_REPORT,
	}
}

// same reports whether a report changes nothing.
func same(a, b *placementv1.Host) bool {
	return a.Name == b.Name && a.Port == b.Port && a.Id == b.Id && a.Namespace == b.Namespace && slices.Equal(a.Entities, b.Entities)
}

func union(a, b []string) []string {
	out := append(slices.Clone(a), b...)
	slices.Sort(out)
	return slices.Compact(out)
}

// has looks a type up in a sorted list.
func has(types []string, t string) bool {
	_, found := slices.BinarySearch(types, t)
	return found
}
