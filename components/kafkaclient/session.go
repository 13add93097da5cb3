package kafkaclient

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

const (
	// commitInterval is how often processed offsets are committed.
	commitInterval = time.Second
	// revokeGrace is how long handlers may go on with a message whose partition is given to another consumer, before their
	// contexts are cancelled. The whole group waits meanwhile.
	revokeGrace = 10 * time.Second
	// revokeLimit is how long a handler may take to return after that.
	revokeLimit      = 10 * time.Second
	rebalanceTimeout = 60 * time.Second
	// fetchBytes is how much a broker sends at a time, of all partitions.
	fetchBytes = 50 << 20
)

// session is the membership of a group, from the first topic to the last.
type session struct {
	k    *Consumer
	cl   *kgo.Client
	stop context.CancelFunc // of polling
	done chan struct{}      // closed when polling has ended

	mu      sync.Mutex
	workers map[topicPartition]*worker
	retired []*worker // given up at a rebalance, perhaps with a handler that still runs
	joined  map[string]bool
	taken   map[string]bool // topics that the group has divided with us in it
	fault   error           // the last error of the group, or of fetching what faulty names
	faulty  topicPartition
}

type topicPartition struct {
	topic     string
	partition int32
}

func (k *Consumer) openSession(ctx context.Context) (*session, error) {
	s := &session{k: k, done: make(chan struct{}), workers: map[topicPartition]*worker{}, joined: map[string]bool{}, taken: map[string]bool{}}
	cl, err := k.c.connect(ctx, k.sessionOptions(s)...)
	if err != nil {
		return nil, err
	}
	s.cl = cl
	polling, stop := context.WithCancel(context.Background())
	s.stop = stop
	go s.poll(polling) // close waits for it
	return s, nil
}

func (k *Consumer) sessionOptions(s *session) []kgo.Opt {
	o := &k.c.options
	var balancer kgo.GroupBalancer
	switch strings.ToLower(o.RebalancePlan) {
	case "sticky":
		balancer = kgo.StickyBalancer()
	case "roundrobin":
		balancer = kgo.RoundRobinBalancer()
	default:
		balancer = kgo.RangeBalancer()
	}
	return []kgo.Opt{
		kgo.ConsumerGroup(k.group),
		kgo.Balancers(joinWatcher{balancer, s}),
		kgo.ConsumeStartOffset(k.initial()),
		// What was deleted before it was consumed is skipped, and nothing more.
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()),
		kgo.SessionTimeout(o.SessionTimeout),
		kgo.HeartbeatInterval(o.HeartbeatEvery),
		kgo.RebalanceTimeout(max(rebalanceTimeout, o.SessionTimeout)),
		kgo.FetchMinBytes(o.FetchMin),
		kgo.FetchMaxPartitionBytes(o.FetchDefault),
		kgo.FetchMaxBytes(max(fetchBytes, o.FetchDefault)),
		kgo.BrokerMaxReadBytes(max(2*fetchBytes, o.FetchDefault+fetchBytes)),
		kgo.FetchMaxWait(500 * time.Millisecond),
		kgo.AutoCommitMarks(),
		kgo.AutoCommitInterval(commitInterval),
		kgo.BlockRebalanceOnPoll(),
		kgo.OnPartitionsAssigned(s.assigned),
		kgo.OnPartitionsRevoked(s.revoked),
		kgo.OnPartitionsLost(s.lost),
		kgo.AdjustFetchOffsetsFn(s.pin),
	}
}

// joinWatcher notes the topics that the consumer joins the group with.
type joinWatcher struct {
	kgo.GroupBalancer
	s *session
}

// JoinGroupMetadata is called for each join.
func (j joinWatcher) JoinGroupMetadata(topics []string, current map[string][]int32, generation int32) []byte {
	j.s.mu.Lock()
	clear(j.s.joined)
	for _, t := range topics {
		j.s.joined[t] = true
	}
	j.s.mu.Unlock()
	return j.GroupBalancer.JoinGroupMetadata(topics, current, generation)
}

// assigned is called when the group has been divided; topics without a partition for us are thereby settled.
func (s *session) assigned(_ context.Context, _ *kgo.Client, partitions map[string][]int32) {
	s.well()
	s.mu.Lock()
	var topics []string
	for t := range s.joined {
		if len(partitions[t]) == 0 {
			topics = append(topics, t)
		}
	}
	s.mu.Unlock()
	s.settled(topics)
}

// pin is called with the offsets at which partitions are going to be consumed. A group that begins at the newest message
// commits that place right away: otherwise, dying before the first commit, it would begin anew at what is newest then.
func (s *session) pin(ctx context.Context, offsets map[string]map[int32]kgo.Offset) (map[string]map[int32]kgo.Offset, error) {
	const newest = -1
	fresh := map[string][]int32{}
	for t, ps := range offsets {
		for p, o := range ps {
			if o.EpochOffset().Offset == newest {
				fresh[t] = append(fresh[t], p)
			}
		}
	}
	if len(fresh) > 0 {
		var topics []string
		for t := range fresh {
			topics = append(topics, t)
		}
		ends, err := kadm.NewClient(s.cl).ListEndOffsets(ctx, topics...)
		if err != nil {
			return nil, fmt.Errorf("the newest offsets of %s: %w", strings.Join(topics, ", "), err)
		}
		commits := map[string]map[int32]kgo.EpochOffset{}
		for t, ps := range fresh {
			commits[t] = map[int32]kgo.EpochOffset{}
			for _, p := range ps {
				end, ok := ends.Lookup(t, p)
				if !ok || end.Err != nil {
					return nil, fmt.Errorf("the newest offset of %s, partition %d: %w", t, p, end.Err)
				}
				commits[t][p] = kgo.EpochOffset{Epoch: end.LeaderEpoch, Offset: end.Offset}
				offsets[t][p] = kgo.NewOffset().At(end.Offset)
			}
		}
		// Not by marks: a mark at offset 0 looks to the library like something committed.
		if err := s.commitThese(ctx, commits); err != nil {
			return nil, fmt.Errorf("committing where to begin: %w", err)
		}
	}
	var topics []string
	for t := range offsets {
		topics = append(topics, t)
	}
	s.settled(topics)
	return offsets, nil
}

// settled tells the subscriptions of topics that they have begun.
func (s *session) settled(topics []string) {
	s.mu.Lock()
	for _, t := range topics {
		s.taken[t] = true
	}
	s.mu.Unlock()
	s.k.mu.RLock()
	defer s.k.mu.RUnlock()
	for _, t := range topics {
		for _, sub := range s.k.topics[t] {
			sub.established()
		}
	}
}

func (s *session) isTaken(topic string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.taken[topic]
}

func (s *session) groupError() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.fault
}

// poll hands what is fetched to the workers of the partitions. Partitions come and go only between its turns.
func (s *session) poll(ctx context.Context) {
	defer close(s.done)
	for {
		fetches := s.cl.PollFetches(ctx)
		if ctx.Err() != nil || fetches.IsClientClosed() {
			s.cl.AllowRebalance()
			return
		}
		fetches.EachError(s.disturbed)
		s.mu.Lock()
		over := false
		fetches.EachPartition(func(f kgo.FetchTopicPartition) {
			if len(f.Records) == 0 {
				return
			}
			tp := topicPartition{f.Topic, f.Partition}
			// A fault of the group itself, which has no topic, ends when the group is divided again.
			over = over || s.fault != nil && s.faulty.topic == tp.topic && (s.faulty.partition == tp.partition || s.faulty.partition < 0)
			w := s.workers[tp]
			if w == nil {
				w = newWorker(s, tp)
				s.workers[tp] = w
			}
			w.add(f.Records)
		})
		s.mu.Unlock()
		if over {
			s.well()
		}
		s.cl.AllowRebalance()
	}
}

// disturbed notes an error of fetching or of the group, which the client library goes on from. It is logged once until the group
// is well again, for it comes with each attempt.
func (s *session) disturbed(topic string, partition int32, err error) {
	s.mu.Lock()
	first := s.fault == nil
	s.fault, s.faulty = err, topicPartition{topic, partition}
	s.mu.Unlock()
	if first {
		s.k.c.log.Warn("kafka: consuming is disturbed, it is tried again", "group", s.k.group, "topic", topic, "partition", partition, "error", err)
	}
}

// well notes that the group works: it was divided, or messages came from where they did not.
func (s *session) well() {
	s.mu.Lock()
	before := s.fault
	s.fault = nil
	s.mu.Unlock()
	if before != nil {
		s.k.c.log.Info("kafka: consuming goes on", "group", s.k.group)
	}
}

// revoked is called when partitions go to other consumers, or back to us. What is under way may end; the rest is theirs.
func (s *session) revoked(_ context.Context, _ *kgo.Client, partitions map[string][]int32) {
	s.end(s.take(partitions), revokeGrace)
	s.commit()
}

// lost is called when partitions already are with other consumers.
func (s *session) lost(_ context.Context, _ *kgo.Client, partitions map[string][]int32) {
	ws := s.take(partitions)
	for _, w := range ws {
		w.disown()
	}
	s.end(ws, 0)
}

// take removes the workers of partitions.
func (s *session) take(partitions map[string][]int32) []*worker {
	s.mu.Lock()
	defer s.mu.Unlock()
	var ws []*worker
	for t, ps := range partitions {
		for _, p := range ps {
			tp := topicPartition{t, p}
			if w := s.workers[tp]; w != nil {
				ws = append(ws, w)
				delete(s.workers, tp)
			}
		}
	}
	return ws
}

// end stops workers: those that run a handler may finish it within the grace, and then must.
func (s *session) end(ws []*worker, grace time.Duration) {
	if len(ws) == 0 {
		return
	}
	for _, w := range ws {
		w.halt()
	}
	if grace > 0 {
		wait(ws, grace)
	}
	for _, w := range ws {
		w.cancel()
	}
	if !wait(ws, revokeLimit) {
		s.k.c.log.Error("kafka: a handler does not return though its context has ended; its messages go to other consumers", "group", s.k.group)
		for _, w := range ws {
			w.disown()
		}
		s.retire(ws)
	}
	for _, w := range ws {
		w.resume()
	}
}

// retire keeps workers that are given up for close to wait for, as long as they last: a group may be divided often.
func (s *session) retire(ws []*worker) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.retired = append(slices.DeleteFunc(s.retired, (*worker).over), ws...)
}

// wait reports whether all workers have ended within the limit.
func wait(ws []*worker, limit time.Duration) bool {
	timer := time.NewTimer(limit)
	defer timer.Stop()
	for _, w := range ws {
		select {
		case <-w.done:
		case <-timer.C:
			return false
		}
	}
	return true
}

// commit sends what was processed to the brokers.
func (s *session) commit() {
	ctx, cancel := context.WithTimeout(context.Background(), closeTimeout)
	defer cancel()
	if err := s.cl.CommitMarkedOffsets(ctx); err != nil {
		s.k.c.log.Warn("kafka: what was processed could not be committed and will be delivered again", "group", s.k.group, "error", err)
	}
}

// commitThese commits offsets whether or not they are marked.
func (s *session) commitThese(ctx context.Context, offsets map[string]map[int32]kgo.EpochOffset) error {
	ctx, cancel := context.WithTimeout(ctx, closeTimeout)
	defer cancel()
	var failed error
	s.cl.CommitOffsetsSync(ctx, offsets, func(_ *kgo.Client, _ *kmsg.OffsetCommitRequest, resp *kmsg.OffsetCommitResponse, err error) {
		failed = err
		if err != nil {
			return
		}
		for _, t := range resp.Topics {
			for _, p := range t.Partitions {
				if err := kerr.ErrorForCode(p.ErrorCode); err != nil && failed == nil {
					failed = fmt.Errorf("%s, partition %d: %w", t.Topic, p.Partition, err)
				}
			}
		}
	})
	return failed
}

// drop ends the consuming of a topic that has no subscription any more.
func (s *session) drop(topic string) {
	s.mu.Lock()
	delete(s.taken, topic)
	gone := map[string][]int32{}
	for tp := range s.workers {
		if tp.topic == topic {
			gone[topic] = append(gone[topic], tp.partition)
		}
	}
	s.mu.Unlock()
	s.cl.PauseFetchTopics(topic) // so that no worker begins anew
	s.end(s.take(gone), 0)
	s.commit()
	s.cl.PurgeTopicsFromConsuming(topic)
	// A worker that began between the two finds no subscription.
	s.mu.Lock()
	var late []*worker
	for tp, w := range s.workers {
		if tp.topic == topic {
			late = append(late, w)
			delete(s.workers, tp)
		}
	}
	s.mu.Unlock()
	s.end(late, 0)
	s.cl.ResumeFetchTopics(topic)
}

// close ends all consuming and leaves the group.
func (s *session) close() {
	s.stop()
	<-s.done
	s.mu.Lock()
	var ws []*worker
	for tp, w := range s.workers {
		ws = append(ws, w)
		delete(s.workers, tp)
	}
	s.mu.Unlock()
	s.end(ws, 0)
	s.commit()
	ctx, cancel := context.WithTimeout(context.Background(), closeTimeout)
	defer cancel()
	if err := s.cl.LeaveGroupContext(ctx); err != nil {
		s.k.c.log.Warn("kafka: leaving the group failed; the others take over when the session has timed out", "group", s.k.group, "error", err)
	}
	s.cl.CloseAllowingRebalance()
	s.mu.Lock()
	retired := s.retired
	s.mu.Unlock()
	for _, w := range retired {
		<-w.done
	}
}
