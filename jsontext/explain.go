package jsontext

import (
	"bytes"
	"encoding/json"
)

// Explain is what encoding/json says about text that a [Walker] could not read, when it decodes it into a value of the same shape: its
// messages are those that clients of the API know. It is found if encoding/json has nothing to say.
func Explain(text []byte, into any, found error) error {
	if err := json.NewDecoder(bytes.NewReader(text)).Decode(into); err != nil {
		return err
	}
	return found
}
