package server

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"

	"outrigger.dev/api"
	"outrigger.dev/telemetry/logging"
)

// TestAPILogLines compares what the API log writes, without the time a request took.
func TestAPILogLines(t *testing.T) {
	state := &api.Route{Methods: []string{"GET"}, Path: "/v1.0/state/{storeName}/{key}", Name: "GetState", Handler: func(c *api.Call) error { c.ReplyJSON([]byte("12345")); return nil }}
	actor := &api.Route{Methods: []string{"POST"}, Path: "/v1.0/actors/{actorType}/{actorId}/method/{method}", Name: "InvokeActor", Handler: func(c *api.Call) error { c.NoContent(); return nil }}
	health := &api.Route{Methods: []string{"GET"}, Path: "/v1.0/healthz", Name: "Healthz", Health: true, Handler: func(c *api.Call) error { c.NoContent(); return nil }}
	invoke := &api.Route{Name: "InvokeService", Path: "/{path...}", Handler: func(c *api.Call) error { c.SetStatus(201); c.Reply([]byte("x")); return nil }}
	for _, c := range []struct {
		name string
		log  APILog
		want string
	}{
		{"paths", APILog{}, `"GET /v1.0/state/st/a b" 200 5
"POST /v1.0/actors/cat/1/method/m" 204 0
"GET /v1.0/healthz" 204 0
"PUT /elsewhere" 201 1
`},
		{"names", APILog{ObfuscateURLs: true, InvokeTarget: func(*api.Call) string { return "other" }}, `GetState 200 5
InvokeActor/cat.1 204 0
Healthz 204 0
InvokeService/other 201 1
`},
		{"names without IDs and health", APILog{ObfuscateURLs: true, OmitActorIDs: true, OmitHealthChecks: true}, `GetState 200 5
InvokeActor/cat 204 0
InvokeService 201 1
`},
	} {
		t.Run(c.name, func(t *testing.T) {
			var out bytes.Buffer
			c.log.HTTP = logging.Always(logging.Scope(logging.New(logging.Options{Out: &out, Level: slog.LevelError, JSON: true}), logging.ScopeHTTPInfo))
			s := NewHTTP(HTTPOptions{Routes: []*api.Route{state, actor, health}, Fallback: invoke, APILog: &c.log})
			for _, r := range []*http.Request{
				httptest.NewRequest("GET", "/v1.0/state/st/a%20b?metadata.secret=1", nil),
				httptest.NewRequest("POST", "/v1.0/actors/cat/1/method/m", nil),
				httptest.NewRequest("GET", "/v1.0/healthz", nil),
				httptest.NewRequest("PUT", "/elsewhere", nil),
			} {
				x := &h2Exchange{w: httptest.NewRecorder(), r: r, status: http.StatusOK}
				s.handle(x)
				x.finish()
			}
			var got strings.Builder
			for line := range strings.Lines(out.String()) {
				e := entry(t, line)
				if e["scope"] != "dapr.runtime.http-info" || e["msg"] != "HTTP API Called" || e["level"] != "info" {
					t.Errorf("odd line %s", line)
				}
				got.WriteString(quoted(e["method"]) + " " + fmt.Sprint(e["code"]) + " " + fmt.Sprint(e["size"]) + "\n")
			}
			if got.String() != c.want {
				t.Errorf("got\n%swant\n%s", got.String(), c.want)
			}
		})
	}
}

func TestGRPCAPILogLine(t *testing.T) {
	var out bytes.Buffer
	l := APILog{GRPC: logging.Always(logging.Scope(logging.New(logging.Options{Out: &out, Level: slog.LevelError, JSON: true}), logging.ScopeGRPCInfo)), ObfuscateURLs: true}
	l.grpc("/dapr.proto.runtime.v1.Dapr/GetState", codes.NotFound, 3*time.Millisecond+time.Microsecond, " tester ")
	l.grpc("/a.B/C", codes.OK, 0, "")
	first, second, _ := strings.Cut(out.String(), "\n")
	e := entry(t, first)
	if e["scope"] != "dapr.runtime.grpc.api-info" || e["msg"] != "gRPC API Called" || e["method"] != "/dapr.proto.runtime.v1.Dapr/GetState" || e["code"] != 5.0 || e["duration"] != 3.0 || e["useragent"] != "tester" || e["size"] != nil {
		t.Errorf("got %s", first)
	}
	if e := entry(t, second); e["useragent"] != nil || e["code"] != 0.0 {
		t.Errorf("got %s", second)
	}
}

// entry reads a line of the log.
func entry(t *testing.T, line string) map[string]any {
	t.Helper()
	var e map[string]any
	if err := json.Unmarshal([]byte(line), &e); err != nil {
		t.Fatalf("%s: %v", line, err)
	}
	return e
}

// quoted is a text as it stands, in quotes when it has blanks.
func quoted(v any) string {
	if s, _ := v.(string); !strings.Contains(s, " ") {
		return s
	}
	return fmt.Sprintf("%q", v)
}
