package pubsub

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
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

	client eventStream
	log    *slog.Logger
	// out are messages for the client. One goroutine sends them, for a client that does not read blocks whoever does.
	out chan outgoing

	opened chan struct{} // closed when the client was told that it is subscribed
	gone   chan struct{} // closed when the client is gone
	leave  sync.Once     // closes gone

	mu sync.Mutex
	// waiting are the deliveries without an answer by the ID of their event, in the order they were sent: IDs are the
	// publishers' and may be the same.
	waiting map[string][]*answer
}

// answer is where the answer to an event is awaited.
type answer struct {
	status chan *runtimev1.TopicEventResponse
	// abandoned: nobody awaits it any more. The stream's lock guards it.
	abandoned bool
}

// outgoing is a message for the client, and who awaits the answer to it, if anybody.
type outgoing struct {
	message *runtimev1.SubscribeTopicEventsResponseAlpha1
	answer  *answer
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
	a := &answer{status: make(chan *runtimev1.TopicEventResponse, 1)}
	select {
	case s.out <- outgoing{&runtimev1.SubscribeTopicEventsResponseAlpha1{
		SubscribeTopicEventsResponseType: &runtimev1.SubscribeTopicEventsResponseAlpha1_EventMessage{EventMessage: event},
	}, a}:
	case <-s.gone:
		return 0, errLater
	case <-ctx.Done():
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

// send sends what is put out until the stream has ended. A blocked Send ends when the call does.
func (s *stream) send() {
	for {
		select {
		case next := <-s.out:
			if next.answer != nil && !s.await(next.message.GetEventMessage().GetId(), next.answer) {
				continue
			}
			if s.client.Send(next.message) != nil {
				s.left()
				return
			}
		case <-s.done:
			return
		}
	}
}

// await registers an answer just before its event is sent, so that events of one ID are awaited in the order in which they are
// sent. It is false when nobody wants the answer any more.
func (s *stream) await(id string, a *answer) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if a.abandoned {
		return false
	}
	s.waiting[id] = append(s.waiting[id], a)
	return true
}

// left marks the client as gone.
func (s *stream) left() { s.leave.Do(func() { close(s.gone) }) }

func (s *stream) forget(id string, a *answer) {
	s.mu.Lock()
	defer s.mu.Unlock()
	a.abandoned = true
	list := s.waiting[id]
	if i := slices.Index(list, a); i >= 0 {
		s.put(id, slices.Delete(list, i, i+1))
	}
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
		stop: cancel, done: make(chan struct{}), client: client, log: p.options.Log, out: make(chan outgoing),
		opened: make(chan struct{}), gone: make(chan struct{}), waiting: map[string][]*answer{},
	}
	defer close(s.done)
	// Only the return of this function ends a Recv or a blocked Send, so nobody can wait here for what reads and sends.
	go s.send()
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
		if ctx.Err() != nil && client.Context().Err() == nil {
			return errStreamClosed()
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
	select {
	case s.out <- outgoing{message: &runtimev1.SubscribeTopicEventsResponseAlpha1{
		SubscribeTopicEventsResponseType: &runtimev1.SubscribeTopicEventsResponseAlpha1_InitialResponse{InitialResponse: &runtimev1.SubscribeTopicEventsResponseInitialAlpha1{}},
	}}:
		close(s.opened)
	case <-ctx.Done():
		s.left() // events that came already have nobody to go to
	}
	for {
		select {
		case in := <-requests:
			if err := s.process(in); err != nil {
				s.left()
				return ended(err)
			}
		case <-s.gone: // nothing can be sent any more
			return errStreamClosed()
		case <-ctx.Done():
			if err := s.client.Context().Err(); err != nil {
				s.left()
				return err
			}
			return errStreamClosed()
		}
	}
}

func errStreamClosed() error { return api.ErrPubsubSubscribe(codes.Unknown, "stream closed") }

func (s *stream) process(in received) error {
	if in.err != nil {
		return in.err
	}
	answer := in.request.GetEventProcessed()
	if answer == nil {
		return api.ErrPubsubSubscribe(codes.Unknown, "duplicate initial request received")
	}
	if !s.answered(answer) {
		s.log.Warn(fmt.Sprintf("a stream on %s answers event %q, which it has no answer due for; the answer is ignored", &s.subscription, answer.GetId()))
	}
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
			s.left()
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
