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

	"outrigger.dev/components/bindings"
	"outrigger.dev/components/bindings/bindingstest"
	"outrigger.dev/components/bindings/sqlbinding"
	"outrigger.dev/test/servers"
)

func TestMain(m *testing.M) { servers.Main(m) }

// binding is the type under test.
var binding = bindingstest.Type[*Binding]{Register: Register, Name: "mysql"}

func TestStatements(t *testing.T) {
	b := binding.MustOpen(t, map[string]string{
		"url": servers.MariaDB(t).Database() + "?parseTime=true", "maxIdleConns": "1", "maxOpenConns": "3", "connMaxLifetime": "1m", "connMaxIdleTime": "30",
	})
	run := func(operation, sql, params string) *bindings.Response {
		t.Helper()
		return bindingstest.MustInvokeSQL(t, b, operation, sql, params)
	}
	run("exec", "CREATE TABLE foo (id bigint PRIMARY KEY, c1 text, ts datetime)", "")
	resp := run("exec", "INSERT INTO foo (id, c1, ts) VALUES (?, ?, ?), (?, ?, NULL)", `[9007199254740993, "it's", "2026-09-24 11:45:05", 2, {"a":[1]}]`)
	m := resp.Metadata
	bindingstest.TakeTiming(t, m)
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
	b := binding.MustOpen(t, map[string]string{"url": servers.MariaDB(t).Database()})
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
		if _, err := bindingstest.InvokeSQL(b, "exec", "CREATE OR REPLACE TABLE v (v "+tc.column+" NULL)", ""); err != nil {
			t.Fatalf("%s: %v", tc.column, err)
		}
		if _, err := bindingstest.InvokeSQL(b, "exec", "INSERT INTO v VALUES ("+tc.value+")", ""); err != nil {
			t.Fatalf("%s: %v", tc.column, err)
		}
		for _, q := range [][2]string{{"SELECT v FROM v", ""}, {"SELECT v FROM v WHERE 1 = ?", "[1]"}} {
			resp, err := bindingstest.InvokeSQL(b, "query", q[0], q[1])
			if err != nil || string(resp.Data) != `[{"v":`+tc.want+`}]` {
				t.Errorf("%s of %s %v: %+v, %v; want %s", tc.value, tc.column, q, resp, err, tc.want)
			}
		}
	}
}

func TestErrors(t *testing.T) {
	server := servers.MariaDB(t)
	b := binding.MustOpen(t, map[string]string{"url": server.ConnectionString()})
	ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	if _, err := b.Invoke(ctx, bindings.Request{Operation: "query", Metadata: map[string]string{"sql": "SELECT SLEEP(30)"}}); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("statement without end: %v", err)
	}
	bindingstest.CheckSQLErrors(t, b, []bindingstest.SQLError{
		{Operation: "query", SQL: "SELEC 1", Want: "syntax"},
		{Operation: "exec", SQL: "DO ?", Params: `[1, 2]`, Want: "expected 1 arguments"},
	})
	for _, tc := range []struct{ url, err string }{
		{"", `"url" is required`},
		{"u:secret@tcp(127.0.0.1:1)/d", "127.0.0.1:1"},
		{"u:secret@tcp(" + server.Addr + ")/d", "cannot connect"},
		{"u:secret@tcp(h/d", `"url" is not a data source name`},
		{"u:secret@tcp(h:1)/d?tls=custom", `"pemPath"`},
	} {
		if _, err := binding.Open(t, map[string]string{"url": tc.url}); err == nil || !strings.Contains(err.Error(), tc.err) || strings.Contains(err.Error(), "secret") {
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
		resp, err := bindingstest.InvokeSQL(binding.MustOpen(t, p), "query", "SHOW STATUS LIKE 'Ssl_version'", "")
		if err != nil || !strings.Contains(string(resp.Data), "TLS") {
			t.Errorf("%s: %+v, %v", name, resp, err)
		}
	}
	foreign, _, _ := certificate(t)
	if _, err := binding.Open(t, map[string]string{"url": url, "pemContents": string(foreign)}); err == nil || !strings.Contains(err.Error(), "certificate") {
		t.Errorf("foreign authority: %v", err)
	}
}

func TestRestart(t *testing.T) {
	server := servers.MariaDB(t, servers.Own())
	b := binding.MustOpen(t, map[string]string{"url": server.ConnectionString()})
	server.Kill()
	if _, err := bindingstest.InvokeSQL(b, "query", "SELECT 1", ""); err == nil || !strings.Contains(err.Error(), server.Addr) {
		t.Errorf("server that is down: %v", err)
	}
	server.Start()
	if resp, err := bindingstest.InvokeSQL(b, "query", "SELECT 1 AS one", ""); err != nil || string(resp.Data) != `[{"one":1}]` {
		t.Errorf("after the restart: %+v, %v", resp, err)
	}
}

func FuzzParseParams(f *testing.F) {
	for _, seed := range []string{"[]", `[1, "a", null, true, 1.5, {"a":[1e9]}]`, "[1e999]", "{}", "[[]]x"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		params, err := sqlbinding.Params(text, parameter)
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
