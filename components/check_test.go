package components

import (
	"context"
	"errors"
	"fmt"
	"testing"
)

// pair are options of which each is right by itself.
type pair struct {
	User     string            `name:"user"`
	Password string            `name:"password" aliases:"secret" secret:"true"`
	Count    int               `name:"count" default:"1"`
	Rest     map[string]string `name:"*"`
}

func (p *pair) Check() error {
	switch {
	case p.Rest["forbidden"] != "":
		return errors.New(`metadata properties "user" and "forbidden" exclude each other`)
	case p.Count == 13:
		return fmt.Errorf(`metadata property "count" is %d; metadata property "count" must be another`, p.Count)
	case p.Count == 14:
		return errors.New(`metadata property "count" is 14, but metadata property "user" does not bear it`)
	case p.User != "" && p.Password == "":
		return errors.New(`metadata property "password" is missing`)
	}
	p.User += "!" // what follows from others
	return nil
}

func TestCheckOfTheOptions(t *testing.T) {
	var r Registry
	opened := ""
	Register(&r, State, Info{Name: "x", Version: "v1"}, func(_ context.Context, _ Instance, o pair) (*pair, error) {
		opened = o.User
		return &o, nil
	})
	d, err := r.Lookup(State, "x", "")
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		properties map[string]string
		property   string
		message    string // "" for no finding
	}{
		{map[string]string{"user": "u", "secret": "s"}, "", ""},
		{map[string]string{"user": "u"}, "password", `metadata property "password" is missing`},
		{map[string]string{"forbidden": "x"}, "", `metadata properties "user" and "forbidden" exclude each other`},
		{map[string]string{"count": "13"}, "count", `metadata property "count" is 13; metadata property "count" must be another`},
		{map[string]string{"count": "14"}, "", `metadata property "count" is 14, but metadata property "user" does not bear it`},
	} {
		opened = ""
		findings := d.Check(c.properties)
		_, err := d.Open(context.Background(), Instance{Properties: c.properties})
		if c.message == "" {
			if len(findings) > 0 || err != nil || opened != "u!" {
				t.Errorf("%v: findings %v, error %v, opened with %q", c.properties, findings, err, opened)
			}
			continue
		}
		if len(findings) != 1 || findings[0] != (Finding{Property: c.property, Message: c.message, Fatal: true}) {
			t.Errorf("%v: findings %+v", c.properties, findings)
		}
		if err == nil || err.Error() != c.message || opened != "" {
			t.Errorf("%v: opened with %q, error %v", c.properties, opened, err)
		}
		if findings := d.CheckEach(c.properties); len(findings) > 0 {
			t.Errorf("%v: each by itself has the findings %v", c.properties, findings)
		}
	}
	// Options that do not decode are not checked.
	if findings := d.Check(map[string]string{"count": "x", "user": "u"}); len(findings) != 1 || findings[0].Property != "count" {
		t.Errorf("findings %v", findings)
	}
}
