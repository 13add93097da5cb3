package etcd

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
	"go.etcd.io/etcd/client/pkg/v3/transport"

	"outrigger.dev/identity"
)

// identityFiles are an identity as files, which is how etcd takes one. It reads certificate and key at each handshake, the anchors once.
type identityFiles struct {
	dir     string
	source  identity.Source
	svid    *x509svid.SVID
	anchors []*x509.Certificate
}

// Names of the files. The first one has the certificates and the key, so that a renewal changes both at once.
const (
	identityName = "identity.pem"
	anchorsName  = "ca.crt"
)

// newIdentityFiles writes the source's present identity.
func newIdentityFiles(dir string, source identity.Source) (*identityFiles, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("the directory of --identity-directory-write cannot be made: %w", err)
	}
	// The directory may be in one that all users share.
	info, err := os.Lstat(dir)
	if err == nil && (!info.IsDir() || info.Mode().Perm()&0o022 != 0) {
		err = fmt.Errorf("%q is not a directory that only its owner can write to", dir)
	}
	if err != nil {
		return nil, fmt.Errorf("the directory of --identity-directory-write cannot be used: %w", err)
	}
	f := &identityFiles{dir: dir, source: source}
	_, err = f.write()
	return f, err
}

// write brings the files up to date, and reports whether the anchors are others than before.
func (f *identityFiles) write() (rooted bool, err error) {
	svid, err := f.source.SVID()
	if err != nil {
		return false, fmt.Errorf("there is no certificate of this process's identity: %w", err)
	}
	if svid != f.svid {
		var text bytes.Buffer
		certificates, key, err := svid.Marshal()
		if err != nil {
			return false, err
		}
		text.Write(certificates)
		text.Write(key)
		if err := replace(filepath.Join(f.dir, identityName), text.Bytes()); err != nil {
			return false, err
		}
		f.svid = svid
	}
	if anchors := f.source.TrustAnchors(); !slices.EqualFunc(anchors, f.anchors, (*x509.Certificate).Equal) {
		var text bytes.Buffer
		for _, a := range anchors {
			if err := pem.Encode(&text, &pem.Block{Type: "CERTIFICATE", Bytes: a.Raw}); err != nil {
				return false, err
			}
		}
		if err := replace(filepath.Join(f.dir, anchorsName), text.Bytes()); err != nil {
			return false, err
		}
		rooted = f.anchors != nil
		f.anchors = anchors
	}
	return rooted, nil
}

// replace writes a file at once, readable by its owner.
func replace(path string, text []byte) error {
	temporary, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+"-*")
	if err != nil {
		return fmt.Errorf("the identity cannot be written: %w", err)
	}
	_, err = temporary.Write(text)
	if err = errors.Join(err, temporary.Close()); err == nil {
		err = os.Rename(temporary.Name(), path)
	}
	if err != nil {
		os.Remove(temporary.Name())
		return fmt.Errorf("the identity cannot be written: %w", err)
	}
	return nil
}

// configure has etcd's peers prove their identity, which has to have one of the names.
func (f *identityFiles) configure(t *transport.TLSInfo, names []string) {
	t.CertFile, t.KeyFile = filepath.Join(f.dir, identityName), filepath.Join(f.dir, identityName)
	t.TrustedCAFile = filepath.Join(f.dir, anchorsName)
	t.ClientCertAuth = true
	t.AllowedHostnames = names
	// The names count, whatever address a peer calls from.
	t.SkipClientSANVerify = true
}

// How often the identity is looked at, and how long members leave each other to restart.
const (
	identityPoll = 5 * time.Second
	restartSpan  = time.Minute
)

// renew keeps the files up to date until the context ends. etcd never reads its trust anchors again: when they change, the members fail one
// after the other, to be started anew.
func (s *Store) renew(ctx context.Context) {
	index, count := s.o.Embedded.members()
	for {
		select {
		case <-s.o.Clock.After(identityPoll):
		case <-ctx.Done():
			return
		}
		rooted, err := s.identity.write()
		if err != nil {
			s.o.Log.Error(fmt.Sprintf("The renewed identity cannot be given to etcd: %s", err))
		}
		if !rooted || count == 1 {
			continue
		}
		wait := time.Duration(index) * restartSpan
		s.o.Log.Warn(fmt.Sprintf("The trust anchors changed: the scheduler ends in %s, to be started with the new ones", wait))
		select {
		case <-s.o.Clock.After(wait):
		case <-ctx.Done():
			return
		}
		s.fail(errors.New("the trust anchors changed, and etcd has to be started anew to use them"))
		return
	}
}
