package server

import (
	"context"
	"crypto/subtle"
	"fmt"
	"log/slog"
	"runtime"
	"runtime/debug"
	"strings"
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
	"outrigger.dev/invocation"
	"outrigger.dev/resource"
	"outrigger.dev/telemetry/metrics"
	"outrigger.dev/telemetry/tracing"
)

// GRPCOptions of the sidecar's gRPC API.
type GRPCOptions struct {
	// Dapr serves the API's methods.
	Dapr runtimev1.DaprServer
	// Unbuilt names, by full method, the block of a method that this version does not serve.
	Unbuilt map[string]string
	// Token must be in the dapr-api-token metadata of calls; empty means none.
	Token string
	// Proxy serves methods that the server does not have, and the health service of other apps; nil while that is not possible.
	Proxy grpc.StreamHandler
	// Access is the allow and deny list.
	Access resource.GRPCAccess
	// MaxMessageBytes bounds messages in both directions.
	MaxMessageBytes int
	// MaxHeaderBytes bounds the header list; 0 is the library's default.
	MaxHeaderBytes uint32
	// AppID is the own app's: a proxied call for it is a server's.
	AppID string
	// Tracer makes the spans of calls; unless it is nil, the baggage metadata are checked and echoed.
	Tracer  *tracing.Tracer
	APILog  *APILog
	Metrics *metrics.Metrics
	Log     *slog.Logger
}

// GRPC is the sidecar's gRPC API server.
type GRPC struct {
	*grpc.Server
	options GRPCOptions
	health  *health.Server
	// services are those that are served here.
	services map[string]grpc.ServiceInfo
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
		grpc.ConnectionTimeout(headerTimeout), // until a new connection has said that it speaks HTTP/2
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: 8 * time.Second, PermitWithoutStream: true}),
		grpc.KeepaliveParams(keepalive.ServerParameters{MaxConnectionIdle: 3 * time.Minute, Time: 10 * time.Second, Timeout: 5 * time.Second}),
		grpc.UnaryInterceptor(s.unary),
		grpc.StreamInterceptor(s.stream),
		grpc.UnknownServiceHandler(s.unknown),
		grpc.ForceServerCodecV2(invocation.FrameCodec()),
	}
	if o.MaxHeaderBytes > 0 {
		options = append(options, grpc.MaxHeaderListSize(o.MaxHeaderBytes))
	}
	s.Server = grpc.NewServer(options...)
	runtimev1.RegisterDaprServer(s.Server, o.Dapr)
	s.RegisterService(s.healthService(), nil)
	reflection.Register(s.Server)
	s.services = s.GetServiceInfo()
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

// admit applies the lists, the token and the check of the baggage to a call, and starts its span. It returns its context without
// the token and with the span.
func (s *GRPC) admit(ctx context.Context, fullMethod string, req any, proxied bool) (context.Context, *tracing.Span, error) {
	ctx, err := s.authorised(ctx, fullMethod)
	if err != nil || !s.options.Tracer.On() {
		return ctx, nil, err
	}
	if err := grpcBaggage(ctx, proxied); err != nil {
		return ctx, nil, err
	}
	ctx, span := s.begin(ctx, fullMethod, req, proxied)
	return ctx, span, nil
}

// proxied reports whether a call is for a service that is not served here, or for another's health.
func (s *GRPC) proxied(ctx context.Context, fullMethod string) bool {
	service, _, _ := strings.Cut(strings.TrimPrefix(fullMethod, "/"), "/")
	_, own := s.services[service]
	return !own || service == healthv1.Health_ServiceDesc.ServiceName && forApp(ctx)
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
	ctx, span, err := s.admit(ctx, info.FullMethod, req, false)
	if err != nil {
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
		endCall(span, err)
	}()
	if block, ok := s.options.Unbuilt[info.FullMethod]; ok {
		return nil, unbuilt(info.FullMethod, block)
	}
	resp, err = handler(ctx, req)
	return resp, s.mapped(err)
}

func (s *GRPC) stream(srv any, ss grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) (err error) {
	ctx, span, err := s.admit(ss.Context(), info.FullMethod, nil, s.options.Tracer.On() && s.proxied(ss.Context(), info.FullMethod))
	if err != nil {
		return err
	}
	start := time.Now()
	defer func() {
		if p := recover(); p != nil {
			err = s.panicked(info.FullMethod, p)
		}
		s.log(ctx, info.FullMethod, status.Code(err), time.Since(start))
		endCall(span, err)
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
func (s *GRPC) unknown(srv any, ss grpc.ServerStream) error {
	if !forApp(ss.Context()) {
		if method, _ := grpc.MethodFromServerStream(ss); s.options.Tracer.On() && !strings.HasPrefix(method, "/dapr.proto.") { // tracing looks first
			return status.Error(codes.Unknown, "cannot proxy request: missing dapr-callee-app-id or dapr-app-id metadata")
		}
		return status.Error(codes.Unknown, "failed to proxy request: required metadata dapr-callee-app-id or dapr-app-id not found")
	}
	if s.options.Proxy == nil {
		return status.Error(codes.Unknown, "failed to proxy request: proxy not initialized. daprd startup may be incomplete")
	}
	return s.options.Proxy(srv, ss)
}

// forApp reports whether a call is for an app.
func forApp(ctx context.Context) bool {
	md, _ := metadata.FromIncomingContext(ctx)
	return len(md[invocation.AppID]) > 0 || len(md[invocation.CalleeAppID]) > 0
}

// healthService is the standard health service. Its answers are this server's, unless the call is for an app. Check is a
// stream here, which is the same to clients, for a call that is proxied must not be decoded. It is one in both directions, or
// gRPC would not have it pass the interceptor of streams.
func (s *GRPC) healthService() *grpc.ServiceDesc {
	return &grpc.ServiceDesc{
		ServiceName: healthv1.Health_ServiceDesc.ServiceName, Metadata: healthv1.Health_ServiceDesc.Metadata,
		Streams: []grpc.StreamDesc{{StreamName: "Check", ClientStreams: true, ServerStreams: true, Handler: s.checkHealth}, {StreamName: "Watch", ServerStreams: true, Handler: s.watchHealth}},
	}
}

func (s *GRPC) checkHealth(srv any, ss grpc.ServerStream) error {
	if forApp(ss.Context()) {
		return s.unknown(srv, ss)
	}
	start := time.Now()
	in := new(healthv1.HealthCheckRequest)
	if err := ss.RecvMsg(in); err != nil {
		return err
	}
	out, err := s.health.Check(ss.Context(), in)
	if s.options.Metrics.Enabled() {
		s.options.Metrics.GRPCServer().Observe(healthv1.Health_Check_FullMethodName, status.Code(err), time.Since(start), size(in), size(out))
	}
	if err != nil {
		return err
	}
	return ss.SendMsg(out)
}

func (s *GRPC) watchHealth(srv any, ss grpc.ServerStream) error {
	if forApp(ss.Context()) {
		return s.unknown(srv, ss)
	}
	in := new(healthv1.HealthCheckRequest)
	if err := ss.RecvMsg(in); err != nil {
		return err
	}
	return s.health.Watch(in, &grpc.GenericServerStream[healthv1.HealthCheckRequest, healthv1.HealthCheckResponse]{ServerStream: ss})
}
