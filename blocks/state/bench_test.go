package state

import (
	"context"
	"testing"

	"outrigger.dev/api"
	"outrigger.dev/api/apitest"
	stores "outrigger.dev/components/state"
)

// quick is a store that costs nothing, so that benchmarks measure the block.
type quick struct{ item stores.Item }

func (q *quick) Get(context.Context, stores.GetRequest) (stores.Item, error) { return q.item, nil }
func (q *quick) Set(context.Context, stores.SetRequest) error                { return nil }
func (q *quick) Delete(context.Context, stores.DeleteRequest) error          { return nil }
func (q *quick) Close() error                                                { return nil }

// still is an exchange whose reply goes nowhere.
type still struct {
	*apitest.Exchange
	body []byte
}

func (s *still) ReadBody() ([]byte, error)   { return s.body, nil }
func (*still) SetHeader(string, string)      {}
func (*still) SetStatus(int)                 {}
func (*still) Reply([]byte)                  {}
func (s *still) RawQuery() string            { return "" }
func (s *still) Context() context.Context    { return context.Background() }
func (s *still) Header(string) (none []byte) { return nil }

func benchCall(s *State, route int, method, target, body string, params ...string) *api.Call {
	routes := s.Routes()
	routes[route].Parameters()
	call := &api.Call{Exchange: &still{Exchange: apitest.New(method, target, ""), body: []byte(body)}, Route: &routes[route]}
	for i, p := range params {
		call.SetParameter(i, p)
	}
	return call
}

func BenchmarkGetHTTP(b *testing.B) {
	s := withStore(b, Component{Name: "st", Store: &quick{stores.Item{Found: true, Data: []byte(`{"item":"pizza","qty":2}`), ETag: "1", HasETag: true}}})
	call := benchCall(s, 0, "GET", "/v1.0/state/st/k", "", "st", "k")
	b.ReportAllocs()
	for b.Loop() {
		if err := s.handleGet(call); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkSaveHTTP(b *testing.B) {
	s := withStore(b, Component{Name: "st", Store: &quick{}})
	call := benchCall(s, 1, "POST", "/v1.0/state/st", `[{"key":"k","value":{"item":"pizza","qty":2}}]`, "st")
	b.ReportAllocs()
	for b.Loop() {
		if err := s.handleSave(call); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkBulkGetHTTP(b *testing.B) {
	s := withStore(b, Component{Name: "st", Store: &quick{stores.Item{Found: true, Data: []byte(`{"item":"pizza","qty":2}`), ETag: "1", HasETag: true}}})
	call := benchCall(s, 3, "POST", "/v1.0/state/st/bulk", `{"keys":["a","b","c","d"],"parallelism":1}`, "st")
	b.ReportAllocs()
	for b.Loop() {
		if err := s.handleBulkGet(call); err != nil {
			b.Fatal(err)
		}
	}
}
