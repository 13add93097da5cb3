package actors

import (
	"bytes"
	"context"
	"net/textproto"

	"google.golang.org/grpc/codes"

	"outrigger.dev/api"
	"outrigger.dev/invocation"
	"outrigger.dev/jsontext"
	"outrigger.dev/telemetry/tracing"
)

// Routes is the HTTP face of the API (Dapr API, API surface: actors).
func (s *Service) Routes() []api.Route {
	const group, actor = "v1/actors", "/v1.0/actors/{actorType}/{actorId}"
	get, save, remove := []string{"GET"}, []string{"POST", "PUT"}, []string{"DELETE"}
	return []api.Route{
		{Methods: []string{"GET", "POST", "PUT", "DELETE"}, Path: actor + "/method/{method}", Name: "InvokeActor", Group: group, Handler: s.handleInvoke},
		{Methods: save, Path: actor + "/state", Name: "ExecuteActorStateTransaction", Group: group, Handler: s.handleTransaction},
		{Methods: get, Path: actor + "/state/{key}", Name: "GetActorState", Group: group, Handler: s.handleGetState},
		{Methods: save, Path: actor + "/reminders/{name}", Name: "RegisterActorReminder", Group: group, Handler: s.handleCreateReminder},
		{Methods: get, Path: actor + "/reminders/{name}", Name: "GetActorReminder", Group: group, Handler: s.handleGetReminder},
		{Methods: remove, Path: actor + "/reminders/{name}", Name: "UnregisterActorReminder", Group: group, Handler: s.handleDeleteReminder},
		{Methods: save, Path: actor + "/timers/{name}", Name: "RegisterActorTimer", Group: group, Handler: s.handleCreateTimer},
		{Methods: remove, Path: actor + "/timers/{name}", Name: "UnregisterActorTimer", Group: group, Handler: s.handleDeleteTimer},
	}
}

func (s *Service) handleInvoke(c *api.Call) error {
	actorType, id := c.Parameter("actorType"), c.Parameter("actorId")
	method, err := checkCall(actorType, id, c.Parameter("method"))
	if err != nil {
		return api.ErrBadRequest(err.Error())
	}
	body, err := c.ReadBody()
	if err != nil {
		return api.ErrBadRequest("failed to read body: " + err.Error())
	}
	req := &invocation.Request{Query: c.RawQuery(), Origin: invocation.FromHTTP}
	collectCall(req, c, body)
	resp, err := s.invoke(c.Context(), &Call{Type: actorType, ID: id, Method: method, Request: req})
	if err != nil {
		return err
	}
	for _, f := range resp.Header {
		if passes(f.Name) {
			c.AddHeader(f.Name, f.Value)
		}
	}
	if resp.ContentType != "" {
		c.SetHeader("Content-Type", resp.ContentType)
	}
	status := resp.Status
	if status < 100 { // a gRPC code
		status = api.HTTPStatus(codes.Code(status))
	}
	c.SetStatus(status)
	if resp.Stream != nil {
		c.ReplyStream(resp.Stream, resp.Length)
		return nil
	}
	c.Reply(resp.Body)
	return nil
}

// invoke calls an actor for a client of the API.
func (s *Service) invoke(ctx context.Context, call *Call) (*invocation.Response, error) {
	if err := s.options.Core.Await(ctx); err != nil {
		return nil, err
	}
	h := &call.Request.Header
	*h = append(*h, s.says...)
	if span := tracing.FromContext(ctx); span.Own() {
		putTrace(h, span)
	}
	resp, err := s.options.Core.Invoke(ctx, call)
	if err != nil {
		return nil, api.ErrActorInvoke(err)
	}
	return resp, nil
}

// putTrace replaces the trace context of a header by that of a span.
func putTrace(h *invocation.Header, span *tracing.Span) {
	h.Set(tracing.HeaderParent, span.Parent())
	h.Del(tracing.HeaderState)
	if state := span.State(); state != "" {
		h.Add(tracing.HeaderState, state)
	}
}

// collectCall copies what goes on of a call to req: a policy may still be trying when the call has been answered and its memory is
// used again.
func collectCall(req *invocation.Request, c *api.Call, body []byte) {
	connection, size, count := []byte(nil), len(body), 0
	for name, value := range c.Headers() {
		if invocation.Is(name, "connection") {
			connection = append(append(connection, value...), ',')
		}
		size, count = size+len(name)+len(value), count+1
	}
	room := make([]byte, 0, size)
	keep := func(text []byte) []byte {
		room = append(room, text...)
		return room[len(room)-len(text) : len(room) : len(room)]
	}
	req.Body = keep(body)
	req.Header = make(invocation.Header, 0, count+5)
	for name, value := range c.Headers() {
		switch {
		case invocation.Is(name, "content-type"):
			req.ContentType = string(value)
		case !passes(name), foreign(name), invocation.Is(name, "host"), invocation.NamedBy(connection, name):
		default:
			req.Header = append(req.Header, invocation.Field{Name: keep(name), Value: keep(value)})
		}
	}
}

// passes reports whether a header goes on, from a client to an actor and back (Dapr API, actors: callbacks).
func passes(name []byte) bool {
	switch {
	case invocation.HopByHop(name), invocation.Is(name, "content-length"), invocation.Is(name, "content-type"), invocation.Is(name, invocation.DestinationAppID):
		return false
	}
	return len(name) < 4 || !bytes.EqualFold(name[len(name)-4:], []byte("-bin"))
}

// foreign reports whether a header of a client is one that only sidecars may set.
func foreign(name []byte) bool {
	return invocation.Is(name, invocation.CallerAppID) || invocation.Is(name, invocation.CallerNamespace) ||
		invocation.Is(name, "dapr-api-call") || invocation.Is(name, "x-dapr-remote")
}

func (s *Service) handleGetState(c *api.Call) error {
	actorType, id := c.Parameter("actorType"), c.Parameter("actorId")
	if err := open(actorType); err != nil {
		return err
	}
	if err := s.stateReady(c.Context(), actorType, id); err != nil {
		return err
	}
	item, err := s.options.State.Get(c.Context(), actorType, id, c.Parameter("key"))
	if err != nil {
		return err
	}
	if len(item.Data) == 0 {
		c.NoContent()
		return nil
	}
	for name, value := range item.Metadata {
		c.SetHeader(textproto.CanonicalMIMEHeaderKey("metadata."+name), value)
	}
	c.ReplyJSON(item.Data)
	return nil
}

// ready is what comes before all operations but invocation, once their requests were understood.
func (s *Service) ready(ctx context.Context, actorType string) error {
	if err := open(actorType); err != nil {
		return err
	}
	return s.options.Core.Await(ctx)
}

// stateReady is what comes before calls for the state of an actor, once their requests were understood. They wait for nothing if the
// actor is active: while its type is being withdrawn, the turns that still run may save what they did.
func (s *Service) stateReady(ctx context.Context, actorType, id string) error {
	if release, active := s.options.Core.Enter(actorType, id); active {
		release()
		return nil
	}
	return s.options.Core.Await(ctx)
}

func (s *Service) handleTransaction(c *api.Call) error {
	actorType, id := c.Parameter("actorType"), c.Parameter("actorId")
	if err := open(actorType); err != nil {
		return err
	}
	body, err := c.ReadBody()
	if err != nil {
		return api.ErrMalformedBody(err)
	}
	read, err := readTransaction(body)
	if err != nil {
		return api.ErrMalformedBody(err)
	}
	if err := s.stateReady(c.Context(), actorType, id); err != nil {
		return err
	}
	if s.options.State.Store() == "" {
		return api.ErrActorRuntimeNotFound()
	}
	operations, err := storeOperations(read)
	if err != nil {
		return api.ErrActorStateTransaction(err)
	}
	if err := s.options.State.Transact(c.Context(), actorType, id, operations); err != nil {
		return err
	}
	c.NoContent()
	return nil
}

// refused is an error about a request's name.
func refused(err error) error { return api.ErrBadRequest(err.Error()) }

func (s *Service) handleCreateReminder(c *api.Call) error {
	req := ReminderRequest{Type: c.Parameter("actorType"), ID: c.Parameter("actorId"), Name: c.Parameter("name")}
	if err := open(req.Type); err != nil {
		return err
	}
	body, err := c.ReadBody()
	if err != nil {
		return api.ErrMalformedBody(err)
	}
	b, err := readReminder(body)
	if err == nil {
		req.FailurePolicy, err = b.failurePolicy()
	}
	if err != nil {
		return api.ErrMalformedBody(err)
	}
	if err := checkName(req.Name); err != nil {
		return refused(err)
	}
	if err := s.options.Core.Await(c.Context()); err != nil {
		return err
	}
	req.DueTime, req.Period, req.TTL = b.DueTime, b.Period, b.TTL
	req.Data, req.Keep = jsonData(b.Data), b.Overwrite != nil && !*b.Overwrite
	if err := s.options.Reminders.Create(c.Context(), req); err != nil {
		return err
	}
	c.NoContent()
	return nil
}

func (s *Service) handleGetReminder(c *api.Call) error {
	actorType := c.Parameter("actorType")
	if err := s.ready(c.Context(), actorType); err != nil {
		return err
	}
	r, err := s.options.Reminders.Get(c.Context(), actorType, c.Parameter("actorId"), c.Parameter("name"))
	if err != nil {
		return err
	}
	out, err := r.appendJSON(nil)
	if err != nil {
		return api.ErrActorReminderGet(err)
	}
	c.ReplyJSON(out)
	return nil
}

// appendJSON appends the reminder as the HTTP API has it: without what is absent, and without its name.
func (r *RegisteredReminder) appendJSON(out []byte) ([]byte, error) {
	out = jsontext.AppendString(append(out, `{"actorID":`...), r.ID)
	out = jsontext.AppendString(append(out, `,"actorType":`...), r.Type)
	data, some, err := appendDataJSON(nil, r.Data)
	if err != nil {
		return nil, err
	}
	if some {
		out = append(append(out, `,"data":`...), data...)
	}
	for _, f := range []struct {
		name  string
		value *string
	}{{"dueTime", r.DueTime}, {"period", r.Period}, {"ttl", r.TTL}} {
		if f.value != nil {
			out = append(append(append(out, `,"`...), f.name...), `":`...)
			out = jsontext.AppendString(out, *f.value)
		}
	}
	return append(out, '}'), nil
}

// unused reads and checks the body of a request that needs none.
func unused(c *api.Call) error {
	body, err := c.ReadBody()
	if err != nil {
		return api.ErrBodyRead(err)
	}
	if err := checkUnusedBody(body); err != nil {
		return api.ErrMalformedBody(err)
	}
	return nil
}

// deletion is what comes before deletions: of what type the actor is, once that may be asked for.
func (s *Service) deletion(c *api.Call) (actorType string, err error) {
	actorType = c.Parameter("actorType")
	if err := open(actorType); err != nil {
		return "", err
	}
	if err := unused(c); err != nil {
		return "", err
	}
	return actorType, s.options.Core.Await(c.Context())
}

func (s *Service) handleDeleteReminder(c *api.Call) error {
	actorType, err := s.deletion(c)
	if err != nil {
		return err
	}
	if err := s.options.Reminders.Delete(c.Context(), actorType, c.Parameter("actorId"), c.Parameter("name")); err != nil {
		return err
	}
	c.NoContent()
	return nil
}

func (s *Service) handleCreateTimer(c *api.Call) error {
	timer := Timer{Type: c.Parameter("actorType"), ID: c.Parameter("actorId"), Name: c.Parameter("name")}
	if err := open(timer.Type); err != nil {
		return err
	}
	body, err := c.ReadBody()
	if err != nil {
		return api.ErrMalformedBody(err)
	}
	b, err := readTimer(body)
	if err != nil {
		return api.ErrMalformedBody(err)
	}
	if err := checkName(timer.Name); err != nil {
		return refused(err)
	}
	if err := s.options.Core.Await(c.Context()); err != nil {
		return err
	}
	timer.DueTime, timer.Period, timer.TTL, timer.Callback, timer.Data = b.DueTime, b.Period, b.TTL, b.Callback, jsonData(b.Data)
	if err := s.options.Timers.Create(timer); err != nil {
		return err
	}
	c.NoContent()
	return nil
}

func (s *Service) handleDeleteTimer(c *api.Call) error {
	actorType, err := s.deletion(c)
	if err != nil {
		return err
	}
	s.options.Timers.Delete(actorType, c.Parameter("actorId"), c.Parameter("name"))
	c.NoContent()
	return nil
}
