package sidecar_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/timestamppb"

	operatorv1 "outrigger.dev/api/gen/operator/v1"
	sentryv1 "outrigger.dev/api/gen/sentry/v1"
	"outrigger.dev/components"
	pubsubinmemory "outrigger.dev/components/pubsub/inmemory"
	"outrigger.dev/components/secretstores/kubernetes"
	"outrigger.dev/components/secretstores/localenv"
	stateinmemory "outrigger.dev/components/state/inmemory"
	"outrigger.dev/identity"
	"outrigger.dev/identity/identitytest"
	"outrigger.dev/resource"
	"outrigger.dev/sidecar"
	"outrigger.dev/sidecar/sidecartest"
)

// The control plane of a cluster, as a Helm chart names it.
const (
	sentryURI   = "spiffe://cluster.local/ns/dapr-system/dapr-sentry"
	operatorURI = "spiffe://cluster.local/ns/dapr-system/dapr-operator"
)

// world is a cluster: a certificate authority, an operator, an API server, and what the injector tells sidecars.
type world struct {
	t        *testing.T
	ca       *identitytest.CA
	sentry   *clusterSentry
	operator *clusterOperator
	env      map[string]string
	registry components.Registry
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{t: t, ca: identitytest.NewCA(t)}
	w.sentry = &clusterSentry{t: t, ca: w.ca}
	w.operator = &clusterOperator{t: t, ca: w.ca, resources: map[string][]string{}, broken: map[string]error{}, streams: map[string][]chan struct{}{}}
	w.operator.start(operatorURI)
	token := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(token, []byte("proof"), 0o600); err != nil {
		t.Fatal(err)
	}
	w.env = map[string]string{
		"NAMESPACE": "team", "DAPR_TRUST_ANCHORS": string(identitytest.PEM(w.ca.Root)), "POD_NAME": "app-0",
		"DAPR_CONTROLPLANE_NAMESPACE": "dapr-system", "DAPR_CONTROLPLANE_TRUST_DOMAIN": "cluster.local",
		"DAPR_SENTRY_TOKEN_FILE": token, "DAPR_UNSAFE_SKIP_CONTAINER_UID_GID_CHECK": "true",
	}
	stateinmemory.Register(&w.registry)
	pubsubinmemory.Register(&w.registry)
	localenv.RegisterWith(&w.registry, localenv.Environment{
		Lookup: func(name string) (string, bool) { return "value of " + name, true },
		List:   func() []string { return nil },
	})
	kubernetes.RegisterWith(&w.registry, w.apiServer())
	return w
}

// apiServer is a Kubernetes API server that has one Secret, and how a pod finds it.
func (w *world) apiServer() kubernetes.Environment {
	server := httptest.NewTLSServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/api/v1/namespaces/team/secrets/db" || r.Header.Get("Authorization") != "Bearer account" {
			rw.WriteHeader(http.StatusForbidden)
			return
		}
		_, _ = rw.Write([]byte(`{"metadata":{"name":"db"},"data":{"password":"cHc="}}`))
	}))
	w.t.Cleanup(server.Close)
	dir := w.t.TempDir()
	for name, text := range map[string]string{
		"token": "account", "namespace": "team", "ca.crt": string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})),
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			w.t.Fatal(err)
		}
	}
	u, err := url.Parse(server.URL)
	if err != nil {
		w.t.Fatal(err)
	}
	env := map[string]string{"KUBERNETES_SERVICE_HOST": u.Hostname(), "KUBERNETES_SERVICE_PORT": u.Port()}
	return kubernetes.Environment{Lookup: func(name string) (string, bool) { v, ok := env[name]; return v, ok }, ServiceAccount: dir}
}

// pod makes a sidecar one that the injector has put into a pod of the cluster.
func (w *world) pod() sidecartest.Option {
	return sidecartest.With(func(o *sidecar.Options) {
		o.Kubernetes, o.EnableMTLS, o.Namespace = true, true, w.env["NAMESPACE"]
		o.SentryAddress, o.ControlPlaneAddress = w.sentry.serve(), w.operator.address
		o.Registry = w.registry.Clone()
		o.LookupEnv = func(name string) (string, bool) { v, ok := w.env[name]; return v, ok }
		o.ConfigPaths = []string{"settings"}
	})
}

// clusterSentry signs for whoever has the token of a service account.
type clusterSentry struct {
	sentryv1.UnimplementedCAServer
	t  *testing.T
	ca *identitytest.CA

	mu       sync.Mutex
	requests []*sentryv1.SignCertificateRequest
}

func (f *clusterSentry) serve() (address string) {
	svid := f.ca.Issue(f.t, sentryURI, nil)
	certificate := tls.Certificate{PrivateKey: svid.PrivateKey}
	for _, c := range svid.Certificates {
		certificate.Certificate = append(certificate.Certificate, c.Raw)
	}
	s := grpc.NewServer(grpc.Creds(credentials.NewTLS(&tls.Config{Certificates: []tls.Certificate{certificate}})))
	sentryv1.RegisterCAServer(s, f)
	address, _ = serveGRPC(f.t, s, "127.0.0.1:0")
	return address
}

// serveGRPC serves until the test ends, or stop is called.
func serveGRPC(t *testing.T, s *grpc.Server, address string) (at string, stop func()) {
	t.Helper()
	l, err := net.Listen("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	var serving sync.WaitGroup
	serving.Go(func() { _ = s.Serve(l) })
	stop = func() {
		s.Stop()
		serving.Wait()
	}
	t.Cleanup(stop)
	return l.Addr().String(), stop
}

func (f *clusterSentry) SignCertificate(_ context.Context, req *sentryv1.SignCertificateRequest) (*sentryv1.SignCertificateResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.requests = append(f.requests, req)
	if req.GetToken() != "proof" || req.GetTokenValidator() != sentryv1.SignCertificateRequest_KUBERNETES {
		return nil, status.Error(codes.PermissionDenied, "no proof")
	}
	block, _ := pem.Decode(req.GetCertificateSigningRequest())
	if block == nil {
		return nil, errors.New("no certificate request")
	}
	csr, err := x509.ParseCertificateRequest(block.Bytes)
	if err != nil {
		return nil, err
	}
	end := time.Now().Add(time.Hour)
	chain := f.ca.Sign(f.t, "spiffe://public/ns/"+req.GetNamespace()+"/"+req.GetId(), csr.PublicKey, func(c *x509.Certificate) { c.NotAfter = end })
	return &sentryv1.SignCertificateResponse{
		WorkloadCertificate: identitytest.PEM(chain...), TrustChainCertificates: [][]byte{identitytest.PEM(f.ca.Root)}, ValidUntil: timestamppb.New(end),
	}, nil
}

// clusterOperator has resources, and tells when they change.
type clusterOperator struct {
	operatorv1.UnimplementedOperatorServer
	t       *testing.T
	ca      *identitytest.CA
	address string
	halt    func()

	mu        sync.Mutex
	resources map[string][]string // of a kind, in JSON
	config    string
	broken    map[string]error // what lists of a kind answer
	streams   map[string][]chan struct{}
	calls     int
}

// start serves under an identity, at the address of before.
func (f *clusterOperator) start(uri string) {
	f.t.Helper()
	credential := credentials.NewTLS(identity.NewTLS(f.ca.NewSource(f.t, uri), nil).Server("h2"))
	server := grpc.NewServer(grpc.Creds(credential))
	operatorv1.RegisterOperatorServer(server, f)
	address := f.address
	if address == "" {
		address = "127.0.0.1:0"
	}
	f.address, f.halt = serveGRPC(f.t, server, address)
}

// stop breaks all connections.
func (f *clusterOperator) stop() {
	f.halt()
}

// set changes the resources of a kind and tells it on the streams that are open.
func (f *clusterOperator) set(kind string, documents ...string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.resources[kind] = documents
	f.tell(kind)
}

func (f *clusterOperator) setConfiguration(document string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.config = document
	f.tell(resource.KindConfiguration)
}

func (f *clusterOperator) breakList(kind string, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.broken[kind] = err
}

func (f *clusterOperator) tell(kind string) {
	for _, c := range f.streams[kind] {
		select {
		case c <- struct{}{}:
		default:
		}
	}
}

func (f *clusterOperator) count() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.calls
}

// watched reports whether all kinds are.
func (f *clusterOperator) watched() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, kind := range []string{
		resource.KindComponent, resource.KindSubscription, resource.KindResiliency, resource.KindHTTPEndpoint, resource.KindWorkflowAccessPolicy, resource.KindConfiguration,
	} { // MCP servers are not known to this operator
		if len(f.streams[kind]) == 0 {
			return false
		}
	}
	return true
}

// admit lets apps read what is of their own namespace.
func (f *clusterOperator) admit(ctx context.Context, namespace string) error {
	f.mu.Lock()
	f.calls++
	f.mu.Unlock()
	p, ok := peer.FromContext(ctx)
	if !ok {
		return status.Error(codes.PermissionDenied, "failed to determine identity")
	}
	who, err := identity.PeerOf(p.AuthInfo.(credentials.TLSInfo).State.PeerCertificates[0])
	if err != nil || who.ID.Namespace != namespace {
		return status.Error(codes.PermissionDenied, fmt.Sprintf("identity does not match requested namespace exp=%s got=%+v", namespace, who))
	}
	return nil
}

func (f *clusterOperator) list(ctx context.Context, kind, namespace string) (documents [][]byte, err error) {
	if err := f.admit(ctx, namespace); err != nil {
		return nil, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, d := range f.resources[kind] {
		documents = append(documents, []byte(d))
	}
	return documents, f.broken[kind]
}

func (f *clusterOperator) stream(ctx context.Context, kind, namespace string, send func() error) error {
	if err := f.admit(ctx, namespace); err != nil {
		return err
	}
	changed := make(chan struct{}, 10)
	f.mu.Lock()
	f.streams[kind] = append(f.streams[kind], changed)
	f.mu.Unlock()
	defer func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		f.streams[kind] = slices.DeleteFunc(f.streams[kind], func(c chan struct{}) bool { return c == changed })
	}()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-changed:
			if err := send(); err != nil {
				return err
			}
		}
	}
}

func (f *clusterOperator) ListComponents(ctx context.Context, in *operatorv1.ListComponentsRequest) (*operatorv1.ListComponentResponse, error) {
	d, err := f.list(ctx, resource.KindComponent, in.GetNamespace())
	return &operatorv1.ListComponentResponse{Components: d}, err
}

func (f *clusterOperator) ListSubscriptionsV2(ctx context.Context, in *operatorv1.ListSubscriptionsRequest) (*operatorv1.ListSubscriptionsResponse, error) {
	d, err := f.list(ctx, resource.KindSubscription, in.GetNamespace())
	return &operatorv1.ListSubscriptionsResponse{Subscriptions: d}, err
}

func (f *clusterOperator) ListResiliency(ctx context.Context, in *operatorv1.ListResiliencyRequest) (*operatorv1.ListResiliencyResponse, error) {
	d, err := f.list(ctx, resource.KindResiliency, in.GetNamespace())
	return &operatorv1.ListResiliencyResponse{Resiliencies: d}, err
}

func (f *clusterOperator) ListHTTPEndpoints(ctx context.Context, in *operatorv1.ListHTTPEndpointsRequest) (*operatorv1.ListHTTPEndpointsResponse, error) {
	d, err := f.list(ctx, resource.KindHTTPEndpoint, in.GetNamespace())
	return &operatorv1.ListHTTPEndpointsResponse{HttpEndpoints: d}, err
}

func (f *clusterOperator) ListWorkflowAccessPolicy(ctx context.Context, in *operatorv1.ListWorkflowAccessPolicyRequest) (*operatorv1.ListWorkflowAccessPolicyResponse, error) {
	d, err := f.list(ctx, resource.KindWorkflowAccessPolicy, in.GetNamespace())
	return &operatorv1.ListWorkflowAccessPolicyResponse{Policies: d}, err
}

func (f *clusterOperator) GetConfiguration(ctx context.Context, in *operatorv1.GetConfigurationRequest) (*operatorv1.GetConfigurationResponse, error) {
	if err := f.admit(ctx, in.GetNamespace()); err != nil {
		return nil, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if in.GetName() != "settings" || f.config == "" {
		return nil, fmt.Errorf("error getting configuration %s/%s: Configuration.dapr.io %q not found", in.GetNamespace(), in.GetName(), in.GetName())
	}
	return &operatorv1.GetConfigurationResponse{Configuration: []byte(f.config)}, nil
}

func (f *clusterOperator) ComponentUpdate(in *operatorv1.ComponentUpdateRequest, out operatorv1.Operator_ComponentUpdateServer) error {
	return f.stream(out.Context(), resource.KindComponent, in.GetNamespace(), func() error { return out.Send(&operatorv1.ComponentUpdateEvent{}) })
}

func (f *clusterOperator) SubscriptionUpdate(in *operatorv1.SubscriptionUpdateRequest, out operatorv1.Operator_SubscriptionUpdateServer) error {
	return f.stream(out.Context(), resource.KindSubscription, in.GetNamespace(), func() error { return out.Send(&operatorv1.SubscriptionUpdateEvent{}) })
}

func (f *clusterOperator) ResiliencyUpdate(in *operatorv1.ResiliencyUpdateRequest, out operatorv1.Operator_ResiliencyUpdateServer) error {
	return f.stream(out.Context(), resource.KindResiliency, in.GetNamespace(), func() error { return out.Send(&operatorv1.ResiliencyUpdateEvent{}) })
}

func (f *clusterOperator) HTTPEndpointUpdate(in *operatorv1.HTTPEndpointUpdateRequest, out operatorv1.Operator_HTTPEndpointUpdateServer) error {
	return f.stream(out.Context(), resource.KindHTTPEndpoint, in.GetNamespace(), func() error { return out.Send(&operatorv1.HTTPEndpointUpdateEvent{}) })
}

func (f *clusterOperator) WorkflowAccessPolicyUpdate(in *operatorv1.WorkflowAccessPolicyUpdateRequest, out operatorv1.Operator_WorkflowAccessPolicyUpdateServer) error {
	return f.stream(out.Context(), resource.KindWorkflowAccessPolicy, in.GetNamespace(), func() error { return out.Send(&operatorv1.WorkflowAccessPolicyUpdateEvent{}) })
}

func (f *clusterOperator) ConfigurationUpdate(in *operatorv1.ConfigurationUpdateRequest, out operatorv1.Operator_ConfigurationUpdateServer) error {
	return f.stream(out.Context(), resource.KindConfiguration, in.GetNamespace(), func() error { return out.Send(&operatorv1.ConfigurationUpdateEvent{}) })
}

// listed is a resource as the operator sends it: an object of the Kubernetes API without its kind.
func listed(name, spec string, more ...string) string {
	text := fmt.Sprintf(`{"metadata":{"name":%q,"namespace":"team","resourceVersion":"1","uid":"u"},"spec":%s%s}`, name, spec, strings.Join(more, ""))
	if !json.Valid([]byte(text)) {
		panic("the test has written " + text)
	}
	return text
}
