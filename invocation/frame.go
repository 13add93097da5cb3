package invocation

import (
	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/encoding/proto"
	"google.golang.org/grpc/mem"
)

// Frame is a gRPC message whose bytes are passed on without being decoded (Dapr API, gRPC proxying). The zero Frame is an
// empty message. It holds buffers of gRPC's pools from when it is received until [Frame.Free].
type Frame struct{ data mem.BufferSlice }

// Len is the message's length in bytes.
func (f *Frame) Len() int { return f.data.Len() }

// Bytes is a copy of the message.
func (f *Frame) Bytes() []byte { return f.data.Materialize() }

// SetBytes makes b the message; it must not be changed any more.
func (f *Frame) SetBytes(b []byte) {
	f.Free()
	f.data = mem.BufferSlice{mem.SliceBuffer(b)}
}

// Free gives the buffers back, and leaves an empty message.
func (f *Frame) Free() {
	f.data.Free()
	f.data = nil
}

// FrameCodec is the codec of gRPC for a [Frame]: its bytes go out as they came. Other messages are encoded as protobuf, so
// that one server can have methods of its own and pass on those of others (grpc.ForceServerCodecV2).
func FrameCodec() encoding.CodecV2 { return frameCodec{proto: encoding.GetCodecV2(proto.Name)} }

type frameCodec struct{ proto encoding.CodecV2 }

// Name is empty, so that the content type of calls is the plain application/grpc.
func (frameCodec) Name() string { return "" }

// Marshal implements [encoding.CodecV2]. A frame stays valid: what it returns has references of its own.
func (c frameCodec) Marshal(v any) (mem.BufferSlice, error) {
	f, ok := v.(*Frame)
	if !ok {
		return c.proto.Marshal(v)
	}
	f.data.Ref()
	return f.data, nil
}

// Unmarshal implements [encoding.CodecV2].
func (c frameCodec) Unmarshal(data mem.BufferSlice, v any) error {
	f, ok := v.(*Frame)
	if !ok {
		return c.proto.Unmarshal(data, v)
	}
	f.Free()
	data.Ref()
	f.data = data
	return nil
}
