package server

import (
	"context"
	"crypto/subtle"
	"fmt"
	"log/slog"
	"runtime"
	"runtime/debug"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/health"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/reflection"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	_ "google.golang.org/grpc/encoding/gzip" // clients may compress

	"outrigger.dev/api"
	runtimev1 "outrigger.dev/api/gen/runtime/v1"
	"outrigger.dev/resource"
	"outrigger.dev/telemetry/metrics"
)

// GRPCOptions of the sidecar's gRPC API.
type GRPCOptions struct {
	// Dapr serves the API's methods.
	Dapr runtimev1.DaprServer
	// Unbuilt names, by full method, the block of a method that this version does not serve.
	Unbuilt map[string]string
	// Token must be in the dapr-api-token metadata of calls; empty means none.
	Token string
	// Access is the allow and deny list.
	Access resource.GRPCAccess
	// MaxMessageBytes bounds messages in both directions.
	MaxMessageBytes int
	// MaxHeaderBytes bounds the header list; 0 is the library's default.
	MaxHeaderBytes uint32
	// Baggage checks the baggage metadata.
	Baggage bool
	APILog  *APILog
	Metrics *metrics.Metrics
	Log     *slog.Logger
}

// GRPC is the sidecar's gRPC API server.
type GRPC struct {
	*grpc.Server
	options GRPCOptions
	health  *health.Server
}

// NewGRPC makes a server with the Dapr service, reflection and the standard health service.
func NewGRPC(o GRPCOptions) *GRPC {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	s := &GRPC{options: o, health: health.NewServer()}
	options := []grpc.ServerOption{
		grpc.MaxRecvMsgSize(o.MaxMessageBytes),
		grpc.MaxSendMsgSize(o.MaxMessageBytes),
		grpc.NumStreamWorkers(streamWorkers()),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: 8 * time.Second, PermitWithoutStream: true}),
		grpc.KeepaliveParams(keepalive.ServerParameters{MaxConnectionIdle: 3 * time.Minute, Time: 10 * time.Second, Timeout: 5 * time.Second}),
		grpc.UnaryInterceptor(s.unary),
		grpc.StreamInterceptor(s.stream),
		grpc.UnknownServiceHandler(s.unknown),
	}
	if o.MaxHeaderBytes > 0 {
		options = append(options, grpc.MaxHeaderListSize(o.MaxHeaderBytes))
	}
	s.Server = grpc.NewServer(options...)
	runtimev1.RegisterDaprServer(s.Server, o.Dapr)
	healthv1.RegisterHealthServer(s.Server, s.health)
	reflection.Register(s.Server)
	return s
}

// streamWorkers is how many goroutines wait for calls: their stacks have grown already, which a new goroutine's has to do
// for each call. Calls beyond them get goroutines of their own.
func streamWorkers() uint32 { return uint32(4 * runtime.GOMAXPROCS(0)) }

// Shutdown lets running calls finish, and ends them when ctx does first.
func (s *GRPC) Shutdown(ctx context.Context) {
	s.health.Shutdown()
	stop := context.AfterFunc(ctx, s.Stop)
	defer stop()
	s.GracefulStop()
}

// refused is a status with the detail that tells HTTP-minded clients what happened (Dapr API, gRPC token and lists).
func refused(code codes.Code, message, httpCode, httpMessage string) error {
	s, err := status.New(code, message).WithDetails(&errdetails.ErrorInfo{
		Reason: message, Domain: api.Domain, Metadata: map[string]string{"http.code": httpCode, "http.error_message": httpMessage},
	})
	if err != nil {
		return status.Error(code, message)
	}
	return s.Err()
}

const tokenKey = "dapr-api-token"

// admit applies the lists, the token and the check of the baggage to a call, and returns its context without the token.
func (s *GRPC) admit(ctx context.Context, fullMethod string) (context.Context, error) {
	ctx, err := s.authorised(ctx, fullMethod)
	if err == nil && s.options.Baggage {
		err = grpcBaggage(ctx)
	}
	return ctx, err
}

func (s *GRPC) authorised(ctx context.Context, fullMethod string) (context.Context, error) {
	if !s.options.Access.Allowed(fullMethod) {
		return ctx, refused(codes.Unimplemented, "Not Implemented", "501", "requested endpoint is not available")
	}
	if s.options.Token == "" {
		return ctx, nil
	}
	md, ok := metadata.FromIncomingContext(ctx)
	if !ok {
		return ctx, refused(codes.Unauthenticated, "Unauthorized", "401", "missing metadata in request")
	}
	given := md[tokenKey]
	if len(given) == 0 {
		return ctx, refused(codes.Unauthenticated, "Unauthorized", "401", "missing api token in request metadata")
	}
	if subtle.ConstantTimeCompare([]byte(given[0]), []byte(s.options.Token)) != 1 {
		return ctx, refused(codes.Unauthenticated, "Unauthorized", "401", "authentication error: api token mismatch")
	}
	md = md.Copy()
	md.Delete(tokenKey)
	return metadata.NewIncomingContext(ctx, md), nil
}

func (s *GRPC) unary(ctx context.Context, req any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (resp any, err error) {
	if ctx, err = s.admit(ctx, info.FullMethod); err != nil {
		return nil, err
	}
	start := time.Now()
	defer func() {
		if p := recover(); p != nil {
			err = s.panicked(info.FullMethod, p)
		}
		took := time.Since(start)
		code := status.Code(err)
		if s.options.Metrics.Enabled() {
			s.options.Metrics.GRPCServer().Observe(info.FullMethod, code, took, size(req), size(resp))
		}
		s.log(ctx, info.FullMethod, code, took)
	}()
	if block, ok := s.options.Unbuilt[info.FullMethod]; ok {
		return nil, unbuilt(info.FullMethod, block)
	}
	resp, err = handler(ctx, req)
	return resp, s.mapped(err)
}

func (s *GRPC) stream(srv any, ss grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) (err error) {
	ctx, err := s.admit(ss.Context(), info.FullMethod)
	if err != nil {
		return err
	}
	start := time.Now()
	defer func() {
		if p := recover(); p != nil {
			err = s.panicked(info.FullMethod, p)
		}
		s.log(ctx, info.FullMethod, status.Code(err), time.Since(start))
	}()
	if block, ok := s.options.Unbuilt[info.FullMethod]; ok {
		return unbuilt(info.FullMethod, block)
	}
	return s.mapped(handler(srv, &admittedStream{ss, ctx}))
}

// admittedStream is a stream whose context has been looked through.
type admittedStream struct {
	grpc.ServerStream
	ctx context.Context
}

func (s *admittedStream) Context() context.Context { return s.ctx }

// mapped gives errors of the API their status, and counts them.
func (s *GRPC) mapped(err error) error {
	if err == nil {
		return nil
	}
	if _, ok := status.FromError(err); !ok {
		return err
	}
	if e := api.AsError(err); e.Code != "ERROR" {
		s.options.Metrics.ErrorCode(e.Code, string(e.Category))
	}
	return err
}

func (s *GRPC) panicked(fullMethod string, p any) error {
	s.options.Log.Error("a call's handler panicked", "method", fullMethod, "panic", fmt.Sprint(p), "stack", string(debug.Stack()))
	return status.Error(codes.Internal, "internal error: the call's handler failed; see the sidecar's log")
}

func (s *GRPC) log(ctx context.Context, fullMethod string, code codes.Code, took time.Duration) {
	if s.options.APILog == nil {
		return
	}
	agent := ""
	if md, ok := metadata.FromIncomingContext(ctx); ok && len(md["user-agent"]) > 0 {
		agent = md["user-agent"][0]
	}
	s.options.APILog.grpc(fullMethod, code, took, agent)
}

func size(message any) int64 {
	if m, ok := message.(proto.Message); ok && m != nil {
		return int64(proto.Size(m))
	}
	return 0
}

func unbuilt(fullMethod, block string) error {
	return status.Errorf(codes.Unimplemented, "%s belongs to the %s building block, which this version does not have yet", fullMethod, block)
}

// unknown answers methods that the server does not know: calls to be proxied to another app.
func (s *GRPC) unknown(_ any, ss grpc.ServerStream) error {
	method, _ := grpc.MethodFromServerStream(ss)
	md, _ := metadata.FromIncomingContext(ss.Context())
	if len(md["dapr-app-id"]) == 0 && len(md["dapr-callee-app-id"]) == 0 {
		return status.Error(codes.Unknown, "failed to proxy request: required metadata dapr-callee-app-id or dapr-app-id not found")
	}
	return status.Errorf(codes.Unimplemented, "%s would be proxied to another app, but this version does not proxy gRPC calls yet; call it with InvokeService or over HTTP", method)
}
