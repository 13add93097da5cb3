package resource

// Configuration configures a sidecar (and, in part, the control plane). Start from DefaultConfiguration: documents are
// merged over it.
type Configuration struct {
	Header
	Spec ConfigurationSpec `json:"spec"`
}

// ConfigurationSpec is the spec of a Configuration.
type ConfigurationSpec struct {
	// HTTPPipeline is the middleware of the sidecar's HTTP API, AppHTTPPipeline that of calls to the app.
	HTTPPipeline    Pipeline `json:"httpPipeline,omitzero"`
	AppHTTPPipeline Pipeline `json:"appHttpPipeline,omitzero"`
	Tracing         Tracing  `json:"tracing,omitzero"`
	// Metric and Metrics are two names of one thing; read them with EffectiveMetrics.
	Metric         MetricsSpec      `json:"metric,omitzero"`
	Metrics        MetricsSpec      `json:"metrics,omitzero"`
	MTLS           MTLS             `json:"mtls,omitzero"`
	Secrets        Secrets          `json:"secrets,omitzero"`
	AccessControl  AccessControl    `json:"accessControl,omitzero"`
	NameResolution NameResolution   `json:"nameResolution,omitzero"`
	Features       []Feature        `json:"features,omitempty"`
	API            APIAccess        `json:"api,omitzero"`
	Components     ComponentsAccess `json:"components,omitzero"`
	Logging        Logging          `json:"logging,omitzero"`
	WASM           WASM             `json:"wasm,omitzero"`
	Workflow       WorkflowLimits   `json:"workflow,omitzero"`
}

// Pipeline is a chain of HTTP middleware, the first outermost.
type Pipeline struct {
	Handlers []PipelineHandler `json:"handlers,omitempty"`
}

// PipelineHandler names a middleware component. All of name, type and version must match a loaded component.
type PipelineHandler struct {
	Name string `json:"name"`
	Type string `json:"type"`
	// Version is v1 when empty.
	Version string `json:"version,omitempty"`
	// Selector is accepted and has no effect.
	Selector PipelineSelector `json:"selector,omitzero"`
}

// VersionOrDefault returns the version, v1 if unset.
func (h *PipelineHandler) VersionOrDefault() string {
	if h.Version == "" {
		return "v1"
	}
	return h.Version
}

// PipelineSelector is accepted and has no effect.
type PipelineSelector struct {
	Fields []PipelineSelectorField `json:"fields,omitempty"`
}

// PipelineSelectorField is accepted and has no effect.
type PipelineSelectorField struct {
	Field string `json:"field"`
	Value string `json:"value"`
}

// Tracing configures trace export.
type Tracing struct {
	// SamplingRate is a number from 0 to 1 as text; "0" turns tracing off.
	SamplingRate string `json:"samplingRate,omitempty"`
	// Stdout writes spans to the log.
	Stdout bool   `json:"stdout,omitempty"`
	Zipkin Zipkin `json:"zipkin,omitzero"`
	OTel   OTel   `json:"otel,omitzero"`
}

// Zipkin is a Zipkin v2 exporter; off if the address is empty.
type Zipkin struct {
	// EndpointAddress is a URL.
	EndpointAddress string `json:"endpointAddress,omitempty"`
}

// OTel is an OTLP exporter; active if both protocol and endpointAddress are set.
type OTel struct {
	// Protocol is http or grpc.
	Protocol string `json:"protocol,omitempty"`
	// EndpointAddress is host:port.
	EndpointAddress string `json:"endpointAddress,omitempty"`
	// IsSecure uses TLS; nil is true.
	IsSecure *bool       `json:"isSecure,omitempty"`
	Headers  OTelHeaders `json:"headers,omitempty"`
	Timeout  Duration    `json:"timeout,omitzero"`
}

// Secure returns isSecure, true if unset.
func (o *OTel) Secure() bool { return orTrue(o.IsSecure) }

// MTLS is read by the control plane, not by the sidecar.
type MTLS struct {
	Enabled                 bool             `json:"enabled"`
	WorkloadCertTTL         string           `json:"workloadCertTTL,omitempty"`
	AllowedClockSkew        string           `json:"allowedClockSkew,omitempty"`
	SentryAddress           string           `json:"sentryAddress,omitempty"`
	ControlPlaneTrustDomain string           `json:"controlPlaneTrustDomain,omitempty"`
	TokenValidators         []TokenValidator `json:"tokenValidators,omitempty"`
}

// TokenValidator configures a validator of the certificate authority.
type TokenValidator struct {
	// Name is jwks.
	Name    string `json:"name"`
	Options Value  `json:"options,omitzero"`
}

// NameResolution selects the name resolution component.
type NameResolution struct {
	// Component is e.g. mdns; empty is the default of the hosting mode.
	Component string `json:"component,omitempty"`
	// Version is v1 when empty.
	Version       string `json:"version,omitempty"`
	Configuration Value  `json:"configuration,omitzero"`
}

// Feature turns a feature on or off.
type Feature struct {
	Name    string `json:"name"`
	Enabled bool   `json:"enabled"`
}

// ComponentsAccess limits the components that may load.
type ComponentsAccess struct {
	// Deny lists "type" or "type/version"; see Component.Denied.
	Deny []string `json:"deny,omitempty"`
}

// Logging configures logs.
type Logging struct {
	APILogging APILogging `json:"apiLogging,omitzero"`
}

// APILogging configures the log of API calls.
type APILogging struct {
	// Enabled is nil if not written, which is false.
	Enabled          *bool `json:"enabled,omitempty"`
	ObfuscateURLs    bool  `json:"obfuscateURLs,omitempty"`
	OmitHealthChecks bool  `json:"omitHealthChecks,omitempty"`
}

// WASM configures WebAssembly components.
type WASM struct {
	// StrictSandbox forces strictSandbox on every wasm component.
	StrictSandbox bool `json:"strictSandbox,omitempty"`
}

// WorkflowLimits configures the workflow engine. Values of 0 or less are without limit.
type WorkflowLimits struct {
	// Per sidecar.
	MaxConcurrentWorkflowInvocations int32 `json:"maxConcurrentWorkflowInvocations,omitempty"`
	MaxConcurrentActivityInvocations int32 `json:"maxConcurrentActivityInvocations,omitempty"`
	// Across the replicas of the app.
	GlobalMaxConcurrentWorkflowInvocations int32                `json:"globalMaxConcurrentWorkflowInvocations,omitempty"`
	GlobalMaxConcurrentActivityInvocations int32                `json:"globalMaxConcurrentActivityInvocations,omitempty"`
	WorkflowConcurrencyLimits              []ConcurrencyLimit   `json:"workflowConcurrencyLimits,omitempty"`
	ActivityConcurrencyLimits              []ConcurrencyLimit   `json:"activityConcurrencyLimits,omitempty"`
	StateRetentionPolicy                   StateRetentionPolicy `json:"stateRetentionPolicy,omitzero"`
}

// ConcurrencyLimit limits one workflow or activity by name.
type ConcurrencyLimit struct {
	Name          string `json:"name"`
	MaxConcurrent int32  `json:"maxConcurrent"`
}

// StateRetentionPolicy says how long the state of ended workflows is kept; unset is for ever. A specific entry wins over
// AnyTerminal.
type StateRetentionPolicy struct {
	AnyTerminal *Duration `json:"anyTerminal,omitempty"`
	Completed   *Duration `json:"completed,omitempty"`
	Failed      *Duration `json:"failed,omitempty"`
	Terminated  *Duration `json:"terminated,omitempty"`
}

// DefaultConfiguration returns what a sidecar uses without configuration: tracing off with a secure OTLP exporter, metrics on, and
// access control {defaultAction: allow, trustDomain: public}.
func DefaultConfiguration() *Configuration {
	secure, enabled := true, true
	c := &Configuration{}
	c.Spec.Tracing.OTel.IsSecure = &secure
	c.Spec.Metric.Enabled = &enabled
	c.Spec.AccessControl.DefaultAction = ActionAllow
	c.Spec.AccessControl.TrustDomain = DefaultTrustDomain
	return c
}

// AppScopes implements Resource; a Configuration has no scopes.
func (c *Configuration) AppScopes() []string { return nil }

func (c *Configuration) identity() any { return [2]any{c.Metadata.Name, c.Spec} }

// SecretAllowed tells whether the secrets API may hand out a secret of a store (Dapr API, secrets: scopes). Secret references of
// components are not limited by it.
func (c *Configuration) SecretAllowed(store, name string) bool {
	return c.Spec.Secrets.Allowed(store, name)
}

func orTrue(b *bool) bool { return b == nil || *b }
