package mesh

import (
	"bytes"
	"errors"
	"unicode/utf8"

	"google.golang.org/protobuf/encoding/protowire"

	"outrigger.dev/invocation"
)

// The headers of the internal protocol's messages are maps of lists, which are costly to make and to encode. Here they go between a header
// and the encoded message at once. A protobuf message may come in parts, so the header's part is put behind the rest of the message.

// headerField is the number of the map in InternalInvokeRequest and in InternalInvokeResponse.
const headerField protowire.Number = 2

// maxDirect is the number of entries up to which a header is decoded directly: repeated names are looked for one by one.
const maxDirect = 128

// passed reports whether an entry of a header is passed on to another sidecar.
func passed(name []byte) bool {
	return !isReserved(name) && !invocation.HopByHop(name) && !invocation.Is(name, "content-type") && !invocation.Is(name, "content-length")
}

// appendHeader appends the part of an encoded message that holds its header: what toMap makes, encoded.
func appendHeader(dst []byte, h invocation.Header) []byte {
next:
	for i := range h {
		name := h[i].Name
		if !passed(name) {
			continue
		}
		for j := range i {
			if bytes.Equal(h[j].Name, name) {
				continue next // its values are with the first of the name
			}
		}
		list := 0
		for j := i; j < len(h); j++ {
			if j == i || bytes.Equal(h[j].Name, name) {
				list += 1 + protowire.SizeBytes(len(utf8Bytes(h[j].Value)))
			}
		}
		name = utf8Bytes(name)
		dst = protowire.AppendTag(dst, headerField, protowire.BytesType)
		dst = protowire.AppendVarint(dst, uint64(1+protowire.SizeBytes(len(name))+1+protowire.SizeBytes(list)))
		dst = protowire.AppendTag(dst, 1, protowire.BytesType)
		dst = protowire.AppendBytes(dst, name)
		dst = protowire.AppendTag(dst, 2, protowire.BytesType)
		dst = protowire.AppendVarint(dst, uint64(list))
		for j := i; j < len(h); j++ {
			if j == i || bytes.Equal(h[j].Name, h[i].Name) {
				dst = protowire.AppendTag(dst, 1, protowire.BytesType)
				dst = protowire.AppendBytes(dst, utf8Bytes(h[j].Value))
			}
		}
	}
	return dst
}

// utf8Bytes is text without a copy of what is UTF-8 already.
func utf8Bytes(b []byte) []byte {
	if utf8.Valid(b) {
		return b
	}
	return []byte(text(b))
}

// errManyEntries is a header that is too long for splitHeader.
var errManyEntries = errors.New("the header has too many entries")

// splitHeader takes an encoded message apart: its header, which are slices of raw, and the rest of the message. Nothing is left out of the
// header; see passed.
func splitHeader(raw []byte) (h invocation.Header, rest []byte, err error) {
	h = make(invocation.Header, 0, 16)
	for at := 0; at < len(raw); {
		number, value, n, err := nextField(raw[at:])
		if err != nil {
			return nil, nil, err
		}
		end := at + n
		switch {
		case number == headerField && value != nil:
			if h, err = appendEntry(h, value); err != nil {
				return nil, nil, err
			}
		case len(rest) == at:
			rest = raw[:end:end]
		default:
			rest = append(rest, raw[at:end]...)
		}
		at = end
	}
	return h, rest, nil
}

// nextField is the field that an encoded message begins with: its number, its value if that is bytes (else nil), and its length in all.
func nextField(b []byte) (number protowire.Number, value []byte, length int, err error) {
	number, kind, n := protowire.ConsumeTag(b)
	if n < 0 {
		return 0, nil, 0, protowire.ParseError(n)
	}
	if number > protowire.MaxValidNumber {
		return 0, nil, 0, errFieldNumber
	}
	m := protowire.ConsumeFieldValue(number, kind, b[n:])
	if m < 0 {
		return 0, nil, 0, protowire.ParseError(m)
	}
	if kind == protowire.BytesType {
		value, _ = protowire.ConsumeBytes(b[n : n+m])
	}
	return number, value, n + m, nil
}

// appendEntry decodes an entry of the map: a name and the list of its values. Of entries with the same name the last counts.
func appendEntry(h invocation.Header, entry []byte) (invocation.Header, error) {
	var name []byte
	var space [4][]byte
	values := space[:0]
	for len(entry) > 0 {
		number, value, n, err := nextField(entry)
		if err != nil {
			return nil, err
		}
		switch {
		case number == 1 && value != nil:
			if name = value; !utf8.Valid(name) {
				return nil, errNotUTF8
			}
		case number == 2 && value != nil:
			if values, err = appendValues(values, value); err != nil {
				return nil, err
			}
		}
		entry = entry[n:]
	}
	for i := range h {
		if bytes.Equal(h[i].Name, name) {
			kept := h[:0]
			for _, f := range h {
				if !bytes.Equal(f.Name, name) {
					kept = append(kept, f)
				}
			}
			h = kept
			break
		}
	}
	if len(h)+len(values) > maxDirect {
		return nil, errManyEntries
	}
	for _, v := range values {
		h = append(h, invocation.Field{Name: name, Value: v})
	}
	return h, nil
}

// Messages that cannot be decoded.
var (
	errNotUTF8     = errors.New("a header is not UTF-8")
	errFieldNumber = errors.New("the number of a field is too large")
)

// appendValues decodes a list of values.
func appendValues(values [][]byte, list []byte) ([][]byte, error) {
	for len(list) > 0 {
		number, value, n, err := nextField(list)
		if err != nil {
			return nil, err
		}
		if number == 1 && value != nil {
			if !utf8.Valid(value) {
				return nil, errNotUTF8
			}
			values = append(values, value)
		}
		list = list[n:]
	}
	return values, nil
}

// onlyPassed leaves out of a header what is not passed on.
func onlyPassed(h invocation.Header) invocation.Header {
	kept := h[:0]
	for _, f := range h {
		if passed(f.Name) {
			kept = append(kept, f)
		}
	}
	return kept
}
