//go:build unix

package pluggable

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"io"
	"os"
	"slices"
	"strconv"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	componentsv1 "outrigger.dev/api/gen/components/v1"
)

// testBroker is a broker whose messages outlive the process that serves it: in memory, and in a journal if it has one. A group
// of consumers is named by the property consumerID; it gets what is published after its first subscription.
type testBroker struct {
	mu      sync.Mutex
	next    int
	groups  map[groupKey]*testGroup
	journal *os.File
}

type groupKey struct{ Topic, Name string }

type testGroup struct {
	pending []*componentsv1.PullMessagesResponse
	// wake is closed and replaced when there is something pending.
	wake chan struct{}
}

// entry is a line of the journal: a group, a message or the acknowledgement of one.
type entry struct {
	Group *groupKey                          `json:",omitempty"`
	Msg   *componentsv1.PullMessagesResponse `json:",omitempty"`
	Acked string                             `json:",omitempty"`
}

func newTestBroker(file *os.File) *testBroker {
	b := &testBroker{groups: map[groupKey]*testGroup{}}
	if file != nil {
		lines := bufio.NewReader(file)
		for {
			line, err := lines.ReadBytes('\n')
			if err != nil {
				break // a line that was cut short was never acknowledged
			}
			var e entry
			if json.Unmarshal(line, &e) != nil {
				continue
			}
			switch {
			case e.Msg != nil:
				b.put(e.Msg)
			case e.Acked != "":
				g := b.group(*e.Group)
				g.pending = slices.DeleteFunc(g.pending, func(m *componentsv1.PullMessagesResponse) bool { return m.GetId() == e.Acked })
			default:
				b.group(*e.Group)
			}
		}
	}
	b.journal = file
	return b
}

// write puts a line into the journal. b.mu is held.
func (b *testBroker) write(e entry) error {
	if b.journal == nil {
		return nil
	}
	line, err := json.Marshal(e)
	if err != nil {
		return err
	}
	_, err = b.journal.Write(append(line, '\n'))
	return err
}

func (b *testBroker) group(key groupKey) *testGroup {
	g := b.groups[key]
	if g == nil {
		g = &testGroup{wake: make(chan struct{})}
		b.groups[key] = g
	}
	return g
}

func (g *testGroup) add(front bool, all ...*componentsv1.PullMessagesResponse) {
	if front {
		g.pending = slices.Concat(all, g.pending)
	} else {
		g.pending = append(g.pending, all...)
	}
	close(g.wake)
	g.wake = make(chan struct{})
}

func (b *testBroker) put(m *componentsv1.PullMessagesResponse) {
	if n, _ := strconv.Atoi(m.GetId()); n > b.next {
		b.next = n
	}
	for key, g := range b.groups {
		if key.Topic == m.GetTopicName() {
			g.add(false, m)
		}
	}
}

func (b *testBroker) publish(topic string, data []byte, contentType string, metadata map[string]string) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.next++
	m := &componentsv1.PullMessagesResponse{Id: strconv.Itoa(b.next), TopicName: topic, Data: data, ContentType: contentType, Metadata: metadata}
	if err := b.write(entry{Msg: m}); err != nil {
		return err
	}
	b.put(m)
	return nil
}

// brokerService serves a testBroker.
type brokerService struct {
	componentsv1.UnimplementedPubSubServer
	*life
	backend  *testBroker
	features []string
	// refuse answers entries of a bulk.
	refuse func(id string) (string, bool)
	// calls counts Pause and Resume.
	mu    *sync.Mutex
	calls map[string]int
}

func (s *brokerService) register(g *grpc.Server, l *life) {
	served := *s
	served.life = l
	componentsv1.RegisterPubSubServer(g, &served)
}

func (s *brokerService) Init(ctx context.Context, in *componentsv1.PubSubInitRequest) (*componentsv1.PubSubInitResponse, error) {
	return &componentsv1.PubSubInitResponse{}, s.life.init(ctx, in.GetMetadata())
}

func (s *brokerService) Features(context.Context, *componentsv1.FeaturesRequest) (*componentsv1.FeaturesResponse, error) {
	return &componentsv1.FeaturesResponse{Features: s.features}, nil
}

func (s *brokerService) Publish(ctx context.Context, in *componentsv1.PublishRequest) (*componentsv1.PublishResponse, error) {
	if _, err := s.properties(ctx); err != nil {
		return nil, err
	}
	if in.GetPubsubName() != instanceOf(ctx) || in.GetContentType() != "" {
		return nil, status.Error(codes.InvalidArgument, "wrong name or content type")
	}
	return &componentsv1.PublishResponse{}, s.backend.publish(in.GetTopic(), in.GetData(), "", in.GetMetadata())
}

func (s *brokerService) BulkPublish(ctx context.Context, in *componentsv1.BulkPublishRequest) (*componentsv1.BulkPublishResponse, error) {
	if _, err := s.properties(ctx); err != nil {
		return nil, err
	}
	out := &componentsv1.BulkPublishResponse{}
	for _, e := range in.GetEntries() {
		if s.refuse != nil {
			if text, no := s.refuse(e.GetEntryId()); no {
				out.FailedEntries = append(out.FailedEntries, &componentsv1.BulkPublishResponseFailedEntry{EntryId: e.GetEntryId(), Error: text})
				continue
			}
		}
		if err := s.backend.publish(in.GetTopic(), e.GetEvent(), e.GetContentType(), e.GetMetadata()); err != nil {
			return nil, err
		}
	}
	return out, nil
}

func (s *brokerService) count(what string) error {
	if s.calls == nil {
		return status.Error(codes.Unimplemented, "no "+what)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.calls[what]++
	return nil
}

func (s *brokerService) Pause(context.Context, *componentsv1.PauseRequest) (*componentsv1.PauseResponse, error) {
	return &componentsv1.PauseResponse{}, s.count("Pause")
}

func (s *brokerService) Resume(context.Context, *componentsv1.ResumeRequest) (*componentsv1.ResumeResponse, error) {
	return &componentsv1.ResumeResponse{}, s.count("Resume")
}

// ahead is how many messages are sent without a verdict, so that they wait on the way.
const ahead = 8

func (s *brokerService) PullMessages(stream grpc.BidiStreamingServer[componentsv1.PullMessagesRequest, componentsv1.PullMessagesResponse]) error {
	p, err := s.properties(stream.Context())
	if err != nil {
		return err
	}
	first, err := stream.Recv()
	if err != nil {
		return err
	}
	if first.GetTopic() == nil {
		return status.Error(codes.InvalidArgument, "the first message names no topic")
	}
	key := groupKey{first.GetTopic().GetName(), p["consumerID"]}
	b := s.backend
	b.mu.Lock()
	g := b.group(key)
	if err := b.write(entry{Group: &key}); err != nil {
		b.mu.Unlock()
		return err
	}
	b.mu.Unlock()

	var held []*componentsv1.PullMessagesResponse // b.mu
	acks := make(chan error, 1)
	go func() { // ends with the stream
		for {
			a, err := stream.Recv()
			if err != nil {
				acks <- err
				return
			}
			b.mu.Lock()
			i := slices.IndexFunc(held, func(m *componentsv1.PullMessagesResponse) bool { return m.GetId() == a.GetAckMessageId() })
			if i < 0 {
				b.mu.Unlock()
				acks <- status.Errorf(codes.InvalidArgument, "a verdict for %q, which this stream does not have", a.GetAckMessageId())
				return
			}
			m := held[i]
			held = slices.Delete(held, i, i+1)
			if a.GetAckError() != nil {
				time.AfterFunc(20*time.Millisecond, func() {
					b.mu.Lock()
					defer b.mu.Unlock()
					g.add(true, m)
				})
			} else if err := b.write(entry{Group: &key, Acked: m.GetId()}); err != nil {
				b.mu.Unlock()
				acks <- err
				return
			}
			g.add(false) // there is room
			b.mu.Unlock()
		}
	}()
	defer func() {
		b.mu.Lock()
		g.add(true, held...)
		held = nil
		b.mu.Unlock()
	}()
	for {
		b.mu.Lock()
		wake := g.wake
		var m *componentsv1.PullMessagesResponse
		if len(g.pending) > 0 && len(held) < ahead {
			m = g.pending[0]
			g.pending = g.pending[1:]
			held = append(held, m)
		}
		b.mu.Unlock()
		if m != nil {
			if err := stream.Send(m); err != nil {
				return err
			}
			continue
		}
		select {
		case <-wake:
		case err := <-acks:
			if errors.Is(err, io.EOF) {
				return nil
			}
			return err
		case <-stream.Context().Done():
			return stream.Context().Err()
		}
	}
}
