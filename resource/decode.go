package resource

import (
	"fmt"
	"math"
	"reflect"
	"strings"

	"outrigger.dev/suggest"
)

// nodeDecoder is implemented by types with their own YAML form.
type nodeDecoder interface {
	decodeNode(d *decoder, n *node, path string)
}

// decoder writes nodes into Go values. It decodes leniently: unknown fields become warnings, and type errors are collected
// so that all of them can be reported at once.
type decoder struct {
	origin Origin // of the document
	// exactCase is the mode of configuration files: field names match exactly and scalars keep their written text in
	// string fields. Otherwise names match ignoring case and scalars are typed first, as for resource files.
	exactCase bool
	tables    map[reflect.Type]*fieldTable
	problems  []Problem
	errors    []string
}

// fieldTable lists the fields of a struct type by their name in documents.
type fieldTable struct {
	names   []string
	index   map[string][]int
	ignored map[string]bool // known fields of Kubernetes objects that carry no meaning here
}

func newDecoder(origin Origin, exactCase bool) *decoder {
	return &decoder{origin: origin, exactCase: exactCase, tables: map[reflect.Type]*fieldTable{}}
}

// err returns the collected type errors as one error, nil if there are none.
func (d *decoder) err() error {
	if len(d.errors) == 0 {
		return nil
	}
	return fmt.Errorf("yaml: unmarshal errors:\n  %s", strings.Join(d.errors, "\n  "))
}

func (d *decoder) mismatch(n *node, path, want string) {
	if len(d.errors) < maxTypeErrors {
		d.errors = append(d.errors, fmt.Sprintf("line %d: cannot unmarshal %s into %s, which must be %s", n.line, n.describe(), path, want))
	}
}

func (d *decoder) warn(line int, message, remedy string) {
	o := d.origin
	o.Line = line
	d.problems = append(d.problems, Problem{Origin: o, Severity: Warning, Message: message, Remedy: remedy})
}

// retyped warns when YAML 1.1 typing changes a text, which is seldom meant: a name n becomes "false", a version 1.10 "1.1".
func (d *decoder) retyped(written, read string, line int, path string) {
	if written != read && read != "" {
		d.warn(line, fmt.Sprintf("%s is written %s, which YAML reads as %s", path, clip(written), clip(read)), "put it in quotes to keep it as it is")
	}
}

func (d *decoder) table(t reflect.Type) *fieldTable {
	if known, ok := d.tables[t]; ok {
		return known
	}
	table := &fieldTable{index: map[string][]int{}, ignored: map[string]bool{}}
	for i := range t.NumField() {
		f := t.Field(i)
		if f.Name == "_" {
			for name := range strings.SplitSeq(f.Tag.Get("known"), ",") {
				table.ignored[name] = true
			}
			continue
		}
		if f.Anonymous {
			inner := d.table(f.Type)
			for _, name := range inner.names {
				table.names = append(table.names, name)
				table.index[name] = append([]int{i}, inner.index[name]...)
			}
			for name := range inner.ignored {
				table.ignored[name] = true
			}
			continue
		}
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		if name == "" || name == "-" {
			continue
		}
		table.names = append(table.names, name)
		table.index[name] = []int{i}
	}
	d.tables[t] = table
	return table
}

// find returns the known name of a field as written, or "".
func (d *decoder) find(t *fieldTable, name string) string {
	if _, ok := t.index[name]; ok {
		return name
	}
	if !d.exactCase {
		for _, known := range t.names {
			if strings.EqualFold(known, name) {
				return known
			}
		}
	}
	return ""
}

func join(path, name string) string {
	if path == "" {
		return name
	}
	return path + "." + name
}

// decode writes n into v. What is absent from n stays as it is in v: objects merge, scalars and lists are replaced.
func (d *decoder) decode(n *node, v reflect.Value, path string) {
	if v.CanAddr() {
		if custom, ok := v.Addr().Interface().(nodeDecoder); ok {
			custom.decodeNode(d, n, path)
			return
		}
	}
	if n.kind == kindNull {
		switch v.Kind() {
		case reflect.Pointer, reflect.Map, reflect.Slice:
			v.SetZero()
		}
		return
	}
	switch v.Kind() {
	case reflect.Pointer:
		if v.IsNil() {
			v.Set(reflect.New(v.Type().Elem()))
		}
		d.decode(n, v.Elem(), path)
	case reflect.Struct:
		d.object(n, v, path)
	case reflect.Map:
		if n.kind != kindObject {
			d.mismatch(n, path, "an object")
			return
		}
		if v.IsNil() {
			v.Set(reflect.MakeMapWithSize(v.Type(), len(n.fields)))
		}
		for _, f := range n.fields {
			element := reflect.New(v.Type().Elem()).Elem()
			name := f.name
			if d.exactCase {
				name = f.raw
			} else {
				d.retyped(f.raw, f.name, f.line, "a key of "+path)
			}
			d.decode(f.value, element, join(path, name))
			v.SetMapIndex(reflect.ValueOf(name), element)
		}
	case reflect.Slice:
		if n.kind != kindList {
			d.mismatch(n, path, "a list")
			return
		}
		list := reflect.MakeSlice(v.Type(), len(n.list), len(n.list))
		for i, item := range n.list {
			d.decode(item, list.Index(i), fmt.Sprintf("%s[%d]", path, i))
		}
		v.Set(list)
	default:
		d.scalar(n, v, path)
	}
}

func (d *decoder) object(n *node, v reflect.Value, path string) {
	if n.kind != kindObject {
		d.mismatch(n, path, "an object")
		return
	}
	table := d.table(v.Type())
	for _, f := range n.fields {
		name := d.find(table, f.name)
		if name == "" {
			if !table.ignored[f.name] {
				d.unknown(table, f, path)
			}
			continue
		}
		if name != f.name && hasField(n, name) {
			d.warn(f.line, fmt.Sprintf("field %s is written twice, also as %s, which is used", join(path, f.name), name),
				"keep one of the two")
			continue
		}
		d.decode(f.value, v.FieldByIndex(table.index[name]), join(path, name))
	}
}

// hasField tells whether the object has a field of exactly this name.
func hasField(n *node, name string) bool {
	for i := range n.fields {
		if n.fields[i].name == name {
			return true
		}
	}
	return false
}

func (d *decoder) unknown(table *fieldTable, f field, path string) {
	remedy := "remove it, or check its spelling and indentation"
	if len(table.names) > 0 {
		remedy = "remove it, or use one of " + strings.Join(table.names, ", ")
	}
	if near, ok := suggest.Nearest(f.raw, table.names); ok {
		remedy = "did you mean " + near + "?"
		if strings.EqualFold(near, f.raw) {
			remedy = "write it as " + near + ": field names are case-sensitive here"
		}
	}
	d.warn(f.line, fmt.Sprintf("unknown field %s is ignored", join(path, f.raw)), remedy)
}

func (d *decoder) scalar(n *node, v reflect.Value, path string) {
	switch v.Kind() {
	case reflect.String:
		if n.kind >= kindList {
			d.mismatch(n, path, "text")
			return
		}
		if d.exactCase {
			v.SetString(n.text)
			return
		}
		v.SetString(n.scalarText())
		d.retyped(n.text, n.scalarText(), n.line, path)
	case reflect.Bool:
		if n.kind != kindBool {
			d.mismatch(n, path, "true or false, without quotes")
			return
		}
		v.SetBool(n.bool)
	case reflect.Int, reflect.Int32, reflect.Int64:
		i, ok := n.int, n.kind == kindInt
		if n.kind == kindFloat && n.float == math.Trunc(n.float) && math.Abs(n.float) < 1<<63 {
			i, ok = int64(n.float), true
		}
		if !ok || v.OverflowInt(i) {
			d.mismatch(n, path, fmt.Sprintf("a whole number of at most %d bits, without quotes", v.Type().Bits()))
			return
		}
		v.SetInt(i)
	default:
		// Only a field type that this package forgot to support can get here; tests decode every kind.
		d.mismatch(n, path, v.Type().String())
	}
}

// elem returns the addressable value behind a pointer.
func elem(pointer any) reflect.Value { return reflect.ValueOf(pointer).Elem() }
