// Package kafkaclient is what the Kafka components share: the connection metadata, as an options struct to embed, and on top of
// franz-go a [Producer] and a [Consumer] that speak in terms of topics, bytes and metadata.
package kafkaclient

import (
	"time"

	"outrigger.dev/components"
	"outrigger.dev/components/awsauth"
)

// Options are the properties of a Kafka component (Dapr API, Kafka components). Embed it in the component's options and call
// [Options.Check] before anything else.
type Options struct {
	Brokers       []string `name:"brokers" required:"true" help:"the brokers to begin with, as a comma-separated list of host:port, e.g. localhost:9092"`
	ClientID      string   `name:"clientID" default:"sarama" help:"the name that the brokers know this client by, in their logs and quotas"`
	ConsumerGroup string   `name:"consumerGroup" help:"the consumer group: each message of a topic goes to one consumer of every group; default is consumerID"`
	ConsumerID    string   `name:"consumerID" help:"the consumer group when consumerGroup is not given; default is the app id"`
	Version       string   `name:"version" default:"2.0.0.0" help:"version of the Kafka cluster; only its form is checked, for the client asks each broker what it speaks"`

	AuthType      string `name:"authType" allowed:"none,password,mtls,oidc,oidc_private_key_jwt,awsiam" help:"how to log in: none, password, mtls, oidc, oidc_private_key_jwt or awsiam; required"`
	AuthRequired  *bool  `name:"authRequired" help:"deprecated, use authType: true means password, false means none"`
	SASLUsername  string `name:"saslUsername" help:"the user, for authType password"`
	SASLPassword  string `name:"saslPassword" secret:"true" help:"the password of the user, for authType password"`
	SASLMechanism string `name:"saslMechanism" default:"PLAINTEXT" allowed:"SHA-512,SHA-256,PLAINTEXT" help:"how the password is presented, for authType password"`

	CACert     string `name:"caCert" help:"certificates in PEM of the authorities that the brokers' certificates may come from; default is the system's authorities"`
	ClientCert string `name:"clientCert" help:"client certificate in PEM, for authType mtls; also sent under the others when given. Needs clientKey"`
	ClientKey  string `name:"clientKey" secret:"true" help:"key of clientCert in PEM"`
	SkipVerify bool   `name:"skipVerify" help:"do not check the brokers' certificates"`
	DisableTLS bool   `name:"disableTls" help:"connect in clear text; with authType none that is so in any case"`

	OIDCTokenEndpoint       string   `name:"oidcTokenEndpoint" help:"URL that issues access tokens, for authType oidc and oidc_private_key_jwt"`
	OIDCClientID            string   `name:"oidcClientID" help:"the client's id at the token endpoint"`
	OIDCClientSecret        string   `name:"oidcClientSecret" secret:"true" help:"the client's secret at the token endpoint, for authType oidc"`
	OIDCScopes              []string `name:"oidcScopes" default:"openid" help:"scopes to ask for, separated by commas"`
	OIDCExtensions          string   `name:"oidcExtensions" help:"JSON object of strings that is sent to the brokers with the token, e.g. {\"cluster\":\"kafka\",\"poolid\":\"kafkapool\"}"`
	OIDCClientAssertionCert string   `name:"oidcClientAssertionCert" help:"certificate in PEM that the token endpoint knows, for authType oidc_private_key_jwt"`
	OIDCClientAssertionKey  string   `name:"oidcClientAssertionKey" secret:"true" help:"key of oidcClientAssertionCert in PEM, RSA or EC"`
	OIDCResource            string   `name:"oidcResource" help:"the resource parameter of the token request"`
	OIDCAudience            string   `name:"oidcAudience" help:"the audience of the client assertion; default is oidcTokenEndpoint"`
	OIDCKid                 string   `name:"oidcKid" help:"the key id in the header of the client assertion; default is the certificate's SHA-256 fingerprint"`

	// Options are the properties of AWS, for authType awsiam.
	awsauth.Options

	DialTimeout      time.Duration `name:"dialTimeout" default:"30s" help:"limit for connecting to a broker"`
	ReadTimeout      time.Duration `name:"readTimeout" default:"30s" help:"limit for a broker's answer, beyond what it may wait by the request"`
	WriteTimeout     time.Duration `name:"writeTimeout" default:"30s" help:"limit for sending a request; the longer of this and readTimeout holds for both"`
	MetadataTimeout  time.Duration `name:"metadataTimeout" default:"0" help:"limit for finding out about topics, with all retries; 0 for that of one request"`
	MetadataRefresh  time.Duration `name:"clientConnectionTopicMetadataRefreshInterval" default:"9m" help:"how often the client looks for new partitions and moved leaders"`
	ConnKeepAlive    time.Duration `name:"clientConnectionKeepAliveInterval" default:"0" help:"connections that were idle for so long are closed; 0 leaves it to the client"`
	HeartbeatEvery   time.Duration `name:"heartbeatInterval" default:"3s" help:"how often a consumer tells the group that it is alive"`
	SessionTimeout   time.Duration `name:"sessionTimeout" default:"10s" help:"a consumer that was not heard of for so long loses its partitions to the others of the group"`
	RebalancePlan    string        `name:"consumerGroupRebalanceStrategy" default:"range" allowed:"range,sticky,roundrobin" help:"how partitions are divided among the consumers of a group"`
	InitialOffset    string        `name:"initialOffset" default:"newest" allowed:"newest,oldest" help:"where a group begins that has not consumed a topic before"`
	FetchMin         int32         `name:"consumerFetchMin" default:"1" help:"bytes that a broker gathers before it answers a fetch"`
	FetchDefault     int32         `name:"consumerFetchDefault" default:"1048576" help:"bytes fetched from a partition at a time; a larger message is fetched all the same"`
	ChannelBuffer    int           `name:"channelBufferSize" default:"256" help:"messages of a partition that are fetched ahead of the handlers"`
	MaxMessageBytes  int           `name:"maxMessageBytes" default:"1048588" help:"the largest message that is published, with its key and headers; a larger one is an error"`
	RequiredAcks     string        `name:"producerRequiredAcks" default:"all" allowed:"all,-1,local,leader,1,none,0" help:"who must have a message before it counts as published: all replicas in sync (all, -1), their leader (local, leader, 1) or nobody (none, 0)"`
	ProducerRetryMax int           `name:"producerRetryMax" default:"5" help:"how often publishing a message is tried again"`
	Compression      string        `name:"compression" default:"none" allowed:"none,gzip,snappy,lz4,zstd" help:"how messages are compressed"`

	EscapeHeaders     bool   `name:"escapeHeaders" help:"query-escape the keys and header values of consumed messages, for values that HTTP headers cannot carry"`
	ExcludeHeaderMeta string `name:"excludeHeaderMetaRegex" help:"regular expression: metadata whose name it matches does not become a header of the message"`

	ConsumeRetryInterval components.Millis `name:"consumeRetryInterval" default:"100ms" help:"the wait before a failed request to the brokers is tried again, doubled for each further one"`
	BackOff

	SchemaRegistryURL       string        `name:"schemaRegistryURL" help:"URL of the schema registry, for messages with valueSchemaType avro"`
	SchemaRegistryAPIKey    string        `name:"schemaRegistryAPIKey" help:"user at the schema registry"`
	SchemaRegistryAPISecret string        `name:"schemaRegistryAPISecret" secret:"true" help:"password at the schema registry"`
	SchemaCaching           bool          `name:"schemaCachingEnabled" default:"true" help:"keep schemas in memory"`
	SchemaLatestTTL         time.Duration `name:"schemaLatestVersionCacheTTL" default:"5m" help:"how long the latest schema of a topic is kept before the registry is asked again"`
	UseAvroJSON             bool          `name:"useAvroJSON" help:"the JSON of Avro messages is Avro JSON, whose unions name their types, instead of plain JSON"`
}
