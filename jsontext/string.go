package jsontext

import (
	"maps"
	"slices"
	"unicode/utf16"
	"unicode/utf8"
)

const hexDigits = "0123456789abcdef"

// AppendString appends s as a JSON string in the way encoding/json does: <, >, &, U+2028 and U+2029 as \u escapes, and bytes
// that are no UTF-8 as \ufffd.
func AppendString(dst []byte, s string) []byte {
	dst = append(dst, '"')
	start := 0
	for i := 0; i < len(s); {
		b := s[i]
		if b < utf8.RuneSelf {
			if b >= 0x20 && b != '"' && b != '\\' && b != '<' && b != '>' && b != '&' {
				i++
				continue
			}
			dst = append(dst, s[start:i]...)
			if b == '<' || b == '>' || b == '&' {
				dst = append(dst, '\\', 'u', '0', '0', hexDigits[b>>4], hexDigits[b&15])
			} else {
				dst = appendASCII(dst, b)
			}
			i++
			start = i
			continue
		}
		r, size := utf8.DecodeRuneInString(s[i:])
		switch {
		case r == utf8.RuneError && size == 1:
			dst = append(append(dst, s[start:i]...), `\ufffd`...)
			start = i + size
		case r == '\u2028' || r == '\u2029':
			dst = append(append(dst, s[start:i]...), `\u202`...)
			dst = append(dst, hexDigits[r&15])
			start = i + size
		}
		i += size
	}
	return append(append(dst, s[start:]...), '"')
}

// AppendStrings appends m as a JSON object with sorted names, and nil as null.
func AppendStrings(dst []byte, m map[string]string) []byte {
	if m == nil {
		return append(dst, "null"...)
	}
	dst = append(dst, '{')
	for i, name := range slices.Sorted(maps.Keys(m)) {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = append(AppendString(dst, name), ':')
		dst = AppendString(dst, m[name])
	}
	return append(dst, '}')
}

// appendASCII appends one ASCII character as it stands in a canonical string.
func appendASCII(dst []byte, b byte) []byte {
	switch b {
	case '"', '\\':
		return append(dst, '\\', b)
	case '\b':
		return append(dst, `\b`...)
	case '\f':
		return append(dst, `\f`...)
	case '\n':
		return append(dst, `\n`...)
	case '\r':
		return append(dst, `\r`...)
	case '\t':
		return append(dst, `\t`...)
	}
	if b < 0x20 {
		return append(dst, '\\', 'u', '0', '0', hexDigits[b>>4], hexDigits[b&15])
	}
	return append(dst, b)
}

// AppendPlainString appends s as a canonical string: only what must be escaped is.
func AppendPlainString(dst []byte, s string) []byte {
	dst = append(dst, '"')
	for _, r := range s { // yields U+FFFD for each byte that is no UTF-8
		dst = appendPlainRune(dst, r)
	}
	return append(dst, '"')
}

func appendPlainRune(dst []byte, r rune) []byte {
	if r < utf8.RuneSelf {
		return appendASCII(dst, byte(r))
	}
	return utf8.AppendRune(dst, r)
}

// nextRune decodes the character at i of the inside of a well-formed JSON string: an escape sequence or a character as it is.
func nextRune(text []byte, i int) (r rune, size int) {
	switch b := text[i]; {
	case b != '\\' && b < utf8.RuneSelf:
		return rune(b), 1
	case b != '\\':
		return utf8.DecodeRune(text[i:])
	}
	switch b := text[i+1]; b {
	case 'b':
		return '\b', 2
	case 'f':
		return '\f', 2
	case 'n':
		return '\n', 2
	case 'r':
		return '\r', 2
	case 't':
		return '\t', 2
	case 'u':
		r, _ = hex4(text, i+2)
		if !utf16.IsSurrogate(r) {
			return r, 6
		}
		if i+8 <= len(text) && text[i+6] == '\\' && text[i+7] == 'u' {
			if low, ok := hex4(text, i+8); ok {
				if pair := utf16.DecodeRune(r, low); pair != utf8.RuneError {
					return pair, 12
				}
			}
		}
		return utf8.RuneError, 6
	default:
		return rune(b), 2
	}
}

// appendCanonicalString appends the canonical form of the well-formed string token.
func appendCanonicalString(dst, token []byte, l lexeme) []byte {
	if !l.escapes && (!l.nonASCII || utf8.Valid(token)) {
		return append(dst, token...)
	}
	inside := token[1 : len(token)-1]
	dst = append(dst, '"')
	for i := 0; i < len(inside); {
		r, size := nextRune(inside, i)
		dst = appendPlainRune(dst, r)
		i += size
	}
	return append(dst, '"')
}

// appendUnquoted appends the characters that the well-formed string token stands for.
func appendUnquoted(dst, token []byte) []byte {
	inside := token[1 : len(token)-1]
	for i := 0; i < len(inside); {
		r, size := nextRune(inside, i)
		dst = utf8.AppendRune(dst, r)
		i += size
	}
	return dst
}

// unquoted returns the characters of the well-formed string token: a part of it where that is possible, else a copy.
func unquoted(token []byte, l lexeme) []byte {
	if !l.escapes && (!l.nonASCII || utf8.Valid(token)) {
		return token[1 : len(token)-1]
	}
	return appendUnquoted(make([]byte, 0, len(token)), token)
}

// Unquote returns the characters of a JSON string, and false when text is anything else. The result may be a part of text.
func Unquote(text []byte) ([]byte, bool) {
	i := space(text, 0)
	if i == len(text) || text[i] != '"' {
		return nil, false
	}
	end, l, ok := skipString(text, i)
	if !ok || space(text, end) != len(text) {
		return nil, false
	}
	return unquoted(text[i:end], l), true
}
