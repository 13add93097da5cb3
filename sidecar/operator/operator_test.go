package operator

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jonboulle/clockwork"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	operatorv1 "outrigger.dev/api/gen/operator/v1"
	"outrigger.dev/resource"
)

// fakeOperator lists components and says when they change. It is an operator of before MCP servers and policies.
type fakeOperator struct {
	operatorv1.UnimplementedOperatorServer

	mu         sync.Mutex
	components []string
	config     string
	refuse     int // calls of ListComponents that fail first
	changed    []chan struct{}
	endpoints  error // what ListHTTPEndpoints answers
	called     int   // calls of ListComponents
}

func (f *fakeOperator) ListComponents(_ context.Context, in *operatorv1.ListComponentsRequest) (*operatorv1.ListComponentResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if in.GetNamespace() != "team" {
		return nil, status.Error(codes.PermissionDenied, "identity does not match requested namespace")
	}
	f.called++
	if f.refuse > 0 {
		f.refuse--
		return nil, status.Error(codes.Unavailable, "starting")
	}
	out := &operatorv1.ListComponentResponse{}
	for _, c := range f.components {
		out.Components = append(out.Components, []byte(c))
	}
	return out, nil
}

func (*fakeOperator) ListSubscriptionsV2(context.Context, *operatorv1.ListSubscriptionsRequest) (*operatorv1.ListSubscriptionsResponse, error) {
	return &operatorv1.ListSubscriptionsResponse{Subscriptions: [][]byte{
		[]byte(`{"metadata":{"name":"s"},"spec":{"pubsubname":"p","topic":"t","routes":{"default":"/x"}},"scopes":["app"]}`),
		[]byte(`{"metadata":{"name":"other"},"spec":{"pubsubname":"p","topic":"t","routes":{"default":"/x"}},"scopes":["another"]}`),
	}}, nil
}

func (*fakeOperator) ListResiliency(context.Context, *operatorv1.ListResiliencyRequest) (*operatorv1.ListResiliencyResponse, error) {
	return &operatorv1.ListResiliencyResponse{}, nil
}

func (f *fakeOperator) ListHTTPEndpoints(context.Context, *operatorv1.ListHTTPEndpointsRequest) (*operatorv1.ListHTTPEndpointsResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return &operatorv1.ListHTTPEndpointsResponse{HttpEndpoints: [][]byte{[]byte(`{"metadata":{"name":"e"},"spec":{"baseUrl":"http://x"}}`)}}, f.endpoints
}

func (f *fakeOperator) GetConfiguration(_ context.Context, in *operatorv1.GetConfigurationRequest) (*operatorv1.GetConfigurationResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if in.GetName() != "conf" {
		return nil, fmt.Errorf("error getting configuration %s/%s: not found", in.GetNamespace(), in.GetName())
	}
	return &operatorv1.GetConfigurationResponse{Configuration: []byte(f.config)}, nil
}

func (f *fakeOperator) ComponentUpdate(_ *operatorv1.ComponentUpdateRequest, out operatorv1.Operator_ComponentUpdateServer) error {
	changed := make(chan struct{}, 8)
	f.mu.Lock()
	f.changed = append(f.changed, changed)
	f.mu.Unlock()
	for {
		select {
		case <-out.Context().Done():
			return nil
		case _, ok := <-changed:
			if !ok {
				return nil // as after a failed resolution of a secret
			}
			if err := out.Send(&operatorv1.ComponentUpdateEvent{Type: operatorv1.ResourceEventType_UPDATED}); err != nil {
				return err
			}
		}
	}
}

func (f *fakeOperator) streams() []chan struct{} {
	f.mu.Lock()
	defer f.mu.Unlock()
	return append([]chan struct{}(nil), f.changed...)
}

func (f *fakeOperator) set(components ...string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.components = components
}

// quietOperator has streams of all the old kinds, and nothing to tell.
type quietOperator struct{ fakeOperator }

func (*quietOperator) ComponentUpdate(_ *operatorv1.ComponentUpdateRequest, out operatorv1.Operator_ComponentUpdateServer) error {
	<-out.Context().Done()
	return nil
}

func (*quietOperator) SubscriptionUpdate(_ *operatorv1.SubscriptionUpdateRequest, out operatorv1.Operator_SubscriptionUpdateServer) error {
	<-out.Context().Done()
	return nil
}

func (*quietOperator) ResiliencyUpdate(_ *operatorv1.ResiliencyUpdateRequest, out operatorv1.Operator_ResiliencyUpdateServer) error {
	<-out.Context().Done()
	return nil
}

func (*quietOperator) HTTPEndpointUpdate(_ *operatorv1.HTTPEndpointUpdateRequest, out operatorv1.Operator_HTTPEndpointUpdateServer) error {
	<-out.Context().Done()
	return nil
}

func serve(t *testing.T, f *fakeOperator) *Client {
	t.Helper()
	return serveWith(t, f, nil)
}

// serveWith serves for a client with a clock of the test.
func serveWith(t *testing.T, f operatorv1.OperatorServer, clock clockwork.Clock) *Client {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := grpc.NewServer()
	operatorv1.RegisterOperatorServer(s, f)
	var serving sync.WaitGroup
	serving.Go(func() { _ = s.Serve(l) })
	c, err := Open(t.Context(), Options{Address: l.Addr().String(), Namespace: "team", Credentials: insecure.NewCredentials(), Clock: clock})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
		s.Stop()
		serving.Wait()
	})
	return c
}

const storeA = `{"metadata":{"name":"a","namespace":"team"},"spec":{"type":"state.in-memory","version":"v1","metadata":[{"name":"x","value":"MQ==","secretKeyRef":{"name":"s","key":"k"}}]}}`

func TestResources(t *testing.T) {
	f := &fakeOperator{components: []string{storeA, strings.Replace(storeA, `"a"`, `"b"`, 1)}, refuse: 1}
	c := serve(t, f)
	opts := resource.Options{Namespace: "team", AppID: "app"}
	set, problems, err := c.Resources(t.Context(), opts, nil)
	if err != nil || len(set.Components) != 2 || len(set.Subscriptions) != 1 || len(set.HTTPEndpoints) != 1 {
		t.Fatalf("got %+v, %v, %v", set, problems, err)
	}
	if s := set.Subscriptions[0]; s.Metadata.Name != "s" || s.Spec.Routes.Default != "/x" || s.Kind != resource.KindSubscription {
		t.Errorf("subscription %+v", s)
	}
	resolver := &resource.Resolver{Kubernetes: true}
	resolved, _, err := resolver.Component(t.Context(), set.Components[0])
	if err != nil || resolved.Spec.Metadata[0].Value.String() != "1" {
		t.Errorf("the secret is %v, %v", resolved.Spec.Metadata, err)
	}
	// A component that cannot be made out stays as it was, and so does one whose name comes twice.
	f.set(`{"metadata":{"name":"a"},"spec":{"type":[]}}`, strings.Replace(storeA, `"a"`, `"b"`, 1), strings.Replace(storeA, `"a"`, `"b"`, 1))
	again, problems, err := c.Resources(t.Context(), opts, set)
	if err != nil || len(again.Components) != 2 || len(problems) < 2 {
		t.Errorf("got %+v, %v, %v", again.Components, problems, err)
	}
}

func TestConfiguration(t *testing.T) {
	c := serve(t, &fakeOperator{config: `{"metadata":{"name":"conf"},"spec":{"features":[{"name":"X","enabled":true}],"tracing":{"samplingRate":"1"}}}`})
	config, _, err := c.Configuration(t.Context(), "conf")
	if err != nil || config.Spec.Tracing.SamplingRate != "1" || len(config.Spec.Features) != 1 || config.Spec.AccessControl.TrustDomain != "public" {
		t.Errorf("got %+v, %v", config, err)
	}
	if _, problems, _ := c.Configuration(t.Context(), "conf"); len(problems) > 0 {
		t.Errorf("a kind that is left out: %v", problems)
	}
	if _, _, err := c.Configuration(t.Context(), "none"); err == nil || !strings.Contains(err.Error(), "configuration none not found") || !strings.Contains(err.Error(), "dapr.io/config") {
		t.Errorf("a Configuration that is not there: %v", err)
	}
}

// TestRetries asks an operator that is not ready 100 times, and no more.
func TestRetries(t *testing.T) {
	f := &fakeOperator{refuse: attempts}
	clock := clockwork.NewFakeClock()
	c := serveWith(t, f, clock)
	type outcome struct {
		set *resource.Set
		err error
	}
	list := func() outcome {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
		defer cancel()
		done := make(chan outcome, 1)
		go func() {
			set, _, err := c.Resources(ctx, resource.Options{Namespace: "team", AppID: "app"}, nil)
			done <- outcome{set, err}
		}()
		for {
			waiting, stop := context.WithCancel(ctx)
			paused := make(chan error, 1)
			go func() { paused <- clock.BlockUntilContext(waiting, 1) }()
			select {
			case o := <-done:
				stop()
				<-paused
				return o
			case err := <-paused:
				stop()
				if err != nil {
					t.Fatal(err)
				}
				clock.Advance(attemptPause)
			}
		}
	}
	if o := list(); o.err == nil || !strings.Contains(o.err.Error(), "starting") || f.called != attempts {
		t.Errorf("after %d calls: %v", f.called, o.err)
	}
	f.refuse = attempts - 1
	if o := list(); o.err != nil {
		t.Error(o.err)
	}
}

// TestKindsThatCannotBeListed stay as they were, and others change.
func TestKindsThatCannotBeListed(t *testing.T) {
	f := &fakeOperator{components: []string{storeA}, endpoints: errors.New(`secrets "x" not found`)}
	c := serve(t, f)
	opts := resource.Options{Namespace: "team", AppID: "app"}
	first, problems, err := c.Resources(t.Context(), opts, nil)
	if err != nil || len(first.HTTPEndpoints) != 0 || len(problems) != 1 || problems[0].Kind != resource.KindHTTPEndpoint {
		t.Fatalf("at start: %+v, %v, %v", first, problems, err)
	}
	f.mu.Lock()
	f.endpoints = nil
	f.mu.Unlock()
	second, _, err := c.Resources(t.Context(), opts, first)
	if err != nil || len(second.HTTPEndpoints) != 1 {
		t.Fatalf("listed again: %+v, %v", second, err)
	}
	f.mu.Lock()
	f.endpoints, f.components = errors.New("broken"), nil
	f.mu.Unlock()
	third, problems, err := c.Resources(t.Context(), opts, second)
	if err != nil || len(third.HTTPEndpoints) != 1 || len(third.Components) != 0 || len(problems) != 1 {
		t.Errorf("broken later: %+v, %v, %v", third, problems, err)
	}
}

// TestSettle looks once more some seconds after the start, and at every interval.
func TestSettle(t *testing.T) {
	clock := clockwork.NewFakeClock()
	c := serveWith(t, &quietOperator{}, clock)
	changes := c.Watch(time.Minute)
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	for _, step := range []time.Duration{settle, time.Minute - settle} {
		clock.Advance(step)
		select {
		case <-changes:
		case <-ctx.Done():
			t.Fatalf("no notice after %s", step)
		}
	}
}

func TestWatch(t *testing.T) {
	f := &fakeOperator{}
	c := serve(t, f)
	changes := c.Watch(time.Hour)
	waitFor := func(what string, holds func() bool) {
		t.Helper()
		for end := time.Now().Add(10 * time.Second); !holds(); time.Sleep(time.Millisecond) {
			if time.Now().After(end) {
				t.Fatal(what)
			}
		}
	}
	notice := func(after string) {
		t.Helper()
		select {
		case <-changes:
		case <-time.After(10 * time.Second):
			t.Fatalf("no notice after %s", after)
		}
	}
	waitFor("no stream was opened", func() bool { return len(f.streams()) == 1 })
	f.streams()[0] <- struct{}{}
	notice("a change")
	close(f.streams()[0])
	notice("the stream was opened again")
	waitFor("no stream was opened again", func() bool { return len(f.streams()) == 2 })
	f.streams()[1] <- struct{}{}
	notice("a change on the new stream")
}

func TestOpenWithoutOperator(t *testing.T) {
	if _, err := Open(t.Context(), Options{}); err == nil || !strings.Contains(err.Error(), "--control-plane-address") {
		t.Errorf("without an address: %v", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	_, err := Open(ctx, Options{Address: "127.0.0.1:1", Credentials: insecure.NewCredentials()})
	if err == nil || !strings.Contains(err.Error(), "127.0.0.1:1") || !strings.Contains(err.Error(), "refused") {
		t.Errorf("nobody there: %v", err)
	}
	_, err = Open(t.Context(), Options{Address: "no-such-host.invalid:1", Credentials: insecure.NewCredentials(), ConnectTimeout: 50 * time.Millisecond})
	if err == nil || !strings.Contains(err.Error(), "no-such-host.invalid") {
		t.Errorf("no such host: %v", err)
	}
}
