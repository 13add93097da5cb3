package redis

import (
	"context"
	"log/slog"
	"strings"
	"testing"
	"time"

	"outrigger.dev/components"
	"outrigger.dev/components/pubsub"
	"outrigger.dev/components/pubsub/pubsubtest"
	"outrigger.dev/test/servers"
)

func TestMain(m *testing.M) { servers.Main(m) }

// properties are component metadata.
type properties map[string]string

func (p properties) with(more map[string]string) properties {
	all := properties{}
	for _, from := range []map[string]string{p, more} {
		for k, v := range from {
			all[k] = v
		}
	}
	return all
}

// tryOpen opens the broker the way a sidecar does.
func tryOpen(t testing.TB, p properties) (*Broker, error) {
	t.Helper()
	var r components.Registry
	Register(&r)
	d, err := r.Lookup(components.PubSub, "redis", "v1")
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range d.Check(p) {
		if !f.Fatal { // else opening fails too
			t.Errorf("metadata: %s", f.Message)
		}
	}
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	b, err := d.Open(ctx, components.Instance{Name: "pubsub", Properties: p, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		return nil, err
	}
	return b.(*Broker), nil
}

// open is closed with the test.
func open(t testing.TB, p properties) *Broker {
	t.Helper()
	b, err := tryOpen(t, p)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = b.Close() })
	return b
}

// quick settings let redelivery happen while a test waits.
var quick = map[string]string{"processingTimeout": "1500ms", "redeliverInterval": "300ms"}

func config(p properties) pubsubtest.Config {
	p = p.with(quick)
	return pubsubtest.Config{
		Open: func(t testing.TB, appID string, more map[string]string) pubsub.Broker {
			b, err := tryOpen(t, p.with(map[string]string{"consumerID": appID}).with(more))
			if err != nil {
				t.Fatal(err)
			}
			return b
		},
		Durable: true, Competing: true, Redelivers: 2 * time.Second, Metadata: true,
		LargestMessage: 8 << 20, Messages: 5000,
	}
}

func TestConformance(t *testing.T) {
	server := servers.Redis(t, servers.Own(), servers.Durable())
	c := config(properties{"redisHost": server.Addr})
	c.Restart = func(testing.TB) {
		server.Stop()
		server.Start()
	}
	pubsubtest.Run(t, c)
}

func TestConformanceKilled(t *testing.T) {
	server := servers.Redis(t, servers.Own(), servers.Durable(), servers.Password("pass word$1"))
	c := config(properties{"redisHost": server.Addr, "redisPassword": server.Password, "redisUsername": "default", "redisDB": "3"})
	c.Messages = 1000
	c.Restart = func(testing.TB) {
		server.Kill()
		server.Start()
	}
	pubsubtest.Run(t, c)
}

func TestConformanceOnCluster(t *testing.T) {
	cluster := servers.RedisCluster(t, servers.Own(), servers.Durable())
	c := config(properties{"redisHost": strings.Join(cluster.Addrs(), ","), "redisType": "cluster"})
	c.Messages = 1000
	c.Restart = func(testing.TB) {
		cluster.Stop()
		cluster.Start()
	}
	// The client closes connections that it no longer needs five seconds later, also after its own end.
	c.NotOurs = []string{"rueidis.(*clusterClient)._refresh"}
	pubsubtest.Run(t, c)
}

func TestConformanceWithSentinel(t *testing.T) {
	watched := servers.RedisSentinel(t, servers.TLS(), servers.Password("secret"))
	c := config(properties{
		"redisHost": watched.Sentinel.Addr, "failover": "true", "sentinelMasterName": watched.MasterName,
		"redisPassword": "secret", "enableTLS": "true", "insecureSkipTLSVerify": "true",
	})
	c.Messages = 1000
	pubsubtest.Run(t, c)
}
