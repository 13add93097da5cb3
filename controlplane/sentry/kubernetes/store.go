package kubernetes

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"outrigger.dev/controlplane/sentry/ca"
)

// bundleName is that of the Secret and of the ConfigMap (Dapr API, Sentry: storage on Kubernetes).
const bundleName = "dapr-trust-bundle"

// Store keeps the credentials in the Secret dapr-trust-bundle, and publishes the trust anchors and the key set in the ConfigMap of that name. Both have to
// exist.
//
// The Secret decides. It is written only as it was read, so of two replicas that generate or renew at once one finds a conflict and takes what the other has written.
// The ConfigMap follows the Secret.
type Store struct {
	Clients   *Clients
	Namespace string
	// Directory is where the Secret is mounted; a change there is a sign of a change of the Secret.
	Directory string
	// Anchors, Issuer, IssuerKey, JWTKey and JWKS are the keys in the Secret; empty ones have Dapr's names. Of a path the last element counts.
	Anchors, Issuer, IssuerKey, JWTKey, JWKS string
	Log                                      *slog.Logger
}

var _ ca.Store = (*Store)(nil)

// attempts is how often a write that finds a conflict is begun anew.
const attempts = 10

// names are the keys of the documents in the Secret.
func (s *Store) names() (anchors, issuer, issuerKey, jwtKey, jwks string) {
	name := func(given, standard string) string {
		if given == "" {
			return standard
		}
		return filepath.Base(given)
	}
	return name(s.Anchors, ca.AnchorsName), name(s.Issuer, ca.IssuerName), name(s.IssuerKey, ca.IssuerKeyName),
		name(s.JWTKey, ca.JWTKeyName), name(s.JWKS, ca.JWKSName)
}

// Watch implements [ca.Store].
func (s *Store) Watch() []string {
	if s.Directory == "" {
		return nil
	}
	return []string{s.Directory}
}

// Load implements [ca.Store].
func (s *Store) Load(ctx context.Context) (ca.Documents, error) {
	secret, err := s.secret(ctx)
	if err != nil {
		return ca.Documents{}, err
	}
	d := s.documents(secret)
	if d.Complete() {
		if err := s.publish(ctx); err != nil {
			return d, err
		}
	}
	return d, nil
}

func (s *Store) secret(ctx context.Context) (*corev1.Secret, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	secret, err := s.Clients.Core.CoreV1().Secrets(s.Namespace).Get(ctx, bundleName, metav1.GetOptions{})
	if err != nil {
		return nil, fmt.Errorf("the Secret %s in namespace %s cannot be read (it must exist, even if empty): %w", bundleName, s.Namespace, err)
	}
	return secret, nil
}

func (s *Store) documents(secret *corev1.Secret) ca.Documents {
	anchors, issuer, issuerKey, jwtKey, jwks := s.names()
	return ca.Documents{
		Anchors: secret.Data[anchors], IssuerChain: secret.Data[issuer], IssuerKey: secret.Data[issuerKey],
		JWTKey: secret.Data[jwtKey], JWKS: secret.Data[jwks], Record: secret.Data[ca.RecordName],
	}
}

// Update implements [ca.Store].
func (s *Store) Update(ctx context.Context, change func(ca.Documents) (ca.Documents, bool, error)) error {
	var conflict error
	for range attempts {
		if err := ctx.Err(); err != nil {
			return errors.Join(err, conflict)
		}
		secret, err := s.secret(ctx)
		if err != nil {
			return err
		}
		next, changed, err := change(s.documents(secret))
		if err != nil {
			return err
		}
		if changed {
			conflict = s.write(ctx, secret, &next)
		}
		switch {
		case changed && apierrors.IsConflict(conflict):
			continue
		case changed && conflict != nil:
			return fmt.Errorf("the Secret %s in namespace %s cannot be written: %w", bundleName, s.Namespace, conflict)
		}
		return s.publish(ctx)
	}
	return fmt.Errorf("the Secret %s in namespace %s was changed by somebody else %d times in a row: %w", bundleName, s.Namespace, attempts, conflict)
}

// write writes the documents into the Secret unless it has changed since it was read, which is an error that is a conflict.
func (s *Store) write(ctx context.Context, secret *corev1.Secret, d *ca.Documents) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	secret = secret.DeepCopy()
	if secret.Data == nil {
		secret.Data = map[string][]byte{}
	}
	anchors, issuer, issuerKey, jwtKey, jwks := s.names()
	for name, document := range map[string][]byte{
		anchors: d.Anchors, issuer: d.IssuerChain, issuerKey: d.IssuerKey, jwtKey: d.JWTKey, jwks: d.JWKS, ca.RecordName: d.Record,
	} {
		if len(document) > 0 {
			secret.Data[name] = document
		}
	}
	// The resource version that was read goes along: the server refuses the write if it is not the present one.
	_, err := s.Clients.Core.CoreV1().Secrets(s.Namespace).Update(ctx, secret, metav1.UpdateOptions{})
	return err
}

// publish makes the ConfigMap say what the Secret says.
func (s *Store) publish(ctx context.Context) error {
	anchorsName, _, _, _, jwksName := s.names()
	var conflict error
	for range attempts {
		if err := ctx.Err(); err != nil {
			return errors.Join(err, conflict)
		}
		// The ConfigMap is read before the Secret: if the Secret is changed after it was read, its writer changes the ConfigMap after that, and either that write
		// or this one finds a conflict.
		maps := s.Clients.Core.CoreV1().ConfigMaps(s.Namespace)
		call, cancel := context.WithTimeout(ctx, callTimeout)
		published, err := maps.Get(call, bundleName, metav1.GetOptions{})
		cancel()
		if err != nil {
			return fmt.Errorf("the ConfigMap %s in namespace %s cannot be read (it must exist, even if empty): %w", bundleName, s.Namespace, err)
		}
		secret, err := s.secret(ctx)
		if err != nil {
			return err
		}
		d := s.documents(secret)
		same := bytes.Equal([]byte(published.Data[anchorsName]), d.Anchors)
		if same && (len(d.JWKS) == 0 || bytes.Equal([]byte(published.Data[jwksName]), d.JWKS)) {
			return nil
		}
		if !same && published.Data[anchorsName] != "" && s.Log != nil {
			s.Log.Warn(fmt.Sprintf("The trust anchors in the ConfigMap %s are not those of the Secret %s, which are published now", bundleName, bundleName))
		}
		published = published.DeepCopy()
		if published.Data == nil {
			published.Data = map[string]string{}
		}
		published.Data[anchorsName] = string(d.Anchors)
		if len(d.JWKS) > 0 {
			published.Data[jwksName] = string(d.JWKS)
		}
		call, cancel = context.WithTimeout(ctx, callTimeout)
		_, conflict = maps.Update(call, published, metav1.UpdateOptions{})
		cancel()
		switch {
		case conflict == nil:
			return nil
		case !apierrors.IsConflict(conflict):
			return fmt.Errorf("the ConfigMap %s in namespace %s cannot be written: %w", bundleName, s.Namespace, conflict)
		}
	}
	return fmt.Errorf("the ConfigMap %s in namespace %s was changed by somebody else %d times in a row: %w", bundleName, s.Namespace, attempts, conflict)
}
