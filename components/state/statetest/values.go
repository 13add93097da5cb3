package statetest

import (
	"bytes"
	"math/rand/v2"
	"strconv"
	"strings"
	"testing"

	"outrigger.dev/components/state"
)

func (s *suite) values(t *testing.T) {
	s.parallel(t, "bytes", s.bytesValues)
	s.parallel(t, "json", s.jsonValues)
	s.parallel(t, "life", s.life)
	s.parallel(t, "kinds", s.kindsAlternate)
	s.parallel(t, "buffers", s.buffers)
	s.parallel(t, "oddkeys", s.oddKeys)
}

// bytesValues checks that bytes of any kind come back as they were written.
func (s *suite) bytesValues(t *testing.T) {
	every := make([]byte, 256)
	for i := range every {
		every[i] = byte(i)
	}
	big := make([]byte, 1<<20)
	source := rand.New(rand.NewPCG(1, 2))
	for i := range big {
		big[i] = byte(source.Uint32())
	}
	for _, c := range []struct {
		name  string
		value []byte
	}{
		{"text", []byte("hello")},
		{"empty", []byte{}},
		{"nul", []byte{0}},
		{"every", every},
		{"invalid-utf8", []byte("a\xff\xfe\xc3(")},
		{"looks-like-json", []byte(`{"b":1, "a":[2]}`)},
		{"looks-like-base64", []byte("aGk=")},
		{"quoted", []byte(`"quoted"`)},
		{"html", []byte("<a href='x'>&amp;</a>")},
		{"newlines", []byte("a\r\nb\n")},
		{"mebibyte", big},
	} {
		k := s.key(t, c.name)
		s.set(t, k, state.Value{Bytes: c.value})
		item := s.get(t, k)
		if !item.Found || !bytes.Equal(item.Data, c.value) {
			t.Errorf("%s: found %v, got %q, want %q", c.name, item.Found, short(item.Data), short(c.value))
		}
		if item.HasETag != s.etags {
			t.Errorf("%s: HasETag is %v, but the store's ETags() is %v", c.name, item.HasETag, s.etags)
		}
	}
}

// jsonValues checks that JSON values come back with the same meaning.
func (s *suite) jsonValues(t *testing.T) {
	for _, c := range []struct{ name, value string }{
		{"string", `"plain"`},
		{"empty-string", `""`},
		{"unicode", `"žluťoučký 🐎 \u2028"`},
		{"html", `"<a>&'\""`},
		{"escapes", `"\\ \n \t / \u0001"`},
		{"null", `null`},
		{"true", `true`},
		{"number", `42`},
		{"negative", `-0.5`},
		{"precise", `3.14159265358979`},
		{"big-integer", `9007199254740991`},
		{"big-float", `1.7976931348623157e308`},
		{"small-float", `5e-300`},
		{"empty-object", `{}`},
		{"empty-array", `[]`},
		{"nested", `{"item":"pizza","nested":{"a":[1,2.5,null,true,{"b":{"c":[[]]}}]},"qty":2}`},
		{"odd-names", `{"":1,"$.a":2,"a.b":3,"a\"b":4,"é":5}`},
		{"long", `["` + strings.Repeat("0123456789", 20000) + `"]`},
	} {
		k := s.key(t, c.name)
		s.set(t, k, jsonText(c.value))
		if item := s.get(t, k); !item.Found || !sameJSON(t, item.Data, []byte(c.value)) {
			t.Errorf("%s: found %v, got %s, want %s", c.name, item.Found, short(item.Data), short([]byte(c.value)))
		}
	}
}

// life follows one key from absence to absence.
func (s *suite) life(t *testing.T) {
	k := s.key(t, "k")
	s.expectMissing(t, k)
	s.delete(t, k)
	s.set(t, k, text("one"))
	s.expect(t, k, "one")
	s.set(t, k, text("two"))
	s.expect(t, k, "two")
	s.set(t, s.key(t, "other"), text("beside"))
	s.delete(t, k)
	s.expectMissing(t, k)
	s.expect(t, s.key(t, "other"), "beside")
	s.set(t, k, text("three"))
	s.expect(t, k, "three")
}

// kindsAlternate checks that nothing of a value's kind survives the next write.
func (s *suite) kindsAlternate(t *testing.T) {
	k := s.key(t, "k")
	s.set(t, k, text("raw \xff"))
	s.expect(t, k, "raw \xff")
	s.set(t, k, jsonText(`"text"`))
	s.expect(t, k, `"text"`)
	s.set(t, k, text(`"text"`))
	s.expect(t, k, `"text"`)
	s.set(t, k, text("raw again"))
	s.expect(t, k, "raw again")
}

// buffers checks that a store neither keeps the bytes it is given nor hands out its own.
func (s *suite) buffers(t *testing.T) {
	k := s.key(t, "k")
	v := []byte("original")
	s.set(t, k, state.Value{Bytes: v})
	copy(v, "XXXXXXXX")
	item := s.expect(t, k, "original")
	copy(item.Data, "YYYYYYYY")
	s.expect(t, k, "original")
}

// oddKeys checks that keys are taken literally.
func (s *suite) oddKeys(t *testing.T) {
	names := []string{
		"with space", "quote'", `double"quote`, "back`tick", `back\slash`, "percent%", "under_score", "star*", "question?",
		"bracket[a-c]", "curly{tag}", "semi;colon", "com,ma", "slash/", "hash#", "dollar$1", "colon:", "new\nline", "tab\t", "žluťoučký",
		"日本語", "🐎", "{", "}", "--", "/* */", "@v", strings.Repeat("long", 40), "a", "b", "",
	}
	if !s.cfg.FoldsKeys {
		names = append(names, "A", "B", "trailing ", "trailing", "zlutoucky", "é", "e\u0301")
	}
	for i, n := range names {
		s.set(t, s.key(t, n), text(strconv.Itoa(i)))
	}
	for i, n := range names {
		s.expect(t, s.key(t, n), strconv.Itoa(i))
	}
	if s.bulk != nil {
		reqs := make([]state.GetRequest, len(names))
		for i, n := range names {
			reqs[i].Key = s.key(t, n)
		}
		got := s.bulkItems(t, reqs)
		for i, n := range names {
			if item := got[s.key(t, n)]; string(item.Data) != strconv.Itoa(i) {
				t.Errorf("BulkGet of %q = %q, want %q", n, item.Data, strconv.Itoa(i))
			}
		}
	}
	for i, n := range names {
		s.delete(t, s.key(t, n))
		s.expectMissing(t, s.key(t, n))
		if i+1 < len(names) {
			s.expect(t, s.key(t, names[i+1]), strconv.Itoa(i+1))
		}
	}
}
