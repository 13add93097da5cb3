// Command pluggable is a state store as a process of its own: a pluggable component. It serves the gRPC services of the components
// API on a Unix socket, where any sidecar of the machine finds it. The items live in its memory.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"

	"google.golang.org/grpc"
	"google.golang.org/grpc/reflection"

	components "outrigger.dev/api/gen/components/v1"
)

func main() {
	socket := flag.String("socket", filepath.Join(folder(), "memstore.sock"), "the socket to serve on; its name without the extension is the component's type")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := serve(ctx, *socket); err != nil {
		fmt.Fprintln(os.Stderr, "pluggable:", err)
		os.Exit(1)
	}
}

// folder is where sidecars look for sockets.
func folder() string {
	for _, name := range []string{"DAPR_COMPONENT_SOCKETS_FOLDER", "DAPR_COMPONENTS_SOCKETS_FOLDER"} {
		if f := os.Getenv(name); f != "" {
			return f
		}
	}
	return "/tmp/dapr-components-sockets"
}

// serve serves the store on the socket until ctx ends.
func serve(ctx context.Context, socket string) error {
	l, err := listen(socket)
	if err != nil {
		return err
	}
	s := &store{instances: map[string]*instance{}}
	server := grpc.NewServer()
	components.RegisterStateStoreServer(server, s)
	components.RegisterTransactionalStateStoreServer(server, s)
	reflection.Register(server) // by which sidecars learn what is served here
	stopped := make(chan struct{})
	go func() { // ends with ctx, and is waited for
		defer close(stopped)
		<-ctx.Done()
		server.Stop()
	}()
	fmt.Println("serving on", socket)
	err = server.Serve(l)
	if ctx.Err() == nil {
		return err
	}
	<-stopped
	return nil
}

// listen makes the socket. One that a killed process has left behind is replaced.
func listen(socket string) (net.Listener, error) {
	if err := os.MkdirAll(filepath.Dir(socket), 0o755); err != nil {
		return nil, err
	}
	l, err := net.Listen("unix", socket)
	if errors.Is(err, syscall.EADDRINUSE) {
		if c, busy := net.Dial("unix", socket); busy == nil {
			return nil, errors.Join(fmt.Errorf("another process serves on %s: stop it first", socket), c.Close())
		}
		if err := os.Remove(socket); err != nil {
			return nil, err
		}
		l, err = net.Listen("unix", socket)
	}
	if err != nil {
		return nil, err
	}
	// The sidecar may run as another user.
	if err := os.Chmod(socket, 0o666); err != nil {
		return nil, errors.Join(err, l.Close())
	}
	return l, nil
}
