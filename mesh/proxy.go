package mesh

import (
	"context"
	"math"
	"sync"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"outrigger.dev/invocation"
)

// NewStream opens a stream of any gRPC method at the sidecar of an app, whose messages are each an [invocation.Frame]. Messages
// over the limit of bodies fail with ResourceExhausted in either direction. The stream counts as a call of its connection,
// which is therefore kept, until it ends: by an error or the end of its messages, or by the end of ctx. options come on top.
//
// The peer is reached through the address, "host:port" or "dns:///host:port"; with security it has to prove the identity in
// target. The error is a gRPC status; after Unavailable and Unauthenticated the next stream gets a connection of its own.
func (c *Client) NewStream(ctx context.Context, target Target, method string, options ...grpc.CallOption) (grpc.ClientStream, error) {
	p, err := c.acquire(target.Address, &invocation.Request{AppID: target.AppID, Namespace: target.Namespace})
	if err != nil {
		return nil, unavailable(err)
	}
	defer c.release(p)
	conn, err := p.take()
	if err != nil {
		return nil, unavailable(err)
	}
	give := sync.OnceFunc(func() { p.give(conn) })
	limit := math.MaxInt32
	if body := c.options.MaxBodySize; body > 0 && body < math.MaxInt32 {
		limit = int(body)
	}
	all := make([]grpc.CallOption, 0, len(options)+4)
	all = append(all, grpc.ForceCodecV2(invocation.FrameCodec()), grpc.MaxCallRecvMsgSize(limit), grpc.MaxCallSendMsgSize(limit),
		grpc.OnFinish(func(error) { give() }))
	stream, err := conn.cc.NewStream(ctx, &proxied, method, append(all, options...)...)
	if err == nil {
		return stream, nil
	}
	if cause := ctx.Err(); cause != nil {
		give()
		return nil, status.FromContextError(cause).Err()
	}
	if c.Retriable(err) {
		p.drop(conn)
		p.forget()
	}
	give()
	return nil, err
}

// proxied is how all proxied methods are called: which of the four kinds they are, only their app knows.
var proxied = grpc.StreamDesc{ServerStreams: true, ClientStreams: true}

// unavailable is the status of a connection that cannot be had.
func unavailable(err error) error {
	if _, ok := status.FromError(err); ok {
		return err
	}
	return status.Error(codes.Unavailable, err.Error())
}
