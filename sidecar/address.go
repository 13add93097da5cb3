package sidecar

import (
	"crypto/sha256"
	"errors"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"
)

// hostAddress is the address under which other sidecars reach this one: the given one, or the source address the system
// would use towards the outside, or the best address of an interface (Dapr API, listeners: host address).
func hostAddress(given string) (string, error) {
	if given != "" {
		return given, nil
	}
	for _, outside := range []string{"192.0.2.1:80", "[2001:db8::1]:80"} {
		// Connecting a datagram socket sends nothing; it only makes the system choose a source address.
		if c, err := net.Dial("udp", outside); err == nil {
			address, ok := c.LocalAddr().(*net.UDPAddr)
			_ = c.Close()
			if ok && !address.IP.IsLoopback() && !address.IP.IsUnspecified() {
				return address.IP.String(), nil
			}
		}
	}
	addresses, err := net.InterfaceAddrs()
	if err != nil {
		return "", err
	}
	best, bestRank := "", 0
	for _, a := range addresses {
		prefix, err := netip.ParsePrefix(a.String())
		if err != nil {
			continue
		}
		if r := rank(prefix.Addr()); r > bestRank {
			best, bestRank = prefix.Addr().String(), r
		}
	}
	if best == "" {
		return "", errors.New("failed to determine host address: no interface has one; set DAPR_HOST_IP")
	}
	return best, nil
}

var (
	cgnat    = netip.MustParsePrefix("100.64.0.0/10")
	protocol = netip.MustParsePrefix("192.0.0.0/29")
)

// rank orders addresses by how widely they are likely to be reachable; 0 are never used.
func rank(a netip.Addr) int {
	switch {
	case a.IsLoopback(), a.IsUnspecified(), a.IsMulticast(), protocol.Contains(a):
		return 0
	case a.IsLinkLocalUnicast():
		return 1
	case a.Is6() && a.IsPrivate():
		return 2
	case a.Is4() && (a.IsPrivate() || cgnat.Contains(a)):
		return 3
	case a.Is6():
		return 4
	default:
		return 5
	}
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
