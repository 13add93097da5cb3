package uppercase

import (
	"io"
	"strings"
	"testing"
	"testing/iotest"

	"outrigger.dev/components/middleware"
	"outrigger.dev/components/middleware/middlewaretest"
)

var opener = middlewaretest.Opener{Register: Register, Name: "http.uppercase"}

func TestDirections(t *testing.T) {
	for direction, want := range map[string][2]string{"": {"HÉ", "já"}, "request": {"HÉ", "já"}, "Response": {"hé", "JÁ"}, "both": {"HÉ", "JÁ"}} {
		properties := map[string]string{}
		if direction != "" {
			properties["direction"] = direction
		}
		mw := opener.Open(t, properties)
		for _, streamed := range []bool{false, true} {
			req := middlewaretest.Request("POST", "/")
			answer := &middleware.Response{Status: 200, Body: []byte("já")}
			if streamed {
				req.Body, req.Length = iotest.OneByteReader(strings.NewReader("hé")), 3
				answer = &middleware.Response{Status: 200, Stream: io.NopCloser(iotest.OneByteReader(strings.NewReader("já"))), Length: 3}
			} else {
				req.SetBody([]byte("hé"))
			}
			if r := middlewaretest.DoWith(t, mw, req, answer); r.Body != want[0] || r.Text != want[1] {
				t.Errorf("%s, streamed %v: %q, %q", direction, streamed, r.Body, r.Text)
			}
		}
	}
	if _, err := opener.Try(t, map[string]string{"direction": "up"}); err == nil {
		t.Error("direction up was accepted")
	}
}

func TestSuite(t *testing.T) {
	for _, direction := range []string{"request", "response", "both"} {
		middlewaretest.Suite(t, func(t testing.TB) middleware.Middleware {
			return opener.Open(t, map[string]string{"direction": direction})
		}, func() *middleware.Request { return middlewaretest.Request("POST", "/") })
	}
}

func FuzzReader(f *testing.F) {
	f.Add("straße ǆ é \xff\xe2\x82", 1)
	f.Fuzz(func(t *testing.T, text string, step int) {
		var r io.Reader = strings.NewReader(text)
		if step%2 == 0 {
			r = iotest.OneByteReader(r)
		}
		got, err := io.ReadAll(&reader{r: r})
		if want := strings.ToUpper(text); err != nil || strings.ToValidUTF8(string(got), "?") != strings.ToValidUTF8(want, "?") {
			t.Errorf("%q: %q, want %q, %v", text, got, want, err)
		}
	})
}
