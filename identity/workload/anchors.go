package workload

import (
	"bytes"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"time"
)

// fileInterval is how often the file of trust anchors is looked at.
const fileInterval = 5 * time.Second

// maxAdopted bounds how many trust anchors are taken over from Sentry.
const maxAdopted = 16

// ParseAnchors reads trust anchors: certificates of authorities in PEM, one or more.
func ParseAnchors(text []byte) ([]*x509.Certificate, error) {
	certificates, err := parsePEM(text)
	if err != nil {
		return nil, err
	}
	for _, c := range certificates {
		if c.BasicConstraintsValid && !c.IsCA {
			return nil, fmt.Errorf("the certificate of %q is not one of an authority; give the root, Sentry's ca.crt", c.Subject)
		}
	}
	return certificates, nil
}

// parsePEM reads one or more certificates. Text between the blocks is skipped.
func parsePEM(text []byte) ([]*x509.Certificate, error) {
	var certificates []*x509.Certificate
	for rest := text; ; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			break
		}
		if block.Type != "CERTIFICATE" {
			return nil, fmt.Errorf("a PEM block of type %q, but only CERTIFICATE is expected", block.Type)
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, err
		}
		certificates = append(certificates, c)
	}
	if len(certificates) == 0 {
		return nil, errors.New("no certificate in PEM (\"-----BEGIN CERTIFICATE-----\")")
	}
	return certificates, nil
}

// loadFile reads the file of trust anchors, if they come from one. A missing file is [fs.ErrNotExist], and so is an empty one,
// which somebody is about to write.
func (s *Source) loadFile() error {
	path := s.options.TrustAnchorsFile
	if path == "" {
		return nil
	}
	text, err := s.options.ReadFile(path)
	if err != nil {
		return fmt.Errorf("the trust anchors cannot be read (%s, --trust-anchors-file): %w", EnvTrustAnchorsFile, err)
	}
	if len(bytes.TrimSpace(text)) == 0 {
		return fmt.Errorf("the trust anchors in %s (%s, --trust-anchors-file): the file is empty: %w", path, EnvTrustAnchorsFile, fs.ErrNotExist)
	}
	s.mu.Lock()
	known := s.fileText != "" && s.fileText == string(text)
	s.mu.Unlock()
	if known {
		return nil
	}
	anchors, err := ParseAnchors(text)
	if err != nil {
		return fmt.Errorf("the trust anchors in %s (%s, --trust-anchors-file): %w", path, EnvTrustAnchorsFile, err)
	}
	s.mu.Lock()
	s.fileText, s.configured = string(text), anchors
	s.mu.Unlock()
	s.publishAnchors()
	return nil
}

// reloadFile takes over a change of the file. One that cannot be used leaves the anchors as they are, and is logged once.
func (s *Source) reloadFile() {
	err := s.loadFile()
	s.mu.Lock()
	text := ""
	if err != nil {
		text = err.Error()
	}
	told := text == s.fileError
	s.fileError = text
	s.mu.Unlock()
	if err != nil && !told {
		s.options.Log.Error("the changed trust anchors are not used; the former ones stay in force until the file is right", "app", s.options.AppID, "error", err)
	}
}

// adopt takes over the trust anchors that Sentry sent with a certificate, in place of those sent before. verified are the
// anchors that proved Sentry's own identity on the connection: one of them has to be among those sent. Anchors that this
// process was started with are never given up.
func (s *Source) adopt(sent [][]byte, verified []*x509.Certificate) {
	if s.options.TrustAnchorsFile != "" || len(sent) == 0 {
		return
	}
	anchors, err := ParseAnchors(bytes.Join(sent, []byte("\n")))
	if err == nil && len(anchors) > maxAdopted {
		err = fmt.Errorf("%d are more than %d", len(anchors), maxAdopted)
	}
	if err == nil {
		for _, a := range anchors {
			if serr := a.CheckSignatureFrom(a); serr != nil {
				err = fmt.Errorf("that of %q is not self-signed: %w", a.Subject, serr)
				break
			}
		}
	}
	if err == nil && !slices.ContainsFunc(anchors, func(a *x509.Certificate) bool { return contains(verified, a) }) {
		err = errors.New("none of them is the one that Sentry itself was verified by")
	}
	if err != nil {
		s.options.Log.Warn("the trust anchors that Sentry sent are not taken over", "sentry", s.options.SentryAddress, "error", err)
		return
	}
	s.mu.Lock()
	s.adopted = anchors
	s.mu.Unlock()
	s.publishAnchors()
}

func contains(list []*x509.Certificate, c *x509.Certificate) bool {
	return slices.ContainsFunc(list, c.Equal)
}

// publishAnchors makes the present anchors known, if they have changed.
func (s *Source) publishAnchors() {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := slices.Clone(s.configured)
	for _, a := range s.adopted {
		if !contains(now, a) {
			now = append(now, a)
		}
	}
	old := s.anchors.Load()
	if old != nil && slices.EqualFunc(*old, now, (*x509.Certificate).Equal) {
		return
	}
	s.anchors.Store(&now)
	if old != nil {
		s.options.Log.Info("the trust anchors have changed", "app", s.options.AppID, "before", len(*old), "now", len(now))
	}
}
