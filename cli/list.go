package cli

import (
	"strconv"

	"github.com/spf13/cobra"
)

// commandWidth is how much of an app's command list shows.
const commandWidth = 20

func (c *command) listCommand() *cobra.Command {
	var output string
	cmd := &cobra.Command{
		Use: "list", Short: "List the sidecars that run on this machine", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			switch output {
			case "table", "", "json", "yaml":
			default:
				c.print.failure("An invalid output format was specified.")
				return failed()
			}
			found, err := findInstances(cmd.Context())
			if err != nil {
				c.print.failure("%s", err)
				return failed()
			}
			for i := range found {
				if command := []rune(found[i].Command); len(command) > commandWidth {
					found[i].Command = string(command[:commandWidth-3]) + "..."
				}
			}
			if output == "json" || output == "yaml" {
				if found == nil {
					found = []instanceInfo{}
				}
				return writeStructured(c.program.Stdout, output, found)
			}
			if len(found) == 0 {
				c.print.plain("No Dapr instances found.\n")
				return nil
			}
			c.listTable(found)
			return nil
		},
	}
	cmd.Flags().StringVarP(&output, "output", "o", "table", "table, json or yaml")
	return cmd
}

func (c *command) listTable(found []instanceInfo) {
	headers := []string{
		"APP ID", "HTTP PORT", "GRPC PORT", "APP PORT", "COMMAND", "AGE", "CREATED", "DAPRD PID", "CLI PID", "APP PID",
		"RUN_TEMPLATE_PATH", "APP_LOG_PATH", "DAPRD_LOG_PATH", "RUNTEMPLATENAME",
	}
	var rows [][]string
	for _, i := range found {
		rows = append(rows, []string{
			i.AppID, strconv.Itoa(i.HTTPPort), strconv.Itoa(i.GRPCPort), strconv.Itoa(i.AppPort), i.Command, i.Age, i.Created,
			strconv.Itoa(i.DaprdPID), strconv.Itoa(i.CLIPID), strconv.Itoa(i.AppPID), i.RunTemplatePath, i.AppLogPath, i.DaprdLogPath, i.RunTemplateName,
		})
	}
	writeTable(c.program.Stdout, headers, rows)
}
