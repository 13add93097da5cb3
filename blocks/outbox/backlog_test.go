package outbox_test

import (
	"fmt"
	"testing"
	"time"

	stores "outrigger.dev/components/state"
)

// Events that have waited in the broker are not waited for again: many brokers hand over one at a time, and a backlog would go
// down by one event a second.
func TestBacklogIsNotHeldUp(t *testing.T) {
	f := newFixture(t)
	s := f.newStore(t)
	f.add(t, "st", s)
	f.Start()
	const n = 30
	var operations []stores.Operation
	for i := range n {
		operations = append(operations, upsert(fmt.Sprint("k", i), `1`))
	}
	backlog := f.committed(t, "st", s, operations...)
	f.clock.Advance(5 * time.Second)
	begin := f.clock.Now()
	for _, m := range backlog {
		if err := f.deliver(m.text); err != nil {
			t.Fatal(err)
		}
	}
	if passed := f.clock.Since(begin); len(backlog) != n || len(f.broker.take()) != n || passed > 0 {
		t.Errorf("%d old events took %s", n, passed)
	}
}

// The time of an event is of whole seconds, and of a clock that may go wrong: nothing is waited for longer than it always was.
func TestTimeOfTheEvent(t *testing.T) {
	for _, tc := range []struct {
		name   string
		age    time.Duration
		waited time.Duration
	}{
		{"fresh", 0, time.Second},
		{"a moment old", 900 * time.Millisecond, time.Second},
		{"half way", 1500 * time.Millisecond, 500 * time.Millisecond},
		{"old", 2 * time.Second, 0},
		{"from the future", -time.Hour, time.Second},
	} {
		t.Run(tc.name, func(t *testing.T) {
			f := newFixture(t)
			s := f.newStore(t)
			f.add(t, "st", s)
			f.Start()
			stamp := f.clock.Now().Add(-tc.age).UTC().Format(time.RFC3339Nano)
			m := f.committed(t, "st", s, upsert("k", `1`, "time="+stamp))[0]
			begin := f.clock.Now()
			if err := f.deliver(m.text); err != nil {
				t.Fatal(err)
			}
			if waited := f.clock.Since(begin); waited != tc.waited {
				t.Errorf("waited %s, want %s", waited, tc.waited)
			}
		})
	}
	t.Run("no time", func(t *testing.T) {
		f := newFixture(t)
		s := f.newStore(t)
		f.add(t, "st", s)
		f.Start()
		m := f.committed(t, "st", s, upsert("k", `1`, "time=soon"))[0]
		begin := f.clock.Now()
		if err := f.deliver(m.text); err != nil {
			t.Fatal(err)
		}
		if waited := f.clock.Since(begin); waited != time.Second {
			t.Errorf("waited %s, want 1s", waited)
		}
	})
}
