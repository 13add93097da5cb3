package jsontext

import (
	"bytes"
	"slices"
)

// canonicaliser reads a value from text and appends its canonical form, in one pass as long as names come sorted.
type canonicaliser struct {
	text []byte
	i    int
	// moved counts the bytes that sorting has copied. It is bounded, for objects inside objects are copied once per level.
	moved      int
	overworked bool
}

// value appends the value at c.i, which stands inside depth arrays and objects. It returns false where the text is no JSON,
// or c is overworked.
func (c *canonicaliser) value(dst []byte, depth int) ([]byte, bool) {
	if c.i >= len(c.text) {
		return dst, false
	}
	switch c.text[c.i] {
	case '"':
		return c.string(dst)
	case '{':
		return c.object(dst, depth+1)
	case '[':
		return c.array(dst, depth+1)
	case 't':
		return c.word(dst, "true")
	case 'f':
		return c.word(dst, "false")
	case 'n':
		return c.word(dst, "null")
	}
	end, float, ok := skipNumber(c.text, c.i)
	if !ok {
		return dst, false
	}
	number := c.text[c.i:end]
	c.i = end
	return appendNumber(dst, number, float)
}

func (c *canonicaliser) word(dst []byte, word string) (_ []byte, ok bool) {
	if c.i, ok = skipWord(c.text, c.i, word); !ok {
		return dst, false
	}
	return append(dst, word...), true
}

func (c *canonicaliser) string(dst []byte) ([]byte, bool) {
	end, l, ok := skipString(c.text, c.i)
	if !ok {
		return dst, false
	}
	token := c.text[c.i:end]
	c.i = end
	return appendCanonicalString(dst, token, l), true
}

// next skips white space and returns the byte there, 0 at the end.
func (c *canonicaliser) next() byte {
	c.i = space(c.text, c.i)
	if c.i == len(c.text) {
		return 0
	}
	return c.text[c.i]
}

func (c *canonicaliser) array(dst []byte, depth int) (_ []byte, ok bool) {
	if depth > MaxDepth {
		return dst, false
	}
	c.i++
	dst = append(dst, '[')
	if c.next() == ']' {
		c.i++
		return append(dst, ']'), true
	}
	for {
		if dst, ok = c.value(dst, depth); !ok {
			return dst, false
		}
		switch c.next() {
		case ',':
			c.i++
			c.next()
			dst = append(dst, ',')
		case ']':
			c.i++
			return append(dst, ']'), true
		default:
			return dst, false
		}
	}
}

func (c *canonicaliser) object(dst []byte, depth int) (_ []byte, ok bool) {
	if depth > MaxDepth {
		return dst, false
	}
	start := len(dst)
	c.i++
	dst = append(dst, '{')
	if c.next() == '}' {
		c.i++
		return append(dst, '}'), true
	}
	sorted, first := true, true
	var last, lastEnd int
	for {
		if c.next() != '"' {
			return dst, false
		}
		name := len(dst)
		if dst, ok = c.string(dst); !ok {
			return dst, false
		}
		if sorted && !first && compareNames(dst[last:lastEnd], dst[name:]) >= 0 {
			sorted = false
		}
		first = false
		last, lastEnd = name, len(dst)
		if c.next() != ':' {
			return dst, false
		}
		c.i++
		c.next()
		if dst, ok = c.value(append(dst, ':'), depth); !ok {
			return dst, false
		}
		switch c.next() {
		case ',':
			c.i++
			dst = append(dst, ',')
			continue
		case '}':
			c.i++
			dst = append(dst, '}')
		default:
			return dst, false
		}
		if sorted {
			return dst, true
		}
		if c.moved += len(dst) - start; c.moved > 1<<20+8*len(c.text) {
			c.overworked = true
			return dst, false
		}
		return sortObject(dst, start), true
	}
}

// member is where a member stands in a buffer: its name token starts at name and ends at nameEnd, its value ends at end.
type member struct{ name, nameEnd, end int }

// sortObject brings the object that fills dst from start on, canonical but for the order and repetition of its names, into
// order.
func sortObject(dst []byte, start int) []byte {
	var few [16]member
	members := few[:0]
	for i := start + 1; ; {
		m := member{name: i}
		m.nameEnd, _, _ = skipString(dst, i)
		m.end, _ = skipValue(dst, m.nameEnd+1, 0)
		members = append(members, m)
		if dst[m.end] == '}' {
			break
		}
		i = m.end + 1
	}
	byName := func(a, b member) int { return compareNames(dst[a.name:a.nameEnd], dst[b.name:b.nameEnd]) }
	slices.SortStableFunc(members, byName)
	end := len(dst)
	sorted := append(dst, '{')
	for i, m := range members {
		if i+1 < len(members) && byName(m, members[i+1]) == 0 {
			continue // of equal names the last one counts, and the order is stable
		}
		if len(sorted) > end+1 {
			sorted = append(sorted, ',')
		}
		sorted = append(sorted, dst[m.name:m.end]...)
	}
	sorted = append(sorted, '}')
	return sorted[:start+copy(sorted[start:], sorted[end:])]
}

// compareNames compares the characters of two canonical string tokens, byte by byte.
func compareNames(a, b []byte) int {
	a, b = a[1:len(a)-1], b[1:len(b)-1]
	if bytes.IndexByte(a, '\\') < 0 && bytes.IndexByte(b, '\\') < 0 {
		return bytes.Compare(a, b)
	}
	for len(a) > 0 && len(b) > 0 {
		ra, sa := nextRune(a, 0)
		rb, sb := nextRune(b, 0)
		if ra != rb { // code points sort as their UTF-8
			return int(ra) - int(rb)
		}
		a, b = a[sa:], b[sb:]
	}
	return len(a) - len(b)
}
