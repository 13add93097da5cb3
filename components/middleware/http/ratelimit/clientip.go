package ratelimit

import (
	"net/netip"
	"strings"
)

// clientIP is the address that a client counts as: the last entry of X-Forwarded-For, else X-Real-IP, else the remote address,
// else 0.0.0.0; of an IPv6 address the network of 64 bits, for one client has all of it.
func clientIP(forwarded, real, remote string) netip.Addr {
	if i := strings.LastIndexByte(forwarded, ','); i >= 0 {
		forwarded = forwarded[i+1:]
	}
	for _, text := range [...]string{forwarded, real, remote} {
		ip, ok := parseIP(strings.TrimSpace(text))
		if !ok {
			continue
		}
		if ip = ip.Unmap().WithZone(""); ip.Is6() {
			if network, err := ip.Prefix(64); err == nil {
				ip = network.Addr()
			}
		}
		return ip
	}
	return netip.IPv4Unspecified()
}

// parseIP reads an address with or without a port and brackets.
func parseIP(text string) (netip.Addr, bool) {
	if text == "" {
		return netip.Addr{}, false
	}
	if ip, err := netip.ParseAddr(strings.TrimSuffix(strings.TrimPrefix(text, "["), "]")); err == nil {
		return ip, true
	}
	both, err := netip.ParseAddrPort(text)
	return both.Addr(), err == nil
}
