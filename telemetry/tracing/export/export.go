// Package export sends spans away: to the log, to Zipkin, and by OTLP over gRPC or HTTP, as a Configuration and the environment ask
// for (Dapr API, tracing: configuration). Spans wait in a bounded queue for each destination and go in batches; a destination that
// is down costs a line in the log now and then, and spans.
package export

import (
	"context"
	"log/slog"
	"math/rand/v2"
	"os"
	"sync"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"

	config "outrigger.dev/resource"
	"outrigger.dev/telemetry/logging"
	"outrigger.dev/telemetry/tracing"
)

// Options of a [Provider].
type Options struct {
	// Tracing is the Configuration's.
	Tracing config.Tracing
	// AppID is the service's name unless the environment gives another.
	AppID string
	// LookupEnv reads the environment; nil is that of the process. What the OTLP exporters read on their own, such as the
	// certificate, is always that of the process.
	LookupEnv func(string) (string, bool)
	// Random is where IDs come from, nil is math/rand/v2. It is called concurrently.
	Random func() uint64
	// Log is told what goes wrong; exporting to stdout writes to it too.
	Log *slog.Logger
}

// Provider is a tracer and where its spans go.
type Provider struct {
	tracer *tracing.Tracer
	sdk    *sdktrace.TracerProvider
	sinks  []*sink
	once   sync.Once
	ended  chan struct{}
	err    error
}

// Open makes what the Configuration asks for. Nothing is connected yet: a collector may come later. Its errors are mistakes in the
// Configuration or the environment.
func Open(ctx context.Context, o Options) (*Provider, error) {
	if o.LookupEnv == nil {
		o.LookupEnv = os.LookupEnv
	}
	if o.Random == nil {
		o.Random = rand.Uint64
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	p := &Provider{ended: make(chan struct{})}
	s, err := resolve(o.Tracing, o.AppID, o.LookupEnv)
	if err != nil {
		return nil, err
	}
	log := logging.Scope(o.Log, logging.ScopeTrace)
	for _, w := range s.warnings {
		log.Warn(w)
	}
	switch {
	case s.rateText == off: // nil is off
	case s.exports():
		if err := p.open(ctx, s, log); err != nil {
			return nil, err
		}
		p.tracer = tracing.New(tracing.Options{Rate: s.rate(), Recorder: p.sdk.Tracer(tracing.Name), Random: o.Random})
	case s.rateText != "":
		p.tracer = tracing.New(tracing.Options{Rate: s.rate(), Random: o.Random})
	default:
		p.tracer = tracing.PassThrough()
	}
	return p, nil
}

// Tracer is the tracer, nil when tracing is off.
func (p *Provider) Tracer() *tracing.Tracer { return p.tracer }

func (p *Provider) open(ctx context.Context, s *settings, log *slog.Logger) error {
	options := []sdktrace.TracerProviderOption{
		sdktrace.WithSampler(sdktrace.AlwaysSample()), // the tracer asks only for what it has sampled
		sdktrace.WithIDGenerator(tracing.IDs{}),
		sdktrace.WithResource(describe(s)),
	}
	add := func(name, address string, e sdktrace.SpanExporter) {
		k := newSink(name, address, e, log)
		p.sinks = append(p.sinks, k)
		options = append(options, sdktrace.WithSpanProcessor(sdktrace.NewBatchSpanProcessor(k)))
	}
	if s.stdout {
		add("log", "", &logExporter{log})
	}
	if s.zipkin != "" {
		add("Zipkin", s.zipkin, newZipkin(s.zipkin))
	}
	if s.protocol != "" {
		e, err := newOTLP(ctx, s)
		if err != nil {
			return err
		}
		add("OTLP", s.endpoint, e)
	}
	p.sdk = sdktrace.NewTracerProvider(options...)
	return nil
}

// describe is what all spans of the sidecar have in common.
func describe(s *settings) *resource.Resource {
	attributes := make([]attribute.KeyValue, 0, len(s.resources)+1)
	for _, pair := range s.resources {
		if pair[0] != "service.name" {
			attributes = append(attributes, attribute.String(pair[0], pair[1]))
		}
	}
	return resource.NewSchemaless(append(attributes, attribute.String("service.name", s.service))...)
}

const (
	// closeTime bounds Close: how long what is queued may take to go out. With less time left, it is half of that.
	closeTime = 2 * time.Second
	// lastTry is how long a destination that failed the last time is given for each batch while closing.
	lastTry = 250 * time.Millisecond
)

// Close sends what is queued and ends everything; spans that end later are lost. It takes at most two seconds, at most half of the
// time that ctx leaves, and hardly any when the destinations are known to be down: a collector that hangs does not make the end of
// a sidecar an abrupt one. What could not be sent is no error; the log tells of it.
func (p *Provider) Close(ctx context.Context) error {
	if p == nil || p.sdk == nil {
		return nil
	}
	bound := closeTime
	if end, bounded := ctx.Deadline(); bounded {
		bound = min(bound, time.Until(end)/2)
	}
	ctx, cancel := context.WithTimeout(ctx, bound)
	defer cancel()
	p.once.Do(func() {
		for _, k := range p.sinks {
			k.closing.Store(true)
		}
		// The SDK would leave its goroutines behind when its context ends, so it gets one that does not: exports that are under way
		// are broken off instead.
		go func() {
			defer close(p.ended)
			p.err = p.sdk.Shutdown(context.WithoutCancel(ctx))
		}()
	})
	stop := context.AfterFunc(ctx, func() {
		for _, k := range p.sinks {
			k.cancel()
		}
	})
	defer stop()
	<-p.ended
	for _, k := range p.sinks {
		k.cancel()
	}
	return p.err
}
