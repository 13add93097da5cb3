package mesh

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/anypb"

	"outrigger.dev/invocation"
)

// fields is a header in a comparable form.
func fields(h invocation.Header, lower bool) []string {
	var out []string
	for _, f := range h {
		name := string(f.Name)
		if lower {
			name = strings.ToLower(name)
		}
		if name != "date" && name != "Date" {
			out = append(out, name+": "+string(f.Value))
		}
	}
	slices.Sort(out)
	return out
}

func TestRequestArrives(t *testing.T) {
	var seen *invocation.Request
	var body []byte
	_, address := startServer(t, ServerOptions{Handler: func(_ context.Context, req *invocation.Request) (*invocation.Response, error) {
		seen = req
		var err error
		if body, err = req.ReadBody(0); err != nil {
			return nil, err
		}
		seen.Header = slices.Clone(req.Header)
		for i, f := range seen.Header {
			seen.Header[i] = invocation.Field{Name: slices.Clone(f.Name), Value: slices.Clone(f.Value)}
		}
		return &invocation.Response{Status: 200}, nil
	}})
	big := strings.Repeat("0123456789", 30_000)
	for _, test := range []struct {
		name   string
		req    invocation.Request
		header []string // name, value pairs
		want   []string // nil: the same
	}{
		{"get", invocation.Request{Method: "a/b", Verb: "GET", Query: "x=1&y=%20"}, []string{"X-A", "1", "X-A", "2"}, nil},
		{"post", invocation.Request{Method: "a", Verb: "POST", ContentType: "application/json", Body: []byte(`{}`)}, nil, nil},
		{"no method", invocation.Request{Verb: "DELETE"}, nil, nil},
		{"escapes", invocation.Request{Method: "a b/ž/%41/c?d", Verb: "PUT", Body: []byte("x")}, nil, nil},
		{"big", invocation.Request{Method: "a", Verb: "POST", Body: []byte(big)}, nil, nil},
		{"trace", invocation.Request{Method: "a", Verb: "TRACE"}, nil, nil},
		{"connect", invocation.Request{Method: "a", Verb: "CONNECT"}, nil, nil},
		{"body of a get", invocation.Request{Method: "a", Verb: "GET", Body: []byte("x")}, nil, nil},
		{
			"grpc",
			invocation.Request{Method: "M", Origin: invocation.FromGRPC, TypeURL: "type.googleapis.com/x.Y", ContentType: "application/x-protobuf", Body: []byte("\x00\x01")},
			[]string{"x-a", "1", "content-type", "application/grpc", "cookie", "c=1"},
			[]string{"x-a: 1", "cookie: c=1"},
		},
		{"grpc with verb", invocation.Request{Method: "M", Verb: "PATCH", Origin: invocation.FromGRPC, Query: "a=b"}, []string{"x-a", "1"}, nil},
		{"events", invocation.Request{Method: "a", Verb: "GET", EventStream: true}, []string{"Accept", " Text/Event-Stream"}, []string{"Accept: Text/Event-Stream"}},
		{
			"reserved and hop by hop",
			invocation.Request{Method: "a", Verb: "GET"},
			[]string{"Outrigger-Verb", "DELETE", "outrigger-exchange", "2", "Connection", "close", "Keep-Alive", "1", "X-A", "1"},
			[]string{"X-A: 1"},
		},
	} {
		wires(t, func(t *testing.T, o ClientOptions) {
			client := newClient(t, o)
			for _, streamed := range []bool{false, true} {
				t.Run(fmt.Sprintf("%s/streamed=%v", test.name, streamed), func(t *testing.T) {
					req := test.req
					req.Header = nil
					for i := 0; i < len(test.header); i += 2 {
						req.Header.Add(test.header[i], test.header[i+1])
					}
					req.Header.Add("dapr-caller-app-id", "a")
					if streamed {
						req.Stream, req.Length, req.Body = strings.NewReader(string(test.req.Body)), -1, nil
					}
					resp, err := client.Invoke(within(t), address, &req)
					if err != nil {
						t.Fatal(err)
					}
					_ = resp.Close()
					if seen.Method != test.req.Method || seen.Verb != test.req.Verb || seen.Query != test.req.Query || seen.ContentType != test.req.ContentType ||
						seen.TypeURL != test.req.TypeURL || seen.Origin != test.req.Origin || seen.EventStream != test.req.EventStream {
						t.Errorf("got %+v", seen)
					}
					if string(body) != string(test.req.Body) {
						t.Errorf("body of %d bytes, want %d", len(body), len(test.req.Body))
					}
					want := test.want
					if want == nil {
						for i := 0; i < len(test.header); i += 2 {
							want = append(want, test.header[i]+": "+test.header[i+1])
						}
					}
					// HTTP does not keep the spelling of names; that of gRPC clients is lower case.
					want = append(slices.Clone(want), "dapr-caller-app-id: a")
					lower := req.Origin == invocation.FromHTTP
					if lower {
						for i, w := range want {
							name, value, _ := strings.Cut(w, ": ")
							want[i] = strings.ToLower(name) + ": " + value
						}
					}
					slices.Sort(want)
					got := fields(seen.Header, lower)
					for i := range got {
						name, value, _ := strings.Cut(got[i], ": ")
						got[i] = name + ": " + strings.TrimSpace(value)
					}
					if !slices.Equal(got, want) {
						t.Errorf("header %q, want %q", got, want)
					}
				})
			}
		})
	}
}

func TestResponseArrives(t *testing.T) {
	detail, err := anypb.New(&errdetails.ErrorInfo{Reason: "R", Domain: "D"})
	if err != nil {
		t.Fatal(err)
	}
	big := strings.Repeat("0123456789", 30_000)
	for _, test := range []struct {
		name    string
		resp    invocation.Response
		body    string
		header  []string
		trailer []string
	}{
		{"empty", invocation.Response{Status: 200}, "", nil, nil},
		{"body", invocation.Response{Status: 201, ContentType: "application/json"}, `{}`, []string{"X-A", "1", "Set-Cookie", "a=1", "Set-Cookie", "a=2"}, nil},
		{"no content", invocation.Response{Status: 204}, "", []string{"X-A", "1"}, nil},
		{"redirect", invocation.Response{Status: 302}, "", []string{"Location", "/x"}, nil},
		{"failure", invocation.Response{Status: 503, ContentType: "text/plain"}, "down", nil, nil},
		{"odd status", invocation.Response{Status: 999}, "x", nil, nil},
		{"switching", invocation.Response{Status: 101}, "", nil, nil},
		{"big", invocation.Response{Status: 200, ContentType: "application/octet-stream"}, big, nil, nil},
		{"reserved", invocation.Response{Status: 200}, "", []string{"Outrigger-Exchange", "error", "Outrigger-Status", "5", "X-A", "1"}, nil},
		{"grpc", invocation.Response{Status: 0, TypeURL: "type.googleapis.com/x.Y", ContentType: "application/x-protobuf"}, "\x01\x02", []string{"x-a", "1", "cookie", "c"}, []string{"x-t", "t1", "x-t", "t2"}},
		{"grpc failure", invocation.Response{Status: 5, Message: "not found: 100% ž\n", Details: []*anypb.Any{detail}}, "", nil, []string{"x-t", "1"}},
	} {
		for _, form := range []string{"memory", "known length", "unknown length"} {
			_, address := startServer(t, ServerOptions{Handler: func(context.Context, *invocation.Request) (*invocation.Response, error) {
				resp := test.resp
				for i := 0; i < len(test.header); i += 2 {
					resp.Header.Add(test.header[i], test.header[i+1])
				}
				for i := 0; i < len(test.trailer); i += 2 {
					resp.Trailer.Add(test.trailer[i], test.trailer[i+1])
				}
				switch form {
				case "memory":
					resp.Body = []byte(test.body)
				case "known length":
					resp.Stream, resp.Length = io.NopCloser(strings.NewReader(test.body)), int64(len(test.body))
				default:
					resp.Stream, resp.Length = io.NopCloser(strings.NewReader(test.body)), -1
				}
				return &resp, nil
			}})
			wires(t, func(t *testing.T, o ClientOptions) {
				client := newClient(t, o)
				t.Run(test.name+"/"+form, func(t *testing.T) {
					for range 2 { // the connection is used again
						resp, err := client.Invoke(within(t), address, request("x"))
						if err != nil {
							t.Fatal(err)
						}
						if err := resp.Buffer(0); err != nil {
							t.Fatal(err)
						}
						if resp.Status != test.resp.Status || resp.Message != test.resp.Message || resp.TypeURL != test.resp.TypeURL || resp.ContentType != test.resp.ContentType || len(resp.Details) != len(test.resp.Details) {
							t.Errorf("got %+v", resp)
						}
						if string(resp.Body) != test.body {
							t.Errorf("body of %d bytes, want %d", len(resp.Body), len(test.body))
						}
						var want, wantTrailer []string
						for i := 0; i < len(test.header); i += 2 {
							if !isReserved([]byte(test.header[i])) {
								want = append(want, test.header[i]+": "+test.header[i+1])
							}
						}
						for i := 0; i < len(test.trailer); i += 2 {
							wantTrailer = append(wantTrailer, test.trailer[i]+": "+test.trailer[i+1])
						}
						slices.Sort(want)
						if got := fields(resp.Header, false); !slices.Equal(got, want) {
							t.Errorf("header %q, want %q", got, want)
						}
						if got := fields(resp.Trailer, false); !slices.Equal(got, wantTrailer) {
							t.Errorf("trailer %q, want %q", got, wantTrailer)
						}
					}
				})
			})
		}
	}
}

func TestErrors(t *testing.T) {
	withDetails, err := status.New(codes.PermissionDenied, "denied").WithDetails(&errdetails.ErrorInfo{Reason: "R"})
	if err != nil {
		t.Fatal(err)
	}
	long := strings.Repeat("ž", 10_000)
	for _, test := range []struct {
		name string
		h    handler
		want string
	}{
		{"status", func(context.Context, *invocation.Request) (*invocation.Response, error) {
			return nil, status.Error(codes.Internal, "error invoking app channel: Get \"http://127.0.0.1:1/m\": 100% refused")
		}, "rpc error: code = Internal desc = error invoking app channel: Get \"http://127.0.0.1:1/m\": 100% refused"},
		{"details", func(context.Context, *invocation.Request) (*invocation.Response, error) {
			return nil, withDetails.Err()
		}, "rpc error: code = PermissionDenied desc = denied"},
		{"plain", func(context.Context, *invocation.Request) (*invocation.Response, error) {
			return nil, errors.New("plain")
		}, "rpc error: code = Unknown desc = plain"},
		{"deadline", func(context.Context, *invocation.Request) (*invocation.Response, error) {
			return nil, context.DeadlineExceeded
		}, "rpc error: code = DeadlineExceeded desc = context deadline exceeded"},
		{
			"panic", func(context.Context, *invocation.Request) (*invocation.Response, error) { panic("p") },
			"rpc error: code = Internal desc = internal error: the call's handler failed; see the log of the sidecar of the called app",
		},
		{"unavailable", func(context.Context, *invocation.Request) (*invocation.Response, error) {
			return nil, status.Error(codes.Unavailable, "later")
		}, "rpc error: code = Unavailable desc = later"},
		{"cut body", func(context.Context, *invocation.Request) (*invocation.Response, error) {
			return &invocation.Response{Status: 200, Stream: io.NopCloser(strings.NewReader("ab")), Length: 5}, nil
		}, "rpc error: code = Internal desc = error invoking app channel: the body of the app's answer was cut: unexpected EOF"},
	} {
		_, address := startServer(t, ServerOptions{Handler: test.h})
		wires(t, func(t *testing.T, o ClientOptions) {
			t.Run(test.name, func(t *testing.T) {
				client := newClient(t, o)
				for _, verb := range []string{"POST", "HEAD"} {
					req := request("")
					req.Verb = verb
					_, err := client.Invoke(within(t), address, req)
					if err == nil || err.Error() != test.want {
						t.Errorf("got %v, want %s", err, test.want)
					}
					if got, want := client.Retriable(err), test.name == "unavailable"; got != want {
						t.Errorf("Retriable = %v", got)
					}
					if test.name == "details" && len(status.Convert(err).Details()) != 1 {
						t.Error("the details were lost")
					}
				}
			})
		})
	}
	_, address := startServer(t, ServerOptions{Handler: func(context.Context, *invocation.Request) (*invocation.Response, error) {
		return nil, status.Error(codes.Internal, long)
	}})
	wires(t, func(t *testing.T, o ClientOptions) {
		_, err := newClient(t, o).Invoke(within(t), address, request(""))
		if status.Code(err) != codes.Internal || !strings.Contains(err.Error(), "žžž") {
			t.Errorf("a long message became %.100q", err)
		}
	})
}

func TestUnreachable(t *testing.T) {
	l := listen(t, "127.0.0.1:0")
	address := l.Addr().String()
	_ = l.Close()
	wires(t, func(t *testing.T, o ClientOptions) {
		client := newClient(t, o)
		for range 2 {
			_, err := client.Invoke(within(t), address, request(""))
			if status.Code(err) != codes.Unavailable || !client.Retriable(err) || !strings.Contains(err.Error(), "connection refused") {
				t.Errorf("got %v", err)
			}
			if want := `rpc error: code = Unavailable desc = connection error: desc = "transport: Error while dialing: dial tcp`; !strings.HasPrefix(err.Error(), want) {
				t.Errorf("got %v", err)
			}
		}
		_, err := client.Invoke(canceled(), address, request(""))
		if !errors.Is(err, context.Canceled) || client.Retriable(err) {
			t.Errorf("a cancelled call: %v", err)
		}
		client.Close()
		if _, err := client.Invoke(within(t), address, request("")); !errors.Is(err, ErrClosed) {
			t.Errorf("a closed client: %v", err)
		}
	})
}

func canceled() context.Context {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	return ctx
}
