package sidecar

import "outrigger.dev/telemetry/metrics"

// UnbuiltMethods lets tests see which methods are refused.
var UnbuiltMethods = unbuiltMethods

// Reconcilers are the health targets of hot reload.
var Reconcilers = reconcilers

// Metrics lets tests see what was counted.
func (s *Sidecar) Metrics() *metrics.Metrics { return s.metrics }

// RouteNames are the names of the endpoints that are served, by verbs and path.
func (s *Sidecar) RouteNames() map[string]string {
	names := map[string]string{}
	routes, fallback := s.routes()
	for _, r := range append(routes, fallback) {
		for _, verb := range r.Methods {
			names[verb+" "+r.Path] = r.Name
		}
	}
	if fallback != nil {
		names[""] = fallback.Name
	}
	return names
}
