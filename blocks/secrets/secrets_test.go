package secrets

import (
	"context"
	"errors"
	"reflect"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"outrigger.dev/api/apitest"
	runtimev1 "outrigger.dev/api/gen/runtime/v1"
	"outrigger.dev/components/secretstores"
	"outrigger.dev/resource"
	"outrigger.dev/telemetry/metrics/metricstest"
)

// memory is a secret store in memory. A secret named "void" has no data map.
type memory struct {
	all      map[string]map[string]string
	err      error
	metadata map[string]string
}

var _ secretstores.Store = (*memory)(nil)

func (m *memory) Get(_ context.Context, name string, metadata map[string]string) (map[string]string, error) {
	m.metadata = metadata
	entries, ok := m.all[name]
	switch {
	case m.err != nil:
		return nil, m.err
	case name == "void":
		return nil, nil
	case !ok:
		return nil, errors.New("secret " + name + " not found")
	}
	return entries, nil
}

func (m *memory) BulkGet(_ context.Context, metadata map[string]string) (map[string]map[string]string, error) {
	m.metadata = metadata
	return m.all, m.err
}

func (m *memory) Close() error { return nil }

func sample() *memory {
	return &memory{all: map[string]map[string]string{
		"db-password": {"db-password": "s3cret"},
		"nested":      {"b:c": "2", "a": "<1>"},
		"num":         {"num": "5"},
		"binary":      {"binary": "\xff"},
	}}
}

func newSecrets(t *testing.T, o Options) (*Secrets, *memory) {
	t.Helper()
	s, m := New(o), sample()
	for name, store := range map[string]secretstores.Store{
		"file": m, "open": m, "empty": &memory{}, "broken": &memory{err: errors.New("sealed")},
	} {
		if err := s.Add(name, store); err != nil {
			t.Fatal(err)
		}
	}
	return s, m
}

func scoped(store, secret string) bool {
	switch store {
	case "file":
		return secret == "db-password"
	case "open":
		return secret != "num"
	}
	return true
}

func TestHTTP(t *testing.T) {
	s, _ := newSecrets(t, Options{Allowed: scoped})
	unscoped, _ := newSecrets(t, Options{})
	for _, tc := range []struct {
		name   string
		on     *Secrets
		path   string
		status int
		body   string
	}{
		{"none configured", New(Options{}), "/v1.0/secrets/s/k", 500, `{"errorCode":"ERR_SECRET_STORES_NOT_CONFIGURED","message":"secret store is not configured"}`},
		{"none configured, bulk", New(Options{}), "/v1.0/secrets/s/bulk", 500, `{"errorCode":"ERR_SECRET_STORES_NOT_CONFIGURED","message":"secret store is not configured"}`},
		{"unknown store", s, "/v1.0/secrets/none/x", 401, `{"errorCode":"ERR_SECRET_STORE_NOT_FOUND","message":"failed finding secret store with key none"}`},
		{"unknown store, bulk", s, "/v1.0/secrets/none/bulk", 401, `{"errorCode":"ERR_SECRET_STORE_NOT_FOUND","message":"failed finding secret store with key none"}`},
		{"single", unscoped, "/v1.0/secrets/file/db-password", 200, `{"db-password":"s3cret"}` + "\n"},
		{"multi-valued", unscoped, "/v1.0/secrets/file/nested?metadata.a=b", 200, `{"a":"\u003c1\u003e","b:c":"2"}` + "\n"},
		{"no UTF-8", unscoped, "/v1.0/secrets/file/binary", 200, `{"binary":"\ufffd"}` + "\n"},
		{"missing", unscoped, "/v1.0/secrets/file/missing", 500, `{"errorCode":"ERR_SECRET_GET","message":"failed getting secret with key missing from secret store file: secret missing not found"}`},
		{"no data map", unscoped, "/v1.0/secrets/file/void", 204, ""},
		{"no data map, bulk", unscoped, "/v1.0/secrets/empty/bulk", 204, ""},
		{"failure", unscoped, "/v1.0/secrets/broken/x", 500, `{"errorCode":"ERR_SECRET_GET","message":"failed getting secret with key x from secret store broken: sealed"}`},
		{"failure, bulk", unscoped, "/v1.0/secrets/broken/bulk", 500, `{"errorCode":"ERR_SECRET_GET","message":"failed getting secrets from secret store broken: sealed"}`},
		{"bulk", unscoped, "/v1.0/secrets/file/bulk", 200, `{"binary":{"binary":"\ufffd"},"db-password":{"db-password":"s3cret"},"nested":{"a":"\u003c1\u003e","b:c":"2"},"num":{"num":"5"}}` + "\n"},
		{"allowed", s, "/v1.0/secrets/file/db-password", 200, `{"db-password":"s3cret"}` + "\n"},
		{"denied", s, "/v1.0/secrets/file/num", 403, `{"errorCode":"ERR_PERMISSION_DENIED","message":"access denied by policy to get \"num\" from \"file\""}`},
		{"denied though missing", s, "/v1.0/secrets/file/missing", 403, `{"errorCode":"ERR_PERMISSION_DENIED","message":"access denied by policy to get \"missing\" from \"file\""}`},
		{"bulk, in scope", s, "/v1.0/secrets/file/bulk", 200, `{"db-password":{"db-password":"s3cret"}}` + "\n"},
		{"bulk, one denied", s, "/v1.0/secrets/open/bulk", 200, `{"binary":{"binary":"\ufffd"},"db-password":{"db-password":"s3cret"},"nested":{"a":"\u003c1\u003e","b:c":"2"}}` + "\n"},
		{"bulk, no data map in scope", s, "/v1.0/secrets/empty/bulk", 204, ""},
		{"no key", s, "/v1.0/secrets/file", 404, ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got := apitest.Router(tc.on.Routes()).Do("GET", tc.path, "")
			if got.Status != tc.status || string(got.Body) != tc.body {
				t.Errorf("%d %s\nwant %d %s", got.Status, got.Body, tc.status, tc.body)
			}
			if typ := got.Header.Get("Content-Type"); (typ == "application/json") != (tc.body != "") {
				t.Errorf("content type %q", typ)
			}
		})
	}
	if got := apitest.Router(s.Routes()).Do("POST", "/v1.0/secrets/file/db-password", "{}"); !got.Unrouted {
		t.Errorf("POST was answered with %d", got.Status)
	}
}

func TestMetadataReachesTheStore(t *testing.T) {
	s, m := newSecrets(t, Options{})
	for _, key := range []string{"num", "bulk"} {
		apitest.Router(s.Routes()).Do("GET", "/v1.0/secrets/file/"+key+"?metadata.version_id=3&x=y", "")
		if want := map[string]string{"version_id": "3"}; !reflect.DeepEqual(m.metadata, want) {
			t.Errorf("%s: metadata %v, want %v", key, m.metadata, want)
		}
	}
}

func TestGRPC(t *testing.T) {
	s, _ := newSecrets(t, Options{Allowed: scoped})
	g := s.Server()
	get := func(store, key string) (map[string]string, error) {
		out, err := g.GetSecret(t.Context(), &runtimev1.GetSecretRequest{StoreName: store, Key: key})
		return out.GetData(), err
	}
	for _, tc := range []struct {
		store, key string
		code       codes.Code
		message    string
	}{
		{"none", "x", codes.InvalidArgument, "failed finding secret store with key none"},
		{"file", "num", codes.PermissionDenied, `access denied by policy to get "num" from "file"`},
		{"broken", "x", codes.Internal, "failed getting secret with key x from secret store broken: sealed"},
	} {
		_, err := get(tc.store, tc.key)
		if st := status.Convert(err); st.Code() != tc.code || st.Message() != tc.message || len(st.Details()) != 0 {
			t.Errorf("%s/%s: %v", tc.store, tc.key, err)
		}
	}
	if data, err := get("open", "binary"); err != nil || data["binary"] != "\ufffd" {
		t.Errorf("%q, %v", data, err)
	}
	if _, err := New(Options{}).Server().GetBulkSecret(t.Context(), &runtimev1.GetBulkSecretRequest{StoreName: "s"}); status.Code(err) != codes.FailedPrecondition {
		t.Errorf("not configured: %v", err)
	}
	all, err := g.GetBulkSecret(t.Context(), &runtimev1.GetBulkSecretRequest{StoreName: "file"})
	if err != nil || len(all.GetData()) != 1 || all.GetData()["db-password"].GetSecrets()["db-password"] != "s3cret" {
		t.Errorf("bulk: %v, %v", all, err)
	}
}

func TestReferences(t *testing.T) {
	s, _ := newSecrets(t, Options{Allowed: func(string, string) bool { return false }})
	entries, err := s.GetSecret(t.Context(), "file", "num", nil)
	if err != nil || entries["num"] != "5" {
		t.Errorf("scopes must not limit references: %v, %v", entries, err)
	}
	if _, err := s.GetSecret(t.Context(), "later", "num", nil); !errors.Is(err, resource.ErrStoreNotLoaded) {
		t.Errorf("a store that is not loaded: %v", err)
	}
	if _, err := s.GetSecret(t.Context(), "broken", "num", nil); err == nil || err.Error() != `secret "num" of secret store "broken": sealed` {
		t.Errorf("a failing store: %v", err)
	}
	if err := s.Remove(t.Context(), "file"); err != nil {
		t.Fatal(err)
	}
	if _, err := s.GetSecret(t.Context(), "file", "num", nil); !errors.Is(err, resource.ErrStoreNotLoaded) {
		t.Errorf("a removed store: %v", err)
	}
	if err := s.Add("open", sample()); err == nil {
		t.Error("a name was taken twice")
	}
}

func TestMetrics(t *testing.T) {
	m := metricstest.New(t, "app")
	s, _ := newSecrets(t, Options{Metrics: m.Secrets()})
	r := apitest.Router(s.Routes())
	r.Do("GET", "/v1.0/secrets/file/num", "")
	r.Do("GET", "/v1.0/secrets/file/bulk", "")
	r.Do("GET", "/v1.0/secrets/broken/x", "")
	got := metricstest.Counted(t, m, "dapr_component_secret_count", "component", "operation", "success")
	if want := map[string]float64{"file get true": 1, "file bulk_get true": 1, "broken get false": 1}; !reflect.DeepEqual(got, want) {
		t.Errorf("counted %v, want %v", got, want)
	}
}
