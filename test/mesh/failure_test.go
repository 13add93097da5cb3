package mesh_test

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jonboulle/clockwork"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	testpb "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"outrigger.dev/components"
	"outrigger.dev/components/state"
	"outrigger.dev/controlplane/sentry"
	"outrigger.dev/controlplane/sentry/ca"
	"outrigger.dev/identity"
	"outrigger.dev/mesh"
	"outrigger.dev/sidecar"
	"outrigger.dev/sidecar/sidecartest"
)

// serve answers each connection as a test wants, until the test ends; n counts them from 1.
func serve(t testing.TB, answer func(n int, c net.Conn)) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var tasks sync.WaitGroup
	var mu sync.Mutex
	open := map[net.Conn]bool{}
	ended := false
	t.Cleanup(func() {
		_ = l.Close()
		mu.Lock()
		ended = true
		for c := range open {
			_ = c.Close()
		}
		mu.Unlock()
		tasks.Wait()
	})
	tasks.Go(func() {
		for n := 1; ; n++ {
			c, err := l.Accept()
			if err != nil {
				return
			}
			mu.Lock()
			if open[c] = true; ended {
				_ = c.Close()
			}
			mu.Unlock()
			tasks.Go(func() {
				defer c.Close()
				answer(n, c)
			})
		}
	})
	return l.Addr().String()
}

// silent takes all and says nothing.
func silent(_ int, c net.Conn) { _, _ = io.Copy(io.Discard, c) }

// Name resolution that leads astray costs a call its success, and nothing else: no other app gets it, nobody hangs, and with the
// truth calls succeed again.
func TestLyingNameResolution(t *testing.T) {
	t.Parallel()
	a := startAuthority(t, ca.Settings{})
	g := &guide{}
	app, other, own := &recorder{}, &recorder{}, &recorder{}
	web := sidecartest.Start(t, g.join("web"), a.member(), sidecartest.WithApp(sidecartest.NewApp(t, app)))
	bank := sidecartest.Start(t, g.join("bank"), a.member(), sidecartest.WithApp(sidecartest.NewApp(t, other)))
	caller := sidecartest.Start(t, g.join("caller"), a.member(), sidecartest.WithApp(sidecartest.NewApp(t, own)))
	for _, s := range []*sidecartest.Sidecar{web, bank, caller} {
		s.WaitHealthy()
	}
	website := httptest.NewServer(http.NotFoundHandler())
	defer website.Close()
	caller.Conn()
	var group sync.WaitGroup
	for name, address := range map[string]string{
		"nothing": "", "noport": "127.0.0.1", "noplace": "127.0.0.1:1", "zero": "127.0.0.1:0", "beyond": "127.0.0.1:99999", "word": "127.0.0.1:http!", "nonsense": "not an address at all",
		"bracket": "[::1", "injected": "127.0.0.1:1\r\nX-Injected: 1", "url": website.URL, "long": strings.Repeat("a", 70_000) + ":1", "null": "127.0.0.1\x00:80", "scheme": "unix:///etc/passwd", "dns": "dns:///127.0.0.1:1",
		"another": bank.InternalAddress(), "self": caller.InternalAddress(), "ownapi": caller.HTTPAddress(), "owngrpc": caller.GRPCAddress(), "sentry": a.address,
		"website": website.Listener.Addr().String(), "banner": serve(t, func(_ int, c net.Conn) { _, _ = io.WriteString(c, "SSH-2.0-OpenSSH_9.9\r\n"); silent(0, c) }),
		"mirror": serve(t, func(_ int, c net.Conn) { _, _ = io.Copy(c, c) }), "slam": serve(t, func(int, net.Conn) {}), "mute": serve(t, silent),
	} {
		g.put(name, address)
		group.Go(func() {
			if name == "mute" {
				ctx, cancel := context.WithTimeout(context.Background(), 500*time.Millisecond)
				defer cancel()
				req, _ := http.NewRequestWithContext(ctx, http.MethodPost, caller.URL+"/v1.0/invoke/mute/method/m", strings.NewReader("secret"))
				if _, err := caller.Client.Do(req); !errors.Is(err, context.DeadlineExceeded) {
					t.Errorf("mute: %v", err)
				}
			} else if r := caller.Post("/v1.0/invoke/"+name+"/method/m", "secret"); r.Status != 500 || !strings.Contains(r.Body, "failed to invoke, id: "+name) || r.Header.Get("X-Injected") != "" {
				t.Errorf("%s: %+v", name, r)
			}
			ctx, cancel := context.WithTimeout(metadata.AppendToOutgoingContext(context.Background(), "dapr-app-id", name), patience)
			if name == "mute" {
				cancel()
				ctx, cancel = context.WithTimeout(metadata.AppendToOutgoingContext(context.Background(), "dapr-app-id", name), 500*time.Millisecond)
			}
			defer cancel()
			_, err := testpb.NewTestServiceClient(caller.Conn()).UnaryCall(ctx, &testpb.SimpleRequest{})
			want := []codes.Code{codes.Unavailable, codes.Unknown}
			if name == "mute" {
				want = []codes.Code{codes.DeadlineExceeded, codes.Unavailable}
			}
			if code := status.Code(err); code != want[0] && code != want[1] {
				t.Errorf("%s, proxied: %v", name, err)
			}
		})
	}
	group.Wait()
	if n := len(other.take()) + len(own.take()) + len(app.take()); n != 0 {
		t.Errorf("apps that were not called got %d requests", n)
	}
	g.put("web", bank.InternalAddress())
	if r := caller.Get("/v1.0/invoke/web/method/m"); r.Status != 500 || len(other.take()) != 0 {
		t.Errorf("led to another app: %+v", r)
	}
	g.put("web", web.InternalAddress())
	if r := caller.Get("/v1.0/invoke/web/method/m"); r.Status != 200 || len(app.take()) != 1 {
		t.Errorf("with the truth: %+v", r)
	}
	// Each address in turn: the next attempt of the call finds the right one.
	var asked atomic.Int32
	g.mu.Lock()
	delete(g.addresses, "web")
	g.resolve = func(string) (string, error) {
		if asked.Add(1)%2 == 1 {
			return "127.0.0.1:1", nil
		}
		return web.InternalAddress(), nil
	}
	g.mu.Unlock()
	if r := caller.Get("/v1.0/invoke/web/method/m"); r.Status != 200 || len(app.take()) != 1 {
		t.Errorf("half of the truth: %+v", r)
	}
}

// An answer that breaks off under TLS is no shorter answer, also when its length was never said.
func TestHalfAnswersUnderTLS(t *testing.T) {
	t.Parallel()
	a := startAuthority(t, ca.Settings{})
	g := &guide{}
	long := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		for range 100 {
			_, _ = w.Write(make([]byte, 4<<10))
			w.(http.Flusher).Flush()
		}
	})
	web := sidecartest.Start(t, g.join("web"), a.member(), sidecartest.WithApp(sidecartest.NewApp(t, long)))
	service := sidecartest.Start(t, g.join("service"), a.member(), withGRPCApp(grpcApp(t, func(s *grpc.Server) { testpb.RegisterTestServiceServer(s, &talker{}) })))
	web.WaitHealthy()
	service.WaitHealthy()
	caller := sidecartest.Start(t, g.join("caller"), a.member())
	cut := func(to string, after int64) string {
		return serve(t, func(_ int, c net.Conn) {
			up, err := net.Dial("tcp", to)
			if err != nil {
				return
			}
			defer up.Close()
			go func() { _, _ = io.Copy(up, c); _ = up.Close() }() // ends with either connection
			_, _ = io.CopyN(c, up, after)
		})
	}
	for _, after := range []int64{20_000, 100_000, 300_000} {
		g.put("web", cut(web.InternalAddress(), after))
		resp, err := caller.Client.Get(caller.URL + "/v1.0/invoke/web/method/m")
		if err == nil {
			var n int64
			n, err = io.Copy(io.Discard, resp.Body)
			_ = resp.Body.Close()
			if err == nil && resp.StatusCode == 200 {
				t.Errorf("cut after %d bytes: a whole answer of %d bytes", after, n)
			}
		}
		g.put("service", cut(service.InternalAddress(), after))
		stream, err := testpb.NewTestServiceClient(caller.Conn()).StreamingOutputCall(to(t, "service"), &testpb.StreamingOutputCallRequest{})
		if err != nil {
			t.Fatal(err)
		}
		for err == nil {
			_, err = stream.Recv()
		}
		if err == io.EOF || status.Code(err) != codes.Unavailable && status.Code(err) != codes.Internal {
			t.Errorf("proxied, cut after %d bytes: %v", after, err)
		}
	}
}

// talker is a gRPC app that says a lot.
type talker struct {
	testpb.UnimplementedTestServiceServer
}

func (*talker) StreamingOutputCall(_ *testpb.StreamingOutputCallRequest, s grpc.ServerStreamingServer[testpb.StreamingOutputCallResponse]) error {
	for range 100 {
		if err := s.Send(&testpb.StreamingOutputCallResponse{Payload: &testpb.Payload{Body: make([]byte, 4<<10)}}); err != nil {
			return err
		}
	}
	return nil
}

// again starts the Sentry once more, where it was.
func (a *authority) again(settings ca.Settings) {
	a.t.Helper()
	port := a.addresses.GRPC.(*net.TCPAddr).Port
	a.start(settings, func(o *sentry.Options) { o.Port = port })
}

// A sidecar that does not find Sentry waits for it, says so, can be ended while it waits, and starts when Sentry is there.
func TestSentryIsDownAtTheStart(t *testing.T) {
	t.Parallel()
	a := startAuthority(t, ca.Settings{})
	network := sidecartest.NewNetwork()
	member := a.member()
	if err := a.stop(); err != nil {
		t.Fatal(err)
	}
	log := &sidecartest.Log{}
	listening := make(chan *sidecartest.Sidecar, 1)
	go func() {
		s, err := sidecartest.TryStart(t, network.Join("early"), member, logTo(log))
		if err != nil {
			t.Errorf("it did not start: %v\n%s", err, log)
		}
		listening <- s
	}()
	eventually(t, "the log says what is waited for", func() bool {
		return strings.Contains(log.String(), "waiting for the certificate of this process") && strings.Contains(log.String(), "Sentry at "+a.address+" cannot be reached")
	})
	select {
	case <-listening:
		t.Fatal("it started without a certificate")
	default:
	}
	a.again(ca.Settings{})
	early := <-listening
	web := sidecartest.Start(t, network.Join("web"), member, sidecartest.WithApp(sidecartest.NewApp(t, &recorder{})))
	web.WaitHealthy()
	if r := early.Get("/v1.0/invoke/web/method/m"); r.Status != 200 {
		t.Errorf("afterwards: %+v", r)
	}
}

// logTo has a sidecar log to l.
func logTo(l *sidecartest.Log) sidecartest.Option {
	return sidecartest.With(func(o *sidecar.Options) { o.Log = newLogger(l) })
}

// Whoever answers in the place of Sentry with anything but a certificate is refused by name, and the sidecar can be ended.
func TestSentryAnswersRubbish(t *testing.T) {
	t.Parallel()
	a := startAuthority(t, ca.Settings{})
	heard := make(chan struct{}, 100)
	for name, test := range map[string]struct {
		address string
		log     string
	}{
		"a banner":   {serve(t, func(_ int, c net.Conn) { _, _ = io.WriteString(c, "220 mail ESMTP\r\n"); silent(0, c) }), "does not speak TLS"},
		"a slam":     {serve(t, func(int, net.Conn) {}), "cannot be reached"},
		"silence":    {serve(t, func(_ int, c net.Conn) { heard <- struct{}{}; silent(0, c) }), ""},
		"noise":      {serve(t, func(_ int, c net.Conn) { _, _ = c.Write([]byte{0x16, 3, 3, 0xff, 0xff}); silent(0, c) }), "does not speak TLS"},
		"an echo":    {serve(t, func(_ int, c net.Conn) { _, _ = io.Copy(c, c) }), "Sentry at"},
		"its health": {a.addresses.Healthz.String(), "does not speak TLS"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			log := &sidecartest.Log{}
			o := sidecar.Defaults()
			for _, option := range []sidecartest.Option{a.member(), logTo(log)} {
				option(t, &o)
			}
			o.AppID, o.SentryAddress = "waiting", test.address
			s, err := sidecar.New(o)
			if err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			done := make(chan error, 1)
			go func() { done <- s.Run(ctx) }()
			if test.log == "" {
				<-heard // it waits for an answer now
			} else {
				eventually(t, "the log says what is wrong", func() bool {
					return strings.Contains(log.String(), test.log) && strings.Contains(log.String(), test.address)
				})
			}
			cancel()
			select {
			case err := <-done:
				if err != nil { // its end was asked for
					t.Errorf("it ended with %v", err)
				}
			case <-time.After(patience):
				t.Errorf("it does not end\n%s", log)
			}
		})
	}
}

// While Sentry is away sidecars go on with the certificates and connections they have; whom these do not help any more is told
// why; and when Sentry is back everything is as before, without a restart of anything.
func TestSentryIsDownAtTheRenewal(t *testing.T) {
	if testing.Short() {
		t.Skip("it takes as long as a renewal is waited for")
	}
	t.Parallel()
	settings := ca.Settings{WorkloadTTL: 4 * time.Second}
	a := startAuthority(t, settings)
	network := sidecartest.NewNetwork()
	web := sidecartest.Start(t, network.Join("web"), a.member(), sidecartest.WithApp(sidecartest.NewApp(t, &recorder{})))
	caller := sidecartest.Start(t, network.Join("caller"), a.member())
	web.WaitHealthy()
	invoke := func() sidecartest.Response { return caller.Get("/v1.0/invoke/web/method/m") }
	if r := invoke(); r.Status != 200 {
		t.Fatalf("before: %+v", r)
	}
	renewed := func(s *sidecartest.Sidecar) int {
		return strings.Count(s.Log.String(), "the certificate was renewed")
	}
	eventually(t, "both renew", func() bool { return renewed(web) > 0 && renewed(caller) > 0 })
	if err := a.stop(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the renewal fails", func() bool {
		return strings.Contains(web.Log.String(), "the certificate could not be renewed") && strings.Contains(caller.Log.String(), "the certificate could not be renewed")
	})
	before := [2]int{renewed(web), renewed(caller)}
	// By the connection that is there, past the end of the certificates.
	for end := time.Now().Add(settings.WorkloadTTL + time.Second); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
		if r := invoke(); r.Status != 200 {
			t.Fatalf("while Sentry is away: %+v", r)
		}
	}
	// A new connection needs a certificate that is valid.
	verifying := identity.NewTLS(a.source(a.forge(friend, nil)), nil).Client(func(*identity.Peer) error { return nil }, mesh.ProtocolGRPC)
	if c, err := tls.Dial("tcp", web.InternalAddress(), verifying); err == nil || !strings.Contains(err.Error(), "expired") {
		t.Errorf("a new connection while Sentry is away: %v, %v", c, err)
	}
	a.again(settings)
	eventually(t, "both renew again", func() bool { return renewed(web) > before[0] && renewed(caller) > before[1] })
	fresh := sidecartest.Start(t, network.Join("fresh"), a.member())
	if r := fresh.Get("/v1.0/invoke/web/method/m"); r.Status != 200 {
		t.Errorf("a new connection afterwards: %+v", r)
	}
	if r := invoke(); r.Status != 200 {
		t.Errorf("the old one afterwards: %+v", r)
	}
}

// skewed is the system's clock, put wrong.
type skewed struct {
	clockwork.Clock
	by time.Duration
}

// Now implements [clockwork.Clock].
func (s skewed) Now() time.Time { return s.Clock.Now().Add(s.by) }

// Since implements [clockwork.Clock].
func (s skewed) Since(t time.Time) time.Duration { return s.Now().Sub(t) }

// Until implements [clockwork.Clock].
func (s skewed) Until(t time.Time) time.Duration { return t.Sub(s.Now()) }

// Clocks may differ by minutes; by more, the error speaks of clocks.
func TestWrongClocks(t *testing.T) {
	t.Parallel()
	a := startAuthority(t, ca.Settings{ClockSkew: ca.DefaultClockSkew})
	network := sidecartest.NewNetwork()
	at := func(by time.Duration) sidecartest.Option {
		return sidecartest.With(func(o *sidecar.Options) { o.Clock = skewed{clockwork.NewRealClock(), by} })
	}
	web := sidecartest.Start(t, network.Join("web"), a.member(), sidecartest.WithApp(sidecartest.NewApp(t, &recorder{})))
	web.WaitHealthy()
	for _, by := range []time.Duration{-10 * time.Minute, 10 * time.Minute, 23 * time.Hour} {
		s := sidecartest.Start(t, network.Join("skewed"), a.member(), at(by))
		if r := s.Get("/v1.0/invoke/web/method/m"); r.Status != 200 {
			t.Errorf("%s: %+v", by, r)
		}
	}
	for _, by := range []time.Duration{-24 * time.Hour, 400 * 24 * time.Hour} {
		_, err := sidecartest.TryStart(t, network.Join("wrong"), a.member(), at(by))
		if err == nil || !strings.Contains(err.Error(), "clock") || !strings.Contains(err.Error(), a.address) {
			t.Errorf("%s: %v", by, err)
		}
	}
}

// stuck is a state store that hangs: in its reads until their context ends, and at its end until the test does.
type stuck struct {
	reading chan struct{}
	release chan struct{}
}

func (s *stuck) Get(ctx context.Context, _ state.GetRequest) (state.Item, error) {
	s.reading <- struct{}{}
	<-ctx.Done()
	return state.Item{}, ctx.Err()
}
func (*stuck) Set(context.Context, state.SetRequest) error       { return nil }
func (*stuck) Delete(context.Context, state.DeleteRequest) error { return nil }

func (s *stuck) Close() error {
	<-s.release
	return nil
}

// A component that hangs at the end holds the sidecar no longer than it may take to end, and those who still called it get an answer
// or an end of their connection.
func TestComponentHangsAtTheEnd(t *testing.T) {
	t.Parallel()
	component := &stuck{reading: make(chan struct{}, 1), release: make(chan struct{})}
	defer close(component.release)
	a := startAuthority(t, ca.Settings{})
	network := sidecartest.NewNetwork()
	s := sidecartest.Start(t, network.Join("app"), a.member(), sidecartest.With(func(o *sidecar.Options) {
		o.GracefulShutdown = time.Second
		state.Register(o.Registry, components.Info{Name: "stuck", Version: "v1", Status: components.Stable, Description: "Hangs."},
			func(context.Context, components.Instance, struct{}) (state.Store, error) { return component, nil })
	}), sidecartest.Resources(sidecartest.Component("store", "state.stuck")))
	answered := make(chan error, 1)
	go func() {
		resp, err := s.Client.Get(s.URL + "/v1.0/state/store/key")
		if err == nil {
			_ = resp.Body.Close()
			if resp.StatusCode == 200 {
				err = fmt.Errorf("status %d", resp.StatusCode)
				answered <- err
				return
			}
		}
		answered <- nil
	}()
	<-component.reading
	if r := s.Post("/v1.0/shutdown", ""); r.Status != 204 {
		t.Fatalf("shutting down: %+v", r)
	}
	start := time.Now()
	if err := s.Stopped(); !errors.Is(err, sidecar.ErrShutdownTimeout) {
		t.Errorf("it ended with %v", err)
	}
	if took := time.Since(start); took > patience {
		t.Errorf("it took %s", took)
	}
	select {
	case err := <-answered:
		if err != nil {
			t.Errorf("the call in hand: %v", err)
		}
	case <-time.After(patience):
		t.Error("the call in hand has no end")
	}
}
