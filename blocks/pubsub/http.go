package pubsub

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"

	"outrigger.dev/api"
	"outrigger.dev/blocks/internal/cloudevents"
	"outrigger.dev/components/pubsub"
	"outrigger.dev/jsontext"
	"outrigger.dev/telemetry/tracing"
)

// Routes is the HTTP face of the block (Dapr API, API surface: publish).
func (p *PubSub) Routes() []api.Route {
	write := []string{"POST", "PUT"}
	return []api.Route{
		{Methods: write, Path: "/v1.0/publish/bulk/{pubsubname}/{topic...}", Name: "BulkPublishEvent", Group: "v1/publish", Handler: p.handleBulkPublish},
		{Methods: write, Path: "/v1.0-alpha1/publish/bulk/{pubsubname}/{topic...}", Name: "BulkPublishEvent", Group: "v1alpha1/publish", Handler: p.handleBulkPublish},
		{Methods: write, Path: "/v1.0/publish/{pubsubname}/{topic...}", Name: "PublishEvent", Group: "v1/publish", Handler: p.handlePublish},
	}
}

func (p *PubSub) handlePublish(c *api.Call) error {
	err := p.Publish(c.Context(), Publication{
		Component: c.Parameter("pubsubname"), Topic: c.Parameter("topic"), Read: c.ReadBody, ContentType: string(c.Header("Content-Type")),
		Metadata: c.Metadata(), HTTPCodes: true, Trace: spanTrace(tracing.FromContext(c.Context())),
	})
	if err != nil {
		return err
	}
	c.NoContent()
	return nil
}

func (p *PubSub) handleBulkPublish(c *api.Call) error {
	component, topic := c.Parameter("pubsubname"), c.Parameter("topic")
	failed, err := p.BulkPublish(c.Context(), BulkPublication{
		Component: component, Topic: topic, Metadata: c.Metadata(), HTTPCodes: true, SpanName: c.Path(),
		Read: func() ([]pubsub.BulkEntry, error) {
			body, err := c.ReadBody()
			if err != nil {
				return nil, api.ErrPubsubPublish(component, topic, err)
			}
			return p.parseEntries(component, topic, body)
		},
	})
	if err == nil {
		c.NoContent()
		return nil
	}
	if len(failed) == 0 {
		return err
	}
	body := []byte(`{"failedEntries":[`)
	for i, f := range failed {
		if i > 0 {
			body = append(body, ',')
		}
		body = jsontext.AppendString(append(body, `{"entryId":`...), f.ID)
		body = jsontext.AppendString(append(body, `,"error":`...), f.Err.Error())
		body = append(body, '}')
	}
	body = jsontext.AppendString(append(body, `],"errorCode":`...), api.AsError(err).Code)
	body = append(body, '}')
	c.SetHeader("metadata.responseData", string(body))
	c.SetHeader("metadata.error", headerText(api.AsError(err).Message))
	c.SetStatus(500)
	c.SetHeader("Content-Type", "application/json")
	c.Reply(body)
	return nil
}

// headerText makes a text fit for a header: control characters become blanks.
func headerText(text string) string {
	if legalValue(text) {
		return text
	}
	b := []byte(text)
	for i, c := range b {
		if c < ' ' || c == 0x7f {
			b[i] = ' '
		}
	}
	return string(b)
}

// parseEntries reads the body of a bulk publication (Dapr API, bulk publish).
func (p *PubSub) parseEntries(component, topic string, body []byte) ([]pubsub.BulkEntry, error) {
	var list []pubsub.BulkEntry
	seen := map[string]struct{}{}
	w := jsontext.Walk(body)
	if !w.Null() {
		for w.Array(); w.Element(); {
			var entry pubsub.BulkEntry
			var event []byte
			if !w.Null() {
				for w.Object(); w.Member(); {
					switch {
					case w.Named("entryId"):
						entry.ID = w.String()
					case w.Named("event"):
						event = w.Raw()
					case w.Named("contentType"):
						entry.ContentType = w.String()
					case w.Named("metadata"):
						entry.Metadata = w.Strings(map[string]string{})
					default:
						w.Skip()
					}
				}
			}
			if w.Err() != nil {
				break
			}
			var err error
			if entry.Data, err = entryData(event, entry.ContentType); err != nil {
				return nil, api.ErrPubsubEntryContent(component, topic, p.options.AppID, err)
			}
			if _, twice := seen[entry.ID]; twice || entry.ID == "" {
				return nil, api.ErrPubsubEntryID(component, topic, p.options.AppID)
			}
			seen[entry.ID] = struct{}{}
			list = append(list, entry)
		}
	}
	w.End()
	if w.Err() != nil {
		return nil, api.ErrPubsubBulkBody(component, topic, p.options.AppID, bodyError(body, w.Err()))
	}
	return list, nil
}

// bodyError is the standard library's word on a text that is no JSON; otherwise it is ours.
func bodyError(body []byte, ours error) error {
	var v json.RawMessage
	if err := json.Unmarshal(body, &v); err != nil {
		return err
	}
	return ours
}

var errContentMismatch = errors.New("error: mismatch between contentType and event")

// entryData turns the event of an entry into bytes by its content type.
func entryData(event []byte, contentType string) ([]byte, error) {
	switch cloudevents.ClassOf(contentType) {
	case cloudevents.Binary:
		text, ok := jsontext.Unquote(event)
		if !ok {
			return nil, errContentMismatch
		}
		data, err := base64.StdEncoding.AppendDecode(nil, text)
		if err != nil {
			return nil, fmt.Errorf("error: unable to decode base64 application/octect-stream data: %w", err)
		}
		return data, nil
	case cloudevents.String:
		text, ok := jsontext.Unquote(event)
		if !ok {
			return nil, errContentMismatch
		}
		return bytes.Clone(text), nil
	case cloudevents.JSON, cloudevents.CloudEvent:
		if event == nil {
			return []byte("null"), nil
		}
		out, ok := jsontext.AppendEmbedded(nil, event)
		if !ok {
			return nil, errContentMismatch
		}
		return out, nil
	}
	return nil, errContentMismatch
}
