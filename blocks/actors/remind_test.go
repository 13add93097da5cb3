package actors

import (
	"context"
	"errors"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	internalsv1 "outrigger.dev/api/gen/internals/v1"
	"outrigger.dev/mesh"
)

func TestLocalReminder(t *testing.T) {
	for _, timer := range []bool{false, true} {
		b := newBench(t)
		var seen Reminder
		b.host.remind = func(ctx context.Context, r *Reminder) error {
			seen = *r
			if r.Type == "R" {
				// What the actor does in its turn may come back to it.
				if o := b.call(ctx, "R", "1", "inner", ReentrancyHeader, r.ReentrancyID); o.err != nil {
					return o.err
				}
			}
			return nil
		}
		if err := b.Remind(context.Background(), &Reminder{Type: "T", ID: "1", Name: "n", Timer: timer, Callback: "c", ReentrancyID: "stale"}); err != nil {
			t.Error(err)
		}
		if seen.ReentrancyID != "" || seen.Callback != "c" || seen.Timer != timer || b.instance("T", "1") == nil {
			t.Errorf("the host saw %+v", &seen)
		}
		done := make(chan error, 1)
		go func() { done <- b.Remind(context.Background(), &Reminder{Type: "R", ID: "1", Name: "n", Timer: timer}) }()
		if err := receive(t, "the end of the reentrant turn", done); err != nil || len(seen.ReentrancyID) != 36 {
			t.Errorf("%v, id %q", err, seen.ReentrancyID)
		}
	}
}

func TestReminderTakesItsTurn(t *testing.T) {
	b := newBench(t)
	block := newBlocking()
	b.host.invoke = block.invoke
	running := b.start(context.Background(), "T", "1", "block")
	receive(t, "the turn", block.began)
	done := make(chan error, 1)
	go func() { done <- b.Remind(context.Background(), &Reminder{Type: "T", ID: "1", Name: "n"}) }()
	eventually(t, "the reminder waits", func() bool { return b.waiting("T", "1") == 1 })
	if err := b.Remind(context.Background(), &Reminder{Type: "T", ID: "1", Name: "unlocked", SkipLock: true}); err != nil || !b.host.has("remind:1/unlocked") {
		t.Errorf("one without the lock: %v", err)
	}
	nothing(t, "the end of the reminder", done)
	close(block.let)
	if err := receive(t, "the end of the reminder", done); err != nil {
		t.Error(err)
	}
	receive(t, "the result", running)
	if err := b.Remind(context.Background(), &Reminder{Type: "T", ID: "2", Name: "unlocked", SkipLock: true}); err != nil || b.instance("T", "2") != nil {
		t.Errorf("one without the lock: %v, or an instance was made", err)
	}
}

func TestRemindersCanceled(t *testing.T) {
	b := newBench(t)
	b.host.remind = func(context.Context, *Reminder) error { return ErrReminderCanceled }
	if err := b.Remind(context.Background(), &Reminder{Type: "T", ID: "1", Name: "n"}); !errors.Is(err, ErrReminderCanceled) {
		t.Errorf("got %v", err)
	}
	if err := b.CallActorReminder(context.Background(), &internalsv1.Reminder{ActorType: "T", ActorId: "1"}); err == nil || err.Error() != "reminder has been canceled" {
		t.Errorf("got %v", err)
	}
	remoteAt(b, "2")
	b.peers.remind = func(context.Context, mesh.Target, *internalsv1.Reminder) error {
		return status.Error(codes.Unknown, "reminder has been canceled")
	}
	if err := b.Remind(context.Background(), &Reminder{Type: "T", ID: "2", Name: "n"}); !errors.Is(err, ErrReminderCanceled) {
		t.Errorf("got %v", err)
	}
}

func TestRemoteReminder(t *testing.T) {
	data, err := anypb.New(wrapperspb.Bytes([]byte(`"x"`)))
	if err != nil {
		t.Fatal(err)
	}
	b := newBench(t, builtIn)
	remoteAt(b, "1")
	answers := []error{status.Error(codes.Unavailable, "x"), status.Error(codes.Unknown, "remote actor moved"), nil}
	var sent *internalsv1.Reminder
	b.peers.remind = func(_ context.Context, target mesh.Target, r *internalsv1.Reminder) error {
		if target != (mesh.Target{Address: "10.0.0.2:50002", AppID: "other", Namespace: "ns"}) {
			t.Errorf("target %+v", target)
		}
		sent = r
		next := answers[0]
		answers = answers[1:]
		return next
	}
	done := make(chan error, 1)
	go func() {
		done <- b.Remind(context.Background(), &Reminder{Type: "T", ID: "1", Name: "n", Data: data, DueTime: "1s", Period: "2s", Timer: true, SkipLock: true})
	}()
	err = errors.New("not set")
	if took := b.pass(100*time.Millisecond, "the end", got(done, &err)); err != nil || took < 2*time.Second {
		t.Errorf("%v after %v", err, took)
	}
	want := &internalsv1.Reminder{ActorType: "T", ActorId: "1", Name: "n", Data: data, DueTime: "1s", Period: "2s", IsTimer: true, SkipLock: true}
	if !proto.Equal(sent, want) {
		t.Errorf("sent %v", sent)
	}
	// It arrives as it was.
	var seen Reminder
	b.host.remind = func(_ context.Context, r *Reminder) error {
		seen = *r
		return nil
	}
	sent.ActorId = "here"
	if err := b.CallActorReminder(context.Background(), sent); err != nil {
		t.Error(err)
	}
	if seen.Type != "T" || seen.ID != "here" || seen.Name != "n" || !proto.Equal(seen.Data, data) || seen.DueTime != "1s" || seen.Period != "2s" || !seen.Timer || !seen.SkipLock {
		t.Errorf("the host saw %+v", &seen)
	}
	sent.ActorId = "1"
	for _, skip := range []bool{false, true} {
		sent.SkipLock = skip
		if err := b.CallActorReminder(context.Background(), sent); err == nil || err.Error() != "remote actor moved" {
			t.Errorf("got %v", err)
		}
	}
}

func TestReminderOfNoHost(t *testing.T) {
	b := newBench(t)
	for _, skip := range []bool{false, true} {
		b.SetStore(false)
		err := b.Remind(context.Background(), &Reminder{Type: "T", ID: "1", Name: "n", SkipLock: skip})
		if err == nil || err.Error() != "failed to lookup actor: api error: code = FailedPrecondition desc = did not find address for actor 'T/1'" {
			t.Errorf("got %v", err)
		}
	}
}
