package outbox_test

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	stores "outrigger.dev/components/state"
)

func TestCommittedEvent(t *testing.T) {
	f := newFixture(t)
	s := f.newStore(t)
	f.add(t, "st", s)
	f.Start()
	internal := f.committed(t, "st", s, upsert("k", `{"n":12345678901234567890}`, "contentType=application/json", "topic=x", "pubsubname=y"))[0]
	marker := internal.event["id"].(string)
	if !s.has(t, marker) {
		t.Fatal("there is no marker")
	}
	begin := f.clock.Now()
	if err := f.deliver(internal.text); err != nil {
		t.Fatal(err)
	}
	if waited := f.clock.Since(begin); waited != time.Second || len(s.reads) != 1 {
		t.Errorf("looked for the marker %d times, the last time after %v", len(s.reads), waited)
	}
	published := f.broker.take()
	if len(published) != 1 {
		t.Fatalf("%d events", len(published))
	}
	m := published[0]
	want := internal.event
	want["topic"], want["pubsubname"] = "orders", "final"
	if m.component != "final" || m.topic != "orders" || m.contentType != "application/json" || !reflect.DeepEqual(m.event, want) {
		t.Errorf("%s/%s %s %v\nwant %v", m.component, m.topic, m.contentType, m.event, want)
	}
	if s.has(t, marker) || !s.has(t, "k") {
		t.Error("the marker is still there, or the item is not")
	}
	// When the acknowledgement is lost the broker delivers again.
	if err := f.deliver(internal.text); err != nil || len(f.broker.take()) != 0 {
		t.Errorf("delivered again: %v", err)
	}
}

// seconds are points in time.
func seconds(times ...float64) []time.Duration {
	var d []time.Duration
	for _, s := range times {
		d = append(d, time.Duration(s*float64(time.Second)))
	}
	return d
}

func TestWaitForMarker(t *testing.T) {
	unreachable := errors.New("store is down")
	all := seconds(1, 1.5, 3, 6, 9, 10)
	for _, tc := range []struct {
		name  string
		items []string
		// writtenAt is the read before which the transaction commits; 0 is never.
		writtenAt int
		onGet     func(call int) error
		reads     []time.Duration
		published bool
		err       string
	}{
		{name: "at once", writtenAt: 1, reads: all[:1], published: true},
		{name: "late", writtenAt: 3, reads: all[:3], published: true},
		{name: "at the last moment", writtenAt: 6, reads: all, published: true},
		{name: "never", reads: all, err: "state store st has no marker of it after 10s, so its transaction failed or still runs"},
		{name: "never, discarding", items: []string{"outboxDiscardWhenMissingState=Yes"}, reads: all},
		{name: "never, discarding nothing", items: []string{"outboxDiscardWhenMissingState=false"}, reads: all, err: "outboxDiscardWhenMissingState: true forgets such events"},
		{name: "unreachable for a while", writtenAt: 1, onGet: func(call int) error {
			if call < 4 {
				return unreachable
			}
			return nil
		}, reads: all[:4], published: true},
		{
			name: "unreachable, discarding", items: []string{"outboxDiscardWhenMissingState=true"}, writtenAt: 1,
			onGet: func(int) error { return unreachable }, reads: all, err: "of topic " + internalTopic + ", pubsub detour: state store st: store is down",
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			f := newFixture(t)
			s := f.newStore(t)
			f.add(t, "st", s, tc.items...)
			f.Start()
			_, markers, err := f.Prepare(t.Context(), "st", []stores.Operation{upsert("k", `1`)}, nil, "", "")
			if err != nil {
				t.Fatal(err)
			}
			s.onGet = func(call int) error {
				if call == tc.writtenAt {
					if err := s.Transact(context.Background(), stores.TransactionRequest{Operations: markers}); err != nil {
						return err
					}
				}
				if tc.onGet != nil {
					return tc.onGet(call)
				}
				return nil
			}
			err = f.deliver(f.broker.take()[0].text)
			if (err != nil) != (tc.err != "") || err != nil && !strings.Contains(err.Error(), tc.err) {
				t.Errorf("%v, want %q", err, tc.err)
			}
			if !slices.Equal(s.reads, tc.reads) {
				t.Errorf("read at %v, want %v", s.reads, tc.reads)
			}
			if published := len(f.broker.take()) == 1; published != tc.published {
				t.Errorf("published: %t", published)
			}
			if tc.published && s.has(t, markers[0].Set.Key) {
				t.Error("the marker is still there")
			}
			if discarded := strings.Contains(f.log.String(), "an outbox event is discarded"); discarded != (tc.err == "" && !tc.published) {
				t.Errorf("log: %s", &f.log)
			}
		})
	}
}

func TestForeignMessages(t *testing.T) {
	f := newFixture(t)
	s := f.newStore(t)
	f.add(t, "st", s)
	f.Start()
	for _, tc := range []struct{ text, want string }{
		{`no JSON`, "message of outbox topic " + internalTopic + " of pubsub detour is no event: invalid character"},
		{``, "is no event"},
		{`[1]`, "an event must be a JSON object, not "},
		{`{}`, `its id is "", but must begin with "outbox-"`},
		{`{"id":"shop||k"}`, `its id is "shop||k"`},
		{`{"id":1}`, `its id is ""`},
	} {
		if err := f.deliver([]byte(tc.text)); err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: %v, want %q", tc.text, err, tc.want)
		}
	}
	if len(s.reads) != 0 {
		t.Error("the store was asked for a foreign marker")
	}
}

func TestFinalPublishFails(t *testing.T) {
	f := newFixture(t)
	s := f.newStore(t)
	f.add(t, "st", s)
	f.Start()
	internal := f.committed(t, "st", s, upsert("k", `1`))[0]
	broken := errors.New("no broker")
	f.broker.fail = func(component, topic string) error { return fmt.Errorf("%s %s: %w", component, topic, broken) }
	err := f.deliver(internal.text)
	if !errors.Is(err, broken) || !strings.Contains(err.Error(), "of state store st to topic orders of pubsub final: final orders: no broker") {
		t.Errorf("%v", err)
	}
	if !s.has(t, internal.event["id"].(string)) {
		t.Fatal("the marker was deleted although nothing was published")
	}
	f.broker.fail = nil
	if err := f.deliver(internal.text); err != nil || len(f.broker.take()) != 1 {
		t.Errorf("delivered again: %v", err)
	}
}

func TestMarkerCannotBeDeleted(t *testing.T) {
	broken := errors.New("read only")
	for _, tc := range []struct {
		name     string
		failures int
		deletes  []time.Duration
	}{
		{"for a while", 3, seconds(1, 1.5, 3, 6)},
		{"at all", 100, seconds(1, 1.5, 3, 6, 9, 11)},
	} {
		t.Run(tc.name, func(t *testing.T) {
			f := newFixture(t)
			s := f.newStore(t)
			f.add(t, "st", s)
			f.Start()
			s.onDelete = func(call int) error {
				if call <= tc.failures {
					return broken
				}
				return nil
			}
			internal := f.committed(t, "st", s, upsert("k", `1`))[0]
			err := f.deliver(internal.text)
			if failed := tc.failures == 100; failed != errors.Is(err, broken) || failed != (err != nil) {
				t.Errorf("%v", err)
			} else if failed && !strings.Contains(err.Error(), "could not be deleted from state store st") {
				t.Errorf("%v", err)
			}
			if !slices.Equal(s.deletes, tc.deletes) || len(f.broker.take()) != 1 {
				t.Errorf("deleted at %v, want %v", s.deletes, tc.deletes)
			}
			s.onDelete = nil
			if err := f.deliver(internal.text); err != nil || s.has(t, internal.event["id"].(string)) {
				t.Errorf("delivered again: %v", err)
			}
			if again := len(f.broker.take()); (again == 1) != (tc.failures == 100) {
				t.Errorf("published again %d times", again)
			}
		})
	}
}

func TestStopEndsWaits(t *testing.T) {
	f := newFixture(t)
	s := f.newStore(t)
	f.add(t, "st", s)
	f.Start()
	if _, _, err := f.Prepare(t.Context(), "st", []stores.Operation{upsert("k", `1`)}, nil, "", ""); err != nil {
		t.Fatal(err)
	}
	text := f.broker.take()[0].text
	for i, pass := range []time.Duration{0, time.Second, 0, time.Second} { // in the first wait, and in one between reads
		f.broker.patient = i >= 2
		f.Start()
		verdict := make(chan error, 1)
		go func() { verdict <- f.broker.deliver("detour", internalTopic, text) }()
		wait := func(waiters int) {
			t.Helper()
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
			defer cancel()
			if err := f.clock.BlockUntilContext(ctx, waiters); err != nil {
				t.Fatal("nobody waits")
			}
		}
		wait(1)
		if pass > 0 {
			f.clock.Advance(pass)
			wait(1)
		}
		if !f.broker.patient {
			f.Stop(t.Context())
		} else {
			consumption := f.broker.consumers[0]
			stopped := make(chan struct{})
			go func() {
				defer close(stopped)
				f.Stop(t.Context())
			}()
			<-consumption.stopping
			wait(2)
			select {
			case err := <-verdict:
				t.Errorf("after %v: a verdict before the broker had time to stop: %v", pass, err)
			default:
			}
			f.clock.Advance(100 * time.Millisecond)
			<-stopped
		}
		if err := <-verdict; !errors.Is(err, context.Canceled) {
			t.Errorf("after %v: %v", pass, err)
		}
	}
}

func TestStopBetweenPublicationAndDeletion(t *testing.T) {
	f := newFixture(t)
	s := f.newStore(t)
	f.add(t, "st", s)
	f.Start()
	internal := f.committed(t, "st", s, upsert("k", `1`))[0]
	ctx, cancel := context.WithCancel(t.Context())
	f.broker.fail = func(string, string) error { cancel(); return nil }
	handler := f.broker.consumers[0].handler
	err := inTime(f.clock, func() error { return handler(ctx, internal.text) })
	if !errors.Is(err, context.Canceled) || len(f.broker.take()) != 1 || len(s.deletes) != 0 {
		t.Errorf("%v; %d deletions", err, len(s.deletes))
	}
}

func TestSharedTopic(t *testing.T) {
	f := newFixture(t)
	a, b := f.newStore(t), f.newStore(t)
	f.add(t, "a", a)
	f.add(t, "b", b, "outboxPublishPubsub=other", "outboxDiscardWhenMissingState=true")
	f.Start()
	if topics := f.broker.topics(); len(topics) != 1 {
		t.Fatalf("consumes %v", topics)
	}
	for name, s := range map[string]*store{"a": a, "b": b} {
		internal := f.committed(t, name, s, upsert("k", `1`))[0]
		if err := f.deliver(internal.text); err != nil {
			t.Fatal(err)
		}
		published := f.broker.take()
		want := map[string]string{"a": "final", "b": "other"}[name]
		if len(published) != 1 || published[0].component != want || s.has(t, internal.event["id"].(string)) {
			t.Errorf("%s: %v", name, published)
		}
	}
	orphan := func() error {
		t.Helper()
		if _, _, err := f.Prepare(t.Context(), "b", []stores.Operation{upsert("k", `1`)}, nil, "", ""); err != nil {
			t.Fatal(err)
		}
		return f.deliver(f.broker.take()[0].text)
	}
	if err := orphan(); err == nil || !strings.Contains(err.Error(), "state store a, b has no marker") {
		t.Errorf("discarded although a does not discard: %v", err)
	}
	if err := f.Remove(t.Context(), "a"); err != nil {
		t.Fatal(err)
	}
	if err := orphan(); err != nil {
		t.Errorf("not discarded: %v", err)
	}
}
