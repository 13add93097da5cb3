package mesh

import (
	"context"
	"fmt"
	"math"
	"net"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/status"

	internalsv1 "outrigger.dev/api/gen/internals/v1"
)

// grpcConn is one gRPC connection to a peer; its fields belong to the peer's lock.
type grpcConn struct {
	cc     *grpc.ClientConn
	calls  internalsv1.ServiceInvocationClient
	active int // calls whose answer is not read to its end
	since  time.Time
	// dropped conns take no more calls, and are closed with their last one.
	dropped bool
}

// callsPerConn is how many calls share a connection at a time (Dapr API, internal protocol: connections).
const callsPerConn = 100

const roundRobin = `{"loadBalancingConfig":[{"round_robin":{}}]}`

// take returns a connection with room for a call, and counts the call.
func (p *peer) take() (*grpcConn, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return nil, ErrClosed
	}
	for _, conn := range p.conns {
		if conn.active < callsPerConn {
			conn.active++
			return conn, nil
		}
	}
	target := p.target.Address
	if !strings.HasPrefix(target, "dns:///") {
		target = "passthrough:///" + target
	}
	limit := messageLimit(p.client.options.MaxBodySize)
	cc, err := grpc.NewClient(target,
		grpc.WithTransportCredentials(insecure.NewCredentials()), // the dialler secures
		grpc.WithContextDialer(p.dialGRPC),
		grpc.WithDefaultServiceConfig(roundRobin),
		grpc.WithIdleTimeout(0), // the pool does that
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: pingAfter, Timeout: pingTimeout, PermitWithoutStream: true}),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(limit), grpc.MaxCallSendMsgSize(math.MaxInt32)),
		grpc.WithConnectParams(grpc.ConnectParams{Backoff: backoff.DefaultConfig, MinConnectTimeout: p.dialTimeout}),
		grpc.WithNoProxy(),
	)
	if err != nil {
		return nil, status.Errorf(codes.Unavailable, "the address %q of a sidecar cannot be used: %s", p.target.Address, err)
	}
	conn := &grpcConn{cc: cc, calls: internalsv1.NewServiceInvocationClient(cc), active: 1}
	p.conns = append(p.conns, conn)
	return conn, nil
}

func (p *peer) dialGRPC(ctx context.Context, address string) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, p.dialTimeout)
	defer cancel()
	raw, err := p.client.options.Dial(ctx, address)
	if err != nil || p.client.options.Security == nil {
		return raw, err
	}
	secured, protocol, err := p.client.options.Security.Client(ctx, raw, p.target, []string{ProtocolGRPC})
	if err == nil && protocol != "" && protocol != ProtocolGRPC {
		err = fmt.Errorf("the sidecar at %s chose the protocol %q", p.target.Address, protocol)
	}
	if err != nil {
		_ = raw.Close()
		return nil, fmt.Errorf("authentication handshake failed: %w", err)
	}
	return secured, nil
}

// give ends a call on a connection.
func (p *peer) give(conn *grpcConn) {
	now := p.client.options.Clock.Now()
	p.mu.Lock()
	conn.active--
	conn.since = now
	last := conn.dropped && conn.active == 0
	p.mu.Unlock()
	if last {
		_ = conn.cc.Close()
	}
}

// drop takes a connection out of the pool because its peer did not take a call.
func (p *peer) drop(conn *grpcConn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for i, other := range p.conns {
		if other == conn {
			p.conns = append(p.conns[:i:i], p.conns[i+1:]...)
			conn.dropped = true
			return
		}
	}
}

// sweep closes gRPC connections that had no call for long.
func (p *peer) sweep(now time.Time) {
	p.mu.Lock()
	var old []*grpcConn
	kept := p.conns[:0:0]
	for _, conn := range p.conns {
		if conn.active == 0 && now.Sub(conn.since) >= connIdle {
			old = append(old, conn)
		} else {
			kept = append(kept, conn)
		}
	}
	p.conns = kept
	p.mu.Unlock()
	for _, conn := range old {
		_ = conn.cc.Close()
	}
}

// unused reports whether no gRPC connection is left.
func (p *peer) unused() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.conns) == 0 && p.probing == nil
}
