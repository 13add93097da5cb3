// Command scheduler is the service of the control plane that keeps jobs and reminders and triggers them in time.
package main

import (
	"os"

	"outrigger.dev/controlplane/scheduler/process"
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
