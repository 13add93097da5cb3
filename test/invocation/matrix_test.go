package invocation_test

import (
	"context"
	"encoding/base64"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/anypb"

	commonv1 "outrigger.dev/api/gen/common/v1"
	runtimev1 "outrigger.dev/api/gen/runtime/v1"
	"outrigger.dev/sidecar/sidecartest"
)

var protocols = []string{"http", "https", "h2c", "grpc", "grpcs"}

// route is a way that a call takes to an app.
type route struct {
	name   string
	remote bool
	// via is the sidecar that takes the call, callee that of the app.
	via, callee *sidecartest.Sidecar
}

// world is a sidecar for an app of each protocol, and two without apps that call them: one by the exchange, one by gRPC.
type world struct {
	callees            map[string]*sidecartest.Sidecar
	byExchange, byGRPC *sidecartest.Sidecar
	directory          *directory
	http1, http2       *http.Client
}

func newWorld(t testing.TB, protocols []string, app func(protocol string) sidecartest.Option, more ...sidecartest.Option) *world {
	w := &world{callees: map[string]*sidecartest.Sidecar{}, directory: newDirectory(t)}
	for _, p := range protocols {
		w.callees[p] = sidecartest.Start(t, append([]sidecartest.Option{w.directory.join("app-"+p, false), app(p)}, more...)...)
	}
	w.byExchange = sidecartest.Start(t, append([]sidecartest.Option{w.directory.join("caller", false)}, more...)...)
	w.byGRPC = sidecartest.Start(t, append([]sidecartest.Option{w.directory.join("caller", true)}, more...)...)
	for _, s := range w.callees {
		s.WaitHealthy()
	}
	w.http1, w.http2 = h1Client(t), h2cClient(t) // last, so that their connections are closed before the sidecars stop
	return w
}

func (w *world) routes(protocol string) []route {
	callee := w.callees[protocol]
	return []route{
		{"local", false, callee, callee},
		{"exchange", true, w.byExchange, callee},
		{"grpc", true, w.byGRPC, callee},
	}
}

// each runs a test for each protocol and route.
func (w *world) each(t *testing.T, f func(t *testing.T, protocol string, r route)) {
	for _, p := range protocols {
		if w.callees[p] == nil {
			continue
		}
		for _, r := range w.routes(p) {
			t.Run(p+"/"+r.name, func(t *testing.T) { f(t, p, r) })
		}
	}
}

func isGRPC(protocol string) bool { return strings.HasPrefix(protocol, "grpc") }

func (w *world) do(t testing.TB, c *http.Client, verb, url, body string, header ...string) (*http.Response, string) {
	t.Helper()
	req, err := http.NewRequest(verb, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(header); i += 2 {
		req.Header[header[i]] = append(req.Header[header[i]], header[i+1])
	}
	resp, err := c.Do(req)
	if err != nil {
		t.Fatalf("%s %s: %v", verb, url, err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatalf("%s %s: %v", verb, url, err)
	}
	return resp, string(text)
}

const (
	traceparent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
	traceID     = "\x0a\xf7\x65\x19\x16\xcd\x43\xdd\x84\x48\xeb\x21\x1c\x80\x31\x9c"
)

// A call of an HTTP client: verb, path, query, body and headers arrive, in the way of the app's protocol.
func TestHTTPCallers(t *testing.T) {
	w := newWorld(t, protocols, func(p string) sidecartest.Option { return startApp(t, p) })
	w.each(t, func(t *testing.T, protocol string, r route) {
		for name, client := range map[string]*http.Client{"http1": w.http1, "h2c": w.http2} {
			t.Run(name, func(t *testing.T) {
				resp, body := w.do(t, client, "PUT", r.via.URL+"/v1.0/invoke/app-"+protocol+"/method/echo/a%20b?x=1&y=%2f%20+", "the body",
					"Content-Type", "text/x-mine", "X-One", "1", "X-Two", "a", "X-Two", "b", "Cookie", `a="b c"; d`, "Accept", "a/b", "Authorization", "Bearer x",
					"X-Data-Bin", base64.StdEncoding.EncodeToString([]byte("\x00\xff")), "Grpc-Mine", "g", "Traceparent", traceparent, "Tracestate", "k=v",
					"Keep-Alive", "1", "Proxy-Authorization", "Basic eA==", "Destination-App-Id", "forged", "Dapr-Caller-App-Id", "forged", "Dapr-Callee-App-Id", "forged",
					"Dapr-Caller-Namespace", "forged", "Dapr-Api-Token", "token", "User-Agent", "mine/1", "X-Forwarded-For", "10.0.0.1", "Baggage", "a=b")
				if resp.StatusCode != 200 || resp.Header.Get("Content-Type") != "application/json" {
					t.Fatalf("got %d %v %s", resp.StatusCode, resp.Header, body)
				}
				s := decode(t, body)
				path := "/echo/a b"
				if isGRPC(protocol) {
					path = "echo/a b"
				}
				if s.Verb != "PUT" || s.Path != path || s.Query != "x=1&y=%2f%20+" || s.ContentType != "text/x-mine" || s.Body != "the body" || s.TypeURL != "" {
					t.Errorf("the app saw %+v", s)
				}
				want := map[string]string{
					"x-one": "[1]", "x-two": "[a b]", "authorization": "[Bearer x]", "traceparent": "[" + traceparent + "]", "tracestate": "[k=v]", "baggage": "[a=b]",
					"destination-app-id": "[]", "proxy-authorization": "[]", "dapr-api-token": "[token]",
					"dapr-caller-app-id": "[]", "dapr-caller-namespace": "[]", "dapr-callee-app-id": "[]", "x-forwarded-for": "[10.0.0.1]", "x-forwarded-host": "[]", "forwarded": "[]",
				}
				if r.remote {
					want["dapr-caller-app-id"], want["dapr-caller-namespace"], want["dapr-callee-app-id"] = "[caller]", "[default]", "[app-"+protocol+"]"
					want["x-forwarded-for"] = "[10.0.0.1 127.0.0.1]"
				}
				if isGRPC(protocol) {
					want["dapr-accept"], want["dapr-cookie"], want["accept"], want["cookie"] = "[a/b]", `[a="b c"; d]`, "[]", "[]"
					want["x-data-bin"], want["grpc-trace-bin"] = "[\x00\xff]", "[\x00\x00"+traceID+"\x01\xb7\xad\x6b\x71\x69\x20\x33\x31\x02\x01]"
				} else {
					want["accept"], want["cookie"], want["x-data-bin"], want["grpc-mine"], want["dapr-grpc-mine"] = "[a/b]", `[a="b c"; d]`, "[]", "[]", "[g]"
					want["keep-alive"], want["user-agent"], want["accept-encoding"], want["content-length"] = "[]", "[mine/1]", "[]", "[8]"
					if protocol == "h2c" && s.Proto != "HTTP/2.0" || protocol != "h2c" && s.Proto != "HTTP/1.1" {
						t.Errorf("the app was called by %s", s.Proto)
					}
					if !strings.HasPrefix(s.Host, "127.0.0.1:") || s.Length != 8 {
						t.Errorf("host %q, length %d", s.Host, s.Length)
					}
				}
				for name, value := range want {
					if name == "x-forwarded-host" && r.remote || name == "forwarded" && r.remote {
						continue
					}
					if name == "keep-alive" && client == w.http2 { // the client refuses to send it
						continue
					}
					if name == "x-data-bin" && isGRPC(protocol) {
						// JSON cannot carry the bytes; their number shows that they were decoded.
						if got := []rune(s.get(name)); len(got) != 2 {
							t.Errorf("%s arrived as %q", name, s.get(name))
						}
						continue
					}
					if name == "grpc-trace-bin" {
						if s.get(name) == "" {
							t.Error("no grpc-trace-bin arrived")
						}
						continue
					}
					if got := fmt.Sprint(s.Header[name]); got != value {
						t.Errorf("%s arrived as %q, want %q", name, got, value)
					}
				}
				if forwarded := s.get("forwarded"); r.remote && (!strings.HasPrefix(forwarded, "for=127.0.0.1;by=127.0.0.1;host=") || s.get("x-forwarded-host") == "" ||
					forwarded != "for=127.0.0.1;by=127.0.0.1;host="+s.get("x-forwarded-host")) {
					t.Errorf("Forwarded is %q", forwarded)
				}
			})
		}
	})
}

// What comes back to an HTTP client: statuses, headers, content types.
func TestRepliesToHTTPCallers(t *testing.T) {
	w := newWorld(t, protocols, func(p string) sidecartest.Option { return startApp(t, p) })
	w.each(t, func(t *testing.T, protocol string, r route) {
		base := r.via.URL + "/v1.0/invoke/app-" + protocol + "/method/"
		if isGRPC(protocol) {
			for code, want := range map[int]int{1: 408, 2: 500, 3: 400, 4: 504, 5: 404, 6: 409, 7: 403, 8: 429, 9: 400, 10: 409, 11: 400, 12: 501, 13: 500, 14: 503, 15: 500, 16: 401, 77: 500} {
				resp, body := w.do(t, w.http1, "POST", fmt.Sprintf("%sstatus/%d", base, code), "x")
				plain := strings.ReplaceAll(body, " ", "")
				text := fmt.Sprintf(`{"code":%d,"message":"messageof%d","details":[{"@type":"type.googleapis.com/google.rpc.ErrorInfo","reason":"R","domain":"D"}]}`, code, code)
				if resp.StatusCode != want || plain != text || resp.Header.Get("X-App") != "yes" || resp.Header.Get("Content-Type") != "application/json" {
					t.Errorf("code %d: %d %v %s", code, resp.StatusCode, resp.Header, body)
				}
			}
			resp, body := w.do(t, w.http1, "GET", base+"headers", "")
			if h := resp.Header; body != "with headers" || h.Get("Content-Type") != "text/x-special" || fmt.Sprint(h["X-Twice"]) != "[1 2]" || h.Get("X-Data-Bin") != "" || h.Get("Cache-Control") != "no-store" || h.Get("X-Trailer") != "" {
				t.Errorf("headers: %v %s", h, body)
			}
			resp, body = w.do(t, w.http1, "GET", base+"typed", "")
			if body != "typed" || resp.Header.Get("Content-Type") != "application/x-protobuf" {
				t.Errorf("typed: %v %s", resp.Header, body)
			}
			resp, body = w.do(t, w.http1, "GET", base+"empty", "")
			if body != "" || resp.StatusCode != 200 || resp.Header.Get("Content-Type") != "" {
				t.Errorf("empty: %d %v %q", resp.StatusCode, resp.Header, body)
			}
			return
		}
		for _, code := range []int{200, 201, 202, 206, 204, 300, 301, 302, 304, 307, 400, 401, 403, 404, 409, 418, 429, 500, 501, 503, 504, 599} {
			for _, chunked := range []bool{false, true} {
				var send io.Reader = strings.NewReader("x")
				if chunked {
					send = struct{ io.Reader }{send} // hides its length
				}
				req, _ := http.NewRequest("POST", fmt.Sprintf("%sstatus/%d", base, code), send)
				resp, err := w.http1.Do(req)
				if err != nil {
					t.Fatal(err)
				}
				text, err := io.ReadAll(resp.Body)
				_ = resp.Body.Close()
				want := fmt.Sprintf("body of %d", code)
				if code == 204 || code == 304 {
					want = ""
				}
				if err != nil || resp.StatusCode != code || string(text) != want || resp.Header.Get("X-App") != "yes" || code/100 == 3 && resp.Header.Get("Location") != "/elsewhere" ||
					code != 304 && resp.Header.Get("Content-Type") != "text/plain" {
					t.Errorf("status %d, chunked %v: %d %v %q %v", code, chunked, resp.StatusCode, resp.Header, text, err)
				}
			}
		}
		for code, want := range map[int]string{200: "", 500: "application/json", 404: "application/json"} {
			resp, body := w.do(t, w.http1, "POST", fmt.Sprintf("%sbare/%d", base, code), "x")
			if resp.StatusCode != code || resp.Header.Get("Content-Type") != want || body != "" {
				t.Errorf("bare %d: %d %v %q", code, resp.StatusCode, resp.Header, body)
			}
		}
		for _, client := range []*http.Client{w.http1, w.http2} {
			resp, body := w.do(t, client, "GET", base+"headers", "")
			h := resp.Header
			if body != "with headers" || fmt.Sprint(h["X-Twice"]) != "[1 2]" || h.Get("X-Data-Bin") != "" || h.Get("Grpc-Thing") != "" || h.Get("Dapr-Grpc-Thing") != "g" ||
				h.Get("Keep-Alive") != "" || h.Get("Proxy-Authenticate") != "" || h.Get("Cache-Control") != "no-store" || h.Get("Server") != "the-app/1" ||
				h.Get("Etag") != `"e"` || h.Get("Content-Language") != "de" || h.Get("Content-Type") != "text/x-special; charset=utf-8" || h.Get("X-Trailer") != "" || len(resp.Trailer) != 0 {
				t.Errorf("headers: %v %q", h, body)
			}
			if len(h["Date"]) != 1 { // the app's, or that of the sidecar
				t.Errorf("Date is %q", h["Date"])
			}
			if got := h["Set-Cookie"]; !slices.Equal(got, []string{"a=1; Path=/", "a=2; Path=/b", "c=3; HttpOnly"}) {
				t.Errorf("Set-Cookie is %q", got)
			}
			odd := ""
			for name, values := range h { // in whatever spelling
				if strings.EqualFold(name, "X.Odd!Name") {
					odd = strings.Join(values, ",")
				}
			}
			if odd != "odd" {
				t.Errorf("X.Odd!Name is missing: %v", h)
			}
			if latin := h.Get("X-Latin"); latin != "gr\xfc\xdfe" && (r.name != "grpc" || latin != "grüße") {
				t.Errorf("X-Latin is %q", latin)
			}
		}
		resp, body := w.do(t, w.http1, "HEAD", base+"headers", "")
		if resp.StatusCode != 200 || body != "" || resp.Header.Get("Etag") != `"e"` || resp.ContentLength > 0 {
			t.Errorf("HEAD: %d %v %q", resp.StatusCode, resp.Header, body)
		}
		if resp.Header.Get("Content-Length") == "0" {
			t.Error("HEAD: the reply claims that the representation is empty")
		}
	})
}

// A call of InvokeService: what the app sees.
func TestGRPCCallers(t *testing.T) {
	w := newWorld(t, protocols, func(p string) sidecartest.Option { return startApp(t, p) })
	w.each(t, func(t *testing.T, protocol string, r route) {
		invoke := func(message *commonv1.InvokeRequest, pairs ...string) (*commonv1.InvokeResponse, metadata.MD, metadata.MD, error) {
			var header, trailer metadata.MD
			out, err := r.via.Dapr().InvokeService(metadata.AppendToOutgoingContext(withTimeout(t), pairs...),
				&runtimev1.InvokeServiceRequest{Id: "app-" + protocol, Message: message}, grpc.Header(&header), grpc.Trailer(&trailer))
			return out, header, trailer, err
		}
		get := &commonv1.HTTPExtension{Verb: commonv1.HTTPExtension_GET}
		out, header, _, err := invoke(&commonv1.InvokeRequest{
			Method: "/echo//admin%2Fx/", Data: &anypb.Any{Value: []byte("the body")}, ContentType: "text/x-mine",
			HttpExtension: &commonv1.HTTPExtension{Verb: commonv1.HTTPExtension_PATCH, Querystring: "x=1&y=%2f"},
		}, "x-one", "1", "x-two", "a", "x-two", "b", "x-data-bin", "\x00\xff", "traceparent", traceparent, "dapr-caller-app-id", "forged", "authorization", "Bearer x", "accept", "a/b")
		if err != nil {
			t.Fatal(err)
		}
		if out.GetContentType() != "application/json" {
			t.Errorf("content type %q", out.GetContentType())
		}
		s := decode(t, string(out.GetData().GetValue()))
		path := "/echo/admin%2Fx"
		if isGRPC(protocol) {
			path = path[1:]
		}
		if s.Verb != "PATCH" || s.Path != path || s.Query != "x=1&y=%2f" || s.ContentType != "text/x-mine" || s.Body != "the body" || s.TypeURL != "" {
			t.Errorf("the app saw %+v", s)
		}
		caller := "[]"
		if r.remote {
			caller = "[caller]"
		}
		for name, value := range map[string]string{"x-one": "[1]", "x-two": "[a b]", "authorization": "[Bearer x]", "traceparent": "[" + traceparent + "]", "dapr-caller-app-id": caller, "accept": "[a/b]"} {
			if got := fmt.Sprint(s.Header[name]); got != value {
				t.Errorf("%s arrived as %q, want %q", name, got, value)
			}
		}
		if !isGRPC(protocol) {
			if !strings.HasPrefix(s.get("user-agent"), "grpc-go/") || s.get("dapr-authority") != r.via.GRPCAddress() || s.get("x-data-bin") != "" {
				t.Errorf("the HTTP app saw %v", s.Header)
			}
			if got := header; got.Get("dapr-http-status")[0] != "200" || got.Get("dapr-content-type") == nil || got.Get("dapr-content-type")[0] != "application/json" {
				t.Errorf("reply metadata: %v", got)
			}
		} else if len([]rune(s.get("x-data-bin"))) != 2 {
			t.Errorf("x-data-bin arrived as %q", s.get("x-data-bin"))
		}

		// The binary trace context becomes the textual one for an HTTP app, and stays for a gRPC one.
		out, _, _, err = invoke(&commonv1.InvokeRequest{Method: "echo", HttpExtension: get}, "grpc-trace-bin", "\x00\x00"+traceID+"\x01\xb7\xad\x6b\x71\x69\x20\x33\x31\x02\x01")
		if err != nil {
			t.Fatal(err)
		}
		if s = decode(t, string(out.GetData().GetValue())); s.get("traceparent") != traceparent {
			t.Errorf("of grpc-trace-bin came traceparent %q", s.get("traceparent"))
		}

		// A typed body is protobuf for an HTTP app and keeps its type for a gRPC one.
		out, _, _, err = invoke(&commonv1.InvokeRequest{Method: "echo", HttpExtension: get, ContentType: "ignored/this", Data: &anypb.Any{TypeUrl: "type.googleapis.com/a.B", Value: []byte("p")}})
		if err != nil {
			t.Fatal(err)
		}
		s = decode(t, string(out.GetData().GetValue()))
		if s.ContentType != "application/x-protobuf" || s.Body != "p" || isGRPC(protocol) && s.TypeURL != "type.googleapis.com/a.B" {
			t.Errorf("of a typed body the app saw %+v", s)
		}

		// Without an HTTP extension only gRPC apps can be called.
		out, _, _, err = invoke(&commonv1.InvokeRequest{Method: "echo"})
		if isGRPC(protocol) {
			if err != nil || decode(t, string(out.GetData().GetValue())).Verb != "absent" {
				t.Errorf("without HTTP extension: %v %v", out, err)
			}
		} else if st := status.Convert(err); st.Code() != codes.Internal || !strings.HasPrefix(st.Message(), "failed to invoke, id: app-"+protocol+", err: ") || !strings.Contains(st.Message(), "HTTP") {
			t.Errorf("without HTTP extension: %v", err)
		}

		if isGRPC(protocol) {
			repliesOfGRPCApps(t, invoke)
		} else {
			repliesOfHTTPApps(t, invoke)
		}
	})
}

type invokeFunc func(message *commonv1.InvokeRequest, pairs ...string) (*commonv1.InvokeResponse, metadata.MD, metadata.MD, error)

func repliesOfGRPCApps(t *testing.T, invoke invokeFunc) {
	for code := 1; code <= 16; code++ {
		_, header, trailer, err := invoke(&commonv1.InvokeRequest{Method: fmt.Sprintf("status/%d", code)})
		st := status.Convert(err)
		if st.Code() != codes.Code(code) || st.Message() != fmt.Sprintf("message of %d", code) || len(st.Details()) != 1 || st.Details()[0].(*errdetails.ErrorInfo).GetReason() != "R" ||
			fmt.Sprint(header.Get("x-app")) != "[yes]" || fmt.Sprint(trailer.Get("x-trailer")) != "[t]" || len(header.Get("dapr-http-status")) != 0 {
			t.Errorf("code %d: %v %v %v %v", code, err, st.Details(), header, trailer)
		}
	}
	out, header, trailer, err := invoke(&commonv1.InvokeRequest{Method: "headers"})
	if err != nil || string(out.GetData().GetValue()) != "with headers" || out.GetContentType() != "text/x-special" || out.GetData().GetTypeUrl() != "" ||
		fmt.Sprint(header.Get("x-twice")) != "[1 2]" || fmt.Sprint(header.Get("x-data-bin")) != "[\x00\x01\xff]" || fmt.Sprint(header.Get("cache-control")) != "[no-store]" ||
		fmt.Sprint(trailer.Get("x-trailer")) != "[t]" || fmt.Sprint(trailer.Get("x-end-bin")) != "[\x00\xfe]" {
		t.Errorf("headers: %v %q %q %v", out, header, trailer, err)
	}
	out, _, _, err = invoke(&commonv1.InvokeRequest{Method: "typed"})
	if err != nil || out.GetData().GetTypeUrl() != "type.googleapis.com/a.B" || string(out.GetData().GetValue()) != "typed" {
		t.Errorf("typed: %v %v", out, err)
	}
}

func repliesOfHTTPApps(t *testing.T, invoke invokeFunc) {
	get := &commonv1.HTTPExtension{Verb: commonv1.HTTPExtension_GET}
	for code, want := range map[int]codes.Code{
		200: 0, 201: 0, 204: 0, 299: 0, 302: codes.Unknown, 304: codes.Unknown, 400: codes.Internal, 401: codes.Unauthenticated, 403: codes.PermissionDenied, 404: codes.NotFound, 408: codes.Canceled,
		409: codes.AlreadyExists, 418: codes.Unknown, 429: codes.ResourceExhausted, 500: codes.Unknown, 501: codes.Unimplemented, 503: codes.Unavailable, 504: codes.DeadlineExceeded,
	} {
		out, header, _, err := invoke(&commonv1.InvokeRequest{Method: fmt.Sprintf("status/%d", code), HttpExtension: get})
		st := status.Convert(err)
		if st.Code() != want || fmt.Sprint(header.Get("dapr-http-status")) != fmt.Sprintf("[%d]", code) || fmt.Sprint(header.Get("x-app")) != "[yes]" {
			t.Errorf("status %d: %v %v", code, err, header)
			continue
		}
		body := fmt.Sprintf("body of %d", code)
		if code == 204 || code == 304 {
			body = ""
		}
		if want == codes.OK {
			if string(out.GetData().GetValue()) != body || out.GetContentType() != "text/plain" {
				t.Errorf("status %d: %v", code, out)
			}
			continue
		}
		if len(st.Details()) != 1 {
			t.Errorf("status %d: details %v", code, st.Details())
			continue
		}
		info := st.Details()[0].(*errdetails.ErrorInfo)
		if st.Message() != http.StatusText(code) || info.GetReason() != st.Message() || info.GetDomain() != "dapr.io" || info.GetMetadata()["http.code"] != fmt.Sprint(code) || info.GetMetadata()["http.error_message"] != body {
			t.Errorf("status %d: %v %v", code, err, info)
		}
	}
	out, header, trailer, err := invoke(&commonv1.InvokeRequest{Method: "headers", HttpExtension: get})
	if err != nil || string(out.GetData().GetValue()) != "with headers" || out.GetContentType() != "text/x-special; charset=utf-8" {
		t.Fatalf("headers: %v %v", out, err)
	}
	for name, want := range map[string]string{
		"x-twice": "[1 2]", "dapr-cache-control": "[no-store]", "dapr-content-type": "[text/x-special; charset=utf-8]", "etag": `["e"]`,
		"dapr-grpc-thing": "[g]", "server": "[the-app/1]", "x-data-bin": "[]", "dapr-keep-alive": "[]", "cache-control": "[]", "content-language": "[de]",
	} {
		if got := fmt.Sprint(header.Get(name)); got != want {
			t.Errorf("metadata %s is %q, want %q", name, got, want)
		}
	}
	if len(header.Get("dapr-date")) != 1 || len(header.Get("set-cookie")) != 3 || len(trailer.Get("x-trailer")) != 0 {
		t.Errorf("metadata: %v, trailer: %v", header, trailer)
	}
}

// Calls that do not get to an app are Internal with the cause, whatever it is.
func TestGRPCCallersWithoutAnswer(t *testing.T) {
	w := newWorld(t, []string{"http"}, func(p string) sidecartest.Option { return startApp(t, p) })
	for _, tc := range []struct{ id, method, cause string }{
		{"", "x", "app id is empty"},
		{"a.b.c", "x", "invalid app id a.b.c"},
		{"nobody", "x", "couldn't find service: nobody"},
		{"caller", "x", "cannot invoke local endpoint: app channel not initialized"},
		{"app-http", "a#b", `rpc error: code = InvalidArgument desc = invalid method: method contains forbidden character: "a#b"`},
		{"app-http", "a\nb", `rpc error: code = InvalidArgument desc = invalid method: method contains control character at position 1: "a\nb"`},
	} {
		_, err := w.byExchange.Dapr().InvokeService(context.Background(), &runtimev1.InvokeServiceRequest{
			Id: tc.id, Message: &commonv1.InvokeRequest{Method: tc.method, HttpExtension: &commonv1.HTTPExtension{Verb: commonv1.HTTPExtension_GET}},
		})
		if st := status.Convert(err); st.Code() != codes.Internal || st.Message() != "failed to invoke, id: "+tc.id+", err: "+tc.cause {
			t.Errorf("%q %q: %v", tc.id, tc.method, err)
		}
	}
	if strings.Count(w.byExchange.Log.String(), "InvokeService is deprecated") != 1 {
		t.Error("the deprecation is not told exactly once")
	}
}
