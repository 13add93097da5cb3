package engine

import (
	"fmt"
	"testing"
	"time"

	"github.com/jonboulle/clockwork"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/protobuf/proto"

	"outrigger.dev/controlplane/scheduler/etcdtest"
	"outrigger.dev/controlplane/scheduler/record"
)

var noon = time.Date(2030, 6, 1, 12, 0, 0, 0, time.UTC)

// advance moves the clock in steps until f has no complaint, at most by the total.
func advance(t *testing.T, clock *clockwork.FakeClock, step, total time.Duration, f func() error) {
	t.Helper()
	for moved := time.Duration(0); ; moved += step {
		var err error
		for range 3 {
			if err = f(); err == nil {
				return
			}
			time.Sleep(time.Millisecond)
		}
		if moved >= total {
			t.Fatalf("not within %s of the clock: %v", total, err)
		}
		clock.Advance(step)
	}
}

// count complains unless there were n triggers.
func (r *recorder) count(name string, n int) func() error {
	return func() error {
		if got := len(r.triggers(name)); got != n {
			return fmt.Errorf("%d triggers of %q, not %d", got, name, n)
		}
		return nil
	}
}

func planned(list []*Trigger) []string {
	var out []string
	for _, t := range list {
		out = append(out, fmt.Sprintf("%s #%d", t.Planned.Sub(noon), t.Attempt))
	}
	return out
}

func TestTicks(t *testing.T) {
	t.Parallel()
	failing := func(t *Trigger) { t.Done(Failed) }
	client := etcdtest.Start(t).Client()
	tests := []struct {
		name   string
		specs  []spec
		answer func(*Trigger)
		step   time.Duration
		want   []string
		ends   bool
	}{
		{"once", []spec{due("90s")}, succeed, 500 * time.Millisecond, []string{"1m30s #0"}, true},
		{"at once", []spec{due("0s")}, succeed, time.Second, []string{"0s #0"}, true},
		{"repeats", []spec{every("1m"), repeats(3)}, succeed, time.Second, []string{"1m0s #0", "2m0s #0", "3m0s #0"}, true},
		{"due time and schedule", []spec{every("1m"), due("10s"), repeats(2)}, succeed, time.Second, []string{"10s #0", "1m10s #0"}, true},
		{"ttl", []spec{every("1m"), ttl("2m")}, succeed, time.Second, []string{"1m0s #0", "2m0s #0"}, true},
		{"ttl before the first tick", []spec{every("1m"), ttl("30s")}, succeed, time.Second, nil, true},
		{"not rounded", []spec{every("1500ms"), repeats(2)}, succeed, 100 * time.Millisecond, []string{"1.5s #0", "3s #0"}, true},
		{"no interval", []spec{every("0s"), repeats(2)}, succeed, time.Second, []string{"0s #0", "0s #0"}, true},
		{"drop", []spec{every("1m"), repeats(2), drop()}, failing, time.Second, []string{"1m0s #0", "2m0s #0"}, true},
		{"default policy", []spec{due("1s")}, failing, time.Second, []string{"1s #0", "1s #1", "1s #2", "1s #3"}, true},
		{"no retries", []spec{due("1s"), retry(time.Second, proto.Uint32(0))}, failing, time.Second, []string{"1s #0"}, true},
		{
			"the cadence stays",
			[]spec{every("10s"), repeats(2), retry(7*time.Second, proto.Uint32(2))},
			failing, time.Second,
			[]string{"10s #0", "10s #1", "10s #2", "20s #0", "20s #1", "20s #2"},
			true,
		},
		{
			"unlimited", []spec{due("0s"), retry(time.Minute, nil)}, func(t *Trigger) {
				if t.Attempt < 6 {
					t.Done(Failed)
				} else {
					t.Done(Success)
				}
			}, time.Second, []string{"0s #0", "0s #1", "0s #2", "0s #3", "0s #4", "0s #5", "0s #6"}, true,
		},
	}
	for i, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			name := fmt.Sprintf("app||ns||app||%d", i)
			clock := clockwork.NewFakeClockAt(noon)
			r := newRecorder(test.answer)
			e, stop := run(t, Options{Client: client, Deliver: r, Clock: clock})
			defer stop()
			joined(t, e)
			e.mustSchedule(t, name, test.specs...)
			if test.want != nil {
				eventually(t, func() (err error) {
					e.loop.do(func() {
						if e.loop.jobs[name] == nil && len(r.triggers(name)) == 0 {
							err = fmt.Errorf("%q is not known", name)
						}
					})
					return err
				})
			}
			advance(t, clock, test.step, 10*time.Minute, r.count(name, len(test.want)))
			if got := planned(r.triggers(name)); fmt.Sprint(got) != fmt.Sprint(test.want) {
				t.Errorf("planned %v, want %v", got, test.want)
			}
			e.absent(t, name)
			if resp, err := client.Get(t.Context(), record.CounterKey(name)); err != nil || len(resp.Kvs) > 0 {
				t.Errorf("the counter is still there: %v %v", resp, err)
			}
			if got := len(r.triggers(name)); got != len(test.want) {
				t.Errorf("%d triggers in the end, want %d", got, len(test.want))
			}
		})
	}
}

// The counter tells how far a job is, also after a failed attempt.
func TestCounter(t *testing.T) {
	t.Parallel()
	client := etcdtest.Start(t).Client()
	clock := clockwork.NewFakeClockAt(noon)
	r := newRecorder(nil)
	e, _ := run(t, Options{Client: client, Deliver: r, Clock: clock, Workers: 1})
	joined(t, e)
	const name = "app||ns||app||job"
	e.mustSchedule(t, name, every("1h"))
	e.holds(t, name)
	results := []Result{Failed, Success, Failed, Failed, Failed, Failed}
	want := []record.Counter{
		{Attempts: 1},
		{Count: 1, Last: noon.Add(time.Hour)},
		{Count: 1, Last: noon.Add(time.Hour), Attempts: 1},
		{Count: 1, Last: noon.Add(time.Hour), Attempts: 2},
		{Count: 1, Last: noon.Add(time.Hour), Attempts: 3},
		{Count: 2, Last: noon.Add(2 * time.Hour)},
	}
	job, err := e.Get(t.Context(), name)
	if err != nil {
		t.Fatal(err)
	}
	for i, result := range results {
		step := time.Second
		if len(r.triggers(name)) == i && want[i].Attempts <= 1 {
			step = 10 * time.Minute
		}
		advance(t, clock, step, 2*time.Hour, r.count(name, i+1))
		trigger := r.triggers(name)[i]
		trigger.Done(result)
		trigger.Done(Success) // does not count
		want[i].Partition = job.Partition()
		eventually(t, func() error {
			resp, err := client.Get(t.Context(), record.CounterKey(name))
			if err != nil || len(resp.Kvs) == 0 {
				return fmt.Errorf("no counter (%v)", err)
			}
			got, err := record.DecodeCounter(resp.Kvs[0].Value)
			if err != nil || got != want[i] {
				return fmt.Errorf("after %d: counter %+v, want %+v (%v)", i, got, want[i], err)
			}
			return nil
		})
	}
}

// After downtime a job fires once for the latest of the ticks it missed, one with repeats for each; a pending retry is due at once.
func TestDowntime(t *testing.T) {
	t.Parallel()
	client := etcdtest.Start(t).Client()
	clock := clockwork.NewFakeClockAt(noon)
	r := newRecorder(nil)
	e, stop := run(t, Options{Client: client, Deliver: r, Clock: clock})
	joined(t, e)
	e.mustSchedule(t, "app||ns||app||plain", every("1h"))
	e.mustSchedule(t, "app||ns||app||counted", every("1h"), repeats(3))
	e.mustSchedule(t, "app||ns||app||retried", every("1h"), retry(30*time.Minute, nil))
	e.mustSchedule(t, "app||ns||app||expiring", every("1h"), ttl("270m"))
	e.mustSchedule(t, "app||ns||app||out", due("1h"))
	e.holds(t, "app||ns||app||retried")
	advance(t, clock, 10*time.Minute, 2*time.Hour, r.count("app||ns||app||retried", 1))
	r.triggers("app||ns||app||retried")[0].Done(Failed)
	eventually(t, func() error {
		resp, err := client.Get(t.Context(), record.CounterKey("app||ns||app||retried"))
		if err != nil || len(resp.Kvs) == 0 {
			return fmt.Errorf("no counter (%v)", err)
		}
		return nil
	})
	eventually(t, r.count("app||ns||app||out", 1))
	out := r.triggers("app||ns||app||out")[0]
	stop()
	select {
	case <-cancellation(out):
	default:
		t.Error("a trigger was not cancelled when the engine stopped")
	}
	out.Done(Success)

	clock = clockwork.NewFakeClockAt(noon.Add(330 * time.Minute))
	r = newRecorder(succeed)
	e, _ = run(t, Options{Client: client, Deliver: r, Clock: clock})
	joined(t, e)
	for name, want := range map[string][]string{
		"plain":    {"5h0m0s #0"},
		"counted":  {"1h0m0s #0", "2h0m0s #0", "3h0m0s #0"},
		"retried":  {"1h0m0s #1", "5h0m0s #0"},
		"expiring": {"4h0m0s #0"},
		"out":      {"1h0m0s #0"},
	} {
		full := "app||ns||app||" + name
		eventually(t, func() error {
			if got := planned(r.triggers(full)); fmt.Sprint(got) != fmt.Sprint(want) {
				return fmt.Errorf("%s: planned %v, want %v", name, got, want)
			}
			return nil
		})
	}
	e.absent(t, "app||ns||app||counted")
	e.absent(t, "app||ns||app||expiring")
	e.absent(t, "app||ns||app||out")
}

// A clock that jumps, as after the sleep of a machine, brings one tick, and ticks that are a little late each come.
func TestClockJump(t *testing.T) {
	t.Parallel()
	client := etcdtest.Start(t).Client()
	clock := clockwork.NewFakeClockAt(noon)
	r := newRecorder(succeed)
	e, _ := run(t, Options{Client: client, Deliver: r, Clock: clock})
	joined(t, e)
	const name = "app||ns||app||job"
	e.mustSchedule(t, name, every("10s"))
	e.holds(t, name)
	clock.Advance(45 * time.Second)
	advance(t, clock, time.Millisecond, time.Second, r.count(name, 4))
	clock.Advance(3 * time.Hour)
	advance(t, clock, time.Millisecond, time.Second, r.count(name, 5))
	if got, want := fmt.Sprint(planned(r.triggers(name))), "[10s #0 20s #0 30s #0 40s #0 3h0m40s #0]"; got != want {
		t.Errorf("planned %s, want %s", got, want)
	}
}

// A counter of an earlier version of the job does not count, and what cannot be read does not stop the rest.
func TestForeignState(t *testing.T) {
	t.Parallel()
	client := etcdtest.Start(t).Client()
	clock := clockwork.NewFakeClockAt(noon)
	writer, err := New(Options{Client: client, ID: "writer", Deliver: newRecorder(nil), Clock: clock})
	if err != nil {
		t.Fatal(err)
	}
	const name = "app||ns||app||job"
	writer.mustSchedule(t, name, due("1m"))
	stale, err := record.Counter{Partition: 1, Count: 1, Last: noon}.Encode()
	if err != nil {
		t.Fatal(err)
	}
	// The 30th of February, which Dapr stores.
	impossible := []byte("\x08\x05\x2a\x10\x0a\x0e0 0 0 30 2 *  \x12\x06\x08\x80\xe9\xc0\xf1\x07")
	for key, value := range map[string][]byte{
		record.CounterKey(name):                    stale,
		record.CounterKey("app||ns||app||left"):    stale,
		record.CounterKey("app||ns||app||zz"):      []byte("\xff"),
		record.JobKey("app||ns||app||bytes"):       []byte("\xff\xff"),
		record.JobKey("app||ns||app||empty"):       {},
		record.JobKey("app||ns||app||impossible"):  impossible,
		record.JobKey("app||ns||app||neither"):     []byte("\x08\x05\x2a\x00"),
		record.CounterKey("app||ns||app||neither"): []byte("\xff"),
	} {
		if _, err := client.Put(t.Context(), key, string(value)); err != nil {
			t.Fatal(err)
		}
	}
	r := newRecorder(succeed)
	e, _ := run(t, Options{Client: client, Deliver: r, Clock: clock})
	joined(t, e)
	advance(t, clock, time.Second, 2*time.Minute, r.count(name, 1))
	e.absent(t, name)
	for _, bad := range []string{"bytes", "empty", "impossible", "neither"} {
		if n := len(r.triggers("app||ns||app||" + bad)); n > 0 {
			t.Errorf("%q fired %d times", bad, n)
		}
	}
	// The same while it watches.
	if _, err := client.Put(t.Context(), record.JobKey("app||ns||app||later"), "\xff\xff"); err != nil {
		t.Fatal(err)
	}
	e.mustSchedule(t, name, due("0s"))
	eventually(t, r.count(name, 2))
	if _, err := client.Delete(t.Context(), record.Jobs, clientv3.WithPrefix()); err != nil {
		t.Fatal(err)
	}
}
