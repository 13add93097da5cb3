package mesh

import (
	"net"
	"strings"
	"testing"
)

func TestCleanAddress(t *testing.T) {
	for _, tc := range []struct{ address, want, err string }{
		{"10.0.0.1:50002", "10.0.0.1:50002", ""},
		{"host:1", "host:1", ""},
		{"a_b.internal.:65535", "a_b.internal.:65535", ""},
		{"[::1]:50002", "[::1]:50002", ""},
		{"[fe80::1%eth0]:7", "[fe80::1%eth0]:7", ""},
		{"dns:///host:1", "host:1", ""},
		{"passthrough:///host:1", "host:1", ""},
		{"", "", "is not host:port"},
		{"host", "", "has no port"},
		{"10.0.0.1", "", "has no port"},
		{"[::1]", "", "has no port"},
		{"host:", "", `has the port ""`},
		{"host:0", "", `has the port "0"`},
		{"host:65536", "", "from 1 to 65535"},
		{"host:http", "", `has the port "http"`},
		{"host:-1", "", `has the port "-1"`},
		{"host:+1", "", `has the port "+1"`},
		{":50002", "", "has no host"},
		{"::1:50002", "", "without brackets"},
		{"fd00::1:2:50002", "", "without brackets"},
		{"1:2:3:4:5:6:7:8:50002", "", "without brackets"},
		{"a:b:50002", "", "is not host:port"},
		{"[10.0.0.1]:1", "", "brackets"},
		{"[host]:1", "", "brackets"},
		{"http://host:1", "", "is not host:port"},
		{"user@host:1", "", "is not host:port"},
		{"host/path:1", "", "is not host:port"},
		{"host name:1", "", "is not host:port"},
		{"host\r\nX: y:1", "", "is not host:port"},
		{"a,b:1", "", "is not host:port"},
		{"<nil>", "", "is not host:port"},
		{strings.Repeat("x", 300) + ":1", "", "is not host:port"},
	} {
		got, err := cleanAddress(tc.address)
		if tc.err == "" {
			if err != nil || got != tc.want {
				t.Errorf("%q: %q, %v; want %q", tc.address, got, err, tc.want)
			}
		} else if err == nil || !strings.Contains(err.Error(), tc.err) || len(err.Error()) > 1000 {
			t.Errorf("%q: %q, %v; want an error with %q", tc.address, got, err, tc.err)
		}
	}
	if n := testing.AllocsPerRun(100, func() { _, _ = cleanAddress("[fd00::1]:50002") }); n > 0 {
		t.Errorf("%v allocations", n)
	}
}

func FuzzCleanAddress(f *testing.F) {
	for _, s := range []string{"a:1", "[::1]:1", "dns:///a:1", "::1:1", "[", "]:1", "[]:1", "[a%b]:1"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, address string) {
		clean, err := cleanAddress(address)
		if err != nil {
			return
		}
		host, port, err := net.SplitHostPort(clean)
		if err != nil || host == "" || port == "" || strings.ContainsAny(host, " \r\n/@") {
			t.Errorf("%q became %q: %q, %q, %v", address, clean, host, port, err)
		}
	})
}
