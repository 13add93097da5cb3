package state

import (
	"context"
	"strings"

	"google.golang.org/protobuf/types/known/emptypb"

	"outrigger.dev/api"
	commonv1 "outrigger.dev/api/gen/common/v1"
	runtimev1 "outrigger.dev/api/gen/runtime/v1"
	stores "outrigger.dev/components/state"
	"outrigger.dev/jsontext"
)

// The names of operations in transactions.
const (
	upsert = "upsert"
	remove = "delete"
)

// StateServer is the gRPC face of the block: the state methods of dapr.proto.runtime.v1.Dapr, to be embedded in the server of
// that service.
type StateServer struct{ state *State }

// Server returns the gRPC face.
func (s *State) Server() StateServer { return StateServer{s} }

func concurrency(o *commonv1.StateOptions) stores.Concurrency {
	switch o.GetConcurrency() {
	case commonv1.StateOptions_CONCURRENCY_FIRST_WRITE:
		return stores.FirstWrite
	case commonv1.StateOptions_CONCURRENCY_LAST_WRITE:
		return stores.LastWrite
	}
	return ""
}

func consistency(c commonv1.StateOptions_StateConsistency) stores.Consistency {
	switch c {
	case commonv1.StateOptions_CONSISTENCY_EVENTUAL:
		return stores.Eventual
	case commonv1.StateOptions_CONSISTENCY_STRONG:
		return stores.Strong
	}
	return ""
}

func options(o *commonv1.StateOptions) stores.Options {
	return stores.Options{Concurrency: concurrency(o), Consistency: consistency(o.GetConsistency())}
}

// text is a string that a message can hold, for one that is no UTF-8 would fail the whole reply.
func text(s string) string { return strings.ToValidUTF8(s, "\ufffd") }

// GetState reads one item; a missing one is an empty reply.
func (g StateServer) GetState(ctx context.Context, in *runtimev1.GetStateRequest) (*runtimev1.GetStateResponse, error) {
	item, err := g.state.Get(ctx, in.GetStoreName(), in.GetKey(), consistency(in.GetConsistency()), in.GetMetadata())
	if err != nil {
		return nil, err
	}
	return &runtimev1.GetStateResponse{Data: item.Data, Etag: item.ETag, Metadata: item.Metadata}, nil
}

// GetBulkState reads many items.
func (g StateServer) GetBulkState(ctx context.Context, in *runtimev1.GetBulkStateRequest) (*runtimev1.GetBulkStateResponse, error) {
	items, err := g.state.BulkGet(ctx, in.GetStoreName(), in.GetKeys(), int(in.GetParallelism()), in.GetMetadata())
	if err != nil {
		return nil, err
	}
	reply := make([]runtimev1.BulkStateItem, len(items))
	out := &runtimev1.GetBulkStateResponse{Items: make([]*runtimev1.BulkStateItem, len(items))}
	for i := range items {
		item, to := &items[i], &reply[i]
		to.Key, to.Data, to.Etag, to.Metadata = item.Key, item.Data, item.ETag, item.Metadata
		if item.Err != nil {
			to.Error = text(item.Err.Error())
		}
		out.Items[i] = to
	}
	return out, nil
}

// SaveState writes items.
func (g StateServer) SaveState(ctx context.Context, in *runtimev1.SaveStateRequest) (*emptypb.Empty, error) {
	s := g.state
	e, err := s.open(in.GetStoreName())
	if err != nil {
		return nil, err
	}
	defer e.Release()
	items := make([]stores.SetRequest, len(in.GetStates()))
	for i, state := range in.GetStates() {
		if err := e.Component.savable(state.GetKey()); err != nil {
			return nil, err
		}
		items[i] = setRequest(state)
		if state.GetMetadata()[stores.MetadataContentType] != stores.ContentTypeJSON {
			continue
		}
		canonical, err := jsontext.Canonical(state.GetValue())
		if err != nil {
			return nil, err // as it is: the status is Unknown and the text the parser's
		}
		if e.Component.cipher == nil { // encrypted are the bytes as they came
			items[i].Value = stores.Value{Bytes: canonical, JSON: true}
		}
	}
	if err := s.save(ctx, e.Component, items); err != nil {
		return nil, err
	}
	return new(emptypb.Empty), nil
}

// setRequest is an item to be written as the bytes it has.
func setRequest(item *commonv1.StateItem) stores.SetRequest {
	return stores.SetRequest{
		Key: item.GetKey(), Value: stores.Value{Bytes: item.GetValue()}, ETag: item.GetEtag().GetValue(),
		Metadata: item.GetMetadata(), Options: options(item.GetOptions()),
	}
}

func deleteRequest(item *commonv1.StateItem) stores.DeleteRequest {
	return stores.DeleteRequest{
		Key: item.GetKey(), ETag: item.GetEtag().GetValue(), Metadata: item.GetMetadata(), Options: options(item.GetOptions()),
	}
}

// DeleteState removes one item.
func (g StateServer) DeleteState(ctx context.Context, in *runtimev1.DeleteStateRequest) (*emptypb.Empty, error) {
	err := g.state.Delete(ctx, in.GetStoreName(), stores.DeleteRequest{
		Key: in.GetKey(), ETag: in.GetEtag().GetValue(), Metadata: in.GetMetadata(), Options: options(in.GetOptions()),
	})
	if err != nil {
		return nil, err
	}
	return new(emptypb.Empty), nil
}

// DeleteBulkState removes items.
func (g StateServer) DeleteBulkState(ctx context.Context, in *runtimev1.DeleteBulkStateRequest) (*emptypb.Empty, error) {
	items := make([]stores.DeleteRequest, len(in.GetStates()))
	for i, state := range in.GetStates() {
		items[i] = deleteRequest(state)
	}
	if err := g.state.BulkDelete(ctx, in.GetStoreName(), items); err != nil {
		return nil, err
	}
	return new(emptypb.Empty), nil
}

// ExecuteStateTransaction applies operations as one; none at all are for the store to judge.
func (g StateServer) ExecuteStateTransaction(ctx context.Context, in *runtimev1.ExecuteStateTransactionRequest) (*emptypb.Empty, error) {
	s := g.state
	e, err := s.open(in.GetStoreName())
	if err != nil {
		return nil, err
	}
	defer e.Release()
	transactor, err := e.Component.transactor()
	if err != nil {
		return nil, err
	}
	operations := make([]stores.Operation, len(in.GetOperations()))
	for i, o := range in.GetOperations() {
		if err := e.Component.legal(o.GetRequest().GetKey()); err != nil {
			return nil, err
		}
		switch o.GetOperationType() {
		case upsert:
			set := setRequest(o.GetRequest())
			operations[i].Set = &set
		case remove:
			del := deleteRequest(o.GetRequest())
			operations[i].Delete = &del
		default:
			return nil, api.ErrStateOperation(o.GetOperationType())
		}
	}
	tx := transaction{operations: operations, metadata: in.GetMetadata()}
	if s.published(e.Component) {
		tx.traceFrom(ctx)
	}
	if err := s.transact(ctx, e.Component, transactor, tx); err != nil {
		return nil, err
	}
	return new(emptypb.Empty), nil
}

// QueryStateAlpha1 answers a query on the values.
func (g StateServer) QueryStateAlpha1(ctx context.Context, in *runtimev1.QueryStateRequest) (*runtimev1.QueryStateResponse, error) {
	result, err := g.state.Query(ctx, in.GetStoreName(), []byte(in.GetQuery()), in.GetMetadata())
	if err != nil {
		return nil, err
	}
	if len(result.Items) == 0 {
		return new(runtimev1.QueryStateResponse), nil
	}
	out := &runtimev1.QueryStateResponse{
		Results: make([]*runtimev1.QueryStateItem, len(result.Items)), Token: result.Token, Metadata: result.Metadata,
	}
	for i, item := range result.Items {
		out.Results[i] = &runtimev1.QueryStateItem{Key: text(item.Key), Data: item.Data, Etag: item.ETag}
		if item.Err != nil {
			out.Results[i].Error = text(item.Err.Error())
		}
	}
	return out, nil
}
