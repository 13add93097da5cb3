package metrics

import (
	"github.com/prometheus/client_golang/prometheus"
)

// AccessControl counts verdicts on callers (Dapr API, metrics: runtime_acl_*). The label app_id is the caller's.
type AccessControl struct {
	verdicts *family[verdictKey, prometheus.Counter]
}

// verdictKey tells the series apart. The callers' identities are those of certificates, "" without.
type verdictKey struct {
	app, trustDomain, namespace string
	byApp, allowed              bool
}

func (k verdictKey) owned() verdictKey {
	k.app, k.trustDomain, k.namespace = own(k.app), own(k.trustDomain), own(k.namespace)
	return k
}

func (k verdictKey) blank() verdictKey { return verdictKey{byApp: k.byApp, allowed: k.allowed} }

func newAccessControl(f *factory) *AccessControl {
	labels := []string{labelAppID, "trustDomain", labelNamespace}
	vec := func(name, help string) *counterVec {
		v := &counterVec{f: f, name: name, labels: labels, vec: prometheus.NewCounterVec(prometheus.CounterOpts{Name: prefix + name, Help: help}, labels)}
		f.registry.MustRegister(v.vec)
		return v
	}
	vecs := [2][2]*counterVec{{
		vec("runtime_acl_global_policy_action_blocked_total", "Calls that the default of access control blocked."),
		vec("runtime_acl_global_policy_action_allowed_total", "Calls that the default of access control allowed."),
	}, {
		vec("runtime_acl_app_policy_action_blocked_total", "Calls that the caller's policy of access control blocked."),
		vec("runtime_acl_app_policy_action_allowed_total", "Calls that the caller's policy of access control allowed."),
	}}
	return &AccessControl{newFamily(f.limit, func(k verdictKey) prometheus.Counter {
		return vecs[index(k.byApp)][index(k.allowed)].with(k.app, k.trustDomain, k.namespace)
	})}
}

func index(b bool) int {
	if b {
		return 1
	}
	return 0
}

// Observe counts a verdict on a caller, by the policy for its app or by the default for all.
func (a *AccessControl) Observe(appID, trustDomain, namespace string, byApp, allowed bool) {
	if a != nil {
		a.verdicts.find(verdictKey{appID, trustDomain, namespace, byApp, allowed}).Inc()
	}
}
