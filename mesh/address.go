package mesh

import (
	"fmt"
	"net/netip"
	"strings"
)

// cleanAddress checks that what a name resolver returned can be dialled, and takes off the scheme that gRPC clients put in
// front of names to be looked up in DNS. Errors name the address and what is wrong with it.
func cleanAddress(address string) (string, error) {
	for _, scheme := range [...]string{"dns:///", "passthrough:///"} {
		if rest, ok := strings.CutPrefix(address, scheme); ok {
			address = rest
			break
		}
	}
	colon := strings.LastIndexByte(address, ':')
	if colon < 0 || colon < strings.LastIndexByte(address, ']') {
		if _, err := netip.ParseAddr(strings.Trim(address, "[]")); err == nil || validHost(address) {
			return "", fmt.Errorf("%.200q has no port; it must be host:port", address)
		}
		return "", fmt.Errorf("%.200q is not host:port", address)
	}
	host, port := address[:colon], address[colon+1:]
	if !validPort(port) {
		return "", fmt.Errorf("%.200q has the port %.20q; it must be a number from 1 to 65535", address, port)
	}
	switch {
	case host == "":
		return "", fmt.Errorf("%.200q has no host; it must be host:port", address)
	case host[0] == '[' && host[len(host)-1] == ']':
		ip, err := netip.ParseAddr(host[1 : len(host)-1])
		if err != nil || ip.Is4() {
			return "", fmt.Errorf("%.200q has brackets around what is no IPv6 address", address)
		}
	case strings.IndexByte(host, ':') >= 0:
		if _, err := netip.ParseAddr(address); err != nil {
			if _, err := netip.ParseAddr(host); err != nil {
				return "", fmt.Errorf("%.200q is not host:port", address)
			}
		}
		return "", fmt.Errorf("%.200q is an IPv6 address without brackets, so that its port cannot be told apart; it must be written as in [::1]:50002", address)
	case !validHost(host):
		return "", fmt.Errorf("%.200q is not host:port", address)
	}
	return address, nil
}

func validPort(port string) bool {
	if len(port) == 0 || len(port) > 5 {
		return false
	}
	n := 0
	for i := range len(port) {
		if port[i] < '0' || port[i] > '9' {
			return false
		}
		n = n*10 + int(port[i]-'0')
	}
	return n > 0 && n <= 65535
}

// validHost tells whether host may be a name or an IPv4 address. What its labels may be is left to DNS.
func validHost(host string) bool {
	if host == "" || len(host) > 255 {
		return false
	}
	for i := range len(host) {
		switch c := host[i]; {
		case c <= ' ', c == 0x7f:
			return false
		case c == '/', c == '\\', c == '@', c == '[', c == ']', c == '?', c == '#', c == ',', c == '"', c == '<', c == '>', c == ':':
			return false
		}
	}
	return true
}
