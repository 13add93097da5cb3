package serving

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"runtime/debug"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/tap"
)

// GRPCOptions are those of a gRPC server. Zero values mean the defaults given.
type GRPCOptions struct {
	// Name is the service's.
	Name string
	// Credentials secure the connections; nil is clear text.
	Credentials credentials.TransportCredentials
	// MessageBytes is the largest message of a client; 0 is 512 KiB.
	MessageBytes int
	// Handshake is how long TLS and HTTP/2 may take to begin; 0 is 10 seconds.
	Handshake time.Duration
	// Request is how long a call may take from its headers to its answer; 0 is without bound, which calls that are streams need.
	Request time.Duration
	// Keepalive says when idle connections end and dead ones are found out. Its zero Time and Timeout are 10 and 5 seconds.
	Keepalive keepalive.ServerParameters
	// ClientPings is the shortest time between pings that a client may send; 0 is 5 seconds.
	ClientPings time.Duration
	// Streams is how many calls one connection may make at a time; 0 is 100.
	Streams uint32
	// More are further options.
	More []grpc.ServerOption
	Log  *slog.Logger
}

// NewGRPC makes a gRPC server with bounds on everything that a client decides. A panic of a handler ends only its call.
func NewGRPC(o GRPCOptions) *grpc.Server {
	if o.MessageBytes <= 0 {
		o.MessageBytes = 512 << 10
	}
	if o.Handshake <= 0 {
		o.Handshake = 10 * time.Second
	}
	if o.Keepalive.Time <= 0 {
		o.Keepalive.Time = 10 * time.Second
	}
	if o.Keepalive.Timeout <= 0 {
		o.Keepalive.Timeout = 5 * time.Second
	}
	if o.ClientPings <= 0 {
		o.ClientPings = 5 * time.Second
	}
	if o.Streams == 0 {
		o.Streams = 100
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	recovered := func(method string, err *error) {
		if p := recover(); p != nil {
			o.Log.Error(fmt.Sprintf("Panic in %s: %v\n%s", method, p, debug.Stack()))
			*err = status.Error(codes.Internal, "internal error of "+o.Name)
		}
	}
	options := []grpc.ServerOption{
		grpc.MaxRecvMsgSize(o.MessageBytes),
		grpc.MaxHeaderListSize(16 << 10),
		grpc.MaxConcurrentStreams(o.Streams),
		grpc.ConnectionTimeout(o.Handshake),
		grpc.KeepaliveParams(o.Keepalive),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: o.ClientPings, PermitWithoutStream: true}),
		grpc.ChainUnaryInterceptor(func(ctx context.Context, req any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (reply any, err error) {
			defer recovered(info.FullMethod, &err)
			return handler(ctx, req)
		}),
		grpc.ChainStreamInterceptor(func(srv any, stream grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) (err error) {
			defer recovered(info.FullMethod, &err)
			return handler(srv, stream)
		}),
	}
	if o.Credentials != nil {
		options = append(options, grpc.Creds(o.Credentials))
	}
	if o.Request > 0 {
		// A handler starts only when the whole message is there; this bounds how long a client may take to send it.
		options = append(options, grpc.InTapHandle(func(ctx context.Context, _ *tap.Info) (context.Context, error) {
			bounded, cancel := context.WithTimeout(ctx, o.Request)
			context.AfterFunc(ctx, cancel)
			return bounded, nil
		}))
	}
	return grpc.NewServer(append(options, o.More...)...)
}

// ServeGRPC serves until the context ends, which is no error. Calls may go on for [StopGrace] then; streams have to be ended by their handlers.
func ServeGRPC(ctx context.Context, server *grpc.Server, listener net.Listener) error {
	done := make(chan error, 1)
	go func() { done <- server.Serve(listener) }()
	select {
	case err := <-done:
		return fmt.Errorf("serve gRPC on %s: %w", listener.Addr(), err)
	case <-ctx.Done():
	}
	force := time.AfterFunc(StopGrace, server.Stop)
	server.GracefulStop()
	force.Stop()
	<-done
	return nil
}
