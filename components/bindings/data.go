package bindings

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strconv"
	"time"
)

// Unquoted is the text of data when data is a JSON string, and data itself otherwise. Bindings that store bytes use it, for
// the HTTP API hands over JSON, where a text stands in quotation marks (Dapr API, bindings: data).
func Unquoted(data []byte) []byte {
	trimmed := bytes.TrimSpace(data)
	if len(trimmed) < 2 || trimmed[0] != '"' {
		return data
	}
	var text string
	if json.Unmarshal(trimmed, &text) != nil {
		return data
	}
	return []byte(text)
}

// NoData reports whether there is no data: none at all, or the null that the HTTP API hands over in its place.
func NoData(data []byte) bool {
	trimmed := bytes.TrimSpace(data)
	return len(trimmed) == 0 || string(trimmed) == "null"
}

// Flag reads a parameter of the request that is true or false; without it byDefault holds.
func (r Request) Flag(name string, byDefault bool) (bool, error) {
	text, ok := r.Metadata[name]
	if !ok || text == "" {
		return byDefault, nil
	}
	switch text {
	case "y", "Y", "yes", "on":
		return true, nil
	case "n", "N", "no", "off":
		return false, nil
	}
	v, err := strconv.ParseBool(text)
	if err != nil {
		return false, &ParameterError{Name: name, Value: text, Remedy: `write "true" or "false"`}
	}
	return v, nil
}

// ParameterError says what is wrong with a metadata entry of a request.
type ParameterError struct {
	// Name is the entry's, Value what was given; the empty one counts as missing.
	Name, Value string
	// Remedy says what to do.
	Remedy string
}

func (e *ParameterError) Error() string {
	if e.Value == "" {
		return "required metadata " + strconv.Quote(e.Name) + " is not set in the request: " + e.Remedy
	}
	return "metadata " + strconv.Quote(e.Name) + " of the request is " + strconv.Quote(e.Value) + ": " + e.Remedy
}

// LongestResult bounds in bytes what a query of a database may return: one without a bound would take the sidecar's memory.
const LongestResult = 256 << 20

// CheckResult refuses a result of more than [LongestResult] bytes.
func CheckResult(size int) error {
	if size > LongestResult {
		return fmt.Errorf("the query returns more than %d bytes; ask for fewer rows or columns, for example with LIMIT", LongestResult)
	}
	return nil
}

// Timing is the metadata of responses that tell how long an operation took: "operation", "start-time" and "end-time" as
// RFC 3339 in UTC, and "duration" as in "294µs" (Dapr API, bindings: mysql, postgresql).
func Timing(operation string, start, end time.Time) map[string]string {
	return map[string]string{
		"operation":  operation,
		"start-time": start.UTC().Format(time.RFC3339Nano),
		"end-time":   end.UTC().Format(time.RFC3339Nano),
		"duration":   end.Sub(start).String(),
	}
}
