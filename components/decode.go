package components

import (
	"fmt"
	"reflect"
	"strconv"
	"strings"
	"time"

	"outrigger.dev/resource"
)

// lower returns the properties with lower-cased names. Two names that differ only in case are an error (Dapr API,
// component metadata decoding).
func lower(properties map[string]string) (map[string]string, error) {
	lowered := make(map[string]string, len(properties))
	for name, value := range properties {
		l := strings.ToLower(name)
		if _, twice := lowered[l]; twice {
			return nil, fmt.Errorf("key %s is duplicate in the metadata", l)
		}
		lowered[l] = value
	}
	return lowered, nil
}

// decode fills the options struct v from properties.
func decode(properties map[string]string, fields []Field, v reflect.Value) error {
	lowered, err := lower(properties)
	if err != nil {
		return err
	}
	for _, f := range fields {
		if f.Name == "*" {
			v.FieldByIndex(f.index).Set(reflect.ValueOf(properties))
			continue
		}
		if err := f.decode(lowered, v); err != nil {
			return err
		}
	}
	return nil
}

// find returns the text given for the field and the name it was given under; aliases count only when the main name is
// absent, and the first alias that is present wins.
func (f *Field) find(lowered map[string]string) (text, name string, ok bool) {
	if text, ok = lowered[strings.ToLower(f.Name)]; ok {
		return text, f.Name, true
	}
	for _, a := range f.Aliases {
		if text, ok = lowered[strings.ToLower(a)]; ok {
			return text, a, true
		}
	}
	return "", f.Name, false
}

func (f *Field) decode(lowered map[string]string, v reflect.Value) error {
	if f.Name == "*" {
		return nil
	}
	text, name, ok := f.find(lowered)
	if f.Required && text == "" {
		return fmt.Errorf("metadata property %q is required: %s", f.Name, f.Help)
	}
	if !ok {
		if f.Default == "" {
			return nil
		}
		text = f.Default
	}
	if len(f.Allowed) > 0 && text != "" && !containsFold(f.Allowed, text) {
		return fmt.Errorf("metadata property %q is %q, but must be one of %s", name, text, strings.Join(f.Allowed, ", "))
	}
	if err := setText(v.FieldByIndex(f.index), text); err != nil {
		return fmt.Errorf("metadata property %q is %q, which is not a valid %s: %w", name, f.shown(text), f.Kind, err)
	}
	return nil
}

func (f *Field) shown(text string) string {
	if f.Secret {
		return "***"
	}
	return text
}

func containsFold(list []string, s string) bool {
	for _, e := range list {
		if strings.EqualFold(e, s) {
			return true
		}
	}
	return false
}

// setText decodes text into v by the rules that hold for all components (Dapr API, component metadata decoding).
func setText(v reflect.Value, text string) error {
	if v.Kind() == reflect.Pointer {
		v.Set(reflect.New(v.Type().Elem()))
		v = v.Elem()
	}
	switch v.Type() {
	case durationType:
		d, err := ParseDuration(text, time.Second)
		v.SetInt(int64(d))
		return err
	case millisType:
		d, err := ParseDuration(text, time.Millisecond)
		v.SetInt(int64(d))
		return err
	case byteSizeType:
		n, err := resource.ParseQuantity(text)
		v.SetInt(n)
		return err
	case stringsType:
		v.Set(reflect.ValueOf(strings.Split(text, ",")))
		return nil
	case durationsType:
		var ds []time.Duration
		for item := range strings.SplitSeq(text, ",") {
			if item = strings.TrimSpace(item); item == "" {
				continue
			}
			d, err := ParseDuration(item, time.Second)
			if err != nil {
				return err
			}
			ds = append(ds, d)
		}
		v.Set(reflect.ValueOf(ds))
		return nil
	}
	switch v.Kind() {
	case reflect.String:
		v.SetString(text)
	case reflect.Bool:
		v.SetBool(Truthy(text))
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		if text == "" {
			v.SetInt(0)
			return nil
		}
		n, err := strconv.ParseInt(text, 0, v.Type().Bits())
		v.SetInt(n)
		return cause(err)
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		if text == "" {
			v.SetUint(0)
			return nil
		}
		n, err := strconv.ParseUint(text, 0, v.Type().Bits())
		v.SetUint(n)
		return cause(err)
	case reflect.Float32, reflect.Float64:
		if text == "" {
			v.SetFloat(0)
			return nil
		}
		n, err := strconv.ParseFloat(text, v.Type().Bits())
		v.SetFloat(n)
		return cause(err)
	}
	return nil
}

// cause takes strconv's function name and quoted input off its errors, which the caller's message repeats.
func cause(err error) error {
	if ne, ok := err.(*strconv.NumError); ok {
		return ne.Err
	}
	return err
}

// Truthy reports whether text means true: one of y, yes, true, t, on, 1 in any case; everything else is false (Dapr API,
// component metadata decoding).
func Truthy(text string) bool {
	switch strings.ToLower(strings.TrimSpace(text)) {
	case "y", "yes", "true", "t", "on", "1":
		return true
	}
	return false
}

// boolWord reports whether text is a usual way to write true or false.
func boolWord(text string) bool {
	switch strings.ToLower(strings.TrimSpace(text)) {
	case "", "n", "no", "false", "f", "off", "0":
		return true
	}
	return Truthy(text)
}

// ParseDuration reads a Go duration, or an integer counting unit. The empty text is 0.
func ParseDuration(text string, unit time.Duration) (time.Duration, error) {
	if text == "" {
		return 0, nil
	}
	if n, err := strconv.ParseInt(text, 10, 64); err == nil {
		if d := time.Duration(n) * unit; d/unit == time.Duration(n) {
			return d, nil
		}
		return 0, fmt.Errorf("%s is longer than can be counted", text)
	}
	return time.ParseDuration(text)
}
