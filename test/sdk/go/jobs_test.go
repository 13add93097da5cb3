package sdk

import (
	"context"
	"errors"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/dapr/go-sdk/client"
	"github.com/dapr/go-sdk/service/common"
	daprgrpc "github.com/dapr/go-sdk/service/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// jobApp is an app that keeps what its jobs have called it with.
type jobApp struct {
	c client.Client

	mu     sync.Mutex
	got    map[string][]string
	change chan struct{} // closed and replaced with every call
}

// take is the handler of a job; that of one whose name begins with failing fails the first time.
func (a *jobApp) take(_ context.Context, job *common.JobEvent) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.got[job.JobType] = append(a.got[job.JobType], string(job.Data))
	close(a.change)
	a.change = make(chan struct{})
	if strings.HasPrefix(job.JobType, "failing") && len(a.got[job.JobType]) == 1 {
		return errors.New("not now")
	}
	return nil
}

func (a *jobApp) calls(job string) ([]string, <-chan struct{}) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return slices.Clone(a.got[job]), a.change
}

// await waits for as many calls of a job as are wanted, and checks them.
func (a *jobApp) await(t *testing.T, job string, want ...string) {
	t.Helper()
	limit := time.After(15 * time.Second)
	for {
		got, change := a.calls(job)
		if len(got) >= len(want) {
			if !slices.Equal(got, want) {
				t.Errorf("the job %s called the app with %q, want %q", job, got, want)
			}
			return
		}
		select {
		case <-change:
		case <-limit:
			t.Fatalf("the job %s called the app with %q, want %q", job, got, want)
		}
	}
}

// awaitGone waits until a job is not known any more.
func (a *jobApp) awaitGone(t *testing.T, job string) {
	t.Helper()
	ctx := bounded(t)
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for ; ; <-tick.C {
		j, err := a.c.GetJob(ctx, job)
		if err == nil && ctx.Err() == nil {
			continue
		} else if err == nil {
			t.Fatalf("the job %s is still there: %+v", job, j)
		}
		wantStatus(t, err, codes.NotFound, "job not found", "DAPR_SCHEDULER_GET_JOB")
		return
	}
}

func data(t *testing.T, text string) client.JobOption {
	t.Helper()
	return client.WithJobData(&anypb.Any{Value: []byte(text)})
}

// TestJobs schedules jobs of an app that speaks gRPC; the SDK's HTTP service takes none.
func TestJobs(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:"+env(t, "SDK_JOBS_GRPC_APP_PORT"))
	noError(t, err)
	a := &jobApp{got: map[string][]string{}, change: make(chan struct{})}
	s := daprgrpc.NewServiceWithListener(listener)
	for _, name := range []string{"once", "typed", "empty", "repeated", "kept", "failing-again", "failing-dropped", "deleted"} {
		noError(t, s.AddJobEventHandler(name, a.take))
	}
	serve(t, s, nil)
	a.c, err = client.NewClientWithPort(env(t, "SDK_JOBS_GRPC_GRPC_PORT"))
	noError(t, err)
	t.Cleanup(a.c.Close)

	schedule := func(t *testing.T, name string, options ...client.JobOption) {
		t.Helper()
		noError(t, a.c.ScheduleJob(bounded(t), client.NewJob(name, options...)))
	}
	now := client.WithJobDueTime("0s")
	for name, test := range map[string]func(*testing.T){
		"once": func(t *testing.T) {
			schedule(t, "once", now, data(t, `{"n": 1}`))
			a.await(t, "once", `{"n": 1}`)
			a.awaitGone(t, "once")
			schedule(t, "empty", client.WithJobDueTime(time.Now().Add(time.Second).Format(time.RFC3339)))
			a.await(t, "empty", "")
		},
		"typed": func(t *testing.T) {
			message, err := anypb.New(wrapperspb.String("text"))
			noError(t, err)
			schedule(t, "typed", now, client.WithJobData(message))
			a.await(t, "typed", string(message.Value))
		},
		"repeated": func(t *testing.T) {
			schedule(t, "repeated", client.WithJobSchedule("@every 300ms"), client.WithJobRepeats(3), data(t, "again"))
			a.awaitGone(t, "repeated")
			a.await(t, "repeated", "again", "again", "again")
		},
		"kept": func(t *testing.T) {
			job := client.NewJob("kept", client.WithJobSchedule("@hourly"), client.WithJobDueTime("1h"), client.WithJobTTL("10h"), client.WithJobRepeats(4), data(t, "data"),
				client.WithJobConstantFailurePolicyMaxRetries(5), client.WithJobConstantFailurePolicyInterval(3*time.Second))
			noError(t, a.c.ScheduleJobAlpha1(bounded(t), job))
			got, err := a.c.GetJob(bounded(t), "kept")
			noError(t, err)
			policy, ok := got.FailurePolicy.(*client.JobFailurePolicyConstant)
			if !ok || *policy.MaxRetries != 5 || *policy.Interval != 3*time.Second {
				t.Errorf("the failure policy is %+v", got.FailurePolicy)
			}
			if got.Name != "kept" || *got.Schedule != "@hourly" || *got.DueTime != "1h" || *got.TTL != "10h" || *got.Repeats != 4 || string(got.Data.GetValue()) != "data" {
				t.Errorf("the job is %s, schedule %s, due %s, TTL %s, %d times, with %s", got.Name, *got.Schedule, *got.DueTime, *got.TTL, *got.Repeats, got.Data)
			}
			other := client.NewJob("kept", client.WithJobSchedule("@daily"), client.WithJobDropFailurePolicy())
			wantStatus(t, a.c.ScheduleJob(bounded(t), other), codes.AlreadyExists, "job already exists", "DAPR_SCHEDULER_SCHEDULE_JOB")
			other.Overwrite = true
			noError(t, a.c.ScheduleJob(bounded(t), other))
			if got, err = a.c.GetJobAlpha1(bounded(t), "kept"); err != nil || *got.Schedule != "@daily" {
				t.Errorf("the job after it was overwritten is %+v, %v", got, err)
			} else if _, ok := got.FailurePolicy.(*client.JobFailurePolicyDrop); !ok {
				t.Errorf("the failure policy is %+v", got.FailurePolicy)
			}
			noError(t, a.c.DeleteJob(bounded(t), "kept"))
			a.awaitGone(t, "kept")
			noError(t, a.c.DeleteJobAlpha1(bounded(t), "kept")) // deleting nothing is fine
		},
		"deleted": func(t *testing.T) {
			schedule(t, "deleted", now, client.WithJobSchedule("@every 1h"), data(t, "again"))
			a.await(t, "deleted", "again")
			noError(t, a.c.DeleteJob(bounded(t), "deleted"))
			a.awaitGone(t, "deleted")
		},
		"failing": func(t *testing.T) {
			schedule(t, "failing-again", now, data(t, "x"), client.WithJobConstantFailurePolicyMaxRetries(3), client.WithJobConstantFailurePolicyInterval(50*time.Millisecond))
			schedule(t, "failing-dropped", now, data(t, "x"), client.WithJobDropFailurePolicy())
			a.await(t, "failing-again", "x", "x")
			a.awaitGone(t, "failing-again")
			a.awaitGone(t, "failing-dropped")
			a.await(t, "failing-dropped", "x")
		},
		"many": func(t *testing.T) {
			var scheduling sync.WaitGroup
			for i := range 50 {
				scheduling.Go(func() {
					if err := a.c.ScheduleJob(bounded(t), client.NewJob("unknown-"+strconv.Itoa(i), client.WithJobSchedule("@every 100ms"))); err != nil {
						t.Error(err)
					}
				})
			}
			scheduling.Wait()
			for i := range 50 {
				noError(t, a.c.DeleteJob(bounded(t), "unknown-"+strconv.Itoa(i)))
			}
		},
		"refused": func(t *testing.T) {
			wantStatus(t, a.c.ScheduleJob(bounded(t), client.NewJob("refused", client.WithJobSchedule("often"))), codes.InvalidArgument, "often", "DAPR_SCHEDULER_SCHEDULE_JOB")
			wantStatus(t, a.c.ScheduleJob(bounded(t), client.NewJob("refused")), codes.InvalidArgument, "Schedule is empty", "DAPR_SCHEDULER_SCHEDULE_EMPTY")
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(t)
		})
	}
}
