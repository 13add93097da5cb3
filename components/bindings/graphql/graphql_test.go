package graphql

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"outrigger.dev/components/bindings"
	"outrigger.dev/components/bindings/bindingstest"
)

// binding is the type under test.
var binding = bindingstest.Type[*Binding]{Register: Register, Name: "graphql"}

// endpoint replies with what it was sent, as GraphQL data, unless the query says otherwise.
func endpoint(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	var message request
	if err := json.Unmarshal(body, &message); err != nil || r.Method != http.MethodPost || !strings.HasPrefix(r.Header.Get("Content-Type"), "application/json") {
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	switch message.Query {
	case "refused":
		_, _ = io.WriteString(w, `{"data":null,"errors":[{"message":"no such field","path":["a"]},{"message":"more"}]}`)
	case "refused with status":
		w.WriteHeader(http.StatusBadRequest)
		_, _ = io.WriteString(w, `{"errors":[{"message":"syntax"}]}`)
	case "down":
		w.WriteHeader(http.StatusBadGateway)
		_, _ = io.WriteString(w, "bad gateway")
	case "page":
		_, _ = io.WriteString(w, "<html>")
	case "nothing":
		_, _ = io.WriteString(w, "{}")
	default:
		_, _ = io.WriteString(w, `{"data": {"sent": `+string(body)+`, "secret": "`+r.Header.Get("X-Secret")+`", "own": "`+r.Header.Get("X-Own")+`", "trace": "`+r.Header.Get("Traceparent")+`"}}`)
	}
}

func TestInvoke(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(endpoint))
	defer server.Close()
	b := binding.MustOpen(t, map[string]string{"endpoint": server.URL, "header:x-secret": "hush", "variable:episode": "JEDI", "Variable:hero": "Luke"})
	for _, tc := range []struct {
		name      string
		operation string
		metadata  map[string]string
		data      string
		want      string
		err       string
	}{
		{
			"query", "query",
			map[string]string{"query": "query { a }", "header:X-Own": "1", "variable:hero": "Leia", "traceparent": "tp"},
			"null",
			`{"sent": {"query":"query { a }","variables":{"episode":"JEDI","hero":"Leia"}}, "secret": "hush", "own": "1", "trace": "tp"}`, "",
		},
		{
			"mutation", "mutation",
			map[string]string{"mutation": "mutation { b }", "header:X-Secret": "other"},
			"",
			`{"sent": {"query":"mutation { b }","variables":{"episode":"JEDI","hero":"Luke"}}, "secret": "other", "own": "", "trace": ""}`, "",
		},
		{"create", "create", map[string]string{"query": "nothing"}, `"text"`, "null", ""},
		{"no query", "query", map[string]string{"mutation": "m"}, "", "", `required metadata "query" is not set`},
		{"nothing for create", "create", nil, "", "", `required metadata "query" is not set`},
		{"operation", "get", nil, "", "", `operation "get"`},
		{"refused", "query", map[string]string{"query": "refused"}, "", "", "graphql: no such field"},
		{"refused with status", "query", map[string]string{"query": "refused with status"}, "", "", "graphql: syntax"},
		{"down", "query", map[string]string{"query": "down"}, "", "", "graphql: server returned a non-200 status code: 502"},
		{"page", "query", map[string]string{"query": "page"}, "", "", "did not reply with GraphQL's JSON"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if tc.metadata == nil {
				tc.metadata = map[string]string{}
			}
			resp, err := b.Invoke(context.Background(), bindings.Request{Operation: tc.operation, Metadata: tc.metadata, Data: []byte(tc.data)})
			if tc.err != "" {
				if err == nil || !strings.Contains(err.Error(), tc.err) {
					t.Errorf("error %v, want one with %q", err, tc.err)
				}
				return
			}
			if err != nil || string(resp.Data) != tc.want {
				t.Fatalf("response %+v, %v; want %s", resp, err, tc.want)
			}
			if m := resp.Metadata; m["operation"] != tc.operation || m["start-time"] == "" || m["end-time"] == "" || m["duration"] == "" {
				t.Errorf("metadata %v", m)
			}
		})
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := b.Invoke(ctx, bindings.Request{Operation: "query", Metadata: map[string]string{"query": "q"}}); err == nil {
		t.Error("a cancelled call succeeded")
	}
	_ = b.Close()
	if _, err := b.Invoke(context.Background(), bindings.Request{Operation: "query", Metadata: map[string]string{"query": "q"}}); err == nil || !strings.Contains(err.Error(), "closed") {
		t.Errorf("after Close: %v", err)
	}
}

func TestForeignRedirect(t *testing.T) {
	other := httptest.NewServer(http.HandlerFunc(endpoint))
	defer other.Close()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, other.URL, http.StatusTemporaryRedirect)
	}))
	defer server.Close()
	b := binding.MustOpen(t, map[string]string{"endpoint": server.URL, "header:x-secret": "hush"})
	resp, err := b.Invoke(context.Background(), bindings.Request{Operation: "query", Metadata: map[string]string{"query": "q", "header:X-Own": "1"}})
	if err != nil || !strings.Contains(string(resp.Data), `"secret": "", "own": "1"`) {
		t.Errorf("response %s, %v", resp.Data, err)
	}
}

func TestHeaders(t *testing.T) {
	if _, err := binding.Open(t, map[string]string{"endpoint": "http://h", "header:x": "a\nb"}); err == nil || !strings.Contains(err.Error(), `"header:x" is no header`) {
		t.Errorf("bad property: %v", err)
	}
	b := binding.MustOpen(t, map[string]string{"endpoint": "http://h"})
	if _, err := b.Invoke(context.Background(), bindings.Request{Operation: "query", Metadata: map[string]string{"query": "q", "header:a b": "1"}}); err == nil || !strings.Contains(err.Error(), `"header:a b" is no header`) {
		t.Errorf("bad header: %v", err)
	}
}

func TestEndpoint(t *testing.T) {
	for _, endpoint := range []string{"", "example.com/graphql", "ws://example.com"} {
		if _, err := binding.Open(t, map[string]string{"endpoint": endpoint}); err == nil || !strings.Contains(err.Error(), `"endpoint"`) {
			t.Errorf("%q: error %v", endpoint, err)
		}
	}
	b := binding.MustOpen(t, map[string]string{"endpoint": "http://user:hush@127.0.0.1:1/x"})
	if _, err := b.Invoke(context.Background(), bindings.Request{Operation: "query", Metadata: map[string]string{"query": "q"}}); err == nil || !strings.Contains(err.Error(), "127.0.0.1:1") || strings.Contains(err.Error(), "hush") {
		t.Errorf("endpoint that is down: %v", err)
	}
}
