package scheduler

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/proto"

	schedulerv1 "outrigger.dev/api/gen/scheduler/v1"
	"outrigger.dev/controlplane/scheduler/etcd"
	"outrigger.dev/identity"
	"outrigger.dev/identity/identitytest"
	"outrigger.dev/telemetry/logging/logtest"
	"outrigger.dev/test/servers"
)

// patience bounds everything that a test waits for.
const patience = 30 * time.Second

// instance is a scheduler of a test.
type instance struct {
	t         testing.TB
	log       *logtest.Log
	addresses Addresses
	stop      func() error // ends it, once
}

// embedded is an etcd of its own in a directory.
func embedded(t testing.TB, dir string) *etcd.Embedded {
	return &etcd.Embedded{
		DataDir: dir, InitialCluster: fmt.Sprintf("%s=http://127.0.0.1:%d", DefaultID, servers.FreePort(t)), ClientListenAddress: "127.0.0.1",
	}
}

// launch runs a scheduler on free ports of loopback until the test ends.
func launch(t testing.TB, change func(*Options)) *instance {
	t.Helper()
	r := &instance{t: t, log: &logtest.Log{}}
	local := Address{Host: "127.0.0.1"}
	o := Options{Listen: local, Observed: Observed{Healthz: local, MetricsEnabled: true, Metrics: local}, Log: r.log.Logger()}
	if change != nil {
		change(&o)
	}
	if o.Embedded == nil && o.External == nil {
		o.Embedded = embedded(t, t.TempDir())
	}
	started := make(chan Addresses, 1)
	o.Started = func(a Addresses) { started <- a }
	ctx, cancel := context.WithCancel(context.Background())
	done, ended := make(chan error, 1), false
	go func() { done <- Run(ctx, o) }()
	r.stop = func() error {
		if ended {
			return nil
		}
		ended = true
		cancel()
		select {
		case err := <-done:
			return err
		case <-time.After(patience):
			t.Errorf("Run does not end; log:\n%s", r.log)
			return nil
		}
	}
	t.Cleanup(func() {
		if err := r.stop(); err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	select {
	case r.addresses = <-started:
	case err := <-done:
		done <- err
		t.Fatalf("Run ended: %v", err)
	case <-time.After(patience):
		t.Fatalf("the scheduler does not start; log:\n%s", r.log)
	}
	return r
}

// dial is a connection to it; nil credentials are clear text.
func (r *instance) dial(creds credentials.TransportCredentials, options ...grpc.DialOption) schedulerv1.SchedulerClient {
	return dial(r.t, r.addresses.GRPC.String(), creds, options...)
}

func dial(t testing.TB, address string, creds credentials.TransportCredentials, options ...grpc.DialOption) schedulerv1.SchedulerClient {
	t.Helper()
	if creds == nil {
		creds = insecure.NewCredentials()
	}
	conn, err := grpc.NewClient("passthrough:///"+address, append(options, grpc.WithTransportCredentials(creds), grpc.WithNoProxy())...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return schedulerv1.NewSchedulerClient(conn)
}

// bounded is a context of a test.
func bounded(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	t.Cleanup(cancel)
	return ctx
}

// job and actor are metadata.
func job(app string) *schedulerv1.JobMetadata {
	return &schedulerv1.JobMetadata{Namespace: "ns", AppId: app, Target: &schedulerv1.JobTargetMetadata{Type: &schedulerv1.JobTargetMetadata_Job{Job: &schedulerv1.TargetJob{}}}}
}

func actor(app, actorType, id string) *schedulerv1.JobMetadata {
	return &schedulerv1.JobMetadata{Namespace: "ns", AppId: app, Target: &schedulerv1.JobTargetMetadata{
		Type: &schedulerv1.JobTargetMetadata_Actor{Actor: &schedulerv1.TargetActorReminder{Type: actorType, Id: id}},
	}}
}

// due is a request for a job that fires once.
func due(name, when string, m *schedulerv1.JobMetadata) *schedulerv1.ScheduleJobRequest {
	return &schedulerv1.ScheduleJobRequest{Name: name, Metadata: m, Job: &schedulerv1.Job{DueTime: proto.String(when)}}
}

func schedule(t testing.TB, c schedulerv1.SchedulerClient, requests ...*schedulerv1.ScheduleJobRequest) {
	t.Helper()
	for _, r := range requests {
		if _, err := c.ScheduleJob(bounded(t), r); err != nil {
			t.Fatal(err)
		}
	}
}

// names are the short names of the jobs of an owner.
func names(t testing.TB, c schedulerv1.SchedulerClient, m *schedulerv1.JobMetadata) (list []string) {
	t.Helper()
	r, err := c.ListJobs(bounded(t), &schedulerv1.ListJobsRequest{Metadata: m})
	if err != nil {
		t.Fatal(err)
	}
	for _, j := range r.Jobs {
		list = append(list, j.Name)
	}
	return list
}

// watcher is a stream of a test.
type watcher struct {
	t testing.TB
	schedulerv1.Scheduler_WatchJobsClient
}

// watch opens a stream and makes sure that the scheduler has it.
func watch(t testing.TB, c schedulerv1.SchedulerClient, initial *schedulerv1.WatchJobsRequestInitial) *watcher {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	t.Cleanup(cancel)
	stream, err := c.WatchJobs(ctx)
	if err != nil {
		t.Fatal(err)
	}
	w := &watcher{t, stream}
	w.send(&schedulerv1.WatchJobsRequest{WatchJobRequestType: &schedulerv1.WatchJobsRequest_Initial{Initial: initial}})
	return w
}

func (w *watcher) send(m *schedulerv1.WatchJobsRequest) {
	w.t.Helper()
	if err := w.Send(m); err != nil {
		w.t.Fatal(err)
	}
}

func (w *watcher) result(id uint64, status schedulerv1.WatchJobsRequestResultStatus) {
	w.t.Helper()
	w.send(&schedulerv1.WatchJobsRequest{WatchJobRequestType: &schedulerv1.WatchJobsRequest_Result{
		Result: &schedulerv1.WatchJobsRequestResult{Id: id, Status: status},
	}})
}

// next is the next trigger.
func (w *watcher) next() *schedulerv1.WatchJobsResponse {
	w.t.Helper()
	type received struct {
		m   *schedulerv1.WatchJobsResponse
		err error
	}
	c := make(chan received, 1)
	go func() {
		m, err := w.Recv()
		c <- received{m, err}
	}()
	select {
	case r := <-c:
		if r.err != nil {
			w.t.Fatal(r.err)
		}
		return r.m
	case <-time.After(patience):
		w.t.Fatal("no trigger comes")
		return nil
	}
}

// get reads a URL.
func get(t testing.TB, url string) (int, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(bounded(t), http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(body)
}

// metric waits until a line of the metrics is there.
func (r *instance) metric(line string) {
	r.t.Helper()
	deadline := time.Now().Add(patience)
	for {
		_, text := get(r.t, "http://"+r.addresses.Metrics.String()+"/metrics")
		if strings.Contains(text, "\n"+line+"\n") {
			return
		}
		if time.Now().After(deadline) {
			name, _, _ := strings.Cut(line, " ")
			name, _, _ = strings.Cut(name, "{")
			var have []string
			for l := range strings.Lines(text) {
				if strings.HasPrefix(l, name) {
					have = append(have, l)
				}
			}
			r.t.Fatalf("no %q; there is %q", line, have)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// schedulerID is that of the schedulers of tests.
func schedulerID() identity.ID {
	return identity.ID{TrustDomain: "localhost", Namespace: "dapr-system", AppID: AppID}
}

// sidecar are the credentials of an app in "ns".
func sidecar(t testing.TB, ca *identitytest.CA, app string) credentials.TransportCredentials {
	return credentials.NewTLS(identity.NewTLS(ca.NewSource(t, "spiffe://public/ns/ns/"+app), nil).Client(identity.Exactly(schedulerID()), "h2"))
}
