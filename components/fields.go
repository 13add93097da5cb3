package components

import (
	"fmt"
	"reflect"
	"slices"
	"strings"
	"time"

	"outrigger.dev/suggest"
)

// Field is one metadata property of a component type, read from a field of its options struct:
//
//	Host string `name:"redisHost" required:"true" default:"localhost" aliases:"host,addr" allowed:"a,b" secret:"true" help:"..."`
//
// Only name is obligatory; fields without it are ignored, embedded structs are flattened. Field types: string, bool, the
// integers, floats, [time.Duration] (a bare integer means seconds), [Millis] (a bare integer means milliseconds),
// [ByteSize], []string, []time.Duration, and pointers to these, which stay nil when the property is absent.
// A field of type map[string]string with `name:"*"` takes all properties and makes the type free-form.
type Field struct {
	Name     string
	Aliases  []string
	Required bool
	// Default is the text that stands in for an absent property.
	Default string
	// Allowed lists the only values, compared without regard to case; empty means any.
	Allowed []string
	// Secret marks values that must never be shown.
	Secret bool
	// Help is a short description.
	Help string
	// Kind names the type for people: "string", "bool", "int", "duration", ...
	Kind string

	index []int
}

// Millis is a duration whose bare integers mean milliseconds, as some older settings have it.
type Millis time.Duration

// ByteSize is a number of bytes, written as a Kubernetes quantity such as "4Mi".
type ByteSize int64

var (
	durationType  = reflect.TypeFor[time.Duration]()
	millisType    = reflect.TypeFor[Millis]()
	byteSizeType  = reflect.TypeFor[ByteSize]()
	stringsType   = reflect.TypeFor[[]string]()
	durationsType = reflect.TypeFor[[]time.Duration]()
	mapType       = reflect.TypeFor[map[string]string]()
)

// fieldsOf reads the fields of an options struct. A malformed struct is a mistake in the program and panics.
func fieldsOf(t reflect.Type) (fields []Field, freeForm bool) {
	if t.Kind() != reflect.Struct {
		panic("components: options must be a struct, got " + t.String())
	}
	for _, sf := range reflect.VisibleFields(t) {
		name := sf.Tag.Get("name")
		if name == "" || sf.Anonymous {
			continue
		}
		f := Field{
			Name:     name,
			Aliases:  list(sf.Tag.Get("aliases")),
			Required: sf.Tag.Get("required") == "true",
			Default:  sf.Tag.Get("default"),
			Allowed:  list(sf.Tag.Get("allowed")),
			Secret:   sf.Tag.Get("secret") == "true",
			Help:     sf.Tag.Get("help"),
			index:    sf.Index,
		}
		if name == "*" {
			if sf.Type != mapType {
				panic("components: the * field must be a map[string]string in " + t.String())
			}
			freeForm = true
		}
		f.Kind = kindOf(sf.Type)
		if f.Kind == "" {
			panic(fmt.Sprintf("components: field %s of %s has the unsupported type %s", sf.Name, t, sf.Type))
		}
		fields = append(fields, f)
	}
	return fields, freeForm
}

func list(s string) []string {
	if s == "" {
		return nil
	}
	return strings.Split(s, ",")
}

func kindOf(t reflect.Type) string {
	if t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	switch t {
	case durationType:
		return "duration"
	case millisType:
		return "duration (ms)"
	case byteSizeType:
		return "byte size"
	case stringsType:
		return "list"
	case durationsType:
		return "list of durations"
	case mapType:
		return "any"
	}
	switch t.Kind() {
	case reflect.String:
		return "string"
	case reflect.Bool:
		return "bool"
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		return "int"
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		return "uint"
	case reflect.Float32, reflect.Float64:
		return "float"
	default:
		return ""
	}
}

func (e *NotFoundError) remedy() string {
	if len(e.Versions) > 0 {
		return fmt.Sprintf(" (%s.%s has the versions %s)", e.Category, e.Name, strings.Join(e.Versions, ", "))
	}
	if near, ok := suggest.Nearest(e.Name, e.Known); ok {
		return fmt.Sprintf(" (did you mean %s.%s?)", e.Category, near)
	}
	if len(e.Known) == 0 {
		return fmt.Sprintf(" (this build has no %s components)", e.Category)
	}
	known := slices.Clone(e.Known)
	slices.Sort(known)
	return fmt.Sprintf(" (this build has %s)", strings.Join(known, ", "))
}
