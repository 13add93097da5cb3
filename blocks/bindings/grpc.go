package bindings

import (
	"context"
	"encoding/base64"
	"errors"
	"maps"
	"strings"
	"unicode/utf8"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"

	runtimev1 "outrigger.dev/api/gen/runtime/v1"
	contract "outrigger.dev/components/bindings"
	"outrigger.dev/telemetry/tracing"
)

// BindingsServer is the gRPC face of the block: the binding method of dapr.proto.runtime.v1.Dapr, to be embedded in the server of
// that service. Its name is its own so that it can stand beside the faces of other blocks.
type BindingsServer struct{ bindings *Bindings }

// Server returns the gRPC face.
func (b *Bindings) Server() BindingsServer { return BindingsServer{b} }

// InvokeBinding carries out an operation of an output binding.
func (g BindingsServer) InvokeBinding(ctx context.Context, in *runtimev1.InvokeBindingRequest) (*runtimev1.InvokeBindingResponse, error) {
	md, _ := metadata.FromIncomingContext(ctx)
	for _, header := range md[baggage] {
		if check := g.bindings.options.CheckBaggage; check != nil {
			if err := check(header); err != nil {
				return nil, errors.New("invalid baggage header: " + err.Error()) // as it is: the status is Unknown
			}
		}
	}
	resp, err := g.bindings.Invoke(ctx, in.GetName(), contract.Request{
		Operation: in.GetOperation(), Data: in.GetData(), Metadata: requestMetadata(in.GetMetadata(), md, tracing.FromContext(ctx)),
	})
	if resp != nil && len(resp.Metadata) > 0 {
		header := metadata.MD{}
		for name, value := range resp.Metadata {
			// What gRPC cannot carry is only in the message.
			if key := "metadata." + strings.ToLower(name); metadataKey(key) && printable(value) {
				header[key] = append(header[key], value)
			}
		}
		if len(header) > 0 {
			if err := grpc.SetHeader(ctx, header); err != nil {
				g.bindings.options.Log.Debug("the metadata of a binding's response is not sent as header", "binding", in.GetName(), "error", err)
			}
		}
	}
	if err != nil {
		return nil, err
	}
	out := new(runtimev1.InvokeBindingResponse)
	if resp != nil {
		out.Data, out.Metadata = resp.Data, valid(resp.Metadata)
	}
	return out, nil
}

// requestMetadata is the metadata of a request with the context of the call's span and what came in gRPC metadata: the first value of
// each key, where the request itself has none. The trace context in the latter wins (Dapr API, bindings: metadata). Bytes become
// base64.
func requestMetadata(given map[string]string, md metadata.MD, span *tracing.Span) map[string]string {
	merged := make(map[string]string, len(given)+len(md)+2)
	maps.Copy(merged, given)
	if _, taken := merged[traceparent]; !taken && span.Valid() {
		merged[traceparent] = span.Parent()
		if state := span.State(); state != "" {
			merged[tracestate] = state
		}
	}
	for key, values := range md {
		if len(values) == 0 {
			continue
		}
		name := key
		switch {
		case strings.HasPrefix(key, ":"):
			name = "dapr-" + key[1:]
		case strings.HasPrefix(key, "grpc-"):
			name = "dapr-" + key
		}
		if _, taken := merged[name]; taken && name != traceparent && name != tracestate {
			continue
		}
		value := values[0]
		if strings.HasSuffix(key, "-bin") { // bytes, and components want text
			value = base64.StdEncoding.EncodeToString([]byte(value))
		}
		merged[name] = value
	}
	return merged
}

// metadataKey reports whether a name in lower case can be a key of gRPC metadata with a text as its value.
func metadataKey(name string) bool {
	for i := range len(name) {
		if c := name[i]; !('a' <= c && c <= 'z' || '0' <= c && c <= '9' || c == '-' || c == '_' || c == '.') {
			return false
		}
	}
	return !strings.HasSuffix(name, "-bin")
}

func printable(text string) bool {
	for i := range len(text) {
		if text[i] < ' ' || text[i] > '~' {
			return false
		}
	}
	return true
}

// valid returns metadata that a gRPC message can hold: bytes that are no UTF-8 are replaced, for otherwise the whole message would
// fail.
func valid(m map[string]string) map[string]string {
	ok := true
	for name, value := range m {
		ok = ok && utf8.ValidString(name) && utf8.ValidString(value)
	}
	if ok {
		return m
	}
	fixed := make(map[string]string, len(m))
	for name, value := range m {
		fixed[text(name)] = text(value)
	}
	return fixed
}

// text is a string that a message can hold.
func text(s string) string { return strings.ToValidUTF8(s, "\ufffd") }
