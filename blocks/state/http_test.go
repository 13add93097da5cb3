package state

import (
	"errors"
	"reflect"
	"regexp"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"

	"outrigger.dev/api"
	"outrigger.dev/api/apitest"
	stores "outrigger.dev/components/state"
)

const illegalKey = `{"errorCode":"ERR_MALFORMED_REQUEST","message":"api error: code = InvalidArgument desc = input key/keyPrefix 'a||b' can't contain '||'","details":[` +
	`{"@type":"type.googleapis.com/google.rpc.BadRequest","field_violations":[{"description":"api error: code = InvalidArgument desc = input key/keyPrefix 'a||b' can't contain '||'","field":"a||b"}]},` +
	`{"@type":"type.googleapis.com/google.rpc.ResourceInfo","description":"","owner":"","resource_name":"st","resource_type":"state"},` +
	`{"@type":"type.googleapis.com/google.rpc.ErrorInfo","domain":"dapr.io","metadata":null,"reason":"DAPR_STATE_ILLEGAL_KEY"}]}`

func TestStoreChecks(t *testing.T) {
	none := apitest.Router(New(Options{AppID: "app"}).Routes())
	some, _ := newState(t, nil)
	info := func(reason, metadata string) string {
		return `"details":[{"@type":"type.googleapis.com/google.rpc.ErrorInfo","domain":"dapr.io","metadata":` + metadata + `,"reason":"` + reason + `"}]}`
	}
	for _, e := range []expect{
		{method: "GET", target: "/v1.0/state/x/k"},
		{method: "POST", target: "/v1.0/state/x", body: "garbage"},
		{method: "DELETE", target: "/v1.0/state/x/k"},
		{method: "POST", target: "/v1.0/state/x/bulk", body: "garbage"},
		{method: "PUT", target: "/v1.0/state/x/transaction", body: "garbage"},
		{method: "POST", target: "/v1.0-alpha1/state/x/query", body: "garbage"},
	} {
		metadata := `{"appID":"app"}`
		if strings.HasSuffix(e.target, "query") {
			metadata = "null"
		}
		e.status, e.want = 500, `{"errorCode":"ERR_STATE_STORE_NOT_CONFIGURED","message":"state store x is not configured",`+info("DAPR_STATE_NOT_CONFIGURED", metadata)
		e.check(t, none)
		e.status, e.want = 400, `{"errorCode":"ERR_STATE_STORE_NOT_FOUND","message":"state store x is not found",`+info("DAPR_STATE_NOT_FOUND", metadata)
		e.check(t, some.Routes())
	}
}

func TestSaveAndGet(t *testing.T) {
	s, _ := newState(t, nil)
	r := apitest.Router(s.Routes())
	for _, tc := range []struct{ value, want string }{
		{`{"qty": 2, "item": "pizza"}`, `{"item":"pizza","qty":2}`},
		{`"a string"`, `"a string"`},
		{`42`, `42`},
		{`true`, `true`},
		{`null`, `null`},
		{`[1, "two", {"three": 3.50}]`, `[1,"two",{"three":3.5}]`},
		{`12345678901234567890`, `12345678901234567890`},
		{`1E+21`, `1e+21`},
		{`"\u017elu\u0165 \ud83d\udc0e <&>"`, `"žluť 🐎 \u003c\u0026\u003e"`},
		{`"AAEC/w=="`, `"AAEC/w=="`},
		{"\"\xff\"", `"�"`},
		{`{"a":1,"a":2}`, `{"a":2}`},
	} {
		expect{method: "POST", target: "/v1.0/state/st", body: `[{"key":"k","value":` + tc.value + `}]`, status: 204}.check(t, r)
		got := expect{method: "GET", target: "/v1.0/state/st/k", status: 200, want: tc.want}.check(t, r)
		if got.Header.Get("Content-Type") != "application/json" || len(got.Header.Get("Etag")) != 36 {
			t.Errorf("headers %v", got.Header)
		}
	}
	for _, e := range []expect{
		{name: "no value is null", method: "PUT", target: "/v1.0/state/st", body: `[{"key":"n"}]`, status: 204},
		{name: "read back", method: "GET", target: "/v1.0/state/st/n", status: 200, want: "null"},
		{name: "names in any case", method: "POST", target: "/v1.0/state/st", body: `[{"KEY":"u","Value":1,"unknown":{"a":[]},"contentType":"x/y"}] trailing`, status: 204},
		{name: "read back", method: "GET", target: "/v1.0/state/st/u?consistency=odd", status: 200, want: "1"},
		{name: "escaped path", method: "POST", target: "/v1.0/state/st", body: `[{"key":"sp ace","value":1},{"key":"pl+us","value":2},{"key":"sl/ash","value":3}]`, status: 204},
		{name: "space", method: "GET", target: "/v1.0/state/st/sp%20ace", status: 200, want: "1"},
		{name: "plus is space", method: "GET", target: "/v1.0/state/st/sp+ace", status: 200, want: "1"},
		{name: "plus", method: "GET", target: "/v1.0/state/st/pl%2Bus", status: 200, want: "2"},
		{name: "slash", method: "GET", target: "/v1.0/state/st/sl%2Fash", status: 200, want: "3"},
		{name: "a key called bulk", method: "GET", target: "/v1.0/state/st/bulk", status: 204},
		{name: "missing", method: "GET", target: "/v1.0/state/st/missing", status: 204},
		{name: "empty", method: "POST", target: "/v1.0/state/st", body: `[]`, status: 204},
		{name: "null", method: "POST", target: "/v1.0/state/st", body: `null`, status: 204},
		{name: "illegal on get", method: "GET", target: "/v1.0/state/st/a%7C%7Cb", status: 400, want: illegalKey},
		{name: "illegal on save", method: "POST", target: "/v1.0/state/st", body: `[{"key":"ok"},{"key":"a||b","value":1}]`, status: 400, want: illegalKey},
		{name: "and nothing was saved", method: "GET", target: "/v1.0/state/st/ok", status: 204},
		{name: "illegal on delete", method: "DELETE", target: "/v1.0/state/st/a%7C%7Cb", status: 400, want: illegalKey},
		{name: "illegal on bulk get", method: "POST", target: "/v1.0/state/st/bulk", body: `{"keys":["a","a||b"]}`, status: 400, want: illegalKey},
		{name: "illegal in a transaction", method: "POST", target: "/v1.0/state/st/transaction", body: `{"operations":[{"operation":"delete","request":{"key":"a||b"}}]}`, status: 400, want: illegalKey},
	} {
		t.Run(e.name, func(t *testing.T) { e.check(t, r) })
	}
}

func malformed(text string) string {
	return `{"errorCode":"ERR_MALFORMED_REQUEST","message":"` + text + `"}`
}

func TestMalformedSave(t *testing.T) {
	s, _ := newState(t, nil)
	for _, tc := range []struct{ body, want string }{
		{``, `EOF`},
		{`garbage`, `invalid character 'g' looking for beginning of value`},
		{`{"key":"notarray"}`, `json: cannot unmarshal object into Go value of type []state.SetRequest`},
		{`[{"key":"a"`, `unexpected EOF`},
		{`[{"key":"a",}]`, `invalid character '}' looking for beginning of object key string`},
		{`[{"key":"a","value":1e400}]`, `json: cannot unmarshal number 1e400 into Go struct field SetRequest.value of type float64`},
		{`[{"key":5}]`, `json: cannot unmarshal number into Go struct field SetRequest.key of type string`},
		{`[{"key":"a","etag":5}]`, `json: cannot unmarshal number into Go struct field SetRequest.etag of type string`},
		{`[{"key":"a","metadata":{"ttlInSeconds":5}}]`, `json: cannot unmarshal number into Go struct field SetRequest.metadata of type string`},
		{`[{"key":"a","contentType":5}]`, `json: cannot unmarshal number into Go struct field SetRequest.contentType of type string`},
		{`[1]`, `json: cannot unmarshal number into Go value of type state.SetRequest`},
		{`[{"key":"a","value":` + strings.Repeat("[", 10000) + strings.Repeat("]", 10000) + `}]`, `invalid character '[' exceeded max depth`},
		{`[{"value":"nokey"}]`, `\"key\" is a required field`},
		{`[{"key":"a"},{"key":""}]`, `\"key\" is a required field`},
		{`[null]`, `\"key\" is a required field`},
	} {
		got := apitest.Router(s.Routes()).Do("POST", "/v1.0/state/st", tc.body)
		text := string(got.Body)
		if got.Status != 400 || text != malformed(tc.want) {
			t.Errorf("%.60s: %d %s, want %s", tc.body, got.Status, text, tc.want)
		}
	}
	x := apitest.New("POST", "/v1.0/state/st", "[]")
	x.BodyError = api.ErrBodyTooLarge
	if got := apitest.Router(s.Routes()).Serve(x); got.Status != 400 || string(got.Body) != malformed("stream too large") {
		t.Errorf("too large: %d %s", got.Status, got.Body)
	}
}

func TestETags(t *testing.T) {
	s, _ := newState(t, nil)
	r := apitest.Router(s.Routes())
	uuid := regexp.MustCompile(`[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}`)
	save := func(item string) apitest.Reply { return r.Do("POST", "/v1.0/state/st", "["+item+"]") }
	get := func() string { return r.Do("GET", "/v1.0/state/st/e", "").Header.Get("Etag") }
	check := func(what string, got apitest.Reply, status int, want string) {
		t.Helper()
		if text := uuid.ReplaceAllString(string(got.Body), "<etag>"); got.Status != status || text != want {
			t.Errorf("%s: %d %s\nwant %d %s", what, got.Status, text, status, want)
		}
	}
	check("first", save(`{"key":"e","value":1,"options":{"concurrency":"first-write"}}`), 204, "")
	check("first again", save(`{"key":"e","value":1,"options":{"concurrency":"first-write"}}`), 409,
		`{"errorCode":"ERR_STATE_SAVE","message":"failed saving state in state store st: possible etag mismatch. error from state store: item already exists and no etag was passed"}`)
	check("right", save(`{"key":"e","value":2,"etag":"`+get()+`"}`), 204, "")
	check("wrong", save(`{"key":"e","value":2,"etag":"999"}`), 409,
		`{"errorCode":"ERR_STATE_SAVE","message":"failed saving state in state store st: possible etag mismatch. error from state store: state etag not match for key=app||e: current=<etag>, expect=999"}`)
	check("delete wrong", r.Do("DELETE", "/v1.0/state/st/e", "", "If-Match", "999"), 409,
		`{"errorCode":"ERR_STATE_DELETE","message":"failed deleting state with key e: possible etag mismatch. error from state store: state etag not match for key=app||e: current=<etag>, expect=999"}`)
	check("transaction", r.Do("POST", "/v1.0/state/st/transaction", `{"operations":[{"operation":"upsert","request":{"key":"other","value":1}},{"operation":"upsert","request":{"key":"e","value":1,"etag":"999"}}]}`), 500,
		`{"errorCode":"ERR_STATE_TRANSACTION","message":"error while executing state transaction: possible etag mismatch. error from state store: state etag not match for key=app||e: current=<etag>, expect=999"}`)
	check("nothing of it", r.Do("GET", "/v1.0/state/st/other", ""), 204, "")
	check("null etag", save(`{"key":"e","value":3,"etag":null}`), 204, "")
	check("empty etag", save(`{"key":"e","value":3,"etag":""}`), 204, "")
	check("delete, empty etag", r.Do("DELETE", "/v1.0/state/st/e", "", "If-Match", ""), 204, "")
	check("delete what is gone", r.Do("DELETE", "/v1.0/state/st/e", ""), 204, "")
	check("odd concurrency", save(`{"key":"e","options":{"concurrency":"sideways"}}`), 500,
		`{"errorCode":"ERR_STATE_SAVE","message":"failed saving state in state store st: unrecognized concurrency model 'sideways'"}`)
}

func TestMetadata(t *testing.T) {
	p := newPlain()
	l := &limited{plain: p}
	r := apitest.Router(withStore(t, Component{Name: "st", Store: l}).Routes())
	p.items["app||k"] = stores.Item{Found: true, Data: []byte("1"), Metadata: map[string]string{"ttlExpireTime": "2030-01-01T00:00:00Z"}}
	got := r.Do("GET", "/v1.0/state/st/k?metadata.a=1&metadata.a=2&consistency=strong&x=y", "")
	if want := []string{"2030-01-01T00:00:00Z"}; !reflect.DeepEqual(got.Header["Metadata.ttlexpiretime"], want) || got.Header.Get("Etag") != "" {
		t.Errorf("headers %v", got.Header)
	}
	if want := (stores.GetRequest{Key: "app||k", Metadata: map[string]string{"a": "1"}, Consistency: stores.Strong}); !reflect.DeepEqual(p.gets[0], want) {
		t.Errorf("get %+v, want %+v", p.gets[0], want)
	}
	r.Do("POST", "/v1.0/state/st?metadata.a=query&metadata.c=3", `[{"key":"k","metadata":{"a":"item","b":"2"},"options":{"concurrency":"last-write","consistency":"eventual"},"etag":"7"}]`)
	want := stores.SetRequest{
		Key: "app||k", Value: stores.Value{Bytes: []byte("null"), JSON: true}, ETag: "7", Metadata: map[string]string{"a": "query", "b": "2", "c": "3"},
		Options: stores.Options{Concurrency: stores.LastWrite, Consistency: stores.Eventual},
	}
	if !reflect.DeepEqual(p.sets[0], want) {
		t.Errorf("set %+v, want %+v", p.sets[0], want)
	}
	r.Do("DELETE", "/v1.0/state/st/k?metadata.a=1&concurrency=first-write&consistency=strong", "", "If-Match", "7")
	if want := (stores.DeleteRequest{Key: "app||k", ETag: "7", Metadata: map[string]string{"a": "1"}, Options: stores.Options{Concurrency: stores.FirstWrite, Consistency: stores.Strong}}); !reflect.DeepEqual(p.deletes[0], want) {
		t.Errorf("delete %+v, want %+v", p.deletes[0], want)
	}
	r.Do("POST", "/v1.0/state/st/transaction?metadata.q=1", `{"operations":[{"operation":"upsert","request":{"key":"","value":"x","metadata":{"o":"2"}}},{"request":{"key":"d","etag":"1"},"operation":"delete"}],"metadata":{"q":"body","b":"3"}}`)
	q := map[string]string{"q": "1"}
	wantTx := stores.TransactionRequest{
		Operations: []stores.Operation{
			{Set: &stores.SetRequest{Key: "app||", Value: stores.Value{Bytes: []byte(`"x"`), JSON: true}, Metadata: map[string]string{"o": "2", "q": "1"}}},
			{Delete: &stores.DeleteRequest{Key: "app||d", ETag: "1", Metadata: q}},
		},
		Metadata: map[string]string{"q": "1", "b": "3"},
	}
	if len(l.transactions) != 1 || !reflect.DeepEqual(l.transactions[0], wantTx) {
		t.Errorf("transactions %+v, want %+v", l.transactions, wantTx)
	}
}

func TestBulkGet(t *testing.T) {
	s, store := newState(t, nil)
	r := apitest.Router(s.Routes())
	for key, value := range map[string]stores.Value{
		"app||json": {Bytes: []byte(`{"a":"<"}`), JSON: true}, "app||text": {Bytes: []byte("plain <words>")}, "app||bytes": {Bytes: []byte("\x00\xff")}, "app||empty": {},
	} {
		if err := store.Set(t.Context(), stores.SetRequest{Key: key, Value: value}); err != nil {
			t.Fatal(err)
		}
	}
	etag := regexp.MustCompile(`"etag":"[^"]*"`)
	for _, tc := range []struct {
		body   string
		status int
		want   string
	}{
		{`{"keys":["json","missing","text","bytes","empty"],"parallelism":2}`, 200, `[{"key":"json","data":{"a":"\u003c"},"etag":""},{"key":"missing"},{"key":"text","data":"plain \u003cwords\u003e","etag":""},{"key":"bytes","data":"AP8=","etag":""},{"key":"empty","etag":""}]` + "\n"},
		{`{"keys":[]}`, 200, "[]\n"},
		{`{}`, 200, "[]\n"},
		{`null`, 200, "[]\n"},
		{`{"KEYS":["missing"],"metadata":{"a":"b"},"x":1} {`, 200, `[{"key":"missing"}]` + "\n"},
		{`garbage`, 400, malformed(`failed deserializing HTTP body: invalid character 'g' looking for beginning of value`)},
		{``, 400, malformed(`failed deserializing HTTP body: EOF`)},
		{`{"keys":["a",1]}`, 400, malformed(`failed deserializing HTTP body: json: cannot unmarshal number into Go struct field bulkGetBody.keys of type string`)},
		{`{"keys":["a"],"parallelism":1.5}`, 400, malformed(`failed deserializing HTTP body: json: cannot unmarshal number 1.5 into Go struct field bulkGetBody.parallelism of type int`)},
		{`{"keys":["a"],"metadata":{"a":1}}`, 400, malformed(`failed deserializing HTTP body: json: cannot unmarshal number into Go struct field bulkGetBody.metadata of type string`)},
	} {
		got := r.Do("POST", "/v1.0/state/st/bulk", tc.body)
		if text := etag.ReplaceAllString(string(got.Body), `"etag":""`); got.Status != tc.status || text != tc.want {
			t.Errorf("%s: %d %s\nwant %d %s", tc.body, got.Status, text, tc.status, tc.want)
		}
	}
}

func TestBulkGetWithoutBulk(t *testing.T) {
	p := newPlain()
	p.items["app||a"] = stores.Item{Found: true, Data: []byte("1"), ETag: "3", HasETag: true, Metadata: map[string]string{"z": "1", "b": "2"}}
	p.failures["app||bad"] = errors.New("broken \"line\"")
	r := apitest.Router(withStore(t, Component{Name: "st", Store: p}).Routes())
	expect{
		method: "POST", target: "/v1.0/state/st/bulk", body: `{"keys":["bad","a","missing","panic"]}`, status: 200,
		want: `[{"key":"bad","error":"broken \"line\""},{"key":"a","data":1,"etag":"3","metadata":{"b":"2","z":"1"}},{"key":"missing"},{"key":"panic","error":"the state store panicked: boom"}]` + "\n",
	}.check(t, r)
}

func TestFailures(t *testing.T) {
	p := newPlain()
	p.failures["app||bad"] = errors.New("broken")
	p.failures["app||own"] = &api.Error{HTTP: 418, GRPC: codes.DataLoss, Code: "OWN", Message: "own words"}
	p.failures["app||old"] = stores.Mismatch(nil)
	p.failures["app||odd"] = stores.Invalid(errors.New("no number"))
	l := &limited{plain: p, failure: errors.New("deadlock")}
	r := apitest.Router(withStore(t, Component{Name: "st", Store: l}).Routes())
	simple := apitest.Router(withStore(t, Component{Name: "st", Store: p}).Routes())
	op := func(s string) string { return `{"operations":[` + s + `]}` }
	info := `{"@type":"type.googleapis.com/google.rpc.ResourceInfo","description":"","owner":"","resource_name":"st","resource_type":"state"},{"@type":"type.googleapis.com/google.rpc.ErrorInfo","domain":"dapr.io","metadata":`
	for _, e := range []expect{
		{"get", "GET", "/v1.0/state/st/bad", "", nil, 500, `{"errorCode":"ERR_STATE_GET","message":"fail to get bad from state store st: broken"}`},
		{"get, own status", "GET", "/v1.0/state/st/own", "", nil, 418, `{"errorCode":"ERR_STATE_GET","message":"fail to get own from state store st: api error: code = DataLoss desc = own words"}`},
		{"save", "POST", "/v1.0/state/st", `[{"key":"bad"}]`, nil, 500, `{"errorCode":"ERR_STATE_SAVE","message":"failed saving state in state store st: broken"}`},
		{"save, own status", "POST", "/v1.0/state/st", `[{"key":"own"}]`, nil, 418, `{"errorCode":"ERR_STATE_SAVE","message":"failed saving state in state store st: api error: code = DataLoss desc = own words"}`},
		{"save, invalid etag", "POST", "/v1.0/state/st", `[{"key":"odd","etag":"x"}]`, nil, 400, `{"errorCode":"ERR_STATE_SAVE","message":"failed saving state in state store st: invalid etag value: no number"}`},
		{"save, some fail", "POST", "/v1.0/state/st", `[{"key":"good"},{"key":"bad"},{"key":"old"}]`, nil, 409, `{"errorCode":"ERR_STATE_SAVE","message":"failed saving state in state store st: broken\npossible etag mismatch. error from state store"}`},
		{"and others do not", "GET", "/v1.0/state/st/good", "", nil, 200, "null"},
		{"delete", "DELETE", "/v1.0/state/st/bad", "", nil, 500, `{"errorCode":"ERR_STATE_DELETE","message":"failed deleting state with key bad: broken"}`},
		{"delete, old etag", "DELETE", "/v1.0/state/st/old", "", nil, 409, `{"errorCode":"ERR_STATE_DELETE","message":"failed deleting state with key old: possible etag mismatch. error from state store"}`},
		{"transaction", "POST", "/v1.0/state/st/transaction", op(`{"operation":"delete","request":{"key":"a"}}`), nil, 500, `{"errorCode":"ERR_STATE_TRANSACTION","message":"error while executing state transaction: deadlock"}`},
		{
			"too many operations", "POST", "/v1.0/state/st/transaction", op(`{"operation":"delete"},{"operation":"delete","request":null},{"operation":"delete","request":{}}`), nil, 400,
			`{"errorCode":"ERR_STATE_STORE_TOO_MANY_TRANSACTIONS","message":"the transaction contains 3 operations, which is more than what the state store supports: 2","details":[` + info + `{"currentOpsTransaction":"3","maxOpsPerTransaction":"2"},"reason":"DAPR_STATE_TOO_MANY_TRANSACTIONS"}]}`,
		},
		{"unknown operation", "POST", "/v1.0/state/st/transaction", op(`{"operation":"frobnicate","request":5}`), nil, 400, `{"errorCode":"ERR_NOT_SUPPORTED_STATE_OPERATION","message":"operation type frobnicate not supported"}`},
		{"operation without name", "POST", "/v1.0/state/st/transaction", op(`null`), nil, 400, `{"errorCode":"ERR_NOT_SUPPORTED_STATE_OPERATION","message":"operation type  not supported"}`},
		{"bad request", "POST", "/v1.0/state/st/transaction", op(`{"operation":"upsert","request":"x"}`), nil, 400, malformed(`failed deserializing HTTP body: request of operation 1 (upsert): string at byte 0 where a JSON object is wanted, in \"\\\"x\\\"\"`)},
		{"metadata not text", "POST", "/v1.0/state/st/transaction", op(`{"operation":"upsert","request":{"metadata":{"a":1}}}`), nil, 400, malformed(`failed deserializing HTTP body: request of operation 1 (upsert): number at byte 17 where a JSON string is wanted, in \"{\\\"metadata\\\":{\\\"a\\\":1}}\"`)},
		{"bad body", "POST", "/v1.0/state/st/transaction", `garbage`, nil, 400, malformed(`failed deserializing HTTP body: invalid character 'g' looking for beginning of value`)},
		{"empty body", "POST", "/v1.0/state/st/transaction", ``, nil, 400, malformed(`failed deserializing HTTP body: EOF`)},
		{"no operations", "POST", "/v1.0/state/st/transaction", op(``), nil, 204, ""},
		{"query", "POST", "/v1.0-alpha1/state/st/query", `{}`, nil, 500, `{"errorCode":"ERR_STATE_QUERY","message":"state store st query failed: deadlock","details":[` + info + `null,"reason":"DAPR_STATE_QUERY_FAILED"}]}`},
		{"bad query", "POST", "/v1.0-alpha1/state/st/query", `garbage`, nil, 500, `{"errorCode":"ERR_STATE_QUERY","message":"state store st query failed: failed to parse JSON query body: invalid character 'g' looking for beginning of value","details":[` + info + `null,"reason":"DAPR_STATE_QUERY_FAILED"}]}`},
	} {
		t.Run(e.name, func(t *testing.T) { e.check(t, r) })
	}
	help := `{"@type":"type.googleapis.com/google.rpc.Help","links":[{"description":"Check the list of state stores and the features they support","url":"https://docs.dapr.io/reference/components-reference/supported-state-stores/"}]},`
	expect{"", "POST", "/v1.0/state/st/transaction", "garbage", nil, 500, `{"errorCode":"ERR_STATE_STORE_NOT_SUPPORTED","message":"state store st doesn't support transactions","details":[` + help + info + `null,"reason":"DAPR_STATE_TRANSACTIONS_NOT_SUPPORTED"}]}`}.check(t, simple)
	expect{"", "POST", "/v1.0-alpha1/state/st/query", "garbage", nil, 500, `{"errorCode":"ERR_STATE_STORE_NOT_SUPPORTED","message":"state store does not support querying","details":[` + info + `null,"reason":"DAPR_STATE_QUERYING_NOT_SUPPORTED"}]}`}.check(t, simple)
	x := apitest.New("POST", "/v1.0-alpha1/state/st/query", "{}")
	x.BodyError = api.ErrBodyTooLarge
	if got := apitest.Router(r).Serve(x); got.Status != 400 || string(got.Body) != `{"errorCode":"ERR_BODY_READ","message":"failed to read request body: stream too large"}` {
		t.Errorf("too large: %d %s", got.Status, got.Body)
	}
}

func TestQuery(t *testing.T) {
	l := &limited{plain: newPlain(), result: stores.QueryResult{
		Items: []stores.QueryItem{
			{Key: "app||k", Data: []byte(`{"a":"&"}`), ETag: "1", HasETag: true},
			{Key: "other||type||id||k", Err: errors.New("torn")},
			{Key: "bare", Data: []byte("words")},
		},
		Token: "3", Metadata: map[string]string{"m": "n"},
	}}
	s := withStore(t, Component{Name: "st", Store: l})
	e := expect{
		method: "POST", target: "/v1.0-alpha1/state/st/query", body: "{}", status: 200,
		want: `{"results":[{"key":"k","data":{"a":"\u0026"},"etag":"1"},{"key":"type","data":null,"error":"torn"},{"key":"bare","data":"words"}],"token":"3","metadata":{"m":"n"}}` + "\n",
	}
	e.check(t, s.Routes())
	l.result = stores.QueryResult{}
	e.status, e.want = 204, ""
	e.check(t, s.Routes())
}
