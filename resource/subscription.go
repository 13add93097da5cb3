package resource

// Subscription routes the messages of a topic to the app. Both API versions decode into this type: the single route of v1alpha1
// becomes Routes.Default.
type Subscription struct {
	Header
	Spec   SubscriptionSpec `json:"spec"`
	Scopes []string         `json:"scopes,omitempty"`
}

// SubscriptionSpec is the spec of a Subscription.
type SubscriptionSpec struct {
	// PubsubName is the name of the pub/sub component.
	PubsubName string `json:"pubsubname"`
	Topic      string `json:"topic"`
	Routes     Routes `json:"routes,omitzero"`
	// Route is read from v1alpha1 documents only and is empty after decoding.
	Route           string            `json:"route,omitempty"`
	DeadLetterTopic string            `json:"deadLetterTopic,omitempty"`
	Metadata        map[string]string `json:"metadata,omitempty"`
	BulkSubscribe   BulkSubscribe     `json:"bulkSubscribe,omitzero"`
}

// Routes are tried in order, Default last.
type Routes struct {
	Rules   []RouteRule `json:"rules,omitempty"`
	Default string      `json:"default,omitempty"`
}

// RouteRule sends messages for which Match holds to Path.
type RouteRule struct {
	// Match is a CEL expression; blank matches everything.
	Match string `json:"match"`
	Path  string `json:"path"`
}

// BulkSubscribe turns on delivery in batches.
type BulkSubscribe struct {
	Enabled            bool  `json:"enabled"`
	MaxMessagesCount   int32 `json:"maxMessagesCount,omitempty"`
	MaxAwaitDurationMs int32 `json:"maxAwaitDurationMs,omitempty"`
}

// AppScopes implements Resource.
func (s *Subscription) AppScopes() []string { return s.Scopes }

func (s *Subscription) identity() any { return [3]any{s.Metadata.Name, s.Spec, s.Scopes} }

// Rules returns the routing rules in the order they are tried, with a non-empty default as the last one with an empty Match.
func (s *Subscription) Rules() []RouteRule {
	rules := make([]RouteRule, 0, len(s.Spec.Routes.Rules)+1)
	rules = append(rules, s.Spec.Routes.Rules...)
	if s.Spec.Routes.Default != "" {
		rules = append(rules, RouteRule{Path: s.Spec.Routes.Default})
	}
	return rules
}

// normalise converts a v1alpha1 document, which has route, to the form of v2alpha1, which has routes.
func (s *Subscription) normalise(r *reporter) {
	routed := len(s.Spec.Routes.Rules) > 0 || s.Spec.Routes.Default != ""
	// Objects sent by Kubernetes clients may lack the version.
	if s.APIVersion == V1alpha1 || s.APIVersion == "" && !routed {
		if routed {
			r.warn("spec.routes is ignored in "+V1alpha1, "set apiVersion: "+V2alpha1+", or use spec.route")
		}
		s.Spec.Routes = Routes{Default: s.Spec.Route}
	} else if s.Spec.Route != "" {
		r.warn("spec.route is ignored in "+V2alpha1, "use spec.routes.default")
	}
	s.Spec.Route = ""
}

func (s *Subscription) check(r *reporter) {
	if s.Metadata.Name == "" {
		r.warn("metadata.name is missing; a subscription without name replaces the one before it", "give every subscription its own metadata.name")
	}
	r.required("spec.pubsubname", s.Spec.PubsubName)
	r.required("spec.topic", s.Spec.Topic)
	if len(s.Rules()) == 0 {
		r.warn("there is no route, so every message is dropped or dead-lettered", "set spec.routes.default (v1alpha1: spec.route) to a path of the app")
	}
	for _, rule := range s.Spec.Routes.Rules {
		if rule.Path == "" {
			r.warn("a rule of spec.routes.rules has no path", "give the rule a path of the app")
		}
	}
}
