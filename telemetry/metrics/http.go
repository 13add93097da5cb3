package metrics

import (
	"net/http"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// verb returns the label method: the verb if it is one of HTTP's, else UNKNOWN, so that clients cannot invent series. The result
// never shares memory with a request.
func verb(method string) string {
	switch method {
	case http.MethodGet:
		return http.MethodGet
	case http.MethodPost:
		return http.MethodPost
	case http.MethodPut:
		return http.MethodPut
	case http.MethodDelete:
		return http.MethodDelete
	case http.MethodHead:
		return http.MethodHead
	case http.MethodPatch:
		return http.MethodPatch
	case http.MethodOptions:
		return http.MethodOptions
	case http.MethodConnect:
		return http.MethodConnect
	case http.MethodTrace:
		return http.MethodTrace
	}
	return "UNKNOWN"
}

// knownStatus is the status as a label shows it: a number that no HTTP response can have is 0.
func knownStatus(status int) int {
	if status < 0 || status > 999 {
		return 0
	}
	return status
}

// pathEntry stands for one value of the label path. Its address is the key of the series below it.
type pathEntry struct{ path string }

// pathSet holds the paths of one side, at most as many as its tables' limit. Any path after that has the entry of "".
type pathSet struct {
	known *table[string, *pathEntry]
	none  *pathEntry
	// exposed is the path as the rules rewrite it, once for each metric of the side; nil if no rule touches a path. Paths that are
	// exposed alike share an entry, so that a rule that folds many paths into one keeps them from using up the limit.
	exposed func(path string) string
	folded  *table[string, *pathEntry]
}

func newPathSet(f *factory, metrics ...string) *pathSet {
	s := &pathSet{known: newTable[string, *pathEntry](f.limit), none: new(pathEntry)}
	if s.exposed = f.rules.folding(labelPath, metrics...); s.exposed != nil {
		s.folded = newTable[string, *pathEntry](f.limit)
	}
	return s
}

func (s *pathSet) entry(path string) *pathEntry {
	if path == "" {
		return s.none
	}
	if e, ok := s.known.get(path); ok {
		return e
	}
	return s.miss(path)
}

func (s *pathSet) miss(path string) *pathEntry {
	full := s.known.full()
	if full && s.exposed == nil {
		return s.none
	}
	path = own(path) // it may lie in the buffer of a request
	e := &pathEntry{path}
	if s.exposed != nil {
		folded := s.exposed(path)
		known, ok := s.folded.get(folded)
		if !ok {
			if s.folded.full() {
				return s.none
			}
			if known, ok = s.folded.add(folded, func(string) *pathEntry { return e }); !ok {
				return s.none
			}
		}
		e = known
		if full {
			return e // too many paths to remember each, but not too many labels
		}
	}
	known, ok := s.known.add(path, func(string) *pathEntry { return e })
	switch {
	case ok:
		return known
	case s.exposed != nil:
		return e
	}
	return s.none
}

// httpKey tells HTTP series apart; the path is nil in its blank form.
type httpKey struct {
	verb   string
	status int
	path   *pathEntry
}

func (k httpKey) owned() httpKey { return k } // its strings are constants

func (k httpKey) blank() httpKey { return httpKey{verb: k.verb, status: k.status} }

// label is the label path.
func (k httpKey) label() string {
	if k.path == nil {
		return ""
	}
	return k.path.path
}

// seriesPerPath is how many combinations of verb and status there may be for each of the paths that are kept, on average.
const seriesPerPath = 2

// httpSide finds the series of requests on one side.
type httpSide[S any] struct {
	labeller     *pathLabeller
	excludeVerbs bool
	paths        *pathSet
	series       *family[httpKey, S]
}

func newHTTPSide[S any](f *factory, o HTTPOptions, l *pathLabeller, paths *pathSet, create func(httpKey) S) httpSide[S] {
	return httpSide[S]{labeller: l, excludeVerbs: o.ExcludeVerbs, paths: paths, series: newFamily(seriesPerPath*f.limit, create)}
}

func (h *httpSide[S]) find(method, path string, status int) S {
	k := httpKey{status: knownStatus(status), path: h.paths.entry(h.labeller.label(path))}
	if !h.excludeVerbs {
		k.verb = verb(method)
	}
	return h.series.find(k)
}

// HTTPServer measures requests to the API and public HTTP servers (Dapr API, metrics: http_server_*).
type HTTPServer struct {
	side          httpSide[*httpServerSeries]
	requestBytes  func() prometheus.Observer
	responseBytes func() prometheus.Observer
}

type httpServerSeries struct {
	requests  prometheus.Counter
	responses prometheus.Counter // nil without increased cardinality
	latency   prometheus.Observer
}

func newHTTPServer(f *factory, o HTTPOptions, l *pathLabeller) *HTTPServer {
	labels := []string{labelMethod, labelPath, labelStatus}
	requests := f.counter("http_server_request_count", "Requests to the HTTP server.", labels)
	latency := f.histogram("http_server_latency", "Duration of requests to the HTTP server, in whole milliseconds.", f.latency, labels)
	requestBytes := f.histogram("http_server_request_bytes", "Content-Length of requests to the HTTP server.", f.size, nil)
	responseBytes := f.histogram("http_server_response_bytes", "Body sizes of responses of the HTTP server.", f.size, nil)
	names := []string{requests.name, latency.name}
	var responses *counterVec
	if o.IncreasedCardinality {
		responses = f.counter("http_server_response_count", "Responses of the HTTP server.", labels)
		names = append(names, responses.name)
	}
	return &HTTPServer{
		side: newHTTPSide(f, o, l, newPathSet(f, names...), func(k httpKey) *httpServerSeries {
			status := strconv.Itoa(k.status)
			s := &httpServerSeries{
				requests: requests.with(k.verb, k.label(), status),
				latency:  latency.with(k.verb, k.label(), status),
			}
			if responses != nil {
				s.responses = responses.with(k.verb, k.label(), status)
			}
			return s
		}),
		requestBytes:  requestBytes.later(),
		responseBytes: responseBytes.later(),
	}
}

// Observe counts one completed request: its verb, its decoded path without the query, the status of the response, how long it
// took, and the bytes of the bodies. A negative size means unknown and is not recorded. The strings need not outlive the call.
func (h *HTTPServer) Observe(method, path string, status int, latency time.Duration, requestBytes, responseBytes int64) {
	if h == nil {
		return
	}
	s := h.side.find(method, path, status)
	s.requests.Inc()
	if s.responses != nil {
		s.responses.Inc()
	}
	s.latency.Observe(wholeMillis(latency))
	if requestBytes >= 0 {
		h.requestBytes().Observe(float64(requestBytes))
	}
	if responseBytes >= 0 {
		h.responseBytes().Observe(float64(responseBytes))
	}
}

// HTTPClient measures HTTP calls to the app and to HTTPEndpoints (Dapr API, metrics: http_client_*).
type HTTPClient struct {
	side          httpSide[*httpClientSeries]
	receivedBytes func() prometheus.Observer
}

type httpClientSeries struct {
	completed prometheus.Counter
	roundtrip prometheus.Observer
	sent      func() prometheus.Observer
}

func newHTTPClient(f *factory, o HTTPOptions, l *pathLabeller) *HTTPClient {
	labels := []string{labelMethod, labelPath, labelStatus}
	sent := f.histogram("http_client_sent_bytes", "Body sizes of HTTP calls to the app.", f.size, labels)
	completed := f.counter("http_client_completed_count", "HTTP calls to the app that were completed.", labels)
	roundtrip := f.histogram("http_client_roundtrip_latency", "Duration of HTTP calls to the app, in whole milliseconds.", f.latency, labels)
	received := f.histogram("http_client_received_bytes", "Body sizes of responses of the app.", f.size, nil)
	return &HTTPClient{
		side: newHTTPSide(f, o, l, newPathSet(f, sent.name, completed.name, roundtrip.name), func(k httpKey) *httpClientSeries {
			status := strconv.Itoa(k.status)
			return &httpClientSeries{
				completed: completed.with(k.verb, k.label(), status),
				roundtrip: roundtrip.with(k.verb, k.label(), status),
				// What is sent is counted before there is a status: the label is always empty.
				sent: sent.later(k.verb, k.label(), ""),
			}
		}),
		receivedBytes: received.later(),
	}
}

// Observe counts one completed call: its verb, its path without the query, the status of the response, how long it took, and the
// bytes of the bodies. A negative size means unknown and is not recorded. The strings need not outlive the call.
func (h *HTTPClient) Observe(method, path string, status int, latency time.Duration, sentBytes, receivedBytes int64) {
	if h == nil {
		return
	}
	s := h.side.find(method, path, status)
	s.completed.Inc()
	s.roundtrip.Observe(wholeMillis(latency))
	if sentBytes >= 0 {
		s.sent().Observe(float64(sentBytes))
	}
	if receivedBytes >= 0 {
		h.receivedBytes().Observe(float64(receivedBytes))
	}
}

// HTTPProbe measures health probes of an HTTP app (Dapr API, metrics: http_healthprobes_*).
type HTTPProbe struct {
	series *table[int, httpProbeSeries]
	create func(int) httpProbeSeries
}

type httpProbeSeries struct {
	completed prometheus.Counter
	roundtrip prometheus.Observer
}

func newHTTPProbe(f *factory) *HTTPProbe {
	labels := []string{labelStatus}
	completed := f.counter("http_healthprobes_completed_count", "Health probes of an HTTP app.", labels)
	roundtrip := f.histogram("http_healthprobes_roundtrip_latency", "Duration of health probes of an HTTP app, in whole milliseconds.",
		f.latency, labels)
	return &HTTPProbe{
		series: newTable[int, httpProbeSeries](0),
		create: func(status int) httpProbeSeries {
			return httpProbeSeries{completed.with(strconv.Itoa(status)), roundtrip.with(strconv.Itoa(status))}
		},
	}
}

// Observe counts one probe by the status of its response. A probe that got none (status 0: a network error or a timeout) counts
// as status 500.
func (p *HTTPProbe) Observe(status int, latency time.Duration) {
	if p == nil {
		return
	}
	if status <= 0 || status > 999 {
		status = http.StatusInternalServerError
	}
	s, ok := p.series.get(status)
	if !ok {
		s, _ = p.series.add(status, p.create)
	}
	s.completed.Inc()
	s.roundtrip.Observe(wholeMillis(latency))
}
