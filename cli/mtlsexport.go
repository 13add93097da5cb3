package cli

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"outrigger.dev/controlplane/sentry/ca"
)

func (f *mtlsFlags) exportCommand() *cobra.Command {
	var out string
	cmd := &cobra.Command{
		Use: "export", Short: "Copy the root, the issuer and its private key to a directory", Args: cobra.NoArgs,
		Example: "  dapr mtls export -o ./certs",
		RunE: f.run(func(ctx context.Context) error {
			err := f.export(ctx, out)
			if err != nil {
				return fmt.Errorf("error exporting trust chain certs: %w", err)
			}
			return nil
		}),
	}
	cmd.Flags().StringVarP(&out, "out", "o", ".", "The directory, which is made if it is not there")
	return cmd
}

func (f *mtlsFlags) export(ctx context.Context, out string) error {
	m, err := f.find()
	if err != nil {
		return err
	}
	a, err := m.read(ctx)
	if err != nil {
		return err
	}
	dir, err := absolute(out)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	if sameDirectory(dir, m.directory) {
		return fmt.Errorf("%s is the directory of the credentials itself; name another one with --out", dir)
	}
	for name, document := range map[string][]byte{
		ca.AnchorsName: a.documents.Anchors, ca.IssuerName: a.documents.IssuerChain, ca.IssuerKeyName: a.documents.IssuerKey,
	} {
		if err := writeSecret(filepath.Join(dir, name), document); err != nil {
			return err
		}
	}
	f.print.success("Trust certs successfully exported to %s", dir)
	f.warnExpiry(m, a)
	return nil
}

func sameDirectory(a, b string) bool {
	first, err := os.Stat(a)
	second, otherErr := os.Stat(b)
	return err == nil && otherErr == nil && os.SameFile(first, second)
}

// writeSecret replaces a file, which only its user may read.
func writeSecret(path string, data []byte) error {
	aside, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+"-") // of mode 0600
	if err != nil {
		return err
	}
	_, err = aside.Write(data)
	if err = errors.Join(err, aside.Close()); err == nil {
		err = os.Rename(aside.Name(), path)
	}
	if err != nil {
		_ = os.Remove(aside.Name())
	}
	return err
}

// expiryCommand has the exit code 0 when it fails, too (Dapr CLI, exit codes).
func (f *mtlsFlags) expiryCommand() *cobra.Command {
	return &cobra.Command{
		Use: "expiry", Short: "Tell when the root certificate expires", Args: cobra.NoArgs,
		RunE: f.run(func(ctx context.Context) error {
			m, err := f.find()
			var a *authority
			if err == nil {
				a, err = m.read(ctx)
			}
			if err != nil {
				f.print.failure("error getting root cert expiry: %s", err)
				return nil
			}
			root, _ := a.root()
			left := int(time.Until(root.NotAfter).Hours())
			f.print.plain("Root certificate expires in %d hours. Expiry date: %s", left, root.NotAfter)
			return nil
		}),
	}
}
