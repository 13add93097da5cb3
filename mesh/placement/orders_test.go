package placement

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	placementv1 "outrigger.dev/api/gen/placement/v1"
)

const (
	lock    = placementv1.HostOperation_LOCK
	update  = placementv1.HostOperation_UPDATE
	unlock  = placementv1.HostOperation_UNLOCK
	nothing = placementv1.HostOperation_UNKNOWN
)

// tables makes the tables of hosts: "type=host:1,host:2".
func tables(entries ...string) *placementv1.PlacementTables {
	t := &placementv1.PlacementTables{ReplicationFactor: 20, Entries: map[string]*placementv1.PlacementTable{}}
	for _, entry := range entries {
		actorType, names, _ := strings.Cut(entry, "=")
		in := &placementv1.PlacementTable{LoadMap: map[string]*placementv1.Host{}}
		for name := range strings.SplitSeq(names, ",") {
			if name != "" {
				in.LoadMap[name] = &placementv1.Host{Name: name, Id: "app-" + name}
			}
		}
		t.Entries[actorType] = in
	}
	return t
}

func order(operation string, version uint64, t *placementv1.PlacementTables) *placementv1.PlacementOrder {
	return &placementv1.PlacementOrder{Operation: operation, Version: version, Tables: t}
}

// must handles an order that has to be acknowledged.
func must(t testing.TB, c *core, o *placementv1.PlacementOrder) step {
	t.Helper()
	s, err := c.order(o)
	if err != nil || s.ack == nothing {
		t.Fatalf("order %s: %v, %v", o.GetOperation(), s, err)
	}
	if s.ack == unlock {
		c.settle()
	}
	return s
}

// settled is a core in which a table is in force.
func settled(t testing.TB, hostName string, version uint64, in *placementv1.PlacementTables) *core {
	t.Helper()
	c := newCore(hostName)
	must(t, c, order("lock", version, nil))
	must(t, c, order("update", version, in))
	must(t, c, order("unlock", version, nil))
	return c
}

func TestOrders(t *testing.T) {
	type given struct {
		order   *placementv1.PlacementOrder
		ack     placementv1.HostOperation
		version uint64
		err     string
	}
	some := tables("T=h:1")
	old := proto.Clone(some).(*placementv1.PlacementTables)
	old.Version = "7"
	odd := proto.Clone(some).(*placementv1.PlacementTables)
	odd.Version = "x"
	huge := proto.Clone(some).(*placementv1.PlacementTables)
	huge.ReplicationFactor = 1 << 60
	for name, orders := range map[string][]given{
		"a round":                       {{order("lock", 3, nil), lock, 3, ""}, {order("update", 3, some), update, 3, ""}, {order("unlock", 3, nil), unlock, 3, ""}},
		"version 0":                     {{order("lock", 0, nil), lock, 0, ""}, {order("update", 0, some), update, 0, ""}, {order("unlock", 0, nil), unlock, 0, ""}},
		"the version of the tables":     {{order("lock", 0, old), lock, 7, ""}, {order("update", 0, old), update, 7, ""}, {order("unlock", 0, old), unlock, 7, ""}},
		"a version that is no number":   {{order("lock", 0, odd), lock, 0, ""}},
		"version before tables":         {{order("lock", 9, old), lock, 9, ""}},
		"an older update":               {{order("lock", 4, nil), lock, 4, ""}, {order("update", 3, some), nothing, 0, "version mismatch: expected 4, got 3"}},
		"a newer update":                {{order("lock", 4, nil), lock, 4, ""}, {order("update", 5, some), update, 4, ""}, {order("unlock", 5, nil), unlock, 4, ""}},
		"an update without a lock":      {{order("update", 1, some), update, 0, ""}},
		"an update without tables":      {{order("lock", 1, nil), lock, 1, ""}, {order("update", 1, nil), update, 1, ""}},
		"an unlock without an update":   {{order("unlock", 1, nil), nothing, 0, ""}, {order("lock", 1, nil), lock, 1, ""}, {order("unlock", 1, nil), nothing, 0, ""}},
		"an older unlock":               {{order("lock", 4, nil), lock, 4, ""}, {order("update", 4, some), update, 4, ""}, {order("unlock", 3, nil), nothing, 0, ""}, {order("unlock", 4, nil), unlock, 4, ""}},
		"a second unlock":               {{order("update", 0, some), update, 0, ""}, {order("unlock", 0, nil), unlock, 0, ""}, {order("unlock", 0, nil), nothing, 0, ""}},
		"an unlock of the round before": {{order("lock", 1, nil), lock, 1, ""}, {order("update", 1, some), update, 1, ""}, {order("lock", 2, nil), lock, 2, ""}, {order("unlock", 1, nil), nothing, 0, ""}},
		"several updates before one unlock": {
			{order("lock", 1, nil), lock, 1, ""},
			{order("update", 1, some), update, 1, ""},
			{order("lock", 2, nil), lock, 2, ""},
			{order("update", 2, some), update, 2, ""},
			{order("unlock", 2, nil), unlock, 2, ""},
		},
		"something else":       {{order("report", 1, nil), nothing, 0, "unknown operation: report"}},
		"nothing":              {{order("", 1, nil), nothing, 0, "unknown operation: "}},
		"upper case":           {{order("LOCK", 1, nil), nothing, 0, "unknown operation: LOCK"}},
		"an impossible factor": {{order("update", 1, huge), nothing, 0, "the placement table 1 cannot be used: the replication factor 1152921504606846976 for 1 hosts makes more than 50000000 points: set --replicationFactor of the placement service to 100"}},
	} {
		t.Run(name, func(t *testing.T) {
			c := newCore("h:1")
			for i, g := range orders {
				s, err := c.order(g.order)
				if err == nil {
					err = errors.New("")
				}
				if s.ack != g.ack || s.version != g.version || err.Error() != g.err {
					t.Fatalf("order %d: %s of %d, %q; want %s of %d, %q", i, s.ack, s.version, err, g.ack, g.version, g.err)
				}
				if s.ack == unlock {
					c.settle()
				}
			}
		})
	}
}

func findings(c *core, actorType, id string) string {
	o, f := c.view.Load().lookup(actorType, id)
	switch f {
	case moving:
		return "moving"
	case noAddress:
		return "no address"
	case noHosts:
		return "no hosts"
	}
	if o.Local != c.view.Load().isLocal(actorType, id) {
		return "local and not"
	}
	return fmt.Sprint(o.Address, " ", o.AppID, " ", o.Local)
}

func check(t *testing.T, c *core, when string, want map[string]string) {
	t.Helper()
	for actor, owner := range want {
		actorType, id, _ := strings.Cut(actor, "/")
		if got := findings(c, actorType, id); got != owner {
			t.Errorf("%s, %s: %s, want %s", when, actor, got, owner)
		}
		if owner == "moving" && c.view.Load().isLocal(actorType, id) {
			t.Errorf("%s, %s is local", when, actor)
		}
	}
}

// owned finds ids by what becomes of their owner from one table to the next.
func owned(t testing.TB, before, after *placementv1.PlacementTables, from, to string) string {
	t.Helper()
	a, b := settled(t, "x:1", 1, before), settled(t, "x:1", 1, after)
	for i := range 1000 {
		id := fmt.Sprint(i)
		one, _ := a.view.Load().lookup("T", id)
		two, _ := b.view.Load().lookup("T", id)
		if one.Address == from && two.Address == to {
			return id
		}
	}
	t.Fatalf("no actor moves from %s to %s", from, to)
	return ""
}

func TestWhatIsSettled(t *testing.T) {
	one, two := tables("T=a:1,b:1", "Gone=b:1", "Empty="), tables("T=a:1,b:1,c:1", "New=c:1", "Empty=")
	stays, away, elsewhere, other := owned(t, one, two, "a:1", "a:1"), owned(t, one, two, "a:1", "c:1"), owned(t, one, two, "b:1", "c:1"), owned(t, one, two, "b:1", "b:1")
	c := newCore("a:1")
	actors := []string{"T/" + stays, "T/" + away, "T/" + elsewhere, "T/" + other, "Gone/1", "New/1", "Empty/1", "None/1"}
	expect := func(when string, owners ...string) {
		t.Helper()
		want := map[string]string{}
		for i, owner := range owners {
			want[actors[i]] = owner
		}
		check(t, c, when, want)
	}
	const wait, none, self, b, third = "moving", "no address", "a:1 app-a:1 true", "b:1 app-b:1 false", "c:1 app-c:1 false"
	expect("before the first table", wait, wait, wait, wait, wait, wait, wait, wait)
	must(t, c, order("lock", 1, nil))
	expect("after LOCK", wait, wait, wait, wait, wait, wait, wait, wait)
	if s := must(t, c, order("update", 1, one)); s.stays("T", stays) {
		t.Error("an actor stays that was never here")
	}
	expect("before the first UNLOCK", wait, wait, wait, wait, wait, none, wait, none)
	must(t, c, order("unlock", 1, nil))
	first := []string{self, self, b, b, b, none, "no hosts", none}
	expect("after UNLOCK", first...)
	must(t, c, order("lock", 2, nil))
	expect("during LOCK", first...)
	s := must(t, c, order("update", 2, two))
	if !s.stays("T", stays) || s.stays("T", away) || s.stays("T", elsewhere) || s.stays("T", other) {
		t.Error("what stays is not what is here before and after")
	}
	expect("after UPDATE", self, wait, wait, b, wait, wait, "no hosts", none)
	// A further update brings an actor back: it was away in between, and everybody has to know that it is not any more.
	must(t, c, order("lock", 3, nil))
	must(t, c, order("update", 3, one))
	expect("after an UPDATE back", self, wait, wait, b, wait, wait, "no hosts", none)
	must(t, c, order("lock", 4, nil))
	must(t, c, order("update", 4, two))
	must(t, c, order("unlock", 4, nil))
	expect("after the second UNLOCK", self, third, third, b, none, third, "no hosts", none)
	c.lost()
	expect("after the loss of the stream", wait, wait, wait, wait, wait, wait, wait, wait)
	if s := must(t, c, order("update", 0, two)); s.stays("T", stays) {
		t.Error("an actor stays over the loss of the stream")
	}
	expect("after the first UPDATE of the next", wait, wait, wait, wait, none, wait, wait, none)
	must(t, c, order("unlock", 0, nil))
	expect("after the first UNLOCK of the next", self, third, third, b, none, third, "no hosts", none)
}

func TestChangeOfApp(t *testing.T) {
	before, after := tables("T=a:1"), tables("T=a:1")
	after.Entries["T"].LoadMap["a:1"].Id = "another"
	c := settled(t, "b:1", 1, before)
	must(t, c, order("update", 2, after))
	check(t, c, "after another app took the address", map[string]string{"T/1": "moving"})
}

func TestManyUpdatesWithoutUnlock(t *testing.T) {
	c := settled(t, "a:1", 1, tables("T=a:1"))
	for range 10 * maxOlder {
		must(t, c, order("update", 1, tables("T=a:1")))
		if n := len(c.view.Load().older); n > maxOlder {
			t.Fatalf("%d tables are kept", n)
		}
	}
	check(t, c, "after too many", map[string]string{"T/1": "moving"})
	must(t, c, order("unlock", 1, nil))
	check(t, c, "after UNLOCK", map[string]string{"T/1": "a:1 app-a:1 true"})
}

func TestLocal(t *testing.T) {
	for _, c := range []struct {
		own, table string
		want       bool
	}{
		{"10.0.0.1:50002", "10.0.0.1:50002", true},
		{"10.0.0.1:50002", "10.0.0.1:50003", false},
		{"10.0.0.1:50002", "127.0.0.1:50002", false},
		{"127.0.0.1:50002", "10.0.0.1:50002", false},
		{"127.0.0.1:50002", "localhost:50002", true},
		{"localhost:50002", "[::1]:50002", true},
		{"[::1]:50002", "127.0.0.1:50002", true},
		{"::1:50002", "127.0.0.1:50002", true},
		{"localhost:50002", "::1:50002", true},
		{"127.0.0.1:50002", "localhost:50003", false},
		{"127.0.0.1:50002", "127.0.0.2:50002", false},
		{"127.0.0.1:50002", "localhost", false},
		{"localhost", "localhost", true},
		{"localhost", "127.0.0.1", false},
		{"", "localhost:1", false},
	} {
		if got := newSelf(c.own).is(c.table); got != c.want {
			t.Errorf("%q in the table of %q: %v", c.table, c.own, got)
		}
	}
}

func TestHosted(t *testing.T) {
	c := settled(t, "localhost:1", 1, tables("A=127.0.0.1:1,x:1", "B=x:1", "C=[::1]:1"))
	if got := fmt.Sprint(c.view.Load().newest.hosted([]string{"A", "B", "D"})); got != "[A]" {
		t.Errorf("in force are %s", got)
	}
}

func TestLookupDoesNotAllocate(t *testing.T) {
	c := settled(t, "a:1", 1, tables("T=a:1,b:1"))
	must(t, c, order("update", 2, tables("T=a:1,b:1,c:1"))) // also while others move
	if n := testing.AllocsPerRun(100, func() { c.view.Load().lookup("T", "an-actor") }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// FuzzOrders gives orders of any kind, and checks what must hold whatever a server does.
func FuzzOrders(f *testing.F) {
	join := func(orders ...*placementv1.PlacementOrder) (all []byte) {
		for _, o := range orders {
			one, err := proto.Marshal(o)
			if err != nil {
				f.Fatal(err)
			}
			all = append(append(all, byte(len(one))), one...)
		}
		return all
	}
	f.Add(join(order("lock", 1, nil), order("update", 1, tables("T=a:1")), order("unlock", 1, nil), order("update", 2, tables("T=b:1"))))
	f.Add(join(order("update", 1, tables("T=")), order("unlock", 0, nil)))
	f.Add([]byte{2, 'x', 'y'})
	f.Fuzz(func(t *testing.T, data []byte) {
		c := newCore("a:1")
		unlocked, pending := false, false
		for len(data) > 0 {
			n := min(int(data[0]), len(data)-1)
			o := &placementv1.PlacementOrder{}
			err := proto.Unmarshal(data[1:1+n], o)
			data = data[1+n:]
			if err != nil || o.GetTables().GetReplicationFactor() > 1000 {
				continue
			}
			before := c.view.Load()
			s, err := c.order(o)
			if err != nil {
				if c.view.Load() != before {
					t.Error("a bad order changed something")
				}
				c.lost()
				unlocked, pending = false, false
				continue
			}
			switch s.ack {
			case update:
				pending = true
			case unlock:
				if !pending {
					t.Error("UNLOCK without UPDATE")
				}
				c.settle()
				unlocked, pending = true, false
			}
			if !unlocked && c.view.Load().isLocal("T", "1") {
				t.Error("something is local before the first UNLOCK")
			}
			select {
			case <-c.view.Load().changed:
				t.Error("the newest view is told to be outdated")
			default:
			}
		}
	})
}
