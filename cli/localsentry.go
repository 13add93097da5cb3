package cli

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	"outrigger.dev/identity/workload"
	"outrigger.dev/local"
)

// ownSentryAddress is where a Sentry of the user's own is expected (Dapr CLI, run: flags). The local one is never there: it is where
// sidecars have their gRPC API unless told otherwise.
const ownSentryAddress = "localhost:50001"

// credentialsDir is the directory of the certificate authority (Dapr, self-hosted mTLS).
func credentialsDir(runtimeDir string) string { return filepath.Join(runtimeDir, "certs") }

// ownSentry tells whether the user says whom to trust, and so runs a Sentry of their own.
func ownSentry(lookup func(string) (string, bool)) bool {
	anchors, _ := lookup(workload.EnvTrustAnchors)
	file, _ := lookup(workload.EnvTrustAnchorsFile)
	return anchors != "" || file != ""
}

// startSentry has the local Sentry run when the configuration of the app asks for mTLS, unless there is another one.
func (c *command) startSentry(ctx context.Context, a *appSpec) error {
	mtls := a.mtls()
	if mtls == nil || ownSentry(os.LookupEnv) {
		return nil
	}
	settings, err := local.NewSentrySettings(credentialsDir(a.runtimeDir), mtls)
	if err != nil {
		return fmt.Errorf("the configuration %s enables mTLS: %w", a.config, err)
	}
	launch, err := localLaunch(a.runtimeDir, 0)
	if err != nil {
		return err
	}
	p, started, err := local.EnsureSentry(ctx, launch, settings)
	if err != nil {
		return fmt.Errorf("the configuration %s enables mTLS: %w", a.config, err)
	}
	if started {
		c.print.info("Started the local services in the background (process %d). They run on after the apps; dapr local stop ends them.", p.PID)
	}
	a.sentry = p.Sentry
	c.print.info("mTLS is enabled. Certificates are from the local Sentry %s, whose credentials are in %s.", p.Sentry.Address(), settings.Credentials)
	return nil
}

// trustOf is the environment by which a sidecar trusts the local Sentry. The file is watched by the sidecar, so it knows new roots
// when they are announced.
func trustOf(s *local.Sentry) []string {
	return []string{
		workload.EnvTrustAnchorsFile + "=" + s.Request.Anchors(),
		workload.EnvControlPlaneTrustDomain + "=" + local.SentryTrustDomain,
		workload.EnvControlPlaneNamespace + "=" + local.SentryNamespace,
	}
}
