package e2e

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	runtimev1 "outrigger.dev/api/gen/runtime/v1"
	"outrigger.dev/test/servers"
)

// The time for which taken ports are tried again, and what the process may need on top on a busy machine.
const (
	bindPeriod = 10 * time.Second
	bindSlack  = 8 * time.Second
)

func ipv6(t *testing.T) bool {
	l, err := net.Listen("tcp", "[::1]:0")
	if err != nil {
		t.Logf("no IPv6 loopback: %v", err)
		return false
	}
	_ = l.Close()
	return true
}

func TestListenAddresses(t *testing.T) {
	t.Parallel()
	hosts := []string{"127.0.0.1"}
	if ipv6(t) {
		hosts = append(hosts, "[::1]")
	}
	web, rpc := servers.FreePort(t), servers.FreePort(t)
	d := start(t, memory(), args("--dapr-listen-addresses", strings.Join(hosts, ","), "--dapr-http-port", strconv.Itoa(web), "--dapr-grpc-port", strconv.Itoa(rpc)))
	for _, host := range hosts {
		r, err := request(d.client, "GET", fmt.Sprintf("http://%s:%d/v1.0/healthz/outbound", host, web), nil)
		if err != nil || r.status != 204 {
			t.Errorf("HTTP on %s: %v, %v", host, r.status, err)
		}
		conn, err := grpc.NewClient(fmt.Sprintf("%s:%d", host, rpc), grpc.WithTransportCredentials(insecure.NewCredentials()))
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		if _, err := runtimev1.NewDaprClient(conn).GetMetadata(within(t), &runtimev1.GetMetadataRequest{}); err != nil {
			t.Errorf("gRPC on %s: %v", host, err)
		}
	}
}

func TestOneAddressTaken(t *testing.T) {
	t.Parallel()
	if !ipv6(t) {
		t.Skip("it takes two loopback addresses: switch IPv6 on")
	}
	port := servers.FreePort(t)
	hold(t, fmt.Sprintf("[::1]:%d", port))
	d := start(t, args("--dapr-listen-addresses", "[::1],127.0.0.1", "--dapr-http-port", strconv.Itoa(port)))
	if took := time.Since(d.started); took < bindPeriod-time.Second || took > bindPeriod+bindSlack {
		t.Errorf("the sidecar started after %s, want about %s", took, bindPeriod)
	}
	d.awaitLog(fmt.Sprintf(`"address":"[::1]:%d"`, port))
}

func TestAllAddressesTaken(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ api, flag, text string }{
		{"http", "--dapr-http-port", "Fatal error from runtime: failed to start HTTP server: could not listen on any endpoint"},
		{"grpc", "--dapr-grpc-port", "Fatal error from runtime: failed to start API gRPC server: could not listen on any endpoint"},
	} {
		t.Run(c.api, func(t *testing.T) {
			t.Parallel()
			port := servers.FreePort(t)
			hold(t, fmt.Sprintf("127.0.0.1:%d", port))
			d := launch(t, args(c.flag, strconv.Itoa(port)))
			d.fails(c.text, "address already in use", "choose another "+c.flag, strconv.Itoa(port))
			if took := time.Since(d.started); took < bindPeriod-time.Second || took > bindPeriod+bindSlack {
				t.Errorf("it gave up after %s, want about %s", took, bindPeriod)
			}
		})
	}
}

func TestTakenPortIsTriedAgain(t *testing.T) {
	t.Parallel()
	port := servers.FreePort(t)
	free := hold(t, fmt.Sprintf("127.0.0.1:%d", port))
	d := launch(t, args("--dapr-http-port", strconv.Itoa(port), "--log-level", "debug"))
	d.awaitLog("a port could not be bound yet")
	free()
	d.awaitAPIs()
}

// What is bound once only: no second try, and the remedy in the message.
func TestOtherPortsTaken(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		flag  string
		args  []string
		texts []string
	}{
		{"--dapr-public-port", nil, []string{"failed to start public HTTP server"}},
		{"--metrics-port", []string{"--enable-metrics=true", "--metrics-listen-address", "127.0.0.1"}, []string{"failed to listen on 127.0.0.1:"}},
		{"--profile-port", []string{"--enable-profiling"}, []string{"could not listen on any endpoint for profiling API"}},
	} {
		t.Run(c.flag, func(t *testing.T) {
			t.Parallel()
			port := servers.FreePort(t)
			hold(t, fmt.Sprintf("127.0.0.1:%d", port))
			d := launch(t, args(c.args...), args("--dapr-public-listen-address", "127.0.0.1", c.flag, strconv.Itoa(port)))
			d.fails(append(c.texts, "address already in use", "choose another "+c.flag)...)
			if took := time.Since(d.started); took > bindSlack {
				t.Errorf("it gave up after %s, want it at once", took)
			}
		})
	}
}

func TestAppPortConflicts(t *testing.T) {
	t.Parallel()
	for _, api := range []string{"http", "grpc"} {
		port := strconv.Itoa(servers.FreePort(t))
		d := launch(t, args("--app-port", port, "--dapr-"+api+"-port", port))
		d.fails("the 'dapr-" + api + "-port' argument value " + port + " conflicts with 'app-port'")
	}
}

// socketDir is short, for paths of sockets have about 100 bytes.
func socketDir(t *testing.T) string {
	dir, err := os.MkdirTemp("", "e2e")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

func unixClient(path string) *http.Client {
	return &http.Client{Timeout: limit, Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "unix", path)
	}}}
}

func TestUnixSockets(t *testing.T) {
	t.Parallel()
	dir := socketDir(t)
	web, rpc := filepath.Join(dir, "dapr-app-http.socket"), filepath.Join(dir, "dapr-app-grpc.socket")
	port := servers.FreePort(t)
	launchHere := func() *daprd {
		return launch(t, memory(), args("--unix-domain-socket", dir, "--dapr-http-port", strconv.Itoa(port)))
	}
	d := launchHere()
	client := unixClient(web)
	d.await("the API on the socket", func() bool {
		r, err := request(client, "GET", "http://sidecar/v1.0/healthz/outbound", nil)
		return err == nil && r.status == 204
	})
	conn, err := grpc.NewClient("unix://"+rpc, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := runtimev1.NewDaprClient(conn).SaveState(within(t), saveRequest("k", "1")); err != nil {
		t.Error(err)
	}
	if c, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", port)); err == nil {
		_ = c.Close()
		t.Error("the API listens on TCP beside the socket")
	}
	// A second sidecar of the same app finds the file, which is in use, and must not take it away.
	other := launchHere()
	other.fails("could not listen on any endpoint", "address already in use", "remove the socket")
	if r, err := request(client, "GET", "http://sidecar/v1.0/state/st/k", nil); err != nil || r.body != "1" {
		t.Errorf("after the second sidecar: %v, %v", r, err)
	}
	d.stop()
	for _, path := range []string{web, rpc} {
		if _, err := os.Lstat(path); !os.IsNotExist(err) {
			t.Errorf("%s is left after a graceful end: %v", path, err)
		}
	}
	// A forced end leaves the files, and they make the next start fail.
	d = launchHere()
	d.await("the API on the socket", func() bool {
		r, err := request(client, "GET", "http://sidecar/v1.0/healthz", nil)
		return err == nil && r.status == 204
	})
	d.signal(syscall.SIGKILL)
	d.exit()
	if _, err := os.Lstat(web); err != nil {
		t.Error(err)
	}
	launchHere().fails("address already in use")
}

func TestPublicPort(t *testing.T) {
	t.Parallel()
	port := servers.FreePort(t)
	d := start(t, memory(), env("DAPR_API_TOKEN=secret"), args("--dapr-public-port", strconv.Itoa(port), "--dapr-public-listen-address", "127.0.0.1",
		"--allowed-origins", "*", "--max-body-size", "10", "--enable-api-logging"))
	d.awaitHealthy()
	addr := fmt.Sprintf("127.0.0.1:%d", port)
	do := func(method, path, body string, header ...string) reply {
		t.Helper()
		r, err := request(d.client, method, "http://"+addr+path, strings.NewReader(body), header...)
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	for _, path := range []string{"/v1.0/healthz", "//v1.0//healthz/outbound/"} {
		if r := do("GET", path, "", "Origin", "https://a.example"); r.status != 204 || r.header.Get("Vary") != "" || r.header.Get("Access-Control-Allow-Origin") != "" {
			t.Errorf("%s: %+v", path, r)
		}
	}
	if r := do("PUT", "/v1.0/metadata/color", "longer than the limit of the API port"); r.status != 204 {
		t.Errorf("PUT without a token: %+v", r)
	}
	if r := do("GET", "/v1.0/metadata", ""); r.status != 200 || !strings.Contains(r.body, `"color":"longer than`) {
		t.Errorf("metadata: %+v", r)
	}
	if r := do("PUT", "/v1.0/metadata/big", strings.Repeat("x", 5<<20)); r.status != 400 {
		t.Errorf("5 MiB of metadata without a token: %+v", r.status)
	}
	for _, path := range []string{"/v1.0/state/st/k", "/v1.0/shutdown", "/v1.0/invoke/app/method/x", "/"} {
		if r := do("GET", path, "", "dapr-app-id", "app"); r.status != 404 || r.body != "404 page not found\n" || !strings.HasPrefix(r.header.Get("Content-Type"), "text/plain") {
			t.Errorf("%s: %+v", path, r)
		}
	}
	if r := do("POST", "/v1.0/healthz", ""); r.status != 405 || r.body != "" || r.header.Get("Allow") != "GET" {
		t.Errorf("wrong verb: %+v", r)
	}
	if version, err := priorKnowledge(addr); err == nil {
		t.Errorf("the public port speaks %s", version)
	}
	if strings.Contains(d.out.String(), "metadata/color") {
		t.Error("the public port is in the API log")
	}
	d.stop()
}

// priorKnowledge asks for the health by HTTP/2 without an upgrade.
func priorKnowledge(addr string) (proto string, err error) {
	transport := &http.Transport{Protocols: new(http.Protocols)}
	transport.Protocols.SetUnencryptedHTTP2(true)
	defer transport.CloseIdleConnections()
	r, err := request(&http.Client{Transport: transport, Timeout: 5 * time.Second}, "GET", "http://"+addr+"/v1.0/healthz/outbound", nil)
	if err == nil && r.status != 204 {
		err = fmt.Errorf("status %d", r.status)
	}
	return r.proto, err
}

// upgrade asks for the health in HTTP/1.1 with an upgrade to HTTP/2, and returns the status line of the first answer and the
// status of the request, from whichever protocol it came in.
func upgrade(t *testing.T, addr string) (first, status string) {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(limit))
	fmt.Fprintf(c, "GET /v1.0/healthz/outbound HTTP/1.1\r\nHost: x\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA\r\n\r\n")
	r := bufio.NewReader(c)
	resp, err := http.ReadResponse(r, nil)
	if err != nil {
		t.Fatal(err)
	}
	if resp.StatusCode != http.StatusSwitchingProtocols {
		return resp.Status, resp.Status
	}
	if _, err := io.WriteString(c, http2.ClientPreface); err != nil {
		t.Fatal(err)
	}
	framer := http2.NewFramer(c, r)
	framer.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	if err := framer.WriteSettings(); err != nil {
		t.Fatal(err)
	}
	for {
		frame, err := framer.ReadFrame()
		if err != nil {
			t.Fatal(err)
		}
		if h, ok := frame.(*http2.MetaHeadersFrame); ok {
			return resp.Status, h.PseudoValue("status")
		}
	}
}

func TestH2C(t *testing.T) {
	t.Parallel()
	d := start(t, memory())
	proto, err := priorKnowledge(d.httpAddr())
	if err != nil || proto != "HTTP/2.0" {
		t.Errorf("prior knowledge: %s, %v", proto, err)
	}
	if first, status := upgrade(t, d.httpAddr()); first != "101 Switching Protocols" || status != "204" {
		t.Errorf("upgrade: %s, then %s", first, status)
	}

	transport := &http.Transport{Protocols: new(http.Protocols)}
	transport.Protocols.SetUnencryptedHTTP2(true)
	h1, h2 := d.client, &http.Client{Transport: transport, Timeout: limit}
	defer transport.CloseIdleConnections()
	for _, c := range []struct{ method, path, body string }{
		{"POST", "/v1.0/state/st", `[{"key":"k","value":{"a":1}}]`},
		{"GET", "/v1.0/state/st/k", ""},
		{"GET", "/v1.0/state/st/missing", ""},
		{"GET", "/v1.0/state/none/k", ""},
		{"HEAD", "/v1.0/state/st/k", ""},
		{"GET", "/v9", ""},
	} {
		want, err := request(h1, c.method, d.url+c.path, strings.NewReader(c.body))
		if err != nil {
			t.Fatal(err)
		}
		got, err := request(h2, c.method, d.url+c.path, strings.NewReader(c.body))
		if err != nil {
			t.Fatal(err)
		}
		if got.proto != "HTTP/2.0" || got.status != want.status || got.body != want.body || got.header.Get("Content-Type") != want.header.Get("Content-Type") || got.header.Get("Etag") == "" != (want.header.Get("Etag") == "") {
			t.Errorf("%s %s: HTTP/2 answers %+v, HTTP/1.1 %+v", c.method, c.path, got, want)
		}
	}
	d.stop()
}

func TestH2CSwitchedOff(t *testing.T) {
	t.Parallel()
	d := start(t, env("DAPR_HTTP_DISABLE_H2C=Yes"))
	if proto, err := priorKnowledge(d.httpAddr()); err == nil {
		t.Errorf("prior knowledge: %s", proto)
	}
	if first, _ := upgrade(t, d.httpAddr()); first != "204 No Content" {
		t.Errorf("upgrade: %s, want it ignored", first)
	}
}

func TestProfiling(t *testing.T) {
	t.Parallel()
	port := servers.FreePort(t)
	d := start(t, env("DAPR_API_TOKEN=secret"), args("--enable-profiling", "--profile-port", strconv.Itoa(port)))
	r, err := request(d.client, "GET", fmt.Sprintf("http://127.0.0.1:%d/debug/pprof/", port), nil)
	if err != nil || r.status != 200 || !strings.Contains(r.body, "goroutine") {
		t.Errorf("%v, %v", r.status, err)
	}
}
