package pluggable

import (
	"context"
	"maps"
	"slices"

	"google.golang.org/grpc"

	componentsv1 "outrigger.dev/api/gen/components/v1"
	"outrigger.dev/components"
	"outrigger.dev/components/secretstores"
)

// featureMultiValued is claimed by secret stores that keep several entries in one secret.
const featureMultiValued = "MULTIPLE_KEY_VALUES_PER_SECRET"

// secretStore is a secret store in another process.
type secretStore struct {
	link  *link[componentsv1.SecretStoreClient]
	multi bool
}

var (
	_ secretstores.Store       = (*secretStore)(nil)
	_ secretstores.MultiValued = (*secretStore)(nil)
)

func (f *Folder) openSecrets(ctx context.Context, path string, inst components.Instance, p Properties) (secretstores.Store, error) {
	properties := maps.Clone(p.All)
	var features []string
	asked := false
	l, err := openLink(ctx, f, path, inst, func(cc grpc.ClientConnInterface) componentsv1.SecretStoreClient {
		return componentsv1.NewSecretStoreClient(cc)
	},
		func(ctx context.Context, c componentsv1.SecretStoreClient) error {
			if _, err := c.Init(ctx, &componentsv1.SecretStoreInitRequest{Metadata: &componentsv1.MetadataRequest{Properties: properties}}); err != nil || asked {
				return err
			}
			r, err := c.Features(ctx, &componentsv1.FeaturesRequest{})
			if err != nil && !unimplemented(err) {
				return err
			}
			features, asked = r.GetFeatures(), true
			return nil
		})
	if err != nil {
		return nil, err
	}
	return &secretStore{link: l, multi: slices.Contains(features, featureMultiValued)}, nil
}

// MultiValued reports whether the process claims the feature MULTIPLE_KEY_VALUES_PER_SECRET.
func (s *secretStore) MultiValued() bool { return s.multi }

// Get asks the process for a secret.
func (s *secretStore) Get(ctx context.Context, name string, metadata map[string]string) (map[string]string, error) {
	in := &componentsv1.GetSecretRequest{Key: name, Metadata: metadata}
	r, err := call(ctx, s.link, true, func(ctx context.Context, c componentsv1.SecretStoreClient) (*componentsv1.GetSecretResponse, error) {
		return c.Get(ctx, in)
	})
	return r.GetData(), err
}

// BulkGet asks the process for all secrets.
func (s *secretStore) BulkGet(ctx context.Context, metadata map[string]string) (map[string]map[string]string, error) {
	in := &componentsv1.BulkGetSecretRequest{Metadata: metadata}
	r, err := call(ctx, s.link, true, func(ctx context.Context, c componentsv1.SecretStoreClient) (*componentsv1.BulkGetSecretResponse, error) {
		return c.BulkGet(ctx, in)
	})
	if err != nil {
		return nil, err
	}
	secrets := make(map[string]map[string]string, len(r.GetData()))
	for name, secret := range r.GetData() {
		secrets[name] = secret.GetSecrets()
	}
	return secrets, nil
}

// Close ends the connection to the process.
func (s *secretStore) Close() error {
	s.link.close()
	return nil
}
