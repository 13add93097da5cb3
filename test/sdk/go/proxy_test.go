package sdk

import (
	"context"
	"errors"
	"io"
	"slices"
	"testing"

	"github.com/dapr/go-sdk/service/common"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// own is a gRPC service of the app's own, which the sidecars only pass on. Turn turns bytes around, and fails for "fail";
// Chat does the same for a stream of them.
var own = grpc.ServiceDesc{
	ServiceName: "test.Own",
	HandlerType: (*any)(nil),
	Methods: []grpc.MethodDesc{{MethodName: "Turn", Handler: func(_ any, ctx context.Context, decode func(any) error, _ grpc.UnaryServerInterceptor) (any, error) {
		in := new(wrapperspb.BytesValue)
		if err := decode(in); err != nil {
			return nil, err
		}
		md, _ := metadata.FromIncomingContext(ctx)
		if err := grpc.SetHeader(ctx, metadata.MD{"x-heard": md.Get("x-own")}); err != nil {
			return nil, err
		}
		if err := grpc.SetTrailer(ctx, metadata.Pairs("x-trailer", "end", "x-trailer-bin", "\x00\xff")); err != nil {
			return nil, err
		}
		return turn(in)
	}}},
	Streams: []grpc.StreamDesc{{StreamName: "Chat", ServerStreams: true, ClientStreams: true, Handler: func(_ any, stream grpc.ServerStream) error {
		for {
			in := new(wrapperspb.BytesValue)
			if err := stream.RecvMsg(in); errors.Is(err, io.EOF) {
				return nil
			} else if err != nil {
				return err
			}
			out, err := turn(in)
			if err != nil {
				return err
			}
			if err := stream.SendMsg(out); err != nil {
				return err
			}
		}
	}}},
}

func turn(in *wrapperspb.BytesValue) (*wrapperspb.BytesValue, error) {
	if string(in.GetValue()) == "fail" {
		return nil, status.Error(codes.FailedPrecondition, "not today")
	}
	out := slices.Clone(in.GetValue())
	slices.Reverse(out)
	return wrapperspb.Bytes(out), nil
}

// TestProxyGRPCApp calls the service of the app's own through the sidecars.
func TestProxyGRPCApp(t *testing.T) {
	_, id := grpcApp(t)
	conn, err := grpc.NewClient("127.0.0.1:"+env(t, "DAPR_GRPC_PORT"), grpc.WithTransportCredentials(insecure.NewCredentials()))
	noError(t, err)
	defer conn.Close()
	ctx := metadata.AppendToOutgoingContext(bounded(t), "dapr-app-id", id, common.APITokenKey, env(t, "DAPR_API_TOKEN"), "x-own", "header")

	var out wrapperspb.BytesValue
	var header, trailer metadata.MD
	err = conn.Invoke(ctx, "/test.Own/Turn", wrapperspb.Bytes([]byte("abc")), &out, grpc.Header(&header), grpc.Trailer(&trailer))
	noError(t, err)
	if string(out.GetValue()) != "cba" {
		t.Errorf("the answer is %q, want cba", out.GetValue())
	}
	if got := header.Get("x-heard"); !slices.Equal(got, []string{"header"}) {
		t.Errorf("the app got x-own: %v, want header", got)
	}
	if got := append(trailer.Get("x-trailer"), trailer.Get("x-trailer-bin")...); !slices.Equal(got, []string{"end", "\x00\xff"}) {
		t.Errorf("the trailers are %v", trailer)
	}
	err = conn.Invoke(ctx, "/test.Own/Turn", wrapperspb.String("fail"), &out)
	wantStatus(t, err, codes.FailedPrecondition, "not today", "")
	err = conn.Invoke(ctx, "/test.Own/None", wrapperspb.String("x"), &out)
	wantStatus(t, err, codes.Unimplemented, "unknown method None", "")

	stream, err := conn.NewStream(ctx, &own.Streams[0], "/test.Own/Chat")
	noError(t, err)
	for _, text := range []string{"one", "two", "three"} { // each is answered before the next is sent
		noError(t, stream.SendMsg(wrapperspb.String(text)))
		noError(t, stream.RecvMsg(&out))
		if want, _ := turn(wrapperspb.Bytes([]byte(text))); string(out.GetValue()) != string(want.GetValue()) {
			t.Errorf("the answer to %s is %q", text, out.GetValue())
		}
	}
	noError(t, stream.CloseSend())
	if err := stream.RecvMsg(&out); !errors.Is(err, io.EOF) {
		t.Errorf("the stream ends with %v", err)
	}

	cancelled, cancel := context.WithCancel(ctx)
	stream, err = conn.NewStream(cancelled, &own.Streams[0], "/test.Own/Chat")
	noError(t, err)
	cancel()
	if err := stream.RecvMsg(&out); status.Code(err) != codes.Canceled {
		t.Errorf("the cancelled stream ends with %v", err)
	}
}
