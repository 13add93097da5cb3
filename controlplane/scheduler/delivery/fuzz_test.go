package delivery

import (
	"context"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	schedulerv1 "outrigger.dev/api/gen/scheduler/v1"
)

// FuzzWatchMessages feeds a stream with messages, each with its length before it. Between any two of them two tasks are delivered and what can
// be sent is sent. No task may finish twice, gates must be even in the end, and errors are those of the protocol.
func FuzzWatchMessages(f *testing.F) {
	join := func(messages ...*schedulerv1.WatchJobsRequest) (text []byte) {
		for _, m := range messages {
			b, err := proto.Marshal(m)
			if err != nil {
				f.Fatal(err)
			}
			text = protowire.AppendBytes(text, b)
		}
		return text
	}
	first := func(i *schedulerv1.WatchJobsRequestInitial, limits ...*schedulerv1.ConcurrencyLimit) *schedulerv1.WatchJobsRequest {
		i.ConcurrencyLimits = limits
		return &schedulerv1.WatchJobsRequest{WatchJobRequestType: &schedulerv1.WatchJobsRequest_Initial{Initial: i}}
	}
	f.Add(join(first(initial("app", "T"), limit("T", "", 2), limit("T", "k", 1)), answer(2, success), answer(1, failed), answer(9, success)))
	f.Add(join(first(initial("app")), answer(1, success), answer(1, success)))
	f.Add(join(first(initial("app", "T")), first(initial("app"))))
	f.Add(join(answer(1, success)))
	f.Add([]byte{1, 0xff})
	f.Fuzz(func(t *testing.T, text []byte) {
		b := newBed(t)
		ended, cancel := context.WithCancel(context.Background())
		cancel()
		var s *Stream
		delivered, key := 0, ""
		for len(text) > 0 {
			part, n := protowire.ConsumeBytes(text)
			if n < 0 {
				break
			}
			text = text[n:]
			m := new(schedulerv1.WatchJobsRequest)
			if proto.Unmarshal(part, m) != nil {
				break
			}
			var err error
			if s == nil {
				i := m.GetInitial()
				if i == nil {
					break
				}
				i.Namespace = "ns"
				s, err = b.Open(i)
			} else {
				err = s.Receive(m)
			}
			if err != nil {
				if status.Code(err) != codes.InvalidArgument {
					t.Fatalf("error %v", err)
				}
				break
			}
			b.job("app", "job")
			b.reminder("T", "reminder", key)
			delivered += 2
			key = "k"
			for range 3 {
				if _, err := s.Next(ended); err != nil {
					break
				}
			}
		}
		if s != nil {
			s.Close()
		}
		if len(b.results.told) > delivered {
			t.Errorf("%d tasks finished, %d were delivered", len(b.results.told), delivered)
		}
		staged := 0
		for _, r := range b.routes {
			staged += r.waiting.length
		}
		if staged+len(b.results.told) != delivered {
			t.Errorf("%d tasks finished and %d are staged, of %d", len(b.results.told), staged, delivered)
		}
		for key, n := range b.counts.inflight {
			if n != 0 || b.counts.pending[key] != 0 {
				t.Errorf("gate %q: %+v", key, b.counts)
			}
		}
		if len(b.gates) > 0 || b.counts.streams != 0 {
			t.Errorf("%d gates, %d streams without a stream", len(b.gates), b.counts.streams)
		}
	})
}
