package pubsub

import (
	"context"

	"outrigger.dev/components/pubsub"
)

// consumer is an internal subscription.
type consumer struct {
	block        *PubSub
	subscription Subscription
	handler      func(ctx context.Context, data []byte) error
}

func (c *consumer) open(b *broker) (*running, error) {
	r := c.block.bareRunning(b, c.subscription)
	r.process = func(ctx context.Context, msg *pubsub.Message) error { return c.handler(ctx, msg.Data) }
	return r, nil
}

// Consume delivers the messages of a topic to a part of the sidecar itself until stop is called. It waits for the component to be
// loaded and subscribes as often as it takes; scopes do not apply. The handler's nil acknowledges. stop waits for running
// handlers, at most until ctx ends.
func (p *PubSub) Consume(component, topic string, handler func(ctx context.Context, data []byte) error) (stop func(ctx context.Context)) {
	m := &p.manager
	c := &consumer{block: p, subscription: Subscription{Component: component, Topic: topic}, handler: handler}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.stopped {
		return func(context.Context) {}
	}
	m.consumers[c] = struct{}{}
	m.keep(c, c.subscription, c.open)
	return func(ctx context.Context) {
		m.mu.Lock()
		delete(m.consumers, c)
		if m.slots[c] != nil {
			m.drop(c, errStop)
		}
		done := m.draining[c]
		m.mu.Unlock()
		if done != nil {
			select {
			case <-done:
			case <-ctx.Done():
			}
		}
	}
}
