package metrics

import (
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

const (
	labelTopic         = "topic"
	labelProcessStatus = "process_status"
)

// Outcome is what became of a delivered message: the label process_status.
type Outcome string

// The outcomes.
const (
	Processed Outcome = "success"
	Retried   Outcome = "retry"
	Dropped   Outcome = "drop"
)

// PubSub measures publications and deliveries (Dapr API, metrics: component_pubsub_*).
type PubSub struct {
	egress, bulkEgress *family[egressKey, *egressSeries]
	ingress            *family[ingressKey, *operationSeries]
	bulkIngress        *family[topicKey, *bulkSeries]
	bulkEntries        *family[ingressKey, prometheus.Counter]
}

type egressKey struct {
	component, topic string
	success          bool
}

func (k egressKey) owned() egressKey {
	return egressKey{own(k.component), own(k.topic), k.success}
}

// blank keeps the component: messages are only counted of components that exist.
func (k egressKey) blank() egressKey { return egressKey{component: k.component, success: k.success} }

type egressSeries struct {
	operationSeries
	events prometheus.Counter // of bulks only
}

type ingressKey struct {
	component, topic string
	outcome, status  Outcome
}

func (k ingressKey) owned() ingressKey {
	k.component, k.topic = own(k.component), own(k.topic)
	return k
}
func (k ingressKey) blank() ingressKey { k.topic = ""; return k }

type topicKey struct{ component, topic string }

func (k topicKey) owned() topicKey {
	return topicKey{own(k.component), own(k.topic)}
}
func (k topicKey) blank() topicKey { return topicKey{component: k.component} }

type bulkSeries = operationSeries

func newPubSub(f *factory) *PubSub {
	namespace := f.inNamespace()
	pair := func(name, what string, labels ...string) (*counterVec, *histogramVec) {
		return f.counter("component_pubsub_"+name+"_count", "Number of "+what+".", labels, namespace),
			f.histogram("component_pubsub_"+name+"_latencies", "Duration of "+what+", in milliseconds.", f.latency, labels, namespace)
	}
	outCount, outLatencies := pair("egress", "publications", labelComponent, labelTopic, labelSuccess)
	bulkOutCount, bulkOutLatencies := pair("egress_bulk", "publications of bulks", labelComponent, labelTopic, labelSuccess)
	bulkOutEvents := f.counter("component_pubsub_egress_bulk_event_count", "Number of messages published in bulks.", []string{labelComponent, labelTopic, labelSuccess}, namespace)
	inCount, inLatencies := pair("ingress", "deliveries", labelComponent, labelTopic, labelProcessStatus, labelStatus)
	bulkInCount, bulkInLatencies := pair("ingress_bulk", "deliveries of bulks", labelComponent, labelTopic)
	bulkInEvents := f.counter("component_pubsub_ingress_bulk_event_count", "Number of messages delivered in bulks.", []string{labelComponent, labelTopic, labelProcessStatus}, namespace)
	// Rules often fold topics.
	egress := func(vecs ...string) func(egressKey) egressKey {
		fold := f.rules.folding(labelTopic, vecs...)
		if fold == nil {
			return nil
		}
		return func(k egressKey) egressKey { k.topic = fold(k.topic); return k }
	}
	ingress := func(vecs ...string) func(ingressKey) ingressKey {
		fold := f.rules.folding(labelTopic, vecs...)
		if fold == nil {
			return nil
		}
		return func(k ingressKey) ingressKey { k.topic = fold(k.topic); return k }
	}
	var foldTopic func(topicKey) topicKey
	if fold := f.rules.folding(labelTopic, bulkInCount.name, bulkInLatencies.name); fold != nil {
		foldTopic = func(k topicKey) topicKey { k.topic = fold(k.topic); return k }
	}
	return &PubSub{
		egress: newFamily(f.limit, func(k egressKey) *egressSeries {
			success := boolLabel(k.success)
			return &egressSeries{operationSeries: operationSeries{outCount.with(k.component, k.topic, success), outLatencies.with(k.component, k.topic, success)}}
		}).foldedBy(f.limit, egress(outCount.name, outLatencies.name)),
		bulkEgress: newFamily(f.limit, func(k egressKey) *egressSeries {
			success := boolLabel(k.success)
			return &egressSeries{
				operationSeries{bulkOutCount.with(k.component, k.topic, success), bulkOutLatencies.with(k.component, k.topic, success)},
				bulkOutEvents.with(k.component, k.topic, success),
			}
		}).foldedBy(f.limit, egress(bulkOutCount.name, bulkOutLatencies.name, bulkOutEvents.name)),
		ingress: newFamily(f.limit, func(k ingressKey) *operationSeries {
			labels := []string{k.component, k.topic, string(k.outcome), string(k.status)}
			return &operationSeries{inCount.with(labels...), inLatencies.with(labels...)}
		}).foldedBy(f.limit, ingress(inCount.name, inLatencies.name)),
		bulkIngress: newFamily(f.limit, func(k topicKey) *bulkSeries {
			return &bulkSeries{bulkInCount.with(k.component, k.topic), bulkInLatencies.with(k.component, k.topic)}
		}).foldedBy(f.limit, foldTopic),
		bulkEntries: newFamily(f.limit, func(k ingressKey) prometheus.Counter {
			return bulkInEvents.with(k.component, k.topic, strings.ToUpper(string(k.outcome)))
		}).foldedBy(f.limit, ingress(bulkInEvents.name)),
	}
}

// Published counts a publication.
func (p *PubSub) Published(component, topic string, success bool, latency time.Duration) {
	if p == nil {
		return
	}
	s := p.egress.find(egressKey{component, topic, success})
	s.count.Inc()
	s.latencies.Observe(millis(latency))
}

// BulkPublished counts the publication of a bulk, and the messages of it that were published.
func (p *PubSub) BulkPublished(component, topic string, success bool, messages int, latency time.Duration) {
	if p == nil {
		return
	}
	s := p.bulkEgress.find(egressKey{component, topic, success})
	s.count.Inc()
	s.latencies.Observe(millis(latency))
	s.events.Add(float64(messages))
}

// Delivered counts a delivery, or a message that was dropped without one. status is the outcome, except for what an app
// dropped and what no rule routes, which are successes.
func (p *PubSub) Delivered(component, topic string, outcome, status Outcome, latency time.Duration) {
	if p == nil {
		return
	}
	s := p.ingress.find(ingressKey{component, topic, outcome, status})
	s.count.Inc()
	s.latencies.Observe(millis(latency))
}

// BulkDelivered counts the delivery of a bulk.
func (p *PubSub) BulkDelivered(component, topic string, latency time.Duration) {
	if p == nil {
		return
	}
	s := p.bulkIngress.find(topicKey{component, topic})
	s.count.Inc()
	s.latencies.Observe(millis(latency))
}

// BulkEntries counts messages of a bulk by what became of them.
func (p *PubSub) BulkEntries(component, topic string, outcome Outcome, messages int) {
	if p == nil || messages == 0 {
		return
	}
	p.bulkEntries.find(ingressKey{component: component, topic: topic, outcome: outcome}).Add(float64(messages))
}
