package cli

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"time"

	"github.com/spf13/cobra"

	"outrigger.dev/controlplane/sentry/ca"
	"outrigger.dev/identity/workload"
)

func (f *mtlsFlags) checkCommand() *cobra.Command {
	return &cobra.Command{
		Use: "check", Short: "Check that configuration, credentials and Sentry fit together", Args: cobra.NoArgs,
		Long: `Check that configuration, credentials and Sentry fit together: that every trust anchor is self-signed, that the issuer leads to one
of them and has its key, that nothing has expired or is about to, that nobody else can read the keys, and that the trust anchors
of the environment are those of the issuer. The exit code is 1 when something is wrong; warnings do not count.`,
		RunE: f.run(func(ctx context.Context) error {
			m, err := f.find()
			if err != nil {
				return err
			}
			v := &verdict{}
			m.check(ctx, v, os.LookupEnv, time.Now())
			for _, text := range v.fine {
				f.print.success("%s", text)
			}
			for _, text := range v.warnings {
				f.print.warning("%s", text)
			}
			for _, text := range v.wrong {
				f.print.failure("%s", text)
			}
			if len(v.wrong) > 0 {
				return failed()
			}
			return nil
		}),
	}
}

// verdict is what a check has found.
type verdict struct{ fine, warnings, wrong []string }

func (v *verdict) ok(format string, args ...any) {
	v.fine = append(v.fine, fmt.Sprintf(format, args...))
}

func (v *verdict) warn(format string, args ...any) {
	v.warnings = append(v.warnings, fmt.Sprintf(format, args...))
}

func (v *verdict) bad(format string, args ...any) {
	v.wrong = append(v.wrong, fmt.Sprintf(format, args...))
}

func (m *machine) check(ctx context.Context, v *verdict, lookup func(string) (string, bool), now time.Time) {
	switch {
	case m.configErr != nil:
		v.bad("The configuration %s cannot be used: %s", m.config, m.configErr)
	case m.mtls.Enabled:
		v.ok("The configuration %s enables mTLS", m.config)
	default:
		v.warn("mTLS is off: set spec.mtls.enabled to true in %s", m.config)
	}
	a, err := m.read(ctx)
	switch {
	case errors.Is(err, ca.ErrNoCredentials):
		m.checkMissing(v)
	case err != nil:
		v.bad("%s", err)
	default:
		v.ok("The credentials in %s fit together: all trust anchors (%d) are self-signed, the issuer leads to one of them, and its key is its own", m.directory, len(a.Roots))
		m.checkTimes(v, a, now)
		m.checkEnvironment(v, a, lookup)
	}
	m.checkModes(v)
	switch {
	case ownSentry(lookup) || m.sentry == nil:
	case m.sentry.Error != "":
		v.bad("The local Sentry does not run: %s", m.sentry.Error)
	case m.sentry.Ready:
		v.ok("The local Sentry runs at %s", m.sentry.Address())
	}
}

// checkMissing tells which documents there are not.
func (m *machine) checkMissing(v *verdict) {
	var missing []string
	for _, name := range []string{ca.AnchorsName, ca.IssuerName, ca.IssuerKeyName} {
		if info, err := os.Stat(filepath.Join(m.directory, name)); err != nil || info.Size() == 0 {
			missing = append(missing, name)
		}
	}
	if len(missing) == 3 {
		v.warn("There are no credentials in %s yet; the first dapr run with mTLS makes them", m.directory)
		return
	}
	v.bad("In %s there is no %q: provide all of %s, %s and %s, or remove those that are there to have Sentry make new ones", m.directory, missing, ca.AnchorsName, ca.IssuerName, ca.IssuerKeyName)
}

// checkTimes looks at what has expired or is about to.
func (m *machine) checkTimes(v *verdict, a *authority, now time.Time) {
	root, _ := a.root()
	issuer := a.bundle.Issuer()
	switch {
	case a.Problem != nil:
		v.bad("%s", a.Problem)
	case a.SelfRenewing && a.Next.At.Before(now):
		v.warn("A renewal has been due since %s (%s): no Sentry has used the credentials since, the next one does it", stamp(a.Next.At), a.Next.What)
	case a.SelfRenewing:
		v.ok("The authority renews itself; next: %s on %s", a.Next.What, stamp(a.Next.At))
	default:
		for _, c := range []struct {
			kind string
			*x509.Certificate
		}{{"root", root}, {"issuer", issuer}} {
			if left := c.NotAfter.Sub(now); left < soon {
				v.warn("The %s %q does not renew itself and expires in %d days, on %s: provide another with `dapr mtls renew-certificate`", c.kind, c.Subject, int(left.Hours()/24), stamp(c.NotAfter))
			}
		}
		v.ok("The authority was provided; the root is valid until %s, the issuer until %s", stamp(root.NotAfter), stamp(issuer.NotAfter))
	}
	for _, c := range a.bundle.Anchors {
		if !c.Equal(root) && now.After(c.NotAfter) {
			v.warn("The trust anchor %q expired on %s and is of no use any more: remove it from %s", c.Subject, stamp(c.NotAfter), ca.AnchorsName)
		}
	}
	if a.Problem == nil && issuer.NotAfter.Sub(now) < m.settings.WorkloadTTL {
		v.warn("The issuer expires on %s, before the certificates of %s that it issues", stamp(issuer.NotAfter), m.settings.WorkloadTTL)
	}
}

// checkEnvironment looks at the trust anchors that sidecars would get from the environment.
func (m *machine) checkEnvironment(v *verdict, a *authority, lookup func(string) (string, bool)) {
	name, from := workload.EnvTrustAnchors, ""
	text, _ := lookup(name)
	if text == "" {
		name = workload.EnvTrustAnchorsFile
		if from, _ = lookup(name); from == "" {
			return
		}
		read, err := os.ReadFile(from)
		if err != nil {
			v.bad("The trust anchors of the environment variable %s: %s", name, err)
			return
		}
		text = string(read)
	}
	anchors, err := workload.ParseAnchors([]byte(text))
	if err != nil {
		v.bad("The trust anchors of the environment variable %s: %s", name, err)
		return
	}
	root, _ := a.root()
	for _, c := range anchors {
		if c.Equal(root) {
			v.ok("The trust anchors of the environment variable %s have the root of the issuer", name)
			return
		}
	}
	v.bad("The trust anchors of the environment variable %s do not have the root %q of the issuer, so sidecars would not trust its Sentry: use %s, or unset it", name, root.Subject, filepath.Join(m.directory, ca.AnchorsName))
}

// checkModes looks at who can read the keys.
func (m *machine) checkModes(v *verdict) {
	if runtime.GOOS == "windows" {
		return
	}
	for _, name := range []string{ca.IssuerKeyName, ca.RecordName, ca.JWTKeyName} {
		path := filepath.Join(m.directory, name)
		if info, err := os.Stat(path); err == nil && info.Mode().Perm()&0o077 != 0 {
			v.bad("Others than its user can use the secret file %s (mode %o): chmod 600 %s", path, info.Mode().Perm(), path)
		}
	}
}
