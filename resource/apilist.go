package resource

import (
	"fmt"
	"slices"
	"strings"

	"outrigger.dev/suggest"
)

// APIAccess allows or denies groups of the sidecar's API (Dapr API, API lists).
type APIAccess struct {
	Allowed []APIRule `json:"allowed,omitempty"`
	Denied  []APIRule `json:"denied,omitempty"`
}

// APIRule names a group of API calls.
type APIRule struct {
	// Name of the group, e.g. "state".
	Name string `json:"name"`
	// Version is v1, v1alpha1 and so on; for HTTP also the version of the path, e.g. v1.0.
	Version string `json:"version"`
	// Protocol is http (in any case) or grpc (exactly); a rule with another one has no effect.
	Protocol string `json:"protocol,omitempty"`
}

const (
	protocolHTTP = "http"
	protocolGRPC = "grpc"
	healthGroup  = "v1/healthz"
	// apiServicePrefix starts the full names of the gRPC methods that lists apply to.
	apiServicePrefix = "/dapr.proto.runtime."
	daprService      = "/dapr.proto.runtime.v1.Dapr/"
)

// HTTPServed tells whether a route of the HTTP API is served. The group is its key, e.g. "v1/state"; the route is its template
// with or without leading slash, e.g. "v1.0/state/{storeName}/{key}". Health is always served; deny wins over allow.
func (a *APIAccess) HTTPServed(group, route string) bool {
	if group == healthGroup {
		return true
	}
	route = strings.TrimPrefix(route, "/")
	if matched, _ := matchHTTP(a.Denied, group, route); matched {
		return false
	}
	matched, restricted := matchHTTP(a.Allowed, group, route)
	return matched || !restricted
}

// matchHTTP tells whether a rule matches, and whether there is a rule for HTTP at all.
func matchHTTP(rules []APIRule, group, route string) (matched, restricted bool) {
	for _, r := range rules {
		if !strings.EqualFold(r.Protocol, protocolHTTP) {
			continue
		}
		restricted = true
		key := r.Version + "/" + r.Name
		if key == group || strings.HasPrefix(route, key) {
			return true, true
		}
	}
	return false, restricted
}

// GRPCAccess is the API list compiled for gRPC; the zero value allows everything. It is safe for concurrent use.
type GRPCAccess struct {
	allowed, denied map[string]bool // by full method name
}

// GRPC compiles the rules for gRPC. Lists that name no known group are no restriction.
func (a *APIAccess) GRPC() GRPCAccess {
	return GRPCAccess{allowed: expandGRPC(a.Allowed), denied: expandGRPC(a.Denied)}
}

// Allowed tells whether a method may be called, by its full name, e.g. "/dapr.proto.runtime.v1.Dapr/GetState". Methods of
// services outside dapr.proto.runtime are always allowed, so that proxying is never blocked.
func (g GRPCAccess) Allowed(fullMethod string) bool {
	if len(g.allowed) == 0 && len(g.denied) == 0 || !strings.HasPrefix(fullMethod, apiServicePrefix) {
		return true
	}
	if g.denied[fullMethod] {
		return false
	}
	return len(g.allowed) == 0 || g.allowed[fullMethod]
}

func expandGRPC(rules []APIRule) map[string]bool {
	methods := map[string]bool{}
	for _, r := range rules {
		if r.Protocol != protocolGRPC {
			continue
		}
		for _, m := range GRPCMethods(r.Name, r.Version) {
			methods[daprService+m] = true
		}
	}
	return methods
}

// GRPCMethods returns the methods of the Dapr service in a group, e.g. ("state", "v1"); nil for an unknown group.
func GRPCMethods(name, version string) []string {
	switch name + "." + version {
	case "invoke.v1":
		return []string{"InvokeService"}
	case "state.v1":
		return []string{"GetState", "GetBulkState", "SaveState", "DeleteState", "DeleteBulkState", "ExecuteStateTransaction"}
	case "state.v1alpha1":
		return []string{"QueryStateAlpha1"}
	case "publish.v1":
		return []string{"PublishEvent", "BulkPublishEvent"}
	case "publish.v1alpha1":
		return []string{"BulkPublishEventAlpha1"}
	case "subscribe.v1alpha1":
		return []string{"SubscribeTopicEventsAlpha1"}
	case "bindings.v1":
		return []string{"InvokeBinding"}
	case "secrets.v1":
		return []string{"GetSecret", "GetBulkSecret"}
	case "actors.v1":
		return []string{
			"RegisterActorTimer", "UnregisterActorTimer", "RegisterActorReminder", "GetActorReminder", "UnregisterActorReminder",
			"UnregisterActorRemindersByType", "ListActorReminders", "GetActorState", "ExecuteActorStateTransaction", "InvokeActor",
		}
	case "actors.v1alpha1":
		return []string{"SubscribeActorEventsAlpha1"}
	case "metadata.v1":
		return []string{"GetMetadata", "SetMetadata"}
	case "configuration.v1":
		return []string{"GetConfiguration", "SubscribeConfiguration", "UnsubscribeConfiguration"}
	case "configuration.v1alpha1":
		return []string{"GetConfigurationAlpha1", "SubscribeConfigurationAlpha1", "UnsubscribeConfigurationAlpha1"}
	case "lock.v1alpha1":
		return []string{"TryLockAlpha1"}
	case "unlock.v1alpha1":
		return []string{"UnlockAlpha1"}
	case "crypto.v1alpha1":
		return []string{"EncryptAlpha1", "DecryptAlpha1"}
	case "subtlecrypto.v1alpha1":
		return []string{
			"SubtleGetKeyAlpha1", "SubtleEncryptAlpha1", "SubtleDecryptAlpha1", "SubtleWrapKeyAlpha1", "SubtleUnwrapKeyAlpha1",
			"SubtleSignAlpha1", "SubtleVerifyAlpha1",
		}
	case "workflows.v1alpha1":
		return workflowMethods("Alpha1")
	case "workflows.v1beta1":
		return workflowMethods("Beta1")
	case "jobs.v1":
		return jobMethods("")
	case "jobs.v1alpha1":
		return jobMethods("Alpha1")
	case "conversation.v1alpha1":
		return []string{"ConverseAlpha1"}
	case "conversation.v1alpha2":
		return []string{"ConverseAlpha2"}
	case "shutdown.v1":
		return []string{"Shutdown"}
	}
	return nil
}

func workflowMethods(suffix string) []string {
	verbs := []string{"Start", "Get", "Purge", "Terminate", "Pause", "Resume", "RaiseEvent"}
	for i, v := range verbs {
		verbs[i] = v + "Workflow" + suffix
	}
	return verbs
}

func jobMethods(suffix string) []string {
	methods := []string{"ScheduleJob", "GetJob", "DeleteJob", "DeleteJobsByPrefix", "ListJobs"}
	for i, m := range methods {
		methods[i] = m + suffix
	}
	return methods
}

// check warns about rules without effect, which in an access list are easily taken for protection.
func (a *APIAccess) check(r *reporter) {
	names := []string{
		"invoke", "state", "publish", "subscribe", "bindings", "secrets", "actors", "metadata", "configuration", "lock", "unlock",
		"crypto", "subtlecrypto", "workflows", "jobs", "conversation", "shutdown", "healthz",
	}
	list := func(path string, rules []APIRule) {
		for i, rule := range rules {
			at := fmt.Sprintf("%s[%d]", path, i)
			remedy := "use a name of the API list documentation, such as state, publish or invoke"
			if near, ok := suggest.Nearest(rule.Name, names); ok && near != rule.Name {
				remedy = "did you mean " + near + "?"
			}
			switch {
			case rule.Protocol == protocolGRPC:
				if GRPCMethods(rule.Name, rule.Version) == nil {
					if slices.Contains(names, rule.Name) {
						remedy = "use a version that exists over gRPC, such as v1 or v1alpha1 (not v1.0)"
					}
					r.warn(fmt.Sprintf("%s has no effect: there is no gRPC group %s version %s", at, quote(rule.Name), quote(rule.Version)), remedy)
				}
			case !strings.EqualFold(rule.Protocol, protocolHTTP):
				r.warn(fmt.Sprintf("%s has no effect: protocol is %s", at, quote(rule.Protocol)), "set protocol to http or grpc (lower case)")
			case !slices.Contains(names, rule.Name):
				r.warn(fmt.Sprintf("%s: %s is not the name of an HTTP API group", at, quote(rule.Name)), remedy)
			}
		}
	}
	list("spec.api.allowed", a.Allowed)
	list("spec.api.denied", a.Denied)
}
