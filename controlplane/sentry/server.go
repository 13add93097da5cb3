package sentry

import (
	"context"
	"crypto/tls"
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

	sentryv1 "outrigger.dev/api/gen/sentry/v1"
)

// newGRPCServer makes the server of the service CA, with bounds on everything that a client decides.
func newGRPCServer(s sentryv1.CAServer, own *ownIdentity, l Limits, log *slog.Logger) *grpc.Server {
	server := grpc.NewServer(
		grpc.Creds(credentials.NewTLS(&tls.Config{GetCertificate: own.get, MinVersion: tls.VersionTLS12})),
		grpc.MaxRecvMsgSize(l.MessageBytes),
		grpc.MaxHeaderListSize(16<<10),
		grpc.MaxConcurrentStreams(100),
		grpc.ConnectionTimeout(l.Handshake),
		grpc.KeepaliveParams(keepalive.ServerParameters{MaxConnectionIdle: l.Idle, Time: 10 * time.Second, Timeout: 5 * time.Second}),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: 5 * time.Second, PermitWithoutStream: true}),
		// A handler starts only when the whole message is there; this bounds how long a client may take to send it.
		grpc.InTapHandle(func(ctx context.Context, _ *tap.Info) (context.Context, error) {
			bounded, cancel := context.WithTimeout(ctx, l.Request)
			context.AfterFunc(ctx, cancel)
			return bounded, nil
		}),
		grpc.ChainUnaryInterceptor(func(ctx context.Context, req any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (reply any, err error) {
			defer func() {
				if p := recover(); p != nil {
					log.Error(fmt.Sprintf("Panic in %s: %v\n%s", info.FullMethod, p, debug.Stack()))
					reply, err = nil, status.Error(codes.Internal, "internal error of sentry")
				}
			}()
			return handler(ctx, req)
		}),
	)
	sentryv1.RegisterCAServer(server, s)
	return server
}

// stopGrace is how long requests may go on when the server stops.
const stopGrace = 5 * time.Second

// serveGRPC serves until the context ends, which is no error.
func serveGRPC(ctx context.Context, server *grpc.Server, listener net.Listener) error {
	done := make(chan error, 1)
	go func() { done <- server.Serve(listener) }()
	select {
	case err := <-done:
		return fmt.Errorf("serve gRPC on %s: %w", listener.Addr(), err)
	case <-ctx.Done():
	}
	force := time.AfterFunc(stopGrace, server.Stop)
	server.GracefulStop()
	force.Stop()
	<-done
	return nil
}
