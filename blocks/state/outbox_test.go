package state

import (
	"context"
	"errors"
	"reflect"
	"testing"

	"outrigger.dev/api"
	"outrigger.dev/api/apitest"
	commonv1 "outrigger.dev/api/gen/common/v1"
	runtimev1 "outrigger.dev/api/gen/runtime/v1"
	stores "outrigger.dev/components/state"
	"outrigger.dev/telemetry/tracing"
)

// recorder is an outbox of the store st, which takes out operations on the key "app||out" and adds a marker if anything is left.
type recorder struct {
	failure error
	// The latest transaction.
	keys, values, contentTypes []string
	metadata                   []map[string]string
	trace                      [2]string
}

func (r *recorder) Enabled(store string) bool { return store == "st" }

func (r *recorder) Prepare(_ context.Context, store string, operations []stores.Operation, contentTypes []string, traceParent, traceState string) (kept, added []stores.Operation, err error) {
	*r = recorder{failure: r.failure, contentTypes: contentTypes, trace: [2]string{traceParent, traceState}}
	if r.failure != nil {
		return nil, nil, r.failure
	}
	for _, o := range operations {
		r.keys = append(r.keys, store+" "+o.Key())
		if o.Set != nil {
			r.values = append(r.values, string(o.Set.Value.Bytes))
			r.metadata = append(r.metadata, o.Set.Metadata)
		}
		if o.Key() != "app||out" {
			kept = append(kept, o)
		}
	}
	if len(kept) > 0 {
		added = []stores.Operation{{Set: &stores.SetRequest{Key: "marker", Value: stores.Value{Bytes: []byte("0")}}}}
	}
	return kept, added, nil
}

const traceParent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"

func withOutbox(t *testing.T, c Component) (*State, *recorder) {
	t.Helper()
	outbox := new(recorder)
	s := New(Options{AppID: "app", Outbox: outbox})
	if err := s.Add(c); err != nil {
		t.Fatal(err)
	}
	return s, outbox
}

func TestOutbox(t *testing.T) {
	p := &limited{plain: newPlain()}
	s, outbox := withOutbox(t, encrypted(p))
	r := apitest.Router(s.Routes())
	const target = "/v1.0/state/st/transaction"
	got := r.Do("POST", target+"?metadata.q=1", `{"operations":[{"operation":"upsert","request":{"key":"a","value":{"b": "<"},"contentType":"application/json","metadata":{"m":"2"}}},
		{"operation":"upsert","request":{"key":"out","value":"x"}}]}`, "traceparent", traceParent, "tracestate", "a=b")
	if got.Status != 204 {
		t.Fatalf("%d %s", got.Status, got.Body)
	}
	want := recorder{
		keys: []string{"st app||a", "st app||out"}, values: []string{`{"b":"<"}`, `"x"`}, contentTypes: []string{"application/json", ""},
		metadata: []map[string]string{{"m": "2", "q": "1"}, {"q": "1"}}, trace: [2]string{traceParent, "a=b"},
	}
	if !reflect.DeepEqual(*outbox, want) {
		t.Errorf("prepared %+v\nwant %+v", *outbox, want)
	}
	written := p.transactions[0].Operations
	if len(written) != 2 || written[0].Set.Key != "app||a" || written[1].Set.Key != "marker" || string(written[1].Set.Value.Bytes) != "0" {
		t.Fatalf("written %+v", written)
	}
	if plain, err := s.stores.Use("st").Component.cipher.decrypt(written[0].Set.Value.Bytes); err != nil || string(plain) != `{"b":"<"}` {
		t.Errorf("the value is stored as %s", written[0].Set.Value.Bytes)
	}

	t.Run("gRPC", func(t *testing.T) {
		ctx := tracing.NewContext(t.Context(), tracing.PassThrough().Start(tracing.FromHeader([]byte(traceParent), []byte("a=b")), tracing.Client, ""))
		item := &commonv1.StateItem{Key: "a", Value: []byte(`{"b": 1}`), Metadata: map[string]string{"m": "2"}}
		in := &runtimev1.ExecuteStateTransactionRequest{
			StoreName: "st", Metadata: map[string]string{"q": "1"},
			Operations: []*runtimev1.TransactionalStateOperation{
				{OperationType: "upsert", Request: item}, {OperationType: "delete", Request: &commonv1.StateItem{Key: "d"}},
			},
		}
		if _, err := s.Server().ExecuteStateTransaction(ctx, in); err != nil {
			t.Fatal(err)
		}
		want := recorder{keys: []string{"st app||a", "st app||d"}, values: []string{`{"b": 1}`}, metadata: []map[string]string{{"m": "2"}}, trace: [2]string{traceParent, "a=b"}}
		if !reflect.DeepEqual(*outbox, want) {
			t.Errorf("prepared %+v\nwant %+v", *outbox, want)
		}
		if n := len(p.transactions[1].Operations); n != 3 { // although the store takes 2: the limit is for what the app asks for
			t.Errorf("%d operations were written", n)
		}
	})
	t.Run("nothing left", func(t *testing.T) {
		before := len(p.transactions)
		expect{method: "POST", target: target, body: `{"operations":[{"operation":"upsert","request":{"key":"out"}}]}`, status: 204}.check(t, r)
		if len(p.transactions) != before {
			t.Error("an empty transaction was run")
		}
	})
	t.Run("failure", func(t *testing.T) {
		before := len(p.transactions)
		outbox.failure = api.ErrPublishOutbox("app", errors.New("no broker"))
		got := r.Do("POST", target, `{"operations":[{"operation":"upsert","request":{"key":"a"}}]}`)
		if got.Status != 500 || len(p.transactions) != before {
			t.Errorf("%d %s; %d transactions", got.Status, got.Body, len(p.transactions)-before)
		}
		if err := s.Transact(t.Context(), "st", []stores.Operation{{Set: &stores.SetRequest{Key: "a"}}}, nil); !errors.Is(err, outbox.failure) {
			t.Errorf("%v", err)
		}
	})
	t.Run("refused for an etag", func(t *testing.T) {
		outbox.failure = nil
		for _, tc := range []struct {
			failure error
			writes  int
		}{{stores.Mismatch(nil), 2}, {stores.Invalid(nil), 2}, {errors.New("connection lost"), 1}} {
			p.transactions, p.failure = nil, tc.failure
			got := r.Do("POST", target, `{"operations":[{"operation":"upsert","request":{"key":"a","etag":"1"}}]}`)
			if got.Status != 500 || len(p.transactions) != tc.writes {
				t.Fatalf("%v: %d %s; %d transactions", tc.failure, got.Status, got.Body, len(p.transactions))
			}
			if tc.writes == 2 {
				undone := p.transactions[1].Operations
				if len(undone) != 1 || undone[0].Delete == nil || undone[0].Delete.Key != "marker" || undone[0].Delete.ETag != "" {
					t.Errorf("%v: %+v", tc.failure, undone)
				}
			}
		}
		p.failure = nil
	})
	t.Run("checks come first", func(t *testing.T) {
		outbox.failure = errors.New("asked")
		for _, operations := range []string{
			`{"operation":"upsert","request":{"key":"a||b"}}`,
			`{"operation":"upsert","request":{"key":"a"}},{"operation":"x"}`,
			`{"operation":"delete"},{"operation":"delete"},{"operation":"delete"}`,
		} {
			if got := r.Do("POST", target, `{"operations":[`+operations+`]}`); got.Status != 400 {
				t.Errorf("%s: %d %s", operations, got.Status, got.Body)
			}
		}
	})
}

func TestStoreWithoutOutbox(t *testing.T) {
	p := &limited{plain: newPlain()}
	s, outbox := withOutbox(t, Component{Name: "other", Store: p})
	outbox.failure = errors.New("asked")
	expect{
		method: "POST", target: "/v1.0/state/other/transaction",
		body: `{"operations":[{"operation":"upsert","request":{"key":"a","value":1,"contentType":"x"}}]}`, status: 204,
	}.check(t, apitest.Router(s.Routes()))
	if len(p.transactions) != 1 || len(p.transactions[0].Operations) != 1 {
		t.Errorf("%+v", p.transactions)
	}
}
