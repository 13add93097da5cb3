package export

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"outrigger.dev/resource"
	"outrigger.dev/telemetry/tracing"
	"outrigger.dev/test/servers"
)

func TestMain(m *testing.M) { servers.Main(m) }

// env is an environment with just these variables.
func env(pairs ...string) func(string) (string, bool) {
	m := map[string]string{}
	for i := 0; i < len(pairs); i += 2 {
		m[pairs[i]] = pairs[i+1]
	}
	return func(name string) (string, bool) { v, ok := m[name]; return v, ok }
}

func ptr[T any](v T) *T { return &v }

func TestResolve(t *testing.T) {
	const (
		generic = "OTEL_EXPORTER_OTLP_"
		traces  = "OTEL_EXPORTER_OTLP_TRACES_"
	)
	for name, test := range map[string]struct {
		config resource.Tracing
		env    func(string) (string, bool)
		want   settings
		err    string
	}{
		"nothing": {want: settings{secure: true, service: "app"}},
		"configured": {
			config: resource.Tracing{SamplingRate: "0.5", Stdout: true, Zipkin: resource.Zipkin{EndpointAddress: "http://z/api"}, OTel: resource.OTel{
				Protocol: "http", EndpointAddress: "c:4318", IsSecure: ptr(false), Timeout: resource.Duration(time.Second),
				Headers: resource.OTelHeaders{{Name: "a", Value: resource.TextValue("b=c")}, {Name: "key", EnvRef: "KEY"}},
			}},
			env: env("KEY", "secret", generic+"ENDPOINT", "other:1", generic+"HEADERS", "x", generic+"TIMEOUT", "x"),
			want: settings{
				rateText: "0.5", stdout: true, zipkin: "http://z/api", protocol: "http", endpoint: "c:4318", headers: map[string]string{"a": "b=c", "key": "secret"},
				timeout: time.Second, service: "app",
			},
		},
		"protocol without endpoint": {config: resource.Tracing{OTel: resource.OTel{Protocol: "grpc"}}, want: settings{secure: true, service: "app"}},
		"endpoint without protocol": {config: resource.Tracing{OTel: resource.OTel{EndpointAddress: "c:1"}}, want: settings{endpoint: "c:1", secure: true, service: "app"}},
		"another protocol":          {config: resource.Tracing{OTel: resource.OTel{EndpointAddress: "c:1", Protocol: "http/json"}}, err: "invalid protocol http/json provided for Otel endpoint"},
		"zipkin that is no URL":     {config: resource.Tracing{Zipkin: resource.Zipkin{EndpointAddress: "z:9411"}}, err: "is not the URL of a Zipkin collector"},
		"environment": {
			env: env(generic+"ENDPOINT", "https://c:4317", generic+"HEADERS", "a=b%20c, d=%3D,", generic+"TIMEOUT", "1500", generic+"INSECURE", "true"),
			want: settings{
				rateText: "1", protocol: "grpc", endpoint: "c:4317", headers: map[string]string{"a": "b c", "d": "="}, timeout: 1500 * time.Millisecond, service: "app",
			},
		},
		"environment for traces": {
			config: resource.Tracing{SamplingRate: "0.1"},
			env: env(generic+"ENDPOINT", "x:1", traces+"ENDPOINT", "http://c:4318", generic+"PROTOCOL", "grpc", traces+"PROTOCOL", "http/protobuf",
				generic+"HEADERS", "x=y", traces+"HEADERS", "a=b", generic+"TIMEOUT", "1", traces+"TIMEOUT", "2"),
			want: settings{
				rateText: "0.1", protocol: "http", endpoint: "c:4318", secure: true, headers: map[string]string{"a": "b"}, timeout: 2 * time.Millisecond, service: "app",
			},
		},
		"protocol is replaced by the environment": {
			config: resource.Tracing{OTel: resource.OTel{Protocol: "http"}}, env: env(generic+"ENDPOINT", "c:1"),
			want: settings{rateText: "1", protocol: "grpc", endpoint: "c:1", secure: true, service: "app"},
		},
		"off stays off": {
			config: resource.Tracing{SamplingRate: "0"}, env: env(generic+"ENDPOINT", "c:1"),
			want: settings{rateText: "0", protocol: "grpc", endpoint: "c:1", secure: true, service: "app"},
		},
		"headers without value":   {env: env(generic+"ENDPOINT", "c:1", generic+"HEADERS", "a=b,secret"), err: "invalid headers in OTEL_EXPORTER_OTLP_HEADERS: its entry 2 is not of the form key=value"},
		"headers without name":    {env: env(generic+"ENDPOINT", "c:1", traces+"HEADERS", "=b"), err: "invalid headers in OTEL_EXPORTER_OTLP_TRACES_HEADERS: its entry 1"},
		"headers with bad escape": {env: env(generic+"ENDPOINT", "c:1", generic+"HEADERS", "a=%zz"), err: "the value of a has a malformed percent escape"},
		"timeout":                 {env: env(generic+"ENDPOINT", "c:1", generic+"TIMEOUT", "10s"), err: `invalid timeout "10s" in OTEL_EXPORTER_OTLP_TIMEOUT: give a whole number of milliseconds`},
		"service and attributes": {
			env:  env("OTEL_SERVICE_NAME", "mine", "OTEL_RESOURCE_ATTRIBUTES", "team=blue%20one, service.name=not"),
			want: settings{secure: true, service: "mine", resources: [][2]string{{"team", "blue one"}, {"service.name", "not"}}},
		},
		"attributes that are malformed": {
			env:  env("OTEL_RESOURCE_ATTRIBUTES", "team"),
			want: settings{secure: true, service: "app", warnings: []string{"OTEL_RESOURCE_ATTRIBUTES is ignored: its entry 1 is not of the form key=value; write it as key=value,key2=value2 with other characters percent-encoded"}},
		},
	} {
		if test.env == nil {
			test.env = env()
		}
		got, err := resolve(test.config, "app", test.env)
		if test.err != "" {
			if err == nil || !strings.Contains(err.Error(), test.err) {
				t.Errorf("%s: error %v, want %s", name, err, test.err)
			}
			continue
		}
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if fmt.Sprintf("%+v", *got) != fmt.Sprintf("%+v", test.want) {
			t.Errorf("%s:\n got %+v\nwant %+v", name, *got, test.want)
		}
	}
	for text, want := range map[string]float64{"": defaultRate, "x": defaultRate, "NaN": defaultRate, "0.5": 0.5, "1": 1, "2": 2, "0.0": 0, "1e-2": 0.01} {
		if got := (&settings{rateText: text}).rate(); got != want {
			t.Errorf("rate %q = %v, want %v", text, got, want)
		}
	}
}

func TestModes(t *testing.T) {
	for name, test := range map[string]struct {
		config    resource.Tracing
		on, spans bool
	}{
		"default":              {resource.Tracing{}, true, false},
		"off":                  {resource.Tracing{SamplingRate: "0", Stdout: true}, false, false},
		"a rate, no exporter":  {resource.Tracing{SamplingRate: "1"}, true, true},
		"no rate, an exporter": {resource.Tracing{Stdout: true}, true, true},
	} {
		p := open(t, Options{Tracing: test.config})
		if tr := p.Tracer(); tr.On() != test.on || tr.Spans() != test.spans {
			t.Errorf("%s: on %v, spans %v", name, tr.On(), tr.Spans())
		}
	}
	for name, config := range map[string]resource.Tracing{
		"protocol": {OTel: resource.OTel{EndpointAddress: "c:1", Protocol: "udp"}},
		"endpoint": {OTel: resource.OTel{EndpointAddress: "user@c:1", Protocol: "grpc"}},
	} {
		if _, err := Open(t.Context(), Options{Tracing: config, LookupEnv: env()}); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

func open(t *testing.T, o Options) *Provider {
	t.Helper()
	if o.LookupEnv == nil {
		o.LookupEnv = env()
	}
	if o.AppID == "" {
		o.AppID = "app"
	}
	p, err := Open(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = p.Close(context.Background()) })
	return p
}

// spanTree makes a server span that failed with a client span below, under a parent from outside, and returns their contexts.
func spanTree(p *Provider) (outer, inner tracing.Context) {
	parent := p.Tracer().Start(tracing.Context{}, tracing.Internal, "far away").Context()
	parent.State = "vendor=value"
	a := p.Tracer().Start(parent, tracing.Server, "first name")
	a.SetName("CallLocal/app/method")
	a.Set("rpc.service", "ServiceInvocation")
	b := p.Tracer().Child(a, tracing.Client, "/v1.0/state/store")
	b.Set("db.name", "store")
	b.Set("db.system", "state")
	b.End()
	a.Fail("Code(404): Not Found")
	a.End()
	return a.Context(), b.Context()
}

func flush(t *testing.T, p *Provider) {
	t.Helper()
	if err := p.Close(t.Context()); err != nil {
		t.Fatalf("closing: %v", err)
	}
}

// until waits for a condition.
func until(t *testing.T, what string, condition func() bool) {
	t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	for !condition() {
		if time.Now().After(deadline) {
			t.Fatalf("not within 20 s: %s", what)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

func TestZipkin(t *testing.T) {
	z := servers.Zipkin(t)
	p := open(t, Options{
		Tracing:   resource.Tracing{SamplingRate: "1", Zipkin: resource.Zipkin{EndpointAddress: z.Endpoint}},
		LookupEnv: env("OTEL_RESOURCE_ATTRIBUTES", "team=blue"),
	})
	outer, inner := spanTree(p)
	flush(t, p)
	var spans []servers.ZipkinSpan
	until(t, "both spans arrive", func() bool {
		spans = z.Trace(t.Context(), outer.TraceID.String())
		return len(spans) == 2
	})
	if spans[0].Kind != "SERVER" {
		slices.Reverse(spans)
	}
	s, c := spans[0], spans[1]
	if s.ID != outer.SpanID.String() || s.ParentID == "" || s.ParentID == s.ID || s.Kind != "SERVER" || s.Name != "calllocal/app/method" || s.LocalEndpoint.ServiceName != "app" || s.Timestamp == 0 || s.Duration == 0 {
		t.Errorf("server span: %+v", s)
	}
	want := map[string]string{"rpc.service": "ServiceInvocation", "error": "Code(404): Not Found", "otel.status_code": "ERROR", "otel.scope.name": tracing.Name, "team": "blue"}
	if !maps.Equal(s.Tags, want) {
		t.Errorf("server span: tags %v, want %v", s.Tags, want)
	}
	if c.ID != inner.SpanID.String() || c.ParentID != outer.SpanID.String() || c.Kind != "CLIENT" || c.RemoteEndpoint.ServiceName != "store" || c.Tags["db.system"] != "state" || c.Tags["error"] != "" {
		t.Errorf("client span: %+v", c)
	}
}

func TestOTLP(t *testing.T) {
	for _, protocol := range []string{"grpc", "http"} {
		for _, secure := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s secure %v", protocol, secure), func(t *testing.T) {
				var options []servers.Option
				if secure {
					options = append(options, servers.TLS())
				}
				collector := servers.OTelCollector(t, options...)
				if secure {
					t.Setenv("OTEL_EXPORTER_OTLP_CERTIFICATE", collector.CAFile)
				}
				address := collector.Addr
				if protocol == "http" {
					address = collector.HTTPAddr
				}
				p := open(t, Options{
					Tracing: resource.Tracing{SamplingRate: "1", OTel: resource.OTel{
						Protocol: protocol, EndpointAddress: address, IsSecure: &secure, Timeout: resource.Duration(10 * time.Second),
						Headers: resource.OTelHeaders{{Name: "x-key", Value: resource.TextValue("value")}},
					}},
					LookupEnv: env("OTEL_SERVICE_NAME", "my-service", "OTEL_RESOURCE_ATTRIBUTES", "team=blue"),
				})
				outer, inner := spanTree(p)
				flush(t, p)
				var spans []servers.OTelSpan
				until(t, "both spans arrive", func() bool {
					spans = collector.Trace(outer.TraceID.String())
					return len(spans) == 2
				})
				if spans[0].Kind != 2 {
					slices.Reverse(spans)
				}
				s, c := spans[0], spans[1]
				if s.SpanID != outer.SpanID.String() || s.ParentSpanID == "" || s.Kind != 2 || s.Name != "CallLocal/app/method" || s.Service != "my-service" || s.Resource["team"] != "blue" || s.Scope != tracing.Name ||
					s.TraceState != "vendor=value" || s.StatusCode != 2 || s.StatusMessage != "Code(404): Not Found" || !maps.Equal(s.Attributes, map[string]string{"rpc.service": "ServiceInvocation"}) {
					t.Errorf("server span: %+v", s)
				}
				if c.SpanID != inner.SpanID.String() || c.ParentSpanID != s.SpanID || c.Kind != 3 || c.StatusCode != 0 || !maps.Equal(c.Attributes, map[string]string{"db.system": "state", "db.name": "store"}) {
					t.Errorf("client span: %+v", c)
				}
			})
		}
	}
}

// The endpoint of the environment may have a scheme and a path; headers arrive.
func TestOTLPOverHTTPOfTheEnvironment(t *testing.T) {
	seen := make(chan *http.Request, 1)
	collector := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		seen <- r
	}))
	defer collector.Close()
	p := open(t, Options{LookupEnv: env("OTEL_EXPORTER_OTLP_ENDPOINT", collector.URL+"/prefix/", "OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf", "OTEL_EXPORTER_OTLP_INSECURE", "true",
		"OTEL_EXPORTER_OTLP_HEADERS", "x-key=a%20b")})
	spanTree(p)
	flush(t, p)
	if r := <-seen; r.URL.Path != "/prefix/v1/traces" || r.Header.Get("X-Key") != "a b" || r.Method != http.MethodPost {
		t.Errorf("%s %s with the key %q", r.Method, r.URL, r.Header.Get("X-Key"))
	}
}

// lines is a log's text.
type lines struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

func TestStdout(t *testing.T) {
	var log lines
	p := open(t, Options{Tracing: resource.Tracing{SamplingRate: "1", Stdout: true}, Log: slog.New(slog.NewTextHandler(&log, nil))})
	outer, inner := spanTree(p)
	flush(t, p)
	want := fmt.Sprintf("[/v1.0/state/store] Trace: %s Span: %s/%s Time: [", outer.TraceID, outer.SpanID, inner.SpanID)
	if text := log.String(); !strings.Contains(text, want) || strings.Count(text, "Annotations: []") != 2 || !strings.Contains(text, "scope=dapr.runtime.trace") {
		t.Errorf("the log says\n%s\nwant %s", text, want)
	}
}

// A collector that is down, hangs or fails: calls go on, the log says so once, and closing does not take long.
func TestCollectorsDown(t *testing.T) {
	hung, err := net.Listen("tcp", "127.0.0.1:0") // accepts, and never answers
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { hung.Close() }) // after the subtests, which run side by side
	closed, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	down := closed.Addr().String()
	closed.Close()
	failing := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		http.Error(w, "no room", http.StatusInsufficientStorage)
	}))
	t.Cleanup(failing.Close)
	insecure := false
	for name, config := range map[string]resource.Tracing{
		"zipkin down":  {Zipkin: resource.Zipkin{EndpointAddress: "http://" + down + "/api/v2/spans"}},
		"zipkin hangs": {Zipkin: resource.Zipkin{EndpointAddress: "http://" + hung.Addr().String() + "/api/v2/spans"}},
		"zipkin fails": {Zipkin: resource.Zipkin{EndpointAddress: failing.URL}},
		"grpc down":    {OTel: resource.OTel{Protocol: "grpc", EndpointAddress: down, IsSecure: &insecure}},
		"grpc hangs":   {OTel: resource.OTel{Protocol: "grpc", EndpointAddress: hung.Addr().String(), IsSecure: &insecure}},
		"http down":    {OTel: resource.OTel{Protocol: "http", EndpointAddress: down, IsSecure: &insecure}},
		"http hangs":   {OTel: resource.OTel{Protocol: "http", EndpointAddress: hung.Addr().String(), IsSecure: &insecure}},
		"http fails":   {OTel: resource.OTel{Protocol: "http", EndpointAddress: strings.TrimPrefix(failing.URL, "http://"), IsSecure: &insecure}},
		"no such host": {OTel: resource.OTel{Protocol: "grpc", EndpointAddress: "collector.invalid:4317", IsSecure: &insecure}},
		"not secured":  {OTel: resource.OTel{Protocol: "http", EndpointAddress: strings.TrimPrefix(failing.URL, "http://")}},
		"several are":  {Stdout: true, Zipkin: resource.Zipkin{EndpointAddress: failing.URL}, OTel: resource.OTel{Protocol: "grpc", EndpointAddress: hung.Addr().String(), IsSecure: &insecure}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var log lines
			config.SamplingRate = "1"
			p := open(t, Options{Tracing: config, Log: slog.New(slog.NewTextHandler(&log, nil))})
			start := time.Now()
			for range 5000 { // more than the queue holds
				spanTree(p)
			}
			if took := time.Since(start); took > 5*time.Second {
				t.Errorf("10000 spans took %s", took)
			}
			want := 1
			if name == "several are" {
				want = 2
			}
			const bound = time.Second
			ctx, cancel := context.WithTimeout(context.Background(), bound)
			defer cancel()
			start = time.Now()
			_ = p.Close(ctx)
			if took := time.Since(start); took > bound+time.Second {
				t.Errorf("closing took %s, though it had %s", took, bound)
			}
			if n := strings.Count(log.String(), "spans cannot be sent to"); n != want {
				t.Errorf("the log complains %d times:\n%.1000s", n, log.String())
			}
			s := p.Tracer().Start(tracing.Context{}, tracing.Server, "after the end")
			s.End()
			if !s.Valid() {
				t.Error("a closed provider's spans have no identity")
			}
		})
	}
}

func TestComplaints(t *testing.T) {
	var log lines
	now := time.Unix(0, 0).Add(time.Hour)
	k := newSink("Zipkin", "http://user:secret@z:9411/x", nil, slog.New(slog.NewTextHandler(&log, nil)))
	k.now = func() time.Time { return now }
	defer k.cancel()
	count := func(want int, what string) {
		t.Helper()
		if n := strings.Count(log.String(), what); n != want {
			t.Fatalf("%q stands %d times in the log, want %d:\n%s", what, n, want, log.String())
		}
	}
	for range 5 {
		k.note(io.ErrUnexpectedEOF, 10)
	}
	count(1, "cannot be sent to Zipkin at http://z:9411/x")
	count(1, "spans=10 ")
	now = now.Add(complainEvery)
	k.note(io.ErrUnexpectedEOF, 10)
	count(1, "spans=50 ")
	k.note(nil, 10)
	k.note(nil, 10)
	count(1, "reach Zipkin at http://z:9411/x again")
	count(0, "secret")
	k.note(io.ErrUnexpectedEOF, 10) // flapping is not written about every time
	count(2, "cannot be sent")
}
