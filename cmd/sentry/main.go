// Command sentry is the certificate authority of the control plane.
package main

import (
	"os"

	"outrigger.dev/controlplane/sentry/process"
)

// Set with -ldflags "-X main.version=...".
var (
	version = "edge"
	commit  string
)

func main() {
	os.Exit(process.Main(process.Process{
		Version: version, Commit: commit, Args: os.Args[1:], Stdout: os.Stdout, Stderr: os.Stderr,
	}))
}
