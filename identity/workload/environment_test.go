package workload

import (
	"encoding/pem"
	"strings"
	"testing"

	"outrigger.dev/identity/identitytest"
)

func TestNew(t *testing.T) {
	anchors := identitytest.PEM(identitytest.NewCA(t).Root)
	leaf := identitytest.PEM(identitytest.NewCA(t).Issue(t, appURI, nil).Certificates[0])
	for _, test := range []struct {
		name string
		o    Options
		want string
	}{
		{"good", Options{SentryAddress: "x:1", AppID: "a", TrustAnchors: anchors}, ""},
		{"a certificate that does not say whether it is an authority's", Options{SentryAddress: "dns:///x:1", AppID: "a", TrustAnchors: leaf}, ""},
		{"no address", Options{AppID: "a", TrustAnchors: anchors}, "--sentry-address"},
		{"no port", Options{SentryAddress: "x", AppID: "a", TrustAnchors: anchors}, "host:port"},
		{"no app", Options{SentryAddress: "x:1", TrustAnchors: anchors}, "--app-id"},
		{"no anchors", Options{SentryAddress: "x:1", AppID: "a"}, "trust anchors are required"},
		{"no PEM", Options{SentryAddress: "x:1", AppID: "a", TrustAnchors: []byte("x")}, EnvTrustAnchors},
		{"bad certificate", Options{SentryAddress: "x:1", AppID: "a", TrustAnchors: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: []byte("x")})}, EnvTrustAnchors},
		{"type of key in lower case", Options{SentryAddress: "x:1", AppID: "a", TrustAnchors: anchors, KeyType: "ecdsa-p256"}, ""},
		{"unknown type of key", Options{SentryAddress: "x:1", AppID: "a", TrustAnchors: anchors, KeyType: "dsa"}, EnvKeyType},
		{"a key", Options{SentryAddress: "x:1", AppID: "a", TrustAnchors: pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: []byte("x")})}, "PRIVATE KEY"},
	} {
		_, err := New(test.o)
		if test.want == "" && err != nil || test.want != "" && (err == nil || !strings.Contains(err.Error(), test.want)) {
			t.Errorf("%s: %v", test.name, err)
		}
	}
}

func TestEnvironment(t *testing.T) {
	lookup := func(env map[string]string) func(string) (string, bool) {
		return func(name string) (string, bool) { v, ok := env[name]; return v, ok }
	}
	all := map[string]string{
		EnvTrustAnchors: "PEM", EnvControlPlaneTrustDomain: "td", EnvControlPlaneNamespace: "cp", EnvNamespace: "ns",
		EnvTokenFile: "/t", EnvLocalIdentity: "id", EnvTrustAnchorsFile: "/f", EnvKeyType: "RSA-2048",
	}
	var o Options
	if err := o.Environment(lookup(all)); err != nil {
		t.Fatal(err)
	}
	if o.ControlPlaneTrustDomain != "td" || o.ControlPlaneNamespace != "cp" || o.Namespace != "ns" || o.TokenFile != "/t" || o.LocalIdentity != "id" || o.KeyType != RSA2048 ||
		string(o.TrustAnchors) != "PEM" || o.TrustAnchorsFile != "" {
		t.Errorf("%+v", o)
	}
	o = Options{ControlPlaneTrustDomain: "flag", ControlPlaneNamespace: "flag", TrustAnchorsFile: "/flag"}
	if err := o.Environment(lookup(all)); err != nil {
		t.Fatal(err)
	}
	if o.ControlPlaneTrustDomain != "flag" || o.ControlPlaneNamespace != "flag" || o.TrustAnchorsFile != "/flag" || o.TrustAnchors != nil {
		t.Errorf("flags lost: %+v", o)
	}
	o = Options{}
	if err := o.Environment(lookup(map[string]string{EnvTrustAnchorsFile: "/f"})); err != nil || o.TrustAnchorsFile != "/f" {
		t.Errorf("%+v, %v", o, err)
	}
	if err := o.Environment(lookup(map[string]string{EnvTokenFile: ""})); err == nil || !strings.Contains(err.Error(), EnvTokenFile) {
		t.Errorf("empty token file: %v", err)
	}
}

func TestCheckUser(t *testing.T) {
	for _, test := range []struct {
		kubernetes bool
		uid        int
		skip       string
		ok         bool
	}{{true, 0, "", false}, {true, 0, "false", false}, {true, 0, "true", true}, {true, 1000, "", true}, {false, 0, "", true}} {
		err := CheckUser(test.kubernetes, test.uid, func(name string) (string, bool) { return test.skip, name == EnvSkipUserCheck })
		if (err == nil) != test.ok {
			t.Errorf("%+v: %v", test, err)
		}
	}
}
