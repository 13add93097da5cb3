package pubsub

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"

	"outrigger.dev/api"
	runtimev1 "outrigger.dev/api/gen/runtime/v1"
)

// eventStream is the server's side of SubscribeTopicEventsAlpha1.
type eventStream = grpc.BidiStreamingServer[runtimev1.SubscribeTopicEventsRequestAlpha1, runtimev1.SubscribeTopicEventsResponseAlpha1]

// stream is a streaming subscription (Dapr API, streaming subscriptions): the client is the receiver.
type stream struct {
	subscription Subscription
	// stop ends the stream from this side.
	stop func(cause error)
	done chan struct{} // closed when it has ended

	sending sync.Mutex
	client  eventStream

	opened chan struct{} // closed when the client was told that it is subscribed
	gone   chan struct{} // closed when the client is gone

	mu sync.Mutex
	// waiting are the deliveries without an answer by the ID of their event, in the order they were sent: IDs are the
	// publishers' and may be the same.
	waiting map[string][]*answer
}

// answer is where the answer to an event is awaited.
type answer struct {
	status chan *runtimev1.TopicEventResponse
}

var _ receiver = (*stream)(nil)

// deliver sends an event and waits for the answer. When the stream ends before there is one, the message has no verdict.
func (s *stream) deliver(ctx context.Context, d *delivery) (verdict, error) {
	select {
	case <-s.opened:
	case <-s.gone:
		return 0, errLater
	case <-ctx.Done():
		return 0, errLater
	}
	event, err := d.request()
	if err != nil {
		return 0, err
	}
	a := &answer{make(chan *runtimev1.TopicEventResponse, 1)}
	s.mu.Lock()
	s.waiting[event.GetId()] = append(s.waiting[event.GetId()], a)
	s.mu.Unlock()
	if err := s.send(&runtimev1.SubscribeTopicEventsResponseAlpha1{
		SubscribeTopicEventsResponseType: &runtimev1.SubscribeTopicEventsResponseAlpha1_EventMessage{EventMessage: event},
	}); err != nil {
		s.forget(event.GetId(), a)
		return 0, errLater
	}
	select {
	case response := <-a.status:
		return grpcVerdict(response.GetStatus())
	case <-s.gone:
		s.forget(event.GetId(), a)
		return 0, errLater
	case <-ctx.Done():
		s.forget(event.GetId(), a)
		return 0, errLater
	}
}

func (s *stream) send(m *runtimev1.SubscribeTopicEventsResponseAlpha1) error {
	s.sending.Lock()
	defer s.sending.Unlock()
	return s.client.Send(m)
}

func (s *stream) forget(id string, a *answer) {
	s.mu.Lock()
	defer s.mu.Unlock()
	list := s.waiting[id]
	for i := range list {
		if list[i] == a {
			list = append(list[:i:i], list[i+1:]...)
			break
		}
	}
	s.put(id, list)
}

func (s *stream) put(id string, list []*answer) {
	if len(list) == 0 {
		delete(s.waiting, id)
	} else {
		s.waiting[id] = list
	}
}

// answered gives an answer to the oldest delivery of the event, and reports whether there is one.
func (s *stream) answered(in *runtimev1.SubscribeTopicEventsRequestProcessedAlpha1) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	list := s.waiting[in.GetId()]
	if len(list) == 0 {
		return false
	}
	list[0].status <- in.GetStatus()
	s.put(in.GetId(), list[1:])
	return true
}

// received is what the client sent, or why nothing comes any more.
type received struct {
	request *runtimev1.SubscribeTopicEventsRequestAlpha1
	err     error
}

// serveStream serves a stream until its end. The error is what the client sees.
func (p *PubSub) serveStream(client eventStream) error {
	m := &p.manager
	ctx, cancel := context.WithCancelCause(client.Context())
	defer cancel(nil)
	s := &stream{
		stop: cancel, done: make(chan struct{}), client: client, opened: make(chan struct{}), gone: make(chan struct{}), waiting: map[string][]*answer{},
	}
	defer close(s.done)
	// Only the return of this function ends a Recv, so nobody can wait here for what reads; the server does when it stops.
	requests := make(chan received)
	go func() {
		for {
			request, err := client.Recv()
			select {
			case requests <- received{request, err}:
			case <-s.done:
				return
			}
			if err != nil {
				return
			}
		}
	}()
	if !m.addStream(s) {
		return api.ErrPubsubMetadata("", nil, errors.New("subscriber is closed"))
	}
	defer m.removeStream(s)
	var first received
	select {
	case first = <-requests:
	case <-ctx.Done():
		return api.ErrPubsubSubscribe(codes.Unknown, "api server closed")
	}
	if first.err != nil {
		return ended(first.err)
	}
	initial := first.request.GetInitialRequest()
	switch {
	case initial == nil:
		return api.ErrPubsubSubscribe(codes.Unknown, "initial request is required")
	case initial.GetPubsubName() == "":
		return api.ErrPubsubSubscribe(codes.Unknown, "pubsubName is required")
	case initial.GetTopic() == "":
		return api.ErrPubsubSubscribe(codes.Unknown, "topic is required")
	}
	subscription := Subscription{
		Component: initial.GetPubsubName(), Topic: initial.GetTopic(), Metadata: initial.GetMetadata(), DeadLetterTopic: initial.GetDeadLetterTopic(),
		Rules: []Rule{{Path: "/"}}, Origin: Streaming,
	}
	m.mu.Lock()
	s.subscription = subscription
	e := m.use(subscription.Component)
	m.mu.Unlock()
	if e == nil {
		return api.ErrPubsubNotFound(subscription.Component, nil)
	}
	defer e.Release()
	r, err := p.newRunning(e.Component, subscription, s)
	if err == nil {
		err = r.start(ctx)
	}
	if err != nil {
		if r != nil {
			r.cancel()
		}
		return api.ErrPubsubSubscribe(codes.Unknown, fmt.Sprintf("failed to create subscription for %s: %s", subscription.Component, err))
	}
	end := s.serve(ctx, requests)
	// Answers to what is in hand are still taken when it was this side that ended the stream.
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		r.stop(m.life, context.Cause(ctx) == errPause)
	}()
	s.drain(requests, stopped)
	return end
}

// serve opens the stream and takes answers until the stream ends. The error is what the client sees.
func (s *stream) serve(ctx context.Context, requests <-chan received) error {
	if err := s.send(&runtimev1.SubscribeTopicEventsResponseAlpha1{
		SubscribeTopicEventsResponseType: &runtimev1.SubscribeTopicEventsResponseAlpha1_InitialResponse{InitialResponse: &runtimev1.SubscribeTopicEventsResponseInitialAlpha1{}},
	}); err != nil {
		close(s.gone)
		return err
	}
	close(s.opened)
	for {
		select {
		case in := <-requests:
			if err := s.process(in); err != nil {
				close(s.gone)
				if errors.Is(err, io.EOF) {
					return nil
				}
				return err
			}
		case <-ctx.Done():
			if s.client.Context().Err() != nil {
				close(s.gone)
				return s.client.Context().Err()
			}
			return api.ErrPubsubSubscribe(codes.Unknown, "stream closed")
		}
	}
}

func (s *stream) process(in received) error {
	if in.err != nil {
		return in.err
	}
	answer := in.request.GetEventProcessed()
	if answer == nil {
		return api.ErrPubsubSubscribe(codes.Unknown, "duplicate initial request received")
	}
	s.answered(answer)
	return nil
}

// drain takes answers until the subscription has stopped.
func (s *stream) drain(requests <-chan received, stopped <-chan struct{}) {
	for {
		select {
		case in := <-requests:
			if in.err == nil {
				_ = s.process(in)
				continue
			}
			requests = nil
			select {
			case <-s.gone:
			default:
				close(s.gone)
			}
		case <-stopped:
			return
		}
	}
}

// ended is how a stream ends that the client ended.
func ended(err error) error {
	if errors.Is(err, io.EOF) {
		return nil
	}
	return err
}

// addStream counts a stream in, unless the block is stopped.
func (m *manager) addStream(s *stream) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.stopped {
		return false
	}
	m.streams[s] = struct{}{}
	m.tasks.Add(1)
	return true
}

func (m *manager) removeStream(s *stream) {
	m.mu.Lock()
	delete(m.streams, s)
	m.mu.Unlock()
	m.tasks.Done()
}
