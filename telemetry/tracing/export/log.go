package export

import (
	"context"
	"fmt"
	"log/slog"

	sdktrace "go.opentelemetry.io/otel/sdk/trace"
)

// logExporter writes a line for each span (Dapr API, tracing: stdout).
type logExporter struct{ log *slog.Logger }

func (e *logExporter) ExportSpans(ctx context.Context, spans []sdktrace.ReadOnlySpan) error {
	for _, s := range spans {
		e.log.InfoContext(ctx, fmt.Sprintf("[%s] Trace: %s Span: %s/%s Time: [%s ->  %s] Annotations: %+v",
			s.Name(), s.SpanContext().TraceID(), s.Parent().SpanID(), s.SpanContext().SpanID(), s.StartTime().Round(0), s.EndTime().Round(0), s.Events()))
	}
	return nil
}

func (e *logExporter) Shutdown(context.Context) error { return nil }
