package resource

import (
	"fmt"
	"strings"
	"time"
)

// Duration is a duration of a Configuration, written as text such as "10s"; a bare number is refused.
type Duration time.Duration

// MarshalText writes the duration in Go syntax.
func (t Duration) MarshalText() ([]byte, error) { return []byte(time.Duration(t).String()), nil }

// UnmarshalText reads a duration in Go syntax.
func (t *Duration) UnmarshalText(text []byte) error {
	d, err := time.ParseDuration(string(text))
	if err != nil {
		return fmt.Errorf("invalid duration %s: write it like 10s or 5m", quote(string(text)))
	}
	*t = Duration(d)
	return nil
}

func (t *Duration) decodeNode(d *decoder, n *node, path string) {
	if n.kind == kindNull {
		return
	}
	if n.kind != kindString || t.UnmarshalText([]byte(n.text)) != nil {
		d.mismatch(n, path, "a duration in text form such as 10s or 5m")
	}
}

// OTelHeaders are the headers of the OTLP exporter: a list of "key=value" texts in configuration files, a list of NameValue in
// Kubernetes. Both forms are read everywhere.
type OTelHeaders []NameValue

func (h *OTelHeaders) decodeNode(d *decoder, n *node, path string) {
	if n.kind == kindNull {
		*h = nil
		return
	}
	if n.kind != kindList {
		d.mismatch(n, path, `a list of "key=value" texts`)
		return
	}
	headers := make(OTelHeaders, len(n.list))
	for i, item := range n.list {
		at := fmt.Sprintf("%s[%d]", path, i)
		if item.kind == kindObject {
			d.decode(item, elem(&headers[i]), at)
			continue
		}
		name, value, ok := strings.Cut(item.text, "=")
		if item.kind != kindString || !ok || name == "" {
			d.mismatch(item, at, `text of the form "key=value"`)
			continue
		}
		headers[i] = NameValue{Name: name, Value: TextValue(value)}
	}
	*h = headers
}
