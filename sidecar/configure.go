package sidecar

import (
	"context"
	"fmt"
	"log/slog"

	"outrigger.dev/resource"
	"outrigger.dev/telemetry/logging"
	"outrigger.dev/telemetry/metrics"
)

// configure loads the Configuration and the resources, and makes the metrics.
func (s *Sidecar) configure(ctx context.Context) error {
	o := &s.options
	config, problems, err := resource.LoadConfiguration(o.ConfigPaths, o.LookupEnv)
	reportProblems(s.log, problems)
	if err != nil {
		return fmt.Errorf("error loading configuration: %w", err)
	}
	s.config = config
	if err := config.Spec.AccessControl.Validate(); err != nil {
		return err
	}
	if err := s.refuseUnenforced(); err != nil {
		return err
	}
	s.features = features(config.Spec.Features)
	m := config.EffectiveMetrics()
	if s.metrics, err = metrics.New(metricsOptions(o, m, logging.Scope(o.Log, logging.ScopeRuntime))); err != nil {
		return fmt.Errorf("error loading configuration: %w", err)
	}
	if err := s.watch(); err != nil {
		return err
	}
	set, problems, err := resource.Load(ctx, s.loadOptions())
	reportProblems(logging.Scope(o.Log, logging.ScopeDiskLoader), problems)
	if err != nil {
		return fmt.Errorf("failed to load components: %w", err)
	}
	s.resources.Store(set)
	return nil
}

// loadOptions say which resources are meant for this sidecar.
func (s *Sidecar) loadOptions() resource.Options {
	o := &s.options
	return resource.Options{Dirs: o.ResourcesPaths, Namespace: o.Namespace, AppID: o.AppID, Deny: s.config.Spec.Components.Deny}
}

// refuseUnenforced refuses a Configuration whose protections this version would silently leave out.
func (s *Sidecar) refuseUnenforced() error {
	spec := &s.config.Spec
	var names []string
	if a := spec.AccessControl; len(a.Policies) > 0 || a.EffectiveDefaultAction() == "deny" {
		names = append(names, "accessControl")
	}
	for _, h := range append(append([]resource.PipelineHandler(nil), spec.HTTPPipeline.Handlers...), spec.AppHTTPPipeline.Handlers...) {
		names = append(names, "the HTTP middleware "+h.Name+" ("+h.Type+")")
	}
	if len(names) > 0 {
		return fmt.Errorf("the Configuration asks for %v, which this version does not enforce yet; remove it from the Configuration if the app may run without", names)
	}
	return nil
}

func metricsOptions(o *Options, m resource.Metrics, log *slog.Logger) metrics.Options {
	options := metrics.Options{
		AppID: o.AppID, Namespace: o.Namespace, Enabled: m.Enabled, LatencyBuckets: m.LatencyDistributionBuckets, RecordErrorCodes: m.RecordErrorCodes, Logger: log,
		HTTP: metrics.HTTPOptions{IncreasedCardinality: m.IncreasedCardinality, PathMatching: m.PathMatching, ExcludeVerbs: m.ExcludeVerbs},
	}
	for _, r := range m.Rules {
		rule := metrics.Rule{Name: r.Name}
		for _, l := range r.Labels {
			rule.Labels = append(rule.Labels, metrics.RuleLabel{Name: l.Name, Regex: l.Regex})
		}
		options.Rules = append(options.Rules, rule)
	}
	return options
}
