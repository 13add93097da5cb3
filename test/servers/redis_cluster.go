package servers

import (
	"context"
	"fmt"
	"strconv"
	"testing"
)

// clusterSlots is the number of hash slots of a Redis Cluster.
const clusterSlots = 16384

// clusterMasters is how many nodes the cluster of a test has.
const clusterMasters = 3

// RedisClusterServers is a Redis Cluster of three masters without replicas,
// which share the hash slots evenly.
type RedisClusterServers struct {
	// Nodes are the masters, in the order of their slots.
	Nodes []*RedisServer
	// Password is what the default user must give; empty for none.
	Password string
	// TLS is what clients need under the options [TLS] and [MutualTLS]; nil without them.
	TLS *Certificates

	tb   testing.TB
	core *redisClusterCore
}

// RedisCluster returns a running Redis Cluster whose nodes agree that it is
// complete. The first call takes about two seconds: a Redis master lets that
// time pass before it takes writes.
func RedisCluster(tb testing.TB, opts ...Option) *RedisClusterServers {
	tb.Helper()
	core := acquire(tb, kindRedisCluster, opts, launchRedisCluster)
	c := &RedisClusterServers{tb: tb, core: core, Password: core.nodes[0].password, TLS: core.nodes[0].tls}
	for _, n := range core.nodes {
		c.Nodes = append(c.Nodes, n.handle(tb))
	}
	return c
}

// Addrs are the addresses of all nodes.
func (c *RedisClusterServers) Addrs() []string {
	addrs := make([]string, len(c.Nodes))
	for i, n := range c.Nodes {
		addrs[i] = n.Addr
	}
	return addrs
}

// Stop shuts every node down as [Server.Stop] does.
func (c *RedisClusterServers) Stop() {
	c.tb.Helper()
	for _, n := range c.Nodes {
		n.Stop()
	}
}

// Kill ends every node as [Server.Kill] does.
func (c *RedisClusterServers) Kill() {
	c.tb.Helper()
	for _, n := range c.Nodes {
		n.Kill()
	}
}

// Start brings back every node that is down and waits as WaitReady does.
func (c *RedisClusterServers) Start() {
	c.tb.Helper()
	for _, n := range c.Nodes {
		n.Start()
	}
	c.WaitReady()
}

// WaitReady returns when every node reports the cluster complete, as after the
// Start of a single node. It fails the test after 30 seconds.
func (c *RedisClusterServers) WaitReady() {
	c.tb.Helper()
	if err := c.core.ready(); err != nil {
		c.tb.Fatal(err)
	}
}

type redisClusterCore struct{ nodes []*redisNode }

func (c *redisClusterCore) processes() []*process {
	ps := make([]*process, len(c.nodes))
	for i, n := range c.nodes {
		ps[i] = n.process
	}
	return ps
}

func launchRedisCluster(dir string, o options) (*redisClusterCore, error) {
	r, err := newRedisRecipe(dir, o)
	if err != nil {
		return nil, err
	}
	c := &redisClusterCore{}
	if err := c.build(r); err != nil {
		discardProcesses(c.processes()...)
		return nil, err
	}
	return c, nil
}

func (c *redisClusterCore) build(r *redisRecipe) error {
	settings := append([]setting{
		{"cluster-enabled", "yes"},
		{"cluster-config-file", "nodes.conf"},
		{"cluster-node-timeout", "2000"},
	}, r.dataSettings()...)
	if r.certs != nil {
		settings = append(settings, setting{"tls-cluster", "yes"})
	}
	for i := range clusterMasters {
		// The bus port is the data port plus 10000 in every version of Redis.
		port, held, err := reservePort(busPortGap)
		if err != nil {
			return err
		}
		n, err := r.node(fmt.Sprintf("node-%d", i), port, held, settings)
		if err != nil {
			return err
		}
		c.nodes = append(c.nodes, n)
		if err := n.process.start(); err != nil {
			return err
		}
	}
	ctx, cancel := context.WithTimeout(context.Background(), startLimit)
	defer cancel()
	for i, n := range c.nodes {
		commands := [][]string{
			{"CLUSTER", "SET-CONFIG-EPOCH", strconv.Itoa(i + 1)},
			append([]string{"CLUSTER", "ADDSLOTS"}, slotShare(i, clusterMasters)...),
		}
		if i > 0 {
			commands = append(commands, []string{"CLUSTER", "MEET", "127.0.0.1", strconv.Itoa(c.nodes[0].process.port)})
		}
		for _, command := range commands {
			if _, err := n.do(ctx, command...); err != nil {
				return n.process.failure("did not join the cluster", err)
			}
		}
	}
	return c.ready()
}

// slotShare is the part of the hash slots that one of n masters serves.
func slotShare(i, n int) []string {
	var slots []string
	for slot := i * clusterSlots / n; slot < (i+1)*clusterSlots/n; slot++ {
		slots = append(slots, strconv.Itoa(slot))
	}
	return slots
}

// ready waits until every node knows all others and sees all slots served.
func (c *redisClusterCore) ready() error {
	for _, n := range c.nodes {
		err := await(startLimit, func(ctx context.Context) error {
			reply, err := n.do(ctx, "CLUSTER", "INFO")
			if err != nil {
				return err
			}
			info := lines(reply)
			if info["cluster_state"] != "ok" || info["cluster_size"] != strconv.Itoa(clusterMasters) {
				return fmt.Errorf("cluster_state %s with %s of %d masters", info["cluster_state"], info["cluster_size"], clusterMasters)
			}
			return nil
		})
		if err != nil {
			return n.process.failure("did not see its cluster complete", err)
		}
	}
	return nil
}
