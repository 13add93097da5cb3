package actors_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	runtimev1 "outrigger.dev/api/gen/runtime/v1"
)

// within is a context for one call.
func within(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	t.Cleanup(cancel)
	return ctx
}

// pair starts two sidecars of one app and finds actors of Cart at both: called through the first, those at the second are remote.
func pair(t *testing.T) (a, b *member, ids map[*member][]string) {
	t.Helper()
	w := newWorld(t, "shop")
	methods := map[string]func(http.ResponseWriter, *http.Request, string){
		"marked": func(rw http.ResponseWriter, _ *http.Request, _ string) {
			rw.Header().Set("X-DaprErrorResponseHeader", "true")
			_, _ = rw.Write([]byte("an error of the actor"))
		},
		"headers": func(rw http.ResponseWriter, _ *http.Request, _ string) {
			h := rw.Header()
			h.Set("Content-Type", "text/x-special")
			h["X-Twice"] = []string{"1", "2"}
			h.Set("Keep-Alive", "timeout=9")
			h.Set("X-Data-Bin", "AAAA")
			_, _ = rw.Write([]byte("with headers"))
		},
	}
	config := `{"entities":["Cart"]}`
	a, b = w.newMember("a", config, methods), w.newMember("b", config, methods)
	return a, b, place(t, "Cart", a, b)
}

// sides are where an actor may be, seen from the first of a pair.
func sides(a, b *member, ids map[*member][]string, each func(side, id string, at *member)) {
	each("local", ids[a][0], a)
	each("remote", ids[b][0], b)
}

func TestRequestHeaders(t *testing.T) {
	t.Parallel()
	a, b, ids := pair(t)
	sides(a, b, ids, func(side, id string, at *member) {
		for _, verb := range []string{"GET", "POST", "PUT", "DELETE"} {
			t.Run(side+"/HTTP/"+verb, func(t *testing.T) {
				body := "the body"
				if verb == "GET" {
					body = ""
				}
				r := a.Do(verb, "/v1.0/actors/Cart/"+id+"/method/x/../tell?a=1&b=%20", body,
					"Content-Type", "text/x-special", "X-Own", "own", "X-Twice", "1", "X-Twice", "2", "Connection", "X-Hop", "X-Hop", "hop", "X-Some-Bin", "AAAA",
					"Destination-App-Id", "elsewhere", "Dapr-Caller-App-Id", "somebody", "Dapr-Caller-Namespace", "elsewhere", "X-Dapr-Remote", "forged",
					"Traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
				if r.Status != 200 {
					t.Fatalf("%+v", r)
				}
				if got := r.Header.Get("X-Member"); got != at.name {
					t.Errorf("the actor answered at %q instead of %q", got, at.name)
				}
				var c call
				if err := json.Unmarshal([]byte(r.Body), &c); err != nil {
					t.Fatalf("%v: %s", err, r.Body)
				}
				if c.Verb != "PUT" || c.Path != "/actors/Cart/"+id+"/method/tell" || c.Query != "a=1&b=%20" || c.Body != body {
					t.Errorf("the app got %s %s?%s %q", c.Verb, c.Path, c.Query, c.Body)
				}
				remote := ""
				if side == "remote" {
					remote = "true"
				}
				for name, want := range map[string]string{
					"Content-Type": "text/x-special", "X-Own": "own", "X-Twice": "1,2", "Dapr-Api-Call": "true", "X-Dapr-Remote": remote,
					"Dapr-Caller-App-Id": "shop", "X-Hop": "", "X-Some-Bin": "", "Destination-App-Id": "", "Dapr-Reentrancy-Id": "",
				} {
					if got := strings.Join(c.Header[http.CanonicalHeaderKey(name)], ","); got != want {
						t.Errorf("%s is %q instead of %q", name, got, want)
					}
				}
				if trace := c.Header.Get("Traceparent"); !strings.HasPrefix(trace, "00-0af7651916cd43dd8448eb211c80319c-") {
					t.Errorf("the trace is %q", trace)
				}
			})
		}
		t.Run(side+"/gRPC", func(t *testing.T) {
			reply, err := a.Dapr().InvokeActor(within(t), &runtimev1.InvokeActorRequest{
				ActorType: "Cart", ActorId: id, Method: "tell", Data: []byte("the body"), Metadata: map[string]string{"X-Own": "own", "Content-Type": "text/x-special"},
			})
			if err != nil {
				t.Fatal(err)
			}
			var c call
			if err := json.Unmarshal(reply.Data, &c); err != nil {
				t.Fatalf("%v: %s", err, reply.Data)
			}
			if c.Verb != "PUT" || c.Path != "/actors/Cart/"+id+"/method/tell" || c.Body != "the body" || c.Header.Get("X-Own") != "own" || c.Header.Get("Content-Type") != "text/x-special" {
				t.Errorf("the app got %+v", c)
			}
			if c.Header.Get("Dapr-Caller-App-Id") != "shop" || c.Header.Get("Dapr-Api-Call") != "true" || (c.Header.Get("X-Dapr-Remote") == "true") != (side == "remote") {
				t.Errorf("the app got the headers %v", c.Header)
			}
		})
	})
}

func TestResponseHeaders(t *testing.T) {
	t.Parallel()
	a, b, ids := pair(t)
	sides(a, b, ids, func(side, id string, _ *member) {
		t.Run(side, func(t *testing.T) {
			r := a.Post("/v1.0/actors/Cart/"+id+"/method/headers", "")
			if r.Status != 200 || r.Body != "with headers" || r.Header.Get("Content-Type") != "text/x-special" {
				t.Errorf("%+v", r)
			}
			if got := strings.Join(r.Header["X-Twice"], ","); got != "1,2" {
				t.Errorf("X-Twice is %q", got)
			}
			for _, name := range []string{"Keep-Alive", "X-Data-Bin"} {
				if got := r.Header.Get(name); got != "" {
					t.Errorf("%s is %q", name, got)
				}
			}
		})
	})
}

// What the caller sees of what the app says (Dapr API, actors: results).
func TestResults(t *testing.T) {
	t.Parallel()
	a, b, ids := pair(t)
	sides(a, b, ids, func(side, id string, _ *member) {
		inner := "" // what the sidecar of the actor puts before the text, for callers over HTTP
		if side == "remote" {
			inner = "rpc error: code = Internal desc = error invoke actor method: "
		}
		for _, c := range []struct {
			method string
			http   int
			body   string
			code   codes.Code
			text   string // of the gRPC error
		}{
			{"status-200", 200, "body of 200", codes.OK, "body of 200"},
			{"marked", 200, "an error of the actor", codes.OK, "an error of the actor"},
			{
				"unknown", 500, "error invoke actor method: " + inner + "actor method not found: actors/Cart/" + id + "/method/unknown",
				codes.Internal, "error invoke actor method: actor method not found: actors/Cart/" + id + "/method/unknown",
			},
			{
				"status-201", 500, "error invoke actor method: " + inner + "error from actor service: (201) body of 201",
				codes.Internal, "error invoke actor method: error from actor service: (201) body of 201",
			},
			{
				"status-204", 500, "error invoke actor method: " + inner + "error from actor service: (204) ",
				codes.Internal, "error invoke actor method: error from actor service: (204) ",
			},
			{
				"status-500", 500, "error invoke actor method: " + inner + "error from actor service: (500) body of 500",
				codes.Internal, "error invoke actor method: error from actor service: (500) body of 500",
			},
			{
				"status-400", 500, "error invoke actor method: " + inner + "error from actor service: (400) body of 400",
				codes.Internal, "error invoke actor method: error from actor service: (400) body of 400",
			},
		} {
			t.Run(side+"/HTTP/"+c.method, func(t *testing.T) {
				r := a.Post("/v1.0/actors/Cart/"+id+"/method/"+c.method, "")
				if r.Status != c.http {
					t.Errorf("status %d instead of %d: %s", r.Status, c.http, r.Body)
				}
				if c.http == 200 {
					if r.Body != c.body || (r.Header.Get("X-DaprErrorResponseHeader") != "") != (c.method == "marked") {
						t.Errorf("%+v", r)
					}
					return
				}
				var e struct{ ErrorCode, Message string }
				if err := json.Unmarshal([]byte(r.Body), &e); err != nil || e.ErrorCode != "ERR_ACTOR_INVOKE_METHOD" || e.Message != c.body {
					t.Errorf("%s: %q\nwant %q", e.ErrorCode, e.Message, c.body)
				}
			})
			t.Run(side+"/gRPC/"+c.method, func(t *testing.T) {
				reply, err := a.Dapr().InvokeActor(within(t), &runtimev1.InvokeActorRequest{ActorType: "Cart", ActorId: id, Method: c.method})
				if status.Code(err) != c.code {
					t.Fatalf("%v instead of %s", err, c.code)
				}
				got := string(reply.GetData())
				if err != nil {
					got = status.Convert(err).Message()
				}
				if got != c.text {
					t.Errorf("%q\nwant %q", got, c.text)
				}
			})
		}
	})

	// Both look for a host for some seconds.
	const nobody = "failed to lookup actor: api error: code = FailedPrecondition desc = did not find address for actor 'Nobody/1'"
	t.Run("nobody hosts the type/HTTP", func(t *testing.T) {
		t.Parallel()
		r := a.Post("/v1.0/actors/Nobody/1/method/x", "")
		want, _ := json.Marshal(map[string]string{"errorCode": "ERR_ACTOR_INVOKE_METHOD", "message": "error invoke actor method: " + nobody})
		if r.Status != 500 || r.Body != string(want) {
			t.Errorf("%+v\nwant %s", r, want)
		}
	})
	client := a.Dapr()
	t.Run("nobody hosts the type/gRPC", func(t *testing.T) {
		t.Parallel()
		_, err := client.InvokeActor(within(t), &runtimev1.InvokeActorRequest{ActorType: "Nobody", ActorId: "1", Method: "x"})
		if status.Code(err) != codes.FailedPrecondition || status.Convert(err).Message() != nobody {
			t.Errorf("%v", err)
		}
	})
	t.Run("invalid names", func(t *testing.T) {
		t.Parallel()
		for _, path := range []string{"/v1.0/actors/Ca%23rt/1/method/x", "/v1.0/actors/Cart/a%2Fb/method/x", "/v1.0/actors/Cart/../method/x%00"} {
			if r := a.Post(path, ""); r.Status != 400 && r.Status != 404 {
				t.Errorf("%s: %+v", path, r)
			}
		}
		_, err := client.InvokeActor(within(t), &runtimev1.InvokeActorRequest{ActorType: "Cart", ActorId: "a/b", Method: "x"})
		if status.Code(err) != codes.InvalidArgument {
			t.Errorf("%v", err)
		}
	})
}

// Operations that need the type here, or the actor active, say so (Dapr API, actors: errors).
func TestForeignActors(t *testing.T) {
	t.Parallel()
	a, b, ids := pair(t)
	for _, c := range []struct {
		path, body string
		status     int
		code       string
	}{
		{"/v1.0/actors/Other/1/reminders/r", `{"dueTime":"1h"}`, 403, "ERR_ACTOR_REMINDER_NON_HOSTED"},
		{"/v1.0/actors/Other/1/timers/r", `{"dueTime":"1h"}`, 500, "ERR_ACTOR_TIMER_CREATE"},
		{"/v1.0/actors/Cart/never-called/state", `[{"operation":"upsert","request":{"key":"k","value":1}}]`, 400, "ERR_ACTOR_INSTANCE_MISSING"},
		{"/v1.0/actors/Cart/" + ids[b][0] + "/state", `[{"operation":"upsert","request":{"key":"k","value":1}}]`, 400, "ERR_ACTOR_INSTANCE_MISSING"},
		{"/v1.0/actors/dapr.internal.x/1/state", `[]`, 403, "ERR_ACTOR_TYPE_RESERVED"},
	} {
		r := a.Post(c.path, c.body)
		var e struct{ ErrorCode string }
		if err := json.Unmarshal([]byte(r.Body), &e); err != nil || r.Status != c.status || e.ErrorCode != c.code {
			t.Errorf("%s: %+v, want %d %s", c.path, r, c.status, c.code)
		}
	}
}

// Integers of any size survive the state store and a reminder's data.
func TestLargeIntegers(t *testing.T) {
	t.Parallel()
	a, _, ids := pair(t)
	id := ids[a][0]
	const big = `{"a":9007199254740993,"b":[-123456789012345678901234567890,1e+300,0.1000000000000000055511151231257827]}`
	body := fmt.Sprintf(`[{"operation":"upsert","request":{"key":"big","value":%s}},{"operation":"upsert","request":{"key":"max","value":18446744073709551615}}]`, big)
	if r := a.Post("/v1.0/actors/Cart/"+id+"/state", body); r.Status != 204 {
		t.Fatalf("%+v", r)
	}
	for key, want := range map[string]string{"big": big, "max": "18446744073709551615"} {
		if r := a.Get("/v1.0/actors/Cart/" + id + "/state/" + key); r.Status != 200 || r.Body != want {
			t.Errorf("%s: %+v", key, r)
		}
	}
	if r := a.Post("/v1.0/actors/Cart/"+id+"/reminders/big", `{"dueTime":"0s","data":`+big+`}`); r.Status != 204 {
		t.Fatalf("%+v", r)
	}
	if c := a.awaitCall("PUT", "/actors/Cart/"+id+"/method/remind/big"); c.Body != `{"data":`+big+`,"dueTime":"","period":""}` {
		t.Errorf("the app got %s", c.Body)
	}
}
