package dissemination

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	placementv1 "outrigger.dev/api/gen/placement/v1"
)

// world is a namespace with sidecars that behave as chance has it: they come, go, change their types, answer at once, late or never.
type world struct {
	t        *testing.T
	seed     uint64
	rand     *rand.Rand
	now      time.Time
	n        *Namespace
	sidecars []*sidecar
	nextID   ID
	twins    bool
}

// sidecar is one stream.
type sidecar struct {
	id     ID
	name   string
	types  []string
	deaf   bool // never answers
	gone   bool
	inbox  []Order
	locked uint64 // by its client's rules
	phase  Phase
	table  string
	tableV uint64
	ready  bool
	// base is the table of the last UNLOCK that it has answered, updates those of the UPDATEs since.
	base     *placementv1.PlacementTables
	updates  []*placementv1.PlacementTables
	had      map[string]bool // types of which it may have actors still
	answered map[uint64]Phase
	since    time.Time
}

func (w *world) fail(format string, args ...any) {
	w.t.Helper()
	w.t.Fatalf("seed %d at %s: %s", w.seed, w.now.Format("04:05.000"), fmt.Sprintf(format, args...))
}

func (w *world) find(id ID) *sidecar {
	for _, s := range w.sidecars {
		if s.id == id {
			return s
		}
	}
	return nil
}

// Send holds the state machine to its rules.
func (w *world) Send(id ID, o Order) {
	s := w.find(id)
	if s == nil || s.gone {
		w.fail("%s%d to stream %d, which is gone", o.Phase, o.Version, id)
	}
	if o.Version < s.locked {
		w.fail("stream %d got version %d after %d", id, o.Version, s.locked)
	}
	switch o.Phase {
	case Lock:
		if o.Version == s.locked && s.phase != Idle {
			w.fail("stream %d got lock%d twice", id, o.Version)
		}
	case Update:
		if s.phase != Lock || o.Version != s.locked {
			w.fail("stream %d got update%d after %s%d", id, o.Version, s.phase, s.locked)
		}
		w.barrier(Lock, o)
		s.table, s.tableV = tableText(o.Table), o.Version
	case Unlock:
		if s.phase != Update || o.Version != s.locked {
			w.fail("stream %d got unlock%d after %s%d", id, o.Version, s.phase, s.locked)
		}
		w.barrier(Update, o)
		s.ready = true
	}
	s.locked, s.phase = o.Version, o.Phase
	s.inbox = append(s.inbox, o)
}

// barrier checks that everybody whose types have changed has answered the phase before. Those without an answer may be hosts of other types.
func (w *world) barrier(before Phase, o Order) {
	if o.Version != w.n.version {
		return // the settled table for one that has no types
	}
	for _, st := range w.n.order {
		touched := slices.ContainsFunc(st.types, func(t string) bool { _, ok := w.n.touched[t]; return ok })
		if s := w.find(st.id); touched && st.in && s.answered[o.Version] < before {
			w.fail("order after %s%d while stream %d, of a changed type, has not answered", before, o.Version, st.id)
		}
	}
}

func (w *world) Expel(id ID, version uint64) {
	s := w.find(id)
	if s == nil || s.gone {
		w.fail("expelled %d, which is gone", id)
	}
	if !s.deaf && len(s.inbox) == 0 {
		w.fail("expelled %d in version %d, which owes no answer", id, version)
	}
	if w.now.Sub(s.since) < w.n.options.Timeout {
		w.fail("expelled %d after %s", id, w.now.Sub(s.since))
	}
	s.gone = true
}

func (w *world) join() {
	w.nextID++
	s := &sidecar{id: w.nextID, name: w.name(), types: w.someTypes(), deaf: w.rand.IntN(12) == 0, answered: map[uint64]Phase{}, had: map[string]bool{}, since: w.now}
	s.announce()
	w.sidecars = append(w.sidecars, s)
	w.n.Join(w.now, s.id, host(s.name, s.types...))
}

// name is one for a new sidecar. In worlds with twins several may have one name, as when a sidecar connects again before its last stream is known
// to be dead; in the others none has one that lives has.
func (w *world) name() string {
	for {
		name := string(rune('a' + w.rand.IntN(26)))
		if w.twins || !slices.ContainsFunc(w.live(), func(s *sidecar) bool { return s.name == name }) {
			return name
		}
	}
}

// announce notes its types. One that was told nothing yet has no actors of the types that it had.
func (s *sidecar) announce() {
	if s.base == nil && len(s.updates)+len(s.inbox) == 0 {
		clear(s.had)
	}
	for _, t := range s.types {
		s.had[t] = true
	}
}

func (w *world) someTypes() (some []string) {
	for _, t := range types {
		if w.rand.IntN(3) == 0 {
			some = append(some, t)
		}
	}
	return some
}

func (w *world) live() []*sidecar {
	w.sidecars = slices.DeleteFunc(w.sidecars, func(s *sidecar) bool { return s.gone })
	return w.sidecars
}

// answer takes the oldest order of a sidecar.
func (w *world) answer(s *sidecar) {
	if s.deaf || s.gone || len(s.inbox) == 0 {
		return
	}
	o := s.inbox[0]
	s.inbox = s.inbox[1:]
	if s.answered[o.Version] < o.Phase {
		s.answered[o.Version] = o.Phase
	}
	switch {
	case o.Phase == Update:
		s.updates = append(s.updates, o.Table)
	case o.Phase == Unlock && len(s.updates) > 0:
		s.base, s.updates = s.updates[len(s.updates)-1], nil
		for t := range s.had {
			if !slices.Contains(s.types, t) && s.base.Entries[t].GetLoadMap()[s.name] == nil {
				delete(s.had, t)
			}
		}
	}
	w.exclusive()
	w.n.Ack(w.now, s.id, o.Phase, o.Version)
}

// owner is where an actor lives by a table, "" for nowhere.
func owner(t *placementv1.PlacementTables, typ string, actor byte) (owner string) {
	var most uint32
	for name := range t.GetEntries()[typ].GetLoadMap() {
		if sum := (uint32(name[0])<<8 | uint32(actor)) * 2654435761; owner == "" || sum > most {
			owner, most = name, sum
		}
	}
	return owner
}

// runs reports whether a sidecar may run an actor: it is its own by the table in force, and stays so by those that are about to come in force.
func (s *sidecar) runs(typ string, actor byte) bool {
	if !s.had[typ] {
		return false
	}
	for _, t := range s.updates {
		if owner(t, typ, actor) != s.name {
			return false
		}
	}
	return owner(s.base, typ, actor) == s.name
}

// exclusive checks what all of this is for: no actor may run at two hosts.
func (w *world) exclusive() {
	if w.twins {
		return // of twins one is dead, which is not played here
	}
	for _, typ := range types {
		for actor := range byte(6) {
			at := ""
			for _, s := range w.sidecars {
				if s.gone || !s.runs(typ, actor) {
					continue
				}
				if at != "" && at != s.name {
					w.fail("actor %s/%d may run at %s and at %s", typ, actor, at, s.name)
				}
				at = s.name
			}
		}
	}
}

var types = []string{"T", "U", "V"}

func (w *world) pass(d time.Duration) {
	end := w.now.Add(d)
	for {
		next := w.n.Deadline()
		if next.IsZero() || next.After(end) {
			w.now = end
			return
		}
		if next.After(w.now) {
			w.now = next
		}
		w.n.Tick(w.now)
		if d := w.n.Deadline(); !d.IsZero() && !d.After(w.now) {
			w.fail("after a tick the next one is due at once")
		}
	}
}

// chaos lets something happen.
func (w *world) chaos() {
	live := w.live()
	if len(live) == 0 {
		w.join()
		return
	}
	s := live[w.rand.IntN(len(live))]
	switch k := w.rand.IntN(20); {
	case k < 2 && len(live) < 12:
		w.join()
	case k < 3:
		s.gone = true
		w.n.Close(w.now, s.id)
	case k < 5:
		s.types = w.someTypes()
		s.announce()
		w.n.Report(w.now, s.id, host(s.name, s.types...))
	case k < 17:
		w.answer(s)
	default:
		w.pass(time.Duration(w.rand.IntN(1500)) * time.Millisecond)
	}
	if w.n.phase == Idle && w.n.version != w.n.settledVersion {
		w.fail("idle at version %d, but %d is settled", w.n.version, w.n.settledVersion)
	}
}

// settle lets all that can answer do so, until nothing happens any more.
func (w *world) settle() {
	rounds := w.n.version
	for i := 0; ; i++ {
		if i > 10000 {
			w.fail("it does not settle")
		}
		busy := false
		for _, s := range slices.Clone(w.live()) {
			if !s.deaf && len(s.inbox) > 0 {
				w.answer(s)
				busy = true
			}
		}
		if busy {
			continue
		}
		if w.n.Deadline().IsZero() {
			break
		}
		w.pass(w.n.Deadline().Sub(w.now))
	}
	if w.n.version-rounds > 4+uint64(len(w.sidecars)) {
		w.fail("it took %d rounds to settle", w.n.version-rounds)
	}
	want := tableText(w.expected())
	for _, s := range w.live() {
		switch {
		case s.deaf && len(s.types) > 0:
			w.fail("stream %d never answers, but has not been expelled", s.id)
		case !s.ready || s.phase != Unlock:
			w.fail("stream %d waits: %s%d", s.id, s.phase, s.locked)
		case s.table != want:
			w.fail("stream %d has table %d {%s}, but should have {%s}", s.id, s.tableV, s.table, want)
		}
	}
	if w.n.phase != Idle && len(w.sidecars) > 0 {
		w.fail("in %s", w.n.phase)
	}
}

// expected is the table of those that live.
func (w *world) expected() *placementv1.PlacementTables {
	t := &placementv1.PlacementTables{Entries: map[string]*placementv1.PlacementTable{}}
	for _, s := range w.live() {
		for _, e := range s.types {
			if t.Entries[e] == nil {
				t.Entries[e] = &placementv1.PlacementTable{LoadMap: map[string]*placementv1.Host{}}
			}
			t.Entries[e].LoadMap[s.name] = host(s.name)
		}
	}
	return t
}

func simulate(t *testing.T, seed uint64) {
	w := &world{t: t, seed: seed, rand: rand.New(rand.NewPCG(seed, 1)), now: time.Unix(1000, 0), twins: seed%3 == 0}
	o := Options{ReplicationFactor: 100, Timeout: 8 * time.Second}
	if w.rand.IntN(3) == 0 {
		o.Window = time.Duration(1+w.rand.IntN(2000)) * time.Millisecond
	}
	w.n = New(o, w)
	for range 5 {
		for range 20 + w.rand.IntN(150) {
			w.chaos()
		}
		w.settle()
	}
}

// TestSimulation lets sidecars behave by chance, and then lets things calm down. At any time: versions do not go back, no order comes before
// those it follows, and none before the answers of the hosts whose actors can move; no actor may run at two hosts; nobody is expelled that has
// answered. In the end: all that live have the table of all that live, within few rounds, and nobody waits.
func TestSimulation(t *testing.T) {
	seeds := uint64(300)
	if testing.Short() {
		seeds = 50
	}
	for seed := range seeds {
		simulate(t, seed)
	}
}

func FuzzSimulation(f *testing.F) {
	f.Add(uint64(1 << 40))
	f.Fuzz(simulate)
}
