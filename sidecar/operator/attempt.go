package operator

import (
	"context"
	"net"
	"sync"

	"google.golang.org/grpc/credentials"
)

// attempt remembers why connecting failed, which gRPC only tells to calls.
type attempt struct {
	mu  sync.Mutex
	err error
}

func (a *attempt) note(err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.err = err
}

// last is why the last attempt failed, nil if none did.
func (a *attempt) last() error {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.err
}

// dialing notes failures of dial.
func (a *attempt) dialing(dial func(ctx context.Context, address string) (net.Conn, error)) func(ctx context.Context, address string) (net.Conn, error) {
	return func(ctx context.Context, address string) (net.Conn, error) {
		c, err := dial(ctx, address)
		if err != nil {
			a.note(err)
		}
		return c, err
	}
}

// watched notes failures of handshakes.
type watched struct {
	credentials.TransportCredentials
	attempt *attempt
}

// ClientHandshake implements [credentials.TransportCredentials].
func (w watched) ClientHandshake(ctx context.Context, authority string, raw net.Conn) (net.Conn, credentials.AuthInfo, error) {
	c, info, err := w.TransportCredentials.ClientHandshake(ctx, authority, raw)
	if err != nil {
		w.attempt.note(err)
	}
	return c, info, err
}

// Clone implements [credentials.TransportCredentials].
func (w watched) Clone() credentials.TransportCredentials {
	return watched{w.TransportCredentials.Clone(), w.attempt}
}
