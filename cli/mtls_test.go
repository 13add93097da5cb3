package cli

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/jonboulle/clockwork"

	"outrigger.dev/controlplane/sentry/ca"
)

// bench is a runtime directory with credentials, for mtls commands in this process.
type bench struct {
	t    *testing.T
	home string
	dir  string
}

func newBench(t *testing.T) *bench {
	t.Helper()
	home := t.TempDir()
	return &bench{t: t, home: home, dir: filepath.Join(home, ".dapr", "certs")}
}

// generate has the authority generated as Sentry does.
func (b *bench) generate(s ca.Settings) {
	b.t.Helper()
	s.TrustDomain, s.Namespace = "localhost", "default"
	if _, err := ca.NewManager(b.t.Context(), ca.ManagerOptions{
		Store: &ca.Files{Directory: b.dir}, Settings: s, Clock: clockwork.NewRealClock(), Log: slog.New(slog.DiscardHandler),
	}); err != nil {
		b.t.Fatal(err)
	}
}

// run runs a command and checks its exit code and output, which it returns.
func (b *bench) run(code int, args []string, wants ...string) string {
	b.t.Helper()
	var out bytes.Buffer
	got := Main(Program{Args: append([]string{"mtls", "--runtime-path", b.home}, args...), Stdout: &out, Stderr: &out})
	if got != code {
		b.t.Errorf("mtls %q: exit code %d, want %d\n%s", args, got, code, &out)
	}
	for _, want := range wants {
		if !strings.Contains(out.String(), want) {
			b.t.Errorf("mtls %q: the output has no %q:\n%s", args, want, &out)
		}
	}
	return out.String()
}

func (b *bench) read(name string) []byte {
	b.t.Helper()
	text, err := os.ReadFile(filepath.Join(b.dir, name))
	if err != nil {
		b.t.Fatal(err)
	}
	return text
}

func (b *bench) status() mtlsStatus {
	b.t.Helper()
	var s mtlsStatus
	if err := json.Unmarshal([]byte(b.run(0, []string{"-o", "json"})), &s); err != nil {
		b.t.Fatal(err)
	}
	return s
}

func TestMTLSWithoutCredentials(t *testing.T) {
	b := newBench(t)
	b.run(0, nil, "Mutual TLS is disabled for apps with the configuration", "Credentials: none in "+b.dir)
	b.run(0, []string{"check"}, "mTLS is off", "There are no credentials in "+b.dir)
	b.run(0, []string{"expiry"}, "error getting root cert expiry: there are no credentials")
	b.run(1, []string{"export"}, "error exporting trust chain certs: there are no credentials")
	b.run(1, []string{"renew-certificate"}, "certificate rotation failed: there are no credentials", "--directory")
	b.run(1, []string{"-o", "xml"}, "An invalid output format was specified.")
	b.run(1, []string{"--config", filepath.Join(b.home, "none.yaml")}, "none.yaml cannot be used")
	for _, args := range [][]string{{"-k"}, {"check", "-k"}, {"expiry", "-k"}, {"export", "-k"}, {"rnc", "-k"}} {
		b.run(1, args, "not available in this version; leave --kubernetes out")
	}
	b.run(255, []string{"nonsense"}, "unknown command")
	if _, err := os.Stat(b.dir); err == nil {
		t.Error("looking made the directory")
	}
}

func TestMTLSGenerated(t *testing.T) {
	b := newBench(t)
	b.generate(ca.Settings{})
	first := b.status()
	if len(first.Credentials) != 2 || !first.Renewing || first.Origin != "generated" || first.Next == "" || first.Credentials[0].State != "signs the issuer" || first.Credentials[1].Kind != "issuer" {
		t.Errorf("status %+v", first)
	}
	root, err := ca.Parse(&ca.Documents{Anchors: b.read(ca.AnchorsName), IssuerChain: b.read(ca.IssuerName), IssuerKey: b.read(ca.IssuerKeyName)})
	if err != nil {
		t.Fatal(err)
	}
	want := "Root certificate expires in 8759 hours. Expiry date: " + root.Anchors[0].NotAfter.String()
	if got := b.run(0, []string{"expiry"}); got != want {
		t.Errorf("expiry tells %q, want %q", got, want)
	}
	b.run(0, []string{"check"}, "The authority renews itself")

	out := filepath.Join(b.home, "a", "b")
	b.run(0, []string{"export", "--out", out}, "Trust certs successfully exported to "+out)
	for _, name := range []string{ca.AnchorsName, ca.IssuerName, ca.IssuerKeyName} {
		copied, err := os.ReadFile(filepath.Join(out, name))
		if err != nil || !bytes.Equal(copied, b.read(name)) {
			t.Errorf("the copy of %s differs: %v", name, err)
		}
		if info, err := os.Stat(filepath.Join(out, name)); err == nil && runtime.GOOS != "windows" && info.Mode().Perm() != 0o600 {
			t.Errorf("the copy of %s has the mode %o", name, info.Mode().Perm())
		}
	}
	b.run(1, []string{"export", "--out", b.dir}, "is the directory of the credentials itself")

	b.run(0, []string{"rnc", "--issuer-only", "--valid-until", "10"}, "a new issuer under the same root", "Certificate rotation is successful! Your new certificate is valid through "+time.Now().AddDate(0, 0, 10).UTC().Format("Mon, 02 Jan 2006"))
	second := b.status()
	if second.Credentials[0] != first.Credentials[0] || second.Credentials[1].Serial == first.Credentials[1].Serial {
		t.Errorf("after --issuer-only: %+v", second)
	}
	b.run(0, []string{"renew-cert"}, "a new root is among the trust anchors")
	if third := b.status(); len(third.Credentials) != 3 || third.Credentials[0].Serial != first.Credentials[0].Serial || !strings.HasPrefix(third.Credentials[1].State, "signs from ") {
		t.Errorf("after the announcement of a root: %+v", third)
	}
	b.run(0, []string{"renew-certificate", "--at-once", "--restart", "--image-variant", "mariner", "--timeout", "5"}, "under the new root", "no meaning on this machine")
	if last := b.status(); len(last.Credentials) != 3 || last.Credentials[1].Serial != first.Credentials[0].Serial || last.Credentials[1].State != "trusted" {
		t.Errorf("after --at-once: %+v", last)
	}
}

func TestMTLSProvided(t *testing.T) {
	b := newBench(t)
	b.generate(ca.Settings{})
	old := b.status().Credentials[0].Serial

	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	rootKey := write(t, filepath.Join(b.home, "root.key"), string(encodePEM("EC PRIVATE KEY", der)))
	b.run(0, []string{"rnc", "--private-key", rootKey, "--valid-until", "20"}, "is provided; it does not renew itself", "the present root", "expires in 19 days")
	s := b.status()
	if s.Renewing || s.Origin != "provided" || len(s.Credentials) != 3 || s.Credentials[1].Serial != old || s.Credentials[0].Algorithm != "ECDSA" {
		t.Errorf("with a root of one's own: %+v", s)
	}
	root, err := ca.Parse(&ca.Documents{Anchors: b.read(ca.AnchorsName), IssuerChain: b.read(ca.IssuerName), IssuerKey: b.read(ca.IssuerKeyName)})
	if err != nil || !key.PublicKey.Equal(root.Anchors[0].PublicKey) {
		t.Errorf("the root has another key, or %v", err)
	}
	b.run(0, []string{"check"}, "does not renew itself and expires in 19 days", "The authority was provided")
	b.run(1, []string{"rnc", "--issuer-only"}, "certificate rotation failed", "was provided")
	b.run(1, []string{"rnc"}, "was provided")

	// The files of another machine, at first beside the present root, then in its place.
	other := newBench(t)
	other.generate(ca.Settings{})
	foreign := other.status().Credentials[0].Serial
	exported := filepath.Join(other.home, "exported")
	other.run(0, []string{"export", "-o", exported})
	files := []string{
		"rnc", "--ca-root-certificate", filepath.Join(exported, ca.AnchorsName), "--issuer-public-certificate", filepath.Join(exported, ca.IssuerName),
		"--issuer-private-key", filepath.Join(exported, ca.IssuerKeyName),
	}
	b.run(0, files, "is provided", "with --at-once")
	if s := b.status(); len(s.Credentials) != 4 || s.Credentials[0].Serial != foreign {
		t.Errorf("with files: %+v", s)
	}
	b.run(0, append(files, "--at-once"))
	if s := b.status(); len(s.Credentials) != 2 || s.Credentials[0].Serial != foreign {
		t.Errorf("with files at once: %+v", s)
	}
	// They can be had in an empty directory, too.
	empty := newBench(t)
	empty.run(0, files, "Certificate rotation is successful!")

	// What was provided can be adopted.
	b.run(0, []string{"rnc", "--private-key", rootKey, "--at-once"})
	b.run(0, []string{"rnc", "--adopt"}, "a new root is among the trust anchors")
	if s := b.status(); !s.Renewing {
		t.Errorf("after --adopt: %+v", s)
	}
}

func TestMTLSRenewRefuses(t *testing.T) {
	b := newBench(t)
	b.generate(ca.Settings{})
	before := b.read(ca.AnchorsName)
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	stranger := write(t, filepath.Join(b.home, "stranger.key"), string(encodePEM("PRIVATE KEY", der)))
	text := write(t, filepath.Join(b.home, "text"), "no key")
	root, issuer := filepath.Join(b.dir, ca.AnchorsName), filepath.Join(b.dir, ca.IssuerName)
	for _, tt := range []struct {
		want string
		args []string
	}{
		{"go together", []string{"--ca-root-certificate", root}},
		{"give one of them", []string{"--ca-root-certificate", root, "--issuer-public-certificate", issuer, "--issuer-private-key", stranger, "--private-key", stranger}},
		{"(issuer.key) is not that of", []string{"--ca-root-certificate", root, "--issuer-public-certificate", issuer, "--issuer-private-key", stranger}},
		{"is not self-signed", []string{"--ca-root-certificate", issuer, "--issuer-public-certificate", issuer, "--issuer-private-key", stranger}},
		{"the file of --issuer-private-key", []string{"--ca-root-certificate", root, "--issuer-public-certificate", issuer, "--issuer-private-key", "/none"}},
		{"has no private key in PEM", []string{"--private-key", text}},
		{`PEM block "CERTIFICATE" instead of a private key`, []string{"--private-key", root}},
		{"the file of --private-key", []string{"--private-key", "/none"}},
		{"--valid-until is 0", []string{"--valid-until", "0"}},
		{"--valid-until is 40000", []string{"--valid-until", "40000"}},
		{"--timeout is 0", []string{"--timeout", "0"}},
		{"--issuer-only leaves the root as it is", []string{"--issuer-only", "--at-once"}},
		{"--adopt is for certificates that are there", []string{"--adopt", "--private-key", stranger}},
	} {
		b.run(1, append([]string{"rnc"}, tt.args...), "certificate rotation failed: ", tt.want)
	}
	if !bytes.Equal(before, b.read(ca.AnchorsName)) {
		t.Error("a refusal changed the roots")
	}
}

func TestMTLSCheckNamesWhatIsWrong(t *testing.T) {
	fresh := func(t *testing.T) *bench {
		b := newBench(t)
		b.generate(ca.Settings{})
		return b
	}
	t.Run("missing", func(t *testing.T) {
		b := fresh(t)
		if err := os.Remove(filepath.Join(b.dir, ca.IssuerKeyName)); err != nil {
			t.Fatal(err)
		}
		b.run(1, []string{"check"}, `there is no ["issuer.key"]`)
	})
	t.Run("another key", func(t *testing.T) {
		b, other := fresh(t), fresh(t)
		write(t, filepath.Join(b.dir, ca.IssuerKeyName), string(other.read(ca.IssuerKeyName)))
		b.run(1, []string{"check"}, "the issuer's key (issuer.key) is not that of the first certificate")
		b.run(1, nil, "are not usable")
	})
	t.Run("another root", func(t *testing.T) {
		b, other := fresh(t), fresh(t)
		write(t, filepath.Join(b.dir, ca.AnchorsName), string(other.read(ca.AnchorsName)))
		b.run(1, []string{"check"}, "does not lead to any of the trust anchors")
	})
	t.Run("readable key", func(t *testing.T) {
		if runtime.GOOS == "windows" {
			t.Skip("the system has no such modes")
		}
		b := fresh(t)
		path := filepath.Join(b.dir, ca.IssuerKeyName)
		if err := os.Chmod(path, 0o644); err != nil {
			t.Fatal(err)
		}
		b.run(1, []string{"check"}, "chmod 600 "+path)
	})
	t.Run("expired", func(t *testing.T) {
		b := newBench(t)
		b.generate(ca.Settings{RootTTL: time.Millisecond, IssuerTTL: time.Millisecond, ClockSkew: time.Hour})
		deadline := time.Now().Add(10 * time.Second) // the times in certificates are whole seconds
		for !strings.Contains(b.run(0, []string{"-o", "yaml"}), "problem: ") {
			if time.Now().After(deadline) {
				t.Fatal("it does not expire")
			}
			time.Sleep(20 * time.Millisecond)
		}
		b.run(1, []string{"check"}, "expired on")
		b.run(0, nil, "has expired.")
	})
	t.Run("bad configuration", func(t *testing.T) {
		b := fresh(t)
		config := write(t, filepath.Join(b.home, "c.yaml"), "apiVersion: dapr.io/v1alpha1\nkind: Configuration\nmetadata: {name: c}\nspec: {mtls: {enabled: true, allowedClockSkew: -1s}}\n")
		b.run(1, []string{"check", "--config", config}, `invalid spec.mtls.allowedClockSkew: "-1s"`)
		b.run(1, []string{"--config", config}, `invalid spec.mtls.allowedClockSkew: "-1s"`)
	})
	t.Run("anchors of the environment", func(t *testing.T) {
		b, other := fresh(t), fresh(t)
		t.Setenv("DAPR_TRUST_ANCHORS", string(b.read(ca.AnchorsName)))
		b.run(0, []string{"check"}, "DAPR_TRUST_ANCHORS have the root of the issuer")
		b.run(0, nil, "Sentry: your own")
		other.run(1, []string{"check"}, "do not have the root")
		t.Setenv("DAPR_TRUST_ANCHORS", "none")
		b.run(1, []string{"check"}, "The trust anchors of the environment variable DAPR_TRUST_ANCHORS:")
		t.Setenv("DAPR_TRUST_ANCHORS", "")
		t.Setenv("DAPR_TRUST_ANCHORS_FILE", filepath.Join(other.dir, ca.AnchorsName))
		b.run(1, []string{"check"}, "DAPR_TRUST_ANCHORS_FILE do not have the root")
		other.run(0, []string{"check"}, "DAPR_TRUST_ANCHORS_FILE have the root")
	})
}
