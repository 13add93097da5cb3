//lint:file-ignore SA1019 clients still ask for reflection by its old version, which has to answer

package e2e

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/encoding/gzip"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	reflectionv1 "google.golang.org/grpc/reflection/grpc_reflection_v1"
	reflectionalpha "google.golang.org/grpc/reflection/grpc_reflection_v1alpha"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/emptypb"

	runtimev1 "outrigger.dev/api/gen/runtime/v1"
)

func TestGRPC(t *testing.T) {
	t.Parallel()
	d := start(t, memory())
	ctx := within(t)

	t.Run("gzip", func(t *testing.T) {
		value := `"` + strings.Repeat("long ", 1000) + `"`
		if _, err := d.dapr().SaveState(ctx, saveRequest("zipped", value), grpc.UseCompressor(gzip.Name)); err != nil {
			t.Fatal(err)
		}
		var header metadata.MD
		r, err := d.dapr().GetState(ctx, &runtimev1.GetStateRequest{StoreName: "st", Key: "zipped"}, grpc.UseCompressor(gzip.Name), grpc.Header(&header))
		if err != nil || string(r.GetData()) != value {
			t.Errorf("%v, %v", r, err)
		}
	})
	t.Run("health", func(t *testing.T) {
		r, err := healthv1.NewHealthClient(d.grpc()).Check(ctx, &healthv1.HealthCheckRequest{})
		if err != nil || r.GetStatus() != healthv1.HealthCheckResponse_SERVING {
			t.Errorf("%v, %v", r, err)
		}
	})
	t.Run("reflection", func(t *testing.T) {
		if names := services(t, ctx, d.grpc()); !strings.Contains(names, "dapr.proto.runtime.v1.Dapr") {
			t.Errorf("services: %s", names)
		}
		stream, err := reflectionalpha.NewServerReflectionClient(d.grpc()).ServerReflectionInfo(ctx)
		if err != nil {
			t.Fatal(err)
		}
		if err := stream.Send(&reflectionalpha.ServerReflectionRequest{MessageRequest: &reflectionalpha.ServerReflectionRequest_FileContainingSymbol{FileContainingSymbol: "dapr.proto.runtime.v1.Dapr"}}); err != nil {
			t.Fatal(err)
		}
		if r, err := stream.Recv(); err != nil || len(r.GetFileDescriptorResponse().GetFileDescriptorProto()) == 0 {
			t.Errorf("v1alpha: %v, %v", r, err)
		}
	})
	t.Run("unbuilt", func(t *testing.T) {
		_, err := d.dapr().TryLockAlpha1(ctx, &runtimev1.TryLockRequest{StoreName: "p"})
		if status.Code(err) != codes.Unimplemented || !strings.Contains(err.Error(), "distributed lock") {
			t.Errorf("unary: %v", err)
		}
		stream, err := d.dapr().SubscribeConfiguration(ctx, &runtimev1.SubscribeConfigurationRequest{StoreName: "c"})
		if err == nil {
			_, err = stream.Recv()
		}
		if status.Code(err) != codes.Unimplemented || !strings.Contains(err.Error(), "configuration") {
			t.Errorf("stream: %v", err)
		}
	})
	t.Run("unknown", func(t *testing.T) {
		for method, text := range map[string]string{
			"/my.Service/Do": "cannot proxy request: missing dapr-callee-app-id or dapr-app-id metadata",
			"/dapr.proto.runtime.v1.Dapr/NoSuchMethod": "failed to proxy request: required metadata dapr-callee-app-id or dapr-app-id not found",
		} {
			err := d.grpc().Invoke(ctx, method, &emptypb.Empty{}, &emptypb.Empty{})
			if s := status.Convert(err); s.Code() != codes.Unknown || s.Message() != text {
				t.Errorf("%s: %v", method, err)
			}
			err = d.grpc().Invoke(metadata.AppendToOutgoingContext(ctx, "dapr-app-id", "other"), method, &emptypb.Empty{}, &emptypb.Empty{})
			if s := status.Convert(err); s.Code() != codes.Unknown || s.Message() != "no host found with the given ID" {
				t.Errorf("%s to an app: %v", method, err)
			}
		}
	})
	t.Run("errors", func(t *testing.T) {
		_, err := d.dapr().GetState(ctx, &runtimev1.GetStateRequest{StoreName: "none", Key: "k"})
		if s := status.Convert(err); s.Code() != codes.InvalidArgument || s.Message() != "state store none is not found" {
			t.Errorf("%v", err)
		}
		_, err = d.dapr().InvokeService(ctx, &runtimev1.InvokeServiceRequest{Id: "nobody"})
		if s := status.Convert(err); s.Code() != codes.Internal || !strings.HasPrefix(s.Message(), "failed to invoke, id: nobody, err: ") {
			t.Errorf("%v", err)
		}
	})
	t.Run("baggage", func(t *testing.T) {
		_, err := d.dapr().GetMetadata(metadata.AppendToOutgoingContext(ctx, "baggage", "no value"), &runtimev1.GetMetadataRequest{})
		if s := status.Convert(err); s.Code() != codes.InvalidArgument || !strings.HasPrefix(s.Message(), "invalid baggage header: ") {
			t.Errorf("%v", err)
		}
	})
	t.Run("a message that cannot be parsed", func(t *testing.T) {
		err := d.grpc().Invoke(ctx, runtimev1.Dapr_GetState_FullMethodName, garbage{}, &emptypb.Empty{}, grpc.ForceCodec(garbage{}))
		if status.Code(err) != codes.Internal {
			t.Errorf("%v", err)
		}
		if _, err := d.dapr().GetMetadata(ctx, &runtimev1.GetMetadataRequest{}); err != nil {
			t.Errorf("afterwards: %v", err)
		}
	})
}

// garbage sends bytes that are no protobuf.
type garbage struct{}

func (garbage) Marshal(any) ([]byte, error) { return []byte{0xff, 0xff, 0xff}, nil }
func (garbage) Unmarshal([]byte, any) error { return nil }
func (garbage) Name() string                { return "proto" }

// services asks by reflection for the names of the services.
func services(t *testing.T, ctx context.Context, conn *grpc.ClientConn) string {
	t.Helper()
	stream, err := reflectionv1.NewServerReflectionClient(conn).ServerReflectionInfo(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if err := stream.Send(&reflectionv1.ServerReflectionRequest{MessageRequest: &reflectionv1.ServerReflectionRequest_ListServices{}}); err != nil {
		t.Fatal(err)
	}
	r, err := stream.Recv()
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, s := range r.GetListServicesResponse().GetService() {
		names = append(names, s.GetName())
	}
	return strings.Join(names, " ")
}

// reason is the ErrorInfo of a refusal by token or list.
func reason(err error) *errdetails.ErrorInfo {
	for _, d := range status.Convert(err).Details() {
		if info, ok := d.(*errdetails.ErrorInfo); ok {
			return info
		}
	}
	return &errdetails.ErrorInfo{}
}

func TestGRPCToken(t *testing.T) {
	t.Parallel()
	d := start(t, env("DAPR_API_TOKEN=secret"))
	calls := map[string]func(context.Context) error{
		"unary": func(ctx context.Context) error {
			_, err := d.dapr().GetMetadata(ctx, &runtimev1.GetMetadataRequest{})
			return err
		},
		"health": func(ctx context.Context) error {
			_, err := healthv1.NewHealthClient(d.grpc()).Check(ctx, &healthv1.HealthCheckRequest{})
			return err
		},
		"stream": func(ctx context.Context) error {
			s, err := reflectionv1.NewServerReflectionClient(d.grpc()).ServerReflectionInfo(ctx)
			if err != nil {
				return err
			}
			_ = s.Send(&reflectionv1.ServerReflectionRequest{MessageRequest: &reflectionv1.ServerReflectionRequest_ListServices{}})
			_, err = s.Recv()
			return err
		},
		"proxied": func(ctx context.Context) error {
			return d.grpc().Invoke(metadata.AppendToOutgoingContext(ctx, "dapr-app-id", "x"), "/my.Service/Do", &emptypb.Empty{}, &emptypb.Empty{})
		},
	}
	for name, call := range calls {
		for _, c := range []struct {
			token   []string
			message string
		}{
			{nil, "missing api token in request metadata"},
			{[]string{"dapr-api-token", "wrong"}, "authentication error: api token mismatch"},
			{[]string{"dapr-api-token", "wrong", "dapr-api-token", "secret"}, "authentication error: api token mismatch"},
		} {
			err := call(metadata.AppendToOutgoingContext(within(t), c.token...))
			info := reason(err)
			if s := status.Convert(err); s.Code() != codes.Unauthenticated || s.Message() != "Unauthorized" || info.GetReason() != "Unauthorized" || info.GetDomain() != "dapr.io" ||
				info.GetMetadata()["http.code"] != "401" || info.GetMetadata()["http.error_message"] != c.message {
				t.Errorf("%s with %v: %v %v", name, c.token, err, info)
			}
		}
		if err := call(metadata.AppendToOutgoingContext(within(t), "dapr-api-token", "secret")); status.Code(err) == codes.Unauthenticated {
			t.Errorf("%s with the token: %v", name, err)
		}
	}
}

func TestGRPCLists(t *testing.T) {
	t.Parallel()
	d := start(t, memory(), env("DAPR_API_TOKEN=secret"), config(`
spec:
  api:
    allowed:
    - {name: state, version: v1, protocol: grpc}
    - {name: metadata, version: v1.0, protocol: grpc}
    - {name: secrets, version: v1, protocol: GRPC}
    denied:
    - {name: shutdown, version: v1, protocol: grpc}
`))
	token := func() context.Context { return metadata.AppendToOutgoingContext(within(t), "dapr-api-token", "secret") }
	if _, err := d.dapr().GetState(token(), &runtimev1.GetStateRequest{StoreName: "st", Key: "k"}); err != nil {
		t.Error(err)
	}
	for name, call := range map[string]func(context.Context) error{
		"GetMetadata": func(ctx context.Context) error {
			_, err := d.dapr().GetMetadata(ctx, &runtimev1.GetMetadataRequest{})
			return err
		},
		"GetSecret": func(ctx context.Context) error {
			_, err := d.dapr().GetSecret(ctx, &runtimev1.GetSecretRequest{})
			return err
		},
		"Shutdown": func(ctx context.Context) error {
			_, err := d.dapr().Shutdown(ctx, &runtimev1.ShutdownRequest{})
			return err
		},
		// The list comes before the token.
		"QueryState": func(context.Context) error {
			_, err := d.dapr().QueryStateAlpha1(within(t), &runtimev1.QueryStateRequest{StoreName: "st"})
			return err
		},
	} {
		err := call(token())
		info := reason(err)
		if s := status.Convert(err); s.Code() != codes.Unimplemented || s.Message() != "Not Implemented" || info.GetReason() != "Not Implemented" || info.GetDomain() != "dapr.io" ||
			fmt.Sprint(info.GetMetadata()) != "map[http.code:501 http.error_message:requested endpoint is not available]" {
			t.Errorf("%s: %v %v", name, err, info)
		}
	}
	// Only the API's own services are restricted, and only on gRPC.
	if names := services(t, token(), d.grpc()); !strings.Contains(names, "Dapr") {
		t.Errorf("reflection: %s", names)
	}
	if r := d.get("/v1.0/metadata", "dapr-api-token", "secret"); r.status != 200 {
		t.Errorf("HTTP: %+v", r)
	}
}
