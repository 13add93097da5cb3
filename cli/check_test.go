package cli

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"outrigger.dev/components"
	"outrigger.dev/components/all"
)

// findingsOf checks one file with the text.
func findingsOf(t *testing.T, text string) []string {
	t.Helper()
	file := write(t, filepath.Join(t.TempDir(), "a.yaml"), text)
	return findingsIn(t, file)
}

func findingsIn(t *testing.T, path string) []string {
	t.Helper()
	registry := &components.Registry{}
	all.Register(registry)
	findings, _, err := checkPaths(t.Context(), registry, []string{path})
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, f := range findings {
		got = append(got, strings.ReplaceAll(f.String(), filepath.Dir(path)+string(filepath.Separator), ""))
	}
	return got
}

// yamlOf is a component with the properties, names and values in turn; the nth of them, from 0, has its name on line 8+2n.
func yamlOf(componentType string, properties ...string) string {
	text := "apiVersion: dapr.io/v1alpha1\nkind: Component\nmetadata: {name: mine}\nspec:\n  type: " + componentType + "\n  version: v1\n  metadata:\n"
	for i := 0; i < len(properties); i += 2 {
		text += fmt.Sprintf("  - name: %s\n    value: %q\n", properties[i], properties[i+1])
	}
	return text
}

// What keeps a sidecar from starting is found without one.
func TestCheckOfOptions(t *testing.T) {
	const key = "AAAAC3NzaC1lZDI1NTE5AAAAIAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"
	for _, c := range []struct {
		name       string
		typ        string
		properties []string
		line       int
		want       string // "" for no finding
	}{
		{"cron", "bindings.cron", []string{"schedule", "every 5"}, 8, `"schedule" is "every 5"`},
		{"cron that is right", "bindings.cron", []string{"schedule", "@every 5s", "direction", "input"}, 0, ""},
		{"output binding as input", "bindings.http", []string{"url", "http://h", "direction", "input"}, 10, `bindings.http is an output binding only; write output`},
		{"output binding as both", "bindings.http", []string{"url", "http://h", "direction", "input, output"}, 0, ""},
		{"input binding as output", "bindings.cron", []string{"direction", "Output", "schedule", "@daily"}, 8, `bindings.cron is an input binding only; write input`},
		{"unknown direction", "bindings.mqtt3", []string{"url", "mqtt://h", "topic", "t", "direction", "output, inptu"}, 12, `"direction" has "inptu"`},
		{"http without scheme", "bindings.http", []string{"url", "localhost:80"}, 8, `"url" is "localhost:80"`},
		{"http token without header", "bindings.http", []string{"url", "http://h", "securityToken", "secret"}, 1, `must be given together`},
		{"http certificate without key", "bindings.http", []string{"url", "http://h", "MTLSClientCert", "x"}, 1, `"MTLSClientCert" and "MTLSClientKey"`},
		{"kafka without authType", "pubsub.kafka", []string{"brokers", "h:9092"}, 1, `"authType" is missing`},
		{"kafka without password", "pubsub.kafka", []string{"brokers", "h:9092", "authType", "password", "saslUsername", "u"}, 1, `"saslPassword" is missing`},
		{"kafka regular expression", "pubsub.kafka", []string{"brokers", "h:9092", "authType", "none", "excludeHeaderMetaRegex", "("}, 12, `not a regular expression`},
		{"kafka authority", "pubsub.kafka", []string{"brokers", "h:9092", "authType", "password", "saslUsername", "u", "saslPassword", "p", "caCert", "x"}, 16, `"caCert" holds no certificate`},
		{"kafka that is right", "pubsub.kafka", []string{"brokers", "h:9092", "authType", "none"}, 0, ""},
		{"kafka output without topic", "bindings.kafka", []string{"brokers", "h:9092", "authType", "none", "topics", "a", "direction", "output"}, 1, `"publishTopic" is missing`},
		{"kafka input without topics", "bindings.kafka", []string{"brokers", "h:9092", "authType", "none", "publishTopic", "a", "direction", "input,output"}, 1, `"topics" is missing`},
		{"kafka binding without authType", "bindings.kafka", []string{"brokers", "h:9092", "topics", "a"}, 1, `"authType" is missing`},
		{"rabbitmq both ways", "pubsub.rabbitmq", []string{"hostname", "h", "connectionString", "amqp://h:5672"}, 10, `"connectionString" excludes "hostname"`},
		{"rabbitmq authority without TLS", "pubsub.rabbitmq", []string{"connectionString", "amqp://h:5672", "caCert", "x"}, 1, `need TLS`},
		{"rabbitmq binding", "bindings.rabbitmq", []string{"host", "http://h", "queueName", "q"}, 8, `"host" is not an AMQP URI`},
		{"jetstream sequence", "pubsub.jetstream", []string{"natsURL", "nats://h:4222", "deliverPolicy", "sequence"}, 10, `needs "startSequence"`},
		{"jetstream jwt", "pubsub.jetstream", []string{"natsURL", "nats://h:4222", "deliverPolicy", "all", "jwt", "x"}, 12, `"jwt" needs "seedKey"`},
		{"jetstream seed", "pubsub.jetstream", []string{"natsURL", "nats://h:4222", "deliverPolicy", "all", "seedKey", "SUX"}, 12, `"seedKey" is not the seed`},
		{"jetstream that is right", "pubsub.jetstream", []string{"natsURL", "nats://h:4222", "deliverPolicy", "all"}, 0, ""},
		{"mqtt url", "pubsub.mqtt3", []string{"url", "h:1883"}, 8, `"url"`},
		{"mqtt that is right", "pubsub.mqtt3", []string{"url", "mqtt://h:1883"}, 0, ""},
		{"mqtt binding", "bindings.mqtt3", []string{"url", "mqtt://h:1883", "topic", "a/#/b"}, 10, `"topic"`},
		{"redis sentinels", "state.redis", []string{"redisHost", "h:26379", "failover", "true"}, 10, `"sentinelMasterName" is missing`},
		{"redis broker", "pubsub.redis", []string{"redisHost", "h", "concurrency", "0"}, 10, `"concurrency" is 0`},
		{"redis binding", "bindings.redis", []string{"redisHost", "a:1,b:1"}, 8, `"redisHost" names 2 hosts`},
		{"redis indexes", "state.redis", []string{"redisHost", "h", "queryIndexes", "{"}, 10, `"queryIndexes"`},
		{"smtp user without password", "bindings.smtp", []string{"host", "h", "user", "u"}, 1, `"user" and "password"`},
		{"smtp address", "bindings.smtp", []string{"host", "h", "emailTo", "nobody"}, 10, `"emailTo" is "nobody"`},
		{"sftp without host key", "bindings.sftp", []string{"address", "h", "rootPath", "/x", "username", "u", "password", "p"}, 1, `"hostPublicKey" and "knownHostsFile" are both missing`},
		{"sftp that is right", "bindings.sftp", []string{"address", "h", "rootPath", "/x", "username", "u", "password", "p", "hostPublicKey", "ssh-ed25519 " + key}, 0, ""},
		{"graphql", "bindings.graphql", []string{"endpoint", "h/graphql"}, 8, `"endpoint" is "h/graphql"`},
		{"s3 bucket", "bindings.aws.s3", []string{"bucket", "arn:aws:s3:::b"}, 8, `"bucket"`},
		{"s3 key", "bindings.aws.s3", []string{"bucket", "bucket", "accessKey", "k"}, 1, `"accessKey" and "secretKey"`},
		{"directory of the system", "bindings.localstorage", []string{"rootPath", "/proc/self"}, 8, `"rootPath" is "/proc/self"`},
		{"mysql", "bindings.mysql", []string{"url", "user@nowhere(h"}, 8, `"url" is not a data source name`},
		{"mysql state", "state.mysql", []string{"url", "u:p@tcp(h:3306)/db"}, 8, `names the database "db"`},
		{"postgresql", "bindings.postgresql", []string{"timeout", "10s"}, 1, `"connectionString" is required`},
		{"postgresql state", "state.postgresql", []string{"connectionString", "host=h", "tableName", "a.b.c.d"}, 10, `"tableName" is "a.b.c.d"`},
		// A template is not known, and may make good what seems wrong.
		{"template", "pubsub.mqtt3", []string{"url", "h:1883", "consumerID", "{podName}"}, 0, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := findingsOf(t, yamlOf(c.typ, c.properties...))
			if c.want == "" {
				if len(got) > 0 {
					t.Errorf("findings %q", got)
				}
				return
			}
			if len(got) != 1 || !strings.HasPrefix(got[0], fmt.Sprintf(`a.yaml:%d: error: Component "mine": `, c.line)) || !strings.Contains(got[0], c.want) {
				t.Errorf("findings %q, want an error on line %d with %q", got, c.line, c.want)
			}
			for _, f := range got {
				if strings.Contains(f, "secret;") || strings.Contains(f, `"secret"`) {
					t.Errorf("%q shows a secret", f)
				}
			}
		})
	}
}

// What references come to is not known, so that nothing is said about how it goes together with the rest.
func TestCheckOfReferences(t *testing.T) {
	for _, reference := range []string{"envRef: DAPR_PASSWORD", "secretKeyRef: {name: kafka, key: password}"} {
		text := yamlOf("pubsub.kafka", "brokers", "h:9092", "authType", "password", "saslUsername", "") + "  - name: saslPassword\n    " + reference +
			"\nauth: {secretStore: kubernetes}\n"
		if got := findingsOf(t, text); len(got) > 0 {
			t.Errorf("%s: findings %q", reference, got)
		}
		// Each property is checked by itself all the same.
		text = strings.Replace(text, `"password"`, `"pasword"`, 1)
		if got := findingsOf(t, text); len(got) != 1 || !strings.HasPrefix(got[0], `a.yaml:10: error: Component "mine": metadata property "authType" is "pasword"`) {
			t.Errorf("%s: findings %q", reference, got)
		}
	}
}

func TestCheckOfSubscriptions(t *testing.T) {
	subscription := func(name, component, routes string) string {
		return "---\napiVersion: dapr.io/v2alpha1\nkind: Subscription\nmetadata: {name: " + name + "}\nspec:\n  pubsubname: " + component +
			"\n  topic: t\n  routes:\n" + routes
	}
	const route = "    default: /x\n"
	broker := strings.Replace(yamlOf("pubsub.in-memory"), "  metadata:\n", "", 1) // 6 lines
	for _, c := range []struct {
		name string
		text string
		want []string
	}{
		{"right", broker + subscription("a", "mine", route) + subscription("b", "pubsub", "    rules:\n    - match: event.type == 'x'\n      path: /x\n    - path: /y\n      match: ''\n"), nil},
		{
			"expression", broker + subscription("a", "mine", "    rules:\n    - match: event.type == 'x'\n      path: /x\n    - match: 'event.type =='\n      path: /y\n"),
			[]string{`a.yaml:18: error: Subscription "a": the rule for path /y has a match that is no valid expression: "event.type =="`},
		},
		{
			"same name", broker + subscription("a", "mine", route) + subscription("a", "mine", route),
			[]string{`a.yaml:17: warning: Subscription "a": it replaces the subscription of the same name at a.yaml:8; rename one of the two`},
		},
		{
			"same name for other apps", broker + subscription("a", "mine", route) + "scopes: [one]\n" + subscription("a", "mine", route) + "scopes: [two]\n", nil,
		},
		{
			"same name for one app", broker + subscription("a", "mine", route) + "scopes: [one]\n" + subscription("a", "mine", route) + "scopes: [two, one]\n",
			[]string{`a.yaml:18: warning: Subscription "a": it replaces`},
		},
		{
			"no component", broker + subscription("a", "yours", route),
			[]string{`a.yaml:12: warning: Subscription "a": its pub/sub component "yours" is in none of the checked files`},
		},
		{
			"component of another kind", strings.Replace(broker, "pubsub.", "state.", 1) + subscription("a", "mine", route),
			[]string{`a.yaml:12: warning: Subscription "a": its pub/sub component "mine" is in none of the checked files`},
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := findingsOf(t, c.text)
			if len(got) != len(c.want) {
				t.Fatalf("findings %q, want %q", got, c.want)
			}
			for i := range got {
				if !strings.HasPrefix(got[i], c.want[i]) {
					t.Errorf("finding %q, want %q", got[i], c.want[i])
				}
			}
		})
	}
}

func TestCheckOfExamples(t *testing.T) {
	if got := findingsIn(t, filepath.Join("..", "examples", "quickstart", "resources")); len(got) > 0 {
		t.Errorf("findings %q", got)
	}
}
