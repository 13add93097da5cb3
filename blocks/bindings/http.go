package bindings

import (
	"net/textproto"

	"outrigger.dev/api"
	"outrigger.dev/telemetry/tracing"
)

// Routes is the HTTP face of the block (Dapr API, API surface: output bindings).
func (b *Bindings) Routes() []api.Route {
	return []api.Route{
		{Methods: []string{"POST", "PUT"}, Path: "/v1.0/bindings/{name}", Name: "InvokeBinding", Group: "v1/bindings", Handler: b.handleInvoke},
	}
}

// Keys of the metadata that the runtime adds to requests.
const (
	traceparent = "traceparent"
	tracestate  = "tracestate"
	baggage     = "baggage"
)

func (b *Bindings) handleInvoke(c *api.Call) error {
	body, err := c.ReadBody()
	if err != nil {
		return api.ErrMalformedBody(err)
	}
	req, err := readRequest(body)
	if err != nil {
		return api.ErrMalformedBody(err)
	}
	// The context of the call wins over what the app wrote into the body (Dapr API, bindings: metadata).
	if span := tracing.FromContext(c.Context()); span.Valid() {
		req.Metadata[traceparent] = span.Parent()
		delete(req.Metadata, tracestate)
		if state := span.State(); state != "" {
			req.Metadata[tracestate] = state
		}
	}
	if header := c.Header("Baggage"); len(header) > 0 {
		if err := b.checkBaggage(string(header)); err != nil {
			return err
		}
		req.Metadata[baggage] = string(header)
	}
	resp, err := b.Invoke(c.Context(), c.Parameter("name"), req)
	if resp != nil {
		for name, value := range resp.Metadata {
			if isToken(name) {
				c.SetHeader(textproto.CanonicalMIMEHeaderKey("metadata."+name), headerValue(value))
			}
		}
	}
	switch {
	case err != nil:
		return err
	case resp == nil:
		c.NoContent()
	default:
		c.ReplyJSON(resp.Data)
	}
	return nil
}

func (b *Bindings) checkBaggage(header string) error {
	if b.options.CheckBaggage == nil {
		return nil
	}
	if err := b.options.CheckBaggage(header); err != nil {
		return api.ErrBaggage(err)
	}
	return nil
}

// isToken reports whether text can be a part of a header's name.
func isToken(text string) bool {
	for i := range len(text) {
		switch c := text[i]; {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9':
		case c == '-', c == '_', c == '.', c == '!', c == '#', c == '$', c == '%', c == '&', c == '\'', c == '*', c == '+', c == '^', c == '`', c == '|', c == '~':
		default:
			return false
		}
	}
	return text != ""
}

// headerValue is a text with blanks for what no header can hold: a component's answer must not end the header it stands in.
func headerValue(text string) string {
	for i := range len(text) {
		if controls(text[i]) {
			clean := []byte(text)
			for j, c := range clean {
				if controls(c) {
					clean[j] = ' '
				}
			}
			return string(clean)
		}
	}
	return text
}

func controls(c byte) bool { return c < ' ' && c != '\t' || c == 0x7f }
