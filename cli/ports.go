package cli

import (
	"fmt"
	"math/rand/v2"
	"net"
	"strconv"
)

// Free ports are taken from below the range that systems use for outgoing connections (32768 and up on Linux): one from that
// range could be lost to some connection before the sidecar listens on it.
const (
	firstFree = 23000
	lastFree  = 32767
	freeTries = 100
)

// choosePorts replaces the ports that were left open by free ones, and checks the given ones (Dapr CLI, run: validation).
func (a *appSpec) choosePorts(running []instanceInfo) error {
	// Held until all are chosen, so that none is chosen twice.
	var held []net.Listener
	defer func() {
		for _, l := range held {
			_ = l.Close()
		}
	}()
	bind := func(port int) (int, error) {
		if port > 0 {
			l, err := net.Listen("tcp", ":"+strconv.Itoa(port))
			if err == nil {
				held = append(held, l)
			}
			return port, err
		}
		for range freeTries {
			port = firstFree + rand.IntN(lastFree-firstFree+1)
			if l, err := net.Listen("tcp", ":"+strconv.Itoa(port)); err == nil {
				held = append(held, l)
				return port, nil
			}
		}
		return 0, fmt.Errorf("no free port was found between %d and %d", firstFree, lastFree)
	}
	wanted := []struct {
		name string
		port *int
		skip bool
	}{
		{"HTTPPort", &a.httpPort, false},
		{"GRPCPort", &a.grpcPort, false},
		{"MetricsPort", &a.metricsPort, false},
		{"InternalGRPCPort", &a.internalPort, false},
		{"ProfilePort", &a.profilePort, !a.enableProfiling && a.profilePort <= 0},
	}
	// The given ones first, lest a free one be the same.
	for _, given := range []bool{true, false} {
		for _, w := range wanted {
			if w.skip || (*w.port > 0) != given {
				continue
			}
			if given {
				if who := portHolder(running, *w.port); who != "" {
					return fmt.Errorf("invalid configuration for %s. Port %d is not available: it is used by %s", w.name, *w.port, who)
				}
			}
			port, err := bind(*w.port)
			if err != nil {
				return fmt.Errorf("invalid configuration for %s. Port %d is not available: %w", w.name, *w.port, err)
			}
			*w.port = port
		}
	}
	if !a.enableProfiling && a.profilePort <= 0 {
		a.profilePort = -1
	}
	return nil
}

// portHolder names the running app that a port belongs to.
func portHolder(running []instanceInfo, port int) string {
	for _, r := range running {
		switch port {
		case r.AppPort:
			return fmt.Sprintf("the app %q", r.AppID)
		case r.HTTPPort, r.GRPCPort:
			return fmt.Sprintf("the sidecar of %q (process %d)", r.AppID, r.DaprdPID)
		}
	}
	return ""
}
