package resource

import (
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/google/uuid"
)

// Templates holds what the templates in component metadata stand for (Dapr API, component metadata).
type Templates struct {
	// PodName is for {podName}; empty makes its use an error.
	PodName string
	// Namespace and AppID are for {namespace}, which becomes "<namespace>.<appid>", and AppID for {appID}.
	Namespace, AppID string
	// Random is read for {uuid}; each occurrence gets its own version 4 UUID.
	Random io.Reader
}

// Expand returns the items with the templates in their values replaced; the items given are not changed. usesNamespace tells
// whether {namespace} occurs, in which case pub/sub topics are prefixed with the namespace as well. Replaced text is not
// searched again.
func (t *Templates) Expand(items []NameValue) (expanded []NameValue, usesNamespace bool, err error) {
	expanded = slices.Clone(items)
	for i := range expanded {
		item := &expanded[i]
		if !strings.Contains(item.Value.text, "{") {
			continue
		}
		text, namespaced, err := t.text(item.Name, item.Value.text)
		if err != nil {
			return nil, false, err
		}
		if text != item.Value.text {
			item.Value = TextValue(text)
		}
		usesNamespace = usesNamespace || namespaced
	}
	return expanded, usesNamespace, nil
}

func (t *Templates) text(property, s string) (expanded string, usesNamespace bool, err error) {
	var b strings.Builder
	for {
		i := strings.IndexByte(s, '{')
		if i < 0 {
			b.WriteString(s)
			return b.String(), usesNamespace, nil
		}
		b.WriteString(s[:i])
		s = s[i:]
		var rest string
		var ok bool
		if rest, ok = strings.CutPrefix(s, "{uuid}"); ok {
			id, err := uuid.NewRandomFromReader(t.Random)
			if err != nil {
				return "", false, fmt.Errorf("failed to parse metadata: property %s refers to {uuid} but no random number could be read: %w", property, err)
			}
			b.WriteString(id.String())
		} else if rest, ok = strings.CutPrefix(s, "{podName}"); ok {
			if t.PodName == "" {
				return "", false, fmt.Errorf("failed to parse metadata: property %s refers to {podName} but podName is not set", property)
			}
			b.WriteString(t.PodName)
		} else if rest, ok = strings.CutPrefix(s, "{namespace}"); ok {
			usesNamespace = true
			b.WriteString(t.Namespace + "." + t.AppID)
		} else if rest, ok = strings.CutPrefix(s, "{appID}"); ok {
			b.WriteString(t.AppID)
		} else {
			b.WriteByte('{')
			rest = s[1:]
		}
		s = rest
	}
}
