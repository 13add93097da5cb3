//go:build unix

package sidecar_test

import (
	"context"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/reflection"

	componentsv1 "outrigger.dev/api/gen/components/v1"
	"outrigger.dev/sidecar"
	"outrigger.dev/sidecar/sidecartest"
)

// plugged is a pluggable state store that has nothing, and notes what its calls come with.
type plugged struct {
	componentsv1.UnimplementedStateStoreServer
	gets chan metadata.MD
}

func (p *plugged) Init(context.Context, *componentsv1.InitRequest) (*componentsv1.InitResponse, error) {
	return &componentsv1.InitResponse{}, nil
}

func (p *plugged) Features(context.Context, *componentsv1.FeaturesRequest) (*componentsv1.FeaturesResponse, error) {
	return &componentsv1.FeaturesResponse{}, nil
}

func (p *plugged) Get(ctx context.Context, _ *componentsv1.GetRequest) (*componentsv1.GetResponse, error) {
	md, _ := metadata.FromIncomingContext(ctx)
	p.gets <- md
	return &componentsv1.GetResponse{}, nil
}

// A pluggable component gets the trace context of the call that it serves (Dapr API, tracing: context formats).
func TestTraceContextOfPluggableComponents(t *testing.T) {
	folder, err := os.MkdirTemp("", "plugged") // the path of a socket is short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(folder) })
	listener, err := net.Listen("unix", filepath.Join(folder, "mine.sock"))
	if err != nil {
		t.Fatal(err)
	}
	store := &plugged{gets: make(chan metadata.MD, 1)}
	server := grpc.NewServer()
	componentsv1.RegisterStateStoreServer(server, store)
	reflection.Register(server)
	done := make(chan error, 1)
	go func() { done <- server.Serve(listener) }()
	t.Cleanup(func() { server.Stop(); <-done })

	s := sidecartest.Start(t, sidecartest.NewNetwork().InMemory(), sidecartest.Resources(sidecartest.Component("st", "state.mine")),
		sidecartest.With(func(o *sidecar.Options) { o.ComponentsSocketFolder = folder }))
	const trace = "0af7651916cd43dd8448eb211c80319c"
	if r := s.Get("/v1.0/state/st/k", "traceparent", "00-"+trace+"-b7ad6b7169203331-01"); r.Status != 204 {
		t.Fatalf("%+v", r)
	}
	md := <-store.gets
	if got := strings.Join(md.Get("traceparent"), " "); !strings.HasPrefix(got, "00-"+trace+"-") {
		t.Errorf("traceparent %q", got)
	}
	if got := md.Get("grpc-trace-bin"); len(got) != 1 || len(got[0]) != 29 {
		t.Errorf("grpc-trace-bin %q", got)
	}
}
