package placement

import (
	"fmt"
	"strconv"
	"sync/atomic"

	placementv1 "outrigger.dev/api/gen/placement/v1"
)

// Orders of the placement service.
const (
	orderLock   = "lock"
	orderUpdate = "update"
	orderUnlock = "unlock"
)

// step is what an order asks of the client.
type step struct {
	// ack is the kind of the acknowledgement: LOCK starts the bound of the round. UPDATE ends it, and whatever does not stay is to be
	// halted before it is acknowledged. UNLOCK is to be followed by core.settle before it is. UNKNOWN asks for nothing.
	ack placementv1.HostOperation
	// version is the acknowledgement's.
	version uint64
	// stays tells, after an UPDATE, which actors remain here undisturbed.
	stays func(actorType, id string) bool
}

// core handles the orders of placement: what is known, and how far the round is. It knows nothing of connections and time. Orders come
// from one goroutine at a time; look-ups may come from anywhere.
type core struct {
	own  self
	view atomic.Pointer[view]

	last   string // the last order that was handled
	locked uint64 // the version of the last lock
}

func newCore(hostName string) *core {
	c := &core{own: newSelf(hostName)}
	c.view.Store(newView())
	return c
}

// publish makes v the view and wakes whoever waits for a newer one.
func (c *core) publish(v *view) {
	close(c.view.Swap(v).changed)
}

// lost is the end of a stream: from now on nothing is settled, and the next stream starts anew (Dapr API, placement: reconnecting).
func (c *core) lost() {
	c.last, c.locked = "", 0
	c.publish(newView())
}

// close is the end of everything.
func (c *core) close() {
	v := newView()
	v.closed = true
	c.publish(v)
}

// order handles an order up to its acknowledgement (Dapr API, placement: orders). An error means that the stream is to be closed.
func (c *core) order(o *placementv1.PlacementOrder) (step, error) {
	version := o.GetVersion()
	if version == 0 {
		version, _ = strconv.ParseUint(o.GetTables().GetVersion(), 10, 64)
	}
	switch o.GetOperation() {
	case orderLock:
		c.last, c.locked = orderLock, version
		return step{ack: placementv1.HostOperation_LOCK, version: version}, nil
	case orderUpdate:
		if version < c.locked {
			return step{}, fmt.Errorf("version mismatch: expected %d, got %d", c.locked, version)
		}
		t, err := newTable(o.GetTables(), c.own)
		if err != nil {
			return step{}, fmt.Errorf("the placement table %d cannot be used: %w", version, err)
		}
		v := c.view.Load().install(t)
		c.last = orderUpdate
		c.publish(v)
		return step{ack: placementv1.HostOperation_UPDATE, version: c.locked, stays: v.isLocal}, nil
	case orderUnlock:
		if c.last != orderUpdate || version < c.locked {
			return step{}, nil
		}
		c.last = orderUnlock
		return step{ack: placementv1.HostOperation_UNLOCK, version: c.locked}, nil
	}
	return step{}, fmt.Errorf("unknown operation: %.100s", o.GetOperation())
}

// settle puts the newest table into force, after an UNLOCK.
func (c *core) settle() { c.publish(c.view.Load().settle()) }
