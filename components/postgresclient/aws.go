package postgresclient

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"
	"github.com/jackc/pgx/v5"
	"outrigger.dev/components/awsauth"
)

// AWS are the metadata properties for servers of Amazon RDS that take IAM tokens as passwords.
type AWS struct {
	UseAWSIAM bool `name:"useAWSIAM" help:"log in with tokens of AWS IAM; version 1 of the state store pays no heed to it"`

	awsauth.Options
}

// tokens returns the function that makes a token for each new connection.
func (a AWS) tokens(ctx context.Context, config *pgx.ConnConfig) (func(context.Context) (string, error), error) {
	c, err := a.Config(ctx, awsauth.Surroundings{})
	if err != nil {
		return nil, fmt.Errorf("metadata property \"useAWSIAM\" is true: %w", err)
	}
	address := net.JoinHostPort(config.Host, strconv.Itoa(int(config.Port)))
	user := config.User
	return func(ctx context.Context) (string, error) {
		credentials, err := c.Credentials.Retrieve(ctx)
		if err != nil {
			return "", fmt.Errorf("metadata property \"useAWSIAM\" is true, but there are no AWS credentials: %w; give \"awsAccessKey\" and \"awsSecretKey\", or those of the environment", err)
		}
		return token(ctx, credentials, c.Region, address, user, time.Now())
	}, nil
}

// emptySum is the SHA-256 of no bytes, which are the body of the call that a token stands for.
const emptySum = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"

// token is a signed URL without its scheme, which holds for 15 minutes (Amazon RDS: IAM database authentication).
func token(ctx context.Context, credentials aws.Credentials, region, address, user string, now time.Time) (string, error) {
	query := url.Values{"Action": {"connect"}, "DBUser": {user}, "X-Amz-Expires": {"900"}}
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://"+address+"/?"+query.Encode(), nil)
	if err != nil {
		return "", err
	}
	signed, _, err := v4.NewSigner().PresignHTTP(ctx, credentials, r, emptySum, "rds-db", region, now)
	return strings.TrimPrefix(signed, "https://"), err
}
