package localfile

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
)

// parse decodes a secrets file. Numbers keep their text. Errors give line and column, and never repeat a value.
func parse(data []byte) (map[string]any, error) {
	data = bytes.TrimPrefix(data, []byte("\ufeff"))
	if len(bytes.TrimSpace(data)) == 0 {
		return nil, errors.New(`is empty; it must hold a JSON object such as {"name": "value"}`)
	}
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.UseNumber()
	var root any
	if err := dec.Decode(&root); err != nil {
		offset := dec.InputOffset()
		var syntax *json.SyntaxError
		if errors.As(err, &syntax) {
			offset = syntax.Offset
		} else if errors.Is(err, io.ErrUnexpectedEOF) {
			offset, err = int64(len(data)), errors.New("the JSON ends too early")
		}
		return nil, fmt.Errorf("is not valid JSON at %s: %w; correct the file", position(data, offset), err)
	}
	if rest := bytes.TrimSpace(data[dec.InputOffset():]); len(rest) > 0 {
		return nil, fmt.Errorf("has something after the end of its JSON object at %s; remove it", position(data, int64(len(data)-len(bytes.TrimLeft(data[dec.InputOffset():], " \t\r\n"))+1)))
	}
	document, ok := root.(map[string]any)
	if !ok {
		return nil, fmt.Errorf(`holds a JSON %s at its top; it must hold an object such as {"name": "value"}`, kind(root))
	}
	return document, nil
}

// position words the place of the byte before offset, counting lines and bytes from 1.
func position(data []byte, offset int64) string {
	before := data[:max(0, min(offset-1, int64(len(data))))]
	line := 1 + bytes.Count(before, []byte("\n"))
	column := len(before) - bytes.LastIndexByte(before, '\n')
	return fmt.Sprintf("line %d, column %d", line, column)
}

func kind(v any) string {
	switch v.(type) {
	case nil:
		return "null"
	case []any:
		return "array"
	case string:
		return "string"
	case bool:
		return "boolean"
	default:
		return "number"
	}
}

// singleValued makes every leaf of the document a secret with one entry of the same name.
func singleValued(document map[string]any, separator string) (map[string]map[string]string, error) {
	leaves := make(map[string]string, len(document))
	if err := flatten(document, separator, leaves); err != nil {
		return nil, err
	}
	secrets := make(map[string]map[string]string, len(leaves))
	for name, value := range leaves {
		secrets[name] = map[string]string{name: value}
	}
	return secrets, nil
}

// multiValued makes the strings at the top of the document secrets with one entry, and the objects at the top secrets
// with the flattened inside as entries. Other values at the top are no secrets (Dapr API, local file secret store:
// multiValued).
func multiValued(document map[string]any, separator string) (map[string]map[string]string, error) {
	secrets := make(map[string]map[string]string, len(document))
	for _, name := range slices.Sorted(maps.Keys(document)) {
		switch v := document[name].(type) {
		case string:
			secrets[name] = map[string]string{name: v}
		case map[string]any:
			entries := make(map[string]string, len(v))
			if err := flatten(v, separator, entries); err != nil {
				return nil, fmt.Errorf("secret %q: %w", name, err)
			}
			secrets[name] = entries
		}
	}
	return secrets, nil
}

// flatten adds every leaf of the document to leaves, named by the keys and indexes on the way to it. Two leaves with one
// name are an error, for neither may vanish silently.
func flatten(document map[string]any, separator string, leaves map[string]string) error {
	for _, key := range slices.Sorted(maps.Keys(document)) {
		if err := flattenValue(key, document[key], separator, leaves); err != nil {
			return err
		}
	}
	return nil
}

func flattenValue(name string, v any, separator string, leaves map[string]string) error {
	switch v := v.(type) {
	case map[string]any:
		for _, key := range slices.Sorted(maps.Keys(v)) {
			if err := flattenValue(name+separator+key, v[key], separator, leaves); err != nil {
				return err
			}
		}
		return nil
	case []any:
		for i, item := range v {
			if err := flattenValue(name+separator+strconv.Itoa(i), item, separator, leaves); err != nil {
				return err
			}
		}
		return nil
	}
	if _, taken := leaves[name]; taken {
		return fmt.Errorf("two values have the name %q when their keys are joined with %q; rename one of them, or choose another nestedSeparator", name, separator)
	}
	leaves[name] = text(v)
	return nil
}

// text is a leaf as a secret's value: numbers as the file writes them, null as nothing.
func text(v any) string {
	switch v := v.(type) {
	case string:
		return v
	case json.Number:
		return v.String()
	case bool:
		return strconv.FormatBool(v)
	default:
		return ""
	}
}
