package invoke

import (
	"context"
	"encoding/base64"
	"errors"
	"net/http"
	"strconv"
	"strings"
	"sync"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	spb "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/anypb"

	"outrigger.dev/api"
	commonv1 "outrigger.dev/api/gen/common/v1"
	runtimev1 "outrigger.dev/api/gen/runtime/v1"
	"outrigger.dev/invocation"
	"outrigger.dev/telemetry/tracing"
)

// InvokeServer is the block's gRPC face: the method InvokeService, which is deprecated in favour of proxying.
type InvokeServer struct {
	block *Block
	once  *sync.Once
}

// NewServer makes the gRPC face of a block.
func NewServer(b *Block) InvokeServer { return InvokeServer{block: b, once: &sync.Once{}} }

const protobufType = "application/x-protobuf"

// InvokeService calls a method of an app, HTTP or gRPC, and converts between the two.
func (s InvokeServer) InvokeService(ctx context.Context, in *runtimev1.InvokeServiceRequest) (*commonv1.InvokeResponse, error) {
	b := s.block
	s.once.Do(func() {
		b.options.Log.Warn("[DEPRECATION NOTICE] InvokeService is deprecated and will be removed in the future, please use proxy mode instead.")
	})
	message := in.GetMessage()
	req := &invocation.Request{
		Method:      invocation.CleanMethod(message.GetMethod()),
		ContentType: message.GetContentType(),
		TypeURL:     message.GetData().GetTypeUrl(),
		Body:        message.GetData().GetValue(),
		Origin:      invocation.FromGRPC,
	}
	if x := message.GetHttpExtension(); x != nil {
		req.Query = x.GetQuerystring()
		if x.GetVerb() != commonv1.HTTPExtension_NONE {
			req.Verb = x.GetVerb().String()
		}
	}
	if req.TypeURL != "" {
		req.ContentType = protobufType
	}
	if md, ok := metadata.FromIncomingContext(ctx); ok {
		req.Header = fromMetadata(md)
		req.EventStream = acceptsEvents(req.Header.Get("accept"))
	}
	span := tracing.FromContext(ctx)
	callee(span, in.GetId(), req.Method)
	passOn(&req.Header, span, req.Origin)
	resp, err := b.Invoke(ctx, in.GetId(), req)
	if err != nil {
		return nil, errGRPC(ctx, in.GetId(), err)
	}
	if err := resp.Buffer(b.options.MaxBodyBytes); err != nil {
		if errors.Is(err, invocation.ErrTooLarge) {
			return nil, status.Errorf(codes.ResourceExhausted, "the answer of app %s is larger than %d bytes; raise --max-body-size, or call over HTTP", in.GetId(), b.options.MaxBodyBytes)
		}
		return nil, errInvoke(in.GetId(), err)
	}
	header := toMetadata(resp.Header)
	if resp.IsHTTP() {
		header.Set("dapr-http-status", strconv.Itoa(resp.Status))
		if resp.ContentType != "" && printable(resp.ContentType) {
			header.Set("dapr-content-type", resp.ContentType)
		}
	}
	if span.Valid() {
		header.Set(tracing.HeaderParent, span.Parent())
		header.Set(tracing.HeaderBinary, span.Binary())
	}
	if len(header) > 0 {
		if err := grpc.SetHeader(ctx, header); err != nil {
			return nil, err
		}
	}
	if len(resp.Trailer) > 0 {
		if err := grpc.SetTrailer(ctx, toMetadata(resp.Trailer)); err != nil {
			return nil, err
		}
	}
	if err := failure(resp); err != nil {
		return nil, err
	}
	return &commonv1.InvokeResponse{
		Data: &anypb.Any{TypeUrl: strings.ToValidUTF8(resp.TypeURL, "\ufffd"), Value: resp.Body}, ContentType: strings.ToValidUTF8(resp.ContentType, "\ufffd"),
	}, nil
}

// failure is the status of an answer that is no success, nil otherwise.
func failure(resp *invocation.Response) error {
	if !resp.IsHTTP() {
		if resp.Status == int(codes.OK) {
			return nil
		}
		return status.ErrorProto(&spb.Status{Code: int32(resp.Status), Message: resp.Message, Details: resp.Details})
	}
	code := api.GRPCCode(resp.Status)
	if code == codes.OK {
		return nil
	}
	text := http.StatusText(resp.Status)
	excerpt := string(resp.Body)
	if len(excerpt) > 63 {
		excerpt = excerpt[:63]
	}
	s, err := status.New(code, text).WithDetails(&errdetails.ErrorInfo{Reason: text, Domain: api.Domain, Metadata: map[string]string{
		"http.code": strconv.Itoa(resp.Status), "http.error_message": strings.ToValidUTF8(excerpt, "\ufffd"),
	}})
	if err != nil {
		return status.Error(code, text)
	}
	return s.Err()
}

// fromMetadata makes a header of gRPC metadata; values of "-bin" keys travel as base64.
func fromMetadata(md metadata.MD) invocation.Header {
	h := make(invocation.Header, 0, len(md))
	for key, values := range md {
		for _, v := range values {
			if strings.HasSuffix(key, "-bin") {
				v = base64.StdEncoding.EncodeToString([]byte(v))
			}
			h.Add(key, v)
		}
	}
	return h
}

// toMetadata makes gRPC metadata of an answer's header: HTTP names that gRPC keeps for itself get a prefix. What metadata
// cannot carry is left out, for gRPC would refuse the whole answer.
func toMetadata(h invocation.Header) metadata.MD {
	md := make(metadata.MD, len(h)+2)
	for _, f := range h {
		if invocation.HopByHop(f.Name) || !metadataKey(f.Name) {
			continue
		}
		key, value := invocation.MetadataKey(f.Name), string(f.Value)
		if strings.HasPrefix(key, "grpc-") || key == "content-type" || key == "content-length" {
			key = "dapr-" + key
		}
		if strings.HasSuffix(key, "-bin") {
			decoded, err := base64.RawStdEncoding.DecodeString(strings.TrimRight(value, "="))
			if err != nil {
				continue
			}
			value = string(decoded)
		} else if !printable(value) {
			continue
		}
		md.Append(key, value)
	}
	return md
}

// metadataKey reports whether a header name can be the key of metadata.
func metadataKey(name []byte) bool {
	for _, c := range name {
		if !('a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || c == '-' || c == '_' || c == '.') {
			return false
		}
	}
	return len(name) > 0
}

// printable reports whether a text can be the value of metadata.
func printable(text string) bool {
	for i := range len(text) {
		if text[i] < ' ' || text[i] > '~' {
			return false
		}
	}
	return true
}
