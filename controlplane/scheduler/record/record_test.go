package record

import (
	"encoding/base64"
	"encoding/json"
	"os"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	commonv1 "outrigger.dev/api/gen/common/v1"
	schedulerv1 "outrigger.dev/api/gen/scheduler/v1"
	"outrigger.dev/controlplane/scheduler/schedule"
)

// written are the keys and values that Dapr 1.18.3 wrote.
func written(t *testing.T) map[string][]byte {
	t.Helper()
	content, err := os.ReadFile("testdata/etcd.json")
	if err != nil {
		t.Fatal(err)
	}
	var file struct{ Rows []struct{ Key, Value string } }
	if err := json.Unmarshal(content, &file); err != nil {
		t.Fatal(err)
	}
	rows := make(map[string][]byte)
	for _, row := range file.Rows {
		value, err := base64.StdEncoding.DecodeString(row.Value)
		if err != nil {
			t.Fatal(err)
		}
		rows[row.Key] = value
	}
	return rows
}

func moment(t *testing.T, text string) time.Time {
	t.Helper()
	v, err := time.Parse(time.RFC3339Nano, text)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// Everything that Dapr wrote is read, is written again as the same bytes, and begun again at the same time is the same.
func TestWrittenByDapr(t *testing.T) {
	t.Parallel()
	jobs := 0
	for key, value := range written(t) {
		name, ok := strings.CutPrefix(key, Jobs)
		if !ok {
			continue
		}
		jobs++
		job, err := Decode(value)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if again, err := job.Encode(); err != nil || string(again) != string(value) {
			t.Errorf("%s: encoded again it is %x, not %x (%v)", name, again, value, err)
		}
		metadata, err := job.Metadata()
		if err != nil || metadata.GetAppId() != "goldenapp" || metadata.GetNamespace() != "default" {
			t.Errorf("%s: metadata %v, %v", name, metadata, err)
			continue
		}
		short, err := ShortName(name, metadata)
		if err != nil || strings.Contains(short, "||") {
			t.Errorf("%s: short name %q, %v", name, short, err)
		}
		if full, err := Name(short, metadata); err != nil || JobKey(full) != key {
			t.Errorf("%s: full name %q, %v", name, full, err)
		}
		if p, ok := PartitionOf(value); !ok || p != job.Partition() || p == 0 {
			t.Errorf("%s: partition %d", name, p)
		}
		plan, err := job.Plan(schedule.Parse)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		// The same request, at the time at which it was made.
		begun := plan.Start
		if due := job.Scheduler().DueTime; due != nil {
			if d, err := time.ParseDuration(*due); err == nil {
				begun = begun.Add(-d)
			}
		}
		made, err := New(job.Scheduler(), metadata)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if made, err = made.Begin(begun, job.Partition(), schedule.Parse); err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if again, err := made.Encode(); err != nil || string(again) != string(value) {
			t.Errorf("%s: made again it is\n%x, not\n%x (%v)", name, again, value, err)
		}
	}
	if jobs != 9 {
		t.Errorf("%d jobs", jobs)
	}
}

func TestWrittenJobs(t *testing.T) {
	t.Parallel()
	rows := written(t)
	tests := []struct {
		name      string
		first     string // tick
		interval  time.Duration
		most      uint32
		unlimited bool
	}{
		{"actorreminder||default||bench||a1||every", "2026-11-22T00:18:41.38199791Z", time.Second, 3, false},
		{"actorreminder||default||bench||a1||once", "2026-11-22T01:18:41.380118109Z", time.Second, 3, false},
		{"actorreminder||default||dapr.internal.default.goldenapp.workflow||later-1||start-tn8AovZH", "2026-11-22T01:18:37.323206756Z", time.Second, 0, true},
		{"app||default||goldenapp||once", "2026-11-22T01:18:41.383630650Z", time.Second, 3, false},
		{"app||default||goldenapp||repeat", "2026-11-21T02:18:41.385116473Z", time.Second, 3, false},
	}
	for _, test := range tests {
		job, err := Decode(rows[JobKey(test.name)])
		if err != nil {
			t.Errorf("%s: %v", test.name, err)
			continue
		}
		plan, err := job.Plan(schedule.Parse)
		if err != nil {
			t.Errorf("%s: %v", test.name, err)
			continue
		}
		if tick, ok := plan.Next(0, time.Time{}); !ok || !tick.Equal(moment(t, test.first)) {
			t.Errorf("%s: the first tick is %s", test.name, tick.Format(time.RFC3339Nano))
		}
		if interval, most, unlimited := job.Retry(); interval != test.interval || most != test.most || unlimited != test.unlimited {
			t.Errorf("%s: retry %s %d %v", test.name, interval, most, unlimited)
		}
	}
	repeat, err := Decode(rows[JobKey("app||default||goldenapp||repeat")])
	if err != nil {
		t.Fatal(err)
	}
	if s := repeat.Scheduler(); s.GetSchedule() != "@every 1h" || s.GetRepeats() != 7 || s.DueTime != nil || s.Ttl != nil || s.Data != nil || s.GetFailurePolicy().GetConstant().GetMaxRetries() != 3 {
		t.Errorf("the job with repeats is %v", s)
	}
	member, err := DecodeMember(rows[LeadershipKey("dapr-scheduler-server-0")])
	host := new(schedulerv1.Host)
	if err != nil || member.Total != 1 || member.UID == 0 || member.Replica.UnmarshalTo(host) != nil || host.Address != "127.0.0.1:59371" {
		t.Errorf("the member is %+v, %v, %v", member, host, err)
	}
	if again, err := member.Encode(); err != nil || string(again) != string(rows[LeadershipKey("dapr-scheduler-server-0")]) {
		t.Errorf("the member is written as %x, %v", again, err)
	}
}

func TestCounter(t *testing.T) {
	t.Parallel()
	for _, c := range []Counter{{}, {Partition: 1 << 63, Count: 3, Last: moment(t, "2026-11-21T00:18:41.3Z"), Attempts: 2}} {
		value, err := c.Encode()
		if err != nil {
			t.Fatal(err)
		}
		if got, err := DecodeCounter(value); err != nil || got != c {
			t.Errorf("%+v became %+v, %v", c, got, err)
		}
	}
	// Partition 5, count 2, last trigger 1970-01-01T00:00:09Z, 1 attempt: field numbers are those of the stored form.
	if got, err := DecodeCounter([]byte("\x08\x05\x10\x02\x1a\x02\x08\x09\x20\x01")); err != nil || got != (Counter{5, 2, time.Unix(9, 0).UTC(), 1}) {
		t.Errorf("%+v, %v", got, err)
	}
	if _, err := DecodeCounter([]byte("\xff")); err == nil {
		t.Error("garbage is a counter")
	}
	if _, err := DecodeMember([]byte("\xff")); err == nil {
		t.Error("garbage is a member")
	}
}

func target(actorType, id string) *schedulerv1.JobTargetMetadata {
	if actorType == "" {
		return &schedulerv1.JobTargetMetadata{Type: &schedulerv1.JobTargetMetadata_Job{Job: &schedulerv1.TargetJob{}}}
	}
	return &schedulerv1.JobTargetMetadata{Type: &schedulerv1.JobTargetMetadata_Actor{Actor: &schedulerv1.TargetActorReminder{Type: actorType, Id: id}}}
}

func TestNames(t *testing.T) {
	t.Parallel()
	app := &schedulerv1.JobMetadata{Namespace: "ns", AppId: "my||app", Target: target("", "")}
	actor := &schedulerv1.JobMetadata{Namespace: "ns", AppId: "app", Target: target("Cart", "a||b")}
	ofType := &schedulerv1.JobMetadata{Namespace: "ns", AppId: "app", Target: target("Cart", "")}
	tests := []struct {
		metadata                *schedulerv1.JobMetadata
		name, selected, partial string
	}{
		{app, "app||ns||my||app||x||y", "app||ns||my||app||", "app||ns||my||app"},
		{actor, "actorreminder||ns||Cart||a||b||x||y", "actorreminder||ns||Cart||a||b||", "actorreminder||ns||Cart||a||b"},
		{ofType, "actorreminder||ns||Cart||||x||y", "actorreminder||ns||Cart||", "actorreminder||ns||Cart"},
	}
	for _, test := range tests {
		name, err := Name("x||y", test.metadata)
		if err != nil || name != test.name {
			t.Errorf("Name: %q, %v, want %q", name, err, test.name)
		}
		if short, err := ShortName(name, test.metadata); err != nil || short != "x||y" {
			t.Errorf("ShortName(%q): %q, %v", name, short, err)
		}
		if got, err := Selection(test.metadata, false); err != nil || got != test.selected {
			t.Errorf("Selection: %q, %v, want %q", got, err, test.selected)
		}
		if got, err := Selection(test.metadata, true); err != nil || got != test.partial {
			t.Errorf("partial Selection: %q, %v, want %q", got, err, test.partial)
		}
	}
	if _, err := ShortName("app||other||my||app||x", app); err == nil {
		t.Error("a name of another namespace has a short name")
	}
	for _, m := range []*schedulerv1.JobMetadata{nil, {}, {Target: &schedulerv1.JobTargetMetadata{}}} {
		if _, err := Name("x", m); err == nil || !strings.HasPrefix(err.Error(), "unknown job type: ") {
			t.Errorf("Name without a target: %v", err)
		}
		if _, err := Selection(m, true); err == nil {
			t.Error("there is a selection without a target")
		}
	}
	if got := appPrefix("ns", "app"); got != "app||ns||app||" {
		t.Error(got)
	}
	if got := typePrefix("ns", "Cart"); got != "actorreminder||ns||Cart||" {
		t.Error(got)
	}
	if got := strings.Join(NamespacePrefixes("ns"), " "); got != "actorreminder||ns|| app||ns||" {
		t.Error(got)
	}
}

func TestCheckName(t *testing.T) {
	t.Parallel()
	for name, want := range map[string]string{
		"app||ns||app||An ||odd|@ name": "",
		strings.Repeat("x", 512):        "",
		strings.Repeat("é", 256):        "",
		"":                              `job name is invalid "": must not be empty`,
		strings.Repeat("x", 513):        `job name is invalid "` + strings.Repeat("x", 513) + `": must be at most 512 characters`,
		strings.Repeat("é", 257):        `job name is invalid "` + strings.Repeat("é", 257) + `": must be at most 512 characters`,
		"a/b":                           `job name is invalid "a/b": must not contain '/', '\', '#' or '?'`,
		`a\b`:                           `job name is invalid "a\\b": must not contain '/', '\', '#' or '?'`,
		"a#b":                           `job name is invalid "a#b": must not contain '/', '\', '#' or '?'`,
		"a?b":                           `job name is invalid "a?b": must not contain '/', '\', '#' or '?'`,
		"a\tb":                          `job name is invalid "a\tb": must not contain control characters`,
		"a\u009fb":                      `job name is invalid "a\u009fb": must not contain control characters`,
	} {
		err := CheckName(name)
		if want == "" && err != nil || want != "" && (err == nil || err.Error() != want) {
			t.Errorf("CheckName(%q): %v, want %q", name, err, want)
		}
	}
}

func TestConversion(t *testing.T) {
	t.Parallel()
	payload, err := anypb.New(wrapperspb.String("data"))
	if err != nil {
		t.Fatal(err)
	}
	constant := func(interval *durationpb.Duration, most *uint32) *commonv1.JobFailurePolicy {
		return &commonv1.JobFailurePolicy{Policy: &commonv1.JobFailurePolicy_Constant{Constant: &commonv1.JobFailurePolicyConstant{Interval: interval, MaxRetries: most}}}
	}
	standard := constant(durationpb.New(time.Second), proto.Uint32(3))
	dropped := &commonv1.JobFailurePolicy{Policy: &commonv1.JobFailurePolicy_Drop{Drop: &commonv1.JobFailurePolicyDrop{}}}
	full := &schedulerv1.Job{
		Schedule: proto.String("@daily"), DueTime: proto.String("1h"), Ttl: proto.String("P7D"), Repeats: proto.Uint32(5), Data: payload,
	}
	tests := []struct {
		name         string
		given, wants *commonv1.JobFailurePolicy
		interval     time.Duration
		most         uint32
		unlimited    bool
	}{
		{"none", nil, standard, time.Second, 3, false},
		{"empty", &commonv1.JobFailurePolicy{}, standard, time.Second, 3, false},
		{"drop", dropped, dropped, 0, 0, false},
		{"constant", constant(durationpb.New(time.Minute), proto.Uint32(0)), constant(durationpb.New(time.Minute), proto.Uint32(0)), time.Minute, 0, false},
		{"no interval, unlimited", constant(nil, nil), constant(nil, nil), 0, 0, true},
		{"negative interval", constant(durationpb.New(-time.Minute), nil), constant(durationpb.New(-time.Minute), nil), 0, 0, true},
	}
	metadata := &schedulerv1.JobMetadata{Namespace: "ns", AppId: "app", Target: target("", ""), ConcurrencyKey: proto.String("k")}
	for _, test := range tests {
		given := proto.CloneOf(full)
		given.FailurePolicy = test.given
		job, err := New(given, metadata)
		if err != nil {
			t.Fatal(err)
		}
		job, err = job.Begin(moment(t, "2026-01-01T00:00:00Z"), 7, schedule.Parse)
		if err != nil {
			t.Fatal(err)
		}
		value, err := job.Encode()
		if err != nil {
			t.Fatal(err)
		}
		if job, err = Decode(value); err != nil {
			t.Fatal(err)
		}
		want := proto.CloneOf(full)
		want.FailurePolicy = test.wants
		if got := job.Scheduler(); !proto.Equal(got, want) {
			t.Errorf("%s: %v, want %v", test.name, got, want)
		}
		if interval, most, unlimited := job.Retry(); interval != test.interval || most != test.most || unlimited != test.unlimited {
			t.Errorf("%s: retry %s %d %v", test.name, interval, most, unlimited)
		}
		if got, err := job.Metadata(); err != nil || !proto.Equal(got, metadata) {
			t.Errorf("%s: metadata %v, %v", test.name, got, err)
		}
		plan, err := job.Plan(schedule.Parse)
		if err != nil || !plan.Due || !plan.Start.Equal(moment(t, "2026-01-01T01:00:00Z")) || !plan.Expiration.Equal(moment(t, "2026-01-08T01:00:00Z")) || plan.Repeats != 5 {
			t.Errorf("%s: plan %+v, %v", test.name, plan, err)
		}
	}
	for _, empty := range []*schedulerv1.Job{nil, {}} {
		job, err := New(empty, metadata)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := job.Begin(time.Now(), 1, schedule.Parse); err == nil {
			t.Error("a job that never fires begins")
		}
	}
	foreign, err := New(full, metadata)
	if err != nil {
		t.Fatal(err)
	}
	foreign.stored.Job.Metadata = payload
	if _, err := foreign.Metadata(); err == nil {
		t.Error("any message is metadata")
	}
}

func FuzzDecode(f *testing.F) {
	f.Add([]byte("\x08\x05\x2a\x10\x0a\x0e0 0 0 30 2 *  \x12\x06\x08\x80\xe9\xc0\xf1\x07"))
	f.Add([]byte("\x2a\x00\x08\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01"))
	f.Fuzz(func(t *testing.T, value []byte) {
		job, err := Decode(value)
		if err != nil {
			return
		}
		if _, err := job.Encode(); err != nil {
			t.Fatalf("what was decoded cannot be encoded: %v", err)
		}
		if plan, err := job.Plan(schedule.Parse); err == nil {
			plan.Next(0, time.Time{})
		}
		job.Retry()
		job.Scheduler()
	})
}
