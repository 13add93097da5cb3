package placement

import (
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"testing"

	"google.golang.org/protobuf/proto"

	placementv1 "outrigger.dev/api/gen/placement/v1"
)

// The simulation lets several cores and a model of the placement service work in an order that a seed decides. Messages of a stream
// keep their order, and nothing else does. The rule that is checked after each step: an actor is in the hands of one client at a time. A
// client whose stream is broken is not counted, because the service and it cannot agree any more.

var simTypes = []string{"A", "B", "C"}

const simIDs = 6

// simStream is a stream between a client and the service.
type simStream struct {
	toClient []*placementv1.PlacementOrder
	toServer []*placementv1.Host
	// gone tells that the connection is broken; each side notices it later.
	gone bool

	// What the service knows of it.
	host  *placementv1.Host
	state int // streamNew, streamWaiting or streamIn
	acked bool
}

const (
	streamNew = iota
	streamWaiting
	streamIn
)

// simServer is the service: one namespace of the leader.
type simServer struct {
	version  uint64
	phase    placementv1.HostOperation // UNKNOWN: idle
	streams  []*simStream
	table    map[string]*placementv1.Host
	removals []string
}

func (s *simServer) in() (all []*simStream) {
	for _, st := range s.streams {
		if st.state == streamIn {
			all = append(all, st)
		}
	}
	return all
}

func (s *simServer) tables() *placementv1.PlacementTables {
	t := &placementv1.PlacementTables{ReplicationFactor: 2, Version: strconv.FormatUint(s.version, 10), Entries: map[string]*placementv1.PlacementTable{}}
	for name, h := range s.table {
		for _, e := range h.GetEntities() {
			if t.Entries[e] == nil {
				t.Entries[e] = &placementv1.PlacementTable{LoadMap: map[string]*placementv1.Host{}}
			}
			t.Entries[e].LoadMap[name] = h
		}
	}
	return t
}

func (s *simServer) order(kind placementv1.HostOperation) *placementv1.PlacementOrder {
	o := &placementv1.PlacementOrder{Version: s.version}
	switch kind {
	case lock:
		o.Operation = orderLock
	case update:
		o.Operation, o.Tables = orderUpdate, s.tables()
	case unlock:
		o.Operation = orderUnlock
	}
	return o
}

func (s *simServer) enter(phase placementv1.HostOperation) {
	s.phase = phase
	o := s.order(phase)
	for _, st := range s.in() {
		st.acked = false
		st.toClient = append(st.toClient, o)
	}
	s.advance()
}

func (s *simServer) round() { s.version++; s.enter(lock) }

// advance goes on when all have acknowledged.
func (s *simServer) advance() {
	if s.phase == nothing {
		return
	}
	for _, st := range s.in() {
		if !st.acked {
			return
		}
	}
	switch s.phase {
	case lock:
		s.enter(update)
	case update:
		s.enter(unlock)
	case unlock:
		s.phase = nothing
		s.next()
	}
}

// next does what was put off while a round ran: removals, then joins.
func (s *simServer) next() {
	if len(s.removals) > 0 {
		for _, name := range s.removals {
			delete(s.table, name)
		}
		s.removals = nil
		s.round()
		return
	}
	s.join()
}

func (s *simServer) join() {
	changed := false
	for _, st := range s.streams {
		if st.state == streamWaiting {
			st.state = streamIn
			if len(st.host.GetEntities()) > 0 {
				s.table[st.host.GetName()] = st.host
			}
			changed = true
		}
	}
	if changed {
		s.round()
	}
}

func (s *simServer) receive(st *simStream, h *placementv1.Host) {
	switch {
	case h.GetOperation() != placementv1.HostOperation_REPORT:
		if st.state == streamIn && s.phase == h.GetOperation() && h.GetVersion() >= s.version {
			st.acked = true
			s.advance()
		}
	case st.state == streamNew && s.phase == nothing && len(h.GetEntities()) == 0:
		st.host, st.state = h, streamIn
		st.toClient = append(st.toClient, s.order(lock), s.order(update), s.order(unlock))
	case st.state != streamIn:
		st.host, st.state = h, streamWaiting
		if s.phase == nothing {
			s.join()
		}
	case !slices.Equal(st.host.GetEntities(), h.GetEntities()):
		st.host = h
		if delete(s.table, h.GetName()); len(h.GetEntities()) > 0 {
			s.table[h.GetName()] = h
		}
		s.round()
	}
}

// close notices the end of a stream.
func (s *simServer) close(st *simStream) {
	st.gone = true
	s.streams = slices.DeleteFunc(s.streams, func(other *simStream) bool { return other == st })
	if st.state != streamIn {
		return
	}
	hosted := len(st.host.GetEntities()) > 0
	if hosted {
		s.removals = append(s.removals, st.host.GetName())
	}
	switch {
	case s.phase != nothing:
		s.advance()
	case hosted:
		s.next()
	}
}

// expire is the end of a round's time: who has not acknowledged is thrown out.
func (s *simServer) expire() {
	if s.phase == nothing {
		return
	}
	for _, st := range s.in() {
		if !st.acked {
			st.gone = true
			s.streams = slices.DeleteFunc(s.streams, func(other *simStream) bool { return other == st })
			delete(s.table, st.host.GetName())
		}
	}
	for _, name := range s.removals {
		delete(s.table, name)
	}
	s.removals, s.phase = nil, nothing
	s.version++
	for _, st := range s.streams {
		if st.state == streamWaiting {
			st.state = streamIn
			if len(st.host.GetEntities()) > 0 {
				s.table[st.host.GetName()] = st.host
			}
		}
	}
	s.enter(lock)
}

type simWaiter struct {
	actorType, id string
	view          *view
}

// simClient is a core with what a session does around it, and the actors that are active.
type simClient struct {
	name    string
	core    *core
	types   []string
	stream  *simStream
	halting *step // an UPDATE whose halt runs
	ending  bool  // everything is being halted, then the stream is closed
	backlog []*placementv1.PlacementOrder
	active  map[string]bool
	waiters []simWaiter
}

func (c *simClient) report(o *placementv1.Host) { c.stream.toServer = append(c.stream.toServer, o) }

func (c *simClient) advertise() {
	c.report(&placementv1.Host{Name: c.name, Id: "app", Entities: slices.Clone(c.types), Operation: placementv1.HostOperation_REPORT})
}

func (c *simClient) ack(s step) { c.report(&placementv1.Host{Operation: s.ack, Version: &s.version}) }

func (c *simClient) handle(t *testing.T, o *placementv1.PlacementOrder) {
	s, err := c.core.order(o)
	if err != nil {
		t.Fatalf("%s: %v", c.name, err)
	}
	switch s.ack {
	case nothing:
		return
	case update:
		c.halting = &s
		return
	case unlock:
		c.core.settle()
	}
	c.ack(s)
}

func simKey(actorType, id string) string { return actorType + "/" + id }

type simulation struct {
	t       *testing.T
	random  *rand.Rand
	server  *simServer
	clients []*simClient
	moves   map[string]string // who had an actor last
	// What happened, so that a run that checks nothing is noticed.
	activated, moved, stayed, waited, losses int
}

func newSimulation(t *testing.T, seed uint64) *simulation {
	s := &simulation{t: t, random: rand.New(rand.NewPCG(seed, 0)), server: &simServer{table: map[string]*placementv1.Host{}}, moves: map[string]string{}}
	for i := range 4 {
		name := fmt.Sprintf("10.0.0.%d:1", i)
		c := &simClient{name: name, core: newCore(name), active: map[string]bool{}}
		c.types = s.someTypes()
		s.clients = append(s.clients, c)
	}
	return s
}

func (s *simulation) someTypes() (types []string) {
	for _, name := range simTypes {
		if s.random.IntN(3) > 0 {
			types = append(types, name)
		}
	}
	return types
}

// check is the rule.
func (s *simulation) check(when string) {
	for _, actorType := range simTypes {
		for n := range simIDs {
			id := strconv.Itoa(n)
			holder := ""
			for _, c := range s.clients {
				if c.stream == nil || c.stream.gone {
					continue
				}
				if !c.active[simKey(actorType, id)] && !c.core.view.Load().isLocal(actorType, id) {
					continue
				}
				if holder != "" {
					s.t.Fatalf("%s: both %s and %s have %s/%s", when, holder, c.name, actorType, id)
				}
				holder = c.name
			}
		}
	}
	for _, c := range s.clients {
		kept := c.waiters[:0]
		for _, w := range c.waiters {
			if w.view == c.core.view.Load() {
				kept = append(kept, w)
				continue
			}
			select {
			case <-w.view.changed:
			default:
				s.t.Fatalf("%s: a look-up at %s is not woken", when, c.name)
			}
			if v := c.core.view.Load(); v != w.view {
				if _, f := v.lookup(w.actorType, w.id); f == moving {
					w.view = v
					kept = append(kept, w)
				}
			}
		}
		c.waiters = kept
	}
}

func (s *simulation) step(faults bool) (what string) {
	c := s.clients[s.random.IntN(len(s.clients))]
	if c.stream == nil {
		if len(c.active) > 0 {
			s.t.Fatalf("%s connects with active actors", c.name)
		}
		c.stream = &simStream{}
		s.server.streams = append(s.server.streams, c.stream)
		c.advertise()
		return c.name + " connects"
	}
	st := c.stream
	n := s.random.IntN(100)
	if n >= 90 && s.random.IntN(8) > 0 { // faults are rare, so that rounds get somewhere between them
		n -= 90
	}
	switch {
	case n < 30: // an order arrives
		if len(st.toClient) == 0 || c.ending || st.gone && s.random.IntN(2) == 0 {
			return "nothing"
		}
		o := st.toClient[0]
		st.toClient = st.toClient[1:]
		if c.halting != nil {
			c.backlog = append(c.backlog, o)
			return c.name + " puts off " + o.GetOperation()
		}
		c.handle(s.t, o)
		return fmt.Sprint(c.name, " gets ", o.GetOperation(), " ", o.GetVersion())
	case n < 60: // a message arrives
		if len(st.toServer) == 0 || st.gone {
			return "nothing"
		}
		h := st.toServer[0]
		st.toServer = st.toServer[1:]
		s.server.receive(st, proto.Clone(h).(*placementv1.Host))
		return fmt.Sprint("the service gets ", h.GetOperation(), " ", h.GetVersion(), " of ", c.name)
	case n < 75: // a halt ends
		return s.halted(c)
	case n < 90 || !faults: // somebody calls
		actorType, id := simTypes[s.random.IntN(len(simTypes))], strconv.Itoa(s.random.IntN(simIDs))
		v := c.core.view.Load()
		o, f := v.lookup(actorType, id)
		switch {
		case f == moving:
			s.waited++
			c.waiters = append(c.waiters, simWaiter{actorType, id, v})
		case f == found && o.Local:
			key := simKey(actorType, id)
			c.active[key] = true
			s.activated++
			if last := s.moves[key]; last != "" && last != c.name {
				s.moved++
			}
			s.moves[key] = c.name
			return c.name + " activates " + key
		}
		return "a call"
	case n < 94: // other types
		c.types = s.someTypes()
		c.advertise()
		return fmt.Sprint(c.name, " advertises ", c.types)
	case n < 96: // the connection breaks
		st.gone = true
		s.losses++
		return c.name + " breaks"
	case n < 98: // the client notices, or ends the stream of its own accord
		if c.ending {
			return "nothing"
		}
		c.ending = true
		c.backlog = nil
		c.core.lost()
		return c.name + " ends"
	case n == 98: // the service notices
		for _, other := range slices.Clone(s.server.streams) {
			if other.gone {
				s.server.close(other)
				return "the service notices a loss"
			}
		}
		return "nothing"
	default:
		if s.random.IntN(5) > 0 {
			return "nothing"
		}
		s.server.expire()
		return "the round's time ends"
	}
}

// halted lets the halt that runs end.
func (s *simulation) halted(c *simClient) string {
	switch {
	case c.ending:
		clear(c.active)
		if !c.stream.gone {
			c.stream.gone = true
		}
		c.stream, c.halting, c.ending = nil, nil, false
		return c.name + " has halted everything"
	case c.halting != nil:
		done := *c.halting
		c.halting = nil
		for key := range c.active {
			actorType, id := key[:1], key[2:]
			if !done.stays(actorType, id) {
				delete(c.active, key)
			} else {
				s.stayed++
			}
		}
		c.ack(done)
		for c.halting == nil && len(c.backlog) > 0 {
			o := c.backlog[0]
			c.backlog = c.backlog[1:]
			c.handle(s.t, o)
		}
		return fmt.Sprint(c.name, " has halted for ", done.version)
	}
	return "nothing"
}

// quiet lets everything come to rest without any more faults.
func (s *simulation) quiet() {
	for _, c := range s.clients {
		if c.stream != nil && c.stream.gone && !c.ending {
			c.ending = true
			c.backlog = nil
			c.core.lost()
		}
	}
	for range 200_000 {
		for _, st := range slices.Clone(s.server.streams) {
			if st.gone {
				s.server.close(st)
			}
		}
		s.check(s.step(false))
		rest := s.server.phase == nothing && len(s.server.removals) == 0
		for _, c := range s.clients {
			rest = rest && c.stream != nil && !c.stream.gone && !c.ending && c.halting == nil && len(c.stream.toClient)+len(c.stream.toServer) == 0 && c.core.view.Load().unlocked
		}
		if rest {
			return
		}
	}
	s.t.Fatal("it does not come to rest")
}

func TestSimulation(t *testing.T) {
	runs, first := 80, uint64(1)
	if seed := os.Getenv("PLACEMENT_SEED"); seed != "" {
		n, err := strconv.ParseUint(seed, 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		runs, first = 1, n
	}
	var activated, moved, stayed, waited, losses int
	for run := range runs {
		seed := first + uint64(run)
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			s := newSimulation(t, seed)
			for range 3000 {
				s.check(s.step(true))
			}
			s.quiet()
			for _, actorType := range simTypes {
				for n := range simIDs {
					owner := ""
					for _, c := range s.clients {
						o, f := c.core.view.Load().lookup(actorType, strconv.Itoa(n))
						if f == moving {
							t.Fatalf("%s/%d is still moving at %s", actorType, n, c.name)
						}
						if owner != "" && owner != o.Address+"?" {
							t.Fatalf("%s/%d is at %s by %s, and elsewhere by others", actorType, n, o.Address, c.name)
						}
						owner = o.Address + "?"
						if len(c.waiters) > 0 {
							t.Fatalf("%d look-ups wait at %s", len(c.waiters), c.name)
						}
					}
				}
			}
			activated, moved, stayed, waited, losses = activated+s.activated, moved+s.moved, stayed+s.stayed, waited+s.waited, losses+s.losses
		})
	}
	t.Logf("%d activations, %d of them elsewhere than before; %d went on through an UPDATE; %d look-ups waited; %d streams broke", activated, moved, stayed, waited, losses)
	if runs > 1 && (activated < 1000 || moved < 100 || stayed < 100 || waited < 100 || losses < 100) {
		t.Error("the simulation did too little")
	}
}
