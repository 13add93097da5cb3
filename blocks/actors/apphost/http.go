package apphost

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"outrigger.dev/app"
	"outrigger.dev/blocks/actors"
	"outrigger.dev/invocation"
)

// HTTPOptions are what callbacks over HTTP need.
type HTTPOptions struct {
	// Channel is the channel to the app, which speaks HTTP.
	Channel app.Channel
	// AppID and Namespace are this sidecar's.
	AppID, Namespace string
	// MaxBodyBytes bounds the responses, which are kept in memory; 0 and less mean no bound.
	MaxBodyBytes int64
}

// HTTP is an app that hosts actors and is called back over HTTP (Dapr API, actors: callbacks to the app, HTTP). The app's token, its
// pipeline, its health and the limit on concurrent calls are matters of its channel.
type HTTP struct {
	channel  app.Channel
	identity identity
	limit    int64
}

var _ actors.Host = (*HTTP)(nil)

// NewHTTP makes the host of an app that speaks HTTP.
func NewHTTP(o HTTPOptions) *HTTP {
	return &HTTP{channel: o.Channel, identity: newIdentity(o.AppID, o.Namespace), limit: o.MaxBodyBytes}
}

// Discover asks the app which actors it hosts. A failure to ask, and an answer that makes no sense, are logged: the app hosts nothing
// then.
func (h *HTTP) Discover(ctx context.Context, o ConfigOptions) actors.Hosting {
	o.fill()
	text, err := h.channel.Config(ctx)
	if err != nil {
		o.Log.Warn("the app could not be asked for the actors that it hosts, and hosts none: see that it answers GET /dapr/config", "error", err)
		return actors.Hosting{Host: h}
	}
	hosting, err := ParseConfig(text, o)
	if err != nil {
		o.Log.Warn("the app hosts no actors, for its configuration makes no sense: correct what it answers to GET /dapr/config", "error", err)
		return actors.Hosting{Host: h}
	}
	hosting.Host = h
	return hosting
}

// contentTypeJSON is that of the bodies of reminders and timers.
const contentTypeJSON = "application/json"

// Invoke implements [actors.Host]. The response's header [actors.ReminderCancelHeader] makes it fail with
// [actors.ErrReminderCanceled]; a status other than 200 is an [*AppError].
func (h *HTTP) Invoke(ctx context.Context, call *actors.Call) (*invocation.Response, error) {
	if err := checkActor(call.Type, call.ID); err != nil {
		return nil, err
	}
	path := "actors/" + call.Type + "/" + call.ID + "/method/" + invocation.CleanMethod(call.Method)
	in := call.Request
	resp, err := h.call(ctx, path, &invocation.Request{
		Verb: "PUT", Method: path, Query: in.Query, ContentType: in.ContentType, Header: h.identity.header(ctx, call), Origin: in.Origin, Body: in.Body,
	})
	if err != nil {
		return nil, err
	}
	for i := range resp.Header {
		// Other sidecars look for the name in this spelling.
		if f := &resp.Header[i]; len(f.Name) == len(nameError) && invocation.Is(f.Name, "x-daprerrorresponseheader") {
			f.Name = nameError
		}
	}
	return resp, nil
}

// Remind implements [actors.Host].
func (h *HTTP) Remind(ctx context.Context, r *actors.Reminder) error {
	if err := checkActor(r.Type, r.ID); err != nil {
		return err
	}
	kind := "reminder"
	middle := "/method/remind/"
	if r.Timer {
		kind, middle = "timer", "/method/timer/"
	}
	if err := checkSegment(kind, r.Name); err != nil {
		return err
	}
	body, err := reminderBody(r)
	if err != nil {
		return err
	}
	path := "actors/" + r.Type + "/" + r.ID + middle + r.Name
	_, err = h.call(ctx, path, &invocation.Request{Verb: "PUT", Method: path, ContentType: contentTypeJSON, Header: callbackHeader(ctx, r.ReentrancyID), Body: body})
	return err
}

// Deactivate implements [actors.Host].
func (h *HTTP) Deactivate(ctx context.Context, actorType, id string) error {
	if err := checkActor(actorType, id); err != nil {
		return err
	}
	path := "actors/" + actorType + "/" + id
	_, err := h.call(ctx, path, &invocation.Request{Verb: "DELETE", Method: path, ContentType: "application/x-protobuf", Header: callbackHeader(ctx, "")})
	return err
}

// callbackHeader is the header of a callback that no caller caused.
func callbackHeader(ctx context.Context, reentrancyID string) invocation.Header {
	header := traceHeader(ctx)
	if reentrancyID != "" {
		header = append(header, invocation.Field{Name: nameReentrancy, Value: []byte(reentrancyID)})
	}
	return header
}

// call makes a callback. Only 200 is a success (Dapr API, actors: callbacks to the app, HTTP).
func (h *HTTP) call(ctx context.Context, path string, req *invocation.Request) (*invocation.Response, error) {
	resp, err := h.channel.Invoke(ctx, req)
	if err != nil {
		return nil, err
	}
	if resp.Status == 404 {
		_ = resp.Close()
		return nil, &methodNotFound{path}
	}
	if err := resp.Buffer(h.limit); err != nil {
		if errors.Is(err, invocation.ErrTooLarge) {
			err = fmt.Errorf("the app's response (%d) to %s is larger than %d bytes; raise --max-body-size, or respond less: %w", resp.Status, path, h.limit, err)
		}
		return nil, err
	}
	if resp.Status != 200 {
		return nil, &AppError{resp.Status, string(resp.Body)}
	}
	if canceled(resp.Header.Get(actors.ReminderCancelHeader)) {
		return nil, actors.ErrReminderCanceled
	}
	return resp, nil
}

// checkActor refuses a type and an id that would make the path lead out of the actor's.
func checkActor(actorType, id string) error {
	if err := checkSegment("actor type", actorType); err != nil {
		return err
	}
	return checkSegment("actor id", id)
}

// checkSegment refuses what cannot be one segment of a path. Names of the API are checked where they come in; those of timers, and of
// what other sidecars send, only here.
func checkSegment(what, name string) error {
	for i := range len(name) {
		switch c := name[i]; {
		case c == '/', c == '\\', c == '#', c == '?', c < ' ', c == 0x7f:
			return &segmentError{what, name, "contains " + strings.Trim(fmt.Sprintf("%q", rune(c)), "'") + ", which is not allowed in it"}
		}
	}
	if name == "." || name == ".." {
		return &segmentError{what, name, "is a step in a path"}
	}
	return nil
}

// segmentError is a name that the app cannot be called with.
type segmentError struct{ what, name, reason string }

func (e *segmentError) Error() string {
	return fmt.Sprintf("the app cannot be called: %s %q %s; use another name", e.what, e.name, e.reason)
}
