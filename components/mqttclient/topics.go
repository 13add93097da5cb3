package mqttclient

import (
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"
)

// longestTopic is what the length of a topic on the wire can say, in bytes.
const longestTopic = 65535

// CheckTopic says why messages cannot be published to a topic; nil when they can (MQTT 3.1.1, section 4.7).
func CheckTopic(topic string) error {
	if err := checkText("topic", topic); err != nil {
		return err
	}
	if strings.ContainsAny(topic, "+#") {
		return fmt.Errorf("topic %q has a wildcard, which is for subscribing only: publish to a topic without + and #", topic)
	}
	return nil
}

// CheckFilter says why a topic filter cannot be subscribed to; nil when it can (MQTT 3.1.1, section 4.7).
func CheckFilter(filter string) error {
	if err := checkText("topic", filter); err != nil {
		return err
	}
	rest := filter
	if strings.HasPrefix(filter, sharePrefix) {
		group, topic, ok := strings.Cut(filter[len(sharePrefix):], "/")
		if !ok || group == "" || topic == "" || strings.ContainsAny(group, "+#") {
			return fmt.Errorf("topic %q is not $share/<group>/<topic>", filter)
		}
		rest = topic
	}
	levels := strings.Split(rest, "/")
	for i, level := range levels {
		if level == "#" && i == len(levels)-1 || level == "+" || !strings.ContainsAny(level, "+#") {
			continue
		}
		return fmt.Errorf("topic %q has a wildcard in the wrong place: + stands for one whole level, # for all levels at the end, as in a/+/c and a/#", filter)
	}
	return nil
}

func checkText(what, s string) error {
	switch {
	case s == "":
		return errors.New(what + " is empty")
	case len(s) > longestTopic:
		return fmt.Errorf("%s %.40q... has %d bytes, but at most %d can be sent", what, s, len(s), longestTopic)
	case strings.ContainsRune(s, 0) || !utf8.ValidString(s):
		return fmt.Errorf("%s %q is not text that MQTT can carry: use UTF-8 without the character 0", what, s)
	}
	return nil
}

const sharePrefix = "$share/"

// pattern is the part of a filter that topics are matched with: without $share/<group>/.
func pattern(filter string) string {
	if strings.HasPrefix(filter, sharePrefix) {
		if _, topic, ok := strings.Cut(filter[len(sharePrefix):], "/"); ok {
			return topic
		}
	}
	return filter
}

// matches reports whether a topic is among those of a pattern.
func matches(pattern, topic string) bool {
	if pattern == topic {
		return true
	}
	// Wildcards do not match the broker's own topics (MQTT 3.1.1, section 4.7.2).
	if strings.HasPrefix(topic, "$") && (strings.HasPrefix(pattern, "+") || strings.HasPrefix(pattern, "#")) {
		return false
	}
	for {
		p, morePattern, deeperPattern := strings.Cut(pattern, "/")
		if p == "#" {
			return true
		}
		t, moreTopic, deeperTopic := strings.Cut(topic, "/")
		if p != "+" && p != t {
			return false
		}
		switch {
		case !deeperPattern && !deeperTopic:
			return true
		case deeperPattern && !deeperTopic:
			return morePattern == "#" // a/# is also a itself
		case !deeperPattern:
			return false
		}
		pattern, topic = morePattern, moreTopic
	}
}
