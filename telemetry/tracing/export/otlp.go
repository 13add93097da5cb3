package export

import (
	"context"
	"fmt"
	"net/url"
	"strings"
	"time"

	"go.opentelemetry.io/otel/exporters/otlp/otlptrace"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracegrpc"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
)

// How an export that a collector cannot take at the moment is tried again. Spans queue up meanwhile.
const (
	firstRetry = time.Second
	retryEvery = 5 * time.Second
	retryFor   = 20 * time.Second
)

// tracesPath is where OTLP over HTTP is sent to.
const tracesPath = "/v1/traces"

// newOTLP makes an exporter that speaks OTLP. What the settings leave open the exporter takes from the standard variables of
// OpenTelemetry.
func newOTLP(ctx context.Context, s *settings) (sdktrace.SpanExporter, error) {
	scheme := "https://"
	if !s.secure {
		scheme = "http://"
	}
	address, path, _ := strings.Cut(s.endpoint, "/")
	if u, err := url.Parse(scheme + address); err != nil || u.Host == "" || u.Host != address {
		return nil, fmt.Errorf("the OTLP endpoint %q is not of the form host:port", redacted(s.endpoint))
	}
	var client otlptrace.Client
	if s.protocol == "grpc" {
		options := []otlptracegrpc.Option{
			otlptracegrpc.WithEndpointURL(scheme + address),
			otlptracegrpc.WithRetry(otlptracegrpc.RetryConfig{Enabled: true, InitialInterval: firstRetry, MaxInterval: retryEvery, MaxElapsedTime: retryFor}),
		}
		if s.headers != nil {
			options = append(options, otlptracegrpc.WithHeaders(s.headers))
		}
		if s.timeout > 0 {
			options = append(options, otlptracegrpc.WithTimeout(s.timeout))
		}
		client = otlptracegrpc.NewClient(options...)
	} else {
		if path = "/" + strings.Trim(path, "/"); path == "/" {
			path = tracesPath
		} else if !strings.HasSuffix(path, tracesPath) {
			path += tracesPath
		}
		options := []otlptracehttp.Option{
			otlptracehttp.WithEndpointURL(scheme + address + path),
			otlptracehttp.WithRetry(otlptracehttp.RetryConfig{Enabled: true, InitialInterval: firstRetry, MaxInterval: retryEvery, MaxElapsedTime: retryFor}),
		}
		if s.headers != nil {
			options = append(options, otlptracehttp.WithHeaders(s.headers))
		}
		if s.timeout > 0 {
			options = append(options, otlptracehttp.WithTimeout(s.timeout))
		}
		client = otlptracehttp.NewClient(options...)
	}
	e, err := otlptrace.New(ctx, client)
	if err != nil {
		return nil, fmt.Errorf("the OTLP exporter for %s cannot be made: %w", redacted(s.endpoint), err)
	}
	return e, nil
}

// redacted is an address without the credentials that it may hold.
func redacted(address string) string {
	if at := strings.LastIndexByte(address, '@'); at >= 0 {
		if scheme, _, ok := strings.Cut(address[:at], "://"); ok {
			return scheme + "://" + address[at+1:]
		}
		return address[at+1:]
	}
	return address
}
