package app

import (
	"context"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"outrigger.dev/invocation"
)

// Forwarder passes gRPC calls of any method on to the app, message by message, without decoding them (Dapr API, gRPC
// proxying). The limit on concurrent calls and the app's health do not hold them back. It is safe for concurrent use.
type Forwarder struct {
	conns *Conns
	// own tells that the connections are for this alone.
	own      bool
	protocol Protocol
	address  string
}

// NewForwarder makes a forwarder to the app of a channel, whose connections it shares if the app speaks gRPC. An app of
// another protocol is tried all the same: it may serve gRPC on the same port. o are the channel's options.
func NewForwarder(o Options, c Channel) (*Forwarder, error) {
	protocol, err := ParseProtocol(string(o.Protocol))
	if err != nil {
		return nil, err
	}
	o.Protocol = protocol
	if o.Address == "" {
		o.Address = "127.0.0.1"
	}
	f := &Forwarder{protocol: protocol, address: o.hostPort()}
	if g, ok := c.(*GRPCChannel); ok {
		f.conns = g.conns
	} else {
		f.conns, f.own = newPool(o), true
	}
	return f, nil
}

// NewStream opens a stream whose messages are each an [invocation.Frame]. It ends with ctx. The error is a gRPC status:
// Unavailable when the app cannot be reached or speaks no gRPC.
func (f *Forwarder) NewStream(ctx context.Context, method string, options ...grpc.CallOption) (grpc.ClientStream, error) {
	all := append([]grpc.CallOption{grpc.ForceCodecV2(invocation.FrameCodec())}, options...)
	stream, err := f.conns.NewStream(ctx, &forwarded, method, all...)
	if err == nil {
		return stream, nil
	}
	s, ok := status.FromError(err)
	if !ok {
		return nil, status.Error(codes.Unavailable, err.Error())
	}
	if s.Code() == codes.Unavailable && !f.protocol.IsGRPC() {
		return nil, status.Errorf(codes.Unavailable, "%s; the app at %s was started with --app-protocol %s: only apps that speak gRPC can be called by gRPC proxying", s.Message(), f.address, f.protocol)
	}
	return nil, err
}

// forwarded is how all methods are called: which of the four kinds they are, only the app knows.
var forwarded = grpc.StreamDesc{ServerStreams: true, ClientStreams: true}

// Close closes the connections that are not the channel's.
func (f *Forwarder) Close() {
	if f.own {
		f.conns.close()
	}
}
