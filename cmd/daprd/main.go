// Command daprd is the sidecar.
package main

import (
	"os"

	"outrigger.dev/sidecar/daprd"
)

// Set with -ldflags "-X main.version=...".
var (
	version    = "edge"
	commit     string
	gitVersion string
)

func main() {
	os.Exit(daprd.Main(daprd.Process{
		Build: daprd.Build{Version: version, Commit: commit, GitVersion: gitVersion},
		Args:  os.Args[1:], Stdout: os.Stdout, Stderr: os.Stderr,
	}))
}
