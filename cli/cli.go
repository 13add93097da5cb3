// Package cli is the dapr command: it starts apps with their sidecars on this machine, finds, calls and stops them, and checks
// resource files (Dapr CLI).
package cli

import (
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"
)

// Exit codes (Dapr CLI, exit codes).
const (
	exitOK      = 0
	exitFailure = 1
	exitUsage   = 255
)

// Program is what the command gets from the system and from its build.
type Program struct {
	// Version, Commit and GitVersion say what the program was built from.
	Version, Commit, GitVersion string
	// Args are the arguments without the program's name.
	Args []string
	// Stdin, Stdout and Stderr are inherited by apps where they are files.
	Stdin          io.Reader
	Stdout, Stderr io.Writer
}

// exitError ends the command with a code; what there was to say has been said.
type exitError struct{ code int }

func (e *exitError) Error() string { return fmt.Sprintf("exit code %d", e.code) }

// failed ends a command with exit code 1.
func failed() error { return &exitError{code: exitFailure} }

// command is what all subcommands share.
type command struct {
	program     Program
	print       *printer
	runtimePath string
	logAsJSON   bool
}

// Main runs the command and returns its exit code: 0, 1 for a failure, 255 for wrong usage, or that of an app where a command says so.
func Main(p Program) int {
	if p.Version == "" {
		p.Version = "edge"
	}
	c := &command{program: p, print: &printer{out: p.Stdout, err: p.Stderr, symbols: symbolsWanted}}
	root := c.root()
	root.SetArgs(p.Args)
	root.SetIn(p.Stdin)
	root.SetOut(p.Stdout)
	root.SetErr(p.Stderr)
	executed, err := root.ExecuteC()
	if err == nil {
		return exitOK
	}
	if e, ok := errors.AsType[*exitError](err); ok {
		return e.code
	}
	fmt.Fprintf(p.Stderr, "Error: %s\n%s\n", err, executed.UsageString())
	fmt.Fprintln(p.Stdout, err)
	return exitUsage
}

func (c *command) root() *cobra.Command {
	var version bool
	root := &cobra.Command{
		Use:           "dapr",
		Short:         "Run and inspect apps with their Dapr sidecars",
		Long:          "dapr runs apps with their Dapr sidecars on this machine, and lists, calls and stops them.",
		Args:          cobra.NoArgs,
		SilenceErrors: true,
		SilenceUsage:  true,
		PersistentPreRun: func(*cobra.Command, []string) {
			c.print.json = c.logAsJSON
		},
		RunE: func(cmd *cobra.Command, _ []string) error {
			if version {
				return c.printVersion("")
			}
			return cmd.Help()
		},
	}
	root.Flags().BoolVarP(&version, "version", "v", false, "Print the versions of the command and of the sidecar")
	root.PersistentFlags().BoolVar(&c.logAsJSON, "log-as-json", false, "Print status lines as JSON objects")
	root.PersistentFlags().StringVar(&c.runtimePath, "runtime-path", "", "The directory that holds .dapr (default: DAPR_RUNTIME_PATH, or the home directory)")
	root.AddCommand(c.runCommand(), c.stopCommand(), c.listCommand(), c.invokeCommand(), c.publishCommand(), c.componentsCommand(), c.localCommand(), c.mtlsCommand(), c.versionCommand(), c.buildInfoCommand())
	root.InitDefaultHelpCmd()
	root.InitDefaultCompletionCmd()
	return root
}

// runtimeDir is the runtime directory for a --runtime-path or run file setting; empty takes the environment's, or the home directory
// (Dapr CLI, runtime directory layout).
func runtimeDir(root string) (string, error) {
	if root == "" {
		root = os.Getenv("DAPR_RUNTIME_PATH")
	}
	if root == "" {
		home, err := os.UserHomeDir()
		if err != nil {
			return "", fmt.Errorf("the runtime directory cannot be found, since there is no home directory: %w; give --runtime-path", err)
		}
		root = home
	}
	return absolute(root, ".dapr")
}
