package sidecar

import (
	"context"
	"fmt"
	"log/slog"
	"strings"

	"outrigger.dev/resource"
	"outrigger.dev/telemetry/logging"
	"outrigger.dev/telemetry/metrics"
	"outrigger.dev/telemetry/tracing/export"
)

// configure loads the Configuration and the resources, and makes the metrics.
func (s *Sidecar) configure(ctx context.Context) error {
	o := &s.options
	config, problems, err := s.source.configuration(ctx)
	reportProblems(s.log, problems)
	if err != nil {
		return fmt.Errorf("error loading configuration: %w", err)
	}
	s.config = config
	if err := config.Spec.AccessControl.Validate(); err != nil {
		return err
	}
	s.features = features(config.Spec.Features)
	if len(s.features) > 0 {
		s.log.Info("Enabled features: " + strings.Join(s.features, " "))
	}
	if s.traces, err = export.Open(ctx, export.Options{Tracing: config.Spec.Tracing, AppID: o.AppID, LookupEnv: o.LookupEnv, Log: o.Log}); err != nil {
		return fmt.Errorf("error loading configuration: %w", err)
	}
	m := config.EffectiveMetrics()
	if s.metrics, err = metrics.New(metricsOptions(o, m, logging.Scope(o.Log, logging.ScopeRuntime))); err != nil {
		return fmt.Errorf("error loading configuration: %w", err)
	}
	if s.identity != nil {
		s.identity.Observe(s.metrics)
	}
	if err := s.watch(); err != nil {
		return err
	}
	set, problems, err := s.source.resources(ctx, s.loadOptions(), nil)
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
	return resource.Options{Namespace: o.Namespace, AppID: o.AppID, Deny: s.config.Spec.Components.Deny}
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
