package app

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"outrigger.dev/app/apptest"
	"outrigger.dev/invocation"
	"outrigger.dev/telemetry/metrics/metricstest"
)

// serve starts an app and the channel to it.
func serve(t testing.TB, o Options, h http.HandlerFunc) Channel {
	t.Helper()
	o.Port = apptest.Serve(t, string(o.Protocol), h)
	return apptest.Open(t, New, o)
}

// header makes a header from "Name: value" lines.
func header(lines ...string) (h invocation.Header) {
	for _, line := range lines {
		i := strings.Index(line[1:], ":") + 1
		h.Add(line[:i], strings.TrimSpace(line[i+1:]))
	}
	return h
}

// lines is the reverse, sorted.
func lines(h invocation.Header) (all []string) {
	for _, f := range h {
		all = append(all, string(f.Name)+": "+string(f.Value))
	}
	slices.Sort(all)
	return all
}

func body(t testing.TB, r *invocation.Response) string {
	t.Helper()
	if err := r.Buffer(0); err != nil {
		t.Fatal(err)
	}
	return string(r.Body)
}

func TestParseProtocol(t *testing.T) {
	for text, want := range map[string]Protocol{"": HTTP, "http": HTTP, "HTTPS": HTTPS, "h2c": H2C, "gRPC": GRPC, "grpcs": GRPCS} {
		if got, err := ParseProtocol(text); got != want || err != nil {
			t.Errorf("%s: %s, %v", text, got, err)
		}
	}
	if _, err := ParseProtocol("ftp"); err == nil || err.Error() != "invalid value for 'app-protocol': ftp" {
		t.Error(err)
	}
	if _, err := New(Options{}); err == nil {
		t.Error("no port was accepted")
	}
}

func TestTarget(t *testing.T) {
	tests := []struct{ method, query, want string }{
		{"", "", "/"},
		{"a/b", "", "/a/b"},
		{"a", "x=%20&y", "/a?x=%20&y"},
		{"te%41st", "", "/te%2541st"},
		{"100%", "", "/100%25"},
		{`te"s*t\x`, "", "/te%22s%2At%5Cx"},
		{"a;b+c,d=e:f@g&h$i~", "", "/a;b+c,d=e:f@g&h$i~"},
		{"ä b", "", "/%C3%A4%20b"},
		{"a?b#c", "", "/a%3Fb%23c"},
		{"a", "q=a b\r\nX: y", "/a?q=a%20b%0D%0AX:%20y"},
	}
	for _, test := range tests {
		if got := string(appendTarget(nil, test.method, test.query)); got != test.want {
			t.Errorf("%q %q: %s, want %s", test.method, test.query, got, test.want)
		}
	}
}

func FuzzTarget(f *testing.F) {
	f.Add("a/b%c ä", "x=1 2")
	f.Fuzz(func(t *testing.T, method, query string) {
		req, err := http.ReadRequest(bufio.NewReader(strings.NewReader("GET " + string(appendTarget(nil, method, query)) + " HTTP/1.1\r\nHost: a\r\n\r\n")))
		if err != nil {
			t.Fatalf("%q %q: %v", method, query, err)
		}
		if query == "" && !strings.Contains(method, "//") && req.URL.Path != "/"+method {
			t.Errorf("%q became %q", method, req.URL.Path)
		}
	})
}

// TestRules calls an app over every HTTP protocol: each has its own code for requests and responses.
func TestRules(t *testing.T) {
	for _, p := range []Protocol{HTTP, HTTPS, H2C} {
		t.Run(string(p), func(t *testing.T) {
			seen := make(chan *http.Request, 1)
			answer := func(w http.ResponseWriter, r *http.Request) {}
			c := serve(t, Options{Protocol: p, APIToken: "secret", AppID: "me", MaxBodySize: 100_000}, func(w http.ResponseWriter, r *http.Request) {
				b, _ := io.ReadAll(r.Body)
				r.Body = io.NopCloser(strings.NewReader(string(b)))
				answer(w, r)
				seen <- r
			})
			t.Run("request", func(t *testing.T) {
				req := &invocation.Request{
					Verb: "PUT", Method: "a b/c%41", Query: "x=1&y=%2F", ContentType: "text/x", Body: []byte("hello"),
					Header: header("X-A: 1", "X-A: 2", "Destination-App-Id: d", "x-bin: AAAA", "Grpc-Timeout: 1S", ":method: m", ":authority: au",
						":other: o", "Connection: X-Hop, close", "X-Hop: gone", "Keep-Alive: 1", "Te: trailers", "Upgrade: x", "Trailer: x",
						"Proxy-Authorization: x", "Http2-Settings: x", "Baggage: one", "baggage: two", "Dapr-Api-Token: client", "Content-Type: wrong",
						"content-length: 77", "Host: evil", "Expect: 100-continue", "Traceparent: tp", "bad name: x", "Authorization: Basic x"),
				}
				resp, err := c.Invoke(t.Context(), req)
				if err != nil {
					t.Fatal(err)
				}
				resp.Close()
				r := <-seen
				if r.Method != "PUT" || r.RequestURI != "/a%20b/c%2541?x=1&y=%2F" || r.URL.Path != "/a b/c%41" {
					t.Errorf("%s %s", r.Method, r.RequestURI)
				}
				if _, port, _ := net.SplitHostPort(r.Host); !strings.HasPrefix(r.Host, "127.0.0.1:") || port == "" {
					t.Errorf("host %s", r.Host)
				}
				r.Header.Del("Content-Length")
				var got []string
				for name, values := range r.Header {
					for _, v := range values {
						got = append(got, name+": "+v)
					}
				}
				slices.Sort(got)
				want := []string{
					"Authorization: Basic x", "Baggage: one", "Content-Type: text/x", "Dapr-Api-Token: secret", "Dapr-Authority: au",
					"Dapr-Grpc-Timeout: 1S", "Dapr-Method: m", "Traceparent: tp", "X-A: 1", "X-A: 2",
				}
				if !slices.Equal(got, want) {
					t.Errorf("got  %q\nwant %q", got, want)
				}
				if b, _ := io.ReadAll(r.Body); string(b) != "hello" || r.ContentLength != 5 {
					t.Errorf("body %q of %d", b, r.ContentLength)
				}
			})
			t.Run("gRPC trace", func(t *testing.T) {
				const trace = "00-0102030405060708090a0b0c0d0e0f10-0102030405060708-01"
				req := &invocation.Request{
					Verb: "GET", Origin: invocation.FromGRPC,
					Header: header("grpc-trace-bin: AAABAgMEBQYHCAkKCwwNDg8QAQECAwQFBgcIAgE=", "tracestate-bin: YT1i"),
				}
				if resp, err := c.Invoke(t.Context(), req); err != nil || resp.Status != 200 {
					t.Fatal(resp, err)
				}
				if r := <-seen; r.Header.Get("Traceparent") != trace || r.Header.Get("Tracestate") != "a=b" || len(r.Header["Grpc-Trace-Bin"]) > 0 {
					t.Errorf("%v", r.Header)
				}
			})
			t.Run("verbs", func(t *testing.T) {
				for verb, want := range map[string]string{
					"GET": "GET", "HEAD": "HEAD", "POST": "POST", "PUT": "PUT", "DELETE": "DELETE",
					"OPTIONS": "OPTIONS", "TRACE": "TRACE", "PATCH": "PATCH", "PROPFIND": "POST",
				} {
					resp, err := c.Invoke(t.Context(), &invocation.Request{Verb: verb, Method: "x"})
					if err != nil {
						t.Fatal(verb, err)
					}
					resp.Close()
					if r := <-seen; r.Method != want {
						t.Errorf("%s became %s", verb, r.Method)
					}
				}
				for _, verb := range []string{"", "NONE", "CONNECT"} {
					if _, err := c.Invoke(t.Context(), &invocation.Request{Verb: verb}); err == nil || err.Error() != "invalid HTTP verb" {
						t.Errorf("%s: %v", verb, err)
					}
				}
			})
			t.Run("config", func(t *testing.T) {
				answer = func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, `{"entities":[]}`) }
				text, err := c.Config(t.Context())
				r := <-seen
				if string(text) != `{"entities":[]}` || err != nil || r.URL.Path != "/dapr/config" || r.Header.Get("Dapr-App-Id") != "me" ||
					r.Header.Get("Content-Type") != "application/json" || r.Header.Get("Dapr-Api-Token") != "secret" {
					t.Errorf("%s %v %v", text, err, r)
				}
				answer = func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(404); io.WriteString(w, "x") }
				if text, err := c.Config(t.Context()); text != nil || err != nil {
					t.Errorf("%s %v", text, err)
				}
				<-seen
			})
			large := strings.Repeat("0123456789", 5000)
			responses := map[string]struct {
				status   int
				header   []string
				body     string
				flush    bool
				streamed bool // the request
				want     []string
				typ      string
				stream   bool // the response
			}{
				"small":           {status: 201, header: []string{"Content-Type: a/b", "X-A: 1", "X-A: 2"}, body: "hi", want: []string{"X-A: 1", "X-A: 2"}, typ: "a/b"},
				"empty":           {status: 204},
				"dropped":         {status: 200, header: []string{"Keep-Alive: 1", "X-Bin: AA", "Grpc-Status: 3", "Proxy-Authenticate: x"}, want: []string{"dapr-Grpc-Status: 3"}},
				"cookies":         {status: 200, header: []string{"Set-Cookie: a=1", "Set-Cookie: b=2"}, want: []string{"Set-Cookie: a=1", "Set-Cookie: b=2"}},
				"chunked":         {status: 200, header: []string{"Content-Type: a/b"}, body: "hi", flush: true, typ: "a/b", stream: true},
				"large":           {status: 200, header: []string{"Content-Type: a/b"}, body: large, typ: "a/b", stream: true},
				"redirect":        {status: 307, header: []string{"Location: /else", "Content-Type: a/b"}, want: []string{"Location: /else"}, typ: "a/b"},
				"error":           {status: 500, header: []string{"Content-Type: a/b"}, body: large, flush: true, typ: "a/b"},
				"error, no type":  {status: 404, typ: "application/json"},
				"error, streamed": {status: 500, header: []string{"Content-Type: a/b"}, body: large, flush: true, streamed: true, typ: "a/b", stream: true},
				"error, huge":     {status: 500, header: []string{"Content-Type: a/b"}, body: strings.Repeat(large, 10), flush: true, typ: "a/b", stream: true},
			}
			for name, test := range responses {
				t.Run(name, func(t *testing.T) {
					answer = func(w http.ResponseWriter, r *http.Request) {
						w.Header()["Date"] = nil
						w.Header()["Content-Type"] = nil
						for _, f := range header(test.header...) {
							w.Header()[string(f.Name)] = append(w.Header()[string(f.Name)], string(f.Value))
						}
						if !test.flush && test.status != 204 {
							w.Header().Set("Content-Length", fmt.Sprint(len(test.body)))
						}
						w.WriteHeader(test.status)
						if test.flush {
							http.NewResponseController(w).Flush()
						}
						io.WriteString(w, test.body)
					}
					req := &invocation.Request{Verb: "POST", Method: "x"}
					if test.streamed {
						req.Stream, req.Length = strings.NewReader("abc"), -1
					}
					resp, err := c.Invoke(t.Context(), req)
					if err != nil {
						t.Fatal(err)
					}
					if resp.Stream == nil != !test.stream {
						t.Errorf("stream %v", resp.Stream)
					}
					if !test.flush && resp.Length != int64(len(test.body)) || test.flush && test.stream && resp.Length != -1 {
						t.Errorf("length %d", resp.Length)
					}
					if b := body(t, resp); b != test.body {
						t.Errorf("body %.30q of %d bytes", b, len(b))
					}
					if resp.Status != test.status || !slices.Equal(lines(resp.Header), test.want) || resp.ContentType != test.typ {
						t.Errorf("%d %q %q", resp.Status, lines(resp.Header), resp.ContentType)
					}
					if r := <-seen; test.streamed && r.ContentLength != -1 {
						t.Errorf("the request's length is %d", r.ContentLength)
					}
				})
			}
		})
	}
}

func TestContentLength(t *testing.T) {
	c := serve(t, Options{}, func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, r.ContentLength) })
	for value, want := range map[string]string{"3": "3", "": "-1"} {
		req := &invocation.Request{Verb: "POST", Method: "x", Stream: strings.NewReader("abc"), Length: -1}
		if value != "" {
			req.Header.Add("content-length", value)
		}
		resp, err := c.Invoke(t.Context(), req)
		if err != nil || body(t, resp) != want {
			t.Errorf("%q: %s %v", value, resp.Body, err)
		}
	}
	req := &invocation.Request{Verb: "POST", Stream: strings.NewReader("abc"), Length: -1, Header: header("Content-Length: abc")}
	if _, err := c.Invoke(t.Context(), req); err == nil || !strings.Contains(err.Error(), `Content-Length is "abc"`) {
		t.Error(err)
	}
}

// failing is a stream that fails.
type failing struct{}

func (failing) Read([]byte) (int, error) { return 0, invocation.ErrTooLarge }

func TestErrors(t *testing.T) {
	for _, p := range []Protocol{HTTP, H2C} {
		t.Run(string(p), func(t *testing.T) {
			c := serve(t, Options{Protocol: p}, func(w http.ResponseWriter, r *http.Request) {
				switch r.URL.Path {
				case "/die":
					panic(http.ErrAbortHandler)
				case "/large":
					w.Header().Set("X-Large", strings.Repeat("x", 8000))
				case "/cut":
					w.Header().Set("Content-Length", "100000")
					io.WriteString(w, "start")
					http.NewResponseController(w).Flush()
					panic(http.ErrAbortHandler)
				case "/read":
					io.Copy(io.Discard, r.Body)
				}
			})
			if _, err := c.Invoke(t.Context(), &invocation.Request{Verb: "POST", Method: "die"}); err == nil || !strings.HasPrefix(err.Error(), `Post "http://127.0.0.1:`) ||
				p == HTTP && !strings.HasSuffix(err.Error(), `/die": EOF`) {
				t.Errorf("die: %v", err)
			}
			if _, err := c.Invoke(t.Context(), &invocation.Request{Verb: "GET", Method: "large"}); err == nil ||
				p == HTTP && !strings.Contains(err.Error(), "the response header is larger than 4096 bytes; raise --read-buffer-size") {
				t.Errorf("large: %v", err)
			}
			if resp, err := c.Invoke(t.Context(), &invocation.Request{Verb: "GET", Method: "cut"}); err != nil {
				t.Errorf("cut: %v", err)
			} else {
				b, err := io.ReadAll(resp.Stream)
				if string(b) != "start" || err == nil {
					t.Errorf("cut: %q, %v", b, err)
				}
				resp.Close()
			}
			_, err := c.Invoke(t.Context(), &invocation.Request{Verb: "POST", Method: "read", Stream: failing{}, Length: -1})
			if err == nil || !strings.HasSuffix(err.Error(), "stream too large") || !errors.Is(err, invocation.ErrTooLarge) {
				t.Errorf("read: %v", err)
			}
			var call *CallError
			if !errors.As(err, &call) {
				t.Errorf("%T", err)
			}
		})
	}
}

func TestAppDiesAndReturns(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	port := l.Addr().(*net.TCPAddr).Port
	for _, p := range []Protocol{HTTP, H2C} {
		t.Run(string(p), func(t *testing.T) {
			l.Close()
			c, err := New(Options{Protocol: p, Port: port})
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close(t.Context())
			want := fmt.Sprintf(`Get "http://127.0.0.1:%d/m?q=1": dial tcp 127.0.0.1:%d: connect: connection refused`, port, port)
			for range 3 {
				if _, err := c.Invoke(t.Context(), &invocation.Request{Verb: "GET", Method: "m", Query: "q=1"}); err == nil || err.Error() != want {
					t.Errorf("%v, want %s", err, want)
				}
				l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port))
				if err != nil {
					t.Fatal(err)
				}
				s := &http.Server{Handler: http.HandlerFunc(func(http.ResponseWriter, *http.Request) {})}
				s.Protocols = new(http.Protocols)
				s.Protocols.SetHTTP1(true)
				s.Protocols.SetUnencryptedHTTP2(true)
				done := make(chan struct{})
				go func() { defer close(done); s.Serve(l) }()
				for range 2 {
					if resp, err := c.Invoke(t.Context(), &invocation.Request{Verb: "GET", Method: "m"}); err != nil || resp.Status != 200 {
						t.Error(resp, err)
					}
				}
				s.Close()
				<-done
				if p == H2C { // the transport learns of the end a moment later
					apptest.Until(t, "the connection is gone", func() bool {
						conns := c.(*h2cChannel).conns
						conns.mu.Lock()
						defer conns.mu.Unlock()
						return len(conns.all) == 0
					})
				}
			}
		})
	}
}

func TestStreaming(t *testing.T) {
	for _, p := range []Protocol{HTTP, HTTPS, H2C} {
		t.Run(string(p), func(t *testing.T) {
			c := serve(t, Options{Protocol: p}, func(w http.ResponseWriter, r *http.Request) {
				rc := http.NewResponseController(w)
				rc.EnableFullDuplex()
				w.WriteHeader(202)
				rc.Flush()
				b := make([]byte, 100)
				for {
					n, err := r.Body.Read(b)
					io.WriteString(w, strings.ToUpper(string(b[:n])))
					rc.Flush()
					if err != nil {
						return
					}
				}
			})
			in, out := io.Pipe()
			resp, err := c.Invoke(t.Context(), &invocation.Request{Verb: "POST", Method: "x", Stream: in, Length: -1})
			if err != nil || resp.Status != 202 {
				t.Fatal(resp, err)
			}
			for _, word := range []string{"one", "two"} {
				io.WriteString(out, word)
				b := make([]byte, len(word))
				if _, err := io.ReadFull(resp.Stream, b); err != nil || string(b) != strings.ToUpper(word) {
					t.Fatalf("%q %v", b, err)
				}
			}
			out.Close()
			if rest, err := io.ReadAll(resp.Stream); err != nil || len(rest) > 0 {
				t.Errorf("%q %v", rest, err)
			}
			resp.Close()

			// A response that is closed first ends the stream of the request.
			in, out = io.Pipe()
			resp, err = c.Invoke(t.Context(), &invocation.Request{Verb: "POST", Method: "x", Stream: in, Length: -1})
			if err != nil {
				t.Fatal(err)
			}
			resp.Close()
			if _, err := out.Write([]byte("x")); err == nil {
				t.Error("the stream is still read")
			}
		})
	}
}

func TestEventStream(t *testing.T) {
	next := make(chan struct{})
	c := serve(t, Options{}, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/bad" {
			w.WriteHeader(400)
			io.WriteString(w, "no")
			return
		}
		w.Header().Set("Content-Type", "text/event-stream")
		w.WriteHeader(201)
		for i := range 2 {
			fmt.Fprintf(w, "data: %d\n\n", i)
			http.NewResponseController(w).Flush()
			<-next
		}
	})
	req := &invocation.Request{Verb: "GET", Method: "events", EventStream: true, Header: header("Accept: text/event-stream")}
	resp, err := c.Invoke(t.Context(), req)
	if err != nil || resp.Status != 201 || resp.ContentType != "text/event-stream" || resp.Stream == nil {
		t.Fatal(resp, err)
	}
	b := make([]byte, 100)
	for i := range 2 {
		if n, err := resp.Stream.Read(b); err != nil || string(b[:n]) != fmt.Sprintf("data: %d\n\n", i) {
			t.Errorf("%q %v", b[:n], err)
		}
		next <- struct{}{}
	}
	resp.Close()
	req.Method = "bad"
	if resp, err = c.Invoke(t.Context(), req); err != nil || resp.Status != 400 || string(resp.Body) != "no" {
		t.Error(resp, err)
	}
}

func TestCancellation(t *testing.T) {
	for _, p := range []Protocol{HTTP, HTTPS, H2C} {
		t.Run(string(p), func(t *testing.T) {
			started, ended := make(chan struct{}, 1), make(chan struct{}, 1)
			c := serve(t, Options{Protocol: p, MaxConcurrency: 1}, func(w http.ResponseWriter, r *http.Request) {
				if r.URL.Path == "/body" {
					http.NewResponseController(w).Flush()
				}
				started <- struct{}{}
				<-r.Context().Done()
				ended <- struct{}{}
			})
			for _, method := range []string{"header", "body"} {
				ctx, cancel := context.WithCancel(t.Context())
				done := make(chan error)
				go func() {
					resp, err := c.Invoke(ctx, &invocation.Request{Verb: "GET", Method: method})
					if err == nil {
						_, err = resp.Stream.Read(make([]byte, 1))
						resp.Close()
					}
					done <- err
				}()
				<-started
				cancel()
				if err := <-done; !errors.Is(err, context.Canceled) {
					t.Errorf("%s: %v", method, err)
				}
				select {
				case <-ended:
				case <-time.After(5 * time.Second):
					t.Fatalf("%s: the app was not told", method)
				}
			}
		})
	}
}

func TestMaxConcurrency(t *testing.T) {
	for _, p := range []Protocol{HTTP, H2C} {
		t.Run(string(p), func(t *testing.T) {
			var mu sync.Mutex
			running, most := 0, 0
			c := serve(t, Options{Protocol: p, MaxConcurrency: 3}, func(w http.ResponseWriter, r *http.Request) {
				mu.Lock()
				running++
				most = max(most, running)
				mu.Unlock()
				runtime.Gosched()
				mu.Lock()
				running--
				mu.Unlock()
			})
			var calls sync.WaitGroup
			for range 50 {
				calls.Go(func() {
					resp, err := c.Invoke(t.Context(), &invocation.Request{Verb: "GET"})
					if err != nil {
						t.Error(err)
						return
					}
					resp.Close()
				})
			}
			calls.Wait()
			if most > 3 {
				t.Errorf("%d calls at a time", most)
			}
		})
	}
	t.Run("slots are held until the body is closed", func(t *testing.T) {
		c := serve(t, Options{MaxConcurrency: 1}, func(w http.ResponseWriter, r *http.Request) { w.Write(make([]byte, 100_000)) })
		first, err := c.Invoke(t.Context(), &invocation.Request{Verb: "GET"})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
		defer cancel()
		if _, err := c.Invoke(ctx, &invocation.Request{Verb: "GET"}); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%v", err)
		}
		if n, err := io.Copy(io.Discard, first.Stream); n != 100_000 || err != nil {
			t.Error(n, err)
		}
		second, err := c.Invoke(t.Context(), &invocation.Request{Verb: "GET"}) // read to its end is enough
		if err != nil {
			t.Fatal(err)
		}
		second.Close()
		second.Close()
		first.Close()
	})
}

func TestClose(t *testing.T) {
	for _, p := range []Protocol{HTTP, H2C} {
		t.Run(string(p), func(t *testing.T) {
			started := make(chan struct{})
			c := serve(t, Options{Protocol: p}, func(w http.ResponseWriter, r *http.Request) {
				close(started)
				<-r.Context().Done()
			})
			done := make(chan error)
			go func() {
				_, err := c.Invoke(context.Background(), &invocation.Request{Verb: "GET"})
				done <- err
			}()
			<-started
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
			defer cancel()
			if err := c.Close(ctx); !errors.Is(err, context.DeadlineExceeded) {
				t.Error(err)
			}
			if err := <-done; err == nil {
				t.Error("the call was not broken off")
			}
			if _, err := c.Invoke(t.Context(), &invocation.Request{Verb: "GET"}); !errors.Is(err, ErrClosed) {
				t.Error(err)
			}
		})
	}
}

func TestMetrics(t *testing.T) {
	m := metricstest.New(t, "me")
	c := serve(t, Options{Metrics: m}, func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(418) })
	if _, err := c.Invoke(t.Context(), &invocation.Request{Verb: "GET", Method: "tea"}); err != nil {
		t.Fatal(err)
	}
	w := httptest.NewRecorder()
	m.Handler().ServeHTTP(w, httptest.NewRequest("GET", "/", nil))
	if want := `dapr_http_client_completed_count{app_id="me",method="GET",path="/tea",status="418"} 1`; !strings.Contains(w.Body.String(), want) {
		t.Errorf("no %s", want)
	}
}

func TestNoGoroutineStays(t *testing.T) {
	c := serve(t, Options{}, func(w http.ResponseWriter, r *http.Request) { io.Copy(w, r.Body) })
	call := func() {
		resp, err := c.Invoke(t.Context(), &invocation.Request{Verb: "POST", Stream: strings.NewReader("x"), Length: -1})
		if err != nil {
			t.Fatal(err)
		}
		body(t, resp)
	}
	call()
	before := runtime.NumGoroutine()
	for range 20 {
		call()
	}
	apptest.Until(t, "goroutines are gone", func() bool { return runtime.NumGoroutine() <= before })
}

// keyPair makes a certificate for TLS tests, as PEM.
func keyPair(t *testing.T) (certificate, key string) {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, k.Public(), k)
	if err != nil {
		t.Fatal(err)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(k)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})), string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8}))
}

func BenchmarkInvoke(b *testing.B) {
	text := make([]byte, 1024)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	defer l.Close()
	go func() { // a server that does not allocate, so that the figure is the client's
		conn, err := l.Accept()
		if err != nil {
			return
		}
		answer := append([]byte("HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nDate: Mon, 02 Jan 2006 15:04:05 GMT\r\nContent-Length: 1024\r\n\r\n"), text...)
		buffer := make([]byte, 4096)
		for {
			if _, err := conn.Read(buffer); err != nil {
				return
			}
			conn.Write(answer)
		}
	}()
	c, err := New(Options{Port: l.Addr().(*net.TCPAddr).Port, APIToken: "t"})
	if err != nil {
		b.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	defer c.Close(ctx)
	req := &invocation.Request{
		Verb: "GET", Method: "hello/world", Query: "a=b",
		Header: header("Accept: */*", "User-Agent: bench", "Traceparent: 00-0102030405060708090a0b0c0d0e0f10-0102030405060708-01", "X-A: b"),
	}
	b.ReportAllocs()
	for b.Loop() {
		resp, err := c.Invoke(ctx, req)
		if err != nil || len(resp.Body) != 1024 {
			b.Fatal(resp, err)
		}
	}
}
