package metrics

import (
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Invocation counts service invocation between apps (Dapr API, metrics: runtime_service_invocation_*).
type Invocation struct {
	reqSent *family[invocationKey, prometheus.Counter]
	reqRecv *family[invocationKey, prometheus.Counter]
	resSent *family[invocationKey, prometheus.Counter]
	resRecv *family[invocationKey, invocationResponse]
}

// invocationKey tells invocation series apart; each metric uses a part of it.
type invocationKey struct {
	peer      string
	status    int
	streaming bool
}

func (k invocationKey) owned() invocationKey {
	k.peer = own(k.peer)
	return k
}

func (k invocationKey) blank() invocationKey {
	k.peer = ""
	return k
}

// kind is the label type.
func (k invocationKey) kind() string {
	if k.streaming {
		return "streaming"
	}
	return "unary"
}

type invocationResponse struct {
	count   prometheus.Counter
	latency prometheus.Observer
}

func newInvocation(f *factory) *Invocation {
	const name = "runtime_service_invocation_"
	reqSent := f.counter(name+"req_sent_total", "Requests sent to other apps.", []string{"dst_app_id", labelType})
	reqRecv := f.counter(name+"req_recv_total", "Requests received from other apps.", []string{"src_app_id"})
	resSent := f.counter(name+"res_sent_total", "Responses sent to other apps.", []string{"dst_app_id", labelStatus})
	resRecv := f.counter(name+"res_recv_total", "Responses received from other apps.", []string{"src_app_id", labelStatus, labelType})
	latency := f.histogram(name+"res_recv_latency_ms", "Time until the first part of a response came, in milliseconds.",
		f.latency, []string{"src_app_id", labelStatus})
	return &Invocation{
		reqSent: newFamily(f.limit, func(k invocationKey) prometheus.Counter { return reqSent.with(k.peer, k.kind()) }),
		reqRecv: newFamily(f.limit, func(k invocationKey) prometheus.Counter { return reqRecv.with(k.peer) }),
		resSent: newFamily(f.limit, func(k invocationKey) prometheus.Counter {
			return resSent.with(k.peer, strconv.Itoa(k.status))
		}),
		resRecv: newFamily(f.limit, func(k invocationKey) invocationResponse {
			status := strconv.Itoa(k.status)
			return invocationResponse{resRecv.with(k.peer, status, k.kind()), latency.with(k.peer, status)}
		}),
	}
}

// ReqSent counts a request sent to dst: an app id, or the name or URL of an HTTP endpoint.
func (i *Invocation) ReqSent(dst string, streaming bool) {
	if i != nil {
		i.reqSent.find(invocationKey{peer: dst, streaming: streaming}).Inc()
	}
}

// ReqRecv counts a request received from the app src. A caller that did not say who it is has src "" and is counted as "unknown".
func (i *Invocation) ReqRecv(src string) {
	if i == nil {
		return
	}
	if src == "" {
		src = "unknown"
	}
	i.reqRecv.find(invocationKey{peer: src}).Inc()
}

// ResSent counts a response sent to the app dst. Status is the bare number: a gRPC code below 100, or an HTTP status.
func (i *Invocation) ResSent(dst string, status int) {
	if i != nil {
		i.resSent.find(invocationKey{peer: dst, status: knownStatus(status)}).Inc()
	}
}

// ResRecv counts a response received from the app src, and the time its first part took to come. Status is as for [Invocation.ResSent].
func (i *Invocation) ResRecv(src string, status int, streaming bool, latency time.Duration) {
	if i == nil {
		return
	}
	r := i.resRecv.find(invocationKey{src, knownStatus(status), streaming})
	r.count.Inc()
	r.latency.Observe(millis(latency))
}
