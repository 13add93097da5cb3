package invocation

import (
	"testing"

	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

func TestFrameCodec(t *testing.T) {
	codec := FrameCodec()
	if codec.Name() != "" {
		t.Errorf("the codec changes the content type: %q", codec.Name())
	}
	in := mem.BufferSlice{mem.SliceBuffer("\xff no "), mem.SliceBuffer("protobuf")}
	var f Frame
	for range 2 { // a frame can be used again
		if err := codec.Unmarshal(in, &f); err != nil {
			t.Fatal(err)
		}
	}
	for range 2 { // and sent repeatedly
		out, err := codec.Marshal(&f)
		if err != nil || string(out.Materialize()) != "\xff no protobuf" || f.Len() != 13 {
			t.Errorf("got %q, %v", out.Materialize(), err)
		}
		out.Free()
	}
	f.SetBytes([]byte("x"))
	if string(f.Bytes()) != "x" {
		t.Errorf("got %q", f.Bytes())
	}
	f.Free()
	if out, err := codec.Marshal(&f); err != nil || out.Len() != 0 {
		t.Errorf("an empty frame: %v, %v", out, err)
	}
	// Everything else is protobuf.
	out, err := codec.Marshal(wrapperspb.String("text"))
	if err != nil {
		t.Fatal(err)
	}
	var s wrapperspb.StringValue
	if err := codec.Unmarshal(out, &s); err != nil || s.Value != "text" {
		t.Errorf("got %q, %v", s.Value, err)
	}
}
