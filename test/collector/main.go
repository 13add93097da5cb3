// Command collector is the OTLP receiver of the OpenTelemetry Collector with a file behind it: what arrives by gRPC or by HTTP
// is written as one line of OTLP's JSON for each export. Tests of tracing send their spans to it. It is a module of its own,
// so that the collector's modules are not the project's.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"sync"
	"syscall"

	"go.opentelemetry.io/collector/component/componenttest"
	"go.opentelemetry.io/collector/confmap"
	"go.opentelemetry.io/collector/consumer"
	"go.opentelemetry.io/collector/pdata/ptrace"
	"go.opentelemetry.io/collector/receiver/otlpreceiver"
	"go.opentelemetry.io/collector/receiver/receivertest"
)

func main() {
	grpc := flag.String("grpc", "127.0.0.1:4317", "address of the gRPC receiver")
	http := flag.String("http", "127.0.0.1:4318", "address of the HTTP receiver")
	out := flag.String("out", "spans.jsonl", "file that the spans are appended to")
	cert := flag.String("cert", "", "certificate file; empty is clear text")
	key := flag.String("key", "", "key file of the certificate")
	flag.Parse()
	if err := run(*grpc, *http, *out, *cert, *key); err != nil {
		fmt.Fprintln(os.Stderr, "collector:", err)
		os.Exit(1)
	}
}

func run(grpc, http, out, cert, key string) (err error) {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	file, err := os.OpenFile(out, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	server := func(address string) map[string]any {
		s := map[string]any{"endpoint": address}
		if cert != "" {
			s["tls"] = map[string]any{"cert_file": cert, "key_file": key}
		}
		return s
	}
	factory := otlpreceiver.NewFactory()
	config := factory.CreateDefaultConfig()
	settings := confmap.NewFromStringMap(map[string]any{"protocols": map[string]any{"grpc": server(grpc), "http": server(http)}})
	if err := settings.Unmarshal(config); err != nil {
		return err
	}
	var mu sync.Mutex
	var text ptrace.JSONMarshaler
	sink, err := consumer.NewTraces(func(_ context.Context, spans ptrace.Traces) error {
		line, err := text.MarshalTraces(spans)
		if err != nil {
			return err
		}
		mu.Lock()
		defer mu.Unlock()
		_, err = file.Write(append(line, '\n'))
		return err
	})
	if err != nil {
		return err
	}
	receiver, err := factory.CreateTraces(ctx, receivertest.NewNopSettings(factory.Type()), config, sink)
	if err != nil {
		return err
	}
	if err := receiver.Start(ctx, componenttest.NewNopHost()); err != nil {
		return err
	}
	<-ctx.Done()
	return receiver.Shutdown(context.Background())
}
