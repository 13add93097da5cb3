package e2e

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	commonv1 "outrigger.dev/api/gen/common/v1"
	runtimev1 "outrigger.dev/api/gen/runtime/v1"

	reflectionv1 "google.golang.org/grpc/reflection/grpc_reflection_v1"
	"outrigger.dev/test/servers"
)

// slow is an app whose calls wait.
type slow struct {
	entered chan struct{} // has one entry for each call that came
	release chan struct{} // closed lets all go
	free    func()
	port    int
}

func newSlow(t *testing.T) *slow {
	s := &slow{entered: make(chan struct{}, 100), release: make(chan struct{})}
	s.free = sync.OnceFunc(func() { close(s.release) })
	s.port = app(t, s.serve)
	t.Cleanup(s.free) // before the app is closed, which waits for its calls
	return s
}

func (s *slow) serve(w http.ResponseWriter, r *http.Request) {
	if r.URL.Path == "/stream" {
		_, _ = io.WriteString(w, "first ")
		w.(http.Flusher).Flush()
	}
	s.entered <- struct{}{}
	<-s.release
	_, _ = io.WriteString(w, "done")
}

type outcome struct {
	reply reply
	err   error
}

// background runs a call and brings its outcome.
func background(call func() (reply, error)) <-chan outcome {
	done := make(chan outcome, 1)
	go func() {
		r, err := call()
		done <- outcome{r, err}
	}()
	return done
}

func TestSigtermLetsCallsFinish(t *testing.T) {
	t.Parallel()
	s := newSlow(t)
	d := start(t, appPort(s.port), args("--dapr-graceful-shutdown-seconds", "60"))
	d.awaitHealthy()
	transport := &http.Transport{Protocols: new(http.Protocols)}
	transport.Protocols.SetUnencryptedHTTP2(true)
	defer transport.CloseIdleConnections()
	invoke := func(client *http.Client, path string) func() (reply, error) {
		return func() (reply, error) { return request(client, "GET", d.url+"/v1.0/invoke/app/method/"+path, nil) }
	}
	calls := map[string]<-chan outcome{
		"HTTP/1.1": background(invoke(d.client, "x")),
		"a stream": background(invoke(d.client, "stream")),
		"HTTP/2":   background(invoke(&http.Client{Transport: transport, Timeout: limit}, "x")),
		"gRPC": background(func() (reply, error) {
			r, err := d.dapr().InvokeService(within(t), &runtimev1.InvokeServiceRequest{Id: "app", Message: &commonv1.InvokeRequest{Method: "x", HttpExtension: &commonv1.HTTPExtension{Verb: commonv1.HTTPExtension_GET}}})
			return reply{status: 200, body: string(r.GetData().GetValue())}, err
		}),
	}
	for range calls {
		<-s.entered
	}
	idle, err := net.Dial("tcp", d.httpAddr()) // never says anything
	if err != nil {
		t.Fatal(err)
	}
	defer idle.Close()
	d.signal(syscall.SIGTERM)
	d.awaitLog("Dapr is shutting down")
	d.await("the listener to be closed", func() bool {
		c, err := net.Dial("tcp", d.httpAddr())
		if err == nil {
			_ = c.Close()
		}
		return err != nil
	})
	for name, call := range calls {
		select {
		case o := <-call:
			t.Errorf("%s ended early: %+v", name, o)
		default:
		}
	}
	s.free()
	for name, call := range calls {
		if o := <-call; o.err != nil || o.reply.status != 200 || !strings.HasSuffix(o.reply.body, "done") {
			t.Errorf("%s: %+v", name, o)
		}
	}
	if code := d.exit(); code != 0 {
		t.Errorf("exit code %d", code)
	}
	d.awaitLog("Daprd shutdown gracefully")
}

// Clients that do nothing do not hold the sidecar at all.
func TestIdleClientsDoNotHoldTheExit(t *testing.T) {
	t.Parallel()
	d := start(t, memory(), args("--dapr-graceful-shutdown-seconds", "60"))
	d.awaitHealthy() // leaves a connection that is kept alive
	if _, err := d.dapr().GetMetadata(within(t), &runtimev1.GetMetadataRequest{}); err != nil {
		t.Fatal(err)
	}
	if proto, err := priorKnowledge(d.httpAddr()); err != nil {
		t.Fatal(proto, err)
	}
	for _, text := range []string{"", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"} {
		c, err := net.Dial("tcp", d.httpAddr())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if _, err := io.WriteString(c, text); err != nil {
			t.Fatal(err)
		}
	}
	before := time.Now()
	d.stop()
	if took := time.Since(before); took > 5*time.Second {
		t.Errorf("it took %s", took)
	}
}

// Clients that hold a call open cannot hold the sidecar longer than the graceful period.
func TestHangingClientsCannotHoldTheExit(t *testing.T) {
	t.Parallel()
	for name, hang := range map[string]func(t *testing.T, d *daprd, s *slow){
		"HTTP": func(_ *testing.T, d *daprd, s *slow) {
			background(func() (reply, error) { return request(d.client, "GET", d.url+"/v1.0/invoke/app/method/x", nil) })
			<-s.entered
		},
		"a stream over HTTP": func(t *testing.T, d *daprd, s *slow) {
			resp, err := d.client.Get(d.url + "/v1.0/invoke/app/method/stream")
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = resp.Body.Close() })
			<-s.entered
		},
		"HTTP/2": func(t *testing.T, d *daprd, s *slow) {
			transport := &http.Transport{Protocols: new(http.Protocols)}
			transport.Protocols.SetUnencryptedHTTP2(true)
			background(func() (reply, error) {
				return request(&http.Client{Transport: transport, Timeout: limit}, "GET", d.url+"/v1.0/invoke/app/method/x", nil)
			})
			<-s.entered
		},
		"an upgrade to HTTP/2": func(t *testing.T, d *daprd, s *slow) {
			c, err := net.Dial("tcp", d.httpAddr())
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = c.Close() })
			fmt.Fprintf(c, "GET /v1.0/invoke/app/method/x HTTP/1.1\r\nHost: x\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA\r\n\r\nPRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00")
			<-s.entered
		},
		"half a body": func(t *testing.T, d *daprd, _ *slow) {
			c, err := net.Dial("tcp", d.httpAddr())
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = c.Close() })
			fmt.Fprintf(c, "POST /v1.0/state/st HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 100000\r\n\r\n")
			if line, err := bufio.NewReader(c).ReadString('\n'); err != nil || !strings.Contains(line, "100 Continue") {
				t.Fatalf("%q, %v", line, err)
			}
			fmt.Fprint(c, "[{")
		},
		"an open gRPC stream": func(t *testing.T, d *daprd, _ *slow) {
			stream, err := reflectionv1.NewServerReflectionClient(d.grpc()).ServerReflectionInfo(within(t))
			if err != nil {
				t.Fatal(err)
			}
			if err := stream.Send(&reflectionv1.ServerReflectionRequest{MessageRequest: &reflectionv1.ServerReflectionRequest_ListServices{}}); err != nil {
				t.Fatal(err)
			}
			if _, err := stream.Recv(); err != nil {
				t.Fatal(err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newSlow(t)
			d := start(t, memory(), appPort(s.port), args("--dapr-graceful-shutdown-seconds", "1"))
			d.awaitHealthy()
			hang(t, d, s)
			before := time.Now()
			d.signal(syscall.SIGTERM)
			d.fails("Graceful shutdown timeout exceeded, forcing shutdown")
			if took := time.Since(before); took < 900*time.Millisecond || took > 6*time.Second {
				t.Errorf("it took %s, want little more than a second", took)
			}
		})
	}
}

func TestSecondSignal(t *testing.T) {
	t.Parallel()
	s := newSlow(t)
	d := start(t, appPort(s.port), args("--dapr-graceful-shutdown-seconds", "0"))
	d.awaitHealthy()
	d.awaitLog("Graceful shutdown timeout is infinite, will wait indefinitely to shutdown")
	background(func() (reply, error) { return request(d.client, "GET", d.url+"/v1.0/invoke/app/method/x", nil) })
	<-s.entered
	d.signal(syscall.SIGTERM)
	d.awaitLog("Received signal 'terminated'; beginning shutdown")
	d.signal(os.Interrupt)
	d.fails("Received signal 'interrupt' during shutdown; exiting immediately")
}

func TestSignalsWhileStarting(t *testing.T) {
	t.Parallel()
	port := servers.FreePort(t)
	free := hold(t, fmt.Sprintf("127.0.0.1:%d", port))
	options := []option{args("--dapr-http-port", fmt.Sprint(port), "--log-level", "debug", "--dapr-block-shutdown-duration", "1h")}
	d := launch(t, options...)
	d.awaitLog("a port could not be bound yet")
	before := time.Now()
	d.stop()
	if took := time.Since(before); took > 5*time.Second {
		t.Errorf("SIGTERM while starting took %s", took)
	}
	d = launch(t, options...)
	d.awaitLog("a port could not be bound yet")
	d.signal(syscall.SIGHUP)
	d.awaitLog("Received signal 'hangup'; restarting")
	free()
	d.awaitAPIs()
}

func TestSighup(t *testing.T) {
	t.Parallel()
	port := servers.FreePort(t)
	end := serve(t, port, echo)
	dir := t.TempDir()
	configuration := filepath.Join(t.TempDir(), "config.yaml")
	write(t, configuration, "spec: {}\n")
	d := start(t, knownPorts(), resourceDir(dir), appPort(port), args("--config", configuration))
	d.awaitHealthy()
	if n := d.names(); n != "" {
		t.Errorf("components at first: %s", n)
	}
	reload := func() {
		t.Helper()
		n := strings.Count(d.out.String(), "HTTP server is running")
		d.signal(syscall.SIGHUP)
		d.await("the new start", func() bool { return strings.Count(d.out.String(), "HTTP server is running") > n })
		d.awaitAPIs()
	}
	write(t, filepath.Join(dir, "a.yaml"), component("st", "state.in-memory"))
	reload()
	if n := d.names(); n != "st" {
		t.Errorf("components after SIGHUP: %s", n)
	}
	d.awaitLog("Received signal 'hangup'; restarting")
	d.awaitHealthy()
	if r := d.get("/v1.0/invoke/app/method/x"); r.body != "GET /x 0" {
		t.Errorf("invocation after SIGHUP: %+v", r)
	}
	if _, err := d.dapr().SaveState(within(t), saveRequest("k", "1")); err != nil {
		t.Errorf("gRPC after SIGHUP: %v", err)
	}
	// The Configuration is read again, and the state in memory is gone.
	write(t, configuration, "spec:\n  api:\n    denied:\n    - {name: metadata, version: v1, protocol: http}\n")
	reload()
	d.get("/v1.0/metadata").isError(t, 404, "ERR_DIRECT_INVOKE", noTarget)
	if r := d.get("/v1.0/state/st/k"); r.status != 204 {
		t.Errorf("%+v", r)
	}
	end()
	// A start that fails ends the process.
	write(t, filepath.Join(dir, "b.yaml"), component("st", "state.in-memory"))
	d.signal(syscall.SIGHUP)
	d.fails("Fatal error from runtime: failed to load components: duplicate definition of Component name st")
}

func TestBlockShutdown(t *testing.T) {
	t.Parallel()
	t.Run("for its duration", func(t *testing.T) {
		t.Parallel()
		d := start(t, memory(), args("--dapr-block-shutdown-duration", "1s"))
		before := time.Now()
		d.signal(syscall.SIGTERM)
		d.awaitLog("Blocking graceful shutdown for 1s or until app reports unhealthy...")
		if r := d.post("/v1.0/state/st", `[{"key":"k","value":1}]`); r.status != 204 {
			t.Errorf("while blocking: %+v", r)
		}
		if _, err := d.dapr().GetMetadata(within(t), &runtimev1.GetMetadataRequest{}); err != nil {
			t.Errorf("while blocking: %v", err)
		}
		if code := d.exit(); code != 0 || time.Since(before) < time.Second {
			t.Errorf("exit code %d after %s", code, time.Since(before))
		}
		d.awaitLog("Block shutdown period expired, entering shutdown...")
	})
	t.Run("until the app is unhealthy", func(t *testing.T) {
		t.Parallel()
		var status atomic.Int32
		status.Store(200)
		d := start(t, appPort(app(t, func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/healthz" {
				w.WriteHeader(int(status.Load()))
				return
			}
			echo(w, r)
		})), args("--dapr-block-shutdown-duration", "1h", "--enable-app-health-check", "--app-health-probe-interval", "1", "--app-health-threshold", "1"))
		d.awaitLog("App entered healthy status")
		d.signal(syscall.SIGTERM)
		d.awaitLog("Blocking graceful shutdown for 1h0m0s")
		if r := d.get("/v1.0/invoke/app/method/x"); r.body != "GET /x 0" {
			t.Errorf("while blocking: %+v", r)
		}
		status.Store(500)
		if code := d.exit(); code != 0 {
			t.Errorf("exit code %d", code)
		}
		d.awaitLog("App reported unhealthy, entering shutdown...")
	})
	t.Run("not if the app never was healthy", func(t *testing.T) {
		t.Parallel()
		d := start(t, appPort(servers.FreePort(t)), args("--dapr-block-shutdown-duration", "1h", "--enable-app-health-check"))
		d.stop()
	})
	t.Run("until a second signal", func(t *testing.T) {
		t.Parallel()
		d := start(t, args("--dapr-block-shutdown-duration", "1h"))
		d.signal(syscall.SIGTERM)
		d.awaitLog("Blocking graceful shutdown")
		d.signal(syscall.SIGTERM)
		d.fails("Received signal 'terminated' during shutdown; exiting immediately")
	})
	t.Run("until the API ends it", func(t *testing.T) {
		t.Parallel()
		d := start(t, args("--dapr-block-shutdown-duration", "1h"))
		d.signal(syscall.SIGTERM)
		d.awaitLog("Blocking graceful shutdown")
		d.post("/v1.0/shutdown", "")
		if code := d.exit(); code != 0 {
			t.Errorf("exit code %d", code)
		}
	})
}
