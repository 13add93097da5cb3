package placement

import (
	"outrigger.dev/mesh/placement/ring"
)

// view is what is known at one moment about where actors are. It does not change: every order makes a new one.
//
// An actor is settled when all sidecars agree on its owner. After an UNLOCK that is every actor. From an UPDATE on, some sidecars go by
// the new table already and some by the old one, so that an actor is settled only if its owner is the same in both, and in all tables
// that came in between. Before the first UNLOCK of a stream nothing is, for nobody has waited for this sidecar.
type view struct {
	// newest is the table of the last UPDATE of this stream, nil if there was none.
	newest *table
	// older are the table of the last UNLOCK and those that came after it, without newest; none after an UNLOCK.
	older []*table
	// unlocked tells that there was an UNLOCK on this stream.
	unlocked bool
	// closed tells that nothing will come any more.
	closed bool
	// changed is closed when there is a newer view.
	changed chan struct{}
}

// maxOlder bounds how many tables are kept while no UNLOCK comes. After more of them nothing counts as settled, as on a new stream.
const maxOlder = 32

func newView() *view { return &view{changed: make(chan struct{})} }

// install is the view after an UPDATE.
func (v *view) install(t *table) *view {
	next := newView()
	next.newest, next.unlocked = t, v.unlocked
	if !v.unlocked {
		return next
	}
	if len(v.older) >= maxOlder {
		next.unlocked = false
		return next
	}
	next.older = append(v.older[:len(v.older):len(v.older)], v.newest)
	return next
}

// settle is the view after an UNLOCK.
func (v *view) settle() *view {
	next := newView()
	next.newest, next.unlocked = v.newest, true
	return next
}

// finding is what a look-up found.
type finding int

const (
	// moving actors have no owner that everybody agrees on, for the moment.
	moving finding = iota
	found
	noAddress
	noHosts
)

// lookup finds the owner of an actor.
func (v *view) lookup(actorType, id string) (Owner, finding) {
	if v.newest == nil {
		return Owner{}, moving
	}
	now, known := v.newest.types[actorType]
	if !v.unlocked {
		if known {
			return Owner{}, moving
		}
		return Owner{}, noAddress
	}
	var hash uint64
	var owner *Owner
	if known || len(v.older) > 0 {
		hash = ring.Hash(id)
		owner = now.at(hash)
	}
	for _, t := range v.older {
		then, wasKnown := t.types[actorType]
		if wasKnown != known {
			return Owner{}, moving
		}
		before := then.at(hash)
		if (before == nil) != (owner == nil) || owner != nil && *before != *owner {
			return Owner{}, moving
		}
	}
	switch {
	case !known:
		return Owner{}, noAddress
	case owner == nil:
		return Owner{}, noHosts
	}
	return *owner, found
}

// isLocal reports whether an actor is settled on this sidecar.
func (v *view) isLocal(actorType, id string) bool {
	o, f := v.lookup(actorType, id)
	return f == found && o.Local
}
