package jsontext

import "encoding/binary"

// space returns the index of the first byte at or after i that is no white space.
func space(text []byte, i int) int {
	for i < len(text) {
		switch text[i] {
		case ' ', '\n', '\r', '\t':
			i++
		default:
			return i
		}
	}
	return i
}

// eightPlain reports whether all eight bytes of x are ASCII, no control characters, no quotes and no backslashes.
func eightPlain(x uint64) bool {
	const ones, highs = 0x0101010101010101, 0x8080808080808080
	quote, backslash := x^(ones*'"'), x^(ones*'\\')
	return (x|(x-ones*0x20)|(quote-ones)&^quote|(backslash-ones)&^backslash)&highs == 0
}

// lexeme says what a string in JSON text contains.
type lexeme struct {
	escapes, nonASCII bool
}

// skipString returns the index behind the string whose opening quote is at i.
func skipString(text []byte, i int) (end int, l lexeme, ok bool) {
	i++
	for i < len(text) {
		if i+8 <= len(text) && eightPlain(binary.LittleEndian.Uint64(text[i:])) {
			i += 8
			continue
		}
		switch b := text[i]; {
		case b == '"':
			return i + 1, l, true
		case b == '\\':
			l.escapes = true
			i++
			if i == len(text) {
				return i, l, false
			}
			switch text[i] {
			case '"', '\\', '/', 'b', 'f', 'n', 'r', 't':
				i++
			case 'u':
				if _, ok := hex4(text, i+1); !ok {
					return i, l, false
				}
				i += 5
			default:
				return i, l, false
			}
		case b < 0x20:
			return i, l, false
		default:
			l.nonASCII = l.nonASCII || b >= 0x80
			i++
		}
	}
	return i, l, false
}

// hex4 reads the four hexadecimal digits at i.
func hex4(text []byte, i int) (rune, bool) {
	if i+4 > len(text) {
		return 0, false
	}
	var r rune
	for _, b := range text[i : i+4] {
		switch {
		case b >= '0' && b <= '9':
			b -= '0'
		case b >= 'a' && b <= 'f':
			b -= 'a' - 10
		case b >= 'A' && b <= 'F':
			b -= 'A' - 10
		default:
			return 0, false
		}
		r = r<<4 | rune(b)
	}
	return r, true
}

// skipNumber returns the index behind the number at i, and whether it has a fraction or an exponent.
func skipNumber(text []byte, i int) (end int, float, ok bool) {
	if i < len(text) && text[i] == '-' {
		i++
	}
	switch {
	case i == len(text) || text[i] < '0' || text[i] > '9':
		return i, false, false
	case text[i] == '0':
		i++
	default:
		i = digits(text, i)
	}
	if i < len(text) && text[i] == '.' {
		float = true
		start := i + 1
		if i = digits(text, start); i == start {
			return i, float, false
		}
	}
	if i < len(text) && (text[i] == 'e' || text[i] == 'E') {
		float = true
		i++
		if i < len(text) && (text[i] == '+' || text[i] == '-') {
			i++
		}
		start := i
		if i = digits(text, start); i == start {
			return i, float, false
		}
	}
	return i, float, true
}

func digits(text []byte, i int) int {
	for i < len(text) && text[i] >= '0' && text[i] <= '9' {
		i++
	}
	return i
}

// skipWord returns the index behind the word at i.
func skipWord(text []byte, i int, word string) (end int, ok bool) {
	end = i + len(word)
	if end > len(text) || string(text[i:end]) != word {
		return i, false
	}
	return end, true
}

// skipValue returns the index behind the value at i, which stands inside depth arrays and objects.
func skipValue(text []byte, i, depth int) (end int, ok bool) {
	if i >= len(text) {
		return i, false
	}
	switch text[i] {
	case '"':
		end, _, ok = skipString(text, i)
		return end, ok
	case '{':
		return skipObject(text, i, depth+1)
	case '[':
		return skipArray(text, i, depth+1)
	case 't':
		return skipWord(text, i, "true")
	case 'f':
		return skipWord(text, i, "false")
	case 'n':
		return skipWord(text, i, "null")
	}
	end, _, ok = skipNumber(text, i)
	return end, ok
}

func skipArray(text []byte, i, depth int) (end int, ok bool) {
	if depth > MaxDepth {
		return i, false
	}
	i = space(text, i+1)
	if i < len(text) && text[i] == ']' {
		return i + 1, true
	}
	for {
		if i, ok = skipValue(text, i, depth); !ok {
			return i, false
		}
		i = space(text, i)
		if i == len(text) {
			return i, false
		}
		switch text[i] {
		case ',':
			i = space(text, i+1)
		case ']':
			return i + 1, true
		default:
			return i, false
		}
	}
}

func skipObject(text []byte, i, depth int) (end int, ok bool) {
	if depth > MaxDepth {
		return i, false
	}
	i = space(text, i+1)
	if i < len(text) && text[i] == '}' {
		return i + 1, true
	}
	for {
		if i == len(text) || text[i] != '"' {
			return i, false
		}
		if i, _, ok = skipString(text, i); !ok {
			return i, false
		}
		i = space(text, i)
		if i == len(text) || text[i] != ':' {
			return i, false
		}
		if i, ok = skipValue(text, space(text, i+1), depth); !ok {
			return i, false
		}
		i = space(text, i)
		if i == len(text) {
			return i, false
		}
		switch text[i] {
		case ',':
			i = space(text, i+1)
		case '}':
			return i + 1, true
		default:
			return i, false
		}
	}
}
