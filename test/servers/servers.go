// Package servers starts real servers for tests: Redis (alone, as a cluster,
// under Sentinel), PostgreSQL, MariaDB, RabbitMQ, as child processes on free
// loopback ports with their data in a temporary directory.
//
//	func TestMain(m *testing.M) { servers.Main(m) }
//
//	func TestStore(t *testing.T) {
//		redis := servers.Redis(t)
//		... redis.Addr ...
//	}
//
// A server is started the first time a test of the binary asks for it and is
// shared by every test that asks for the same server with the same options, so
// tests keep apart by key prefix or database (see [PostgresServer.Database]).
// A test that takes its server down asks for one of its own with [Own].
// A server that is not installed skips the test with a line that says how to get it.
//
// [Main] stops the servers and removes their data when the tests end. On Linux
// the kernel also ends them with the test binary however that ends; what a
// killed binary left on disk is removed by the next one.
package servers

import (
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"
	"testing"
	"time"
)

// Limits within which a server must answer after it was started, and must be
// gone after it was told to stop.
const (
	startLimit = 2 * time.Minute
	stopLimit  = 30 * time.Second
)

// kind is a set of server kinds: which one is wanted, or which ones an option applies to.
type kind uint

const (
	kindRedis kind = 1 << iota
	kindRedisCluster
	kindRedisSentinel
	kindPostgres
	kindMariaDB
	kindRabbitMQ
	kindMosquitto
	kindKafka
	kindNATS
	kindS3
	kindSFTP
	kindSMTP
	kindZipkin
	kindOTel
	kindConsul

	anyRedis = kindRedis | kindRedisCluster | kindRedisSentinel
	anyKind  = anyRedis | kindPostgres | kindMariaDB | kindRabbitMQ | kindMosquitto | kindKafka | kindNATS | kindS3 | kindSFTP | kindSMTP | kindZipkin | kindOTel | kindConsul
)

// String is the kind's name in directories and messages.
func (k kind) String() string {
	switch k {
	case kindRedis:
		return "redis"
	case kindRedisCluster:
		return "redis-cluster"
	case kindRedisSentinel:
		return "redis-sentinel"
	case kindPostgres:
		return "postgres"
	case kindMariaDB:
		return "mariadb"
	case kindRabbitMQ:
		return "rabbitmq"
	case kindMosquitto:
		return "mosquitto"
	case kindKafka:
		return "kafka"
	case kindNATS:
		return "nats"
	case kindS3:
		return "s3"
	case kindSFTP:
		return "sftp"
	case kindSMTP:
		return "smtp"
	case kindZipkin:
		return "zipkin"
	case kindOTel:
		return "otel"
	case kindConsul:
		return "consul"
	}
	return "kind " + strconv.Itoa(int(k))
}

// options is what a test asked for; its printed form is the key under which a server is shared.
type options struct {
	own       bool
	durable   bool
	password  string
	tls       bool
	mutualTLS bool
	token     string
	userJWT   bool
	settings  []setting
}

// setting is one line of a server's configuration.
type setting struct{ name, value string }

// Option changes how a server is started. An option that does not apply to the
// server it is given to fails the test.
type Option struct {
	name  string
	kinds kind
	apply func(*options)
}

// Own gives the test a server that no other test shares, with empty data,
// stopped when the test ends. Tests that call Stop or Kill want it.
func Own() Option {
	return Option{"Own", anyKind, func(o *options) { o.own = true }}
}

// Durable makes the server put every acknowledged write on disk before it
// answers: Redis with an append-only file and appendfsync always, PostgreSQL
// with fsync on, MariaDB with innodb_flush_log_at_trx_commit=1 and the
// doublewrite buffer. RabbitMQ does so for what is durable in any case.
// Without it Redis loses on Kill (not on Stop) what it holds.
func Durable() Option {
	return Option{"Durable", anyKind, func(o *options) { o.durable = true }}
}

// Password makes the server require this password: Redis of its default user
// (under Sentinel the data nodes require it and the sentinel itself does not),
// Mosquitto of the user in [MosquittoServer.User], NATS of that in
// [NATSServer.User], the mail server of that in [SMTPServer.User].
func Password(password string) Option {
	return Option{"Password", anyRedis | kindMosquitto | kindNATS | kindSMTP, func(o *options) { o.password = password }}
}

// TLS makes Redis, Mosquitto or RabbitMQ serve TLS only, and the mail server offer
// it, with certificates of a CA made for the occasion (see [RedisServer.TLS]). Clients need no certificate.
func TLS() Option {
	return Option{"TLS", anyRedis | kindMosquitto | kindRabbitMQ | kindNATS | kindS3 | kindSMTP | kindOTel, func(o *options) { o.tls = true }}
}

// MutualTLS is [TLS] with clients that must present a certificate of the same CA.
func MutualTLS() Option {
	return Option{"MutualTLS", anyRedis | kindMosquitto | kindRabbitMQ | kindNATS, func(o *options) { o.tls, o.mutualTLS = true, true }}
}

// Setting adds a configuration setting under the server's own name for it, for
// example Setting("notify-keyspace-events", "KEA") for Redis,
// Setting("wal_level", "logical") for PostgreSQL or
// Setting("max-connections", "10") for MariaDB. It wins over the package's own.
func Setting(name, value string) Option {
	return Option{"Setting", anyKind, func(o *options) { o.settings = append(o.settings, setting{name, value}) }}
}

// Server is one server process as one test sees it. Stop, Kill and Start keep
// its port and its data; each fails the test, with the end of the server's log,
// when it does not succeed within 30 seconds. They are safe for concurrent use,
// and may be called from the test's goroutine only, as they may end the test.
type Server struct {
	// Addr is "127.0.0.1:port".
	Addr string
	// Host is "127.0.0.1".
	Host string
	// Port is the TCP port.
	Port int

	tb      testing.TB
	process *process
}

func bind(tb testing.TB, p *process) Server {
	return Server{Addr: loopback(p.port), Host: "127.0.0.1", Port: p.port, tb: tb, process: p}
}

// Stop shuts the server down in its orderly way and returns when it is gone.
// Stopping a server that is down does nothing.
func (s *Server) Stop() {
	s.tb.Helper()
	s.check(s.process.stop())
}

// Kill ends the server and its child processes with SIGKILL and returns when
// they are gone. Killing a server that is down does nothing.
func (s *Server) Kill() {
	s.tb.Helper()
	s.check(s.process.kill())
}

// Start brings the server back after Stop or Kill and returns when it answers.
// Starting a server that runs does nothing.
func (s *Server) Start() {
	s.tb.Helper()
	s.check(s.process.start())
}

// Running says whether the server's process is alive.
func (s *Server) Running() bool { return s.process.running() }

// Log is the end of what the server wrote to its log, at most 4 KiB.
func (s *Server) Log() string { return s.process.logTail() }

func (s *Server) check(err error) {
	s.tb.Helper()
	if err != nil {
		s.tb.Fatal(err)
	}
}

// Main runs the tests of a binary, stops the servers they started, removes
// their data, and exits with the tests' code. It is meant as the whole of TestMain.
func Main(m *testing.M) {
	code := m.Run()
	StopAll()
	os.Exit(code)
}

// StopAll is what [Main] does after the tests, for a binary whose TestMain does
// more. It stops every server that is still there and removes the data; a
// server asked for later is started afresh.
func StopAll() { running.close() }

// missingError says that a server is not installed on this machine.
type missingError struct{ what, remedy string }

func (e *missingError) Error() string {
	return fmt.Sprintf("servers: %s is not installed, so its tests are skipped; to run them: %s", e.what, e.remedy)
}

// acquire returns the shared or own server (T) of a kind, started and running,
// or ends the test: skipped when it is not installed, failed otherwise.
func acquire[T cluster](tb testing.TB, k kind, opts []Option, launch func(dir string, o options) (T, error)) T {
	tb.Helper()
	if !supported {
		tb.Skipf("servers: %s cannot be started on this operating system, so its tests are skipped; run them on Linux", k)
	}
	var o options
	for _, opt := range opts {
		if opt.kinds&k == 0 {
			tb.Fatalf("servers: option %s does not apply to %s; leave it out", opt.name, k)
		}
		opt.apply(&o)
	}
	c, err := running.get(k, o, func(dir string) (cluster, error) { return launch(dir, o) })
	var missing *missingError
	if errors.As(err, &missing) {
		tb.Skip(missing.Error())
	}
	if err != nil {
		tb.Fatal(err)
	}
	if o.own {
		tb.Cleanup(func() { running.discard(c) })
	}
	return c.(T)
}

// loopback is the address of a port on this machine.
func loopback(port int) string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(port)) }
