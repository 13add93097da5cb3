package pubsub

import (
	"testing"

	"outrigger.dev/blocks/internal/cloudevents"
)

func TestRouting(t *testing.T) {
	const event = `{"type":"widget","n":1,"data":{"qty":11,"list":[1,2],"name":"x"},"subject":null}`
	for _, test := range []struct {
		match string
		holds bool
		fails bool
	}{
		{`event.type == "widget"`, true, false},
		{`event.type == 'gadget'`, false, false},
		{`int(event.data.qty) > 10`, true, false},
		{`event.data.qty > 10.0`, true, false},
		{`event.data.qty == 11`, true, false},
		{`has(event.data.missing) && event.data.missing == 1`, false, false},
		{`event.data.missing == 1`, false, true},
		{`event.data.list.exists(x, x == 2)`, true, false},
		{`event.data.name.startsWith("x") && size(event.data.list) == 2`, true, false},
		{`type(event.data.name) == string`, true, false},
		{`event.data.name + 1`, false, true},
		{`event.data.qty`, false, true},
		{`true`, true, false},
		{`other == 1`, false, true},
		{"  ", true, false},
	} {
		r, err := newRouter([]Rule{{test.match, "/first"}, {"", "/second"}})
		if err != nil {
			t.Errorf("%q: %v", test.match, err)
			continue
		}
		parsed, err := cloudevents.Parse([]byte(event))
		if err != nil {
			t.Fatal(err)
		}
		path, ok, err := r.route(parsed)
		want := "/second"
		if test.holds {
			want = "/first"
		}
		if test.fails != (err != nil) || err == nil && (!ok || path != want) {
			t.Errorf("%q: path %q %v, error %v", test.match, path, ok, err)
		}
	}
}

func TestRoutingWithoutMatch(t *testing.T) {
	parsed, err := cloudevents.Parse([]byte(`{"type":"a"}`))
	if err != nil {
		t.Fatal(err)
	}
	for _, rules := range [][]Rule{nil, {{`event.type == "b"`, "/b"}}} {
		r, err := newRouter(rules)
		if err != nil {
			t.Fatal(err)
		}
		if path, ok, err := r.route(parsed); ok || err != nil {
			t.Errorf("%v: path %q, error %v", rules, path, err)
		}
	}
}

func TestRoutingErrors(t *testing.T) {
	for _, match := range []string{`event.type ==`, `"a" + 1`, `event.type = "x"`, `unknown(event)`, "'"} {
		_, err := newRouter([]Rule{{match, "/x"}})
		if err == nil {
			t.Errorf("%q compiles", match)
			continue
		}
		if checked := CheckRule(Rule{match, "/x"}); checked == nil || checked.Error() != err.Error() {
			t.Errorf("%q: CheckRule says %v, a subscription fails with %v", match, checked, err)
		}
	}
	for _, match := range []string{"", " ", `event.type == "x"`} {
		if err := CheckRule(Rule{match, "/x"}); err != nil {
			t.Errorf("%q: %v", match, err)
		}
	}
}
