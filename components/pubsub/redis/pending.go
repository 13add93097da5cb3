package redis

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/redis/rueidis"
)

// pendingPage is how many pending messages are listed at a time.
const pendingPage = 1000

// pendingLoop delivers again what has been pending too long, at once and then at intervals, and keeps the server from counting
// what is in hand here as pending too long.
func (s *subscription) pendingLoop() {
	o, clock := &s.broker.options, s.broker.clock
	refresh := clock.NewTicker(s.refreshInterval())
	defer refresh.Stop()
	var redeliver <-chan time.Time
	if o.RedeliverInterval > 0 {
		ticker := clock.NewTicker(time.Duration(o.RedeliverInterval))
		defer ticker.Stop()
		redeliver = ticker.Chan()
		s.redeliver()
	}
	for {
		select {
		case <-refresh.Chan():
			s.refresh()
		case <-redeliver:
			s.redeliver()
		case <-s.ctx.Done():
			return
		}
	}
}

// refreshInterval is a third of the time after which a message counts as pending too long.
func (s *subscription) refreshInterval() time.Duration {
	return max(time.Duration(s.broker.options.ProcessingTimeout)/3, 10*time.Millisecond)
}

// limit is a context for commands that the loop waits for.
func (s *subscription) limit() (context.Context, context.CancelFunc) {
	return context.WithTimeout(s.ctx, ackLimit)
}

// refresh claims for another processingTimeout the messages in hand that were not touched for a refresh interval. A handler may
// run long without other replicas, or Dapr's sidecar, taking its message for abandoned.
func (s *subscription) refresh() {
	now := s.broker.clock.Now()
	ids := s.flight.untouched(s, now.Add(-s.refreshInterval()/2), now)
	ctx, cancel := s.limit()
	defer cancel()
	c := s.broker.client
	for len(ids) > 0 {
		n := min(len(ids), maxAck)
		err := c.Do(ctx, c.B().Xclaim().Key(s.topic).Group(s.group).Consumer(s.group).MinIdleTime("0").Id(ids[:n]...).Justid().Build()).Error()
		if err != nil && s.ctx.Err() == nil {
			s.broker.log.Debug("messages in hand could not be claimed again", "topic", s.topic, "error", err)
			return
		}
		ids = ids[n:]
	}
}

// giveBack makes messages without a verdict look pending for long enough to be delivered again by whoever looks next.
func (s *subscription) giveBack(ctx context.Context, ids []string) {
	c := s.broker.client
	idle := time.Duration(s.broker.options.ProcessingTimeout).Milliseconds()
	if idle <= 0 {
		return
	}
	for len(ids) > 0 {
		n := min(len(ids), maxAck)
		err := c.Do(ctx, c.B().Xclaim().Key(s.topic).Group(s.group).Consumer(s.group).MinIdleTime("0").Id(ids[:n]...).Idle(idle).Justid().Build()).Error()
		if err != nil {
			s.broker.log.Debug("messages without a verdict are not given back, so they come again only after processingTimeout", "topic", s.topic, "messages", len(ids), "error", err)
			return
		}
		ids = ids[n:]
	}
}

// redeliver hands over again all messages that have been pending too long, unless they are in hand here.
func (s *subscription) redeliver() {
	for start := "-"; start != ""; {
		ids, next, err := s.abandoned(start)
		// Of each portion only so many are claimed as have room, for they are in memory from then on.
		for len(ids) > 0 && err == nil {
			n := min(len(ids), s.broker.options.QueueDepth)
			var found []*delivery
			found, err = s.claim(ids[:n])
			s.enqueue(found, s.refresh)
			ids = ids[n:]
		}
		if err != nil {
			if s.reading.Err() == nil {
				s.broker.log.Warn("messages that are pending too long cannot be looked for; trying again at the next interval", "topic", s.topic, "error", err)
			}
			return
		}
		start = next
	}
}

// abandoned lists the messages of one page that have been pending too long. next is where the next page starts, "" behind the last.
func (s *subscription) abandoned(start string) (ids []string, next string, err error) {
	if err := s.reading.Err(); err != nil {
		return nil, "", err
	}
	ctx, cancel := s.limit()
	defer cancel()
	c := s.broker.client
	rows, err := c.Do(ctx, c.B().Xpending().Key(s.topic).Group(s.group).Start(start).End("+").Count(pendingPage).Build()).ToArray()
	if err != nil {
		if answer, ok := rueidis.IsRedisErr(err); ok && strings.HasPrefix(answer.Error(), "NOGROUP") {
			return nil, "", nil // the read loop creates it again, and then nothing is pending
		}
		return nil, "", err
	}
	timeout := time.Duration(s.broker.options.ProcessingTimeout).Milliseconds()
	var id string
	for _, row := range rows {
		columns, err := row.ToArray() // id, consumer, idle time, number of deliveries
		if err != nil || len(columns) < 3 {
			return nil, "", fmt.Errorf("redis at %s lists a pending message as %v, which is not id, consumer, idle time and count", c.Address, row.String())
		}
		if id, err = columns[0].ToString(); err != nil {
			return nil, "", err
		}
		idle, err := columns[2].AsInt64()
		if err != nil {
			return nil, "", err
		}
		if idle >= timeout && !s.flight.has(id) {
			ids = append(ids, id)
		}
	}
	if len(rows) == pendingPage {
		next = following(id)
	}
	return ids, next, nil
}

// claim takes over messages that are still pending too long. What it returns is in hand, also beside an error.
func (s *subscription) claim(ids []string) (found []*delivery, err error) {
	s.claiming.Lock()
	defer s.claiming.Unlock()
	if err := s.reading.Err(); err != nil {
		return nil, err
	}
	ctx, cancel := s.limit()
	defer cancel()
	c := s.broker.client
	timeout := time.Duration(s.broker.options.ProcessingTimeout).Milliseconds()
	entries, err := c.Do(ctx, c.B().Xclaim().Key(s.topic).Group(s.group).Consumer(s.group).MinIdleTime(strconv.FormatInt(timeout, 10)).Id(ids...).Build()).ToArray()
	if err != nil {
		return nil, err
	}
	now := s.broker.clock.Now()
	claimed := make(map[string]bool, len(entries))
	for _, e := range entries {
		if e.IsNil() {
			continue // cut off the stream, says a server before 7.0
		}
		entry, err := e.AsXRangeSlice()
		if err != nil {
			return found, err
		}
		claimed[entry.ID] = true
		if d := s.delivery(&entry, now); s.flight.add(d) {
			found = append(found, d)
		}
	}
	for _, id := range ids {
		if !claimed[id] {
			if err := s.ackIfGone(ctx, id); err != nil {
				return found, err
			}
		}
	}
	return found, nil
}

// ackIfGone acknowledges a message that could not be claimed because it is no longer in the stream. Others were claimed or
// acknowledged elsewhere meanwhile.
func (s *subscription) ackIfGone(ctx context.Context, id string) error {
	c := s.broker.client
	entries, err := c.Do(ctx, c.B().Xrange().Key(s.topic).Start(id).End(id).Build()).ToArray()
	if err != nil || len(entries) > 0 {
		return err
	}
	return s.ack(ctx, []string{id})
}

// following is the smallest id behind the given one; "" when there is none.
func following(id string) string {
	ms, number, ok := strings.Cut(id, "-")
	if !ok {
		return ""
	}
	n, err := strconv.ParseUint(number, 10, 64)
	if err == nil && n+1 > n {
		return ms + "-" + strconv.FormatUint(n+1, 10)
	}
	t, err := strconv.ParseUint(ms, 10, 64)
	if err != nil || t+1 < t {
		return ""
	}
	return strconv.FormatUint(t+1, 10) + "-0"
}
