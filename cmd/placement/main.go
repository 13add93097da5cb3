// Command placement is the service of the control plane that tells sidecars where actors live.
package main

import (
	"os"

	"outrigger.dev/controlplane/placement/process"
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
