// Package ca is the certificate authority of the mesh: its roots (trust anchors), the issuer that signs for workloads, where both are
// kept, and how they renew themselves before they expire (Dapr API, mTLS: Sentry).
//
// The raw form of an authority is [Documents], which a [Store] keeps; a [Bundle] is their meaning, checked; an [Authority] signs with
// them; a [Manager] keeps all of it up to date while Sentry runs. Package ca knows nothing of gRPC and nothing of Kubernetes.
//
// # Renewal
//
// An authority that Sentry has generated renews itself; one that an operator has provided is never touched. What tells them apart is
// one more document, the renewal record (see [RecordName]), which names the generated certificates by their fingerprints and holds
// the keys of the roots. Replacing the certificates or the issuer makes the record untrue, and thereby the authority a provided one. An authority
// without a record whose subjects and key types are those that Sentry generates is one that a Dapr Sentry has generated: it renews itself too,
// but as the key of its root is gone, its next issuer has to be under a new root.
//
//   - An issuer past two thirds of its life is replaced by a new one under the same root, if that one would last longer.
//   - A root past two thirds of its life gets a successor: a new root that is added to the trust anchors and does not sign yet.
//   - The successor takes over when everybody has had time to learn of it: after the longest life of a workload's certificate with the
//     clock skew, and not before half of what remained to the old root.
//   - The old root stays a trust anchor until it has expired.
//
// Lives that are short beside those of the workloads' certificates move these points forward; see [Settings].
package ca

import (
	"bytes"
	"slices"
)

// Names of the documents in a directory of credentials, and of the keys of the Kubernetes Secret and ConfigMap (Dapr API, Sentry: storage).
const (
	AnchorsName   = "ca.crt"
	IssuerName    = "issuer.crt"
	IssuerKeyName = "issuer.key"
	JWTKeyName    = "jwt.key"
	JWKSName      = "jwks.json"
	// RecordName is the renewal record. It is not Dapr's: a Dapr Sentry and Dapr's tools do not read it.
	RecordName = "renewal.json"
)

// Documents are the raw form of an authority. A nil or empty one is absent. They hold private keys.
type Documents struct {
	// Anchors are the roots, PEM; IssuerChain is the issuer first, PEM; IssuerKey is its private key, PEM.
	Anchors, IssuerChain, IssuerKey []byte
	// JWTKey is the private key that signs JWT-SVIDs, PEM; JWKS the key set in which its public half is found, JSON.
	JWTKey, JWKS []byte
	// Record is the renewal record, JSON.
	Record []byte
}

// Complete tells whether the three documents that an X.509 authority consists of are all there.
func (d *Documents) Complete() bool {
	return len(d.Anchors) > 0 && len(d.IssuerChain) > 0 && len(d.IssuerKey) > 0
}

// Equal tells whether both are the same bytes.
func (d *Documents) Equal(other *Documents) bool {
	a, b := d.list(), other.list()
	return slices.EqualFunc(a, b, func(x, y *[]byte) bool { return bytes.Equal(*x, *y) })
}

func (d *Documents) list() []*[]byte {
	return []*[]byte{&d.Anchors, &d.IssuerChain, &d.IssuerKey, &d.JWTKey, &d.JWKS, &d.Record}
}
