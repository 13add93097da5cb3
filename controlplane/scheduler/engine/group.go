package engine

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/protobuf/types/known/anypb"

	"outrigger.dev/controlplane/scheduler/record"
)

const (
	// callTimeout bounds one call to etcd about the group.
	callTimeout = 5 * time.Second
	// nodding is how long entries that tell the right number of members, but may be of an earlier group, are distrusted. Members
	// of another kind do not write them again.
	nodding = 2 * time.Second
)

// group is what others may know of the group.
type group struct {
	mu       sync.Mutex
	replicas []*anypb.Any
	changed  chan struct{}
	working  bool
	joined   chan struct{} // closed while working
}

func (g *group) init() {
	g.changed, g.joined = make(chan struct{}), make(chan struct{})
}

// works says whether this engine triggers jobs.
func (g *group) works(yes bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	switch {
	case yes && !g.working:
		close(g.joined)
	case !yes && g.working:
		g.joined = make(chan struct{})
	}
	g.working = yes
}

// set replaces what is known of the members.
func (g *group) set(replicas []*anypb.Any) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.replicas = replicas
	close(g.changed)
	g.changed = make(chan struct{})
}

// Members are the Replica options of the engines of the group, this one included, in the order of their ids, as the engines
// last agreed on them; nil before the first time. The channel is closed at the next change.
func (e *Engine) Members() (replicas []*anypb.Any, changed <-chan struct{}) {
	e.group.mu.Lock()
	defer e.group.mu.Unlock()
	return slices.Clone(e.group.replicas), e.group.changed
}

// Joined waits until this engine is in the group and triggers its jobs. The error is that of ctx.
func (e *Engine) Joined(ctx context.Context) error {
	e.group.mu.Lock()
	joined := e.group.joined
	e.group.mu.Unlock()
	select {
	case <-joined:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// membership is one life of this engine in the group, as long as its lease.
type membership struct {
	e     *Engine
	lease clientv3.LeaseID
	uid   uint64
	view  *view

	ids    []string  // the group for which jobs were given up
	taken  bool      // its jobs were taken, too
	told   int64     // the change of the group that Members tells of
	nodded time.Time // since when all seem to agree
}

// member joins the group and stays in it until ctx ends or the place is lost, which is an error. When it returns nothing is
// triggered any more, and others may take the jobs over.
func (e *Engine) member(ctx context.Context) (err error) {
	call, cancel := context.WithTimeout(ctx, callTimeout)
	grant, err := e.client.Grant(call, int64(e.o.Lease/time.Second))
	cancel()
	if err != nil {
		return fmt.Errorf("no lease was granted: %w", err)
	}
	m := &membership{e: e, lease: grant.ID, uid: rand.Uint64()}
	defer m.leave(context.WithoutCancel(ctx))
	// The lease is kept alive until everything is given up, which takes its time after the end of ctx.
	alive, end := context.WithCancel(context.WithoutCancel(ctx))
	defer end()
	beats, err := e.client.KeepAlive(alive, m.lease)
	if err != nil {
		return fmt.Errorf("the lease cannot be kept alive: %w", err)
	}
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() {
		defer stop()
		for {
			select {
			case _, ok := <-beats:
				if !ok {
					return
				}
			case <-ctx.Done():
				return
			}
		}
	})
	defer stop()
	defer m.give()
	if err := m.join(ctx); err != nil {
		return err
	}
	if err := m.stay(ctx); err != nil && ctx.Err() == nil {
		return err
	}
	return errors.New("the lease ended, as etcd was out of reach for too long")
}

// narrowTimeout bounds the wait for writes of jobs that are given up. A write that takes longer changes nothing that another
// member could have changed: it is conditional on the membership.
const narrowTimeout = 5 * time.Second

// give gives up all jobs.
func (m *membership) give() {
	m.e.group.works(false)
	m.narrow(narrowTimeout, func(l *loop) holding {
		l.table.Store(nil)
		return nil
	})
}

// narrow lets the loop give up jobs and waits for the end of their writes.
func (m *membership) narrow(within time.Duration, to func(l *loop) holding) {
	l := m.e.loop
	var done <-chan struct{}
	l.do(func() { done = l.narrow(to(l)) })
	select {
	case <-done:
	case <-m.e.clock.After(within):
	}
}

// leave ends the lease, and with it the entry.
func (m *membership) leave(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	if _, err := m.e.client.Revoke(ctx, m.lease); err != nil {
		if errors.Is(err, rpctypes.ErrLeaseNotFound) {
			return
		}
		m.e.log.Warn(fmt.Sprintf("The scheduler instance %q could not leave the group, others take over its jobs in %s: %s", m.e.o.ID, m.e.o.Lease, err))
	}
}

// snapshot reads the entries of all members, by their ids, and the revision at which they are so.
func (m *membership) snapshot(ctx context.Context) (map[string]entry, int64, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	resp, err := m.e.client.Get(ctx, record.Leadership, clientv3.WithPrefix())
	if err != nil {
		return nil, 0, fmt.Errorf("the group could not be read: %w", err)
	}
	members := make(map[string]entry, len(resp.Kvs))
	for _, kv := range resp.Kvs {
		members[idOf(kv)] = m.entry(kv)
	}
	return members, resp.Header.Revision, nil
}

func idOf(kv *mvccpb.KeyValue) string { return strings.TrimPrefix(string(kv.Key), record.Leadership) }

// entry reads a member. One that cannot be read tells of no members, so that nobody agrees with it.
func (m *membership) entry(kv *mvccpb.KeyValue) entry {
	member, err := record.DecodeMember(kv.Value)
	if err != nil {
		m.e.log.Error(fmt.Sprintf("The scheduler group waits for its member %q, which it cannot understand: %s; delete the key %s from etcd", idOf(kv), err, kv.Key))
	}
	return entry{Member: member, created: kv.CreateRevision, modified: kv.ModRevision}
}

// conditions hold as long as the members are exactly those of the view.
func (m *membership) conditions() []clientv3.Cmp {
	conditions := []clientv3.Cmp{
		clientv3.Compare(clientv3.CreateRevision(record.Leadership), "<", m.view.revision+1).WithPrefix(),
	}
	for id, e := range m.view.members {
		conditions = append(conditions, clientv3.Compare(clientv3.CreateRevision(record.LeadershipKey(id)), "=", e.created))
	}
	return conditions
}

// put writes the own entry, if the group is what it was; and says whether it was.
func (m *membership) put(ctx context.Context, total int, conditions ...clientv3.Cmp) (int64, bool, error) {
	value, err := record.Member{Total: uint64(total), UID: m.uid, Replica: m.e.o.Replica}.Encode()
	if err != nil {
		return 0, false, err
	}
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	resp, err := m.e.client.Txn(ctx).If(conditions...).
		Then(clientv3.OpPut(record.LeadershipKey(m.e.o.ID), string(value), clientv3.WithLease(m.lease))).Commit()
	if err != nil {
		return 0, false, fmt.Errorf("the own entry could not be written: %w", err)
	}
	return resp.Header.Revision, resp.Succeeded, nil
}

// join enters the group, after an entry of the same id is gone.
func (m *membership) join(ctx context.Context) error {
	id := m.e.o.ID
	for waited := false; ; {
		members, revision, err := m.snapshot(ctx)
		if err != nil {
			return err
		}
		if holder, there := members[id]; there {
			if !waited {
				waited = true
				m.e.log.Info(fmt.Sprintf("The scheduler group has a member %q already: this one waits until it is gone", id))
			}
			if err := m.vacate(ctx, holder.modified, revision); err != nil {
				return err
			}
			continue
		}
		m.view = &view{self: id, members: members, revision: revision}
		for _, e := range members {
			m.view.changed = max(m.view.changed, e.created)
		}
		conditions := append(m.conditions(), clientv3.Compare(clientv3.CreateRevision(record.LeadershipKey(id)), "=", 0))
		created, joined, err := m.put(ctx, len(members)+1, conditions...)
		if err != nil {
			return err
		}
		if !joined {
			continue
		}
		m.view.created = created
		m.view.put(id, entry{
			Member:  record.Member{Total: uint64(len(members) + 1), UID: m.uid, Replica: m.e.o.Replica},
			created: created, modified: created,
		})
		// What others wrote in between is watched from the snapshot on.
		m.view.revision = revision
		m.e.loop.do(func() {
			m.e.loop.fence = clientv3.Compare(clientv3.CreateRevision(record.LeadershipKey(id)), "=", created)
		})
		return nil
	}
}

// vacate ends the entry of a predecessor that is known to be dead, and waits for the end of any other. The entry was modified last as given, and
// read at the revision.
func (m *membership) vacate(ctx context.Context, modified, revision int64) error {
	key := record.LeadershipKey(m.e.o.ID)
	if m.e.o.Takeover {
		call, cancel := context.WithTimeout(ctx, callTimeout)
		defer cancel()
		_, err := m.e.client.Txn(call).If(clientv3.Compare(clientv3.ModRevision(key), "=", modified)).Then(clientv3.OpDelete(key)).Commit()
		if err != nil {
			return fmt.Errorf("the entry of the predecessor could not be deleted: %w", err)
		}
		return nil
	}
	watching, cancel := context.WithCancel(ctx)
	defer cancel()
	for resp := range m.e.client.Watch(clientv3.WithRequireLeader(watching), key, clientv3.WithRev(revision+1)) {
		if err := resp.Err(); err != nil {
			return fmt.Errorf("the predecessor could not be watched: %w", err)
		}
		for _, ev := range resp.Events {
			if ev.Type == clientv3.EventTypeDelete {
				return nil
			}
		}
	}
	return errors.New("the watch of the predecessor ended")
}

// stay follows the group until the place is lost.
func (m *membership) stay(ctx context.Context) error {
	for ctx.Err() == nil {
		watching, cancel := context.WithCancel(ctx)
		changes := m.e.client.Watch(clientv3.WithRequireLeader(watching), record.Leadership, clientv3.WithPrefix(), clientv3.WithRev(m.view.revision+1))
		err := m.follow(ctx, changes)
		cancel()
		var broken *brokenWatchError
		if !errors.As(err, &broken) {
			return err
		}
		// The place is kept as long as the lease lives.
		for ctx.Err() == nil {
			select {
			case <-ctx.Done():
			case <-m.e.clock.After(again):
			}
			members, revision, err := m.snapshot(ctx)
			if err == nil {
				m.view.replace(members, revision)
				break
			}
		}
	}
	return ctx.Err()
}

// brokenWatchError says that changes of the group may have been missed.
type brokenWatchError struct{ error }

// follow acts on the changes of the group. Its order is what keeps a job with one engine: jobs are given up before the own
// entry tells others that the new group is known, and new ones are taken when all entries tell so.
func (m *membership) follow(ctx context.Context, changes clientv3.WatchChan) error {
	v := m.view
	for {
		s := v.stand()
		if s == lost {
			return errors.New("its entry in etcd is gone, or is another's")
		}
		m.yield(v.ids(), v.table())
		if s != nodded {
			m.nodded = time.Time{}
		}
		var timer <-chan time.Time
		switch s {
		case outdated:
			written, err := m.tell(ctx)
			if err != nil && ctx.Err() == nil {
				m.e.log.Warn(fmt.Sprintf("The scheduler instance %q cannot tell the group what it knows and tries again: %s", m.e.o.ID, err))
			}
			if written {
				continue
			}
			// When the group is another by now the watch will say so.
			timer = m.e.clock.After(again)
		case nodded:
			now := m.e.clock.Now()
			if m.nodded.IsZero() {
				m.nodded = now
			}
			if rest := nodding - now.Sub(m.nodded); rest > 0 {
				timer = m.e.clock.After(rest)
			} else {
				m.take()
			}
		case agreed:
			m.take()
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-timer:
		case resp, ok := <-changes:
			if !ok {
				return &brokenWatchError{errors.New("the watch of the group ended")}
			}
			if err := resp.Err(); err != nil {
				return &brokenWatchError{err}
			}
			for _, ev := range resp.Events {
				if ev.Type == clientv3.EventTypeDelete {
					v.remove(idOf(ev.Kv), ev.Kv.ModRevision)
				} else {
					v.put(idOf(ev.Kv), m.entry(ev.Kv))
				}
			}
		}
	}
}

// tell writes what this member knows of the group, and says whether the group was still that.
func (m *membership) tell(ctx context.Context) (bool, error) {
	total := len(m.view.members)
	revision, written, err := m.put(ctx, total, m.conditions()...)
	if written {
		own := m.view.members[m.view.self]
		own.Total, own.modified = uint64(total), revision
		m.view.put(m.view.self, own)
	}
	return written, err
}

// yield gives up the jobs that are not this engine's in a new group. The others go on as if nothing had happened.
func (m *membership) yield(ids []string, t table) {
	if slices.Equal(ids, m.ids) {
		return
	}
	m.ids, m.taken = ids, false
	// A write that comes after the new owner has read the counter would count a tick twice.
	m.narrow(flushTimeout+callTimeout, func(l *loop) holding {
		if len(l.holding) == 0 {
			return nil
		}
		return append(slices.Clone(l.holding), t)
	})
}

// take takes the jobs that are this engine's in the group that all agree on, and tells who is in it.
func (m *membership) take() {
	v := m.view
	if !m.taken {
		m.taken = true
		t := v.table()
		m.e.log.Info(fmt.Sprintf("The scheduler instance %q is number %d of the group %q", v.self, t.index+1, m.ids))
		m.e.loop.do(func() { m.e.loop.assign(t) })
	}
	if m.told != v.changed {
		m.told = v.changed
		replicas := make([]*anypb.Any, len(m.ids))
		for i, id := range m.ids {
			replicas[i] = v.members[id].Replica
		}
		m.e.group.set(replicas)
	}
}
