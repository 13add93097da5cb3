package scheduler

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	schedulerv1 "outrigger.dev/api/gen/scheduler/v1"
	"outrigger.dev/controlplane/internal/serving"
	"outrigger.dev/controlplane/scheduler/etcd"
	"outrigger.dev/identity/identitytest"
)

func initial(app string, types ...string) *schedulerv1.WatchJobsRequestInitial {
	return &schedulerv1.WatchJobsRequestInitial{AppId: app, Namespace: "ns", ActorTypes: types}
}

func TestTriggers(t *testing.T) {
	r := launch(t, nil)
	c := r.dial(nil)
	w := watch(t, c, initial("app", "T"))
	data, err := anypb.New(wrapperspb.String("payload"))
	if err != nil {
		t.Fatal(err)
	}
	request := due("a", "0s", job("app"))
	request.Job.Data = data
	schedule(t, c, request)
	m := w.next()
	if m.Name != "a" || m.Id != 1 || !proto.Equal(m.Data, data) || !proto.Equal(m.Metadata, job("app")) {
		t.Errorf("trigger %v", m)
	}
	// The failure policy has it tried again.
	w.result(1, failed)
	if m = w.next(); m.Name != "a" || m.Id != 2 {
		t.Errorf("trigger %v", m)
	}
	w.result(2, success)
	schedule(t, c, due("r||1", "0s", actor("other", "T", "x||y")))
	if m = w.next(); m.Name != "r||1" || m.Metadata.GetTarget().GetActor().GetId() != "x||y" {
		t.Errorf("trigger %v", m)
	}
	w.result(3, success)
	r.metric(`dapr_scheduler_jobs_triggered_total{type="job"} 1`)
	r.metric(`dapr_scheduler_jobs_triggered_total{type="actor"} 1`)
	r.metric(`dapr_scheduler_jobs_failed_total{type="job"} 1`)
	r.metric(`dapr_scheduler_trigger_latency_count{type="job"} 2`)
	r.metric("dapr_scheduler_sidecars_connected 1")
	waitFor(t, "the job to be deleted", func() bool { return len(names(t, c, job("app"))) == 0 })
}

// waitFor waits for a condition.
func waitFor(t testing.TB, what string, condition func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !condition(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain for %s", what)
		}
	}
}

func TestStagedUntilSomebodyListens(t *testing.T) {
	r := launch(t, nil)
	c := r.dial(nil)
	schedule(t, c, due("a", "0s", job("app")), due("b", "0s", job("app")))
	r.metric(`dapr_scheduler_jobs_undelivered_total{type="job"} 2`)
	if _, err := c.DeleteJob(bounded(t), &schedulerv1.DeleteJobRequest{Name: "a", Metadata: job("app")}); err != nil {
		t.Fatal(err)
	}
	// Once this one is known to the engine, so is the deletion before it.
	schedule(t, c, due("c", "0s", job("another")))
	r.metric(`dapr_scheduler_jobs_undelivered_total{type="job"} 3`)
	for i := range 3 {
		w := watch(t, c, initial("app"))
		if m := w.next(); m.Name != "b" || m.Id != 1 {
			t.Fatalf("trigger %v", m)
		}
		if i == 2 {
			w.result(1, success)
			break
		}
		// A stream that ends without a result gives the trigger to the next one.
		if err := w.CloseSend(); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Recv(); !errors.Is(err, io.EOF) {
			t.Errorf("error %v", err)
		}
	}
	r.metric(`dapr_scheduler_jobs_triggered_total{type="job"} 1`)
}

func TestViolationsEndOnlyTheirStream(t *testing.T) {
	r := launch(t, nil)
	c := r.dial(nil)
	good := watch(t, c, initial("app"))
	message := func(m any) *schedulerv1.WatchJobsRequest {
		switch m := m.(type) {
		case *schedulerv1.WatchJobsRequestInitial:
			return &schedulerv1.WatchJobsRequest{WatchJobRequestType: &schedulerv1.WatchJobsRequest_Initial{Initial: m}}
		case *schedulerv1.WatchJobsRequestResult:
			return &schedulerv1.WatchJobsRequest{WatchJobRequestType: &schedulerv1.WatchJobsRequest_Result{Result: m}}
		}
		return &schedulerv1.WatchJobsRequest{}
	}
	reminders := []schedulerv1.JobTargetType{schedulerv1.JobTargetType_JOB_TARGET_TYPE_ACTOR_REMINDER}
	for name, tt := range map[string]struct {
		messages []any
		text     string
	}{
		"result first":           {[]any{&schedulerv1.WatchJobsRequestResult{}}, "initial request is required on stream connection"},
		"nothing":                {[]any{nil}, "initial request is required on stream connection"},
		"no app":                 {[]any{&schedulerv1.WatchJobsRequestInitial{Namespace: "ns"}}, "missing namespace or appID in request"},
		"reminders without type": {[]any{&schedulerv1.WatchJobsRequestInitial{AppId: "a", Namespace: "ns", AcceptJobTypes: reminders}}, "names no actor type"},
		"twice": {
			[]any{&schedulerv1.WatchJobsRequestInitial{AppId: "a", Namespace: "ns", ActorTypes: []string{"T"}, AcceptJobTypes: append(reminders, reminders...)}},
			"duplicate target type specified: JOB_TARGET_TYPE_ACTOR_REMINDER",
		},
		"second initial": {[]any{initial("a"), initial("a")}, "initial request came again"},
		"unknown id":     {[]any{initial("a"), &schedulerv1.WatchJobsRequestResult{Id: 1}}, "not outstanding"},
	} {
		t.Run(name, func(t *testing.T) {
			ctx := bounded(t)
			stream, err := c.WatchJobs(ctx)
			if err != nil {
				t.Fatal(err)
			}
			for _, m := range tt.messages {
				if err := stream.Send(message(m)); err != nil && !errors.Is(err, io.EOF) {
					t.Fatal(err)
				}
			}
			_, err = stream.Recv()
			if status.Code(err) != codes.InvalidArgument || !strings.Contains(err.Error(), tt.text) {
				t.Errorf("error %v, want one with %q", err, tt.text)
			}
		})
	}
	schedule(t, c, due("a", "0s", job("app")))
	good.result(good.next().Id, success)
	r.metric("dapr_scheduler_sidecars_connected 1")
}

func TestLimits(t *testing.T) {
	r := launch(t, nil)
	c := r.dial(nil)
	i := initial("app", "T")
	i.ConcurrencyLimits = []*schedulerv1.ConcurrencyLimit{{
		MaxConcurrent: 2, Target: &schedulerv1.ConcurrencyLimit_Actor{Actor: &schedulerv1.ConcurrencyLimitActor{Type: "T"}},
	}}
	w := watch(t, c, i)
	r.metric("dapr_scheduler_sidecars_connected 1")
	for n := range 4 {
		schedule(t, c, due(fmt.Sprint("r", n), "0s", actor("app", "T", "1")))
	}
	first, second := w.next(), w.next()
	r.metric(`dapr_scheduler_concurrency_inflight{concurrency_key="T"} 2`)
	r.metric(`dapr_scheduler_concurrency_pending{concurrency_key="T"} 2`)
	r.metric(`dapr_scheduler_concurrency_throttled_total{concurrency_key="T"} 2`)
	w.result(first.Id, success)
	third := w.next()
	w.result(second.Id, success)
	w.result(third.Id, success)
	w.result(w.next().Id, success)
	r.metric(`dapr_scheduler_concurrency_inflight{concurrency_key="T"} 0`)
}

// TestSlowReader has a sidecar that opens a stream and never reads.
func TestSlowReader(t *testing.T) {
	r := launch(t, func(o *Options) { o.Stall = 500 * time.Millisecond })
	slow := r.dial(nil, grpc.WithInitialWindowSize(64<<10), grpc.WithStaticStreamWindowSize(64<<10))
	stuck := watch(t, slow, initial("app"))
	r.metric("dapr_scheduler_sidecars_connected 1")
	c := r.dial(nil)
	data, err := anypb.New(wrapperspb.String(strings.Repeat("x", 100<<10)))
	if err != nil {
		t.Fatal(err)
	}
	const jobs = 20
	for n := range jobs {
		request := due(fmt.Sprint(n), "0s", job("app"))
		request.Job.Data = data
		schedule(t, c, request)
	}
	w := watch(t, c, initial("app"))
	seen := map[string]bool{}
	for len(seen) < jobs {
		m := w.next()
		seen[m.Name] = true
		w.result(m.Id, success)
	}
	_, err = stuck.Recv()
	for err == nil {
		_, err = stuck.Recv()
	}
	if status.Code(err) != codes.ResourceExhausted {
		t.Errorf("the stream of the slow sidecar ended with %v", err)
	}
	r.metric(fmt.Sprintf(`dapr_scheduler_jobs_triggered_total{type="job"} %d`, jobs))
}

func TestWatchHosts(t *testing.T) {
	r := launch(t, nil)
	stream, err := r.dial(nil).WatchHosts(bounded(t), &schedulerv1.WatchHostsRequest{})
	if err != nil {
		t.Fatal(err)
	}
	m, err := stream.Recv()
	if err != nil {
		t.Fatal(err)
	}
	if len(m.Hosts) != 1 || m.Hosts[0].Address != r.addresses.GRPC.String() {
		t.Errorf("hosts %v, want %s", m.Hosts, r.addresses.GRPC)
	}
	if err := r.stop(); err != nil {
		t.Fatal(err)
	}
	if _, err := stream.Recv(); status.Code(err) != codes.Unavailable {
		t.Errorf("at the end: %v", err)
	}
}

func TestStopEndsStreamsAndKeepsJobs(t *testing.T) {
	e := embedded(t, t.TempDir())
	r := launch(t, func(o *Options) { o.Embedded = e; o.Broadcast = "example.test:50006" })
	c := r.dial(nil)
	w := watch(t, c, initial("app"))
	schedule(t, c, due("a", "0s", job("app")))
	w.next()
	begin := time.Now()
	if err := r.stop(); err != nil {
		t.Fatal(err)
	}
	if took := time.Since(begin); took > 5*time.Second {
		t.Errorf("the end took %s", took)
	}
	if _, err := w.Recv(); status.Code(err) != codes.Unavailable {
		t.Errorf("the stream ended with %v", err)
	}
	// It had no result, so that it comes again.
	r = launch(t, func(o *Options) { o.Embedded = e })
	if m := watch(t, r.dial(nil), initial("app")).next(); m.Name != "a" {
		t.Errorf("trigger %v", m)
	}
}

func TestAuthorisation(t *testing.T) {
	ca := identitytest.NewCA(t)
	r := launch(t, func(o *Options) {
		o.Security = serving.MutualTLS(ca.NewSource(t, schedulerID().String()), schedulerID())
		o.Embedded = embedded(t, t.TempDir())
		o.Embedded.IdentityDir = t.TempDir()
	})
	app, other := r.dial(sidecar(t, ca, "app")), r.dial(sidecar(t, ca, "other"))
	for _, o := range owners() {
		if o.Metadata.AppId == "app" {
			schedule(t, app, o)
		}
	}
	const own, dotted = "dapr.internal.ns.app.workflow", "dapr.internal.ns.app.x.workflow"
	schedule(t, other, due("x", "1h", actor("other", "Cart", "1")))
	app2 := r.dial(sidecar(t, ca, "app2"))
	schedule(t, app2, due("x", "1h", job("app2")))

	metadata := func(m *schedulerv1.JobMetadata) map[string]func(schedulerv1.SchedulerClient) error {
		ctx := bounded(t)
		return map[string]func(schedulerv1.SchedulerClient) error{
			"schedule": func(c schedulerv1.SchedulerClient) error { _, err := c.ScheduleJob(ctx, due("z", "1h", m)); return err },
			"get": func(c schedulerv1.SchedulerClient) error {
				_, err := c.GetJob(ctx, &schedulerv1.GetJobRequest{Name: "w", Metadata: m})
				return err
			},
			"delete": func(c schedulerv1.SchedulerClient) error {
				_, err := c.DeleteJob(ctx, &schedulerv1.DeleteJobRequest{Name: "w", Metadata: m})
				return err
			},
			"list": func(c schedulerv1.SchedulerClient) error {
				_, err := c.ListJobs(ctx, &schedulerv1.ListJobsRequest{Metadata: m})
				return err
			},
			"by metadata": func(c schedulerv1.SchedulerClient) error {
				_, err := c.DeleteByMetadata(ctx, &schedulerv1.DeleteByMetadataRequest{Metadata: m, IdPrefixMatch: proto.Bool(true)})
				return err
			},
			"by name": func(c schedulerv1.SchedulerClient) error {
				_, err := c.DeleteByNamePrefix(ctx, &schedulerv1.DeleteByNamePrefixRequest{Metadata: m})
				return err
			},
		}
	}
	otherNamespace := job("other")
	otherNamespace.Namespace = "ns2"
	for name, m := range map[string]*schedulerv1.JobMetadata{
		"another app":                   job("app"),
		"another namespace":             otherNamespace,
		"a workflow of another app":     actor("other", own, "i"),
		"internal types in general":     actor("other", "dapr.internal.ns.", ""),
		"the type of an app with a dot": actor("other", "dapr.internal.ns.other.x.workflow", "i"),
	} {
		for method, call := range metadata(m) {
			if err := call(other); status.Code(err) != codes.PermissionDenied {
				t.Errorf("%s: %s: error %v", name, method, err)
			}
		}
		if name == "a workflow of another app" {
			m.AppId = "app"
			if err := metadata(m)["get"](app); err != nil {
				t.Errorf("get by the owner: %v", err)
			}
		}
	}

	// Prefixes never reach what belongs to another app.
	for name, call := range map[string]func() error{
		"types":  byMetadata(t, other, actor("other", "d", ""), true),
		"nobody": byMetadata(t, other, actor("other", "dapr.", ""), true),
	} {
		if err := call(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := byMetadata(t, app, job("app"), true)(); err != nil {
		t.Error(err)
	}
	if got := names(t, app2, job("app2")); fmt.Sprint(got) != "[x]" {
		t.Errorf("app2 has %q", got)
	}
	if got := names(t, app, actor("app", own, "")); fmt.Sprint(got) != "[w]" {
		t.Errorf("the workflows of app: %q", got)
	}
	if err := byMetadata(t, other, actor("other", "", ""), true)(); err != nil {
		t.Error(err)
	}
	if got := names(t, app, actor("app", own, "")); fmt.Sprint(got) != "[w]" {
		t.Errorf("the workflows of app: %q", got)
	}
	if got := names(t, app, actor("app", "Cart", "")); len(got) > 0 {
		t.Errorf("reminders that all apps share: %q", got)
	}

	for name, i := range map[string]*schedulerv1.WatchJobsRequestInitial{
		"app": initial("app"), "type": initial("other", "T", own), "namespace": {AppId: "other", Namespace: "ns2"}, "dotted": initial("other", dotted),
	} {
		w := watch(t, other, i)
		if _, err := w.Recv(); status.Code(err) != codes.PermissionDenied {
			t.Errorf("watch %s: error %v", name, err)
		}
	}
	r.metric(`dapr_scheduler_sidecar_errors_total{reason="auth_failed"} 4`)
	watch(t, app, initial("app", own, "T"))
	r.metric("dapr_scheduler_sidecars_connected 1")

	stranger := r.dial(sidecar(t, identitytest.NewCA(t), "app"))
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if _, err := stranger.ListJobs(ctx, &schedulerv1.ListJobsRequest{Metadata: job("app")}); status.Code(err) != codes.Unavailable {
		t.Errorf("a stranger: %v", err)
	}
}

func TestNamespaceDeleted(t *testing.T) {
	gone := make(chan string)
	r := launch(t, func(o *Options) { o.Namespaces = namespaces(gone) })
	c := r.dial(nil)
	for _, o := range owners() {
		schedule(t, c, o)
	}
	kept := due("kept", "1h", job("app"))
	kept.Metadata.Namespace = "ns2"
	schedule(t, c, kept)
	gone <- "ns"
	gone <- "ns3" // after which the first one is over
	if got := strings.Trim(left(t, c), ", "); got != "" {
		t.Errorf("left: %q", got)
	}
	if got := names(t, c, kept.Metadata); fmt.Sprint(got) != "[kept]" {
		t.Errorf("in the other namespace: %q", got)
	}
}

// namespaces are deleted as the channel says.
type namespaces chan string

func (n namespaces) Run(ctx context.Context, ready func(), deleted func(context.Context, string) error) error {
	ready()
	for {
		select {
		case name := <-n:
			if err := deleted(ctx, name); err != nil {
				return err
			}
		case <-ctx.Done():
			return nil
		}
	}
}

func TestExternalEtcd(t *testing.T) {
	first := launch(t, nil)
	second := launch(t, func(o *Options) {
		o.ID = "other"
		o.External = &etcd.External{Endpoints: []string{first.addresses.Etcd}}
	})
	c, d := first.dial(nil), second.dial(nil)
	stream, err := c.WatchHosts(bounded(t), &schedulerv1.WatchHostsRequest{})
	if err != nil {
		t.Fatal(err)
	}
	for {
		m, err := stream.Recv()
		if err != nil {
			t.Fatal(err)
		}
		if len(m.Hosts) == 2 {
			break
		}
	}
	// A job belongs to one of both, and the sidecar listens to both.
	for i := range 10 {
		schedule(t, d, due(fmt.Sprint(i), "0s", job("app")))
	}
	var streams []*watcher
	got := make(chan string, 10)
	for _, client := range []schedulerv1.SchedulerClient{c, d} {
		w := watch(t, client, initial("app"))
		streams = append(streams, w)
		go func() {
			for {
				m, err := w.Recv()
				if err != nil {
					return
				}
				w.result(m.Id, success)
				got <- m.Name
			}
		}()
	}
	seen := map[string]bool{}
	for len(seen) < 10 {
		select {
		case name := <-got:
			seen[name] = true
		case <-time.After(patience):
			t.Fatalf("only %d of 10 jobs fired", len(seen))
		}
	}
	for _, w := range streams {
		if err := w.CloseSend(); err != nil {
			t.Error(err)
		}
	}
	if err := second.stop(); err != nil {
		t.Error(err)
	}
	if m, err := stream.Recv(); err != nil || len(m.Hosts) != 1 {
		t.Errorf("hosts %v, error %v", m, err)
	}
}

func TestWhatCannotBeUsed(t *testing.T) {
	taken := launch(t, nil)
	local := Address{Host: "127.0.0.1"}
	for want, change := range map[string]func(*Options){
		"the gRPC port":                   func(o *Options) { o.Listen.Port = taken.addresses.GRPC.(*net.TCPAddr).Port },
		"--override-broadcast-host-port":  func(o *Options) { o.Broadcast = "nowhere" },
		"is not found in initial cluster": func(o *Options) { o.ID = "x" },
		"--workers":                       func(o *Options) { o.Workers = -1 },
	} {
		o := Options{Listen: local, Observed: Observed{Healthz: local}, Embedded: embedded(t, t.TempDir())}
		change(&o)
		if err := Run(bounded(t), o); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v, want one with %q", err, want)
		}
	}
}
