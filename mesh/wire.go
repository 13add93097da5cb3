package mesh

import (
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"iter"
	"strconv"
	"strings"

	spb "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"outrigger.dev/invocation"
)

// The exchange's own headers. They say what HTTP itself cannot; apps never see them and cannot send them.
//
// A request carries Outrigger-Exchange: "1" from an HTTP client or "1 grpc" from a gRPC client, or "1 unary" when it is no call of an
// app but a method of the internal protocol, with its message as the body; the path is the method's name. An answer carries there what
// it is: "app" is an HTTP app's answer, "grpc" a gRPC app's, "error" a failure of the callee's sidecar.
const (
	reserved = "Outrigger-"

	headerExchange = "Outrigger-Exchange"
	// headerVerb is the verb when it is not the HTTP request's: "NONE" for a gRPC client that gave none.
	headerVerb = "Outrigger-Verb"
	// headerTypeURL is the type of a protobuf body, percent-encoded.
	headerTypeURL = "Outrigger-Type-Url"
	// headerStatus is the gRPC code of a gRPC app or of an error, or an app's HTTP status that cannot be a final one.
	headerStatus = "Outrigger-Status"
	// headerMessage is the message of a gRPC status, percent-encoded.
	headerMessage = "Outrigger-Message"
	// headerDetails are the details of a gRPC status: a google.rpc.Status in base64.
	headerDetails = "Outrigger-Details"
	// headerTrailer begins the names of an app's gRPC trailers.
	headerTrailer = "Outrigger-Trailer-"
	// headerLimit tells, in the answer to a probe, how long a request's header may be, in bytes.
	headerLimit = "Outrigger-Limit"

	exchangeVersion  = "1"
	exchangeFromGRPC = "1 grpc"
	exchangeUnary    = "1 unary"
	kindApp          = "app"
	kindGRPC         = "grpc"
	kindError        = "error"
	verbNone         = "NONE"
	maxMessage       = 8 << 10
	maxDetails       = 32 << 10
)

// isReserved reports whether a header name belongs to the exchange.
func isReserved(name []byte) bool {
	return len(name) >= len(reserved) && (name[0] == 'O' || name[0] == 'o') && bytes.EqualFold(name[:len(reserved)], []byte(reserved))
}

// direct reports whether a verb can be the verb of the exchange's request.
func direct(verb string) bool {
	switch verb {
	case "GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH":
		return true
	}
	return false
}

const hexDigits = "0123456789ABCDEF"

func appendEscape(dst []byte, c byte) []byte {
	return append(dst, '%', hexDigits[c>>4], hexDigits[c&15])
}

// pathByte are the bytes that stand for themselves in a path (RFC 3986, section 3.3).
var pathByte = byteSet("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~!$&'()*+,;=:@/")

func byteSet(s string) (set [256]bool) {
	for _, c := range []byte(s) {
		set[c] = true
	}
	return set
}

// appendTarget appends the request target of a call: the method, escaped again, and the query.
func appendTarget(dst []byte, method, query string) []byte {
	dst = append(dst, '/')
	for i := range len(method) {
		if c := method[i]; pathByte[c] {
			dst = append(dst, c)
		} else {
			dst = appendEscape(dst, c)
		}
	}
	if query == "" {
		return dst
	}
	dst = append(dst, '?')
	for i := range len(query) {
		if c := query[i]; c <= ' ' || c == 0x7f {
			dst = appendEscape(dst, c)
		} else {
			dst = append(dst, c)
		}
	}
	return dst
}

// encodeText makes a text fit for a header's value.
func encodeText(text string) string {
	plain := true
	for i := range len(text) {
		if c := text[i]; c <= ' ' || c >= 0x7f || c == '%' {
			plain = false
			break
		}
	}
	if plain {
		return text
	}
	out := make([]byte, 0, len(text)+len(text)/4)
	for i := range len(text) {
		// Blanks inside of the text survive as they are; at its ends they would be trimmed.
		if c := text[i]; c < ' ' || c >= 0x7f || c == '%' || c == ' ' && (i == 0 || i == len(text)-1) {
			out = appendEscape(out, c)
		} else {
			out = append(out, c)
		}
	}
	return string(out)
}

// decodeText undoes encodeText; an escape that is none stays as it is.
func decodeText(text []byte) string {
	if bytes.IndexByte(text, '%') < 0 {
		return string(text)
	}
	out := make([]byte, 0, len(text))
	for i := 0; i < len(text); i++ {
		if text[i] == '%' && i+2 < len(text) {
			if v, err := strconv.ParseUint(string(text[i+1:i+3]), 16, 8); err == nil {
				out = append(out, byte(v))
				i += 2
				continue
			}
		}
		out = append(out, text[i])
	}
	return strings.ToValidUTF8(string(out), "\ufffd")
}

func appendLower(dst, text []byte) []byte {
	for _, c := range text {
		if 'A' <= c && c <= 'Z' {
			c += 'a' - 'A'
		}
		dst = append(dst, c)
	}
	return dst
}

// parseOrigin reads the version header of a request.
func parseOrigin(value []byte) (origin invocation.Origin, ok bool) {
	switch string(value) {
	case exchangeVersion:
		return invocation.FromHTTP, true
	case exchangeFromGRPC:
		return invocation.FromGRPC, true
	}
	return 0, false
}

// parseRequest takes an exchange's request header apart. Names and values stay slices of the source.
func parseRequest(method, path, query string, headers iter.Seq2[[]byte, []byte], origin invocation.Origin) *invocation.Request {
	p := &requestParser{}
	req := &p.Request
	req.Method, req.Verb, req.Query, req.Origin = strings.TrimPrefix(path, "/"), method, query, origin
	req.Header = make(invocation.Header, 0, 24)
	headers(p.add)
	return req
}

type requestParser struct{ invocation.Request }

// add takes one header.
func (p *requestParser) add(name, value []byte) bool {
	switch {
	case isReserved(name):
		switch {
		case invocation.Is(name, "outrigger-verb"):
			if p.Verb = string(value); p.Verb == verbNone {
				p.Verb = ""
			}
		case invocation.Is(name, "outrigger-type-url"):
			p.TypeURL = decodeText(value)
		}
		return true
	case invocation.Is(name, "content-type"):
		p.ContentType = contentType(value)
		return true
	case framing(name), invocation.HopByHop(name):
		return true
	case invocation.Is(name, "accept"):
		p.EventStream = acceptsEvents(value)
	}
	if p.Origin == invocation.FromGRPC {
		name = appendLower(make([]byte, 0, len(name)), name)
	}
	p.Header = append(p.Header, invocation.Field{Name: name, Value: value})
	return true
}

// contentType is a content type as text, without a copy for the usual ones.
func contentType(value []byte) string {
	switch string(value) {
	case "application/json":
		return "application/json"
	case "application/octet-stream":
		return "application/octet-stream"
	case "text/plain":
		return "text/plain"
	case "text/plain; charset=utf-8":
		return "text/plain; charset=utf-8"
	case "application/json; charset=utf-8":
		return "application/json; charset=utf-8"
	case "application/x-protobuf":
		return "application/x-protobuf"
	case "text/event-stream":
		return "text/event-stream"
	}
	return string(value)
}

// acceptsEvents reports whether an Accept header asks for exactly text/event-stream (Dapr API, service invocation: SSE).
func acceptsEvents(value []byte) bool {
	return bytes.EqualFold(bytes.TrimSpace(value), []byte("text/event-stream"))
}

// errNotExchange is an HTTP answer that did not come from an exchange.
var errNotExchange = errors.New("the answer is not one of the exchange between sidecars")

// parseResponse takes an exchange's response header apart. All bytes are copied. An answer that is an error of the callee's
// sidecar is returned as failure.
func parseResponse(httpStatus int, headers iter.Seq2[[]byte, []byte]) (resp *invocation.Response, failure, err error) {
	p := &responseParser{code: -1, store: make([]byte, 0, 384)}
	resp = &p.Response
	resp.Status, resp.Header = httpStatus, make(invocation.Header, 0, 8)
	headers(p.add)
	switch {
	case p.err != nil:
		return nil, nil, p.err
	case p.kind == kindApp:
		if p.code >= 0 {
			resp.Status = p.code
		}
		return resp, nil, nil
	case p.kind == "":
		return nil, nil, errNotExchange
	case p.code < 0 || p.code > 99 || p.kind == kindError && p.code == 0:
		return nil, nil, fmt.Errorf("%w: no gRPC code in %s", errNotExchange, headerStatus)
	}
	resp.Status = p.code
	if len(p.details) > 0 {
		if resp.Details, err = decodeDetails(p.details); err != nil {
			return nil, nil, err
		}
	}
	if p.kind == kindError {
		return nil, status.ErrorProto(&spb.Status{Code: int32(p.code), Message: resp.Message, Details: resp.Details}), nil
	}
	kept := resp.Header[:0]
	for _, f := range resp.Header {
		if invocation.Is(f.Name, "date") { // the HTTP server's, not the app's
			continue
		}
		for i, c := range f.Name {
			if 'A' <= c && c <= 'Z' {
				f.Name[i] = c + 'a' - 'A'
			}
		}
		kept = append(kept, f)
	}
	resp.Header = kept
	return resp, nil, nil
}

type responseParser struct {
	invocation.Response
	store   []byte // where the copies are
	kind    string
	code    int
	details []byte
	err     error
}

func (p *responseParser) keep(b []byte) []byte {
	start := len(p.store)
	p.store = append(p.store, b...)
	return p.store[start:len(p.store):len(p.store)]
}

// add takes one header.
func (p *responseParser) add(name, value []byte) bool {
	switch {
	case isReserved(name):
		p.addReserved(name, value)
	case invocation.Is(name, "content-type"):
		p.ContentType = contentType(value)
	case invocation.Is(name, "content-length"), invocation.HopByHop(name):
	default:
		p.Header = append(p.Header, invocation.Field{Name: p.keep(name), Value: p.keep(value)})
	}
	return p.err == nil
}

func (p *responseParser) addReserved(name, value []byte) {
	switch {
	case invocation.Is(name, "outrigger-exchange"):
		switch string(value) {
		case kindApp:
			p.kind = kindApp
		case kindGRPC:
			p.kind = kindGRPC
		case kindError:
			p.kind = kindError
		}
	case invocation.Is(name, "outrigger-status"):
		n, err := strconv.Atoi(string(value))
		if err != nil || n < 0 {
			p.err = fmt.Errorf("%w: %s is %q, not a status", errNotExchange, headerStatus, value)
			return
		}
		p.code = n
	case invocation.Is(name, "outrigger-message"):
		p.Message = decodeText(value)
	case invocation.Is(name, "outrigger-details"):
		p.details = p.keep(value)
	case invocation.Is(name, "outrigger-type-url"):
		p.TypeURL = decodeText(value)
	case len(name) > len(headerTrailer) && bytes.EqualFold(name[:len(headerTrailer)], []byte(headerTrailer)):
		lower := p.keep(name[len(headerTrailer):])
		for i, c := range lower {
			if 'A' <= c && c <= 'Z' {
				lower[i] = c + 'a' - 'A'
			}
		}
		p.Trailer = append(p.Trailer, invocation.Field{Name: lower, Value: p.keep(value)})
	}
}

func decodeDetails(text []byte) (details []*anyMessage, err error) {
	raw, err := base64.StdEncoding.AppendDecode(nil, text)
	if err != nil {
		return nil, fmt.Errorf("%w: %s is not base64: %w", errNotExchange, headerDetails, err)
	}
	var s spb.Status
	if err := proto.Unmarshal(raw, &s); err != nil {
		return nil, fmt.Errorf("%w: %s: %w", errNotExchange, headerDetails, err)
	}
	return s.Details, nil
}

// encodeDetails is empty when there are none, or more than a header may hold.
func encodeDetails(details []*anyMessage) string {
	if len(details) == 0 {
		return ""
	}
	raw, err := proto.Marshal(&spb.Status{Code: int32(codes.Unknown), Details: details})
	if err != nil || base64.StdEncoding.EncodedLen(len(raw)) > maxDetails {
		return ""
	}
	return base64.StdEncoding.EncodeToString(raw)
}

func clip(message string) string {
	if len(message) > maxMessage {
		message = strings.ToValidUTF8(message[:maxMessage], "") + "..."
	}
	return message
}
