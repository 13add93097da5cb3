package outbox_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"

	stores "outrigger.dev/components/state"
)

// plain is a store without transactions.
type plain struct{ stores.Store }

func TestConfiguration(t *testing.T) {
	for _, tc := range []struct {
		name       string
		properties map[string]string
		plain      bool
		enabled    bool
		topic      string
		warning    string
	}{
		{name: "nothing", properties: map[string]string{"keyPrefix": "none"}},
		{name: "all", properties: properties(), enabled: true, topic: "detour/" + internalTopic},
		{name: "one component", properties: properties("outboxPubsub="), enabled: true, topic: "final/" + internalTopic},
		{name: "no topic", properties: properties("outboxPublishTopic="), warning: "it has the metadata item outboxPublishPubsub, outboxPubsub without outboxPublishTopic; set both"},
		{name: "no component", properties: map[string]string{"outboxPublishTopic": "orders"}, warning: "without outboxPublishPubsub; set both"},
		{name: "only the choice", properties: map[string]string{"outboxDiscardWhenMissingState": "true"}, warning: "without outboxPublishPubsub, outboxPublishTopic; set both"},
		{name: "not transactional", properties: properties(), plain: true, warning: "this type of store has no transactions; use one with the capability TRANSACTIONAL"},
		{
			name: "wrong case", properties: map[string]string{"outboxPublishPubSub": "final", "outboxPublishTopic": "orders"},
			warning: `item=outboxPublishPubSub want=outboxPublishPubsub`,
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			f := newFixture(t)
			var s stores.Store = f.newStore(t)
			if tc.plain {
				s = plain{s}
			}
			if err := f.Add("st", s, tc.properties); err != nil {
				t.Fatal(err)
			}
			if f.Enabled("st") != tc.enabled || f.Enabled("other") {
				t.Errorf("enabled: %t, want %t; other: %t", f.Enabled("st"), tc.enabled, f.Enabled("other"))
			}
			f.Start()
			if got := strings.Join(f.broker.topics(), " "); got != tc.topic {
				t.Errorf("consumes %q, want %q", got, tc.topic)
			}
			if got := f.log.String(); !strings.Contains(got, tc.warning) || (got != "") != (tc.warning != "") {
				t.Errorf("log %q, want %q", got, tc.warning)
			}
			operations := []stores.Operation{upsert("k", `1`)}
			kept, markers, err := f.Prepare(t.Context(), "st", operations, nil, "", "")
			if err != nil || len(kept) != 1 || (len(markers) == 1) != tc.enabled || (len(f.broker.take()) == 1) != tc.enabled {
				t.Errorf("kept %d, markers %d, %v", len(kept), len(markers), err)
			}
		})
	}
}

func TestOneConsumer(t *testing.T) {
	f := newFixture(t)
	f.add(t, "a", f.newStore(t))
	f.add(t, "b", f.newStore(t), "outboxPublishTopic=parcels")
	expect := func(what string, want ...string) {
		t.Helper()
		got := f.broker.topics()
		slices.Sort(got)
		if !slices.Equal(got, want) {
			t.Errorf("%s: consumes %v, want %v", what, got, want)
		}
	}
	expect("before start")
	orders, parcels, late := "detour/defaultshopordersoutbox", "detour/defaultshopparcelsoutbox", "detour/defaultshoplateoutbox"
	for range 3 {
		f.Start()
	}
	expect("started", orders, parcels)
	f.add(t, "c", f.newStore(t), "outboxPublishTopic=late")
	f.add(t, "d", f.newStore(t)) // shares the topic of a
	expect("two more", late, orders, parcels)
	if err := f.Add("c", f.newStore(t), properties()); err == nil || !strings.Contains(err.Error(), `"c"`) {
		t.Errorf("the name was taken twice: %v", err)
	}
	for _, step := range []struct {
		remove string
		want   []string
	}{
		{"a", []string{late, orders, parcels}},
		{"d", []string{late, parcels}},
		{"d", []string{late, parcels}},
		{"c", []string{parcels}},
	} {
		if err := f.Remove(t.Context(), step.remove); err != nil || f.Enabled(step.remove) {
			t.Errorf("removing %s: %v, enabled %t", step.remove, err, f.Enabled(step.remove))
		}
		expect("without "+step.remove, step.want...)
	}
	f.Stop(t.Context())
	expect("stopped")
	f.add(t, "a", f.newStore(t))
	expect("added while stopped")
	if !f.Enabled("a") || !f.Enabled("b") {
		t.Error("stopping has disabled a store")
	}
	f.Start()
	expect("started again", orders, parcels)
	if f.broker.most != 1 {
		t.Errorf("there were %d consumers of one topic", f.broker.most)
	}
}

func TestRemoveWaitsForTheStore(t *testing.T) {
	f := newFixture(t)
	s := f.newStore(t)
	f.add(t, "st", s)
	entered, hold := make(chan struct{}), make(chan struct{})
	s.onDelete = func(int) error {
		close(entered)
		<-hold
		return nil
	}
	f.Start()
	text := f.committed(t, "st", s, upsert("k", `1`))[0].text
	verdict := make(chan error, 1)
	go func() { verdict <- f.deliver(text) }()
	<-entered
	removed := make(chan error, 1)
	consumption := f.broker.consumers[0]
	go func() { removed <- f.Remove(context.Background(), "st") }()
	<-consumption.stopping // it is being removed
	select {
	case err := <-removed:
		t.Fatalf("the store was removed while a marker was being deleted: %v", err)
	case err := <-verdict:
		t.Fatalf("there is a verdict: %v", err)
	default:
	}
	close(hold)
	if err := <-verdict; err != nil && !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	if err := <-removed; err != nil {
		t.Error(err)
	}
	if err := f.deliver(text); !errors.Is(err, errNoConsumer) {
		t.Errorf("the topic is consumed without a store: %v", err)
	}
}
