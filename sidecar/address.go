package sidecar

import (
	"crypto/sha256"
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"

	"outrigger.dev/hostaddress"
)

// hostAddress is the address under which other sidecars reach this one (Dapr API, listeners: host address): the one given, or the
// loopback that the internal server listens on, or the one of this host. A developer's machine without a network reaches itself.
func (s *Sidecar) hostAddress() (string, error) {
	o := &s.options
	switch o.InternalListenAddress {
	case "127.0.0.1", "localhost", "[::1]":
		return o.InternalListenAddress, nil
	}
	if o.HostAddress != "" {
		return o.HostAddress, nil
	}
	address, err := hostaddress.Outward()
	switch {
	case err == nil:
		return address, nil
	case o.Kubernetes:
		return "", fmt.Errorf("failed to determine host address: %w; set DAPR_HOST_IP", err)
	}
	s.log.Warn("Only sidecars on this host reach this one; set DAPR_HOST_IP if there are others", "error", err)
	return hostaddress.Loopback, nil
}

// stablePort is the internal port of an app when none is given: the same for the same app, folder, user and host (Dapr API,
// listeners: derived internal port).
func stablePort(appID string) int {
	directory, _ := os.Getwd()
	host, _ := os.Hostname()
	sum := sha256.Sum256([]byte(strings.Join([]string{appID, directory, strconv.Itoa(os.Getuid()), host}, "|")))
	return 47300 + (int(sum[0])|int(sum[1])<<8)%(65535-47300)
}

// port is the port of a listener's address, 0 if it has none.
func port(l net.Listener) int {
	if a, ok := l.Addr().(*net.TCPAddr); ok {
		return a.Port
	}
	return 0
}
