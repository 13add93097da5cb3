package mqttclient

import (
	"hash/maphash"
	"slices"
	"sync"
	"sync/atomic"
)

// mostUnacknowledged is how many messages of qos 0 may be with handlers: more are dropped, as the broker would, because it
// does not hold them back itself. Of the others it sends no more than its own window.
const mostUnacknowledged = 10000

// delivery is one message on its way through the handlers.
type delivery struct {
	packet
	client *Client
	conn   *connection
	// pending is how many handlers have not returned, and rejected whether one returned an error.
	pending  atomic.Int32
	rejected atomic.Bool
}

// parked is a message that waits for a subscription: one of the filter, or when that is empty, any that matches.
type parked struct {
	delivery *delivery
	filter   string
}

// deliver starts the handlers of a message.
func (c *Client) deliver(conn *connection, p packet) {
	d := &delivery{client: c, conn: conn, packet: p}
	var few [4]*Subscription
	c.mu.Lock()
	if p.qos == 2 && c.seen(&p) {
		c.mu.Unlock()
		// It was processed, but the broker does not know yet.
		_ = conn.send(c.ctx, frame{data: idFrame(firstPubrec, p.id)})
		return
	}
	subs, held, stray := few[:0], 0, true
	for _, f := range c.filters {
		if !matches(f.pattern, p.topic) {
			continue
		}
		stray = false
		if s := f.turn(); s != nil {
			s.running.Add(1)
			subs = append(subs, s)
		} else if p.qos > 0 {
			c.parked = append(c.parked, parked{d, f.name})
			held++
		}
	}
	if stray = stray && p.qos > 0; stray {
		c.parked = append(c.parked, parked{d, ""})
		held++
	}
	d.pending.Store(int32(len(subs) + held))
	var tell strayed
	if stray {
		tell = c.stray()
	}
	c.mu.Unlock()
	switch tell {
	case straySome:
		c.log.Info("the MQTT broker sends messages for a topic that nothing subscribes to here (yet); they wait unacknowledged. If the topic is wanted no more, connect once with cleanSession", "topic", p.topic)
	case strayMany:
		c.log.Warn("many messages wait unacknowledged because nothing subscribes to their topic here, which in the end keeps the MQTT broker from sending any others; if the topic is wanted no more, connect once with cleanSession", "topic", p.topic)
	}
	for _, s := range subs {
		if p.qos == 0 && !c.workers.room() {
			s.running.Done()
			continue
		}
		c.workers.start(task{s, d})
	}
}

// seen reports whether a message of qos 2 was processed before. The lock is held.
func (c *Client) seen(p *packet) bool {
	was, known := c.received[p.id]
	if !known || p.duplicate && was == c.fingerprint(p) {
		return known
	}
	// A broker that crashed has forgotten the other one, and uses its identifier again.
	delete(c.received, p.id)
	return false
}

// fingerprint tells messages apart.
func (c *Client) fingerprint(p *packet) uint64 {
	var h maphash.Hash
	h.SetSeed(c.seed)
	_, _ = h.WriteString(p.topic)
	_ = h.WriteByte(0)
	_, _ = h.Write(p.payload)
	return h.Sum64()
}

// strayed is what there is to log of messages without a subscription.
type strayed byte

const (
	strayNone strayed = iota
	straySome
	strayMany
)

// manyStrays is half of the window of unacknowledged messages that brokers usually have.
const manyStrays = 10

// stray notes one more message without a subscription, and returns what is to be logged of it. The lock is held.
func (c *Client) stray() strayed {
	state := straySome
	if c.strayed != strayNone {
		n := 0
		for _, p := range c.parked {
			if p.filter == "" {
				n++
			}
		}
		if n >= manyStrays {
			state = strayMany
		}
	}
	if state <= c.strayed {
		return strayNone
	}
	c.strayed = state
	return state
}

// turn is the subscription whose turn it is, nil when none takes messages. The lock is held.
func (f *filter) turn() *Subscription {
	for range f.subs {
		f.next++
		if s := f.subs[f.next%len(f.subs)]; !s.paused {
			return s
		}
	}
	return nil
}

// park keeps a message that a subscription left, for another of the same filter.
func (c *Client) park(d *delivery, f *filter) {
	if d.qos == 0 {
		return
	}
	c.mu.Lock()
	if d.conn != c.conn {
		c.mu.Unlock()
		return // the broker sends it again
	}
	if current := c.filters[f.name]; current != nil {
		if s := current.turn(); s != nil {
			s.running.Add(1)
			c.mu.Unlock()
			c.workers.start(task{s, d})
			return
		}
	}
	c.parked = append(c.parked, parked{d, f.name})
	c.mu.Unlock()
}

// unpark takes what waits for a subscription like s. The lock is held.
func (c *Client) unpark(s *Subscription) []*delivery {
	var taken []*delivery
	c.parked = slices.DeleteFunc(c.parked, func(p parked) bool {
		if p.filter != s.filter.name && (p.filter != "" || !matches(s.filter.pattern, p.delivery.topic)) {
			return false
		}
		s.running.Add(1)
		taken = append(taken, p.delivery)
		return true
	})
	return taken
}

// task is one call of a handler.
type task struct {
	sub      *Subscription
	delivery *delivery
}

func (t task) run() {
	s, d := t.sub, t.delivery
	defer s.running.Done()
	if s.ctx.Err() != nil {
		s.client.park(d, s.filter)
		return
	}
	err := s.handler(s.ctx, &Message{Topic: d.topic, Payload: d.payload, Retained: d.retain})
	if err != nil && s.ctx.Err() != nil {
		s.client.park(d, s.filter)
		return
	}
	d.settle(err == nil)
}

// settle counts the verdict of a handler, and acknowledges after the last when there was no other.
func (d *delivery) settle(processed bool) {
	if !processed {
		d.rejected.Store(true)
	}
	if d.pending.Add(-1) > 0 || d.rejected.Load() {
		return
	}
	id, c := d.id, d.client
	switch d.qos {
	case 1:
		_ = d.conn.send(c.ctx, frame{data: idFrame(firstPuback, id)}) // else the broker sends it again
	case 2:
		print := c.fingerprint(&d.packet)
		c.mu.Lock()
		current := c.conn == d.conn
		if current {
			c.received[id] = print
		}
		c.mu.Unlock()
		if current {
			_ = d.conn.send(c.ctx, frame{data: idFrame(firstPubrec, id)})
		}
	}
}

// workers run handlers on goroutines that are kept a while.
type workers struct {
	tasks chan task
	quit  <-chan struct{}
	busy  atomic.Int32
	idle  atomic.Int32
	wg    sync.WaitGroup
}

// mostIdle is how many goroutines wait for work.
const mostIdle = 32

// room reports whether one more message that the broker does not hold back can be taken.
func (w *workers) room() bool { return w.busy.Load() < mostUnacknowledged }

func (w *workers) start(t task) {
	w.busy.Add(1)
	select {
	case w.tasks <- t:
		return
	default:
	}
	w.wg.Go(func() {
		for {
			t.run()
			w.busy.Add(-1)
			if w.idle.Add(1) > mostIdle {
				w.idle.Add(-1)
				return
			}
			select {
			case t = <-w.tasks:
				w.idle.Add(-1)
			case <-w.quit:
				return
			}
		}
	})
}
