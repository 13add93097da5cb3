package metrics

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc/codes"
)

// grpcKey tells gRPC series apart. Anybody can call a method that does not exist, and proxied methods are the apps' own.
type grpcKey struct {
	method string
	code   codes.Code
}

func (k grpcKey) owned() grpcKey {
	k.method = own(k.method)
	return k
}

func (k grpcKey) blank() grpcKey { return grpcKey{code: k.code} }

// knownCode is the code as a label shows it: a number that gRPC does not define, which a peer can send, is Unknown.
func knownCode(c codes.Code) codes.Code {
	if c > codes.Unauthenticated {
		return codes.Unknown
	}
	return c
}

// grpcMethod is the key of metrics that only have the method.
type grpcMethod string

func (m grpcMethod) owned() grpcMethod { return grpcMethod(own(string(m))) }

func (m grpcMethod) blank() grpcMethod { return "" }

type grpcCalls struct {
	completed prometheus.Counter
	latency   prometheus.Observer
}

// grpcBytes are resolved on first use: a series must not be exposed before it has a sample.
type grpcBytes struct {
	in, out func() prometheus.Observer
}

// grpcSide is what server and client metrics have in common.
type grpcSide struct {
	// proxied are the calls of methods that clients may invent; they have a family of their own so that they cannot take the room of
	// the sidecar's own methods.
	calls, proxied *family[grpcKey, grpcCalls]
	bytes          *family[grpcMethod, grpcBytes]
}

// newGRPCSide makes the metrics of one side, "server" or "client". The latency has a name of its own on each.
func newGRPCSide(f *factory, side, latencyName string) grpcSide {
	name := "grpc_io_" + side + "_"
	method, status := "grpc_"+side+"_method", "grpc_"+side+"_status"
	completed := f.counter(name+"completed_rpcs", "gRPC calls completed by the "+side+" side.", []string{method, status})
	latency := f.histogram(name+latencyName, "Duration of gRPC calls of the "+side+" side, in whole milliseconds.",
		f.latency, []string{method, status})
	in := f.histogram(name+"received_bytes_per_rpc", "Bytes received per unary gRPC call of the "+side+" side.", f.size, []string{method})
	out := f.histogram(name+"sent_bytes_per_rpc", "Bytes sent per unary gRPC call of the "+side+" side.", f.size, []string{method})
	create := func(k grpcKey) grpcCalls {
		code := k.code.String()
		return grpcCalls{completed.with(k.method, code), latency.with(k.method, code)}
	}
	return grpcSide{
		calls: newFamily(f.limit, create), proxied: newFamily(f.limit, create),
		bytes: newFamily(f.limit, func(m grpcMethod) grpcBytes {
			return grpcBytes{in: in.later(string(m)), out: out.later(string(m))}
		}),
	}
}

func (s *grpcSide) observe(method string, code codes.Code, latency time.Duration, in, out int64) {
	calls, stream := s.calls, in < 0 && out < 0
	if stream {
		calls = s.proxied // of streams only those are measured
	}
	c := calls.find(grpcKey{method, knownCode(code)})
	c.completed.Inc()
	c.latency.Observe(wholeMillis(latency))
	if stream {
		return
	}
	b := s.bytes.find(grpcMethod(method))
	if in >= 0 {
		b.in().Observe(float64(in))
	}
	if out >= 0 {
		b.out().Observe(float64(out))
	}
}

// GRPCServer measures gRPC calls that the sidecar answers (Dapr API, metrics: grpc_io_server_*). Of streams, only proxied ones are
// measured; the side that faces the app counts as server. Events delivered to gRPC apps by input bindings count here as well, as
// /dapr.proto.runtime.v1.AppCallback/OnBindingEvent.
type GRPCServer struct{ side grpcSide }

func newGRPCServer(f *factory) *GRPCServer {
	return &GRPCServer{newGRPCSide(f, "server", "server_latency")}
}

// Observe counts a completed call of the full method ("/package.Service/Method"), its duration, and the bytes received and sent.
// Negative sizes are not recorded: give -1 for streams.
func (s *GRPCServer) Observe(method string, code codes.Code, latency time.Duration, in, out int64) {
	if s != nil {
		s.side.observe(method, code, latency, in, out)
	}
}

// GRPCClient measures gRPC calls that the sidecar makes (Dapr API, metrics: grpc_io_client_*). Of streams, only proxied ones are
// measured, by the sidecar that receives them.
type GRPCClient struct{ side grpcSide }

func newGRPCClient(f *factory) *GRPCClient {
	return &GRPCClient{newGRPCSide(f, "client", "roundtrip_latency")}
}

// Observe counts a completed call of the full method ("/package.Service/Method"), its duration, and the bytes sent and received.
// Negative sizes are not recorded: give -1 for streams.
func (c *GRPCClient) Observe(method string, code codes.Code, latency time.Duration, sent, received int64) {
	if c != nil {
		c.side.observe(method, code, latency, received, sent)
	}
}

// GRPCProbe measures health probes of a gRPC app (Dapr API, metrics: grpc_io_healthprobes_*).
type GRPCProbe struct {
	series *table[codes.Code, grpcCalls]
	create func(codes.Code) grpcCalls
}

func newGRPCProbe(f *factory) *GRPCProbe {
	labels := []string{"grpc_client_status"}
	completed := f.counter("grpc_io_healthprobes_completed_count", "Health probes of a gRPC app.", labels)
	latency := f.histogram("grpc_io_healthprobes_roundtrip_latency", "Duration of health probes of a gRPC app, in whole milliseconds.",
		f.latency, labels)
	return &GRPCProbe{
		series: newTable[codes.Code, grpcCalls](0),
		create: func(c codes.Code) grpcCalls { return grpcCalls{completed.with(c.String()), latency.with(c.String())} },
	}
}

// Observe counts one probe and its duration.
func (p *GRPCProbe) Observe(code codes.Code, latency time.Duration) {
	if p == nil {
		return
	}
	code = knownCode(code)
	s, ok := p.series.get(code)
	if !ok {
		s, _ = p.series.add(code, p.create)
	}
	s.completed.Inc()
	s.latency.Observe(wholeMillis(latency))
}
