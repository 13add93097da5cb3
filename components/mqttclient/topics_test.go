package mqttclient

import (
	"regexp"
	"strings"
	"testing"
)

func TestMatches(t *testing.T) {
	for _, test := range []struct {
		filter, topic string
		want          bool
	}{
		{"a", "a", true},
		{"a", "b", false},
		{"a", "a/b", false},
		{"a/b", "a", false},
		{"a/+", "a/b", true},
		{"a/+", "a/b/c", false},
		{"a/+", "a", false},
		{"a/+", "a/", true},
		{"+", "/a", false},
		{"+/+", "/a", true},
		{"a/#", "a", true},
		{"a/#", "a/b/c", true},
		{"a/#", "ab", false},
		{"#", "a/b", true},
		{"a/+/c", "a/b/c", true},
		{"a/+/c", "a/b/d", false},
		{"#", "$SYS/x", false},
		{"+/x", "$SYS/x", false},
		{"$SYS/#", "$SYS/x", true},
		{"$share/g/a/+", "a/b", true},
		{"$share/g/a/+", "g/a/b", false},
	} {
		if got := matches(pattern(test.filter), test.topic); got != test.want {
			t.Errorf("%s matches %s: %v, want %v", test.filter, test.topic, got, test.want)
		}
	}
}

func TestChecks(t *testing.T) {
	long := strings.Repeat("x", longestTopic)
	for _, test := range []struct {
		text          string
		topic, filter bool
	}{
		{"a/b", true, true},
		{"/", true, true},
		{"", false, false},
		{"a/+", false, true},
		{"+", false, true},
		{"#", false, true},
		{"a/#", false, true},
		{"a#", false, false},
		{"a/#/b", false, false},
		{"a+/b", false, false},
		{"a\x00", false, false},
		{"a\xff", false, false},
		{long, true, true},
		{long + "x", false, false},
		{"$share/g/a/#", false, true},
		{"$share/g/a", true, true},
		{"$share/g", true, false},
		{"$share//a", true, false},
		{"$share/g/", true, false},
		{"$share/+/a", false, false},
	} {
		if err := CheckTopic(test.text); (err == nil) != test.topic {
			t.Errorf("topic %.40q: %v", test.text, err)
		}
		if err := CheckFilter(test.text); (err == nil) != test.filter {
			t.Errorf("filter %.40q: %v", test.text, err)
		}
	}
}

// FuzzMatches compares with the rules written as a regular expression.
func FuzzMatches(f *testing.F) {
	f.Add("a/+/c", "a/b/c")
	f.Add("a/#", "a")
	f.Add("#", "$SYS/a")
	f.Add("+/b", "/b")
	f.Fuzz(func(t *testing.T, filter, topic string) {
		if CheckFilter(filter) != nil || CheckTopic(topic) != nil || strings.HasPrefix(filter, "$share") || strings.ContainsAny(filter+topic, "\n") {
			return
		}
		var levels []string
		for _, level := range strings.Split(filter, "/") {
			switch level {
			case "+":
				levels = append(levels, "[^/]*")
			case "#":
				levels = append(levels, ".*")
			default:
				levels = append(levels, regexp.QuoteMeta(level))
			}
		}
		text := strings.Join(levels, "/")
		if parent, ok := strings.CutSuffix(text, "/.*"); ok {
			text = parent + "(/.*)?"
		}
		want := regexp.MustCompile("^"+text+"$").MatchString(topic) &&
			!(strings.HasPrefix(topic, "$") && (filter[0] == '+' || filter[0] == '#'))
		if got := matches(filter, topic); got != want {
			t.Errorf("%q matches %q: %v, want %v", filter, topic, got, want)
		}
	})
}
