package servers

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"syscall"
	"testing"
)

// ZipkinServer is one Zipkin server that keeps its spans in memory.
type ZipkinServer struct {
	Server
	// Endpoint is where spans are posted to.
	Endpoint string
}

// ZipkinSpan is a span as Zipkin shows it.
type ZipkinSpan struct {
	TraceID       string `json:"traceId"`
	ParentID      string `json:"parentId"`
	ID            string `json:"id"`
	Kind          string `json:"kind"`
	Name          string `json:"name"` // in lower case
	Timestamp     int64  `json:"timestamp"`
	Duration      int64  `json:"duration"`
	LocalEndpoint struct {
		ServiceName string `json:"serviceName"` // in lower case
	} `json:"localEndpoint"`
	RemoteEndpoint struct {
		ServiceName string `json:"serviceName"`
	} `json:"remoteEndpoint"`
	Tags map[string]string `json:"tags"`
}

// Zipkin returns a running Zipkin server. Tests that share it keep apart by the IDs of traces. It takes some seconds to start.
func Zipkin(tb testing.TB, opts ...Option) *ZipkinServer {
	tb.Helper()
	n := acquire(tb, kindZipkin, opts, launchZipkin)
	return &ZipkinServer{Server: bind(tb, n.process), Endpoint: "http://" + loopback(n.process.port) + "/api/v2/spans"}
}

// Trace are the spans of a trace that have arrived.
func (s *ZipkinServer) Trace(ctx context.Context, id string) []ZipkinSpan {
	s.tb.Helper()
	var spans []ZipkinSpan
	s.check(zipkinGet(ctx, s.Port, "/api/v2/trace/"+id, &spans))
	return spans
}

// zipkinGet asks Zipkin for something; what it does not have leaves into as it is.
func zipkinGet(ctx context.Context, port int, path string, into any) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+loopback(port)+path, nil)
	if err != nil {
		return err
	}
	resp, err := (&http.Client{Transport: &http.Transport{DisableKeepAlives: true}}).Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	switch resp.StatusCode {
	case http.StatusOK:
		return json.NewDecoder(resp.Body).Decode(into)
	case http.StatusNotFound:
		return nil
	}
	text, _ := io.ReadAll(io.LimitReader(resp.Body, 1<<10))
	return fmt.Errorf("zipkin answers %s with %s: %s", path, resp.Status, text)
}

type zipkinNode struct{ process *process }

func (n *zipkinNode) processes() []*process { return []*process{n.process} }

func (n *zipkinNode) ready() error { return nil } // it answers, which is all there is

func launchZipkin(dir string, o options) (*zipkinNode, error) {
	java, err := exec.LookPath("java")
	cache, cacheErr := cacheDir()
	jars, _ := filepath.Glob(filepath.Join(cache, "zipkin", "zipkin-[0-9]*.jar"))
	if err != nil || cacheErr != nil || len(jars) == 0 {
		return nil, &missingError{"Zipkin (its jar, java)", "test/setup/zipkin.sh"}
	}
	port, held, err := reservePort()
	if err != nil {
		return nil, err
	}
	env := []string{"QUERY_PORT=" + strconv.Itoa(port), "STORAGE_TYPE=mem", "SELF_TRACING_ENABLED=false"}
	for _, s := range o.settings {
		env = append(env, s.name+"="+s.value)
	}
	n := &zipkinNode{&process{
		name: "Zipkin", command: java, dir: dir, port: port, held: held, env: env,
		args:       []string{"-Xms64m", "-Xmx256m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-XX:-UsePerfData", "-Djava.io.tmpdir=" + dir, "-jar", slices.Max(jars)},
		stopSignal: syscall.SIGTERM, discardSignal: syscall.SIGKILL,
		ping: func(ctx context.Context) error {
			var services []string
			return zipkinGet(ctx, port, "/api/v2/services", &services)
		},
	}}
	if err := n.process.start(); err != nil {
		n.process.discard()
		return nil, err
	}
	return n, nil
}

// lookCached finds a program that a script of test/setup built.
func lookCached(name string) (string, bool) {
	cache, err := cacheDir()
	if err != nil {
		return "", false
	}
	path := filepath.Join(cache, "bin", name)
	info, err := os.Stat(path)
	return path, err == nil && info.Mode()&0o111 != 0
}
