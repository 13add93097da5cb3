package sentry

import (
	"crypto/tls"
	"log/slog"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/keepalive"

	sentryv1 "outrigger.dev/api/gen/sentry/v1"
	"outrigger.dev/controlplane/internal/serving"
)

// newGRPCServer makes the server of the service CA.
func newGRPCServer(s sentryv1.CAServer, own *ownIdentity, l Limits, log *slog.Logger) *grpc.Server {
	server := serving.NewGRPC(serving.GRPCOptions{
		Name: name, Credentials: credentials.NewTLS(&tls.Config{GetCertificate: own.get, MinVersion: tls.VersionTLS12}),
		MessageBytes: l.MessageBytes, Handshake: l.Handshake, Request: l.Request,
		Keepalive: keepalive.ServerParameters{MaxConnectionIdle: l.Idle}, Log: log,
	})
	sentryv1.RegisterCAServer(server, s)
	return server
}
