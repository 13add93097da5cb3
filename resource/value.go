package resource

import (
	"bytes"
	"encoding/json"
	"strconv"
	"strings"
)

// Value is the value of a NameValue: any JSON value, held as text (Dapr API, resource loading: YAML typing). Strings are kept
// as they are, numbers and booleans as their JSON text, objects and lists as compact JSON. The zero Value is absent.
// Values compare with ==.
type Value struct {
	text string
	form valueForm
}

type valueForm uint8

const (
	valueAbsent valueForm = iota
	valueText             // a string
	valueJSON             // text is the JSON of something else
)

// TextValue returns a Value holding a string as it is.
func TextValue(s string) Value { return Value{text: s, form: valueText} }

// SubstitutedValue returns the Value for a text that comes from a secret or an environment variable: a Go string
// literal is unquoted once, anything else is kept.
func SubstitutedValue(s string) Value { return TextValue(unquoteLiteral(s)) }

// IsSet tells whether there is a value; an empty string is one, null is not.
func (v Value) IsSet() bool { return v.form != valueAbsent }

// String returns the text of the value, "" if absent.
func (v Value) String() string { return v.text }

// JSON returns the value as JSON text; "null" if absent.
func (v Value) JSON() []byte {
	switch v.form {
	case valueText:
		return appendJSONString(nil, v.text)
	case valueJSON:
		return []byte(v.text)
	default:
		return []byte("null")
	}
}

// IsZero tells encoding/json that the value is absent.
func (v Value) IsZero() bool { return !v.IsSet() }

// MarshalJSON implements json.Marshaler.
func (v Value) MarshalJSON() ([]byte, error) { return v.JSON(), nil }

// UnmarshalJSON implements json.Unmarshaler. Numbers keep the text they are written with.
func (v *Value) UnmarshalJSON(data []byte) error {
	data = bytes.TrimSpace(data)
	switch {
	case bytes.Equal(data, []byte("null")):
		*v = Value{}
		return nil
	case len(data) > 0 && data[0] == '"':
		var s string
		if err := json.Unmarshal(data, &s); err != nil {
			return err
		}
		*v = TextValue(s)
		return nil
	}
	var compact bytes.Buffer
	if err := json.Compact(&compact, data); err != nil {
		return err
	}
	*v = Value{text: compact.String(), form: valueJSON}
	return nil
}

func (v *Value) decodeNode(d *decoder, n *node, path string) {
	switch n.kind {
	case kindNull:
		*v = Value{}
	case kindString:
		*v = TextValue(n.text)
	default:
		text, err := n.appendJSON(nil, d.exactCase)
		if err != nil {
			d.mismatch(n, path, "a value with a JSON form")
			return
		}
		*v = Value{text: string(text), form: valueJSON}
		if !d.exactCase && (n.kind == kindInt || n.kind == kindUint || n.kind == kindFloat) {
			d.retyped(n.text, v.text, n.line, path)
		}
	}
}

// unquoteLiteral returns the content of a Go string literal ("...", `...` or a single character in '...'), or s itself
// if it is not one.
func unquoteLiteral(s string) string {
	if len(s) < 2 || !strings.ContainsRune("\"'`", rune(s[0])) {
		return s
	}
	if content, err := strconv.Unquote(s); err == nil {
		return content
	}
	return s
}
