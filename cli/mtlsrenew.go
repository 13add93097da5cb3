package cli

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/spf13/cobra"

	"outrigger.dev/controlplane/sentry/ca"
)

// renewFlags are those of renew-certificate (Dapr CLI, mtls).
type renewFlags struct {
	*mtlsFlags
	rootKey                            string
	root, issuerKey, issuerCertificate string
	days, timeout                      uint
	restart                            bool
	imageVariant                       string
	issuerOnly, atOnce, adopt          bool
}

func (f *mtlsFlags) renewCommand() *cobra.Command {
	r := &renewFlags{mtlsFlags: f}
	cmd := &cobra.Command{
		Use:     "renew-certificate",
		Aliases: []string{"renew-cert", "rnc"},
		Short:   "Renew the certificates of the authority, or provide others",
		Long: `Renew the certificates of the authority, or provide others. Without flags there is a new issuer at once, and a new root that every
sidecar trusts from now on and that takes over later, so that no call fails; dapr mtls tells when. Sentry and the sidecars that
dapr run has started take everything up while they run.`,
		Example: `  dapr mtls renew-certificate
  dapr mtls renew-certificate --issuer-only --valid-until 90
  dapr mtls renew-certificate --at-once
  dapr mtls renew-certificate --private-key root.key
  dapr mtls renew-certificate --ca-root-certificate ca.crt --issuer-public-certificate issuer.crt --issuer-private-key issuer.key`,
		Args: cobra.NoArgs,
		RunE: f.run(func(ctx context.Context) error {
			if err := r.renew(ctx); err != nil {
				return fmt.Errorf("certificate rotation failed: %w", err)
			}
			return nil
		}),
	}
	s := cmd.Flags()
	s.StringVar(&r.rootKey, "private-key", "", "PEM file of the private key for a new root")
	s.StringVar(&r.root, "ca-root-certificate", "", "PEM file of the root to use")
	s.StringVar(&r.issuerCertificate, "issuer-public-certificate", "", "PEM file of the issuer to use, with what leads from it to the root")
	s.StringVar(&r.issuerKey, "issuer-private-key", "", "PEM file of the private key of the issuer to use")
	s.UintVar(&r.days, "valid-until", 365, "For how many days what is made is valid")
	s.UintVar(&r.timeout, "timeout", 300, "Seconds that the renewal may take")
	s.BoolVar(&r.restart, "restart", false, "Restart the control plane (not needed: Sentry takes up what is new)")
	s.StringVar(&r.imageVariant, "image-variant", "", "The variant of images (of a Kubernetes cluster)")
	s.BoolVar(&r.issuerOnly, "issuer-only", false, "Leave the root as it is")
	s.BoolVar(&r.atOnce, "at-once", false, "Have the new root sign at once, and drop the present one if the new one is provided; calls may fail until everybody knows it")
	s.BoolVar(&r.adopt, "adopt", false, "Let Sentry renew by itself what was provided, beginning with a new root")
	return cmd
}

// checkFlags tells which flags do not go together.
func (r *renewFlags) checkFlags() error {
	given := 0
	for _, file := range []string{r.root, r.issuerKey, r.issuerCertificate} {
		if file != "" {
			given++
		}
	}
	switch {
	case given != 0 && given != 3:
		return errors.New("--ca-root-certificate, --issuer-private-key and --issuer-public-certificate go together: give all of them or none")
	case given != 0 && r.rootKey != "":
		return errors.New("--private-key makes a new root, and --ca-root-certificate brings one: give one of them")
	case r.issuerOnly && (given != 0 || r.rootKey != "" || r.atOnce || r.adopt):
		return errors.New("--issuer-only leaves the root as it is: leave out the flags for another root")
	case r.adopt && (given != 0 || r.rootKey != ""):
		return errors.New("--adopt is for certificates that are there: leave out those that you provide")
	case r.days == 0 || r.days > maxDays:
		return fmt.Errorf("--valid-until is %d: it must be between 1 and %d days", r.days, maxDays)
	case r.timeout == 0:
		return errors.New("--timeout is 0: it must be at least 1 second")
	}
	return nil
}

// maxDays bounds the life of what is made: dates in certificates end with the year 9999, and a duration with some 290 years.
const maxDays = 36500

func (r *renewFlags) renew(ctx context.Context) error {
	if err := r.checkFlags(); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, time.Duration(r.timeout)*time.Second)
	defer cancel()
	m, err := r.find()
	if err != nil {
		return err
	}
	if r.imageVariant != "" {
		r.print.info("--image-variant has no meaning on this machine")
	}
	life := time.Duration(r.days) * 24 * time.Hour
	m.settings.RootTTL, m.settings.IssuerTTL = life, life
	var changes []string
	switch {
	case r.root != "":
		changes, err = r.provideFiles(ctx, m)
	case r.rootKey != "":
		changes, err = r.newRootOf(ctx, m)
	default:
		if _, err := m.read(ctx); err != nil {
			return err
		}
		asked := ca.Request{Issuer: !r.atOnce, Root: !r.issuerOnly, AtOnce: r.atOnce, Adopt: r.adopt}
		changes, err = ca.Renew(ctx, m.store(), m.settings, time.Now(), asked)
	}
	if err != nil {
		return err
	}
	a, err := m.read(ctx)
	if err != nil {
		return err
	}
	for _, change := range changes {
		r.print.info("%s", change)
	}
	if len(changes) == 0 {
		r.print.info("nothing had to be changed")
	}
	r.print.success("Certificate rotation is successful! Your new certificate is valid through %s", a.bundle.Issuer().NotAfter.Format(time.RFC1123))
	if m.sentry != nil {
		r.print.info("The local Sentry and the sidecars of dapr run take it up by themselves.")
	} else if ownSentry(os.LookupEnv) || r.restart {
		r.print.info("A Sentry that uses %s takes it up by itself. Sidecars that were given the roots by DAPR_TRUST_ANCHORS learn of new ones from Sentry with their next certificate.", m.directory)
	}
	r.warnExpiry(m, a)
	return nil
}
