package scheduler

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"testing"

	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	schedulerv1 "outrigger.dev/api/gen/scheduler/v1"
	"outrigger.dev/controlplane/scheduler/etcd"
)

const success, failed = schedulerv1.WatchJobsRequestResultStatus_SUCCESS, schedulerv1.WatchJobsRequestResultStatus_FAILED

func TestJobs(t *testing.T) {
	r := launch(t, nil)
	c := r.dial(nil)
	data, err := anypb.New(wrapperspb.String("x"))
	if err != nil {
		t.Fatal(err)
	}
	full := &schedulerv1.ScheduleJobRequest{Name: "a", Metadata: job("app"), Job: &schedulerv1.Job{
		Schedule: proto.String("@every 1h"), Repeats: proto.Uint32(3), Ttl: proto.String("10h"), Data: data,
	}}
	schedule(t, c, full)
	got, err := c.GetJob(bounded(t), &schedulerv1.GetJobRequest{Name: "a", Metadata: job("app")})
	if err != nil {
		t.Fatal(err)
	}
	if j := got.Job; j.GetSchedule() != "@every 1h" || j.GetRepeats() != 3 || j.GetTtl() != "10h" || !proto.Equal(j.Data, data) ||
		j.FailurePolicy.GetConstant().GetMaxRetries() != 3 {
		t.Errorf("job %v", j)
	}

	expect := func(what string, err error, code codes.Code, text string) {
		t.Helper()
		if status.Code(err) != code || !strings.Contains(fmt.Sprint(err), text) {
			t.Errorf("%s: error %v, want %s with %q", what, err, code, text)
		}
	}
	_, err = c.ScheduleJob(bounded(t), full)
	expect("again", err, codes.AlreadyExists, "job already exists: 'app||ns||app||a'")
	full.Overwrite = true
	schedule(t, c, full)
	_, err = c.GetJob(bounded(t), &schedulerv1.GetJobRequest{Name: "b", Metadata: job("app")})
	expect("get", err, codes.NotFound, "job not found: ")
	_, err = c.ScheduleJob(bounded(t), due("a/b", "1h", job("app")))
	expect("name", err, codes.InvalidArgument, "job name is invalid")
	_, err = c.ScheduleJob(bounded(t), due("b", "soon", job("app")))
	expect("due time", err, codes.InvalidArgument, "job failed validation: ")
	_, err = c.ScheduleJob(bounded(t), &schedulerv1.ScheduleJobRequest{Name: "b", Metadata: job("app")})
	expect("no job", err, codes.InvalidArgument, "no job")
	_, err = c.ScheduleJob(bounded(t), due("b", "1h", &schedulerv1.JobMetadata{Namespace: "ns", AppId: "app"}))
	expect("no target", err, codes.Unknown, "unknown job type")
	_, err = c.ScheduleJob(bounded(t), due("b", "1h", &schedulerv1.JobMetadata{Namespace: "ns"}))
	expect("no app", err, codes.InvalidArgument, "missing namespace or appID in request")
	_, err = c.ListJobs(bounded(t), &schedulerv1.ListJobsRequest{})
	expect("no metadata", err, codes.InvalidArgument, "missing namespace or appID in request")

	for range 2 {
		if _, err := c.DeleteJob(bounded(t), &schedulerv1.DeleteJobRequest{Name: "a", Metadata: job("app")}); err != nil {
			t.Error(err)
		}
	}
	if list := names(t, c, job("app")); len(list) > 0 {
		t.Errorf("left: %q", list)
	}
	r.metric(`dapr_scheduler_jobs_created_total{type="job"} 2`)
	r.metric(`dapr_scheduler_jobs_created_failed_total{type="job"} 4`)
	r.metric(`dapr_scheduler_jobs_created_failed_total{type="unknown"} 2`)
	r.metric(`dapr_scheduler_jobs_deleted_total{type="job"} 2`)
	if code, text := get(t, "http://"+r.addresses.Healthz.String()+"/healthz"); code != 200 {
		t.Errorf("healthz: %d %s", code, text)
	}
	if _, text := get(t, "http://"+r.addresses.Metrics.String()+"/metrics"); !strings.Contains(text, "etcd_server_has_leader") {
		t.Error("the metrics of etcd are not there")
	}
}

// owners are jobs to select from.
func owners() []*schedulerv1.ScheduleJobRequest {
	return []*schedulerv1.ScheduleJobRequest{
		due("b1", "1h", job("app")), due("a1", "1h", job("app")), due("a2", "1h", job("app")), due("x", "1h", job("app2")),
		due("r1", "1h", actor("app", "Cart", "1")), due("r2", "1h", actor("app", "Cart", "1")), due("r1", "1h", actor("app", "Cart", "10")),
		due("r1", "1h", actor("app", "CartItem", "1")), due("w", "1h", actor("app", "dapr.internal.ns.app.workflow", "i")),
	}
}

// left is all that is there.
func left(t *testing.T, c schedulerv1.SchedulerClient) string {
	var all []string
	for _, m := range []*schedulerv1.JobMetadata{
		job("app"), job("app2"), actor("app", "Cart", "1"), actor("app", "Cart", "10"), actor("app", "CartItem", ""), actor("app", "dapr.internal.ns.app.workflow", ""),
	} {
		all = append(all, strings.Join(names(t, c, m), " "))
	}
	return strings.Join(all, ", ")
}

func TestSelections(t *testing.T) {
	r := launch(t, nil)
	c := r.dial(nil)
	whole := "a1 a2 b1, x, r1 r2, r1, r1, w"
	clean := func() {
		t.Helper()
		for _, o := range owners() {
			o.Overwrite = true
			schedule(t, c, o)
		}
		if got := left(t, c); got != whole {
			t.Fatalf("there is %q", got)
		}
	}
	clean()
	if got := names(t, c, actor("app", "Cart", "")); fmt.Sprint(got) != "[r1 r1 r2]" {
		t.Errorf("reminders of the type: %q", got)
	}
	for name, tt := range map[string]struct {
		call func() error
		want string
	}{
		"app":               {byMetadata(t, c, job("app"), false), ", x, r1 r2, r1, r1, w"},
		"app prefix":        {byMetadata(t, c, job("ap"), true), ", , r1 r2, r1, r1, w"},
		"actor":             {byMetadata(t, c, actor("app", "Cart", "1"), false), "a1 a2 b1, x, , r1, r1, w"},
		"actor prefix":      {byMetadata(t, c, actor("app", "Cart", "1"), true), "a1 a2 b1, x, , , r1, w"},
		"type":              {byMetadata(t, c, actor("app", "Cart", ""), false), "a1 a2 b1, x, , , r1, w"},
		"type prefix":       {byMetadata(t, c, actor("app", "Cart", ""), true), "a1 a2 b1, x, , , , w"},
		"all types":         {byMetadata(t, c, actor("app", "", ""), true), "a1 a2 b1, x, , , , "},
		"names":             {byName(t, c, job("app"), "a"), "b1, x, r1 r2, r1, r1, w"},
		"all names":         {byName(t, c, job("app"), ""), ", x, r1 r2, r1, r1, w"},
		"names of an actor": {byName(t, c, actor("app", "Cart", "1"), "r2"), "a1 a2 b1, x, r1, r1, r1, w"},
		"names of a type":   {byName(t, c, actor("app", "Cart", ""), "r1"), "a1 a2 b1, x, r2, , r1, w"},
		"not ids":           {byName(t, c, actor("app", "Cart", ""), "1"), whole},
	} {
		t.Run(name, func(t *testing.T) {
			clean()
			if err := tt.call(); err != nil {
				t.Fatal(err)
			}
			if got := left(t, c); got != tt.want {
				t.Errorf("left: %q, want %q", got, tt.want)
			}
		})
	}
	r.metric("dapr_scheduler_jobs_bulk_deleted_total 12")
}

func byMetadata(t *testing.T, c schedulerv1.SchedulerClient, m *schedulerv1.JobMetadata, prefix bool) func() error {
	return func() error {
		_, err := c.DeleteByMetadata(bounded(t), &schedulerv1.DeleteByMetadataRequest{Metadata: m, IdPrefixMatch: proto.Bool(prefix)})
		return err
	}
}

func byName(t *testing.T, c schedulerv1.SchedulerClient, m *schedulerv1.JobMetadata, prefix string) func() error {
	return func() error {
		_, err := c.DeleteByNamePrefix(bounded(t), &schedulerv1.DeleteByNamePrefixRequest{Metadata: m, NamePrefix: prefix})
		return err
	}
}

// TestJobsOfDapr starts on what Dapr has stored. All of it that is due is a long time ago.
func TestJobsOfDapr(t *testing.T) {
	text, err := os.ReadFile("record/testdata/etcd.json")
	if err != nil {
		t.Fatal(err)
	}
	var recorded struct {
		Rows []struct{ Key, Value string }
	}
	if err := json.Unmarshal(text, &recorded); err != nil {
		t.Fatal(err)
	}
	e := embedded(t, t.TempDir())
	before := *e
	before.ID = DefaultID
	before.Defaults()
	store, err := etcd.Open(etcd.Options{Embedded: &before})
	if err != nil {
		t.Fatal(err)
	}
	if err := store.Ready(bounded(t)); err != nil {
		t.Fatal(err)
	}
	for _, kv := range recorded.Rows {
		value, err := base64.StdEncoding.DecodeString(kv.Value)
		if err != nil {
			t.Fatal(err)
		}
		options := []clientv3.OpOption{}
		if strings.HasPrefix(kv.Key, "dapr/leadership/") {
			lease, err := store.Client().Grant(bounded(t), 20)
			if err != nil {
				t.Fatal(err)
			}
			options = append(options, clientv3.WithLease(lease.ID))
		}
		if _, err := store.Client().Put(bounded(t), kv.Key, string(value), options...); err != nil {
			t.Fatal(err)
		}
	}
	if err := store.Close(); err != nil {
		t.Fatal(err)
	}

	r := launch(t, func(o *Options) { o.Embedded = e })
	c := r.dial(nil)
	owner := func(m *schedulerv1.JobMetadata) *schedulerv1.JobMetadata {
		m.Namespace = "default"
		return m
	}
	workflow := "dapr.internal.default.goldenapp.workflow"
	list, err := c.ListJobs(bounded(t), &schedulerv1.ListJobsRequest{Metadata: owner(job("goldenapp"))})
	if err != nil {
		t.Fatal(err)
	}
	for _, j := range list.Jobs {
		if j.Metadata.AppId != "goldenapp" || j.Metadata.Namespace != "default" || j.Job == nil {
			t.Errorf("%v", j)
		}
	}
	if len(list.Jobs) != 2 || list.Jobs[0].Name != "once" || list.Jobs[0].Job.GetDueTime() != "24h" || list.Jobs[1].Job.GetSchedule() != "@every 1h" || list.Jobs[1].Job.GetRepeats() != 7 {
		t.Errorf("jobs: %v", list.Jobs)
	}
	if got := names(t, c, owner(actor("goldenapp", "bench", "a1"))); fmt.Sprint(got) != "[every once]" {
		t.Errorf("reminders: %q", got)
	}
	if got := names(t, c, owner(actor("goldenapp", workflow, ""))); len(got) != 5 {
		t.Errorf("reminders of workflows: %q", got)
	}

	// One that is deleted by its name is gone; what is due fires once somebody listens.
	if _, err := c.DeleteJob(bounded(t), &schedulerv1.DeleteJobRequest{Name: "timer-0", Metadata: owner(actor("goldenapp", workflow, "timer-1"))}); err != nil {
		t.Fatal(err)
	}
	if got := names(t, c, owner(actor("goldenapp", workflow, "timer-1"))); len(got) > 0 {
		t.Errorf("deleted, and there is %q", got)
	}
	again := due("once", "0s", owner(job("goldenapp")))
	again.Overwrite = true
	schedule(t, c, again)
	w := watch(t, c, &schedulerv1.WatchJobsRequestInitial{AppId: "goldenapp", Namespace: "default", ActorTypes: []string{"bench", workflow}})
	for {
		m := w.next()
		w.result(m.Id, success)
		if m.Name == "once" && m.Metadata.GetTarget().GetActor() == nil {
			break
		}
	}
}
