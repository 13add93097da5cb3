package pubsub

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"outrigger.dev/api"
	"outrigger.dev/blocks/internal/cloudevents"
	"outrigger.dev/blocks/internal/table"
	"outrigger.dev/components/pubsub"
)

// Trace is the trace context of a request, as in the W3C headers; empty when there is none.
type Trace struct{ Parent, State string }

// Publication is a message of an app.
type Publication struct {
	// Component is the name of the pub/sub component.
	Component, Topic string
	// Data is not changed or kept.
	Data []byte
	// Read, if not nil, gives the data once the names are found right.
	Read        func() ([]byte, error)
	ContentType string
	// Metadata is the request's: settings for the envelope and the broker. May be nil.
	Metadata map[string]string
	Trace    Trace
	// HTTPCodes has policies judge errors of the broker by the HTTP status that goes with their gRPC code, not by that code.
	HTTPCodes bool
	// TraceRaw puts the trace context into the metadata of a raw payload, for brokers that carry it.
	TraceRaw bool
}

// rawPayload is the metadata key that has messages sent without an envelope.
const rawPayload = "rawPayload"

// open looks a component up, after checking the names of a request. The entry must be released.
func (p *PubSub) open(component, topic string, metadata map[string]string) (*table.Entry[*broker], error) {
	if component == "" {
		return nil, api.ErrPubsubNameEmpty(orEmpty(metadata))
	}
	e := p.brokers.Use(component)
	if e == nil {
		return nil, api.ErrPubsubNotFound(component, orEmpty(metadata))
	}
	if topic == "" {
		e.Release()
		return nil, api.ErrPubsubTopicEmpty(component, orEmpty(metadata))
	}
	return e, nil
}

// orEmpty makes metadata that is not there empty, as errors show it.
func orEmpty(metadata map[string]string) map[string]string {
	if metadata == nil {
		return map[string]string{}
	}
	return metadata
}

// isRaw reads the rawPayload of a request's or subscription's metadata.
func isRaw(metadata map[string]string) (bool, error) {
	value, ok := metadata[rawPayload]
	if !ok || value == "" {
		return false, nil
	}
	raw, err := strconv.ParseBool(value)
	if err != nil {
		return false, fmt.Errorf("rawPayload value must be a valid boolean: actual is '%s'", value)
	}
	return raw, nil
}

// Publish hands a message to the broker, in an envelope unless it is raw. It returns when the broker has it. The errors are
// [*api.Error] (Dapr API, publish: order of checks).
func (p *PubSub) Publish(ctx context.Context, m Publication) error {
	e, err := p.open(m.Component, m.Topic, m.Metadata)
	if err != nil {
		return err
	}
	defer e.Release()
	b := e.Component
	if m.Read != nil {
		if m.Data, err = m.Read(); err != nil {
			return api.ErrPubsubPublish(b.name, m.Topic, err)
		}
	}
	raw, err := isRaw(m.Metadata)
	if err != nil {
		return api.ErrPubsubMetadata(b.name, m.Metadata, err)
	}
	request := pubsub.PublishRequest{Topic: m.Topic, Metadata: m.Metadata}
	switch {
	case !raw:
		if request.Data, err = p.envelope(b, &m); err != nil {
			return api.ErrPubsubCloudEvent(b.name, p.options.AppID, err)
		}
	default:
		request.Data = slices.Clone(m.Data) // which may lie in a buffer of the server
		if m.TraceRaw {
			request.Metadata = api.MergeMetadata(m.Metadata, map[string]string{cloudevents.TraceID: m.Trace.Parent, cloudevents.TraceState: m.Trace.State})
		}
	}
	if !b.scopes.mayPublish(m.Topic) {
		return api.ErrPubsubForbidden(b.name, m.Topic, p.options.AppID)
	}
	start := p.begin()
	err = b.publish(ctx, request, terms{httpCodes: m.HTTPCodes})
	if p.options.Metrics != nil {
		p.options.Metrics.Published(b.name, m.Topic, err == nil, p.options.Clock.Since(start))
	}
	if err != nil {
		return api.ErrPubsubPublish(b.name, m.Topic, err)
	}
	return nil
}

// publish is the one place where messages leave for a broker one by one, under its outbound policy; the request has the app's topic.
// With a timeout the call may still be running when it returns: nobody changes the request from here on.
func (b *broker) publish(ctx context.Context, request pubsub.PublishRequest, how terms) error {
	request.Topic = b.topic(request.Topic)
	if b.outbound == nil {
		return b.component.Publish(ctx, request)
	}
	return b.retry(ctx, request, how)
}

// begin starts a measurement; without metrics it does not even look at the clock.
func (p *PubSub) begin() time.Time {
	if p.options.Metrics == nil {
		return time.Time{}
	}
	return p.options.Clock.Now()
}

// PublishEvent hands data to a topic of a component as it is, on behalf of the sidecar itself: a dead letter, or an event of the
// outbox. The scopes of the component apply.
func (p *PubSub) PublishEvent(ctx context.Context, component, topic string, data []byte, contentType string) error {
	e := p.brokers.Use(component)
	if e == nil {
		return fmt.Errorf("pubsub '%s' not found", component)
	}
	defer e.Release()
	if !e.Component.scopes.mayPublish(topic) {
		return fmt.Errorf("topic %s is not allowed for app id %s", topic, p.options.AppID)
	}
	return e.Component.publish(ctx, pubsub.PublishRequest{Topic: topic, Data: data, ContentType: contentType}, terms{})
}

// envelopeRoom is about what an envelope takes besides its data, in bytes.
const envelopeRoom = 448

// envelope wraps a message, or completes it if it is an event already.
func (p *PubSub) envelope(b *broker, m *Publication) ([]byte, error) {
	now := p.options.Clock.Now()
	var expires time.Time
	if !b.expires && len(m.Metadata) > 0 {
		if ttl, ok := pubsub.TTL(m.Metadata); ok {
			expires = now.Add(ttl)
		}
	}
	dst := make([]byte, 0, len(m.Data)+len(m.Data)/8+envelopeRoom)
	if cloudevents.ClassOf(m.ContentType) == cloudevents.CloudEvent {
		c := cloudevents.Completion{
			Topic: m.Topic, PubsubName: b.name, Time: now, TraceParent: m.Trace.Parent, TraceState: m.Trace.State, Expires: expires,
		}
		return c.Append(dst, m.Data)
	}
	e := cloudevents.Envelope{
		Source: p.options.AppID, DataContentType: m.ContentType, Time: now, Topic: m.Topic, PubsubName: b.name,
		TraceID: m.Trace.Parent, TraceParent: m.Trace.Parent, TraceState: m.Trace.State, Expires: expires, Payload: m.Data,
	}
	override(&e, m.Metadata)
	return e.Append(dst), nil
}

// overridden begins the metadata keys that set attributes.
const overridden = "cloudevent."

// override sets the attributes that metadata names, in any case (Dapr API, publish: metadata overrides).
func override(e *cloudevents.Envelope, metadata map[string]string) {
	traceParent := false
	for name, value := range metadata {
		if len(name) <= len(overridden) || !strings.EqualFold(name[:len(overridden)], overridden) {
			continue
		}
		switch strings.ToLower(name[len(overridden):]) {
		case cloudevents.ID:
			e.ID = value
		case cloudevents.Source:
			e.Source = value
		case cloudevents.Type:
			e.Type = value
		case cloudevents.Subject:
			e.Subject = &value
		case cloudevents.TraceID:
			if !traceParent {
				e.TraceID, e.TraceParent = value, value
			}
		case cloudevents.TraceParent:
			traceParent = true
			e.TraceID, e.TraceParent = value, value
		case cloudevents.TraceState:
			e.TraceState = value
		}
	}
}
