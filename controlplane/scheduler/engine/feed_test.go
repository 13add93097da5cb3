package engine

import (
	"testing"
	"time"

	"github.com/jonboulle/clockwork"
	clientv3 "go.etcd.io/etcd/client/v3"

	"outrigger.dev/controlplane/scheduler/etcdtest"
	"outrigger.dev/controlplane/scheduler/record"
)

// TestRestoredJobsGoOn puts jobs into the etcd of a running engine as a backup has them: with their counters.
func TestRestoredJobsGoOn(t *testing.T) {
	t.Parallel()
	client := etcdtest.Start(t).Client()
	r := newRecorder(succeed)
	e, _ := run(t, Options{Client: client, Deliver: r, Clock: clockwork.NewFakeClockAt(noon)})
	joined(t, e)
	for _, tt := range []struct {
		name      string
		partition uint64 // of the counter; that of the job is 7
		want      string // the first tick
		triggers  int
	}{
		{"app||ns||app||counted", 7, "-57m0s #0", 1},
		{"app||ns||app||of another version", 8, "-59m0s #0", 3},
	} {
		job, err := jobOf(t, every("1m"), repeats(3)).Begin(noon.Add(-time.Hour), 7, e.parse)
		if err != nil {
			t.Fatal(err)
		}
		value, err := job.Encode()
		if err != nil {
			t.Fatal(err)
		}
		counter, err := record.Counter{Partition: tt.partition, Count: 2, Last: noon.Add(-58 * time.Minute)}.Encode()
		if err != nil {
			t.Fatal(err)
		}
		_, err = client.Txn(t.Context()).Then(
			clientv3.OpPut(record.JobKey(tt.name), string(value)), clientv3.OpPut(record.CounterKey(tt.name), string(counter)),
		).Commit()
		if err != nil {
			t.Fatal(err)
		}
		eventually(t, r.count(tt.name, tt.triggers))
		e.absent(t, tt.name)
		if got := planned(r.triggers(tt.name)); len(got) != tt.triggers || got[0] != tt.want {
			t.Errorf("%s: triggers %q, want %d from %s", tt.name, got, tt.triggers, tt.want)
		}
	}
}
