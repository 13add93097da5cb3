package actors

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"

	"outrigger.dev/api"
	commonv1 "outrigger.dev/api/gen/common/v1"
	schedulerv1 "outrigger.dev/api/gen/scheduler/v1"
	"outrigger.dev/invocation"
)

func newReminders(core *coreFake, s *schedulerFake) *Reminders {
	return NewReminders(RemindersOptions{AppID: "shop", Namespace: "ns", Core: core, Scheduler: s})
}

func text(s string) *string { return &s }

func number(n uint32) *uint32 { return &n }

func TestReminderJobs(t *testing.T) {
	policy := &commonv1.JobFailurePolicy{Policy: &commonv1.JobFailurePolicy_Constant{Constant: &commonv1.JobFailurePolicyConstant{Interval: durationpb.New(time.Second)}}}
	for name, tc := range map[string]struct {
		req  ReminderRequest
		want *schedulerv1.Job
	}{
		"once":        {ReminderRequest{DueTime: "10s"}, &schedulerv1.Job{DueTime: text("10s")}},
		"iso":         {ReminderRequest{Period: "PT1M"}, &schedulerv1.Job{Schedule: text("@every 1m0s")}},
		"repeats":     {ReminderRequest{Period: "R5/PT1S", DueTime: "2030-01-01T00:00:00Z", TTL: "1h"}, &schedulerv1.Job{Schedule: text("@every 1s"), Repeats: number(5), DueTime: text("2030-01-01T00:00:00Z"), Ttl: text("1h")}},
		"unlimited":   {ReminderRequest{Period: "R0/PT1S"}, &schedulerv1.Job{Schedule: text("@every 1s")}},
		"no end":      {ReminderRequest{Period: "R-1/PT1S"}, &schedulerv1.Job{Schedule: text("@every 1s")}},
		"not judged":  {ReminderRequest{DueTime: "soon", TTL: "late"}, &schedulerv1.Job{DueTime: text("soon"), Ttl: text("late")}},
		"policy":      {ReminderRequest{DueTime: "1s", FailurePolicy: policy}, &schedulerv1.Job{DueTime: text("1s"), FailurePolicy: policy}},
		"data":        {ReminderRequest{DueTime: "1s", Data: jsonData([]byte("null"))}, &schedulerv1.Job{DueTime: text("1s"), Data: jsonData([]byte("null"))}},
		"nothing set": {ReminderRequest{}, &schedulerv1.Job{}},
	} {
		t.Run(name, func(t *testing.T) {
			s := newScheduler()
			tc.req.Type, tc.req.ID, tc.req.Name = "cart", "1", "r"
			if err := newReminders(newCore(), s).Create(t.Context(), tc.req); err != nil {
				t.Fatal(err)
			}
			same(t, "job", s.job(t, "actorreminder||ns||cart||1||r"), tc.want)
			m := s.jobs["actorreminder||ns||cart||1||r"].GetMetadata()
			if m.GetAppId() != "shop" || m.GetNamespace() != "ns" {
				t.Errorf("metadata %v", m)
			}
		})
	}
}

func TestReminderErrors(t *testing.T) {
	ctx := t.Context()
	core, s := newCore(), newScheduler()
	r := newReminders(core, s)
	create := func(change func(*ReminderRequest)) error {
		req := ReminderRequest{Type: "cart", ID: "1", Name: "r", DueTime: "1s"}
		change(&req)
		return r.Create(ctx, req)
	}
	get := func(actorType, name string) error {
		_, err := r.Get(ctx, actorType, "1", name)
		return err
	}
	list := func(actorType string) error {
		_, err := r.List(ctx, actorType, "")
		return err
	}
	nonHosted := "ERR_ACTOR_REMINDER_NON_HOSTED: operations on actor reminders are only possible on hosted actor types"
	check := func(what string, err error, want string) {
		t.Helper()
		if got := code(err); got != want {
			t.Errorf("%s: %q, want %q", what, got, want)
		}
	}
	other := func(req *ReminderRequest) { req.Type = "other" }
	keep := func(req *ReminderRequest) { req.Keep = true }
	check("create, not hosted", create(other), nonHosted)
	check("get, not hosted", get("other", "r"), nonHosted)
	check("delete, not hosted", r.Delete(ctx, "other", "1", "r"), nonHosted)
	check("delete all, not hosted", r.DeleteByType(ctx, "other", ""), nonHosted)
	check("list, not hosted", list("other"), nonHosted)
	check("get, missing", get("cart", "r"), "ERR_ACTOR_REMINDER_NOT_FOUND: actor reminder not found: r")
	check("delete, missing", r.Delete(ctx, "cart", "1", "r"), "")
	check("create", create(keep), "")
	check("create again", create(keep), "ERR_ACTOR_REMINDER_ALREADY_EXISTS: actor reminder already exists: r")
	check("overwrite", create(func(*ReminderRequest) {}), "")
	check("period", create(func(req *ReminderRequest) { req.Period = "P1D" }), "ERR_ACTOR_REMINDER_CREATE: error creating actor reminder: unsupported period format: P1D")
	disabled := errors.New("scheduler clients are disabled")
	for _, method := range []string{"Schedule", "Get", "Delete", "List", "DeleteByMetadata"} {
		s.fail[method] = disabled
	}
	check("create, disabled", create(keep), "ERR_ACTOR_REMINDER_CREATE: error creating actor reminder: scheduler clients are disabled")
	check("get, disabled", get("cart", "r"), "ERR_ACTOR_REMINDER_GET: error getting actor reminder: api error: code = Internal desc = failed to get job due to: scheduler clients are disabled")
	check("delete, disabled", r.Delete(ctx, "cart", "1", "r"), "ERR_ACTOR_REMINDER_DELETE: error deleting actor reminder: scheduler clients are disabled")
	check("delete all, disabled", r.DeleteByType(ctx, "cart", ""), "ERR_ACTOR_REMINDER_DELETE: error deleting actor reminder: scheduler clients are disabled")
	s.fail["List"] = status.Error(codes.Unavailable, "no leader")
	if err := list("cart"); status.Code(err) != codes.Unavailable || status.Convert(err).Message() != "no leader" {
		t.Errorf("list: %v", err)
	}
}

func TestRemindersOfTypes(t *testing.T) {
	core, s := newCore(), newScheduler()
	core.hosted["cartItem"] = true
	r := newReminders(core, s)
	for _, name := range []string{"cart/1/b", "cart/1/a", "cart/12/a", "cartItem/1/a"} {
		p := strings.Split(name, "/")
		if err := r.Create(t.Context(), ReminderRequest{Type: p[0], ID: p[1], Name: p[2], DueTime: "1s", TTL: "2030-01-01T00:00:00Z"}); err != nil {
			t.Fatal(err)
		}
	}
	names := func(actorType, id string) string {
		list, err := r.List(t.Context(), actorType, id)
		if err != nil {
			t.Fatal(err)
		}
		out := ""
		for _, x := range list {
			out += fmt.Sprintf("%s/%s/%s ", x.Type, x.ID, x.Name)
			if x.TTL != nil || x.DueTime == nil || x.Period != nil {
				t.Errorf("listed %+v", x)
			}
		}
		return out
	}
	for _, tc := range [][3]string{{"cart", "", "cart/12/a cart/1/a cart/1/b "}, {"cart", "1", "cart/1/a cart/1/b "}, {"cart", "3", ""}, {"cartItem", "", "cartItem/1/a "}} {
		if got := names(tc[0], tc[1]); got != tc[2] {
			t.Errorf("%s %s: %q, want %q", tc[0], tc[1], got, tc[2])
		}
	}
	if err := r.DeleteByType(t.Context(), "cart", "1"); err != nil || names("cart", "") != "cart/12/a " {
		t.Errorf("deleting those of one actor: %q, %v", s.all(), err)
	}
	if err := r.DeleteByType(t.Context(), "cart", ""); err != nil || names("cart", "") != "" || names("cartItem", "") != "cartItem/1/a " {
		t.Errorf("deleting those of a type: %q, %v", s.all(), err)
	}
}

func TestReminderTrigger(t *testing.T) {
	job := &schedulerv1.WatchJobsResponse{Name: "r", Data: jsonData([]byte("1")), Metadata: newReminders(newCore(), nil).metadata("cart", "1")}
	const ok, failed = schedulerv1.WatchJobsRequestResultStatus_SUCCESS, schedulerv1.WatchJobsRequestResultStatus_FAILED
	for name, tc := range map[string]struct {
		err, await error
		want       schedulerv1.WatchJobsRequestResultStatus
	}{
		"taken":                {nil, nil, ok},
		"cancelled":            {fmt.Errorf("turn: %w", ErrReminderCanceled), nil, ok},
		"cancelled, elsewhere": {status.Error(codes.Unknown, ErrReminderCanceled.Error()), nil, ok},
		"failed":               {errors.New("error from actor service: (404) "), nil, failed},
		"no host":              {api.ErrActorInvoke(api.ErrActorNoAddress("cart", "1")), nil, failed},
		"disabled":             {nil, api.ErrActorNoPlacement(), failed},
	} {
		t.Run(name, func(t *testing.T) {
			core := newCore()
			core.await = tc.await
			core.remind = func(_ context.Context, r *Reminder) error {
				if r.Type != "cart" || r.ID != "1" || r.Name != "r" || r.Data != job.Data || r.Timer || r.DueTime != "" || r.Period != "" {
					t.Errorf("got %+v", r)
				}
				return tc.err
			}
			if got := newReminders(core, newScheduler()).Trigger(t.Context(), job); got != tc.want {
				t.Errorf("got %s", got)
			}
		})
	}
}

// hostFake is a host that answers reminders.
type hostFake struct{ remind func(*Reminder) error }

func (h hostFake) Invoke(context.Context, *Call) (*invocation.Response, error) { return nil, nil }
func (h hostFake) Remind(_ context.Context, r *Reminder) error                 { return h.remind(r) }
func (h hostFake) Deactivate(context.Context, string, string) error            { return nil }

func TestReminderCancelled(t *testing.T) {
	for name, tc := range map[string]struct {
		answer error
		timer  bool
		anew   bool // the actor registers it during its turn
		fail   error
		stays  bool
	}{
		"taken":             {stays: true},
		"failed":            {answer: errors.New("no"), stays: true},
		"cancelled":         {answer: ErrReminderCanceled},
		"a timer":           {answer: ErrReminderCanceled, timer: true, stays: true},
		"registered anew":   {answer: ErrReminderCanceled, anew: true, stays: true},
		"no scheduler":      {answer: ErrReminderCanceled, fail: errors.New("unreachable"), stays: true},
		"anew, not refused": {anew: true, stays: true},
	} {
		t.Run(name, func(t *testing.T) {
			s := newScheduler()
			r := newReminders(newCore(), s)
			req := ReminderRequest{Type: "cart", ID: "1", Name: "r", Period: "1h"}
			other := ReminderRequest{Type: "cart", ID: "1", Name: "other", Period: "1h"}
			for _, q := range []ReminderRequest{req, other} {
				if err := r.Create(t.Context(), q); err != nil {
					t.Fatal(err)
				}
			}
			s.fail["Delete"] = tc.fail
			host := r.Host(hostFake{func(*Reminder) error {
				if tc.anew {
					if err := r.Create(t.Context(), req); err != nil {
						t.Fatal(err)
					}
				}
				return tc.answer
			}})
			gone, cancel := context.WithCancel(t.Context())
			cancel() // a turn that is over does not keep the reminder
			err := host.Remind(gone, &Reminder{Type: "cart", ID: "1", Name: "r", Timer: tc.timer})
			if !errors.Is(err, tc.answer) {
				t.Errorf("the answer became %v", err)
			}
			want := "actorreminder||ns||cart||1||other"
			if tc.stays {
				want += " actorreminder||ns||cart||1||r"
			}
			if got := strings.Join(s.all(), " "); got != want {
				t.Errorf("left are %q, want %q", got, want)
			}
			if len(r.turns) != 0 {
				t.Error("turns are noted for ever")
			}
		})
	}
}

func TestReminderRead(t *testing.T) {
	for name, tc := range map[string]struct {
		job  *schedulerv1.Job
		json string
	}{
		"all": {
			&schedulerv1.Job{Schedule: text("@every 1s"), DueTime: text("10s"), Ttl: text("2030-01-01T00:00:00.5Z"), Data: jsonData([]byte(`{"a":"<"}`))},
			`{"actorID":"1","actorType":"cart","data":{"a":"\u003c"},"dueTime":"10s","period":"@every 1s","ttl":"2030-01-01T00:00:00.5Z"}`,
		},
		"least":         {&schedulerv1.Job{DueTime: text("10s"), Schedule: text("")}, `{"actorID":"1","actorType":"cart","dueTime":"10s"}`},
		"relative ttl":  {&schedulerv1.Job{Schedule: text("@every 1s"), Ttl: text("1h")}, `{"actorID":"1","actorType":"cart","period":"@every 1s"}`},
		"base64 data":   {&schedulerv1.Job{DueTime: text("1s"), Data: rawData([]byte("mydata"))}, `{"actorID":"1","actorType":"cart","data":"bXlkYXRh","dueTime":"1s"}`},
		"null data":     {&schedulerv1.Job{DueTime: text("1s"), Data: jsonData([]byte("null"))}, `{"actorID":"1","actorType":"cart","data":null,"dueTime":"1s"}`},
		"no bytes data": {&schedulerv1.Job{DueTime: text("1s"), Data: rawData(nil)}, `{"actorID":"1","actorType":"cart","dueTime":"1s"}`},
	} {
		t.Run(name, func(t *testing.T) {
			s := newScheduler()
			r := newReminders(newCore(), s)
			m := r.metadata("cart", "1")
			s.jobs[fullName("r", m)] = &schedulerv1.NamedJob{Name: "r", Metadata: m, Job: tc.job}
			got, err := r.Get(t.Context(), "cart", "1", "r")
			if err != nil {
				t.Fatal(err)
			}
			if text, err := got.appendJSON(nil); err != nil || string(text) != tc.json {
				t.Errorf("got %s, %v\nwant %s", text, err, tc.json)
			}
		})
	}
}
