package kafkaclient

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"

	"outrigger.dev/test/servers"
)

// bounded runs a publish that must fail within its limit, with the brokers and a remedy.
func bounded(t *testing.T, addr string, publish func() error) {
	t.Helper()
	began := time.Now()
	err := publish()
	took := time.Since(began)
	t.Logf("after %s: %v", took.Round(10*time.Millisecond), err)
	if took > deliveryLimit+3*time.Second {
		t.Errorf("it took %s, want at most %s", took, deliveryLimit)
	}
	expectError(t, err, `"t"`, addr, "check that", "brokers")
	if Permanent(err) {
		t.Error("counts as permanent")
	}
}

// While no broker runs, publishing fails soon, and works again with the brokers.
func TestPublishWithoutBroker(t *testing.T) {
	t.Parallel()
	s := servers.Kafka(t, servers.Own())
	p := producer(t, mustClient(t, map[string]string{"brokers": s.Addr}))
	publish(t, p, "t", nil, "before")
	s.Stop()
	t.Run("known topic", func(t *testing.T) {
		t.Parallel()
		bounded(t, s.Addr, func() error { return p.Publish(within(t), "t", Message{Data: []byte("v")}) })
	})
	t.Run("several", func(t *testing.T) {
		t.Parallel()
		bounded(t, s.Addr, func() error {
			results, err := p.PublishAll(within(t), "t", []Message{{Data: []byte("v")}, {Data: []byte("w")}}, nil)
			if len(results) != 2 || results[0] == nil || results[1] == nil {
				t.Errorf("results %v, want two failures", results)
			}
			return err
		})
	})
	t.Run("short of time", func(t *testing.T) {
		t.Parallel()
		ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
		defer cancel()
		bounded(t, s.Addr, func() error {
			err := p.Publish(ctx, "t", Message{Data: []byte("v")})
			if !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("%v, want %v", err, context.DeadlineExceeded)
			}
			return err
		})
	})
}

// Publishing goes on after an outage.
func TestPublishAfterOutage(t *testing.T) {
	t.Parallel()
	s := servers.Kafka(t, servers.Own())
	p := producer(t, mustClient(t, map[string]string{"brokers": s.Addr}))
	publish(t, p, "t", nil, "before")
	s.Kill()
	bounded(t, s.Addr, func() error { return p.Publish(within(t), "t", Message{Data: []byte("lost")}) })
	s.Start()
	var err error
	await(t, "a publish to succeed", func() bool {
		err = p.Publish(within(t), "t", Message{Data: []byte("after")})
		return err == nil
	})
}

// A broker that takes the request and never answers is not waited for beyond the limit, although the client library, which
// cannot know what became of the message, waits on.
func TestPublishToSilentBroker(t *testing.T) {
	t.Parallel()
	c, addr := cluster(t, kfake.SeedTopics(1, "t"))
	p := producer(t, mustClient(t, map[string]string{"brokers": addr}))
	publish(t, p, "t", nil, "before")
	release := make(chan struct{})
	defer close(release)
	c.ControlKey(int16(kmsg.Produce), func(kmsg.Request) (kmsg.Response, error, bool) {
		c.KeepControl()
		c.SleepControl(func() { <-release })
		return nil, nil, false
	})
	bulk := make(chan error, 1)
	began := time.Now()
	go func() {
		_, err := p.PublishAll(within(t), "t", []Message{{Data: []byte("v")}, {Data: []byte("w")}}, nil)
		bulk <- err
	}()
	bounded(t, addr, func() error {
		err := p.Publish(within(t), "t", Message{Data: []byte("v")})
		if !errors.Is(err, errLate) || !strings.Contains(err.Error(), "within 15s") || !strings.Contains(err.Error(), "may be published all the same") {
			t.Errorf("error %v, want %v", err, errLate)
		}
		return err
	})
	bounded(t, addr, func() error { return <-bulk })
	if took := time.Since(began); took < deliveryLimit-time.Second {
		t.Errorf("gave up after %s, before the limit", took)
	}
}
