package pubsub

import (
	"context"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	runtimev1 "outrigger.dev/api/gen/runtime/v1"
	"outrigger.dev/app"
	"outrigger.dev/app/apptest"
	"outrigger.dev/components/pubsub"
)

func TestGRPCVerdicts(t *testing.T) {
	reply := func(s runtimev1.TopicEventResponse_TopicEventResponseStatus, err error) func(context.Context, *runtimev1.TopicEventRequest) (*runtimev1.TopicEventResponse, error) {
		return func(context.Context, *runtimev1.TopicEventRequest) (*runtimev1.TopicEventResponse, error) {
			if err != nil {
				return nil, err
			}
			return &runtimev1.TopicEventResponse{Status: s}, nil
		}
	}
	for _, tc := range []struct {
		name string
		app  func(context.Context, *runtimev1.TopicEventRequest) (*runtimev1.TopicEventResponse, error)
		want verdictCase
	}{
		{"SUCCESS", reply(runtimev1.TopicEventResponse_SUCCESS, nil), success},
		{"RETRY", reply(runtimev1.TopicEventResponse_RETRY, nil), failure},
		{"DROP", reply(runtimev1.TopicEventResponse_DROP, nil), drop},
		{"unknown", reply(9, nil), failure},
		{"no method", nil, discard},
		{"error", reply(0, status.Error(codes.Internal, "x")), failure},
		{"not found", reply(0, status.Error(codes.NotFound, "x")), failure},
		{"unavailable", reply(0, status.Error(codes.Unavailable, "x")), failure},
	} {
		t.Run(tc.name, func(t *testing.T) {
			checkVerdict(t, tc.want, func() app.Channel { return serveGRPC(t, &apptest.Callbacks{TopicEvent: tc.app}) })
		})
	}
}

func TestGRPCDelivery(t *testing.T) {
	type request struct {
		in *runtimev1.TopicEventRequest
		md metadata.MD
	}
	got := make(chan request, 1)
	channel := serveGRPC(t, &apptest.Callbacks{TopicEvent: func(ctx context.Context, in *runtimev1.TopicEventRequest) (*runtimev1.TopicEventResponse, error) {
		md, _ := metadata.FromIncomingContext(ctx)
		got <- request{in, md}
		return &runtimev1.TopicEventResponse{}, nil
	}})
	for _, tc := range []struct {
		name, data, contentType string
		raw                     bool
		metadata                map[string]string
		want                    string // data; "nack" when it cannot be made
		attributes              [5]string
		extensions              map[string]any // nil: not looked at
		header                  map[string]string
	}{
		{
			name: "text", data: `{"id":"1","source":"s","type":"t","specversion":"1.0","datacontenttype":"text/plain; charset=utf-8","data":"h\u00e9","time":"n","ext":{"a":[1,null]},"traceparent":"` + parent + `","tracestate":"a=b"}`,
			want: "hé", attributes: [5]string{"1", "s", "t", "1.0", "text/plain; charset=utf-8"},
			extensions: map[string]any{"time": "n", "ext": map[string]any{"a": []any{1.0, nil}}, "traceparent": parent, "tracestate": "a=b"},
			header:     map[string]string{"traceparent": parent, "tracestate": "a=b", "pubsubname": "ps"},
		},
		{name: "large numbers", data: `{"datacontenttype":"application/json","data":{"n":12345678901234567890}}`, want: `{"n":12345678901234567890}`},
		{name: "bytes", data: `{"data_base64":"AP8=","datacontenttype":"application/json"}`, want: "\x00\xff"},
		{name: "an unknown type", data: `{"datacontenttype":"foo/bar","data":"x"}`, want: "x"},
		{name: "no data", data: `{}`, want: "", extensions: map[string]any{}},
		{name: "attributes that are no text", data: `{"id":5,"source":null,"type":[],"data":"x"}`, want: "x", attributes: [5]string{}},
		{name: "text that is none", data: `{"datacontenttype":"text/plain","data":5}`, want: "nack"},
		{name: "bad base64", data: `{"data_base64":"*"}`, want: "nack"},
		{name: "base64 that is no text", data: `{"data_base64":5}`, want: "nack"},
		{name: "raw", data: "\x00\xff", raw: true, want: "\x00\xff", attributes: [5]string{"*", "Dapr", "com.dapr.event.sent", "1.0", "application/octet-stream"}, extensions: map[string]any{"topic": "orders", "pubsubname": "ps"}},
		{
			name: "binary content", data: "\x00\xff", contentType: "application/octet-stream", metadata: map[string]string{"CE_ID": "7", "ce_Type": "ty", "ce_ext": "e", "other": "o"},
			want: "\x00\xff", attributes: [5]string{"7", "", "ty", "", "application/octet-stream"}, extensions: map[string]any{"ext": "e"}, header: map[string]string{"other": "o"},
		},
		{name: "no bytes", data: "", contentType: "application/octet-stream", want: ""},
		{
			name: "trace of the message", data: `{"data":"x"}`, metadata: map[string]string{"traceparent": parent2, "tracestate": "c=d"}, want: "x",
			extensions: map[string]any{"traceid": parent2, "traceparent": parent2, "tracestate": "c=d"}, header: map[string]string{"traceparent": parent2, "tracestate": "c=d"},
		},
		{
			name: "metadata", data: "{}", contentType: "application/json", metadata: map[string]string{"Key": "v", "umlaut": "ä", "with space": "x", "grpc-status": "0", "a-bin": "\xff", "content-length": "4"},
			header: map[string]string{"key": "v", "umlaut": "", "with space": "", "grpc-status": "", "a-bin": "\xff", "content-length": ""},
		},
		{name: "text that is no UTF-8", data: "{\"id\":\"\xff\",\"ext\":\"\xfe\",\"data\":\"\"}", attributes: [5]string{"\ufffd"}, extensions: map[string]any{"ext": "\ufffd"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			h := newHouse(t, Options{})
			s := Subscription{Rules: []Rule{{Path: "a/b"}}}
			if tc.raw {
				s.Metadata = map[string]string{"rawPayload": "true"}
			}
			sub := h.subscribed(newBroker(), channel, s)
			v := sub.do(t, &pubsub.Message{Data: []byte(tc.data), Metadata: tc.metadata, ContentType: tc.contentType})
			if (v.String() == "nack") != (tc.want == "nack") {
				t.Fatalf("%s: %v", v, v.err)
			}
			if tc.want == "nack" {
				if len(got) > 0 {
					t.Errorf("delivered: %v", <-got)
				}
				return
			}
			r := apptest.Receive(t, "the request", got)
			in := r.in
			if string(in.GetData()) != tc.want || in.GetTopic() != "orders" || in.GetPubsubName() != "ps" || in.GetPath() != "a/b" {
				t.Errorf("%v", in)
			}
			for i, value := range [5]string{in.GetId(), in.GetSource(), in.GetType(), in.GetSpecVersion(), in.GetDataContentType()} {
				if want := tc.attributes[i]; want != "" && value != want && (want != "*" || len(value) != 36) {
					t.Errorf("attribute %d is %q, want %q", i, value, want)
				}
			}
			if tc.extensions != nil && !equalJSON(t, in.GetExtensions().AsMap(), tc.extensions) {
				t.Errorf("extensions %v, want %v", in.GetExtensions(), tc.extensions)
			}
			for name, want := range tc.header {
				if value := strings.Join(r.md[name], "|"); value != want {
					t.Errorf("metadata %s is %q, want %q", name, value, want)
				}
			}
		})
	}
}
