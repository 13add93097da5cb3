package apphost

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/encoding/protojson"

	runtimev1 "outrigger.dev/api/gen/runtime/v1"
	"outrigger.dev/blocks/actors"
	"outrigger.dev/telemetry/logging/logtest"
)

// configCases are configurations in the form of /dapr/config and in that of a stream.
var configCases = []struct {
	name         string
	http, stream string // a stream without text has no such form
	timeout      time.Duration
	types        string
	cancel       bool
	warnings     []string
}{
	{"nothing", ``, `{}`, 0, "", false, nil},
	{"null", `null`, ``, 0, "", false, nil},
	{"an empty object", `{"unknown":{"a":[1]},"actorScanInterval":"x"}`, ``, 0, "", false, nil},
	{"defaults", `{"entities":["A","B"]}`, `{"entities":["A","B"]}`, 0, "A:1h0m0s/2s/false/32 B:1h0m0s/2s/false/32", false, nil},
	{
		"all of it", `{"entities":["A"],"actorIdleTimeout":"90s","drainOngoingCallTimeout":"5s","drainRebalancedActors":false,"reentrancy":{"enabled":true,"maxStackDepth":4}}`,
		`{"entities":["A"],"actorIdleTimeout":"90s","drainOngoingCallTimeout":"5s","drainRebalancedActors":false,"reentrancy":{"enabled":true,"max_stack_depth":4}}`,
		0, "A:1m30s/5s/true/4", true, nil,
	},
	{"drain is on", `{"entities":["A"],"drainRebalancedActors":true}`, `{"entities":["A"],"drainRebalancedActors":true}`, 0, "A:1h0m0s/2s/false/32", false, nil},
	{"any case", `{"ENTITIES":["A"],"actoridletimeout":"1s","Reentrancy":{"ENABLED":true}}`, ``, 0, "A:1s/2s/true/32", false, nil},
	{"empty texts", `{"entities":["A"],"actorIdleTimeout":"","drainOngoingCallTimeout":null}`, ``, 0, "A:1h0m0s/2s/false/32", false, nil},
	{"zero", `{"entities":["A"],"drainOngoingCallTimeout":"0s"}`, `{"entities":["A"],"drainOngoingCallTimeout":"0s"}`, 0, "A:1h0m0s/0s/false/32", false, nil},
	{
		"an entry has the defaults for what it leaves out, but for the drain timeout",
		`{"entities":["A","B"],"actorIdleTimeout":"1m","drainOngoingCallTimeout":"7s","reentrancy":{"enabled":true,"maxStackDepth":3},"entitiesConfig":[{"entities":["B"]}]}`,
		`{"entities":["A","B"],"actorIdleTimeout":"60s","drainOngoingCallTimeout":"7s","reentrancy":{"enabled":true,"maxStackDepth":3},"entitiesConfig":[{"entities":["B"]}]}`,
		0, "A:1m0s/7s/true/3 B:1h0m0s/7s/false/32", false, nil,
	},
	{
		"an entry with everything", `{"entities":["A"],"entitiesConfig":[{"entities":["A"],"actorIdleTimeout":"10m","drainOngoingCallTimeout":"5s","drainRebalancedActors":false,"reentrancy":{"enabled":true,"maxStackDepth":2}}]}`,
		`{"entities":["A"],"entitiesConfig":[{"entities":["A"],"actorIdleTimeout":"600s","drainOngoingCallTimeout":"5s","drainRebalancedActors":false,"reentrancy":{"enabled":true,"maxStackDepth":2}}]}`,
		0, "A:10m0s/5s/true/2", false, nil,
	},
	{"the last entry of a type counts", `{"entities":["A"],"entitiesConfig":[{"entities":["A"],"actorIdleTimeout":"1s"},{"entities":["A"],"actorIdleTimeout":"2s"}]}`, ``, 0, "A:2s/2s/false/32", false, nil},
	{
		"an entry of a type that is not hosted", `{"entities":["A"],"entitiesConfig":[{"entities":["X","A"],"actorIdleTimeout":"1s"}]}`,
		`{"entities":["A"],"entitiesConfig":[{"entities":["X","A"],"actorIdleTimeout":"1s"}]}`,
		0, "A:1s/2s/false/32", false,
		[]string{"does not host"},
	},
	{
		"bad durations in an entry", `{"entities":["A"],"drainOngoingCallTimeout":"3s","entitiesConfig":[{"entities":["A"],"actorIdleTimeout":"long","drainOngoingCallTimeout":"1"}]}`,
		`{"entities":["A"],"drainOngoingCallTimeout":"3s","entitiesConfig":[{"entities":["A"],"actorIdleTimeout":{"seconds":1,"nanos":-1},"drainOngoingCallTimeout":{"seconds":-1,"nanos":1}}]}`,
		0, "A:1h0m0s/3s/false/32", false,
		[]string{"setting=actorIdleTimeout", "setting=drainOngoingCallTimeout"},
	},
	{"a long drain", `{"entities":["A"],"drainOngoingCallTimeout":"30s"}`, `{"entities":["A"],"drainOngoingCallTimeout":"30s"}`, 0, "A:1h0m0s/24s/false/32", false, []string{"used=24s"}},
	{"almost a long drain", `{"entities":["A"],"drainOngoingCallTimeout":"29.9s"}`, ``, 0, "A:1h0m0s/29.9s/false/32", false, nil},
	{"a long drain of an entry", `{"entities":["A","B"],"entitiesConfig":[{"entities":["A"],"drainOngoingCallTimeout":"1h"}]}`, ``, 10 * time.Second, "A:1h0m0s/8s/false/32 B:1h0m0s/2s/false/32", false, []string{"types=A"}},
	{"never below two seconds", `{"entities":["A"],"drainOngoingCallTimeout":"1m"}`, ``, time.Second, "A:1h0m0s/2s/false/32", false, []string{"used=2s"}},
	{"the default is not shortened", `{"entities":["A"]}`, ``, time.Second, "A:1h0m0s/2s/false/32", false, nil},
	{"partitions", `{"entities":["A"],"remindersStoragePartitions":3}`, ``, 0, "A:1h0m0s/2s/false/32", false, []string{"value=3"}},
	{"partitions of an entry", `{"entities":["A"],"entitiesConfig":[{"entities":["A"],"remindersStoragePartitions":4}]}`, ``, 0, "A:1h0m0s/2s/false/32", false, []string{"value=4"}},
	{"names that nobody can host", `{"entities":["","dapr.internal.ns.app.workflow","dapr.Internal"]}`, ``, 0, "dapr.Internal:1h0m0s/2s/false/32", false, []string{"without a name", "reserved for workflows"}},
}

func TestConfig(t *testing.T) {
	for _, tc := range configCases {
		t.Run(tc.name, func(t *testing.T) {
			var log logtest.Log
			o := ConfigOptions{DisseminateTimeout: tc.timeout, Log: log.Logger()}
			check := func(h actors.Hosting, err error) {
				t.Helper()
				if err != nil {
					t.Fatal(err)
				}
				var types []string
				for _, name := range []string{"A", "B", "X", "", "dapr.Internal", "dapr.internal.ns.app.workflow"} {
					if c, ok := h.Types[name]; ok {
						types = append(types, fmt.Sprintf("%s:%v/%v/%v/%d", name, c.IdleTimeout, c.DrainTimeout, c.Reentrant, c.MaxStackDepth))
					}
				}
				if got := strings.Join(types, " "); got != tc.types || h.CancelRebalanced != tc.cancel {
					t.Errorf("%s, cancel %v\nwant %s, %v", got, h.CancelRebalanced, tc.types, tc.cancel)
				}
				for _, w := range tc.warnings {
					if log.Count(w) != 1 {
						t.Errorf("no warning %q in\n%s", w, &log)
					}
				}
				if len(log.Lines()) != len(tc.warnings) {
					t.Errorf("log:\n%s", &log)
				}
			}
			check(ParseConfig([]byte(tc.http), o))
			if tc.stream == "" {
				return
			}
			log = logtest.Log{}
			check(streamConfig(initialOf(t, tc.stream), o))
		})
	}
}

// initialOf reads the first message of a stream from JSON, in which {"seconds":..,"nanos":..} is a duration as it is on the wire.
func initialOf(t testing.TB, text string) *runtimev1.SubscribeActorEventsRequestInitialAlpha1 {
	t.Helper()
	raw := strings.NewReplacer(`{"seconds":1,"nanos":-1}`, `"1111s"`, `{"seconds":-1,"nanos":1}`, `"2222s"`).Replace(text)
	var in runtimev1.SubscribeActorEventsRequestInitialAlpha1
	if err := protojson.Unmarshal([]byte(raw), &in); err != nil {
		t.Fatal(err)
	}
	for _, e := range in.GetEntitiesConfig() {
		if e.GetActorIdleTimeout().GetSeconds() == 1111 {
			e.ActorIdleTimeout.Seconds, e.ActorIdleTimeout.Nanos = 1, -1
		}
		if e.GetDrainOngoingCallTimeout().GetSeconds() == 2222 {
			e.DrainOngoingCallTimeout.Seconds, e.DrainOngoingCallTimeout.Nanos = -1, 1
		}
	}
	return &in
}

func TestConfigErrors(t *testing.T) {
	for text, want := range map[string]string{
		`{"entities":["A"],"actorIdleTimeout":"long"}`:     `actorIdleTimeout of the app's actors is "long", which is no duration: `,
		`{"entities":["A"],"drainOngoingCallTimeout":"5"}`: `drainOngoingCallTimeout of the app's actors is "5", which is no duration: `,
		`{"entities":`:     "the app's answer to GET /dapr/config cannot be read: ",
		`{"entities":"A"}`: "the app's answer to GET /dapr/config cannot be read: ",
		`<html>`:           "the app's answer to GET /dapr/config cannot be read: ",
		`{"entities":["A"],"reentrancy":{"maxStackDepth":""}}`: "the app's answer to GET /dapr/config cannot be read: ",
	} {
		h, err := ParseConfig([]byte(text), ConfigOptions{})
		if err == nil || !strings.HasPrefix(err.Error(), want) || h.Types != nil {
			t.Errorf("%s: %v, %v", text, h, err)
		}
	}
	for _, field := range []string{"actorIdleTimeout", "drainOngoingCallTimeout"} {
		in := initialOf(t, `{"entities":["A"],"`+field+`":"5s"}`)
		if in.ActorIdleTimeout != nil {
			in.ActorIdleTimeout.Nanos = -1
		} else {
			in.DrainOngoingCallTimeout.Nanos = -1
		}
		if _, err := streamConfig(in, ConfigOptions{}); err == nil || !strings.HasPrefix(err.Error(), field+` of the app's actors is "5s -1ns", which is no duration: `) {
			t.Errorf("%s: %v", field, err)
		}
	}
}

func FuzzConfig(f *testing.F) {
	for _, tc := range configCases {
		f.Add([]byte(tc.http))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		h, err := ParseConfig(text, ConfigOptions{})
		if err != nil {
			if h.Types != nil {
				t.Errorf("%q hosts %v in spite of %v", text, h.Types, err)
			}
			return
		}
		for name, c := range h.Types {
			if name == "" || strings.HasPrefix(name, "dapr.internal.") || c.DrainTimeout >= DefaultDisseminateTimeout {
				t.Errorf("%q hosts %q by %+v", text, name, c)
			}
		}
		// White space around it means nothing.
		if len(text) > 0 {
			again, err := ParseConfig(append(append([]byte("\n "), text...), ' '), ConfigOptions{})
			if err != nil || !maps.Equal(h.Types, again.Types) {
				t.Errorf("%q: %v, %v", text, again, err)
			}
		}
		if len(bytes.TrimSpace(text)) > 0 && !json.Valid(text) {
			t.Errorf("%q was taken for JSON", text)
		}
	})
}
