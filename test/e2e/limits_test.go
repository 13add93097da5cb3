package e2e

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	commonv1 "outrigger.dev/api/gen/common/v1"
	runtimev1 "outrigger.dev/api/gen/runtime/v1"
)

func saveRequest(key, value string) *runtimev1.SaveStateRequest {
	return &runtimev1.SaveStateRequest{StoreName: "st", States: []*commonv1.StateItem{{Key: key, Value: []byte(value)}}}
}

// The limit of the header is the flag's value and 4096 bytes of slack.
func TestHeaderLimit(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		flag    string
		ok, not int // bytes of one header
	}{
		{"1Ki", 4800, 5300},
		{"4Ki", 7900, 8400},
		{"-1", 7900, 8400},
		{"0", 200_000, 1_100_000},
	} {
		t.Run(c.flag, func(t *testing.T) {
			t.Parallel()
			d := start(t, args("--read-buffer-size", c.flag))
			if r := d.get("/v1.0/healthz/outbound", "X-Long", strings.Repeat("x", c.ok)); r.status != 204 {
				t.Errorf("%d bytes: %+v", c.ok, r)
			}
			r := d.get("/v1.0/healthz/outbound", "X-Long", strings.Repeat("x", c.not))
			if r.status != 431 || !strings.HasPrefix(r.header.Get("Content-Type"), "text/plain") || !r.close {
				t.Errorf("%d bytes: %+v", c.not, r)
			}
			if r := d.get("/v1.0/healthz/outbound"); r.status != 204 {
				t.Errorf("afterwards: %+v", r)
			}
		})
	}
}

// item is a save of exactly n bytes.
func item(n int) string {
	const head, tail = `[{"key":"k","value":"`, `"}]`
	return head + strings.Repeat("v", n-len(head)-len(tail)) + tail
}

// What a body over the limit does depends on how the route reads it; there is no 413.
func TestBodyLimit(t *testing.T) {
	t.Parallel()
	const most = 1024
	d := start(t, memory(), appPort(app(t, echo)), args("--max-body-size", fmt.Sprint(most)))
	d.awaitHealthy()
	transport := &http.Transport{Protocols: new(http.Protocols)}
	transport.Protocols.SetUnencryptedHTTP2(true)
	defer transport.CloseIdleConnections()
	for _, c := range []struct {
		name, method, path string
		body               func(n int) string
		ok                 int // status of a body of exactly the limit
		status             int
		code, message      string
	}{
		{"J", "POST", "/v1.0/state/st", item, 204, 400, "ERR_MALFORMED_REQUEST", "stream too large"},
		{"J wrapped", "POST", "/v1.0/state/st/bulk", func(n int) string { return `{"keys":["` + strings.Repeat("k", n-13) + `"]}` }, 200, 400, "ERR_MALFORMED_REQUEST", "failed deserializing HTTP body: stream too large"},
		{"R", "PUT", "/v1.0/metadata/k", func(n int) string { return strings.Repeat("x", n) }, 204, 400, "ERR_BODY_READ", "failed to read request body: stream too large"},
		{"invoke", "POST", "/v1.0/invoke/app/method/x", func(n int) string { return strings.Repeat("x", n) }, 200, 500, "ERR_DIRECT_INVOKE", "stream too large"},
	} {
		for form, send := range map[string]func(string) (reply, error){
			"fixed":   func(b string) (reply, error) { return request(d.client, c.method, d.url+c.path, strings.NewReader(b)) },
			"chunked": func(b string) (reply, error) { return request(d.client, c.method, d.url+c.path, chunked(b)) },
			"HTTP/2": func(b string) (reply, error) {
				return request(&http.Client{Transport: transport, Timeout: limit}, c.method, d.url+c.path, chunked(b))
			},
		} {
			name := c.name + ", " + form
			r, err := send(c.body(most))
			if err != nil || r.status != c.ok {
				t.Errorf("%s, at the limit: %+v, %v", name, r, err)
			}
			for _, n := range []int{most + 1, 40 * most} {
				r, err = send(c.body(n))
				if err != nil {
					t.Errorf("%s, %d bytes: %v", name, n, err)
					continue
				}
				if code, message := r.errorCode(); r.status != c.status || code != c.code || !strings.Contains(message, c.message) {
					t.Errorf("%s, %d bytes: %d %s", name, n, r.status, r.body)
				}
				if form != "HTTP/2" && !r.close {
					t.Errorf("%s, %d bytes: the connection stays open", name, n)
				}
			}
		}
	}
	if r := d.post("/v1.0/invoke/app/method/y", "small"); r.status != 200 || r.body != "POST /y 5" {
		t.Errorf("afterwards: %+v", r)
	}
}

func TestBodyLimitDefaultsAndNone(t *testing.T) {
	t.Parallel()
	const standard = 4 << 20
	for _, flags := range [][]string{nil, {"--max-body-size", "-1"}} {
		d := start(t, args(flags...))
		for n, want := range map[int]int{standard: 204, standard + 1: 400} {
			if r := d.do("PUT", "/v1.0/metadata/k", strings.Repeat("x", n)); r.status != want {
				t.Errorf("%v: %d bytes: %+v", flags, n, r)
			}
		}
		d.stop()
	}
	d := start(t, memory(), appPort(app(t, echo)), args("--max-body-size", "0"))
	d.awaitHealthy()
	r, err := request(d.client, "POST", d.url+"/v1.0/invoke/app/method/x", io.LimitReader(zeros{}, 3*standard))
	if err != nil || r.body != fmt.Sprintf("POST /x %d", 3*standard) {
		t.Errorf("no limit: %+v, %v", r, err)
	}
	_, err = d.dapr().SaveState(within(t), saveRequest("k", "1"))
	if status.Code(err) != codes.ResourceExhausted {
		t.Errorf("gRPC with the limit 0: %v", err)
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

func TestMessageLimit(t *testing.T) {
	t.Parallel()
	d := start(t, memory(), args("--max-body-size", "1Ki"))
	_, err := d.dapr().SaveState(within(t), saveRequest("k", strings.Repeat("1", 2000)))
	if s := status.Convert(err); s.Code() != codes.ResourceExhausted || !strings.HasPrefix(s.Message(), "grpc: received message larger than max (20") || !strings.HasSuffix(s.Message(), " vs. 1024)") {
		t.Errorf("request: %v", err)
	}
	for i := range 3 {
		if r := d.do("PUT", fmt.Sprintf("/v1.0/metadata/k%d", i), strings.Repeat("x", 500)); r.status != 204 {
			t.Fatalf("%+v", r)
		}
	}
	if _, err := d.dapr().GetMetadata(within(t), &runtimev1.GetMetadataRequest{}); status.Code(err) != codes.ResourceExhausted {
		t.Errorf("reply: %v", err)
	}
	if _, err := d.dapr().SaveState(within(t), saveRequest("k", "1")); err != nil {
		t.Error(err)
	}
}
