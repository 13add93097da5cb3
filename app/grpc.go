package app

import (
	"context"
	"encoding/base64"
	"strings"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/emptypb"

	commonv1 "outrigger.dev/api/gen/common/v1"
	runtimev1 "outrigger.dev/api/gen/runtime/v1"
	"outrigger.dev/invocation"
)

// GRPCChannel is the channel to an app that speaks gRPC. Apart from [Channel] it offers the connections to the app, for the
// other callbacks and for proxied calls.
type GRPCChannel struct {
	options Options
	conns   *Conns
	gate    *gate
	health  *Health
	// alphaJobs is true when the app was last found to take jobs by the former name of the method.
	alphaJobs atomic.Bool
}

var _ Channel = (*GRPCChannel)(nil)

func newGRPCChannel(o Options) (*GRPCChannel, error) {
	c := &GRPCChannel{options: o, gate: newGate(o.MaxConcurrency)}
	c.conns = newPool(o)
	c.health = newHealth(o, c.probe)
	return c, nil
}

// Protocol is the app's protocol.
func (c *GRPCChannel) Protocol() Protocol { return c.options.Protocol }

// Health is the app's health.
func (c *GRPCChannel) Health() *Health { return c.health }

// Conns are the connections to the app. Calls over them are not counted by the limit on concurrent calls, nor held back while
// the app is not healthy.
func (c *GRPCChannel) Conns() *Conns { return c.conns }

// Config is empty: a gRPC app has no configuration to ask for.
func (c *GRPCChannel) Config(context.Context) ([]byte, error) { return nil, nil }

// Close closes the channel.
func (c *GRPCChannel) Close(ctx context.Context) error {
	err := c.gate.close(ctx)
	c.conns.close()
	return err
}

// Invoke calls AppCallback.OnInvoke (Dapr API, service invocation: conversions). A gRPC error of the app is a response; so is
// an app that cannot be reached, with the status Unavailable.
func (c *GRPCChannel) Invoke(ctx context.Context, req *invocation.Request) (*invocation.Response, error) {
	if !c.health.Healthy() {
		return nil, ErrUnhealthy
	}
	if err := c.gate.enter(ctx); err != nil {
		return nil, err
	}
	defer c.gate.leave()
	body, err := req.ReadBody(c.options.MaxBodySize)
	if err != nil {
		return nil, err
	}
	in := &commonv1.InvokeRequest{
		Method:      req.Method,
		Data:        &anypb.Any{TypeUrl: req.TypeURL, Value: body},
		ContentType: req.ContentType,
	}
	if req.Verb != "" || req.Query != "" {
		in.HttpExtension = &commonv1.HTTPExtension{Verb: extensionVerb(req.Verb), Querystring: req.Query}
	}
	var header, trailer metadata.MD
	out := new(commonv1.InvokeResponse)
	err = c.conns.Invoke(metadata.NewOutgoingContext(ctx, requestMetadata(req)), runtimev1.AppCallback_OnInvoke_FullMethodName, in, out,
		grpc.Header(&header), grpc.Trailer(&trailer))
	if err != nil {
		if cause := invocation.Ended(ctx, err); cause != nil {
			return nil, cause
		}
	}
	resp := &invocation.Response{Header: fromMetadata(header), Trailer: fromMetadata(trailer)}
	if err != nil {
		s := status.Convert(err).Proto()
		resp.Status, resp.Message, resp.Details = int(s.GetCode()), s.GetMessage(), s.GetDetails()
		if resp.Status >= 100 { // such a number would pass for an HTTP status
			resp.Status = int(codes.Unknown)
		}
		return resp, nil
	}
	resp.ContentType = out.GetContentType()
	resp.TypeURL = out.GetData().GetTypeUrl()
	resp.Body = out.GetData().GetValue()
	resp.Length = int64(len(resp.Body))
	return resp, nil
}

// extensionVerb is the verb as the protocol numbers it. One that it has no number for is POST.
func extensionVerb(verb string) commonv1.HTTPExtension_Verb {
	if verb == "" {
		return commonv1.HTTPExtension_NONE
	}
	if n, ok := commonv1.HTTPExtension_Verb_value[verb]; ok {
		return commonv1.HTTPExtension_Verb(n)
	}
	return commonv1.HTTPExtension_POST
}

// requestMetadata turns a request's header into metadata. What gRPC cannot carry is left out rather than failing the call.
func requestMetadata(req *invocation.Request) metadata.MD {
	md := make(metadata.MD, len(req.Header)+2)
	for i := range req.Header {
		name, value := req.Header[i].Name, req.Header[i].Value
		if len(name) == 0 || name[0] == ':' {
			continue
		}
		key := strings.ToLower(string(name))
		if req.Origin == invocation.FromHTTP {
			key = invocation.MetadataKey(name)
		}
		if unfit(key) {
			continue
		}
		text := string(value)
		if strings.HasSuffix(key, "-bin") {
			if decoded, ok := decodeBin(value); ok {
				text = string(decoded)
			}
		} else if !printable(text) {
			continue
		}
		md[key] = append(md[key], text)
	}
	if len(md["grpc-trace-bin"]) == 0 {
		if parent := md["traceparent"]; len(parent) > 0 {
			if binary, ok := binaryTraceContext([]byte(parent[0])); ok {
				md["grpc-trace-bin"] = []string{binary}
			}
		}
	} else if len(md["traceparent"]) == 0 {
		if text, ok := textTraceContext(req.Header.Get("grpc-trace-bin")); ok {
			md["traceparent"] = []string{text}
		}
	}
	return md
}

// unfit reports whether a key is not sent to a gRPC app: internal ones, those that HTTP/2 forbids or gRPC makes itself, and
// those with bytes that no key may have.
func unfit(key string) bool {
	switch key {
	case invocation.DestinationAppID,
		"connection", "keep-alive", "proxy-connection", "transfer-encoding", "upgrade", "te", "host", "content-length",
		"content-type", "user-agent", "grpc-timeout", "grpc-encoding", "grpc-accept-encoding", "grpc-status", "grpc-message",
		"grpc-message-type", "grpc-status-details-bin":
		return true
	}
	for i := range len(key) {
		if c := key[i]; !('a' <= c && c <= 'z' || '0' <= c && c <= '9' || c == '-' || c == '_' || c == '.') {
			return true
		}
	}
	return false
}

func printable(text string) bool {
	for i := range len(text) {
		if text[i] < ' ' || text[i] > '~' {
			return false
		}
	}
	return true
}

// fromMetadata turns an app's metadata into a header; binary values become standard base64.
func fromMetadata(md metadata.MD) invocation.Header {
	if len(md) == 0 {
		return nil
	}
	header := make(invocation.Header, 0, len(md))
	for key, values := range md {
		if key == "content-type" || key == "grpc-status-details-bin" {
			continue
		}
		binary := strings.HasSuffix(key, "-bin")
		for _, v := range values {
			value := []byte(v)
			if binary {
				value = base64.StdEncoding.AppendEncode(nil, value)
			}
			header = append(header, invocation.Field{Name: []byte(key), Value: value})
		}
	}
	return header
}

// probe makes one health probe.
func (c *GRPCChannel) probe(ctx context.Context) (reason string) {
	start := time.Now()
	_, err := runtimev1.NewAppCallbackHealthCheckClient(c.conns.bare()).HealthCheck(ctx, &emptypb.Empty{})
	c.options.Metrics.GRPCProbe().Observe(status.Code(err), time.Since(start))
	if err != nil {
		return "Probe error: " + err.Error()
	}
	return ""
}

// size is the wire size of a message, -1 when it is not a protobuf message.
func size(m any) int64 {
	if p, ok := m.(proto.Message); ok {
		return int64(proto.Size(p))
	}
	return -1
}
