package actors

import (
	"errors"
	"strings"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/anypb"

	"outrigger.dev/api"
	commonv1 "outrigger.dev/api/gen/common/v1"
	runtimev1 "outrigger.dev/api/gen/runtime/v1"
	schedulerv1 "outrigger.dev/api/gen/scheduler/v1"
	"outrigger.dev/invocation"
)

func TestActorGRPCErrors(t *testing.T) {
	const (
		reserved  = `actor type "dapr.internal.x" is reserved for the Dapr workflow runtime; direct actor API access is not permitted`
		nonHosted = "operations on actor reminders are only possible on hosted actor types"
		disabled  = "scheduler clients are disabled"
		placement = "placement service is not configured"
		internal  = "dapr.internal.x"
	)
	type call func(t *testing.T, g ActorsServer) error
	invoke := func(actorType, id, method string) call {
		return func(t *testing.T, g ActorsServer) error {
			_, err := g.InvokeActor(t.Context(), &runtimev1.InvokeActorRequest{ActorType: actorType, ActorId: id, Method: method})
			return err
		}
	}
	state := func(actorType string) call {
		return func(t *testing.T, g ActorsServer) error {
			_, err := g.GetActorState(t.Context(), &runtimev1.GetActorStateRequest{ActorType: actorType, ActorId: "1", Key: "k"})
			return err
		}
	}
	transact := func(actorType, id string, operations ...*runtimev1.TransactionalActorStateOperation) call {
		return func(t *testing.T, g ActorsServer) error {
			_, err := g.ExecuteActorStateTransaction(t.Context(), &runtimev1.ExecuteActorStateTransactionRequest{ActorType: actorType, ActorId: id, Operations: operations})
			return err
		}
	}
	remind := func(actorType, name string) call {
		return func(t *testing.T, g ActorsServer) error {
			keep := false
			_, err := g.RegisterActorReminder(t.Context(), &runtimev1.RegisterActorReminderRequest{ActorType: actorType, ActorId: "1", Name: name, DueTime: "1s", Overwrite: &keep})
			return err
		}
	}
	getReminder := func(actorType string) call {
		return func(t *testing.T, g ActorsServer) error {
			_, err := g.GetActorReminder(t.Context(), &runtimev1.GetActorReminderRequest{ActorType: actorType, ActorId: "1", Name: "r"})
			return err
		}
	}
	unremind := func(actorType string) call {
		return func(t *testing.T, g ActorsServer) error {
			_, err := g.UnregisterActorReminder(t.Context(), &runtimev1.UnregisterActorReminderRequest{ActorType: actorType, ActorId: "1", Name: "r"})
			return err
		}
	}
	unremindAll := func(actorType string) call {
		return func(t *testing.T, g ActorsServer) error {
			_, err := g.UnregisterActorRemindersByType(t.Context(), &runtimev1.UnregisterActorRemindersByTypeRequest{ActorType: actorType})
			return err
		}
	}
	list := func(actorType string) call {
		return func(t *testing.T, g ActorsServer) error {
			_, err := g.ListActorReminders(t.Context(), &runtimev1.ListActorRemindersRequest{ActorType: actorType})
			return err
		}
	}
	timer := func(actorType, name, due string) call {
		return func(t *testing.T, g ActorsServer) error {
			_, err := g.RegisterActorTimer(t.Context(), &runtimev1.RegisterActorTimerRequest{ActorType: actorType, ActorId: "1", Name: name, DueTime: due})
			return err
		}
	}
	untimer := func(actorType string) call {
		return func(t *testing.T, g ActorsServer) error {
			_, err := g.UnregisterActorTimer(t.Context(), &runtimev1.UnregisterActorTimerRequest{ActorType: actorType, ActorId: "1", Name: "t"})
			return err
		}
	}
	ttl := &runtimev1.TransactionalActorStateOperation{OperationType: "upsert", Key: "k", Metadata: map[string]string{"ttlInSeconds": "1"}}
	for name, tc := range map[string]struct {
		prepare prepare
		call    call
		code    codes.Code
		message string
	}{
		"reserved: state":        {placementless, state(internal), codes.PermissionDenied, reserved},
		"reserved: transaction":  {placementless, transact(internal, "1"), codes.PermissionDenied, reserved},
		"reserved: reminder":     {placementless, remind(internal, ""), codes.PermissionDenied, reserved},
		"reserved: get reminder": {placementless, getReminder(internal), codes.PermissionDenied, reserved},
		"reserved: unregister":   {placementless, unremind(internal), codes.PermissionDenied, reserved},
		"reserved: by type":      {placementless, unremindAll(internal), codes.PermissionDenied, reserved},
		"reserved: list":         {placementless, list(internal), codes.PermissionDenied, reserved},
		"reserved: timer":        {placementless, timer(internal, "t", ""), codes.PermissionDenied, reserved},
		"reserved: delete timer": {placementless, untimer(internal), codes.PermissionDenied, reserved},

		"no placement: invoke":       {placementless, invoke("cart", "1", "m"), codes.Unavailable, placement},
		"no placement: state":        {placementless, state("cart"), codes.Unavailable, placement},
		"no placement: transaction":  {placementless, transact("cart", "1"), codes.Unavailable, placement},
		"no placement: reminder":     {placementless, remind("cart", "r"), codes.Unavailable, placement},
		"no placement: get reminder": {placementless, getReminder("cart"), codes.Unavailable, placement},
		"no placement: unregister":   {placementless, unremind("cart"), codes.Unavailable, placement},
		"no placement: by type":      {placementless, unremindAll("cart"), codes.Unavailable, placement},
		"no placement: list":         {placementless, list("cart"), codes.Unavailable, placement},
		"no placement: timer":        {placementless, timer("cart", "t", ""), codes.Unavailable, placement},
		"no placement: delete timer": {placementless, untimer("cart"), codes.Unavailable, placement},
		"closed":                     {shut, invoke("cart", "1", "m"), codes.Unavailable, "actor runtime is closed"},

		"bad type":            {nil, invoke("a/b", "1", "m"), codes.InvalidArgument, `invalid actorType: name contains forbidden character: "a/b"`},
		"bad id":              {nil, invoke("cart", "..", "m"), codes.InvalidArgument, "invalid actorId: "},
		"bad method":          {nil, invoke("cart", "1", "a?b"), codes.InvalidArgument, `invalid actor method: method contains forbidden character: "a?b"`},
		"empty reminder name": {placementless, remind("cart", ""), codes.InvalidArgument, "invalid request: reminder name cannot be empty"},
		"bad reminder name":   {placementless, remind("cart", "a#"), codes.InvalidArgument, `invalid request: name contains forbidden character: "a#"`},
		"bad timer name":      {placementless, timer("cart", "a#", ""), codes.InvalidArgument, `invalid request: name contains forbidden character: "a#"`},

		"invoke: app error":    {answers(errors.New("error from actor service: (500) no")), invoke("cart", "1", "m"), codes.Internal, "error invoke actor method: error from actor service: (500) no"},
		"invoke: no host":      {answers(noHost()), invoke("cart", "1", "m"), codes.FailedPrecondition, "failed to lookup actor: api error: code = FailedPrecondition desc = did not find address for actor 'cart/1'"},
		"invoke: remote":       {answers(status.Error(codes.Internal, "error invoke actor method: no")), invoke("cart", "1", "m"), codes.Internal, "error invoke actor method: no"},
		"invoke: stack":        {answers(api.ErrActorStackDepth()), invoke("cart", "1", "m"), codes.ResourceExhausted, "maximum stack depth exceeded"},
		"invoke: stack remote": {answers(status.Error(codes.ResourceExhausted, "maximum stack depth exceeded")), invoke("cart", "1", "m"), codes.ResourceExhausted, "maximum stack depth exceeded"},

		"state: no store":         {storeless, state("cart"), codes.Internal, "the state store is not configured to use the actor runtime."},
		"state: failed":           {brokenStore, state("cart"), codes.Internal, "error getting actor state: broken pipe"},
		"transaction: no store":   {storeless, transact("cart", "1"), codes.Internal, "the state store is not configured to use the actor runtime."},
		"transaction: failed":     {brokenStore, transact("cart", "1"), codes.Internal, "error saving actor transaction state: broken pipe"},
		"transaction: not active": {nil, transact("cart", "2"), codes.Internal, "actor instance is missing"},
		"transaction: operation":  {nil, transact("cart", "1", &runtimev1.TransactionalActorStateOperation{OperationType: "merge"}), codes.Unimplemented, "operation type merge not supported"},
		"transaction: no key":     {nil, transact("cart", "1", &runtimev1.TransactionalActorStateOperation{OperationType: "upsert"}), codes.Internal, "error saving actor transaction state: missing key"},
		"transaction: ttl":        {nil, transact("cart", "1", ttl), codes.Internal, `error saving actor transaction state: ttlInSeconds is not supported without the "ActorStateTTL" feature enabled`},

		"reminder: not hosted":     {nil, remind("other", "r"), codes.PermissionDenied, nonHosted},
		"get reminder: not hosted": {nil, getReminder("other"), codes.PermissionDenied, nonHosted},
		"unregister: not hosted":   {nil, unremind("other"), codes.PermissionDenied, nonHosted},
		"by type: not hosted":      {nil, unremindAll("other"), codes.PermissionDenied, nonHosted},
		"list: not hosted":         {nil, list("other"), codes.PermissionDenied, nonHosted},
		"reminder: exists": {func(t *testing.T, w *serviceWorld) {
			if err := w.service.options.Reminders.Create(t.Context(), ReminderRequest{Type: "cart", ID: "1", Name: "r", DueTime: "1s"}); err != nil {
				t.Fatal(err)
			}
		}, remind("cart", "r"), codes.AlreadyExists, "actor reminder already exists: r"},
		"reminder: failed":      {unscheduled, remind("cart", "r"), codes.Internal, "error creating actor reminder: " + disabled},
		"get reminder: failed":  {unscheduled, getReminder("cart"), codes.Internal, "error getting actor reminder: api error: code = Internal desc = failed to get job due to: " + disabled},
		"get reminder: missing": {nil, getReminder("cart"), codes.NotFound, "actor reminder not found: r"},
		"unregister: failed":    {unscheduled, unremind("cart"), codes.Internal, "error deleting actor reminder: " + disabled},
		"by type: failed":       {unscheduled, unremindAll("cart"), codes.Internal, "error deleting actor reminder: " + disabled},
		"list: failed":          {func(_ *testing.T, w *serviceWorld) { w.s.fail["List"] = status.Error(codes.ResourceExhausted, "full") }, list("cart"), codes.ResourceExhausted, "full"},
		"list: disabled":        {unscheduled, list("cart"), codes.Unknown, disabled},
		"timer: times":          {nil, timer("cart", "t", "soon"), codes.Internal, "error creating actor timer: error parsing timer due time: "},
		"timer: not hosted":     {nil, timer("other", "t", ""), codes.Internal, "error creating actor timer: can't create timer for actor other||1: actor type not registered"},

		"no streams": {nil, func(_ *testing.T, g ActorsServer) error { return g.SubscribeActorEventsAlpha1(nil) }, codes.Unimplemented, ""},
	} {
		t.Run(name, func(t *testing.T) {
			w := newServiceWorld(t)
			if tc.prepare != nil {
				tc.prepare(t, w)
			}
			err := tc.call(t, w.service.Server())
			s, _ := status.FromError(err)
			if s.Code() != tc.code || !strings.HasPrefix(s.Message(), tc.message) {
				t.Errorf("%s: %s", s.Code(), s.Message())
			}
			if unsupported := tc.code == codes.Unimplemented && tc.message != ""; (len(s.Details()) > 0) != unsupported {
				t.Errorf("details %v", s.Details())
			}
		})
	}
}

func TestActorGRPCInvoke(t *testing.T) {
	w := newServiceWorld(t)
	w.core.invoke = func(*Call) (*invocation.Response, error) {
		r := &invocation.Response{Status: 200, Body: []byte("out")}
		r.Header.Add(ErrorHeader, "true")
		return r, nil
	}
	got, err := w.service.Server().InvokeActor(t.Context(), &runtimev1.InvokeActorRequest{
		ActorType: "cart", ActorId: "1", Method: "/a/../b", Data: []byte("in"),
		Metadata: map[string]string{"Content-Type": "a/b", "Dapr-Reentrancy-Id": "chain", "dapr-caller-app-id": "evil", "Upgrade": "x", "k-bin": "x", "connection": "x-hop", "X-Hop": "1"},
	})
	if err != nil || string(got.GetData()) != "out" {
		t.Fatalf("%s, %v", got.GetData(), err)
	}
	call := w.core.invoked[0]
	header := ""
	for _, f := range call.Request.Header {
		header += string(f.Name) + "=" + string(f.Value) + " "
	}
	if call.Method != "b" || string(call.Request.Body) != "in" || call.Request.ContentType != "a/b" ||
		header != "Dapr-Reentrancy-Id=chain Dapr-API-Call=true dapr-caller-app-id=shop dapr-caller-namespace=ns " {
		t.Errorf("called %+v with %+v, header %s", call, call.Request, header)
	}
}

func TestActorGRPCState(t *testing.T) {
	w := newServiceWorld(t)
	g := w.service.Server()
	_, err := g.ExecuteActorStateTransaction(t.Context(), &runtimev1.ExecuteActorStateTransactionRequest{ActorType: "cart", ActorId: "1", Operations: []*runtimev1.TransactionalActorStateOperation{
		{OperationType: "upsert", Key: "raw", Value: &anypb.Any{TypeUrl: "any/thing", Value: []byte("\x00\xff")}},
		{OperationType: "upsert", Key: "gone", Value: &anypb.Any{Value: []byte("1")}},
		{OperationType: "delete", Key: "gone"},
	}})
	if err != nil {
		t.Fatal(err)
	}
	for key, want := range map[string]string{"raw": "\x00\xff", "gone": ""} {
		got, err := g.GetActorState(t.Context(), &runtimev1.GetActorStateRequest{ActorType: "cart", ActorId: "1", Key: key})
		if err != nil || string(got.GetData()) != want {
			t.Errorf("%s: %q, %v", key, got.GetData(), err)
		}
	}
}

func TestActorGRPCReminders(t *testing.T) {
	w := newServiceWorld(t)
	g, ctx := w.service.Server(), t.Context()
	drop := &commonv1.JobFailurePolicy{Policy: &commonv1.JobFailurePolicy_Drop{Drop: &commonv1.JobFailurePolicyDrop{}}}
	for range 2 { // replacing is the default
		if _, err := g.RegisterActorReminder(ctx, &runtimev1.RegisterActorReminderRequest{
			ActorType: "cart", ActorId: "1", Name: "r", DueTime: "1s", Period: "PT1M", Ttl: "2030-01-01T00:00:00Z", Data: []byte("mydata"), FailurePolicy: drop,
		}); err != nil {
			t.Fatal(err)
		}
	}
	same(t, "job", w.s.job(t, "actorreminder||ns||cart||1||r"), &schedulerv1.Job{
		DueTime: text("1s"), Schedule: text("@every 1m0s"), Ttl: text("2030-01-01T00:00:00Z"), Data: jsonData([]byte(`"bXlkYXRh"`)), FailurePolicy: drop,
	})
	got, err := g.GetActorReminder(ctx, &runtimev1.GetActorReminderRequest{ActorType: "cart", ActorId: "1", Name: "r"})
	if err != nil {
		t.Fatal(err)
	}
	same(t, "reminder", got, &runtimev1.GetActorReminderResponse{
		ActorType: "cart", ActorId: "1", DueTime: text("1s"), Period: text("@every 1m0s"), Ttl: text("2030-01-01T00:00:00Z"), Data: jsonData([]byte(`"bXlkYXRh"`)),
	})
	list, err := g.ListActorReminders(ctx, &runtimev1.ListActorRemindersRequest{ActorType: "cart", ActorId: text("1")})
	if err != nil {
		t.Fatal(err)
	}
	same(t, "list", list, &runtimev1.ListActorRemindersResponse{Reminders: []*runtimev1.NamedActorReminder{{Name: "r", Reminder: &runtimev1.ActorReminder{
		ActorType: "cart", ActorId: "1", DueTime: text("1s"), Period: text("@every 1m0s"), Data: jsonData([]byte(`"bXlkYXRh"`)),
	}}}})
	if _, err := g.UnregisterActorReminder(ctx, &runtimev1.UnregisterActorReminderRequest{ActorType: "cart", ActorId: "1", Name: "never"}); err != nil || len(w.s.all()) != 1 {
		t.Errorf("%q, %v", w.s.all(), err)
	}
	if _, err := g.UnregisterActorRemindersByType(ctx, &runtimev1.UnregisterActorRemindersByTypeRequest{ActorType: "cart", ActorId: text("1")}); err != nil || len(w.s.all()) != 0 {
		t.Errorf("%q, %v", w.s.all(), err)
	}
}

func TestActorGRPCTimers(t *testing.T) {
	w := newServiceWorld(t)
	g := w.service.Server()
	for _, name := range []string{"t", ""} {
		if _, err := g.RegisterActorTimer(t.Context(), &runtimev1.RegisterActorTimerRequest{
			ActorType: "cart", ActorId: "1", Name: name, DueTime: "1h", Callback: "back", Data: []byte("mydata"),
		}); err != nil {
			t.Fatal(err)
		}
		set := w.timers.actors[actorKey{"cart", "1"}].byName[name]
		same(t, "data", set.Data, jsonData([]byte(`"bXlkYXRh"`)))
		if set.Callback != "back" {
			t.Errorf("set %+v", set.Timer)
		}
		for range 2 {
			if _, err := g.UnregisterActorTimer(t.Context(), &runtimev1.UnregisterActorTimerRequest{ActorType: "cart", ActorId: "1", Name: name}); err != nil || len(w.timers.actors) != 0 {
				t.Errorf("%d timers are left, %v", len(w.timers.actors), err)
			}
		}
	}
}

type streamsFake struct{ served error }

func (s streamsFake) SubscribeActorEventsAlpha1(grpc.BidiStreamingServer[runtimev1.SubscribeActorEventsRequestAlpha1, runtimev1.SubscribeActorEventsResponseAlpha1]) error {
	return s.served
}

func TestActorGRPCStreams(t *testing.T) {
	w := newServiceWorld(t)
	served := errors.New("served")
	w.service.options.Streams = streamsFake{served}
	if err := w.service.Server().SubscribeActorEventsAlpha1(nil); !errors.Is(err, served) {
		t.Errorf("got %v", err)
	}
}
