package export

import (
	"fmt"
	"net/url"
	"strconv"
	"strings"
	"time"

	"outrigger.dev/resource"
)

// Rates (Dapr API, tracing: configuration).
const (
	// off is the sampling rate that turns tracing off.
	off = "0"
	// defaultRate is the one of a Configuration that gives none, or none that is a number.
	defaultRate = 0.0001
)

// settings are a Configuration's tracing with what the environment adds.
type settings struct {
	rateText  string
	stdout    bool
	zipkin    string
	protocol  string // of OTLP: http, grpc, or "" for no exporter
	endpoint  string
	secure    bool
	headers   map[string]string
	timeout   time.Duration // 0 is the exporter's own
	service   string
	resources [][2]string // attributes
	warnings  []string
}

// exports reports whether spans go anywhere.
func (s *settings) exports() bool { return s.stdout || s.zipkin != "" || s.protocol != "" }

// rate is the share of traces to sample.
func (s *settings) rate() float64 {
	rate, err := strconv.ParseFloat(s.rateText, 64)
	if err != nil || rate != rate {
		return defaultRate
	}
	return rate
}

// environment reads the variables of OpenTelemetry; one that is empty is as good as unset.
type environment func(string) (string, bool)

func (e environment) first(names ...string) (name, value string) {
	for _, name := range names {
		if value, _ := e(name); value != "" {
			return name, value
		}
	}
	return "", ""
}

// otlp is the first of an OTLP exporter's variables that is set: the one for traces comes before the one for everything.
func (e environment) otlp(what string) (name, value string) {
	return e.first("OTEL_EXPORTER_OTLP_TRACES_"+what, "OTEL_EXPORTER_OTLP_"+what)
}

// resolve puts a Configuration and the environment together (Dapr API, tracing: configuration). Its errors are fatal.
func resolve(c resource.Tracing, appID string, env environment) (*settings, error) {
	s := &settings{
		rateText: strings.TrimSpace(c.SamplingRate), stdout: c.Stdout, zipkin: c.Zipkin.EndpointAddress,
		endpoint: c.OTel.EndpointAddress, protocol: c.OTel.Protocol, secure: c.OTel.Secure(), timeout: time.Duration(c.OTel.Timeout), service: appID,
	}
	allowed := resource.NewEnv(env)
	for _, h := range c.OTel.Headers {
		if s.headers == nil {
			s.headers = map[string]string{}
		}
		value := h.Value.String()
		if !h.Value.IsSet() && h.EnvRef != "" {
			var err error
			if value, err = allowed.Get(h.EnvRef); err != nil {
				return nil, fmt.Errorf("spec.tracing.otel.headers: %s: %w", h.Name, err)
			}
		}
		s.headers[h.Name] = value
	}
	if s.endpoint == "" {
		if err := s.fromEnvironment(env); err != nil {
			return nil, err
		}
	}
	switch {
	case s.endpoint == "" || s.protocol == "":
		s.protocol = ""
	case s.protocol != "http" && s.protocol != "grpc":
		return nil, fmt.Errorf("invalid protocol %s provided for Otel endpoint", s.protocol)
	}
	if s.zipkin != "" {
		if u, err := url.Parse(s.zipkin); err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
			return nil, fmt.Errorf("tracing.zipkin.endpointAddress %q is not the URL of a Zipkin collector; write it like http://localhost:9411/api/v2/spans", s.zipkin)
		}
	}
	if _, name := env.first("OTEL_SERVICE_NAME"); name != "" {
		s.service = name
	}
	if _, text := env.first("OTEL_RESOURCE_ATTRIBUTES"); text != "" {
		pairs, err := parsePairs(text)
		if err != nil {
			s.warnings = append(s.warnings, fmt.Sprintf("OTEL_RESOURCE_ATTRIBUTES is ignored: %s; write it as key=value,key2=value2 with other characters percent-encoded", err))
		}
		s.resources = pairs
	}
	return s, nil
}

// fromEnvironment is the OTLP exporter of the environment, which counts when the Configuration names no endpoint.
func (s *settings) fromEnvironment(env environment) error {
	if _, s.endpoint = env.otlp("ENDPOINT"); s.endpoint == "" {
		return nil
	}
	s.endpoint = strings.TrimPrefix(strings.TrimPrefix(s.endpoint, "http://"), "https://")
	if s.rateText == "" {
		s.rateText = "1"
	}
	s.protocol = "grpc"
	if _, protocol := env.otlp("PROTOCOL"); strings.HasPrefix(protocol, "http") {
		s.protocol = "http"
	}
	if _, insecure := env.first("OTEL_EXPORTER_OTLP_INSECURE"); strings.EqualFold(insecure, "true") {
		s.secure = false
	}
	if name, text := env.otlp("HEADERS"); text != "" {
		pairs, err := parsePairs(text)
		if err != nil {
			return fmt.Errorf("invalid headers in %s: %w; write them as key=value,key2=value2 with other characters percent-encoded", name, err)
		}
		s.headers = make(map[string]string, len(pairs))
		for _, p := range pairs {
			s.headers[p[0]] = p[1]
		}
	}
	if name, text := env.otlp("TIMEOUT"); text != "" {
		ms, err := strconv.Atoi(strings.TrimSpace(text))
		if err != nil {
			return fmt.Errorf("invalid timeout %q in %s: give a whole number of milliseconds", text, name)
		}
		s.timeout = time.Duration(ms) * time.Millisecond
	}
	return nil
}

// parsePairs reads a list of the form k=v,k2=v2 with percent-encoded values. Values stay out of its errors: they may be secret.
func parsePairs(text string) ([][2]string, error) {
	var pairs [][2]string
	for pair := range strings.SplitSeq(text, ",") {
		if strings.TrimSpace(pair) == "" {
			continue
		}
		key, value, found := strings.Cut(pair, "=")
		key = strings.TrimSpace(key)
		if !found || key == "" {
			return nil, fmt.Errorf("its entry %d is not of the form key=value", len(pairs)+1)
		}
		value, err := url.PathUnescape(strings.TrimSpace(value))
		if err != nil {
			return nil, fmt.Errorf("the value of %s has a malformed percent escape", key)
		}
		pairs = append(pairs, [2]string{key, value})
	}
	return pairs, nil
}
