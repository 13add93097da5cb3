package pluggable

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"

	componentsv1 "outrigger.dev/api/gen/components/v1"
	"outrigger.dev/components"
	"outrigger.dev/components/state"
)

// The features that components claim and the sidecar acts upon (Dapr API, pluggable components: features).
const (
	featureETag          = "ETAG"
	featureTransactional = "TRANSACTIONAL"
	featureTTL           = "TTL"
	featureQuery         = "QUERY_API"
)

// stateClients are the clients of a state store's services.
type stateClients struct {
	store   componentsv1.StateStoreClient
	tx      componentsv1.TransactionalStateStoreClient
	maxSize componentsv1.TransactionalStoreMultiMaxSizeClient
	query   componentsv1.QueriableStateStoreClient
}

func newStateClients(cc grpc.ClientConnInterface) stateClients {
	return stateClients{
		store: componentsv1.NewStateStoreClient(cc), tx: componentsv1.NewTransactionalStateStoreClient(cc),
		maxSize: componentsv1.NewTransactionalStoreMultiMaxSizeClient(cc), query: componentsv1.NewQueriableStateStoreClient(cc),
	}
}

// stateStore is a state store in another process. What more than the contract it can do is in the types around it, so that type
// assertions tell the truth.
type stateStore struct {
	link      *link[stateClients]
	log       *slog.Logger
	etag, ttl bool
	// one tells of each bulk method that the process does not have it.
	getsOne, setsOne, deletesOne atomic.Bool
}

type (
	transactionalStore struct{ *stateTx }
	queriableStore     struct {
		*stateStore
		stateQuery
	}
	transactionalQueriableStore struct {
		*stateTx
		stateQuery
	}
)

var (
	_ state.ETagStore          = (*stateStore)(nil)
	_ state.TTLStore           = (*stateStore)(nil)
	_ state.BulkGetter         = (*stateStore)(nil)
	_ state.Transactor         = transactionalStore{}
	_ state.TransactionLimiter = transactionalStore{}
	_ state.Querier            = queriableStore{}
	_ state.Querier            = transactionalQueriableStore{}
	_ state.Transactor         = transactionalQueriableStore{}
	_ state.BulkGetter         = transactionalQueriableStore{}
)

func (f *Folder) openState(ctx context.Context, path string, inst components.Instance, p Properties) (state.Store, error) {
	properties := maps.Clone(p.All)
	var features []string
	asked := false
	l, err := openLink(ctx, f, path, inst, newStateClients, func(ctx context.Context, c stateClients) error {
		if _, err := c.store.Init(ctx, &componentsv1.InitRequest{Metadata: &componentsv1.MetadataRequest{Properties: properties}}); err != nil || asked {
			return err
		}
		r, err := c.store.Features(ctx, &componentsv1.FeaturesRequest{})
		if err != nil && !unimplemented(err) {
			return err
		}
		features, asked = r.GetFeatures(), true
		return nil
	})
	if err != nil {
		return nil, err
	}
	s := &stateStore{link: l, log: inst.Log, etag: slices.Contains(features, featureETag), ttl: slices.Contains(features, featureTTL)}
	queriable := slices.Contains(features, featureQuery)
	switch {
	case slices.Contains(features, featureTransactional) && queriable:
		return transactionalQueriableStore{&stateTx{stateStore: s}, stateQuery{l}}, nil
	case slices.Contains(features, featureTransactional):
		return transactionalStore{&stateTx{stateStore: s}}, nil
	case queriable:
		return queriableStore{s, stateQuery{l}}, nil
	default:
		return s, nil
	}
}

// ETags reports whether the process claims the feature ETAG.
func (s *stateStore) ETags() bool { return s.etag }

// TTL reports whether the process claims the feature TTL.
func (s *stateStore) TTL() bool { return s.ttl }

// Close ends the connection to the process.
func (s *stateStore) Close() error {
	s.link.close()
	return nil
}

// Get asks the process for an item.
func (s *stateStore) Get(ctx context.Context, req state.GetRequest) (state.Item, error) {
	in := getRequest(req)
	r, err := call(ctx, s.link, true, func(ctx context.Context, c stateClients) (*componentsv1.GetResponse, error) {
		return c.store.Get(ctx, in)
	})
	if err != nil {
		return state.Item{}, stateError(err)
	}
	return item(r.GetData(), r.GetEtag(), r.GetMetadata()), nil
}

func getRequest(req state.GetRequest) *componentsv1.GetRequest {
	return &componentsv1.GetRequest{Key: req.Key, Metadata: req.Metadata, Consistency: consistency(req.Consistency)}
}

// item is what a process answered about a key. Neither data nor an etag mean that there is no item.
func item(data []byte, etag *componentsv1.Etag, metadata map[string]string) state.Item {
	i := state.Item{Found: len(data) > 0 || etag.GetValue() != ""}
	if i.Found {
		i.Data, i.ETag, i.HasETag, i.Metadata = data, etag.GetValue(), etag.GetValue() != "", metadata
	}
	return i
}

// BulkGet asks for many items at once, or one by one where the process cannot.
func (s *stateStore) BulkGet(ctx context.Context, reqs []state.GetRequest) ([]state.BulkItem, error) {
	if len(reqs) == 0 {
		return nil, ctx.Err()
	}
	if !s.getsOne.Load() {
		items, err := s.bulkGet(ctx, reqs)
		if !unimplemented(err) {
			return items, err
		}
		s.getsOne.Store(true)
	}
	items := make([]state.BulkItem, len(reqs))
	each(len(reqs), func(i int) {
		items[i].Key = reqs[i].Key
		items[i].Item, items[i].Err = s.Get(ctx, reqs[i])
	})
	return items, ctx.Err()
}

func (s *stateStore) bulkGet(ctx context.Context, reqs []state.GetRequest) ([]state.BulkItem, error) {
	in := &componentsv1.BulkGetRequest{Items: make([]*componentsv1.GetRequest, len(reqs)), Options: &componentsv1.BulkGetRequestOptions{}}
	missing := make(map[string]bool, len(reqs))
	for i, r := range reqs {
		in.Items[i] = getRequest(r)
		missing[r.Key] = true
	}
	r, err := call(ctx, s.link, true, func(ctx context.Context, c stateClients) (*componentsv1.BulkGetResponse, error) {
		return c.store.BulkGet(ctx, in)
	})
	if err != nil {
		return nil, stateError(err)
	}
	items := make([]state.BulkItem, 0, len(reqs))
	for _, got := range r.GetItems() {
		if !missing[got.GetKey()] {
			continue // not asked for, or there already
		}
		delete(missing, got.GetKey())
		one := state.BulkItem{Key: got.GetKey()}
		if text := got.GetError(); text != "" {
			one.Err = errors.New(text)
		} else {
			one.Item = item(got.GetData(), got.GetEtag(), got.GetMetadata())
		}
		items = append(items, one)
	}
	for _, r := range reqs { // which the process has left out, as it does not have them
		if missing[r.Key] {
			delete(missing, r.Key)
			items = append(items, state.BulkItem{Key: r.Key})
		}
	}
	return items, nil
}

// parallelism is how many calls stand in for one of a bulk at a time.
const parallelism = 16

// each calls f for the numbers below n, some at a time.
func each(n int, f func(i int)) {
	var next atomic.Int64
	var group sync.WaitGroup
	for range min(n, parallelism) {
		group.Go(func() {
			for i := int(next.Add(1)) - 1; i < n; i = int(next.Add(1)) - 1 {
				f(i)
			}
		})
	}
	group.Wait()
}

// Set hands an item to the process.
func (s *stateStore) Set(ctx context.Context, req state.SetRequest) error {
	in, err := setRequest(req)
	if err != nil {
		return err
	}
	_, err = call(ctx, s.link, false, func(ctx context.Context, c stateClients) (*componentsv1.SetResponse, error) {
		return c.store.Set(ctx, in)
	})
	return stateError(err)
}

// Delete lets the process remove an item.
func (s *stateStore) Delete(ctx context.Context, req state.DeleteRequest) error {
	in, err := deleteRequest(req)
	if err != nil {
		return err
	}
	_, err = call(ctx, s.link, false, func(ctx context.Context, c stateClients) (*componentsv1.DeleteResponse, error) {
		return c.store.Delete(ctx, in)
	})
	return stateError(err)
}

// BulkSet hands over many items, which are independent of each other, at once, or one by one where the process cannot.
func (s *stateStore) BulkSet(ctx context.Context, reqs []state.SetRequest) error {
	in := &componentsv1.BulkSetRequest{Items: make([]*componentsv1.SetRequest, len(reqs)), Options: &componentsv1.BulkSetRequestOptions{}}
	for i, r := range reqs {
		var err error
		if in.Items[i], err = setRequest(r); err != nil {
			return err
		}
	}
	return s.bulk(&s.setsOne, len(reqs), func(i int) error { return s.Set(ctx, reqs[i]) }, func() error {
		_, err := call(ctx, s.link, false, func(ctx context.Context, c stateClients) (*componentsv1.BulkSetResponse, error) {
			return c.store.BulkSet(ctx, in)
		})
		return err
	})
}

// BulkDelete removes many items, which are independent of each other, at once, or one by one where the process cannot. When fewer
// were removed than asked for, the error is a [*BulkDeleteError].
func (s *stateStore) BulkDelete(ctx context.Context, reqs []state.DeleteRequest) error {
	in := &componentsv1.BulkDeleteRequest{Items: make([]*componentsv1.DeleteRequest, len(reqs)), Options: &componentsv1.BulkDeleteRequestOptions{}}
	for i, r := range reqs {
		var err error
		if in.Items[i], err = deleteRequest(r); err != nil {
			return err
		}
	}
	return s.bulk(&s.deletesOne, len(reqs), func(i int) error { return s.Delete(ctx, reqs[i]) }, func() error {
		_, err := call(ctx, s.link, false, func(ctx context.Context, c stateClients) (*componentsv1.BulkDeleteResponse, error) {
			return c.store.BulkDelete(ctx, in)
		})
		return err
	})
}

// bulk makes a call for n items, or n calls once it is known that the process does not have the first.
func (s *stateStore) bulk(single *atomic.Bool, n int, one func(i int) error, all func() error) error {
	if n == 0 {
		return nil
	}
	if !single.Load() {
		err := all()
		if !unimplemented(err) {
			return stateError(err)
		}
		single.Store(true)
	}
	errs := make([]error, n)
	each(n, func(i int) { errs[i] = one(i) })
	return errors.Join(errs...)
}

func setRequest(req state.SetRequest) (*componentsv1.SetRequest, error) {
	options, err := stateOptions(req.Options)
	if err != nil {
		return nil, err
	}
	value := req.Value.Bytes
	if req.Value.JSON {
		value = state.EscapeHTML(value)
	}
	return &componentsv1.SetRequest{
		Key: req.Key, Value: value, Etag: etag(req.ETag), Metadata: req.Metadata, Options: options, ContentType: req.Metadata[state.MetadataContentType],
	}, nil
}

func deleteRequest(req state.DeleteRequest) (*componentsv1.DeleteRequest, error) {
	options, err := stateOptions(req.Options)
	if err != nil {
		return nil, err
	}
	return &componentsv1.DeleteRequest{Key: req.Key, Etag: etag(req.ETag), Metadata: req.Metadata, Options: options}, nil
}

func etag(text string) *componentsv1.Etag {
	if text == "" {
		return nil
	}
	return &componentsv1.Etag{Value: text}
}

func stateOptions(o state.Options) (*componentsv1.StateOptions, error) {
	if err := o.Validate(); err != nil {
		return nil, err
	}
	out := &componentsv1.StateOptions{Consistency: consistency(o.Consistency)}
	switch o.Concurrency {
	case state.FirstWrite:
		out.Concurrency = componentsv1.StateOptions_CONCURRENCY_FIRST_WRITE
	case state.LastWrite:
		out.Concurrency = componentsv1.StateOptions_CONCURRENCY_LAST_WRITE
	}
	return out, nil
}

func consistency(c state.Consistency) componentsv1.StateOptions_StateConsistency {
	switch c {
	case state.Eventual:
		return componentsv1.StateOptions_CONSISTENCY_EVENTUAL
	case state.Strong:
		return componentsv1.StateOptions_CONSISTENCY_STRONG
	default:
		return componentsv1.StateOptions_CONSISTENCY_UNSPECIFIED
	}
}

// stateTx is a stateStore that claims the feature TRANSACTIONAL.
type stateTx struct {
	*stateStore

	mu    sync.Mutex
	asked bool
	limit int
}

// Transact lets the process apply operations as one.
func (s *stateTx) Transact(ctx context.Context, req state.TransactionRequest) error {
	in := &componentsv1.TransactionalStateRequest{Operations: make([]*componentsv1.TransactionalStateOperation, len(req.Operations)), Metadata: req.Metadata}
	for i, o := range req.Operations {
		if o.Set != nil {
			set, err := setRequest(*o.Set)
			if err != nil {
				return err
			}
			in.Operations[i] = &componentsv1.TransactionalStateOperation{Request: &componentsv1.TransactionalStateOperation_Set{Set: set}}
			continue
		}
		remove, err := deleteRequest(*o.Delete)
		if err != nil {
			return err
		}
		in.Operations[i] = &componentsv1.TransactionalStateOperation{Request: &componentsv1.TransactionalStateOperation_Delete{Delete: remove}}
	}
	_, err := call(ctx, s.link, false, func(ctx context.Context, c stateClients) (*componentsv1.TransactionalStateResponse, error) {
		return c.tx.Transact(ctx, in)
	})
	return stateError(err)
}

// maxSizeBound is how long the process may take to tell its limit.
const maxSizeBound = 5 * time.Second

// MaxOperations asks the process for its limit, once; it has none when it does not tell (Dapr API, pluggable components: optional
// services).
func (s *stateTx) MaxOperations() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.asked {
		return s.limit
	}
	ctx, cancel := context.WithTimeout(s.link.ctx, maxSizeBound)
	defer cancel()
	r, err := call(ctx, s.link, true, func(ctx context.Context, c stateClients) (*componentsv1.MultiMaxSizeResponse, error) {
		return c.maxSize.MultiMaxSize(ctx, &componentsv1.MultiMaxSizeRequest{})
	})
	if _, away := errors.AsType[*unreachable](err); away {
		return 0 // ask again when it is back
	}
	if err != nil && !unimplemented(err) {
		s.log.Warn("the pluggable component " + s.link.name + " does not tell how many operations a transaction may have, so the sidecar sets no limit: " + err.Error())
	}
	s.asked = true
	if n := r.GetMaxSize(); err == nil && n > 0 && n == int64(int(n)) {
		s.limit = int(n)
	}
	return s.limit
}
