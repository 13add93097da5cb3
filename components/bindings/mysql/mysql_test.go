package mysql

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"maps"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"outrigger.dev/components"
	"outrigger.dev/components/bindings"
	"outrigger.dev/test/servers"
)

func TestMain(m *testing.M) { servers.Main(m) }

// openBinding opens the binding the way a resource does.
func openBinding(tb testing.TB, properties map[string]string) (*Binding, error) {
	tb.Helper()
	var r components.Registry
	Register(&r)
	d, err := r.Lookup(components.Bindings, "mysql", "")
	if err != nil {
		tb.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	c, err := d.Open(ctx, components.Instance{Name: "db", Properties: properties})
	if err != nil {
		return nil, err
	}
	tb.Cleanup(func() { _ = c.(*Binding).Close() })
	return c.(*Binding), nil
}

func mustOpen(tb testing.TB, properties map[string]string) *Binding {
	tb.Helper()
	b, err := openBinding(tb, properties)
	if err != nil {
		tb.Fatal(err)
	}
	return b
}

func invoke(b *Binding, operation, sql, params string) (*bindings.Response, error) {
	m := map[string]string{}
	if sql != "" {
		m["sql"] = sql
	}
	if params != "" {
		m["params"] = params
	}
	return b.Invoke(context.Background(), bindings.Request{Operation: operation, Metadata: m})
}

func TestStatements(t *testing.T) {
	b := mustOpen(t, map[string]string{
		"url": servers.MariaDB(t).Database() + "?parseTime=true", "maxIdleConns": "1", "maxOpenConns": "3", "connMaxLifetime": "1m", "connMaxIdleTime": "30",
	})
	run := func(operation, sql, params string) *bindings.Response {
		t.Helper()
		resp, err := invoke(b, operation, sql, params)
		if err != nil {
			t.Fatalf("%s: %v", sql, err)
		}
		return resp
	}
	run("exec", "CREATE TABLE foo (id bigint PRIMARY KEY, c1 text, ts datetime)", "")
	resp := run("exec", "INSERT INTO foo (id, c1, ts) VALUES (?, ?, ?), (?, ?, NULL)", `[9007199254740993, "it's", "2026-09-24 11:45:05", 2, {"a":[1]}]`)
	m := resp.Metadata
	start, err1 := time.Parse(time.RFC3339Nano, m["start-time"])
	end, err2 := time.Parse(time.RFC3339Nano, m["end-time"])
	took, err3 := time.ParseDuration(m["duration"])
	if err1 != nil || err2 != nil || err3 != nil || end.Before(start) || took <= 0 {
		t.Errorf("times %v", m)
	}
	delete(m, "start-time")
	delete(m, "end-time")
	delete(m, "duration")
	if want := map[string]string{"operation": "exec", "rows-affected": "2", "sql": "INSERT INTO foo (id, c1, ts) VALUES (?, ?, ?), (?, ?, NULL)"}; !maps.Equal(m, want) || resp.Data != nil {
		t.Errorf("metadata %v, data %s", m, resp.Data)
	}
	// With parameters rows come in another form than without.
	for _, q := range [][2]string{{"SELECT id, c1, ts FROM foo WHERE id > ? ORDER BY id DESC", "[1]"}, {"SELECT id, c1, ts FROM foo ORDER BY id DESC", ""}} {
		resp = run("query", q[0], q[1])
		if want := `[{"id":9007199254740993,"c1":"it's","ts":"2026-09-24T11:45:05Z"},{"id":2,"c1":"{\"a\":[1]}","ts":null}]`; string(resp.Data) != want {
			t.Errorf("rows %s, want %s", resp.Data, want)
		}
		if _, has := resp.Metadata["rows-affected"]; has || resp.Metadata["operation"] != "query" {
			t.Errorf("metadata %v", resp.Metadata)
		}
	}
	if resp = run("query", "SELECT id FROM foo WHERE id = 7", ""); string(resp.Data) != "[]" {
		t.Errorf("no rows are %s", resp.Data)
	}
	if resp = run("exec", "DELETE FROM foo", " "); resp.Metadata["rows-affected"] != "2" {
		t.Errorf("metadata %v", resp.Metadata)
	}
}

func TestValues(t *testing.T) {
	b := mustOpen(t, map[string]string{"url": servers.MariaDB(t).Database()})
	for _, tc := range []struct{ column, value, want string }{
		{"TINYINT", "-1", "-1"},
		{"BIGINT UNSIGNED", "18446744073709551615", "18446744073709551615"},
		{"INT(5) ZEROFILL", "42", "42"},
		{"BOOLEAN", "TRUE", "1"},
		{"FLOAT", "1.5", "1.5"},
		{"DOUBLE", "0.1", "0.1"},
		{"DECIMAL(30,10)", "12345678901234567890.5", `"12345678901234567890.5000000000"`},
		{"VARCHAR(9)", "'é'", `"é"`},
		{"LONGTEXT", "'a'", `"a"`},
		{"JSON", "'[1]'", `"[1]"`},
		{"ENUM('a','b')", "'b'", `"b"`},
		{"VARBINARY(9)", "X'00ff'", `"AP8="`},
		{"BLOB", "X'00ff'", `"AP8="`},
		{"BIT(8)", "b'101'", `"BQ=="`},
		{"DATE", "'2026-01-02'", `"2026-01-02"`},
		{"DATETIME(1)", "'2026-01-02 03:04:05.6'", `"2026-01-02 03:04:05.6"`},
		{"TIME", "'03:04:05'", `"03:04:05"`},
		{"YEAR", "2026", "2026"},
		{"INT", "NULL", "null"},
	} {
		if _, err := invoke(b, "exec", "CREATE OR REPLACE TABLE v (v "+tc.column+" NULL)", ""); err != nil {
			t.Fatalf("%s: %v", tc.column, err)
		}
		if _, err := invoke(b, "exec", "INSERT INTO v VALUES ("+tc.value+")", ""); err != nil {
			t.Fatalf("%s: %v", tc.column, err)
		}
		for _, q := range [][2]string{{"SELECT v FROM v", ""}, {"SELECT v FROM v WHERE 1 = ?", "[1]"}} {
			resp, err := invoke(b, "query", q[0], q[1])
			if err != nil || string(resp.Data) != `[{"v":`+tc.want+`}]` {
				t.Errorf("%s of %s %v: %+v, %v; want %s", tc.value, tc.column, q, resp, err, tc.want)
			}
		}
	}
}

func TestErrors(t *testing.T) {
	server := servers.MariaDB(t)
	b := mustOpen(t, map[string]string{"url": server.ConnectionString()})
	for _, tc := range []struct{ operation, sql, params, err string }{
		{"create", "SELECT 1", "", `operation "create"`},
		{"exec", "", "", `required metadata "sql" is not set`},
		{"query", "SELEC 1", "", "syntax"},
		{"exec", "DO ?", `{"a":1}`, `"params"`},
		{"exec", "DO ?", `[1] [2]`, "something behind it"},
		{"exec", "DO ?", `[1e999]`, "out of range"},
		{"exec", "DO ?", `[1, 2]`, "expected 1 arguments"},
	} {
		resp, err := invoke(b, tc.operation, tc.sql, tc.params)
		if err == nil || !strings.Contains(err.Error(), tc.err) {
			t.Errorf("%s %s %s: %+v, %v; want an error with %q", tc.operation, tc.sql, tc.params, resp, err, tc.err)
		}
	}
	ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	if _, err := b.Invoke(ctx, bindings.Request{Operation: "query", Metadata: map[string]string{"sql": "SELECT SLEEP(30)"}}); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("statement without end: %v", err)
	}
	if resp, err := invoke(b, "close", "", ""); err != nil || resp != nil {
		t.Errorf("close: %+v, %v", resp, err)
	}
	if _, err := invoke(b, "query", "SELECT 1", ""); err == nil || !strings.Contains(err.Error(), "closed") {
		t.Errorf("after close: %v", err)
	}
	if err := b.Close(); err != nil {
		t.Error(err)
	}
	for _, tc := range []struct{ url, err string }{
		{"", `"url" is required`},
		{"u:secret@tcp(127.0.0.1:1)/d", "127.0.0.1:1"},
		{"u:secret@tcp(" + server.Addr + ")/d", "cannot connect"},
		{"u:secret@tcp(h/d", `"url" is not a data source name`},
		{"u:secret@tcp(h:1)/d?tls=custom", `"pemPath"`},
	} {
		if _, err := openBinding(t, map[string]string{"url": tc.url}); err == nil || !strings.Contains(err.Error(), tc.err) || strings.Contains(err.Error(), "secret") {
			t.Errorf("%s: error %v, want one with %q", tc.url, err, tc.err)
		}
	}
}

// certificate makes a certificate for 127.0.0.1 that is its own authority, in files that the server's account can read.
func certificate(t *testing.T) (cert []byte, certFile, keyFile string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	secret, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	for _, d := range []string{dir, filepath.Dir(dir)} {
		if err := os.Chmod(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	certFile, keyFile = filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	cert = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	for file, text := range map[string][]byte{certFile: cert, keyFile: pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: secret})} {
		if err := os.WriteFile(file, text, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return cert, certFile, keyFile
}

func TestTLS(t *testing.T) {
	cert, certFile, keyFile := certificate(t)
	server := servers.MariaDB(t, servers.Own(), servers.Setting("ssl-cert", certFile), servers.Setting("ssl-key", keyFile))
	url := server.ConnectionString() + "?tls=custom"
	for name, p := range map[string]map[string]string{"file": {"pemPath": certFile}, "text": {"pemContents": string(cert)}} {
		p["url"] = url
		resp, err := invoke(mustOpen(t, p), "query", "SHOW STATUS LIKE 'Ssl_version'", "")
		if err != nil || !strings.Contains(string(resp.Data), "TLS") {
			t.Errorf("%s: %+v, %v", name, resp, err)
		}
	}
	foreign, _, _ := certificate(t)
	if _, err := openBinding(t, map[string]string{"url": url, "pemContents": string(foreign)}); err == nil || !strings.Contains(err.Error(), "certificate") {
		t.Errorf("foreign authority: %v", err)
	}
}

func TestRestart(t *testing.T) {
	server := servers.MariaDB(t, servers.Own())
	b := mustOpen(t, map[string]string{"url": server.ConnectionString()})
	server.Kill()
	if _, err := invoke(b, "query", "SELECT 1", ""); err == nil || !strings.Contains(err.Error(), server.Addr) {
		t.Errorf("server that is down: %v", err)
	}
	server.Start()
	if resp, err := invoke(b, "query", "SELECT 1 AS one", ""); err != nil || string(resp.Data) != `[{"one":1}]` {
		t.Errorf("after the restart: %+v, %v", resp, err)
	}
}

func FuzzParseParams(f *testing.F) {
	for _, seed := range []string{"[]", `[1, "a", null, true, 1.5, {"a":[1e9]}]`, "[1e999]", "{}", "[[]]x"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		params, err := parseParams(text)
		if err != nil {
			return
		}
		for _, p := range params {
			switch p.(type) {
			case int64, uint64, float64, string, bool, nil:
			default:
				t.Fatalf("%q has the parameter %v of type %T", text, p, p)
			}
		}
		if _, err := json.Marshal(params); err != nil {
			t.Fatal(err)
		}
	})
}
