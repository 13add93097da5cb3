package engine

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"

	"outrigger.dev/controlplane/scheduler/record"
)

// groupSim is etcd's folder of members, as a log of changes that each member reads at its own pace.
type groupSim struct {
	rand     *rand.Rand
	revision int64
	members  map[string]entry
	log      []groupChange
	alive    map[string]*simMember
}

type groupChange struct {
	id       string
	revision int64
	entry    *entry // nil: deleted
}

type simMember struct {
	view    *view
	read    int // changes of the log
	holding holding
	ids     []string
	taken   bool
}

func (s *groupSim) put(id string, total int) int64 {
	s.revision++
	e := entry{Member: record.Member{Total: uint64(total)}, created: s.revision, modified: s.revision}
	if old, ok := s.members[id]; ok {
		e.created = old.created
	}
	s.members[id] = e
	s.log = append(s.log, groupChange{id, s.revision, &e})
	return s.revision
}

func (s *groupSim) remove(id string) {
	if _, ok := s.members[id]; ok {
		s.revision++
		delete(s.members, id)
		s.log = append(s.log, groupChange{id, s.revision, nil})
	}
}

// same is the condition of a member's write: the members are those of its view.
func (s *groupSim) same(v *view) bool {
	if len(s.members) != len(v.members) {
		return false
	}
	for id, e := range v.members {
		if s.members[id].created != e.created {
			return false
		}
	}
	return true
}

func (s *groupSim) join(id string) {
	if _, ok := s.members[id]; ok || s.alive[id] != nil {
		return
	}
	v := &view{self: id, members: make(map[string]entry), revision: s.revision}
	for other, e := range s.members {
		v.members[other] = e
		v.changed = max(v.changed, e.created)
	}
	m := &simMember{view: v, read: len(s.log)}
	v.created = s.put(id, len(s.members)+1)
	v.put(id, s.members[id])
	s.alive[id] = m
}

// step lets a member read some of the log and act once; it mirrors membership.follow.
func (s *groupSim) step(m *simMember) {
	for n := s.rand.IntN(3); n > 0 && m.read < len(s.log); n-- {
		c := s.log[m.read]
		m.read++
		if c.entry == nil {
			m.view.remove(c.id, c.revision)
		} else {
			m.view.put(c.id, *c.entry)
		}
	}
	v := m.view
	st := v.stand()
	if st == lost {
		m.holding = nil
		delete(s.alive, v.self)
		return
	}
	if ids := v.ids(); !slices.Equal(ids, m.ids) {
		m.ids, m.taken = ids, false
		if len(m.holding) > 0 {
			m.holding = append(m.holding, v.table())
		}
	}
	switch st {
	case outdated:
		if s.same(v) {
			revision := s.put(v.self, len(v.members))
			own := v.members[v.self]
			own.Total, own.modified = uint64(len(v.members)), revision
			v.put(v.self, own)
		}
	case agreed:
		if !m.taken {
			m.taken = true
			m.holding = holding{v.table()}
		}
	}
}

// TestGroupSimulated lets members come, go and lag as a seed says: no partition ever has two owners that are members, and when
// things calm down each has one.
func TestGroupSimulated(t *testing.T) {
	t.Parallel()
	const partitions = 60 // divisible by any number of members here
	for seed := range uint64(400) {
		s := &groupSim{rand: rand.New(rand.NewPCG(seed, 1)), members: make(map[string]entry), alive: make(map[string]*simMember)}
		owners := func() [partitions]int {
			var owned [partitions]int
			for id, m := range s.alive {
				if s.members[id].created != m.view.created {
					continue // it does not know yet that it is out; what it writes is refused
				}
				for p := range uint64(partitions) {
					if m.holding.has(p) {
						owned[p]++
					}
				}
			}
			return owned
		}
		for step := range 400 {
			switch id := fmt.Sprintf("m%d", s.rand.IntN(5)); s.rand.IntN(20) {
			case 0:
				s.join(id)
			case 1: // killed, or its lease ended
				s.remove(id)
				if s.rand.IntN(2) == 0 {
					delete(s.alive, id)
				}
			default:
				if m := s.alive[id]; m != nil {
					s.step(m)
				}
			}
			for p, n := range owners() {
				if n > 1 {
					t.Fatalf("seed %d, step %d: partition %d has %d owners", seed, step, p, n)
				}
			}
		}
		for id := range s.members {
			if s.alive[id] == nil {
				s.remove(id)
			}
		}
		s.join("m9")
		for range 200 {
			for _, id := range slices.Sorted(maps.Keys(s.alive)) {
				if m := s.alive[id]; m != nil {
					s.step(m)
				}
			}
		}
		for p, n := range owners() {
			if n != 1 {
				t.Fatalf("seed %d: partition %d has %d owners in the end, of %d members", seed, p, n, len(s.members))
			}
		}
	}
}

func TestStand(t *testing.T) {
	t.Parallel()
	entryOf := func(total uint64, created, modified int64) entry {
		return entry{Member: record.Member{Total: total}, created: created, modified: modified}
	}
	tests := []struct {
		name    string
		changed int64
		members map[string]entry
		want    stand
	}{
		{"alone", 5, map[string]entry{"a": entryOf(1, 5, 5)}, agreed},
		{"gone", 5, map[string]entry{"b": entryOf(1, 5, 5)}, lost},
		{"made by another", 7, map[string]entry{"a": entryOf(1, 7, 7)}, lost},
		{"told another number", 6, map[string]entry{"a": entryOf(1, 5, 5), "b": entryOf(2, 6, 6)}, outdated},
		{"told the same number of an earlier group", 9, map[string]entry{"a": entryOf(2, 5, 6), "b": entryOf(2, 9, 9)}, outdated},
		{"the other does not know", 6, map[string]entry{"a": entryOf(2, 5, 7), "b": entryOf(1, 6, 6)}, disputed},
		{"the other may mean an earlier group", 9, map[string]entry{"a": entryOf(3, 5, 10), "b": entryOf(3, 2, 4), "c": entryOf(3, 9, 9)}, nodded},
		{"all know", 9, map[string]entry{"a": entryOf(3, 5, 10), "b": entryOf(3, 2, 11), "c": entryOf(3, 9, 9)}, agreed},
	}
	for _, test := range tests {
		v := &view{self: "a", created: 5, members: test.members, changed: test.changed}
		if got := v.stand(); got != test.want {
			t.Errorf("%s: %d, want %d", test.name, got, test.want)
		}
	}
}

func TestViewReplace(t *testing.T) {
	t.Parallel()
	v := &view{self: "a", created: 1, changed: 2, revision: 4, members: map[string]entry{"a": {created: 1, modified: 3}, "b": {created: 2, modified: 4}}}
	v.replace(map[string]entry{"a": {created: 1, modified: 3}, "c": {created: 8, modified: 8}}, 9)
	if got := fmt.Sprint(v.ids()); got != "[a c]" || v.changed != 9 || v.revision != 9 {
		t.Errorf("members %s, changed %d, revision %d", got, v.changed, v.revision)
	}
}

func TestHolding(t *testing.T) {
	t.Parallel()
	if (holding{}).has(0) {
		t.Error("nothing holds something")
	}
	h := holding{{0, 2}, {1, 3}}
	var got []uint64
	for p := range uint64(12) {
		if h.has(p) {
			got = append(got, p)
		}
	}
	if fmt.Sprint(got) != "[4 10]" {
		t.Errorf("holding %v", got)
	}
}
