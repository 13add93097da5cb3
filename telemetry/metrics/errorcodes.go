package metrics

import (
	"github.com/prometheus/client_golang/prometheus"
)

// errorCodes counts errors returned by the API (Dapr API, metrics: error_code_total).
type errorCodes struct {
	series *family[errorCodeKey, prometheus.Counter]
}

// errorCodeKey tells error series apart. Pluggable components choose codes of their own, hence the bound.
type errorCodeKey struct{ code, category string }

func (k errorCodeKey) owned() errorCodeKey {
	return errorCodeKey{own(k.code), own(k.category)}
}

func (k errorCodeKey) blank() errorCodeKey { return errorCodeKey{} }

func newErrorCodes(f *factory) *errorCodes {
	total := f.counter("error_code_total", "Errors returned by the API, by error code.", []string{"error_code", "category"})
	return &errorCodes{newFamily(f.limit, func(k errorCodeKey) prometheus.Counter { return total.with(k.code, k.category) })}
}

func (e *errorCodes) add(code, category string) {
	if e != nil {
		e.series.find(errorCodeKey{code, category}).Inc()
	}
}
