package export

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"time"

	"go.opentelemetry.io/otel/codes"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"
)

// zipkinTimeout bounds one export.
const zipkinTimeout = 10 * time.Second

// zipkin posts spans as Zipkin's JSON, version 2. OpenTelemetry's own exporter is to be removed in 2027, so this one is ours; it
// translates as OpenTelemetry specifies ("SDK exporters: Zipkin").
type zipkin struct {
	url    string
	client *http.Client
}

func newZipkin(url string) *zipkin {
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.MaxIdleConns = 1
	return &zipkin{url: url, client: &http.Client{Transport: transport, Timeout: zipkinTimeout}}
}

type zipkinSpan struct {
	TraceID   string            `json:"traceId"`
	ParentID  string            `json:"parentId,omitempty"`
	ID        string            `json:"id"`
	Kind      string            `json:"kind,omitempty"`
	Name      string            `json:"name"`
	Timestamp int64             `json:"timestamp"`          // in microseconds
	Duration  int64             `json:"duration,omitempty"` // in microseconds
	Local     *zipkinEndpoint   `json:"localEndpoint,omitempty"`
	Remote    *zipkinEndpoint   `json:"remoteEndpoint,omitempty"`
	Tags      map[string]string `json:"tags,omitempty"`
}

type zipkinEndpoint struct {
	ServiceName string `json:"serviceName"`
}

// remoteNames are the attributes that name whom a span calls, the best first.
var remoteNames = [...]string{"peer.service", "net.peer.name", "db.name"}

func newZipkinSpan(s sdktrace.ReadOnlySpan) zipkinSpan {
	z := zipkinSpan{
		TraceID: s.SpanContext().TraceID().String(), ID: s.SpanContext().SpanID().String(), Name: s.Name(),
		Timestamp: s.StartTime().UnixMicro(), Duration: max(1, s.EndTime().Sub(s.StartTime()).Microseconds()),
		Tags: map[string]string{},
	}
	if s.Parent().SpanID().IsValid() {
		z.ParentID = s.Parent().SpanID().String()
	}
	switch s.SpanKind() {
	case trace.SpanKindClient:
		z.Kind = "CLIENT"
	case trace.SpanKindServer:
		z.Kind = "SERVER"
	case trace.SpanKindProducer:
		z.Kind = "PRODUCER"
	case trace.SpanKindConsumer:
		z.Kind = "CONSUMER"
	}
	for it := s.Resource().Iter(); it.Next(); {
		if kv := it.Attribute(); kv.Key == "service.name" {
			z.Local = &zipkinEndpoint{kv.Value.String()}
		} else {
			z.Tags[string(kv.Key)] = kv.Value.String()
		}
	}
	for _, kv := range s.Attributes() {
		z.Tags[string(kv.Key)] = kv.Value.String()
	}
	if z.Kind == "CLIENT" || z.Kind == "PRODUCER" {
		for _, name := range remoteNames {
			if value := z.Tags[name]; value != "" {
				z.Remote = &zipkinEndpoint{value}
				break
			}
		}
	}
	if scope := s.InstrumentationScope(); scope.Name != "" {
		z.Tags["otel.scope.name"] = scope.Name
	}
	if status := s.Status(); status.Code == codes.Error {
		z.Tags["otel.status_code"] = "ERROR"
		z.Tags["error"] = status.Description
	}
	return z
}

func (e *zipkin) ExportSpans(ctx context.Context, spans []sdktrace.ReadOnlySpan) error {
	batch := make([]zipkinSpan, len(spans))
	for i, s := range spans {
		batch[i] = newZipkinSpan(s)
	}
	body, err := json.Marshal(batch)
	if err != nil {
		return err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, e.url, bytes.NewReader(body))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := e.client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	text, _ := io.ReadAll(io.LimitReader(resp.Body, 1<<10))
	if resp.StatusCode/100 != 2 {
		return fmt.Errorf("it answers %s: %.200q", resp.Status, text)
	}
	return nil
}

func (e *zipkin) Shutdown(context.Context) error {
	e.client.CloseIdleConnections()
	return nil
}
