package sidecar

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"time"
)

// How long and how often binding a port is tried (Dapr API, listeners).
const (
	bindTotal = 10 * time.Second
	bindFirst = 100 * time.Millisecond
	bindMost  = 500 * time.Millisecond
)

// bind opens a listener, trying again for a while when the port is taken.
func (s *Sidecar) bind(ctx context.Context, network, address string) (net.Listener, error) {
	wait := bindFirst
	for deadline := time.Now().Add(bindTotal); ; {
		l, err := s.options.Listen(network, address)
		if err == nil {
			return l, nil
		}
		if network == "unix" || time.Now().Add(wait).After(deadline) {
			return nil, err
		}
		s.log.Debug("a port could not be bound yet", "address", address, "error", err)
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return nil, errors.Join(err, ctx.Err())
		}
		wait = min(wait*3/2, bindMost)
	}
}

// bindAPI opens the listeners of an API: one for each listen address, or a Unix socket. An address that cannot be bound is
// skipped; none at all is an error.
func (s *Sidecar) bindAPI(ctx context.Context, protocol string, port int) ([]net.Listener, error) {
	if dir := s.options.UnixDomainSocket; dir != "" {
		path := filepath.Join(dir, fmt.Sprintf("dapr-%s-%s.socket", s.options.AppID, protocol))
		l, err := s.bind(ctx, "unix", path)
		if err != nil {
			return nil, fmt.Errorf("could not listen on any endpoint: %w; remove the socket if no sidecar uses it", err)
		}
		return []net.Listener{l}, nil
	}
	var listeners []net.Listener
	var errs []error
	for _, host := range s.options.ListenAddresses {
		l, err := s.bind(ctx, "tcp", net.JoinHostPort(unbracket(host), strconv.Itoa(port)))
		if err != nil {
			s.log.Error("an API address could not be bound", "api", protocol, "address", host, "port", port, "error", err)
			errs = append(errs, err)
			continue
		}
		listeners = append(listeners, l)
	}
	if len(listeners) == 0 {
		return nil, fmt.Errorf("could not listen on any endpoint: %w", errors.Join(errs...))
	}
	return listeners, nil
}

// unbracket takes the brackets off an IPv6 address, which net.JoinHostPort adds.
func unbracket(host string) string {
	if len(host) > 1 && host[0] == '[' && host[len(host)-1] == ']' {
		return host[1 : len(host)-1]
	}
	return host
}

// bindInternal reserves the internal port before any component opens connections that could take it.
func (s *Sidecar) bindInternal(ctx context.Context) (net.Listener, error) {
	host := unbracket(s.options.InternalListenAddress)
	if s.options.InternalPort != 0 {
		return s.bind(ctx, "tcp", net.JoinHostPort(host, strconv.Itoa(s.options.InternalPort)))
	}
	l, err := s.options.Listen("tcp", net.JoinHostPort(host, strconv.Itoa(stablePort(s.options.AppID))))
	if err != nil {
		return s.options.Listen("tcp", net.JoinHostPort(host, "0"))
	}
	return l, nil
}

// removeSocket removes the file of a Unix listener, if it still exists.
func removeSocket(l net.Listener) {
	if a, ok := l.Addr().(*net.UnixAddr); ok {
		_ = os.Remove(a.Name)
	}
}
