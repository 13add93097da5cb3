package actors

import (
	"context"
	"encoding/json"
	"fmt"
	"hash/fnv"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jonboulle/clockwork"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	schedulerv1 "outrigger.dev/api/gen/scheduler/v1"
	stores "outrigger.dev/components/state"
	"outrigger.dev/components/state/inmemory"
	"outrigger.dev/telemetry/logging/logtest"
)

// migrationWorld has rows of a former version in a store.
type migrationWorld struct {
	store stores.Store
	s     *schedulerFake
	clock *clockwork.FakeClock
	*Migration
	logs *logtest.Log
}

func newMigrationWorld(t *testing.T, store stores.Store) *migrationWorld {
	t.Helper()
	w := &migrationWorld{store: store, s: newScheduler(), clock: clockwork.NewFakeClockAt(timersBegin), logs: new(logtest.Log)}
	core := newCore()
	w.Migration = NewMigration(MigrationOptions{
		State: newState(t, StateOptions{Core: core}, store), Reminders: newReminders(core, w.s), Clock: w.clock,
		Log: w.logs.Logger(),
	})
	return w
}

func (w *migrationWorld) put(t *testing.T, key string, value any) {
	t.Helper()
	text, err := json.Marshal(value)
	if err != nil {
		t.Fatal(err)
	}
	if err := w.store.Set(t.Context(), stores.SetRequest{Key: key, Value: stores.Value{Bytes: text, JSON: true}}); err != nil {
		t.Fatal(err)
	}
}

func (w *migrationWorld) keys(t *testing.T) string {
	t.Helper()
	keys, _, err := w.store.(stores.KeysLister).KeysLike(t.Context(), "%", "", 0)
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(keys)
	return strings.Join(keys, " ")
}

// row is a legacy reminder as former versions wrote it.
func row(id, name string, more ...string) map[string]any {
	r := map[string]any{"actorID": id, "actorType": "cart", "name": name, "data": nil, "period": "", "dueTime": "", "registeredTime": timersBegin.Format(time.RFC3339)}
	for i := 0; i < len(more); i += 2 {
		r[more[i]] = json.RawMessage(more[i+1])
	}
	return r
}

func TestMigrateUnpartitioned(t *testing.T) {
	for name, store := range stateStores(t, clockwork.NewFakeClockAt(timersBegin)) {
		t.Run(name, func(t *testing.T) {
			w := newMigrationWorld(t, store)
			w.put(t, "actors||cart", []any{
				row("1", "once", "registeredTime", `"2030-02-01T00:00:00Z"`, "data", `{"a": 1}`),
				row("1", "often", "period", `"R5/PT1H"`),
				row("1", "||odd", "period", `"1h"`),
			})
			w.put(t, "cart||1||often", map[string]any{"lastFiredTime": "2030-01-31T11:30:00Z", "repetitionLeft": 3})
			w.put(t, "shop||cart||1||k", 1)
			w.put(t, "actors||cartItem", []any{row("1", "r")})
			if err := w.Migrate(t.Context(), "cart"); err != nil {
				t.Fatal(err)
			}
			same(t, "once", w.s.job(t, "actorreminder||ns||cart||1||once"), &schedulerv1.Job{DueTime: text("2030-02-01T00:00:00Z"), Data: jsonData([]byte(`{"a":1}`))})
			same(t, "often", w.s.job(t, "actorreminder||ns||cart||1||often"), &schedulerv1.Job{DueTime: text("2030-01-31T12:30:00Z"), Schedule: text("@every 1h0m0s"), Repeats: number(3)})
			same(t, "odd", w.s.job(t, "actorreminder||ns||cart||1||||odd"), &schedulerv1.Job{DueTime: text("2030-01-31T12:00:00Z"), Schedule: text("@every 1h0m0s")})
			if got := w.keys(t); got != "actors||cartItem shop||cart||1||k" {
				t.Errorf("left in the store: %s", got)
			}
			if err := w.Migrate(t.Context(), "cart"); err != nil || len(w.s.all()) != 3 {
				t.Errorf("again: %v", err)
			}
		})
	}
}

func TestMigratePartitioned(t *testing.T) {
	for name, store := range stateStores(t, clockwork.NewFakeClockAt(timersBegin)) {
		t.Run(name, func(t *testing.T) {
			w := newMigrationWorld(t, store)
			const partitions = 3
			w.put(t, "actors||cart||metadata", map[string]any{"id": "4711", "actorRemindersMetadata": map[string]any{"partitionCount": partitions}})
			rows := map[int][]any{}
			for i := range 40 {
				id, name := fmt.Sprint("a", i%7), fmt.Sprint("r", i)
				h := fnv.New32a()
				_, _ = h.Write([]byte(id))
				_, _ = h.Write([]byte(name))
				n := int(h.Sum32()%partitions) + 1
				rows[n] = append(rows[n], row(id, name, "period", `"1h"`))
				w.put(t, "cart||"+id+"||"+name, map[string]any{"lastFiredTime": "2030-01-31T11:30:00Z", "repetitionLeft": -1})
			}
			for n, list := range rows {
				w.put(t, fmt.Sprint("actors||cart||4711||reminders||", n), list)
			}
			// Another sidecar has been faster with one of them, and its app has changed it since.
			m := w.options.Reminders.metadata("cart", "a3")
			w.s.jobs[fullName("r3", m)] = &schedulerv1.NamedJob{Name: "r3", Metadata: m, Job: &schedulerv1.Job{DueTime: text("1s")}}
			if err := w.Migrate(t.Context(), "cart"); err != nil {
				t.Fatal(err)
			}
			if got := len(w.s.all()); got != 40 {
				t.Errorf("%d reminders", got)
			}
			same(t, "the newer one", w.s.job(t, "actorreminder||ns||cart||a3||r3"), &schedulerv1.Job{DueTime: text("1s")})
			same(t, "another", w.s.job(t, "actorreminder||ns||cart||a4||r4"), &schedulerv1.Job{DueTime: text("2030-01-31T12:30:00Z"), Schedule: text("@every 1h0m0s")})
			if got := w.keys(t); got != "" {
				t.Errorf("left in the store: %s", got)
			}
		})
	}
}

func TestMigratedTimes(t *testing.T) {
	every := text("@every 1h0m0s")
	for name, tc := range map[string]struct {
		row   map[string]any
		track string
		want  *schedulerv1.Job // nil: it has ended
	}{
		"fired once":          {row("1", "r"), `{"lastFiredTime":"2030-01-31T11:00:00Z","repetitionLeft":0}`, nil},
		"missed once":         {row("1", "r", "registeredTime", `"2029-01-01T00:00:00Z"`), "", &schedulerv1.Job{DueTime: text("2029-01-01T00:00:00Z")}},
		"missed many":         {row("1", "r", "period", `"1h"`), `{"lastFiredTime":"2029-12-31T11:30:00Z","repetitionLeft":-1}`, &schedulerv1.Job{DueTime: text("2030-01-31T11:30:00Z"), Schedule: every}},
		"used up":             {row("1", "r", "period", `"R2/PT1H"`), `{"lastFiredTime":"2030-01-31T11:30:00Z","repetitionLeft":0}`, nil},
		"no repetitions":      {row("1", "r", "period", `"1h"`), `{"lastFiredTime":"2030-01-31T11:30:00Z"}`, &schedulerv1.Job{DueTime: text("2030-01-31T12:30:00Z"), Schedule: every}},
		"expired":             {row("1", "r", "period", `"1h"`, "expirationTime", `"2030-01-31T11:59:59Z"`), "", nil},
		"expires":             {row("1", "r", "period", `"1h"`, "expirationTime", `"2030-01-31T14:00:00Z"`), "", &schedulerv1.Job{DueTime: text("2030-01-31T12:00:00Z"), Schedule: every, Ttl: text("2030-01-31T14:00:00Z")}},
		"expires, fires once": {row("1", "r", "expirationTime", `"2030-01-31T14:00:00Z"`), "", &schedulerv1.Job{DueTime: text("2030-01-31T12:00:00Z")}},
		"days":                {row("1", "r", "period", `"P1DT1H"`), "", &schedulerv1.Job{DueTime: text("2030-01-31T12:00:00Z"), Schedule: text("@every 25h0m0s")}},
		"due time alone":      {row("1", "r", "registeredTime", `""`, "dueTime", `"2h"`), "", &schedulerv1.Job{DueTime: text("2030-01-31T14:00:00Z")}},
		"no time":             {row("1", "r", "registeredTime", `""`), "", &schedulerv1.Job{DueTime: text("2030-01-31T12:00:00Z")}},
	} {
		t.Run(name, func(t *testing.T) {
			w := newMigrationWorld(t, inmemory.New(clockwork.NewRealClock()))
			w.put(t, "actors||cart", []any{tc.row})
			if tc.track != "" {
				w.put(t, "cart||1||r", json.RawMessage(tc.track))
			}
			if err := w.Migrate(t.Context(), "cart"); err != nil {
				t.Fatal(err)
			}
			if got := w.keys(t); got != "" {
				t.Errorf("left in the store: %s; %s", got, w.logs)
			}
			if tc.want == nil {
				if got := w.s.all(); len(got) != 0 {
					t.Errorf("an ended one came back: %q", got)
				}
				return
			}
			same(t, "job", w.s.job(t, "actorreminder||ns||cart||1||r"), tc.want)
		})
	}
}

// What can never be migrated stays, alone, and is told about.
func TestMigrateLeavesTheImpossible(t *testing.T) {
	w := newMigrationWorld(t, inmemory.New(clockwork.NewRealClock()))
	w.put(t, "actors||cart||metadata", map[string]any{"id": "m", "actorRemindersMetadata": map[string]any{"partitionCount": 3}})
	w.put(t, "actors||cart||m||reminders||1", []any{row("1", "good"), row("1", "monthly", "period", `"P1M"`), row("1", "bad/name", "period", `"1h"`), row("", "nobody"), 7})
	w.put(t, "actors||cart||m||reminders||2", []any{row("2", "good")})
	w.put(t, "actors||cart||m||reminders||3", "rubbish")
	w.put(t, "cart||1||good", map[string]any{"repetitionLeft": -1})
	w.put(t, "cart||1||bad/name", map[string]any{"repetitionLeft": 0})
	for range 2 {
		if err := w.Migrate(t.Context(), "cart"); err != nil {
			t.Fatal(err)
		}
		if got := strings.Join(w.s.all(), " "); got != "actorreminder||ns||cart||2||good" {
			t.Errorf("migrated: %s", got)
		}
		if got := w.keys(t); got != "actors||cart||metadata actors||cart||m||reminders||1 actors||cart||m||reminders||3 cart||1||bad/name" {
			t.Errorf("left in the store: %s", got)
		}
	}
	item, err := w.store.Get(t.Context(), stores.GetRequest{Key: "actors||cart||m||reminders||1"})
	if err != nil {
		t.Fatal(err)
	}
	var left []any
	if err := json.Unmarshal(item.Data, &left); err != nil || len(left) != 4 {
		t.Errorf("left %s, %v", item.Data, err)
	}
	for _, want := range []string{"P1M", "cart||1||bad/name", "reminders||3"} {
		if !strings.Contains(w.logs.String(), want) {
			t.Errorf("the log does not name %s: %s", want, w.logs)
		}
	}
}

// As long as the scheduler does not take all, nothing is removed, and it is tried again.
func TestMigrationTriesAgain(t *testing.T) {
	w := newMigrationWorld(t, inmemory.New(clockwork.NewRealClock()))
	w.put(t, "actors||cart", []any{row("1", "r", "period", `"1h"`)})
	before := w.keys(t)
	w.s.fail["Schedule"] = status.Error(codes.Unavailable, "no scheduler")
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		w.Run(ctx)
	}()
	w.Settled([]string{"cart", "dapr.internal.ns.shop.workflow"})
	eventually(t, "it is told about", func() bool { return strings.Contains(w.logs.String(), "no scheduler") })
	if w.keys(t) != before {
		t.Error("rows were removed")
	}
	leave, _ := w.s.enter("")
	w.s.fail["Schedule"] = nil
	leave()
	for deadline := time.Now().Add(10 * time.Second); w.keys(t) != ""; {
		if time.Now().After(deadline) {
			t.Fatal("it was not tried again")
		}
		w.clock.Advance(migrationRetry)
		time.Sleep(time.Millisecond)
	}
	w.put(t, "actors||cart", []any{row("1", "late")})
	w.put(t, "actors||box", []any{row("1", "r")})
	w.Settled([]string{"cart", "box"})
	eventually(t, "a new type is looked at", func() bool { return w.keys(t) == "actors||cart" })
	cancel()
	<-ended
	if got := strings.Join(w.s.all(), " "); got != "actorreminder||ns||box||1||r actorreminder||ns||cart||1||r" {
		t.Errorf("migrated: %s", got)
	}
}

// A row that changes while it is migrated is not removed.
func TestMigrationMindsEtags(t *testing.T) {
	w := newMigrationWorld(t, inmemory.New(clockwork.NewRealClock()))
	w.put(t, "actors||cart", []any{row("1", "r")})
	changing := &changingScheduler{schedulerFake: w.s, change: func() { w.put(t, "actors||cart", []any{row("1", "r"), row("2", "r")}) }}
	w.options.Reminders.options.Scheduler = changing
	if err := w.Migrate(t.Context(), "cart"); err == nil || w.keys(t) != "actors||cart" {
		t.Errorf("%q, %v", w.keys(t), err)
	}
	if err := w.Migrate(t.Context(), "cart"); err != nil || w.keys(t) != "" || len(w.s.all()) != 2 {
		t.Errorf("again: %q, %q, %v", w.keys(t), w.s.all(), err)
	}
}

type changingScheduler struct {
	*schedulerFake
	once   sync.Once
	change func()
}

func (c *changingScheduler) Schedule(ctx context.Context, in *schedulerv1.ScheduleJobRequest) (*schedulerv1.ScheduleJobResponse, error) {
	c.once.Do(c.change)
	return c.schedulerFake.Schedule(ctx, in)
}
