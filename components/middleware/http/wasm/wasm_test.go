package wasm

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/http-wasm/http-wasm-host-go/tck"

	"outrigger.dev/components/middleware"
	"outrigger.dev/components/middleware/middlewaretest"
	"outrigger.dev/invocation"
)

func opener(log *slog.Logger) middlewaretest.Opener {
	return middlewaretest.Opener{Register: Register, Name: "http.wasm", Log: log}
}

// file writes a guest and returns its URL.
func file(t testing.TB, guest []byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "a guest.wasm")
	if err := os.WriteFile(path, guest, 0o600); err != nil {
		t.Fatal(err)
	}
	return "file://" + path
}

// serve puts a middleware in front of a handler of the standard library.
func serve(mw middleware.Middleware, h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		req := &middleware.Request{Method: r.Method, Path: r.URL.EscapedPath(), RawQuery: r.URL.RawQuery, Scheme: "http", Host: r.Host, RemoteAddress: r.RemoteAddr, Body: r.Body, Length: r.ContentLength}
		for name, values := range r.Header {
			for _, v := range values {
				req.Header.Add(name, v)
			}
		}
		resp, err := mw.Handle(r.Context(), req, func(ctx context.Context, req *middleware.Request) (*middleware.Response, error) {
			out, err := http.NewRequestWithContext(ctx, req.Method, req.URI(), req.Body)
			if err != nil {
				return nil, err
			}
			out.RequestURI = req.URI()
			for _, f := range req.Header {
				out.Header.Add(string(f.Name), string(f.Value))
			}
			rec := httptest.NewRecorder()
			h.ServeHTTP(rec, out)
			resp := &middleware.Response{Status: rec.Code, Stream: io.NopCloser(rec.Body), Length: -1}
			for name, values := range rec.Header() {
				for _, v := range values {
					resp.Header.Add(name, v)
				}
			}
			return resp, nil
		})
		if err != nil {
			w.WriteHeader(http.StatusInternalServerError)
			return
		}
		for _, f := range resp.Header {
			w.Header().Add(string(f.Name), string(f.Value))
		}
		body, _ := resp.ReadBody(0)
		w.WriteHeader(resp.Status)
		_, _ = w.Write(body)
	})
}

// TestCompatibility runs the suite of the ABI.
func TestCompatibility(t *testing.T) {
	mw := opener(nil).Open(t, map[string]string{"url": file(t, tck.GuestWASM)})
	s := httptest.NewServer(serve(mw, tck.BackendHandler()))
	t.Cleanup(s.Close)
	tck.Run(t, s.Client(), s.URL)
}

func TestGuestAnswers(t *testing.T) {
	s := httptest.NewServer(http.FileServer(http.Dir(filepath.Dir(strings.TrimPrefix(file(t, configEcho()), "file://")))))
	defer s.Close()
	for _, url := range []string{file(t, configEcho()), s.URL + "/a%20guest.wasm"} {
		mw := opener(nil).Open(t, map[string]string{"url": url, "guestConfig": "the configuration"})
		r := middlewaretest.Do(t, mw, middlewaretest.Request("GET", "/"))
		if r.Seen != nil || r.Status != 201 || r.Text != "the configuration" || string(r.Header.Get("X-Guest")) != "yes" {
			t.Errorf("%d %q %q", r.Status, r.Text, r.Header)
		}
	}
}

func TestGuestChangesBoth(t *testing.T) {
	mw := opener(nil).Open(t, map[string]string{"url": file(t, afterNext())})
	req := middlewaretest.Request("POST", "/")
	req.SetBody([]byte("before"))
	stream := io.NopCloser(strings.NewReader("answer"))
	r := middlewaretest.DoWith(t, mw, req, &middleware.Response{Status: 200, Stream: stream, Length: 6})
	if r.Body != "REQ" || r.Status != 202 || r.Text != "RESP" || strings.Join(r.Values("X-Guest"), ",") != "REQ,RESP" {
		t.Errorf("%q %d %q %q", r.Body, r.Status, r.Text, r.Values("X-Guest"))
	}
}

func TestSandbox(t *testing.T) {
	for strict, want := range map[string]func(time.Time) bool{
		"false": func(at time.Time) bool { return time.Since(at).Abs() < time.Minute },
		"true":  func(at time.Time) bool { return at.UTC().Year() == 2022 },
	} {
		mw := opener(nil).Open(t, map[string]string{"url": file(t, clock()), "strictSandbox": strict})
		r := middlewaretest.Do(t, mw, middlewaretest.Request("GET", "/"))
		if len(r.Text) != 8 {
			t.Fatalf("%q", r.Text)
		}
		if at := time.Unix(0, int64(binary.LittleEndian.Uint64([]byte(r.Text)))); !want(at) {
			t.Errorf("strict %s: %s", strict, at)
		}
	}
}

func TestOutput(t *testing.T) {
	var log lockedBuffer
	mw := opener(slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug}))).Open(t, map[string]string{"url": file(t, printer())})
	if r := middlewaretest.Do(t, mw, middlewaretest.Request("GET", "/")); r.Status != 200 || r.Text != "ok" {
		t.Error(r.Status, r.Text)
	}
	for _, want := range []string{`level=DEBUG msg="the guest prints: hello"`, "level=WARN msg=warned"} {
		if !strings.Contains(log.String(), want) {
			t.Errorf("%s is not in %s", want, log.String())
		}
	}
}

type lockedBuffer struct {
	mu sync.Mutex
	bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.Buffer.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.Buffer.String()
}

func TestGuestFails(t *testing.T) {
	mw := opener(nil).Open(t, map[string]string{"url": file(t, looper())})
	mw.(*WASM).timeout = 300 * time.Millisecond
	for _, method := range []string{"TRAP", "GET", "EXIT", "GET", "LOOP", "GET"} {
		r := middlewaretest.Do(t, mw, middlewaretest.Request(method, "/"))
		if method == "GET" {
			if r.Status != 200 || r.Seen == nil {
				t.Fatal("the guest does not recover", r.Status)
			}
			continue
		}
		r.Refused(t, 500, "Internal Server Error")
	}
	// Others that are in the guest meanwhile do not suffer.
	var group sync.WaitGroup
	for i := range 8 {
		group.Go(func() {
			for j := range 10 {
				method := "GET"
				if i == 0 {
					method = "TRAP"
				}
				r := middlewaretest.Do(t, mw, middlewaretest.Request(method, "/"))
				if want := map[string]int{"GET": 200, "TRAP": 500}[method]; r.Status != want {
					t.Errorf("%d: %s: %d", j, method, r.Status)
				}
			}
		})
	}
	group.Wait()
	// A client that leaves does not harm the instance.
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if resp, err := mw.Handle(ctx, middlewaretest.Request("GET", "/"), func(context.Context, *middleware.Request) (*middleware.Response, error) {
		return &middleware.Response{Status: 200}, nil
	}); err != nil || resp.Status != 200 {
		t.Error(resp, err)
	}
	middlewaretest.Do(t, opener(nil).Open(t, map[string]string{"url": file(t, badStatus())}), middlewaretest.Request("GET", "/")).Refused(t, 500, "Internal Server Error")
}

func TestBodyOverTheLimit(t *testing.T) {
	mw := opener(nil).Open(t, map[string]string{"url": file(t, reader())})
	req := middlewaretest.Request("POST", "/")
	req.Body, req.Length, req.MaxBodyBytes = strings.NewReader(strings.Repeat("x", 11)), -1, 10
	if _, err := mw.Handle(t.Context(), req, nil); !errors.Is(err, invocation.ErrTooLarge) {
		t.Error(err)
	}
}

func TestOptions(t *testing.T) {
	s := httptest.NewServer(http.NotFoundHandler())
	defer s.Close()
	for url, want := range map[string]string{
		"": `"url" is required`, "guest.wasm": "must begin with file://", "file://": "must begin with", "oci://x": "must begin with", "file:///no/such/guest.wasm": "no such file",
		s.URL + "/x": "404 Not Found", file(t, []byte("no wasm")): "error compiling guest", file(t, []byte("\x00asm\x01\x00\x00\x00")): "handle_request",
	} {
		if _, err := opener(nil).Try(t, map[string]string{"url": url}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", url, err)
		}
	}
}

func TestSuite(t *testing.T) {
	middlewaretest.Suite(t, func(t testing.TB) middleware.Middleware {
		return opener(nil).Open(t, map[string]string{"url": file(t, reader())})
	},
		func() *middleware.Request { return middlewaretest.Request("POST", "/") })
}
