package pluggable

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jonboulle/clockwork"

	componentsv1 "outrigger.dev/api/gen/components/v1"
	"outrigger.dev/components/pubsub"
)

// The pauses before a broken stream is opened again.
const (
	firstReopen = 100 * time.Millisecond
	lastReopen  = 10 * time.Second
	// steady is how long a stream has to last for the next pause to be the first one again.
	steady = 10 * time.Second
)

// reopening counts the pauses of one stream that is opened again and again.
type reopening struct {
	pause time.Duration
	told  string
}

// wait is called after a stream broke, and returns when it may be opened again, or false when ctx has ended.
func (r *reopening) wait(ctx context.Context, clock clockwork.Clock, lasted time.Duration) bool {
	if lasted >= steady || r.pause == 0 {
		r.pause = firstReopen
	} else {
		r.pause = min(2*r.pause, lastReopen)
	}
	timer := clock.NewTimer(r.pause)
	defer timer.Stop()
	select {
	case <-timer.Chan():
		return true
	case <-ctx.Done():
		return false
	}
}

// tell logs why a stream broke, but the same reason not twice in a row.
func (r *reopening) tell(log *slog.Logger, what string, err error) {
	text := fmt.Sprintf("%s broke and is opened again: %s", what, err)
	if text != r.told {
		log.Warn(text)
		r.told = text
	}
}

// lastWords is how long the process may take to end a stream after the last verdict on it.
const lastWords = time.Second

// subscription is a stream of messages, handled one by one (Dapr API, pluggable components: PullMessages).
type subscription struct {
	broker   *broker
	topic    string
	metadata map[string]string
	handler  pubsub.Handler
	// ctx is that of handlers. Streams end later, so that the last verdict gets through.
	ctx     context.Context
	cancel  context.CancelFunc
	running sync.WaitGroup
	paused  atomic.Bool
}

// run opens streams one after the other. The first one calls opened, or its failure does.
func (s *subscription) run(opened func()) {
	var again reopening
	for {
		began := s.broker.clock.Now()
		err := s.pull(opened)
		opened()
		if s.ctx.Err() != nil {
			return
		}
		again.tell(s.broker.log, fmt.Sprintf("the subscription of the pluggable component %s to topic %s", s.broker.link.name, s.topic), err)
		if !again.wait(s.ctx, s.broker.clock, s.broker.clock.Since(began)) {
			return
		}
	}
}

// pull opens a stream and handles its messages until it breaks or the subscription is closed.
func (s *subscription) pull(opened func()) error {
	c, err := s.broker.link.get(s.ctx)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(context.Background())
	stream, err := c.client.PullMessages(ctx)
	if err != nil {
		cancel()
		return componentError(ctx, err)
	}
	// sending is held for Send and CloseSend, which must not meet; spoken tells that there was a verdict.
	var sending sync.Mutex
	spoken := false
	ended := make(chan struct{})
	stop := context.AfterFunc(s.ctx, func() {
		defer close(ended)
		// Ending the stream from our side lets the last verdict arrive, which breaking it off may not.
		limit := s.broker.clock.AfterFunc(lastWords, cancel)
		defer limit.Stop()
		sending.Lock()
		if spoken {
			_ = stream.CloseSend()
		} else {
			cancel()
		}
		sending.Unlock()
		<-ctx.Done()
	})
	defer func() {
		cancel()
		if !stop() {
			<-ended
		}
	}()
	if err := stream.Send(&componentsv1.PullMessagesRequest{Topic: &componentsv1.Topic{Name: s.topic, Metadata: s.metadata}}); err != nil {
		_, err = stream.Recv() // tells why
		return componentError(ctx, err)
	}
	opened()
	for {
		msg, err := stream.Recv()
		if err != nil {
			return componentError(ctx, err)
		}
		if s.ctx.Err() != nil || s.paused.Load() {
			continue // left to the broker
		}
		ack := s.handle(msg)
		if ack == nil {
			continue
		}
		sending.Lock()
		if s.ctx.Err() == nil {
			spoken = true
			err = stream.Send(ack)
		}
		sending.Unlock()
		if err != nil {
			_, err = stream.Recv()
			return componentError(ctx, err)
		}
	}
}

// handle hands a message over and returns the verdict, nil for none.
func (s *subscription) handle(in *componentsv1.PullMessagesResponse) *componentsv1.PullMessagesRequest {
	msg := &pubsub.Message{Topic: in.GetTopicName(), Data: in.GetData(), Metadata: in.GetMetadata(), ContentType: in.GetContentType()}
	if msg.Topic == "" {
		msg.Topic = s.topic
	}
	err := s.handler(s.ctx, msg)
	if s.ctx.Err() != nil {
		return nil
	}
	ack := &componentsv1.PullMessagesRequest{AckMessageId: in.GetId()}
	if err != nil {
		ack.AckError = &componentsv1.AckMessageError{Message: err.Error()}
	}
	return ack
}

// Pause asks the process to stop fetching, and takes no more messages, whether the process can or not.
func (s *subscription) Pause(ctx context.Context) error {
	s.paused.Store(true)
	s.broker.mu.Lock()
	s.broker.paused = true
	s.broker.mu.Unlock()
	_, err := call(ctx, s.broker.link, true, func(ctx context.Context, c componentsv1.PubSubClient) (*componentsv1.PauseResponse, error) {
		return c.Pause(ctx, &componentsv1.PauseRequest{})
	})
	if err != nil && !unimplemented(err) {
		s.broker.log.Debug("the pluggable component could not be paused; its messages are left to it", "component", s.broker.link.name, "error", err)
	}
	return nil
}

// Close ends the stream and waits for the handler.
func (s *subscription) Close() error {
	s.broker.mu.Lock()
	delete(s.broker.subscriptions, s)
	s.broker.mu.Unlock()
	s.cancel()
	s.running.Wait()
	return nil
}
