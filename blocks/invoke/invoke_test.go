package invoke

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jonboulle/clockwork"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"outrigger.dev/api"
	"outrigger.dev/api/apitest"
	"outrigger.dev/components/nameresolution"
	"outrigger.dev/invocation"
)

func TestAddress(t *testing.T) {
	basic := func(text string) string { return "Basic " + base64.StdEncoding.EncodeToString([]byte(text)) }
	for _, c := range []struct {
		path, header, value string
		target, method      string
		ok                  bool
	}{
		{path: "/v1.0/invoke/app/method/m", target: "app", method: "m", ok: true},
		{path: "/v1.0/invoke/app/method/a/b//c/", target: "app", method: "a/b/c", ok: true},
		{path: "/v1.0/invoke/app/method/", target: "app", method: "", ok: true},
		{path: "//v1.0///invoke//app/method/m", target: "app", method: "m", ok: true},
		{path: "/v1.0/invoke/app/method/x/method/y", target: "app", method: "x/method/y", ok: true},
		{path: "/v1.0/invoke/app.ns/method/m", target: "app.ns", method: "m", ok: true},
		{path: "/v1.0/invoke/http://host:1/method/m", target: "http://host:1", method: "m", ok: true},
		{path: "/v1.0/invoke/http%253A%252F%252Fhost/method/m", target: "http://host", method: "m", ok: true},
		{path: "/v1.0/invoke/a+b/method/m", target: "a b", method: "m", ok: true},
		{path: "/v1.0/invoke/app/method"},
		{path: "/v1.0/invoke/app"},
		{path: "/v1.0/invoke//method/m"},
		{path: "/v1.0/invokes/app/method/m"},
		{path: "/anything"},
		{path: "/any//thing/", header: "Dapr-App-Id", value: "app", target: "app", method: "any/thing", ok: true},
		{path: "/v1.0/invoke/other/method/m", header: "Dapr-App-Id", value: "app", target: "app", method: "v1.0/invoke/other/method/m", ok: true},
		{path: "/m", header: "Authorization", value: basic("dapr-app-id:app"), target: "app", method: "m", ok: true},
		{path: "/m", header: "Authorization", value: basic("DAPR-App-ID:app"), target: "app", method: "m", ok: true},
		{path: "/m", header: "Authorization", value: basic("dapr-app-id:a:b")},
		{path: "/m", header: "Authorization", value: basic("somebody:app")},
		{path: "/m", header: "Authorization", value: "Basic !!!"},
		{path: "/m", header: "Authorization", value: "Bearer x"},
	} {
		headers := []string{}
		if c.header != "" {
			headers = append(headers, c.header, c.value)
		}
		call := &api.Call{Exchange: apitest.New("GET", c.path, "", headers...)}
		target, method, _, ok := address(call)
		if target != c.target || method != c.method || ok != c.ok {
			t.Errorf("%s %s: %q, %q, %v; want %q, %q, %v", c.path, c.value, target, method, ok, c.target, c.method, c.ok)
		}
	}
}

func FuzzAddressInPath(f *testing.F) {
	for _, p := range []string{"/v1.0/invoke/app/method/m", "//v1.0//invoke/%41/method/../x", "/v1.0/invoke//method/", ""} {
		f.Add(p)
	}
	f.Fuzz(func(t *testing.T, path string) {
		target, method, ok := addressInPath(path)
		if ok && target == "" {
			t.Errorf("%q has an empty target", path)
		}
		if method != invocation.CleanMethod(method) {
			t.Errorf("%q gives the unclean method %q", path, method)
		}
	})
}

func TestRequestHeader(t *testing.T) {
	call := &api.Call{Exchange: apitest.New("POST", "/m", "b", "Dapr-App-Id", "app", "Content-Type", "text/x", "Te", "trailers", "Connection", "X-Hop, close",
		"X-Hop", "1", "X-Kept", "2", "X-Kept", "3", "Keep-Alive", "5", "Accept", " Text/Event-Stream ")}
	req := &invocation.Request{}
	requestHeader(call, req, true)
	var got []string
	for _, f := range req.Header {
		got = append(got, string(f.Name)+": "+string(f.Value))
	}
	slices.Sort(got)
	if want := []string{"Accept:  Text/Event-Stream ", "X-Kept: 2", "X-Kept: 3"}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	if req.ContentType != "text/x" || !req.EventStream {
		t.Errorf("got %+v", req)
	}
	req = &invocation.Request{}
	requestHeader(&api.Call{Exchange: apitest.New("GET", "/m", "", "Accept", "text/event-stream, */*")}, req, false)
	if req.EventStream {
		t.Error("events were not the only thing asked for")
	}
}

// peers answers from a list, one entry a call.
type peers struct {
	errs  []error
	calls []string
	seen  invocation.Header
}

func (p *peers) Invoke(_ context.Context, address string, req *invocation.Request) (*invocation.Response, error) {
	p.calls = append(p.calls, address)
	p.seen = slices.Clone(req.Header)
	if len(p.calls) <= len(p.errs) {
		return nil, p.errs[len(p.calls)-1]
	}
	return &invocation.Response{Status: 200}, nil
}

func (p *peers) Retriable(err error) bool { return status.Code(err) == codes.Unavailable }

// resolver gives another address at each look-up.
type resolver struct {
	looked    int
	forgotten []string
}

func (r *resolver) Resolve(_ context.Context, req nameresolution.Request) (string, error) {
	if req.ID == "nobody" {
		return "", errors.New("couldn't find service: nobody")
	}
	r.looked++
	return fmt.Sprintf("%s.%s:%d", req.ID, req.Namespace, r.looked), nil
}

func (r *resolver) Forget(_ nameresolution.Request, address string) {
	r.forgotten = append(r.forgotten, address)
}

type channel struct{ calls int }

func (c *channel) Invoke(context.Context, *invocation.Request) (*invocation.Response, error) {
	c.calls++
	return &invocation.Response{Status: 200}, nil
}

func TestInvoke(t *testing.T) {
	for _, c := range []struct {
		target, want, err string
		local             bool
	}{
		{target: "other", want: "other.default:1"},
		{target: "other.ns2", want: "other.ns2:1"},
		{target: "me", local: true},
		{target: "me.default", local: true},
		{target: "me.ns2", want: "me.ns2:1"},
		{target: "a.b.c", err: "invalid app id a.b.c"},
		{target: "", err: "app id is empty"},
		{target: "nobody", err: "couldn't find service: nobody"},
		{target: "http://x", err: "the channels to HTTP endpoints could not be opened; see the sidecar's log"},
	} {
		p, app := &peers{}, &channel{}
		b := New(Options{AppID: "me", Namespace: "default", App: app, Peers: p, Resolver: &resolver{}})
		_, err := b.Invoke(context.Background(), c.target, &invocation.Request{Method: "m", Verb: "GET"})
		if c.err != "" {
			if err == nil || err.Error() != c.err {
				t.Errorf("%q: %v, want %s", c.target, err, c.err)
			}
			continue
		}
		if err != nil || strings.Join(p.calls, ",") != c.want || (app.calls == 1) != c.local {
			t.Errorf("%q: called %v, the app %d times: %v", c.target, p.calls, app.calls, err)
		}
	}
	b := New(Options{AppID: "me", Namespace: "default"})
	if _, err := b.Invoke(context.Background(), "me", &invocation.Request{}); err == nil || err.Error() != "cannot invoke local endpoint: app channel not initialized" {
		t.Errorf("without an app: %v", err)
	}
	if _, err := b.Invoke(context.Background(), "me", &invocation.Request{Method: "a#b"}); status.Code(err) != codes.InvalidArgument {
		t.Errorf("a bad method: %v", err)
	}
}

func TestRetries(t *testing.T) {
	unavailable := status.Error(codes.Unavailable, "gone")
	for name, c := range map[string]struct {
		errs   []error
		stream bool
		calls  int
		err    string
	}{
		"it comes back":              {errs: []error{unavailable, unavailable}, calls: 3},
		"it stays away":              {errs: []error{unavailable, unavailable, unavailable, unavailable}, calls: 4, err: "failed to invoke target other after 3 retries. Error: rpc error: code = Unavailable desc = gone"},
		"a stream is not sent again": {errs: []error{unavailable}, stream: true, calls: 1, err: "rpc error: code = Unavailable desc = gone"},
		"other errors are final":     {errs: []error{status.Error(codes.Internal, "no")}, calls: 1, err: "rpc error: code = Internal desc = no"},
	} {
		t.Run(name, func(t *testing.T) {
			clock := clockwork.NewFakeClock()
			p, r := &peers{errs: c.errs}, &resolver{}
			b := New(Options{AppID: "me", Namespace: "default", Peers: p, Resolver: r, Clock: clock})
			req := &invocation.Request{Method: "m", Verb: "POST"}
			if c.stream {
				req.Stream, req.Length = strings.NewReader("x"), -1
			}
			done := make(chan error, 1)
			go func() {
				_, err := b.Invoke(context.Background(), "other", req)
				done <- err
			}()
			ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
			defer cancel()
			for range c.calls - 1 {
				if err := clock.BlockUntilContext(ctx, 1); err != nil {
					t.Fatal(err)
				}
				clock.Advance(time.Second)
			}
			err := <-done
			if text := fmt.Sprint(err); err == nil && c.err != "" || err != nil && text != c.err {
				t.Errorf("got %v, want %q", err, c.err)
			}
			if len(p.calls) != c.calls || r.looked != c.calls {
				t.Errorf("called %v after %d look-ups, want %d", p.calls, r.looked, c.calls)
			}
			if want := min(len(c.errs), c.calls); status.Code(c.errs[0]) == codes.Unavailable && len(r.forgotten) != want {
				t.Errorf("forgot %v", r.forgotten)
			}
		})
	}
}

// The headers that say who calls whom are the sidecar's own, whatever the client sent.
func TestIdentity(t *testing.T) {
	p := &peers{}
	b := New(Options{AppID: "me", Namespace: "ns", HostAddress: "2001:db8::1", HostName: "host", Peers: p, Resolver: &resolver{}})
	req := &invocation.Request{Method: "m", Header: invocation.Header{{Name: []byte("Dapr-Caller-App-Id"), Value: []byte("forged")}, {Name: []byte("X-Forwarded-For"), Value: []byte("1.2.3.4")}}}
	if _, err := b.Invoke(context.Background(), "other.ns2", req); err != nil {
		t.Fatal(err)
	}
	want := map[string][]string{
		"dapr-caller-app-id": {"me"}, "dapr-caller-namespace": {"ns"}, "dapr-callee-app-id": {"other"}, "destination-app-id": {"other"},
		"x-forwarded-for": {"1.2.3.4", "2001:db8::1"}, "x-forwarded-host": {"host"}, "forwarded": {`for="[2001:db8::1]";by="[2001:db8::1]";host=host`},
	}
	got := map[string][]string{}
	for _, f := range p.seen {
		name := strings.ToLower(string(f.Name))
		got[name] = append(got[name], string(f.Value))
	}
	for name, values := range want {
		if !slices.Equal(got[name], values) {
			t.Errorf("%s: %q, want %q", name, got[name], values)
		}
	}
	if len(got) != len(want) {
		t.Errorf("got %q", got)
	}
}

func TestReceive(t *testing.T) {
	b := New(Options{AppID: "me"})
	if _, err := b.Receive(context.Background(), &invocation.Request{}); status.Convert(err).Message() != "app channel is not initialized" || status.Code(err) != codes.Internal {
		t.Errorf("without an app: %v", err)
	}
	app := &channel{}
	b = New(Options{AppID: "me", App: app})
	if _, err := b.Receive(context.Background(), &invocation.Request{Method: "x\x00"}); status.Code(err) != codes.InvalidArgument || app.calls != 0 {
		t.Errorf("a bad method: %v", err)
	}
}

func TestMetadataBothWays(t *testing.T) {
	h := fromMetadata(metadata.MD{"a": {"1", "2"}, "x-bin": {"\x00\xff"}})
	if string(h.Get("x-bin")) != "AP8=" {
		t.Errorf("got %q", h)
	}
	md := toMetadata(invocation.Header{
		{Name: []byte("Cookie"), Value: []byte("c")},
		{Name: []byte("X-A"), Value: []byte("1")},
		{Name: []byte("x-bin"), Value: []byte("AP8=")},
		{Name: []byte("y-bin"), Value: []byte("!")},
		{Name: []byte("Connection"), Value: []byte("close")},
		{Name: []byte("grpc-x"), Value: []byte("g")},
		{Name: []byte(":path"), Value: []byte("p")},
	})
	for key, want := range map[string]string{"dapr-cookie": "c", "x-a": "1", "x-bin": "\x00\xff", "dapr-grpc-x": "g"} {
		if got := md.Get(key); len(got) != 1 || got[0] != want {
			t.Errorf("%s: %q, want %q", key, got, want)
		}
	}
	if len(md) != 4 {
		t.Errorf("got %v", md)
	}
}

// A call that was led astray is served, and noted now and then.
func TestMisled(t *testing.T) {
	var log strings.Builder
	clock := clockwork.NewFakeClock()
	b := New(Options{AppID: "me", App: &channel{}, Clock: clock, Log: slog.New(slog.NewTextHandler(&log, nil))})
	for _, c := range []struct {
		callee string
		wait   time.Duration
		notes  int
	}{{"me", time.Hour, 0}, {"other", 0, 1}, {"other", 0, 1}, {"other", time.Minute, 2}} {
		clock.Advance(c.wait)
		if _, err := b.Receive(t.Context(), &invocation.Request{Method: "m", Header: invocation.Header{{Name: []byte("dapr-callee-app-id"), Value: []byte(c.callee)}}}); err != nil {
			t.Error(err)
		}
		if n := strings.Count(log.String(), "meant=other"); n != c.notes {
			t.Errorf("%s: %d notes in %s", c.callee, n, log.String())
		}
	}
}
