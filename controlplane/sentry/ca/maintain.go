package ca

import (
	"crypto/x509"
	"fmt"
	"time"
)

// Request asks for renewal before its time.
type Request struct {
	// Issuer asks for a new issuer under the present root.
	Issuer bool
	// Root asks for a new root, which is announced now and signs after the overlap.
	Root bool
	// AtOnce lets a new root sign without overlap: who does not know it yet trusts nobody until it does.
	AtOnce bool
	// Adopt treats a provided authority as a generated one from now on. The key of its root is not at hand, so it needs a new root.
	Adopt bool
}

// Step is a renewal to come.
type Step struct {
	At   time.Time
	What string
}

// result is what maintain has found and made.
type result struct {
	documents Documents
	bundle    *Bundle
	origin    Origin
	// changes says in words what was done; with none the documents are those that were given.
	changes []string
	// next is the renewal to come; nil if the authority does not renew itself.
	next *Step
}

// maintain makes documents what they have to be now: generated if they are incomplete, renewed if it is time, with JWT keys if those
// are wanted (Dapr API, Sentry: storage). The settings must be normalised. Errors are those of documents that cannot be used.
func (s *Settings) maintain(d Documents, now time.Time, asked Request) (*result, error) {
	res := &result{documents: d}
	if !d.Complete() {
		if err := s.generate(res, now); err != nil {
			return nil, err
		}
	} else if err := s.keep(res, now, asked); err != nil {
		return nil, err
	}
	if !s.JWT.Enabled {
		return res, nil
	}
	if len(d.JWTKey) == 0 || len(d.JWKS) == 0 {
		key, jwks, err := s.newJWTKey()
		if err != nil {
			return nil, err
		}
		res.documents.JWTKey, res.documents.JWKS = key, jwks
		res.changes = append(res.changes, "a new key signs JWTs")
	}
	var err error
	res.bundle.JWT, err = s.parseJWT(res.documents.JWTKey, res.documents.JWKS)
	return res, err
}

// generate makes a new authority.
func (s *Settings) generate(res *result, now time.Time) error {
	root, rootKey, err := s.newRoot(now)
	if err != nil {
		return err
	}
	issuer, issuerKey, err := s.newIssuer(root, rootKey, now)
	if err != nil {
		return err
	}
	key, err := encodeKey(rootKey)
	if err != nil {
		return err
	}
	rec := &record{Issuer: fingerprint(issuer), Roots: []recordedRoot{{Certificate: fingerprint(root), Key: string(key)}}}
	res.bundle = &Bundle{Anchors: []*x509.Certificate{root}, Chain: []*x509.Certificate{issuer}, IssuerKey: issuerKey}
	res.origin = Generated
	res.changes = append(res.changes, fmt.Sprintf("a new root, which expires on %s, and issuer, which expires on %s, are generated", date(root.NotAfter), date(issuer.NotAfter)))
	if s.SelfRenewing {
		r := renewal{Settings: s, bundle: res.bundle, record: rec, now: now}
		res.next = new(r.next())
	}
	return res.encode(rec)
}

// keep checks complete documents and renews what is due.
func (s *Settings) keep(res *result, now time.Time, asked Request) error {
	b, err := Parse(&res.documents)
	if err != nil {
		return err
	}
	found, err := parseRecord(res.documents.Record)
	if err != nil {
		return err
	}
	res.bundle = b
	var rec *record
	res.origin, rec = s.originOf(b, found)
	if res.origin == Provided && asked.Adopt {
		res.origin, rec = GeneratedByDapr, &record{Issuer: fingerprint(b.Issuer()), Roots: []recordedRoot{{Certificate: fingerprint(b.root())}}}
	}
	if rec != nil && (s.SelfRenewing || asked != Request{}) {
		r := renewal{Settings: s, bundle: b, record: rec, now: now, asked: asked}
		if err := r.run(); err != nil {
			return err
		}
		if len(r.changes) > 0 {
			res.changes = r.changes
			if err := res.encode(rec); err != nil {
				return err
			}
			res.origin, _ = s.originOf(b, rec)
		}
		if s.SelfRenewing {
			res.next = new(r.next())
		}
	}
	return b.CheckTime(now)
}

// encode writes the bundle and its record into the documents.
func (res *result) encode(rec *record) error {
	key, err := encodeKey(res.bundle.IssuerKey)
	if err != nil {
		return err
	}
	text, err := rec.encode()
	if err != nil {
		return fmt.Errorf("encode the renewal record: %w", err)
	}
	res.documents.Anchors = encodeCertificates(res.bundle.Anchors...)
	res.documents.IssuerChain = encodeCertificates(res.bundle.Chain...)
	res.documents.IssuerKey = key
	res.documents.Record = text
	return nil
}
