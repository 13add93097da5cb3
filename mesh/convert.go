package mesh

import (
	"fmt"
	"strconv"
	"strings"
	"unicode/utf8"

	"google.golang.org/protobuf/types/known/anypb"

	commonv1 "outrigger.dev/api/gen/common/v1"
	internalsv1 "outrigger.dev/api/gen/internals/v1"
	"outrigger.dev/invocation"
)

type anyMessage = anypb.Any

// grpcContentType marks the metadata of a gRPC client (Dapr API, service invocation: conversions).
const grpcContentType = "application/grpc"

// text is a header's name or value as a protobuf string: bytes that are no UTF-8 are taken as ISO 8859-1, as HTTP does.
func text(b []byte) string {
	if utf8.Valid(b) {
		return string(b)
	}
	runes := make([]rune, len(b))
	for i, c := range b {
		runes[i] = rune(c)
	}
	return string(runes)
}

// utf8Text is text without a copy of what is UTF-8 already.
func utf8Text(s string) string {
	if utf8.ValidString(s) {
		return s
	}
	return text([]byte(s))
}

// toMap makes the map of the internal protocol of a header. Hop-by-hop and reserved entries are left out.
func toMap(h invocation.Header, extra int) map[string]*internalsv1.ListStringValue {
	m := make(map[string]*internalsv1.ListStringValue, len(h)+extra)
	lists := make([]internalsv1.ListStringValue, len(h))
	values := make([]string, len(h))
	for i, f := range h {
		if !passed(f.Name) {
			continue
		}
		value := text(f.Value)
		if list, ok := m[string(f.Name)]; ok {
			list.Values = append(list.Values, value)
			continue
		}
		values[i] = value
		lists[i].Values = values[i : i+1 : i+1]
		m[text(f.Name)] = &lists[i]
	}
	return m
}

// fromMap makes a header of a map of the internal protocol.
func fromMap(m map[string]*internalsv1.ListStringValue) invocation.Header {
	h := make(invocation.Header, 0, len(m))
	for name, list := range m {
		key := []byte(name)
		if !passed(key) {
			continue
		}
		for _, v := range list.GetValues() {
			h = append(h, invocation.Field{Name: key, Value: []byte(v)})
		}
	}
	return h
}

// first is the first value of a name in a map, in whatever spelling.
func first(m map[string]*internalsv1.ListStringValue, name string) (string, bool) {
	for key, list := range m {
		if len(key) == len(name) && strings.EqualFold(key, name) && len(list.GetValues()) > 0 {
			return list.GetValues()[0], true
		}
	}
	return "", false
}

// toInternal is the leading message of a call, without its body.
func toInternal(req *invocation.Request) *internalsv1.InternalInvokeRequest {
	md := toMap(req.Header, 3)
	if req.Origin == invocation.FromGRPC {
		md["content-type"] = one(grpcContentType)
	} else {
		if req.ContentType != "" {
			md["Content-Type"] = one(req.ContentType)
		}
		length := int64(len(req.Body))
		if req.Stream != nil {
			length = req.Length
		}
		// A peer learns the body's length from this header alone, and sends it to its app in chunks otherwise.
		if length > 0 || length == 0 && (req.Verb == "POST" || req.Verb == "PUT" || req.Verb == "PATCH") {
			md["Content-Length"] = one(strconv.FormatInt(length, 10))
		}
	}
	if len(md) == 0 { // an empty map cannot be told from a missing one
		md["User-Agent"] = one("outrigger")
	}
	message := &commonv1.InvokeRequest{
		Method: req.Method, ContentType: req.ContentType, Data: &anypb.Any{TypeUrl: req.TypeURL},
	}
	if req.Verb != "" || req.Query != "" {
		message.HttpExtension = &commonv1.HTTPExtension{
			Verb:        commonv1.HTTPExtension_Verb(commonv1.HTTPExtension_Verb_value[req.Verb]),
			Querystring: req.Query,
		}
		if req.Verb != "" && message.HttpExtension.Verb == commonv1.HTTPExtension_NONE {
			message.HttpExtension.Verb = commonv1.HTTPExtension_POST
		}
	}
	return &internalsv1.InternalInvokeRequest{Ver: internalsv1.APIVersion_V1, Metadata: md, Message: message}
}

func one(value string) *internalsv1.ListStringValue {
	return &internalsv1.ListStringValue{Values: []string{utf8Text(value)}}
}

// fromInternal is the call of a leading message. length is the body's, as announced, or -1.
func fromInternal(in *internalsv1.InternalInvokeRequest) (req *invocation.Request, length int64, err error) {
	req = fromMessage(in)
	if contentType, ok := first(in.GetMetadata(), "content-type"); ok && strings.HasPrefix(contentType, grpcContentType) {
		req.Origin = invocation.FromGRPC
	}
	if accept := req.Header.Get("accept"); accept != nil {
		req.EventStream = acceptsEvents(accept)
	}
	length = -1
	if announced, ok := first(in.GetMetadata(), "content-length"); ok {
		length, err = strconv.ParseInt(announced, 10, 64)
		if err != nil || length < 0 {
			return nil, 0, fmt.Errorf("the header Content-Length is %q, which is not a length", announced)
		}
	}
	return req, length, nil
}

// fromMessage is the call of a message, without its body and what its metadata say of that.
func fromMessage(in *internalsv1.InternalInvokeRequest) *invocation.Request {
	message := in.GetMessage()
	req := &invocation.Request{
		Method: strings.TrimPrefix(message.GetMethod(), "/"), ContentType: message.GetContentType(), TypeURL: message.GetData().GetTypeUrl(),
		Header: fromMap(in.GetMetadata()), Query: message.GetHttpExtension().GetQuerystring(),
	}
	if verb := message.GetHttpExtension().GetVerb(); verb != commonv1.HTTPExtension_NONE {
		req.Verb = verb.String()
	}
	return req
}

// toInternalResponse is the leading message of an answer, without its body.
func toInternalResponse(resp *invocation.Response) *internalsv1.InternalInvokeResponse {
	return &internalsv1.InternalInvokeResponse{
		Status:   &internalsv1.Status{Code: int32(resp.Status), Message: resp.Message, Details: resp.Details},
		Headers:  toMap(resp.Header, 0),
		Trailers: toMap(resp.Trailer, 0),
		Message:  &commonv1.InvokeResponse{ContentType: resp.ContentType, Data: &anypb.Any{TypeUrl: resp.TypeURL}},
	}
}

// fromInternalResponse is the answer of a leading message, without its body.
func fromInternalResponse(out *internalsv1.InternalInvokeResponse, req *invocation.Request) *invocation.Response {
	resp := &invocation.Response{
		Status: int(out.GetStatus().GetCode()), Message: out.GetStatus().GetMessage(), Details: out.GetStatus().GetDetails(),
		Header: fromMap(out.GetHeaders()), Trailer: fromMap(out.GetTrailers()),
		ContentType: out.GetMessage().GetContentType(), TypeURL: out.GetMessage().GetData().GetTypeUrl(),
	}
	// A Dapr peer sends the events of an HTTP app with the status 0, which would be a gRPC app's.
	if req.EventStream && resp.Status == 0 && resp.TypeURL == "" && (resp.ContentType == "" || strings.HasPrefix(resp.ContentType, "text/event-stream")) {
		resp.Status = 200
	}
	return resp
}
