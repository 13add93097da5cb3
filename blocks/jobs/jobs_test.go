package jobs

import (
	"context"
	"encoding/json"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"outrigger.dev/api"
	"outrigger.dev/api/apitest"
	commonv1 "outrigger.dev/api/gen/common/v1"
	runtimev1 "outrigger.dev/api/gen/runtime/v1"
	schedulerv1 "outrigger.dev/api/gen/scheduler/v1"
	"outrigger.dev/mesh/scheduler"
	"outrigger.dev/mesh/scheduler/schedulertest"
)

// open makes the block of app "app" in namespace "default" with a scheduler.
func open(t testing.TB) (*Jobs, *schedulertest.Cluster) {
	t.Helper()
	cluster := schedulertest.NewCluster()
	instance := cluster.Start(t)
	cluster.SetHosts(instance.Address)
	c := scheduler.New(scheduler.Options{Addresses: []string{instance.Address}, AppID: "app", Namespace: "default"})
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() { defer close(ended); _ = c.Run(ctx) }()
	t.Cleanup(func() { cancel(); <-ended })
	return New(Options{AppID: "app", Namespace: "default", Scheduler: c}), cluster
}

// failing is a scheduler all of whose calls fail, and tell what they were asked.
type failing struct {
	err  error
	seen proto.Message
	ctx  context.Context
}

func (f *failing) Schedule(ctx context.Context, in *schedulerv1.ScheduleJobRequest) (*schedulerv1.ScheduleJobResponse, error) {
	f.seen, f.ctx = in, ctx
	return nil, f.err
}

func (f *failing) Get(ctx context.Context, in *schedulerv1.GetJobRequest) (*schedulerv1.GetJobResponse, error) {
	f.seen, f.ctx = in, ctx
	return nil, f.err
}

func (f *failing) Delete(ctx context.Context, in *schedulerv1.DeleteJobRequest) (*schedulerv1.DeleteJobResponse, error) {
	f.seen, f.ctx = in, ctx
	return nil, f.err
}

func (f *failing) List(ctx context.Context, in *schedulerv1.ListJobsRequest) (*schedulerv1.ListJobsResponse, error) {
	f.seen, f.ctx = in, ctx
	return nil, f.err
}

func (f *failing) DeleteByNamePrefix(ctx context.Context, in *schedulerv1.DeleteByNamePrefixRequest) (*schedulerv1.DeleteByNamePrefixResponse, error) {
	f.seen, f.ctx = in, ctx
	return nil, f.err
}

// Errors over HTTP and gRPC.
func TestErrors(t *testing.T) {
	disabled := scheduler.New(scheduler.Options{})
	const (
		every  = `{"schedule":"@every 1s"}`
		valid  = "job failed validation: repeats not supported for due time"
		naming = "job name is invalid \"a/b\": must not contain '/', '\\', '#' or '?'"
	)
	do := func(method, target, body string) func(*Jobs) error {
		return func(j *Jobs) error {
			reply := apitest.Router(j.Routes()).Do(method, target, body)
			if reply.Error == nil {
				t.Errorf("%s %s: status %d without an error", method, target, reply.Status)
				return api.ErrMalformed("none")
			}
			return reply.Error
		}
	}
	schedule := func(job *runtimev1.Job) func(*Jobs) error {
		return func(j *Jobs) error {
			_, err := j.Server().ScheduleJob(t.Context(), &runtimev1.ScheduleJobRequest{Job: job})
			return err
		}
	}
	server := func(f func(JobsServer) error) func(*Jobs) error { return func(j *Jobs) error { return f(j.Server()) } }
	get := func(name string) func(*Jobs) error {
		return server(func(s JobsServer) error {
			_, err := s.GetJobAlpha1(t.Context(), &runtimev1.GetJobRequest{Name: name})
			return err
		})
	}
	remove := func(name string) func(*Jobs) error {
		return server(func(s JobsServer) error {
			_, err := s.DeleteJobAlpha1(t.Context(), &runtimev1.DeleteJobRequest{Name: name})
			return err
		})
	}
	prefix := server(func(s JobsServer) error {
		_, err := s.DeleteJobsByPrefix(t.Context(), &runtimev1.DeleteJobsByPrefixRequest{})
		return err
	})
	list := server(func(s JobsServer) error {
		_, err := s.ListJobs(t.Context(), &runtimev1.ListJobsRequest{})
		return err
	})
	due := "1s"
	job := &runtimev1.Job{Name: "j", DueTime: &due}
	scheduling, getting, deleting := "DAPR_SCHEDULER_SCHEDULE_JOB", "DAPR_SCHEDULER_GET_JOB", "DAPR_SCHEDULER_DELETE_JOB"
	for _, tc := range []struct {
		name      string
		scheduler error // nil: none is configured
		call      func(*Jobs) error
		http      int
		grpc      codes.Code
		reason    string
		message   string
	}{
		{"job missing", nil, schedule(nil), 400, codes.InvalidArgument, "DAPR_SCHEDULER_EMPTY", "Job is empty"},
		{"no name", nil, schedule(&runtimev1.Job{DueTime: &due}), 400, codes.InvalidArgument, "DAPR_SCHEDULER_JOB_NAME_EMPTY", "Name is empty"},
		{"no name to get", nil, get(""), 400, codes.InvalidArgument, "DAPR_SCHEDULER_JOB_NAME_EMPTY", "Name is empty"},
		{"no name to delete", nil, remove(""), 400, codes.InvalidArgument, "DAPR_SCHEDULER_JOB_NAME_EMPTY", "Name is empty"},
		{"only spaces", nil, do("POST", "/v1.0/jobs/%20+", every), 400, codes.InvalidArgument, "DAPR_SCHEDULER_JOB_NAME_EMPTY", "Name is empty"},
		{"name in the body", nil, do("POST", "/v1.0/jobs/j", `{"name":"j","schedule":"@daily"}`), 400, codes.InvalidArgument, "DAPR_SCHEDULER_JOB_NAME", "Set the job name in the url only"},
		{"neither schedule nor due time", nil, schedule(&runtimev1.Job{Name: "j"}), 400, codes.InvalidArgument, "DAPR_SCHEDULER_SCHEDULE_EMPTY", "Schedule is empty"},
		{"empty body", nil, do("POST", "/v1.0-alpha1/jobs/j", ""), 400, codes.InvalidArgument, "DAPR_SCHEDULER_SCHEDULE_EMPTY", "Schedule is empty"},
		{"no schedule in the body", nil, do("POST", "/v1.0/jobs/j", "{}"), 400, codes.InvalidArgument, "DAPR_SCHEDULER_SCHEDULE_EMPTY", "Schedule is empty"},
		{"an empty one is one", nil, do("POST", "/v1.0/jobs/j", `{"schedule":""}`), 500, codes.Internal, scheduling, "failed to schedule job due to: scheduler clients are disabled"},

		{"disabled", nil, do("POST", "/v1.0/jobs/j", every), 500, codes.Internal, scheduling, "failed to schedule job due to: scheduler clients are disabled"},
		{"disabled get", nil, do("GET", "/v1.0-alpha1/jobs/j", ""), 500, codes.Internal, getting, "failed to get job due to: scheduler clients are disabled"},
		{"disabled delete", nil, do("DELETE", "/v1.0-alpha1/jobs/j", ""), 500, codes.Internal, deleting, "failed to delete job due to: scheduler clients are disabled"},
		{"disabled prefix", nil, prefix, 500, codes.Internal, deleting, "failed to delete job due to: scheduler clients are disabled"},
		{"disabled list", nil, list, 500, codes.Internal, "DAPR_SCHEDULER_LIST_JOBS", "failed to list jobs due to: scheduler clients are disabled"},

		{"exists", status.Error(codes.AlreadyExists, "job already exists: 'app||default||app||j'"), do("POST", "/v1.0/jobs/j", every), 409, codes.AlreadyExists, scheduling, "failed to schedule job due to: rpc error: code = AlreadyExists desc = job already exists: 'app||default||app||j'"},
		{"invalid", status.Error(codes.Unknown, valid), schedule(job), 400, codes.InvalidArgument, scheduling, "failed to schedule job due to: rpc error: code = Unknown desc = " + valid},
		{"invalid, said by code", status.Error(codes.InvalidArgument, valid), schedule(job), 400, codes.InvalidArgument, scheduling, "failed to schedule job due to: rpc error: code = InvalidArgument desc = " + valid},
		{"invalid name", status.Error(codes.Unknown, naming), schedule(job), 400, codes.InvalidArgument, scheduling, "failed to schedule job due to: rpc error: code = Unknown desc = " + naming},
		{"unknown fault", status.Error(codes.Unknown, "disk full"), schedule(job), 500, codes.Internal, scheduling, "failed to schedule job due to: rpc error: code = Unknown desc = disk full"},
		{"no time", status.Error(codes.DeadlineExceeded, "too late"), do("POST", "/v1.0/jobs/j", every), 504, codes.DeadlineExceeded, scheduling, "failed to schedule job due to: rpc error: code = DeadlineExceeded desc = too late"},
		{"denied", status.Error(codes.PermissionDenied, "no"), do("POST", "/v1.0/jobs/j", every), 403, codes.PermissionDenied, scheduling, "failed to schedule job due to: rpc error: code = PermissionDenied desc = no"},
		{"not found", status.Error(codes.NotFound, "job not found: j"), do("GET", "/v1.0/jobs/j", ""), 404, codes.NotFound, getting, "failed to get job due to: rpc error: code = NotFound desc = job not found: j"},
		{"get an invalid name", status.Error(codes.Unknown, naming), get("a/b"), 400, codes.InvalidArgument, getting, "failed to get job due to: rpc error: code = Unknown desc = " + naming},
		{"get fails", status.Error(codes.Unavailable, "gone"), get("j"), 500, codes.Internal, getting, "failed to get job due to: rpc error: code = Unavailable desc = gone"},
		{"delete an invalid name", status.Error(codes.Unknown, naming), remove("a/b"), 400, codes.InvalidArgument, deleting, "failed to delete job due to: rpc error: code = Unknown desc = " + naming},
		{"delete fails", status.Error(codes.Unavailable, "gone"), remove("j"), 500, codes.Internal, deleting, "failed to delete job due to: rpc error: code = Unavailable desc = gone"},
		{"prefix fails", status.Error(codes.Unavailable, "gone"), prefix, 500, codes.Internal, deleting, "failed to delete job due to: rpc error: code = Unavailable desc = gone"},
		{"list fails", status.Error(codes.Unavailable, "gone"), list, 500, codes.Internal, "DAPR_SCHEDULER_LIST_JOBS", "failed to list jobs due to: rpc error: code = Unavailable desc = gone"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			o := Options{AppID: "app", Namespace: "default", Scheduler: disabled}
			if tc.scheduler != nil {
				o.Scheduler = &failing{err: tc.scheduler}
			}
			e := api.AsError(tc.call(New(o)))
			if e.HTTP != tc.http || e.GRPC != tc.grpc || e.Code != tc.reason || e.Message != tc.message || e.Category != api.CategoryJob {
				t.Errorf("%d %s %s %q %s", e.HTTP, e.GRPC, e.Code, e.Message, e.Category)
			}
			metadata := `{"appID":"app","namespace":"default"}`
			if tc.reason == "DAPR_SCHEDULER_JOB_NAME" {
				metadata = `{"appID":"app"}`
			}
			quoted := string(mustJSON(tc.message))
			want := `{"errorCode":"` + tc.reason + `","message":` + quoted + `,"details":[{"@type":"type.googleapis.com/google.rpc.ErrorInfo","domain":"dapr.io","metadata":` + metadata + `,"reason":"` + tc.reason + `"}]}`
			if got := string(e.AppendJSON(nil)); got != want {
				t.Errorf("body %s\nwant %s", got, want)
			}
			if details := e.GRPCStatus().Details(); len(details) != 1 {
				t.Errorf("gRPC details %v", details)
			}
		})
	}
}

func mustJSON(v any) []byte {
	text, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return text
}

// What the scheduler is asked.
func TestRequests(t *testing.T) {
	f := &failing{}
	j := New(Options{AppID: "app", Namespace: "ns", Scheduler: f})
	metadata := &schedulerv1.JobMetadata{AppId: "app", Namespace: "ns", Target: &schedulerv1.JobTargetMetadata{Type: &schedulerv1.JobTargetMetadata_Job{Job: &schedulerv1.TargetJob{}}}}
	text := func(s string) *string { return &s }
	number := func(n uint32) *uint32 { return &n }
	pack := func(v any) *anypb.Any {
		m, err := structpb.NewValue(v)
		if err != nil {
			t.Fatal(err)
		}
		a, err := anypb.New(m)
		if err != nil {
			t.Fatal(err)
		}
		return a
	}
	for _, tc := range []struct {
		name, target, body string
		want               *schedulerv1.ScheduleJobRequest
	}{
		{"all", "/v1.0/jobs/+x%20", `{"schedule":"@every 1m","dueTime":"10s","repeats":3,"ttl":"1h","data":{"any":["json"]},"overwrite":true,"failurePolicy":{"constant":{"interval":"3s","maxRetries":5}}}`, &schedulerv1.ScheduleJobRequest{
			Name: "x", Overwrite: true, Job: &schedulerv1.Job{
				Schedule: text("@every 1m"), DueTime: text("10s"), Repeats: number(3), Ttl: text("1h"), Data: pack(map[string]any{"any": []any{"json"}}),
				FailurePolicy: &commonv1.JobFailurePolicy{Policy: &commonv1.JobFailurePolicy_Constant{Constant: &commonv1.JobFailurePolicyConstant{Interval: durationpb.New(3 * time.Second), MaxRetries: number(5)}}},
			},
		}},
		{"proto names", "/v1.0-alpha1/jobs/x", `{"due_time":"10s","failure_policy":{"constant":{"max_retries":0}},"other":[1,{}],"name":""}`, &schedulerv1.ScheduleJobRequest{
			Name: "x", Job: &schedulerv1.Job{
				DueTime:       text("10s"),
				FailurePolicy: &commonv1.JobFailurePolicy{Policy: &commonv1.JobFailurePolicy_Constant{Constant: &commonv1.JobFailurePolicyConstant{MaxRetries: number(0)}}},
			},
		}},
		{"drop", "/v1.0/jobs/x", `{"schedule":"","failurePolicy":{"drop":{}}}`, &schedulerv1.ScheduleJobRequest{
			Name: "x", Job: &schedulerv1.Job{Schedule: text(""), FailurePolicy: &commonv1.JobFailurePolicy{Policy: &commonv1.JobFailurePolicy_Drop{Drop: &commonv1.JobFailurePolicyDrop{}}}},
		}},
		{"null data", "/v1.0/jobs/x", `{"schedule":"@daily","data":null}`, &schedulerv1.ScheduleJobRequest{Name: "x", Job: &schedulerv1.Job{Schedule: text("@daily"), Data: pack(nil)}}},
		{"plain data", "/v1.0/jobs/x", `{"schedule":"@daily","data":"text"}`, &schedulerv1.ScheduleJobRequest{Name: "x", Job: &schedulerv1.Job{Schedule: text("@daily"), Data: pack("text")}}},
		{"typed data is plain", "/v1.0/jobs/x", `{"schedule":"@daily","data":{"@type":"type.googleapis.com/google.protobuf.StringValue","value":"v"}}`, &schedulerv1.ScheduleJobRequest{Name: "x", Job: &schedulerv1.Job{
			Schedule: text("@daily"), Data: pack(map[string]any{"@type": "type.googleapis.com/google.protobuf.StringValue", "value": "v"}),
		}}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			reply := apitest.Router(j.Routes()).Do("POST", tc.target, tc.body)
			if reply.Status != 204 || len(reply.Body) > 0 {
				t.Fatalf("%d %s", reply.Status, reply.Body)
			}
			tc.want.Metadata = metadata
			got := f.seen.(*schedulerv1.ScheduleJobRequest)
			if !sameData(got.GetJob().GetData(), tc.want.GetJob().GetData()) {
				t.Errorf("data %v", got.GetJob().GetData())
			}
			got.Job.Data, tc.want.Job.Data = nil, nil
			if !proto.Equal(got, tc.want) {
				t.Errorf("the scheduler got %v\nwant %v", got, tc.want)
			}
			if deadline, ok := f.ctx.Deadline(); !ok || time.Until(deadline) > DefaultTimeout {
				t.Errorf("deadline %v", deadline)
			}
		})
	}
	// Only POST trims the name.
	if reply := apitest.Router(j.Routes()).Do("DELETE", "/v1.0/jobs/+x+", ""); reply.Status != 204 {
		t.Errorf("%d", reply.Status)
	}
	if want := (&schedulerv1.DeleteJobRequest{Name: " x ", Metadata: metadata}); !proto.Equal(f.seen, want) {
		t.Errorf("the scheduler got %v", f.seen)
	}
	apitest.Router(j.Routes()).Do("GET", "/v1.0/jobs/+x+", "")
	if want := (&schedulerv1.GetJobRequest{Name: " x ", Metadata: metadata}); !proto.Equal(f.seen, want) {
		t.Errorf("the scheduler got %v", f.seen)
	}
	if reply := apitest.Router(j.Routes()).Do("PUT", "/v1.0/jobs/x", "{}"); !reply.Unrouted {
		t.Errorf("PUT is %d", reply.Status)
	}
	// gRPC data goes as it came.
	data := &anypb.Any{TypeUrl: "mine", Value: []byte{1, 2}}
	if _, err := j.Server().ScheduleJobAlpha1(t.Context(), &runtimev1.ScheduleJobRequest{Job: &runtimev1.Job{Name: " x ", Schedule: text(""), Data: data}, Overwrite: true}); err != nil {
		t.Fatal(err)
	}
	want := &schedulerv1.ScheduleJobRequest{Name: " x ", Metadata: metadata, Overwrite: true, Job: &schedulerv1.Job{Schedule: text(""), Data: data}}
	if !proto.Equal(f.seen, want) {
		t.Errorf("the scheduler got %v", f.seen)
	}
	p := "pre"
	if _, err := j.Server().DeleteJobsByPrefixAlpha1(t.Context(), &runtimev1.DeleteJobsByPrefixRequestAlpha1{NamePrefix: &p}); err != nil {
		t.Fatal(err)
	}
	if want := (&schedulerv1.DeleteByNamePrefixRequest{NamePrefix: p, Metadata: metadata}); !proto.Equal(f.seen, want) {
		t.Errorf("the scheduler got %v", f.seen)
	}
}

// sameData compares packed values, whose objects have no order.
func sameData(a, b *anypb.Any) bool {
	if a == nil || b == nil {
		return a == b
	}
	x, y := new(structpb.Value), new(structpb.Value)
	return a.UnmarshalTo(x) == nil && b.UnmarshalTo(y) == nil && proto.Equal(x, y)
}

func TestMalformed(t *testing.T) {
	f := &failing{}
	r := apitest.Router(New(Options{AppID: "app", Namespace: "ns", Scheduler: f}).Routes())
	for _, body := range []string{
		"x", "[]", `{"schedule":1}`, `{"schedule":"@daily","repeats":-1}`, `{"schedule":"@daily"}{}`, `{"repeats":1.5}`,
		`{"schedule":"@daily","data":` + strings.Repeat(`{"a":`, 4000) + "1" + strings.Repeat("}", 4000) + "}", `{"schedule":"@daily","data":` + strings.Repeat("[", 20000),
		`{"failurePolicy":{"constant":{"interval":"1 minute"}}}`, `{"failurePolicy":{"drop":{},"constant":{}}}`, `{"dueTime":"1s","due_time":"2s"}`,
	} {
		reply := r.Do("POST", "/v1.0/jobs/x", body)
		if reply.Status != 400 || !strings.HasPrefix(string(reply.Body), `{"errorCode":"ERR_MALFORMED_REQUEST","message":"failed deserializing HTTP body: `) || strings.Contains(string(reply.Body), "details") || strings.Contains(string(reply.Body), "\u00a0") {
			t.Errorf("%.100s: %d %s", body, reply.Status, reply.Body)
		}
	}
	x := apitest.New("POST", "/v1.0/jobs/x", "")
	x.BodyError = api.ErrBodyTooLarge
	if reply := r.Serve(x); reply.Status != 400 || string(reply.Body) != `{"errorCode":"ERR_BODY_READ","message":"failed to read request body: stream too large"}` {
		t.Errorf("%d %s", reply.Status, reply.Body)
	}
	if f.seen != nil {
		t.Errorf("the scheduler got %v", f.seen)
	}
}

// Jobs come back as they were stored.
func TestRoundTrip(t *testing.T) {
	j, cluster := open(t)
	r := apitest.Router(j.Routes())
	server := j.Server()
	deep := strings.Repeat("[", 4000) + strings.Repeat("]", 4000)
	long := strings.Repeat("x", 1<<20)
	for name, tc := range map[string][2]string{ // body, and what GET answers behind the name
		"full":  {`{"schedule":"@every 1m","dueTime":"10s","repeats":3,"ttl":"1h","data":{"b":1,"a":[true,null]},"failurePolicy":{"constant":{"interval":"3.5s","maxRetries":0}}}`, `"schedule":"@every 1m","repeats":3,"dueTime":"10s","ttl":"1h","data":{"@type":"type.googleapis.com/google.protobuf.Value","value":{"a":[true,null],"b":1}},"failurePolicy":{"constant":{"interval":"3.500s","maxRetries":0}}`},
		"drop":  {`{"due_time":"10s","failurePolicy":{"drop":{}}}`, `"dueTime":"10s","failurePolicy":{"drop":{}}`},
		"empty": {`{"schedule":"","data":""}`, `"schedule":"","data":{"@type":"type.googleapis.com/google.protobuf.Value","value":""}`},
		"null":  {`{"schedule":"@daily","data":null}`, `"schedule":"@daily","data":{"@type":"type.googleapis.com/google.protobuf.Value","value":null}`},
		"deep":  {`{"schedule":"@daily","data":` + deep + `}`, `"schedule":"@daily","data":{"@type":"type.googleapis.com/google.protobuf.Value","value":` + deep + `}`},
		"long":  {`{"schedule":"@daily","data":"` + long + `"}`, `"schedule":"@daily","data":{"@type":"type.googleapis.com/google.protobuf.Value","value":"` + long + `"}`},
		"a b|é": {`{"schedule":"@daily","data":"<&> \" \u2028 é"}`, `"schedule":"@daily","data":{"@type":"type.googleapis.com/google.protobuf.Value","value":"<&> \" ` + "\u2028" + ` é"}`},
	} {
		target := "/v1.0/jobs/" + strings.ReplaceAll(name, " ", "%20")
		if reply := r.Do("POST", target, tc[0]); reply.Status != 204 {
			t.Fatalf("%s: %d %.300s", name, reply.Status, reply.Body)
		}
		want := `{"name":"` + name + `",` + tc[1] + `}`
		for range 3 {
			reply := r.Do("GET", target, "")
			if reply.Status != 200 || string(reply.Body) != want || reply.Header.Get("Content-Type") != "application/json" {
				t.Errorf("%s: %d %.300s\nwant %.300s", name, reply.Status, reply.Body, want)
			}
		}
		// It is there, and only to be replaced if asked.
		if reply := r.Do("POST", target, tc[0]); reply.Status != 409 {
			t.Errorf("%s: %d %.300s", name, reply.Status, reply.Body)
		}
		if reply := r.Do("POST", target, strings.Replace(tc[0], "{", `{"overwrite":true,`, 1)); reply.Status != 204 {
			t.Errorf("%s: %d %.300s", name, reply.Status, reply.Body)
		}
	}
	cluster.Put(&schedulerv1.NamedJob{Name: "foreign", Metadata: &schedulerv1.JobMetadata{AppId: "other", Namespace: "default"}, Job: &schedulerv1.Job{}})
	names := func() (all []string) {
		out, err := server.ListJobs(t.Context(), &runtimev1.ListJobsRequest{})
		if err != nil {
			t.Fatal(err)
		}
		former, err := server.ListJobsAlpha1(t.Context(), &runtimev1.ListJobsRequestAlpha1{})
		if err != nil || len(former.GetJobs()) != len(out.GetJobs()) {
			t.Fatalf("%v %v", former, err)
		}
		for _, job := range out.GetJobs() {
			if job.Schedule == nil && job.DueTime == nil {
				t.Errorf("%v is not what was stored", job)
			}
			all = append(all, job.GetName())
		}
		return all
	}
	if got := strings.Join(names(), ","); got != "a b|é,deep,drop,empty,full,long,null" {
		t.Error(got)
	}
	for range 2 { // a second time, too
		if reply := r.Do("DELETE", "/v1.0/jobs/null", ""); reply.Status != 204 || len(reply.Body) > 0 {
			t.Errorf("%d %s", reply.Status, reply.Body)
		}
	}
	if reply := r.Do("GET", "/v1.0/jobs/null", ""); reply.Status != 404 {
		t.Errorf("%d %s", reply.Status, reply.Body)
	}
	prefix := "d"
	if _, err := server.DeleteJobsByPrefix(t.Context(), &runtimev1.DeleteJobsByPrefixRequest{NamePrefix: &prefix}); err != nil {
		t.Fatal(err)
	}
	if got := strings.Join(names(), ","); got != "a b|é,empty,full,long" {
		t.Error(got)
	}
	if _, err := server.DeleteJobsByPrefix(t.Context(), &runtimev1.DeleteJobsByPrefixRequest{}); err != nil {
		t.Fatal(err)
	}
	if got := names(); len(got) > 0 {
		t.Error(got)
	}
}

// Data of gRPC clients over HTTP: well-known types have a form, others have none.
func TestTypedData(t *testing.T) {
	j, _ := open(t)
	r := apitest.Router(j.Routes())
	known, err := anypb.New(wrapperspb.Bytes([]byte("hey")))
	if err != nil {
		t.Fatal(err)
	}
	schedule := "@daily"
	for _, tc := range []struct {
		data   *anypb.Any
		status int
		body   string
	}{
		{known, 200, `{"name":"j","schedule":"@daily","data":{"@type":"type.googleapis.com/google.protobuf.BytesValue","value":"aGV5"}}`},
		{&anypb.Any{TypeUrl: "type.googleapis.com/mine.Own", Value: []byte("{}")}, 500, `{"errorCode":"ERR_INTERNAL","message":"failed to encode response as JSON: proto: `},
		{&anypb.Any{Value: []byte("{}")}, 500, `{"errorCode":"ERR_INTERNAL","message":"failed to encode response as JSON: proto: `},
	} {
		in := &runtimev1.Job{Name: "j", Schedule: &schedule, Data: tc.data}
		if _, err := j.Server().ScheduleJob(t.Context(), &runtimev1.ScheduleJobRequest{Job: in, Overwrite: true}); err != nil {
			t.Fatal(err)
		}
		reply := r.Do("GET", "/v1.0/jobs/j", "")
		if reply.Status != tc.status || !strings.HasPrefix(string(reply.Body), tc.body) || strings.Contains(string(reply.Body), "\u00a0") {
			t.Errorf("%d %s", reply.Status, reply.Body)
		}
		out, err := j.Server().GetJob(t.Context(), &runtimev1.GetJobRequest{Name: "j"})
		if err != nil || !proto.Equal(out.GetJob(), in) {
			t.Errorf("%v %v", out, err)
		}
	}
}

func FuzzBody(f *testing.F) {
	for _, seed := range []string{
		"", "{}", `{"schedule":"@every 1m","dueTime":"10s","repeats":3,"ttl":"1h","data":{"any":"json"},"overwrite":false,"failurePolicy":{"constant":{"interval":"3s","maxRetries":5}}}`,
		`{"data":[null,true,1e300,-0,"\ud83d\ude00",{"@type":"x"}]}`, `{"due_time":"","failure_policy":{"drop":{}}}`, `{"data":` + strings.Repeat("[", 50), `{"name":"x"}`,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		job, _, err := parse(body)
		if err != nil {
			return
		}
		text, err := encode(job)
		if err != nil {
			t.Fatalf("%q can be stored and not be read: %v", body, err)
		}
		if !json.Valid(text) {
			t.Fatalf("%q became %q", body, text)
		}
		again, err := encode(job)
		if err != nil || string(again) != string(text) {
			t.Fatalf("%q and %q, %v", text, again, err)
		}
	})
}

// BenchmarkSchedule is POST of a job through the face, with a scheduler in the same process.
func BenchmarkSchedule(b *testing.B) {
	const body = `{"schedule":"@every 1m","dueTime":"10s","repeats":3,"data":{"order":17,"items":["a","b"]},"overwrite":true}`
	b.Run("face", func(b *testing.B) {
		r := apitest.Router(New(Options{AppID: "app", Namespace: "default", Scheduler: &failing{}}).Routes())
		b.ReportAllocs()
		for b.Loop() {
			if reply := r.Do("POST", "/v1.0/jobs/x", body); reply.Status != 204 {
				b.Fatalf("%d %s", reply.Status, reply.Body)
			}
		}
	})
	b.Run("scheduler", func(b *testing.B) {
		j, _ := open(b)
		r := apitest.Router(j.Routes())
		b.ReportAllocs()
		for b.Loop() {
			if reply := r.Do("POST", "/v1.0/jobs/x", body); reply.Status != 204 {
				b.Fatalf("%d %s", reply.Status, reply.Body)
			}
		}
	})
}
