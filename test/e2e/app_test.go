package e2e

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"testing"
)

// app is an HTTP app on a port of its own.
func app(t *testing.T, handler http.HandlerFunc) (port int) {
	s := httptest.NewServer(withConfig(handler))
	t.Cleanup(s.Close)
	return s.Listener.Addr().(*net.TCPAddr).Port
}

// withConfig answers what the sidecar asks of an app by itself.
func withConfig(handler http.HandlerFunc) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasPrefix(r.URL.Path, "/dapr/") {
			http.NotFound(w, r)
			return
		}
		handler(w, r)
	})
}

// serve runs an app on a given port until the returned function ends it.
func serve(t *testing.T, port int, handler http.HandlerFunc) (end func()) {
	t.Helper()
	var l net.Listener
	await(t, "the app's port to be free", func() (ok bool) {
		var err error
		l, err = net.Listen("tcp", "127.0.0.1:"+strconv.Itoa(port))
		return err == nil
	})
	s := &httptest.Server{Listener: l, Config: &http.Server{Handler: withConfig(handler)}}
	s.Start()
	end = sync.OnceFunc(func() { s.CloseClientConnections(); s.Close() })
	t.Cleanup(end)
	return end
}

// echo answers with what was asked.
func echo(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		http.Error(w, err.Error(), 500)
		return
	}
	fmt.Fprintf(w, "%s %s %d", r.Method, r.URL.RequestURI(), len(body))
}

// hold keeps a port taken until the test, or the returned function, ends it.
func hold(t *testing.T, address string) (free func()) {
	t.Helper()
	l, err := net.Listen("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	free = func() { _ = l.Close() }
	t.Cleanup(free)
	return free
}
