package actors_test

import (
	"context"
	"database/sql"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"maps"
	"net/url"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"
	_ "modernc.org/sqlite"

	"outrigger.dev/api/gen/etcdcron"
	runtimev1 "outrigger.dev/api/gen/runtime/v1"
	"outrigger.dev/controlplane/scheduler/etcd"
	"outrigger.dev/controlplane/scheduler/record"
	"outrigger.dev/sidecar/sidecartest"
)

// recordedAt is when Dapr 1.18.3 wrote the jobs and reminders.
var recordedAt = time.Date(2026, time.November, 21, 1, 18, 41, 386_000_000, time.UTC)

// The keys of what is recorded of the app goldenapp: two jobs, and two reminders of an actor.
var (
	jobOnce       = record.JobKey("app||default||goldenapp||once")
	jobRepeat     = record.JobKey("app||default||goldenapp||repeat")
	reminderOnce  = record.JobKey("actorreminder||default||bench||a1||once")
	reminderEvery = record.JobKey("actorreminder||default||bench||a1||every")
)

// recordedRows are the keys and values of a scheduler's etcd as Dapr 1.18.3 left them, moved in time as if they had been written some time ago.
func recordedRows(t *testing.T, ago time.Duration) map[string]string {
	t.Helper()
	content, err := os.ReadFile("../../controlplane/scheduler/record/testdata/etcd.json")
	if err != nil {
		t.Fatal(err)
	}
	var file struct{ Rows []struct{ Key, Value string } }
	if err := json.Unmarshal(content, &file); err != nil {
		t.Fatal(err)
	}
	by := time.Now().Add(-ago).Sub(recordedAt)
	rows := map[string]string{}
	for _, row := range file.Rows {
		value, err := base64.StdEncoding.DecodeString(row.Value)
		if err != nil {
			t.Fatal(err)
		}
		if strings.HasPrefix(row.Key, record.Jobs) {
			value = later(t, value, by)
		}
		rows[row.Key] = string(value)
	}
	for _, key := range []string{jobOnce, jobRepeat, reminderOnce, reminderEvery} {
		if rows[key] == "" {
			t.Fatalf("%s is not recorded", key)
		}
	}
	return rows
}

// later moves the times of a stored job; the words of the client stay.
func later(t *testing.T, value []byte, by time.Duration) []byte {
	t.Helper()
	job := decoded(t, string(value))
	move := func(at *timestamppb.Timestamp) *timestamppb.Timestamp { return timestamppb.New(at.AsTime().Add(by)) }
	switch begin := job.Begin.(type) {
	case *etcdcron.StoredJob_Start:
		begin.Start = move(begin.Start)
	case *etcdcron.StoredJob_DueTime:
		begin.DueTime = move(begin.DueTime)
	default:
		t.Fatalf("the stored job begins with a %T", begin)
	}
	if job.Expiration != nil {
		job.Expiration = move(job.Expiration)
	}
	value, err := proto.Marshal(job)
	if err != nil {
		t.Fatal(err)
	}
	return value
}

func decoded(t *testing.T, value string) *etcdcron.StoredJob {
	t.Helper()
	job := new(etcdcron.StoredJob)
	if err := proto.Unmarshal([]byte(value), job); err != nil {
		t.Fatal(err)
	}
	return job
}

// inEtcd works on the etcd of a scheduler that does not run.
func inEtcd(t *testing.T, dir string, do func(ctx context.Context, client *clientv3.Client)) {
	t.Helper()
	store, err := etcd.Open(etcd.Options{Embedded: embedded(t, dir)})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := store.Close(); err != nil {
			t.Error(err)
		}
	}()
	ctx := within(t)
	if err := store.Ready(ctx); err != nil {
		t.Fatal(err)
	}
	do(ctx, store.Client())
}

// leaveBehind puts rows into the etcd of a scheduler: it was killed, for the entry by which it had its place is still there.
func leaveBehind(t *testing.T, dir string, rows map[string]string) {
	t.Helper()
	inEtcd(t, dir, func(ctx context.Context, client *clientv3.Client) {
		lease, err := client.Grant(ctx, 20)
		if err != nil {
			t.Fatal(err)
		}
		for key, value := range rows {
			var options []clientv3.OpOption
			if strings.HasPrefix(key, record.Leadership) {
				options = append(options, clientv3.WithLease(lease.ID))
			}
			if _, err := client.Put(ctx, key, value, options...); err != nil {
				t.Fatal(err)
			}
		}
	})
}

// left are the rows in the etcd of a scheduler that has ended.
func left(t *testing.T, dir string) map[string]string {
	t.Helper()
	rows := map[string]string{}
	inEtcd(t, dir, func(ctx context.Context, client *clientv3.Client) {
		found, err := client.Get(ctx, "dapr/", clientv3.WithPrefix())
		if err != nil {
			t.Fatal(err)
		}
		for _, kv := range found.Kvs {
			rows[string(kv.Key)] = string(kv.Value)
		}
	})
	return rows
}

// compareRows reports where rows differ.
func compareRows(t *testing.T, got, want map[string]string) {
	t.Helper()
	for key := range want {
		if got[key] != want[key] {
			t.Errorf("%s is %x instead of %x", key, got[key], want[key])
		}
	}
	for key := range got {
		if _, wanted := want[key]; !wanted {
			t.Errorf("%s is still, or newly, there", key)
		}
	}
}

// daprWorld is a world whose scheduler finds what Dapr has left, and the app that it belongs to.
func daprWorld(t *testing.T, dir string, rows map[string]string) (*world, *member) {
	t.Helper()
	leaveBehind(t, dir, rows)
	w := newWorldOn(t, "goldenapp", dir)
	return w, w.newMember("golden", `{"entities":["bench"]}`, nil)
}

// end ends the sidecar and then the scheduler.
func (w *world) end(m *member) {
	w.t.Helper()
	if err := m.Stop(); err != nil {
		w.t.Error(err)
	}
	w.stopScheduler()
}

// What Dapr scheduled is there under Dapr's names, and is deleted by them.
func TestJobsAndRemindersOfDapr(t *testing.T) {
	t.Parallel()
	dir, rows := t.TempDir(), recordedRows(t, 0)
	w, m := daprWorld(t, dir, rows)

	const (
		policy = `"failurePolicy":{"constant":{"interval":"1s","maxRetries":3}}`
		once   = `{"actorID":"a1","actorType":"bench","data":{"x":1},"dueTime":"24h"}`
		every  = `{"actorID":"a1","actorType":"bench","data":"s","dueTime":"23h","period":"@every 1h0m0s","ttl":"2099-01-01T00:00:00Z"}`
	)
	for path, want := range map[string]string{
		"/v1.0/jobs/once":                        `{"name":"once","dueTime":"24h",` + policy + `}`,
		"/v1.0/jobs/repeat":                      `{"name":"repeat","schedule":"@every 1h","repeats":7,` + policy + `}`,
		"/v1.0-alpha1/jobs/once":                 `{"name":"once","dueTime":"24h",` + policy + `}`,
		"/v1.0/actors/bench/a1/reminders/once":   once,
		"/v1.0/actors/bench/a1/reminders/every":  every,
		"/v1.0/actors/bench/a2/reminders/once":   "",
		"/v1.0/actors/bench/a1/reminders/on":     "",
		"/v1.0/jobs/a1%7C%7Conce":                "",
		"/v1.0/actors/bench/a1/reminders/repeat": "",
	} {
		r := m.Get(path)
		if want == "" && r.Status != 404 {
			t.Errorf("%s: %+v, want 404", path, r)
		}
		if want != "" && (r.Status != 200 || sorted(t, r.Body) != sorted(t, want)) {
			t.Errorf("%s: %+v, want %s", path, r, want)
		}
	}
	if got := jobNames(t, m); !slices.Equal(got, []string{"once", "repeat"}) {
		t.Errorf("the jobs are %q", got)
	}
	for id, want := range map[string][]string{"": {"a1/every", "a1/once"}, "a1": {"a1/every", "a1/once"}, "a": nil} {
		if got := reminderNames(t, m, id); !slices.Equal(got, want) {
			t.Errorf("the reminders of id %q are %q", id, got)
		}
	}
	// They are in the way of new ones that shall not replace any.
	if r := m.Post("/v1.0/jobs/once", `{"dueTime":"1h"}`); r.Status != 409 {
		t.Errorf("%+v", r)
	}
	if r := m.Post("/v1.0/actors/bench/a1/reminders/once", `{"dueTime":"1h","overwrite":false}`); r.Status != 409 {
		t.Errorf("%+v", r)
	}

	for _, path := range []string{"/v1.0/jobs/once", "/v1.0/actors/bench/a1/reminders/once"} {
		if r := m.Do("DELETE", path, ""); r.Status != 204 {
			t.Errorf("DELETE %s: %+v", path, r)
		}
		if r := m.Get(path); r.Status != 404 {
			t.Errorf("%s after it was deleted: %+v", path, r)
		}
	}
	if got := jobNames(t, m); !slices.Equal(got, []string{"repeat"}) {
		t.Errorf("the jobs are %q", got)
	}
	if got := reminderNames(t, m, ""); !slices.Equal(got, []string{"a1/every"}) {
		t.Errorf("the reminders are %q", got)
	}
	if _, err := m.Dapr().DeleteJobsByPrefix(within(t), &runtimev1.DeleteJobsByPrefixRequest{NamePrefix: proto.String("rep")}); err != nil {
		t.Error(err)
	}
	for _, id := range []string{"a", "a1"} { // the one is only the beginning of the other
		if got := reminderNames(t, m, ""); !slices.Equal(got, []string{"a1/every"}) {
			t.Errorf("the reminders are %q", got)
		}
		if _, err := m.Dapr().UnregisterActorRemindersByType(within(t), &runtimev1.UnregisterActorRemindersByTypeRequest{ActorType: "bench", ActorId: &id}); err != nil {
			t.Error(err)
		}
	}
	if jobs, reminders := jobNames(t, m), reminderNames(t, m, ""); len(jobs)+len(reminders) > 0 {
		t.Errorf("there are still the jobs %q and the reminders %q", jobs, reminders)
	}

	// What belongs to others, such as the reminders of workflows, is as it was.
	w.end(m)
	for _, key := range []string{jobOnce, jobRepeat, reminderOnce, reminderEvery} {
		delete(rows, key)
	}
	maps.DeleteFunc(rows, func(key, _ string) bool { return strings.HasPrefix(key, record.Leadership) })
	compareRows(t, left(t, dir), rows)
}

// sorted is JSON in one form.
func sorted(t *testing.T, text string) string {
	t.Helper()
	var v any
	if err := json.Unmarshal([]byte(text), &v); err != nil {
		t.Errorf("%v: %s", err, text)
	}
	out, _ := json.Marshal(v)
	return string(out)
}

func jobNames(t *testing.T, m *member) (names []string) {
	t.Helper()
	list, err := m.Dapr().ListJobs(within(t), &runtimev1.ListJobsRequest{})
	if err != nil {
		t.Fatal(err)
	}
	for _, j := range list.GetJobs() {
		names = append(names, j.GetName())
	}
	return names
}

// reminderNames are the ids and names of the reminders of an actor, or of all of the type.
func reminderNames(t *testing.T, m *member, id string) (names []string) {
	t.Helper()
	in := &runtimev1.ListActorRemindersRequest{ActorType: "bench"}
	if id != "" {
		in.ActorId = &id
	}
	list, err := m.Dapr().ListActorReminders(within(t), in)
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range list.GetReminders() {
		names = append(names, r.GetReminder().GetActorId()+"/"+r.GetName())
	}
	slices.Sort(names)
	return names
}

// What Dapr scheduled fires when it is due; here a day has passed.
func TestJobsAndRemindersOfDaprFire(t *testing.T) {
	t.Parallel()
	dir, rows := t.TempDir(), recordedRows(t, 24*time.Hour+time.Second)
	w, m := daprWorld(t, dir, rows)

	// Those with repeats make up for every tick that was missed: the reminder for those of the hours 23 and 24, the job for all it has.
	for _, c := range []struct {
		verb, path, body string
		times            int
	}{
		{"POST", "/job/once", "", 1},
		{"POST", "/job/repeat", "", 7},
		{"PUT", "/actors/bench/a1/method/remind/once", `{"data":{"x":1},"dueTime":"","period":""}`, 1},
		{"PUT", "/actors/bench/a1/method/remind/every", `{"data":"s","dueTime":"","period":""}`, 2},
	} {
		waitFor(t, fmt.Sprintf("%d times %s", c.times, c.path), func() bool { return len(m.seen(c.verb, c.path)) >= c.times })
		for _, got := range m.seen(c.verb, c.path) {
			if got.Body != c.body || got.Header.Get("Content-Type") != "application/json" {
				t.Errorf("%s: the app got %+v", c.path, got)
			}
		}
	}
	// All but one are over then.
	waitFor(t, "the end of the jobs", func() bool { return len(jobNames(t, m)) == 0 })
	waitFor(t, "the end of a reminder", func() bool { return slices.Equal(reminderNames(t, m, ""), []string{"a1/every"}) })
	w.end(m)
	for path, times := range map[string]int{"/job/once": 1, "/job/repeat": 7} {
		if n := len(m.seen("POST", path)); n != times {
			t.Errorf("%s came %d times instead of %d", path, n, times)
		}
	}
	if n := len(m.seen("PUT", "/actors/bench/a1/method/remind/every")); n != 2 {
		t.Errorf("the reminder came %d times instead of 2", n)
	}

	// Dapr could go on from here: how far the reminder has come stands where Dapr looks for it, and what nobody took is still to come.
	key := record.CounterKey(strings.TrimPrefix(reminderEvery, record.Jobs))
	got := left(t, dir)
	job, counter := decoded(t, got[reminderEvery]), new(etcdcron.StoredCounter)
	if err := proto.Unmarshal([]byte(got[key]), counter); err != nil {
		t.Fatal(err)
	}
	want := &etcdcron.StoredCounter{JobPartitionId: job.GetPartitionId(), Count: 2, LastTrigger: timestamppb.New(job.GetDueTime().AsTime().Add(time.Hour))}
	if !proto.Equal(counter, want) {
		t.Errorf("the counter is %v instead of %v", counter, want)
	}
	delete(got, key)
	for _, key := range []string{jobOnce, jobRepeat, reminderOnce} {
		delete(rows, key)
	}
	maps.DeleteFunc(rows, func(key, _ string) bool { return strings.HasPrefix(key, record.Leadership) })
	compareRows(t, got, rows)
}

// open is the database of the actors' state.
func (w *world) open(t *testing.T) *sql.DB {
	t.Helper()
	db, err := sql.Open("sqlite", "file:"+(&url.URL{Path: w.database}).EscapedPath()+"?_pragma=busy_timeout(15000)")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	return db
}

// State of actors that Dapr wrote is read under its key, with its expiry, and is written again. What is recorded is the state of an actor of a
// workflow; it has been given to an actor of the app.
func TestActorStateOfDapr(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "goldenapp")
	script, err := os.ReadFile("testdata/state.sql")
	if err != nil {
		t.Fatal(err)
	}
	db := w.open(t)
	const owner = "goldenapp||bench||a1||"
	for _, statement := range []string{
		string(script),
		"UPDATE state SET key = replace(key, 'goldenapp||dapr.internal.default.goldenapp.workflow||done-1||', '" + owner + "')",
		"UPDATE state SET expiration_time = '2099-11-22 01:16:34' WHERE key = '" + owner + "history-000001'",
		"UPDATE state SET expiration_time = '2026-11-20 01:16:34' WHERE key = '" + owner + "history-000002'",
	} {
		if _, err := db.Exec(statement); err != nil {
			t.Fatal(err)
		}
	}
	before := stateRows(t, db)
	if len(before) != 11 {
		t.Fatalf("%d rows", len(before))
	}
	m := w.newMember("golden", `{"entities":["bench"]}`, nil, sidecartest.Config("apiVersion: dapr.io/v1alpha1\nkind: Configuration\nmetadata:\n  name: c\nspec:\n  features:\n  - name: ActorStateTTL\n    enabled: true\n"))

	for full, row := range before {
		key := strings.TrimPrefix(full, owner)
		want, err := base64.StdEncoding.DecodeString(row.value)
		if err != nil || len(want) == 0 || !row.binary {
			t.Fatalf("%s: %+v, %v", full, row, err)
		}
		code, expires := 200, ""
		switch key {
		case "history-000001":
			expires = "2099-11-22T01:16:34Z"
		case "history-000002":
			code, want = 204, nil
		}
		if r := m.Get("/v1.0/actors/bench/a1/state/" + key); r.Status != code || r.Body != string(want) || r.Header.Get("Metadata.ttlExpireTime") != expires {
			t.Errorf("%s: %+v, want %d %q, expiry %q", key, r, code, want, expires)
		}
		in := &runtimev1.GetActorStateRequest{ActorType: "bench", ActorId: "a1", Key: key}
		if r, err := m.Dapr().GetActorState(within(t), in); err != nil || string(r.GetData()) != string(want) || r.GetMetadata()["ttlExpireTime"] != expires {
			t.Errorf("%s: %v, %v, want %q, expiry %q", key, r, err, want, expires)
		}
	}

	// The actor goes on with it.
	if r := m.Post("/v1.0/actors/bench/a1/method/tell", ""); r.Status != 200 {
		t.Fatalf("%+v", r)
	}
	transaction := `[{"operation":"upsert","request":{"key":"metadata","value":{"new":1}}},{"operation":"delete","request":{"key":"customStatus"}}]`
	if r := m.Post("/v1.0/actors/bench/a1/state", transaction); r.Status != 204 {
		t.Fatalf("%+v", r)
	}
	if r := m.Get("/v1.0/actors/bench/a1/state/metadata"); r.Status != 200 || r.Body != `{"new":1}` {
		t.Errorf("%+v", r)
	}
	if r := m.Get("/v1.0/actors/bench/a1/state/customStatus"); r.Status != 204 {
		t.Errorf("%+v", r)
	}
	after := stateRows(t, db)
	if row := after[owner+"metadata"]; row.value != `{"new":1}` || row.binary || row.etag == before[owner+"metadata"].etag || len(row.etag) != 36 {
		t.Errorf("the row of what was written is %+v", row)
	}
	for _, key := range []string{"metadata", "customStatus", "history-000002"} { // what has expired may have been cleared away
		delete(before, owner+key)
		if key != "customStatus" {
			delete(after, owner+key)
		}
	}
	if !maps.Equal(after, before) {
		t.Errorf("the other rows are %v, not %v as before", after, before)
	}
}

// stateRow is a row of the state of actors.
type stateRow struct {
	value, etag string
	binary      bool
}

func stateRows(t *testing.T, db *sql.DB) map[string]stateRow {
	t.Helper()
	rows, err := db.Query("SELECT key, value, is_binary, etag FROM state")
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	found := map[string]stateRow{}
	for rows.Next() {
		var key string
		var row stateRow
		if err := rows.Scan(&key, &row.value, &row.binary, &row.etag); err != nil {
			t.Fatal(err)
		}
		found[key] = row
	}
	if err := rows.Err(); err != nil {
		t.Fatal(err)
	}
	return found
}
