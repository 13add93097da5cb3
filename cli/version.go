package cli

import (
	"context"
	"os/exec"
	"strings"
	"time"

	"github.com/spf13/cobra"
)

// askBound is how long the sidecar's program may take to tell its version.
const askBound = 5 * time.Second

// unknownVersion stands for the version of a sidecar that cannot be asked.
const unknownVersion = "n/a"

func (c *command) versionCommand() *cobra.Command {
	var output string
	cmd := &cobra.Command{
		Use: "version", Short: "Print the versions of the command and of the sidecar", Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error { return c.printVersion(output) },
	}
	cmd.Flags().StringVarP(&output, "output", "o", "", "json, or empty for text")
	return cmd
}

func (c *command) printVersion(output string) error {
	runtime := unknownVersion
	if text, err := c.askDaprd("--version"); err == nil {
		runtime = strings.ReplaceAll(strings.TrimSpace(text), "\n", "")
	}
	switch output {
	case "":
		c.print.plain("CLI version: %s \nRuntime version: %s\n", c.program.Version, runtime)
		return nil
	case "json":
		return writeStructured(c.program.Stdout, "json", struct {
			CLI     string `json:"Cli version"`
			Runtime string `json:"Runtime version"`
		}{c.program.Version, runtime})
	default:
		c.print.failure("An invalid output format was specified.")
		return failed()
	}
}

func (c *command) buildInfoCommand() *cobra.Command {
	return &cobra.Command{
		Use: "build-info", Short: "Print what the command and the sidecar were built from", Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			c.print.plain("CLI:\n\tVersion: %s\n\tGit Commit: %s\n\tGit Version: %s\nRuntime:\n", c.program.Version, c.program.Commit, c.program.GitVersion)
			text, err := c.askDaprd("--build-info")
			if err != nil {
				text = "N/A"
			}
			for line := range strings.SplitSeq(strings.TrimSpace(text), "\n") {
				c.print.plain("\t%s\n", strings.TrimRight(line, "\r"))
			}
			return nil
		},
	}
}

// askDaprd runs the sidecar's program for a flag that only prints.
func (c *command) askDaprd(flag string) (string, error) {
	dir, err := runtimeDir(c.runtimePath)
	if err != nil {
		return "", err
	}
	daprd, err := findDaprd(dir)
	if err != nil {
		return "", err
	}
	ctx, cancel := context.WithTimeout(context.Background(), askBound)
	defer cancel()
	out, err := exec.CommandContext(ctx, daprd, flag).Output()
	return string(out), err
}
