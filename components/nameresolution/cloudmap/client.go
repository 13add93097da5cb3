package cloudmap

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/aws/retry"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"
	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
	"github.com/jonboulle/clockwork"

	"outrigger.dev/components/awsauth"
)

// client makes calls of Cloud Map: JSON by HTTP, which it signs and repeats with the AWS SDK. The SDK's own package for it has
// ten times as many operations as are needed.
type client struct {
	http        *http.Client
	credentials aws.CredentialsProvider
	signer      *v4.Signer
	retryer     *retry.Standard
	region      string
	endpoint    string // "" for AWS's
	clock       clockwork.Clock
}

const (
	target      = "Route53AutoNaming_v20170314."
	contentType = "application/x-amz-json-1.1"
	// answerLimit is the longest answer in bytes that is read.
	answerLimit = 8 << 20
)

func newClient(config aws.Config, endpoint string, clock clockwork.Clock) *client {
	calls := &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	if c, ok := config.HTTPClient.(*awshttp.BuildableClient); ok {
		calls.Transport = c.GetTransport()
	}
	return &client{
		http: calls, credentials: config.Credentials, region: config.Region, endpoint: strings.TrimRight(endpoint, "/"), clock: clock,
		signer: v4.NewSigner(),
		retryer: retry.NewStandard(func(o *retry.StandardOptions) {
			if config.RetryMaxAttempts > 0 {
				o.MaxAttempts = config.RetryMaxAttempts
			}
		}),
	}
}

// address is where an operation is called. AWS serves the discovery of instances apart from the rest.
func (c *client) address(operation string) string {
	if c.endpoint != "" {
		return c.endpoint + "/"
	}
	domain := "amazonaws.com"
	if strings.HasPrefix(c.region, "cn-") {
		domain = "amazonaws.com.cn"
	}
	host := "servicediscovery." + c.region + "." + domain
	if operation == "DiscoverInstances" {
		host = "data-" + host
	}
	return "https://" + host + "/"
}

// do makes a call and decodes its answer. It is repeated when that may help.
func (c *client) do(ctx context.Context, operation string, input, output any) error {
	body, err := json.Marshal(input)
	if err != nil {
		return err
	}
	for attempt := 1; ; attempt++ {
		err := c.once(ctx, operation, body, output)
		if err == nil {
			return nil
		}
		if ctx.Err() != nil || attempt >= c.retryer.MaxAttempts() || !c.retryer.IsErrorRetryable(err) {
			return c.explain(operation, err)
		}
		release, tokenErr := c.retryer.GetRetryToken(ctx, err)
		if tokenErr != nil { // too many calls fail, so that more of them would make it worse
			return c.explain(operation, err)
		}
		delay, delayErr := c.retryer.RetryDelay(attempt, err)
		if delayErr != nil {
			return c.explain(operation, err)
		}
		timer := c.clock.NewTimer(delay)
		select {
		case <-timer.Chan():
		case <-ctx.Done():
			timer.Stop()
			return c.explain(operation, err)
		}
		_ = release(nil) // it never fails
	}
}

func (c *client) once(ctx context.Context, operation string, body []byte, output any) error {
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, c.address(operation), bytes.NewReader(body))
	if err != nil {
		return err
	}
	r.Header.Set("Content-Type", contentType)
	r.Header.Set("X-Amz-Target", target+operation)
	credentials, err := c.credentials.Retrieve(ctx)
	if err != nil {
		return &awsauth.LoginError{Err: err}
	}
	sum := sha256.Sum256(body)
	if err := c.signer.SignHTTP(ctx, credentials, r, hex.EncodeToString(sum[:]), "servicediscovery", c.region, c.clock.Now()); err != nil {
		return fmt.Errorf("cannot sign the call: %w", err)
	}
	resp, err := c.http.Do(r)
	if err != nil {
		return &awsauth.SendError{Err: err}
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(io.LimitReader(resp.Body, answerLimit+1))
	if err != nil {
		return &awsauth.BrokenError{Err: err}
	}
	if resp.StatusCode != http.StatusOK {
		return readError(resp, data)
	}
	if len(data) > answerLimit {
		return fmt.Errorf("the answer is larger than %d bytes", answerLimit)
	}
	if err := json.Unmarshal(data, output); err != nil {
		return fmt.Errorf("the answer is not Cloud Map's: %w", err)
	}
	return nil
}

// explain adds what was called and what to do.
func (c *client) explain(operation string, err error) error {
	remedy := `check that the metadata properties "endpoint" and "region" are right and that the network lets calls through`
	if e, ok := errors.AsType[*awsauth.LoginError](err); ok {
		return fmt.Errorf("no AWS credentials: %w; give the metadata properties \"accessKey\" and \"secretKey\", or those of the environment", e.Err)
	}
	if e, ok := errors.AsType[*url.Error](err); ok { // it would show the whole URL
		err = e.Err
	}
	if e, ok := errors.AsType[*awsauth.ServerError](err); ok {
		switch e.Code {
		case "NamespaceNotFound":
			remedy = `correct the metadata properties "namespaceName", "namespaceId" and "region"`
		case "ServiceNotFound":
			remedy = "register the app as a service of this name in the namespace"
		case "AccessDeniedException", "AccessDenied", "UnauthorizedOperation", "NotAuthorized":
			remedy = "let the policies of the user or role allow servicediscovery:" + operation
		case "UnrecognizedClientException", "InvalidClientTokenId", "InvalidSignatureException", "SignatureDoesNotMatch", "ExpiredTokenException", "ExpiredToken", "IncompleteSignature", "MissingAuthenticationTokenException":
			remedy = `check the metadata properties "accessKey", "secretKey" and "sessionToken", or the credentials of the environment`
		case "RequestLimitExceeded", "ThrottlingException":
			remedy = "the account calls Cloud Map too often"
		}
	}
	host := c.address(operation)
	if u, parseErr := url.Parse(host); parseErr == nil {
		host = u.Host
	}
	return fmt.Errorf("%s at %s failed: %w; %s", operation, host, err, remedy)
}

// close gives the idle connections up.
func (c *client) close() { c.http.CloseIdleConnections() }

// readError reads an error of the JSON 1.1 protocol, whose code stands in a header or in the body, with a prefix or a suffix
// that do not matter.
func readError(resp *http.Response, body []byte) error {
	e := &awsauth.ServerError{Status: resp.StatusCode, Request: resp.Header.Get("X-Amzn-Requestid")}
	var text struct {
		Type    string `json:"__type"`
		Code    string `json:"code"`
		Message string `json:"message"` // also "Message": names are matched without regard to case
	}
	_ = json.Unmarshal(body, &text) // proxies answer with other things
	for _, code := range []string{resp.Header.Get("X-Amzn-Errortype"), text.Type, text.Code} {
		if code == "" {
			continue
		}
		code, _, _ = strings.Cut(code, ":")
		e.Code = code[strings.LastIndexByte(code, '#')+1:]
		break
	}
	e.Message = strings.ToValidUTF8(text.Message[:min(len(text.Message), 1000)], "?")
	return e
}
