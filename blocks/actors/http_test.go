package actors

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/jonboulle/clockwork"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"

	"outrigger.dev/api"
	"outrigger.dev/api/apitest"
	commonv1 "outrigger.dev/api/gen/common/v1"
	schedulerv1 "outrigger.dev/api/gen/scheduler/v1"
	stores "outrigger.dev/components/state"
	"outrigger.dev/components/state/inmemory"
	"outrigger.dev/invocation"
)

// serviceWorld is the actors API over fakes.
type serviceWorld struct {
	core    *coreFake
	s       *schedulerFake
	state   *State
	store   *inmemory.Store
	timers  *Timers
	service *Service
	router  apitest.Router
}

func newServiceWorld(t testing.TB) *serviceWorld {
	t.Helper()
	w := &serviceWorld{core: newCore(), s: newScheduler(), store: inmemory.New(clockwork.NewRealClock())}
	w.state = NewState(StateOptions{AppID: "shop", Core: w.core})
	if err := w.state.SetStore(context.Background(), "store", w.store); err != nil {
		t.Fatal(err)
	}
	w.timers = NewTimers(TimersOptions{Core: w.core})
	w.service = NewService(ServiceOptions{
		AppID: "shop", Namespace: "ns", Core: w.core, State: w.state, Timers: w.timers, Reminders: newReminders(w.core, w.s),
	})
	w.router = w.service.Routes()
	return w
}

// prepare brings the world into the state that a case is about.
type prepare func(t *testing.T, w *serviceWorld)

func placementless(_ *testing.T, w *serviceWorld) {
	w.core.await, w.core.active = api.ErrActorNoPlacement(), nil
}

func shut(_ *testing.T, w *serviceWorld) { w.core.await = api.ErrActorRuntimeClosed() }

func storeless(t *testing.T, w *serviceWorld) {
	if err := w.state.RemoveStore(t.Context(), "store"); err != nil {
		t.Fatal(err)
	}
}

func brokenStore(t *testing.T, w *serviceWorld) {
	storeless(t, w)
	r := &recorder{Store: w.store, during: func(context.Context) error { return errors.New("broken pipe") }}
	if err := w.state.SetStore(t.Context(), "store", r); err != nil {
		t.Fatal(err)
	}
}

func answers(err error) prepare {
	return func(_ *testing.T, w *serviceWorld) {
		w.core.invoke = func(*Call) (*invocation.Response, error) { return nil, err }
	}
}

func unscheduled(_ *testing.T, w *serviceWorld) {
	for _, method := range []string{"Schedule", "Get", "Delete", "List", "DeleteByMetadata"} {
		w.s.fail[method] = errors.New("scheduler clients are disabled")
	}
}

func noHost() error {
	return lookupError{api.ErrActorNoAddress("cart", "1")}
}

// lookupError is how the runtime tells that nobody hosts an actor.
type lookupError struct{ error }

func (e lookupError) Error() string { return "failed to lookup actor: " + e.error.Error() }
func (e lookupError) Unwrap() error { return e.error }

func TestActorHTTPErrors(t *testing.T) {
	const (
		method    = "/v1.0/actors/cart/1/method/add"
		state     = "/v1.0/actors/cart/1/state"
		reminder  = "/v1.0/actors/cart/1/reminders/r"
		timer     = "/v1.0/actors/cart/1/timers/t"
		reserved  = "/v1.0/actors/dapr.internal.x/1"
		reserves  = `actor type "dapr.internal.x" is reserved for the Dapr workflow runtime; direct actor API access is not permitted`
		nonHosted = "operations on actor reminders are only possible on hosted actor types"
		disabled  = "scheduler clients are disabled"
		save      = "error saving actor transaction state: "
	)
	for name, tc := range map[string]struct {
		prepare              prepare
		request, body        string
		status               int
		errorCode, errorText string
	}{
		"reserved: state":           {nil, "GET " + reserved + "/state/k", "", 403, "ERR_ACTOR_TYPE_RESERVED", reserves},
		"reserved: transaction":     {placementless, "PUT " + reserved + "/state", "rubbish", 403, "ERR_ACTOR_TYPE_RESERVED", reserves},
		"reserved: reminder":        {nil, "POST " + reserved + "/reminders/r", "{}", 403, "ERR_ACTOR_TYPE_RESERVED", reserves},
		"reserved: get reminder":    {nil, "GET " + reserved + "/reminders/r", "", 403, "ERR_ACTOR_TYPE_RESERVED", reserves},
		"reserved: delete reminder": {nil, "DELETE " + reserved + "/reminders/r", "", 403, "ERR_ACTOR_TYPE_RESERVED", reserves},
		"reserved: timer":           {nil, "POST " + reserved + "/timers/t", "{}", 403, "ERR_ACTOR_TYPE_RESERVED", reserves},
		"reserved: delete timer":    {nil, "DELETE " + reserved + "/timers/t", "", 403, "ERR_ACTOR_TYPE_RESERVED", reserves},

		"no placement: invoke":          {placementless, "POST " + method, "{}", 400, "ERR_ACTOR_NO_PLACEMENT", "placement service is not configured"},
		"no placement: state":           {placementless, "GET " + state + "/k", "", 400, "ERR_ACTOR_NO_PLACEMENT", "placement service is not configured"},
		"no placement: transaction":     {placementless, "POST " + state, "[]", 400, "ERR_ACTOR_NO_PLACEMENT", "placement service is not configured"},
		"no placement: reminder":        {placementless, "POST " + reminder, `{"dueTime":"1s"}`, 400, "ERR_ACTOR_NO_PLACEMENT", "placement service is not configured"},
		"no placement: get reminder":    {placementless, "GET " + reminder, "", 400, "ERR_ACTOR_NO_PLACEMENT", "placement service is not configured"},
		"no placement: delete reminder": {placementless, "DELETE " + reminder, "", 400, "ERR_ACTOR_NO_PLACEMENT", "placement service is not configured"},
		"no placement: timer":           {placementless, "POST " + timer, `{"dueTime":"1s"}`, 400, "ERR_ACTOR_NO_PLACEMENT", "placement service is not configured"},
		"no placement: delete timer":    {placementless, "DELETE " + timer, "", 400, "ERR_ACTOR_NO_PLACEMENT", "placement service is not configured"},
		"closed":                        {shut, "POST " + method, "{}", 503, "ERR_ACTOR_RUNTIME_CLOSED", "actor runtime is closed"},

		"malformed before placement":  {placementless, "POST " + state, "{", 400, "ERR_MALFORMED_REQUEST", "failed deserializing HTTP body: "},
		"bad name before placement":   {placementless, "POST /v1.0/actors/cart/1/timers/a%2Fb", "{}", 400, "ERR_BAD_REQUEST", `invalid request: name contains forbidden character: "a/b"`},
		"malformed: reminder":         {nil, "PUT " + reminder, `{"dueTime":1}`, 400, "ERR_MALFORMED_REQUEST", "failed deserializing HTTP body: json: cannot unmarshal number into Go"},
		"malformed: overwrite":        {nil, "PUT " + reminder, `{"overwrite":"no"}`, 400, "ERR_MALFORMED_REQUEST", "failed deserializing HTTP body: json: cannot unmarshal string into Go"},
		"malformed: policy":           {nil, "PUT " + reminder, `{"failure_policy":{"constant":{"interval":"often"}}}`, 400, "ERR_MALFORMED_REQUEST", "failed deserializing HTTP body: failure_policy "},
		"malformed: timer":            {nil, "PUT " + timer, `[]`, 400, "ERR_MALFORMED_REQUEST", "failed deserializing HTTP body: "},
		"malformed: nothing":          {nil, "PUT " + timer, ``, 400, "ERR_MALFORMED_REQUEST", "failed deserializing HTTP body: EOF"},
		"malformed: delete reminder":  {nil, "DELETE " + reminder, `[1]`, 400, "ERR_MALFORMED_REQUEST", "failed deserializing HTTP body: "},
		"malformed: delete timer":     {nil, "DELETE " + timer, `{"a"`, 400, "ERR_MALFORMED_REQUEST", "failed deserializing HTTP body: "},
		"bad name: type":              {nil, "POST /v1.0/actors/a%3Fb/1/method/m", "", 400, "ERR_BAD_REQUEST", `invalid request: invalid actorType: name contains forbidden character: "a?b"`},
		"bad name: id":                {nil, "POST /v1.0/actors/cart/a%5Cb/method/m", "", 400, "ERR_BAD_REQUEST", `invalid request: invalid actorId: name contains forbidden character: "a\\b"`},
		"bad name: control character": {nil, "POST /v1.0/actors/cart/a%01/method/m", "", 400, "ERR_BAD_REQUEST", `invalid request: invalid actorId: name contains control character at position 1: "a\x01"`},
		"bad name: dots":              {nil, "POST /v1.0/actors/%2E%2E/1/method/m", "", 400, "ERR_BAD_REQUEST", "invalid request: invalid actorType: "},
		"bad method":                  {nil, "POST /v1.0/actors/cart/1/method/a%23b", "", 400, "ERR_BAD_REQUEST", `invalid request: invalid actor method: method contains forbidden character: "a#b"`},
		"bad name: reminder":          {nil, "PUT /v1.0/actors/cart/1/reminders/a%23", "{}", 400, "ERR_BAD_REQUEST", `invalid request: name contains forbidden character: "a#"`},

		"invoke: app error":    {answers(errors.New("error from actor service: (500) no")), "POST " + method, "", 500, "ERR_ACTOR_INVOKE_METHOD", "error invoke actor method: error from actor service: (500) no"},
		"invoke: no host":      {answers(noHost()), "POST " + method, "", 500, "ERR_ACTOR_INVOKE_METHOD", "error invoke actor method: failed to lookup actor: api error: code = FailedPrecondition desc = did not find address for actor 'cart/1'"},
		"invoke: remote":       {answers(status.Error(codes.Internal, "error invoke actor method: no")), "POST " + method, "", 500, "ERR_ACTOR_INVOKE_METHOD", "error invoke actor method: rpc error: code = Internal desc = error invoke actor method: no"},
		"invoke: stack":        {answers(api.ErrActorStackDepth()), "POST " + method, "", 500, "ERR_ACTOR_STACK_DEPTH", "maximum stack depth exceeded"},
		"invoke: stack remote": {answers(status.Error(codes.ResourceExhausted, "maximum stack depth exceeded")), "POST " + method, "", 500, "ERR_ACTOR_INVOKE_METHOD", "error invoke actor method: rpc error: code = ResourceExhausted desc = maximum stack depth exceeded"},
		"invoke: cancelled":    {answers(context.Canceled), "POST " + method, "", 500, "ERR_ACTOR_INVOKE_METHOD", "error invoke actor method: context canceled"},

		"state: no store":           {storeless, "GET " + state + "/k", "", 500, "ERR_ACTOR_RUNTIME_NOT_FOUND", "the state store is not configured to use the actor runtime. Have you set the - name: actorStateStore value: \"true\" in your state store component file?"},
		"transaction: no store":     {storeless, "POST " + state, `[{"operation":"x"}]`, 500, "ERR_ACTOR_RUNTIME_NOT_FOUND", "the state store is not configured"},
		"state: failed":             {brokenStore, "GET " + state + "/k", "", 500, "ERR_ACTOR_STATE_GET", "error getting actor state: broken pipe"},
		"transaction: failed":       {brokenStore, "POST " + state, `[]`, 500, "ERR_ACTOR_STATE_TRANSACTION_SAVE", save + "broken pipe"},
		"transaction: not active":   {nil, "POST /v1.0/actors/cart/2/state", `[{"operation":"delete","request":{"key":"k"}}]`, 400, "ERR_ACTOR_INSTANCE_MISSING", "actor instance is missing"},
		"transaction: operation":    {nil, "POST " + state, `[{"operation":"merge","request":{"key":"k"}}]`, 500, "ERR_ACTOR_STATE_TRANSACTION_SAVE", save + "operation type merge not supported"},
		"transaction: no operation": {nil, "POST " + state, `[null]`, 500, "ERR_ACTOR_STATE_TRANSACTION_SAVE", save + "operation is empty"},
		"transaction: no request":   {nil, "POST " + state, `[{"operation":"upsert"}]`, 500, "ERR_ACTOR_STATE_TRANSACTION_SAVE", save + "request data is empty"},
		"transaction: null request": {nil, "POST " + state, `[{"operation":"delete","request":null}]`, 500, "ERR_ACTOR_STATE_TRANSACTION_SAVE", save + "request data is empty"},
		"transaction: no key":       {nil, "POST " + state, `[{"operation":"upsert","request":{"value":1}}]`, 500, "ERR_ACTOR_STATE_TRANSACTION_SAVE", save + "missing key"},
		"transaction: metadata":     {nil, "POST " + state, `[{"operation":"upsert","request":{"key":"k","metadata":{"ttlInSeconds":10}}}]`, 500, "ERR_ACTOR_STATE_TRANSACTION_SAVE", save + "request of operation 1 (upsert): "},
		"transaction: ttl":          {nil, "POST " + state, `[{"operation":"upsert","request":{"key":"k","metadata":{"ttlInSeconds":"10"}}}]`, 500, "ERR_ACTOR_STATE_TRANSACTION_SAVE", save + `ttlInSeconds is not supported without the "ActorStateTTL" feature enabled`},

		"reminder: not hosted":        {nil, "POST /v1.0/actors/other/1/reminders/r", `{"dueTime":"1s"}`, 403, "ERR_ACTOR_REMINDER_NON_HOSTED", nonHosted},
		"get reminder: not hosted":    {nil, "GET /v1.0/actors/other/1/reminders/r", "", 403, "ERR_ACTOR_REMINDER_NON_HOSTED", nonHosted},
		"delete reminder: not hosted": {nil, "DELETE /v1.0/actors/other/1/reminders/r", "", 403, "ERR_ACTOR_REMINDER_NON_HOSTED", nonHosted},
		"reminder: exists": {func(t *testing.T, w *serviceWorld) {
			if err := w.service.options.Reminders.Create(t.Context(), ReminderRequest{Type: "cart", ID: "1", Name: "r", DueTime: "1s"}); err != nil {
				t.Fatal(err)
			}
		}, "POST " + reminder, `{"dueTime":"1s","overwrite":false}`, 409, "ERR_ACTOR_REMINDER_ALREADY_EXISTS", "actor reminder already exists: r"},
		"reminder: failed":        {unscheduled, "POST " + reminder, `{"dueTime":"1s"}`, 500, "ERR_ACTOR_REMINDER_CREATE", "error creating actor reminder: " + disabled},
		"get reminder: failed":    {unscheduled, "GET " + reminder, "", 500, "ERR_ACTOR_REMINDER_GET", "error getting actor reminder: api error: code = Internal desc = failed to get job due to: " + disabled},
		"get reminder: missing":   {nil, "GET " + reminder, "", 404, "ERR_ACTOR_REMINDER_NOT_FOUND", "actor reminder not found: r"},
		"delete reminder: failed": {unscheduled, "DELETE " + reminder, "", 500, "ERR_ACTOR_REMINDER_DELETE", "error deleting actor reminder: " + disabled},
		"timer: times":            {nil, "POST " + timer, `{"dueTime":"soon"}`, 500, "ERR_ACTOR_TIMER_CREATE", "error creating actor timer: error parsing timer due time: "},
		"timer: not hosted":       {nil, "POST /v1.0/actors/other/1/timers/t", `{"dueTime":"1s"}`, 500, "ERR_ACTOR_TIMER_CREATE", "error creating actor timer: can't create timer for actor other||1: actor type not registered"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newServiceWorld(t)
			if tc.prepare != nil {
				tc.prepare(t, w)
			}
			verb, path, _ := strings.Cut(tc.request, " ")
			got := w.router.Do(verb, path, tc.body)
			e := api.AsError(got.Error)
			text := e.HTTPMessage
			if text == "" {
				text = e.Message
			}
			if got.Error == nil || got.Status != tc.status || e.Code != tc.errorCode || !strings.HasPrefix(text, tc.errorText) {
				t.Errorf("%d %s", got.Status, got.Body)
			}
			if strings.Contains(string(got.Body), "details") {
				t.Errorf("details: %s", got.Body)
			}
			if category := e.Category; strings.HasPrefix(e.Code, "ERR_ACTOR_") != (category == api.CategoryActor) {
				t.Errorf("category %s", category)
			}
			if w.core.held() != 0 {
				t.Error("claims stay")
			}
		})
	}
}

func TestActorHTTPInvoke(t *testing.T) {
	for _, verb := range []string{"GET", "POST", "PUT", "DELETE"} {
		w := newServiceWorld(t)
		w.core.invoke = func(*Call) (*invocation.Response, error) {
			r := &invocation.Response{Status: 200, Body: []byte("out"), ContentType: "text/x"}
			for _, h := range []string{"X-Daprerrorresponseheader", "Connection", "Content-Length", "Trace-Bin", "Upgrade"} {
				r.Header.Add(h, "1")
			}
			return r, nil
		}
		got := w.router.Do(verb, "/v1.0/actors/a%7Cb+c/%C3%A9:1/method/x%2F..%2F..%2Fm?q=1&q=%20", "in",
			"content-type", "text/y", "x-mine", "1", "x-mine", "2", "connection", "x-hop, close", "x-hop", "1", "keep-alive", "1",
			"dapr-caller-app-id", "evil", "dapr-caller-namespace", "evil", "destination-app-id", "x", "x-bin", "AAA=", "host", "h", "content-length", "2",
			"dapr-reentrancy-id", "chain", "dapr-api-call", "false", "x-dapr-remote", "true")
		if got.Status != 200 || string(got.Body) != "out" || got.Header.Get("Content-Type") != "text/x" || got.Header.Get("X-Daprerrorresponseheader") != "1" || len(got.Header) != 2 {
			t.Errorf("%s: %d %s %v", verb, got.Status, got.Body, got.Header)
		}
		call := w.core.invoked[0]
		req := call.Request
		if call.Type != "a|b c" || call.ID != "é:1" || call.Method != "m" || call.Remote || string(req.Body) != "in" || req.Query != "q=1&q=%20" || req.ContentType != "text/y" {
			t.Errorf("%s: called %+v with %+v", verb, call, req)
		}
		header := ""
		for _, f := range req.Header {
			header += string(f.Name) + "=" + string(f.Value) + " "
		}
		if header != "X-Mine=1 X-Mine=2 Dapr-Reentrancy-Id=chain Dapr-API-Call=true dapr-caller-app-id=shop dapr-caller-namespace=ns " {
			t.Errorf("%s: header %s", verb, header)
		}
	}
}

func TestActorHTTPInvokeStatus(t *testing.T) {
	for code, want := range map[int]int{200: 200, 203: 203, 0: 200, int(codes.NotFound): 404, int(codes.Unavailable): 503, int(codes.Internal): 500} {
		w := newServiceWorld(t)
		w.core.invoke = func(*Call) (*invocation.Response, error) { return &invocation.Response{Status: code}, nil }
		if got := w.router.Do("PUT", "/v1.0/actors/cart/1/method/m", ""); got.Status != want {
			t.Errorf("%d became %d", code, got.Status)
		}
	}
	w := newServiceWorld(t)
	x := apitest.New("PUT", "/v1.0/actors/cart/1/method/m", "")
	x.BodyError = api.ErrBodyTooLarge
	if got := w.router.Serve(x); got.Status != 400 || string(got.Body) != `{"errorCode":"ERR_BAD_REQUEST","message":"invalid request: failed to read body: stream too large"}` {
		t.Errorf("%d %s", got.Status, got.Body)
	}
}

func TestActorHTTPState(t *testing.T) {
	w := newServiceWorld(t)
	const path = "/v1.0/actors/cart/1/state"
	for _, tc := range []struct {
		body string
		key  string
		want string // "" for nothing
	}{
		{`[{"operation":"upsert","request":{"key":"n","value":12345678901234567890}}]`, "n", "12345678901234567890"},
		{`[{"Operation":"upsert","REQUEST":{"Key":"o","VALUE":{"b":[1, 2],"a":null},"extra":1}}]`, "o", `{"a":null,"b":[1,2]}`},
		{`[{"operation":"upsert","request":{"key":"empty"}}]`, "empty", "null"},
		{`[{"operation":"upsert","request":{"key":"a b","value":"x"}},{"operation":"delete","request":{"key":"n"}}]`, "a+b", `"x"`},
		{`[]`, "n", ""},
		{`null`, "n", ""},
		{`[{"operation":"delete","request":{"key":"o","metadata":null,"etag":null}}] trailing`, "o", ""},
	} {
		if got := w.router.Do("PUT", path, tc.body); got.Status != 204 || len(got.Body) != 0 {
			t.Errorf("%s: %d %s", tc.body, got.Status, got.Body)
		}
		got := w.router.Do("GET", path+"/"+tc.key, "")
		if tc.want == "" && got.Status == 204 && len(got.Body) == 0 {
			continue
		}
		if got.Status != 200 || string(got.Body) != tc.want || got.Header.Get("Content-Type") != "application/json" || got.Header.Get("Etag") != "" {
			t.Errorf("%s: %d %s %v", tc.key, got.Status, got.Body, got.Header)
		}
	}
	ttl := newServiceWorld(t)
	ttl.state.options.TTL = true
	if got := ttl.router.Do("POST", path, `[{"operation":"upsert","request":{"key":"k","value":1,"metadata":{"ttlInSeconds":"100"}}}]`); got.Status != 204 {
		t.Fatalf("%d %s", got.Status, got.Body)
	}
	if got := ttl.router.Do("GET", path+"/k", ""); got.Header.Get("Metadata.ttlexpiretime") == "" {
		t.Errorf("no time of expiry: %v", got.Header)
	}
	// Etags are honoured.
	item, err := w.store.Get(t.Context(), stores.GetRequest{Key: "shop||cart||1||a b"})
	if err != nil || !item.HasETag {
		t.Fatalf("%+v, %v", item, err)
	}
	for etag, want := range map[string]int{"999999": 500, item.ETag: 204} {
		if got := w.router.Do("POST", path, `[{"operation":"upsert","request":{"key":"a b","value":2,"etag":"`+etag+`"}}]`); got.Status != want && want == 500 {
			t.Errorf("etag %s: %d %s", etag, got.Status, got.Body)
		}
	}
}

// A turn that still runs while nothing is hosted any more can save what it did.
func TestActorStateWhileWithdrawn(t *testing.T) {
	w := newServiceWorld(t)
	w.core.await = context.Canceled
	if got := w.router.Do("POST", "/v1.0/actors/cart/1/state", `[{"operation":"upsert","request":{"key":"k","value":1}}]`); got.Status != 204 {
		t.Errorf("writing: %d %s", got.Status, got.Body)
	}
	if got := w.router.Do("GET", "/v1.0/actors/cart/1/state/k", ""); got.Status != 200 {
		t.Errorf("reading: %d %s", got.Status, got.Body)
	}
	for _, request := range []string{"/v1.0/actors/cart/2/state/k", "/v1.0/actors/cart/1/reminders/r"} {
		if got := w.router.Do("GET", request, ""); !errors.Is(got.Error, context.Canceled) {
			t.Errorf("%s: %d %s", request, got.Status, got.Body)
		}
	}
}

func TestActorHTTPReminders(t *testing.T) {
	w := newServiceWorld(t)
	const path = "/v1.0/actors/cart/1/reminders/r"
	constant := &commonv1.JobFailurePolicy{Policy: &commonv1.JobFailurePolicy_Constant{Constant: &commonv1.JobFailurePolicyConstant{Interval: durationpb.New(3 * time.Second), MaxRetries: number(5)}}}
	for body, want := range map[string]*schedulerv1.Job{
		`{"DUETIME":"1s","Period":"R3/PT1H","ttl":"2h","data":{"a": 1},"overwrite":null,"x":[1]}`:             {DueTime: text("1s"), Schedule: text("@every 1h0m0s"), Repeats: number(3), Ttl: text("2h"), Data: jsonData([]byte(`{"a": 1}`))},
		`{"dueTime":"1s","data":null,"overwrite":true}`:                                                       {DueTime: text("1s"), Data: jsonData([]byte("null"))},
		`{"dueTime":"1s","failure_policy":{"constant":{"interval":"3s","maxRetries":5}}}`:                     {DueTime: text("1s"), FailurePolicy: constant},
		`{"dueTime":"1s","failurePolicy":{"constant":{"interval":"3s","max_retries":5},"policy":"whatever"}}`: {DueTime: text("1s"), FailurePolicy: constant},
		`{"dueTime":"1s","failurePolicy":{"constant":{"interval":"0h0m3s0ms0\u03bcs","maxRetries":5}}}`:       {DueTime: text("1s"), FailurePolicy: constant},
		`{"dueTime":"1s","failure_policy":{"drop":{}}}`:                                                       {DueTime: text("1s"), FailurePolicy: &commonv1.JobFailurePolicy{Policy: &commonv1.JobFailurePolicy_Drop{Drop: &commonv1.JobFailurePolicyDrop{}}}},
		`{"dueTime":"1s","failure_policy":{}}`:                                                                {DueTime: text("1s")},
		`{"dueTime":"1s","failure_policy":null}`:                                                              {DueTime: text("1s")},
		`null`:                                                                                                {},
	} {
		if got := w.router.Do("POST", path, body); got.Status != 204 || len(got.Body) != 0 {
			t.Errorf("%s: %d %s", body, got.Status, got.Body)
			continue
		}
		same(t, body, w.s.job(t, "actorreminder||ns||cart||1||r"), want)
	}
	if got := w.router.Do("PUT", path, `{"period":"2h","data":"x"}`); got.Status != 204 {
		t.Fatalf("%d %s", got.Status, got.Body)
	}
	if got := w.router.Do("GET", path, ""); got.Status != 200 || string(got.Body) != `{"actorID":"1","actorType":"cart","data":"x","period":"@every 2h0m0s"}` || got.Header.Get("Content-Type") != "application/json" {
		t.Errorf("%d %s", got.Status, got.Body)
	}
	for _, body := range []string{"", "{}", `{"name":1}`, "null"} {
		if got := w.router.Do("DELETE", path, body); got.Status != 204 || len(w.s.all()) != 0 {
			t.Errorf("%d %s", got.Status, got.Body)
		}
	}
}

func TestActorHTTPTimers(t *testing.T) {
	w := newServiceWorld(t)
	const path = "/v1.0/actors/cart/1/timers/a|b%20c"
	if got := w.router.Do("PUT", path, `{"dueTime":"1h","PERIOD":"R2/PT1S","ttl":"3h","callback":"back","data":[1, 2],"x":{}}`); got.Status != 204 || len(got.Body) != 0 {
		t.Fatalf("%d %s", got.Status, got.Body)
	}
	set := w.timers.actors[actorKey{"cart", "1"}].byName["a|b c"]
	if set == nil || set.DueTime != "1h" || set.Period != "R2/PT1S" || set.TTL != "3h" || set.Callback != "back" {
		t.Fatalf("set %+v", set)
	}
	same(t, "data", set.Data, jsonData([]byte("[1, 2]")))
	for range 2 {
		if got := w.router.Do("DELETE", path, ""); got.Status != 204 || len(w.timers.actors) != 0 {
			t.Errorf("%d %s", got.Status, got.Body)
		}
	}
}

// The bodies of requests are the server's memory, which is used again as soon as a request was answered.
func TestActorHTTPKeepsNothing(t *testing.T) {
	w := newServiceWorld(t)
	serve := func(verb, target, body string, headers ...string) {
		t.Helper()
		x := apitest.New(verb, target, body, headers...)
		if got := w.router.Serve(x); got.Error != nil {
			t.Fatal(got.Error)
		}
		for i := range x.Body {
			x.Body[i] = '!'
		}
	}
	serve("POST", "/v1.0/actors/cart/1/method/m", "in", "content-type", "a/b")
	serve("POST", "/v1.0/actors/cart/1/timers/t", `{"dueTime":"1h","callback":"back","data":"x"}`)
	serve("POST", "/v1.0/actors/cart/1/reminders/r", `{"dueTime":"1h","data":"x"}`)
	serve("POST", "/v1.0/actors/cart/1/state", `[{"operation":"upsert","request":{"key":"k","value":"x"}}]`)
	if req := w.core.invoked[0].Request; string(req.Body) != "in" {
		t.Errorf("invoked with %s", req.Body)
	}
	timer := w.timers.actors[actorKey{"cart", "1"}].byName["t"]
	same(t, "timer", timer.Data, jsonData([]byte(`"x"`)))
	if timer.Callback != "back" || timer.DueTime != "1h" {
		t.Errorf("timer %+v", timer.Timer)
	}
	same(t, "reminder", w.s.job(t, "actorreminder||ns||cart||1||r"), &schedulerv1.Job{DueTime: text("1h"), Data: jsonData([]byte(`"x"`))})
	if item, err := w.state.Get(t.Context(), "cart", "1", "k"); err != nil || string(item.Data) != `"x"` {
		t.Errorf("state %s, %v", item.Data, err)
	}
}
