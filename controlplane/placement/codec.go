package placement

import (
	"google.golang.org/grpc/encoding"
	_ "google.golang.org/grpc/encoding/proto" // the codec that ours is put around
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/proto"

	placementv1 "outrigger.dev/api/gen/placement/v1"
	"outrigger.dev/controlplane/placement/dissemination"
)

// encodedOrder is an order as it goes over the wire. All streams of a namespace share it: a table is encoded once, whatever their number.
type encodedOrder struct {
	order dissemination.Order
	bytes []byte
}

// encode encodes an order. The error is that of a table that protobuf cannot write, such as one with a name that is not UTF-8.
func encode(o dissemination.Order) (*encodedOrder, error) {
	b, err := proto.Marshal(&placementv1.PlacementOrder{Operation: o.Phase.String(), Version: o.Version, Tables: o.Table})
	return &encodedOrder{order: o, bytes: b}, err
}

// codec is that of protobuf, which takes encoded orders as they are.
type codec struct{ encoding.CodecV2 }

func newCodec() codec { return codec{encoding.GetCodecV2("proto")} }

// Marshal implements [encoding.CodecV2].
func (c codec) Marshal(v any) (mem.BufferSlice, error) {
	if o, ok := v.(*encodedOrder); ok {
		return mem.BufferSlice{mem.SliceBuffer(o.bytes)}, nil
	}
	return c.CodecV2.Marshal(v)
}
