//go:build unix

package pluggable

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jonboulle/clockwork"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	spb "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/protoadapt"

	"outrigger.dev/api"
	componentsv1 "outrigger.dev/api/gen/components/v1"
	"outrigger.dev/components"
	"outrigger.dev/components/state"
	"outrigger.dev/components/state/inmemory"
	"outrigger.dev/components/state/statetest"
)

func withDetails(code codes.Code, text string, details ...protoadapt.MessageV1) error {
	s, err := status.New(code, text).WithDetails(details...)
	if err != nil {
		panic(err)
	}
	return s.Err()
}

func memory(t testing.TB) state.Store {
	m := inmemory.New(clockwork.NewRealClock())
	t.Cleanup(func() { _ = m.Close() })
	return m
}

func openStore(t testing.TB, folder, name string, inst components.Instance) state.Store {
	t.Helper()
	s, err := open[state.Store](t, folder, components.State, name, inst)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestStateConformance(t *testing.T) {
	for _, noBulk := range []bool{false, true} {
		t.Run(fmt.Sprintf("noBulk=%t", noBulk), func(t *testing.T) {
			dir := t.TempDir()
			service := &stateService{backend: memory(t), features: []string{"ETAG", "TRANSACTIONAL", "TTL"}, noBulk: noBulk}
			startProcess(t, dir, "mystore.sock", service.register)
			statetest.Run(t, statetest.Config{}, func(t *testing.T) state.Store {
				s := openStore(t, dir, "mystore", components.Instance{})
				if got, want := state.Capabilities(s), []string{"ETAG", "TRANSACTIONAL", "TTL", "ACTOR"}; !slices.Equal(got, want) {
					t.Errorf("capabilities %v, want %v", got, want)
				}
				return s
			})
		})
	}
}

// What a store can do beyond the contract follows from the features that its process claims.
func TestStateAbilities(t *testing.T) {
	for _, features := range [][]string{nil, {"ETAG"}, {"TRANSACTIONAL"}, {"QUERY_API", "TTL"}, {"TRANSACTIONAL", "QUERY_API"}, {"DELETE_WITH_PREFIX", "unheard of"}} {
		dir := t.TempDir()
		startProcess(t, dir, "s.sock", (&stateService{backend: memory(t), features: features, maxSize: 7}).register)
		s := openStore(t, dir, "s", components.Instance{})
		_, tx := s.(state.Transactor)
		limiter, limits := s.(state.TransactionLimiter)
		_, queries := s.(state.Querier)
		_, prefix := s.(state.PrefixDeleter)
		if want := slices.Contains(features, "TRANSACTIONAL"); tx != want || limits != want {
			t.Errorf("%v: transactions %t, limits %t", features, tx, limits)
		}
		if limits && limiter.MaxOperations() != 7 {
			t.Errorf("%v: at most %d operations, want 7", features, limiter.MaxOperations())
		}
		if queries != slices.Contains(features, "QUERY_API") || prefix {
			t.Errorf("%v: queries %t, prefixes %t", features, queries, prefix)
		}
		if s.(state.ETagStore).ETags() != slices.Contains(features, "ETAG") || s.(state.TTLStore).TTL() != slices.Contains(features, "TTL") {
			t.Errorf("%v: wrong etags or TTL", features)
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}
}

func TestNoTransactionLimit(t *testing.T) {
	dir := t.TempDir()
	startProcess(t, dir, "s.sock", (&stateService{backend: memory(t), features: []string{"TRANSACTIONAL"}}).register)
	s := openStore(t, dir, "s", components.Instance{})
	defer s.Close()
	if n := s.(state.TransactionLimiter).MaxOperations(); n != 0 {
		t.Errorf("a process that does not tell has the limit %d", n)
	}
}

// failingState answers every call with the same error.
type failingState struct {
	componentsv1.UnimplementedStateStoreServer
	*life
	err error
}

func (s *failingState) Init(ctx context.Context, in *componentsv1.InitRequest) (*componentsv1.InitResponse, error) {
	return &componentsv1.InitResponse{}, s.life.init(ctx, in.GetMetadata())
}

func (s *failingState) Get(context.Context, *componentsv1.GetRequest) (*componentsv1.GetResponse, error) {
	return nil, s.err
}

func (s *failingState) Set(context.Context, *componentsv1.SetRequest) (*componentsv1.SetResponse, error) {
	return nil, s.err
}

func TestStateErrors(t *testing.T) {
	violation := func(fields ...string) *errdetails.BadRequest {
		b := &errdetails.BadRequest{}
		for _, f := range fields {
			b.FieldViolations = append(b.FieldViolations, &errdetails.BadRequest_FieldViolation{Field: f, Description: "why"})
		}
		return b
	}
	kit := map[string]string{"kit_error": "true", "http_code": "418", "tag": "ERR_TEAPOT", "more": "x"}
	kitInfo := &errdetails.ErrorInfo{Reason: "TEAPOT", Domain: "kitchen", Metadata: kit}
	without := func(name string) *errdetails.ErrorInfo {
		m := map[string]string{}
		for k, v := range kit {
			if k != name {
				m[k] = v
			}
		}
		return &errdetails.ErrorInfo{Reason: "TEAPOT", Metadata: m}
	}
	for name, tc := range map[string]struct {
		err  error
		etag string // mismatch, invalid
		kit  int
		code codes.Code
		text string
	}{
		"plain":              {err: status.Error(codes.NotFound, "no table"), code: codes.NotFound, text: "no table"},
		"go error":           {err: errors.New("boom"), code: codes.Unknown, text: "boom"},
		"no text":            {err: status.Error(codes.Aborted, ""), code: codes.Aborted, text: "the component answered Aborted without a text"},
		"its own outage":     {err: status.Error(codes.Unavailable, "database is down"), code: codes.Unavailable, text: "database is down"},
		"mismatch":           {err: withDetails(codes.FailedPrecondition, "x", violation("etag")), etag: "mismatch", code: codes.Unknown, text: "possible etag mismatch. error from state store: why"},
		"invalid":            {err: withDetails(codes.InvalidArgument, "x", violation("etag")), etag: "invalid", code: codes.Unknown, text: "invalid etag value: why"},
		"other field":        {err: withDetails(codes.FailedPrecondition, "x", violation("key")), code: codes.FailedPrecondition, text: "x"},
		"two fields":         {err: withDetails(codes.FailedPrecondition, "x", violation("etag", "key")), code: codes.FailedPrecondition, text: "x"},
		"etag of other code": {err: withDetails(codes.Internal, "x", violation("etag")), code: codes.Internal, text: "x"},
		"kit":                {err: withDetails(codes.ResourceExhausted, "hot", kitInfo), kit: 418, code: codes.ResourceExhausted, text: "api error: code = ResourceExhausted desc = hot"},
		"kit with help":      {err: withDetails(codes.ResourceExhausted, "hot", kitInfo, &errdetails.Help{}), kit: 418, code: codes.ResourceExhausted, text: "api error: code = ResourceExhausted desc = hot"},
		"two infos":          {err: withDetails(codes.Internal, "hot", kitInfo, kitInfo), code: codes.Internal, text: "hot"},
		"no kit":             {err: withDetails(codes.Internal, "hot", without("kit_error")), code: codes.Internal, text: "hot"},
		"no tag":             {err: withDetails(codes.Internal, "hot", without("tag")), code: codes.Internal, text: "hot"},
		"no status":          {err: withDetails(codes.Internal, "hot", without("http_code")), code: codes.Internal, text: "hot"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			startProcess(t, dir, "s.sock", func(g *grpc.Server, l *life) {
				componentsv1.RegisterStateStoreServer(g, &failingState{life: l, err: tc.err})
			})
			s := openStore(t, dir, "s", components.Instance{})
			defer s.Close()
			_, get := s.Get(within(t), state.GetRequest{Key: "k"})
			for what, err := range map[string]error{"Get": get, "Set": s.Set(within(t), state.SetRequest{Key: "k"})} {
				if err == nil || err.Error() != tc.text || status.Code(err) != tc.code {
					t.Fatalf("%s: %v (%v), want %q (%v)", what, err, status.Code(err), tc.text, tc.code)
				}
				e, ok := state.AsETagError(err)
				if ok != (tc.etag != "") || ok && e.Invalid != (tc.etag == "invalid") {
					t.Errorf("%s: etag error %v, want %q", what, e, tc.etag)
				}
				var own *api.Error
				if errors.As(err, &own) != (tc.kit != 0) {
					t.Fatalf("%s: %T is an api.Error: %t", what, err, tc.kit == 0)
				}
				if own == nil {
					continue
				}
				info, ok := own.GRPCDetails[0].(*errdetails.ErrorInfo)
				if own.HTTP != tc.kit || own.Code != "ERR_TEAPOT" || own.Category != api.CategoryPluggable || own.Message != "hot" || !ok || info.GetReason() != "TEAPOT" || info.GetDomain() != "kitchen" || len(info.GetMetadata()) > 0 {
					t.Errorf("%s: %+v, %v", what, own, own.GRPCDetails)
				}
			}
		})
	}
}

func TestBulkWrites(t *testing.T) {
	for _, noBulk := range []bool{false, true} {
		dir := t.TempDir()
		startProcess(t, dir, "s.sock", (&stateService{backend: memory(t), features: []string{"ETAG"}, noBulk: noBulk}).register)
		s := openStore(t, dir, "s", components.Instance{}).(*stateStore)
		var sets []state.SetRequest
		var deletes []state.DeleteRequest
		for i := range 50 {
			sets = append(sets, state.SetRequest{Key: fmt.Sprint(i), Value: state.Value{Bytes: []byte("v")}})
			deletes = append(deletes, state.DeleteRequest{Key: fmt.Sprint(i)})
		}
		if err := errors.Join(s.BulkSet(within(t), sets), s.BulkSet(within(t), nil), s.BulkDelete(within(t), nil)); err != nil {
			t.Fatal(err)
		}
		if i, err := s.Get(within(t), state.GetRequest{Key: "49"}); err != nil || string(i.Data) != "v" {
			t.Errorf("an item of a bulk is %+v, %v", i, err)
		}
		if err := s.BulkDelete(within(t), deletes[:25]); err != nil {
			t.Error(err)
		}
		err := s.BulkDelete(within(t), deletes)
		var rows *BulkDeleteError
		if errors.As(err, &rows) != !noBulk || rows != nil && (rows.Expected != 50 || rows.Affected != 25) {
			t.Errorf("noBulk=%t: a bulk deletion of missing items: %v", noBulk, err)
		}
		if i, err := s.Get(within(t), state.GetRequest{Key: "49"}); err != nil || i.Found {
			t.Errorf("a deleted item is %+v, %v", i, err)
		}
		_ = s.Close()
	}
}

func TestQuery(t *testing.T) {
	var got *componentsv1.QueryRequest
	service := &stateService{backend: memory(t), features: []string{"QUERY_API"}, query: func(in *componentsv1.QueryRequest) (*componentsv1.QueryResponse, error) {
		got = in
		return &componentsv1.QueryResponse{
			Items: []*componentsv1.QueryItem{{Key: "a", Data: []byte("1"), Etag: &componentsv1.Etag{Value: "e"}}, {Key: "b", Error: "unreadable"}},
			Token: "next", Metadata: map[string]string{"m": "n"},
		}, nil
	}}
	dir := t.TempDir()
	startProcess(t, dir, "s.sock", service.register)
	s := openStore(t, dir, "s", components.Instance{})
	defer s.Close()
	q, err := state.ParseQuery([]byte(`{"filter":{"AND":[{"EQ":{"person.org":"A"}},{"IN":{"state":["CA",1,null]}},{"OR":[{"GT":{"n":3}},{"NEQ":{"b":true}}]}]},"sort":[{"key":"n","order":"DESC"},{"key":"m"}],"page":{"limit":3,"token":"x"}}`))
	if err != nil {
		t.Fatal(err)
	}
	result, err := s.(state.Querier).Query(within(t), q, map[string]string{"partition": "p"})
	if err != nil {
		t.Fatal(err)
	}
	if len(result.Items) != 2 || result.Items[0].Key != "a" || !result.Items[0].HasETag || string(result.Items[0].Data) != "1" || result.Items[1].Err == nil || result.Token != "next" || result.Metadata["m"] != "n" {
		t.Errorf("result %+v", result)
	}
	const want = `[{"EQ":{"person.org":"A"}},{"IN":{"state":["CA",1,null]}},{"OR":[{"GT":{"n":3}},{"NEQ":{"b":true}}]}]`
	filter := got.GetQuery().GetFilter()
	if len(filter) != 1 || string(filter["AND"].GetValue()) != want {
		t.Errorf("filter %v, want %s", filter, want)
	}
	sort, page := got.GetQuery().GetSort(), got.GetQuery().GetPagination()
	if len(sort) != 2 || sort[0].GetKey() != "n" || sort[0].GetOrder() != componentsv1.Sorting_DESC || sort[1].GetOrder() != componentsv1.Sorting_ASC || page.GetLimit() != 3 || page.GetToken() != "x" || got.GetMetadata()["partition"] != "p" {
		t.Errorf("request %v", got)
	}
}

// Every component has an instance of its own, and its properties reach Init as they are.
func TestInstances(t *testing.T) {
	dir := t.TempDir()
	p := startProcess(t, dir, "s.sock", (&stateService{backend: memory(t)}).register)
	for _, name := range []string{"one", "two"} {
		s := openStore(t, dir, "S", components.Instance{Name: name, Properties: map[string]string{"Host": name, "any thing": "x"}})
		defer s.Close()
	}
	p.life.mu.Lock()
	defer p.life.mu.Unlock()
	if len(p.life.inits) != 2 || p.life.inits["two"]["Host"] != "two" || p.life.inits["one"]["any thing"] != "x" {
		t.Errorf("initialised: %v", p.life.inits)
	}
}

func TestInitFails(t *testing.T) {
	dir := t.TempDir()
	startProcess(t, dir, "s.sock", (&stateService{backend: memory(t)}).register)
	_, err := open[state.Store](t, dir, components.State, "s", components.Instance{Properties: map[string]string{"initError": "no host"}})
	if err == nil || !strings.Contains(err.Error(), "s.sock did not initialise: no host") {
		t.Errorf("error %v", err)
	}
}

// The time for initialising bounds a process that does not answer.
func TestInitTimeout(t *testing.T) {
	dir := t.TempDir()
	release := make(chan struct{})
	startProcess(t, dir, "s.sock", func(g *grpc.Server, l *life) {
		componentsv1.RegisterStateStoreServer(g, &slowInit{release: release})
	})
	defer close(release)
	_, r, _ := found(t, dir)
	d, err := r.Lookup(components.State, "s", "")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 200*time.Millisecond)
	defer cancel()
	if _, err := d.Open(ctx, components.Instance{Name: "mine"}); !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "mine") || !strings.Contains(err.Error(), "s.sock") {
		t.Errorf("error %v", err)
	}
}

type slowInit struct {
	componentsv1.UnimplementedStateStoreServer
	release chan struct{}
}

func (s *slowInit) Init(ctx context.Context, _ *componentsv1.InitRequest) (*componentsv1.InitResponse, error) {
	select {
	case <-s.release:
	case <-ctx.Done():
	}
	return nil, ctx.Err()
}

// Headers of the sidecar go with every call.
func TestHeaders(t *testing.T) {
	dir := t.TempDir()
	startProcess(t, dir, "s.sock", (&stateService{backend: memory(t)}).register)
	asked := 0
	_, r, _ := found(t, dir, func(o *Options) {
		o.Headers = func(context.Context) []string { asked++; return []string{"traceparent", "00-x"} }
	})
	d, err := r.Lookup(components.State, "s", "v0")
	if err != nil {
		t.Fatal(err)
	}
	s, err := d.Open(within(t), components.Instance{Name: "mine"})
	if err != nil {
		t.Fatal(err)
	}
	defer s.(state.Store).Close()
	if _, err := s.(state.Store).Get(within(t), state.GetRequest{Key: "k"}); err != nil || asked != 3 {
		t.Errorf("the headers were asked for %d times, want 3 (Init, Features, Get); %v", asked, err)
	}
}

// A process that comes back is initialised before any call gets to it, and calls wait for it.
func TestRestart(t *testing.T) {
	dir := t.TempDir()
	p := startProcess(t, dir, "s.sock", (&stateService{backend: memory(t)}).register)
	s := openStore(t, dir, "s", components.Instance{})
	defer s.Close()
	for round := range 5 {
		if err := s.Set(within(t), state.SetRequest{Key: "k", Value: state.Value{Bytes: []byte{byte('0' + round)}}}); err != nil {
			t.Fatal(err)
		}
		p.stop()
		waiting := make(chan error, 1)
		go func() { // ends with its result, which is waited for
			_, err := s.Get(within(t), state.GetRequest{Key: "k"})
			waiting <- err
		}()
		p.start()
		if err := <-waiting; err != nil {
			t.Errorf("round %d: the waiting call: %v", round, err)
		}
	}
}

func TestAway(t *testing.T) {
	dir := t.TempDir()
	p := startProcess(t, dir, "s.sock", (&stateService{backend: memory(t)}).register)
	_, r, _ := found(t, dir, func(o *Options) { o.Bound = 300 * time.Millisecond })
	d, err := r.Lookup(components.State, "s", "")
	if err != nil {
		t.Fatal(err)
	}
	c, err := d.Open(within(t), components.Instance{Name: "mine"})
	if err != nil {
		t.Fatal(err)
	}
	s := c.(state.Store)
	defer s.Close()
	p.stop()
	for name, ctx := range map[string]context.Context{"no deadline": context.Background(), "deadline": within(t)} {
		_, err := s.Get(ctx, state.GetRequest{Key: "k"})
		if status.Code(err) != codes.Unavailable || !strings.Contains(err.Error(), "component mine cannot be reached on its socket "+p.path) || !strings.Contains(err.Error(), "start the component, and the sidecar connects to it by itself") {
			t.Errorf("%s: %v", name, err)
		}
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := s.Get(ctx, state.GetRequest{Key: "k"}); !errors.Is(err, context.Canceled) {
		t.Errorf("a caller who is gone: %v", err)
	}
	p.start()
	waitFor(t, "the component", func() bool { _, err := s.Get(within(t), state.GetRequest{Key: "k"}); return err == nil })
}

// A process that asks for a new connection while it goes on is connected to anew, and no call fails.
func TestGraceful(t *testing.T) {
	dir := t.TempDir()
	p := startProcess(t, dir, "s.sock", (&stateService{backend: memory(t)}).register)
	s := openStore(t, dir, "s", components.Instance{})
	defer s.Close()
	for range 3 {
		p.server.GracefulStop()
		<-p.served
		p.start()
		if err := s.Set(within(t), state.SetRequest{Key: "k"}); err != nil {
			t.Errorf("after a graceful end: %v", err)
		}
	}
}

// A process whose connections do not last is not connected to in a hurry.
func TestFlapping(t *testing.T) {
	dir := t.TempDir()
	inits := 0
	var mu sync.Mutex
	p := startProcess(t, dir, "s.sock", func(g *grpc.Server, l *life) {
		componentsv1.RegisterStateStoreServer(g, &countingInit{life: l, count: func() { mu.Lock(); defer mu.Unlock(); inits++ }})
	})
	s := openStore(t, dir, "s", components.Instance{})
	defer s.Close()
	began := time.Now()
	const rounds = 6
	for n := 1; n <= rounds; n++ {
		waitFor(t, "an Init", func() bool { mu.Lock(); defer mu.Unlock(); return inits > n-1 })
		p.restart()
	}
	if took := time.Since(began); took < 400*time.Millisecond { // 0 + 50 + 100 + 200 + 400 ms between
		t.Errorf("%d connections were lost within %s", rounds, took)
	}
}

type countingInit struct {
	componentsv1.UnimplementedStateStoreServer
	*life
	count func()
}

func (c *countingInit) Init(ctx context.Context, in *componentsv1.InitRequest) (*componentsv1.InitResponse, error) {
	c.count()
	return &componentsv1.InitResponse{}, c.life.init(ctx, in.GetMetadata())
}

func BenchmarkGet(b *testing.B) {
	dir := b.TempDir()
	startProcess(b, dir, "s.sock", (&stateService{backend: memory(b)}).register)
	s := openStore(b, dir, "s", components.Instance{})
	defer s.Close()
	if err := s.Set(within(b), state.SetRequest{Key: "k", Value: state.Value{Bytes: make([]byte, 1024)}}); err != nil {
		b.Fatal(err)
	}
	ctx := context.Background()
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if _, err := s.Get(ctx, state.GetRequest{Key: "k"}); err != nil {
				b.Error(err)
				return
			}
		}
	})
}

// Whatever a process puts into the details of an error, it becomes an error that can be answered.
func FuzzStateError(f *testing.F) {
	for _, err := range []error{
		withDetails(codes.FailedPrecondition, "x", &errdetails.BadRequest{FieldViolations: []*errdetails.BadRequest_FieldViolation{{Field: "etag"}}}),
		withDetails(codes.Internal, "x", &errdetails.ErrorInfo{Metadata: map[string]string{"expected": "2", "affected": "1"}}),
		withDetails(codes.Aborted, "x", &errdetails.ErrorInfo{Metadata: map[string]string{"kit_error": "true", "http_code": "418", "tag": "T"}}, &errdetails.Help{}),
	} {
		bytes, err := proto.Marshal(status.Convert(err).Proto())
		if err != nil {
			f.Fatal(err)
		}
		f.Add(bytes)
	}
	f.Fuzz(func(t *testing.T, bytes []byte) {
		var s spb.Status
		if proto.Unmarshal(bytes, &s) != nil || s.GetCode() == 0 {
			return
		}
		err := stateError(&Error{status.FromProto(&s)})
		if err == nil {
			t.Fatal("no error")
		}
		var own *api.Error
		if errors.As(err, &own) {
			if own.HTTP < 100 || own.HTTP > 599 || own.Code == "" {
				t.Errorf("%+v", own)
			}
			own.GRPCStatus()
			own.AppendJSON(nil)
		}
	})
}
