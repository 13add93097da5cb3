package redisclient

import (
	"context"
	"errors"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/redis/rueidis"

	"outrigger.dev/components"
)

// holder decodes Options alone.
type holder struct{ Options }

func tryDecode(t *testing.T, properties map[string]string) (got Options, err error) {
	t.Helper()
	var r components.Registry
	components.Register(&r, components.State, components.Info{Name: "x", Version: "v1"}, func(_ context.Context, _ components.Instance, o holder) (*struct{}, error) {
		got = o.Options
		return nil, nil
	})
	d, err := r.Lookup(components.State, "x", "v1")
	if err != nil {
		t.Fatal(err)
	}
	_, err = d.Open(context.Background(), components.Instance{Properties: properties})
	return got, err
}

func decode(t *testing.T, properties map[string]string) Options {
	t.Helper()
	o, err := tryDecode(t, properties)
	if err != nil {
		t.Fatal(err)
	}
	return o
}

func TestAddresses(t *testing.T) {
	for _, c := range []struct {
		name       string
		properties map[string]string
		want       []string
		err        string
	}{
		{"host and port", map[string]string{"redisHost": "db:7000"}, []string{"db:7000"}, ""},
		{"host", map[string]string{"redisHost": "db"}, []string{"db:6379"}, ""},
		{"separate port", map[string]string{"redisHost": "db", "redisPort": "7000"}, []string{"db:7000"}, ""},
		{"both, equal", map[string]string{"redisHost": "db:7000", "redisPort": "7000"}, []string{"db:7000"}, ""},
		{"both, different", map[string]string{"redisHost": "db:7000", "redisPort": "7001"}, nil, "in one place only"},
		{"IPv6", map[string]string{"redisHost": "::1"}, []string{"[::1]:6379"}, ""},
		{"IPv6 in brackets", map[string]string{"redisHost": "[::1]"}, []string{"[::1]:6379"}, ""},
		{"IPv6 and port", map[string]string{"redisHost": "[::1]:7000"}, []string{"[::1]:7000"}, ""},
		{"cluster", map[string]string{"redisHost": "a:1, b:2,c", "redisType": "Cluster"}, []string{"a:1", "b:2", "c:6379"}, ""},
		{"sentinels", map[string]string{"redisHost": "a,b:2", "failover": "true", "sentinelMasterName": "mymaster"}, []string{"a:26379", "b:2"}, ""},
		{"many nodes", map[string]string{"redisHost": "a:1,b:2"}, nil, "redisType to cluster"},
		{"nothing", map[string]string{"redisHost": " , "}, nil, "names no host"},
		{"URL", map[string]string{"redisHost": "redis://db:1"}, nil, "URL"},
		{"port without host", map[string]string{"redisHost": ":6379"}, nil, "no host name"},
		{"bad port", map[string]string{"redisHost": "db:x"}, nil, "no port"},
		{"bad separate port", map[string]string{"redisHost": "db", "redisPort": "70000"}, nil, "redisPort"},
		{"nonsense", map[string]string{"redisHost": "a:b:c"}, nil, "redisHost"},
	} {
		o, err := tryDecode(t, c.properties)
		var got []string
		if err == nil {
			got, err = o.addresses()
		}
		if c.err != "" {
			if err == nil || !strings.Contains(err.Error(), c.err) {
				t.Errorf("%s: error %v, want %q", c.name, err, c.err)
			}
		} else if err != nil || !slices.Equal(got, c.want) {
			t.Errorf("%s: %q, %v; want %q", c.name, got, err, c.want)
		}
	}
}

func TestContradictions(t *testing.T) {
	for _, c := range []struct {
		properties map[string]string
		err        string
	}{
		{map[string]string{"failover": "true"}, "sentinelMasterName"},
		{map[string]string{"redisType": "cluster", "redisDB": "2"}, "redisDB"},
		{map[string]string{"redisDB": "-2"}, "redisDB"},
		{map[string]string{"enableTLS": "true", "clientCert": "x"}, "clientKey"},
		{map[string]string{"clientCert": "x", "clientKey": "y"}, "enableTLS"},
		{map[string]string{"enableTLS": "true", "clientCert": "/no/such/file", "clientKey": "y"}, "clientCert"},
		{map[string]string{"enableTLS": "true", "clientCert": "-----BEGIN X", "clientKey": "-----BEGIN Y"}, "no pair"},
		{map[string]string{"useAzureAD": "true"}, "useEntraID"},
	} {
		c.properties["redisHost"] = "127.0.0.1:1"
		if _, err := tryDecode(t, c.properties); err == nil || !strings.Contains(err.Error(), c.err) {
			t.Errorf("%v: error %v, want %q", c.properties, err, c.err)
		}
	}
}

func TestClientOption(t *testing.T) {
	o := decode(t, map[string]string{
		"redisHost": "db", "redisUsername": "u", "redisPassword": "p", "redisDB": "4", "dialTimeout": "1500", "readTimeout": "2s", "writeTimeout": "4s",
		"poolSize": "7", "minIdleConns": "2", "idleTimeout": "1m", "maxConnAge": "1h",
	})
	got := o.clientOption([]string{"db:6379"}, nil)
	if got.Username != "u" || got.Password != "p" || got.SelectDB != 4 || !got.ForceSingleClient {
		t.Errorf("login: %+v", got)
	}
	if got.Dialer.Timeout != 1500*time.Millisecond || got.ConnWriteTimeout != 4*time.Second || got.ConnLifetime != time.Hour {
		t.Errorf("times: dial %v, command %v, life %v", got.Dialer.Timeout, got.ConnWriteTimeout, got.ConnLifetime)
	}
	if got.BlockingPoolSize != 7 || got.BlockingPoolMinSize != 2 || got.BlockingPoolCleanup != time.Minute {
		t.Errorf("pool: size %d, kept %d, idle %v", got.BlockingPoolSize, got.BlockingPoolMinSize, got.BlockingPoolCleanup)
	}
	o = decode(t, map[string]string{
		"redisHost": "db", "readTimeout": "-1", "dialTimeout": "-1", "idleTimeout": "-1", "failover": "true",
		"sentinelMasterName": "m", "sentinelUsername": "su", "sentinelPassword": "sp",
	})
	got = o.clientOption([]string{"db:26379"}, nil)
	if got.ConnWriteTimeout >= 0 || got.Dialer.Timeout < time.Hour || got.BlockingPoolCleanup != 0 {
		t.Errorf("no limits: dial %v, command %v, idle %v", got.Dialer.Timeout, got.ConnWriteTimeout, got.BlockingPoolCleanup)
	}
	if s := got.Sentinel; s.MasterSet != "m" || s.Username != "su" || s.Password != "sp" || got.ForceSingleClient {
		t.Errorf("sentinel: %+v", s)
	}
	o = decode(t, map[string]string{"redisHost": "db"})
	if got = o.clientOption(nil, nil); got.Dialer.Timeout != 5*time.Second || got.ConnWriteTimeout != 3*time.Second || got.BlockingPoolSize != defaultPoolSize {
		t.Errorf("defaults: dial %v, command %v, pool %d", got.Dialer.Timeout, got.ConnWriteTimeout, got.BlockingPoolSize)
	}
}

func TestRetries(t *testing.T) {
	c := &Client{retries: 3, minDelay: 100 * time.Millisecond, maxDelay: 300 * time.Millisecond}
	for attempt, want := range []time.Duration{100, 200, 300} {
		want *= time.Millisecond
		for range 50 {
			if d := c.retryDelay(attempt+1, rueidis.Completed{}, nil); d < want/2 || d > want {
				t.Fatalf("before retry %d the wait is %v, want %v to %v", attempt+1, d, want/2, want)
			}
		}
	}
	if d := c.retryDelay(4, rueidis.Completed{}, nil); d >= 0 {
		t.Errorf("a fourth retry after %v, want none", d)
	}
	c.minDelay = 0
	dial := &net.OpError{Op: "dial", Err: errors.New("refused")}
	for _, test := range []struct {
		name  string
		err   error
		calls int
		ctx   func() context.Context
	}{
		{"not sent", dial, 4, context.Background},
		{"maybe sent", &net.OpError{Op: "read", Err: errors.New("reset")}, 1, context.Background},
		{"success", nil, 1, context.Background},
		{"cancelled", dial, 1, func() context.Context {
			ctx, cancel := context.WithCancel(context.Background())
			cancel()
			return ctx
		}},
	} {
		calls := 0
		err := c.RetryUnsent(test.ctx(), func() error { calls++; return test.err })
		if calls != test.calls || err != test.err {
			t.Errorf("%s: %d calls, %v; want %d", test.name, calls, err, test.calls)
		}
	}
}

// TestOpenEndsWithContext checks that a server that swallows everything does not hold up the start beyond the context.
func TestOpenEndsWithContext(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	o := decode(t, map[string]string{"redisHost": l.Addr().String(), "dialTimeout": "500", "readTimeout": "500"})
	start := time.Now()
	_, err = o.Open(context.Background(), 0)
	if err == nil || !strings.Contains(err.Error(), l.Addr().String()) || !strings.Contains(err.Error(), "enableTLS") {
		t.Errorf("Open = %v, want an error with the address and a remedy", err)
	}
	if took := time.Since(start); took > 10*time.Second {
		t.Errorf("Open took %v", took)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err = o.Open(ctx, 0); !errors.Is(err, context.Canceled) {
		t.Errorf("Open of a cancelled caller = %v", err)
	}
}

func FuzzAddresses(f *testing.F) {
	f.Add("a:1,b", "6379")
	f.Add("[::1]:2", "")
	f.Fuzz(func(t *testing.T, host, port string) {
		o := Options{Host: host, Port: port, Type: "cluster"}
		all, err := o.addresses()
		for _, a := range all {
			if _, _, splitErr := net.SplitHostPort(a); err == nil && splitErr != nil {
				t.Errorf("%q gives %q: %v", host, a, splitErr)
			}
		}
	})
}
