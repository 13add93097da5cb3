package placement

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"strconv"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"

	"outrigger.dev/controlplane/placement/placementtest"
	"outrigger.dev/identity"
	"outrigger.dev/identity/identitytest"
	"outrigger.dev/test/servers"
)

// cluster runs members of a cluster of size, the first count of them.
func cluster(t *testing.T, size, count int, security func() *Security) (members []*running, peers []Peer) {
	for i := range size {
		peers = append(peers, Peer{ID: fmt.Sprintf("p-%d", i), Address: net.JoinHostPort("127.0.0.1", strconv.Itoa(servers.FreePort(t)))})
	}
	for i := range count {
		members = append(members, launch(t, func(o *Options) {
			o.ID, o.Peers = peers[i].ID, peers
			if security != nil {
				o.Security = security()
			}
		}))
	}
	return members, peers
}

func TestWithoutQuorumNobodyLeads(t *testing.T) {
	members, _ := cluster(t, 3, 1, nil)
	r := members[0]
	expect(t, ending(t, open(t, r.dial(nil), report("a", "T"))), codes.FailedPrecondition, "node id=p-0 is not a leader. Only the leader can serve requests")
	if code, body := get(t, "http://"+r.addresses.Healthz.String()+"/placement/state"); code != 200 || body != "null" {
		t.Errorf("state: %d %s", code, body)
	}
	if code, body := get(t, "http://"+r.addresses.Healthz.String()+"/healthz"); code != 200 {
		t.Errorf("healthz: %d %s", code, body)
	}
	if _, body := get(t, "http://"+r.addresses.Metrics.String()+"/"); !strings.Contains(body, "\ndapr_placement_leader_status 0\n") {
		t.Error("a follower has no leader status of 0")
	}
}

// TestTheLeaderLeaves stops the leader of a secured cluster of three in good order: the lead is handed on, so that nobody waits for an election.
func TestTheLeaderLeaves(t *testing.T) {
	ca := identitytest.NewCA(t)
	members, peers := cluster(t, 3, 3, func() *Security { return secured(t, ca, placementID) })
	h := &placementtest.Host{
		Credentials: credentialsOf(t, ca, "spiffe://localhost/ns/ns/app"), Name: "a", AppID: "app", Namespace: "ns", Types: []string{"T"},
	}
	for _, m := range members {
		h.Addresses = append(h.Addresses, m.addresses.GRPC.String())
	}
	run(t, h)
	await(t, "T:a", h)
	var leader *running
	for _, m := range members {
		if m.addresses.GRPC.String() == h.State().Leader {
			leader = m
		}
	}
	begun := time.Now()
	if err := leader.stop(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	former := leader.addresses.GRPC.String()
	if err := h.Await(ctx, func(s placementtest.State) bool { return s.Settled && s.Leader != former }); err != nil {
		t.Fatal(err)
	}
	t.Logf("settled with the next leader after %s", time.Since(begun))

	// The port of the cluster is for members alone.
	var address string
	for i, m := range members {
		if m != leader {
			address = peers[i].Address
		}
	}
	for name, config := range map[string]*tls.Config{
		"a sidecar":            identity.NewTLS(ca.NewSource(t, "spiffe://localhost/ns/ns/app"), nil).Client(identity.Exactly(placementID)),
		"another trust domain": identity.NewTLS(ca.NewSource(t, "spiffe://elsewhere/ns/dapr-system/dapr-placement"), nil).Client(identity.Exactly(placementID)),
		"another authority":    identity.NewTLS(identitytest.NewCA(t).NewSource(t, placementID.String()), nil).Client(func(*identity.Peer) error { return nil }),
	} {
		if answers(t, address, config) {
			t.Errorf("%s was let in", name)
		}
	}
	if !answers(t, address, identity.NewTLS(ca.NewSource(t, placementID.String()), nil).Client(identity.Exactly(placementID))) {
		t.Error("a member was not let in")
	}
	impostor := identity.NewTLS(ca.NewSource(t, placementID.String()), nil).Client(identity.Exactly(identity.ID{TrustDomain: "localhost", Namespace: "x", AppID: AppID}))
	if answers(t, address, impostor) {
		t.Error("the identity of a member was taken for another one")
	}
}

// answers reports whether a connection to the port of a cluster stays open after the handshake.
func answers(t *testing.T, address string, config *tls.Config) bool {
	t.Helper()
	raw, err := net.DialTimeout("tcp", address, 5*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	defer raw.Close()
	conn := tls.Client(raw, config)
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	if conn.HandshakeContext(ctx) != nil {
		return false
	}
	_ = conn.SetReadDeadline(time.Now().Add(300 * time.Millisecond))
	_, err = conn.Read(make([]byte, 1))
	nerr, ok := err.(net.Error)
	return ok && nerr.Timeout()
}

func TestTheOwnAddressIsTaken(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	local := Address{Host: "127.0.0.1"}
	err = Run(t.Context(), Options{
		ID: "a", Peers: []Peer{{"a", taken.Addr().String()}, {"b", "127.0.0.1:1"}}, Listen: local, Observed: Observed{Healthz: local},
	})
	if err == nil || !strings.Contains(err.Error(), "the own address "+taken.Addr().String()+" in --initial-cluster is not to be listened on") {
		t.Error(err)
	}
}
