// Command dapr runs apps with their sidecars.
package main

import (
	"os"

	"outrigger.dev/cli"
)

// Set with -ldflags "-X main.version=...".
var (
	version    = "edge"
	commit     string
	gitVersion string
)

func main() {
	os.Exit(cli.Main(cli.Program{
		Version: version, Commit: commit, GitVersion: gitVersion,
		Args: os.Args[1:], Stdin: os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr,
	}))
}
