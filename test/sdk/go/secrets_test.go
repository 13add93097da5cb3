package sdk

import (
	"maps"
	"reflect"
	"testing"

	"google.golang.org/grpc/codes"
)

func TestSecrets(t *testing.T) {
	c, ctx := caller(t), bounded(t)
	for _, test := range []struct {
		store, key string
		want       map[string]string
	}{
		{"secrets", "plain", map[string]string{"plain": "open sesame"}},
		{"secrets", "redis:password", map[string]string{"redis:password": "x"}},
		{"secrets", "redis:hosts:1", map[string]string{"redis:hosts:1": "b"}},
		{"multi", "plain", map[string]string{"plain": "open sesame"}},
		{"multi", "redis", map[string]string{"password": "x", "hosts:0": "a", "hosts:1": "b"}},
		{"multi", "forbidden", map[string]string{"forbidden": "no"}}, // only the other store has a scope
	} {
		got, err := c.GetSecret(ctx, test.store, test.key, nil)
		if err != nil || !maps.Equal(got, test.want) {
			t.Errorf("secret %s of %s is %v, %v; want %v", test.key, test.store, got, err, test.want)
		}
	}
}

func TestSecretErrors(t *testing.T) {
	c, ctx := caller(t), bounded(t)
	for _, test := range []struct {
		store, key string
		code       codes.Code
		text       string
	}{
		{"secrets", "missing", codes.Internal, "failed getting secret with key missing from secret store secrets"},
		{"secrets", "redis", codes.Internal, "failed getting secret with key redis from secret store secrets"},
		{"secrets", "forbidden", codes.PermissionDenied, `access denied by policy to get "forbidden" from "secrets"`},
		{"nowhere", "plain", codes.InvalidArgument, "failed finding secret store with key nowhere"},
	} {
		_, err := c.GetSecret(ctx, test.store, test.key, nil)
		wantStatus(t, err, test.code, test.text, "")
	}
}

func TestBulkSecrets(t *testing.T) {
	c, ctx := caller(t), bounded(t)
	got, err := c.GetBulkSecret(ctx, "secrets", nil)
	noError(t, err)
	delete(got, "sqlite-path") // differs from run to run
	want := map[string]map[string]string{
		"plain": {"plain": "open sesame"}, "redis:password": {"redis:password": "x"},
		"redis:hosts:0": {"redis:hosts:0": "a"}, "redis:hosts:1": {"redis:hosts:1": "b"},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("secrets are %v, want %v", got, want)
	}
	if got, err = c.GetBulkSecret(ctx, "multi", nil); err != nil || !maps.Equal(got["redis"], map[string]string{"password": "x", "hosts:0": "a", "hosts:1": "b"}) {
		t.Errorf("secrets are %v, %v; want all entries of redis", got, err)
	}
	_, err = c.GetBulkSecret(ctx, "nowhere", nil)
	wantStatus(t, err, codes.InvalidArgument, "failed finding secret store with key nowhere", "")
}
