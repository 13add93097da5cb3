package engine

import (
	"maps"
	"slices"

	"outrigger.dev/controlplane/scheduler/record"
)

// table divides the jobs among the members of a group: the i-th of n, in the order of their keys, has the partitions whose
// remainder by n is i (Dapr API, scheduler service: partitioning).
type table struct{ index, members uint64 }

func (t table) owns(partition uint64) bool { return partition%t.members == t.index }

// holding is what a member may trigger: the partitions that it owns by all of these tables. The first is the one that all
// members agreed on; the others are the groups it has seen since. What it owns by all of them has no other owner, whichever
// of these tables the others go by. No table means no partition.
type holding []table

func (h holding) has(partition uint64) bool {
	for _, t := range h {
		if !t.owns(partition) {
			return false
		}
	}
	return len(h) > 0
}

// entry is the stored entry of a member with its revisions.
type entry struct {
	record.Member
	created, modified int64
}

// view is the group as one member sees it, at one revision.
type view struct {
	self     string
	created  int64 // revision at which the own entry was made
	members  map[string]entry
	changed  int64 // revision at which the set of members changed last
	revision int64
}

// put takes a written entry into account.
func (v *view) put(id string, e entry) {
	old, ok := v.members[id]
	if !ok || old.created != e.created {
		v.changed = max(v.changed, e.created)
	}
	if e.modified >= old.modified {
		v.members[id] = e
	}
	v.revision = max(v.revision, e.modified)
}

// remove takes a deleted entry into account.
func (v *view) remove(id string, revision int64) {
	v.revision = max(v.revision, revision)
	if old, ok := v.members[id]; ok && old.modified < revision {
		delete(v.members, id)
		v.changed = max(v.changed, revision)
	}
}

// replace takes a whole new state into account, after some changes were not seen.
func (v *view) replace(members map[string]entry, revision int64) {
	for id := range v.members {
		if _, ok := members[id]; !ok {
			v.remove(id, revision)
		}
	}
	for id, e := range members {
		v.put(id, e)
	}
	v.revision = max(v.revision, revision)
}

// ids are the members in order.
func (v *view) ids() []string { return slices.Sorted(maps.Keys(v.members)) }

// table is how the members divide the jobs, as seen by this one.
func (v *view) table() table {
	return table{index: uint64(slices.Index(v.ids(), v.self)), members: uint64(len(v.members))}
}

// stand is what a view means for its member.
type stand uint8

const (
	lost     stand = iota // the own entry is gone, or is somebody else's
	outdated              // the own entry does not tell of this group: it is to be written
	disputed              // others have not seen this group yet
	nodded                // all entries tell the number of members, but some may mean an earlier group of as many
	agreed                // all members have seen exactly this group
)

// stand tells where the member stands. Members of this kind write their entry after every change of the group, and on the
// condition that it is the group they see, so that an entry written since the last change proves what its member knows. A
// member of another kind may write only when the number changed.
func (v *view) stand() stand {
	own, ok := v.members[v.self]
	if !ok || own.created != v.created {
		return lost
	}
	total := uint64(len(v.members))
	if own.Total != total || own.modified < v.changed {
		return outdated
	}
	result := agreed
	for _, e := range v.members {
		if e.Total != total {
			return disputed
		}
		if e.modified < v.changed {
			result = nodded
		}
	}
	return result
}
