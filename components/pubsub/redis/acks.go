package redis

import (
	"context"
	"sync"
	"time"
)

// maxAck is the largest number of messages acknowledged in one command.
const maxAck = 500

// acks are the acknowledgements of a subscription on their way to the server. While one command is on its way the next ones
// gather, so that a busy subscription sends few.
type acks struct {
	mu      sync.Mutex
	waiting []string
	// wake holds a token when there may be some.
	wake chan struct{}
	// final is closed when no more come in, so that the loop ends with the last.
	final chan struct{}
	// sending is the context of the loop, which ends the loop at once.
	sending context.Context
	give    context.CancelFunc
	// unsent are those that could not be sent before the end.
	unsent chan []string
}

func (a *acks) init() {
	a.wake = make(chan struct{}, 1)
	a.final = make(chan struct{})
	a.sending, a.give = context.WithCancel(context.Background())
	a.unsent = make(chan []string, 1)
}

func (a *acks) add(id string) {
	a.mu.Lock()
	a.waiting = append(a.waiting, id)
	a.mu.Unlock()
	select {
	case a.wake <- struct{}{}:
	default:
	}
}

// take returns some of those that wait, oldest first.
func (a *acks) take() []string {
	a.mu.Lock()
	defer a.mu.Unlock()
	n := min(len(a.waiting), maxAck)
	batch := a.waiting[:n:n]
	if a.waiting = a.waiting[n:]; len(a.waiting) == 0 {
		a.waiting = nil
	}
	return batch
}

// finish waits until all are sent or ctx ends, and returns those that are not. None may be added any more.
func (a *acks) finish(ctx context.Context) (unsent []string) {
	defer a.give()
	defer context.AfterFunc(ctx, a.give)()
	close(a.final)
	return <-a.unsent
}

// left returns what cannot be sent any more, which begins with the given ones.
func (a *acks) left(batch []string) []string {
	a.mu.Lock()
	defer a.mu.Unlock()
	return append(batch, a.waiting...)
}

// ackLoop sends what comes in, and until it is told to finish does not give up.
func (s *subscription) ackLoop() {
	a := &s.acks
	for {
		batch := a.take()
		if len(batch) == 0 {
			select {
			case <-a.wake:
				continue
			case <-a.final:
			}
			// Both may have been ready, so there may be some all the same.
			if batch = a.take(); len(batch) == 0 {
				a.unsent <- nil
				return
			}
		}
		if !s.ackAll(batch) {
			a.unsent <- a.left(batch)
			return
		}
	}
}

// ackAll tells the server about messages, again and again while it cannot be told. It reports false when there is no time left.
func (s *subscription) ackAll(ids []string) bool {
	a := &s.acks
	final := a.final
	for wait := firstWait; ; wait = min(2*wait, longWait) {
		err := s.ack(a.sending, ids)
		switch {
		case err == nil:
			return true
		case a.sending.Err() != nil:
			return false
		case !temporary(err):
			s.broker.log.Error("messages were processed, but Redis refuses to take note and will deliver them again", "topic", s.topic, "messages", len(ids), "error", err)
			s.flight.remove(ids...)
			return true
		case wait == firstWait:
			s.broker.log.Warn("messages were processed, but Redis cannot be told for now; trying again", "topic", s.topic, "messages", len(ids), "error", err)
		}
		timer := s.broker.clock.NewTimer(wait)
		select {
		case <-timer.Chan():
		case <-final:
			final, wait = nil, firstWait // once more at once, for time is short now
		case <-a.sending.Done():
			timer.Stop()
			return false
		}
		timer.Stop()
	}
}

// ack tells the server that messages are processed, and gives them out of hand.
func (s *subscription) ack(ctx context.Context, ids []string) error {
	c := s.broker.client
	ctx, cancel := context.WithTimeout(ctx, ackLimit)
	defer cancel()
	if err := c.Do(ctx, c.B().Xack().Key(s.topic).Group(s.group).Id(ids...).Build()).Error(); err != nil {
		return err
	}
	s.flight.remove(ids...)
	return nil
}

// ackLimit bounds one command of acknowledgement.
const ackLimit = 30 * time.Second
