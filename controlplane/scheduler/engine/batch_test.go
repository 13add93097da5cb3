package engine

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc/codes"
)

// item is what tests put into batches.
type item string

func (i item) batchKey() (string, int) { return string(i), len(i) }

// TestStuckFlushersAreReplaced has as many flushes hang as there are flushers: what comes then is flushed all the same.
func TestStuckFlushersAreReplaced(t *testing.T) {
	release, flushed := make(chan struct{}), make(chan item, 100)
	b := newBatcher(2, 1, func(_ context.Context, items []item) {
		for _, i := range items {
			if strings.HasPrefix(string(i), "hangs") {
				<-release
			}
			flushed <- i
		}
	})
	b.stuck = 10 * time.Millisecond
	expect := func(want item) {
		t.Helper()
		select {
		case got := <-flushed:
			if got != want {
				t.Errorf("flushed %q, want %q", got, want)
			}
		case <-time.After(patience):
			t.Fatalf("%q is not flushed while others hang", want)
		}
	}
	for n := range 2 {
		b.add(item(fmt.Sprint("hangs-", n)))
	}
	b.add("one")
	expect("one")
	for n := 2; n < mostStuck; n++ {
		b.add(item(fmt.Sprint("hangs-", n)))
	}
	b.add("two")
	expect("two")
	b.mu.Lock()
	if b.slow > mostStuck || b.active-b.slow > b.most {
		t.Errorf("%d flushers, %d of them stuck", b.active, b.slow)
	}
	b.mu.Unlock()
	close(release)
	b.wait()
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(flushed) != mostStuck || b.active != 0 || b.slow != 0 || len(b.queue) != 0 {
		t.Errorf("%d flushed; %d flushers, %d of them stuck, %d items are left", len(flushed), b.active, b.slow, len(b.queue))
	}
}

// TestBatcherWaitsWhileItemsCome has clients write while the engine waits for the end of writes, as at a shutdown.
func TestBatcherWaitsWhileItemsCome(t *testing.T) {
	var flushed atomic.Int64
	b := newBatcher(4, 2, func(_ context.Context, items []item) { flushed.Add(int64(len(items))) })
	var clients sync.WaitGroup
	const each = 500
	for c := range 8 {
		clients.Go(func() {
			for n := range each {
				b.add(item(fmt.Sprint(c, "-", n)))
				b.wait()
			}
		})
	}
	clients.Wait()
	b.wait()
	if flushed.Load() != 8*each {
		t.Errorf("%d of %d flushed", flushed.Load(), 8*each)
	}
}

// TestFlushesAreBoundedByHowLongTheyTake has etcd answer in time, not at all for a while, and in time again.
func TestFlushesAreBoundedByHowLongTheyTake(t *testing.T) {
	bounds, answer := make(chan time.Duration, 1), make(chan bool, 1)
	b := newBatcher(1, 1, func(ctx context.Context, _ []item) {
		deadline, _ := ctx.Deadline()
		bounds <- time.Until(deadline)
		if !<-answer {
			<-ctx.Done()
		}
	})
	const unit = 500 * time.Millisecond
	b.first, b.last, b.bound = unit, 3*unit, unit
	for n, tt := range []struct {
		most   time.Duration
		answer bool
	}{{unit, true}, {unit, false}, {2 * unit, false}, {3 * unit, true}, {unit, true}} {
		b.add(item(fmt.Sprint(n)))
		if got := <-bounds; got > tt.most || got < tt.most-unit {
			t.Errorf("%d: bound %s, want %s", n, got, tt.most)
		}
		answer <- tt.answer
		b.wait()
	}
}

// TestUnansweredChangesMayBeTriedAgain has the error of a change that came too late be one that callers know to repeat.
func TestUnansweredChangesMayBeTriedAgain(t *testing.T) {
	var coded interface{ Code() codes.Code }
	if err := unanswered(fmt.Errorf("x: %w", context.DeadlineExceeded)); !errors.As(err, &coded) || coded.Code() != codes.Unavailable {
		t.Error(err)
	}
	if err := unanswered(rpctypes.ErrNoSpace); !errors.Is(err, rpctypes.ErrNoSpace) {
		t.Error(err)
	}
}

func TestFailedSaysWhatIsKnown(t *testing.T) {
	for _, tt := range []struct {
		err  error
		want string
	}{
		{context.DeadlineExceeded, "may have been stored or not"},
		{fmt.Errorf("x: %w", context.Canceled), "may have been stored or not"},
		{rpctypes.ErrTimeoutDueToLeaderFail, "may have been stored or not"},
		{rpctypes.ErrNoSpace, "could not be stored"},
		{errors.New("else"), "could not be stored"},
	} {
		if got := failed("stored", tt.err); !strings.HasPrefix(got, tt.want) {
			t.Errorf("%v: %q, want %q", tt.err, got, tt.want)
		}
	}
}

// TestRewriteAfterTheClockWasSetBack has what could not be written be tried again, although the time for that is now far away.
func TestRewriteAfterTheClockWasSetBack(t *testing.T) {
	e, err := New(Options{Client: new(clientv3.Client), ID: "one", Deliver: newRecorder(nil)})
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	for _, tt := range []struct {
		in     time.Duration
		writes int
	}{{-time.Second, 1}, {again / 2, 0}, {again, 0}, {time.Hour, 1}} {
		l := newLoop(e)
		j := &job{name: "a"}
		l.jobs[j.name], l.failed, l.failedAt = j, []*job{j}, now.Add(tt.in)
		if l.rewrite(now); len(l.writes) != tt.writes {
			t.Errorf("in %s: %d writes, want %d", tt.in, len(l.writes), tt.writes)
		}
	}
}
