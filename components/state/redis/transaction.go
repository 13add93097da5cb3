package redis

import (
	"context"
	"fmt"

	"github.com/redis/rueidis"

	"outrigger.dev/components/state"
)

// step is one operation on its way to the server.
type step struct {
	op *state.Operation
	// What the command is built of; a nil script is a plain DEL.
	script *script
	args   []string
}

// Transact runs the operations as one MULTI/EXEC: nobody sees or does anything in between. As in every Redis transaction a
// refused operation does not undo the others, and the first error is returned (Dapr API, state: storage layouts, Redis).
// First-write is ignored. On a cluster the operations are one transaction per hash slot; keys with a common {tag} share one.
func (s *Store) Transact(ctx context.Context, req state.TransactionRequest) error {
	if len(req.Operations) == 0 {
		return nil
	}
	steps := make([]step, len(req.Operations))
	whole := s.jsonLayout(req.Metadata)
	for i := range req.Operations {
		if err := s.prepare(&steps[i], &req.Operations[i], whole); err != nil {
			return err
		}
	}
	var first error
	for _, group := range s.bySlot(steps) {
		answered, err := s.exec(ctx, group)
		if first == nil {
			first = err
		}
		if !answered {
			break // The next group would have to wait for the server, too.
		}
	}
	return first
}

func (s *Store) prepare(st *step, op *state.Operation, wholeJSON bool) error {
	st.op = op
	if op.Delete != nil {
		sc, version, err := s.deleteCall(op.Delete, wholeJSON || s.jsonLayout(op.Delete.Metadata))
		st.script, st.args = sc, []string{version}
		return err
	}
	sc, args, err := s.setCall(op.Set, wholeJSON || s.jsonLayout(op.Set.Metadata), false)
	st.script, st.args = sc, args[:]
	return err
}

// bySlot cuts the steps into those of each hash slot, in order; without a cluster all are one group.
func (s *Store) bySlot(steps []step) [][]*step {
	if s.client.Mode() != rueidis.ClientModeCluster {
		group := make([]*step, len(steps))
		for i := range steps {
			group[i] = &steps[i]
		}
		return [][]*step{group}
	}
	var groups [][]*step
	place := map[uint16]int{}
	for i := range steps {
		// The builder knows the slot of a key.
		probe := s.client.B().Exists().Key(steps[i].op.Key()).Build()
		slot := probe.Slot()
		at, known := place[slot]
		if !known {
			at = len(groups)
			place[slot] = at
			groups = append(groups, nil)
		}
		groups[at] = append(groups[at], &steps[i])
	}
	return groups
}

// exec runs one transaction. It tells whether the server answered at all.
func (s *Store) exec(ctx context.Context, group []*step) (answered bool, err error) {
	var results []rueidis.RedisResult
	err = s.client.RetryUnsent(ctx, func() error {
		results = s.client.DoMulti(ctx, s.commands(group)...)
		return results[0].NonRedisError()
	})
	if err != nil {
		return false, err
	}
	replies, err := results[len(results)-1].ToArray()
	if err != nil {
		// An operation that could not be queued says more than the EXECABORT it causes.
		for i, r := range results[:len(results)-1] {
			if err := r.Error(); err != nil && i > 0 {
				return true, failed(group[i-1].verb(), group[i-1].op.Key(), err)
			}
		}
		return true, fmt.Errorf("the transaction was not executed: %w", err)
	}
	if len(replies) != len(group) {
		return true, fmt.Errorf("redis at %s answered a transaction of %d operations with %d results", s.client.Address, len(group), len(replies))
	}
	for i, st := range group {
		n, err := replies[i].AsInt64()
		if err != nil {
			return true, failed(st.verb(), st.op.Key(), err)
		}
		if n < 0 {
			return true, refused(st.verb(), st.op.Key(), st.etag())
		}
	}
	return true, nil
}

// commands are the transaction as it is sent. The first call of a script has its text, which makes its name known to the
// server for those that follow, so that none can fail for want of it.
func (s *Store) commands(group []*step) []rueidis.Completed {
	b := s.client.B()
	commands := make([]rueidis.Completed, 0, len(group)+2)
	commands = append(commands, b.Multi().Build())
	var known [4]*script
	scripts := known[:0]
next:
	for _, st := range group {
		if st.script == nil {
			commands = append(commands, b.Del().Key(st.op.Key()).Build())
			continue
		}
		for _, k := range scripts {
			if k == st.script {
				commands = append(commands, st.script.byName(b, st.op.Key(), st.args))
				continue next
			}
		}
		scripts = append(scripts, st.script)
		commands = append(commands, st.script.byText(b, st.op.Key(), st.args))
	}
	return append(commands, b.Exec().Build())
}

func (st *step) verb() string {
	if st.op.Set != nil {
		return "set"
	}
	return "delete"
}

func (st *step) etag() string {
	if st.op.Set != nil {
		return st.op.Set.ETag
	}
	return st.op.Delete.ETag
}
