// Package jsontext works on JSON as text, without decoding it into Go values: it brings text into one canonical form,
// slices request bodies, and writes strings and values into replies.
//
// What it accepts, and what it makes of odd text (invalid UTF-8, lone surrogates, repeated names), is what encoding/json does.
package jsontext

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
)

// MaxDepth is how deep arrays and objects may nest, as in encoding/json.
const MaxDepth = 10000

// Canonical returns the canonical form of one JSON value: no white space, object names sorted by their bytes, of repeated
// names the last, strings with the fewest escapes and without HTML escaping, invalid UTF-8 replaced by U+FFFD. Whole numbers stay
// as they are, however long; others are written as encoding/json writes a float64, unless that would change their value. The
// result is a copy. Errors are those of [json.Unmarshal] into an any.
func Canonical(text []byte) ([]byte, error) {
	return AppendCanonical(make([]byte, 0, len(text)), text)
}

// AppendCanonical appends the canonical form of text to dst; see [Canonical]. On an error dst is returned as it was.
func AppendCanonical(dst, text []byte) ([]byte, error) {
	c := canonicaliser{text: text}
	c.i = space(text, 0)
	out, ok := c.value(dst, 0)
	if ok && space(text, c.i) == len(text) {
		return out, nil
	}
	if !c.overworked {
		return dst, syntaxError(text)
	}
	out, err := appendCanonicalSlowly(dst, text)
	if err != nil {
		return dst, err
	}
	return out, nil
}

// syntaxError is what encoding/json says about text that the canonicaliser refused.
func syntaxError(text []byte) error {
	var v any
	if err := json.Unmarshal(text, &v); err != nil {
		return err
	}
	return errors.New("invalid JSON")
}

// appendCanonicalSlowly decodes the text and encodes it again. It is for objects nested so deep and in such disorder that
// sorting them as text would copy their insides over and over.
func appendCanonicalSlowly(dst, text []byte) ([]byte, error) {
	d := json.NewDecoder(bytes.NewReader(text))
	d.UseNumber()
	var v any
	if err := d.Decode(&v); err != nil {
		return nil, err
	}
	if space(text, int(d.InputOffset())) != len(text) {
		return nil, syntaxError(text)
	}
	return appendDecoded(dst, v)
}

func appendDecoded(dst []byte, v any) ([]byte, error) {
	var err error
	switch v := v.(type) {
	case nil:
		return append(dst, "null"...), nil
	case bool:
		if v {
			return append(dst, "true"...), nil
		}
		return append(dst, "false"...), nil
	case string:
		return AppendPlainString(dst, v), nil
	case json.Number:
		out, ok := appendNumber(dst, []byte(v), bytes.ContainsAny([]byte(v), ".eE"))
		if !ok {
			return nil, fmt.Errorf("json: cannot unmarshal number %s into Go value of type float64", v)
		}
		return out, nil
	case []any:
		dst = append(dst, '[')
		for i, e := range v {
			if i > 0 {
				dst = append(dst, ',')
			}
			if dst, err = appendDecoded(dst, e); err != nil {
				return nil, err
			}
		}
		return append(dst, ']'), nil
	case map[string]any:
		names := make([]string, 0, len(v))
		for name := range v {
			names = append(names, name)
		}
		slices.Sort(names)
		dst = append(dst, '{')
		for i, name := range names {
			if i > 0 {
				dst = append(dst, ',')
			}
			dst = append(AppendPlainString(dst, name), ':')
			if dst, err = appendDecoded(dst, v[name]); err != nil {
				return nil, err
			}
		}
		return append(dst, '}'), nil
	}
	return nil, fmt.Errorf("unexpected value of type %T", v)
}

// Valid reports whether text is one JSON value, white space around it allowed.
func Valid(text []byte) bool {
	end, ok := skipValue(text, space(text, 0), 0)
	return ok && space(text, end) == len(text)
}
