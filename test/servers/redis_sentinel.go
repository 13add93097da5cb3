package servers

import (
	"context"
	"fmt"
	"strconv"
	"testing"
)

// sentinelMaster is the name under which the sentinel watches the master.
const sentinelMaster = "mymaster"

// RedisSentinelServers is a Redis master with one replica, watched by one
// sentinel that makes the replica master when the master has been gone for a second.
type RedisSentinelServers struct {
	// Sentinel is the sentinel, whose address clients are given.
	Sentinel *RedisServer
	// Nodes are the two data nodes. The first is master at the very start.
	Nodes []*RedisServer
	// MasterName is what clients ask the sentinel for.
	MasterName string
	// Password is what the data nodes' default user must give; empty for none.
	// The sentinel requires none.
	Password string
	// TLS is what clients need under the options [TLS] and [MutualTLS]; nil without them.
	TLS *Certificates

	tb   testing.TB
	core *redisSentinelCore
}

// RedisSentinel returns a running sentinel that sees a master and a replica in step with it.
func RedisSentinel(tb testing.TB, opts ...Option) *RedisSentinelServers {
	tb.Helper()
	core := acquire(tb, kindRedisSentinel, opts, launchRedisSentinel)
	s := &RedisSentinelServers{
		tb: tb, core: core, MasterName: sentinelMaster,
		Sentinel: core.sentinel.handle(tb), Password: core.nodes[0].password, TLS: core.nodes[0].tls,
	}
	for _, n := range core.nodes {
		s.Nodes = append(s.Nodes, n.handle(tb))
	}
	return s
}

// Master is the data node that the sentinel names as master now.
func (s *RedisSentinelServers) Master() *RedisServer {
	s.tb.Helper()
	i, err := s.core.master()
	if err != nil {
		s.tb.Fatal(err)
	}
	return s.Nodes[i]
}

// Replica is the data node that the sentinel does not name as master now.
func (s *RedisSentinelServers) Replica() *RedisServer {
	s.tb.Helper()
	i, err := s.core.master()
	if err != nil {
		s.tb.Fatal(err)
	}
	return s.Nodes[1-i]
}

// Stop shuts the sentinel and then both nodes down as [Server.Stop] does.
func (s *RedisSentinelServers) Stop() {
	s.tb.Helper()
	s.Sentinel.Stop()
	for _, n := range s.Nodes {
		n.Stop()
	}
}

// Kill ends the sentinel and then both nodes as [Server.Kill] does.
func (s *RedisSentinelServers) Kill() {
	s.tb.Helper()
	s.Sentinel.Kill()
	for _, n := range s.Nodes {
		n.Kill()
	}
}

// Start brings back what is down and waits as WaitReady does.
func (s *RedisSentinelServers) Start() {
	s.tb.Helper()
	for _, n := range s.Nodes {
		n.Start()
	}
	s.Sentinel.Start()
	s.WaitReady()
}

// WaitReady returns when the sentinel sees a master and a replica in step with
// it. It fails the test after 60 seconds: after a failover the sentinel takes
// some seconds (before Redis 7.0 twenty) to make a master that returns a replica.
func (s *RedisSentinelServers) WaitReady() {
	s.tb.Helper()
	if err := s.core.ready(); err != nil {
		s.tb.Fatal(err)
	}
}

type redisSentinelCore struct {
	nodes    []*redisNode
	sentinel *redisNode
}

func (c *redisSentinelCore) processes() []*process {
	var ps []*process
	for _, n := range c.nodes {
		ps = append(ps, n.process)
	}
	if c.sentinel != nil {
		ps = append(ps, c.sentinel.process)
	}
	return ps
}

func launchRedisSentinel(dir string, o options) (*redisSentinelCore, error) {
	r, err := newRedisRecipe(dir, o)
	if err != nil {
		return nil, err
	}
	c := &redisSentinelCore{}
	if err := c.build(r); err != nil {
		discardProcesses(c.processes()...)
		return nil, err
	}
	return c, nil
}

func (c *redisSentinelCore) build(r *redisRecipe) error {
	for i := range 2 {
		settings := r.dataSettings()
		if i > 0 {
			settings = append(settings, setting{"replicaof", "127.0.0.1 " + strconv.Itoa(c.nodes[0].process.port)})
		}
		port, held, err := reservePort()
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
	// The sentinel lists its master's replicas when it first connects, and then
	// only every ten seconds: let the replica be there before it.
	err := await(startLimit, func(ctx context.Context) error {
		reply, err := c.nodes[1].do(ctx, "INFO", "replication")
		if err != nil {
			return err
		}
		if status := lines(reply)["master_link_status"]; status != "up" {
			return fmt.Errorf("master_link_status %s", status)
		}
		return nil
	})
	if err != nil {
		return c.nodes[1].process.failure("did not follow its master", err)
	}
	settings := []setting{
		{"sentinel monitor", fmt.Sprintf("%s 127.0.0.1 %d 1", sentinelMaster, c.nodes[0].process.port)},
		{"sentinel down-after-milliseconds", sentinelMaster + " 1000"},
		{"sentinel failover-timeout", sentinelMaster + " 3000"},
	}
	if r.options.password != "" {
		settings = append(settings, setting{"sentinel auth-pass", sentinelMaster + " " + redisQuote(r.options.password)})
	}
	port, held, err := reservePort()
	if err != nil {
		return err
	}
	if c.sentinel, err = r.node("sentinel", port, held, settings, "--sentinel"); err != nil {
		return err
	}
	c.sentinel.process.name = "Redis Sentinel"
	c.sentinel.password = ""
	if err := c.sentinel.process.start(); err != nil {
		return err
	}
	return c.ready()
}

// master is the index of the node that the sentinel names as master.
func (c *redisSentinelCore) master() (int, error) {
	ctx, cancel := context.WithTimeout(context.Background(), startLimit)
	defer cancel()
	reply, err := c.sentinel.do(ctx, "SENTINEL", "GET-MASTER-ADDR-BY-NAME", sentinelMaster)
	if err != nil {
		return 0, c.sentinel.process.failure("does not name the master", err)
	}
	if addr, ok := reply.([]any); ok && len(addr) == 2 {
		for i, n := range c.nodes {
			if addr[1] == strconv.Itoa(n.process.port) {
				return i, nil
			}
		}
	}
	return 0, c.sentinel.process.failure("does not name the master", fmt.Errorf("it names %v", reply))
}

// ready waits until the sentinel sees a live master with a replica in step.
func (c *redisSentinelCore) ready() error {
	err := await(2*startLimit, func(ctx context.Context) error {
		// By default it looks at the nodes every ten seconds, and waits four times
		// the publish period before it touches a node's role. Redis before 7.0
		// cannot be told otherwise, and just takes longer.
		_, _ = c.sentinel.do(ctx, "SENTINEL", "DEBUG", "INFO-PERIOD", "500", "PUBLISH-PERIOD", "500")
		reply, err := c.sentinel.do(ctx, "SENTINEL", "MASTER", sentinelMaster)
		if err != nil {
			return err
		}
		if flags := fields(reply)["flags"]; flags != "master" {
			return fmt.Errorf("the master is %s", flags)
		}
		reply, err = c.sentinel.do(ctx, "SENTINEL", "REPLICAS", sentinelMaster)
		if err != nil {
			return err
		}
		replicas, _ := reply.([]any)
		if len(replicas) != 1 {
			return fmt.Errorf("%d replicas instead of 1", len(replicas))
		}
		replica := fields(replicas[0])
		if replica["flags"] != "slave" || replica["master-link-status"] != "ok" {
			return fmt.Errorf("the replica is %s with its link to the master %s", replica["flags"], replica["master-link-status"])
		}
		return nil
	})
	if err != nil {
		return c.sentinel.process.failure("did not see a master and a replica", err)
	}
	return nil
}
