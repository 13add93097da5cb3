package state

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"testing"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"outrigger.dev/api"
	commonv1 "outrigger.dev/api/gen/common/v1"
	runtimev1 "outrigger.dev/api/gen/runtime/v1"
	"outrigger.dev/blocks/secrets"
	stores "outrigger.dev/components/state"
	"outrigger.dev/telemetry/metrics/metricstest"
)

// fallback answers what no block does, one level deeper than the blocks, whose methods therefore win.
type fallback struct {
	runtimev1.UnimplementedDaprServer
}

// server shows that the faces of blocks can be embedded side by side.
type server struct {
	StateServer
	secrets.SecretsServer
	fallback
}

var _ runtimev1.DaprServer = server{}

func TestEmbedding(t *testing.T) {
	var g runtimev1.DaprServer = server{
		StateServer:   New(Options{}).Server(),
		SecretsServer: secrets.New(secrets.Options{}).Server(),
	}
	if _, err := g.GetState(t.Context(), new(runtimev1.GetStateRequest)); status.Code(err) != codes.FailedPrecondition {
		t.Errorf("GetState: %v", err)
	}
	if _, err := g.GetSecret(t.Context(), new(runtimev1.GetSecretRequest)); status.Code(err) != codes.FailedPrecondition {
		t.Errorf("GetSecret: %v", err)
	}
	if _, err := g.GetMetadata(t.Context(), new(runtimev1.GetMetadataRequest)); status.Code(err) != codes.Unimplemented {
		t.Errorf("GetMetadata: %v", err)
	}
}

// describe is a gRPC error in words: code, message and details.
func describe(err error) string {
	st := status.Convert(err)
	text := st.Code().String() + ": " + st.Message()
	for _, d := range st.Details() {
		switch d := d.(type) {
		case *errdetails.ErrorInfo:
			text += fmt.Sprintf(" [%s %s %v]", d.GetReason(), d.GetDomain(), d.GetMetadata())
		case *errdetails.ResourceInfo:
			text += fmt.Sprintf(" [%s %s]", d.GetResourceType(), d.GetResourceName())
		case *errdetails.BadRequest:
			text += fmt.Sprintf(" [%s: %s]", d.GetFieldViolations()[0].GetField(), d.GetFieldViolations()[0].GetDescription())
		case *errdetails.Help:
			text += " [help]"
		default:
			text += fmt.Sprintf(" [%T]", d)
		}
	}
	return text
}

func item(key, value string) *commonv1.StateItem {
	return &commonv1.StateItem{Key: key, Value: []byte(value)}
}

func TestGRPCErrors(t *testing.T) {
	p := newPlain()
	p.failures["app||bad"] = errors.New("broken")
	p.failures["app||own"] = (&api.Error{HTTP: 418, GRPC: codes.DataLoss, Code: "OWN", Message: "own words"}).WithDetails(api.ErrorInfo("OWN_REASON", nil))
	p.failures["app||old"] = stores.Mismatch(nil)
	p.failures["app||odd"] = stores.Invalid(errors.New("no number"))
	l := &limited{plain: p, failure: stores.Mismatch(nil)}
	all, simple, none := withStore(t, Component{Name: "st", Store: l}).Server(), withStore(t, Component{Name: "st", Store: p}).Server(), New(Options{AppID: "app"}).Server()
	ctx := t.Context()
	get := func(g StateServer, store, key string) error {
		_, err := g.GetState(ctx, &runtimev1.GetStateRequest{StoreName: store, Key: key})
		return err
	}
	save := func(items ...*commonv1.StateItem) error {
		_, err := all.SaveState(ctx, &runtimev1.SaveStateRequest{StoreName: "st", States: items})
		return err
	}
	remove := func(key string) error {
		_, err := all.DeleteState(ctx, &runtimev1.DeleteStateRequest{StoreName: "st", Key: key})
		return err
	}
	removeAll := func(items ...*commonv1.StateItem) error {
		_, err := all.DeleteBulkState(ctx, &runtimev1.DeleteBulkStateRequest{StoreName: "st", States: items})
		return err
	}
	transact := func(g StateServer, kinds ...string) error {
		in := &runtimev1.ExecuteStateTransactionRequest{StoreName: "st"}
		for _, kind := range kinds {
			in.Operations = append(in.Operations, &runtimev1.TransactionalStateOperation{OperationType: kind, Request: item("a", "1")})
		}
		_, err := g.ExecuteStateTransaction(ctx, in)
		return err
	}
	query := func(g StateServer, text string) error {
		_, err := g.QueryStateAlpha1(ctx, &runtimev1.QueryStateRequest{StoreName: "st", Query: text})
		return err
	}
	illegal := "InvalidArgument: input key/keyPrefix 'a||b' can't contain '||' [a||b: input key/keyPrefix 'a||b' can't contain '||'] [state st] [DAPR_STATE_ILLEGAL_KEY dapr.io map[]]"
	for _, tc := range []struct {
		name string
		err  error
		want string
	}{
		{"not configured", get(none, "st", "k"), "FailedPrecondition: state store st is not configured [DAPR_STATE_NOT_CONFIGURED dapr.io map[]]"},
		{"not found", get(all, "x", "k"), "InvalidArgument: state store x is not found [DAPR_STATE_NOT_FOUND dapr.io map[]]"},
		{"illegal get", get(all, "st", "a||b"), illegal},
		{"illegal save", save(item("a||b", "1")), illegal},
		{"illegal delete", remove("a||b"), illegal},
		{"illegal bulk delete", removeAll(item("a", ""), item("a||b", "")), illegal},
		{"empty key on get", get(all, "st", ""), "OK: "},
		{"get", get(all, "st", "bad"), "Internal: fail to get bad from state store st: broken [ERR_STATE_GET dapr.io map[]]"},
		{"get, own status", get(all, "st", "own"), "DataLoss: own words [OWN_REASON dapr.io map[]]"},
		{"nothing to save", save(), "OK: "},
		{"empty key on save", save(item("", "1")), "InvalidArgument: state key cannot be empty [ERR_STATE_SAVE dapr.io map[]]"},
		{"save", save(item("bad", "1")), "Internal: failed saving state in state store st: broken [ERR_STATE_SAVE dapr.io map[]]"},
		{"save, own status", save(item("own", "1")), "DataLoss: own words [OWN_REASON dapr.io map[]]"},
		{"save, mismatch", save(item("old", "1")), "Aborted: failed saving state in state store st: possible etag mismatch. error from state store [ERR_STATE_SAVE dapr.io map[]]"},
		{"save, invalid", save(item("odd", "1")), "InvalidArgument: failed saving state in state store st: invalid etag value: no number [ERR_STATE_SAVE dapr.io map[]]"},
		{"save, bad JSON", save(&commonv1.StateItem{Key: "k", Value: []byte("{"), Metadata: map[string]string{"contentType": "application/json"}}), "Unknown: unexpected end of JSON input"},
		{"delete", remove("bad"), "Internal: failed deleting state with key bad: broken [ERR_STATE_DELETE dapr.io map[]]"},
		{"delete, mismatch", remove("old"), "Aborted: failed deleting state with key old: possible etag mismatch. error from state store [ERR_STATE_DELETE dapr.io map[]]"},
		{"nothing to delete", removeAll(), "OK: "},
		{"bulk delete, empty key", removeAll(item("", "")), "OK: "},
		{"bulk delete", removeAll(item("bad", "")), "Internal: failed deleting state in state store st: broken [ERR_STATE_BULK_DELETE dapr.io map[]]"},
		{"bulk delete, some", removeAll(item("good", ""), item("odd", ""), item("bad", "")), "InvalidArgument: failed deleting state in state store st: invalid etag value: no number\nbroken [ERR_STATE_BULK_DELETE dapr.io map[]]"},
		{"transaction", transact(all, "upsert", "delete"), "Internal: error while executing state transaction: possible etag mismatch. error from state store [ERR_STATE_TRANSACTION dapr.io map[]]"},
		{"not transactional", transact(simple, "frobnicate"), "Unimplemented: state store st doesn't support transactions [help] [state st] [DAPR_STATE_TRANSACTIONS_NOT_SUPPORTED dapr.io map[]]"},
		{"unknown operation", transact(all, "frobnicate"), "Unimplemented: operation type frobnicate not supported [ERR_NOT_SUPPORTED_STATE_OPERATION dapr.io map[]]"},
		{"too many", transact(all, "delete", "delete", "delete"), "InvalidArgument: the transaction contains 3 operations, which is more than what the state store supports: 2 [state st] [DAPR_STATE_TOO_MANY_TRANSACTIONS dapr.io map[currentOpsTransaction:3 maxOpsPerTransaction:2]]"},
		{"query", query(all, "{}"), "Internal: state store st query failed: possible etag mismatch. error from state store [state st] [DAPR_STATE_QUERY_FAILED dapr.io map[]]"},
		{"no query", query(simple, "{}"), "Internal: state store does not support querying [state st] [DAPR_STATE_QUERYING_NOT_SUPPORTED dapr.io map[]]"},
	} {
		if got := describe(tc.err); got != tc.want {
			t.Errorf("%s:\n got %s\nwant %s", tc.name, got, tc.want)
		}
	}
	before := len(l.transactions)
	l.failure = nil
	if err := transact(all); err != nil || len(l.transactions) != before+1 {
		t.Errorf("a transaction of nothing did not reach the store: %v", err)
	}
}

// failingBulk fails bulk reads as a whole.
type failingBulk struct {
	*plain
	err error
}

func (f failingBulk) BulkGet(context.Context, []stores.GetRequest) ([]stores.BulkItem, error) {
	return nil, f.err
}

func TestBulkGetFailsAsAWhole(t *testing.T) {
	for _, tc := range []struct {
		err  error
		want string
		http int
	}{
		{errors.New("no connection"), "Unknown: no connection", 500},
		{status.Error(codes.Unavailable, "away"), "Unavailable: rpc error: code = Unavailable desc = away", 500},
		{context.DeadlineExceeded, "DeadlineExceeded: context deadline exceeded", 500},
		{&api.Error{HTTP: 418, GRPC: codes.DataLoss, Message: "own"}, "DataLoss: own", 418},
	} {
		s := withStore(t, Component{Name: "st", Store: failingBulk{newPlain(), tc.err}})
		_, err := s.Server().GetBulkState(t.Context(), &runtimev1.GetBulkStateRequest{StoreName: "st", Keys: []string{"a"}})
		if got := describe(err); got != tc.want {
			t.Errorf("got %s, want %s", got, tc.want)
		}
		if e := api.AsError(err); e.HTTP != tc.http || e.Code != "ERR_STATE_BULK_GET" {
			t.Errorf("%v: HTTP %d %s", tc.err, e.HTTP, e.Code)
		}
	}
}

func TestGRPCRequests(t *testing.T) {
	p := newPlain()
	g := withStore(t, Component{Name: "st", Store: p}).Server()
	metadata := map[string]string{"contentType": "application/json"}
	in := &runtimev1.SaveStateRequest{StoreName: "st", States: []*commonv1.StateItem{{
		Key: "j", Value: []byte(` { "b" : 1, "a" : 2 } `), Etag: &commonv1.Etag{Value: "5"}, Metadata: metadata,
		Options: &commonv1.StateOptions{Concurrency: commonv1.StateOptions_CONCURRENCY_FIRST_WRITE, Consistency: commonv1.StateOptions_CONSISTENCY_STRONG},
	}}}
	if _, err := g.SaveState(t.Context(), in); err != nil {
		t.Fatal(err)
	}
	in.States = []*commonv1.StateItem{item("b", "\xff\x00")}
	if _, err := g.SaveState(t.Context(), in); err != nil {
		t.Fatal(err)
	}
	want := []stores.SetRequest{
		{Key: "app||j", Value: stores.Value{Bytes: []byte(`{"a":2,"b":1}`), JSON: true}, ETag: "5", Metadata: metadata, Options: stores.Options{Concurrency: stores.FirstWrite, Consistency: stores.Strong}},
		{Key: "app||b", Value: stores.Value{Bytes: []byte("\xff\x00")}},
	}
	if !reflect.DeepEqual(p.sets, want) {
		t.Errorf("sets %+v\nwant %+v", p.sets, want)
	}
	p.items["app||b"] = stores.Item{Found: true, Data: []byte("\xff\x00"), ETag: "1", HasETag: true, Metadata: map[string]string{"ttlExpireTime": "x"}}
	p.failures["app||bad"] = errors.New("torn \xff")
	got, err := g.GetState(t.Context(), &runtimev1.GetStateRequest{StoreName: "st", Key: "b", Consistency: commonv1.StateOptions_CONSISTENCY_EVENTUAL})
	if err != nil || string(got.GetData()) != "\xff\x00" || got.GetEtag() != "1" || got.GetMetadata()["ttlExpireTime"] != "x" || p.gets[0].Consistency != stores.Eventual {
		t.Errorf("get %v, %v", got, err)
	}
	missing, err := g.GetState(t.Context(), &runtimev1.GetStateRequest{StoreName: "st", Key: "missing"})
	if err != nil || len(missing.GetData()) != 0 || missing.GetEtag() != "" {
		t.Errorf("missing %v, %v", missing, err)
	}
	bulk, err := g.GetBulkState(t.Context(), &runtimev1.GetBulkStateRequest{StoreName: "st", Keys: []string{"b", "bad", "missing"}})
	if err != nil || len(bulk.GetItems()) != 3 {
		t.Fatalf("bulk %v, %v", bulk, err)
	}
	if b := bulk.GetItems()[0]; b.GetKey() != "b" || string(b.GetData()) != "\xff\x00" || b.GetEtag() != "1" || b.GetError() != "" {
		t.Errorf("bulk item %v", b)
	}
	if b := bulk.GetItems()[1]; b.GetKey() != "bad" || b.GetError() != "torn \ufffd" || b.GetData() != nil {
		t.Errorf("bulk item %v", b)
	}
	if empty, err := g.GetBulkState(t.Context(), &runtimev1.GetBulkStateRequest{StoreName: "st"}); err != nil || len(empty.GetItems()) != 0 {
		t.Errorf("no keys: %v, %v", empty, err)
	}
	del := &runtimev1.DeleteStateRequest{StoreName: "st", Key: "b", Etag: &commonv1.Etag{Value: "1"}, Options: &commonv1.StateOptions{Concurrency: commonv1.StateOptions_CONCURRENCY_LAST_WRITE}}
	if _, err := g.DeleteState(t.Context(), del); err != nil {
		t.Fatal(err)
	}
	if want := (stores.DeleteRequest{Key: "app||b", ETag: "1", Options: stores.Options{Concurrency: stores.LastWrite}}); !reflect.DeepEqual(p.deletes[0], want) {
		t.Errorf("delete %+v, want %+v", p.deletes[0], want)
	}
	l := &limited{plain: p, result: stores.QueryResult{Items: []stores.QueryItem{{Key: "app||\xff", Data: []byte("1"), ETag: "2", Err: errors.New("e")}}, Token: "t"}}
	found, err := withStore(t, Component{Name: "st", Store: l}).Server().QueryStateAlpha1(t.Context(), &runtimev1.QueryStateRequest{StoreName: "st", Query: "{}"})
	if err != nil || found.GetToken() != "t" || found.GetResults()[0].GetKey() != "\ufffd" || found.GetResults()[0].GetError() != "e" {
		t.Errorf("query %v, %v", found, err)
	}
}

func TestMetrics(t *testing.T) {
	m := metricstest.New(t, "app")
	p := newPlain()
	p.failures["app||bad"] = errors.New("broken")
	s := New(Options{AppID: "app", Metrics: m.State()})
	if err := s.Add(Component{Name: "st", Store: &limited{plain: p}}); err != nil {
		t.Fatal(err)
	}
	g, ctx := s.Server(), t.Context()
	_, _ = g.GetState(ctx, &runtimev1.GetStateRequest{StoreName: "st", Key: "k"})
	_, _ = g.GetState(ctx, &runtimev1.GetStateRequest{StoreName: "st", Key: "bad"})
	_, _ = g.GetState(ctx, &runtimev1.GetStateRequest{StoreName: "st", Key: "a||b"}) // reaches no store
	_, _ = g.SaveState(ctx, &runtimev1.SaveStateRequest{StoreName: "st", States: []*commonv1.StateItem{item("a", ""), item("b", "")}})
	_, _ = g.DeleteState(ctx, &runtimev1.DeleteStateRequest{StoreName: "st", Key: "k"})
	_, _ = g.DeleteBulkState(ctx, &runtimev1.DeleteBulkStateRequest{StoreName: "st", States: []*commonv1.StateItem{item("a", "")}})
	_, _ = g.GetBulkState(ctx, &runtimev1.GetBulkStateRequest{StoreName: "st", Keys: []string{"k"}})
	_, _ = g.ExecuteStateTransaction(ctx, &runtimev1.ExecuteStateTransactionRequest{StoreName: "st"})
	_, _ = g.QueryStateAlpha1(ctx, &runtimev1.QueryStateRequest{StoreName: "st", Query: "{}"})
	got := metricstest.Counted(t, m, "dapr_component_state_count", "component", "operation", "success")
	want := map[string]float64{
		"st get true": 1, "st get false": 1, "st set true": 1, "st delete true": 1, "st bulk_delete true": 1, "st bulk_get true": 1, "st transaction true": 1, "st query true": 1,
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("counted %v, want %v", got, want)
	}
}
