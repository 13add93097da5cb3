// Command daprd is the sidecar.
package main

import (
	"os"
	"runtime/debug"

	"outrigger.dev/sidecar/daprd"
)

// Set with -ldflags "-X main.version=...".
var (
	version    = "edge"
	commit     string
	gitVersion string
)

func main() {
	// A sidecar's heap is a few megabytes: collecting half as often costs little memory and saves up to a tenth of the CPU.
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(200)
	}
	os.Exit(daprd.Main(daprd.Process{
		Build: daprd.Build{Version: version, Commit: commit, GitVersion: gitVersion},
		Args:  os.Args[1:], Stdout: os.Stdout, Stderr: os.Stderr,
	}))
}
