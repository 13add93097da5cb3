package kafkaclient

import (
	"context"
	"fmt"
	"strings"

	"github.com/jonboulle/clockwork"
	"github.com/twmb/franz-go/pkg/sasl"
	"github.com/twmb/franz-go/pkg/sasl/aws"
	"github.com/twmb/franz-go/pkg/sasl/oauth"
	"github.com/twmb/franz-go/pkg/sasl/plain"
	"github.com/twmb/franz-go/pkg/sasl/scram"

	"outrigger.dev/components/awsauth"
)

// mechanism is the way to log in on a connection, nil for none.
func (o *Options) mechanism(ctx context.Context, clock clockwork.Clock) (sasl.Mechanism, error) {
	switch o.auth() {
	case authPassword:
		auth := scram.Auth{User: o.SASLUsername, Pass: o.SASLPassword}
		switch strings.ToUpper(o.SASLMechanism) {
		case "SHA-256":
			return auth.AsSha256Mechanism(), nil
		case "SHA-512":
			return auth.AsSha512Mechanism(), nil
		}
		return plain.Auth{User: o.SASLUsername, Pass: o.SASLPassword}.AsMechanism(), nil
	case authOIDC, authOIDCKey:
		source, err := o.tokenSource(clock)
		if err != nil {
			return nil, err
		}
		return oauth.Oauth(source.auth), nil
	case authAWS:
		return o.awsMechanism(ctx, clock)
	}
	return nil, nil
}

// awsMechanism logs in with the credentials of AWS that the properties come to (Dapr API, Kafka components: awsiam).
func (o *Options) awsMechanism(ctx context.Context, clock clockwork.Clock) (sasl.Mechanism, error) {
	config, err := o.Config(ctx, awsauth.Surroundings{Now: clock.Now})
	if err != nil {
		return nil, err
	}
	return aws.ManagedStreamingIAM(func(ctx context.Context) (aws.Auth, error) {
		c, err := config.Credentials.Retrieve(ctx)
		if err != nil {
			return aws.Auth{}, fmt.Errorf("no AWS credentials for Kafka: %w", err)
		}
		return aws.Auth{AccessKey: c.AccessKeyID, SecretKey: c.SecretAccessKey, SessionToken: c.SessionToken, UserAgent: o.ClientID}, nil
	}), nil
}
