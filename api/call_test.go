package api_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"

	"outrigger.dev/api"
	"outrigger.dev/api/apitest"
)

func TestMetadataFromQuery(t *testing.T) {
	for query, want := range map[string]map[string]string{
		"":                                     nil,
		"a=b":                                  nil,
		"metadata.a=1&metadata.b=x%20y+z&c=d":  {"a": "1", "b": "x y z"},
		"metadata.a=1&metadata.a=2":            {"a": "1"},
		"Metadata.a=1&metadata.B=2&metadata.=": {"B": "2", "": ""},
		"metadata.a=%zz&metadata.b=1":          {"b": "1"},
		"metadata.a=1;x&metadata.b=1":          {"b": "1"},
	} {
		call := &api.Call{Exchange: apitest.New("GET", "/x?"+query, "")}
		if got := call.Metadata(); !reflect.DeepEqual(got, want) {
			t.Errorf("%q gives %v, want %v", query, got, want)
		}
	}
	call := &api.Call{Exchange: apitest.New("GET", "/x?a=&b=1&b=2", "")}
	for name, want := range map[string]string{"a": "", "b": "1"} {
		if got, ok := call.Query(name); !ok || got != want {
			t.Errorf("Query(%s) = %q, %v", name, got, ok)
		}
	}
	if _, ok := call.Query("c"); ok {
		t.Error("an absent parameter is there")
	}
}

func TestMergeMetadata(t *testing.T) {
	base, over := map[string]string{"a": "1", "b": "1"}, map[string]string{"b": "2"}
	if got := api.MergeMetadata(base, over); !reflect.DeepEqual(got, map[string]string{"a": "1", "b": "2"}) {
		t.Errorf("got %v", got)
	}
	if base["b"] != "1" || len(over) != 1 {
		t.Error("an argument was changed")
	}
	if api.MergeMetadata(nil, nil) != nil {
		t.Error("nothing gives something")
	}
}

func TestErrorJSON(t *testing.T) {
	e := (&api.Error{HTTP: 400, GRPC: codes.InvalidArgument, Code: "ERR_X", Message: "a > b && \"c\""}).WithDetails(
		&errdetails.BadRequest{FieldViolations: []*errdetails.BadRequest_FieldViolation{{Field: "f", Description: "d"}}},
		api.ResourceInfo("state", "st", "desc"), api.ErrorInfo("REASON", nil),
		&errdetails.Help{Links: []*errdetails.Help_Link{{Description: "d", Url: "u"}}},
		&errdetails.RetryInfo{RetryDelay: durationpb.New(1500000000)},
		durationpb.New(0),
	)
	text := string(e.AppendJSON(nil))
	if strings.ContainsAny(text, "<>&") {
		t.Errorf("not HTML-escaped: %s", text)
	}
	var got struct {
		ErrorCode, Message string
		Details            []map[string]any
	}
	if err := json.Unmarshal([]byte(text), &got); err != nil {
		t.Fatalf("%v: %s", err, text)
	}
	if got.ErrorCode != "ERR_X" || got.Message != `a > b && "c"` || len(got.Details) != 6 {
		t.Errorf("got %+v", got)
	}
	want := []map[string]any{
		{"@type": "type.googleapis.com/google.rpc.BadRequest", "field_violations": []any{map[string]any{"field": "f", "description": "d"}}},
		{"@type": "type.googleapis.com/google.rpc.ResourceInfo", "resource_type": "state", "resource_name": "st", "owner": "", "description": "desc"},
		{"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": "REASON", "domain": "dapr.io", "metadata": nil},
		{"@type": "type.googleapis.com/google.rpc.Help", "links": []any{map[string]any{"description": "d", "url": "u"}}},
		{"@type": "type.googleapis.com/google.rpc.RetryInfo", "retry_delay": "1.5s"},
	}
	for i, w := range want {
		if !reflect.DeepEqual(got.Details[i], w) {
			t.Errorf("detail %d: %v, want %v", i, got.Details[i], w)
		}
	}
	if got.Details[5]["unknownDetailType"] != "google.protobuf.Duration" {
		t.Errorf("an unknown detail: %v", got.Details[5])
	}
	s := status.Convert(e)
	if s.Code() != codes.InvalidArgument || s.Message() != e.Message || len(s.Details()) != 6 {
		t.Errorf("gRPC: %v", s)
	}
	if want := `api error: code = InvalidArgument desc = a > b && "c"`; e.Error() != want {
		t.Errorf("text: %s", e)
	}
}

func TestAsError(t *testing.T) {
	e := &api.Error{Code: "ERR_X"}
	if api.AsError(fmt.Errorf("wrapped: %w", e)) != e {
		t.Error("a wrapped error is not found")
	}
	got := api.AsError(errors.New("boom"))
	if got.HTTP != 500 || got.GRPC != codes.Unknown || string(got.AppendJSON(nil)) != `{"errorCode":"ERROR","message":"boom"}` {
		t.Errorf("got %+v", got)
	}
	if text := string(api.AsError(errors.New("")).AppendJSON(nil)); text != `{"errorCode":"ERROR","message":"unknown error"}` {
		t.Errorf("got %s", text)
	}
}

func TestStatusMapping(t *testing.T) {
	toHTTP := map[codes.Code]int{0: 200, 1: 408, 2: 500, 3: 400, 4: 504, 5: 404, 6: 409, 7: 403, 8: 429, 9: 400, 10: 409, 11: 400, 12: 501, 13: 500, 14: 503, 15: 500, 16: 401, 99: 500}
	for code, want := range toHTTP {
		if got := api.HTTPStatus(code); got != want {
			t.Errorf("HTTPStatus(%s) = %d, want %d", code, got, want)
		}
	}
	toGRPC := map[int]codes.Code{
		200: codes.OK, 204: codes.OK, 299: codes.OK, 302: codes.Unknown, 400: codes.Internal, 401: codes.Unauthenticated, 403: codes.PermissionDenied, 404: codes.NotFound,
		408: codes.Canceled, 409: codes.AlreadyExists, 418: codes.Unknown, 429: codes.ResourceExhausted, 500: codes.Unknown, 501: codes.Unimplemented, 503: codes.Unavailable, 504: codes.DeadlineExceeded,
	}
	for httpStatus, want := range toGRPC {
		if got := api.GRPCCode(httpStatus); got != want {
			t.Errorf("GRPCCode(%d) = %s, want %s", httpStatus, got, want)
		}
	}
}
