package main

import (
	"context"
	"fmt"
	"strconv"
	"sync"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/protoadapt"

	components "outrigger.dev/api/gen/components/v1"
)

// store keeps items apart by the component that they belong to: several resources may have this type.
type store struct {
	components.UnimplementedStateStoreServer
	components.UnimplementedTransactionalStateStoreServer

	mu        sync.Mutex
	instances map[string]*instance
}

// instance is what belongs to one component.
type instance struct {
	maxItems int
	items    map[string]item
	version  int
}

// item is a value with its version, which is the etag.
type item struct {
	value   []byte
	version string
}

// instanceName is the name of the component that a call is for, which comes with every call.
func instanceName(ctx context.Context) string {
	md, _ := metadata.FromIncomingContext(ctx)
	if names := md.Get("x-component-instance"); len(names) > 0 {
		return names[0]
	}
	return ""
}

// instance is the caller's. s.mu is held.
func (s *store) instance(ctx context.Context) (*instance, error) {
	i := s.instances[instanceName(ctx)]
	if i == nil {
		return nil, status.Error(codes.FailedPrecondition, "the component was not initialised")
	}
	return i, nil
}

// Init is called before all else, and again by each sidecar and after each interruption: it must not lose what is there.
func (s *store) Init(ctx context.Context, in *components.InitRequest) (*components.InitResponse, error) {
	maxItems := 0
	if text := in.GetMetadata().GetProperties()["maxItems"]; text != "" {
		var err error
		if maxItems, err = strconv.Atoi(text); err != nil || maxItems < 0 {
			return nil, status.Errorf(codes.InvalidArgument, "metadata property \"maxItems\" is %q: write a number, or leave it out for no limit", text)
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	name := instanceName(ctx)
	if s.instances[name] == nil {
		s.instances[name] = &instance{items: map[string]item{}}
	}
	s.instances[name].maxItems = maxItems
	return &components.InitResponse{}, nil
}

// Features tells the sidecar what it may ask for.
func (s *store) Features(context.Context, *components.FeaturesRequest) (*components.FeaturesResponse, error) {
	return &components.FeaturesResponse{Features: []string{"ETAG", "TRANSACTIONAL"}}, nil
}

// Ping tells that the process is alive.
func (s *store) Ping(context.Context, *components.PingRequest) (*components.PingResponse, error) {
	return &components.PingResponse{}, nil
}

// Get answers without data and etag for a missing key.
func (s *store) Get(ctx context.Context, in *components.GetRequest) (*components.GetResponse, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	i, err := s.instance(ctx)
	if err != nil {
		return nil, err
	}
	found, ok := i.items[in.GetKey()]
	if !ok {
		return &components.GetResponse{}, nil
	}
	return &components.GetResponse{Data: found.value, Etag: &components.Etag{Value: found.version}}, nil
}

// BulkGet is one Get after the other.
func (s *store) BulkGet(ctx context.Context, in *components.BulkGetRequest) (*components.BulkGetResponse, error) {
	out := &components.BulkGetResponse{}
	for _, r := range in.GetItems() {
		got, err := s.Get(ctx, r)
		if err != nil {
			return nil, err
		}
		out.Items = append(out.Items, &components.BulkStateItem{Key: r.GetKey(), Data: got.GetData(), Etag: got.GetEtag()})
	}
	return out, nil
}

// Set writes an item.
func (s *store) Set(ctx context.Context, in *components.SetRequest) (*components.SetResponse, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	i, err := s.instance(ctx)
	if err != nil {
		return nil, err
	}
	if err := i.maySet(in); err != nil {
		return nil, err
	}
	return &components.SetResponse{}, i.set(in)
}

// Delete removes an item.
func (s *store) Delete(ctx context.Context, in *components.DeleteRequest) (*components.DeleteResponse, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	i, err := s.instance(ctx)
	if err != nil {
		return nil, err
	}
	if err := i.mayDelete(in); err != nil {
		return nil, err
	}
	delete(i.items, in.GetKey())
	return &components.DeleteResponse{}, nil
}

// BulkSet is one Set after the other: the items are independent of each other. The first error stands for all.
func (s *store) BulkSet(ctx context.Context, in *components.BulkSetRequest) (*components.BulkSetResponse, error) {
	var first error
	for _, r := range in.GetItems() {
		if _, err := s.Set(ctx, r); err != nil && first == nil {
			first = err
		}
	}
	return &components.BulkSetResponse{}, first
}

// BulkDelete is one Delete after the other.
func (s *store) BulkDelete(ctx context.Context, in *components.BulkDeleteRequest) (*components.BulkDeleteResponse, error) {
	var first error
	for _, r := range in.GetItems() {
		if _, err := s.Delete(ctx, r); err != nil && first == nil {
			first = err
		}
	}
	return &components.BulkDeleteResponse{}, first
}

// Transact applies all operations, or none of them.
func (s *store) Transact(ctx context.Context, in *components.TransactionalStateRequest) (*components.TransactionalStateResponse, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	i, err := s.instance(ctx)
	if err != nil {
		return nil, err
	}
	before := make(map[string]item, len(i.items))
	for k, v := range i.items {
		before[k] = v
	}
	for _, o := range in.GetOperations() {
		if set := o.GetSet(); set != nil {
			if err = i.maySet(set); err == nil {
				err = i.set(set)
			}
		} else if err = i.mayDelete(o.GetDelete()); err == nil {
			delete(i.items, o.GetDelete().GetKey())
		}
		if err != nil {
			i.items = before
			return nil, err
		}
	}
	return &components.TransactionalStateResponse{}, nil
}

// maySet checks the etag, and for first-write that there is no item yet.
func (i *instance) maySet(in *components.SetRequest) error {
	old, exists := i.items[in.GetKey()]
	if etag := in.GetEtag().GetValue(); etag != "" {
		return i.check(in.GetKey(), etag)
	}
	if exists && in.GetOptions().GetConcurrency() == components.StateOptions_CONCURRENCY_FIRST_WRITE {
		return mismatch(in.GetKey(), "", old.version)
	}
	return nil
}

func (i *instance) set(in *components.SetRequest) error {
	if _, exists := i.items[in.GetKey()]; !exists && i.maxItems > 0 && len(i.items) >= i.maxItems {
		return full(i.maxItems)
	}
	i.version++
	i.items[in.GetKey()] = item{value: in.GetValue(), version: strconv.Itoa(i.version)}
	return nil
}

func (i *instance) mayDelete(in *components.DeleteRequest) error {
	if etag := in.GetEtag().GetValue(); etag != "" {
		return i.check(in.GetKey(), etag)
	}
	return nil
}

func (i *instance) check(key, etag string) error {
	if have := i.items[key].version; have != etag {
		return mismatch(key, etag, have)
	}
	return nil
}

// mismatch is how the sidecar is told of an etag that is not the stored one; the app sees 409.
func mismatch(key, want, have string) error {
	return detailed(codes.FailedPrecondition, "etag mismatch", &errdetails.BadRequest{FieldViolations: []*errdetails.BadRequest_FieldViolation{{
		Field: "etag", Description: fmt.Sprintf("key %s has the etag %q, not %q", key, have, want),
	}}})
}

// full is an error with an HTTP status and an error code of the component's own.
func full(limit int) error {
	return detailed(codes.ResourceExhausted, fmt.Sprintf("the store has %d items, which is the limit: delete some, or raise maxItems", limit), &errdetails.ErrorInfo{
		Reason: "MEMSTORE_FULL", Domain: "memstore.example", Metadata: map[string]string{"kit_error": "true", "http_code": "507", "tag": "ERR_MEMSTORE_FULL"},
	})
}

func detailed(code codes.Code, text string, detail protoadapt.MessageV1) error {
	s, err := status.New(code, text).WithDetails(detail)
	if err != nil {
		return err
	}
	return s.Err()
}
