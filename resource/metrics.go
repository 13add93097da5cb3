package resource

// MetricsSpec is the metrics section as written; nil is "not written".
type MetricsSpec struct {
	Enabled          *bool         `json:"enabled,omitempty"`
	RecordErrorCodes *bool         `json:"recordErrorCodes,omitempty"`
	HTTP             *MetricsHTTP  `json:"http,omitempty"`
	Rules            []MetricsRule `json:"rules,omitempty"`
	// LatencyDistributionBuckets are the upper bounds of latency histograms in milliseconds.
	LatencyDistributionBuckets []int `json:"latencyDistributionBuckets,omitempty"`
}

// MetricsHTTP configures the metrics of the HTTP API.
type MetricsHTTP struct {
	// IncreasedCardinality is true if unset.
	IncreasedCardinality *bool    `json:"increasedCardinality,omitempty"`
	PathMatching         []string `json:"pathMatching,omitempty"`
	ExcludeVerbs         *bool    `json:"excludeVerbs,omitempty"`
}

// MetricsRule rewrites the label values of one metric.
type MetricsRule struct {
	Name   string         `json:"name"`
	Labels []MetricsLabel `json:"labels,omitempty"`
}

// MetricsLabel maps values of a label to the regular expressions that are replaced by them.
type MetricsLabel struct {
	Name  string            `json:"name"`
	Regex map[string]string `json:"regex,omitempty"`
}

// Metrics is the metrics section with defaults applied.
type Metrics struct {
	Enabled                    bool
	RecordErrorCodes           bool
	IncreasedCardinality       bool
	PathMatching               []string
	ExcludeVerbs               bool
	Rules                      []MetricsRule
	LatencyDistributionBuckets []int // milliseconds; nil is the built-in list
}

// EffectiveMetrics returns the metrics settings: what metrics writes, else what metric writes, field by field, else the default
// (Dapr API, configuration files).
func (c *Configuration) EffectiveMetrics() Metrics {
	s := c.Spec.Metric
	over := c.Spec.Metrics
	if over.Enabled != nil {
		s.Enabled = over.Enabled
	}
	if over.RecordErrorCodes != nil {
		s.RecordErrorCodes = over.RecordErrorCodes
	}
	if over.HTTP != nil {
		s.HTTP = over.HTTP
	}
	if over.Rules != nil {
		s.Rules = over.Rules
	}
	if over.LatencyDistributionBuckets != nil {
		s.LatencyDistributionBuckets = over.LatencyDistributionBuckets
	}
	m := Metrics{
		Enabled:                    orTrue(s.Enabled),
		RecordErrorCodes:           s.RecordErrorCodes != nil && *s.RecordErrorCodes,
		IncreasedCardinality:       true,
		Rules:                      s.Rules,
		LatencyDistributionBuckets: s.LatencyDistributionBuckets,
	}
	if h := s.HTTP; h != nil {
		m.IncreasedCardinality = orTrue(h.IncreasedCardinality)
		m.PathMatching = h.PathMatching
		m.ExcludeVerbs = h.ExcludeVerbs != nil && *h.ExcludeVerbs
	}
	return m
}
