package hostaddress

import (
	"net/netip"
	"slices"
	"testing"
)

func TestOutward(t *testing.T) {
	text, err := Outward()
	if err != nil {
		t.Skip(err) // a host that has loopback only
	}
	if a, err := netip.ParseAddr(text); err != nil || a.IsLoopback() || a.IsUnspecified() {
		t.Errorf("address %q: %v", text, err)
	}
}

func TestRank(t *testing.T) {
	var last int
	for _, reach := range [][]string{
		{"127.0.0.1", "::1", "0.0.0.0", "224.0.0.1", "192.0.0.2"}, // never used
		{"169.254.1.1", "fe80::1"},
		{"fd00::1"},
		{"10.1.2.3", "172.16.0.1", "192.168.1.1", "100.64.0.1"},
		{"2a00::1"},
		{"8.8.8.8"},
	} {
		var ranks []int
		for _, text := range reach {
			ranks = append(ranks, rank(netip.MustParseAddr(text)))
		}
		if slices.Min(ranks) != slices.Max(ranks) {
			t.Errorf("ranks of %v: %v, want the same", reach, ranks)
		}
		if reach[0] != "127.0.0.1" && ranks[0] <= last {
			t.Errorf("%v ranks %d, not above %d", reach, ranks[0], last)
		}
		last = ranks[0]
	}
	if last := rank(netip.MustParseAddr("127.0.0.1")); last != 0 {
		t.Errorf("loopback ranks %d", last)
	}
}
