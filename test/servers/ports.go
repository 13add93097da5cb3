package servers

import (
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"testing"
)

// Ports of servers lie below the range from which systems take the local ports
// of outgoing connections (32768 and up on Linux, 49152 elsewhere). There, a
// server that is down could lose its port to some connection, or a client that
// keeps dialling it could even be connected to itself.
const (
	firstPort  = 12000
	lastPort   = 21999
	busPortGap = 10000 // from a Redis Cluster node's port to its bus port
)

// portLock reserves a port among concurrent test binaries, also while its server is down.
type portLock struct{ f *os.File }

func (p *portLock) release() { p.f.Close() }

// reservePort finds a port that is free, and that plus each gap also is.
func reservePort(gaps ...int) (int, []*portLock, error) {
	base, err := baseDir()
	if err != nil {
		return 0, nil, err
	}
	dir := filepath.Join(base, "ports")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return 0, nil, fmt.Errorf("servers: port reservations: %w", err)
	}
	const count = lastPort - firstPort + 1
	start := rand.IntN(count)
candidates:
	for i := range count {
		port := firstPort + (start+i)%count
		var held []*portLock
		for _, gap := range append([]int{0}, gaps...) {
			l, err := tryPort(dir, port+gap)
			if l != nil {
				held = append(held, l)
				continue
			}
			for _, l := range held {
				l.release()
			}
			if err != nil {
				return 0, nil, err
			}
			continue candidates
		}
		return port, held, nil
	}
	return 0, nil, fmt.Errorf("servers: no free port on 127.0.0.1 between %d and %d; end what holds them", firstPort, lastPort)
}

// FreePort is a loopback port that nothing listens on. It is reserved among concurrent test binaries until the test ends,
// and lies below the ports that systems take for outgoing connections.
func FreePort(tb testing.TB) int {
	tb.Helper()
	port, held, err := reservePort()
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		for _, l := range held {
			l.release()
		}
	})
	return port
}

// tryPort reserves one port; nil means that it is taken.
func tryPort(dir string, port int) (*portLock, error) {
	f, err := os.OpenFile(filepath.Join(dir, strconv.Itoa(port)), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("servers: port reservation: %w", err)
	}
	got, err := tryLock(f, true)
	if err != nil || !got {
		f.Close()
		return nil, err
	}
	// A server on all addresses also holds the port.
	for _, address := range []string{loopback(port), ":" + strconv.Itoa(port)} {
		l, err := net.Listen("tcp", address)
		if err != nil {
			f.Close()
			return nil, nil
		}
		l.Close()
	}
	return &portLock{f}, nil
}
