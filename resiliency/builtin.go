package resiliency

import "time"

// BuiltIn is the name of a retry policy that exists without resources.
type BuiltIn string

// builtInPrefix begins the reserved names.
const builtInPrefix = "DaprBuiltIn"

// The built-in retries (Dapr API, resiliency: built-in retries). A resource may define retry policies of these names, with at least
// 3 retries, except for that of actors not found.
const (
	// BuiltInServiceRetries are for calls of apps and HTTP endpoints without an entry in targets.apps; see [Engine.HasApp]. The
	// caller retries only what a peer says with Unavailable and Unauthenticated; anything else is [Final].
	BuiltInServiceRetries BuiltIn = builtInPrefix + "ServiceRetries"
	// BuiltInActorRetries are for starting workflows.
	BuiltInActorRetries BuiltIn = builtInPrefix + "ActorRetries"
	// BuiltInActorNotFoundRetries are for looking up and calling actors whose type has no entry in targets.actors.
	BuiltInActorNotFoundRetries BuiltIn = builtInPrefix + "ActorNotFoundRetries"
	// BuiltInActorReminderRetries are reserved.
	BuiltInActorReminderRetries BuiltIn = builtInPrefix + "ActorReminderRetries"
	// BuiltInInitializationRetries are for asking the app for its subscriptions, and for registering MCP servers.
	BuiltInInitializationRetries BuiltIn = builtInPrefix + "InitializationRetries"
)

// builtInRetries are the policies that resources may override.
func builtInRetries() map[string]*retry {
	return map[string]*retry{
		string(BuiltInServiceRetries):        {duration: time.Second, max: 3},
		string(BuiltInActorRetries):          {duration: time.Second, max: 3},
		string(BuiltInActorNotFoundRetries):  {duration: time.Second, max: 5},
		string(BuiltInActorReminderRetries):  {exponential: true, maxInterval: time.Minute, max: -1, limit: exponentialLimit},
		string(BuiltInInitializationRetries): {exponential: true, maxInterval: time.Second, max: 3, limit: 10 * time.Second},
	}
}

func (e *Engine) makeBuiltIns() map[BuiltIn]*Policy {
	policies := make(map[BuiltIn]*Policy)
	for name := range builtInRetries() {
		policies[BuiltIn(name)] = &Policy{target: &target{engine: e, choice: choice{retry: e.set.retries[name]}, name: name}}
	}
	return policies
}

// BuiltIn returns a built-in retry policy, as the resources override it. Nil is an unknown name, or a nil engine's: a nil engine
// retries nothing.
func (e *Engine) BuiltIn(name BuiltIn) *Policy {
	if e == nil {
		return nil
	}
	return e.builtIns[name]
}
