package pubsub

import (
	"slices"
	"strings"
)

// scopes say which topics of a component the app may publish to and subscribe to (Dapr API, publish and subscribe: topic
// authorization).
type scopes struct {
	allowed, protected []string
	// publish and subscribe are the app's own lists; nil when the app is in no scope.
	publish, subscribe []string
}

func newScopes(properties map[string]string, appID string) scopes {
	return scopes{
		allowed:   topics(property(properties, "allowedTopics")),
		protected: topics(property(properties, "protectedTopics")),
		publish:   scoped(property(properties, "publishingScopes"), appID),
		subscribe: scoped(property(properties, "subscriptionScopes"), appID),
	}
}

// property is a metadata property by its name in any case, without blanks.
func property(properties map[string]string, name string) string {
	value, ok := properties[name]
	if !ok {
		for k, v := range properties {
			if strings.EqualFold(k, name) {
				value = v
				break
			}
		}
	}
	return strings.ReplaceAll(value, " ", "")
}

func topics(list string) []string {
	if list == "" {
		return nil
	}
	return strings.Split(list, ",")
}

// scoped reads "app1=t1,t2;app2=t3". An app with an empty list has the scope of one topic without name: it may use nothing.
func scoped(list, appID string) []string {
	var own []string
	for entry := range strings.SplitSeq(list, ";") {
		if app, list, ok := strings.Cut(entry, "="); ok && app == appID {
			own = append(own, strings.Split(list, ",")...)
		}
	}
	return own
}

func (s *scopes) mayPublish(topic string) bool { return s.may(topic, s.publish) }

func (s *scopes) maySubscribe(topic string) bool { return s.may(topic, s.subscribe) }

func (s *scopes) may(topic string, scope []string) bool {
	if len(s.allowed) > 0 && !slices.Contains(s.allowed, topic) {
		return false
	}
	if len(scope) == 0 && !slices.Contains(s.protected, topic) {
		return true
	}
	return slices.Contains(scope, topic)
}
