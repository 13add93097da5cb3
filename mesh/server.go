package mesh

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"net"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/reflection"

	internalsv1 "outrigger.dev/api/gen/internals/v1"
	"outrigger.dev/http1"
	"outrigger.dev/identity"
	"outrigger.dev/invocation"
	"outrigger.dev/telemetry/metrics"
)

// ServerOptions of a server. Zero values mean the defaults given.
type ServerOptions struct {
	// Handler serves a call from another sidecar. The request's header is valid until it returns, the body's stream until
	// the answer is closed. A failure should be a gRPC status; any other error becomes Unknown. Its context ends when the
	// caller goes away and when the answer is complete.
	Handler func(ctx context.Context, req *invocation.Request) (*invocation.Response, error)
	// Actors serves calls of actors from other sidecars; nil refuses them as Unimplemented.
	Actors ActorServer
	// Proxy serves gRPC methods that are not the sidecars' own; nil refuses them as Unimplemented. The
	// messages of its streams are each an [invocation.Frame].
	Proxy grpc.StreamHandler
	// MaxBodySize bounds gRPC messages, in bytes; 0 or less means no limit. Streamed bodies have no limit here.
	MaxBodySize int64
	// ReadBufferSize is the sidecar's limit for the header of a request of its own app, in bytes; what other sidecars send
	// may be somewhat longer. Default 4096.
	ReadBufferSize int
	// AppID is this sidecar's, for the log.
	AppID string
	// Security secures connections; nil means clear text.
	Security Security
	// GRPCOnly leaves the exchange out, so that the server is like any other sidecar's.
	GRPCOnly bool
	Metrics  *metrics.Metrics
	Log      *slog.Logger

	// patience is handshakeTimeout, except in tests.
	patience time.Duration
}

// Server serves the internal port: calls from other sidecars, over gRPC or the exchange, on the same listeners.
type Server struct {
	options ServerOptions
	http    *http1.Server
	grpc    *grpc.Server
	calls   *callServer
	limit   int // of an exchange's request header, in bytes

	handed   *http1.Handover
	handover sync.Once
	conns    sync.WaitGroup
	serving  sync.WaitGroup
	// warned is when a refused identity was last logged as a warning, in Unix seconds.
	warned atomic.Int64

	mu        sync.Mutex
	listeners map[net.Listener]struct{}
	sniffing  map[net.Conn]struct{}
	stopping  bool
}

// Keep-alive of gRPC connections (Dapr API, internal protocol: connections).
const (
	minPingInterval = 8 * time.Second
	maxIdle         = 3 * time.Minute
	pingAfter       = 10 * time.Second
	pingTimeout     = 5 * time.Second
)

// callerHeaders is room for what the caller's sidecar adds to a request's header, and minHeaderLimit the least that is
// accepted in all, in bytes.
const (
	callerHeaders  = 4 << 10
	minHeaderLimit = 16 << 10
)

// NewServer makes a server.
func NewServer(o ServerOptions) *Server {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.ReadBufferSize <= 0 {
		o.ReadBufferSize = 4 << 10
	}
	if o.patience <= 0 {
		o.patience = handshakeTimeout
	}
	s := &Server{
		options: o, listeners: map[net.Listener]struct{}{}, sniffing: map[net.Conn]struct{}{}, handed: http1.NewHandover(),
		limit: max(o.ReadBufferSize+callerHeaders, minHeaderLimit),
	}
	s.http = http1.NewServer(http1.ServerOptions{
		Handler: s.serveExchange, MaxHeaderBytes: s.limit, HeaderTimeout: o.patience, Log: o.Log,
	})
	options := []grpc.ServerOption{
		grpc.MaxRecvMsgSize(messageLimit(o.MaxBodySize)),
		grpc.MaxSendMsgSize(math.MaxInt32),
		grpc.MaxHeaderListSize(uint32(min(int64(o.ReadBufferSize)*1024, math.MaxInt32))),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: minPingInterval, PermitWithoutStream: true}),
		grpc.KeepaliveParams(keepalive.ServerParameters{MaxConnectionIdle: maxIdle, Time: pingAfter, Timeout: pingTimeout}),
		grpc.ConnectionTimeout(o.patience),
	}
	if o.Proxy != nil {
		options = append(options, grpc.UnknownServiceHandler(o.Proxy), grpc.ForceServerCodecV2(invocation.FrameCodec()))
	}
	if o.Security != nil {
		options = append(options, grpc.Creds(connCredentials{}))
	}
	s.grpc = grpc.NewServer(options...)
	s.calls = &callServer{options: &s.options}
	internalsv1.RegisterServiceInvocationServer(s.grpc, s.calls)
	reflection.Register(s.grpc)
	return s
}

// messageLimit is the limit of a gRPC message for a limit of bodies: the message has more in it than the body.
func messageLimit(body int64) int {
	if body <= 0 || body > math.MaxInt32-envelope {
		return math.MaxInt32
	}
	return int(max(body, 1<<20)) + envelope
}

const envelope = 64 << 10

// Serve accepts connections until Shutdown, which closes l. The error is that of a listener that failed.
func (s *Server) Serve(l net.Listener) error {
	s.mu.Lock()
	if s.stopping {
		s.mu.Unlock()
		return l.Close()
	}
	s.listeners[l] = struct{}{}
	s.handover.Do(func() { s.serving.Go(func() { _ = s.grpc.Serve(s.handed) }) })
	s.mu.Unlock()
	for {
		c, err := l.Accept()
		if err != nil {
			s.mu.Lock()
			stopping := s.stopping
			s.mu.Unlock()
			if stopping {
				return nil
			}
			if exhausted(err) {
				s.options.Log.Warn("cannot accept a connection from another sidecar for now", "app", s.options.AppID, "error", err)
				time.Sleep(10 * time.Millisecond)
				continue
			}
			s.mu.Lock()
			delete(s.listeners, l)
			s.mu.Unlock()
			return fmt.Errorf("the internal port of app %s does not accept connections any more: %w", s.options.AppID, err)
		}
		s.mu.Lock()
		if s.stopping {
			s.mu.Unlock()
			_ = c.Close()
			continue
		}
		s.sniffing[c] = struct{}{}
		s.conns.Add(1)
		s.mu.Unlock()
		go s.serveConn(c)
	}
}

// exhausted reports whether accepting failed for a shortage that passes.
func exhausted(err error) bool {
	return errors.Is(err, syscall.EMFILE) || errors.Is(err, syscall.ENFILE) || errors.Is(err, syscall.ENOBUFS) ||
		errors.Is(err, syscall.ENOMEM) || errors.Is(err, syscall.ECONNABORTED)
}

// serveConn finds out which protocol a connection speaks and hands it to that server.
func (s *Server) serveConn(raw net.Conn) {
	defer s.conns.Done()
	c, first, isGRPC, err := s.open(raw)
	s.mu.Lock()
	delete(s.sniffing, raw)
	s.mu.Unlock()
	if err != nil {
		_ = raw.Close()
		s.notServed(raw, err)
		return
	}
	if isGRPC {
		s.handed.Give(http1.Replay(c, first))
		return
	}
	s.http.ServeConn(c, first)
}

// notServed logs why a connection got nowhere. A refused identity is somebody's mistake or attack, so it is said loudly, but
// only now and then.
func (s *Server) notServed(c net.Conn, err error) {
	level, text := slog.LevelDebug, "a connection to the internal port ended before its first request"
	var untrusted *identity.UntrustedError
	if errors.As(err, &untrusted) {
		text = "a connection to the internal port was refused: check that both sidecars have their certificates of the same Sentry and that their clocks are right"
		now := time.Now().Unix()
		if last := s.warned.Load(); now-last >= int64(warnInterval.Seconds()) && s.warned.CompareAndSwap(last, now) {
			level = slog.LevelWarn
		}
	}
	s.options.Log.Log(context.Background(), level, text, "app", s.options.AppID, "remote", c.RemoteAddr().String(), "error", err)
}

// warnInterval is how often refused identities are logged as warnings.
const warnInterval = 10 * time.Second

func (s *Server) open(c net.Conn) (conn net.Conn, first []byte, isGRPC bool, err error) {
	if s.options.Security != nil {
		ctx, cancel := context.WithTimeout(context.Background(), s.options.patience)
		defer cancel()
		protocols := []string{ProtocolExchange, ProtocolGRPC}
		if s.options.GRPCOnly {
			protocols = protocols[1:]
		}
		secured, protocol, err := s.options.Security.Server(ctx, c, protocols)
		if err != nil {
			return nil, nil, false, err
		}
		switch protocol {
		case ProtocolGRPC:
			return secured, nil, true, nil
		case ProtocolExchange:
			return secured, nil, false, nil
		}
		c = secured
	}
	if s.options.GRPCOnly {
		return c, nil, true, nil
	}
	first, err = http1.Sniff(c, s.options.patience)
	return c, first, http1.IsHTTP2(first), err
}

// Shutdown stops accepting, tells clients to go elsewhere and lets running calls finish. When ctx ends first, they are
// broken off and its error is returned.
func (s *Server) Shutdown(ctx context.Context) error {
	s.mu.Lock()
	s.stopping = true
	for l := range s.listeners {
		_ = l.Close()
	}
	for c := range s.sniffing {
		_ = c.Close()
	}
	s.mu.Unlock()
	var httpErr error
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		var web sync.WaitGroup
		web.Go(func() { httpErr = s.http.Shutdown(ctx) })
		s.grpc.GracefulStop()
		_ = s.handed.Close()
		s.serving.Wait()
		s.calls.receivers.Wait()
		web.Wait()
		s.conns.Wait()
	}()
	select {
	case <-ended:
		return httpErr
	case <-ctx.Done():
	}
	s.grpc.Stop()
	select {
	case <-ended:
		return ctx.Err()
	case <-time.After(afterBreak):
		return fmt.Errorf("calls from other sidecars to app %s did not end when they were broken off: %w", s.options.AppID, ctx.Err())
	}
}

// afterBreak is how long handlers have to notice that their calls were broken off.
const afterBreak = 2 * time.Second
