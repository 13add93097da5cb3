package kafkaclient

import (
	"fmt"
	"math"
	"math/rand/v2"
	"strings"
	"time"
)

// BackOff are the settings of how long to wait before a message that could not be processed is tried again (Dapr API,
// component back-off settings).
type BackOff struct {
	Policy              string        `name:"backOffPolicy" default:"constant" allowed:"constant,exponential" help:"whether the wait between attempts at a message stays the same or grows"`
	Duration            time.Duration `name:"backOffDuration" default:"5s" help:"the wait of policy constant"`
	InitialInterval     time.Duration `name:"backOffInitialInterval" default:"500ms" help:"the first wait of policy exponential"`
	RandomizationFactor float64       `name:"backOffRandomizationFactor" default:"0.5" help:"the part of a wait of policy exponential, from 0 to 1, by which chance makes it shorter or longer"`
	Multiplier          float64       `name:"backOffMultiplier" default:"1.5" help:"how much longer each wait of policy exponential is than the one before"`
	MaxInterval         time.Duration `name:"backOffMaxInterval" default:"60s" help:"the longest wait of policy exponential"`
	MaxElapsedTime      time.Duration `name:"backOffMaxElapsedTime" default:"15m" help:"a message is given up when policy exponential has been at it for so long; 0 for never"`
	MaxRetries          int64         `name:"backOffMaxRetries" default:"-1" help:"how often a message is tried again; -1 for without end"`
}

func (b *BackOff) exponential() bool { return strings.EqualFold(b.Policy, "exponential") }

// check refuses settings that cannot be followed.
func (b *BackOff) check() error {
	for _, d := range []struct {
		name  string
		value time.Duration
	}{
		{"backOffDuration", b.Duration},
		{"backOffInitialInterval", b.InitialInterval},
		{"backOffMaxInterval", b.MaxInterval},
		{"backOffMaxElapsedTime", b.MaxElapsedTime},
	} {
		if d.value < 0 {
			return fmt.Errorf("metadata property %q is %q, but a wait cannot be negative: write e.g. 5s", d.name, d.value)
		}
	}
	if b.RandomizationFactor < 0 || b.RandomizationFactor > 1 || math.IsNaN(b.RandomizationFactor) {
		return fmt.Errorf("metadata property \"backOffRandomizationFactor\" is %v, but must be from 0 to 1", b.RandomizationFactor)
	}
	if b.exponential() && !(b.Multiplier >= 1) {
		return fmt.Errorf("metadata property \"backOffMultiplier\" is %v, but the waits can only grow: write 1 or more", b.Multiplier)
	}
	return nil
}

// waits are the waits between the attempts at one message.
type waits struct {
	policy   *BackOff
	attempts int64
	interval time.Duration
	began    time.Time
}

func (b *BackOff) begin(now time.Time) waits {
	return waits{policy: b, interval: b.InitialInterval, began: now}
}

// next is the wait before the next attempt; ok is false when there is to be none.
func (w *waits) next(now time.Time) (d time.Duration, ok bool) {
	p := w.policy
	if p.MaxRetries >= 0 && w.attempts >= p.MaxRetries {
		return 0, false
	}
	w.attempts++
	if !p.exponential() {
		return p.Duration, true
	}
	d = min(w.interval, p.MaxInterval)
	w.interval = min(time.Duration(math.Min(float64(w.interval)*p.Multiplier, math.MaxInt64/2)), p.MaxInterval)
	if spread := time.Duration(p.RandomizationFactor * float64(d)); spread > 0 {
		d += rand.N(2*spread+1) - spread
	}
	if p.MaxElapsedTime > 0 && now.Sub(w.began)+d > p.MaxElapsedTime {
		return 0, false
	}
	return d, true
}
