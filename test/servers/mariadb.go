package servers

import (
	"context"
	"database/sql"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/go-sql-driver/mysql"
)

// Credentials and first database of a MariaDB server. They guard nothing: the
// server is on loopback and its data is thrown away.
const (
	mariaUser     = "root"
	mariaPassword = "outrigger"
	mariaDatabase = "outrigger"
)

// MariaDBServer is one MariaDB server process. Its administrator connects over
// TCP with a password.
type MariaDBServer struct {
	Server
	// User and Password are the administrator's, with all privileges.
	User, Password string

	core *mariaCore
}

// MariaDB returns a running MariaDB server. Tests that share it keep apart by
// table names or by a [MariaDBServer.Database] each.
func MariaDB(tb testing.TB, opts ...Option) *MariaDBServer {
	tb.Helper()
	core := acquire(tb, kindMariaDB, opts, launchMariaDB)
	return &MariaDBServer{Server: bind(tb, core.process), User: mariaUser, Password: mariaPassword, core: core}
}

// ConnectionString is the data source name, as github.com/go-sql-driver/mysql
// reads it, of the database "outrigger", which is shared by all tests that
// share the server.
func (s *MariaDBServer) ConnectionString() string {
	return s.core.config(mariaDatabase).FormatDSN()
}

// Database makes an empty database for the test alone and returns its data
// source name. It is dropped when the test ends.
func (s *MariaDBServer) Database() string {
	s.tb.Helper()
	name := fmt.Sprintf("test_%d", s.core.databases.Add(1))
	if err := s.core.exec("CREATE DATABASE " + name); err != nil {
		s.tb.Fatal(s.process.failure("did not make a database", err))
	}
	s.tb.Cleanup(func() {
		if !s.Running() { // the test left it down: the name is not used again
			return
		}
		if err := s.core.exec("DROP DATABASE IF EXISTS " + name); err != nil {
			s.tb.Error(s.process.failure("did not drop a database", err))
		}
	})
	return s.core.config(name).FormatDSN()
}

type mariaCore struct {
	process   *process
	databases atomic.Int64
}

func (c *mariaCore) processes() []*process { return []*process{c.process} }

func (c *mariaCore) ready() error { return nil } // it answers, which is all there is

func (c *mariaCore) config(database string) *mysql.Config {
	config := mysql.NewConfig()
	config.User, config.Passwd = mariaUser, mariaPassword
	config.Net, config.Addr = "tcp", loopback(c.process.port)
	config.DBName = database
	return config
}

// open is a pool on the server that does not report failures of its own, as
// they are expected while the server starts.
func (c *mariaCore) open() (*sql.DB, error) {
	config := c.config(mariaDatabase)
	config.Logger = &mysql.NopLogger{}
	connector, err := mysql.NewConnector(config)
	if err != nil {
		return nil, err
	}
	return sql.OpenDB(connector), nil
}

func (c *mariaCore) exec(statement string) error {
	ctx, cancel := context.WithTimeout(context.Background(), startLimit)
	defer cancel()
	db, err := c.open()
	if err != nil {
		return err
	}
	defer db.Close()
	_, err = db.ExecContext(ctx, statement)
	return err
}

func (c *mariaCore) ping(ctx context.Context) error {
	db, err := c.open()
	if err != nil {
		return err
	}
	defer db.Close()
	return db.PingContext(ctx)
}

// mariaLogSize is the size of the redo log. It is fixed when the data is made,
// and small because it is copied for every server.
const mariaLogSize = "--innodb-log-file-size=16M"

// mariaAccounts is run at every start, before clients are let in: the data as
// it is installed has no account for TCP, or one without a password.
const mariaAccounts = `CREATE DATABASE IF NOT EXISTS ` + mariaDatabase + ` CHARACTER SET utf8mb4;
CREATE USER IF NOT EXISTS '` + mariaUser + `'@'127.0.0.1';
ALTER USER '` + mariaUser + `'@'127.0.0.1' IDENTIFIED BY '` + mariaPassword + `';
GRANT ALL PRIVILEGES ON *.* TO '` + mariaUser + `'@'127.0.0.1' WITH GRANT OPTION;
`

func launchMariaDB(dir string, o options) (*mariaCore, error) {
	server, err1 := lookServer("mariadbd")
	install, err2 := lookServer("mariadb-install-db")
	if err1 != nil || err2 != nil {
		return nil, &missingError{"MariaDB (mariadbd, mariadb-install-db)", "apt-get install mariadb-server"}
	}
	// MariaDB refuses to run as root.
	as, err := unprivileged("mysql", "nobody")
	if err != nil {
		return nil, err
	}
	args := []string{"--no-defaults", "--auth-root-authentication-method=normal", "--skip-test-db", "--skip-name-resolve", mariaLogSize}
	data := filepath.Join(dir, "data")
	err = dataFromTemplate(kindMariaDB, server, strings.Join(args, " "), data, as, func(made string) error {
		return runTool(as, made, install, append(args, "--datadir="+made)...)
	})
	if err != nil {
		return nil, err
	}
	accounts := filepath.Join(dir, "accounts.sql")
	if err := os.WriteFile(accounts, []byte(mariaAccounts), 0o644); err != nil {
		return nil, fmt.Errorf("servers: %w", err)
	}
	port, held, err := reservePort()
	if err != nil {
		return nil, err
	}
	c := &mariaCore{}
	c.process = &process{
		name: "MariaDB", command: server,
		args: []string{
			"--no-defaults", "--datadir=" + data, "--init-file=" + accounts,
			"--bind-address=127.0.0.1", "--port=" + strconv.Itoa(port), "--skip-name-resolve",
			"--socket=" + filepath.Join(data, "s"), "--pid-file=" + filepath.Join(data, "pid"), "--tmpdir=" + data,
			"--innodb-buffer-pool-size=64M", mariaLogSize, "--max-connections=200",
		},
		dir: dir, port: port, held: held, account: as,
		stopSignal: syscall.SIGTERM, discardSignal: syscall.SIGKILL,
		ping: c.ping,
	}
	if o.durable {
		c.process.args = append(c.process.args, "--innodb-flush-log-at-trx-commit=1", "--innodb-doublewrite=1")
	} else {
		c.process.args = append(c.process.args, "--innodb-flush-log-at-trx-commit=2", "--innodb-doublewrite=0")
	}
	for _, s := range o.settings {
		c.process.args = append(c.process.args, "--"+s.name+"="+s.value)
	}
	if err := c.process.start(); err != nil {
		c.process.discard()
		return nil, err
	}
	return c, nil
}

// lookServer finds a program on the PATH or where system programs are, which
// the PATH of an ordinary user may leave out.
func lookServer(name string) (string, error) {
	path, err := exec.LookPath(name)
	for _, dir := range []string{"/usr/sbin", "/usr/local/sbin", "/usr/libexec"} {
		if err == nil {
			break
		}
		path, err = exec.LookPath(filepath.Join(dir, name))
	}
	return path, err
}
