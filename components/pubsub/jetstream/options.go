package jetstream

import (
	"crypto/tls"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nkeys"

	"outrigger.dev/components"
	"outrigger.dev/components/clienttls"
)

// Options are the metadata of pubsub.jetstream.
type Options struct {
	NATSURL string `name:"natsURL" required:"true" secret:"true" help:"address of the NATS server, e.g. nats://localhost:4222 or nats://user:password@host:4222; several separated by commas"`
	Name    string `name:"name" default:"dapr.io - pubsub.jetstream" help:"name of the connection, which the server shows"`

	Token   string `name:"token" secret:"true" help:"token to log in with"`
	JWT     string `name:"jwt" secret:"true" help:"user JWT to log in with; needs seedKey"`
	SeedKey string `name:"seedKey" secret:"true" help:"seed (SU...) of the user that jwt belongs to; without jwt the user logs in with this key alone"`

	TLSClientCert string `name:"tls_client_cert" help:"client certificate: a path, or PEM text; needs tls_client_key"`
	TLSClientKey  string `name:"tls_client_key" secret:"true" help:"key of the client certificate: a path, or PEM text"`
	TLSCACert     string `name:"tls_ca_cert" help:"authorities to trust instead of the system's: a path, or PEM text; an addition of this runtime"`

	StreamName     string          `name:"streamName" help:"stream to consume from; by default the one that holds the topic as subject"`
	DurableName    string          `name:"durableName" help:"name under which the server keeps the position of the consumer; without it a consumer ends with its subscription. {appID} gives each app its own. One stream can have one consumer of a name, so topics of one stream need several components or createStreams"`
	QueueGroupName string          `name:"queueGroupName" help:"subscribers of one group share the messages of a topic; without it every replica gets all. {appID} makes the replicas of an app share. Without durableName the group ends with its last subscription"`
	StartSequence  uint64          `name:"startSequence" help:"sequence number of the stream to start from, for deliverPolicy sequence"`
	StartTime      int64           `name:"startTime" default:"0" help:"time to start from in seconds since 1970, for deliverPolicy time"`
	FlowControl    bool            `name:"flowControl" default:"false" help:"let the server wait for a slow subscriber; needs heartbeat, which is 5s when absent"`
	AckWait        time.Duration   `name:"ackWait" help:"time after which a message without verdict is delivered again, and delay before a rejected one is; by default 30s and at once. A message that a handler still works on is kept by telling the server so"`
	MaxDeliver     int             `name:"maxDeliver" help:"deliveries of one message after which the server gives up; 0 or -1 for no limit"`
	BackOff        []time.Duration `name:"backOff" help:"delays before the second, third, ... delivery, e.g. 1s,5s,1m; overrides ackWait; at most as many as maxDeliver"`
	MaxAckPending  int             `name:"maxAckPending" help:"messages without verdict after which the server waits; 0 for its default of 1000, -1 for no limit"`
	Replicas       int             `name:"replicas" help:"servers of a cluster that keep the consumer (and the streams that createStreams makes); 0 for as many as keep the stream"`
	MemoryStorage  bool            `name:"memoryStorage" default:"false" help:"keep the consumer (and the streams that createStreams makes) in memory only"`
	RateLimit      uint64          `name:"rateLimit" help:"highest rate of delivery in bits per second; 0 for none"`
	Heartbeat      time.Duration   `name:"heartbeat" aliases:"hearbeat" help:"interval of the server's sign of life when there are no messages; at least 100ms"`
	DeliverPolicy  string          `name:"deliverPolicy" required:"true" allowed:"all,last,new,sequence,time" help:"where a new consumer starts: all, last, new, sequence (see startSequence) or time (see startTime)"`
	AckPolicy      string          `name:"ackPolicy" default:"explicit" allowed:"explicit,all,none" help:"explicit: each message needs its verdict; all: a processed message settles all before it; none: messages count as processed when sent"`
	Domain         string          `name:"domain" help:"JetStream domain, of leaf nodes"`
	APIPrefix      string          `name:"apiPrefix" help:"prefix of the JetStream API, of imported accounts; excludes domain"`

	ConcurrencyMode string `name:"concurrencyMode" aliases:"concurrency" default:"single" allowed:"single,parallel" help:"single: one message at a time per subscription, in order; parallel: as many as maxAckPending"`

	CreateStreams  bool                 `name:"createStreams" default:"false" help:"give a topic that no stream holds a stream of its own, named after the topic with its illegal characters escaped as %XX; an addition of this runtime"`
	StreamMaxAge   *time.Duration       `name:"streamMaxAge" help:"with createStreams: age after which messages are removed, consumed or not; by default never; an addition of this runtime"`
	StreamMaxBytes *components.ByteSize `name:"streamMaxBytes" help:"with createStreams: size of a stream above which its oldest messages are removed, e.g. 1Gi; by default no limit; an addition of this runtime"`
}

// Figures that the server applies when nothing is set.
const (
	defaultAckWait       = 30 * time.Second
	defaultMaxAckPending = 1000
	minHeartbeat         = 100 * time.Millisecond
	defaultHeartbeat     = 5 * time.Second
)

// Check refuses what the server would refuse later, or would not notice, and completes what follows from other settings. It
// implements [components.Checker].
func (o *Options) Check() error {
	o.DeliverPolicy, o.AckPolicy, o.ConcurrencyMode = strings.ToLower(o.DeliverPolicy), strings.ToLower(o.AckPolicy), strings.ToLower(o.ConcurrencyMode)
	if o.FlowControl && o.Heartbeat == 0 {
		o.Heartbeat = defaultHeartbeat
	}
	if err := o.checkAddresses(); err != nil {
		return err
	}
	switch {
	case o.JWT != "" && o.SeedKey == "":
		return errors.New(`metadata property "jwt" needs "seedKey", the seed of the user that it belongs to: give both or none`)
	case (o.TLSClientCert == "") != (o.TLSClientKey == ""):
		return errors.New(`metadata properties "tls_client_cert" and "tls_client_key" belong together: give both or none`)
	case o.DeliverPolicy == "sequence" && o.StartSequence == 0:
		return errors.New(`metadata property "deliverPolicy" is "sequence", which needs "startSequence", a number from 1`)
	case o.StartTime < 0:
		return fmt.Errorf(`metadata property "startTime" is %d, but must be a number of seconds since 1970`, o.StartTime)
	case o.AckWait < 0:
		return fmt.Errorf(`metadata property "ackWait" is %s, but must not be negative`, o.AckWait)
	case o.Heartbeat != 0 && o.Heartbeat < minHeartbeat:
		return fmt.Errorf(`metadata property "heartbeat" is %s, but the server takes %s and more`, o.Heartbeat, minHeartbeat)
	case o.MaxDeliver < -1:
		return fmt.Errorf(`metadata property "maxDeliver" is %d, but must be a number of deliveries, or 0 or -1 for no limit`, o.MaxDeliver)
	case o.MaxAckPending < -1:
		return fmt.Errorf(`metadata property "maxAckPending" is %d, but must be a number of messages, 0 for the server's default, or -1 for no limit`, o.MaxAckPending)
	case len(o.BackOff) > 0 && o.MaxDeliver > 0 && len(o.BackOff) > o.MaxDeliver:
		return fmt.Errorf(`metadata property "backOff" has %d delays, but "maxDeliver" allows only %d deliveries; shorten the one or raise the other`, len(o.BackOff), o.MaxDeliver)
	case o.AckPolicy == "none" && o.MaxAckPending > 0:
		return errors.New(`metadata property "maxAckPending" has no meaning with "ackPolicy" none; leave one of them out`)
	case o.Domain != "" && o.APIPrefix != "":
		return errors.New(`metadata properties "domain" and "apiPrefix" exclude each other; leave one of them out`)
	case o.Replicas < 0 || o.Replicas > 5:
		return fmt.Errorf(`metadata property "replicas" is %d, but must be 0 to 5`, o.Replicas)
	case o.StreamName != "" && strings.ContainsAny(o.StreamName, illegalInNames):
		return fmt.Errorf(`metadata property "streamName" is %q, but names of streams have no blanks and none of . * > / \`, o.StreamName)
	case o.CreateStreams && o.StreamName != "":
		return errors.New(`metadata property "createStreams" makes one stream for each topic, so "streamName" cannot be given; leave one of them out`)
	case o.StreamMaxAge != nil && *o.StreamMaxAge < 0:
		return fmt.Errorf(`metadata property "streamMaxAge" is %s, but must not be negative`, *o.StreamMaxAge)
	case o.StreamMaxBytes != nil && *o.StreamMaxBytes < 0:
		return fmt.Errorf(`metadata property "streamMaxBytes" is %d, but must not be negative`, *o.StreamMaxBytes)
	case !o.CreateStreams && (o.StreamMaxAge != nil || o.StreamMaxBytes != nil):
		return errors.New(`metadata properties "streamMaxAge" and "streamMaxBytes" apply to streams made here: set "createStreams" to "true" or leave them out`)
	}
	for _, d := range o.BackOff {
		if d < 0 {
			return fmt.Errorf(`metadata property "backOff" has the delay %s, but delays must not be negative`, d)
		}
	}
	_, err := o.connection()
	return err
}

// checkAddresses refuses what the client library would, whose error has the whole text and with it the password.
func (o *Options) checkAddresses() error {
	for part := range strings.SplitSeq(o.NATSURL, ",") {
		part = strings.TrimSpace(part)
		if !strings.Contains(part, "://") {
			part = "nats://" + part
		}
		u, err := url.Parse(part)
		switch {
		case strings.Contains(part, "@") && (err != nil || strings.Contains(u.Path, "@")): // the cause may have parts of the password
			return errors.New(`metadata property "natsURL" is not a URL: write nats://user:password@host:4222, and in the user and the password %40 for @, %2F for /, %25 for %, and so on`)
		case err != nil:
			if parse, ok := errors.AsType[*url.Error](err); ok {
				err = parse.Err
			}
			return fmt.Errorf(`metadata property "natsURL" is not a URL: %w: write e.g. nats://localhost:4222`, err)
		}
	}
	return nil
}

// addresses names the servers for messages, without credentials.
func (o *Options) addresses() string {
	var shown []string
	for part := range strings.SplitSeq(o.NATSURL, ",") {
		if u, err := url.Parse(strings.TrimSpace(part)); err == nil && u.Host != "" {
			shown = append(shown, u.Host)
		} else if _, host, found := strings.Cut(part, "@"); found {
			shown = append(shown, host)
		} else {
			shown = append(shown, part)
		}
	}
	return strings.Join(shown, ",")
}

// connection maps the metadata to options of the client library.
func (o *Options) connection() ([]nats.Option, error) {
	options := []nats.Option{nats.Name(o.Name)}
	switch {
	case o.SeedKey != "":
		user, err := publicKey(o.SeedKey)
		if err != nil {
			return nil, err
		}
		signature := func(nonce []byte) ([]byte, error) { return sign(o.SeedKey, nonce) }
		if o.JWT != "" {
			options = append(options, nats.UserJWT(func() (string, error) { return o.JWT, nil }, signature))
		} else {
			options = append(options, nats.Nkey(user, signature))
		}
	case o.Token != "":
		options = append(options, nats.Token(o.Token))
	}
	if o.TLSClientCert == "" && o.TLSCACert == "" {
		return options, nil
	}
	config := &tls.Config{MinVersion: tls.VersionTLS12}
	var err error
	cert, key := clienttls.Property{Name: "tls_client_cert", Value: o.TLSClientCert}, clienttls.Property{Name: "tls_client_key", Value: o.TLSClientKey}
	if config.Certificates, err = clienttls.Pair(cert, key); err != nil {
		return nil, err
	}
	if config.RootCAs, err = clienttls.Authorities(clienttls.Property{Name: "tls_ca_cert", Value: o.TLSCACert}); err != nil {
		return nil, err
	}
	return append(options, nats.Secure(config)), nil
}

// publicKey is the name of the user that a seed belongs to.
func publicKey(seed string) (string, error) {
	pair, err := nkeys.FromSeed([]byte(seed))
	if err != nil {
		return "", fmt.Errorf(`metadata property "seedKey" is not the seed of a key (SU...): %w`, err)
	}
	defer pair.Wipe()
	return pair.PublicKey()
}

func sign(seed string, nonce []byte) ([]byte, error) {
	pair, err := nkeys.FromSeed([]byte(seed))
	if err != nil {
		return nil, err
	}
	defer pair.Wipe()
	return pair.Sign(nonce)
}

// consumer is the configuration of a consumer for a topic, but for where it delivers to.
func (o *Options) consumer(topic string) jetstream.ConsumerConfig {
	c := jetstream.ConsumerConfig{
		Name:          o.sharedName(topic),
		Durable:       escape(o.DurableName),
		AckWait:       o.AckWait,
		MaxDeliver:    o.MaxDeliver,
		BackOff:       o.BackOff,
		FilterSubject: topic,
		RateLimit:     o.RateLimit,
		MaxAckPending: o.MaxAckPending,
		Replicas:      o.Replicas,
		MemoryStorage: o.MemoryStorage,
		DeliverGroup:  escape(o.QueueGroupName),
		FlowControl:   o.FlowControl,
		IdleHeartbeat: o.Heartbeat,
	}
	switch o.DeliverPolicy {
	case "all":
		c.DeliverPolicy = jetstream.DeliverAllPolicy
	case "last":
		c.DeliverPolicy = jetstream.DeliverLastPolicy
	case "new":
		c.DeliverPolicy = jetstream.DeliverNewPolicy
	case "sequence":
		c.DeliverPolicy, c.OptStartSeq = jetstream.DeliverByStartSequencePolicy, o.StartSequence
	case "time":
		start := time.Unix(o.StartTime, 0).UTC()
		c.DeliverPolicy, c.OptStartTime = jetstream.DeliverByStartTimePolicy, &start
	}
	switch o.AckPolicy {
	case "all":
		c.AckPolicy = jetstream.AckAllPolicy
	case "none":
		c.AckPolicy = jetstream.AckNonePolicy
	default:
		c.AckPolicy = jetstream.AckExplicitPolicy
	}
	return c
}

// sharedName is the name by which the members of a group find their consumer when none is given: a blank, which neither part
// has, is between group and topic. It is "" for consumers that are not shared; durable ones are found by their own name.
func (o *Options) sharedName(topic string) string {
	if o.QueueGroupName == "" || o.DurableName != "" {
		return ""
	}
	return escape(o.QueueGroupName) + "%20" + escape(topic)
}

// stream is the configuration of a topic's own stream.
func (o *Options) stream(topic string) jetstream.StreamConfig {
	c := jetstream.StreamConfig{Name: escape(topic), Subjects: []string{topic}, Replicas: max(1, o.Replicas)}
	if o.MemoryStorage {
		c.Storage = jetstream.MemoryStorage
	}
	if o.StreamMaxBytes != nil && *o.StreamMaxBytes > 0 {
		c.MaxBytes = int64(*o.StreamMaxBytes)
	}
	if o.StreamMaxAge != nil && *o.StreamMaxAge > 0 {
		c.MaxAge = *o.StreamMaxAge
		// Messages are not recognised as duplicates for longer than they live.
		c.Duplicates = min(duplicateWindow, c.MaxAge)
	}
	return c
}

// duplicateWindow is how long the server remembers the ids of messages.
const duplicateWindow = 2 * time.Minute

// delay is how long a message that was rejected in its nth delivery, from 1, is held back.
func (o *Options) delay(n uint64) time.Duration {
	if len(o.BackOff) == 0 {
		return o.AckWait
	}
	return o.BackOff[min(max(n, 1), uint64(len(o.BackOff)))-1]
}

// patience is the shortest time after which the server delivers a message without verdict again.
func (o *Options) patience() time.Duration {
	wait := o.AckWait
	if wait == 0 {
		wait = defaultAckWait
	}
	for i, d := range o.BackOff {
		if i == 0 || d < wait {
			wait = d
		}
	}
	return wait
}

// parallelism is how many messages of a subscription are handled at a time.
func (o *Options) parallelism() int {
	switch {
	case o.ConcurrencyMode != "parallel", o.AckPolicy == "all": // settling all before it takes one after the other
		return 1
	case o.MaxAckPending > 0:
		return o.MaxAckPending
	default:
		return defaultMaxAckPending
	}
}
