package jsontext

import (
	"bytes"
	"errors"
	"fmt"
	"strconv"
)

// Kind is the type of a JSON value, told by its first byte.
type Kind byte

// The kinds. None is the end of the text, or something that no value starts with.
const (
	None   Kind = 0
	Null   Kind = 'n'
	Bool   Kind = 't'
	Number Kind = '0'
	String Kind = '"'
	Array  Kind = '['
	Object Kind = '{'
)

func (k Kind) String() string {
	switch k {
	case Null:
		return "null"
	case Bool:
		return "bool"
	case Number:
		return "number"
	case String:
		return "string"
	case Array:
		return "array"
	case Object:
		return "object"
	}
	return "no value"
}

// Walker goes through JSON text value by value. Every method that reads a value moves behind it. The first thing that is not as
// asked for stops the walker: from then on all methods return zero values, and Err says what it was. Text behind the last value
// read is not looked at.
//
//	w := jsontext.Walk(text)
//	for w.Array(); w.Element(); {
//		for w.Object(); w.Member(); {
//			switch {
//			case w.Named("key"):
//				key = w.String()
//			default:
//				w.Skip()
//			}
//		}
//	}
//	return w.Err()
type Walker struct {
	text  []byte
	i     int
	depth int
	// fresh is true behind the opening bracket of an array or object, before its first element.
	fresh bool
	name  []byte
	err   error
}

// Walk returns a Walker at the start of text.
func Walk(text []byte) Walker { return Walker{text: text} }

// Err is why the walker stopped; nil if it did not.
func (w *Walker) Err() error { return w.err }

func (w *Walker) fail(err error) {
	if w.err == nil {
		w.err = err
	}
}

// malformed reports text that is no JSON.
func (w *Walker) malformed() {
	if w.i >= len(w.text) {
		w.fail(errors.New("unexpected end of JSON input"))
		return
	}
	w.fail(fmt.Errorf("invalid JSON at byte %d", w.i))
}

// End stops the walker unless nothing but white space is left.
func (w *Walker) End() {
	if w.err != nil {
		return
	}
	if w.i = space(w.text, w.i); w.i < len(w.text) {
		w.malformed()
	}
}

// Kind tells the kind of the next value.
func (w *Walker) Kind() Kind {
	if w.err != nil {
		return None
	}
	w.i = space(w.text, w.i)
	if w.i == len(w.text) {
		return None
	}
	switch b := w.text[w.i]; b {
	case 'n', '"', '[', '{', 't':
		return Kind(b)
	case 'f':
		return Bool
	case '-', '0', '1', '2', '3', '4', '5', '6', '7', '8', '9':
		return Number
	}
	return None
}

// want stops the walker unless the next value is of kind k.
func (w *Walker) want(k Kind) bool {
	got := w.Kind()
	if w.err != nil {
		return false
	}
	if got == None {
		w.malformed()
		return false
	}
	if got != k {
		w.fail(fmt.Errorf("%s at byte %d where a JSON %s is wanted", got, w.i, k))
		return false
	}
	return true
}

// Null reads a null if one is next, and reports whether it did.
func (w *Walker) Null() bool {
	if w.Kind() != Null {
		return false
	}
	w.Skip()
	return w.err == nil
}

// Array steps into an array; Element then finds its elements.
func (w *Walker) Array() { w.open(Array) }

// Object steps into an object; Member then finds its members.
func (w *Walker) Object() { w.open(Object) }

func (w *Walker) open(k Kind) {
	if !w.want(k) {
		return
	}
	if w.depth++; w.depth > MaxDepth {
		w.fail(errors.New("exceeded max depth"))
		return
	}
	w.i++
	w.fresh = true
}

// Element moves to the next element of the array that was stepped into. At its end it steps out and returns false.
func (w *Walker) Element() bool { return w.more(']') }

// more moves behind the comma, if one is due, to the next element; or behind the closing bracket.
func (w *Walker) more(closing byte) bool {
	if w.err != nil {
		return false
	}
	fresh := w.fresh
	w.fresh = false
	if w.i = space(w.text, w.i); w.i == len(w.text) {
		w.malformed()
		return false
	}
	switch b := w.text[w.i]; {
	case b == closing:
		w.i++
		w.depth--
		return false
	case fresh:
		return true
	case b == ',':
		w.i = space(w.text, w.i+1)
		return true // what follows is checked when it is read
	}
	w.malformed()
	return false
}

// Member moves to the value of the next member of the object that was stepped into; Name and Named then tell its name. At the
// end of the object it steps out and returns false.
func (w *Walker) Member() bool {
	if !w.more('}') || !w.want(String) {
		return false
	}
	end, l, ok := skipString(w.text, w.i)
	if !ok {
		w.i = end
		w.malformed()
		return false
	}
	w.name = unquoted(w.text[w.i:end], l)
	if w.i = space(w.text, end); w.i == len(w.text) || w.text[w.i] != ':' {
		w.malformed()
		return false
	}
	w.i++
	return true
}

// Name is the name of the member that Member found last, unescaped.
func (w *Walker) Name() []byte { return w.name }

// Named reports whether that name is the given one, whatever its case.
func (w *Walker) Named(name string) bool {
	return string(w.name) == name || len(w.name) >= len(name) && bytes.EqualFold(w.name, []byte(name))
}

// Raw reads a value of any kind and returns its text.
func (w *Walker) Raw() []byte {
	if w.err != nil {
		return nil
	}
	start := space(w.text, w.i)
	end, ok := skipValue(w.text, start, w.depth)
	w.i = end
	if !ok {
		w.malformed()
		return nil
	}
	return w.text[start:end]
}

// Skip reads a value of any kind.
func (w *Walker) Skip() { w.Raw() }

// Canonical reads a value of any kind and appends its canonical form to dst; see [Canonical].
func (w *Walker) Canonical(dst []byte) []byte {
	if w.err != nil {
		return dst
	}
	c := canonicaliser{text: w.text, i: space(w.text, w.i)}
	if out, ok := c.value(dst, w.depth); ok {
		w.i = c.i
		return out
	}
	raw := w.Raw()
	if w.err != nil {
		return dst
	}
	out, err := AppendCanonical(dst, raw)
	if err != nil {
		w.fail(err)
	}
	return out
}

// String reads a string. A null is the empty string.
func (w *Walker) String() string {
	if w.Null() || !w.want(String) {
		return ""
	}
	end, l, ok := skipString(w.text, w.i)
	if !ok {
		w.i = end
		w.malformed()
		return ""
	}
	s := string(unquoted(w.text[w.i:end], l))
	w.i = end
	return s
}

// Int reads a whole number. A null is 0.
func (w *Walker) Int() int {
	if w.Null() || !w.want(Number) {
		return 0
	}
	raw := w.Raw()
	if w.err != nil {
		return 0
	}
	n, err := strconv.Atoi(string(raw))
	if err != nil {
		w.fail(fmt.Errorf("number %s is not a whole number of at most 64 bits", raw))
	}
	return n
}

// Strings reads an object whose values are strings, adding to m, which may be nil. A null is nil.
func (w *Walker) Strings(m map[string]string) map[string]string {
	if w.Null() {
		return nil
	}
	for w.Object(); w.Member(); {
		name := string(w.name)
		value := w.String()
		if w.err != nil {
			break
		}
		if m == nil {
			m = map[string]string{}
		}
		m[name] = value
	}
	return m
}
