package nameformat

import (
	"context"
	"strings"
	"testing"

	"outrigger.dev/components"
	"outrigger.dev/components/nameresolution"
)

func open(t *testing.T, properties map[string]string) (nameresolution.Resolver, error) {
	t.Helper()
	var registry components.Registry
	Register(&registry)
	d, err := registry.Lookup(components.NameResolution, "NameFormat", "v1")
	if err != nil {
		t.Fatal(err)
	}
	opened, err := d.Open(t.Context(), components.Instance{Properties: properties})
	if err != nil {
		return nil, err
	}
	return opened.(nameresolution.Resolver), nil
}

func TestResolve(t *testing.T) {
	for _, tc := range []struct {
		name, format, id string
		want, err        string
	}{
		{"one", "{appid}.internal:50002", "a", "a.internal:50002", ""},
		{"several", "{appid}.{appid}:1", "a-b", "a-b.a-b:1", ""},
		{"port", "host-{appid}:50{appid}", "7", "host-7:507", ""},
		{"an id that looks like a placeholder", "{appid}:1", "{appid}", "{appid}:1", ""},
		{"case matters", "{appid}-{AppID}:1", "x", "x-{AppID}:1", ""},
		{"no id", "{appid}:1", "", "", "empty ID not allowed"},
		{"no format", "", "a", "", "format is required in metadata"},
		{"no placeholder", "host:1", "a", "", "format must contain {appid} placeholder"},
		{"wrong placeholder", "{id}:1", "a", "", `is "{id}:1"`},
	} {
		t.Run(tc.name, func(t *testing.T) {
			r, err := open(t, map[string]string{"FORMAT": tc.format})
			var got string
			if err == nil {
				defer r.Close()
				got, err = r.Resolve(context.Background(), nameresolution.Request{ID: tc.id, Namespace: "other", Port: 5})
			}
			if tc.err != "" {
				if err == nil || !strings.Contains(err.Error(), tc.err) {
					t.Errorf("%q, %v; want an error with %q", got, err, tc.err)
				}
				return
			}
			if err != nil || got != tc.want {
				t.Errorf("%q, %v; want %q", got, err, tc.want)
			}
		})
	}
	if _, err := open(t, nil); err == nil || !strings.Contains(err.Error(), "format is required in metadata") {
		t.Error(err)
	}
}
