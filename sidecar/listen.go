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

// bind opens a listener for each address, trying again those that are taken; the time for that is one for all of them. Of an
// address that could not be bound the listener is nil and the error is not.
func (s *Sidecar) bind(ctx context.Context, addresses []string) ([]net.Listener, []error) {
	listeners, errs := make([]net.Listener, len(addresses)), make([]error, len(addresses))
	wait := bindFirst
	for deadline := time.Now().Add(bindTotal); ; {
		missing := false
		for i, address := range addresses {
			if listeners[i] != nil {
				continue
			}
			if listeners[i], errs[i] = s.options.Listen("tcp", address); errs[i] != nil {
				missing = true
				s.log.Debug("a port could not be bound yet", "address", address, "error", errs[i])
			}
		}
		if !missing || time.Now().Add(wait).After(deadline) {
			return listeners, errs
		}
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return listeners, errs
		}
		wait = min(wait*3/2, bindMost)
	}
}

// bindAPI opens the listeners of an API: one for each listen address, or a Unix socket. An address that cannot be bound is
// skipped; none at all is an error.
func (s *Sidecar) bindAPI(ctx context.Context, protocol string, port int) ([]net.Listener, error) {
	if dir := s.options.UnixDomainSocket; dir != "" {
		path := filepath.Join(dir, fmt.Sprintf("dapr-%s-%s.socket", s.options.AppID, protocol))
		l, err := s.options.Listen("unix", path)
		if err != nil {
			return nil, fmt.Errorf("could not listen on any endpoint: %w; remove the socket if no sidecar uses it", err)
		}
		return []net.Listener{l}, nil
	}
	addresses := make([]string, len(s.options.ListenAddresses))
	for i, host := range s.options.ListenAddresses {
		addresses[i] = net.JoinHostPort(unbracket(host), strconv.Itoa(port))
	}
	bound, errs := s.bind(ctx, addresses)
	var listeners []net.Listener
	for i, l := range bound {
		if l != nil {
			listeners = append(listeners, l)
			continue
		}
		s.log.Error("an API address could not be bound", "api", protocol, "address", addresses[i], "error", errs[i])
	}
	if len(listeners) == 0 {
		return nil, fmt.Errorf("could not listen on any endpoint: %w; end what holds the address, or choose another --dapr-%s-port or --dapr-listen-addresses", errors.Join(errs...), protocol)
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
		bound, errs := s.bind(ctx, []string{net.JoinHostPort(host, strconv.Itoa(s.options.InternalPort))})
		if bound[0] == nil {
			return nil, fmt.Errorf("%w; end what holds the address, or choose another --dapr-internal-grpc-port", errs[0])
		}
		return bound[0], nil
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
