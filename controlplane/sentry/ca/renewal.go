package ca

import (
	"crypto"
	"crypto/x509"
	"fmt"
	"slices"
	"time"
)

// life is when a certificate is of use: from its making to its end.
type life struct{ begin, end time.Time }

func (s *Settings) lifeOf(c *x509.Certificate) life {
	l := life{c.NotBefore.Add(s.ClockSkew), c.NotAfter}
	if !l.begin.Before(l.end) {
		l.begin = c.NotBefore
	}
	return l
}

// due is when to renew: after two thirds of the life, or earlier if less than margin would remain, but not in the first third.
func (l life) due(margin time.Duration) time.Time {
	third := l.end.Sub(l.begin) / 3
	at := l.begin.Add(2 * third)
	if latest := l.end.Add(-margin); latest.Before(at) {
		at = latest
	}
	if earliest := l.begin.Add(third); at.Before(earliest) {
		at = earliest
	}
	return at
}

// spread is how long it takes until every workload has asked for a certificate again, and thereby knows the present roots.
func (s *Settings) spread() time.Duration { return s.WorkloadTTL + s.ClockSkew }

// renewal works out what an authority that renews itself needs at one moment. It changes the bundle and the record it is given.
type renewal struct {
	*Settings
	bundle *Bundle
	record *record
	now    time.Time
	// changes says in words what was done.
	changes []string
	// What is asked for before its time: see [Request].
	asked Request
}

// signerLife is how long the present root can go on being the one that signs.
func (r *renewal) signerLife() life {
	root := r.bundle.root()
	l := r.lifeOf(root)
	if r.key(root) == nil && r.bundle.Issuer().NotAfter.Before(l.end) {
		l.end = r.bundle.Issuer().NotAfter // there will be no other issuer under this root
	}
	return l
}

// key is the private key of a root, nil if it is not at hand.
func (r *renewal) key(root *x509.Certificate) crypto.Signer {
	recorded := r.record.root(root)
	if recorded == nil || recorded.Key == "" {
		return nil
	}
	key, err := parseKey([]byte(recorded.Key))
	if err != nil || !samePublicKey(key.Public(), root.PublicKey) {
		return nil
	}
	return key
}

// successor is the root that is announced to follow the present one; nil if there is none that could.
func (r *renewal) successor() (*x509.Certificate, *recordedRoot) {
	signer := r.bundle.root()
	for _, c := range r.bundle.Anchors {
		recorded := r.record.root(c)
		if c != signer && recorded != nil && recorded.SignsFrom != nil && r.key(c) != nil && c.NotAfter.After(r.now) {
			return c, recorded
		}
	}
	return nil, nil
}

// run does what is due.
func (r *renewal) run() error {
	expired := !r.signerLife().end.After(r.now)
	next, recorded := r.successor()
	if next == nil && (r.asked.Root || r.asked.AtOnce || !r.rootDue().After(r.now)) {
		if err := r.announce(); err != nil {
			return err
		}
		next, recorded = r.successor()
	}
	switch {
	case next != nil && (expired || r.asked.AtOnce || !recorded.SignsFrom.After(r.now)):
		if err := r.handOver(next, recorded); err != nil {
			return err
		}
	case r.key(r.bundle.root()) != nil && (r.asked.Issuer || r.issuerGains(r.now) && !r.issuerDue().After(r.now)):
		if err := r.issue(r.bundle.root(), "under the same root"); err != nil {
			return err
		}
	}
	r.forgetExpired()
	return nil
}

func (r *renewal) rootDue() time.Time   { return r.signerLife().due(2 * r.spread()) }
func (r *renewal) issuerDue() time.Time { return r.lifeOf(r.bundle.Issuer()).due(r.spread()) }

// issuerGains tells whether an issuer made at that time would outlive the present one.
func (r *renewal) issuerGains(at time.Time) bool {
	return r.issuerEnd(r.bundle.root(), at).After(r.bundle.Issuer().NotAfter)
}

// announce adds a new root to the trust anchors.
func (r *renewal) announce() error {
	root, key, err := r.newRoot(r.now)
	if err != nil {
		return err
	}
	document, err := encodeKey(key)
	if err != nil {
		return err
	}
	from := r.signsFrom().UTC().Truncate(time.Second)
	r.bundle.Anchors = append(r.bundle.Anchors, root)
	r.record.Roots = append(r.record.Roots, recordedRoot{Certificate: fingerprint(root), Key: string(document), SignsFrom: &from})
	r.changed("a new root is among the trust anchors and signs from %s; it expires on %s", date(from), date(root.NotAfter))
	return nil
}

// signsFrom is when a root announced now may sign.
func (r *renewal) signsFrom() time.Time {
	end := r.signerLife().end
	half := max(end.Sub(r.now)/2, 0)
	from := r.now.Add(max(half, r.spread()))
	// What the old root still signs should not outlive it; where its life is too short for that, half of the rest is a compromise.
	latest := end.Add(-r.spread())
	if earliest := r.now.Add(half); latest.Before(earliest) {
		latest = earliest
	}
	if latest.Before(from) {
		return latest
	}
	return from
}

// handOver lets the announced root sign.
func (r *renewal) handOver(next *x509.Certificate, recorded *recordedRoot) error {
	recorded.SignsFrom = nil
	if old := r.record.root(r.bundle.root()); old != nil {
		old.Key = "" // it will not sign again, so nobody shall be able to make it
	}
	// The root that signs comes first: tools that read only one certificate find this one.
	i := slices.Index(r.bundle.Anchors, next)
	r.bundle.Anchors = slices.Insert(slices.Delete(r.bundle.Anchors, i, i+1), 0, next)
	return r.issue(next, "under the new root")
}

// issue makes a new issuer.
func (r *renewal) issue(root *x509.Certificate, under string) error {
	issuer, key, err := r.newIssuer(root, r.key(root), r.now)
	if err != nil {
		return err
	}
	r.bundle.Chain, r.bundle.IssuerKey = []*x509.Certificate{issuer}, key
	r.record.Issuer = fingerprint(issuer)
	r.changed("a new issuer %s signs; it expires on %s", under, date(issuer.NotAfter))
	return nil
}

// forgetExpired drops generated roots that are of no use any more. What an operator has added stays.
func (r *renewal) forgetExpired() {
	signer := r.bundle.root()
	r.bundle.Anchors = slices.DeleteFunc(r.bundle.Anchors, func(c *x509.Certificate) bool {
		if c == signer || !r.now.After(c.NotAfter) || r.record.root(c) == nil {
			return false
		}
		r.changed("the root that expired on %s is no trust anchor any more", date(c.NotAfter))
		return true
	})
	r.record.Roots = slices.DeleteFunc(r.record.Roots, func(root recordedRoot) bool {
		return !slices.ContainsFunc(r.bundle.Anchors, func(c *x509.Certificate) bool { return fingerprint(c) == root.Certificate })
	})
}

func (r *renewal) changed(format string, args ...any) {
	r.changes = append(r.changes, fmt.Sprintf(format, args...))
}

// next is what will be due first, and when.
func (r *renewal) next() Step {
	steps := []Step{{At: r.rootDue(), What: "a new root is announced"}}
	if _, recorded := r.successor(); recorded != nil {
		steps[0] = Step{At: *recorded.SignsFrom, What: "the new root takes over"}
	}
	if due := r.issuerDue(); r.key(r.bundle.root()) != nil && r.issuerGains(due) {
		steps = append(steps, Step{At: due, What: "a new issuer under the same root"})
	}
	for _, c := range r.bundle.Anchors {
		if c != r.bundle.root() && r.record.root(c) != nil {
			steps = append(steps, Step{At: c.NotAfter.Add(time.Second), What: "an old root is dropped"})
		}
	}
	return slices.MinFunc(steps, func(a, b Step) int { return a.At.Compare(b.At) })
}

func date(t time.Time) string { return t.UTC().Format(time.RFC3339) }
