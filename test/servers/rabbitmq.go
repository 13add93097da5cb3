package servers

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
)

// Credentials of a RabbitMQ server. They guard nothing: the server is on
// loopback and its data is thrown away.
const (
	rabbitUser     = "guest"
	rabbitPassword = "guest"
)

// RabbitMQServer is one RabbitMQ server process with the virtual host "/".
type RabbitMQServer struct {
	Server
	// User and Password are the administrator's.
	User, Password string
	// TLS is what clients need under the options [TLS] and [MutualTLS]; nil without them.
	// Under MutualTLS the client certificate also logs in by itself (SASL EXTERNAL).
	TLS *Certificates
}

// RabbitMQ returns a running RabbitMQ server. Tests that share it keep apart by
// the names of exchanges and queues. It takes several seconds to start, so a
// test takes one of its [Own] only when it must. What is durable survives
// [RabbitMQServer.Kill], with and without [Durable].
func RabbitMQ(tb testing.TB, opts ...Option) *RabbitMQServer {
	tb.Helper()
	n := acquire(tb, kindRabbitMQ, opts, launchRabbitMQ)
	return &RabbitMQServer{Server: bind(tb, n.server), User: rabbitUser, Password: rabbitPassword, TLS: n.tls}
}

// ConnectionString is the AMQP URI of the virtual host "/", with the administrator's credentials.
func (s *RabbitMQServer) ConnectionString() string {
	u := url.URL{Scheme: "amqp", User: url.UserPassword(s.User, s.Password), Host: s.Addr, Path: "/"}
	if s.TLS != nil {
		u.Scheme = "amqps"
	}
	return u.String()
}

// Kill is [Server.Kill] once the broker has noted all quorum queues on disk. It
// does so half a second after they were declared; those that are younger cannot
// be used any more after a crash, which is not what tests want to see.
func (s *RabbitMQServer) Kill() {
	s.tb.Helper()
	if s.Running() {
		s.check(await(stopLimit, func(context.Context) error { return quorumQueuesNoted(s.process.dir) }))
	}
	s.Server.Kill()
}

// quorumQueuesNoted is an error while the table of quorum queues has changes that are not on disk. It is a file of Erlang's
// dets, whose third word says whether the file can be used as it is.
func quorumQueuesNoted(dir string) error {
	tables, err := filepath.Glob(filepath.Join(dir, "data", "*", "quorum", "*", "names.dets"))
	if err != nil {
		return final{err}
	}
	for _, table := range tables {
		f, err := os.Open(table)
		if err != nil {
			return err
		}
		var header [3]uint32
		err = binary.Read(f, binary.BigEndian, &header)
		f.Close()
		if err != nil {
			return fmt.Errorf("servers: %s: %w", table, err)
		}
		if header[2] == 0 {
			return fmt.Errorf("servers: RabbitMQ has not yet noted its quorum queues in %s", table)
		}
	}
	return nil
}

// rabbitNode is a RabbitMQ server with the port mapper that Erlang needs: a
// mapper of its own, because one that a server starts by itself is a daemon
// that outlives everything, shared by all Erlang programs of the machine.
type rabbitNode struct {
	mapper, server *process
	tls            *Certificates
}

func (n *rabbitNode) processes() []*process { return []*process{n.mapper, n.server} }

func (n *rabbitNode) ready() error { return nil } // it answers, which is all there is

// rabbitProgram finds the script that runs the server in the foreground under
// our own account. Debian's program on the PATH is a wrapper that changes the
// account and moves the log.
func rabbitProgram() (string, error) {
	for _, pattern := range []string{"/usr/lib/rabbitmq/bin/rabbitmq-server", "/usr/local/sbin/rabbitmq-server", "/opt/homebrew/sbin/rabbitmq-server", "/opt/rabbitmq/sbin/rabbitmq-server"} {
		if path, err := exec.LookPath(pattern); err == nil {
			return path, nil
		}
	}
	return lookServer("rabbitmq-server")
}

func launchRabbitMQ(dir string, o options) (*rabbitNode, error) {
	program, err1 := rabbitProgram()
	epmd, err2 := exec.LookPath("epmd")
	if err1 != nil || err2 != nil {
		return nil, &missingError{"RabbitMQ (rabbitmq-server, epmd)", "apt-get install rabbitmq-server"}
	}
	n := &rabbitNode{}
	var files serverFiles
	var err error
	if o.tls {
		if n.tls, files, err = makeCertificates(dir); err != nil {
			return nil, err
		}
	}
	var ports [3]int // of clients, of other nodes, of the mapper
	var held [3][]*portLock
	for i := range ports {
		if ports[i], held[i], err = reservePort(); err != nil {
			for _, l := range slices.Concat(held[:]...) {
				l.release()
			}
			return nil, err
		}
	}
	mapperDir, serverDir := filepath.Join(dir, "epmd"), filepath.Join(dir, "rabbitmq")
	n.mapper = &process{
		name: "Erlang's port mapper", command: epmd, args: []string{"-port", strconv.Itoa(ports[2]), "-address", "127.0.0.1"},
		dir: mapperDir, port: ports[2], held: held[2],
		stopSignal: syscall.SIGTERM, discardSignal: syscall.SIGKILL,
		ping: func(ctx context.Context) error {
			conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", loopback(ports[2]))
			if err != nil {
				return err
			}
			return conn.Close()
		},
	}
	in := func(name string) string { return filepath.Join(serverDir, name) }
	n.server = &process{
		name: "RabbitMQ", command: program,
		// Without input the script replaces itself by the server, which then gets our signals; it must not read ours though.
		args: []string{"-noinput"},
		env: []string{
			"RABBITMQ_ALLOW_INPUT=1",
			"RABBITMQ_CONF_ENV_FILE=" + in("none"),
			"RABBITMQ_CONFIG_FILE=" + in("rabbitmq.conf"),
			"RABBITMQ_ADVANCED_CONFIG_FILE=" + in("none"),
			"RABBITMQ_ENABLED_PLUGINS_FILE=" + in("plugins"),
			"RABBITMQ_NODENAME=outrigger" + strconv.Itoa(ports[0]) + "@localhost",
			"RABBITMQ_DIST_PORT=" + strconv.Itoa(ports[1]),
			"RABBITMQ_MNESIA_BASE=" + in("data"),
			"RABBITMQ_LOG_BASE=" + in("log"),
			"RABBITMQ_LOGS=-",
			"RABBITMQ_PID_FILE=" + in("pid"),
			"ERL_EPMD_PORT=" + strconv.Itoa(ports[2]),
			"ERL_EPMD_ADDRESS=127.0.0.1",
			"ERL_CRASH_DUMP_SECONDS=0",
			"HOME=" + serverDir, // where Erlang keeps its cookie
		},
		dir: serverDir, port: ports[0], held: slices.Concat(held[0], held[1]),
		stopSignal: syscall.SIGTERM, discardSignal: syscall.SIGKILL,
		ping: func(ctx context.Context) error { return n.ping(ctx, ports[0]) },
	}
	if err := n.configure(ports[0], files, o); err != nil {
		discardProcesses(n.processes()...)
		return nil, err
	}
	for _, p := range n.processes() {
		if err := p.start(); err != nil {
			discardProcesses(n.processes()...)
			return nil, err
		}
	}
	return n, nil
}

// configure makes the directories and writes the server's files.
func (n *rabbitNode) configure(port int, files serverFiles, o options) error {
	settings := []setting{
		{"log.console", "true"},
		{"log.console.level", "warning"},
		{"load_definitions", filepath.Join(n.server.dir, "definitions.json")},
		// A full disk of the machine must not block the tests' publishers.
		{"disk_free_limit.absolute", "1MB"},
		{"raft.wal_max_size_bytes", "16777216"},
		{"num_acceptors.tcp", "1"},
		{"num_acceptors.ssl", "1"},
		{"auth_mechanisms.1", "PLAIN"},
		{"auth_mechanisms.2", "AMQPLAIN"},
	}
	plugins := "[]."
	if n.tls == nil {
		settings = append(settings, setting{"listeners.tcp.1", loopback(port)})
	} else {
		verify := "verify_none"
		if o.mutualTLS {
			verify = "verify_peer"
			plugins = "[rabbitmq_auth_mechanism_ssl]."
			settings = append(settings, setting{"auth_mechanisms.3", "EXTERNAL"}, setting{"ssl_cert_login_from", "common_name"})
		}
		settings = append(settings,
			setting{"listeners.tcp", "none"}, setting{"listeners.ssl.1", loopback(port)},
			setting{"ssl_options.cacertfile", files.ca}, setting{"ssl_options.certfile", files.cert}, setting{"ssl_options.keyfile", files.key},
			setting{"ssl_options.verify", verify}, setting{"ssl_options.fail_if_no_peer_cert", strconv.FormatBool(o.mutualTLS)})
	}
	var config strings.Builder
	for _, s := range append(settings, o.settings...) {
		fmt.Fprintf(&config, "%s = %s\n", s.name, s.value)
	}
	definitions, err := rabbitDefinitions()
	if err != nil {
		return fmt.Errorf("servers: %w", err)
	}
	for _, dir := range []string{n.mapper.dir, n.server.dir} {
		if err := os.Mkdir(dir, 0o755); err != nil {
			return fmt.Errorf("servers: %w", err)
		}
	}
	for name, text := range map[string][]byte{"rabbitmq.conf": []byte(config.String()), "plugins": []byte(plugins + "\n"), "definitions.json": definitions} {
		if err := os.WriteFile(filepath.Join(n.server.dir, name), text, 0o600); err != nil {
			return fmt.Errorf("servers: %w", err)
		}
	}
	return nil
}

// rabbitDefinitions are the virtual host and the users: the administrator, and
// the one that the client certificate names.
func rabbitDefinitions() ([]byte, error) {
	type object = map[string]any
	var users, permissions []object
	for name, password := range map[string]string{rabbitUser: rabbitPassword, clientName: rand.Text()} {
		salt := make([]byte, 4)
		if _, err := rand.Read(salt); err != nil {
			return nil, err
		}
		sum := sha256.Sum256(append(slices.Clone(salt), password...))
		users = append(users, object{
			"name": name, "password_hash": base64.StdEncoding.EncodeToString(append(salt, sum[:]...)),
			"hashing_algorithm": "rabbit_password_hashing_sha256", "tags": "administrator",
		})
		permissions = append(permissions, object{"user": name, "vhost": "/", "configure": ".*", "write": ".*", "read": ".*"})
	}
	return json.Marshal(object{"vhosts": []object{{"name": "/"}}, "users": users, "permissions": permissions})
}

// ping asks for the protocol's first frame, which the server sends once it takes clients.
func (n *rabbitNode) ping(ctx context.Context, port int) error {
	var d interface {
		DialContext(ctx context.Context, network, address string) (net.Conn, error)
	} = &net.Dialer{}
	if n.tls != nil {
		d = &tls.Dialer{Config: n.tls.client}
	}
	conn, err := d.DialContext(ctx, "tcp", loopback(port))
	if err != nil {
		return err
	}
	defer conn.Close()
	if deadline, ok := ctx.Deadline(); ok {
		_ = conn.SetDeadline(deadline)
	}
	if _, err := conn.Write([]byte("AMQP\x00\x00\x09\x01")); err != nil {
		return err
	}
	var frame [7]byte
	if _, err := io.ReadFull(conn, frame[:]); err != nil {
		return err
	}
	if frame[0] != 1 { // a method
		return fmt.Errorf("%q is not the start of AMQP 0-9-1", frame[:])
	}
	return nil
}
