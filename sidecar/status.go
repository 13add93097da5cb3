package sidecar

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/types/known/emptypb"

	"outrigger.dev/api"
	runtimev1 "outrigger.dev/api/gen/runtime/v1"
	"outrigger.dev/resource"
)

// The sidecar's own endpoints: health, metadata and shutdown (Dapr API, health, metadata, shutdown).

// extended holds what apps and tools attach to the sidecar's metadata.
type extended struct {
	mu     sync.RWMutex
	values map[string]string
	bytes  int // of keys and values
}

// maxExtended is how much can be attached, in bytes of keys and values: it is kept in memory, is in every reply of the metadata
// API, and the public port takes it without a token.
const maxExtended = 16 << 20

// set attaches a value, in the place of any before.
func (e *extended) set(key, value string) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	size := e.bytes + len(key) + len(value)
	if old, ok := e.values[key]; ok {
		size -= len(key) + len(old)
	}
	if size > maxExtended {
		return &api.Error{
			HTTP: 400, GRPC: codes.ResourceExhausted, Code: "ERR_METADATA_SET", Category: api.CategoryCommon,
			Message: fmt.Sprintf("metadata %.64q is not set: with it there would be more than %d bytes; set shorter values or fewer", key, maxExtended),
		}
	}
	if e.values == nil {
		e.values = map[string]string{}
	}
	e.values[key], e.bytes = value, size
	return nil
}

func (e *extended) all() map[string]string {
	e.mu.RLock()
	defer e.mu.RUnlock()
	return maps.Clone(e.values)
}

// versionKey is the extended metadata entry that the sidecar fills itself.
const versionKey = "daprRuntimeVersion"

func healthError(code, message string) *api.Error {
	return &api.Error{HTTP: 500, GRPC: codes.Internal, Code: code, Message: message, Category: api.CategoryHealth}
}

func (s *Sidecar) ownRoutes() []*api.Route {
	return []*api.Route{
		{Methods: []string{"GET"}, Path: "/v1.0/healthz", Name: "Healthz", Group: "v1/healthz", Health: true, Public: true, Handler: s.healthz},
		{Methods: []string{"GET"}, Path: "/v1.0/healthz/outbound", Name: "HealthzOutbound", Group: "v1/healthz", Health: true, Public: true, Handler: s.healthzOutbound},
		{Methods: []string{"GET"}, Path: "/v1.0/metadata", Name: "GetMetadata", Group: "v1/metadata", Public: true, Handler: s.getMetadata},
		{Methods: []string{"PUT"}, Path: "/v1.0/metadata/{key}", Name: "PutMetadata", Group: "v1/metadata", Public: true, Handler: s.putMetadata},
		{Methods: []string{"POST"}, Path: "/v1.0/shutdown", Name: "Shutdown", Group: "v1/shutdown", Handler: s.shutdownRequested},
	}
}

func (s *Sidecar) healthz(call *api.Call) error {
	if ready, unready := s.health.Status(); !ready {
		return healthError("ERR_HEALTH_NOT_READY", fmt.Sprintf("dapr is not ready: %v", unready))
	}
	if id, ok := call.Query("appid"); ok && id != s.options.AppID {
		return healthError("ERR_HEALTH_APPID_NOT_MATCH", "dapr app-id does not match")
	}
	call.NoContent()
	return nil
}

func (s *Sidecar) healthzOutbound(call *api.Call) error {
	if !s.outbound.Load() {
		return healthError("ERR_OUTBOUND_HEALTH_NOT_READY", "dapr outbound is not ready")
	}
	call.NoContent()
	return nil
}

// The JSON form of the metadata, in the order and with the omissions of the Dapr API.
type metadataReply struct {
	ID                      string              `json:"id,omitempty"`
	RuntimeVersion          string              `json:"runtimeVersion,omitempty"`
	EnabledFeatures         []string            `json:"enabledFeatures,omitempty"`
	Actors                  []actorCountReply   `json:"actors,omitempty"`
	Components              []componentReply    `json:"components,omitempty"`
	Extended                map[string]string   `json:"extended,omitempty"`
	Subscriptions           []subscriptionReply `json:"subscriptions,omitempty"`
	HTTPEndpoints           []nameReply         `json:"httpEndpoints,omitempty"`
	AppConnectionProperties *appConnectionReply `json:"appConnectionProperties,omitempty"`
	ActorRuntime            actorRuntimeReply   `json:"actorRuntime"`
	Scheduler               *schedulerReply     `json:"scheduler,omitempty"`
	Resiliencies            []nameReply         `json:"resiliencies,omitempty"`
}

type nameReply struct {
	Name string `json:"name"`
}

type componentReply struct {
	Name         string   `json:"name"`
	Type         string   `json:"type"`
	Version      string   `json:"version"`
	Capabilities []string `json:"capabilities"`
}

type subscriptionReply struct {
	PubsubName      string            `json:"pubsubname"`
	Topic           string            `json:"topic"`
	Metadata        map[string]string `json:"metadata,omitempty"`
	Rules           []ruleReply       `json:"rules,omitempty"`
	DeadLetterTopic string            `json:"deadLetterTopic"`
	Type            string            `json:"type"`
}

type ruleReply struct {
	Match string `json:"match,omitempty"`
	Path  string `json:"path,omitempty"`
}

type appConnectionReply struct {
	Port           int             `json:"port,omitempty"`
	Protocol       string          `json:"protocol"`
	ChannelAddress string          `json:"channelAddress,omitempty"`
	MaxConcurrency int             `json:"maxConcurrency,omitempty"`
	Health         *appHealthReply `json:"health,omitempty"`
}

type appHealthReply struct {
	HealthCheckPath     string `json:"healthCheckPath,omitempty"`
	HealthProbeInterval string `json:"healthProbeInterval"`
	HealthProbeTimeout  string `json:"healthProbeTimeout"`
	HealthThreshold     int    `json:"healthThreshold"`
}

type actorRuntimeReply struct {
	RuntimeStatus string            `json:"runtimeStatus"`
	ActiveActors  []actorCountReply `json:"activeActors,omitempty"`
	HostReady     bool              `json:"hostReady"`
	Placement     string            `json:"placement,omitempty"`
}

type actorCountReply struct {
	Type  string `json:"type"`
	Count int    `json:"count,omitempty"`
}

type schedulerReply struct {
	ConnectedAddresses []string `json:"connected_addresses,omitempty"`
}

func (s *Sidecar) metadata() metadataReply {
	m := metadataReply{
		ID: s.options.AppID, RuntimeVersion: s.options.Version, EnabledFeatures: s.features,
		Extended: s.extended.all(),
	}
	status := s.hosting.runtime.Status()
	m.ActorRuntime = actorRuntimeReply{RuntimeStatus: status.State, HostReady: status.HostReady, Placement: status.Placement}
	for _, active := range status.Active {
		m.ActorRuntime.ActiveActors = append(m.ActorRuntime.ActiveActors, actorCountReply{active.Type, active.Count})
	}
	m.Actors = m.ActorRuntime.ActiveActors
	if connected := s.hosting.scheduler.Connected(); len(connected) > 0 {
		m.Scheduler = &schedulerReply{connected}
	}
	if m.Extended == nil {
		m.Extended = map[string]string{}
	}
	m.Extended[versionKey] = s.options.Version
	for _, c := range s.loader.list() {
		capabilities := c.capabilities
		if capabilities == nil {
			capabilities = []string{}
		}
		m.Components = append(m.Components, componentReply{c.name, c.typ, c.version, capabilities})
	}
	for _, subscription := range s.pubsub.Subscriptions() {
		reply := subscriptionReply{
			PubsubName: subscription.Component, Topic: subscription.Topic, Metadata: subscription.Metadata, DeadLetterTopic: subscription.DeadLetterTopic,
			Type: string(subscription.Origin),
		}
		for _, r := range subscription.Rules {
			reply.Rules = append(reply.Rules, ruleReply{r.Match, r.Path})
		}
		m.Subscriptions = append(m.Subscriptions, reply)
	}
	// Those in force: a changed one that cannot be used has not taken their place.
	for _, name := range s.endpoints.now.Load().Names() {
		m.HTTPEndpoints = append(m.HTTPEndpoints, nameReply{name})
	}
	for _, r := range s.resources.Load().Resiliencies {
		m.Resiliencies = append(m.Resiliencies, nameReply{r.Metadata.Name})
	}
	o := &s.options
	m.AppConnectionProperties = &appConnectionReply{Port: o.AppPort, Protocol: o.AppProtocol, ChannelAddress: o.AppChannelAddress}
	if o.AppMaxConcurrency > 0 {
		m.AppConnectionProperties.MaxConcurrency = o.AppMaxConcurrency
	}
	if o.EnableAppHealthCheck && o.AppPort > 0 {
		h := &appHealthReply{HealthProbeInterval: o.AppHealthProbeInterval.String(), HealthProbeTimeout: o.AppHealthProbeTimeout.String(), HealthThreshold: o.AppHealthThreshold}
		if !s.grpcApp() {
			h.HealthCheckPath = o.AppHealthCheckPath
		}
		m.AppConnectionProperties.Health = h
	}
	return m
}

// list is a snapshot of the components in service.
func (l *loader) list() []*loaded {
	l.mu.Lock()
	defer l.mu.Unlock()
	return append([]*loaded(nil), l.loaded...)
}

func (s *Sidecar) getMetadata(call *api.Call) error {
	text, err := json.Marshal(s.metadata())
	if err != nil {
		return &api.Error{HTTP: 500, GRPC: codes.Internal, Code: "ERR_INTERNAL", Message: "failed to encode response as JSON: " + err.Error(), Category: api.CategoryCommon, Cause: err}
	}
	call.ReplyJSON(append(text, '\n'))
	return nil
}

func (s *Sidecar) putMetadata(call *api.Call) error {
	body, err := call.ReadBody()
	if err != nil {
		return api.ErrBodyRead(err)
	}
	if err := s.extended.set(call.Parameter("key"), string(body)); err != nil {
		return err
	}
	call.NoContent()
	return nil
}

func (s *Sidecar) shutdownRequested(call *api.Call) error {
	force := strings.EqualFold(string(call.Header("Dapr-Force-Shutdown")), "true")
	call.NoContent()
	s.requestShutdown(force)
	return nil
}

// forceDelay lets the reply to a forced shutdown leave.
const forceDelay = 100 * time.Millisecond

// requestShutdown ends Run, after the reply to the request had a moment to leave.
func (s *Sidecar) requestShutdown(force bool) {
	if force {
		s.log.Warn("Force shutdown requested, exiting immediately without graceful shutdown")
		time.AfterFunc(forceDelay, func() { s.stop(ErrForced) })
		return
	}
	s.log.Info("Shutdown requested via API")
	s.stop(errShutdownAPI)
}

// statusServer is the gRPC face of metadata and shutdown.
type statusServer struct{ sidecar *Sidecar }

// GetMetadata describes the sidecar.
func (g statusServer) GetMetadata(context.Context, *runtimev1.GetMetadataRequest) (*runtimev1.GetMetadataResponse, error) {
	m := g.sidecar.metadata()
	out := &runtimev1.GetMetadataResponse{
		Id: m.ID, RuntimeVersion: m.RuntimeVersion, EnabledFeatures: m.EnabledFeatures, ExtendedMetadata: m.Extended,
		ActorRuntime: &runtimev1.ActorRuntime{
			RuntimeStatus: runtimev1.ActorRuntime_ActorRuntimeStatus(runtimev1.ActorRuntime_ActorRuntimeStatus_value[m.ActorRuntime.RuntimeStatus]),
			HostReady:     m.ActorRuntime.HostReady, Placement: m.ActorRuntime.Placement,
		},
	}
	for _, a := range m.Actors {
		count := &runtimev1.ActiveActorsCount{Type: a.Type, Count: int32(a.Count)}
		out.ActorRuntime.ActiveActors = append(out.ActorRuntime.ActiveActors, count)
		out.ActiveActorsCount = append(out.ActiveActorsCount, count)
	}
	if m.Scheduler != nil {
		out.Scheduler = &runtimev1.MetadataScheduler{ConnectedAddresses: m.Scheduler.ConnectedAddresses}
	}
	for _, c := range m.Components {
		out.RegisteredComponents = append(out.RegisteredComponents, &runtimev1.RegisteredComponents{Name: c.Name, Type: c.Type, Version: c.Version, Capabilities: c.Capabilities})
	}
	for _, s := range m.Subscriptions {
		reply := &runtimev1.PubsubSubscription{
			PubsubName: s.PubsubName, Topic: s.Topic, Metadata: s.Metadata, DeadLetterTopic: s.DeadLetterTopic,
			Type: runtimev1.PubsubSubscriptionType(runtimev1.PubsubSubscriptionType_value[s.Type]), Rules: &runtimev1.PubsubSubscriptionRules{},
		}
		for _, r := range s.Rules {
			reply.Rules.Rules = append(reply.Rules.Rules, &runtimev1.PubsubSubscriptionRule{Match: r.Match, Path: r.Path})
		}
		out.Subscriptions = append(out.Subscriptions, reply)
	}
	for _, e := range m.HTTPEndpoints {
		out.HttpEndpoints = append(out.HttpEndpoints, &runtimev1.MetadataHTTPEndpoint{Name: e.Name})
	}
	for _, r := range m.Resiliencies {
		out.Resiliencies = append(out.Resiliencies, &runtimev1.MetadataResiliency{Name: r.Name})
	}
	if a := m.AppConnectionProperties; a != nil {
		out.AppConnectionProperties = &runtimev1.AppConnectionProperties{Port: int32(a.Port), Protocol: a.Protocol, ChannelAddress: a.ChannelAddress, MaxConcurrency: int32(a.MaxConcurrency)}
		if h := a.Health; h != nil {
			out.AppConnectionProperties.Health = &runtimev1.AppConnectionHealthProperties{
				HealthCheckPath: h.HealthCheckPath, HealthProbeInterval: h.HealthProbeInterval, HealthProbeTimeout: h.HealthProbeTimeout, HealthThreshold: int32(h.HealthThreshold),
			}
		}
	}
	return out, nil
}

// SetMetadata attaches a value to the sidecar; an empty key does nothing.
func (g statusServer) SetMetadata(_ context.Context, in *runtimev1.SetMetadataRequest) (*emptypb.Empty, error) {
	if in.GetKey() != "" {
		if err := g.sidecar.extended.set(in.GetKey(), in.GetValue()); err != nil {
			return nil, err
		}
	}
	return &emptypb.Empty{}, nil
}

// Shutdown ends the sidecar.
func (g statusServer) Shutdown(ctx context.Context, _ *runtimev1.ShutdownRequest) (*emptypb.Empty, error) {
	force := false
	if md, ok := metadata.FromIncomingContext(ctx); ok {
		for _, v := range md["dapr-force-shutdown"] {
			force = force || strings.EqualFold(v, "true")
		}
	}
	g.sidecar.requestShutdown(force)
	return &emptypb.Empty{}, nil
}

// features are the names of the enabled feature flags (Dapr API, features): those on by default, less those switched off,
// plus any that the Configuration switches on.
func features(list []resource.Feature) []string {
	on := []string{"HotReload", "WorkflowsRemoteActivityReminder"}
	for _, f := range list {
		enabled := f.Enabled
		at := -1
		for i, name := range on {
			if name == f.Name {
				at = i
			}
		}
		switch {
		case enabled && at < 0:
			on = append(on, f.Name)
		case !enabled && at >= 0:
			on = append(on[:at], on[at+1:]...)
		}
	}
	return on
}
