package metrics

import (
	"github.com/prometheus/client_golang/prometheus"
)

// Reasons why a certificate could not be had (Dapr API, metrics: runtime_mtls_workload_cert_rotated_fail_total).
const (
	// ReasonSentryConnection is a Sentry that cannot be reached, or is not trusted.
	ReasonSentryConnection = "sentry_conn"
	// ReasonSentryToken is a token that cannot be read.
	ReasonSentryToken = "sentry_token"
	// ReasonSign is a Sentry that issued no certificate, or none that can be used.
	ReasonSign = "sign"
	// ReasonInvalidTimestamp is a certificate without a valid end.
	ReasonInvalidTimestamp = "invalid_ts"
	// ReasonJWTParse and ReasonJWTAudience are JWT-SVIDs that cannot be read, or are for other audiences.
	ReasonJWTParse    = "jwt_parse"
	ReasonJWTAudience = "jwt_aud"
)

// MTLS counts the life of the sidecar's certificate (Dapr API, metrics: runtime_mtls_*).
type MTLS struct {
	init, initFailed, rotated func() prometheus.Counter
	failed                    *family[reasonKey, prometheus.Counter]
}

type reasonKey struct{ reason string }

func (k reasonKey) owned() reasonKey { return reasonKey{own(k.reason)} }
func (k reasonKey) blank() reasonKey { return reasonKey{} }

func newMTLS(f *factory) *MTLS {
	const name = "runtime_mtls_"
	failed := f.counter(name+"workload_cert_rotated_fail_total", "Certificates that could not be had of Sentry.", []string{"reason"})
	return &MTLS{
		init:       f.counter(name+"init_total", "Starts with an identity of Sentry.", nil).later(),
		initFailed: f.counter(name+"init_fail_total", "Starts that failed for want of an identity of Sentry.", nil).later(),
		rotated:    f.counter(name+"workload_cert_rotated_total", "Certificates renewed.", nil).later(),
		failed:     newFamily(f.limit, func(k reasonKey) prometheus.Counter { return failed.with(k.reason) }),
	}
}

// Init counts the first identity of a process.
func (m *MTLS) Init() {
	if m != nil {
		m.init().Inc()
	}
}

// InitFailed counts a process that ends for want of a first identity.
func (m *MTLS) InitFailed() {
	if m != nil {
		m.initFailed().Inc()
	}
}

// Rotated counts a renewed certificate.
func (m *MTLS) Rotated() {
	if m != nil {
		m.rotated().Inc()
	}
}

// RotateFailed counts a certificate that could not be had, for one of the reasons above.
func (m *MTLS) RotateFailed(reason string) {
	if m != nil {
		m.failed.find(reasonKey{reason}).Inc()
	}
}
