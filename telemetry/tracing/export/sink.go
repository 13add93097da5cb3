package export

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	sdktrace "go.opentelemetry.io/otel/sdk/trace"
)

// complainEvery is how often a destination that does not take spans is written about in the log.
const complainEvery = time.Minute

// sink is a destination of spans that fails in silence: the SDK tells errors to a handler that the whole process shares, so they
// end here, in the sidecar's log.
type sink struct {
	name, address string
	next          sdktrace.SpanExporter
	log           *slog.Logger
	now           func() time.Time
	ctx           context.Context // of all exports
	cancel        context.CancelFunc
	closing       atomic.Bool

	mu         sync.Mutex
	complained time.Time
	lost       int // spans since then
	failing    bool
}

func newSink(name, address string, next sdktrace.SpanExporter, log *slog.Logger) *sink {
	k := &sink{name: name, address: address, next: next, log: log, now: time.Now}
	k.ctx, k.cancel = context.WithCancel(context.Background())
	return k
}

// ExportSpans sends spans; it fails only for the log.
func (k *sink) ExportSpans(ctx context.Context, spans []sdktrace.ReadOnlySpan) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stop := context.AfterFunc(k.ctx, cancel)
	defer stop()
	if k.closing.Load() && k.isFailing() {
		ctx, cancel = context.WithTimeout(ctx, lastTry)
		defer cancel()
	}
	k.note(k.next.ExportSpans(ctx, spans), len(spans))
	return nil
}

// Shutdown ends the exporter.
func (k *sink) Shutdown(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stop := context.AfterFunc(k.ctx, cancel)
	defer stop()
	return k.next.Shutdown(ctx)
}

func (k *sink) isFailing() bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.failing
}

// note takes the outcome of an export: the first failure is logged, further ones once a minute, and that it works again.
func (k *sink) note(err error, spans int) {
	k.mu.Lock()
	defer k.mu.Unlock()
	now := k.now()
	if err == nil {
		if k.failing {
			k.log.Info(fmt.Sprintf("spans reach %s again", k.describe()))
		}
		k.failing = false
		return
	}
	k.lost += spans
	first := !k.failing && k.complained.IsZero()
	k.failing = true
	if first || now.Sub(k.complained) >= complainEvery {
		k.log.Warn(fmt.Sprintf("spans cannot be sent to %s and are dropped; calls are not affected: see that the collector runs and takes spans at the address of the Configuration", k.describe()),
			"spans", k.lost, "error", err)
		k.complained, k.lost = now, 0
	}
}

func (k *sink) describe() string {
	if k.address == "" {
		return "the " + k.name
	}
	return k.name + " at " + redacted(k.address)
}
