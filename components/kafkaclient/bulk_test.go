package kafkaclient

import (
	"context"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"
)

func TestBulk(t *testing.T) {
	c, addr := cluster(t, kfake.SeedTopics(1, "t"))
	cl := mustClient(t, map[string]string{"brokers": addr})
	p, k := producer(t, cl), consumer(t, cl, "g", true)
	bulks := make(chan []string, 100)
	rejections := 2
	subscribe(t, k, Subscribe{Topic: "t", Most: 4, Await: 200 * time.Millisecond, Bulk: func(_ context.Context, ds []Delivery) []error {
		var values []string
		verdicts := make([]error, len(ds))
		for i, d := range ds {
			values = append(values, string(d.Data))
			if string(d.Data) == "m002" && rejections > 0 {
				rejections--
				verdicts[i] = errRejected
				if got := committed(c, "g", "t"); got > 2 {
					t.Errorf("offset %d is committed while the message at 2 has no verdict", got)
				}
			}
		}
		bulks <- values
		return verdicts
	}})
	publish(t, p, "t", nil, numbered(8)...)
	var all []string
	most := 0
	for ctx := within(t); !slices.Contains(all, "m007"); {
		select {
		case b := <-bulks:
			most = max(most, len(b))
			all = append(all, b...)
		case <-ctx.Done():
			t.Fatalf("only %q came", all)
		}
	}
	if most > 4 {
		t.Errorf("a bulk has %d messages, want at most 4", most)
	}
	times := map[string]int{}
	for _, v := range all {
		times[v]++
	}
	if times["m000"] != 1 || times["m001"] != 1 || times["m002"] != 3 || len(times) != 8 {
		t.Errorf("came: %q; want those before m002 once, and m002 three times", all)
	}
	awaitCommit(t, c, "g", "t", 8)
}

func TestBulkAwait(t *testing.T) {
	_, addr := cluster(t, kfake.SeedTopics(1, "t"))
	cl := mustClient(t, map[string]string{"brokers": addr})
	p, k := producer(t, cl), consumer(t, cl, "g", true)
	bulks := make(chan int, 100)
	// All at once when the number is there, long before the time.
	subscribe(t, k, Subscribe{Topic: "t", Most: 3, Await: time.Hour, Bulk: func(_ context.Context, ds []Delivery) []error {
		bulks <- len(ds)
		return nil
	}})
	publish(t, p, "t", nil, numbered(7)...)
	for range 2 {
		select {
		case n := <-bulks:
			if n != 3 {
				t.Errorf("a bulk of %d, want 3", n)
			}
		case <-within(t).Done():
			t.Fatal("no bulk came")
		}
	}
	// The seventh waits; Close gives it up without a verdict.
	if err := k.Close(); err != nil {
		t.Fatal(err)
	}
	in := newInbox()
	subscribe(t, consumer(t, cl, "g", true), Subscribe{Topic: "t", Handler: in.accept})
	in.expect(t, "m006")
}

// Retries that end give up what was handed over, and nothing else.
func TestBulkRetriesEnd(t *testing.T) {
	_, addr := cluster(t, kfake.SeedTopics(1, "t"))
	cl := mustClient(t, map[string]string{"brokers": addr, "backOffMaxRetries": "1", "initialOffset": "oldest"})
	p, k := producer(t, cl), consumer(t, cl, "g", true)
	publish(t, p, "t", nil, "a", "bad", "b", "c")
	bulks := make(chan string, 100)
	subscribe(t, k, Subscribe{Topic: "t", Most: 2, Await: 10 * time.Millisecond, Bulk: func(_ context.Context, ds []Delivery) []error {
		verdicts := make([]error, len(ds))
		var values []string
		for i, d := range ds {
			values = append(values, string(d.Data))
			if string(d.Data) == "bad" {
				verdicts[i] = errRejected
			}
		}
		bulks <- strings.Join(values, " ")
		return verdicts
	}})
	var got []string
	for ctx := within(t); len(got) < 3; {
		select {
		case b := <-bulks:
			got = append(got, b)
		case <-ctx.Done():
			t.Fatalf("only %q came", got)
		}
	}
	if want := []string{"a bad", "bad", "b c"}; !slices.Equal(got, want) {
		t.Errorf("bulks %q, want %q", got, want)
	}
}
