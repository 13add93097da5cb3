package cli

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strings"

	"github.com/spf13/cobra"
)

// publication is an event as the flags of publish describe it.
type publication struct {
	appID, pubsub, topic, socketDir string
	metadata                        map[string]json.RawMessage
	body                            []byte
}

func (c *command) publishCommand() *cobra.Command {
	var p publication
	var data, dataFile, metadata string
	cmd := &cobra.Command{
		Use: "publish", Short: "Publish an event through the sidecar of an app", Args: cobra.NoArgs,
		Example: `  dapr publish --publish-app-id orders --pubsub pubsub --topic orders --data '{"item":"paddle"}'`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			var err error
			if p.body, err = c.payload("publish", data, dataFile); err != nil {
				return err
			}
			if metadata != "" {
				if err := json.Unmarshal([]byte(metadata), &p.metadata); err != nil {
					c.print.failure("--metadata is %q, which is not a JSON object: %s; write e.g. '{\"ttlInSeconds\":\"10\"}'", metadata, err)
					return failed()
				}
			}
			client, err := clientOf(cmd.Context(), p.appID, p.socketDir)
			if err == nil && client == nil {
				c.print.failure("couldn't find a running Dapr instance of app %s; dapr list tells which apps run", p.appID)
				return failed()
			}
			if err == nil {
				defer client.close()
				err = p.send(cmd.Context(), client)
			}
			if err != nil {
				c.print.failure("Error publishing topic %s: %s", p.topic, err)
				return failed()
			}
			c.print.success("Event published successfully")
			return nil
		},
	}
	s := cmd.Flags()
	s.StringVarP(&p.appID, "publish-app-id", "i", "", "The id of the app whose sidecar publishes")
	s.StringVarP(&p.pubsub, "pubsub", "p", "", "The name of the pub/sub component")
	s.StringVarP(&p.topic, "topic", "t", "", "The topic")
	s.StringVarP(&data, "data", "d", "", "The event's data, or a whole CloudEvent, as JSON")
	s.StringVarP(&dataFile, "data-file", "f", "", "A file with the data")
	s.StringVarP(&metadata, "metadata", "m", "", "Metadata of the publication, as a JSON object")
	s.StringVarP(&p.socketDir, "unix-domain-socket", "u", "", "The directory of the sidecar's sockets")
	for _, name := range []string{"publish-app-id", "pubsub", "topic"} {
		_ = cmd.MarkFlagRequired(name)
	}
	return cmd
}

// send publishes the event through a sidecar.
func (p *publication) send(ctx context.Context, client *sidecarClient) error {
	path := "/v1.0/publish/" + url.PathEscape(p.pubsub) + "/" + escapeTopic(p.topic)
	if len(p.metadata) > 0 {
		query := url.Values{}
		for name, value := range p.metadata {
			text := string(value)
			_ = json.Unmarshal(value, &text) // numbers and the like stay as they are written
			query.Set("metadata."+name, text)
		}
		path += "?" + query.Encode()
	}
	resp, reply, err := client.do(ctx, http.MethodPost, path, contentTypeOf(p.body), p.body, maxReply)
	if err != nil {
		return err
	}
	if resp.StatusCode/100 == 2 {
		return nil
	}
	err = fmt.Errorf("unexpected status code %d on publishing to %s in %s", resp.StatusCode, p.topic, p.pubsub)
	if text := strings.TrimSpace(string(reply)); text != "" {
		err = fmt.Errorf("%w: %s", err, text)
	}
	return err
}

// escapeTopic escapes a topic for a path; its slashes stay.
func escapeTopic(topic string) string {
	parts := strings.Split(topic, "/")
	for i := range parts {
		parts[i] = url.PathEscape(parts[i])
	}
	return strings.Join(parts, "/")
}

// contentTypeOf is that of a CloudEvent for an object that has what one must have, and that of JSON for everything else.
func contentTypeOf(body []byte) string {
	var event map[string]json.RawMessage
	if json.Unmarshal(body, &event) == nil {
		for _, name := range []string{"id", "source", "specversion", "type", "data"} {
			if _, ok := event[name]; !ok {
				return "application/json"
			}
		}
		return "application/cloudevents+json"
	}
	return "application/json"
}
