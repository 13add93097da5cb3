package apphost

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	runtimev1 "outrigger.dev/api/gen/runtime/v1"
	"outrigger.dev/blocks/actors"
)

// ConfigOptions are what the reading of an app's configuration depends on.
type ConfigOptions struct {
	// DisseminateTimeout is how long this sidecar waits for the next table of placement: draining must end well before. 0 and less
	// means 30 seconds.
	DisseminateTimeout time.Duration
	// Log gets warnings; nil discards them.
	Log *slog.Logger
}

// DefaultDisseminateTimeout is the default of --actors-disseminate-timeout.
const DefaultDisseminateTimeout = 30 * time.Second

// leastDrain is the drain timeout that clamping leaves at least.
const leastDrain = 2 * time.Second

func (o *ConfigOptions) fill() {
	if o.DisseminateTimeout <= 0 {
		o.DisseminateTimeout = DefaultDisseminateTimeout
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
}

// span is a duration that a configuration gives, or fails to.
type span struct {
	text  string // as given
	given bool
	value time.Duration
	err   error
}

// settings are what can be said of all types and of some.
type settings struct {
	Entities      []string    `json:"entities"`
	IdleTimeout   *string     `json:"actorIdleTimeout"`
	DrainTimeout  *string     `json:"drainOngoingCallTimeout"`
	DrainMoved    *bool       `json:"drainRebalancedActors"`
	Reentrancy    *reentrancy `json:"reentrancy"`
	Partitions    int         `json:"remindersStoragePartitions"`
	idle, drained span
}

type reentrancy struct {
	Enabled       bool `json:"enabled"`
	MaxStackDepth *int `json:"maxStackDepth"`
}

// document is an app's configuration, whichever way it came.
type document struct {
	settings
	EntitiesConfig []settings `json:"entitiesConfig"`
}

// ParseConfig reads the answer to GET /dapr/config (Dapr API, actors: application configuration). An empty text hosts nothing. The
// hosting that it returns has no host yet. It fails, naming the field and the value, on text that is no JSON of the wanted kind and on
// durations for all types that are none; what is wrong in entitiesConfig is only warned of.
func ParseConfig(text []byte, o ConfigOptions) (actors.Hosting, error) {
	var d document
	if len(text) > 0 {
		if err := json.Unmarshal(text, &d); err != nil {
			return actors.Hosting{}, fmt.Errorf("the app's answer to GET /dapr/config cannot be read: %w", err)
		}
	}
	d.parseTexts()
	for i := range d.EntitiesConfig {
		d.EntitiesConfig[i].parseTexts()
	}
	return d.hosting(o)
}

func (s *settings) parseTexts() {
	s.idle, s.drained = textSpan(s.IdleTimeout), textSpan(s.DrainTimeout)
}

// textSpan reads a Go duration. An empty text is as good as none.
func textSpan(text *string) span {
	if text == nil || *text == "" {
		return span{}
	}
	d, err := time.ParseDuration(*text)
	return span{*text, true, d, err}
}

// streamConfig reads the first message of a stream, which says the same as the answer to GET /dapr/config.
func streamConfig(in *runtimev1.SubscribeActorEventsRequestInitialAlpha1, o ConfigOptions) (actors.Hosting, error) {
	d := document{settings: settings{
		Entities: in.GetEntities(), DrainMoved: in.DrainRebalancedActors, Reentrancy: streamReentrancy(in.GetReentrancy()),
		idle: protoSpan(in.GetActorIdleTimeout()), drained: protoSpan(in.GetDrainOngoingCallTimeout()),
	}}
	for _, e := range in.GetEntitiesConfig() {
		d.EntitiesConfig = append(d.EntitiesConfig, settings{
			Entities: e.GetEntities(), DrainMoved: e.DrainRebalancedActors, Reentrancy: streamReentrancy(e.GetReentrancy()),
			idle: protoSpan(e.GetActorIdleTimeout()), drained: protoSpan(e.GetDrainOngoingCallTimeout()),
		})
	}
	return d.hosting(o)
}

func streamReentrancy(in *runtimev1.ActorReentrancyConfig) *reentrancy {
	if in == nil {
		return nil
	}
	r := &reentrancy{Enabled: in.GetEnabled()}
	if in.MaxStackDepth != nil {
		depth := int(in.GetMaxStackDepth())
		r.MaxStackDepth = &depth
	}
	return r
}

func protoSpan(d *durationpb.Duration) span {
	if d == nil {
		return span{}
	}
	return span{fmt.Sprintf("%ds %dns", d.GetSeconds(), d.GetNanos()), true, d.AsDuration(), d.CheckValid()}
}

// hosting turns a configuration into what the runtime hosts by.
func (d *document) hosting(o ConfigOptions) (actors.Hosting, error) {
	o.fill()
	global := actors.DefaultTypeConfig()
	if err := d.idle.global("actorIdleTimeout", &global.IdleTimeout); err != nil {
		return actors.Hosting{}, err
	}
	if err := d.drained.global("drainOngoingCallTimeout", &global.DrainTimeout); err != nil {
		return actors.Hosting{}, err
	}
	global.DrainTimeout = o.clamp(global.DrainTimeout, "")
	d.Reentrancy.apply(&global)
	o.warnPartitions(d.Partitions)

	h := actors.Hosting{Types: make(map[string]actors.TypeConfig, len(d.Entities)), CancelRebalanced: d.DrainMoved != nil && !*d.DrainMoved}
	for _, actorType := range d.Entities {
		switch {
		case actorType == "":
			o.Log.Warn("the app hosts an actor type without a name, which is ignored: remove it from entities")
		case strings.HasPrefix(actorType, actors.ReservedPrefix):
			o.Log.Warn("the app hosts an actor type that is reserved for workflows, which is ignored: give it another name", "type", actorType)
		default:
			h.Types[actorType] = global
		}
	}
	for i := range d.EntitiesConfig {
		d.EntitiesConfig[i].override(h.Types, global, o)
	}
	return h, nil
}

// override replaces the settings of the types that an entry of entitiesConfig names. What the entry leaves out has the default, not what
// holds for all types, but for the time to drain.
func (s *settings) override(types map[string]actors.TypeConfig, global actors.TypeConfig, o ConfigOptions) {
	o.warnPartitions(s.Partitions)
	c := actors.DefaultTypeConfig()
	c.DrainTimeout = global.DrainTimeout
	named := strings.Join(s.Entities, ", ")
	s.idle.entry("actorIdleTimeout", named, &c.IdleTimeout, o.Log)
	if s.drained.entry("drainOngoingCallTimeout", named, &c.DrainTimeout, o.Log) {
		c.DrainTimeout = o.clamp(c.DrainTimeout, named)
	}
	s.Reentrancy.apply(&c)
	for _, actorType := range s.Entities {
		if _, ok := types[actorType]; !ok {
			o.Log.Warn("the app configures an actor type that it does not host, which is ignored: name it in entities, too", "type", actorType)
			continue
		}
		types[actorType] = c
	}
}

// global sets a setting of all types, which must be right.
func (s *span) global(field string, value *time.Duration) error {
	switch {
	case s.err != nil:
		return fmt.Errorf("%s of the app's actors is %q, which is no duration: %w; use one such as 1h30m", field, s.text, s.err)
	case s.given:
		*value = s.value
	}
	return nil
}

// entry sets a setting of some types, and reports whether there is one; a wrong one is only warned of.
func (s *span) entry(field, types string, value *time.Duration, log *slog.Logger) bool {
	if s.err != nil {
		log.Warn("a setting of actor types is no duration and the default holds: use one such as 1h30m", "types", types, "setting", field, "value", s.text, "error", s.err)
		return false
	}
	if s.given {
		*value = s.value
	}
	return s.given
}

func (r *reentrancy) apply(c *actors.TypeConfig) {
	if r == nil {
		return
	}
	c.Reentrant = r.Enabled
	if r.MaxStackDepth != nil {
		c.MaxStackDepth = *r.MaxStackDepth
	}
}

// clamp keeps a drain timeout below the time that placement gives a sidecar, which would lose its place otherwise.
func (o *ConfigOptions) clamp(drain time.Duration, types string) time.Duration {
	if drain < o.DisseminateTimeout {
		return drain
	}
	clamped := max(o.DisseminateTimeout/5*4, leastDrain)
	if drain != clamped {
		o.Log.Warn("drainOngoingCallTimeout must be less than --actors-disseminate-timeout and is shortened",
			"types", types, "value", drain.String(), "used", clamped.String(), "actors-disseminate-timeout", o.DisseminateTimeout.String())
	}
	return clamped
}

func (o *ConfigOptions) warnPartitions(n int) {
	if n > 0 {
		o.Log.Warn("remindersStoragePartitions is deprecated and has no effect: reminders are kept by the scheduler; remove it from the app's configuration", "value", n)
	}
}
