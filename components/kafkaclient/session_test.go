package kafkaclient

import (
	"context"
	"testing"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// An error of fetching is over with the next messages, and not only when the group is divided again: a later one is reported
// anew, and no subscription that begins later is blamed for it.
func TestFaultIsOver(t *testing.T) {
	c, addr := cluster(t, kfake.SeedTopics(1, "t"))
	cl := mustClient(t, map[string]string{"brokers": addr})
	p, k, in := producer(t, cl), consumer(t, cl, "g", true), newInbox()
	subscribe(t, k, Subscribe{Topic: "t", Handler: in.accept})
	k.mu.RLock()
	s := k.session
	k.mu.RUnlock()
	for _, value := range []string{"first", "second"} {
		h := c.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Fetch}, Topic: "t", Err: kerr.TopicAuthorizationFailed, Count: 1})
		await(t, "the fault", func() bool { return h.Hits() > 0 && s.groupError() != nil })
		publish(t, p, "t", nil, value)
		in.expect(t, value)
		await(t, "the end of the fault", func() bool { return s.groupError() == nil })
	}
}

// A worker whose handler outlasts a rebalance is forgotten when it has ended, with the messages that it held.
func TestRetiredWorkersAreForgotten(t *testing.T) {
	_, addr := cluster(t, kfake.SeedTopics(1, "t"))
	k := consumer(t, mustClient(t, map[string]string{"brokers": addr}), "g", true)
	subscribe(t, k, Subscribe{Topic: "t", Handler: func(context.Context, *Delivery) error { return nil }})
	k.mu.RLock()
	s := k.session
	k.mu.RUnlock()
	retire := func(partition int32) *worker {
		w := newWorker(s, topicPartition{"t", partition})
		w.mu.Lock()
		w.queue = []*kgo.Record{{}}
		w.mu.Unlock()
		w.halt()
		s.retire([]*worker{w})
		<-w.done
		return w
	}
	for i := range int32(10) {
		w := retire(i)
		w.mu.Lock()
		if w.queue != nil {
			t.Error("an ended worker keeps its messages")
		}
		w.mu.Unlock()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.retired) > 1 {
		t.Errorf("%d ended workers are kept", len(s.retired))
	}
}
