//go:build unix

package cli

import (
	"encoding/json"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

const mtlsConfiguration = "apiVersion: dapr.io/v1alpha1\nkind: Configuration\nmetadata: {name: daprConfig}\nspec:\n  mtls: {enabled: true, workloadCertTTL: 1h}\n"

// mtlsHome is a home whose default configuration enables mTLS.
func mtlsHome(t *testing.T) string {
	t.Helper()
	home := t.TempDir()
	write(t, filepath.Join(home, ".dapr", "config.yaml"), mtlsConfiguration)
	return home
}

// get is the status and body of a GET through a sidecar.
func get(t *testing.T, port, path string) (int, string) {
	t.Helper()
	client := &http.Client{Timeout: 10 * time.Second}
	defer client.CloseIdleConnections()
	resp, err := client.Get("http://127.0.0.1:" + port + path)
	if err != nil {
		return 0, err.Error()
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return 0, err.Error()
	}
	return resp.StatusCode, string(body)
}

// Two apps call each other with identities from the local Sentry, and a policy goes by them.
func TestRunWithMTLS(t *testing.T) {
	t.Parallel()
	home := mtlsHome(t)
	server, friend, stranger := id("mtls-server"), id("mtls-friend"), id("mtls-stranger")
	guarded := write(t, filepath.Join(home, "guarded.yaml"), mtlsConfiguration+`  accessControl:
    defaultAction: deny
    trustDomain: public
    policies:
    - appId: `+friend+`
      trustDomain: public
      namespace: default
      defaultAction: allow
      operations:
      - {name: /vault, httpVerb: ["*"], action: deny}
`)
	serverPort := freePort(t)
	served := dapr(t, home, "server", "run", "--app-id", server, "--app-port", freePort(t), "--dapr-http-port", serverPort, "--config", guarded, "--", self(t))
	served.await("mTLS is enabled. Certificates are from the local Sentry 127.0.0.1:")
	served.await("You're up and running!")
	ports := map[string]string{}
	start := func(app, kind string, more ...string) *program {
		args := []string{"run", "--app-id", app, "--dapr-http-port"}
		ports[app] = freePort(t)
		p := dapr(t, home, kind, append(append(append(args, ports[app]), more...), "--", self(t))...)
		p.await("You're up and running!")
		return p
	}
	call := func(p *program, from, path string, code int, want string) {
		t.Helper()
		var status int
		var body string
		deadline := time.Now().Add(patience)
		for { // until the names are known
			status, body = get(t, ports[from], "/v1.0/invoke/"+server+"/method/"+path)
			if status == code && strings.Contains(body, want) {
				return
			}
			if time.Now().After(deadline) {
				t.Fatalf("%s calls /%s: %d %s, want %d %s\n%s\n%s", from, path, status, body, code, want, &p.out, &served.out)
			}
			time.Sleep(20 * time.Millisecond)
		}
	}
	f := start(friend, "server", "--app-port", freePort(t))
	call(f, friend, "hello", 200, "GET /hello")
	call(f, friend, "vault", 403, "PermissionDenied")
	s := start(stranger, "wait")
	call(s, stranger, "hello", 403, "PermissionDenied")
	// The server calls back: the default configuration of the friend allows everybody.
	if status, body := get(t, serverPort, "/v1.0/invoke/"+friend+"/method/back"); status != 200 || !strings.Contains(body, "GET /back") {
		t.Errorf("calling back: %d %s", status, body)
	}

	// A sidecar without mTLS gets nowhere.
	clear := write(t, filepath.Join(home, "clear.yaml"), "apiVersion: dapr.io/v1alpha1\nkind: Configuration\nmetadata: {name: c}\n")
	outsider := id("outsider")
	start(outsider, "wait", "--config", clear)
	if status, body := get(t, ports[outsider], "/v1.0/invoke/"+server+"/method/hello"); status < 500 {
		t.Errorf("without mTLS: %d %s", status, body)
	}

	// The other commands go on working, and tell about all of it.
	dapr(t, home, "", "list").exit(0, server, friend)
	dapr(t, home, "", "invoke", "--app-id", server, "--method", "hello", "--verb", "GET").exit(0, "GET /hello")
	dapr(t, home, "", "mtls", "expiry").exit(0, "Root certificate expires in 87", " hours. Expiry date: 20")
	dapr(t, home, "", "mtls").exit(0, "Mutual TLS is enabled for apps with the configuration", "in the local services", "signs the issuer", "O=spiffe://localhost/ns/default/dapr-sentry", "Renewal: by itself")
	dapr(t, home, "", "mtls", "check").exit(0, "The local Sentry runs at 127.0.0.1:")
	dapr(t, home, "", "local", "status").exit(0, "SENTRY", broker(t, home).Sentry.Address())

	// A root that signs at once: those that run learn of it by the file, and trust what it signs.
	dapr(t, home, "", "mtls", "renew-certificate", "--at-once").exit(0, "a new issuer under the new root signs", "Certificate rotation is successful!")
	late := id("late")
	l := start(late, "wait")
	call(l, late, "hello", 403, "PermissionDenied") // known by its identity, not refused by TLS
	call(f, friend, "hello", 200, "GET /hello")

	// Stopped and started again, Sentry is where the sidecars look for it.
	before := broker(t, home).Sentry
	dapr(t, home, "", "local", "stop").exit(0)
	dapr(t, home, "", "local", "start").exit(0)
	f.until("Sentry is back", func() bool { p := broker(t, home); return p != nil && p.Sentry != nil && p.Sentry.Ready })
	if after := broker(t, home).Sentry; after.Port != before.Port {
		t.Errorf("Sentry was on port %d, and is on %d", before.Port, after.Port)
	}
}

func TestRunFileWithMTLS(t *testing.T) {
	t.Parallel()
	home := mtlsHome(t)
	server, caller := id("mtls-file-server"), id("mtls-file-caller")
	port := freePort(t)
	file := write(t, filepath.Join(home, "dapr.yaml"), "version: 1\ncommon: {configFilePath: .dapr/config.yaml}\napps:\n"+
		"- appID: "+server+"\n  appDirPath: .\n  appPort: "+freePort(t)+"\n  command: ["+self(t)+"]\n  env: {"+appVariable+": server}\n"+
		"- appID: "+caller+"\n  appDirPath: .\n  daprHTTPPort: "+port+"\n  command: ["+self(t)+"]\n  env: {"+appVariable+": wait}\n")
	p := dapr(t, home, "", "run", "-f", file)
	p.await("mTLS is enabled.")
	p.await(`Started Dapr with app id "` + caller + `"`)
	p.until("the call arrives", func() bool {
		status, body := get(t, port, "/v1.0/invoke/"+server+"/method/hello")
		return status == 200 && strings.Contains(body, "GET /hello")
	})
}

// Who runs a Sentry of their own is left alone.
func TestRunWithOwnSentry(t *testing.T) {
	t.Parallel()
	home := mtlsHome(t)
	resources := filepath.Join(home, "resources")
	if err := os.Mkdir(resources, 0o700); err != nil {
		t.Fatal(err)
	}
	p := daprWith(t, home, "wait", []string{"DAPR_TRUST_ANCHORS=none"}, "run", "--placement-host-address=", "--scheduler-host-address=", "--resources-path", resources, "--", self(t))
	p.exit(1, "the trust anchors in the environment variable DAPR_TRUST_ANCHORS")
	if b := broker(t, home); b != nil {
		t.Errorf("the local services were started: %+v", b)
	}
	if exists(filepath.Join(home, ".dapr", "certs")) {
		t.Error("credentials were made")
	}
}

func TestRunReportsSentryThatCannotStart(t *testing.T) {
	t.Parallel()
	home := mtlsHome(t)
	broken := write(t, filepath.Join(home, ".dapr", "certs", "ca.crt"), "no certificate")
	for _, name := range []string{"issuer.crt", "issuer.key"} {
		write(t, filepath.Join(home, ".dapr", "certs", name), "nothing")
	}
	dapr(t, home, "wait", "run", "--", self(t)).exit(1, "enables mTLS: the local Sentry does not run:", "the trust anchors (ca.crt) are not usable", "no PEM block CERTIFICATE")
	dapr(t, home, "", "local", "status").exit(0, "failed", "The local Sentry does not run", "dapr mtls check")
	dapr(t, home, "", "mtls", "check").exit(1, "the trust anchors (ca.crt) are not usable", "The local Sentry does not run")
	if p := broker(t, home); p == nil || !p.Ready {
		t.Errorf("the broker does not run any more: %+v", p)
	}
	// It is tried again as soon as somebody wants it.
	for _, name := range []string{"issuer.crt", "issuer.key"} {
		if err := os.Remove(filepath.Join(filepath.Dir(broken), name)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Remove(broken); err != nil {
		t.Fatal(err)
	}
	dapr(t, home, "fail", "run", "--", self(t)).exit(1, "mTLS is enabled. Certificates are from the local Sentry", "exited with error code: 3")
	// A setting that makes no sense is named.
	write(t, filepath.Join(home, ".dapr", "config.yaml"), strings.Replace(mtlsConfiguration, "1h", "soon", 1))
	dapr(t, home, "wait", "run", "--", self(t)).exit(1, `invalid spec.mtls.workloadCertTTL: "soon"`)
	var status localStatus
	told := dapr(t, home, "", "local", "status", "-o", "json")
	told.exit(0)
	if err := json.Unmarshal([]byte(told.out.String()), &status); err != nil || status.Sentry == nil || !status.Sentry.Ready || status.Sentry.Address != broker(t, home).Sentry.Address() {
		t.Errorf("status %+v, error %v", status.Sentry, err)
	}
}
