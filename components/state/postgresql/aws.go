package postgresql

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"net"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
)

// AWS are the metadata properties for servers of Amazon RDS that take IAM tokens as passwords.
type AWS struct {
	UseAWSIAM    bool   `name:"useAWSIAM" help:"log in with tokens of AWS IAM (version 2 of the component only)"`
	Region       string `name:"awsRegion" aliases:"region" help:"AWS region of the server; by default that of the environment"`
	AccessKey    string `name:"awsAccessKey" aliases:"accessKey" help:"AWS access key; by default that of the environment"`
	SecretKey    string `name:"awsSecretKey" aliases:"secretKey" secret:"true" help:"AWS secret key"`
	SessionToken string `name:"awsSessionToken" aliases:"sessionToken" secret:"true" help:"AWS session token of temporary keys"`
}

// tokens returns the function that makes a token for each new connection.
func (a AWS) tokens(config *pgx.ConnConfig, env func(string) string) (func(context.Context) (string, error), error) {
	if a.AccessKey == "" {
		a.AccessKey, a.SecretKey, a.SessionToken = env("AWS_ACCESS_KEY_ID"), env("AWS_SECRET_ACCESS_KEY"), env("AWS_SESSION_TOKEN")
	}
	for _, name := range []string{"AWS_REGION", "AWS_DEFAULT_REGION"} {
		if a.Region == "" {
			a.Region = env(name)
		}
	}
	if a.AccessKey == "" || a.SecretKey == "" || a.Region == "" {
		return nil, errors.New(`metadata property "useAWSIAM" is true, which needs "awsRegion", "awsAccessKey" and "awsSecretKey", or the environment variables AWS_REGION, AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY`)
	}
	address := net.JoinHostPort(config.Host, strconv.Itoa(int(config.Port)))
	user := config.User
	return func(context.Context) (string, error) { return a.token(address, user, time.Now()), nil }, nil
}

// token is a URL without its scheme that is signed with AWS signature version 4 and holds for 15 minutes.
func (a AWS) token(address, user string, now time.Time) string {
	now = now.UTC()
	day := now.Format("20060102")
	scope := day + "/" + a.Region + "/rds-db/aws4_request"
	query := url.Values{
		"Action":              {"connect"},
		"DBUser":              {user},
		"X-Amz-Algorithm":     {"AWS4-HMAC-SHA256"},
		"X-Amz-Credential":    {a.AccessKey + "/" + scope},
		"X-Amz-Date":          {now.Format("20060102T150405Z")},
		"X-Amz-Expires":       {"900"},
		"X-Amz-SignedHeaders": {"host"},
	}
	if a.SessionToken != "" {
		query.Set("X-Amz-Security-Token", a.SessionToken)
	}
	// Encode sorts by name; AWS wants spaces as %20.
	canonical := strings.ReplaceAll(query.Encode(), "+", "%20")
	nothing := sha256.Sum256(nil)
	request := sha256.Sum256([]byte("GET\n/\n" + canonical + "\nhost:" + address + "\n\nhost\n" + hex.EncodeToString(nothing[:])))
	text := "AWS4-HMAC-SHA256\n" + now.Format("20060102T150405Z") + "\n" + scope + "\n" + hex.EncodeToString(request[:])
	signature := sign(signingKey(a.SecretKey, day, a.Region, "rds-db"), text)
	return address + "/?" + canonical + "&X-Amz-Signature=" + hex.EncodeToString(signature)
}

// signingKey is the key of AWS signature version 4 for a day, region and service.
func signingKey(secret, day, region, service string) []byte {
	key := []byte("AWS4" + secret)
	for _, part := range []string{day, region, service, "aws4_request"} {
		key = sign(key, part)
	}
	return key
}

func sign(key []byte, text string) []byte {
	m := hmac.New(sha256.New, key)
	m.Write([]byte(text))
	return m.Sum(nil)
}
