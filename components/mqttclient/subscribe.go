package mqttclient

import (
	"context"
	"fmt"
	"slices"
	"sync"
)

// Message is a message that the broker delivered.
type Message struct {
	// Topic is the concrete one.
	Topic   string
	Payload []byte
	// Retained tells that the broker had kept it before the subscription was there.
	Retained bool
}

// Handler processes a message. After nil the message is acknowledged, which for several subscriptions that match it is when
// all have returned nil. After an error it is not: the broker sends it again on the next connection, if it keeps the
// session. An error when ctx has ended means that the message was not processed, and it waits for the next subscription.
// Handlers run concurrently and in no order.
type Handler func(ctx context.Context, m *Message) error

// filter is a topic filter that the broker is, or is to be, asked for.
type filter struct {
	name    string
	pattern string
	qos     byte
	// answered is closed when the broker has answered for the first time, with refused.
	answered chan struct{}
	refused  error
	subs     []*Subscription
	next     int // whose turn it is
}

// Subscription receives messages until it is closed. Several of one filter share its messages.
type Subscription struct {
	client  *Client
	filter  *filter
	handler Handler
	ctx     context.Context
	cancel  context.CancelFunc

	running sync.WaitGroup // calls of handler
	closing sync.Once

	paused, left bool // guarded by client.mu
}

// Subscribe starts a subscription and returns when the broker has confirmed it. ctx bounds only the start.
func (c *Client) Subscribe(ctx context.Context, topic string, qos byte, handler Handler) (*Subscription, error) {
	if err := CheckFilter(topic); err != nil {
		return nil, &RefusedError{err.Error()}
	}
	s := &Subscription{client: c, handler: handler}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	if err := c.join(ctx, s, topic, qos); err != nil {
		s.cancel()
		return nil, err
	}
	f := s.filter
	var err error
	select {
	case <-f.answered:
		err = f.refused
	case <-ctx.Done():
		c.mu.Lock()
		err = c.late(ctx, "the answer", c.lost)
		c.mu.Unlock()
	case <-c.ctx.Done():
		err = ErrClosed
	}
	if err != nil {
		_ = s.Close(context.WithoutCancel(ctx), false)
		return nil, fmt.Errorf("cannot subscribe to %q: %w", topic, err)
	}
	return s, nil
}

// join puts a subscription to its filter, and asks the broker for that when it is new.
func (c *Client) join(ctx context.Context, s *Subscription, topic string, qos byte) error {
	c.requests.Lock()
	defer c.requests.Unlock()
	c.mu.Lock()
	if c.closed {
		c.mu.Unlock()
		return ErrClosed
	}
	f := c.filters[topic]
	var request []byte
	if f == nil {
		f = &filter{name: topic, pattern: pattern(topic), qos: qos, answered: make(chan struct{})}
		c.filters[topic] = f
		delete(c.leaving, topic)
		if c.conn != nil { // else attach asks
			var err error
			if request, err = c.ask(f); err != nil {
				delete(c.filters, topic)
				c.mu.Unlock()
				return err
			}
		}
	}
	s.filter = f
	f.subs = append(f.subs, s)
	conn := c.conn
	waiting := c.unpark(s)
	c.mu.Unlock()
	for _, d := range waiting {
		c.workers.start(task{s, d})
	}
	if request != nil {
		_ = conn.send(ctx, frame{data: request}) // on the next connection otherwise
	}
	return nil
}

// ask makes the request for a filter. The lock is held.
func (c *Client) ask(f *filter) ([]byte, error) {
	request := &flow{sent: true, answer: typeSuback, qos: f.qos}
	request.done = func(err error) { c.confirm(f, err) }
	id, err := c.begin(request)
	if err != nil {
		return nil, err
	}
	request.frame = subscribeFrame(f.name, f.qos, id)
	return request.frame, nil
}

// confirm notes the broker's answer to a request for a filter.
func (c *Client) confirm(f *filter, err error) {
	_, refused := err.(*RefusedError)
	if err != nil && !refused {
		return // the connection was lost: the next asks again
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	select {
	case <-f.answered:
		if err != nil {
			c.log.Error("the MQTT broker refused a subscription that it had confirmed before; it is asked again at the next connection", "topic", f.name, "error", err)
		}
	default:
		f.refused = err
		close(f.answered)
	}
}

// leave makes the request to be sent no more of a filter. The lock is held.
func (c *Client) leave(name string, done func(error)) ([]byte, error) {
	request := &flow{sent: true, answer: typeUnsuback, done: done}
	id, err := c.begin(request)
	if err != nil {
		return nil, err
	}
	request.frame = unsubscribeFrame(name, id)
	return request.frame, nil
}

// hasLeft notes the answer to such a request; without one it is made again on the next connection.
func (c *Client) hasLeft(name string) func(error) {
	return func(err error) {
		if err == nil {
			c.mu.Lock()
			delete(c.leaving, name)
			c.mu.Unlock()
		}
	}
}

// Pause returns when no more messages are handed to the handler. They wait for the next subscription.
func (s *Subscription) Pause() {
	s.client.mu.Lock()
	s.paused = true
	s.client.mu.Unlock()
}

// Close hands over no more messages, cancels the contexts of running handlers, and returns when these have returned and the
// acknowledgements are written. With unsubscribe, the last subscription of a filter takes it off the session; otherwise the
// broker keeps it, and messages wait for the next subscription.
func (s *Subscription) Close(ctx context.Context, unsubscribe bool) error {
	ctx, cancel := context.WithTimeout(ctx, closeLimit)
	defer cancel()
	if left := s.leave(ctx, unsubscribe); left != nil {
		select {
		case <-left:
		case <-ctx.Done():
		}
	}
	s.end()
	return nil
}

// leave takes the subscription off its filter, and that off the session when it is wanted and there is no other. The result,
// if any, is closed when the broker has confirmed.
func (s *Subscription) leave(ctx context.Context, unsubscribe bool) <-chan struct{} {
	c, name := s.client, s.filter.name
	c.requests.Lock()
	defer c.requests.Unlock()
	c.mu.Lock()
	if !s.remove() || !unsubscribe || c.closed {
		c.mu.Unlock()
		return nil
	}
	c.leaving[name] = true // until it is confirmed
	if c.conn == nil {
		c.mu.Unlock()
		return nil
	}
	conn, left := c.conn, make(chan struct{})
	request, err := c.leave(name, func(err error) {
		c.hasLeft(name)(err)
		close(left)
	})
	c.mu.Unlock()
	if err != nil || conn.send(ctx, frame{data: request}) != nil {
		return nil
	}
	return left
}

// remove takes the subscription off its filter and reports whether the filter has none left. The lock is held.
func (s *Subscription) remove() (last bool) {
	if s.left {
		return false
	}
	s.left = true
	f, c := s.filter, s.client
	f.subs = slices.DeleteFunc(f.subs, func(other *Subscription) bool { return other == s })
	if len(f.subs) == 0 && c.filters[f.name] == f {
		delete(c.filters, f.name)
		return true
	}
	return false
}

// end waits for the handlers and for their acknowledgements to be written.
func (s *Subscription) end() {
	c := s.client
	c.mu.Lock()
	s.remove()
	c.mu.Unlock()
	s.cancel()
	s.running.Wait()
	s.closing.Do(func() {
		c.mu.Lock()
		conn := c.conn
		c.mu.Unlock()
		if conn != nil {
			ctx, cancel := context.WithTimeout(context.Background(), closeLimit)
			conn.flush(ctx, nil)
			cancel()
		}
	})
}
