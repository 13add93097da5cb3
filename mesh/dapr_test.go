package mesh

import (
	"context"
	"errors"
	"io"
	"strings"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/anypb"

	commonv1 "outrigger.dev/api/gen/common/v1"
	internalsv1 "outrigger.dev/api/gen/internals/v1"
	"outrigger.dev/invocation"
)

type (
	in       = internalsv1.InternalInvokeRequestStream
	out      = internalsv1.InternalInvokeResponseStream
	peerCall = grpc.BidiStreamingServer[in, out]
)

func dialPeer(t *testing.T, address string) internalsv1.ServiceInvocationClient {
	t.Helper()
	cc, err := grpc.NewClient("passthrough:///"+address, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cc.Close() })
	return internalsv1.NewServiceInvocationClient(cc)
}

// leading is the first message of a call as a Dapr sidecar sends it.
func leading(header map[string]string) *internalsv1.InternalInvokeRequest {
	md := map[string]*internalsv1.ListStringValue{"dapr-caller-app-id": one("a")}
	for k, v := range header {
		md[k] = one(v)
	}
	return &internalsv1.InternalInvokeRequest{
		Ver: internalsv1.APIVersion_V1, Metadata: md,
		Message: &commonv1.InvokeRequest{
			Method: "/m/x", ContentType: "text/plain", Data: &anypb.Any{},
			HttpExtension: &commonv1.HTTPExtension{Verb: commonv1.HTTPExtension_POST, Querystring: "q=1"},
		},
	}
}

// TestDaprCaller plays a Dapr sidecar that calls.
func TestDaprCaller(t *testing.T) {
	var seen *invocation.Request
	_, address := startServer(t, ServerOptions{Handler: func(_ context.Context, req *invocation.Request) (*invocation.Response, error) {
		seen = req
		body, err := req.ReadBody(0)
		if err != nil {
			return nil, status.Errorf(codes.Internal, "error invoking app channel: %s", err)
		}
		resp := &invocation.Response{Status: 201, ContentType: "text/x", Body: body}
		resp.Header.Add("X-A", "1")
		return resp, nil
	}})
	peer := dialPeer(t, address)
	body := strings.Repeat("0123456789", 1000)
	var small []*in // pieces of 2048 bytes
	for seq, rest := uint64(0), body; len(rest) > 0; seq++ {
		n := min(2048, len(rest))
		small = append(small, &in{Payload: payload(seq, rest[:n])})
		rest = rest[n:]
	}
	with := func(header map[string]string, rest ...*in) []*in {
		if len(rest) > 0 && rest[0].Request == nil {
			return append([]*in{{Request: leading(header), Payload: rest[0].Payload}}, rest[1:]...)
		}
		return append([]*in{{Request: leading(header)}}, rest...)
	}
	for _, test := range []struct {
		name     string
		messages []*in
		body     string
		err      string
	}{
		{"no body", with(nil), "", ""},
		{"no body, announced", with(map[string]string{"Content-Length": "0"}), "", ""},
		{"small pieces", with(nil, small...), body, ""},
		{"small pieces, announced", with(map[string]string{"Content-Length": "10000"}, small...), body, ""},
		{"all at once, announced", with(map[string]string{"content-length": "3"}, &in{Payload: payload(0, "abc")}), "abc", ""},
		{"body after the head", append([]*in{{Request: leading(nil)}}, &in{Payload: payload(0, "abc")}), "abc", ""},
		{"empty messages between", append([]*in{{Request: leading(nil)}}, &in{}, &in{Payload: payload(0, "abc")}, &in{}), "abc", ""},
		{"empty payload", with(nil, &in{Payload: payload(0, "")}, &in{Payload: payload(1, "abc")}), "abc", ""},
		{
			"wrong sequence", with(nil, &in{Payload: payload(0, "a")}, &in{Payload: payload(2, "b")}), "",
			"rpc error: code = Internal desc = error invoking app channel: invalid sequence number received: 2 (expected: 1)",
		},
		{
			"wrong first sequence", with(nil, &in{Payload: payload(1, "a")}), "",
			"rpc error: code = Internal desc = error invoking app channel: invalid sequence number received: 1 (expected: 0)",
		},
		{
			"later metadata", append(with(nil, &in{Payload: payload(0, "a")}), &in{Request: leading(nil)}), "",
			"rpc error: code = Internal desc = error invoking app channel: request metadata found in non-leading chunk",
		},
		{
			"missing request",
			[]*in{{Payload: payload(0, "a")}},
			"",
			"rpc error: code = InvalidArgument desc = parsing InternalInvokeRequest error: request does not contain the required fields in the leading chunk",
		},
		{
			"missing metadata",
			[]*in{{Request: &internalsv1.InternalInvokeRequest{Ver: 1, Message: &commonv1.InvokeRequest{Method: "m"}}}},
			"",
			"rpc error: code = InvalidArgument desc = parsing InternalInvokeRequest error: request does not contain the required fields in the leading chunk",
		},
		{
			"missing message",
			[]*in{{Request: &internalsv1.InternalInvokeRequest{Ver: 1, Metadata: map[string]*internalsv1.ListStringValue{"a": one("b")}}}},
			"",
			"rpc error: code = InvalidArgument desc = parsing InternalInvokeRequest error: request does not contain the required fields in the leading chunk",
		},
		{
			"nothing", nil, "",
			"rpc error: code = InvalidArgument desc = parsing InternalInvokeRequest error: request does not contain the required fields in the leading chunk",
		},
		{
			"bad length", with(map[string]string{"Content-Length": "x"}), "",
			`rpc error: code = Internal desc = error invoking app channel: the header Content-Length is "x", which is not a length`,
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			stream, err := peer.CallLocalStream(within(t))
			if err != nil {
				t.Fatal(err)
			}
			for _, m := range test.messages {
				if err := stream.Send(m); err != nil {
					break // the answer says why
				}
			}
			_ = stream.CloseSend()
			var got []byte
			var head *internalsv1.InternalInvokeResponse
			for seq := uint64(0); ; {
				m, err := stream.Recv()
				if err == io.EOF {
					break
				}
				if err != nil {
					if err.Error() != test.err {
						t.Errorf("got %v, want %s", err, test.err)
					}
					return
				}
				if head == nil {
					head = m.GetResponse()
				} else if m.GetResponse() != nil {
					t.Error("a later message has a response")
				}
				if m.GetPayload() != nil {
					if m.GetPayload().GetSeq() != seq {
						t.Errorf("sequence %d, want %d", m.GetPayload().GetSeq(), seq)
					}
					seq++
					got = append(got, m.GetPayload().GetData()...)
				}
			}
			if test.err != "" {
				t.Fatalf("no error, want %s", test.err)
			}
			if string(got) != test.body || head.GetStatus().GetCode() != 201 || head.GetMessage().GetContentType() != "text/x" || head.GetHeaders()["X-A"].GetValues()[0] != "1" {
				t.Errorf("got %d bytes, head %v", len(got), head)
			}
			if seen.Method != "m/x" || seen.Verb != "POST" || seen.Query != "q=1" || seen.ContentType != "text/plain" || seen.Origin != invocation.FromHTTP {
				t.Errorf("got %+v", seen)
			}
			if seen.Header.Get("content-length") != nil {
				t.Error("Content-Length is among the header")
			}
		})
	}
	t.Run("unary", func(t *testing.T) {
		req := leading(map[string]string{"content-type": "application/grpc"})
		req.Message.Data.Value = []byte(body)
		resp, err := peer.CallLocal(within(t), req)
		if err != nil || string(resp.GetMessage().GetData().GetValue()) != body || resp.GetStatus().GetCode() != 201 {
			t.Errorf("%v, %v", resp.GetStatus(), err)
		}
		if seen.Origin != invocation.FromGRPC {
			t.Error("a gRPC client's call looks like an HTTP client's")
		}
	})
	t.Run("version", func(t *testing.T) {
		req := leading(nil)
		req.Ver = 7
		if _, err := peer.CallLocal(within(t), req); err == nil || !strings.Contains(err.Error(), "Unsupported spec version: 7") {
			t.Error(err)
		}
	})
	t.Run("actors", func(t *testing.T) {
		_, err := peer.CallActor(within(t), leading(nil))
		_, err2 := peer.CallActorReminder(within(t), &internalsv1.Reminder{})
		stream, err3 := peer.CallActorStream(within(t), leading(nil))
		if err3 == nil {
			_, err3 = stream.Recv()
		}
		for _, err := range []error{err, err2, err3} {
			if status.Code(err) != codes.Unimplemented || !strings.Contains(err.Error(), "is for actors, which this sidecar does not host") {
				t.Error(err)
			}
		}
	})
}

// TestDaprPeer plays a Dapr sidecar that is called.
func TestDaprPeer(t *testing.T) {
	var got *internalsv1.InternalInvokeRequest
	var body []byte
	var md metadata.MD
	answerWith := []*out{}
	var answerErr error
	address, _ := startPeer(t, &peerServer{stream: func(s peerCall) error {
		with, failure := answerWith, answerErr // a call may be answered before its handler returns
		md, _ = metadata.FromIncomingContext(s.Context())
		var err error
		if got, body, err = whole(s); err != nil {
			return err
		}
		for _, m := range with {
			if err := s.Send(m); err != nil {
				return err
			}
		}
		return failure
	}})
	client := newClient(t, ClientOptions{})
	head := &internalsv1.InternalInvokeResponse{
		Status: &internalsv1.Status{Code: 202}, Headers: map[string]*internalsv1.ListStringValue{"X-A": {Values: []string{"1", "2"}}},
		Message: &commonv1.InvokeResponse{ContentType: "text/x"},
	}
	t.Run("request", func(t *testing.T) {
		answerWith = []*out{{Response: head, Payload: payload(0, "abc")}, {Response: &internalsv1.InternalInvokeResponse{}, Payload: payload(1, "def")}, {}}
		for _, size := range []int{0, 3, chunkSize, chunkSize + 1, 2*chunkSize + 1, 1 << 20} {
			for _, streamed := range []bool{false, true} {
				want := strings.Repeat("x", size)
				req := request(want)
				req.Header.Add("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
				req.Header.Add("X-L", "\xe9")
				if streamed {
					req.Stream, req.Length, req.Body = strings.NewReader(want), int64(size), nil
				}
				resp, err := client.Invoke(within(t), address, req)
				if err != nil {
					t.Fatal(err)
				}
				if err := resp.Buffer(0); err != nil || string(resp.Body) != "abcdef" || resp.Status != 202 || resp.ContentType != "text/x" || len(resp.Header) != 2 {
					t.Errorf("%+v, %v", resp, err)
				}
				if string(body) != want {
					t.Errorf("body of %d bytes, want %d", len(body), size)
				}
				if v, _ := first(got.GetMetadata(), "content-length"); v == "" {
					t.Error("the length is not announced")
				}
				if got.GetVer() != internalsv1.APIVersion_V1 || got.GetMessage().GetMethod() != "m/x" || got.GetMetadata()["Content-Type"].GetValues()[0] != "text/plain" || got.GetMetadata()["X-L"].GetValues()[0] != "é" {
					t.Errorf("got %v", got)
				}
				if bin := md["grpc-trace-bin"]; len(bin) != 1 || len(bin[0]) != 29 || len(md["traceparent"]) != 1 {
					t.Errorf("metadata %v", md)
				}
			}
		}
	})
	t.Run("gRPC client, no verb, no header", func(t *testing.T) {
		answerWith = []*out{{Response: head}}
		resp, err := client.Invoke(within(t), address, &invocation.Request{Method: "M", Origin: invocation.FromGRPC})
		if err != nil {
			t.Fatal(err)
		}
		_ = resp.Close()
		if got.GetMessage().GetHttpExtension() != nil || got.GetMetadata()["content-type"].GetValues()[0] != "application/grpc" || got.GetMetadata()["Content-Length"] != nil {
			t.Errorf("got %v", got)
		}
		if resp, err = client.Invoke(within(t), address, &invocation.Request{Method: "M", Verb: "GET"}); err != nil { // the metadata must not be empty
			t.Fatal(err)
		}
		_ = resp.Close()
	})
	for _, test := range []struct {
		name    string
		answer  []*out
		err     error
		want    string // error of Invoke
		bodyErr string
	}{
		{"status zero", []*out{{Response: &internalsv1.InternalInvokeResponse{Status: &internalsv1.Status{}}}}, nil, "", ""},
		{"missing status", []*out{{Response: &internalsv1.InternalInvokeResponse{}}}, nil, "response does not contain the required fields in the leading chunk", ""},
		{"no answer", nil, nil, "rpc error: code = Internal desc = the other sidecar ended the call without an answer", ""},
		{"wrong sequence", []*out{{Response: head, Payload: payload(0, "a")}, {Payload: payload(2, "b")}}, nil, "", "invalid sequence number received: 2 (expected: 1)"},
		{"later head", []*out{{Response: head, Payload: payload(0, "a")}, {Response: head}}, nil, "", "response metadata found in non-leading chunk"},
		{"error within", []*out{{Response: head, Payload: payload(0, "a")}}, status.Error(codes.Unknown, "broken"), "", "error receiving message: rpc error: code = Unknown desc = broken"},
		{"error", nil, status.Error(codes.PermissionDenied, "access control policy has denied access"), "rpc error: code = PermissionDenied desc = access control policy has denied access", ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			answerWith, answerErr = test.answer, test.err
			resp, err := client.Invoke(within(t), address, request("x"))
			if test.want != "" {
				if err == nil || err.Error() != test.want {
					t.Errorf("got %v, want %s", err, test.want)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			err = resp.Buffer(0)
			if (test.bodyErr != "") != (err != nil) || err != nil && err.Error() != test.bodyErr {
				t.Errorf("body: %v, want %s", err, test.bodyErr)
			}
		})
	}
	answerErr = nil
	t.Run("events", func(t *testing.T) {
		for _, answer := range [][]*out{nil, {{Response: &internalsv1.InternalInvokeResponse{Status: &internalsv1.Status{}, Message: &commonv1.InvokeResponse{ContentType: "text/event-stream"}}, Payload: payload(0, "data: 1\n\n")}}} {
			answerWith = answer
			req := request("")
			req.Verb, req.EventStream = "GET", true
			resp, err := client.Invoke(within(t), address, req)
			if err != nil {
				t.Fatal(err)
			}
			if err := resp.Buffer(0); err != nil || resp.Status != 200 || (len(resp.Body) > 0) != (answer != nil) {
				t.Errorf("%+v, %v", resp, err)
			}
		}
	})
	if p := client.peers[Target{Address: address}]; p.speaks != speaksGRPC || p.conns[0].active != 0 || len(p.conns) != 1 {
		t.Errorf("after all calls: speaks %d, %d connections, %d active", p.speaks, len(p.conns), p.conns[0].active)
	}
}

// TestOldPeer plays a sidecar without CallLocalStream.
func TestOldPeer(t *testing.T) {
	address, _ := startPeer(t, &peerServer{local: func(in *internalsv1.InternalInvokeRequest) (*internalsv1.InternalInvokeResponse, error) {
		return &internalsv1.InternalInvokeResponse{
			Status:  &internalsv1.Status{Code: 200},
			Message: &commonv1.InvokeResponse{ContentType: in.GetMessage().GetContentType(), Data: in.GetMessage().GetData()},
		}, nil
	}})
	client := newClient(t, ClientOptions{})
	resp, err := client.Invoke(within(t), address, request("abc"))
	if err != nil || string(resp.Body) != "abc" || resp.ContentType != "text/plain" || resp.Status != 200 {
		t.Errorf("%+v, %v", resp, err)
	}
	req := request("")
	req.Stream, req.Length = strings.NewReader("abc"), -1
	if _, err = client.Invoke(within(t), address, req); err == nil || err.Error() != "target app 'b' is running a version of Dapr that does not support streaming-based service invocation" {
		t.Error(err)
	}
}

// TestPeerDies ends a call by the death of the peer in the middle of its answer.
func TestPeerDies(t *testing.T) {
	sent := make(chan struct{}, 1)
	address, stop := startPeer(t, &peerServer{stream: func(s peerCall) error {
		_ = s.Send(&out{Response: &internalsv1.InternalInvokeResponse{Status: &internalsv1.Status{Code: 200}}, Payload: payload(0, "abc")})
		sent <- struct{}{}
		<-s.Context().Done()
		return errors.New("gone")
	}})
	client := newClient(t, ClientOptions{})
	resp, err := client.Invoke(within(t), address, request(""))
	if err != nil {
		t.Fatal(err)
	}
	receiveWithin(t, "the answer begins", sent)
	stop()
	if body, err := io.ReadAll(resp.Stream); err == nil || string(body) != "abc" {
		t.Errorf("%q, %v", body, err)
	}
	_ = resp.Close()
	if _, err = client.Invoke(within(t), address, request("")); !client.Retriable(err) {
		t.Errorf("a call to a dead peer: %v", err)
	}
}
