package pubsub

import (
	"context"
	"fmt"
	"maps"
	"strings"

	"github.com/google/uuid"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	runtimev1 "outrigger.dev/api/gen/runtime/v1"
	"outrigger.dev/app"
	"outrigger.dev/blocks/internal/cloudevents"
)

// grpcApp delivers to an app that speaks gRPC (Dapr API, delivery: gRPC).
type grpcApp struct {
	app   runtimev1.AppCallbackClient
	alpha runtimev1.AppCallbackAlphaClient
}

func newGRPCApp(conns grpc.ClientConnInterface) *grpcApp {
	return &grpcApp{app: runtimev1.NewAppCallbackClient(conns), alpha: runtimev1.NewAppCallbackAlphaClient(conns)}
}

func (a *grpcApp) deliver(ctx context.Context, d *delivery) (verdict, error) {
	req, err := d.request()
	if err != nil {
		return 0, err
	}
	resp, err := a.app.OnTopicEvent(metadata.NewOutgoingContext(ctx, deliveryMetadata(d.message.Metadata, d.trace)), req)
	switch {
	case status.Code(err) == codes.Unimplemented:
		return discarded, nil
	case err != nil:
		return 0, fmt.Errorf("the app did not process the event: %w", err)
	}
	return grpcVerdict(resp.GetStatus())
}

// request is the message that gRPC apps and streams get.
func (d *delivery) request() (*runtimev1.TopicEventRequest, error) {
	data, err := d.payload()
	if err != nil {
		return nil, err
	}
	e := d.event
	return &runtimev1.TopicEventRequest{
		Id: text(e, cloudevents.ID), Source: text(e, cloudevents.Source), Type: text(e, cloudevents.Type), SpecVersion: text(e, cloudevents.SpecVersion),
		DataContentType: text(e, cloudevents.DataContentType), Topic: utf8(d.topic), Data: data, PubsubName: d.component, Path: d.path, Extensions: extensions(e),
	}, nil
}

// text is a string attribute as a message can hold it, for one that is no UTF-8 would fail the whole call.
func text(e *cloudevents.Event, name string) string { return utf8(e.String(name)) }

func utf8(text string) string { return strings.ToValidUTF8(text, "\ufffd") }

// utf8Map is metadata as a message can hold it.
func utf8Map(in map[string]string) map[string]string {
	out := make(map[string]string, len(in))
	for name, value := range in {
		out[utf8(name)] = utf8(value)
	}
	return out
}

func grpcVerdict(s runtimev1.TopicEventResponse_TopicEventResponseStatus) (verdict, error) {
	switch s {
	case runtimev1.TopicEventResponse_SUCCESS:
		return processed, nil
	case runtimev1.TopicEventResponse_DROP:
		return dropped, nil
	case runtimev1.TopicEventResponse_RETRY:
		return 0, errRetry
	}
	return 0, fmt.Errorf("unknown status returned from app while processing pub/sub event: %d; use SUCCESS, RETRY or DROP", s)
}

// deliveryMetadata turns the metadata of a message into that of a call. What gRPC cannot carry is left out, for it would fail
// the delivery for ever.
func deliveryMetadata(in map[string]string, trace Trace) metadata.MD {
	md := make(metadata.MD, len(in)+3)
	for name, value := range in {
		key := strings.ToLower(name)
		if legalKey(key) && (legalText(value) || strings.HasSuffix(key, "-bin")) {
			md[key] = []string{value}
		}
	}
	maps.Copy(md, app.TraceMetadata(trace.Parent, trace.State))
	return md
}

// legalKey refuses keys that gRPC makes itself, and those with characters it forbids.
func legalKey(key string) bool {
	switch key {
	case "", "content-type", "content-length", "connection", "te", "host", "user-agent", "keep-alive", "proxy-connection", "transfer-encoding", "upgrade":
		return false
	}
	if strings.HasPrefix(key, "grpc-") {
		return false
	}
	for i := range len(key) {
		if c := key[i]; !('a' <= c && c <= 'z' || '0' <= c && c <= '9' || c == '-' || c == '_' || c == '.') {
			return false
		}
	}
	return true
}

func legalText(value string) bool {
	for i := range len(value) {
		if value[i] < ' ' || value[i] > '~' {
			return false
		}
	}
	return true
}

func (a *grpcApp) deliverBulk(ctx context.Context, d *bulkDelivery) ([]verdictOrError, error) {
	req := &runtimev1.TopicEventBulkRequest{
		Id: uuid.NewString(), Metadata: utf8Map(d.metadata), Topic: utf8(d.topic), PubsubName: d.component, Type: cloudevents.BulkType, Path: d.path,
	}
	results := make([]verdictOrError, len(d.entries))
	index := make(map[string]int, len(d.entries))
	for i, e := range d.entries {
		id := utf8(e.ID)
		out := &runtimev1.TopicEventBulkRequestEntry{EntryId: id, ContentType: utf8(e.ContentType), Metadata: utf8Map(e.Metadata)}
		if e.event == nil {
			out.Event = &runtimev1.TopicEventBulkRequestEntry_Bytes{Bytes: e.Data}
		} else {
			data, err := e.event.Payload()
			if err != nil {
				results[i].err = err
				continue
			}
			out.Event = &runtimev1.TopicEventBulkRequestEntry_CloudEvent{CloudEvent: &runtimev1.TopicEventCERequest{
				Id: text(e.event, cloudevents.ID), Source: text(e.event, cloudevents.Source), Type: text(e.event, cloudevents.Type), SpecVersion: text(e.event, cloudevents.SpecVersion),
				DataContentType: text(e.event, cloudevents.DataContentType), Data: data, Extensions: extensions(e.event),
			}}
		}
		results[i].err = errNoStatus
		index[id] = i
		req.Entries = append(req.Entries, out)
	}
	if len(req.Entries) == 0 {
		return results, nil
	}
	ctx = metadata.NewOutgoingContext(ctx, deliveryMetadata(d.metadata, d.trace))
	resp, err := a.app.OnBulkTopicEvent(ctx, req)
	if status.Code(err) == codes.Unimplemented {
		resp, err = a.alpha.OnBulkTopicEventAlpha1(ctx, req)
	}
	switch {
	case status.Code(err) == codes.Unimplemented:
		for _, i := range index {
			results[i] = verdictOrError{verdict: discarded}
		}
		return results, nil
	case err != nil:
		return nil, fmt.Errorf("the app did not process the bulk: %w", err)
	}
	for _, s := range resp.GetStatuses() {
		if i, known := index[s.GetEntryId()]; known {
			results[i].verdict, results[i].err = grpcVerdict(s.GetStatus())
		}
	}
	return results, nil
}
