package process

import (
	"context"
	"fmt"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"outrigger.dev/controlplane/placement/placementtest"
	"outrigger.dev/telemetry/logging/logtest"
	"outrigger.dev/test/servers"
)

// member is one process of a cluster.
type member struct {
	args    []string
	address string
	log     *logtest.Output
	cmd     *exec.Cmd
	ended   chan error
}

func (m *member) start(t *testing.T, program string) {
	t.Helper()
	m.cmd, m.ended = exec.Command(program, m.args...), make(chan error, 1)
	m.cmd.Stdout, m.cmd.Stderr = m.log, m.log
	if err := m.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	cmd, ended := m.cmd, m.ended
	go func() { ended <- cmd.Wait() }()
}

// kill ends the process as a crash does.
func (m *member) kill(t *testing.T) {
	t.Helper()
	if err := m.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	<-m.ended
}

// TestClusterOfProcesses kills the leader of three processes under twenty sidecars that keep changing their types, and lets it return. Every time
// all sidecars settle with one table at one leader.
func TestClusterOfProcesses(t *testing.T) {
	if testing.Short() {
		t.Skip("builds and runs three processes")
	}
	program := filepath.Join(t.TempDir(), "placement")
	if out, err := exec.Command("go", "build", "-o", program, "outrigger.dev/cmd/placement").CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	var ports [6]int
	for i := range ports {
		ports[i] = servers.FreePort(t)
	}
	var peers, addresses []string
	for i := range 3 {
		peers = append(peers, fmt.Sprintf("p-%d=127.0.0.1:%d", i, ports[i]))
		addresses = append(addresses, fmt.Sprintf("127.0.0.1:%d", ports[3+i]))
	}
	members := make([]*member, 3)
	for i := range members {
		m := &member{address: addresses[i], log: &logtest.Output{}, args: []string{
			"-id", fmt.Sprintf("p-%d", i), "-initial-cluster", strings.Join(peers, ","), "-port", fmt.Sprint(ports[3+i]), "-listen-address", "127.0.0.1",
			"-healthz-port", "0", "-enable-metrics=false",
		}}
		m.start(t, program)
		members[i] = m
		t.Cleanup(func() {
			_ = m.cmd.Process.Kill()
			<-m.ended
			if t.Failed() {
				t.Logf("%s:\n%s", m.args[1], m.log)
			}
		})
	}

	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var hosts []*placementtest.Host
	done := make(chan struct{})
	for i := range 20 {
		h := &placementtest.Host{
			Addresses: slices.Concat(addresses[i%3:], addresses[:i%3]), Name: fmt.Sprintf("10.0.0.%02d:50002", i), AppID: "app", Namespace: "ns", Types: []string{"T"},
		}
		hosts = append(hosts, h)
		go func() { h.Run(ctx); done <- struct{}{} }()
	}
	t.Cleanup(func() {
		cancel()
		for range hosts {
			<-done
		}
		for _, h := range hosts {
			if wrong := h.State().Wrong; len(wrong) > 0 {
				t.Errorf("sidecar %s: %q", h.Name, wrong)
			}
		}
	})
	settle := func(what, not string) (leader string) {
		t.Helper()
		begun := time.Now()
		bound, cancel := context.WithTimeout(ctx, 30*time.Second)
		defer cancel()
		want := expected(hosts)
		for _, h := range hosts {
			if err := h.Await(bound, func(s placementtest.State) bool {
				return s.Settled && s.Table == want && s.Leader != "" && s.Leader != not
			}); err != nil {
				t.Fatalf("%s: want {%s}: %v", what, want, err)
			}
			leader = h.State().Leader
		}
		t.Logf("%s: settled after %s", what, time.Since(begun).Round(time.Millisecond))
		return leader
	}
	leader := settle("start", "")
	for round := range 2 {
		// Sidecars change their types all the time while the leader dies.
		quit, quiet := make(chan struct{}), make(chan struct{})
		go func() {
			defer close(quiet)
			for i := 0; ; i++ {
				select {
				case <-quit:
					return
				case <-time.After(5 * time.Millisecond):
				}
				types := []string{"T"}
				if i/len(hosts)%2 == 0 {
					types = append(types, fmt.Sprintf("U%d", i%3))
				}
				_ = hosts[i%len(hosts)].Report(types...) // one without a stream says it when it has one
			}
		}()
		i := slices.Index(addresses, leader)
		killed := time.Now()
		members[i].kill(t)
		bound, cancelBound := context.WithTimeout(ctx, 30*time.Second)
		for _, h := range hosts {
			if err := h.Await(bound, func(s placementtest.State) bool { return s.Leader != "" && s.Leader != leader }); err != nil {
				t.Fatalf("after the kill: %v", err)
			}
		}
		cancelBound()
		t.Logf("all sidecars found the next leader after %s", time.Since(killed).Round(time.Millisecond))
		close(quit)
		<-quiet
		next := settle("after the kill", leader)
		starts := strings.Count(members[i].log.String(), "is running on")
		members[i].start(t, program)
		// The one that returned is a follower, and the leader stays.
		for deadline := time.Now().Add(10 * time.Second); strings.Count(members[i].log.String(), "is running on") == starts; {
			if time.Now().After(deadline) {
				t.Fatalf("the member does not return:\n%s", members[i].log)
			}
			time.Sleep(10 * time.Millisecond)
		}
		if err := hosts[0].Report("T", fmt.Sprintf("V%d", round)); err != nil {
			t.Fatal(err)
		}
		leader = settle("after the return", "")
		if leader != next {
			t.Errorf("the leader went from %s to %s when a member returned", next, leader)
		}
	}
}

// expected is the table of all sidecars.
func expected(hosts []*placementtest.Host) string {
	byType := map[string][]string{}
	for _, h := range hosts {
		for _, typ := range h.Announced() {
			byType[typ] = append(byType[typ], h.Name)
		}
	}
	var types []string
	for typ, names := range byType {
		slices.Sort(names)
		types = append(types, typ+":"+strings.Join(names, ","))
	}
	slices.Sort(types)
	return strings.Join(types, " ")
}
