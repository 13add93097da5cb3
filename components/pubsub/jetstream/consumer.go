package jetstream

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"outrigger.dev/components/pubsub"
)

// errLostRace says that another subscriber made the consumer meanwhile.
var errLostRace = errors.New("another subscriber made the consumer at the same time")

// raceTries is how often a consumer that others make and remove at the same time is looked for.
const raceTries = 5

// bind makes the consumer, or joins the one of the same name, and listens to it.
func (s *subscription) bind(ctx context.Context) error {
	var err error
	for range raceTries {
		if err = s.tryBind(ctx); !errors.Is(err, errLostRace) {
			return err
		}
	}
	return pubsub.Transient(err)
}

func (s *subscription) tryBind(ctx context.Context) error {
	if name := s.name(); name != "" {
		existing, err := s.look(ctx, name)
		switch {
		case err == nil:
			return s.join(ctx, existing)
		case !errors.Is(err, jetstream.ErrConsumerNotFound):
			return s.refused(err)
		}
	}
	config := s.config
	config.DeliverSubject = s.broker.conn.NewInbox()
	if err := s.listen(config.DeliverSubject); err != nil {
		return err
	}
	if s.name() == "" {
		// Named here, so that one whose making was not answered is found again, or removed at the end.
		config.Name = config.DeliverSubject[strings.LastIndexByte(config.DeliverSubject, '.')+1:]
		s.mu.Lock()
		s.consumer = config.Name
		s.mu.Unlock()
	}
	calling, cancel := context.WithTimeout(ctx, apiTimeout)
	defer cancel()
	made, err := s.broker.js.CreatePushConsumer(calling, s.stream, config)
	if err != nil {
		if s.name() != "" && isCode(err, jetstream.JSErrCodeConsumerNameExists, jetstream.JSErrCodeConsumerAlreadyExists, jetstream.JSErrCodeConsumerExists) {
			return errLostRace
		}
		return s.refused(err)
	}
	s.bound(made.CachedInfo())
	return nil
}

// name is that by which others find the consumer, "" when nobody else uses it.
func (s *subscription) name() string {
	if s.config.Durable != "" {
		return s.config.Durable
	}
	return s.config.Name
}

// look asks the server for a consumer.
func (s *subscription) look(ctx context.Context, name string) (*jetstream.ConsumerInfo, error) {
	calling, cancel := context.WithTimeout(ctx, apiTimeout)
	defer cancel()
	found, err := s.broker.js.PushConsumer(calling, s.stream, name)
	if err != nil {
		return nil, err
	}
	return found.CachedInfo(), nil
}

// join takes part in a consumer that is there. What it was made with stays where the server does not let it change.
func (s *subscription) join(ctx context.Context, existing *jetstream.ConsumerInfo) error {
	is := &existing.Config
	if existing.PushBound {
		switch {
		case is.FilterSubject != s.config.FilterSubject:
			return pubsub.Terminal(fmt.Errorf("the durable consumer %q of stream %q is in use for topic %q, so topic %q cannot use it; give each topic a component with a durableName of its own, or set createStreams",
				existing.Name, s.stream, is.FilterSubject, s.topic))
		case is.DeliverGroup != s.config.DeliverGroup:
			return pubsub.Terminal(fmt.Errorf("the durable consumer %q of stream %q is in use with the queueGroupName %q, not %q; use the same, or another durableName",
				existing.Name, s.stream, is.DeliverGroup, s.config.DeliverGroup))
		case is.DeliverGroup == "":
			s.log.Warn("the durable consumer has another subscriber, and without queueGroupName both get each message; set queueGroupName to share them", "consumer", existing.Name)
		}
	} else if is.FilterSubject != s.config.FilterSubject {
		s.log.Warn("the durable consumer was for another topic and is changed", "consumer", existing.Name, "was", is.FilterSubject)
	}
	config := s.config
	config.DeliverSubject = is.DeliverSubject
	config.DeliverPolicy, config.OptStartSeq, config.OptStartTime, config.ReplayPolicy = is.DeliverPolicy, is.OptStartSeq, is.OptStartTime, is.ReplayPolicy
	if err := s.listen(config.DeliverSubject); err != nil {
		return err
	}
	calling, cancel := context.WithTimeout(ctx, apiTimeout)
	defer cancel()
	updated, err := s.broker.js.UpdatePushConsumer(calling, s.stream, config)
	switch {
	case errors.Is(err, jetstream.ErrConsumerDoesNotExist), errors.Is(err, jetstream.ErrConsumerNotFound):
		return errLostRace
	case err != nil:
		return s.refused(fmt.Errorf("the consumer %q exists with other settings: %w; keep them, or remove it with: nats consumer rm %s %s", existing.Name, err, s.stream, existing.Name))
	}
	s.bound(updated.CachedInfo())
	return nil
}

// bound notes what the server made of the consumer.
func (s *subscription) bound(info *jetstream.ConsumerInfo) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.consumer, s.made = info.Name, info.Created
	if s.next == 0 {
		s.next = info.Delivered.Stream + 1
	}
	s.heard = time.Now()
}

// refused explains why there is no consumer.
func (s *subscription) refused(err error) error {
	if _, known := errors.AsType[*pubsub.Error](err); known {
		return err
	}
	err = fmt.Errorf("topic %q cannot be consumed from stream %q of NATS at %s: %w", s.topic, s.stream, s.broker.address, err)
	var answer *jetstream.APIError
	switch {
	case errors.Is(err, jetstream.ErrStreamNotFound):
		return pubsub.Terminal(fmt.Errorf("%w; create the stream, or correct \"streamName\"", err))
	case errors.Is(err, jetstream.ErrNotPushConsumer):
		return pubsub.Terminal(fmt.Errorf("%w: the name %q is that of a pull consumer; give another durableName", err, s.name()))
	case errors.As(err, &answer) && answer.Code < 500:
		return pubsub.Terminal(err)
	}
	return pubsub.Transient(err)
}

func isCode(err error, codes ...jetstream.ErrorCode) bool {
	var answer *jetstream.APIError
	if !errors.As(err, &answer) {
		return false
	}
	for _, c := range codes {
		if answer.ErrorCode == c {
			return true
		}
	}
	return false
}

// listen receives what the consumer delivers to a subject, instead of what it listened to before.
func (s *subscription) listen(subject string) error {
	s.mu.Lock()
	before := s.inbox
	s.mu.Unlock()
	if before != nil && before.IsValid() {
		if before.Subject == subject {
			return nil
		}
		_ = before.Unsubscribe()
	}
	var inbox *nats.Subscription
	var err error
	if s.config.DeliverGroup != "" {
		inbox, err = s.broker.conn.QueueSubscribe(subject, s.config.DeliverGroup, s.receive)
	} else {
		inbox, err = s.broker.conn.Subscribe(subject, s.receive)
	}
	if err == nil && s.acks() {
		// The server bounds what is under way; dropping any of it here would only delay it.
		err = inbox.SetPendingLimits(-1, -1)
	}
	if err != nil {
		return pubsub.Transient(fmt.Errorf("NATS at %s: %w", s.broker.address, err))
	}
	s.mu.Lock()
	s.inbox = inbox
	s.mu.Unlock()
	return nil
}

// verify looks whether the consumer is still there, and makes it again where this subscription was when it is not.
func (s *subscription) verify(ctx context.Context) error {
	s.mu.Lock()
	name := s.consumer
	s.mu.Unlock()
	info, err := s.look(ctx, name)
	switch {
	case err == nil:
		s.mu.Lock()
		s.heard, s.made = time.Now(), info.Created
		s.mu.Unlock()
		return s.listen(info.Config.DeliverSubject) // another subscriber may have made it again
	case errors.Is(err, jetstream.ErrStreamNotFound) && s.broker.options.CreateStreams:
		if _, err := s.broker.createStream(ctx, s.topic); err != nil {
			return err
		}
	case !errors.Is(err, jetstream.ErrConsumerNotFound):
		return s.refused(err)
	}
	if err := s.resume(ctx); err != nil {
		return err
	}
	s.log.Warn("the consumer was gone and has been made again", "consumer", name)
	return s.bind(ctx)
}

// resume sets where a consumer that is made again starts: at the first message that this subscription has not settled. What
// lies between that and the last it got comes twice. A group's members do not know of each other's messages, so theirs starts
// as configured, unless that would leave messages out.
func (s *subscription) resume(ctx context.Context) error {
	if s.config.DeliverGroup != "" && s.broker.options.DeliverPolicy != "new" && s.broker.options.DeliverPolicy != "last" {
		s.forgetQueue()
		return nil
	}
	calling, cancel := context.WithTimeout(ctx, apiTimeout)
	defer cancel()
	stream, err := s.broker.js.Stream(calling, s.stream)
	if err != nil {
		return s.refused(err)
	}
	s.mu.Lock()
	anew := stream.CachedInfo().Created.After(s.made)
	s.mu.Unlock()
	position := s.forgetQueue()
	if !anew && position <= stream.CachedInfo().State.LastSeq+1 {
		s.config.DeliverPolicy, s.config.OptStartSeq, s.config.OptStartTime = jetstream.DeliverByStartSequencePolicy, position, nil
	} else {
		// The stream has begun anew; what it holds is new to everybody.
		s.config.DeliverPolicy, s.config.OptStartSeq, s.config.OptStartTime = jetstream.DeliverAllPolicy, 0, nil
	}
	return nil
}
