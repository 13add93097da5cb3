package jsontext

import (
	"encoding/base64"
	"unicode/utf8"
)

// AppendEmbedded appends a value to JSON text under construction as encoding/json embeds a json.RawMessage: without white
// space, and with <, >, &, U+2028 and U+2029 as \u escapes. It reports false, and appends nothing, when text is not one JSON value.
func AppendEmbedded(dst, text []byte) ([]byte, bool) {
	if !Valid(text) {
		return dst, false
	}
	start, inString := 0, false
	for i := 0; i < len(text); i++ {
		switch b := text[i]; {
		case b == '"':
			inString = !inString
		case !inString:
			if b == ' ' || b == '\n' || b == '\r' || b == '\t' {
				dst = append(dst, text[start:i]...)
				start = i + 1
			}
		case b == '\\':
			i++
		case b == '<' || b == '>' || b == '&':
			dst = append(dst, text[start:i]...)
			dst = append(dst, '\\', 'u', '0', '0', hexDigits[b>>4], hexDigits[b&15])
			start = i + 1
		case b == 0xe2 && i+2 < len(text) && text[i+1] == 0x80 && text[i+2]&^1 == 0xa8:
			dst = append(append(dst, text[start:i]...), `\u202`...)
			dst = append(dst, hexDigits[text[i+2]&15])
			i += 2
			start = i + 1
		}
	}
	return append(dst, text[start:]...), true
}

// AppendData appends a stored value to JSON text under construction: as it is when it is JSON (see [AppendEmbedded]), else as
// a string of its characters, or of their base64 form when they are no UTF-8.
func AppendData(dst, data []byte) []byte {
	dst, ok := AppendEmbedded(dst, data)
	switch {
	case ok:
		return dst
	case utf8.Valid(data):
		return AppendString(dst, string(data))
	}
	dst = append(dst, '"')
	dst = base64.StdEncoding.AppendEncode(dst, data)
	return append(dst, '"')
}
