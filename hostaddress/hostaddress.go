// Package hostaddress finds the address by which others reach this host.
package hostaddress

import (
	"errors"
	"net"
	"net/netip"
)

// Loopback is the address by which a host reaches itself.
const Loopback = "127.0.0.1"

// Outward is the source address that the system would use towards the outside or, without a way there, the address of an interface
// that reaches furthest. It fails when no interface has any but loopback addresses (Dapr API, listeners: host address).
func Outward() (string, error) {
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
		return "", errors.New("no network interface has an address that others could reach")
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
