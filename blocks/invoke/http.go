package invoke

import (
	"bytes"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/encoding/protojson"

	"outrigger.dev/api"
	internalsv1 "outrigger.dev/api/gen/internals/v1"
	"outrigger.dev/invocation"
	"outrigger.dev/telemetry/tracing"
)

// Route is the block's HTTP face: the endpoint for calls with the target in the path, and for every call that no other
// route takes.
func (b *Block) Route() *api.Route {
	return &api.Route{Path: "/v1.0/invoke/{target...}", Name: "InvokeService", Group: "v1/invoke", Handler: b.serveHTTP}
}

// replayLimit is the length up to which a request body is held in memory, so that the call can be made again. Longer ones,
// unless there are policies that may want it, and those of unknown length, are streamed.
const replayLimit = 4 << 20

func (b *Block) serveHTTP(call *api.Call) error {
	target, method, byHeader, ok := address(call)
	if !ok {
		return errNoTarget()
	}
	req := &invocation.Request{Method: method, Verb: verb(call.Method()), Query: call.RawQuery(), Origin: invocation.FromHTTP}
	requestHeader(call, req, byHeader)
	span := tracing.FromContext(call.Context())
	callee(span, target, method)
	passOn(&req.Header, span, req.Origin)
	switch length := call.ContentLength(); {
	case length == 0:
	case length > 0 && (length <= replayLimit || length <= b.options.MaxBodyBytes && b.options.Resiliency.CoversApp(target)):
		body, err := call.ReadBody()
		if err != nil {
			return errInvoke(target, err)
		}
		req.Body = body
	default:
		if limit := b.options.MaxBodyBytes; limit > 0 && length > limit {
			return errInvoke(target, api.ErrBodyTooLarge)
		}
		req.Stream, req.Length = call.BodyReader(), length
	}
	resp, err := b.Invoke(call.Context(), target, req)
	if err != nil {
		return errInvoke(target, err)
	}
	return reply(call, req, resp)
}

// verb maps the verbs that the protocol between sidecars does not have to POST, as Dapr does.
func verb(method string) string {
	switch method {
	case "GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH":
		return method
	default:
		return "POST"
	}
}

// requestHeader copies what is passed on of a call's header.
func requestHeader(call *api.Call, req *invocation.Request, byHeader bool) {
	connection := connectionOptions(call)
	header := make(invocation.Header, 0, 16)
	for name, value := range call.Headers() {
		switch {
		case invocation.Is(name, "host"), invocation.Is(name, "content-length"), invocation.HopByHop(name):
			continue
		case invocation.Is(name, "content-type"):
			req.ContentType = string(value)
			continue
		case byHeader && invocation.Is(name, invocation.AppID):
			continue
		case invocation.NamedBy(connection, name):
			continue
		}
		if invocation.Is(name, "accept") && acceptsEvents(value) {
			req.EventStream = true
		}
		header = append(header, invocation.Field{Name: name, Value: value})
	}
	req.Header = header
}

// acceptsEvents reports whether an Accept header asks for server-sent events and nothing else (Dapr API, service invocation:
// server-sent events).
func acceptsEvents(accept []byte) bool {
	return bytes.EqualFold(bytes.TrimSpace(accept), []byte("text/event-stream"))
}

// connectionOptions are the values of all Connection headers of a call, nil when there is none.
func connectionOptions(call *api.Call) []byte {
	if len(call.Header("Connection")) == 0 {
		return nil
	}
	var options []byte
	for name, value := range call.Headers() {
		if invocation.Is(name, "connection") {
			options = append(append(options, value...), ',')
		}
	}
	return options
}

// reply passes an app's answer on to the HTTP client.
func reply(call *api.Call, req *invocation.Request, resp *invocation.Response) error {
	if !resp.IsHTTP() {
		return replyGRPC(call, resp)
	}
	remote := req.AppID != ""
	events := req.EventStream && remote && resp.Status >= 200 && resp.Status < 300
	responseHeader(call, resp, events)
	call.SetStatus(resp.Status)
	switch {
	case events:
		call.SetHeader("Content-Type", "text/event-stream")
		call.SetHeader("Cache-Control", "no-cache")
		call.SetHeader("Connection", "keep-alive")
	case resp.ContentType != "":
		call.SetHeader("Content-Type", resp.ContentType)
	case !resp.Success() && req.Replayable():
		call.SetHeader("Content-Type", "application/json")
	}
	send(call, resp)
	return nil
}

func send(call *api.Call, resp *invocation.Response) {
	if resp.Stream != nil {
		call.ReplyStream(resp.Stream, resp.Length)
		return
	}
	call.Reply(resp.Body)
}

// responseHeader copies what is passed on of an answer's header.
func responseHeader(call *api.Call, resp *invocation.Response, events bool) {
	for _, f := range resp.Header {
		switch {
		case invocation.HopByHop(f.Name), invocation.Is(f.Name, "content-length"), invocation.Is(f.Name, "content-type"):
		case bytes.HasSuffix(f.Name, []byte("-bin")):
		case events && invocation.Is(f.Name, "cache-control"):
		case len(f.Name) > 5 && bytes.EqualFold(f.Name[:5], []byte("grpc-")):
			call.AddHeader(append([]byte("dapr-"), f.Name...), f.Value)
		case len(f.Name) > 0 && f.Name[0] == ':':
			call.AddHeader(append([]byte("dapr-"), f.Name[1:]...), f.Value)
		default:
			call.AddHeader(f.Name, f.Value)
		}
	}
}

// replyGRPC passes the answer of a gRPC app on to an HTTP client (Dapr API, service invocation: conversions).
func replyGRPC(call *api.Call, resp *invocation.Response) error {
	responseHeader(call, resp, false)
	code := codes.Code(resp.Status)
	call.SetStatus(api.HTTPStatus(code))
	if code != codes.OK {
		_ = resp.Close()
		body, err := protojson.Marshal(&internalsv1.Status{Code: int32(resp.Status), Message: resp.Message, Details: resp.Details})
		if err != nil {
			return &api.Error{HTTP: 500, GRPC: codes.Internal, Code: "ERR_MALFORMED_RESPONSE", Message: err.Error(), Category: api.CategoryCommon, Cause: err}
		}
		call.SetHeader("Content-Type", "application/json")
		call.Reply(body)
		return nil
	}
	switch {
	case resp.TypeURL != "":
		call.SetHeader("Content-Type", "application/x-protobuf")
	case resp.ContentType != "":
		call.SetHeader("Content-Type", resp.ContentType)
	}
	send(call, resp)
	return nil
}
