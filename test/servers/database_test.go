package servers

import (
	"context"
	"database/sql"
	"fmt"
	"strings"
	"testing"

	_ "github.com/jackc/pgx/v5/stdlib"
)

// sqlServer is what the two SQL servers have in common.
type sqlServer interface {
	Stop()
	Start()
	Kill()
	Running() bool
	Log() string
	ConnectionString() string
	Database() string
}

// sqlKinds are the SQL servers with their database/sql driver.
var sqlKinds = []struct {
	name, driver string
	start        func(testing.TB, ...Option) sqlServer
	durable      string // query for the durability setting
	on, off      string
}{
	{
		"Postgres", "pgx", func(tb testing.TB, opts ...Option) sqlServer { return Postgres(tb, opts...) },
		"SHOW fsync", "on", "off",
	},
	{
		"MariaDB", "mysql", func(tb testing.TB, opts ...Option) sqlServer { return MariaDB(tb, opts...) },
		"SELECT @@innodb_flush_log_at_trx_commit", "1", "2",
	},
}

// query runs statements and returns the one value of the last.
func query(ctx context.Context, driver, dsn string, statements ...string) (string, error) {
	db, err := sql.Open(driver, dsn)
	if err != nil {
		return "", err
	}
	defer db.Close()
	last := len(statements) - 1
	for _, s := range statements[:last] {
		if _, err := db.ExecContext(ctx, s); err != nil {
			return "", fmt.Errorf("%s: %w", s, err)
		}
	}
	var value string
	err = db.QueryRowContext(ctx, statements[last]).Scan(&value)
	return value, err
}

func TestSQLKeepsData(t *testing.T) {
	for _, k := range sqlKinds {
		t.Run(k.name, func(t *testing.T) {
			s := measured(t, "start", func() sqlServer { return k.start(t, Durable(), Own()) })
			dsn := s.ConnectionString()
			if got, err := query(within(t), k.driver, dsn, k.durable); err != nil || got != k.on {
				t.Errorf("%s: %s, %v; want %s", k.durable, got, err, k.on)
			}
			if _, err := query(within(t), k.driver, dsn, "CREATE TABLE t (n INT)", "SELECT 1"); err != nil {
				t.Fatal(err)
			}
			for i, end := range []struct {
				name string
				do   func()
			}{{"Kill", s.Kill}, {"Stop", s.Stop}, {"Kill again", s.Kill}} {
				// A client that stays connected must not keep the server from going or coming back.
				db, err := sql.Open(k.driver, dsn)
				if err != nil {
					t.Fatal(err)
				}
				conn, err := db.Conn(within(t))
				if err != nil {
					t.Fatal(err)
				}
				if _, err := conn.ExecContext(within(t), fmt.Sprintf("INSERT INTO t VALUES (%d)", i)); err != nil {
					t.Fatal(err)
				}
				measured(t, end.name, func() bool { end.do(); return true })
				if s.Running() {
					t.Fatalf("runs after %s", end.name)
				}
				if _, err := query(within(t), k.driver, dsn, "SELECT 1"); err == nil {
					t.Errorf("answers after %s", end.name)
				}
				measured(t, "start again", func() bool { s.Start(); return true })
				if s.ConnectionString() != dsn {
					t.Errorf("connection string was %s and is %s", dsn, s.ConnectionString())
				}
				conn.Close()
				db.Close()
				if got, err := query(within(t), k.driver, dsn, "SELECT count(*) FROM t"); err != nil || got != fmt.Sprint(i+1) {
					t.Errorf("after %s: %s rows, %v; want %d", end.name, got, err, i+1)
				}
			}
		})
	}
}

func TestSQLShared(t *testing.T) {
	for _, k := range sqlKinds {
		t.Run(k.name, func(t *testing.T) {
			s := measured(t, "start", func() sqlServer { return k.start(t) })
			if other := k.start(t); other.ConnectionString() != s.ConnectionString() {
				t.Errorf("two servers for the same options")
			}
			if got, err := query(within(t), k.driver, s.ConnectionString(), k.durable); err != nil || got != k.off {
				t.Errorf("%s: %s, %v; want %s", k.durable, got, err, k.off)
			}
			var first string
			t.Run("database", func(t *testing.T) {
				s := k.start(t)
				first = s.Database()
				second := s.Database()
				if _, err := query(within(t), k.driver, first, "CREATE TABLE t (n INT)", "SELECT 1"); err != nil {
					t.Fatal(err)
				}
				if got, err := query(within(t), k.driver, second, "SELECT count(*) FROM t"); err == nil {
					t.Errorf("the second database sees %s rows in the first's table", got)
				}
			})
			if _, err := query(within(t), k.driver, first, "SELECT 1"); err == nil {
				t.Error("the database is there after its test")
			}
			s.Kill()
			if again := k.start(t); again.ConnectionString() != s.ConnectionString() || !again.Running() {
				t.Error("not brought back after a kill")
			}
		})
	}
}

func TestSQLSetting(t *testing.T) {
	pg := Postgres(t, Setting("wal_level", "logical"), Own())
	if got, err := query(within(t), "pgx", pg.ConnectionString(), "SHOW wal_level"); err != nil || got != "logical" {
		t.Errorf("wal_level %s, %v", got, err)
	}
}

// failures collects what a helper under test reports.
type failures struct {
	testing.TB
	text string
	skip bool
}

func (f *failures) Helper()           {}
func (f *failures) Fatal(args ...any) { f.text = fmt.Sprint(args...); panic(f) }
func (f *failures) Skip(args ...any)  { f.skip = true; f.Fatal(args...) }
func (f *failures) Fatalf(format string, args ...any) {
	f.Fatal(fmt.Sprintf(format, args...))
}

// failing runs what must fail or skip its test and returns what it said.
func failing(t *testing.T, run func(testing.TB)) *failures {
	t.Helper()
	f := &failures{TB: t}
	func() {
		defer func() {
			if r := recover(); r != nil && r != any(f) {
				panic(r)
			}
		}()
		run(f)
	}()
	if f.text == "" {
		t.Fatal("did not end the test")
	}
	return f
}

func TestFailuresSayWhy(t *testing.T) {
	Redis(t) // or skip
	for _, test := range []struct {
		name string
		run  func(testing.TB)
		want []string
	}{
		{"setting unknown to Redis", func(tb testing.TB) { Redis(tb, Setting("no-such-thing", "1"), Own()) }, []string{"Redis on 127.0.0.1:", "did not start", "no-such-thing 1"}},
		{"option for another server", func(tb testing.TB) { Postgres(tb, TLS()) }, []string{"TLS does not apply to postgres"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			f := failing(t, test.run)
			for _, want := range test.want {
				if f.skip || !strings.Contains(f.text, want) {
					t.Errorf("skip %v, %s\nwant a failure with %q", f.skip, f.text, want)
				}
			}
		})
	}
}

func TestMissingServerSkips(t *testing.T) {
	if !supported {
		t.Skip("no servers here")
	}
	t.Setenv("PATH", t.TempDir())
	f := failing(t, func(tb testing.TB) { Redis(tb, Own()) })
	if !f.skip || !strings.Contains(f.text, "apt-get install redis-server") {
		t.Errorf("skip %v: %s", f.skip, f.text)
	}
}
