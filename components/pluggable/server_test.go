//go:build unix

package pluggable

import (
	"context"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/reflection"
	"google.golang.org/grpc/status"

	componentsv1 "outrigger.dev/api/gen/components/v1"
	"outrigger.dev/components"
	"outrigger.dev/components/state"
)

// patience is how long a test waits for what must happen.
const patience = 30 * time.Second

func within(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	t.Cleanup(cancel)
	return ctx
}

func waitFor(t testing.TB, what string, ok func() bool) {
	t.Helper()
	deadline := time.NewTimer(patience)
	defer deadline.Stop()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-deadline.C:
			t.Fatalf("waited %s in vain for %s", patience, what)
		case <-tick.C:
		}
	}
}

// life is what a process knows from its start to its end: who was initialised, with which properties.
type life struct {
	mu    sync.Mutex
	inits map[string]map[string]string
	count int
}

func instanceOf(ctx context.Context) string {
	md, _ := metadata.FromIncomingContext(ctx)
	if names := md.Get(instanceHeader); len(names) == 1 {
		return names[0]
	}
	return ""
}

func (l *life) init(ctx context.Context, m *componentsv1.MetadataRequest) error {
	name := instanceOf(ctx)
	if name == "" {
		return status.Error(codes.InvalidArgument, "the call names no instance")
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if text := m.GetProperties()["initError"]; text != "" {
		return status.Error(codes.InvalidArgument, text)
	}
	if l.inits == nil {
		l.inits = map[string]map[string]string{}
	}
	l.inits[name] = m.GetProperties()
	l.count++
	return nil
}

// properties are those of the caller's instance; an instance that was not initialised is refused.
func (l *life) properties(ctx context.Context) (map[string]string, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	p, ok := l.inits[instanceOf(ctx)]
	if !ok {
		return nil, status.Errorf(codes.FailedPrecondition, "the instance %q was not initialised", instanceOf(ctx))
	}
	return p, nil
}

// process is a component's process inside the test: it can be stopped and started again on its socket.
type process struct {
	t        testing.TB
	path     string
	register func(s *grpc.Server, l *life)
	mute     bool // without reflection
	server   *grpc.Server
	served   chan struct{}
	life     *life
}

// startProcess serves on a socket of the folder until the test ends.
func startProcess(t testing.TB, folder, file string, register func(s *grpc.Server, l *life)) *process {
	t.Helper()
	p := &process{t: t, path: filepath.Join(folder, file), register: register}
	p.start()
	t.Cleanup(p.stop)
	return p
}

func (p *process) start() {
	p.t.Helper()
	l, err := net.Listen("unix", p.path)
	if err != nil {
		p.t.Fatal(err)
	}
	p.serve(l)
}

func (p *process) serve(l net.Listener) {
	p.server, p.life, p.served = grpc.NewServer(), &life{}, make(chan struct{})
	p.register(p.server, p.life)
	if !p.mute {
		reflection.Register(p.server)
	}
	server, served := p.server, p.served
	go func() {
		defer close(served)
		_ = server.Serve(l)
	}()
}

func (p *process) stop() {
	p.server.Stop()
	<-p.served
}

func (p *process) restart() {
	p.t.Helper()
	p.stop()
	p.start()
}

// found discovers a folder into a fresh registry.
func found(t testing.TB, folder string, change ...func(o *Options)) (*Folder, *components.Registry, []Socket) {
	t.Helper()
	o := Options{Folder: folder, Registry: &components.Registry{}, Log: testLog(t)}
	for _, c := range change {
		c(&o)
	}
	f := New(o)
	sockets, err := f.Discover(within(t))
	if err != nil {
		t.Fatal(err)
	}
	return f, o.Registry, sockets
}

// open opens a component of a folder's type as a sidecar does. The caller closes it.
func open[C any](t testing.TB, folder string, category components.Category, name string, inst components.Instance) (c C, err error) {
	t.Helper()
	_, r, _ := found(t, folder)
	d, err := r.Lookup(category, name, "v1")
	if err != nil {
		t.Fatal(err)
	}
	if inst.Name == "" {
		inst.Name = "mine"
	}
	if inst.Log == nil {
		inst.Log = testLog(t)
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	any, err := d.Open(ctx, inst)
	if err != nil {
		return c, err
	}
	return any.(C), nil
}

// stateService is a state store's process over a store of ours.
type stateService struct {
	componentsv1.UnimplementedStateStoreServer
	componentsv1.UnimplementedTransactionalStateStoreServer
	componentsv1.UnimplementedTransactionalStoreMultiMaxSizeServer
	componentsv1.UnimplementedQueriableStateStoreServer
	*life
	backend  state.Store
	features []string
	maxSize  int64
	// written is told of writes before they are acknowledged.
	written func(key string, value []byte) error
	// query answers queries.
	query func(*componentsv1.QueryRequest) (*componentsv1.QueryResponse, error)
	// noBulk leaves the bulk methods out.
	noBulk bool
}

func (s *stateService) register(g *grpc.Server, l *life) {
	served := *s
	served.life = l
	componentsv1.RegisterStateStoreServer(g, &served)
	componentsv1.RegisterTransactionalStateStoreServer(g, &served)
	componentsv1.RegisterTransactionalStoreMultiMaxSizeServer(g, &served)
	componentsv1.RegisterQueriableStateStoreServer(g, &served)
}

func (s *stateService) Init(ctx context.Context, in *componentsv1.InitRequest) (*componentsv1.InitResponse, error) {
	return &componentsv1.InitResponse{}, s.life.init(ctx, in.GetMetadata())
}

func (s *stateService) Features(context.Context, *componentsv1.FeaturesRequest) (*componentsv1.FeaturesResponse, error) {
	return &componentsv1.FeaturesResponse{Features: s.features}, nil
}

func (s *stateService) Get(ctx context.Context, in *componentsv1.GetRequest) (*componentsv1.GetResponse, error) {
	if _, err := s.properties(ctx); err != nil {
		return nil, err
	}
	i, err := s.backend.Get(ctx, state.GetRequest{Key: in.GetKey(), Metadata: in.GetMetadata(), Consistency: consistencyOf(in.GetConsistency())})
	if err != nil {
		return nil, err
	}
	return &componentsv1.GetResponse{Data: i.Data, Etag: etag(i.ETag), Metadata: i.Metadata}, nil
}

func (s *stateService) BulkGet(ctx context.Context, in *componentsv1.BulkGetRequest) (*componentsv1.BulkGetResponse, error) {
	if s.noBulk {
		return s.UnimplementedStateStoreServer.BulkGet(ctx, in)
	}
	out := &componentsv1.BulkGetResponse{}
	for _, r := range in.GetItems() {
		got, err := s.Get(ctx, r)
		if err != nil {
			return nil, err
		}
		out.Items = append(out.Items, &componentsv1.BulkStateItem{Key: r.GetKey(), Data: got.GetData(), Etag: got.GetEtag(), Metadata: got.GetMetadata()})
	}
	return out, nil
}

func (s *stateService) Set(ctx context.Context, in *componentsv1.SetRequest) (*componentsv1.SetResponse, error) {
	if _, err := s.properties(ctx); err != nil {
		return nil, err
	}
	if err := s.backend.Set(ctx, *setOf(in)); err != nil {
		return nil, statusOf(err)
	}
	if s.written != nil {
		if err := s.written(in.GetKey(), in.GetValue()); err != nil {
			return nil, err
		}
	}
	return &componentsv1.SetResponse{}, nil
}

func (s *stateService) BulkSet(ctx context.Context, in *componentsv1.BulkSetRequest) (*componentsv1.BulkSetResponse, error) {
	if s.noBulk {
		return s.UnimplementedStateStoreServer.BulkSet(ctx, in)
	}
	for _, r := range in.GetItems() {
		if _, err := s.Set(ctx, r); err != nil {
			return nil, err
		}
	}
	return &componentsv1.BulkSetResponse{}, nil
}

func (s *stateService) Delete(ctx context.Context, in *componentsv1.DeleteRequest) (*componentsv1.DeleteResponse, error) {
	if _, err := s.properties(ctx); err != nil {
		return nil, err
	}
	return &componentsv1.DeleteResponse{}, statusOf(s.backend.Delete(ctx, *deleteOf(in)))
}

func (s *stateService) BulkDelete(ctx context.Context, in *componentsv1.BulkDeleteRequest) (*componentsv1.BulkDeleteResponse, error) {
	if s.noBulk {
		return s.UnimplementedStateStoreServer.BulkDelete(ctx, in)
	}
	gone := 0
	for _, r := range in.GetItems() {
		if i, err := s.backend.Get(ctx, state.GetRequest{Key: r.GetKey()}); err == nil && i.Found {
			gone++
		}
		if _, err := s.Delete(ctx, r); err != nil {
			return nil, err
		}
	}
	if n := len(in.GetItems()); gone < n {
		return nil, withDetails(codes.Internal, "some were missing", &errdetails.ErrorInfo{Metadata: map[string]string{"expected": fmt.Sprint(n), "affected": fmt.Sprint(gone)}})
	}
	return &componentsv1.BulkDeleteResponse{}, nil
}

func (s *stateService) Transact(ctx context.Context, in *componentsv1.TransactionalStateRequest) (*componentsv1.TransactionalStateResponse, error) {
	if _, err := s.properties(ctx); err != nil {
		return nil, err
	}
	req := state.TransactionRequest{Metadata: in.GetMetadata()}
	for _, o := range in.GetOperations() {
		if o.GetSet() != nil {
			req.Operations = append(req.Operations, state.Operation{Set: setOf(o.GetSet())})
		} else {
			req.Operations = append(req.Operations, state.Operation{Delete: deleteOf(o.GetDelete())})
		}
	}
	return &componentsv1.TransactionalStateResponse{}, statusOf(s.backend.(state.Transactor).Transact(ctx, req))
}

func (s *stateService) MultiMaxSize(ctx context.Context, in *componentsv1.MultiMaxSizeRequest) (*componentsv1.MultiMaxSizeResponse, error) {
	if s.maxSize == 0 {
		return s.UnimplementedTransactionalStoreMultiMaxSizeServer.MultiMaxSize(ctx, in)
	}
	return &componentsv1.MultiMaxSizeResponse{MaxSize: s.maxSize}, nil
}

func (s *stateService) Query(_ context.Context, in *componentsv1.QueryRequest) (*componentsv1.QueryResponse, error) {
	return s.query(in)
}

func consistencyOf(c componentsv1.StateOptions_StateConsistency) state.Consistency {
	return map[componentsv1.StateOptions_StateConsistency]state.Consistency{1: state.Eventual, 2: state.Strong}[c]
}

func optionsOf(o *componentsv1.StateOptions) state.Options {
	return state.Options{
		Concurrency: map[componentsv1.StateOptions_StateConcurrency]state.Concurrency{1: state.FirstWrite, 2: state.LastWrite}[o.GetConcurrency()],
		Consistency: consistencyOf(o.GetConsistency()),
	}
}

func setOf(in *componentsv1.SetRequest) *state.SetRequest {
	return &state.SetRequest{Key: in.GetKey(), Value: state.Value{Bytes: in.GetValue()}, ETag: in.GetEtag().GetValue(), Metadata: in.GetMetadata(), Options: optionsOf(in.GetOptions())}
}

func deleteOf(in *componentsv1.DeleteRequest) *state.DeleteRequest {
	return &state.DeleteRequest{Key: in.GetKey(), ETag: in.GetEtag().GetValue(), Metadata: in.GetMetadata(), Options: optionsOf(in.GetOptions())}
}

// statusOf is how a component tells of wrong etags.
func statusOf(err error) error {
	var e *state.ETagError
	if !errors.As(err, &e) {
		return err
	}
	code := codes.FailedPrecondition
	if e.Invalid {
		code = codes.InvalidArgument
	}
	return withDetails(code, "etag", &errdetails.BadRequest{FieldViolations: []*errdetails.BadRequest_FieldViolation{{Field: "etag", Description: fmt.Sprint(e.Err)}}})
}
