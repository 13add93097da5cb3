// Package awsauth is how the components of AWS log in: the metadata properties that they share, and what these mean for the
// AWS SDK (Dapr API, authenticating to AWS).
package awsauth

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/credentials/stscreds"
	"github.com/aws/aws-sdk-go-v2/service/sts"

	"outrigger.dev/identity"
)

// Options are the metadata properties. Which are given says how to log in: with trustAnchorArn by IAM Roles Anywhere; with
// assumeRoleArn in a role; with accessKey by that key; without any as the environment says (variables, shared files, the
// roles of EKS, ECS and EC2).
type Options struct {
	Region       string `name:"region" aliases:"awsRegion" help:"AWS region, such as us-east-1; by default that of the environment"`
	AccessKey    string `name:"accessKey" aliases:"awsAccessKey" help:"AWS access key; without it the environment's credentials are used"`
	SecretKey    string `name:"secretKey" aliases:"awsSecretKey" secret:"true" help:"AWS secret key"`
	SessionToken string `name:"sessionToken" aliases:"awsSessionToken" secret:"true" help:"AWS session token of temporary keys"`

	AssumeRoleARN string `name:"assumeRoleArn" aliases:"awsIamRoleArn" help:"IAM role to assume"`
	SessionName   string `name:"sessionName" aliases:"awsStsSessionName" default:"DaprDefaultSession" help:"name of the session of the assumed role"`

	TrustAnchorARN  string `name:"trustAnchorArn" help:"trust anchor of IAM Roles Anywhere, which logs in with the sidecar's X.509 identity; needs trustProfileArn and assumeRoleArn too"`
	TrustProfileARN string `name:"trustProfileArn" help:"profile of IAM Roles Anywhere"`

	identity identity.Source
}

// UseIdentity gives the sidecar's identity for IAM Roles Anywhere. It implements [components.IdentityUser].
func (o *Options) UseIdentity(source identity.Source) { o.identity = source }

// fallbackRegion is what requests to an endpoint of one's own are signed for when no region is named.
const fallbackRegion = "us-east-1"

// Surroundings are what a component adds to the properties.
type Surroundings struct {
	// Transport, when not nil, changes the transport for all calls.
	Transport func(*http.Transport)
	// OwnEndpoint says that the component calls an endpoint that is not AWS, so that the region may be left out.
	OwnEndpoint bool
	// Identity gives the X.509 identity for IAM Roles Anywhere; nil means that of the sidecar, see [Options.UseIdentity].
	Identity Identity
	// Endpoint, when not empty, is called instead of those of AWS that give out credentials (STS, IAM Roles Anywhere).
	Endpoint string
	// Now is the time; nil means that of the system.
	Now func() time.Time
}

// Config is the configuration for the clients of AWS's services. Credentials are fetched when first needed, and again before
// they expire.
func (o *Options) Config(ctx context.Context, around Surroundings) (aws.Config, error) {
	if err := o.Check(); err != nil {
		return aws.Config{}, err
	}
	var load []func(*config.LoadOptions) error
	if o.Region != "" {
		load = append(load, config.WithRegion(o.Region))
	}
	client := awshttp.NewBuildableClient()
	if around.Transport != nil {
		client = client.WithTransportOptions(around.Transport)
	}
	load = append(load, config.WithHTTPClient(client))
	if o.AccessKey != "" {
		load = append(load, config.WithCredentialsProvider(credentials.NewStaticCredentialsProvider(o.AccessKey, o.SecretKey, o.SessionToken)))
	}
	c, err := config.LoadDefaultConfig(ctx, load...)
	if err != nil {
		return aws.Config{}, fmt.Errorf("cannot read the AWS settings of the environment: %w; check the AWS_ variables and the files in ~/.aws", err)
	}
	if c.Region == "" {
		if !around.OwnEndpoint || o.TrustAnchorARN != "" || o.AssumeRoleARN != "" {
			return aws.Config{}, errors.New(`metadata property "region" is required: give the AWS region, such as "us-east-1", or set the environment variable AWS_REGION`)
		}
		c.Region = fallbackRegion
	}
	switch {
	case o.TrustAnchorARN != "":
		provider, err := o.rolesAnywhere(c.HTTPClient, around)
		if err != nil {
			return aws.Config{}, err
		}
		c.Credentials = aws.NewCredentialsCache(provider, expiryWindow)
	case o.AssumeRoleARN != "":
		client := sts.NewFromConfig(c, func(s *sts.Options) {
			if around.Endpoint != "" {
				s.BaseEndpoint = &around.Endpoint
			}
		})
		c.Credentials = aws.NewCredentialsCache(stscreds.NewAssumeRoleProvider(client, o.AssumeRoleARN, func(a *stscreds.AssumeRoleOptions) {
			a.RoleSessionName = o.SessionName
		}), expiryWindow)
	}
	return c, nil
}

// expiryWindow renews credentials somewhat before they expire.
func expiryWindow(o *aws.CredentialsCacheOptions) { o.ExpiryWindow = 5 * time.Minute }

// Check refuses properties that are given without others that they need, or exclude each other. It implements
// [components.Checker].
func (o *Options) Check() error {
	if (o.AccessKey == "") != (o.SecretKey == "") {
		return errors.New(`metadata properties "accessKey" and "secretKey" must be given together; leave both out to use the environment's credentials`)
	}
	if o.SessionToken != "" && o.AccessKey == "" {
		return errors.New(`metadata property "sessionToken" needs "accessKey" and "secretKey" too`)
	}
	if o.SessionName == "" {
		o.SessionName = "DaprDefaultSession"
	}
	if (o.TrustAnchorARN != "") != (o.TrustProfileARN != "") || o.TrustAnchorARN != "" && o.AssumeRoleARN == "" {
		return errors.New(`metadata properties "trustAnchorArn", "trustProfileArn" and "assumeRoleArn" must be given together for IAM Roles Anywhere`)
	}
	if o.TrustAnchorARN != "" && o.AccessKey != "" {
		return errors.New(`metadata properties "trustAnchorArn" and "accessKey" exclude each other: IAM Roles Anywhere logs in with the sidecar's X.509 identity; leave one out`)
	}
	return nil
}
