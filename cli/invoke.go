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
			body, err := c.payload("invoke", data, dataFile)
			if err != nil {
				return err
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

// payload is what is sent: the text, or the content of the file. What is wrong has been said when it fails. The name is that of
// the command.
func (c *command) payload(name, data, file string) ([]byte, error) {
	if file == "" {
		return []byte(data), nil
	}
	if data != "" {
		c.print.failure("Only one of --data and --data-file allowed in the same %s command", name)
		return nil, failed()
	}
	body, err := os.ReadFile(file)
	if err != nil {
		c.print.failure("Error reading payload from '%s': %s", file, err)
		return nil, failed()
	}
	return body, nil
}

// clientOf is a client of the sidecar of an app that runs on this machine, nil if it does not.
func clientOf(ctx context.Context, appID, socketDir string) (*sidecarClient, error) {
	found, err := findInstances(ctx)
	if err != nil {
		return nil, err
	}
	for _, i := range found {
		if i.AppID != appID {
			continue
		}
		socket := i.socket
		if socketDir != "" {
			socket = filepath.Join(socketDir, "dapr-"+appID+"-http.socket")
		}
		return newSidecarClient(i.HTTPPort, socket), nil
	}
	return nil, nil
}

// invoke calls a method of an app through the app's own sidecar.
func invoke(ctx context.Context, appID, method, verb, socketDir string, body []byte) (string, error) {
	client, err := clientOf(ctx, appID, socketDir)
	if err != nil {
		return "", fmt.Errorf("error invoking app %s: %w", appID, err)
	}
	if client == nil {
		return "", fmt.Errorf("app ID %s not found", appID)
	}
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
