package app

import (
	"bytes"
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/structpb"

	"outrigger.dev/jsontext"
)

// jobBody is the data of a job as an HTTP app gets it: JSON of a google.protobuf.Value, which is what jobs scheduled over HTTP have, and else the
// bytes without white space around them (Dapr API, jobs: delivery to the app).
func jobBody(data *anypb.Any) ([]byte, error) {
	if data == nil {
		return nil, nil
	}
	if !data.MessageIs((*structpb.Value)(nil)) {
		return bytes.TrimSpace(data.GetValue()), nil
	}
	value := new(structpb.Value)
	if err := proto.Unmarshal(data.GetValue(), value); err != nil {
		return nil, err
	}
	return appendValue(make([]byte, 0, len(data.GetValue())+16), value)
}

// appendValue appends the protobuf JSON of a value, without spaces and with the members of objects in order.
func appendValue(dst []byte, v *structpb.Value) (_ []byte, err error) {
	switch kind := v.GetKind().(type) {
	case nil, *structpb.Value_NullValue: // a gRPC client may have sent one of no kind
		return append(dst, "null"...), nil
	case *structpb.Value_BoolValue:
		return strconv.AppendBool(dst, kind.BoolValue), nil
	case *structpb.Value_NumberValue:
		return appendNumber(dst, kind.NumberValue)
	case *structpb.Value_StringValue:
		return jsontext.AppendPlainString(dst, kind.StringValue), nil
	case *structpb.Value_ListValue:
		dst = append(dst, '[')
		for i, element := range kind.ListValue.GetValues() {
			if i > 0 {
				dst = append(dst, ',')
			}
			if dst, err = appendValue(dst, element); err != nil {
				return nil, err
			}
		}
		return append(dst, ']'), nil
	case *structpb.Value_StructValue:
		dst = append(dst, '{')
		fields := kind.StructValue.GetFields()
		for i, name := range slices.Sorted(maps.Keys(fields)) {
			if i > 0 {
				dst = append(dst, ',')
			}
			dst = append(jsontext.AppendPlainString(dst, name), ':')
			if dst, err = appendValue(dst, fields[name]); err != nil {
				return nil, err
			}
		}
		return append(dst, '}'), nil
	}
	return nil, fmt.Errorf("it holds a google.protobuf.Value of an unknown kind: %T", v.GetKind())
}

// appendNumber appends a number as JavaScript writes it; not all that protobuf has are JSON.
func appendNumber(dst []byte, n float64) ([]byte, error) {
	if math.IsNaN(n) || math.IsInf(n, 0) {
		return nil, fmt.Errorf("it holds the number %v, which has no JSON form", n)
	}
	return jsontext.AppendFloat(dst, n), nil
}
