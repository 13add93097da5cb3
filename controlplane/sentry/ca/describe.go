package ca

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"time"

	"outrigger.dev/identity"
)

// Description is what there is to tell of an authority without its keys.
type Description struct {
	Origin Origin
	// SelfRenewing tells whether a Sentry that uses the authority renews it.
	SelfRenewing bool
	// Roots are the trust anchors, Issuer is what signs.
	Roots  []RootDescription
	Issuer CertificateDescription
	// Next is the renewal to come; nil if the authority does not renew itself.
	Next *Step
	// Problem is why the authority cannot be used now, such as that it has expired; nil if it can.
	Problem error
}

// CertificateDescription is what there is to tell of a certificate.
type CertificateDescription struct {
	// Subject is its distinguished name, Fingerprint the SHA-256 of its DER form in hex.
	Subject, Fingerprint string
	// Algorithm is that of its key, such as Ed25519.
	Algorithm           string
	NotBefore, NotAfter time.Time
}

// RootDescription is what there is to tell of a trust anchor.
type RootDescription struct {
	CertificateDescription
	// Signs tells that the issuer is under this root.
	Signs bool
	// SignsFrom is when a root that is announced takes over; zero for the others.
	SignsFrom time.Time
	// Generated tells that Sentry has generated it; KeyKept that it can sign another issuer.
	Generated, KeyKept bool
}

// Describe tells what a directory of credentials holds, with settings for when it will renew: those of the Sentry that uses it. Without a trust domain in
// them it is read off the issuer. A directory without credentials is an error that is [ErrNoCredentials].
func Describe(ctx context.Context, store Store, s Settings, now time.Time) (*Description, error) {
	documents, err := store.Load(ctx)
	if err != nil {
		return nil, err
	}
	return DescribeDocuments(documents, s, now)
}

// ErrNoCredentials tells that there is no authority.
var ErrNoCredentials = errors.New("there are no credentials of a certificate authority: start sentry to generate them")

// DescribeDocuments is [Describe] for documents from elsewhere, such as a Kubernetes Secret.
func DescribeDocuments(documents Documents, s Settings, now time.Time) (*Description, error) {
	if !documents.Complete() {
		return nil, ErrNoCredentials
	}
	b, err := Parse(&documents)
	if err != nil {
		return nil, err
	}
	found, err := parseRecord(documents.Record)
	if err != nil {
		return nil, err
	}
	if s, err = s.completedBy(b); err != nil {
		return nil, err
	}
	origin, rec := s.originOf(b, found)
	d := &Description{Origin: origin, SelfRenewing: origin != Provided && s.SelfRenewing, Issuer: describe(b.Issuer()), Problem: b.CheckTime(now)}
	r := renewal{Settings: &s, bundle: b, record: rec, now: now}
	for _, c := range b.Anchors {
		root := RootDescription{CertificateDescription: describe(c), Signs: c == b.root()}
		if rec != nil {
			root.KeyKept = r.key(c) != nil
			if recorded := rec.root(c); recorded != nil {
				root.Generated = true
				if recorded.SignsFrom != nil {
					root.SignsFrom = *recorded.SignsFrom
				}
			}
		}
		d.Roots = append(d.Roots, root)
	}
	if d.SelfRenewing {
		d.Next = new(r.next())
	}
	return d, nil
}

func describe(c *x509.Certificate) CertificateDescription {
	return CertificateDescription{
		Subject: c.Subject.String(), Fingerprint: fingerprint(c), Algorithm: c.PublicKeyAlgorithm.String(),
		NotBefore: c.NotBefore, NotAfter: c.NotAfter,
	}
}

// completedBy is normalised settings that have the trust domain and namespace of the issuer if they had none.
func (s Settings) completedBy(b *Bundle) (Settings, error) {
	if s.TrustDomain == "" {
		s.TrustDomain, s.Namespace = "localhost", "default"
		if names := b.Issuer().Subject.Organization; len(names) == 1 {
			if id, err := identity.ParseID(names[0]); err == nil {
				s.TrustDomain, s.Namespace = id.TrustDomain, id.Namespace
			}
		}
	}
	return s.Normalised()
}

// Renew renews an authority before its time and returns in words what was done. A Sentry that uses the store takes the change up by
// itself. A provided authority is renewed only on the request to adopt it, and the issuer of one whose root has no key at hand not without a new
// root.
func Renew(ctx context.Context, store Store, s Settings, now time.Time, asked Request) (changes []string, err error) {
	if !asked.Root && !asked.AtOnce {
		asked.Issuer = true
	}
	err = store.Update(ctx, func(d Documents) (Documents, bool, error) {
		if !d.Complete() {
			return d, false, ErrNoCredentials
		}
		b, err := Parse(&d)
		if err != nil {
			return d, false, err
		}
		settings, err := s.completedBy(b)
		if err != nil {
			return d, false, err
		}
		settings.JWT.Enabled = false // its keys are left alone
		if err := settings.renewable(b, &d, asked); err != nil {
			return d, false, err
		}
		res, err := settings.maintain(d, now, asked)
		if err != nil {
			return d, false, err
		}
		changes = res.changes
		return res.documents, len(changes) > 0, nil
	})
	return changes, err
}

// renewable tells why a request cannot be met.
func (s *Settings) renewable(b *Bundle, d *Documents, asked Request) error {
	found, err := parseRecord(d.Record)
	if err != nil {
		return err
	}
	switch origin, _ := s.originOf(b, found); {
	case origin == Provided && !asked.Adopt:
		return fmt.Errorf("the certificate authority %q was provided and is not renewed by itself: replace %s, %s and %s, or ask to adopt it with a new root",
			b.Issuer().Subject, AnchorsName, IssuerName, IssuerKeyName)
	case origin != Generated && !asked.Root && !asked.AtOnce:
		return fmt.Errorf("the key of the root %q is not at hand, so there can be no other issuer under it: ask for a new root", b.root().Subject)
	}
	return nil
}
