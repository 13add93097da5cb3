package cli

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"
)

// maxReply is the largest reply that invoke prints, in bytes.
const maxReply = 256 << 20

func (c *command) invokeCommand() *cobra.Command {
	var appID, method, verb, data, dataFile, socket string
	cmd := &cobra.Command{
		Use: "invoke", Short: "Call a method of an app", Args: cobra.NoArgs,
		Example: `  dapr invoke --app-id orders --method orders/1 --verb GET`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			body := []byte(data)
			if dataFile != "" {
				if data != "" {
					c.print.failure("Only one of --data and --data-file allowed in the same invoke command")
					return failed()
				}
				var err error
				if body, err = os.ReadFile(dataFile); err != nil {
					c.print.failure("Error reading payload from '%s': %s", dataFile, err)
					return failed()
				}
			}
			reply, err := invoke(cmd.Context(), appID, method, strings.ToUpper(verb), socket, body)
			if err != nil {
				c.print.failure("%s", err)
				return failed()
			}
			if reply != "" {
				c.print.plain("%s\n", reply)
			}
			c.print.success("App invoked successfully")
			return nil
		},
	}
	s := cmd.Flags()
	s.StringVarP(&appID, "app-id", "a", "", "The id of the app to call")
	s.StringVarP(&method, "method", "m", "", "The method to call")
	s.StringVarP(&verb, "verb", "v", "POST", "The HTTP verb")
	s.StringVarP(&data, "data", "d", "", "The body, as JSON")
	s.StringVarP(&dataFile, "data-file", "f", "", "A file with the body")
	s.StringVarP(&socket, "unix-domain-socket", "u", "", "The directory of the sidecar's sockets")
	_ = cmd.MarkFlagRequired("app-id")
	_ = cmd.MarkFlagRequired("method")
	return cmd
}

// invoke calls a method of an app through the app's own sidecar.
func invoke(ctx context.Context, appID, method, verb, socketDir string, body []byte) (string, error) {
	found, err := findInstances(ctx)
	if err != nil {
		return "", fmt.Errorf("error invoking app %s: %w", appID, err)
	}
	for _, i := range found {
		if i.AppID != appID {
			continue
		}
		socket := i.socket
		if socketDir != "" {
			socket = filepath.Join(socketDir, "dapr-"+appID+"-http.socket")
		}
		client := newSidecarClient(i.HTTPPort, socket)
		defer client.close()
		path := "/v1.0/invoke/" + url.PathEscape(appID) + "/method/" + strings.TrimPrefix(method, "/")
		resp, reply, err := client.do(ctx, verb, path, "application/json", body, maxReply)
		if err != nil {
			return "", fmt.Errorf("error invoking app %s: %w", appID, err)
		}
		if resp.StatusCode < 200 || resp.StatusCode > 399 {
			err := errors.New(resp.Status)
			if text := strings.TrimSpace(string(reply)); text != "" {
				err = fmt.Errorf("%s: %s", resp.Status, text)
			}
			return "", fmt.Errorf("error invoking app %s: %w", appID, err)
		}
		return string(reply), nil
	}
	return "", fmt.Errorf("app ID %s not found", appID)
}
