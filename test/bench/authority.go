package main

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"time"

	sentryv1 "outrigger.dev/api/gen/sentry/v1"
	"outrigger.dev/controlplane/sentry"
	"outrigger.dev/controlplane/sentry/ca"
	"outrigger.dev/controlplane/sentry/validator"
)

// startAuthority runs the certificate authority that the sidecars of a bed have their identities from, inside of this process.
func (b *bench) startAuthority(bed *bed) (address, anchors string, err error) {
	dir := filepath.Join(bed.dir, "credentials")
	started := make(chan sentry.Addresses, 1)
	ended := make(chan error, 1)
	ctx, cancel := context.WithCancel(context.WithoutCancel(b.ctx))
	go func() {
		ended <- sentry.Run(ctx, sentry.Options{
			Settings: ca.Settings{TrustDomain: "localhost", Namespace: "default", ClockSkew: ca.DefaultClockSkew}, Store: &ca.Files{Directory: dir},
			Validators:       map[validator.Name]validator.Validator{sentryv1.SignCertificateRequest_INSECURE: validator.Insecure{}},
			DefaultValidator: sentryv1.SignCertificateRequest_INSECURE,
			ListenAddress:    "127.0.0.1", HealthzListenAddress: "127.0.0.1", Started: func(at sentry.Addresses) { started <- at },
		})
	}()
	bed.authority = func() {
		cancel()
		<-ended
	}
	select {
	case at := <-started:
		text, err := os.ReadFile(filepath.Join(dir, "ca.crt"))
		return at.GRPC.String(), string(text), err
	case err := <-ended:
		bed.authority = nil
		cancel()
		return "", "", err
	case <-time.After(30 * time.Second):
		return "", "", errors.New("the certificate authority did not start within 30 s")
	}
}
