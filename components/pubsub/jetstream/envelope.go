package jetstream

import (
	"bytes"
	"encoding/json"
)

// envelopeID is the id of a CloudEvent in JSON, "" when data is none or has none. It reads no more than the members before
// the two it looks for, and decodes only the id.
func envelopeID(data []byte) string {
	i := skipSpace(data, 0)
	if i >= len(data) || data[i] != '{' {
		return ""
	}
	i++
	id, event := "", false
	for {
		i = skipSpace(data, i)
		if i >= len(data) || data[i] != '"' {
			return ""
		}
		end := skipString(data, i)
		if end < 0 {
			return ""
		}
		name := data[i:end]
		i = skipSpace(data, end)
		if i >= len(data) || data[i] != ':' {
			return ""
		}
		i = skipSpace(data, i+1)
		end = skipValue(data, i)
		if end < 0 {
			return ""
		}
		switch {
		case bytes.Equal(name, idName):
			id = text(data[i:end])
		case bytes.Equal(name, specName):
			event = true
		}
		if event && id != "" {
			return id
		}
		if i = skipSpace(data, end); i >= len(data) || data[i] != ',' {
			return ""
		}
		i++
	}
}

// The names of the members, as written.
var (
	idName   = []byte(`"id"`)
	specName = []byte(`"specversion"`)
)

// text is the text of a JSON string, "" of anything else.
func text(value []byte) string {
	if len(value) < 2 || value[0] != '"' {
		return ""
	}
	if bytes.IndexByte(value, '\\') < 0 {
		return string(value[1 : len(value)-1])
	}
	var s string
	if json.Unmarshal(value, &s) != nil {
		return ""
	}
	return s
}

func skipSpace(data []byte, i int) int {
	for i < len(data) && (data[i] == ' ' || data[i] == '\n' || data[i] == '\t' || data[i] == '\r') {
		i++
	}
	return i
}

// skipString is the index after the string that starts at i, -1 when it does not end. It passes each byte twice at most, since
// whoever publishes decides how many escapes there are.
func skipString(data []byte, i int) int {
	i++
	for quote := -1; i < len(data); {
		if quote < i { // none is known yet, or the one that was is escaped
			next := bytes.IndexByte(data[i:], '"')
			if next < 0 {
				return -1
			}
			quote = i + next
		}
		escape := bytes.IndexByte(data[i:quote], '\\')
		if escape < 0 {
			return quote + 1
		}
		i += escape + 2
	}
	return -1
}

// skipValue is the index after the value that starts at i, -1 when it does not end. It counts brackets and does not check
// what is between them: that is for whoever reads the event.
func skipValue(data []byte, i int) int {
	depth := 0
	for i < len(data) {
		switch data[i] {
		case '"':
			if i = skipString(data, i); i < 0 {
				return -1
			}
			if depth == 0 {
				return i
			}
			continue
		case '{', '[':
			depth++
		case '}', ']':
			if depth == 0 {
				return i
			}
			if depth--; depth == 0 {
				return i + 1
			}
		case ',', ' ', '\n', '\t', '\r':
			if depth == 0 {
				return i
			}
		}
		i++
	}
	return -1
}
