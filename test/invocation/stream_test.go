package invocation_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"runtime"
	"strings"
	"testing"
	"time"

	commonv1 "outrigger.dev/api/gen/common/v1"
	runtimev1 "outrigger.dev/api/gen/runtime/v1"
	"outrigger.dev/sidecar"
	"outrigger.dev/sidecar/sidecartest"
)

// Bodies stream in both directions at the same time: each line is echoed before the next one is sent.
func TestBothDirectionsAtOnce(t *testing.T) {
	w := newWorld(t, []string{"http", "h2c"}, func(p string) sidecartest.Option {
		return startHTTP(t, p, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			control := http.NewResponseController(w)
			_ = control.EnableFullDuplex()
			lines := bufio.NewScanner(r.Body)
			for lines.Scan() {
				fmt.Fprintf(w, "echo %s\n", lines.Text())
				_ = control.Flush()
			}
		}))
	})
	w.each(t, func(t *testing.T, protocol string, r route) {
		reader, writer := io.Pipe()
		req, err := http.NewRequestWithContext(withTimeout(t), "POST", r.via.URL+"/v1.0/invoke/app-"+protocol+"/method/echo", reader)
		if err != nil {
			t.Fatal(err)
		}
		type result struct {
			resp *http.Response
			err  error
		}
		answered := make(chan result, 1)
		go func() {
			resp, err := w.http2.Do(req)
			answered <- result{resp, err}
		}()
		if _, err := io.WriteString(writer, "0\n"); err != nil {
			t.Fatal(err)
		}
		got := wait(t, answered, "the start of the reply")
		if got.err != nil {
			t.Fatal(got.err)
		}
		defer got.resp.Body.Close()
		lines := bufio.NewReader(got.resp.Body)
		for i := range 20 {
			if line, err := lines.ReadString('\n'); err != nil || line != fmt.Sprintf("echo %d\n", i) {
				t.Fatalf("line %d: %q, %v", i, line, err)
			}
			if i < 19 {
				fmt.Fprintf(writer, "%d\n", i+1)
			}
		}
		_ = writer.Close()
		if rest, err := io.ReadAll(lines); err != nil || len(rest) > 0 {
			t.Errorf("at the end: %q, %v", rest, err)
		}
	})
}

// A large body streams through without being held in memory.
func TestLargeBodies(t *testing.T) {
	const size = 64 << 20
	unlimited := sidecartest.With(func(o *sidecar.Options) { o.MaxBodySize = 0 })
	w := newWorld(t, []string{"http"}, func(p string) sidecartest.Option {
		return startHTTP(t, p, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.Method == "GET" {
				_, _ = io.CopyN(w, zeros{}, size)
				return
			}
			n, err := io.Copy(io.Discard, r.Body)
			fmt.Fprint(w, n, err)
		}))
	}, unlimited)
	for _, r := range w.routes("http")[:2] {
		t.Run(r.name, func(t *testing.T) {
			var before, after runtime.MemStats
			runtime.GC()
			runtime.ReadMemStats(&before)
			resp, err := w.http1.Post(r.via.URL+"/v1.0/invoke/app-http/method/up", "application/octet-stream", struct{ io.Reader }{io.LimitReader(zeros{}, size)})
			if err != nil {
				t.Fatal(err)
			}
			text, _ := io.ReadAll(resp.Body)
			_ = resp.Body.Close()
			if string(text) != fmt.Sprint(size, error(nil)) {
				t.Errorf("up: %d %s", resp.StatusCode, text)
			}
			resp, err = w.http1.Get(r.via.URL + "/v1.0/invoke/app-http/method/down")
			if err != nil {
				t.Fatal(err)
			}
			n, err := io.Copy(io.Discard, resp.Body)
			_ = resp.Body.Close()
			if n != size || err != nil {
				t.Errorf("down: %d bytes, %v", n, err)
			}
			runtime.ReadMemStats(&after)
			if grown := int64(after.HeapSys) - int64(before.HeapSys); grown > size/2 {
				t.Errorf("the heap grew by %d MiB", grown>>20)
			}
		})
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

// An answer that the app breaks off is broken off for the client too.
func TestBrokenAnswer(t *testing.T) {
	w := newWorld(t, []string{"http"}, func(p string) sidecartest.Option {
		return startHTTP(t, p, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			_, _ = io.WriteString(w, "the beginning")
			_ = http.NewResponseController(w).Flush()
			panic(http.ErrAbortHandler)
		}))
	})
	w.each(t, func(t *testing.T, protocol string, r route) {
		resp, err := w.http1.Get(r.via.URL + "/v1.0/invoke/app-" + protocol + "/method/x")
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		if body, err := io.ReadAll(resp.Body); err == nil {
			t.Errorf("the cut answer ended as if it were whole: %q", body)
		}
	})
}

// A caller that goes away takes its call along, all the way to the app.
func TestCancelledCaller(t *testing.T) {
	began, ended := make(chan struct{}, 8), make(chan error, 8)
	w := newWorld(t, []string{"http", "h2c"}, func(p string) sidecartest.Option {
		return startHTTP(t, p, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			if !strings.HasSuffix(r.URL.Path, "/slow") {
				return
			}
			began <- struct{}{}
			select {
			case <-r.Context().Done():
				ended <- nil
			case <-time.After(patience):
				ended <- errors.New("the app was not told")
			}
		}))
	})
	w.each(t, func(t *testing.T, protocol string, r route) {
		target := "app-" + protocol
		callers := map[string]func(ctx context.Context) error{
			"HTTP": func(ctx context.Context) error {
				req, err := http.NewRequestWithContext(ctx, "GET", r.via.URL+"/v1.0/invoke/"+target+"/method/slow", nil)
				if err != nil {
					return err
				}
				resp, err := w.http1.Do(req)
				if err == nil {
					_ = resp.Body.Close()
				}
				return err
			},
			"gRPC": func(ctx context.Context) error {
				_, err := r.via.Dapr().InvokeService(ctx, &runtimev1.InvokeServiceRequest{Id: target, Message: &commonv1.InvokeRequest{
					Method: "slow", HttpExtension: &commonv1.HTTPExtension{Verb: commonv1.HTTPExtension_GET},
				}})
				return err
			},
		}
		for name, call := range callers {
			ctx, cancel := context.WithCancel(withTimeout(t))
			done := make(chan error, 1)
			go func() { done <- call(ctx) }()
			wait(t, began, "the call of the "+name+" caller")
			start := time.Now()
			cancel()
			if err := wait(t, ended, "the end of the app's request"); err != nil {
				t.Errorf("%s: %v", name, err)
			} else if took := time.Since(start); took > 10*time.Second {
				t.Errorf("%s: the app was told after %s", name, took)
			}
			if err := wait(t, done, "the end of the call"); err == nil {
				t.Errorf("%s: a cancelled call succeeded", name)
			}
		}
	})
}

// Server-sent events arrive one by one, with the app's status; empty answers and errors pass too.
func TestServerSentEvents(t *testing.T) {
	next := make(chan struct{})
	w := newWorld(t, []string{"http", "h2c"}, func(p string) sidecartest.Option {
		return startHTTP(t, p, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			switch {
			case strings.HasSuffix(r.URL.Path, "/empty"):
				w.WriteHeader(http.StatusAccepted)
			case strings.HasSuffix(r.URL.Path, "/teapot"):
				w.Header().Set("Content-Type", "text/x-tea")
				w.WriteHeader(http.StatusTeapot)
				_, _ = io.WriteString(w, "short and stout")
			case strings.HasSuffix(r.URL.Path, "/events"):
				w.Header().Set("Content-Type", "text/event-stream")
				for i := range 3 {
					fmt.Fprintf(w, "data: %d\n\n", i)
					_ = http.NewResponseController(w).Flush()
					select {
					case <-next:
					case <-r.Context().Done():
						return
					}
				}
			}
		}))
	})
	w.each(t, func(t *testing.T, protocol string, r route) {
		get := func(path string) *http.Response {
			t.Helper()
			req, err := http.NewRequestWithContext(withTimeout(t), "GET", r.via.URL+"/v1.0/invoke/app-"+protocol+"/method/"+path, nil)
			if err != nil {
				t.Fatal(err)
			}
			req.Header.Set("Accept", "text/event-stream")
			resp, err := w.http1.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = resp.Body.Close() })
			return resp
		}
		resp := get("events")
		if resp.StatusCode != 200 || resp.Header.Get("Content-Type") != "text/event-stream" {
			t.Fatalf("got %d %v", resp.StatusCode, resp.Header)
		}
		if r.remote && resp.Header.Get("Cache-Control") != "no-cache" {
			t.Errorf("Cache-Control is %q", resp.Header.Get("Cache-Control"))
		}
		lines := bufio.NewReader(resp.Body)
		for i := range 3 {
			if line, err := lines.ReadString('\n'); err != nil || line != fmt.Sprintf("data: %d\n", i) {
				t.Fatalf("event %d: %q, %v", i, line, err)
			}
			if _, err := lines.ReadString('\n'); err != nil {
				t.Fatal(err)
			}
			next <- struct{}{}
		}
		if rest, err := io.ReadAll(lines); err != nil || len(rest) > 0 {
			t.Errorf("at the end: %q, %v", rest, err)
		}
		if resp := get("empty"); resp.StatusCode != http.StatusAccepted {
			t.Errorf("an empty answer: %d", resp.StatusCode)
		}
		resp = get("teapot")
		if body, _ := io.ReadAll(resp.Body); resp.StatusCode != http.StatusTeapot || string(body) != "short and stout" || resp.Header.Get("Content-Type") != "text/x-tea" {
			t.Errorf("an error: %d %q %v", resp.StatusCode, body, resp.Header)
		}
	})
}
