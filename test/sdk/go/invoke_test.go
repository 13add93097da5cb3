package sdk

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"net"
	"strings"
	"sync"
	"testing"

	"github.com/dapr/go-sdk/client"
	"github.com/dapr/go-sdk/service/common"
	daprgrpc "github.com/dapr/go-sdk/service/grpc"
	daprhttp "github.com/dapr/go-sdk/service/http"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// heard is what an app got; its method "echo" answers with it.
type heard struct {
	Verb, Query, ContentType string
	Data                     []byte
	Header                   metadata.MD
}

func echo(ctx context.Context, in *common.InvocationEvent) (*common.Content, error) {
	md, _ := metadata.FromIncomingContext(ctx)
	text, err := json.Marshal(heard{in.Verb, in.QueryString, in.ContentType, in.Data, md})
	return &common.Content{Data: text, ContentType: "application/json"}, err
}

// binary answers with what it got, as it is.
func binary(_ context.Context, in *common.InvocationEvent) (*common.Content, error) {
	return &common.Content{Data: in.Data, ContentType: in.ContentType}, nil
}

func nothing(context.Context, *common.InvocationEvent) (*common.Content, error) { return nil, nil }

func fail(context.Context, *common.InvocationEvent) (*common.Content, error) {
	return nil, errors.New("the app failed")
}

func notFound(context.Context, *common.InvocationEvent) (*common.Content, error) {
	return nil, status.Error(codes.NotFound, "no such thing")
}

// serve hosts an app until the test ends.
func serve(t *testing.T, s common.Service, handlers map[string]common.ServiceInvocationHandler) {
	t.Helper()
	for name, h := range handlers {
		noError(t, s.AddServiceInvocationHandler(name, h))
	}
	var serving sync.WaitGroup
	serving.Go(func() {
		if err := s.Start(); err != nil && !strings.Contains(err.Error(), "closed") {
			t.Errorf("the app ended: %v", err)
		}
	})
	t.Cleanup(func() {
		noError(t, s.Stop())
		serving.Wait()
	})
}

// awaitApp calls a method until the app behind it answers: apps start while their sidecars run already.
func awaitApp(t *testing.T, c client.Client, id string) {
	t.Helper()
	ctx := bounded(t)
	for {
		if _, err := c.InvokeMethod(ctx, id, "nothing", "post"); err == nil {
			return
		} else if ctx.Err() != nil {
			t.Fatalf("no answer from %s: %v", id, err)
		}
	}
}

func httpApp(t *testing.T) (client.Client, string) {
	t.Helper()
	serve(t, daprhttp.NewService("127.0.0.1:"+env(t, "SDK_HTTP_APP_APP_PORT")), map[string]common.ServiceInvocationHandler{
		"/echo": echo, "/deep/path/echo": echo, "/binary": binary, "/nothing": nothing, "/fail": fail,
	})
	c, id := caller(t), env(t, "SDK_HTTP_APP_ID")
	awaitApp(t, c, id)
	return c, id
}

func grpcApp(t *testing.T) (client.Client, string) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:"+env(t, "SDK_GRPC_APP_APP_PORT"))
	noError(t, err)
	server := grpc.NewServer()
	server.RegisterService(&own, nil)
	serve(t, daprgrpc.NewServiceWithGrpcServer(listener, server), map[string]common.ServiceInvocationHandler{
		"echo": echo, "binary": binary, "nothing": nothing, "fail": fail, "notfound": notFound,
	})
	c, id := caller(t), env(t, "SDK_GRPC_APP_ID")
	awaitApp(t, c, id)
	return c, id
}

func decode(t *testing.T, out []byte, err error) heard {
	t.Helper()
	noError(t, err)
	var h heard
	if err := json.Unmarshal(out, &h); err != nil {
		t.Fatalf("the answer is %q: %v", out, err)
	}
	return h
}

const traceID = "4bf92f3577b34da6a3ce929d0e0e4736"

// headers is a client over a connection of our own and a context with headers to send: the clients that the SDK connects by
// itself put the API token in the place of all headers.
func headers(t *testing.T) (client.Client, context.Context) {
	t.Helper()
	return headersTo(t, env(t, "DAPR_GRPC_PORT"))
}

// headersTo is the same for the sidecar with that gRPC port.
func headersTo(t *testing.T, port string) (client.Client, context.Context) {
	t.Helper()
	conn, err := grpc.NewClient("127.0.0.1:"+port, grpc.WithTransportCredentials(insecure.NewCredentials()))
	noError(t, err)
	c := client.NewClientWithConnection(conn)
	t.Cleanup(c.Close)
	return c, metadata.AppendToOutgoingContext(bounded(t),
		"x-own", "header", "x-two", "1", "x-two", "2", "traceparent", "00-"+traceID+"-00f067aa0ba902b7-01", common.APITokenKey, env(t, "DAPR_API_TOKEN"))
}

// wantHeaders checks what the app got of the headers above, and what the sidecars have added.
func (h heard) wantHeaders(t *testing.T, id string) {
	t.Helper()
	for name, want := range map[string]string{
		"x-own": "header", "x-two": "1,2", "dapr-caller-app-id": env(t, "SDK_CALLER_ID"), "dapr-callee-app-id": id, common.APITokenKey: env(t, "APP_API_TOKEN"),
	} {
		if got := strings.Join(h.Header.Get(name), ","); got != want {
			t.Errorf("the app got %s: %q, want %q; all: %v", name, got, want, h.Header)
		}
	}
	if trace := h.Header.Get("traceparent"); len(trace) != 1 || !strings.Contains(trace[0], traceID) {
		t.Errorf("the app got traceparent: %v, want one of the trace %s", trace, traceID)
	}
}

func TestInvokeHTTPApp(t *testing.T) {
	c, id := httpApp(t)
	ctx := bounded(t)
	withHeaders, sent := headers(t)

	for _, verb := range []string{"get", "post", "put", "delete", "patch"} {
		out, err := withHeaders.InvokeMethod(sent, id, "echo?a=1&b=x%20y", verb)
		h := decode(t, out, err)
		if h.Verb != strings.ToUpper(verb) || h.Query != "a=1&b=x%20y" || len(h.Data) != 0 {
			t.Errorf("%s: the app got %+v", verb, h)
		}
		h.wantHeaders(t, id)
	}

	out, err := c.InvokeMethodWithContent(ctx, id, "deep/path/echo", "post", &client.DataContent{Data: []byte("text"), ContentType: "text/plain"})
	if h := decode(t, out, err); string(h.Data) != "text" || h.ContentType != "text/plain" || h.Verb != "POST" {
		t.Errorf("the app got %+v", h)
	}
	out, err = c.InvokeMethodWithCustomContent(ctx, id, "echo", "put", "application/json", map[string]int{"n": 1})
	if h := decode(t, out, err); string(h.Data) != `{"n":1}` || h.ContentType != "application/json" {
		t.Errorf("the app got %+v", h)
	}
	out, err = c.InvokeMethod(ctx, id, "nothing", "post")
	if err != nil || len(out) != 0 {
		t.Errorf("an empty answer is %q, %v", out, err)
	}
	wantBinary(t, c, id)

	_, err = c.InvokeMethod(ctx, id, "fail", "post")
	wantStatus(t, err, codes.Unknown, "Internal Server Error", "Internal Server Error")
	_, err = c.InvokeMethod(ctx, id, "missing", "post")
	wantStatus(t, err, codes.NotFound, "Not Found", "Not Found")
}

func wantBinary(t *testing.T, c client.Client, id string) {
	t.Helper()
	for _, data := range [][]byte{{0, 1, 2, 0xff, 0xfe}, bytes.Repeat([]byte{0, 0xaa, 0xff}, 1<<20)} {
		out, err := c.InvokeMethodWithContent(bounded(t), id, "binary", "post", &client.DataContent{Data: data, ContentType: "application/octet-stream"})
		if err != nil || !bytes.Equal(out, data) {
			t.Errorf("%d bytes came back as %d, %v", len(data), len(out), err)
		}
	}
}

func TestInvokeGRPCApp(t *testing.T) {
	c, id := grpcApp(t)
	ctx := bounded(t)
	withHeaders, sent := headers(t)

	out, err := withHeaders.InvokeMethod(sent, id, "echo?a=1&b=x%20y", "put")
	h := decode(t, out, err)
	if h.Verb != "PUT" || h.Query != "a=1&b=x%20y" || len(h.Data) != 0 {
		t.Errorf("the app got %+v", h)
	}
	h.wantHeaders(t, id)

	out, err = c.InvokeMethodWithContent(ctx, id, "echo", "post", &client.DataContent{Data: []byte("text"), ContentType: "text/plain"})
	if h := decode(t, out, err); string(h.Data) != "text" || h.ContentType != "text/plain" || h.Verb != "POST" {
		t.Errorf("the app got %+v", h)
	}
	out, err = c.InvokeMethod(ctx, id, "nothing", "post")
	if err != nil || len(out) != 0 {
		t.Errorf("an empty answer is %q, %v", out, err)
	}
	wantBinary(t, c, id)

	_, err = c.InvokeMethod(ctx, id, "fail", "post")
	wantStatus(t, err, codes.Unknown, "the app failed", "")
	_, err = c.InvokeMethod(ctx, id, "notfound", "post")
	wantStatus(t, err, codes.NotFound, "no such thing", "")
	_, err = c.InvokeMethod(ctx, id, "missing", "post")
	wantStatus(t, err, codes.Unknown, "method not implemented: missing", "")
}

func TestInvokeErrors(t *testing.T) {
	c, ctx := caller(t), bounded(t)
	_, err := c.InvokeMethod(ctx, "nobody", "method", "post")
	wantStatus(t, err, codes.Internal, "failed to invoke, id: nobody, err: ", "")
	_, err = c.InvokeMethod(ctx, env(t, "SDK_CALLER_ID"), "method", "post")
	wantStatus(t, err, codes.Internal, "failed to invoke, id: "+env(t, "SDK_CALLER_ID")+", err: ", "")
}
