package apphost

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"strconv"
	"strings"
	"sync"
	"unicode/utf8"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	runtimev1 "outrigger.dev/api/gen/runtime/v1"
	"outrigger.dev/blocks/actors"
	"outrigger.dev/invocation"
)

// stream is one stream of an app that hosts actors.
type stream struct {
	hub    *Streams
	client EventStream
	log    *slog.Logger
	types  map[string]actors.TypeConfig

	// initial is the first message, once first is closed.
	initial *runtimev1.SubscribeActorEventsRequestInitialAlpha1
	first   chan struct{}
	// out are callbacks for the app. One goroutine sends them: an app that does not read blocks nothing but that.
	out   chan *callback
	ready chan struct{} // closed when the stream can be called
	gone  chan struct{} // closed when no answer can come any more
	stop  chan struct{} // closed when this side ends the stream
	done  chan struct{} // closed when serving has ended

	mu      sync.Mutex
	left    bool  // gone is closed
	err     error // why
	halted  bool  // stop is closed
	last    uint64
	waiting map[string]*callback
}

// request and response are the messages of a stream, named as the app sees them: it answers requests.
type (
	request  = runtimev1.SubscribeActorEventsResponseAlpha1
	response = runtimev1.SubscribeActorEventsRequestAlpha1
)

// callback is a message for the app and where the answer to it is awaited.
type callback struct {
	message *request
	answer  chan *response
	// id is set when it is sent; abandoned, when nobody awaits the answer any more. The stream's lock guards them.
	id        string
	abandoned bool
}

var _ actors.Host = (*stream)(nil)

func newStream(hub *Streams, client EventStream) *stream {
	return &stream{
		hub: hub, client: client, log: hub.options.Log, waiting: map[string]*callback{}, out: make(chan *callback),
		first: make(chan struct{}), ready: make(chan struct{}), gone: make(chan struct{}), stop: make(chan struct{}), done: make(chan struct{}),
	}
}

// leave marks the stream as one from which nothing comes any more. The first reason counts.
func (s *stream) leave(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.left {
		s.left, s.err = true, err
		close(s.gone)
	}
}

// halt ends the stream from this side.
func (s *stream) halt() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.halted {
		s.halted = true
		close(s.stop)
	}
}

// end is what the app sees at the end of its stream.
func (s *stream) end() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.halted {
		return nil
	}
	return ended(s.err)
}

// receive takes what the app sends until the stream ends.
func (s *stream) receive() {
	in, err := s.client.Recv()
	if err == nil {
		if s.initial = in.GetInitialRequest(); s.initial == nil {
			err = status.Error(codes.InvalidArgument, "first message must be SubscribeActorEventsRequestInitialAlpha1")
		}
	}
	if err != nil {
		s.leave(err)
		return
	}
	close(s.first)
	for {
		in, err := s.client.Recv()
		if err != nil {
			s.leave(err)
			return
		}
		s.answered(in)
	}
}

// answered hands an answer to who awaits it.
func (s *stream) answered(in *response) {
	id, ok := answerID(in)
	if !ok {
		s.log.Warn("a message on a stream of actor events is no answer and is ignored: the app may send one initial_request, and then answers")
		return
	}
	s.mu.Lock()
	c := s.waiting[id]
	delete(s.waiting, id)
	s.mu.Unlock()
	if c == nil {
		s.log.Warn("the app answers an actor event that no answer is due for, which is ignored", "id", id)
		return
	}
	c.answer <- in
}

// answerID is the id of the event that a message answers; it is false for one that is no answer.
func answerID(in *response) (string, bool) {
	switch in.GetRequestType().(type) {
	case *runtimev1.SubscribeActorEventsRequestAlpha1_InvokeResponse:
		return in.GetInvokeResponse().GetId(), true
	case *runtimev1.SubscribeActorEventsRequestAlpha1_ReminderResponse:
		return in.GetReminderResponse().GetId(), true
	case *runtimev1.SubscribeActorEventsRequestAlpha1_TimerResponse:
		return in.GetTimerResponse().GetId(), true
	case *runtimev1.SubscribeActorEventsRequestAlpha1_DeactivateResponse:
		return in.GetDeactivateResponse().GetId(), true
	case *runtimev1.SubscribeActorEventsRequestAlpha1_RequestFailed:
		return in.GetRequestFailed().GetId(), true
	}
	return "", false
}

// send tells the app that it is registered, and then sends callbacks until the stream ends.
func (s *stream) send() {
	initial := &request{ResponseType: &runtimev1.SubscribeActorEventsResponseAlpha1_InitialResponse{
		InitialResponse: &runtimev1.SubscribeActorEventsResponseInitialAlpha1{},
	}}
	if err := s.client.Send(initial); err != nil {
		s.leave(err)
		return
	}
	for {
		select {
		case c := <-s.out:
			if !s.await(c) {
				continue
			}
			if err := s.client.Send(c.message); err != nil {
				s.leave(err)
				return
			}
		case <-s.gone:
			return
		case <-s.done:
			return
		}
	}
}

// await gives a callback its id just before it is sent. It is false when nobody wants the answer any more.
func (s *stream) await(c *callback) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if c.abandoned {
		return false
	}
	s.last++
	c.id = strconv.FormatUint(s.last, 10)
	switch m := c.message.GetResponseType().(type) {
	case *runtimev1.SubscribeActorEventsResponseAlpha1_InvokeRequest:
		m.InvokeRequest.Id = c.id
	case *runtimev1.SubscribeActorEventsResponseAlpha1_ReminderRequest:
		m.ReminderRequest.Id = c.id
	case *runtimev1.SubscribeActorEventsResponseAlpha1_TimerRequest:
		m.TimerRequest.Id = c.id
	case *runtimev1.SubscribeActorEventsResponseAlpha1_DeactivateRequest:
		m.DeactivateRequest.Id = c.id
	}
	s.waiting[c.id] = c
	return true
}

func (s *stream) forget(c *callback) {
	s.mu.Lock()
	defer s.mu.Unlock()
	c.abandoned = true
	delete(s.waiting, c.id)
}

// ask sends a callback by the stream that is to be called for actors of a type, and waits for the answer until ctx ends.
func (s *stream) ask(ctx context.Context, actorType string, message *request) (*response, error) {
	to := s.hub.newest(actorType)
	if to == nil {
		// The runtime may call before the stream is open.
		select {
		case <-s.ready:
		case <-s.gone:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
		if to = s.hub.newest(actorType); to == nil {
			return nil, errNotConnected
		}
	}
	return to.roundTrip(ctx, &callback{message: message, answer: make(chan *response, 1)})
}

func (s *stream) roundTrip(ctx context.Context, c *callback) (*response, error) {
	select {
	case s.out <- c:
	case <-s.gone:
		return nil, errDisconnected
	case <-s.stop:
		return nil, errDisconnected
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	select {
	case in := <-c.answer:
		return in, nil
	case <-ctx.Done():
		s.forget(c)
		return nil, ctx.Err()
	case <-s.gone:
		s.forget(c)
		select {
		case in := <-c.answer: // it came last
			return in, nil
		default:
			return nil, errDisconnected
		}
	}
}

// Invoke implements [actors.Host].
func (s *stream) Invoke(ctx context.Context, call *actors.Call) (*invocation.Response, error) {
	if err := checkText(call.Type, call.ID, call.Method); err != nil {
		return nil, err
	}
	// The message may still be encoded when the caller has given up and uses its memory for something else: it gets copies.
	method := strings.Clone(call.Method)
	in, err := s.ask(ctx, call.Type, &request{ResponseType: &runtimev1.SubscribeActorEventsResponseAlpha1_InvokeRequest{
		InvokeRequest: &runtimev1.SubscribeActorEventsResponseInvokeRequestAlpha1{
			ActorType: strings.Clone(call.Type), ActorId: strings.Clone(call.ID), Method: method, Data: bytes.Clone(call.Request.Body),
			Metadata: s.metadata(ctx, call),
		},
	}})
	if err != nil {
		return nil, err
	}
	switch in := in.GetRequestType().(type) {
	case *runtimev1.SubscribeActorEventsRequestAlpha1_InvokeResponse:
		return invokeResponse(in.InvokeResponse), nil
	case *runtimev1.SubscribeActorEventsRequestAlpha1_RequestFailed:
		if in.RequestFailed.GetCode() == uint32(codes.NotFound) {
			return nil, &methodNotFound{method}
		}
		return nil, &AppError{Message: in.RequestFailed.GetMessage()}
	}
	return nil, errors.New("actor host returned an unexpected response type for invoke")
}

// Remind implements [actors.Host].
func (s *stream) Remind(ctx context.Context, r *actors.Reminder) error {
	if err := checkText(r.Type, r.ID, r.Name, r.Callback, r.DueTime, r.Period); err != nil {
		return err
	}
	var message request
	if r.Timer {
		message.ResponseType = &runtimev1.SubscribeActorEventsResponseAlpha1_TimerRequest{TimerRequest: &runtimev1.SubscribeActorEventsResponseTimerRequestAlpha1{
			ActorType: r.Type, ActorId: r.ID, Name: r.Name, DueTime: r.DueTime, Period: r.Period, Callback: r.Callback, Data: r.Data,
		}}
	} else {
		message.ResponseType = &runtimev1.SubscribeActorEventsResponseAlpha1_ReminderRequest{ReminderRequest: &runtimev1.SubscribeActorEventsResponseReminderRequestAlpha1{
			ActorType: r.Type, ActorId: r.ID, Name: r.Name, DueTime: r.DueTime, Period: r.Period, Data: r.Data,
		}}
	}
	in, err := s.ask(ctx, r.Type, &message)
	if err != nil {
		return err
	}
	if failed := in.GetRequestFailed(); failed != nil {
		return &AppError{Message: failed.GetMessage()}
	}
	answer, kind := in.GetReminderResponse(), "reminder"
	if r.Timer {
		answer, kind = in.GetTimerResponse(), "timer"
	}
	switch {
	case answer == nil:
		return errors.New("actor host returned an unexpected response type for " + kind)
	case answer.GetCancel():
		return actors.ErrReminderCanceled
	}
	return nil
}

// Deactivate implements [actors.Host]. Any answer is a success (Dapr API, actors: stream callbacks).
func (s *stream) Deactivate(ctx context.Context, actorType, id string) error {
	if err := checkText(actorType, id); err != nil {
		return err
	}
	_, err := s.ask(ctx, actorType, &request{ResponseType: &runtimev1.SubscribeActorEventsResponseAlpha1_DeactivateRequest{
		DeactivateRequest: &runtimev1.SubscribeActorEventsResponseDeactivateRequestAlpha1{ActorType: strings.Clone(actorType), ActorId: strings.Clone(id)},
	}})
	return err
}

// metadata is the header of a call as a map: the first value of each name counts.
func (s *stream) metadata(ctx context.Context, call *actors.Call) map[string]string {
	header := s.hub.identity.header(ctx, call)
	m := make(map[string]string, len(header)+1)
	if call.Request.ContentType != "" {
		key := "Content-Type"
		if call.Request.Origin == invocation.FromGRPC {
			key = "content-type"
		}
		m[key] = validText(strings.Clone(call.Request.ContentType))
	}
	for _, f := range header {
		name := validText(string(f.Name))
		if _, taken := m[name]; !taken {
			m[name] = validText(string(f.Value))
		}
	}
	return m
}

// invokeResponse is an answer as the caller gets it.
func invokeResponse(in *runtimev1.SubscribeActorEventsRequestInvokeResponseAlpha1) *invocation.Response {
	resp := &invocation.Response{Status: 200, Body: in.GetData(), Length: int64(len(in.GetData()))}
	for name, value := range in.GetMetadata() {
		switch {
		case strings.EqualFold(name, "content-type"):
			resp.ContentType = singleLine(value)
		case isHeaderName(name):
			resp.Header.Add(name, singleLine(value))
		}
	}
	if in.GetError() {
		resp.Header = append(resp.Header, invocation.Field{Name: nameError, Value: yes})
	}
	return resp
}

// isHeaderName reports whether an entry of an app's metadata can be passed on as a header: it must have a header's name and not concern
// the connection or the form of the body.
func isHeaderName(name string) bool {
	if name == "" || invocation.HopByHop([]byte(name)) || strings.EqualFold(name, "content-length") {
		return false
	}
	for i := range len(name) {
		c := name[i]
		if (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9') && strings.IndexByte("!#$%&'*+-.^_`|~", c) < 0 {
			return false
		}
	}
	return true
}

// singleLine replaces what would end a header's line.
func singleLine(value string) string {
	if !strings.ContainsAny(value, "\r\n\x00") {
		return value
	}
	return strings.Map(func(r rune) rune {
		if r == '\r' || r == '\n' || r == 0 {
			return ' '
		}
		return r
	}, value)
}

// validText is text as messages must have it.
func validText(text string) string {
	return strings.ToValidUTF8(text, "\uFFFD")
}

// checkText refuses names that no message can carry: sending one would end the stream.
func checkText(names ...string) error {
	for _, name := range names {
		if !utf8.ValidString(name) {
			return errors.New("the app cannot be called: " + strconv.Quote(name) + " is no UTF-8 text; use names that are")
		}
	}
	return nil
}
