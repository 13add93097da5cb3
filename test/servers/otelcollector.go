package servers

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"
)

// otlpHTTPGap is from the port of OTLP over gRPC to the one of OTLP over HTTP.
const otlpHTTPGap = 1

// OTelServer is one OpenTelemetry collector. Addr takes OTLP over gRPC.
type OTelServer struct {
	Server
	// HTTPAddr takes OTLP over HTTP.
	HTTPAddr string
	// TLS is what clients need under the option [TLS], with which both speak TLS only; nil without it.
	TLS *Certificates
	// CAFile is the file with the authority of the certificates under the option [TLS].
	CAFile string

	out string
}

// OTelSpan is a span as it arrived at the collector.
type OTelSpan struct {
	Service       string // of its resource
	Resource      map[string]string
	Scope         string
	TraceID       string `json:"traceId"`
	SpanID        string `json:"spanId"`
	ParentSpanID  string `json:"parentSpanId"`
	TraceState    string `json:"traceState"`
	Name          string `json:"name"`
	Kind          int    `json:"kind"` // 1 internal, 2 server, 3 client, 4 producer, 5 consumer
	StatusCode    int    // 0 unset, 1 ok, 2 error
	StatusMessage string
	Attributes    map[string]string
}

// OTelCollector returns a running collector. Tests that share it keep apart by the IDs of traces.
func OTelCollector(tb testing.TB, opts ...Option) *OTelServer {
	tb.Helper()
	n := acquire(tb, kindOTel, opts, launchOTel)
	return &OTelServer{Server: bind(tb, n.process), HTTPAddr: loopback(n.process.port + otlpHTTPGap), TLS: n.tls, CAFile: n.ca, out: n.out}
}

// Trace are the spans of a trace that have arrived.
func (s *OTelServer) Trace(id string) []OTelSpan {
	s.tb.Helper()
	text, err := os.ReadFile(s.out)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	s.check(err)
	var found []OTelSpan
	for line := range bytes.Lines(text) {
		if line[len(line)-1] != '\n' { // it is being written
			break
		}
		spans, err := readOTLP(line)
		s.check(err)
		for _, span := range spans {
			if span.TraceID == id {
				found = append(found, span)
			}
		}
	}
	return found
}

type otlpAttributes []struct {
	Key   string `json:"key"`
	Value struct {
		StringValue string `json:"stringValue"`
	} `json:"value"`
}

func (a otlpAttributes) texts() map[string]string {
	m := map[string]string{}
	for _, kv := range a {
		m[kv.Key] = kv.Value.StringValue
	}
	return m
}

// readOTLP reads one export in OTLP's JSON.
func readOTLP(line []byte) ([]OTelSpan, error) {
	var export struct {
		ResourceSpans []struct {
			Resource struct {
				Attributes otlpAttributes `json:"attributes"`
			} `json:"resource"`
			ScopeSpans []struct {
				Scope struct {
					Name string `json:"name"`
				} `json:"scope"`
				Spans []struct {
					OTelSpan
					Attributes otlpAttributes `json:"attributes"`
					Status     struct {
						Code    int    `json:"code"`
						Message string `json:"message"`
					} `json:"status"`
				} `json:"spans"`
			} `json:"scopeSpans"`
		} `json:"resourceSpans"`
	}
	if err := json.Unmarshal(line, &export); err != nil {
		return nil, fmt.Errorf("servers: the collector wrote %q: %w", line, err)
	}
	var spans []OTelSpan
	for _, r := range export.ResourceSpans {
		for _, scope := range r.ScopeSpans {
			for _, s := range scope.Spans {
				span := s.OTelSpan
				span.Resource, span.Scope, span.Attributes = r.Resource.Attributes.texts(), scope.Scope.Name, s.Attributes.texts()
				span.Service = span.Resource["service.name"]
				span.StatusCode, span.StatusMessage = s.Status.Code, s.Status.Message
				spans = append(spans, span)
			}
		}
	}
	return spans, nil
}

type otelNode struct {
	process *process
	tls     *Certificates
	ca, out string
}

func (n *otelNode) processes() []*process { return []*process{n.process} }

func (n *otelNode) ready() error { return nil } // it answers, which is all there is

func launchOTel(dir string, o options) (*otelNode, error) {
	program, ok := lookCached("otlp-collector")
	if !ok {
		return nil, &missingError{"an OpenTelemetry collector", "test/setup/collector.sh"}
	}
	n := &otelNode{out: filepath.Join(dir, "spans.jsonl")}
	var tls []string
	if o.tls {
		certs, files, err := makeCertificates(dir)
		if err != nil {
			return nil, err
		}
		n.tls, n.ca = certs, files.ca
		tls = []string{"-cert", files.cert, "-key", files.key}
	}
	port, held, err := reservePort(otlpHTTPGap)
	if err != nil {
		return nil, err
	}
	n.process = &process{
		name: "the OpenTelemetry collector", command: program, dir: dir, port: port, held: held,
		args:       append([]string{"-grpc", loopback(port), "-http", loopback(port + otlpHTTPGap), "-out", n.out}, tls...),
		stopSignal: syscall.SIGTERM, discardSignal: syscall.SIGKILL,
		ping: func(ctx context.Context) error {
			for _, p := range []int{port, port + otlpHTTPGap} {
				c, err := (&net.Dialer{}).DialContext(ctx, "tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(p)))
				if err != nil {
					return err
				}
				_ = c.Close()
			}
			return nil
		},
	}
	if err := n.process.start(); err != nil {
		n.process.discard()
		return nil, err
	}
	return n, nil
}
