package app

import (
	"bytes"
	"encoding/json"
	"testing"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/structpb"
)

// The JSON of a value is that of the protobuf library without its spaces.
func FuzzJobValue(f *testing.F) {
	for _, v := range []any{nil, true, 0.1, -1e21, 1e-7, 123456789.0, "a\"\\\x00\u2028é<", []any{1.0, []any{}}, map[string]any{"b": "", "a": map[string]any{}}} {
		m, err := structpb.NewValue(v)
		if err != nil {
			f.Fatal(err)
		}
		seed, err := proto.Marshal(m)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, wire []byte) {
		v := new(structpb.Value)
		if proto.Unmarshal(wire, v) != nil {
			return
		}
		got, err := appendValue(nil, v)
		if err == nil && !json.Valid(got) {
			t.Fatalf("%q is no JSON", got)
		}
		text, libraryErr := protojson.Marshal(v)
		if libraryErr != nil { // it also refuses what has no kind
			return
		}
		if err != nil {
			t.Fatalf("%v for %s", err, text)
		}
		var want bytes.Buffer
		if err := json.Compact(&want, text); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got, want.Bytes()) {
			t.Errorf("%s, want %s", got, &want)
		}
	})
}
