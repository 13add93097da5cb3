package pubsub

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"outrigger.dev/api"
	"outrigger.dev/api/apitest"
	runtimev1 "outrigger.dev/api/gen/runtime/v1"
	"outrigger.dev/components/pubsub"
)

// The answers are those that Dapr 1.18 was seen to give.
func TestBulkPublishRefusals(t *testing.T) {
	h := newHouse(t, Options{})
	b := newBroker()
	h.add("ps", b, "protectedTopics", "secret")
	routes := apitest.Router(h.Routes())
	const unparsed, repeated, mismatch = "error when unmarshaling the request for topic orders pubsub ps: ",
		"error marshaling events to bytes for topic orders pubsub ps. error: entryId is duplicated or not present for entry",
		"error when marshalling cloud event envelope for topic orders pubsub ps: error: mismatch between contentType and event"
	for _, tc := range []struct {
		name, path, body string
		status           int
		code, reason     string
		message          string
	}{
		{"garbage", "ps/orders", "garbage", 400, "ERR_PUBSUB_EVENTS_SER", "DAPR_PUBSUB_UNMARSHAL_EVENTS", unparsed + "invalid character 'g' looking for beginning of value"},
		{"no list", "ps/orders", `{}`, 400, "ERR_PUBSUB_EVENTS_SER", "DAPR_PUBSUB_UNMARSHAL_EVENTS", unparsed + "object at byte 0 where a JSON array is wanted"},
		{"behind the list", "ps/orders", `[] x`, 400, "ERR_PUBSUB_EVENTS_SER", "DAPR_PUBSUB_UNMARSHAL_EVENTS", unparsed + "invalid character 'x' after top-level value"},
		{"empty body", "ps/orders", ``, 400, "ERR_PUBSUB_EVENTS_SER", "DAPR_PUBSUB_UNMARSHAL_EVENTS", unparsed + "unexpected end of JSON input"},
		{"an ID twice", "ps/orders", `[{"entryId":"1","event":1,"contentType":"application/json"},{"entryId":"1","event":2,"contentType":"application/json"}]`, 400, "ERR_PUBSUB_EVENTS_SER", "DAPR_PUBSUB_MARSHAL_EVENTS", repeated},
		{"an empty ID", "ps/orders", `[{"entryId":"","event":1,"contentType":"application/json"}]`, 400, "ERR_PUBSUB_EVENTS_SER", "DAPR_PUBSUB_MARSHAL_EVENTS", repeated},
		{"the type before the ID", "ps/orders", `[{"event":1}]`, 400, "ERR_PUBSUB_EVENTS_SER", "DAPR_PUBSUB_MARSHAL_ENVELOPE", mismatch},
		{"an unknown type", "ps/orders", `[{"entryId":"1","event":"x","contentType":"foo/bar"}]`, 400, "ERR_PUBSUB_EVENTS_SER", "DAPR_PUBSUB_MARSHAL_ENVELOPE", mismatch},
		{"text that is none", "ps/orders", `[{"entryId":"1","event":{},"contentType":"text/plain"}]`, 400, "ERR_PUBSUB_EVENTS_SER", "DAPR_PUBSUB_MARSHAL_ENVELOPE", mismatch},
		{"bytes that are none", "ps/orders", `[{"entryId":"1","event":5,"contentType":"application/octet-stream"}]`, 400, "ERR_PUBSUB_EVENTS_SER", "DAPR_PUBSUB_MARSHAL_ENVELOPE", mismatch},
		{
			"bytes that are no base64", "ps/orders", `[{"entryId":"1","event":"x","contentType":"application/octet-stream"}]`, 400, "ERR_PUBSUB_EVENTS_SER", "DAPR_PUBSUB_MARSHAL_ENVELOPE",
			"error when marshalling cloud event envelope for topic orders pubsub ps: error: unable to decode base64 application/octect-stream data: illegal base64 data at input byte 0",
		},
		{"a bad event", "ps/orders", `[{"entryId":"1","event":"x","contentType":"application/json"},{"entryId":"2","event":"x","contentType":"application/cloudevents+json"}]`, 500, "ERR_PUBSUB_CLOUD_EVENTS_SER", "DAPR_PUBSUB_CLOUD_EVENT_CREATION", "cannot create cloudevent"},
		{"metadata", "ps/orders?metadata.rawPayload=2", `[]`, 400, "ERR_PUBSUB_REQUEST_METADATA", "DAPR_PUBSUB_METADATA_DESERIALIZATION", "failed deserializing metadata. Error: rawPayload value must be a valid boolean: actual is '2'"},
		{"unknown component", "missing/t", `garbage`, 404, "ERR_PUBSUB_NOT_FOUND", "DAPR_PUBSUB_NOT_FOUND", "pubsub missing is not found"},
		{"scopes", "ps/secret", `[{"entryId":"1","event":1,"contentType":"application/json"}]`, 403, "ERR_PUBSUB_FORBIDDEN", "DAPR_PUBSUB_FORBIDDEN", "topic secret is not allowed for app id shop"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			for _, version := range []string{"v1.0", "v1.0-alpha1"} {
				got := routes.Do("POST", "/"+version+"/publish/bulk/"+tc.path, tc.body, "Content-Type", "application/json")
				answer := object(t, got.Body)
				if got.Status != tc.status || answer["errorCode"] != tc.code || answer["message"] != tc.message || !strings.Contains(string(got.Body), `"`+tc.reason+`"`) {
					t.Errorf("%d %s", got.Status, got.Body)
				}
			}
			if len(b.sent()) != 0 {
				t.Error("something was published")
			}
		})
	}
	x := apitest.New("POST", "/v1.0/publish/bulk/ps/t", "")
	x.BodyError = errors.New("stream too large")
	if got := routes.Serve(x); got.Status != 500 || !strings.Contains(string(got.Body), "ERR_PUBSUB_PUBLISH_MESSAGE") {
		t.Errorf("a body that cannot be read: %d %s", got.Status, got.Body)
	}
}

func TestBulkPublishBodies(t *testing.T) {
	h := newHouse(t, Options{})
	b := &nativeBulk{fakeBroker: newBroker()}
	h.add("ps", b)
	routes := apitest.Router(h.Routes())
	for _, body := range []string{"[]", "null"} {
		if got := routes.Do("PUT", "/v1.0/publish/bulk/ps/t", body); got.Status != 204 || len(b.bulks()) != 0 {
			t.Errorf("%s: %d, %d bulks", body, got.Status, len(b.bulks()))
		}
	}
	got := routes.Do("POST", "/v1.0-alpha1/publish/bulk/ps/a/b?metadata.ttlInSeconds=60&metadata.k=request", ` [
		{"entryId":"json", "event":{"big":12345678901234567890,"a":"<"}, "contentType":"application/json", "metadata":{"k":"own"}},
		{"ENTRYID":"text", "event":"a\u00e9", "contentType":"text/plain", "metadata":{}, "unknown":[1]},
		{"entryId":"bytes", "event":"AP8=", "contentType":"application/octet-stream"},
		{"entryId":"xml", "event":"<a/>", "contentType":"application/xml", "metadata":null},
		{"entryId":"event", "event":{"id":"mine"}, "contentType":"application/cloudevents+json"},
		{"entryId":"nothing", "contentType":"application/json", "metadata":{"cloudevent.id":"x"}} ] `, "Content-Type", "text/plain", "Traceparent", parent)
	if got.Status != 204 || len(got.Body) != 0 {
		t.Fatalf("%d %s", got.Status, got.Body)
	}
	bulk := b.bulks()[0]
	if bulk.Topic != "a/b" || !maps.Equal(bulk.Metadata, map[string]string{"ttlInSeconds": "60", "k": "request"}) {
		t.Errorf("%+v", bulk)
	}
	for i, want := range []struct {
		id       string
		event    map[string]any
		metadata map[string]string
	}{
		{"json", map[string]any{"datacontenttype": "application/json", "expiration": "2026-03-01T12:01:00Z", "traceparent": parent, "topic": "a/b"}, map[string]string{"k": "own", "ttlInSeconds": "60"}},
		{"text", map[string]any{"data": "aé", "expiration": "2026-03-01T12:01:00Z"}, map[string]string{"k": "request", "ttlInSeconds": "60"}},
		{"bytes", map[string]any{"data_base64": "AP8=", "expiration": nil}, nil},
		{"xml", map[string]any{"data": "<a/>", "datacontenttype": "application/xml", "expiration": nil}, nil},
		{"event", map[string]any{"id": "mine", "source": "Dapr", "pubsubname": "ps"}, nil},
		{"nothing", map[string]any{"data": nil, "id": "x"}, map[string]string{"cloudevent.id": "x", "k": "request", "ttlInSeconds": "60"}},
	} {
		entry := bulk.Entries[i]
		event := object(t, entry.Data)
		if entry.ID != want.id || entry.ContentType != "application/cloudevents+json" || !maps.Equal(entry.Metadata, want.metadata) || (entry.Metadata == nil) != (want.metadata == nil) {
			t.Errorf("entry %d: %s %s %v", i, entry.ID, entry.ContentType, entry.Metadata)
		}
		for name, value := range want.event {
			if !reflect.DeepEqual(event[name], value) {
				t.Errorf("entry %s: %s is %v, want %v", want.id, name, event[name], value)
			}
		}
	}
	if !strings.Contains(string(bulk.Entries[0].Data), `"data":{"big":12345678901234567890`) {
		t.Errorf("%s", bulk.Entries[0].Data)
	}
}

// Raw entries stay as they are, and only the request decides whether they are.
func TestBulkPublishRaw(t *testing.T) {
	h := newHouse(t, Options{})
	b := &nativeBulk{fakeBroker: newBroker()}
	h.add("ps", b)
	routes := apitest.Router(h.Routes())
	const body = `[{"entryId":"1","event":"AP8=","contentType":"application/octet-stream","metadata":{"rawPayload":"true"}},{"entryId":"2","event":{"a": 1},"contentType":"application/json"}]`
	if got := routes.Do("POST", "/v1.0/publish/bulk/ps/t?metadata.rawPayload=true", body); got.Status != 204 {
		t.Fatalf("%d %s", got.Status, got.Body)
	}
	want := []pubsub.BulkEntry{
		{ID: "1", Data: []byte("\x00\xff"), ContentType: "application/octet-stream", Metadata: map[string]string{"rawPayload": "true"}},
		{ID: "2", Data: []byte(`{"a":1}`), ContentType: "application/json"},
	}
	if got := b.bulks()[0].Entries; !reflect.DeepEqual(got, want) {
		t.Errorf("%+v", got)
	}
	if got := routes.Do("POST", "/v1.0/publish/bulk/ps/t", body); got.Status != 204 || object(t, b.bulks()[1].Entries[0].Data)["data_base64"] != "AP8=" {
		t.Errorf("%d, %s", got.Status, b.bulks()[1].Entries[0].Data)
	}
}

func TestBulkPublishGRPC(t *testing.T) {
	h := newHouse(t, Options{})
	b := &nativeBulk{fakeBroker: newBroker()}
	h.add("ps", b, "protectedTopics", "secret")
	client := h.client()
	call := func(in *runtimev1.BulkPublishRequest) (*runtimev1.BulkPublishResponse, error) {
		ctx := metadata.AppendToOutgoingContext(t.Context(), "traceparent", parent)
		if len(in.GetEntries())%2 == 0 {
			return client.BulkPublishEvent(ctx, in)
		}
		return client.BulkPublishEventAlpha1(ctx, in) //nolint:staticcheck // it is served
	}
	entry := func(id, contentType string) *runtimev1.BulkPublishRequestEntry {
		return &runtimev1.BulkPublishRequestEntry{EntryId: id, Event: []byte("{}"), ContentType: contentType}
	}
	for _, entries := range [][]*runtimev1.BulkPublishRequestEntry{nil, {entry("1", "foo/bar")}, {entry("1", ""), entry("2", "application/json")}} {
		got, err := call(&runtimev1.BulkPublishRequest{PubsubName: "ps", Topic: "t", Entries: entries})
		if err != nil || len(got.GetFailedEntries()) != 0 {
			t.Errorf("%d entries: %v %v", len(entries), got, err)
		}
	}
	if bulks := b.bulks(); len(bulks) != 2 || object(t, bulks[0].Entries[0].Data)["datacontenttype"] != "foo/bar" || object(t, bulks[0].Entries[0].Data)["traceparent"] != parent {
		t.Errorf("%+v", bulks)
	}
	for _, tc := range []struct {
		in     *runtimev1.BulkPublishRequest
		code   codes.Code
		reason string
	}{
		{&runtimev1.BulkPublishRequest{Topic: "t"}, codes.InvalidArgument, "DAPR_PUBSUB_NAME_EMPTY"},
		{&runtimev1.BulkPublishRequest{PubsubName: "none", Topic: "t"}, codes.InvalidArgument, "DAPR_PUBSUB_NOT_FOUND"},
		{&runtimev1.BulkPublishRequest{PubsubName: "ps"}, codes.InvalidArgument, "DAPR_PUBSUB_TOPIC_NAME_EMPTY"},
		{&runtimev1.BulkPublishRequest{PubsubName: "ps", Topic: "t", Metadata: map[string]string{"rawPayload": "x"}}, codes.InvalidArgument, "DAPR_PUBSUB_METADATA_DESERIALIZATION"},
		{&runtimev1.BulkPublishRequest{PubsubName: "ps", Topic: "t", Entries: []*runtimev1.BulkPublishRequestEntry{entry("1", ""), entry("1", "")}}, codes.InvalidArgument, "DAPR_PUBSUB_MARSHAL_EVENTS"},
		{&runtimev1.BulkPublishRequest{PubsubName: "ps", Topic: "t", Entries: []*runtimev1.BulkPublishRequestEntry{entry("", "")}}, codes.InvalidArgument, "DAPR_PUBSUB_MARSHAL_EVENTS"},
		{&runtimev1.BulkPublishRequest{PubsubName: "ps", Topic: "secret", Entries: []*runtimev1.BulkPublishRequestEntry{entry("1", "")}}, codes.PermissionDenied, "DAPR_PUBSUB_FORBIDDEN"},
	} {
		if _, err := call(tc.in); status.Code(err) != tc.code || reasonOf(err) != tc.reason {
			t.Errorf("%v: %v, reason %s", tc.in, err, reasonOf(err))
		}
	}
	b.bulk = func(pubsub.BulkPublishRequest) ([]error, error) { return []error{nil, errBroker}, nil }
	if got, err := call(&runtimev1.BulkPublishRequest{PubsubName: "ps", Topic: "t", Entries: []*runtimev1.BulkPublishRequestEntry{entry("1", ""), entry("2", "")}}); status.Code(err) != codes.Internal || reasonOf(err) != "DAPR_PUBSUB_PUBLISH_MESSAGE" {
		t.Errorf("a failed entry: %v, %v", got, err)
	}
}

// What a broker says of a bulk, and what the app is told.
func TestBulkPublishOutcomes(t *testing.T) {
	other := errors.New("other \"cause\"\n")
	for _, tc := range []struct {
		name    string
		results []error
		err     error
		want    map[string]string
	}{
		{"nothing", nil, nil, nil},
		{"all published", []error{nil, nil, nil}, nil, nil},
		{"one failed", []error{nil, errBroker, nil}, errBroker, map[string]string{"b": "no broker"}},
		{"failed without an error", []error{nil, nil, other}, nil, map[string]string{"c": other.Error()}},
		{"an error of its own for each", []error{errBroker, nil, other}, errBroker, map[string]string{"a": "no broker", "c": other.Error()}},
		{"an error without results", nil, errBroker, map[string]string{"a": "no broker", "b": "no broker", "c": "no broker"}},
		{"an error that names none", []error{nil, nil, nil}, errBroker, map[string]string{"a": "no broker", "b": "no broker", "c": "no broker"}},
		{"too few results", []error{nil}, errBroker, map[string]string{"b": "no broker", "c": "no broker"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			h := newHouse(t, Options{})
			h.add("ps", &nativeBulk{fakeBroker: newBroker(), bulk: func(pubsub.BulkPublishRequest) ([]error, error) { return tc.results, tc.err }})
			got := apitest.Router(h.Routes()).Do("POST", "/v1.0/publish/bulk/ps/t",
				`[{"entryId":"a","event":1,"contentType":"application/json"},{"entryId":"b","event":1,"contentType":"application/json"},{"entryId":"c","event":1,"contentType":"application/json"}]`)
			if tc.want == nil {
				if got.Status != 204 || len(got.Body) != 0 {
					t.Errorf("%d %s", got.Status, got.Body)
				}
				return
			}
			var answer struct {
				FailedEntries []struct{ EntryID, Error string }
				ErrorCode     string
			}
			if err := json.Unmarshal(got.Body, &answer); err != nil {
				t.Fatalf("%s: %v", got.Body, err)
			}
			failed := map[string]string{}
			for _, e := range answer.FailedEntries {
				failed[e.EntryID] = e.Error
			}
			if got.Status != 500 || answer.ErrorCode != "ERR_PUBSUB_PUBLISH_MESSAGE" || !maps.Equal(failed, tc.want) {
				t.Errorf("%d %s", got.Status, got.Body)
			}
			if got.Header.Get("metadata.responseData") != string(got.Body) || !strings.HasPrefix(got.Header.Get("metadata.error"), "error when publishing to topic t in pubsub ps: ") {
				t.Errorf("headers %v", got.Header)
			}
			for _, values := range got.Header {
				if strings.ContainsAny(values[0], "\r\n") {
					t.Errorf("a header breaks the response: %q", values)
				}
			}
		})
	}
}

// A broker without bulks gets the entries one by one, at most a hundred at a time, with their own metadata only.
func TestBulkPublishOneByOne(t *testing.T) {
	h := newHouse(t, Options{})
	b := newBroker()
	var running, most atomic.Int64
	full := make(chan struct{})
	open := sync.OnceFunc(func() { close(full) })
	b.publish = func(_ context.Context, req pubsub.PublishRequest) error {
		n := running.Add(1)
		defer running.Add(-1)
		for m := most.Load(); n > m && !most.CompareAndSwap(m, n); m = most.Load() {
		}
		if n == defaultBulkParallel {
			open()
		}
		<-full // nobody goes on before the others have come
		if strings.HasSuffix(string(req.Data), "7") {
			return errBroker
		}
		return nil
	}
	h.add("ps", b, "x", "{namespace}")
	var entries []pubsub.BulkEntry
	for i := range 120 {
		e := pubsub.BulkEntry{ID: fmt.Sprint(i), Data: fmt.Append(nil, i), ContentType: "text/plain"}
		if i%2 == 0 {
			e.Metadata = map[string]string{"i": fmt.Sprint(i)}
		}
		entries = append(entries, e)
	}
	failed, err := h.BulkPublish(t.Context(), BulkPublication{Component: "ps", Topic: "t", Entries: entries, Metadata: map[string]string{"rawPayload": "true", "r": "1"}})
	var e *api.Error
	if !errors.As(err, &e) || e.Code != "ERR_PUBSUB_PUBLISH_MESSAGE" || len(failed) != 12 || failed[1].ID != "17" || !errors.Is(failed[1].Err, errBroker) {
		t.Errorf("%v, failed %v", err, failed)
	}
	if most.Load() != defaultBulkParallel {
		t.Errorf("%d at a time", most.Load())
	}
	for _, m := range b.sent() {
		want := map[string]string(nil)
		if (m.Data[len(m.Data)-1]-'0')%2 == 0 {
			want = map[string]string{"i": string(m.Data), "rawPayload": "true", "r": "1"}
		}
		if m.Topic != "prodt" || m.ContentType != "text/plain" || !maps.Equal(m.Metadata, want) {
			t.Errorf("%+v", m)
		}
	}
	if len(b.sent()) != 120 {
		t.Errorf("%d were published", len(b.sent()))
	}
}

// Entries of a body are told apart from it: what a broker keeps does not change with the server's buffer.
func FuzzBulkEntries(f *testing.F) {
	for _, s := range []string{
		`[]`, `null`, `[null]`, `[{"entryId":"1","event":{"a":1},"contentType":"application/json"}]`, `[{"entryId":"1","event":"eA==","contentType":"application/octet-stream","metadata":{"a":"b"}}]`,
		`[{"entryId":"\ud800","event":"\ud800","contentType":"text/x"},{"entryId":"2","contentType":"application/json"}]`, `[{"metadata":{"a":1}}]`, `[{"entryId":"1"},]`,
	} {
		f.Add([]byte(s))
	}
	p := New(Options{AppID: "shop"})
	f.Fuzz(func(t *testing.T, body []byte) {
		kept := slices.Clone(body)
		list, err := p.parseEntries("ps", "t", body)
		if err != nil {
			var e *api.Error
			if !errors.As(err, &e) || e.HTTP != 400 || list != nil {
				t.Fatalf("%v, %d entries", err, len(list))
			}
			return
		}
		var std []struct {
			EntryID     string
			Event       any
			ContentType string
			Metadata    map[string]string
		}
		if err := json.Unmarshal(body, &std); err != nil || len(std) != len(list) {
			t.Fatalf("%d entries, but %v, %d", len(list), err, len(std))
		}
		clear(body)
		seen := map[string]bool{}
		for i, e := range list {
			if e.ID == "" || seen[e.ID] {
				t.Fatalf("ID %q", e.ID)
			}
			seen[e.ID] = true
			if e.ID != std[i].EntryID || e.ContentType != std[i].ContentType || !maps.Equal(e.Metadata, std[i].Metadata) {
				t.Fatalf("%q: %+v, want %+v", kept, e, std[i])
			}
			text, isText := std[i].Event.(string)
			switch {
			case json.Valid(e.Data) && strings.Contains(e.ContentType, "json"):
			case isText && text == string(e.Data):
			case isText && decoded(text) == string(e.Data):
			default:
				t.Fatalf("%q: data %q, want %v", kept, e.Data, std[i].Event)
			}
		}
	})
}

func decoded(text string) string {
	data, _ := base64.StdEncoding.DecodeString(text)
	return string(data)
}
