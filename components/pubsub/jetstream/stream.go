package jetstream

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"outrigger.dev/components/pubsub"
)

// illegalInNames are the characters that names of streams and consumers cannot have.
const illegalInNames = " \t\r\n\f.*>/\\"

// longestName is how long names of streams and consumers can be, in bytes.
const longestName = 255

// escape writes text as a name of a stream or consumer: characters that are illegal there, or in file names, which the server
// makes of it, become %XX. It is reversible, since the percent sign is escaped too.
func escape(text string) string {
	const digits = "0123456789ABCDEF"
	var b []byte
	for i := 0; i < len(text); i++ {
		c := text[i]
		if c > ' ' && c != 0x7f && !strings.ContainsRune(`.*>/\%:"<|?`, rune(c)) {
			if b != nil {
				b = append(b, c)
			}
			continue
		}
		if b == nil {
			b = append(make([]byte, 0, len(text)+8), text[:i]...)
		}
		b = append(b, '%', digits[c>>4], digits[c&15])
	}
	if b == nil {
		return text
	}
	return string(b)
}

// checkTopic tells why a topic is no NATS subject. pattern is true where wildcards may stand.
func checkTopic(topic string, pattern bool) error {
	wrong := func(what string) error {
		return pubsub.Terminal(fmt.Errorf("topic %q cannot be a NATS subject: %s", topic, what))
	}
	if topic == "" {
		return wrong("it is empty; give it a name")
	}
	start := 0
	for i := 0; i <= len(topic); i++ {
		if i < len(topic) && topic[i] != '.' {
			if c := topic[i]; c <= ' ' || c == 0x7f {
				return wrong(fmt.Sprintf("it has the character %q; use letters, digits, - and _ instead of blanks and control characters", c))
			}
			continue
		}
		switch token := topic[start:i]; {
		case token == "":
			return wrong("there is nothing between two dots, or before or after one; leave the dot out")
		case !pattern && (token == "*" || token == ">"):
			return wrong("* and > are wildcards, which cannot be published to; name one topic")
		case token == ">" && i < len(topic):
			return wrong("the wildcard > stands only at the end; use * for one part in the middle")
		}
		start = i + 1
	}
	return nil
}

// hasWildcard tells whether a topic is a pattern.
func hasWildcard(topic string) bool {
	for token := range strings.SplitSeq(topic, ".") {
		if token == "*" || token == ">" {
			return true
		}
	}
	return false
}

// streamsOf lists the streams that hold a subject or subjects of a pattern.
func (b *Broker) streamsOf(ctx context.Context, topic string) ([]string, error) {
	ctx, cancel := context.WithTimeout(ctx, apiTimeout)
	defer cancel()
	list := b.js.StreamNames(ctx, jetstream.WithStreamListSubject(topic))
	var names []string
	for name := range list.Name() {
		names = append(names, name)
	}
	if err := list.Err(); err != nil && !errors.Is(err, jetstream.ErrEndOfData) {
		return nil, pubsub.Transient(fmt.Errorf("NATS at %s does not tell which stream holds %q: %w; check that JetStream is enabled there", b.address, topic, err))
	}
	return names, nil
}

// streamFor finds, or where asked to makes, the stream to consume a topic from.
func (b *Broker) streamFor(ctx context.Context, topic string) (string, error) {
	if b.options.StreamName != "" {
		return b.options.StreamName, nil
	}
	names, err := b.streamsOf(ctx, topic)
	switch {
	case err != nil:
		return "", err
	case len(names) == 1:
		return names[0], nil
	case len(names) > 1:
		return "", pubsub.Terminal(fmt.Errorf("topic %q is in several streams of NATS at %s (%s), and a subscription reads one; name it in the metadata property \"streamName\"", topic, b.address, strings.Join(names, ", ")))
	case !b.options.CreateStreams:
		return "", b.noStream(topic)
	case hasWildcard(topic):
		return "", pubsub.Terminal(fmt.Errorf("no stream of NATS at %s holds the pattern %q, and createStreams makes streams of single topics only; create one, e.g. nats stream add NAME --subjects %q", b.address, topic, topic))
	}
	return b.createStream(ctx, topic)
}

func (b *Broker) noStream(topic string) error {
	return pubsub.Terminal(fmt.Errorf("no stream of NATS at %s holds the topic %q; create one, e.g. nats stream add NAME --subjects %q, or set the metadata property \"createStreams\" to \"true\"", b.address, topic, topic))
}

// createStream makes the topic's own stream. It is no error when somebody else was first.
func (b *Broker) createStream(ctx context.Context, topic string) (string, error) {
	config := b.options.stream(topic)
	if len(config.Name) > longestName {
		return "", pubsub.Terminal(fmt.Errorf("topic %q is too long for a stream of its own: its name would have %d bytes of at most %d; shorten it, or create a stream for it", topic, len(config.Name), longestName))
	}
	creating, cancel := context.WithTimeout(ctx, apiTimeout)
	defer cancel()
	_, err := b.js.CreateStream(creating, config)
	if err == nil {
		b.log.Info("stream created", "stream", config.Name, "topic", topic, "nats", b.address)
		return config.Name, nil
	}
	var answer *jetstream.APIError
	refused := errors.As(err, &answer)
	// Made meanwhile by another, maybe with other limits.
	if names, lookErr := b.streamsOf(ctx, topic); lookErr == nil && len(names) == 1 {
		return names[0], nil
	}
	err = fmt.Errorf("the stream %q for topic %q cannot be created on NATS at %s: %w", config.Name, topic, b.address, err)
	if refused && answer.Code < 500 {
		return "", pubsub.Terminal(err)
	}
	return "", pubsub.Transient(err)
}

// Bounds of calls of the server.
const (
	// apiTimeout is for one request of its API.
	apiTimeout = 5 * time.Second
	// closeTimeout is for each step of closing that needs the server.
	closeTimeout = 2 * time.Second
)
