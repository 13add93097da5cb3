package servers

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// RedisServer is one Redis server process.
type RedisServer struct {
	Server
	// Password is what the default user must give; empty for none.
	Password string
	// TLS is what clients need under the options [TLS] and [MutualTLS]; nil without them.
	TLS *Certificates
}

// Redis returns a running Redis server. It holds no data at first when it is
// its own, and whatever other tests put there when it is shared.
func Redis(tb testing.TB, opts ...Option) *RedisServer {
	tb.Helper()
	return acquire(tb, kindRedis, opts, launchRedis).handle(tb)
}

// redisNode is one redis-server process: a data node or a sentinel.
type redisNode struct {
	process  *process
	password string
	tls      *Certificates
}

func (n *redisNode) handle(tb testing.TB) *RedisServer {
	return &RedisServer{Server: bind(tb, n.process), Password: n.password, TLS: n.tls}
}

func (n *redisNode) processes() []*process { return []*process{n.process} }

func (n *redisNode) ready() error { return nil } // it answers, which is all there is

func launchRedis(dir string, o options) (*redisNode, error) {
	r, err := newRedisRecipe(dir, o)
	if err != nil {
		return nil, err
	}
	port, held, err := reservePort()
	if err != nil {
		return nil, err
	}
	n, err := r.node("redis", port, held, r.dataSettings())
	if err != nil {
		return nil, err
	}
	if err := n.process.start(); err != nil {
		n.process.discard()
		return nil, err
	}
	return n, nil
}

// redisRecipe is what the nodes of one launch have in common.
type redisRecipe struct {
	dir     string
	program string
	options options
	certs   *Certificates
	files   serverFiles
}

func newRedisRecipe(dir string, o options) (*redisRecipe, error) {
	program, err := exec.LookPath("redis-server")
	if err != nil {
		return nil, &missingError{"Redis (redis-server)", "apt-get install redis-server"}
	}
	r := &redisRecipe{dir: dir, program: program, options: o}
	if o.tls {
		r.certs, r.files, err = makeCertificates(dir)
	}
	return r, err
}

// dataSettings is the configuration of a node that holds data.
func (r *redisRecipe) dataSettings() []setting {
	var s []setting
	if r.options.durable {
		s = append(s, setting{"appendonly", "yes"}, setting{"appendfsync", "always"}, setting{"save", `""`})
	} else {
		// A save point that is never reached, so that an orderly stop saves all the same.
		s = append(s, setting{"appendonly", "no"}, setting{"save", "86400 1"})
	}
	if r.options.password != "" {
		s = append(s, setting{"requirepass", redisQuote(r.options.password)}, setting{"masterauth", redisQuote(r.options.password)})
	}
	// A replica need not wait for others that might share its first copy.
	s = append(s, setting{"repl-diskless-sync-delay", "0"})
	return append(s, r.options.settings...)
}

// node makes a process, not started, in a directory of its own.
func (r *redisRecipe) node(name string, port int, held []*portLock, settings []setting, args ...string) (_ *redisNode, err error) {
	n := &redisNode{password: r.options.password, tls: r.certs}
	n.process = &process{
		name: "Redis", command: r.program, dir: filepath.Join(r.dir, name), port: port, held: held,
		stopSignal: syscall.SIGTERM, discardSignal: syscall.SIGKILL,
		ping: func(ctx context.Context) error {
			_, err := n.do(ctx, "PING")
			return err
		},
	}
	config := filepath.Join(n.process.dir, "redis.conf")
	n.process.args = append([]string{config}, args...)
	base := []setting{
		{"bind", "127.0.0.1"},
		{"protected-mode", "no"},
		{"daemonize", "no"},
		{"dir", redisQuote(n.process.dir)},
		{"logfile", `""`},
	}
	if r.certs == nil {
		base = append(base, setting{"port", fmt.Sprint(port)})
	} else {
		clients := "no"
		if r.options.mutualTLS {
			clients = "yes"
		}
		base = append(base,
			setting{"port", "0"}, setting{"tls-port", fmt.Sprint(port)},
			setting{"tls-ca-cert-file", redisQuote(r.files.ca)},
			setting{"tls-cert-file", redisQuote(r.files.cert)},
			setting{"tls-key-file", redisQuote(r.files.key)},
			setting{"tls-auth-clients", clients}, setting{"tls-replication", "yes"})
	}
	var text strings.Builder
	for _, s := range append(base, settings...) {
		fmt.Fprintf(&text, "%s %s\n", s.name, s.value)
	}
	if err := os.Mkdir(n.process.dir, 0o755); err != nil {
		return nil, fmt.Errorf("servers: %w", err)
	}
	// The server writes to it: Sentinel keeps its state there, and makes nodes note their role.
	if err := os.WriteFile(config, []byte(text.String()), 0o600); err != nil {
		return nil, fmt.Errorf("servers: %w", err)
	}
	return n, nil
}

// redisQuote writes a value as redis.conf reads it back.
func redisQuote(s string) string {
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(s) + `"`
}

// do runs one command on a connection of its own.
func (n *redisNode) do(ctx context.Context, command ...string) (any, error) {
	var d interface {
		DialContext(ctx context.Context, network, address string) (net.Conn, error)
	} = &net.Dialer{}
	if n.tls != nil {
		d = &tls.Dialer{Config: n.tls.client}
	}
	conn, err := d.DialContext(ctx, "tcp", loopback(n.process.port))
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	if n.password == "" {
		return exchange(ctx, conn, command)
	}
	return exchange(ctx, conn, []string{"AUTH", n.password}, command)
}
