// Package sidecartest runs sidecars and fake apps inside a Go test: any number of them in one process, on loopback ports of
// their own or in memory, finding each other without a network.
//
//	network := sidecartest.NewNetwork()
//	orders := sidecartest.NewApp(t, http.HandlerFunc(...))
//	sidecartest.Start(t, network.Join("orders"), sidecartest.WithApp(orders))
//	checkout := sidecartest.Start(t, network.Join("checkout"))
//	reply := checkout.Get("/v1.0/invoke/orders/method/list")
package sidecartest

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	runtimev1 "outrigger.dev/api/gen/runtime/v1"
	"outrigger.dev/components"
	"outrigger.dev/components/all"
	"outrigger.dev/components/nameresolution"
	"outrigger.dev/sidecar"
	"outrigger.dev/telemetry/logging"
	"outrigger.dev/telemetry/logging/logtest"
)

// startTimeout bounds starting and stopping a sidecar in a test.
const startTimeout = 20 * time.Second

// Network is what sidecars of a test find each other by, in place of name resolution over a real network.
type Network struct {
	mu        sync.Mutex
	peers     map[string][]string
	listeners map[string]*memoryListener
}

// NewNetwork makes a network without members.
func NewNetwork() *Network {
	return &Network{peers: map[string][]string{}, listeners: map[string]*memoryListener{}}
}

// resolver is a sidecar's membership.
type resolver struct {
	network     *Network
	id, address string
}

// Resolve returns the address of the member that joined last under the id.
func (r resolver) Resolve(_ context.Context, req nameresolution.Request) (string, error) {
	r.network.mu.Lock()
	defer r.network.mu.Unlock()
	if peers := r.network.peers[req.ID]; len(peers) > 0 {
		return peers[len(peers)-1], nil
	}
	return "", fmt.Errorf("couldn't find service: %s", req.ID)
}

// Close leaves the network.
func (r resolver) Close() error {
	r.network.mu.Lock()
	defer r.network.mu.Unlock()
	kept := r.network.peers[r.id][:0:0]
	for _, a := range r.network.peers[r.id] {
		if a != r.address {
			kept = append(kept, a)
		}
	}
	r.network.peers[r.id] = kept
	return nil
}

func (n *Network) register(r *components.Registry) {
	nameresolution.Register(r, components.Info{Name: "sidecartest", Version: "v1", Status: components.Stable, Description: "Finds the sidecars of one test."},
		func(_ context.Context, inst components.Instance, _ struct{}) (nameresolution.Resolver, error) {
			s := inst.Sidecar
			address := net.JoinHostPort(s.HostAddress, fmt.Sprint(s.InternalPort))
			n.mu.Lock()
			defer n.mu.Unlock()
			n.peers[s.AppID] = append(n.peers[s.AppID], address)
			return resolver{n, s.AppID, address}, nil
		})
}

// Option changes the options of a sidecar before it starts.
type Option func(t testing.TB, o *sidecar.Options)

// InMemory lets the sidecar listen in memory instead of on loopback ports: its APIs are reached by [Sidecar.Client] and
// [Sidecar.Conn], its internal port by the members of the same network. Fake apps keep their loopback ports.
func (n *Network) InMemory() Option {
	return func(_ testing.TB, o *sidecar.Options) {
		o.Listen = n.listen
		o.Dial = n.Dial
	}
}

// Join gives the sidecar its app id and lets it find, and be found by, the other members.
func (n *Network) Join(appID string) Option {
	return func(_ testing.TB, o *sidecar.Options) {
		o.AppID = appID
		n.register(o.Registry)
		o.NameResolution = "sidecartest"
	}
}

// With changes any option.
func With(change func(*sidecar.Options)) Option {
	return func(_ testing.TB, o *sidecar.Options) { change(o) }
}

// WithApp puts the sidecar in front of a fake app.
func WithApp(a *App) Option {
	return func(_ testing.TB, o *sidecar.Options) { o.AppPort = a.Port() }
}

// Resources writes YAML documents into the sidecar's resources folder, a file each.
func Resources(documents ...string) Option {
	return func(t testing.TB, o *sidecar.Options) {
		dir := t.TempDir()
		for i, d := range documents {
			if err := os.WriteFile(filepath.Join(dir, fmt.Sprintf("%02d.yaml", i)), []byte(d), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		o.ResourcesPaths = append(o.ResourcesPaths, dir)
	}
}

// Config gives the sidecar a Configuration document.
func Config(document string) Option {
	return func(t testing.TB, o *sidecar.Options) {
		path := filepath.Join(t.TempDir(), "config.yaml")
		if err := os.WriteFile(path, []byte(document), 0o600); err != nil {
			t.Fatal(err)
		}
		o.ConfigPaths = append(o.ConfigPaths, path)
	}
}

// Component is the YAML of a component, with metadata as name and value pairs.
func Component(name, typ string, metadata ...string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "apiVersion: dapr.io/v1alpha1\nkind: Component\nmetadata:\n  name: %s\nspec:\n  type: %s\n  version: v1\n", name, typ)
	if len(metadata) > 0 {
		b.WriteString("  metadata:\n")
	}
	for i := 0; i+1 < len(metadata); i += 2 {
		fmt.Fprintf(&b, "  - name: %s\n    value: %q\n", metadata[i], metadata[i+1])
	}
	return b.String()
}

// Sidecar is a running sidecar of a test.
type Sidecar struct {
	*sidecar.Sidecar
	// URL is the HTTP API's, without a slash at the end.
	URL string
	// Client sends requests to it.
	Client *http.Client
	// Log holds what the sidecar logged.
	Log *Log

	t      testing.TB
	cancel context.CancelFunc
	done   chan struct{}
	err    error
	once   sync.Once
	conn   *grpc.ClientConn
	dial   func(ctx context.Context, address string) (net.Conn, error)
}

// Start runs a sidecar until the test ends. It listens on free loopback ports, has no components but those of the options,
// and returns when its APIs answer; a sidecar that cannot start fails the test.
func Start(t testing.TB, options ...Option) *Sidecar {
	t.Helper()
	s, err := TryStart(t, options...)
	if err != nil {
		t.Fatalf("the sidecar did not start: %v\n%s", err, s.Log)
	}
	return s
}

// TryStart is Start for tests that expect a failure.
func TryStart(t testing.TB, options ...Option) (*Sidecar, error) {
	t.Helper()
	o := sidecar.Defaults()
	o.AppID = "app"
	o.HTTPPort, o.GRPCPort = 0, 0
	o.ListenAddresses = []string{"127.0.0.1"}
	o.InternalListenAddress, o.HostAddress = "127.0.0.1", "127.0.0.1"
	o.EnableMetrics = false
	o.NameResolution = ""
	o.Registry = &components.Registry{}
	all.Register(o.Registry)
	log := &Log{}
	o.Log = logging.New(logging.Options{Level: slog.LevelDebug, Out: log})
	for _, option := range options {
		option(t, &o)
	}
	s := &Sidecar{t: t, done: make(chan struct{}), Log: log}
	var err error
	if s.Sidecar, err = sidecar.New(o); err != nil {
		return s, err
	}
	ctx, cancel := context.WithCancel(context.Background())
	s.cancel = cancel
	go func() {
		defer close(s.done)
		s.err = s.Run(ctx)
	}()
	t.Cleanup(func() {
		if err := s.Stop(); err != nil {
			t.Errorf("the sidecar did not stop cleanly: %v", err)
		}
	})
	select {
	case <-s.Ready():
	case <-s.done:
		err := s.err
		s.err = nil // told now
		return s, err
	case <-time.After(startTimeout):
		return s, fmt.Errorf("it was not ready within %s", startTimeout)
	}
	s.URL = "http://" + s.HTTPAddress()
	s.dial = o.Dial
	s.Client = &http.Client{Transport: &http.Transport{}}
	if o.Dial != nil {
		s.Client.Transport = &http.Transport{DialContext: func(ctx context.Context, _, address string) (net.Conn, error) { return o.Dial(ctx, address) }}
	}
	return s, nil
}

// Stop ends the sidecar gracefully and returns what Run returned.
func (s *Sidecar) Stop() error {
	s.once.Do(func() {
		if s.conn != nil {
			_ = s.conn.Close()
		}
		if s.Client != nil {
			s.Client.CloseIdleConnections()
		}
		s.cancel()
	})
	select {
	case <-s.done:
		return s.err
	case <-time.After(startTimeout):
		return fmt.Errorf("it did not end within %s", startTimeout)
	}
}

// Stopped waits until the sidecar ends by itself, and returns what Run returned; the end of the test has nothing to complain about then.
func (s *Sidecar) Stopped() error {
	s.t.Helper()
	select {
	case <-s.done:
		err := s.err
		s.err = nil
		return err
	case <-time.After(startTimeout):
		s.t.Fatalf("it did not end\n%s", s.Log)
		return nil
	}
}

// Done is closed when the sidecar has ended by itself or by Stop.
func (s *Sidecar) Done() <-chan struct{} { return s.done }

// WaitHealthy waits until the whole sidecar is ready, its app included.
func (s *Sidecar) WaitHealthy() {
	s.t.Helper()
	for deadline := time.Now().Add(startTimeout); ; time.Sleep(2 * time.Millisecond) {
		ready, unready := s.Healthy()
		if ready {
			return
		}
		if time.Now().After(deadline) {
			s.t.Fatalf("the sidecar is not healthy: %v\n%s", unready, s.Log)
		}
	}
}

// Response is a reply with its body read.
type Response struct {
	Status int
	Header http.Header
	Body   string
}

// Get sends a GET request for a path of the HTTP API.
func (s *Sidecar) Get(path string, header ...string) Response {
	s.t.Helper()
	return s.Do(http.MethodGet, path, "", header...)
}

// Post sends a POST request with a JSON body.
func (s *Sidecar) Post(path, body string, header ...string) Response {
	s.t.Helper()
	return s.Do(http.MethodPost, path, body, append([]string{"Content-Type", "application/json"}, header...)...)
}

// Do sends a request; header are names and values in turn.
func (s *Sidecar) Do(method, path, body string, header ...string) Response {
	s.t.Helper()
	req, err := http.NewRequest(method, s.URL+path, strings.NewReader(body))
	if err != nil {
		s.t.Fatal(err)
	}
	for i := 0; i+1 < len(header); i += 2 {
		req.Header.Add(header[i], header[i+1])
	}
	resp, err := s.Client.Do(req)
	if err != nil {
		s.t.Fatalf("%s %s: %v", method, path, err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		s.t.Fatalf("%s %s: %v", method, path, err)
	}
	return Response{resp.StatusCode, resp.Header, string(text)}
}

// Dapr is a client of the gRPC API.
func (s *Sidecar) Dapr() runtimev1.DaprClient { return runtimev1.NewDaprClient(s.Conn()) }

// Conn is a connection to the gRPC API.
func (s *Sidecar) Conn() *grpc.ClientConn {
	s.t.Helper()
	if s.conn == nil {
		options := []grpc.DialOption{grpc.WithTransportCredentials(insecure.NewCredentials())}
		if s.dial != nil {
			options = append(options, grpc.WithContextDialer(s.dial))
		}
		conn, err := grpc.NewClient("passthrough:///"+s.GRPCAddress(), options...)
		if err != nil {
			s.t.Fatal(err)
		}
		s.conn = conn
	}
	return s.conn
}

// App is a fake app: an HTTP server on a loopback port.
type App struct{ *httptest.Server }

// NewApp starts a fake app that ends with the test.
func NewApp(t testing.TB, handler http.Handler) *App {
	a := &App{httptest.NewServer(handler)}
	t.Cleanup(a.Close)
	return a
}

// Port is the app's port.
func (a *App) Port() int { return a.Listener.Addr().(*net.TCPAddr).Port }

// Log collects log lines. It is safe for concurrent use.
type Log = logtest.Output
