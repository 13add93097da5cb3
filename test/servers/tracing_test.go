package servers

import (
	"net/http"
	"strings"
	"testing"
	"time"
)

// The collectors take spans as their protocols have them, and show them.
func TestCollectors(t *testing.T) {
	const trace, span = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
	post := func(url, body string) {
		t.Helper()
		req, err := http.NewRequestWithContext(within(t), http.MethodPost, url, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Content-Type", "application/json")
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		if resp.StatusCode/100 != 2 {
			t.Fatalf("%s answers %s", url, resp.Status)
		}
	}
	await := func(what string, there func() bool) {
		t.Helper()
		for deadline := time.Now().Add(20 * time.Second); !there(); {
			if time.Now().After(deadline) {
				t.Fatalf("not within 20 s: %s", what)
			}
			time.Sleep(10 * time.Millisecond)
		}
	}
	t.Run("Zipkin", func(t *testing.T) {
		z := measured(t, "Zipkin", func() *ZipkinServer { return Zipkin(t) })
		post(z.Endpoint, `[{"traceId":"`+trace+`","id":"`+span+`","name":"n","kind":"CLIENT","localEndpoint":{"serviceName":"s"},"tags":{"k":"v"}}]`)
		var found []ZipkinSpan
		await("the span is there", func() bool { found = z.Trace(within(t), trace); return len(found) == 1 })
		if s := found[0]; s.ID != span || s.Name != "n" || s.Kind != "CLIENT" || s.LocalEndpoint.ServiceName != "s" || s.Tags["k"] != "v" {
			t.Errorf("%+v", s)
		}
	})
	t.Run("OpenTelemetry", func(t *testing.T) {
		c := measured(t, "the collector", func() *OTelServer { return OTelCollector(t, Own()) })
		send := func() {
			t.Helper()
			post("http://"+c.HTTPAddr+"/v1/traces", `{"resourceSpans":[{"resource":{"attributes":[{"key":"service.name","value":{"stringValue":"s"}}]},
				"scopeSpans":[{"scope":{"name":"x"},"spans":[{"traceId":"`+trace+`","spanId":"`+span+`","name":"n","kind":3,"status":{"code":2,"message":"m"}}]}]}]}`)
		}
		send()
		await("the span is there", func() bool { return len(c.Trace(trace)) == 1 })
		if s := c.Trace(trace)[0]; s.SpanID != span || s.Name != "n" || s.Kind != 3 || s.Service != "s" || s.Scope != "x" || s.StatusCode != 2 || s.StatusMessage != "m" {
			t.Errorf("%+v", s)
		}
		c.Stop()
		c.Start()
		send()
		await("spans from before and after", func() bool { return len(c.Trace(trace)) == 2 })
	})
}
