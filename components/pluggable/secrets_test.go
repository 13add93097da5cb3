//go:build unix

package pluggable

import (
	"context"
	"maps"
	"slices"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	componentsv1 "outrigger.dev/api/gen/components/v1"
	"outrigger.dev/components"
	"outrigger.dev/components/secretstores"
)

type secretService struct {
	componentsv1.UnimplementedSecretStoreServer
	*life
	features []string
}

func (s *secretService) Init(ctx context.Context, in *componentsv1.SecretStoreInitRequest) (*componentsv1.SecretStoreInitResponse, error) {
	return &componentsv1.SecretStoreInitResponse{}, s.life.init(ctx, in.GetMetadata())
}

func (s *secretService) Features(ctx context.Context, in *componentsv1.FeaturesRequest) (*componentsv1.FeaturesResponse, error) {
	if s.features == nil {
		return s.UnimplementedSecretStoreServer.Features(ctx, in)
	}
	return &componentsv1.FeaturesResponse{Features: s.features}, nil
}

func (s *secretService) Get(ctx context.Context, in *componentsv1.GetSecretRequest) (*componentsv1.GetSecretResponse, error) {
	p, err := s.properties(ctx)
	if err != nil {
		return nil, err
	}
	if p[in.GetKey()] == "" {
		return nil, status.Error(codes.NotFound, "no such secret")
	}
	return &componentsv1.GetSecretResponse{Data: map[string]string{in.GetKey(): p[in.GetKey()] + in.GetMetadata()["suffix"]}}, nil
}

func (s *secretService) BulkGet(ctx context.Context, _ *componentsv1.BulkGetSecretRequest) (*componentsv1.BulkGetSecretResponse, error) {
	p, err := s.properties(ctx)
	if err != nil {
		return nil, err
	}
	out := &componentsv1.BulkGetSecretResponse{Data: map[string]*componentsv1.SecretResponse{}}
	for k, v := range p {
		out.Data[k] = &componentsv1.SecretResponse{Secrets: map[string]string{k: v}}
	}
	return out, nil
}

func TestSecrets(t *testing.T) {
	for _, features := range [][]string{nil, {}, {"MULTIPLE_KEY_VALUES_PER_SECRET"}} {
		dir := t.TempDir()
		p := startProcess(t, dir, "vault.sock", func(g *grpc.Server, l *life) {
			componentsv1.RegisterSecretStoreServer(g, &secretService{life: l, features: features})
		})
		s, err := open[secretstores.Store](t, dir, components.SecretStores, "vault", components.Instance{Properties: map[string]string{"a": "1", "b": "2"}})
		if err != nil {
			t.Fatal(err)
		}
		if got := secretstores.Capabilities(s); !slices.Equal(got, features) && len(got)+len(features) > 0 {
			t.Errorf("capabilities %v, want %v", got, features)
		}
		for range 2 {
			if got, err := s.Get(within(t), "a", map[string]string{"suffix": "!"}); err != nil || !maps.Equal(got, map[string]string{"a": "1!"}) {
				t.Errorf("Get: %v, %v", got, err)
			}
			if _, err := s.Get(within(t), "c", nil); status.Code(err) != codes.NotFound || err.Error() != "no such secret" {
				t.Errorf("Get of none: %v", err)
			}
			all, err := s.BulkGet(within(t), nil)
			if err != nil || len(all) != 2 || all["b"]["b"] != "2" {
				t.Errorf("BulkGet: %v, %v", all, err)
			}
			p.restart()
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}
}
