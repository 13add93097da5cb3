package tracing

import (
	"context"
	"encoding/base64"

	"google.golang.org/grpc/metadata"
)

// Names of the headers and metadata keys of a trace, in lower case.
const (
	HeaderParent  = "traceparent"
	HeaderState   = "tracestate"
	HeaderBinary  = "grpc-trace-bin"
	HeaderBaggage = "baggage"
)

// FromHeader is the context of the headers traceparent and tracestate of an HTTP request; not valid when there is none.
func FromHeader(parent, state []byte) Context {
	if len(parent) == 0 {
		return Context{}
	}
	c, ok := ParseParent(parent)
	if ok {
		c.State = ParseState(state)
	}
	return c
}

// FromIncoming is the context of the metadata of a gRPC call: that of grpc-trace-bin, else of traceparent and tracestate (Dapr API,
// tracing: context formats). It is not valid when there is none.
func FromIncoming(ctx context.Context) Context {
	for _, value := range metadata.ValueFromIncomingContext(ctx, HeaderBinary) {
		if c, ok := ParseBinary(value); ok {
			return c
		}
	}
	for _, value := range metadata.ValueFromIncomingContext(ctx, HeaderParent) {
		if c, ok := ParseParent(value); ok {
			for _, state := range metadata.ValueFromIncomingContext(ctx, HeaderState) {
				c.State = ParseState(state)
				break
			}
			return c
		}
	}
	return Context{}
}

// FromEvent is the context that an event from outside carries in its metadata: that of grpc-trace-bin, in base64, else traceparent
// and tracestate (Dapr API, tracing: input bindings).
func FromEvent(event map[string]string) Context {
	if value := event[HeaderBinary]; value != "" {
		if c, ok := ParseBase64(value); ok {
			return c
		}
	}
	c, ok := ParseParent(event[HeaderParent])
	if ok {
		c.State = ParseState(event[HeaderState])
	}
	return c
}

// ParseBase64 reads a grpc-trace-bin in standard base64, padded or not.
func ParseBase64[T string | []byte](text T) (Context, bool) {
	for len(text) > 0 && text[len(text)-1] == '=' {
		text = text[:len(text)-1]
	}
	var b [binarySize + 16]byte
	if base64.RawStdEncoding.DecodedLen(len(text)) > len(b) {
		return Context{}, false
	}
	n, err := base64.RawStdEncoding.Decode(b[:], []byte(text))
	if err != nil {
		return Context{}, false
	}
	return ParseBinary(b[:n])
}

// Pairs are the metadata that carry a span's context in a gRPC call: traceparent and grpc-trace-bin. It is nil when there is none.
func (s *Span) Pairs() []string {
	if !s.Valid() {
		return nil
	}
	return []string{HeaderParent, s.context.Parent(), HeaderBinary, s.context.Binary()}
}

// Outgoing adds the metadata that carry the span's context to the outgoing ones of ctx.
func (s *Span) Outgoing(ctx context.Context) context.Context {
	if !s.Valid() {
		return ctx
	}
	return metadata.AppendToOutgoingContext(ctx, s.Pairs()...)
}
