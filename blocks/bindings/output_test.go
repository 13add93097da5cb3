package bindings

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"testing"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"outrigger.dev/api/apitest"
	runtimev1 "outrigger.dev/api/gen/runtime/v1"
	contract "outrigger.dev/components/bindings"
	"outrigger.dev/telemetry/metrics"
	"outrigger.dev/telemetry/metrics/metricstest"
	"outrigger.dev/telemetry/tracing"
)

// drawer is an output binding like a folder of files.
func drawer() *outputFake {
	files := map[string][]byte{}
	return newOutput(func(_ context.Context, req contract.Request) (*contract.Response, error) {
		name := req.Metadata["fileName"]
		switch req.Operation {
		case "create":
			files[name] = bytes.Clone(req.Data)
			return &contract.Response{Data: []byte(`{"fileName":"` + name + `"}`)}, nil
		case "get":
			data, ok := files[name]
			if !ok {
				return nil, errors.New("file not found: /data/" + name)
			}
			return &contract.Response{Data: data}, nil
		case "delete":
			delete(files, name)
			return nil, nil
		default:
			return &contract.Response{}, nil
		}
	})
}

// The answers are those that Dapr 1.18 was seen to give.
func TestHTTPAnswers(t *testing.T) {
	b := newBlock(t, Options{})
	add(t, b, "ls", drawer())
	add(t, b, "in", &inputFake{})
	routes := apitest.Router(b.Routes())
	failure := func(message string) string {
		return `{"errorCode":"ERR_INVOKE_OUTPUT_BINDING","message":"error invoking output binding ` + message + `"}`
	}
	malformed := func(message string) string {
		return `{"errorCode":"ERR_MALFORMED_REQUEST","message":"failed deserializing HTTP body: ` + message + `"}`
	}
	for _, tc := range []struct {
		name, verb, path, body string
		status                 int
		want                   string
	}{
		{"create", "POST", "ls", `{"operation": "create", "data": {"j": 1}, "metadata": {"fileName": "j.json"}}`, 200, `{"fileName":"j.json"}`},
		{"get what was created", "POST", "ls", `{"operation": "get", "metadata": {"fileName": "j.json"}}`, 200, `{"j":1}`},
		{"create by PUT", "PUT", "ls", `{"operation": "create", "data": "hello", "metadata": {"fileName": "a.txt"}}`, 200, `{"fileName":"a.txt"}`},
		{"a text is quoted", "PUT", "ls", `{"operation": "get", "metadata": {"fileName": "a.txt"}}`, 200, `"hello"`},
		{"an empty response", "POST", "ls", `{"operation": "list"}`, 200, ``},
		{"no response", "POST", "ls", `{"operation": "delete", "metadata": {"fileName": "a.txt"}}`, 204, ``},
		{"a failure", "POST", "ls", `{"operation": "get", "metadata": {"fileName": "a.txt"}}`, 500, failure(`ls: file not found: /data/a.txt`)},
		{
			"an operation that there is not", "POST", "ls", `{"operation": "nope"}`, 500,
			failure(`ls: binding ls does not support operation nope. supported operations:create get list delete`),
		},
		{"names of operations have a case", "POST", "ls", `{"operation": "Get"}`, 500, failure(`ls: binding ls does not support operation Get. supported operations:create get list delete`)},
		{"no operation", "POST", "ls", `{}`, 500, failure(`ls: operation field is missing from request`)},
		{"null", "POST", "ls", `null`, 500, failure(`ls: operation field is missing from request`)},
		{"a binding that there is not", "POST", "none", `{"operation": "get"}`, 500, failure(`none: couldn't find output binding none`)},
		{"a binding that is only an input", "POST", "in", `{"operation": "get"}`, 500, failure(`in: couldn't find output binding in`)},
		{"no JSON", "POST", "ls", `garbage`, 400, malformed(`invalid character 'g' looking for beginning of value`)},
		{"nothing", "POST", "ls", ``, 400, malformed(`EOF`)},
		{"a wrong type", "POST", "ls", `{"operation": 1}`, 400, malformed(`json: cannot unmarshal number into Go struct field OutputBindingRequest.operation of type string`)},
		{"metadata that is no text", "POST", "ls", `{"metadata": {"a": 1}}`, 400, malformed(`json: cannot unmarshal number into Go struct field OutputBindingRequest.metadata of type string`)},
		{"names in any case, and what is unknown", "POST", "ls", `{"OPERATION": "delete", "x": [1]} trailing`, 204, ``},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got := routes.Do(tc.verb, "/v1.0/bindings/"+tc.path+"?metadata.fileName=ignored", tc.body)
			if got.Status != tc.status || string(got.Body) != tc.want {
				t.Errorf("%d %s\nwant %d %s", got.Status, got.Body, tc.status, tc.want)
			}
			if typ := got.Header.Get("Content-Type"); (typ == "application/json") != (tc.status != 204) {
				t.Errorf("content type %q", typ)
			}
		})
	}
	for _, verb := range []string{"GET", "DELETE"} {
		if got := routes.Do(verb, "/v1.0/bindings/ls", "{}"); !got.Unrouted {
			t.Errorf("%s was answered with %d", verb, got.Status)
		}
	}
	x := apitest.New("POST", "/v1.0/bindings/ls", "")
	x.BodyError = errors.New("stream too large")
	if got := routes.Serve(x); got.Status != 400 || string(got.Body) != malformed("stream too large") {
		t.Errorf("%d %s", got.Status, got.Body)
	}
}

func TestHTTPData(t *testing.T) {
	o := newOutput(nil)
	b := newBlock(t, Options{})
	add(t, b, "o", o)
	for _, tc := range []struct{ given, want string }{
		{`"text"`, `"text"`},
		{`null`, `null`},
		{`  { "b" : [ 1 , 2 ] , "a" : { "d":1, "c":2 } }  `, `{"a":{"c":2,"d":1},"b":[1,2]}`},
		{`"<b>&"`, `"\u003cb\u003e\u0026"`},
		{"\"line\u2028break \u2029\"", `"line\u2028break \u2029"`},
		{`"\u0041\/\u00e9"`, `"A/é"`},
		{`12345678901234567890123`, `12345678901234567890123`},
		{`{"n":9007199254740993}`, `{"n":9007199254740993}`},
		{`1.50`, `1.5`},
		{`{"a":1,"a":2}`, `{"a":2}`},
	} {
		before := len(o.requests())
		got := apitest.Router(b.Routes()).Do("POST", "/v1.0/bindings/o", `{"operation":"create","data":`+tc.given+`}`)
		seen := o.requests()
		if got.Status != 204 || len(seen) != before+1 || string(seen[before].Data) != tc.want {
			t.Errorf("%s: %d, %q, want %s", tc.given, got.Status, seen[before:], tc.want)
		}
	}
	apitest.Router(b.Routes()).Do("POST", "/v1.0/bindings/o", `{"operation":"create"}`)
	seen := o.requests()
	if last := seen[len(seen)-1]; string(last.Data) != "null" || last.Metadata == nil || len(last.Metadata) != 0 {
		t.Errorf("without data and metadata: %+v", last)
	}
}

const traceParent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"

func TestHTTPMetadata(t *testing.T) {
	o := newOutput(nil)
	bad := errors.New("it is bad")
	b := newBlock(t, Options{CheckBaggage: func(header string) error {
		if header == "bad" {
			return bad
		}
		return nil
	}})
	add(t, b, "o", o)
	for _, tc := range []struct {
		name    string
		body    string
		headers []string
		want    map[string]string
	}{
		{"the caller's", `"a":"1","traceparent":"own","tracestate":"own","baggage":"own"`, nil, map[string]string{"a": "1", "traceparent": "own", "tracestate": "own", "baggage": "own"}},
		{"the call's", `"a":"1"`, []string{"traceparent", traceParent, "tracestate", "a=b", "baggage", "k=v", "x-other", "o"}, map[string]string{"a": "1", "traceparent": traceParent, "tracestate": "a=b", "baggage": "k=v"}},
		{"the call's win", `"traceparent":"own","tracestate":"own","baggage":"own"`, []string{"traceparent", traceParent, "tracestate", "a=b", "baggage", "k=v"}, map[string]string{"traceparent": traceParent, "tracestate": "a=b", "baggage": "k=v"}},
	} {
		apitest.Router(b.Routes()).Do("POST", "/v1.0/bindings/o", `{"operation":"get","metadata":{`+tc.body+`}}`, tc.headers...)
		seen := o.requests()
		if got := seen[len(seen)-1].Metadata; !maps.Equal(got, tc.want) {
			t.Errorf("%s: %v, want %v", tc.name, got, tc.want)
		}
	}
	before := len(o.requests())
	got := apitest.Router(b.Routes()).Do("POST", "/v1.0/bindings/o", `{"operation":"get"}`, "baggage", "bad")
	if want := `{"errorCode":"ERR_MALFORMED_REQUEST","message":"invalid baggage header: it is bad"}`; got.Status != 400 || string(got.Body) != want {
		t.Errorf("%d %s, want 400 %s", got.Status, got.Body, want)
	}
	if len(o.requests()) != before {
		t.Error("the binding was asked")
	}
}

// answering gives a response with metadata, and an error when asked to get.
func answering() *outputFake {
	return newOutput(func(_ context.Context, req contract.Request) (*contract.Response, error) {
		resp := &contract.Response{Data: []byte("d"), Metadata: map[string]string{"statusCode": "404", "X-Multi": "a\r\nEvil: b", "no name": "x", "umlaut": "ä"}}
		if req.Operation == "get" {
			return resp, errors.New("received status code 404")
		}
		return resp, nil
	})
}

func TestHTTPResponseMetadata(t *testing.T) {
	b := newBlock(t, Options{})
	add(t, b, "o", answering())
	for operation, want := range map[string]int{"create": 200, "get": 500} {
		got := apitest.Router(b.Routes()).Do("POST", "/v1.0/bindings/o", `{"operation":"`+operation+`"}`)
		if got.Status != want || got.Header.Get("metadata.statusCode") != "404" || got.Header.Get("metadata.X-Multi") != "a  Evil: b" || len(got.Header) != 4 {
			t.Errorf("%s: %d %v", operation, got.Status, got.Header)
		}
	}
}

// stream is the transport of a call, for the header that the face sets.
type stream struct{ header metadata.MD }

func (*stream) Method() string { return runtimev1.Dapr_InvokeBinding_FullMethodName }

func (s *stream) SetHeader(md metadata.MD) error { s.header = metadata.Join(s.header, md); return nil }
func (s *stream) SendHeader(metadata.MD) error   { return nil }
func (s *stream) SetTrailer(metadata.MD) error   { return nil }

func call(t *testing.T, b *Bindings, in *runtimev1.InvokeBindingRequest, md metadata.MD) (*runtimev1.InvokeBindingResponse, metadata.MD, error) {
	t.Helper()
	s := &stream{}
	ctx := grpc.NewContextWithServerTransportStream(metadata.NewIncomingContext(t.Context(), md), s)
	out, err := b.Server().InvokeBinding(ctx, in)
	return out, s.header, err
}

func TestGRPC(t *testing.T) {
	b := newBlock(t, Options{})
	o := newOutput(nil)
	add(t, b, "o", o)
	add(t, b, "answers", answering())
	for _, tc := range []struct{ binding, operation, want string }{
		{"none", "get", "error invoking output binding none: couldn't find output binding none"},
		{"o", "", "error invoking output binding o: operation field is missing from request"},
		{"o", "x", "error invoking output binding o: binding o does not support operation x. supported operations:create get list delete"},
		{"answers", "get", "error invoking output binding answers: received status code 404"},
	} {
		_, header, err := call(t, b, &runtimev1.InvokeBindingRequest{Name: tc.binding, Operation: tc.operation}, nil)
		st := status.Convert(err)
		if st.Code() != codes.Internal || st.Message() != tc.want || len(st.Details()) != 1 {
			t.Errorf("%s %s: %v", tc.binding, tc.operation, err)
			continue
		}
		info := st.Details()[0].(*errdetails.ErrorInfo)
		if info.GetReason() != "ERR_INVOKE_OUTPUT_BINDING" || info.GetDomain() != "dapr.io" {
			t.Errorf("%s %s: details %v", tc.binding, tc.operation, info)
		}
		if (tc.binding == "answers") != (len(header["metadata.statuscode"]) == 1) {
			t.Errorf("%s %s: header %v", tc.binding, tc.operation, header)
		}
	}

	out, header, err := call(t, b, &runtimev1.InvokeBindingRequest{Name: "answers", Operation: "create"}, nil)
	if err != nil || string(out.GetData()) != "d" || out.GetMetadata()["statusCode"] != "404" || out.GetMetadata()["umlaut"] != "ä" {
		t.Errorf("%v, %v", out, err)
	}
	if want := (metadata.MD{"metadata.statuscode": {"404"}}); !reflect.DeepEqual(header, want) {
		t.Errorf("header %v, want %v", header, want)
	}
	if out, header, err := call(t, b, &runtimev1.InvokeBindingRequest{Name: "o", Operation: "create", Data: []byte("<raw \xff"), Metadata: map[string]string{"a": "1"}}, nil); err != nil || len(header) != 0 || out.GetData() != nil || out.GetMetadata() != nil {
		t.Errorf("no response: %v, %v, %v", out, header, err)
	}
	if seen := o.requests()[0]; string(seen.Data) != "<raw \xff" || !maps.Equal(seen.Metadata, map[string]string{"a": "1"}) {
		t.Errorf("the binding got %+v", seen)
	}
}

func TestGRPCMetadata(t *testing.T) {
	given := map[string]string{"a": "own", "traceparent": "own", "tracestate": "own", "baggage": "own"}
	got := requestMetadata(given, metadata.MD{
		"a": {"call"}, "b": {"1", "2"}, "traceparent": {"p"}, "tracestate": {"s"}, "baggage": {"k=v"}, ":authority": {"h"}, "grpc-accept-encoding": {"gzip"},
		"grpc-trace-bin": {"\x00\xff"}, "user-agent": {"u"}, "none": {},
	}, nil)
	want := map[string]string{
		"a": "own", "b": "1", "traceparent": "p", "tracestate": "s", "baggage": "own", "dapr-authority": "h", "dapr-grpc-accept-encoding": "gzip",
		"dapr-grpc-trace-bin": "AP8=", "user-agent": "u",
	}
	if !maps.Equal(got, want) {
		t.Errorf("%v\nwant %v", got, want)
	}
	span := tracing.PassThrough().Start(tracing.FromHeader([]byte(traceParent), []byte("a=b")), tracing.Client, "")
	if got := requestMetadata(nil, nil, span); !maps.Equal(got, map[string]string{"traceparent": traceParent, "tracestate": "a=b"}) {
		t.Errorf("of the span came %v", got)
	}
	if got := requestMetadata(given, nil, span); !maps.Equal(got, given) {
		t.Errorf("the span's context replaced the request's: %v", got)
	}
	if given["traceparent"] != "own" {
		t.Error("the request was changed")
	}
	if got := requestMetadata(nil, nil, nil); got == nil {
		t.Error("metadata must not be nil")
	}
	b := newBlock(t, Options{CheckBaggage: func(string) error { return errors.New("it is bad") }})
	_, _, err := call(t, b, &runtimev1.InvokeBindingRequest{Name: "o", Operation: "get"}, metadata.Pairs("baggage", "x"))
	if status.Code(err) != codes.Unknown || err.Error() != "invalid baggage header: it is bad" {
		t.Errorf("bad baggage: %v", err)
	}
}

func TestOutputMetrics(t *testing.T) {
	m := metricstest.New(t, "app")
	b := newBlock(t, Options{Metrics: m})
	add(t, b, "o", answering())
	for _, operation := range []string{"create", "create", "get"} {
		_, _, _ = call(t, b, &runtimev1.InvokeBindingRequest{Name: "o", Operation: operation}, nil)
	}
	got := metricstest.Counted(t, m, "dapr_component_output_binding_count", "component", "operation", "success")
	if want := map[string]float64{"o create true": 2, "o get false": 1}; !maps.Equal(got, want) {
		t.Errorf("counted %v, want %v", got, want)
	}
}

// Names that clients invent share a small room: those of bindings and operations that exist have their own.
func TestInventedNamesInMetrics(t *testing.T) {
	m, err := metrics.New(metrics.Options{AppID: "app", Enabled: true, MaxSeries: 10})
	if err != nil {
		t.Fatal(err)
	}
	b := newBlock(t, Options{Metrics: m})
	add(t, b, "o", answering())
	for i := range 20 {
		_, _, _ = call(t, b, &runtimev1.InvokeBindingRequest{Name: "none", Operation: fmt.Sprint(i)}, nil)
		_, _, _ = call(t, b, &runtimev1.InvokeBindingRequest{Name: "o", Operation: fmt.Sprint(i)}, nil)
	}
	_, _, _ = call(t, b, &runtimev1.InvokeBindingRequest{Name: "o", Operation: "create"}, nil)
	got := metricstest.Counted(t, m, "dapr_component_output_binding_count", "component", "operation", "success")
	if want := map[string]float64{"none 0 false": 1, "  false": 39, "o create true": 1}; !maps.Equal(got, want) {
		t.Errorf("counted %v, want %v", got, want)
	}
}

func TestRecode(t *testing.T) {
	for given, want := range map[string]string{
		"": "null", "text": "null", `{"b":1, "a":"<"}`: `{"a":"\u003c","b":1}`, `"x"`: `"x"`, "12 13": "null", "\xff": "null",
	} {
		if got := recode([]byte(given)); string(got) != want {
			t.Errorf("%q: %s, want %s", given, got, want)
		}
	}
}

func FuzzReadRequest(f *testing.F) {
	for _, seed := range []string{
		`{"operation":"create","data":{"b":"<","a":[1,2.5e3]},"metadata":{"k":"v"}}`, `null`, ``, `{"Data":"x","data":"y"}`, `[]`, `{"metadata":null}`, `{"data":1e999}`, `{"data":"\ud800"}`, `{"operation":"a"}{`,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		req, err := readRequest(body)
		var want struct {
			Metadata  map[string]string
			Data      any
			Operation string
		}
		d := json.NewDecoder(bytes.NewReader(body))
		d.UseNumber() // for numbers of any size are taken
		wantErr := d.Decode(&want)
		if wantErr != nil && err == nil {
			t.Fatalf("%q was taken, though: %v", body, wantErr)
		}
		if err != nil {
			return
		}
		if req.Operation != want.Operation || req.Metadata == nil || len(req.Metadata) != len(want.Metadata) {
			t.Errorf("%q: %+v, want %+v", body, req, want)
		}
		for k, v := range want.Metadata {
			if req.Metadata[k] != v {
				t.Errorf("%q: metadata %v, want %v", body, req.Metadata, want.Metadata)
			}
		}
		if !json.Valid(req.Data) || bytes.ContainsAny(req.Data, "<>&") {
			t.Errorf("%q: data %q", body, req.Data)
		}
	})
}
