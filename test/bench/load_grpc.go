package main

import (
	"context"
	"fmt"
	"strings"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	commonv1 "outrigger.dev/api/gen/common/v1"
	runtimev1 "outrigger.dev/api/gen/runtime/v1"
)

// grpcConnections is how many HTTP/2 connections share the calls in flight. An
// SDK holds one per process; a few apps share no sidecar, a few clients do.
const grpcConnections = 4

// grpcCaller makes one unary call at a time.
type grpcCaller struct {
	invoke func(i int) error
	next   int
	keys   int
}

func (g *grpcCaller) call() error {
	err := g.invoke(g.next)
	if g.next++; g.next == g.keys {
		g.next = 0
	}
	return err
}

func (g *grpcCaller) close() {}

func (l *load) grpcCallers(ctx context.Context) (func(int) (caller, error), func(), error) {
	var clients []runtimev1.DaprClient
	var conns []*grpc.ClientConn
	done := func() {
		for _, c := range conns {
			c.Close()
		}
	}
	for range min(grpcConnections, l.Connections) {
		conn, err := grpc.NewClient("passthrough:///"+l.Addr, grpc.WithTransportCredentials(insecure.NewCredentials()))
		if err != nil {
			done()
			return nil, nil, fmt.Errorf("gRPC client of %s: %w", l.Addr, err)
		}
		conns = append(conns, conn)
		clients = append(clients, runtimev1.NewDaprClient(conn))
	}
	var gets []*runtimev1.GetStateRequest
	var saves []*runtimev1.SaveStateRequest
	for i := range l.Keys {
		key := fmt.Sprintf("key-%d", i)
		gets = append(gets, &runtimev1.GetStateRequest{StoreName: "store", Key: key})
		saves = append(saves, &runtimev1.SaveStateRequest{StoreName: "store", States: []*commonv1.StateItem{
			{Key: key, Value: []byte(strings.Repeat("v", l.Body))},
		}})
	}
	open := func(i int) (caller, error) {
		client := clients[i%len(clients)]
		c := &grpcCaller{keys: l.Keys, next: i * l.Keys / l.Connections}
		switch l.Kind {
		case "grpc-get":
			c.invoke = func(k int) error {
				reply, err := client.GetState(ctx, gets[k])
				if err == nil && len(reply.GetData()) != l.Body {
					err = fmt.Errorf("GetState %s: a value of %d bytes instead of %d", gets[k].GetKey(), len(reply.GetData()), l.Body)
				}
				return err
			}
		case "grpc-save":
			c.invoke = func(k int) error {
				_, err := client.SaveState(ctx, saves[k])
				return err
			}
		default:
			return nil, fmt.Errorf("no load of kind %q", l.Kind)
		}
		return c, nil
	}
	return open, done, nil
}
