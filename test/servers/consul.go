package servers

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"
)

// Distances from the port of Consul's HTTP API to those it needs for itself.
const (
	consulRPCGap  = 1
	consulSerfGap = 2
)

// ConsulServer is one Consul agent in development mode, which is a cluster of its own. Addr takes the HTTP API. What it
// knows is gone after Stop or Kill.
type ConsulServer struct {
	Server
	// URL is that of the HTTP API.
	URL string
}

// Consul returns a running Consul agent. Tests that share it keep apart by the names of services. A [Setting] is a line of
// its configuration, such as Setting("acl", `{ enabled = true }`).
func Consul(tb testing.TB, opts ...Option) *ConsulServer {
	tb.Helper()
	n := acquire(tb, kindConsul, opts, launchConsul)
	return &ConsulServer{Server: bind(tb, n.process), URL: "http://" + loopback(n.process.port)}
}

type consulNode struct{ process *process }

func (n *consulNode) processes() []*process { return []*process{n.process} }

func (n *consulNode) ready() error { return nil } // it has a leader, which is all there is

func launchConsul(dir string, o options) (*consulNode, error) {
	program, err := exec.LookPath("consul")
	if err != nil {
		var ok bool
		if program, ok = lookCached("consul"); !ok {
			return nil, &missingError{"a Consul agent", "test/setup/consul.sh"}
		}
	}
	port, held, err := reservePort(consulRPCGap, consulSerfGap)
	if err != nil {
		return nil, err
	}
	args := []string{
		"agent", "-dev", "-node", "test", "-bind", "127.0.0.1", "-client", "127.0.0.1", "-log-level", "warn", "-http-port", strconv.Itoa(port),
		"-server-port", strconv.Itoa(port + consulRPCGap), "-serf-lan-port", strconv.Itoa(port + consulSerfGap), "-serf-wan-port", "-1",
		"-dns-port", "-1", "-grpc-port", "-1", "-grpc-tls-port", "-1", "-hcl", "disable_update_check = true",
	}
	for _, s := range o.settings {
		args = append(args, "-hcl", s.name+" = "+s.value)
	}
	n := &consulNode{process: &process{
		name: "Consul", command: program, args: args, dir: dir, port: port, held: held,
		stopSignal: syscall.SIGTERM, discardSignal: syscall.SIGKILL,
		ping: func(ctx context.Context) error { return pingConsul(ctx, port) },
	}}
	if err := n.process.start(); err != nil {
		n.process.discard()
		return nil, err
	}
	return n, nil
}

// pingConsul waits for the agent to lead its cluster; before that it takes registrations but shows them to nobody.
func pingConsul(ctx context.Context, port int) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+loopback(port)+"/v1/status/leader", nil)
	if err != nil {
		return err
	}
	resp, err := (&http.Client{Transport: &http.Transport{DisableKeepAlives: true}}).Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	leader, err := io.ReadAll(io.LimitReader(resp.Body, 1<<10))
	if err == nil && (resp.StatusCode != http.StatusOK || len(strings.Trim(strings.TrimSpace(string(leader)), `"`)) == 0) {
		err = fmt.Errorf("no leader yet: status %d, %s", resp.StatusCode, leader)
	}
	return err
}
