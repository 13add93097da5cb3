package cli

import (
	"context"
	"errors"
	"fmt"

	"github.com/spf13/cobra"
)

func (c *command) stopCommand() *cobra.Command {
	var appID, runFile string
	cmd := &cobra.Command{
		Use:     "stop [app-id...]",
		Short:   "Stop apps with their sidecars",
		Example: "  dapr stop orders\n  dapr stop -f ./dapr.yaml",
		RunE: func(cmd *cobra.Command, args []string) error {
			if runFile != "" {
				c.stopRunFile(cmd.Context(), runFile)
				return nil
			}
			ids := args
			if appID != "" {
				ids = append([]string{appID}, args...)
			}
			if len(ids) == 0 {
				return errors.New(`required flag(s) "app-id" not set`)
			}
			found, err := findInstances(cmd.Context())
			for _, id := range ids {
				stopErr := err
				if stopErr == nil {
					stopErr = stopApp(found, id)
				}
				if stopErr != nil {
					c.print.failure("failed to stop app id %s: %s", id, stopErr)
				} else {
					c.print.success("app stopped successfully: %s", id)
				}
			}
			return nil // as ever, also for apps that could not be stopped
		},
	}
	cmd.Flags().StringVarP(&appID, "app-id", "a", "", "The id of the app")
	cmd.Flags().StringVarP(&runFile, "run-file", "f", "", "The run file whose apps to stop")
	return cmd
}

// stopApp ends the dapr command that runs an app, or only the sidecar if that command runs several (Dapr CLI, stop).
func stopApp(found []instanceInfo, id string) error {
	for _, i := range found {
		if i.AppID != id {
			continue
		}
		pid, sharing := i.DaprdPID, 0
		for _, other := range found {
			if i.CLIPID != 0 && other.CLIPID == i.CLIPID {
				sharing++
			}
		}
		if sharing == 1 {
			pid = i.CLIPID
		}
		if err := terminatePID(pid); err != nil {
			return fmt.Errorf("process %d: %w", pid, err)
		}
		return nil
	}
	return fmt.Errorf("couldn't find app id %s", id)
}

func (c *command) stopRunFile(ctx context.Context, path string) {
	err := func() error {
		file, err := runFilePath(path)
		if err != nil {
			return err
		}
		found, err := findInstances(ctx)
		if err != nil {
			return err
		}
		for _, i := range found {
			if i.RunTemplatePath == file && i.CLIPID != 0 {
				return terminatePID(i.CLIPID)
			}
		}
		return fmt.Errorf("couldn't find apps with run file %q", file)
	}()
	if err != nil {
		c.print.failure("Failed to stop Dapr and app processes: %s", err)
		return
	}
	c.print.success("Dapr and app processes stopped successfully")
}
