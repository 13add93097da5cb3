package engine

import (
	"fmt"
	"sync"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/protobuf/types/known/anypb"

	schedulerv1 "outrigger.dev/api/gen/scheduler/v1"
	"outrigger.dev/controlplane/scheduler/etcdtest"
	"outrigger.dev/controlplane/scheduler/record"
)

// tally counts the triggers of several engines.
type tally struct {
	mu    sync.Mutex
	ticks map[string]map[time.Time]int // by job and planned time
	who   map[string]string            // the engine that triggered a job last
	dead  map[string]bool              // engines whose triggers lead nowhere
}

func newTally() *tally {
	return &tally{ticks: make(map[string]map[time.Time]int), who: make(map[string]string), dead: make(map[string]bool)}
}

func (c *tally) of(engine string) Deliverer {
	return delivererFunc(func(t *Trigger) {
		c.mu.Lock()
		defer c.mu.Unlock()
		if c.dead[engine] {
			return
		}
		if c.ticks[t.Name] == nil {
			c.ticks[t.Name] = make(map[time.Time]int)
		}
		c.ticks[t.Name][t.Planned]++
		c.who[t.Name] = engine
		t.Done(Success)
	})
}

func (c *tally) kill(engine string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.dead[engine] = true
}

// complete complains unless each of the jobs had n different ticks; and counts those that came more than once.
func (c *tally) complete(jobs []string, n int) (twice int, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, name := range jobs {
		if got := len(c.ticks[name]); got != n {
			return 0, fmt.Errorf("%q had %d ticks, not %d", name, got, n)
		}
		for _, times := range c.ticks[name] {
			twice += times - 1
		}
	}
	return twice, nil
}

func replica(t testing.TB, address string) *anypb.Any {
	t.Helper()
	a, err := anypb.New(&schedulerv1.Host{Address: address})
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// size waits until all engines see a group of n.
func size(t *testing.T, n int, engines ...*Engine) {
	t.Helper()
	for _, e := range engines {
		eventually(t, func() error {
			members, _ := e.Members()
			if len(members) != n {
				return fmt.Errorf("the engine %s sees %d members, not %d", e.o.ID, len(members), n)
			}
			return nil
		})
	}
}

func names(prefix string, n int) []string {
	var list []string
	for i := range n {
		list = append(list, fmt.Sprintf("app||ns||%s||%d", prefix, i))
	}
	return list
}

func TestThreeEngines(t *testing.T) {
	t.Parallel()
	server := etcdtest.Start(t)
	c := newTally()
	start := func(id string, client *clientv3.Client) (*Engine, func()) {
		e, stop := run(t, Options{Client: client, ID: id, Deliver: c.of(id), Replica: replica(t, id)})
		return e, stop
	}
	a, _ := start("a", server.Client())
	b, stopB := start("b", server.Dial())
	clientOfC := server.Dial()
	cc, _ := start("c", clientOfC)
	joined(t, a, b, cc)
	size(t, 3, a, b, cc)
	if members, _ := b.Members(); len(members) == 3 {
		for i, want := range []string{"a", "b", "c"} {
			host := new(schedulerv1.Host)
			if err := members[i].UnmarshalTo(host); err != nil || host.Address != want {
				t.Errorf("member %d is %v, want %s (%v)", i, host, want, err)
			}
		}
	}

	// While nothing changes each tick comes once.
	const ticks = 8
	quiet := names("quiet", 60)
	for i, name := range quiet {
		[]*Engine{a, b, cc}[i%3].mustSchedule(t, name, every("100ms"), repeats(ticks))
	}
	eventually(t, func() error { _, err := c.complete(quiet, ticks); return err })
	if twice, _ := c.complete(quiet, ticks); twice != 0 {
		t.Errorf("%d ticks came twice while nothing changed", twice)
	}
	c.mu.Lock()
	by := map[string]int{}
	for _, who := range c.who {
		by[who]++
	}
	c.mu.Unlock()
	if len(by) != 3 {
		t.Errorf("the jobs were triggered by %v, want all three", by)
	}
	for _, name := range quiet {
		a.absent(t, name)
	}

	// While members join, leave and are killed none is lost.
	const many = 60
	restless := names("restless", 60)
	for _, name := range restless {
		a.mustSchedule(t, name, every("100ms"), repeats(many))
	}
	d, _ := start("d", server.Client())
	joined(t, d)
	size(t, 4, a, b, cc, d)
	stopB()
	size(t, 3, a, cc, d)
	c.kill("c")
	if err := clientOfC.Close(); err != nil { // its lease ends after a while
		t.Fatal(err)
	}
	size(t, 2, a, d)
	eventually(t, func() error { _, err := c.complete(restless, many); return err })
	twice, _ := c.complete(restless, many)
	t.Logf("%d of %d ticks came twice", twice, many*len(restless))
	for _, name := range restless {
		a.absent(t, name)
	}
}

// When the group changes, the triggers of jobs that stay with their engine are neither cancelled nor repeated, and those of
// the others come from the new owner.
func TestJobsThatStay(t *testing.T) {
	t.Parallel()
	client := etcdtest.Start(t).Client()
	ra := newRecorder(nil)
	a, _ := run(t, Options{Client: client, ID: "a", Deliver: ra})
	joined(t, a)
	list := names("job", 40)
	for _, name := range list {
		a.mustSchedule(t, name, due("0s"))
	}
	for _, name := range list {
		eventually(t, ra.count(name, 1))
	}
	rb := newRecorder(succeed)
	b, stopB := run(t, Options{Client: client, ID: "b", Deliver: rb})
	joined(t, b)
	stay, move := 0, 0
	for _, name := range list {
		trigger := ra.triggers(name)[0]
		if trigger.Job.Partition()%2 == 0 {
			stay++
			select {
			case <-cancellation(trigger):
				t.Errorf("%q stays and is cancelled", name)
			default:
			}
			continue
		}
		move++
		wait(t, cancellation(trigger), name+" moves and is not cancelled")
		eventually(t, rb.count(name, 1))
		trigger.Done(Failed)
		a.absent(t, name)
	}
	if stay == 0 || move == 0 {
		t.Fatalf("%d stay, %d move", stay, move)
	}
	stopB()
	size(t, 1, a)
	for _, name := range list {
		if trigger := ra.triggers(name)[0]; trigger.Job.Partition()%2 == 0 {
			trigger.Done(Success)
			a.absent(t, name)
		}
		if n := len(ra.triggers(name)); n != 1 {
			t.Errorf("%q was triggered %d times by its first owner", name, n)
		}
	}
}

// A job that is overwritten gets another partition, and with it perhaps another owner.
func TestOverwrittenMoves(t *testing.T) {
	t.Parallel()
	client := etcdtest.Start(t).Client()
	ra, rb := newRecorder(nil), newRecorder(nil)
	a, _ := run(t, Options{Client: client, ID: "a", Deliver: ra})
	b, _ := run(t, Options{Client: client, ID: "b", Deliver: rb})
	joined(t, a, b)
	size(t, 2, a, b)
	const name = "app||ns||app||job"
	for i := range 20 {
		a.mustSchedule(t, name, due("0s"))
		var last *Trigger
		eventually(t, func() error {
			list := append(ra.triggers(name), rb.triggers(name)...)
			if len(list) != i+1 {
				return fmt.Errorf("%d triggers, not %d", len(list), i+1)
			}
			job, err := a.Get(t.Context(), name)
			for _, trigger := range list {
				if err == nil && trigger.Job.Partition() == job.Partition() {
					last = trigger
				}
			}
			return err
		})
		if last == nil {
			t.Fatal("nobody triggered the newest version")
		}
		for _, trigger := range append(ra.triggers(name), rb.triggers(name)...) {
			if trigger != last {
				wait(t, cancellation(trigger), "a trigger of an old version is not cancelled")
			}
		}
	}
}

// An id that is taken is waited for, unless its holder is known to be dead.
func TestSameID(t *testing.T) {
	t.Parallel()
	client := etcdtest.Start(t).Client()
	occupy := func() clientv3.LeaseID {
		lease, err := client.Grant(t.Context(), 600)
		if err != nil {
			t.Fatal(err)
		}
		value, err := record.Member{Total: 1, UID: 7}.Encode()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := client.Put(t.Context(), record.LeadershipKey("one"), string(value), clientv3.WithLease(lease.ID)); err != nil {
			t.Fatal(err)
		}
		return lease.ID
	}
	occupy()
	e, stop := run(t, Options{Client: client, Deliver: newRecorder(nil), Takeover: true})
	joined(t, e)
	stop()
	if resp, err := client.Get(t.Context(), record.Leadership, clientv3.WithPrefix()); err != nil || len(resp.Kvs) != 0 {
		t.Errorf("an engine that stopped is still in the group: %v %v", resp, err)
	}

	lease := occupy()
	e, _ = run(t, Options{Client: client, Deliver: newRecorder(nil)})
	other, _ := run(t, Options{Client: client, ID: "two", Deliver: newRecorder(nil)})
	// The second cannot work either: the first entry does not know of it.
	eventually(t, func() error {
		resp, err := client.Get(t.Context(), record.LeadershipKey("two"))
		if err != nil || len(resp.Kvs) == 0 {
			return fmt.Errorf("the second does not join (%v)", err)
		}
		return nil
	})
	for _, e := range []*Engine{e, other} {
		e.group.mu.Lock()
		if e.group.working {
			t.Errorf("%s works with an entry that knows of nobody else", e.o.ID)
		}
		e.group.mu.Unlock()
	}
	if _, err := client.Revoke(t.Context(), lease); err != nil {
		t.Fatal(err)
	}
	joined(t, e, other)
	size(t, 2, e, other)
}

// A member of another kind writes its entry only when the number of members changed; it is believed after a while.
func TestForeignMember(t *testing.T) {
	t.Parallel()
	client := etcdtest.Start(t).Client()
	put := func(id string, total uint64) {
		value, err := record.Member{Total: total, UID: 7}.Encode()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := client.Put(t.Context(), record.LeadershipKey(id), string(value)); err != nil {
			t.Fatal(err)
		}
	}
	put("foreign", 2)
	e, _ := run(t, Options{Client: client, Deliver: newRecorder(nil)})
	joined(t, e)
	size(t, 2, e)
}

// An engine whose entry vanishes stops, and joins again.
func TestLostEntry(t *testing.T) {
	t.Parallel()
	client := etcdtest.Start(t).Client()
	r := newRecorder(nil)
	e, _ := run(t, Options{Client: client, Deliver: r})
	joined(t, e)
	const name = "app||ns||app||job"
	e.mustSchedule(t, name, due("0s"))
	eventually(t, r.count(name, 1))
	first := r.triggers(name)[0]
	if _, err := client.Delete(t.Context(), record.LeadershipKey("one")); err != nil {
		t.Fatal(err)
	}
	wait(t, cancellation(first), "the trigger of an engine that is not a member is not cancelled")
	eventually(t, r.count(name, 2))
	first.Done(Success)
	r.triggers(name)[1].Done(Success)
	e.absent(t, name)
}

// What an engine writes after it lost its place, and before it knows, is refused.
func TestWriteAfterLoss(t *testing.T) {
	t.Parallel()
	client := etcdtest.Start(t).Client()
	r := newRecorder(nil)
	e, _ := run(t, Options{Client: client, Deliver: r})
	joined(t, e)
	const name = "app||ns||app||job"
	e.mustSchedule(t, name, due("0s"))
	eventually(t, r.count(name, 1))
	e.loop.do(func() {
		if _, err := client.Delete(t.Context(), record.LeadershipKey("one")); err != nil {
			t.Error(err)
		}
		r.triggers(name)[0].Done(Success) // the loop comes to it before anything else
	})
	eventually(t, r.count(name, 2))
	r.triggers(name)[1].Done(Success)
	e.absent(t, name)
}

// While etcd is away nothing is lost, and afterwards everything goes on.
func TestOutage(t *testing.T) {
	t.Parallel()
	server := etcdtest.Start(t)
	c := newTally()
	e, _ := run(t, Options{Client: server.Dial(), Deliver: c.of("one"), Lease: 5 * time.Second})
	joined(t, e)
	const ticks = 60
	list := names("job", 20)
	for _, name := range list {
		e.mustSchedule(t, name, every("50ms"), repeats(ticks))
	}
	eventually(t, func() error {
		c.mu.Lock()
		defer c.mu.Unlock()
		if len(c.ticks) < len(list) {
			return fmt.Errorf("%d jobs fired", len(c.ticks))
		}
		return nil
	})
	server.Stop()
	server.Restart()
	// What the engine did not see is compacted, so that its watches must begin anew.
	late := names("late", 20)
	writer, err := New(Options{Client: server.Client(), ID: "writer", Deliver: newRecorder(nil)})
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range late {
		writer.mustSchedule(t, name, every("50ms"), repeats(3))
	}
	resp, err := server.Client().Get(t.Context(), "x")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := server.Client().Compact(t.Context(), resp.Header.Revision); err != nil {
		t.Fatal(err)
	}
	eventually(t, func() error { _, err := c.complete(list, ticks); return err })
	eventually(t, func() error { _, err := c.complete(late, 3); return err })
	for _, name := range append(list, late...) {
		writer.absent(t, name)
	}
}

// A feed that fell behind what etcd keeps reads everything again: also what was deleted meanwhile.
func TestRescan(t *testing.T) {
	t.Parallel()
	client := etcdtest.Start(t).Client()
	r := newRecorder(nil)
	e, _ := run(t, Options{Client: client, Deliver: r})
	joined(t, e)
	for _, name := range []string{"kept", "deleted", "overwritten"} {
		e.mustSchedule(t, name, due("0s"))
		eventually(t, r.count(name, 1))
	}
	// The loop is held while the jobs change, so that the feed cannot tell it, and then told to read again.
	writer, err := New(Options{Client: client, ID: "writer", Deliver: newRecorder(nil)})
	if err != nil {
		t.Fatal(err)
	}
	e.loop.do(func() {
		if err := writer.Delete(t.Context(), "deleted"); err != nil {
			t.Error(err)
		}
		writer.mustSchedule(t, "overwritten", due("0s"))
		writer.mustSchedule(t, "new", due("0s"))
		e.loop.resync <- struct{}{}
	})
	wait(t, cancellation(r.triggers("deleted")[0]), "the deleted job is not cancelled")
	wait(t, cancellation(r.triggers("overwritten")[0]), "the overwritten job is not cancelled")
	eventually(t, r.count("overwritten", 2))
	eventually(t, r.count("new", 1))
	select {
	case <-cancellation(r.triggers("kept")[0]):
		t.Error("the kept job is cancelled")
	default:
	}
	if n := len(r.triggers("kept")); n != 1 {
		t.Errorf("the kept job was triggered %d times", n)
	}
}
