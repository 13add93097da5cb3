package servers

import (
	"context"
	"crypto/tls"
	"fmt"
	"strings"
	"testing"
	"time"
)

// command runs a Redis command that must succeed.
func command(t *testing.T, n *redisNode, args ...string) string {
	t.Helper()
	reply, err := n.do(within(t), args...)
	if err != nil {
		t.Fatalf("%v: %v\n%s", args, err, n.process.logTail())
	}
	return fmt.Sprint(reply)
}

// nodeOf is the node behind a handle, as a client with all it needs.
func nodeOf(s *RedisServer) *redisNode {
	return &redisNode{process: s.process, password: s.Password, tls: s.TLS}
}

func TestRedisKeepsData(t *testing.T) {
	for _, test := range []struct {
		name string
		opts []Option
		kill bool
		want string
	}{
		{"stop", nil, false, "v"},
		{"kill without Durable", nil, true, "<nil>"},
		{"stop with Durable", []Option{Durable()}, false, "v"},
		{"kill with Durable", []Option{Durable()}, true, "v"},
		{"kill with Durable, Password, TLS", []Option{Durable(), Password(`se"cr\et`), TLS()}, true, "v"},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := measured(t, "start", func() *RedisServer { return Redis(t, append(test.opts, Own())...) })
			addr := s.Addr
			command(t, nodeOf(s), "SET", "k", "v")
			if test.kill {
				s.Kill()
			} else {
				s.Stop()
			}
			if s.Running() {
				t.Error("runs after its end")
			}
			if _, err := nodeOf(s).do(within(t), "PING"); err == nil {
				t.Error("answers after its end")
			}
			measured(t, "start again", func() bool { s.Start(); return true })
			if s.Addr != addr || !s.Running() {
				t.Errorf("at %s, running %v; want at %s, running", s.Addr, s.Running(), addr)
			}
			if got := command(t, nodeOf(s), "GET", "k"); got != test.want {
				t.Errorf("value %s, want %s", got, test.want)
			}
		})
	}
}

func TestRedisSetting(t *testing.T) {
	s := Redis(t, Setting("notify-keyspace-events", "KEA"))
	got := command(t, nodeOf(s), "CONFIG", "GET", "notify-keyspace-events")
	if got != "[notify-keyspace-events AKE]" {
		t.Errorf("setting is %s", got)
	}
}

func TestRedisPassword(t *testing.T) {
	s := Redis(t, Password("secret"))
	for _, test := range []struct{ password, want string }{
		{"", "NOAUTH"},
		{"other", "WRONGPASS"},
	} {
		n := nodeOf(s)
		n.password = test.password
		if _, err := n.do(within(t), "PING"); err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("password %q: %v, want %s", test.password, err, test.want)
		}
	}
	command(t, nodeOf(s), "PING")
}

func TestRedisTLS(t *testing.T) {
	for _, test := range []struct {
		name    string
		opt     Option
		noCert  bool // whether clients without a certificate are let in
		settled string
	}{
		{"TLS", TLS(), true, "no"},
		{"MutualTLS", MutualTLS(), false, "yes"},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := Redis(t, test.opt)
			command(t, nodeOf(s), "PING")

			plain := nodeOf(s)
			plain.tls = nil
			if _, err := plain.do(within(t), "PING"); err == nil {
				t.Error("answers without TLS")
			}
			anonymous := nodeOf(s)
			anonymous.tls = &Certificates{client: s.TLS.Client()}
			anonymous.tls.client.Certificates = nil
			if _, err := anonymous.do(within(t), "PING"); (err == nil) != test.noCert {
				t.Errorf("without a certificate: %v", err)
			}
			stranger := nodeOf(s)
			stranger.tls = &Certificates{client: &tls.Config{ServerName: "localhost"}}
			if _, err := stranger.do(within(t), "PING"); err == nil {
				t.Error("a client that does not know the authority trusts the server")
			}
		})
	}
}

func TestRedisShared(t *testing.T) {
	a, b := Redis(t), Redis(t)
	if a.Addr != b.Addr {
		t.Errorf("two servers for the same options: %s and %s", a.Addr, b.Addr)
	}
	for what, other := range map[string]*RedisServer{"options": Redis(t, Durable()), "Own": Redis(t, Own())} {
		if other.Addr == a.Addr {
			t.Errorf("one server in spite of different %s", what)
		}
	}
	a.Kill()
	if c := Redis(t); c.Addr != a.Addr || !c.Running() {
		t.Errorf("%s, running %v, after a kill; want %s running", c.Addr, c.Running(), a.Addr)
	}
}

func TestRedisOwnEndsWithTest(t *testing.T) {
	var s *RedisServer
	t.Run("test", func(t *testing.T) { s = Redis(t, Own()) })
	if s == nil {
		t.Skip("not installed")
	}
	if s.Running() {
		t.Error("runs after its test")
	}
}

func TestRedisCluster(t *testing.T) {
	for _, test := range []struct {
		name string
		opts []Option
	}{
		{"plain", []Option{Durable(), Own()}},
		{"Password, TLS", []Option{Password("secret"), MutualTLS(), Own()}},
	} {
		t.Run(test.name, func(t *testing.T) {
			c := measured(t, "start", func() *RedisClusterServers { return RedisCluster(t, test.opts...) })
			if got := len(c.Addrs()); got != 3 {
				t.Fatalf("%d nodes", got)
			}
			// Slot 15495 is the last third's, slot 3300 the first's.
			if got := command(t, nodeOf(c.Nodes[2]), "CLUSTER", "KEYSLOT", "a"); got != "15495" {
				t.Fatalf("slot %s", got)
			}
			command(t, nodeOf(c.Nodes[2]), "SET", "a", "1")
			if _, err := nodeOf(c.Nodes[0]).do(within(t), "GET", "a"); err == nil || !strings.Contains(err.Error(), "MOVED 15495 "+c.Nodes[2].Addr) {
				t.Errorf("another node says %v, want MOVED to %s", err, c.Nodes[2].Addr)
			}
			if test.name == "plain" {
				c.Nodes[2].Kill()
				c.Nodes[2].Start()
				measured(t, "complete again", func() bool { c.WaitReady(); return true })
				if got := command(t, nodeOf(c.Nodes[2]), "GET", "a"); got != "1" {
					t.Errorf("value %s after kill and start", got)
				}
				c.Kill()
				c.Start()
				c.Stop()
				for _, n := range c.Nodes {
					if n.Running() {
						t.Errorf("%s runs after Stop", n.Addr)
					}
				}
			}
		})
	}
}

func TestRedisSentinel(t *testing.T) {
	s := measured(t, "start", func() *RedisSentinelServers { return RedisSentinel(t, Password("secret"), Durable(), Own()) })
	master, replica := s.Master(), s.Replica()
	if master.Addr != s.Nodes[0].Addr {
		t.Errorf("master is %s, want the first node %s", master.Addr, s.Nodes[0].Addr)
	}
	command(t, nodeOf(master), "SET", "k", "v")
	err := await(10*time.Second, func(ctx context.Context) error {
		reply, err := nodeOf(replica).do(ctx, "GET", "k")
		if err != nil || reply != "v" {
			return fmt.Errorf("replica has %v, %v", reply, err)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	master.Kill()
	measured(t, "failover", func() bool {
		err = await(30*time.Second, func(context.Context) error {
			if now := s.Master(); now.Addr != replica.Addr {
				return fmt.Errorf("master is %s, want %s", now.Addr, replica.Addr)
			}
			return nil
		})
		return true
	})
	if err != nil {
		t.Fatalf("%v\n%s", err, s.Sentinel.Log())
	}
	command(t, nodeOf(s.Master()), "SET", "k", "w")
	if testing.Short() {
		return
	}
	measured(t, "return of the old master", func() bool { s.Start(); return true })
	if got := s.Replica().Addr; got != master.Addr {
		t.Errorf("replica is %s, want the old master %s", got, master.Addr)
	}
	s.Stop()
}
