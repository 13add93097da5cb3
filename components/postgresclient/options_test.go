package postgresclient

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/jackc/pgx/v5"
	"outrigger.dev/components/awsauth"
)

func TestPoolConfig(t *testing.T) {
	for _, tc := range []struct {
		name string
		c    Options
		want string // user:password@host:port/database
		err  string
	}{
		{name: "URL", c: Options{ConnectionString: "postgres://u:p%2F@h:1/d"}, want: "u:p/@h:1/d"},
		{name: "keywords", c: Options{ConnectionString: "host=h port=1 user=u password='p w' database=d"}, want: "u:p w@h:1/d"},
		{
			name: "URL with parts", c: Options{ConnectionString: "postgresql://u:p@h:1/d?sslmode=disable", Host: "::1", Port: "2", Database: "e", User: "v", Password: "q/'"},
			want: "v:q/'@::1:2/e",
		},
		{name: "URL with a host", c: Options{ConnectionString: "postgresql://u:p@h:1/d", Host: "i"}, want: "u:p@i:1/d"},
		{name: "URL with a user", c: Options{ConnectionString: "postgresql://u:p@h:1/d", User: "v"}, want: "v:p@h:1/d"},
		{
			name: "keywords with parts", c: Options{ConnectionString: "host=h port=1 user=u password=p dbname=d", Host: "i", Port: "2", Database: "e", User: "v", Password: `q'\ x`},
			want: `v:q'\ x@i:2/e`,
		},
		{name: "parts alone", c: Options{Host: "i", Port: "2", Database: "e", User: "v", Password: "q"}, want: "v:q@i:2/e"},
		{name: "hostaddr", c: Options{ConnectionString: "host=h user=u password=p database=d", HostAddr: "10.1.2.3"}, want: "u:p@h:5432/d"},
		{name: "hostaddr alone", c: Options{HostAddr: "10.1.2.3", User: "u", Password: "p", Database: "d"}, want: "u:p@10.1.2.3:5432/d"},
		{name: "bad hostaddr", c: Options{ConnectionString: "host=h", HostAddr: "name"}, err: `"hostaddr" is "name"`},
		{name: "nonsense", c: Options{ConnectionString: "no connection string"}, err: `"connectionString" is not a PostgreSQL connection string`},
		{name: "bad URL", c: Options{ConnectionString: "postgres://u:se%cret@h", Host: "i"}, err: "percent-encoded"},
		{name: "both clouds", c: Options{ConnectionString: "host=h", Azure: Azure{UseAzureAD: true}, AWS: AWS{UseAWSIAM: true}}, err: "choose one"},
		{name: "no root certificate", c: Options{ConnectionString: "host=h sslmode=verify-full", SSLRootCert: "/no/such/file"}, err: "/no/such/file"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			config, err := tc.c.PoolConfig(context.Background(), true)
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
	config, err := (&Options{ConnectionString: "host=h", MaxConns: 7, ConnectionMaxIdleTime: time.Minute, QueryExecMode: "Simple_Protocol"}).PoolConfig(context.Background(), true)
	if err != nil || config.MaxConns != 7 || config.MaxConnIdleTime != time.Minute || config.ConnConfig.DefaultQueryExecMode != pgx.QueryExecModeSimpleProtocol {
		t.Errorf("config %+v, %v", config, err)
	}
}

func TestAWSToken(t *testing.T) {
	keys := aws.Credentials{AccessKeyID: "AKIDEXAMPLE", SecretAccessKey: "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"}
	at := time.Date(2015, 8, 30, 12, 36, 0, 0, time.UTC)
	text, err := token(context.Background(), keys, "us-east-1", "db.example.com:5432", "iam user", at)
	if err != nil {
		t.Fatal(err)
	}
	// The signature is what a plain reading of AWS's documentation gives (AWS, signature version 4).
	const query = "Action=connect&DBUser=iam%20user&X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential=AKIDEXAMPLE%2F20150830%2Fus-east-1%2Frds-db%2Faws4_request" +
		"&X-Amz-Date=20150830T123600Z&X-Amz-Expires=900&X-Amz-SignedHeaders=host"
	sum := func(text string) string { s := sha256.Sum256([]byte(text)); return hex.EncodeToString(s[:]) }
	key := []byte("AWS4" + keys.SecretAccessKey)
	for _, part := range []string{
		"20150830", "us-east-1", "rds-db", "aws4_request",
		"AWS4-HMAC-SHA256\n20150830T123600Z\n20150830/us-east-1/rds-db/aws4_request\n" + sum("GET\n/\n"+query+"\nhost:db.example.com:5432\n\nhost\n"+sum("")),
	} {
		m := hmac.New(sha256.New, key)
		m.Write([]byte(part))
		key = m.Sum(nil)
	}
	if want := "db.example.com:5432/?" + query + "&X-Amz-Signature=" + hex.EncodeToString(key); text != want {
		t.Errorf("token %s, want %s", text, want)
	}
}

func TestAWSLogin(t *testing.T) {
	none := filepath.Join(t.TempDir(), "none")
	for name, value := range map[string]string{
		"AWS_CONFIG_FILE": none, "AWS_SHARED_CREDENTIALS_FILE": none, "AWS_EC2_METADATA_DISABLED": "true", "AWS_REGION": "", "AWS_DEFAULT_REGION": "", "AWS_PROFILE": "",
		"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": "", "AWS_SESSION_TOKEN": "", "AWS_ROLE_ARN": "", "AWS_WEB_IDENTITY_TOKEN_FILE": "",
		"AWS_CONTAINER_CREDENTIALS_RELATIVE_URI": "", "AWS_CONTAINER_CREDENTIALS_FULL_URI": "",
	} {
		t.Setenv(name, value)
	}
	password := func(a AWS) (string, error) {
		a.UseAWSIAM = true
		config, err := (&Options{ConnectionString: "host=h port=1 user=u", AWS: a}).PoolConfig(context.Background(), true)
		if err != nil {
			return "", err
		}
		cc := &pgx.ConnConfig{}
		err = config.BeforeConnect(context.Background(), cc)
		return cc.Password, err
	}
	if got, err := password(AWS{Options: awsauth.Options{Region: "r", AccessKey: "k", SecretKey: "s"}}); err != nil || !strings.Contains(got, "h:1/?Action=connect&DBUser=u&") || !strings.Contains(got, "X-Amz-Credential=k%2F") {
		t.Errorf("keys: %s, %v", got, err)
	}
	if _, err := password(AWS{}); err == nil || !strings.Contains(err.Error(), `"region" is required`) {
		t.Errorf("no region: %v", err)
	}
	if _, err := password(AWS{Options: awsauth.Options{Region: "r"}}); err == nil || !strings.Contains(err.Error(), "no AWS credentials") {
		t.Errorf("no keys: %v", err)
	}
	t.Setenv("AWS_ACCESS_KEY_ID", "k")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "s")
	t.Setenv("AWS_SESSION_TOKEN", "t")
	t.Setenv("AWS_DEFAULT_REGION", "r")
	t.Setenv("AWS_REGION", "r")
	if got, err := password(AWS{}); err != nil || !strings.Contains(got, "X-Amz-Security-Token=t") || !strings.Contains(got, "%2Fr%2Frds-db") {
		t.Errorf("environment: %s, %v", got, err)
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
			req, err := tc.a.request(context.Background(), cloud, nil, func(n string) string { return tc.env[n] })
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
