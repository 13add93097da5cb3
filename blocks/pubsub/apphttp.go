package pubsub

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"

	"outrigger.dev/app"
	"outrigger.dev/blocks/internal/cloudevents"
	"outrigger.dev/invocation"
	"outrigger.dev/jsontext"
)

// httpApp delivers to an app that speaks HTTP (Dapr API, delivery: HTTP).
type httpApp struct{ channel app.Channel }

// StatusError is an HTTP status by which an app refused a message; policies may match on it.
type StatusError struct{ Status int }

func (e *StatusError) Error() string { return fmt.Sprintf("the app answered with status %d", e.Status) }

// maxAnswer bounds what is read of an app's answer to an event, in bytes.
const maxAnswer = 1 << 20

func (a *httpApp) deliver(ctx context.Context, d *delivery) (verdict, error) {
	req := invocation.Request{
		Method: d.method, Verb: http.MethodPost, ContentType: cloudevents.ContentType, Body: d.body,
		Header: deliveryHeader(d.message.Metadata, d.trace),
	}
	if d.binary {
		req.ContentType = d.message.Metadata[keyContentType]
	}
	resp, err := a.channel.Invoke(ctx, &req)
	if err != nil {
		return 0, err
	}
	if resp.Status == http.StatusNotFound {
		_ = resp.Close()
		return missing, nil
	}
	if resp.Status < 200 || resp.Status > 299 {
		_ = resp.Close()
		return 0, &StatusError{resp.Status}
	}
	if resp.Stream != nil {
		err := resp.Buffer(maxAnswer)
		if errors.Is(err, invocation.ErrTooLarge) {
			return processed, nil // as any answer that is no status
		}
		if err != nil {
			return 0, fmt.Errorf("reading the app's answer: %w", err)
		}
	}
	return httpVerdict(resp.Body)
}

// httpVerdict reads {"status": ...}. Anything that is no such object means success.
func httpVerdict(body []byte) (verdict, error) {
	if len(body) == 0 {
		return processed, nil
	}
	w := jsontext.Walk(body)
	status := ""
	for w.Object(); w.Member(); {
		if w.Named("status") {
			status = w.String()
		} else {
			w.Skip()
		}
	}
	w.End()
	if w.Err() != nil {
		return processed, nil
	}
	switch status {
	case "", "SUCCESS":
		return processed, nil
	case "DROP":
		return dropped, nil
	case "RETRY":
		return 0, errRetry
	}
	return 0, fmt.Errorf("unknown status returned from app while processing pub/sub event: %q; use SUCCESS, RETRY or DROP", status)
}

var errRetry = fmt.Errorf("RETRY status returned from app while processing pub/sub event")

// deliveryHeader turns the metadata of a message into the header of a delivery.
func deliveryHeader(metadata map[string]string, trace Trace) invocation.Header {
	size := len(cloudevents.TraceParent) + len(trace.Parent) + len(cloudevents.TraceState) + len(trace.State)
	for name, value := range metadata {
		size += len(name) + len(value)
	}
	header, room := make(invocation.Header, 0, len(metadata)+2), make([]byte, 0, size) // one piece of memory for all
	own := func(text string) []byte {
		start := len(room)
		room = append(room, text...)
		return room[start:len(room):len(room)]
	}
	for name, value := range metadata {
		switch {
		case trace.Parent != "" && (strings.EqualFold(name, cloudevents.TraceParent) || strings.EqualFold(name, cloudevents.TraceState)):
			continue
		case !legalValue(value):
			continue // which would break the request apart
		}
		header = append(header, invocation.Field{Name: own(name), Value: own(value)})
	}
	if trace.Parent != "" {
		header = append(header, invocation.Field{Name: own(cloudevents.TraceParent), Value: own(trace.Parent)})
		if trace.State != "" {
			header = append(header, invocation.Field{Name: own(cloudevents.TraceState), Value: own(trace.State)})
		}
	}
	return header
}

// legalValue reports whether a text can be a header's value (RFC 9110, section 5.5).
func legalValue(text string) bool {
	for i := range len(text) {
		if c := text[i]; c < ' ' && c != '\t' || c == 0x7f {
			return false
		}
	}
	return true
}

// bulkEntryJSON appends one entry of a bulk for an HTTP app (Dapr API, bulk subscribe: HTTP).
func bulkEntryJSON(dst []byte, e *bulkEntry) []byte {
	dst = jsontext.AppendString(append(dst, `{"entryId":`...), e.ID)
	dst = append(dst, `,"event":`...)
	contentType := e.ContentType
	if e.event == nil {
		dst = append(dst, base64String(e.Data)...)
		if contentType == "" {
			contentType = octetStream
		}
	} else {
		dst = append(dst, e.Data...)
		if contentType == "" {
			contentType = cloudevents.ContentType
		}
	}
	dst = jsontext.AppendStrings(append(dst, `,"metadata":`...), e.Metadata)
	dst = jsontext.AppendString(append(dst, `,"contentType":`...), contentType)
	return append(dst, '}')
}

func (a *httpApp) deliverBulk(ctx context.Context, d *bulkDelivery) ([]verdictOrError, error) {
	size := 256
	for _, e := range d.entries {
		size += len(e.Data)*4/3 + 128
	}
	body := make([]byte, 0, size)
	body = append(body, `{"entries":[`...)
	for i, e := range d.entries {
		if i > 0 {
			body = append(body, ',')
		}
		body = bulkEntryJSON(body, e)
	}
	body = append(cloudevents.AppendNewID(append(body, `],"id":"`...)), '"')
	body = jsontext.AppendStrings(append(body, `,"metadata":`...), d.metadata)
	body = jsontext.AppendString(append(body, `,"pubsubname":`...), d.component)
	body = jsontext.AppendString(append(body, `,"topic":`...), d.topic)
	body = append(append(append(body, `,"type":"`...), cloudevents.BulkType...), `"}`...)
	req := invocation.Request{
		Method: invocation.CleanMethod(d.path), Verb: http.MethodPost, ContentType: "application/json", Body: body,
		Header: deliveryHeader(d.metadata, d.trace),
	}
	resp, err := a.channel.Invoke(ctx, &req)
	if err != nil {
		return nil, err
	}
	if resp.Status == http.StatusNotFound {
		_ = resp.Close()
		return all(len(d.entries), discarded), nil
	}
	if resp.Status < 200 || resp.Status > 299 {
		_ = resp.Close()
		return nil, fmt.Errorf("the app answered a bulk with status %d", resp.Status)
	}
	if resp.Stream != nil {
		if err := resp.Buffer(int64(maxAnswer + 256*len(d.entries))); err != nil {
			return nil, fmt.Errorf("reading the app's answer: %w", err)
		}
	}
	return bulkVerdicts(resp.Body, d.entries)
}

// bulkVerdicts reads {"statuses":[{"entryId":...,"status":...}]}. Entries that the app says nothing of have failed.
func bulkVerdicts(body []byte, entries []*bulkEntry) ([]verdictOrError, error) {
	results := all(len(entries), 0)
	for i := range results {
		results[i].err = errNoStatus
	}
	index := make(map[string]int, len(entries))
	for i, e := range entries {
		index[e.ID] = i
	}
	w := jsontext.Walk(body)
	for w.Object(); w.Member(); {
		if !w.Named("statuses") || w.Null() {
			w.Skip()
			continue
		}
		for w.Array(); w.Element(); {
			var id, status string
			if w.Null() {
				continue
			}
			for w.Object(); w.Member(); {
				switch {
				case w.Named("entryId"):
					id = w.String()
				case w.Named("status"):
					status = w.String()
				default:
					w.Skip()
				}
			}
			if i, known := index[id]; known && w.Err() == nil {
				results[i] = statusOf(status)
			}
		}
	}
	w.End()
	if err := w.Err(); err != nil {
		return nil, fmt.Errorf("the app's answer to a bulk cannot be understood: %w; answer with {\"statuses\":[{\"entryId\":\"...\",\"status\":\"SUCCESS\"}]}", err)
	}
	return results, nil
}

func statusOf(status string) verdictOrError {
	switch status {
	case "SUCCESS":
		return verdictOrError{}
	case "DROP":
		return verdictOrError{verdict: dropped}
	case "RETRY":
		return verdictOrError{err: errRetry}
	}
	return verdictOrError{err: fmt.Errorf("unknown status %q returned from app for an entry of a bulk; use SUCCESS, RETRY or DROP", status)}
}

var errNoStatus = fmt.Errorf("the app's answer has no status for this entry of the bulk")
