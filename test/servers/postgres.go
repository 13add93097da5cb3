package servers

import (
	"context"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

// Credentials of the superusers. They guard nothing: the server is on loopback
// and its data is thrown away.
const (
	postgresUser     = "postgres"
	postgresPassword = "outrigger"
)

// PostgresServer is one PostgreSQL server process. Its superuser connects over
// TCP with a password (scram-sha-256).
type PostgresServer struct {
	Server
	// User and Password are the superuser's.
	User, Password string

	core *postgresCore
}

// Postgres returns a running PostgreSQL server. Tests that share it keep apart
// by table names or by a [PostgresServer.Database] each.
func Postgres(tb testing.TB, opts ...Option) *PostgresServer {
	tb.Helper()
	core := acquire(tb, kindPostgres, opts, launchPostgres)
	return &PostgresServer{Server: bind(tb, core.process), User: postgresUser, Password: postgresPassword, core: core}
}

// ConnectionString is the URL of the database "postgres", which is shared by
// all tests that share the server.
func (s *PostgresServer) ConnectionString() string { return s.core.connectionString("postgres") }

// Database makes an empty database for the test alone and returns its URL. It
// is dropped when the test ends, whoever is connected.
func (s *PostgresServer) Database() string {
	s.tb.Helper()
	name := fmt.Sprintf("test_%d", s.core.databases.Add(1))
	if err := s.core.exec("CREATE DATABASE " + name); err != nil {
		s.tb.Fatal(s.process.failure("did not make a database", err))
	}
	s.tb.Cleanup(func() {
		if !s.Running() { // the test left it down: the name is not used again
			return
		}
		if err := s.core.exec("DROP DATABASE IF EXISTS " + name + " WITH (FORCE)"); err != nil {
			s.tb.Error(s.process.failure("did not drop a database", err))
		}
	})
	return s.core.connectionString(name)
}

type postgresCore struct {
	process   *process
	databases atomic.Int64
}

func (c *postgresCore) processes() []*process { return []*process{c.process} }

func (c *postgresCore) ready() error { return nil } // it answers, which is all there is

func (c *postgresCore) connectionString(database string) string {
	u := url.URL{
		Scheme: "postgres", User: url.UserPassword(postgresUser, postgresPassword),
		Host: loopback(c.process.port), Path: database, RawQuery: "sslmode=disable",
	}
	return u.String()
}

// exec runs one statement on a connection of its own.
func (c *postgresCore) exec(statement string) error {
	ctx, cancel := context.WithTimeout(context.Background(), startLimit)
	defer cancel()
	conn, err := pgx.Connect(ctx, c.connectionString("postgres"))
	if err != nil {
		return err
	}
	defer closeConnection(conn)
	_, err = conn.Exec(ctx, statement)
	return err
}

func closeConnection(conn *pgx.Conn) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	_ = conn.Close(ctx) // nothing is waiting for its outcome
}

func (c *postgresCore) ping(ctx context.Context) error {
	conn, err := pgx.Connect(ctx, c.connectionString("postgres"))
	if err != nil {
		return err
	}
	defer closeConnection(conn)
	return conn.Ping(ctx)
}

func launchPostgres(dir string, o options) (*postgresCore, error) {
	bin, err := postgresPrograms()
	if err != nil {
		return nil, err
	}
	// PostgreSQL refuses to run as root.
	as, err := unprivileged("postgres", "nobody")
	if err != nil {
		return nil, err
	}
	initdb := filepath.Join(bin, "initdb")
	args := []string{"--auth=scram-sha-256", "--username=" + postgresUser, "--encoding=UTF8", "--locale=C", "--no-sync"}
	data := filepath.Join(dir, "data")
	err = dataFromTemplate(kindPostgres, initdb, strings.Join(args, " "), data, as, func(made string) error {
		password := filepath.Join(made, "..", "password")
		if err := os.WriteFile(password, []byte(postgresPassword+"\n"), 0o644); err != nil {
			return fmt.Errorf("servers: %w", err)
		}
		return runTool(as, made, initdb, append(args, "--pwfile="+password, "--pgdata="+made)...)
	})
	if err != nil {
		return nil, err
	}
	port, held, err := reservePort()
	if err != nil {
		return nil, err
	}
	settings := []setting{
		{"listen_addresses", "127.0.0.1"},
		{"port", strconv.Itoa(port)},
		{"unix_socket_directories", ""},
		{"max_connections", "200"},
		{"shared_buffers", "32MB"},
		{"logging_collector", "off"},
	}
	if !o.durable {
		settings = append(settings, setting{"fsync", "off"}, setting{"full_page_writes", "off"})
	}
	c := &postgresCore{}
	c.process = &process{
		name: "PostgreSQL", command: filepath.Join(bin, "postgres"), args: []string{"-D", data},
		dir: dir, port: port, held: held, account: as,
		// A fast shutdown, which does not wait for clients; an immediate one at the
		// end, so that its shared memory goes with it.
		stopSignal: syscall.SIGINT, discardSignal: syscall.SIGQUIT,
		ping: c.ping,
	}
	for _, s := range append(settings, o.settings...) {
		c.process.args = append(c.process.args, "-c", s.name+"="+s.value)
	}
	if err := c.process.start(); err != nil {
		c.process.discard()
		return nil, err
	}
	return c, nil
}

// postgresPrograms is the directory with initdb and postgres: the newest
// version of those that distributions keep off the PATH, or the one on the PATH.
func postgresPrograms() (string, error) {
	best, dir := -1.0, ""
	for _, pattern := range []string{
		"/usr/lib/postgresql/*/bin", "/usr/pgsql-*/bin",
		"/opt/homebrew/opt/postgresql@*/bin", "/usr/local/opt/postgresql@*/bin",
	} {
		found, _ := filepath.Glob(pattern)
		for _, bin := range found {
			name := filepath.Base(filepath.Dir(bin))
			version, err := strconv.ParseFloat(name[strings.LastIndexAny(name, "-@")+1:], 64)
			if err == nil && version > best && hasPrograms(bin, "initdb", "postgres") {
				best, dir = version, bin
			}
		}
	}
	if dir != "" {
		return dir, nil
	}
	if postgres, err := exec.LookPath("postgres"); err == nil && hasPrograms(filepath.Dir(postgres), "initdb") {
		return filepath.Dir(postgres), nil
	}
	return "", &missingError{"PostgreSQL (initdb, postgres)", "apt-get install postgresql"}
}

func hasPrograms(dir string, names ...string) bool {
	for _, name := range names {
		if _, err := exec.LookPath(filepath.Join(dir, name)); err != nil {
			return false
		}
	}
	return true
}
