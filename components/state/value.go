package state

import (
	"bytes"
	"encoding/json"
)

// EscapeHTML returns JSON text with <, >, & and the line separators U+2028 and U+2029 as \u escapes, which is how the SQL
// and in-memory stores lay out JSON values (Dapr API, state: storage layouts). Text without them is returned as it is.
func EscapeHTML(text []byte) []byte {
	if !bytes.ContainsAny(text, "<>&") && !bytes.Contains(text, []byte("\u2028")) && !bytes.Contains(text, []byte("\u2029")) {
		return text
	}
	var b bytes.Buffer
	b.Grow(len(text) + 32)
	json.HTMLEscape(&b, text)
	return b.Bytes()
}
