package pubsub

import (
	"context"
	"errors"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jonboulle/clockwork"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/test/bufconn"
	"google.golang.org/protobuf/proto"

	runtimev1 "outrigger.dev/api/gen/runtime/v1"
	"outrigger.dev/app"
	"outrigger.dev/app/apptest"
	"outrigger.dev/components/pubsub"
	"outrigger.dev/telemetry/logging/logtest"
	"outrigger.dev/telemetry/tracing"
)

// waiting reports whether nothing has come by a channel yet.
func waiting[T any](c <-chan T) bool {
	select {
	case <-c:
		return false
	default:
		return true
	}
}

// noon is when the tests take place.
var noon = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// house is a block with a clock that the test moves.
type house struct {
	*PubSub
	t     testing.TB
	clock *clockwork.FakeClock
	log   logtest.Log
}

// newHouse makes a block that has come to its end when the test has.
func newHouse(t testing.TB, o Options) *house {
	t.Helper()
	h := &house{t: t, clock: clockwork.NewFakeClockAt(noon)}
	if shared, ok := o.Clock.(*clockwork.FakeClock); ok {
		h.clock = shared
	}
	if o.AppID == "" {
		o.AppID = "shop"
	}
	if o.Namespace == "" {
		o.Namespace = "prod"
	}
	o.Clock, o.Log = h.clock, h.log.Logger()
	h.PubSub = New(o)
	t.Cleanup(func() { h.stop(false) })
	return h
}

// meanwhile lets time pass until done.
func (h *house) meanwhile(what string, done <-chan struct{}) {
	h.t.Helper()
	apptest.Until(h.t, what, func() bool {
		select {
		case <-done:
			return true
		default:
			h.clock.Advance(20 * time.Millisecond)
			return false
		}
	})
}

// start runs f beside the test; the channel is closed when it has returned.
func start(f func()) <-chan struct{} {
	done := make(chan struct{})
	go func() { defer close(done); f() }()
	return done
}

// passing runs f while time passes.
func (h *house) passing(what string, f func()) {
	h.t.Helper()
	h.meanwhile(what, start(f))
}

func (h *house) stop(pause bool) {
	h.t.Helper()
	h.passing("the block has stopped", func() { h.Stop(context.Background(), pause) })
}

// outlast stops the block while much time passes: past the limit on messages in hand.
func (h *house) outlast() {
	h.t.Helper()
	stopped := start(func() { h.Stop(context.Background(), false) })
	apptest.Until(h.t, "the block has stopped", func() bool { h.clock.Advance(time.Second); return !waiting(stopped) })
}

func (h *house) add(name string, b pubsub.Broker, properties ...string) {
	h.t.Helper()
	c := Component{Name: name, Broker: b, Properties: map[string]string{}}
	for i := 0; i+1 < len(properties); i += 2 {
		c.Properties[properties[i]] = properties[i+1]
		c.Namespaced = c.Namespaced || strings.Contains(properties[i+1], "{namespace}")
	}
	if err := h.Add(c); err != nil {
		h.t.Fatal(err)
	}
}

// startApp starts the app's subscriptions and waits until each was tried.
func (h *house) startApp(c app.Channel) {
	h.t.Helper()
	h.SetApp(c)
	apptest.Receive(h.t, "the subscriptions", h.StartApp())
}

// subscribed starts one app subscription to a fake broker and returns the broker's side of it.
func (h *house) subscribed(b pubsub.Broker, c app.Channel, s Subscription) *fakeSub {
	h.t.Helper()
	h.add("ps", b)
	s.Component = "ps"
	if s.Topic == "" {
		s.Topic = "orders"
	}
	if err := h.Declare([]Subscription{s}); err != nil {
		h.t.Fatal(err)
	}
	h.startApp(c)
	return ofBroker(b).sub(h.t, s.Topic)
}

// fakeBroker is a broker whose messages the test makes.
type fakeBroker struct {
	mu        sync.Mutex
	published []pubsub.PublishRequest
	// refuse is the error of publications to a topic.
	refuse map[string]error
	// publish, if set, decides instead.
	publish func(ctx context.Context, req pubsub.PublishRequest) error
	// failures are errors of the next calls of Subscribe; attempts counts all.
	failures  []error
	attempts  int
	subscribe func(ctx context.Context) error
	subs      []*fakeSub
	pausable  bool
	pauseErr  error
}

func newBroker() *fakeBroker { return &fakeBroker{refuse: map[string]error{}} }

func ofBroker(b pubsub.Broker) *fakeBroker {
	return b.(interface{ fake() *fakeBroker }).fake()
}

func (b *fakeBroker) fake() *fakeBroker { return b }
func (b *fakeBroker) Close() error      { return nil }

func (b *fakeBroker) Publish(ctx context.Context, req pubsub.PublishRequest) error {
	b.mu.Lock()
	b.published = append(b.published, req)
	err, decide := b.refuse[req.Topic], b.publish
	b.mu.Unlock()
	if decide != nil {
		return decide(ctx, req)
	}
	return err
}

func (b *fakeBroker) sent() []pubsub.PublishRequest {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Clone(b.published)
}

// last is the message published last.
func (b *fakeBroker) last(t testing.TB) pubsub.PublishRequest {
	t.Helper()
	sent := b.sent()
	if len(sent) == 0 {
		t.Fatal("nothing was published")
	}
	return sent[len(sent)-1]
}

func (b *fakeBroker) tries() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.attempts
}

// open are the subscriptions that are not closed.
func (b *fakeBroker) open() (list []*fakeSub) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, s := range b.subs {
		if s.ctx.Err() == nil {
			list = append(list, s)
		}
	}
	return list
}

func (b *fakeBroker) topics() (list []string) {
	for _, s := range b.open() {
		list = append(list, s.topic)
	}
	slices.Sort(list)
	return list
}

// sub is the open subscription to a topic.
func (b *fakeBroker) sub(t testing.TB, topic string) (found *fakeSub) {
	t.Helper()
	apptest.Until(t, "there is a subscription to "+topic, func() bool {
		for _, s := range b.open() {
			if s.topic == topic {
				found = s
			}
		}
		return found != nil
	})
	return found
}

func (b *fakeBroker) take(ctx context.Context, req pubsub.SubscribeRequest, s *fakeSub) (pubsub.Subscription, error) {
	b.mu.Lock()
	b.attempts++
	wait := b.subscribe
	b.mu.Unlock()
	if wait != nil {
		if err := wait(ctx); err != nil {
			return nil, err
		}
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.failures) > 0 {
		err := b.failures[0]
		b.failures = b.failures[1:]
		return nil, err
	}
	s.topic, s.metadata = req.Topic, req.Metadata
	s.ctx, s.cancel = context.WithCancel(context.Background())
	b.subs = append(b.subs, s)
	if b.pausable {
		return &pausingSub{s, b.pauseErr}, nil
	}
	return s, nil
}

func (b *fakeBroker) Subscribe(ctx context.Context, req pubsub.SubscribeRequest, handler pubsub.Handler) (pubsub.Subscription, error) {
	return b.take(ctx, req, &fakeSub{handler: handler})
}

// fakeSub is a subscription at the broker.
type fakeSub struct {
	topic    string
	metadata map[string]string
	handler  pubsub.Handler
	bulk     pubsub.BulkHandler
	request  pubsub.BulkSubscribeRequest
	ctx      context.Context
	cancel   context.CancelFunc
	running  sync.WaitGroup
	mu       sync.Mutex
	paused   bool
}

func (s *fakeSub) Close() error {
	s.cancel()
	s.running.Wait()
	return nil
}

func (s *fakeSub) isPaused() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.paused
}

type pausingSub struct {
	*fakeSub
	err error
}

func (s *pausingSub) Pause(context.Context) error {
	if s.err != nil {
		return s.err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.paused = true
	return nil
}

// result is what the broker is told of a message.
type result struct {
	err  error
	errs []error
	// held: the handler's context had ended, so that there is no verdict.
	held bool
}

func (r result) String() string {
	switch {
	case r.held:
		return "held"
	case r.err != nil:
		return "nack"
	}
	return "ack"
}

// hand hands a message over.
func (s *fakeSub) hand(msg *pubsub.Message) <-chan result {
	out := make(chan result, 1)
	s.running.Go(func() {
		err := s.handler(s.ctx, msg)
		out <- result{err: err, held: s.ctx.Err() != nil}
	})
	return out
}

// handData hands over a message with no metadata.
func (s *fakeSub) handData(data string) <-chan result {
	return s.hand(&pubsub.Message{Topic: s.topic, Data: []byte(data)})
}

// do hands a message over and waits for the verdict.
func (s *fakeSub) do(t testing.TB, msg *pubsub.Message) result {
	t.Helper()
	if msg.Topic == "" {
		msg.Topic = s.topic
	}
	return apptest.Receive(t, "a verdict", s.hand(msg))
}

func (s *fakeSub) handBulk(msg *pubsub.BulkMessage) <-chan result {
	out := make(chan result, 1)
	s.running.Go(func() {
		errs := s.bulk(s.ctx, msg)
		out <- result{errs: errs, held: s.ctx.Err() != nil}
	})
	return out
}

// nativeBulk is a broker that takes bulks.
type nativeBulk struct {
	*fakeBroker
	bulk func(req pubsub.BulkPublishRequest) ([]error, error)
	seen []pubsub.BulkPublishRequest
}

func (b *nativeBulk) BulkPublish(_ context.Context, req pubsub.BulkPublishRequest) ([]error, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.seen = append(b.seen, req)
	if b.bulk == nil {
		return nil, nil
	}
	return b.bulk(req)
}

func (b *nativeBulk) BulkSubscribe(ctx context.Context, req pubsub.BulkSubscribeRequest, handler pubsub.BulkHandler) (pubsub.Subscription, error) {
	return b.take(ctx, req.SubscribeRequest, &fakeSub{bulk: handler, request: req})
}

func (b *nativeBulk) bulks() []pubsub.BulkPublishRequest {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Clone(b.seen)
}

// expiring is a broker with a TTL of its own, immediate one whose messages are gathered without waiting.
type (
	expiring  struct{ *fakeBroker }
	immediate struct{ *fakeBroker }
)

func (expiring) MessageTTL() bool     { return true }
func (immediate) ImmediateBulk() bool { return true }

// face is the gRPC face in a server of its own.
type face struct {
	others
	PubsubServer
}

type others struct {
	runtimev1.UnimplementedDaprServer
}

// client serves the gRPC face of a block within the process.
func (h *house) client() runtimev1.DaprClient {
	h.t.Helper()
	l := bufconn.Listen(1 << 20)
	s := grpc.NewServer(grpc.UnaryInterceptor(func(ctx context.Context, in any, _ *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
		span := tracing.PassThrough().Start(tracing.FromIncoming(ctx), tracing.Client, "") // as the sidecar does by default
		return next(tracing.NewContext(ctx, span), in)
	}))
	runtimev1.RegisterDaprServer(s, face{PubsubServer: h.Server()})
	done := start(func() { _ = s.Serve(l) })
	conn, err := grpc.NewClient("passthrough:///memory", grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return l.DialContext(ctx) }))
	if err != nil {
		h.t.Fatal(err)
	}
	h.t.Cleanup(func() {
		_ = conn.Close()
		h.stop(false) // as a sidecar does before its server
		s.Stop()
		<-done
	})
	return runtimev1.NewDaprClient(conn)
}

var errBroker = errors.New("no broker")

// marshal is what gRPC does with a message.
func marshal(m proto.Message) ([]byte, error) { return proto.Marshal(m) }
