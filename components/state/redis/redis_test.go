package redis

import (
	"context"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/redis/rueidis"

	"outrigger.dev/components"
	"outrigger.dev/components/state"
	"outrigger.dev/components/state/statetest"
	"outrigger.dev/test/servers"
)

func TestMain(m *testing.M) { servers.Main(m) }

// properties are component metadata.
type properties map[string]string

// tryOpen opens the store the way a sidecar does.
func tryOpen(t *testing.T, p properties) (*Store, error) {
	t.Helper()
	var r components.Registry
	Register(&r)
	d, err := r.Lookup(components.State, "redis", "v1")
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
	s, err := d.Open(ctx, components.Instance{Name: "st", Properties: p, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		return nil, err
	}
	return s.(*Store), nil
}

func open(t *testing.T, p properties) *Store {
	t.Helper()
	s, err := tryOpen(t, p)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// connect is open, closed with the test.
func connect(t *testing.T, p properties) *Store {
	t.Helper()
	s := open(t, p)
	t.Cleanup(func() { _ = s.Close() })
	return s
}

// deviations are those that the Dapr API documents for Redis.
func deviations(p properties) statetest.Config {
	return statetest.Config{
		ETagOnMissingKeySucceeds:        true,
		InvalidETag:                     "not-a-number",
		LastWriteIgnoresETag:            true,
		FirstWriteErrorGeneric:          true,
		FirstWriteSticks:                true,
		FirstWriteIgnoredInTransactions: true,
		KeepsTTLOnResave:                true,
		NoTTLExpireTime:                 true,
		NoRollback:                      true,
		KeysInKeyOrder:                  true,
		Reopen:                          func(t *testing.T) state.Store { return open(t, p) },
	}
}

func conform(t *testing.T, p properties) {
	statetest.Run(t, deviations(p), func(t *testing.T) state.Store { return open(t, p) })
}

func TestConformance(t *testing.T) {
	conform(t, properties{"redisHost": servers.Redis(t).Addr})
}

func TestConformanceWithPassword(t *testing.T) {
	server := servers.Redis(t, servers.Password("pass word$1"))
	p := properties{"redisHost": server.Addr, "redisPassword": server.Password, "redisUsername": "default", "redisDB": "3"}
	conform(t, p)
	for name, c := range map[string]struct {
		change properties
		want   string
	}{
		"wrong":   {properties{"redisPassword": "wrong"}, "redisPassword"},
		"missing": {properties{"redisPassword": "", "redisUsername": ""}, "redisPassword"},
		"db":      {properties{"redisDB": "9999"}, "redisDB"},
	} {
		t.Run(name, func(t *testing.T) {
			q := properties{}
			for _, from := range []properties{p, c.change} {
				for k, v := range from {
					q[k] = v
				}
			}
			_, err := tryOpen(t, q)
			expectError(t, err, server.Addr, c.want)
		})
	}
}

func TestConformanceOnCluster(t *testing.T) {
	cluster := servers.RedisCluster(t)
	p := properties{"redisHost": strings.Join(cluster.Addrs(), ","), "redisType": "cluster"}
	config := deviations(p)
	config.SplitTransactions = true
	statetest.Run(t, config, func(t *testing.T) state.Store {
		s := open(t, p)
		if s.client.Mode() != rueidis.ClientModeCluster {
			t.Errorf("the client's mode is %s", s.client.Mode())
		}
		return s
	})
}

// TestStrongOnCluster checks that a strong write goes through while a replica is missing, after the limit of waiting.
func TestStrongOnCluster(t *testing.T) {
	cluster := servers.RedisCluster(t)
	s := connect(t, properties{"redisHost": cluster.Addrs()[0], "redisType": "cluster"})
	s.replicas = 1
	ctx := context.Background()
	for _, key := range []string{"strong||1", "strong||2"} {
		start := time.Now()
		strong := state.Options{Consistency: state.Strong}
		if err := s.Set(ctx, state.SetRequest{Key: key, Value: state.Value{Bytes: []byte("v")}, Options: strong}); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(start); took < waitLimit*time.Millisecond/2 {
			t.Errorf("the write took %v, so it did not wait for a replica", took)
		}
		if err := s.Set(ctx, state.SetRequest{Key: key, ETag: "99", Options: strong}); err == nil {
			t.Error("a strong write with another etag succeeded")
		}
		if item, err := s.Get(ctx, state.GetRequest{Key: key}); err != nil || string(item.Data) != "v" {
			t.Errorf("Get = %q, %v", item.Data, err)
		}
		if err := s.Delete(ctx, state.DeleteRequest{Key: key, Options: strong}); err != nil {
			t.Error(err)
		}
	}
}

// TestClusterOfOne checks that a server that is no cluster serves as one all the same.
func TestClusterOfOne(t *testing.T) {
	s := connect(t, properties{"redisHost": servers.Redis(t).Addr, "redisType": "cluster"})
	if err := s.Set(context.Background(), state.SetRequest{Key: "k"}); err != nil {
		t.Error(err)
	}
}

// TestSentinel checks that the store follows the master when it fails.
func TestSentinel(t *testing.T) {
	watched := servers.RedisSentinel(t, servers.Own(), servers.Password("secret"))
	p := properties{"redisHost": watched.Sentinel.Addr, "failover": "true", "sentinelMasterName": watched.MasterName, "redisPassword": "secret"}
	s := connect(t, p)
	if s.replicas != 1 {
		t.Errorf("the store sees %d replicas, want 1", s.replicas)
	}
	ctx := context.Background()
	for _, consistency := range []state.Consistency{state.Eventual, state.Strong} {
		req := state.SetRequest{Key: "app||" + string(consistency), Value: state.Value{Bytes: []byte("v")}, Options: state.Options{Consistency: consistency}}
		if err := s.Set(ctx, req); err != nil {
			t.Fatalf("Set with consistency %q: %v", consistency, err)
		}
	}
	watched.Master().Kill()
	deadline := time.Now().Add(time.Minute)
	for {
		short, cancel := context.WithTimeout(ctx, 5*time.Second)
		err := s.Set(short, state.SetRequest{Key: "app||after", Value: state.Value{Bytes: []byte("w")}})
		cancel()
		if err == nil {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("no write succeeded within a minute of the master's end: %v", err)
		}
	}
	// What was acknowledged as strong is still there.
	item, err := s.Get(ctx, state.GetRequest{Key: "app||strong"})
	if err != nil || string(item.Data) != "v" {
		t.Errorf("Get of the strong write = %q, %v", item.Data, err)
	}
	p["sentinelMasterName"] = "other"
	_, err = tryOpen(t, p)
	expectError(t, err, "sentinelMasterName", watched.Sentinel.Addr)
}

func TestConformanceWithSentinel(t *testing.T) {
	watched := servers.RedisSentinel(t)
	conform(t, properties{"redisHost": watched.Sentinel.Addr, "failover": "yes", "sentinelMasterName": watched.MasterName})
}

// TestTLS checks certificates in both directions.
func TestTLS(t *testing.T) {
	server := servers.Redis(t, servers.TLS())
	// The system's authorities are read once per process, when first needed: here.
	t.Setenv("SSL_CERT_FILE", server.TLS.CAFile)
	conform(t, properties{"redisHost": server.Addr, "enableTLS": "true"})

	mutual := servers.Redis(t, servers.MutualTLS())
	_, err := tryOpen(t, properties{"redisHost": mutual.Addr, "enableTLS": "true", "clientCert": string(mutual.TLS.Cert), "clientKey": string(mutual.TLS.Key)})
	expectError(t, err, mutual.Addr, "x509", "authority")
	_, err = tryOpen(t, properties{"redisHost": mutual.Addr, "enableTLS": "true", "insecureSkipTLSVerify": "true"})
	expectError(t, err, mutual.Addr)
	_, err = tryOpen(t, properties{"redisHost": server.Addr, "dialTimeout": "1s", "readTimeout": "1s"})
	expectError(t, err, server.Addr, "enableTLS")
	for _, pair := range [][2]string{{string(mutual.TLS.Cert), string(mutual.TLS.Key)}, {mutual.TLS.CertFile, mutual.TLS.KeyFile}} {
		s := connect(t, properties{"redisHost": mutual.Addr, "enableTLS": "true", "insecureSkipTLSVerify": "true", "clientCert": pair[0], "clientKey": pair[1]})
		if err := s.Set(context.Background(), state.SetRequest{Key: "k"}); err != nil {
			t.Errorf("Set: %v", err)
		}
	}
}

func expectError(t *testing.T, err error, words ...string) {
	t.Helper()
	if err == nil {
		t.Errorf("no error, want one with %q", words)
		return
	}
	for _, w := range words {
		if !strings.Contains(err.Error(), w) {
			t.Errorf("error %q lacks %q", err, w)
		}
	}
}

func TestCapabilities(t *testing.T) {
	s := connect(t, properties{"redisHost": servers.Redis(t).Addr})
	want := []string{"ETAG", "TRANSACTIONAL", "TTL", "KEYS_LIKE", "ACTOR"}
	if got := state.Capabilities(s); !slices.Equal(got, want) {
		t.Errorf("capabilities %v, want %v (the test server has no RedisJSON)", got, want)
	}
	_, err := s.Query(context.Background(), state.Query{}, nil)
	expectError(t, err, "redis-json server support is required for query capability")
}

// TestServerDown checks what happens while the server is away, and after.
func TestServerDown(t *testing.T) {
	server := servers.Redis(t, servers.Own(), servers.Durable())
	p := properties{"redisHost": server.Addr, "redisMaxRetries": "0"}
	s := connect(t, p)
	patient := connect(t, properties{"redisHost": server.Addr, "redisMaxRetries": "100", "redisMinRetryInterval": "50", "redisMaxRetryInterval": "100"})
	ctx := context.Background()
	set := state.SetRequest{Key: "k", Value: state.Value{Bytes: []byte("v")}}
	for _, store := range []*Store{s, patient} {
		if err := store.Set(ctx, set); err != nil {
			t.Fatal(err)
		}
	}
	for _, end := range []func(){server.Stop, server.Kill} {
		end()
		_, err := tryOpen(t, p)
		expectError(t, err, server.Addr, "refused", "redisHost")
		_, get := s.Get(ctx, state.GetRequest{Key: "k"})
		for what, err := range map[string]error{
			"Get":      get,
			"Set":      s.Set(ctx, set),
			"Delete":   s.Delete(ctx, state.DeleteRequest{Key: "k", ETag: "1"}),
			"Transact": s.Transact(ctx, state.TransactionRequest{Operations: []state.Operation{{Set: &set}}}),
		} {
			expectError(t, err)
			if e, ok := state.AsETagError(err); ok {
				t.Errorf("%s without a server: the etag error %v", what, e)
			}
		}
		// Writes that could not be sent wait for the server, as often as the metadata says.
		waited := make(chan error, 1)
		go func() { waited <- patient.Set(ctx, set) }()
		server.Start()
		if err := <-waited; err != nil {
			t.Errorf("a write with retries left: %v", err)
		}
		item, err := s.Get(ctx, state.GetRequest{Key: "k"})
		if err != nil || string(item.Data) != "v" {
			t.Errorf("Get after the server came back = %q, %v", item.Data, err)
		}
		// The server has forgotten the scripts.
		if err := s.Transact(ctx, state.TransactionRequest{Operations: []state.Operation{{Set: &set}, {Set: &set}}}); err != nil {
			t.Errorf("Transact after the server came back: %v", err)
		}
		if err := s.Set(ctx, set); err != nil {
			t.Errorf("Set after the server came back: %v", err)
		}
	}
}

// TestDefaultTTL checks the component's own life for items that ask for none.
func TestDefaultTTL(t *testing.T) {
	s := connect(t, properties{"redisHost": servers.Redis(t).Addr, "ttlInSeconds": "1000"})
	ctx := context.Background()
	left := func(key string) int64 {
		n, err := s.client.Do(ctx, s.client.B().Ttl().Key(key).Build()).AsInt64()
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	for _, c := range []struct {
		ttl      string
		from, to int64
	}{{"", 990, 1000}, {"50", 40, 50}, {"-1", -1, -1}, {"", 990, 1000}, {"0", -1, -1}} {
		req := state.SetRequest{Key: "defaultttl", Metadata: map[string]string{"ttlInSeconds": c.ttl}}
		if err := s.Set(ctx, req); err != nil {
			t.Fatal(err)
		}
		if n := left("defaultttl"); n < c.from || n > c.to {
			t.Errorf("with ttlInSeconds %q the key has %d seconds left, want %d to %d", c.ttl, n, c.from, c.to)
		}
	}
}

func TestMessages(t *testing.T) {
	s := connect(t, properties{"redisHost": servers.Redis(t).Addr})
	ctx := context.Background()
	first := state.Options{Concurrency: state.FirstWrite}
	k := "app||messages"
	if err := s.Delete(ctx, state.DeleteRequest{Key: k}); err != nil {
		t.Fatal(err)
	}
	if err := s.Set(ctx, state.SetRequest{Key: k, Options: first}); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		err  error
		want string
	}{
		{s.Set(ctx, state.SetRequest{Key: k, ETag: "not-a-number"}), `invalid etag value: strconv.Atoi: parsing "not-a-number": invalid syntax`},
		{s.Set(ctx, state.SetRequest{Key: k, ETag: "999"}), "possible etag mismatch. error from state store: failed to set key app||messages: its version is not 999"},
		{s.Delete(ctx, state.DeleteRequest{Key: k, ETag: "999"}), "possible etag mismatch. error from state store: failed to delete key app||messages: its version is not 999"},
		{s.Set(ctx, state.SetRequest{Key: k, Options: first}), "failed to set key app||messages: it was written with first-write, so another write needs its etag"},
		{s.Set(ctx, state.SetRequest{Key: k, Metadata: map[string]string{"ttlInSeconds": "abc"}}), `failed to parse ttl from metadata: strconv.ParseInt: parsing "abc": invalid syntax`},
	} {
		if c.err == nil || c.err.Error() != c.want {
			t.Errorf("error %v, want %s", c.err, c.want)
		}
	}
}
