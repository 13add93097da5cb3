package mqtt3

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"time"
)

// BackOff is how a handler that failed is called again (Dapr API, component contract: back-off).
type BackOff struct {
	Policy              string        `name:"backOffPolicy" default:"constant" allowed:"constant,exponential" help:"how the waits before retries grow"`
	Duration            time.Duration `name:"backOffDuration" default:"5s" help:"the wait before each retry of the policy constant"`
	InitialInterval     time.Duration `name:"backOffInitialInterval" default:"500ms" help:"the wait before the first retry of the policy exponential"`
	RandomizationFactor float64       `name:"backOffRandomizationFactor" default:"0.5" help:"the part of a wait, from 0 to 1, by which it is made longer or shorter at random; for exponential"`
	Multiplier          float64       `name:"backOffMultiplier" default:"1.5" help:"how many times the last wait the next one is; for exponential"`
	MaxInterval         time.Duration `name:"backOffMaxInterval" default:"60s" help:"the longest wait; for exponential"`
	MaxElapsedTime      time.Duration `name:"backOffMaxElapsedTime" default:"15m" help:"no retry starts later than this after the first attempt; 0 for no limit; for exponential"`
	MaxRetries          int64         `name:"backOffMaxRetries" default:"3" help:"how often a message that was not processed is tried again; 0 for never, -1 for always"`
}

func (b *BackOff) check() error {
	switch {
	case b.RandomizationFactor < 0 || b.RandomizationFactor > 1:
		return fmt.Errorf("metadata property \"backOffRandomizationFactor\" is %v, but must be from 0 to 1", b.RandomizationFactor)
	case b.Multiplier < 1:
		return fmt.Errorf("metadata property \"backOffMultiplier\" is %v, but must be at least 1", b.Multiplier)
	case b.Duration < 0 || b.InitialInterval < 0 || b.MaxInterval < 0 || b.MaxElapsedTime < 0:
		return fmt.Errorf("metadata properties \"backOffDuration\", \"backOffInitialInterval\", \"backOffMaxInterval\" and \"backOffMaxElapsedTime\" are %s, %s, %s and %s, but none may be negative",
			b.Duration, b.InitialInterval, b.MaxInterval, b.MaxElapsedTime)
	}
	return nil
}

// retries are those of one event.
type retries struct {
	policy *BackOff
	begun  time.Time
	made   int64
	last   time.Duration
}

func (b *BackOff) start(now time.Time) *retries { return &retries{policy: b, begun: now} }

// next is the wait before the next retry, if there is to be one.
func (r *retries) next(now time.Time) (wait time.Duration, again bool) {
	p := r.policy
	if p.MaxRetries >= 0 && r.made >= p.MaxRetries {
		return 0, false
	}
	wait = p.Duration
	if strings.EqualFold(p.Policy, "exponential") {
		if r.made == 0 {
			r.last = p.InitialInterval
		} else {
			// Compared before it is converted, for it may be more than a duration holds.
			r.last = time.Duration(min(float64(r.last)*p.Multiplier, float64(p.MaxInterval)))
		}
		r.last = min(r.last, p.MaxInterval)
		wait = time.Duration(float64(r.last) * (1 + p.RandomizationFactor*(2*rand.Float64()-1)))
		if p.MaxElapsedTime > 0 && now.Add(wait).Sub(r.begun) > p.MaxElapsedTime {
			return 0, false
		}
	}
	r.made++
	return wait, true
}
