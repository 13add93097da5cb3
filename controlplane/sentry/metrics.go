package sentry

import (
	"github.com/prometheus/client_golang/prometheus"

	"outrigger.dev/controlplane/internal/serving"
	"outrigger.dev/controlplane/sentry/ca"
)

// metrics are those of one Sentry (Dapr API, metrics: sentry).
type metrics struct {
	registry      *prometheus.Registry
	received      prometheus.Counter
	signed        prometheus.Counter
	signFailed    prometheus.Counter
	ownCertFailed prometheus.Counter
	issuerChanged prometheus.Counter
	issuerExpiry  prometheus.Gauge
	signFailures  *prometheus.CounterVec
}

func newMetrics() *metrics {
	m := &metrics{registry: serving.NewMetrics()}
	counter := func(name, help string) prometheus.Counter {
		c := prometheus.NewCounter(prometheus.CounterOpts{Name: "dapr_sentry_" + name, Help: help})
		m.registry.MustRegister(c)
		return c
	}
	m.received = counter("cert_sign_request_received_total", "The number of certificate signing requests received.")
	m.signed = counter("cert_sign_success_total", "The number of certificates issued.")
	m.signFailures = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "dapr_sentry_cert_sign_failure_total", Help: "The number of errors that occurred when signing a certificate.",
	}, []string{"reason"})
	m.signFailed = m.signFailures.WithLabelValues("sign")
	m.ownCertFailed = counter("servercert_issue_failed_total", "The number of times that Sentry could not issue its own certificate.")
	m.issuerChanged = counter("issuercert_changed_total", "The number of times that the issuer certificate was generated or changed.")
	m.issuerExpiry = prometheus.NewGauge(prometheus.GaugeOpts{
		Name: "dapr_sentry_issuercert_expiry_timestamp", Help: "The unix timestamp, in seconds, when the issuer certificate expires.",
	})
	m.registry.MustRegister(m.signFailures, m.issuerExpiry)
	return m
}

// authorityChanged counts another issuer.
func (m *metrics) authorityChanged(previous, present *ca.Authority, generated bool) {
	m.issuerExpiry.Set(float64(present.Issuer().NotAfter.Unix()))
	if (previous == nil && generated) || (previous != nil && !previous.Issuer().Equal(present.Issuer())) {
		m.issuerChanged.Inc()
	}
}
