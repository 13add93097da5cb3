package awsauth

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"io"
	"math/big"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/svid/x509svid"

	"outrigger.dev/components"
	"outrigger.dev/identity"
	"outrigger.dev/identity/identitytest"
)

// quiet keeps the settings of this machine out of a test.
func quiet(t *testing.T) {
	t.Helper()
	for _, name := range []string{"AWS_REGION", "AWS_DEFAULT_REGION", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE", "AWS_ENDPOINT_URL", "AWS_ROLE_ARN", "AWS_WEB_IDENTITY_TOKEN_FILE"} {
		if _, set := os.LookupEnv(name); set {
			t.Setenv(name, "")
		}
	}
	none := filepath.Join(t.TempDir(), "none")
	t.Setenv("AWS_CONFIG_FILE", none)
	t.Setenv("AWS_SHARED_CREDENTIALS_FILE", none)
	t.Setenv("AWS_EC2_METADATA_DISABLED", "true")
}

// login is what the credentials and region come to: key/secret/token@region.
func login(t *testing.T, o Options, around Surroundings) (string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	c, err := o.Config(ctx, around)
	if err != nil {
		return "", err
	}
	cr, err := c.Credentials.Retrieve(ctx)
	return cr.AccessKeyID + "/" + cr.SecretAccessKey + "/" + cr.SessionToken + "@" + c.Region, err
}

func TestKeys(t *testing.T) {
	quiet(t)
	for _, tc := range []struct {
		name   string
		o      Options
		around Surroundings
		env    map[string]string
		want   string
		err    string
	}{
		{"keys", Options{Region: "r", AccessKey: "k", SecretKey: "s", SessionToken: "t"}, Surroundings{}, nil, "k/s/t@r", ""},
		{"keys win", Options{Region: "r", AccessKey: "k", SecretKey: "s"}, Surroundings{}, map[string]string{"AWS_ACCESS_KEY_ID": "e", "AWS_SECRET_ACCESS_KEY": "e", "AWS_REGION": "e"}, "k/s/@r", ""},
		{"environment", Options{}, Surroundings{}, map[string]string{"AWS_ACCESS_KEY_ID": "ek", "AWS_SECRET_ACCESS_KEY": "es", "AWS_SESSION_TOKEN": "et", "AWS_REGION": "er"}, "ek/es/et@er", ""},
		{"own endpoint", Options{AccessKey: "k", SecretKey: "s"}, Surroundings{OwnEndpoint: true}, nil, "k/s/@us-east-1", ""},
		{"no region", Options{AccessKey: "k", SecretKey: "s"}, Surroundings{}, nil, "", `"region" is required`},
		{"no region for the role", Options{AccessKey: "k", SecretKey: "s", AssumeRoleARN: "a"}, Surroundings{OwnEndpoint: true}, nil, "", `"region" is required`},
		{"half a key", Options{AccessKey: "k"}, Surroundings{}, nil, "", `"secretKey"`},
		{"token alone", Options{SessionToken: "t"}, Surroundings{}, nil, "", `"sessionToken"`},
		{"anchor alone", Options{TrustAnchorARN: "a"}, Surroundings{}, nil, "", "together"},
		{"profile alone", Options{TrustProfileARN: "a"}, Surroundings{}, nil, "", "together"},
		{"no role", Options{TrustAnchorARN: "a", TrustProfileARN: "p"}, Surroundings{}, nil, "", "together"},
		{"two logins", Options{TrustAnchorARN: "a", TrustProfileARN: "p", AssumeRoleARN: "r", AccessKey: "k", SecretKey: "s"}, Surroundings{}, nil, "", "exclude each other"},
		{"no identity", Options{Region: "r", TrustAnchorARN: "a", TrustProfileARN: "p", AssumeRoleARN: "r"}, Surroundings{}, nil, "", "X.509 identity"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			for k, v := range tc.env {
				t.Setenv(k, v)
			}
			got, err := login(t, tc.o, tc.around)
			if tc.err != "" {
				if err == nil || !strings.Contains(err.Error(), tc.err) {
					t.Errorf("%s, error %v, want one with %q", got, err, tc.err)
				}
				return
			}
			if err != nil || got != tc.want {
				t.Errorf("%s, %v; want %s", got, err, tc.want)
			}
		})
	}
}

func TestAssumeRole(t *testing.T) {
	quiet(t)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.FormValue("Action") != "AssumeRole" || r.FormValue("RoleArn") != "arn:aws:iam::1:role/r" || !strings.Contains(r.Header.Get("Authorization"), "Credential=k/") {
			w.WriteHeader(http.StatusForbidden)
			return
		}
		_, _ = io.WriteString(w, `<AssumeRoleResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><AssumeRoleResult><Credentials><AccessKeyId>role</AccessKeyId><SecretAccessKey>s</SecretAccessKey><SessionToken>`+
			r.FormValue("RoleSessionName")+`</SessionToken><Expiration>2126-01-01T00:00:00Z</Expiration></Credentials></AssumeRoleResult></AssumeRoleResponse>`)
	}))
	defer server.Close()
	for name, want := range map[string]string{"": "role/s/DaprDefaultSession@r", "mine": "role/s/mine@r"} {
		o := Options{Region: "r", AccessKey: "k", SecretKey: "s", AssumeRoleARN: "arn:aws:iam::1:role/r", SessionName: name}
		if got, err := login(t, o, Surroundings{Endpoint: server.URL}); err != nil || got != want {
			t.Errorf("%s, %v; want %s", got, err, want)
		}
	}
}

// certify makes an identity of an authority and a leaf for the key.
func certify(t *testing.T, key crypto.Signer) *tls.Certificate {
	t.Helper()
	caKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	ca := &x509.Certificate{SerialNumber: big.NewInt(1), IsCA: true, BasicConstraintsValid: true, NotAfter: time.Now().Add(time.Hour), Subject: pkix.Name{CommonName: "ca"}}
	caDER, err := x509.CreateCertificate(rand.Reader, ca, ca, caKey.Public(), caKey)
	if err != nil {
		t.Fatal(err)
	}
	leaf := &x509.Certificate{SerialNumber: big.NewInt(123456789), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, leaf, ca, key.Public(), caKey)
	if err != nil {
		t.Fatal(err)
	}
	return &tls.Certificate{Certificate: [][]byte{der, caDER}, PrivateKey: key}
}

const anchor = "arn:aws:rolesanywhere:eu-west-1:1:trust-anchor/a b"

// session plays IAM Roles Anywhere: it checks the signature of what it is sent by the documented rules.
func session(t *testing.T) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		authorization := r.Header.Get("Authorization")
		algorithm, rest, _ := strings.Cut(authorization, " ")
		fields := map[string]string{}
		for part := range strings.SplitSeq(rest, ", ") {
			k, v, _ := strings.Cut(part, "=")
			fields[k] = v
		}
		der, err := base64.StdEncoding.DecodeString(r.Header.Get("X-Amz-X509"))
		if err != nil {
			t.Error(err)
		}
		leaf, err := x509.ParseCertificate(der)
		if err != nil {
			t.Error(err)
			return
		}
		canonical := r.Method + "\n" + r.URL.Path + "\n" + r.URL.RawQuery + "\n"
		for name := range strings.SplitSeq(fields["SignedHeaders"], ";") {
			value := r.Header.Get(name)
			if name == "host" {
				value = r.Host
			}
			canonical += name + ":" + value + "\n"
		}
		sum := sha256.Sum256(body)
		canonical += "\n" + fields["SignedHeaders"] + "\n" + hex.EncodeToString(sum[:])
		hashed := sha256.Sum256([]byte(canonical))
		serial, scope, _ := strings.Cut(fields["Credential"], "/")
		digest := sha256.Sum256([]byte(algorithm + "\n" + r.Header.Get("X-Amz-Date") + "\n" + scope + "\n" + hex.EncodeToString(hashed[:])))
		signature, err := hex.DecodeString(fields["Signature"])
		if err != nil {
			t.Error(err)
		}
		valid := false
		switch key := leaf.PublicKey.(type) {
		case *ecdsa.PublicKey:
			valid = algorithm == "AWS4-X509-ECDSA-SHA256" && ecdsa.VerifyASN1(key, digest[:], signature)
		case *rsa.PublicKey:
			valid = algorithm == "AWS4-X509-RSA-SHA256" && rsa.VerifyPKCS1v15(key, crypto.SHA256, digest[:], signature) == nil
		}
		if !valid || serial != "123456789" || scope != "20260102/eu-west-1/rolesanywhere/aws4_request" || r.Header.Get("X-Amz-Date") != "20260102T030405Z" ||
			r.Header.Get("X-Amz-X509-Chain") == "" || string(body) != `{"durationSeconds":3600}` || r.FormValue("trustAnchorArn") != anchor || r.FormValue("profileArn") != "profile" {
			t.Errorf("request %s %s %s: signature valid: %t", r.URL, authorization, body, valid)
		}
		if r.FormValue("roleArn") == "refused" {
			w.WriteHeader(http.StatusForbidden)
			_, _ = io.WriteString(w, `{"message":"Untrusted certificate"}`)
			return
		}
		w.WriteHeader(http.StatusCreated)
		_, _ = io.WriteString(w, `{"credentialSet":[{"credentials":{"accessKeyId":"any","secretAccessKey":"s","sessionToken":"t","expiration":"2126-01-01T00:00:00Z"}}],"subjectArn":"x"}`)
	}
}

func TestRolesAnywhere(t *testing.T) {
	quiet(t)
	ec, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	rs, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	_, ed, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(session(t))
	defer server.Close()
	unsigned := &identitytest.Source{}
	for _, tc := range []struct {
		name     string
		anchor   string
		role     string
		identity Identity
		err      string
	}{
		{"ECDSA", anchor, "role", func(context.Context) (*tls.Certificate, error) { return certify(t, ec), nil }, ""},
		{"RSA", anchor, "role", func(context.Context) (*tls.Certificate, error) { return certify(t, rs), nil }, ""},
		{"Ed25519", anchor, "role", func(context.Context) (*tls.Certificate, error) { return certify(t, ed), nil }, "ECDSA and RSA only"},
		{"refused", anchor, "refused", func(context.Context) (*tls.Certificate, error) { return certify(t, ec), nil }, "status 403: Untrusted certificate"},
		{"source without identity", anchor, "role", FromSource(unsigned), "the test has set none"},
		{"no certificate", anchor, "role", func(context.Context) (*tls.Certificate, error) { return &tls.Certificate{}, nil }, "no certificate"},
		{"no identity yet", anchor, "role", func(context.Context) (*tls.Certificate, error) { return nil, errors.New("not signed yet") }, "not signed yet"},
		{"bad anchor", "anchor", "role", func(context.Context) (*tls.Certificate, error) { return certify(t, ec), nil }, `"trustAnchorArn" is "anchor"`},
	} {
		t.Run(tc.name, func(t *testing.T) {
			around := Surroundings{
				Endpoint: server.URL, Identity: tc.identity,
				Now: func() time.Time { return time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC) },
			}
			got, err := login(t, Options{Region: "us-east-1", TrustAnchorARN: tc.anchor, TrustProfileARN: "profile", AssumeRoleARN: tc.role}, around)
			if tc.err != "" {
				if err == nil || !strings.Contains(err.Error(), tc.err) {
					t.Errorf("%s, error %v, want one with %q", got, err, tc.err)
				}
				return
			}
			if err != nil || got != "any/s/t@us-east-1" {
				t.Errorf("%s, %v", got, err)
			}
		})
	}
}

// TestIdentityOfTheSidecar logs in with the source that the registry hands to components.
func TestIdentityOfTheSidecar(t *testing.T) {
	quiet(t)
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	ca := identitytest.NewCA(t)
	source := ca.NewSource(t, "spiffe://public/ns/default/a")
	source.Set(&x509svid.SVID{PrivateKey: key, Certificates: ca.Sign(t, "spiffe://public/ns/default/a", key.Public(), func(c *x509.Certificate) {
		c.SerialNumber = big.NewInt(123456789)
	})})
	server := httptest.NewServer(session(t))
	defer server.Close()
	var registry components.Registry
	components.Register(&registry, components.State, components.Info{Name: "x", Version: "v1"}, func(_ context.Context, _ components.Instance, o struct{ Options }) (string, error) {
		return login(t, o.Options, Surroundings{Endpoint: server.URL, Now: func() time.Time { return time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC) }})
	})
	for _, own := range []identity.Source{source, nil} {
		d, err := registry.Lookup(components.State, "x", "v1")
		if err != nil {
			t.Fatal(err)
		}
		got, err := d.Open(t.Context(), components.Instance{
			Name: "x", Type: "state.x", Version: "v1", Sidecar: components.Sidecar{Identity: own},
			Properties: map[string]string{"region": "us-east-1", "trustAnchorArn": anchor, "trustProfileArn": "profile", "assumeRoleArn": "role"},
		})
		if own != nil && (err != nil || got != "any/s/t@us-east-1") || own == nil && (err == nil || !strings.Contains(err.Error(), "--enable-mtls")) {
			t.Errorf("%v, %v", got, err)
		}
	}
}
