package sentinel

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
)

// The rules have the field names and numbers of Sentinel's JSON.

// flowRule bounds the requests of a resource in a time.
type flowRule struct {
	Resource               string  `json:"resource"`
	TokenCalculateStrategy int     `json:"tokenCalculateStrategy"` // 0 direct, 1 warm-up, 2 by free memory
	ControlBehavior        int     `json:"controlBehavior"`        // 0 reject, 1 throttle
	Threshold              float64 `json:"threshold"`
	RelationStrategy       int     `json:"relationStrategy"` // 0 this resource counts, 1 RefResource does
	RefResource            string  `json:"refResource"`
	MaxQueueingTimeMs      uint32  `json:"maxQueueingTimeMs"`
	WarmUpPeriodSec        uint32  `json:"warmUpPeriodSec"`
	WarmUpColdFactor       uint32  `json:"warmUpColdFactor"`
	StatIntervalInMs       uint32  `json:"statIntervalInMs"`
	LowMemUsageThreshold   int64   `json:"lowMemUsageThreshold"`
	HighMemUsageThreshold  int64   `json:"highMemUsageThreshold"`
	MemLowWaterMarkBytes   int64   `json:"memLowWaterMarkBytes"`
	MemHighWaterMarkBytes  int64   `json:"memHighWaterMarkBytes"`
}

func (r *flowRule) check() error {
	switch {
	case r.Resource == "":
		return errNoResource
	case r.Threshold < 0:
		return errors.New("threshold must not be negative")
	case r.TokenCalculateStrategy < 0 || r.TokenCalculateStrategy > 2:
		return errors.New("tokenCalculateStrategy must be 0 (direct), 1 (warm-up) or 2 (memory)")
	case r.ControlBehavior < 0 || r.ControlBehavior > 1:
		return errors.New("controlBehavior must be 0 (reject) or 1 (throttle)")
	case r.RelationStrategy < 0 || r.RelationStrategy > 1:
		return errors.New("relationStrategy must be 0 (this resource) or 1 (refResource)")
	case r.RelationStrategy == 1 && r.RefResource == "":
		return errors.New("refResource is required with relationStrategy 1")
	case r.TokenCalculateStrategy == warmUpStrategy && r.WarmUpPeriodSec == 0:
		return errors.New("warmUpPeriodSec must be over 0")
	case r.TokenCalculateStrategy == warmUpStrategy && r.WarmUpColdFactor == 1:
		return errors.New("warmUpColdFactor must be over 1")
	case r.TokenCalculateStrategy == memoryStrategy && (r.HighMemUsageThreshold <= 0 || r.LowMemUsageThreshold <= r.HighMemUsageThreshold):
		return errors.New("lowMemUsageThreshold must be over highMemUsageThreshold, and that over 0")
	case r.TokenCalculateStrategy == memoryStrategy && (r.MemLowWaterMarkBytes <= 0 || r.MemHighWaterMarkBytes <= r.MemLowWaterMarkBytes):
		return errors.New("memHighWaterMarkBytes must be over memLowWaterMarkBytes, and that over 0")
	}
	return nil
}

// breakerRule keeps requests from a resource that fails or is slow.
type breakerRule struct {
	Resource                     string  `json:"resource"`
	Strategy                     int     `json:"strategy"` // 0 ratio of slow requests, 1 ratio of errors, 2 number of errors
	RetryTimeoutMs               uint32  `json:"retryTimeoutMs"`
	MinRequestAmount             int64   `json:"minRequestAmount"`
	StatIntervalMs               uint32  `json:"statIntervalMs"`
	StatSlidingWindowBucketCount uint32  `json:"statSlidingWindowBucketCount"`
	MaxAllowedRtMs               int64   `json:"maxAllowedRtMs"`
	Threshold                    float64 `json:"threshold"`
	ProbeNum                     int64   `json:"probeNum"`
}

func (r *breakerRule) check() error {
	switch {
	case r.Resource == "":
		return errNoResource
	case r.Strategy < 0 || r.Strategy > 2:
		return errors.New("strategy must be 0 (ratio of slow requests), 1 (ratio of errors) or 2 (number of errors)")
	case r.StatIntervalMs == 0:
		return errors.New("statIntervalMs must be over 0")
	case r.RetryTimeoutMs == 0:
		return errors.New("retryTimeoutMs must be over 0")
	case r.Threshold < 0:
		return errors.New("threshold must not be negative")
	case r.Strategy != errorCount && r.Threshold > 1:
		return errors.New("threshold is a ratio with this strategy, and must be from 0 to 1")
	}
	return nil
}

// hotSpotRule bounds the requests of a resource for each value of a parameter.
type hotSpotRule struct {
	Resource          string     `json:"resource"`
	MetricType        int        `json:"metricType"`      // 0 concurrent requests, 1 requests in a time
	ControlBehavior   int        `json:"controlBehavior"` // 0 reject, 1 throttle
	ParamIndex        int        `json:"paramIndex"`
	ParamKey          string     `json:"paramKey"`
	Threshold         int64      `json:"threshold"`
	MaxQueueingTimeMs int64      `json:"maxQueueingTimeMs"`
	BurstCount        int64      `json:"burstCount"`
	DurationInSec     int64      `json:"durationInSec"`
	ParamsMaxCapacity int64      `json:"paramsMaxCapacity"`
	SpecificItems     []specific `json:"specificItems"`
}

// specific is the threshold of one value.
type specific struct {
	Value     string `json:"valStr"`
	Threshold int64  `json:"threshold"`
}

func (r *hotSpotRule) check() error {
	switch {
	case r.Resource == "":
		return errNoResource
	case r.Threshold < 0:
		return errors.New("threshold must not be negative")
	case r.MetricType < 0 || r.MetricType > 1:
		return errors.New("metricType must be 0 (concurrency) or 1 (requests in a time)")
	case r.ControlBehavior < 0 || r.ControlBehavior > 1:
		return errors.New("controlBehavior must be 0 (reject) or 1 (throttle)")
	case r.MetricType == byRate && (r.DurationInSec <= 0 || r.DurationInSec > 1e6):
		return errors.New("durationInSec must be over 0 with metricType 1")
	case r.BurstCount < 0 || r.MaxQueueingTimeMs < 0:
		return errors.New("burstCount and maxQueueingTimeMs must not be negative")
	case r.ParamIndex > 0 && r.ParamKey != "":
		return errors.New("paramIndex and paramKey exclude each other")
	case r.Threshold > maxThreshold || r.BurstCount > maxThreshold:
		return fmt.Errorf("threshold and burstCount must not be over %d", int64(maxThreshold))
	}
	return nil
}

// maxThreshold bounds the thresholds of parameters, so that products of them stay in their range.
const maxThreshold = 1 << 31

// isolationRule bounds the concurrent requests of a resource.
type isolationRule struct {
	Resource   string `json:"resource"`
	MetricType int    `json:"metricType"` // 0 concurrent requests
	Threshold  uint32 `json:"threshold"`
}

func (r *isolationRule) check() error {
	switch {
	case r.Resource == "":
		return errNoResource
	case r.MetricType != 0:
		return errors.New("metricType must be 0 (concurrency)")
	case r.Threshold == 0:
		return errors.New("threshold must be over 0")
	}
	return nil
}

// systemRule bounds all requests by a figure of the process or the machine.
type systemRule struct {
	MetricType   int     `json:"metricType"` // 0 load, 1 average response time in ms, 2 concurrency, 3 requests per second, 4 CPU (0 to 1)
	TriggerCount float64 `json:"triggerCount"`
	Strategy     int     `json:"strategy"` // -1 and 0 none, 1 BBR
}

func (r *systemRule) check() error {
	switch {
	case r.TriggerCount < 0:
		return errors.New("triggerCount must not be negative")
	case r.MetricType < 0 || r.MetricType > 4:
		return errors.New("metricType must be 0 (load), 1 (average response time), 2 (concurrency), 3 (requests per second) or 4 (CPU)")
	case r.MetricType == byCPU && r.TriggerCount > 1:
		return errors.New("triggerCount is a ratio with metricType 4, and must be from 0 to 1")
	}
	return nil
}

var errNoResource = errors.New("resource is missing; name one as METHOD:path, such as GET:/v1.0/invoke/app/method/orders")

// parse reads the rules in a property.
func parse[R any, P interface {
	*R
	check() error
}](property, text string) (rules []R, err error) {
	if strings.TrimSpace(text) == "" {
		return nil, nil
	}
	if err := json.Unmarshal([]byte(text), &rules); err != nil {
		return nil, fmt.Errorf("metadata property %q is not a JSON array of Sentinel's rules: %w", property, err)
	}
	for i := range rules {
		if err := P(&rules[i]).check(); err != nil {
			return nil, fmt.Errorf("metadata property %q: rule %d: %w", property, i, err)
		}
	}
	return rules, nil
}
