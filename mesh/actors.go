package mesh

import (
	"context"
	"errors"
	"time"
	"unicode/utf8"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/emptypb"

	commonv1 "outrigger.dev/api/gen/common/v1"
	internalsv1 "outrigger.dev/api/gen/internals/v1"
	"outrigger.dev/invocation"
)

// Actor is the address of an actor.
type Actor struct{ Type, ID string }

// CallActor calls a method of an actor at the sidecar that hosts it, which has to prove the identity in target. The request's body has to
// be in memory, and the response's is. Errors of the peer, and of reaching it, are gRPC statuses, unchanged whichever protocol was used:
// Unavailable when the peer cannot be reached, ResourceExhausted when a body is over the limit. The end of ctx is returned as its error.
func (c *Client) CallActor(ctx context.Context, target Target, actor Actor, req *invocation.Request) (*invocation.Response, error) {
	if !utf8.ValidString(actor.Type) || !utf8.ValidString(actor.ID) {
		return nil, status.Errorf(codes.InvalidArgument, "the actor %q of type %q cannot be called: its type and its id must be UTF-8", actor.ID, actor.Type)
	}
	call := &actorCall{actor: actor, req: req}
	if err := c.unary(outgoing(ctx, req), target, internalsv1.ServiceInvocation_CallActor_FullMethodName, call); err != nil {
		return nil, err
	}
	if call.out.GetStatus() == nil {
		return nil, status.Error(codes.Internal, errMissingStatus.Error())
	}
	resp := fromInternalResponse(&call.out, req)
	resp.Body = call.out.GetMessage().GetData().GetValue()
	if call.header != nil {
		resp.Header = call.header
	}
	return resp, nil
}

// CallActorReminder runs a reminder or a timer of an actor at the sidecar that hosts it. Errors are as of [Client.CallActor].
func (c *Client) CallActorReminder(ctx context.Context, target Target, r *internalsv1.Reminder) error {
	return c.unary(ctx, target, internalsv1.ServiceInvocation_CallActorReminder_FullMethodName, &plainCall{in: r, out: &emptypb.Empty{}})
}

// unaryCall are the messages of a call.
type unaryCall interface {
	// messages are those of gRPC.
	messages() (in, out proto.Message)
	// encode is the message to be sent over the exchange, decode takes the one that came.
	encode() ([]byte, error)
	decode(raw []byte) error
}

// plainCall is a call of messages that are nothing else.
type plainCall struct{ in, out proto.Message }

func (c *plainCall) messages() (in, out proto.Message) { return c.in, c.out }
func (c *plainCall) encode() ([]byte, error)           { return proto.Marshal(c.in) }
func (c *plainCall) decode(raw []byte) error           { return proto.Unmarshal(raw, c.out) }

// actorCall is a call of an actor.
type actorCall struct {
	actor Actor
	req   *invocation.Request
	out   internalsv1.InternalInvokeResponse
	// header is the answer's, when it is not in out.
	header invocation.Header
}

func (c *actorCall) messages() (in, out proto.Message) {
	message := toActorCall(c.actor, c.req)
	message.Metadata = toMap(c.req.Header, 1)
	if c.req.ContentType != "" {
		message.Metadata["Content-Type"] = one(c.req.ContentType)
	}
	if len(message.Metadata) == 0 { // an empty map cannot be told from a missing one
		message.Metadata["User-Agent"] = one("outrigger")
	}
	return message, &c.out
}

func (c *actorCall) encode() ([]byte, error) {
	raw := make([]byte, 0, len(c.req.Body)+headerSize(c.req)+len(c.actor.Type)+len(c.actor.ID))
	raw, err := proto.MarshalOptions{}.MarshalAppend(raw, toActorCall(c.actor, c.req))
	return appendHeader(raw, c.req.Header), err
}

func (c *actorCall) decode(raw []byte) error {
	h, rest, err := splitHeader(raw)
	if errors.Is(err, errManyEntries) {
		return proto.Unmarshal(raw, &c.out)
	}
	if err != nil {
		return err
	}
	c.header = onlyPassed(h)
	return proto.Unmarshal(rest, &c.out)
}

// unary calls a method of the internal protocol that has one message in each direction.
func (c *Client) unary(ctx context.Context, target Target, method string, call unaryCall) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	p, err := c.host(target)
	if err != nil {
		return err
	}
	defer c.release(p)
	protocol, err := p.protocol(ctx)
	if err != nil {
		return err
	}
	if protocol == speaksExchange {
		err := p.exchangeUnary(ctx, method, call)
		lost, ok := err.(*lostError) //nolint:errorlint // it is never wrapped
		if !ok {
			return err
		}
		p.forget()
		if err := p.goesOn(ctx, lost); err != nil {
			return err
		}
	}
	in, out := call.messages()
	return p.grpcUnary(ctx, method, in, out)
}

// host is acquire for the sidecars that host actors.
func (c *Client) host(target Target) (*peer, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.find(c.hosts, target, c.options.ActorDialTimeout)
}

// grpcUnary calls a method with one message in each direction over gRPC.
func (p *peer) grpcUnary(ctx context.Context, method string, in, out proto.Message) error {
	conn, err := p.take()
	if err != nil {
		return err
	}
	defer p.give(conn)
	start := time.Now()
	err = conn.cc.Invoke(ctx, method, in, out, grpc.StaticMethod())
	if m := p.client.options.Metrics; m.Enabled() {
		m.GRPCClient().Observe(method, status.Code(err), time.Since(start), int64(proto.Size(in)), int64(proto.Size(out)))
	}
	if err == nil {
		return nil
	}
	if cause := invocation.Ended(ctx, err); cause != nil {
		return cause
	}
	if p.client.Retriable(err) {
		p.drop(conn)
		p.forget()
	}
	return err
}

// toActorCall is the message of a call of an actor, without its header.
func toActorCall(actor Actor, req *invocation.Request) *internalsv1.InternalInvokeRequest {
	verb := commonv1.HTTPExtension_Verb(commonv1.HTTPExtension_Verb_value[req.Verb])
	if verb == commonv1.HTTPExtension_NONE {
		verb = commonv1.HTTPExtension_PUT
	}
	return &internalsv1.InternalInvokeRequest{
		Ver:   internalsv1.APIVersion_V1,
		Actor: &internalsv1.Actor{ActorType: actor.Type, ActorId: actor.ID},
		Message: &commonv1.InvokeRequest{
			Method: utf8Text(req.Method), ContentType: utf8Text(req.ContentType), Data: &anyMessage{TypeUrl: req.TypeURL, Value: req.Body},
			HttpExtension: &commonv1.HTTPExtension{Verb: verb, Querystring: utf8Text(req.Query)},
		},
	}
}
