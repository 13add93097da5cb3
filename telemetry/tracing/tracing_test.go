package tracing

import (
	"context"
	"math/rand/v2"
	"strings"
	"testing"

	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.opentelemetry.io/otel/trace"
	"google.golang.org/grpc/metadata"
)

const (
	traceID = "0af7651916cd43dd8448eb211c80319c"
	spanID  = "b7ad6b7169203331"
	parent  = "00-" + traceID + "-" + spanID + "-01"
)

// seeded are numbers that a test can repeat.
func seeded() func() uint64 { return rand.New(rand.NewPCG(1, 2)).Uint64 }

func TestParseParent(t *testing.T) {
	for text, want := range map[string]string{
		parent:                                                  parent,
		" " + parent + "\t":                                     parent,
		"00-" + traceID + "-" + spanID + "-00":                  "00-" + traceID + "-" + spanID + "-00",
		"00-" + traceID + "-" + spanID + "-ff":                  "00-" + traceID + "-" + spanID + "-03", // unknown bits end here
		"cc-" + traceID + "-" + spanID + "-01-what":             parent,                                 // a later version
		"cc-" + traceID + "-" + spanID + "-01":                  parent,
		"cc-" + traceID + "-" + spanID + "-01what":              "",
		parent + "-what":                                        "",
		"ff-" + traceID + "-" + spanID + "-01":                  "",
		"00-" + strings.ToUpper(traceID) + "-" + spanID + "-01": "",
		"00-" + strings.Repeat("0", 32) + "-" + spanID + "-01":  "",
		"00-" + traceID + "-0000000000000000-01":                "",
		"00-" + traceID + "-" + spanID:                          "",
		"00-" + traceID + "-" + spanID + "-0":                   "",
		"00_" + traceID + "-" + spanID + "-01":                  "",
		"":                                                      "",
		"junk":                                                  "",
	} {
		c, ok := ParseParent(text)
		if got := c.Parent(); ok != (want != "") || got != want {
			t.Errorf("ParseParent(%q) = %q, %v, want %q", text, got, ok, want)
		}
		if c2, ok2 := ParseParent([]byte(text)); c2 != c || ok2 != ok {
			t.Errorf("ParseParent(%q): bytes are read otherwise than text", text)
		}
	}
}

func TestParseBinary(t *testing.T) {
	c, _ := ParseParent(parent)
	whole := c.Binary()
	if len(whole) != 29 || whole[:2] != "\x00\x00" || whole[18] != 1 || whole[27] != 2 || whole[28] != 1 {
		t.Fatalf("Binary() = %x", whole)
	}
	unsampled := c
	unsampled.Flags = 0
	for b, want := range map[string]Context{
		whole:                  c,
		whole + "\x03more":     c,
		whole[:27]:             unsampled, // no flags
		whole[:28]:             unsampled,
		whole[:18]:             {}, // no span ID
		whole[:17]:             {},
		"":                     {},
		"\x01" + whole[1:]:     {},
		"\x00\x01" + whole[2:]: {},
		"\x00\x00" + strings.Repeat("\x00", 16) + whole[18:]: {},
	} {
		got, ok := ParseBinary(b)
		if got != want || ok != want.Valid() {
			t.Errorf("ParseBinary(%x) = %+v, %v", b, got, ok)
		}
	}
	for text, want := range map[string]Context{
		"AAAK92UZFs1D3YRI6yEcgDGcAbeta3FpIDMxAgE=": c,
		"AAAK92UZFs1D3YRI6yEcgDGcAbeta3FpIDMxAgE":  c,
		"AAAK92UZFs1D3YRI6yEcgDGcAbeta3FpIDMxAgE!": {},
		strings.Repeat("A", 10000):                 {},
		"":                                         {},
	} {
		if got, ok := ParseBase64(text); got != want || ok != want.Valid() {
			t.Errorf("ParseBase64(%.50q) = %+v, %v", text, got, ok)
		}
	}
}

func TestParseState(t *testing.T) {
	long := strings.Repeat("a", 256)
	var many []string
	for i := range 33 {
		many = append(many, "k"+strings.Repeat("x", i)+"=v")
	}
	for text, want := range map[string]string{
		"a=b":                        "a=b",
		" a=b , c=d ":                "a=b , c=d",
		"a=b,, ,c=d":                 "a=b,c=d",
		"1a@sys=v":                   "1a@sys=v",
		"a_-*/9=!~ x":                "a_-*/9=!~ x",
		long + "=" + long:            long + "=" + long,
		strings.Join(many[:32], ","): strings.Join(many[:32], ","),
		strings.Join(many, ","):      "",
		long + "a=v":                 "",
		"a=" + long + "a":            "",
		strings.Repeat("a=b,", 1e5):  "",
		"a=b,a=c":                    "",
		"a":                          "",
		"a=":                         "",
		"=b":                         "",
		"A=b":                        "",
		"a=b=c":                      "",
		"a=\x01":                     "",
		"a@=b":                       "",
		"@a=b":                       "",
		",":                          "",
		"":                           "",
	} {
		if got := ParseState(text); got != want {
			t.Errorf("ParseState(%.80q) = %.80q, want %.80q", text, got, want)
		}
	}
}

func TestHeaders(t *testing.T) {
	c, _ := ParseParent(parent)
	other := "00-" + traceID + "-1111111111111111-00"
	for name, test := range map[string]struct {
		md          metadata.MD
		want, state string
	}{
		"binary first":      {metadata.Pairs(HeaderBinary, c.Binary(), HeaderParent, other, HeaderState, "a=b"), parent, ""},
		"binary is broken":  {metadata.Pairs(HeaderBinary, "x", HeaderParent, other), other, ""},
		"text":              {metadata.Pairs(HeaderParent, other), other, ""},
		"text and state":    {metadata.Pairs(HeaderParent, other, HeaderState, "a=b"), other, "a=b"},
		"text and no state": {metadata.Pairs(HeaderParent, other, HeaderState, "junk"), other, ""},
		"neither":           {metadata.Pairs("a", "b", HeaderState, "a=b"), "", ""},
		"text is malformed": {metadata.Pairs(HeaderParent, "x"), "", ""},
	} {
		got := FromIncoming(metadata.NewIncomingContext(t.Context(), test.md))
		if got.Parent() != test.want || got.State != test.state {
			t.Errorf("%s: %q with state %q, want %q with %q", name, got.Parent(), got.State, test.want, test.state)
		}
	}
	if got := FromHeader([]byte(parent), []byte("a=b")); got.Parent() != parent || got.State != "a=b" {
		t.Errorf("FromHeader = %+v", got)
	}
	if got := FromHeader([]byte("x"), []byte("a=b")); got != (Context{}) {
		t.Errorf("FromHeader of a malformed traceparent = %+v", got)
	}
	event := map[string]string{HeaderParent: other, HeaderState: "a=b"}
	if got := FromEvent(event); got.Parent() != other || got.State != "a=b" {
		t.Errorf("FromEvent = %+v", got)
	}
	event[HeaderBinary] = "AAAK92UZFs1D3YRI6yEcgDGcAbeta3FpIDMxAgE="
	if got := FromEvent(event); got.Parent() != parent || got.State != "" {
		t.Errorf("FromEvent with a binary context = %+v", got)
	}
}

func recorder(t *testing.T) (trace.Tracer, *tracetest.SpanRecorder) {
	t.Helper()
	spans := tracetest.NewSpanRecorder()
	p := sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(spans), sdktrace.WithSampler(sdktrace.AlwaysSample()), sdktrace.WithIDGenerator(IDs{}))
	t.Cleanup(func() { _ = p.Shutdown(context.Background()) })
	return p.Tracer(Name), spans
}

func TestStart(t *testing.T) {
	sampled, _ := ParseParent(parent)
	sampled.State = "a=b"
	unsampled := sampled
	unsampled.Flags = 0
	rec, spans := recorder(t)
	none := Context{}
	for name, test := range map[string]struct {
		tracer                  *Tracer
		parent                  Context
		exists, own, newID, rec bool
		sampled                 bool
	}{
		"off":                             {nil, sampled, false, false, false, false, false},
		"passing through":                 {PassThrough(), sampled, true, false, false, false, true},
		"passing nothing through":         {PassThrough(), none, false, false, false, false, false},
		"sampled parent":                  {New(Options{Rate: 0, Recorder: rec, Random: seeded()}), sampled, true, true, true, true, true},
		"unsampled parent":                {New(Options{Rate: 1, Recorder: rec, Random: seeded()}), unsampled, true, true, true, false, false},
		"root, always":                    {New(Options{Rate: 1, Recorder: rec, Random: seeded()}), none, true, true, true, true, true},
		"root, never":                     {New(Options{Rate: 0, Recorder: rec, Random: seeded()}), none, true, true, true, false, false},
		"root, always, nobody listens":    {New(Options{Rate: 1, Random: seeded()}), none, true, true, true, false, true},
		"sampled parent, nobody listens":  {New(Options{Rate: 0, Random: seeded()}), sampled, true, true, true, false, true},
		"a rate above one is always":      {New(Options{Rate: 7, Recorder: rec, Random: seeded()}), none, true, true, true, true, true},
		"a rate below zero is never, too": {New(Options{Rate: -1, Recorder: rec, Random: seeded()}), none, true, true, true, false, false},
	} {
		before := len(spans.Ended())
		s := test.tracer.Start(test.parent, Server, "start")
		if (s != nil) != test.exists || s.Valid() != test.exists || s.Own() != test.own || s.Recording() != test.rec {
			t.Errorf("%s: exists %v, valid %v, own %v, recording %v", name, s != nil, s.Valid(), s.Own(), s.Recording())
			continue
		}
		s.SetName("name")
		s.Set("k", "v", "empty", "")
		s.Set("empty", "")
		s.Fail("why")
		s.End()
		if s == nil {
			if s.Parent() != "" || s.Binary() != "" || s.State() != "" || s.Pairs() != nil || string(s.AppendParent([]byte("x"))) != "x" {
				t.Errorf("%s: a span that does not exist has a context", name)
			}
			continue
		}
		got := s.Context()
		if test.parent.Valid() && (got.TraceID != test.parent.TraceID || got.State != "a=b" || (got.SpanID == test.parent.SpanID) == test.newID) {
			t.Errorf("%s: context %+v", name, got)
		}
		if got.Sampled() != test.sampled {
			t.Errorf("%s: sampled %v", name, got.Sampled())
		}
		if again, ok := ParseParent(s.Parent()); !ok || again.Parent() != got.Parent() || string(s.AppendParent(nil)) != s.Parent() {
			t.Errorf("%s: traceparent %q", name, s.Parent())
		}
		if again, ok := ParseBinary(s.Binary()); !ok || again.Parent() != got.Parent() {
			t.Errorf("%s: grpc-trace-bin %x", name, s.Binary())
		}
		ended := spans.Ended()[before:]
		if !test.rec {
			if len(ended) != 0 {
				t.Errorf("%s: recorded %d spans", name, len(ended))
			}
			continue
		}
		if len(ended) != 1 {
			t.Fatalf("%s: recorded %d spans", name, len(ended))
		}
		e := ended[0]
		if e.SpanContext().TraceID() != got.TraceID || e.SpanContext().SpanID() != got.SpanID || e.SpanContext().TraceState().String() != got.State ||
			e.SpanContext().TraceFlags() != got.Flags || e.Parent().SpanID() != test.parent.SpanID || test.parent.Valid() && !e.Parent().IsRemote() {
			t.Errorf("%s: recorded as %+v below %+v, want %+v", name, e.SpanContext(), e.Parent(), got)
		}
		if e.Name() != "name" || e.SpanKind() != Server || len(e.Attributes()) != 1 || e.Attributes()[0].Value.AsString() != "v" || e.Status().Description != "why" {
			t.Errorf("%s: recorded %q, %v, %v, %v", name, e.Name(), e.SpanKind(), e.Attributes(), e.Status())
		}
	}
	tracer := New(Options{Rate: 1, Recorder: rec, Random: seeded()})
	outer := tracer.Start(none, Client, "outer")
	inner := tracer.Child(outer, Producer, "inner")
	inner.End()
	e := spans.Ended()[len(spans.Ended())-1]
	if e.Parent().SpanID() != outer.Context().SpanID || e.Parent().IsRemote() || inner.Context().TraceID != outer.Context().TraceID {
		t.Errorf("a child is below %+v", e.Parent())
	}
	if tracer.Child(nil, Client, "x").Context().TraceID == outer.Context().TraceID {
		t.Error("a child of nobody belongs to another's trace")
	}
}

// The decision about new traces is the one of OpenTelemetry's sampler, and about as frequent as the rate says.
func TestSampling(t *testing.T) {
	tracer, sampler := New(Options{Rate: 0.25, Random: seeded()}), sdktrace.TraceIDRatioBased(0.25)
	const n = 4000
	count := 0
	for range n {
		c := tracer.Start(Context{}, Client, "x").Context()
		want := sampler.ShouldSample(sdktrace.SamplingParameters{ParentContext: t.Context(), TraceID: c.TraceID}).Decision == sdktrace.RecordAndSample
		if c.Sampled() != want {
			t.Fatalf("trace %s: sampled %v, OpenTelemetry says %v", c.TraceID, c.Sampled(), want)
		}
		if want {
			count++
		}
	}
	if count < n/5 || count > n/3 {
		t.Errorf("%d of %d traces sampled at a rate of a quarter", count, n)
	}
}

func TestContexts(t *testing.T) {
	if FromContext(t.Context()) != nil || NewContext(t.Context(), nil) != t.Context() {
		t.Error("a context without a span has one")
	}
	s := New(Options{Random: seeded()}).Start(Context{}, Client, "x")
	ctx := NewContext(t.Context(), s)
	if FromContext(ctx) != s {
		t.Error("the span got lost")
	}
	md, _ := metadata.FromOutgoingContext(s.Outgoing(ctx))
	if got := md.Get(HeaderParent); len(got) != 1 || got[0] != s.Parent() || len(md.Get(HeaderBinary)) != 1 {
		t.Errorf("outgoing metadata: %v", md)
	}
}

// What most calls pay: nothing without tracing, one piece of memory when the trace is not sampled.
func TestAllocations(t *testing.T) {
	header, off, passing, spans := []byte(parent[:53]+"00"), (*Tracer)(nil), PassThrough(), New(Options{Random: seeded()})
	var buffer [64]byte
	for name, test := range map[string]struct {
		most float64
		run  func()
	}{
		"off":             {0, func() { off.Start(FromHeader(header, nil), Client, "x") }},
		"nothing to pass": {0, func() { passing.Start(FromHeader(nil, nil), Client, "x") }},
		"passing through": {1, func() { passing.Start(FromHeader(header, nil), Client, "x") }},
		"unsampled":       {1, func() { spans.Start(FromHeader(header, nil), Client, "x").AppendParent(buffer[:0]) }},
		"looking":         {0, func() { FromContext(context.Background()) }},
	} {
		if got := testing.AllocsPerRun(100, test.run); got > test.most {
			t.Errorf("%s: %v allocations, want at most %v", name, got, test.most)
		}
	}
}

func FuzzParseParent(f *testing.F) {
	f.Add(parent)
	f.Add("cc" + parent[2:] + "-more")
	f.Fuzz(func(t *testing.T, text string) {
		c, ok := ParseParent(text)
		if ok != c.Valid() {
			t.Fatalf("%q: ok is %v, the context %+v", text, ok, c)
		}
		if again, _ := ParseParent(c.Parent()); ok && again != c {
			t.Errorf("%q does not survive: %+v, then %+v", text, c, again)
		}
	})
}

func FuzzParseBinary(f *testing.F) {
	c, _ := ParseParent(parent)
	f.Add(c.Binary())
	f.Fuzz(func(t *testing.T, b string) {
		c, ok := ParseBinary(b)
		if ok != c.Valid() {
			t.Fatalf("%x: ok is %v, the context %+v", b, ok, c)
		}
		if again, _ := ParseBinary(c.Binary()); ok && again != c {
			t.Errorf("%x does not survive: %+v, then %+v", b, c, again)
		}
	})
}

// Every state that is let through is one for OpenTelemetry as well: spans carry it on.
func FuzzParseState(f *testing.F) {
	f.Add("a=b,c@d=e , f= g")
	f.Fuzz(func(t *testing.T, text string) {
		state := ParseState(text)
		if state == "" {
			return
		}
		if ParseState(state) != state {
			t.Errorf("%q is not stable", state)
		}
		if _, err := trace.ParseTraceState(state); err != nil {
			t.Errorf("%q is refused by OpenTelemetry: %v", state, err)
		}
	})
}

func BenchmarkStartUnsampled(b *testing.B) {
	tracer := New(Options{Rate: 0.0001, Recorder: nil, Random: rand.Uint64})
	var buffer [64]byte
	b.ReportAllocs()
	for b.Loop() {
		tracer.Start(Context{}, Client, "x").AppendParent(buffer[:0])
	}
}
