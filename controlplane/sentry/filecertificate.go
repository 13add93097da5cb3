package sentry

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"time"

	"github.com/jonboulle/clockwork"
)

// fileCertificate is a server's certificate that is read again when its files change.
type fileCertificate struct {
	certFile, keyFile string
	clock             clockwork.Clock
	log               *slog.Logger

	mu      sync.Mutex
	present *tls.Certificate
	stamp   [2]fileStamp
	looked  time.Time
}

// fileStamp tells one state of a file from another.
type fileStamp struct {
	modified time.Time
	size     int64
}

// certificateWait is how often files that do not exist yet are looked for, certificatePoll how often they are looked at afterwards.
const (
	certificateWait = 5 * time.Second
	certificatePoll = time.Second
)

// await waits until the files can be used (Dapr API, Sentry: OIDC server).
func (f *fileCertificate) await(ctx context.Context) error {
	for warned := false; ; warned = true {
		_, err := f.get(nil)
		if err == nil {
			return nil
		}
		if !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("the certificate of the OIDC server is not usable: %w", err)
		}
		if !warned {
			f.log.Warn("The OIDC server waits for its certificate", "error", err)
		}
		select {
		case <-f.clock.After(certificateWait):
		case <-ctx.Done():
			return nil
		}
	}
}

// get is the certificate of the server's TLS configuration. After a change that cannot be used the previous one stays.
func (f *fileCertificate) get(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	now := f.clock.Now()
	if f.present != nil && now.Sub(f.looked) < certificatePoll {
		return f.present, nil
	}
	f.looked = now
	stamp, err := f.stamps()
	if err == nil && (f.present == nil || stamp != f.stamp) {
		var pair tls.Certificate
		if pair, err = tls.LoadX509KeyPair(f.certFile, f.keyFile); err == nil {
			f.present, f.stamp = &pair, stamp
		}
	}
	switch {
	case err == nil:
	case f.present == nil:
		return nil, err
	default:
		f.log.Error("The changed certificate of the OIDC server is not usable; the previous one stays", "error", err)
	}
	return f.present, nil
}

func (f *fileCertificate) stamps() (s [2]fileStamp, err error) {
	for i, path := range []string{f.certFile, f.keyFile} {
		info, err := os.Stat(path)
		if err != nil {
			return s, err
		}
		s[i] = fileStamp{info.ModTime(), info.Size()}
	}
	return s, nil
}
