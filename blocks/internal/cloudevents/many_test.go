package cloudevents

import (
	"bytes"
	"fmt"
	"testing"
	"time"
)

// An event of the size of a request may have very many attributes.
func TestManyAttributes(t *testing.T) {
	const n = 300_000
	var text bytes.Buffer
	text.WriteString(`{"topic":"twice"`)
	for i := range n {
		fmt.Fprintf(&text, `,"a%d":1`, i%(n-1)) // the first comes again
	}
	text.WriteString(`,"id":"7"}`)
	done := make(chan []byte, 1)
	go func() {
		out, err := (&Completion{Topic: "t", PubsubName: "p"}).Append(nil, text.Bytes())
		if err != nil {
			t.Error(err)
		}
		done <- out
	}()
	select {
	case out := <-done:
		e, err := Parse(out)
		if err != nil {
			t.Fatal(err)
		}
		const added = 8 // pubsubname, time, traceid, traceparent, tracestate, source, type and specversion
		if len(e.Attributes) != n-1+2+added || e.String(Topic) != "t" || e.String(ID) != "7" {
			t.Errorf("%d attributes, topic %q, id %q", len(e.Attributes), e.String(Topic), e.String(ID))
		}
	case <-time.After(10 * time.Second):
		t.Fatal("completing the event takes more than 10 seconds")
	}
}

// So may what is added to one, for which the outbox takes an app's metadata.
func TestManyAddedAttributes(t *testing.T) {
	const n = 300_000
	e, err := Parse([]byte(`{"id":"7","a1":"own"}`))
	if err != nil {
		t.Fatal(err)
	}
	set := make([]Attribute, n)
	for i := range set {
		set[i] = Attribute{fmt.Sprintf("a%d", i%(n-1)), fmt.Appendf(nil, "%d", i)}
	}
	done := make(chan []byte, 1)
	go func() { done <- e.AppendWith(nil, set...) }()
	select {
	case text := <-done:
		out, err := Parse(text)
		if err != nil {
			t.Fatal(err)
		}
		if len(out.Attributes) != n || string(out.Raw("a1")) != "1" || string(out.Raw("a0")) != fmt.Sprint(n-1) || out.String(ID) != "7" {
			t.Errorf("%d attributes, a0 %s, a1 %s", len(out.Attributes), out.Raw("a0"), out.Raw("a1"))
		}
	case <-time.After(10 * time.Second):
		t.Fatal("adding the attributes takes more than 10 seconds")
	}
}
