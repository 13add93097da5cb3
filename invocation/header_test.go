package invocation

import "testing"

func TestCleanMethod(t *testing.T) {
	for in, want := range map[string]string{
		"": "", "/": "", "a": "a", "/a": "a", "a/": "a", "a//b": "a/b", "a/./b": "a/b", "admin/../public": "public",
		"../../etc": "etc", "public///extra": "public/extra", "a/b/c": "a/b/c", "...": "...", "a/..": "", ".hidden": ".hidden", ".": "", "x/.": "x",
	} {
		if got := CleanMethod(in); got != want {
			t.Errorf("CleanMethod(%q) = %q, want %q", in, got, want)
		}
	}
}

func TestCheckMethod(t *testing.T) {
	for _, ok := range []string{"", "a/b", `te"x`, "a*b", `a\b`, "a;b", "a+b", "ž", "%41"} {
		if err := CheckMethod(ok); err != nil {
			t.Errorf("CheckMethod(%q): %v", ok, err)
		}
	}
	for bad, want := range map[string]string{
		"a#b":    `invalid method: method contains forbidden character: "a#b"`,
		"a?b":    `invalid method: method contains forbidden character: "a?b"`,
		"a\x00b": `invalid method: method contains forbidden character: "a\x00b"`,
		"ab\r":   `invalid method: method contains control character at position 2: "ab\r"`,
		"\x7f":   `invalid method: method contains control character at position 0: "\x7f"`,
	} {
		if err := CheckMethod(bad); err == nil || err.Error() != want {
			t.Errorf("CheckMethod(%q) = %v, want %s", bad, err, want)
		}
	}
}

func FuzzCleanMethod(f *testing.F) {
	f.Add("a/../b//c/.")
	f.Fuzz(func(t *testing.T, m string) {
		once := CleanMethod(m)
		if twice := CleanMethod(once); twice != once {
			t.Errorf("not idempotent: %q -> %q -> %q", m, once, twice)
		}
	})
}

func TestHeader(t *testing.T) {
	var h Header
	h.Add("Content-Type", "a")
	h.Add("X", "1")
	h.Add("x", "2")
	if got := string(h.Get("x")); got != "1" {
		t.Errorf("Get = %q", got)
	}
	h.Set("X", "3")
	if len(h) != 2 || string(h.Get("x")) != "3" {
		t.Errorf("after Set: %q", h)
	}
	for name, want := range map[string]bool{"TE": true, "Connection": true, "keep-alive": true, "Transfer-Encoding": true, "X-Upgrade": false, "Trailers": false, "Proxy-Authorization": true} {
		if HopByHop([]byte(name)) != want {
			t.Errorf("HopByHop(%s) = %v", name, !want)
		}
	}
	if MetadataKey([]byte("Cookie")) != "dapr-cookie" || MetadataKey([]byte("cookie")) != "cookie" || MetadataKey([]byte("X-A")) != "x-a" {
		t.Error("MetadataKey")
	}
}
