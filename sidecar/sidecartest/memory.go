package sidecartest

import (
	"context"
	"fmt"
	"net"

	"google.golang.org/grpc/test/bufconn"
)

// memoryBuffer is how many bytes a connection in memory holds in each direction.
const memoryBuffer = 256 << 10

// memoryListener is a listener without a network, under an address that looks like a TCP one.
type memoryListener struct {
	*bufconn.Listener
	network *Network
	address *net.TCPAddr
}

// Addr is the made-up address.
func (l *memoryListener) Addr() net.Addr { return l.address }

// Close ends the listener and frees its address.
func (l *memoryListener) Close() error {
	l.network.mu.Lock()
	delete(l.network.listeners, l.address.String())
	l.network.mu.Unlock()
	return l.Listener.Close()
}

// listen opens a listener in memory. Port 0 takes a free one.
func (n *Network) listen(_, address string) (net.Listener, error) {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return nil, err
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if port == "0" {
		for p := 1; ; p++ {
			port = fmt.Sprint(p)
			if _, taken := n.listeners[net.JoinHostPort(host, port)]; !taken {
				break
			}
		}
	}
	tcp, err := net.ResolveTCPAddr("tcp", net.JoinHostPort(host, port))
	if err != nil {
		return nil, err
	}
	if _, taken := n.listeners[tcp.String()]; taken {
		return nil, fmt.Errorf("listen in memory %s: address already in use", tcp)
	}
	l := &memoryListener{Listener: bufconn.Listen(memoryBuffer), network: n, address: tcp}
	n.listeners[tcp.String()] = l
	return l, nil
}

// Dial opens a connection to a member that listens in memory.
func (n *Network) Dial(ctx context.Context, address string) (net.Conn, error) {
	n.mu.Lock()
	l := n.listeners[address]
	n.mu.Unlock()
	if l == nil {
		return nil, fmt.Errorf("dial in memory %s: connection refused", address)
	}
	return l.DialContext(ctx)
}
