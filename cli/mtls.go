package cli

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/spf13/cobra"

	"outrigger.dev/controlplane/sentry/ca"
	"outrigger.dev/local"
	"outrigger.dev/resource"
)

// readTimeout bounds reading the credentials, which another process may have locked.
const readTimeout = 30 * time.Second

// mtlsFlags are those of all subcommands of mtls.
type mtlsFlags struct {
	*command
	directory, config string
	kubernetes        bool
}

func (c *command) mtlsCommand() *cobra.Command {
	f := &mtlsFlags{command: c}
	var output string
	cmd := &cobra.Command{
		Use:   "mtls",
		Short: "Tell whether mTLS is on, inspect and renew the certificates of its authority",
		Long: `Tell whether mTLS is on, and show the certificate authority of this machine: its roots and its issuer, how long they are valid,
and when they renew themselves. An authority that Sentry has generated renews itself as long as a Sentry uses it; one that was
provided does not.`,
		Example: `  dapr mtls                              what there is
  dapr mtls check                        whether all of it is in order
  dapr mtls expiry                       when the root certificate expires
  dapr mtls export -o ./certs            copy the credentials, for another machine
  dapr mtls renew-certificate            a new issuer, and a new root that takes over later`,
		Args: cobra.NoArgs,
		RunE: f.run(func(ctx context.Context) error {
			switch output {
			case "table", "", "json", "yaml":
			default:
				f.print.failure("An invalid output format was specified.")
				return failed()
			}
			return f.show(ctx, output)
		}),
	}
	p := cmd.PersistentFlags()
	p.StringVar(&f.directory, "directory", "", "Directory of the credentials (default: certs in the runtime directory)")
	p.StringVarP(&f.config, "config", "c", "", "Configuration file (default: config.yaml in the runtime directory)")
	p.BoolVarP(&f.kubernetes, "kubernetes", "k", false, "The mTLS of a Kubernetes cluster (not available in this version)")
	cmd.Flags().StringVarP(&output, "output", "o", "table", "table, json or yaml")
	cmd.AddCommand(f.exportCommand(), f.expiryCommand(), f.renewCommand(), f.checkCommand())
	return cmd
}

// run makes a cobra function of one that returns what is to be said of a failure.
func (f *mtlsFlags) run(do func(ctx context.Context) error) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, _ []string) error {
		if f.kubernetes {
			f.print.failure("mTLS of a Kubernetes cluster is not available in this version; leave --kubernetes out for that of this machine")
			return failed()
		}
		err := do(cmd.Context())
		if _, said := errors.AsType[*exitError](err); err != nil && !said {
			f.print.failure("%s", err)
			return failed()
		}
		return err
	}
}

// machine is what the commands find on this machine.
type machine struct {
	// directory has the credentials, and config is the file of the Configuration.
	directory, config string
	// mtls is what the Configuration says; configErr is why it cannot be read.
	mtls      *resource.MTLS
	configErr error
	// sentry is the local one if it uses the directory, nil if there is none.
	sentry *local.Sentry
	// settings are those of the authority, as far as they are known.
	settings ca.Settings
}

// find looks at the Configuration, the directory and the local services.
func (f *mtlsFlags) find() (*machine, error) {
	runtime, err := runtimeDir(f.runtimePath)
	if err != nil {
		return nil, err
	}
	m := &machine{directory: credentialsDir(runtime), config: configFile(runtime), mtls: &resource.MTLS{}}
	if f.directory != "" {
		if m.directory, err = absolute(f.directory); err != nil {
			return nil, err
		}
	}
	if f.config != "" {
		m.config = f.config
	}
	if f.config != "" || exists(m.config) {
		var config *resource.Configuration
		if config, _, m.configErr = resource.LoadConfiguration([]string{m.config}, os.LookupEnv); m.configErr == nil {
			m.mtls = &config.Spec.MTLS
		}
	}
	settings, err := local.NewSentrySettings(m.directory, m.mtls)
	if err != nil && m.configErr == nil {
		m.configErr = err
	}
	if p, err := local.Find(localDir(runtime)); err == nil && p != nil && p.Sentry != nil && p.Sentry.Request.Credentials == m.directory {
		m.sentry = p.Sentry
		settings = p.Sentry.Request.SentrySettings
	}
	m.settings = settings.Authority()
	// What is there may be of another Sentry's trust domain, which the issuer tells.
	m.settings.TrustDomain, m.settings.Namespace = "", ""
	return m, nil
}

func (m *machine) store() *ca.Files { return &ca.Files{Directory: m.directory} }

// authority is what the directory holds.
type authority struct {
	*ca.Description
	documents ca.Documents
	bundle    *ca.Bundle
}

// read reads the directory. Without credentials the error is [ca.ErrNoCredentials].
func (m *machine) read(ctx context.Context) (*authority, error) {
	ctx, cancel := context.WithTimeout(ctx, readTimeout)
	defer cancel()
	documents, err := m.store().Load(ctx)
	if err != nil {
		return nil, fmt.Errorf("the credentials in %s cannot be read: %w", m.directory, err)
	}
	a := &authority{documents: documents}
	if a.Description, err = ca.DescribeDocuments(documents, m.settings, time.Now()); errors.Is(err, ca.ErrNoCredentials) {
		return nil, &noCredentialsError{m.directory}
	}
	if err == nil {
		a.bundle, err = ca.Parse(&a.documents)
	}
	if err != nil {
		return nil, fmt.Errorf("the credentials in %s are not usable: %w", m.directory, err)
	}
	return a, nil
}

// noCredentialsError says how to come by credentials.
type noCredentialsError struct{ directory string }

func (e *noCredentialsError) Error() string {
	return fmt.Sprintf("there are no credentials of a certificate authority in %s: run an app with a configuration whose spec.mtls.enabled is true, which makes them, or name their place with --directory", e.directory)
}

// Unwrap is [ca.ErrNoCredentials].
func (e *noCredentialsError) Unwrap() error { return ca.ErrNoCredentials }

// root is the certificate that the issuer is under, with what there is to tell of it.
func (a *authority) root() (*x509.Certificate, ca.RootDescription) {
	for i, r := range a.Roots {
		if r.Signs {
			return a.bundle.Anchors[i], r
		}
	}
	return a.bundle.Anchors[0], a.Roots[0]
}

// mtlsStatus is what mtls tells, in its structured forms.
type mtlsStatus struct {
	Enabled     bool              `json:"enabled"`
	Config      string            `json:"config"`
	Directory   string            `json:"directory"`
	Sentry      string            `json:"sentry,omitempty"`
	Origin      string            `json:"origin,omitempty"`
	Renewing    bool              `json:"selfRenewing"`
	Next        string            `json:"nextRenewal,omitempty"`
	NextAt      string            `json:"nextRenewalAt,omitempty"`
	Problem     string            `json:"problem,omitempty"`
	Credentials []mtlsCertificate `json:"certificates,omitempty"`
}

// mtlsCertificate is a root or the issuer.
type mtlsCertificate struct {
	Kind        string `json:"kind"`
	Subject     string `json:"subject"`
	Serial      string `json:"serial"`
	Fingerprint string `json:"fingerprint"`
	Algorithm   string `json:"algorithm"`
	NotBefore   string `json:"notBefore"`
	NotAfter    string `json:"notAfter"`
	State       string `json:"state,omitempty"`
}

func (f *mtlsFlags) show(ctx context.Context, output string) error {
	m, err := f.find()
	if err != nil {
		return err
	}
	if m.configErr != nil {
		return fmt.Errorf("the configuration %s cannot be used: %w", m.config, m.configErr)
	}
	status := &mtlsStatus{Enabled: m.mtls.Enabled, Config: m.config, Directory: m.directory}
	if m.sentry != nil && m.sentry.Ready {
		status.Sentry = m.sentry.Address()
	}
	a, err := m.read(ctx)
	if err != nil && !errors.Is(err, ca.ErrNoCredentials) {
		return err
	}
	if a != nil {
		status.describe(a, time.Now())
	}
	if output == "json" || output == "yaml" {
		return writeStructured(f.program.Stdout, output, status)
	}
	f.table(status, m, a)
	if a != nil {
		f.warnExpiry(m, a)
	}
	return nil
}

// describe fills in what there is to tell of an authority.
func (s *mtlsStatus) describe(a *authority, now time.Time) {
	s.Origin, s.Renewing = a.Origin.String(), a.SelfRenewing
	if a.Next != nil {
		s.Next, s.NextAt = a.Next.What, stamp(a.Next.At)
	}
	if a.Problem != nil {
		s.Problem = a.Problem.Error()
	}
	add := func(kind, state string, c *x509.Certificate, d ca.CertificateDescription) {
		if now.After(c.NotAfter) {
			state = "expired"
		}
		s.Credentials = append(s.Credentials, mtlsCertificate{
			Kind: kind, Subject: d.Subject, Serial: c.SerialNumber.Text(16), Fingerprint: d.Fingerprint, Algorithm: d.Algorithm,
			NotBefore: stamp(c.NotBefore), NotAfter: stamp(c.NotAfter), State: state,
		})
	}
	for i, r := range a.Roots {
		state := "trusted"
		switch {
		case r.Signs:
			state = "signs the issuer"
		case !r.SignsFrom.IsZero():
			state = "signs from " + stamp(r.SignsFrom)
		}
		add("root", state, a.bundle.Anchors[i], r.CertificateDescription)
	}
	add("issuer", "signs", a.bundle.Issuer(), a.Issuer)
}

func stamp(t time.Time) string { return t.UTC().Format(time.RFC3339) }

func (f *mtlsFlags) table(s *mtlsStatus, m *machine, a *authority) {
	if s.Enabled {
		f.print.plain("Mutual TLS is enabled for apps with the configuration %s\n", s.Config)
	} else {
		f.print.plain("Mutual TLS is disabled for apps with the configuration %s, since its spec.mtls.enabled is not true\n", s.Config)
	}
	switch {
	case ownSentry(os.LookupEnv):
		f.print.plain("Sentry: your own at %s, since the environment names trust anchors\n", ownSentryAddress)
	case s.Sentry != "":
		f.print.plain("Sentry: %s, in the local services\n", s.Sentry)
	case m.sentry != nil && m.sentry.Error != "":
		f.print.plain("Sentry: does not run: %s\n", m.sentry.Error)
	default:
		f.print.plain("Sentry: does not run; the next dapr run with mTLS starts it\n")
	}
	if a == nil {
		f.print.plain("Credentials: none in %s; the next dapr run with mTLS makes them\n", s.Directory)
		return
	}
	f.print.plain("Credentials: %s, %s\n", s.Directory, s.Origin)
	switch {
	case s.Next != "":
		f.print.plain("Renewal: by itself; next: %s on %s\n", s.Next, s.NextAt)
	default:
		f.print.plain("Renewal: not by itself; provide other certificates with dapr mtls renew-certificate before they expire\n")
	}
	f.print.plain("\n")
	var rows [][]string
	for _, c := range s.Credentials {
		// The first digits tell serial numbers apart; all of them are in the structured forms.
		serial := c.Serial
		if len(serial) > serialWidth {
			serial = serial[:serialWidth] + "..."
		}
		rows = append(rows, []string{c.Kind, c.Subject, serial, c.Algorithm, c.NotBefore, c.NotAfter, c.State})
	}
	writeTable(f.program.Stdout, []string{"KIND", "SUBJECT", "SERIAL", "ALGORITHM", "NOT BEFORE", "NOT AFTER", "STATE"}, rows)
}

// serialWidth is how much of a serial number the table shows.
const serialWidth = 16

// soon is how long before the end of a certificate that does not renew itself it is warned of (Dapr CLI, exit codes).
const soon = 30 * 24 * time.Hour

// warnExpiry warns of a root that is about to expire and is not renewed (Dapr CLI, exit codes).
func (f *mtlsFlags) warnExpiry(m *machine, a *authority) {
	root, _ := a.root()
	left := time.Until(root.NotAfter)
	if left >= soon || a.SelfRenewing && a.Problem == nil && left > 0 {
		return
	}
	when := fmt.Sprintf("expires in %d days.", int(left.Hours()/24))
	switch {
	case left <= 0:
		when = "has expired."
	case left < 24*time.Hour:
		when = "expires today."
	}
	f.print.warning("Dapr root certificate in %s %s Expiry date: %s. Renew it with `dapr mtls renew-certificate` to avoid service interruptions.",
		m.directory, when, root.NotAfter.Format(time.RFC1123))
}
