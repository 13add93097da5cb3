package resource

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
)

// Decision: documents are parsed with go.yaml.in/yaml/v3 into its node tree, because that keeps line numbers, and are typed
// here rather than with sigs.k8s.io/yaml. The latter goes through JSON, which loses the line of every field, the raw text
// of scalars and all but one of several type errors; and yaml/v3 alone follows YAML 1.2 in places where the field
// has always had YAML 1.1 (scalar.go). The tree below is the common form for both and for JSON.

// nodeKind is the JSON type of a node.
type nodeKind uint8

const (
	kindNull nodeKind = iota
	kindBool
	kindInt
	kindUint // integers above the int64 range
	kindFloat
	kindString
	kindList
	kindObject
)

// node is one value of a document.
type node struct {
	kind   nodeKind
	bool   bool
	int    int64
	uint   uint64
	float  float64
	text   string // the string, or the text of any other scalar as written
	list   []*node
	fields []field
	line   int // in the file
}

// field is one entry of an object.
type field struct {
	name  string // after YAML 1.1 typing of the key: "yes" is "true"
	raw   string // as written
	line  int
	value *node
}

const (
	maxDepth      = 1000   // levels of nesting
	spareNodes    = 100000 // nodes that aliases may add to what the bytes of the document can hold
	maxTypeErrors = 10     // type errors reported per document
)

// get returns the value of the entry whose name matches, exactly or else ignoring case; nil if there is none.
func (n *node) get(name string) *node {
	var found *node
	for i := range n.fields {
		if n.fields[i].name == name {
			return n.fields[i].value
		}
		if strings.EqualFold(n.fields[i].name, name) {
			found = n.fields[i].value
		}
	}
	return found
}

// scalarText is the text of a scalar as a string field gets it: "yes" is "true", 0x1F is "31", 1.50 is "1.5".
func (n *node) scalarText() string {
	switch n.kind {
	case kindBool:
		return strconv.FormatBool(n.bool)
	case kindInt:
		return strconv.FormatInt(n.int, 10)
	case kindUint:
		return strconv.FormatUint(n.uint, 10)
	case kindFloat:
		return strconv.FormatFloat(n.float, 'g', -1, 64)
	default:
		return n.text
	}
}

// describe names the value for error messages.
func (n *node) describe() string {
	switch n.kind {
	case kindNull:
		return "null"
	case kindBool:
		return "the boolean " + n.text
	case kindInt, kindUint, kindFloat:
		return "the number " + n.text
	case kindString:
		return "the text " + strconv.Quote(clip(n.text))
	case kindList:
		return "a list"
	default:
		return "an object"
	}
}

// clip shortens text for messages.
func clip(s string) string {
	if len(s) > 60 {
		return s[:57] + "..."
	}
	return s
}

// appendJSON appends the value as compact JSON with sorted keys. With asWritten, as in configuration files, keys keep their text
// and words such as yes and off stay words.
func (n *node) appendJSON(b []byte, asWritten bool) ([]byte, error) {
	switch n.kind {
	case kindNull:
		return append(b, "null"...), nil
	case kindBool:
		if asWritten && !strings.EqualFold(n.text, n.scalarText()) {
			return appendJSONString(b, n.text), nil
		}
		return append(b, n.scalarText()...), nil
	case kindInt, kindUint:
		return append(b, n.scalarText()...), nil
	case kindFloat:
		if math.IsInf(n.float, 0) || math.IsNaN(n.float) {
			return nil, fmt.Errorf("line %d: %s has no JSON form", n.line, n.text)
		}
		text, err := json.Marshal(n.float)
		return append(b, text...), err
	case kindString:
		return appendJSONString(b, n.text), nil
	case kindList:
		b = append(b, '[')
		for i, item := range n.list {
			if i > 0 {
				b = append(b, ',')
			}
			var err error
			if b, err = item.appendJSON(b, asWritten); err != nil {
				return nil, err
			}
		}
		return append(b, ']'), nil
	default:
		key := func(f field) string {
			if asWritten {
				return f.raw
			}
			return f.name
		}
		sorted := slices.Clone(n.fields)
		slices.SortFunc(sorted, func(x, y field) int { return strings.Compare(key(x), key(y)) })
		b = append(b, '{')
		for i, f := range sorted {
			if i > 0 {
				b = append(b, ',')
			}
			b = append(appendJSONString(b, key(f)), ':')
			var err error
			if b, err = f.value.appendJSON(b, asWritten); err != nil {
				return nil, err
			}
		}
		return append(b, '}'), nil
	}
}

// appendJSONString appends s as a JSON string, without the HTML escapes of encoding/json.
func appendJSONString(b []byte, s string) []byte {
	var buf bytes.Buffer
	encoder := json.NewEncoder(&buf)
	encoder.SetEscapeHTML(false)
	// A string always encodes; invalid UTF-8 becomes the replacement character.
	_ = encoder.Encode(s)
	return append(b, bytes.TrimSuffix(buf.Bytes(), []byte("\n"))...)
}

// parseNode parses one document. It returns nil without error for an empty one. Repeated keys, of which the last wins, are
// returned as warnings. Errors start with "yaml: " and carry lines of the file.
func parseNode(doc document) (root *node, repeated []field, err error) {
	defer func() {
		// The parser panics on a few malformed inputs; a bad file must not end the process.
		if r := recover(); r != nil {
			root, err = nil, fmt.Errorf("yaml: line %d: malformed document: %v", doc.line, r)
		}
	}()
	var tree yaml.Node
	if err := yaml.Unmarshal(doc.data, &tree); err != nil {
		// YAML refuses a few things that are good JSON, such as escaped surrogate pairs.
		if root, jsonErr := parseJSON(doc); jsonErr == nil {
			return root, nil, nil
		}
		return nil, nil, shiftLine(err, doc.line)
	}
	if tree.Kind != yaml.DocumentNode || len(tree.Content) == 0 {
		return nil, nil, nil
	}
	c := converter{firstLine: doc.line, budget: len(doc.data) + spareNodes}
	root, err = c.convert(tree.Content[0], 0)
	if err != nil {
		return nil, nil, err
	}
	return root, c.repeated, nil
}

// shiftLine rewrites "yaml: line N: ..." of a parser that saw one document only into a line of the file.
func shiftLine(err error, firstLine int) error {
	text := strings.TrimPrefix(err.Error(), "yaml: ")
	line := 0
	if rest, ok := strings.CutPrefix(text, "line "); ok {
		if number, message, ok := strings.Cut(rest, ": "); ok {
			if n, convErr := strconv.Atoi(number); convErr == nil {
				line, text = n-1, message
			}
		}
	}
	return fmt.Errorf("yaml: line %d: %s", firstLine+line, text)
}

// errorLine returns the line of an error of parseNode; 0 if it has none.
func errorLine(err error) int {
	rest, ok := strings.CutPrefix(err.Error(), "yaml: line ")
	if !ok {
		return 0
	}
	number, _, _ := strings.Cut(rest, ":")
	n, _ := strconv.Atoi(number)
	return n
}

// converter turns a parsed tree into nodes: aliases and merge keys resolved, scalars typed.
type converter struct {
	firstLine int
	budget    int // nodes that may still be made; stops alias bombs
	open      []*yaml.Node
	repeated  []field
}

func (c *converter) convert(y *yaml.Node, depth int) (*node, error) {
	line := c.firstLine + max(y.Line, 1) - 1
	if depth > maxDepth {
		return nil, fmt.Errorf("yaml: line %d: nested deeper than %d levels", line, maxDepth)
	}
	if c.budget--; c.budget < 0 {
		return nil, fmt.Errorf("yaml: line %d: document contains excessive aliasing", line)
	}
	switch y.Kind {
	case yaml.AliasNode:
		if slices.Contains(c.open, y.Alias) {
			return nil, fmt.Errorf("yaml: line %d: anchor '%s' value contains itself", line, y.Value)
		}
		c.open = append(c.open, y.Alias)
		n, err := c.convert(y.Alias, depth+1)
		c.open = c.open[:len(c.open)-1]
		return n, err
	case yaml.ScalarNode:
		n, err := scalar(y)
		if err != nil {
			return nil, fmt.Errorf("yaml: line %d: %w", line, err)
		}
		n.line = line
		return &n, nil
	case yaml.SequenceNode:
		n := &node{kind: kindList, line: line, list: make([]*node, 0, len(y.Content))}
		for _, item := range y.Content {
			child, err := c.convert(item, depth+1)
			if err != nil {
				return nil, err
			}
			n.list = append(n.list, child)
		}
		return n, nil
	case yaml.MappingNode:
		return c.object(y, line, depth)
	default:
		return nil, fmt.Errorf("yaml: line %d: unexpected content", line)
	}
}

func (c *converter) object(y *yaml.Node, line, depth int) (*node, error) {
	n := &node{kind: kindObject, line: line, fields: make([]field, 0, len(y.Content)/2)}
	position := make(map[string]int, len(y.Content)/2)
	var merges []*yaml.Node
	for i := 0; i+1 < len(y.Content); i += 2 {
		key, value := y.Content[i], y.Content[i+1]
		if key.Kind == yaml.ScalarNode && key.Tag == "!!merge" {
			merges = append(merges, value)
			continue
		}
		k, err := c.convert(key, depth+1)
		if err != nil {
			return nil, err
		}
		if k.kind == kindNull || k.kind >= kindList {
			return nil, fmt.Errorf("yaml: line %d: unsupported map key: %s", k.line, k.describe())
		}
		v, err := c.convert(value, depth+1)
		if err != nil {
			return nil, err
		}
		f := field{name: k.scalarText(), raw: k.text, line: k.line, value: v}
		if at, ok := position[f.name]; ok {
			c.repeated = append(c.repeated, f)
			n.fields[at] = f
			continue
		}
		position[f.name] = len(n.fields)
		n.fields = append(n.fields, f)
	}
	for _, m := range merges {
		source, err := c.convert(m, depth+1)
		if err != nil {
			return nil, err
		}
		sources := []*node{source}
		if source.kind == kindList {
			sources = source.list
		}
		for _, s := range sources {
			if s.kind != kindObject {
				return nil, fmt.Errorf("yaml: line %d: map merge requires map or sequence of maps as the value", s.line)
			}
			for _, f := range s.fields {
				if _, ok := position[f.name]; !ok {
					position[f.name] = len(n.fields)
					n.fields = append(n.fields, f)
				}
			}
		}
	}
	return n, nil
}

// scalar types one scalar by its tag and style.
func scalar(y *yaml.Node) (node, error) {
	tagged := y.Style&yaml.TaggedStyle != 0
	quoted := y.Style&(yaml.DoubleQuotedStyle|yaml.SingleQuotedStyle|yaml.LiteralStyle|yaml.FoldedStyle) != 0
	switch tag := y.ShortTag(); {
	case !tagged && quoted, tagged && tag == "!!str":
		return node{kind: kindString, text: y.Value}, nil
	case !tagged:
		return resolveScalar(y.Value), nil
	case tag == "!!binary":
		data, err := base64.StdEncoding.DecodeString(y.Value)
		if err != nil {
			return node{}, errors.New("!!binary value contains invalid base64 data")
		}
		return node{kind: kindString, text: string(data)}, nil
	case tag == "!!bool", tag == "!!int", tag == "!!float", tag == "!!null":
		n := resolveScalar(y.Value)
		if tag == "!!float" && n.kind == kindInt {
			n.kind, n.float = kindFloat, float64(n.int)
		}
		want := map[string][]nodeKind{"!!bool": {kindBool}, "!!int": {kindInt, kindUint}, "!!float": {kindFloat}, "!!null": {kindNull}}[tag]
		if !slices.Contains(want, n.kind) {
			return node{}, fmt.Errorf("cannot decode `%s` as a %s", clip(y.Value), tag)
		}
		return n, nil
	default:
		return node{kind: kindString, text: y.Value}, nil
	}
}

// parseJSON parses a document that is plain JSON. All its nodes carry the first line.
func parseJSON(doc document) (*node, error) {
	decoder := json.NewDecoder(bytes.NewReader(doc.data))
	decoder.UseNumber()
	var v any
	if err := decoder.Decode(&v); err != nil {
		return nil, err
	}
	if decoder.More() {
		return nil, errors.New("more than one value")
	}
	return jsonNode(v, doc.line, 0)
}

func jsonNode(v any, line, depth int) (*node, error) {
	if depth > maxDepth {
		return nil, fmt.Errorf("nested deeper than %d levels", maxDepth)
	}
	switch v := v.(type) {
	case bool:
		return &node{kind: kindBool, bool: v, text: strconv.FormatBool(v), line: line}, nil
	case json.Number:
		n := resolveScalar(v.String())
		n.line = line
		return &n, nil
	case string:
		return &node{kind: kindString, text: v, line: line}, nil
	case []any:
		n := &node{kind: kindList, line: line, list: make([]*node, len(v))}
		for i := range v {
			child, err := jsonNode(v[i], line, depth+1)
			if err != nil {
				return nil, err
			}
			n.list[i] = child
		}
		return n, nil
	case map[string]any:
		n := &node{kind: kindObject, line: line}
		for k, e := range v {
			child, err := jsonNode(e, line, depth+1)
			if err != nil {
				return nil, err
			}
			n.fields = append(n.fields, field{name: k, raw: k, line: line, value: child})
		}
		slices.SortFunc(n.fields, func(x, y field) int { return strings.Compare(x.name, y.name) })
		return n, nil
	default:
		return &node{kind: kindNull, line: line}, nil
	}
}
