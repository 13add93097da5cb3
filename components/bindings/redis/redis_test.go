package redis

import (
	"bytes"
	"context"
	"errors"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"outrigger.dev/components/bindings"
	"outrigger.dev/components/bindings/bindingstest"
	"outrigger.dev/test/servers"
)

func TestMain(m *testing.M) { servers.Main(m) }

// binding is the type under test.
var binding = bindingstest.Type[*Binding]{Register: Register, Name: "redis"}

// quiet is an invocation of an operation that has no response.
func quiet(tb testing.TB, b *Binding, operation, data string, metadata ...string) {
	tb.Helper()
	if resp, err := bindingstest.Invoke(b, operation, data, metadata...); err != nil || resp != nil {
		tb.Fatalf("%s with %q: %v, %v; want no response and no error", operation, metadata, resp, err)
	}
}

func expectValue(tb testing.TB, b *Binding, want string, metadata ...string) {
	tb.Helper()
	resp, err := bindingstest.Invoke(b, "get", "", metadata...)
	if err != nil || resp == nil || string(resp.Data) != want || len(resp.Metadata) != 0 {
		tb.Errorf("get with %q: %v, %v; want %q", metadata, resp, err, want)
	}
}

// command runs a command at the server, as another program would.
func command(tb testing.TB, b *Binding, words ...string) string {
	tb.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	answer, err := b.client.Do(ctx, b.client.B().Arbitrary(words[0]).Keys(words[1]).Args(words[2:]...).Build()).ToAny()
	if err != nil {
		tb.Fatalf("%q: %v", words, err)
	}
	switch v := answer.(type) {
	case string:
		return v
	case int64:
		return strconv.FormatInt(v, 10)
	}
	tb.Fatalf("%q: %v", words, answer)
	return ""
}

func testOperations(t *testing.T, properties map[string]string) {
	b := binding.MustOpen(t, properties)
	if got, want := b.Operations(), []string{"create", "get", "delete", "increment"}; !slices.Equal(got, want) {
		t.Errorf("operations %q, want %q", got, want)
	}
	// A value is stored as it came, whatever it is.
	for name, value := range map[string]string{
		"object": `{"Hello":"World","a":[1, 2.50]}`, "text": `"quoted"`, "plain": "plain", "empty": "", "null": "null",
		"binary": "\x00\xff\r\n\"", "large": strings.Repeat("0123456789", 200_000),
	} {
		key := "binding " + name
		quiet(t, b, "create", "to be replaced", "key", key)
		quiet(t, b, "create", value, "key", key, "other", "ignored")
		expectValue(t, b, value, "key", key)
		if got := command(t, b, "GET", key); got != value {
			t.Errorf("%s is stored as %.80q, want %.80q", name, got, value)
		}
		if got := command(t, b, "PTTL", key); got != "-1" {
			t.Errorf("%s expires after %s ms, want never", name, got)
		}
		for range 2 {
			quiet(t, b, "delete", "", "key", key)
			expectValue(t, b, "", "key", key)
		}
		if got := command(t, b, "EXISTS", key); got != "0" {
			t.Errorf("%s is still there after delete", name)
		}
	}
	quiet(t, b, "create", "once", "key", "taken")
	expectValue(t, b, "once", "key", "taken", "delete", "false")
	expectValue(t, b, "once", "key", "taken", "delete", "true")
	expectValue(t, b, "", "key", "taken", "delete", "true")

	quiet(t, b, "delete", "", "key", "counter")
	for _, want := range []string{"1", "2", "3"} {
		quiet(t, b, "increment", "ignored", "key", "counter")
		expectValue(t, b, want, "key", "counter")
	}
	quiet(t, b, "create", "-9007199254740994", "key", "counter")
	quiet(t, b, "increment", "", "key", "counter")
	expectValue(t, b, "-9007199254740993", "key", "counter")
}

func TestOperations(t *testing.T) {
	t.Run("node", func(t *testing.T) {
		testOperations(t, map[string]string{"redisHost": servers.Redis(t).Addr, "redisDB": "2"})
	})
	t.Run("cluster", func(t *testing.T) {
		testOperations(t, map[string]string{"redisHost": strings.Join(servers.RedisCluster(t).Addrs(), ","), "redisType": "cluster"})
	})
	t.Run("sentinel", func(t *testing.T) {
		watched := servers.RedisSentinel(t)
		testOperations(t, map[string]string{"redisHost": watched.Sentinel.Addr, "failover": "true", "sentinelMasterName": watched.MasterName})
	})
	t.Run("password and TLS", func(t *testing.T) {
		server := servers.Redis(t, servers.MutualTLS(), servers.Password("pass word$1"))
		testOperations(t, map[string]string{
			"redisHost": server.Addr, "redisUsername": "default", "redisPassword": server.Password,
			"enableTLS": "true", "insecureSkipTLSVerify": "true", "clientCert": string(server.TLS.Cert), "clientKey": string(server.TLS.Key),
		})
	})
}

func TestTTL(t *testing.T) {
	b := binding.MustOpen(t, map[string]string{"redisHost": servers.Redis(t).Addr})
	for _, operation := range []string{"create", "increment"} {
		quiet(t, b, "delete", "", "key", "k")
		for _, tc := range []struct {
			name, text string
			most, rest int // seconds
		}{
			{"ttlInSeconds", "100", 100, 40},
			{"TTLINSECONDS", "200", 200, 140},
			{"ttl", "5m", 300, 240},
			{"ttlInSeconds", "9000000000", 9000000000, 8999999940},
		} {
			quiet(t, b, operation, "1", "key", "k", tc.name, tc.text)
			left, err := strconv.Atoi(command(t, b, "PTTL", "k"))
			if err != nil || left > tc.most*1000 || left < tc.rest*1000 {
				t.Errorf("%s with %s %s: the key expires in %d ms (%v)", operation, tc.name, tc.text, left, err)
			}
		}
		quiet(t, b, operation, "1", "key", "k", "ttl", "60ms")
		deadline := time.Now().Add(30 * time.Second)
		for command(t, b, "EXISTS", "k") != "0" {
			if time.Now().After(deadline) {
				t.Fatalf("%s with a life of 60ms: the key is still there", operation)
			}
			time.Sleep(5 * time.Millisecond)
		}
		for _, bad := range []string{"0", "-1", "soon", "1us", "99999999999999999999", "9300000000"} {
			_, err := bindingstest.Invoke(b, operation, "1", "key", "k", "ttlInSeconds", bad)
			expectError(t, err, `"ttlInSeconds"`, strconv.Quote(bad), "above 0")
		}
		if got := command(t, b, "EXISTS", "k"); got != "0" {
			t.Errorf("%s has written in spite of a bad ttlInSeconds", operation)
		}
		quiet(t, b, operation, "1", "key", "k", "ttlInSeconds", "")
		if got := command(t, b, "PTTL", "k"); got != "-1" {
			t.Errorf("%s with an empty ttlInSeconds: the key expires in %s ms", operation, got)
		}
	}
	// What create writes without a life has none, whatever was there.
	quiet(t, b, "create", "1", "key", "k", "ttlInSeconds", "100")
	quiet(t, b, "create", "1", "key", "k")
	if got := command(t, b, "PTTL", "k"); got != "-1" {
		t.Errorf("the key kept a life of %s ms", got)
	}
}

// TestIncrementTogether checks that no count is lost.
func TestIncrementTogether(t *testing.T) {
	b := binding.MustOpen(t, map[string]string{"redisHost": servers.Redis(t).Addr})
	quiet(t, b, "delete", "", "key", "together")
	var group sync.WaitGroup
	for n := range 8 {
		group.Go(func() {
			for i := range 50 {
				var more []string
				if (n+i)%2 == 0 {
					more = []string{"ttlInSeconds", "1000"}
				}
				if _, err := bindingstest.Invoke(b, "increment", "", append(more, "key", "together")...); err != nil {
					t.Errorf("increment: %v", err)
				}
			}
		})
	}
	group.Wait()
	expectValue(t, b, "400", "key", "together")
}

func TestRequestErrors(t *testing.T) {
	server := servers.Redis(t)
	b := binding.MustOpen(t, map[string]string{"redisHost": server.Addr})
	quiet(t, b, "create", "word", "key", "word")
	quiet(t, b, "create", "9223372036854775807", "key", "largest")
	quiet(t, b, "delete", "", "key", "list")
	command(t, b, "RPUSH", "list", "a")
	for _, tc := range []struct {
		operation string
		metadata  []string
		words     []string
	}{
		{"create", nil, []string{`"key" is not set`, "create"}},
		{"get", []string{"key", ""}, []string{`"key" is not set`}},
		{"delete", []string{"Key", "x"}, []string{`"key" is not set`}},
		{"increment", nil, []string{`"key" is not set`}},
		{"list", []string{"key", "x"}, []string{`"list"`, "create, get, delete and increment"}},
		{"get", []string{"key", "x", "delete", "maybe"}, []string{`"delete"`, `"maybe"`, "true"}},
		{"increment", []string{"key", "word"}, []string{server.Addr, `increment key "word"`, "whole number"}},
		{"increment", []string{"key", "word", "ttl", "10"}, []string{server.Addr, `"word"`, "whole number"}},
		{"increment", []string{"key", "largest"}, []string{`"largest"`, "smaller"}},
		{"get", []string{"key", "list"}, []string{`get key "list"`, "WRONGTYPE", "another key"}},
		{"increment", []string{"key", "list"}, []string{`"list"`, "another key"}},
	} {
		resp, err := bindingstest.Invoke(b, tc.operation, "1", tc.metadata...)
		if resp != nil {
			t.Errorf("%s with %q responds %v", tc.operation, tc.metadata, resp)
		}
		expectError(t, err, tc.words...)
	}
	var missing *bindings.ParameterError
	if _, err := bindingstest.Invoke(b, "get", ""); !errors.As(err, &missing) || missing.Name != "key" {
		t.Errorf("get without a key: %v", err)
	}
	if got := command(t, b, "PTTL", "word"); got != "-1" {
		t.Errorf("an increment that failed let the key expire in %s ms", got)
	}
}

func TestServerAway(t *testing.T) {
	server := servers.Redis(t, servers.Own(), servers.Durable())
	p := map[string]string{"redisHost": server.Addr, "redisMaxRetries": "0"}
	b := binding.MustOpen(t, p)
	patient := binding.MustOpen(t, map[string]string{"redisHost": server.Addr, "redisMaxRetries": "1000", "redisMinRetryInterval": "10", "redisMaxRetryInterval": "50"})
	quiet(t, b, "create", "1", "key", "k")
	quiet(t, patient, "increment", "", "key", "k")
	for _, end := range []func(){server.Stop, server.Kill} {
		end()
		_, err := binding.Open(t, p)
		expectError(t, err, server.Addr, "redisHost")
		for _, operation := range b.Operations() {
			_, err := bindingstest.Invoke(b, operation, "1", "key", "k")
			expectError(t, err, server.Addr, operation, `"k"`)
		}
		// A command on a connection whose end is not known yet may have been carried out, so it is not repeated.
		for deadline := time.Now().Add(30 * time.Second); ; {
			err := patient.client.Do(context.Background(), patient.client.B().Ping().Build()).Error()
			if op := (*net.OpError)(nil); errors.As(err, &op) && op.Op == "dial" {
				break
			}
			if time.Now().After(deadline) {
				t.Fatalf("the end of the server is not noticed: %v", err)
			}
		}
		waited := make(chan error, 1)
		go func() {
			for {
				// A server that is back but still loading its data refuses, and that is told at once.
				if _, err := bindingstest.Invoke(patient, "increment", "", "key", "k"); err == nil || !strings.Contains(err.Error(), "LOADING") {
					waited <- err
					return
				}
			}
		}()
		server.Start()
		if err := <-waited; err != nil {
			t.Errorf("increment with retries left: %v", err)
		}
		if _, err := bindingstest.Invoke(b, "increment", "", "key", "k", "ttl", "1h"); err != nil {
			t.Errorf("increment after the server came back: %v", err)
		}
	}
	// Each one counted once, although it was tried often.
	expectValue(t, patient, "6", "key", "k")
}

func TestEndedContextAndClose(t *testing.T) {
	b := binding.MustOpen(t, map[string]string{"redisHost": servers.Redis(t).Addr})
	ended, cancel := context.WithCancel(context.Background())
	cancel()
	for _, operation := range b.Operations() {
		_, err := b.Invoke(ended, bindings.Request{Operation: operation, Metadata: map[string]string{"key": "ended"}})
		if !errors.Is(err, context.Canceled) {
			t.Errorf("%s with an ended context: %v", operation, err)
		}
	}
	if got := command(t, b, "EXISTS", "ended"); got != "0" {
		t.Error("an ended context did not keep an operation from writing")
	}
	for range 2 {
		if err := b.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	}
	for _, operation := range b.Operations() {
		_, err := bindingstest.Invoke(b, operation, "", "key", "k")
		expectError(t, err, "closed")
	}
}

func TestProperties(t *testing.T) {
	server := servers.Redis(t, servers.Password("secret"))
	for name, tc := range map[string]struct {
		properties map[string]string
		words      []string
	}{
		"no host":           {map[string]string{}, []string{"redisHost"}},
		"wrong password":    {map[string]string{"redisHost": server.Addr, "redisPassword": "wrong"}, []string{server.Addr, "redisPassword"}},
		"no database":       {map[string]string{"redisHost": server.Addr, "redisPassword": "secret", "redisDB": "9999"}, []string{"redisDB"}},
		"no sentinel":       {map[string]string{"redisHost": server.Addr, "failover": "true"}, []string{"sentinelMasterName"}},
		"cluster with a db": {map[string]string{"redisHost": server.Addr, "redisType": "cluster", "redisDB": "1"}, []string{"redisDB", "Cluster"}},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := binding.Open(t, tc.properties)
			expectError(t, err, tc.words...)
		})
	}
}

// TestDataIsNotKept checks that the caller may use the data again when Invoke has returned, also too early.
func TestDataIsNotKept(t *testing.T) {
	b := binding.MustOpen(t, map[string]string{"redisHost": servers.Redis(t).Addr})
	data := bytes.Repeat([]byte("a"), 1<<20)
	for n := range 20 {
		ctx, cancel := context.WithCancel(context.Background())
		go cancel()
		_, err := b.Invoke(ctx, bindings.Request{Operation: "create", Data: data, Metadata: map[string]string{"key": "kept"}})
		if err != nil && !errors.Is(err, context.Canceled) {
			t.Fatal(err)
		}
		cancel()
		next := byte('a' + (n+1)%26)
		for i := range data {
			data[i] = next
		}
		got := command(t, b, "GETRANGE", "kept", "0", "-1")
		if got != "" && strings.Count(got, got[:1]) != len(got) {
			t.Fatal("a value is a mixture of two")
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
