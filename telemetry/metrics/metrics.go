// Package metrics counts what a sidecar does and exposes it to Prometheus under Dapr's names.
//
// One [Metrics] belongs to one sidecar and has a registry of its own. Its metrics come in families, one file each: HTTP, gRPC,
// service invocation, component life cycle, component operations, input bindings, actors, jobs, error codes. A family is a handle that a part of the sidecar asks
// for once and keeps. Observing something known is a look-up without a lock and a few atomic additions: no label map is built and
// nothing is allocated.
//
// A nil *Metrics is valid, and so is every family of one that is nil or disabled: they do nothing. Callers need no conditions.
//
// Label values that other parties choose (paths, gRPC methods, app ids) are bounded in number, see [Options.MaxSeries], and cut to 256
// bytes.
package metrics

import (
	"fmt"
	"log/slog"
	"net/http"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// DefaultMaxSeries is the bound used where [Options.MaxSeries] is zero.
//
// A series of a histogram is about 40 lines, some 7 KB of an exposition: a family that is full costs a scrape that much a thousand times.
const DefaultMaxSeries = 1000

// Options configure the metrics of a sidecar. The zero value of a bool is false, also where Dapr's default is true: whoever reads
// the Configuration resource fills in the defaults.
type Options struct {
	// AppID is the label app_id of every metric.
	AppID string
	// Namespace is the label namespace of the component metrics, as the environment gives it: it may be empty.
	Namespace string
	// Enabled is spec.metrics.enabled (Dapr's default: true). If false, only the Go and process metrics are exposed.
	Enabled bool
	// HTTP is spec.metrics.http.
	HTTP HTTPOptions
	// Rules is spec.metrics.rules. If one of them has a bad regular expression, none is applied and Logger gets an error: the
	// sidecar starts nevertheless.
	Rules []Rule
	// LatencyBuckets is spec.metrics.latencyDistributionBuckets, in milliseconds. Empty means Dapr's list.
	LatencyBuckets []int
	// RecordErrorCodes is spec.metrics.recordErrorCodes (Dapr's default: false).
	RecordErrorCodes bool
	// MaxSeries bounds what one family keeps: the distinct paths of HTTP metrics (and twice as many combinations of verb, path and
	// status), the distinct label sets of others. Anything new beyond it is counted under an empty path (topic, method, app id).
	// Each path costs several histograms of memory here and in Prometheus, and clients choose the paths; unbounded, they could
	// exhaust both. Zero means [DefaultMaxSeries].
	MaxSeries int
	// Logger gets warnings and errors. Nil discards them.
	Logger *slog.Logger
}

// HTTPOptions say how the labels of HTTP metrics are made (Dapr API, Configuration: spec.metrics.http).
type HTTPOptions struct {
	// IncreasedCardinality labels requests by their path, shortened where it holds keys or ids, and adds the metric
	// http_server_response_count (Dapr's default: true).
	IncreasedCardinality bool
	// PathMatching are patterns in the syntax of net/http's ServeMux, without method and host. A request is labelled by the most
	// specific pattern that matches its path. A pattern that does not begin with /v1.0/invoke/ also applies to the path of a
	// service invocation of that method.
	PathMatching []string
	// ExcludeVerbs leaves the label method empty.
	ExcludeVerbs bool
}

// Metrics are the metrics of one sidecar. Its methods are safe for concurrent use.
type Metrics struct {
	registry *prometheus.Registry

	httpServer *HTTPServer
	httpClient *HTTPClient
	httpProbe  *HTTPProbe
	grpcServer *GRPCServer
	grpcClient *GRPCClient
	grpcProbe  *GRPCProbe
	invocation *Invocation
	components *Components
	state      *Operations
	secrets    *Operations
	pubsub     *PubSub
	outputs    *Operations
	inputs     *InputBindings
	resiliency *Resiliency
	mtls       *MTLS
	access     *AccessControl
	actors     *Actors
	jobs       *Jobs
	errorCodes *errorCodes
}

// New makes the metrics of a sidecar. It fails on a latency bucket or a path pattern that makes no sense; the error names it.
func New(o Options) (*Metrics, error) {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.MaxSeries <= 0 {
		o.MaxSeries = DefaultMaxSeries
	}
	m := &Metrics{registry: prometheus.NewRegistry()}
	m.registry.MustRegister(
		collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
	)
	if !o.Enabled {
		return m, nil
	}

	latency, err := latencyBuckets(o.LatencyBuckets)
	if err != nil {
		return nil, err
	}
	labeller, err := newPathLabeller(o.HTTP)
	if err != nil {
		return nil, fmt.Errorf("spec.metrics.http.pathMatching: %w", err)
	}
	rules, err := compileRules(o.Rules)
	if err != nil {
		o.Logger.Error("metrics are recorded without any of spec.metrics.rules: correct or remove the bad one", "error", err)
		rules = nil
	}
	f := &factory{
		registry:  m.registry,
		appID:     o.AppID,
		namespace: o.Namespace,
		rules:     rules,
		latency:   latency,
		size:      sizeBuckets(),
		limit:     o.MaxSeries,
	}
	m.httpServer = newHTTPServer(f, o.HTTP, labeller)
	m.httpClient = newHTTPClient(f, o.HTTP, labeller)
	m.httpProbe = newHTTPProbe(f)
	m.grpcServer = newGRPCServer(f)
	m.grpcClient = newGRPCClient(f)
	m.grpcProbe = newGRPCProbe(f)
	m.invocation = newInvocation(f)
	m.components = newComponents(f)
	m.state = newOperations(f, "state", "state store")
	m.secrets = newOperations(f, "secret", "secret store")
	m.pubsub = newPubSub(f)
	m.outputs = newOperations(f, "output_binding", "output binding")
	m.inputs = newInputBindings(f)
	m.resiliency = newResiliency(f)
	m.mtls = newMTLS(f)
	m.access = newAccessControl(f)
	m.actors = newActors(f)
	m.jobs = newJobs(f)
	if o.RecordErrorCodes {
		m.errorCodes = newErrorCodes(f)
	}
	return m, nil
}

// Enabled says whether dapr_ metrics are recorded at all.
func (m *Metrics) Enabled() bool { return m != nil && m.httpServer != nil }

// maxScrapes bounds the expositions that are put together at a time, each in memory; more are answered with 503.
const maxScrapes = 10

// Handler answers every path with the metrics in the Prometheus text format.
func (m *Metrics) Handler() http.Handler {
	// Not OpenMetrics: it would add _total to the names of counters, and dashboards know them without.
	return promhttp.HandlerFor(m.Gatherer(), promhttp.HandlerOpts{MaxRequestsInFlight: maxScrapes})
}

// Gatherer gives access to the metrics inside the process.
func (m *Metrics) Gatherer() prometheus.Gatherer {
	if m == nil {
		return prometheus.NewRegistry()
	}
	return m.registry
}

// HTTPServer measures requests to the API and public HTTP servers.
func (m *Metrics) HTTPServer() *HTTPServer {
	if m == nil {
		return nil
	}
	return m.httpServer
}

// HTTPClient measures HTTP calls to the app and to HTTPEndpoints.
func (m *Metrics) HTTPClient() *HTTPClient {
	if m == nil {
		return nil
	}
	return m.httpClient
}

// HTTPProbe measures health probes of an HTTP app.
func (m *Metrics) HTTPProbe() *HTTPProbe {
	if m == nil {
		return nil
	}
	return m.httpProbe
}

// GRPCServer measures gRPC calls that the sidecar answers.
func (m *Metrics) GRPCServer() *GRPCServer {
	if m == nil {
		return nil
	}
	return m.grpcServer
}

// GRPCClient measures gRPC calls that the sidecar makes.
func (m *Metrics) GRPCClient() *GRPCClient {
	if m == nil {
		return nil
	}
	return m.grpcClient
}

// GRPCProbe measures health probes of a gRPC app.
func (m *Metrics) GRPCProbe() *GRPCProbe {
	if m == nil {
		return nil
	}
	return m.grpcProbe
}

// Invocation counts service invocation between apps.
func (m *Metrics) Invocation() *Invocation {
	if m == nil {
		return nil
	}
	return m.invocation
}

// Components counts loading and initialisation of components.
func (m *Metrics) Components() *Components {
	if m == nil {
		return nil
	}
	return m.components
}

// PubSub measures publications and deliveries.
func (m *Metrics) PubSub() *PubSub {
	if m == nil {
		return nil
	}
	return m.pubsub
}

// State measures operations of state stores: get, set, delete, query, transaction, bulk_get and bulk_delete.
func (m *Metrics) State() *Operations {
	if m == nil {
		return nil
	}
	return m.state
}

// Secrets measures operations of secret stores: get and bulk_get.
func (m *Metrics) Secrets() *Operations {
	if m == nil {
		return nil
	}
	return m.secrets
}

// OutputBindings measures the operations that apps ask output bindings for.
func (m *Metrics) OutputBindings() *Operations {
	if m == nil {
		return nil
	}
	return m.outputs
}

// InputBindings measures the events that input bindings bring to the app.
func (m *Metrics) InputBindings() *InputBindings {
	if m == nil {
		return nil
	}
	return m.inputs
}

// Resiliency counts the use of resiliency policies.
func (m *Metrics) Resiliency() *Resiliency {
	if m == nil {
		return nil
	}
	return m.resiliency
}

// MTLS counts the life of the sidecar's certificate.
func (m *Metrics) MTLS() *MTLS {
	if m == nil {
		return nil
	}
	return m.mtls
}

// AccessControl counts verdicts of access control.
func (m *Metrics) AccessControl() *AccessControl {
	if m == nil {
		return nil
	}
	return m.access
}

// Actors measures the actors hosted here.
func (m *Metrics) Actors() *Actors {
	if m == nil {
		return nil
	}
	return m.actors
}

// Jobs measures jobs that are brought to the app.
func (m *Metrics) Jobs() *Jobs {
	if m == nil {
		return nil
	}
	return m.jobs
}

// ErrorCode counts an error returned by the API, by its code (for example ERR_STATE_STORE_NOT_FOUND) and category (for example
// state). It does so only if the Configuration asks for it.
func (m *Metrics) ErrorCode(code, category string) {
	if m != nil {
		m.errorCodes.add(code, category)
	}
}
