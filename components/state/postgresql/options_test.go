package postgresql

import (
	"context"
	"encoding/hex"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

func TestPoolConfig(t *testing.T) {
	for _, tc := range []struct {
		name string
		c    Connection
		want string // user:password@host:port/database
		err  string
	}{
		{name: "URL", c: Connection{ConnectionString: "postgres://u:p%2F@h:1/d"}, want: "u:p/@h:1/d"},
		{name: "keywords", c: Connection{ConnectionString: "host=h port=1 user=u password='p w' database=d"}, want: "u:p w@h:1/d"},
		{
			name: "URL with parts", c: Connection{ConnectionString: "postgresql://u:p@h:1/d?sslmode=disable", Host: "::1", Port: "2", Database: "e", User: "v", Password: "q/'"},
			want: "v:q/'@::1:2/e",
		},
		{name: "URL with a host", c: Connection{ConnectionString: "postgresql://u:p@h:1/d", Host: "i"}, want: "u:p@i:1/d"},
		{name: "URL with a user", c: Connection{ConnectionString: "postgresql://u:p@h:1/d", User: "v"}, want: "v:p@h:1/d"},
		{
			name: "keywords with parts", c: Connection{ConnectionString: "host=h port=1 user=u password=p dbname=d", Host: "i", Port: "2", Database: "e", User: "v", Password: `q'\ x`},
			want: `v:q'\ x@i:2/e`,
		},
		{name: "parts alone", c: Connection{Host: "i", Port: "2", Database: "e", User: "v", Password: "q"}, want: "v:q@i:2/e"},
		{name: "hostaddr", c: Connection{ConnectionString: "host=h user=u password=p database=d", HostAddr: "10.1.2.3"}, want: "u:p@h:5432/d"},
		{name: "hostaddr alone", c: Connection{HostAddr: "10.1.2.3", User: "u", Password: "p", Database: "d"}, want: "u:p@10.1.2.3:5432/d"},
		{name: "bad hostaddr", c: Connection{ConnectionString: "host=h", HostAddr: "name"}, err: `"hostaddr" is "name"`},
		{name: "nonsense", c: Connection{ConnectionString: "no connection string"}, err: `"connectionString" is not a PostgreSQL connection string`},
		{name: "bad URL", c: Connection{ConnectionString: "postgres://u:se%cret@h", Host: "i"}, err: "percent-encoded"},
		{name: "both clouds", c: Connection{ConnectionString: "host=h", Azure: Azure{UseAzureAD: true}, AWS: AWS{UseAWSIAM: true}}, err: "choose one"},
		{name: "no root certificate", c: Connection{ConnectionString: "host=h sslmode=verify-full", SSLRootCert: "/no/such/file"}, err: "/no/such/file"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			config, err := tc.c.poolConfig(true)
			if tc.err != "" {
				if err == nil || !strings.Contains(err.Error(), tc.err) || strings.Contains(err.Error(), "se%cret") {
					t.Fatalf("error %v, want one with %q", err, tc.err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			cc := config.ConnConfig
			parts, _ := cc.LookupFunc(context.Background(), "localhost")
			if tc.c.HostAddr != "" && (len(parts) != 1 || parts[0] != tc.c.HostAddr) {
				t.Errorf("connects to %v", parts)
			}
			got := cc.User + ":" + cc.Password + "@" + cc.Host + ":" + strconv.Itoa(int(cc.Port)) + "/" + cc.Database
			if got != tc.want {
				t.Errorf("got %s, want %s", got, tc.want)
			}
		})
	}
	config, err := (&Connection{ConnectionString: "host=h", MaxConns: 7, ConnectionMaxIdleTime: time.Minute, QueryExecMode: "Simple_Protocol"}).poolConfig(true)
	if err != nil || config.MaxConns != 7 || config.MaxConnIdleTime != time.Minute || config.ConnConfig.DefaultQueryExecMode != pgx.QueryExecModeSimpleProtocol {
		t.Errorf("config %+v, %v", config, err)
	}
}

func TestOptions(t *testing.T) {
	for _, tc := range []struct {
		name, version string
		properties    map[string]string
		err           string
	}{
		{"nothing", "", nil, `"connectionString" is required`},
		{"timeout", "v2", map[string]string{"url": "host=h", "timeoutInSeconds": "10ms"}, `"timeout" is 10ms`},
		{"table", "", map[string]string{"url": "host=h", "tableName": "a b"}, `"tableName" is "a b"`},
		{"prefix", "v2", map[string]string{"url": "host=h", "tablePrefix": "a;b"}, `"tablePrefix" is "a;bstate"`},
		{"metadata table", "v2", map[string]string{"url": "host=h", "metadataTableName": "a.b.c"}, `"metadataTableName" is "a.b.c"`},
		{"mode", "", map[string]string{"url": "host=h", "queryExecMode": "fast"}, `"queryExecMode" is "fast"`},
	} {
		t.Run(tc.name, func(t *testing.T) {
			_, err := openStore(t, "postgresql", tc.version, tc.properties)
			if err == nil || !strings.Contains(err.Error(), tc.err) {
				t.Errorf("error %v, want one with %q", err, tc.err)
			}
		})
	}
}

func TestParseTableName(t *testing.T) {
	for _, tc := range []struct{ name, quoted, bare string }{
		{"state", `"state"`, "state"},
		{"State", `"state"`, "state"},
		{"Own.State_1", `"own"."state_1"`, "state_1"},
		{`"Own"."St ""x"" ate"`, `"Own"."St ""x"" ate"`, `St "x" ate`},
		{`own."S.t"`, `"own"."S.t"`, "S.t"},
		{"user", `"user"`, "user"},
		{"", "", ""},
		{".", "", ""},
		{"a.", "", ""},
		{"1a", "", ""},
		{"a-b", "", ""},
		{"a; DROP TABLE b", "", ""},
		{`"a`, "", ""},
		{`""`, "", ""},
		{`"a"b`, "", ""},
		{`"a".`, "", ""},
		{"a.b.c", "", ""},
		{"\"a\x00b\"", "", ""},
	} {
		got, err := parseTableName("tableName", tc.name)
		if (err != nil) != (tc.quoted == "") || err == nil && (got.quoted != tc.quoted || got.bare != tc.bare) {
			t.Errorf("parseTableName(%q) = %+v, %v; want %s", tc.name, got, err, tc.quoted)
		}
	}
}

func FuzzParseTableName(f *testing.F) {
	for _, seed := range []string{"state", "a.b", `"a""b".c`, `"`, `""".""`} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, name string) {
		n, err := parseTableName("tableName", name)
		if err != nil {
			return
		}
		// Outside of quotation marks there may only be a dot.
		in := false
		for i := range len(n.quoted) {
			switch c := n.quoted[i]; {
			case c == '"':
				in = !in
			case !in && c != '.':
				t.Fatalf("%q is quoted as %s", name, n.quoted)
			}
		}
		if in {
			t.Fatalf("%q is quoted as %s", name, n.quoted)
		}
	})
}

func TestAWSToken(t *testing.T) {
	// The key that AWS's documentation of signature version 4 derives.
	if got := hex.EncodeToString(signingKey("wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY", "20150830", "us-east-1", "iam")); got != "c4afb1cc5771d871763a393e44b703571b55cc28424d1a5e86da6ed3c154a4b9" {
		t.Errorf("signing key %s", got)
	}
	a := AWS{Region: "us-east-1", AccessKey: "AKIDEXAMPLE", SecretKey: "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"}
	at := time.Date(2015, 8, 30, 12, 36, 0, 0, time.UTC)
	token := a.token("db.example.com:5432", "iam user", at)
	for _, part := range []string{
		"db.example.com:5432/?Action=connect&DBUser=iam%20user&", "X-Amz-Credential=AKIDEXAMPLE%2F20150830%2Fus-east-1%2Frds-db%2Faws4_request",
		"X-Amz-Date=20150830T123600Z", "X-Amz-Expires=900", "X-Amz-SignedHeaders=host&X-Amz-Signature=",
	} {
		if !strings.Contains(token, part) {
			t.Errorf("token %s lacks %s", token, part)
		}
	}
	if token == a.token("db.example.com:5432", "other", at) {
		t.Error("the signature does not depend on the user")
	}
	config, err := pgx.ParseConfig("host=h port=1 user=u")
	if err != nil {
		t.Fatal(err)
	}
	env := map[string]string{"AWS_ACCESS_KEY_ID": "k", "AWS_SECRET_ACCESS_KEY": "s", "AWS_SESSION_TOKEN": "t", "AWS_DEFAULT_REGION": "r"}
	tokens, err := AWS{}.tokens(config, func(n string) string { return env[n] })
	if err != nil {
		t.Fatal(err)
	}
	if token, err = tokens(context.Background()); err != nil || !strings.Contains(token, "h:1/?Action=connect&DBUser=u") || !strings.Contains(token, "X-Amz-Security-Token=t") {
		t.Errorf("token %s, %v", token, err)
	}
	if _, err := (AWS{}).tokens(config, func(string) string { return "" }); err == nil {
		t.Error("tokens without keys")
	}
}

func TestAzureToken(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case r.FormValue("client_secret") == "wrong":
			w.WriteHeader(http.StatusUnauthorized)
			_, _ = w.Write([]byte(`{"error":"invalid_client","error_description":"bad secret"}`))
		case r.Method == http.MethodGet && r.Header.Get("Metadata") == "true":
			_, _ = w.Write([]byte(`{"access_token":"identity ` + r.FormValue("resource") + ` ` + r.FormValue("client_id") + `"}`))
		default:
			_, _ = w.Write([]byte(`{"access_token":"` + r.URL.Path + " " + r.FormValue("client_id") + r.FormValue("client_secret") + r.FormValue("client_assertion") + " " + r.FormValue("scope") + `"}`))
		}
	}))
	defer server.Close()
	cloud := azureCloud{login: server.URL, instance: server.URL + "/identity", resource: "https://db"}
	file := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(file, []byte("assertion"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		name string
		a    Azure
		env  map[string]string
		want string
		err  string
	}{
		{"secret", Azure{TenantID: "t", ClientID: "c", ClientSecret: "s"}, nil, "/t/oauth2/v2.0/token cs https://db/.default", ""},
		{"workload", Azure{}, map[string]string{"AZURE_FEDERATED_TOKEN_FILE": file, "AZURE_TENANT_ID": "t", "AZURE_CLIENT_ID": "c"}, "/t/oauth2/v2.0/token cassertion https://db/.default", ""},
		{"identity", Azure{ClientID: "c"}, nil, "identity https://db c", ""},
		{"refused", Azure{TenantID: "t", ClientID: "c", ClientSecret: "wrong"}, nil, "", "bad secret"},
		{"no file", Azure{}, map[string]string{"AZURE_FEDERATED_TOKEN_FILE": file + "x"}, "", "AZURE_FEDERATED_TOKEN_FILE"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			req, err := tc.a.request(context.Background(), cloud, func(n string) string { return tc.env[n] })
			token := ""
			if err == nil {
				token, err = fetchToken(req)
			}
			if tc.err != "" {
				if err == nil || !strings.Contains(err.Error(), tc.err) {
					t.Errorf("error %v, want one with %q", err, tc.err)
				}
				return
			}
			if err != nil || token != tc.want {
				t.Errorf("token %q, %v; want %q", token, err, tc.want)
			}
		})
	}
	if _, err := (Azure{ClientSecret: "s"}).tokens(os.Getenv); err == nil {
		t.Error("tokens with a secret but no client")
	}
}
