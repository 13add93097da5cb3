package s3

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync/atomic"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/aws/retry"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"
	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
	"github.com/jonboulle/clockwork"

	"outrigger.dev/components/awsauth"
)

// client speaks the few calls of the S3 protocol that the binding needs. It signs, logs in and repeats with the AWS SDK, but
// leaves out the SDK's package for S3: its hundred operations would make the sidecar larger by 5 MiB.
type client struct {
	http        *http.Client
	credentials aws.CredentialsProvider
	signer      *v4.Signer
	retryer     *retry.Standard
	region      string
	bucket      *url.URL
	clock       clockwork.Clock
}

func newClient(config aws.Config, bucket *url.URL, clock clockwork.Clock) *client {
	// The SDK's own would neither give its connections up nor leave redirects alone, whose target the signature is not for.
	calls := &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	if c, ok := config.HTTPClient.(*awshttp.BuildableClient); ok {
		transport := c.GetTransport()
		transport.DisableCompression = true // an object is returned as it was stored
		calls.Transport = transport
	}
	return &client{
		http: calls, credentials: config.Credentials, region: config.Region, bucket: bucket, clock: clock,
		signer: v4.NewSigner(func(o *v4.SignerOptions) { o.DisableURIPathEscaping = true }), // as S3 wants it
		retryer: retry.NewStandard(func(o *retry.StandardOptions) {
			if config.RetryMaxAttempts > 0 {
				o.MaxAttempts = config.RetryMaxAttempts
			}
		}),
	}
}

// call is one call of the protocol, on an object or, without a key, on the bucket.
type call struct {
	method string
	key    string
	query  url.Values
	header http.Header
	// body gives the body from its beginning; nil for none. size is its length, sum its SHA-256 in hexadecimal.
	body func() io.Reader
	size int64
	sum  string
	// limit is the longest answer in bytes. What it takes is taken off room unless that is nil.
	limit int64
	room  *atomic.Int64
}

// setBody makes data the body of the call.
func (c *call) setBody(data []byte) {
	sum := sha256.Sum256(data)
	c.body, c.size, c.sum = func() io.Reader { return bytes.NewReader(data) }, int64(len(data)), hex.EncodeToString(sum[:])
}

// answer is what a call gave.
type answer struct {
	data   []byte
	header http.Header
	// url is what was called, without query.
	url string
}

// emptySum is the SHA-256 of no bytes.
const emptySum = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"

// Sizes: above which a body waits until the server says that it wants it, and of an error's text.
const (
	expectAbove = 2 << 20
	errorLimit  = 64 << 10
)

// do makes a call and repeats it when that may help.
func (c *client) do(ctx context.Context, call *call) (*answer, error) {
	for attempt := 1; ; attempt++ {
		a, err := c.once(ctx, call)
		if err == nil {
			return a, nil
		}
		if ctx.Err() != nil || attempt >= c.retryer.MaxAttempts() || !c.retryer.IsErrorRetryable(err) {
			return nil, err
		}
		release, tokenErr := c.retryer.GetRetryToken(ctx, err)
		if tokenErr != nil { // too many calls fail, so that more of them would make it worse
			return nil, err
		}
		delay, delayErr := c.retryer.RetryDelay(attempt, err)
		if delayErr != nil {
			return nil, err
		}
		timer := c.clock.NewTimer(delay)
		select {
		case <-timer.Chan():
		case <-ctx.Done():
			timer.Stop()
			return nil, err
		}
		_ = release(nil) // it never fails
	}
}

func (c *client) once(ctx context.Context, call *call) (*answer, error) {
	r, err := c.request(ctx, call)
	if err != nil {
		return nil, err
	}
	credentials, err := c.credentials.Retrieve(ctx)
	if err != nil {
		return nil, &awsauth.LoginError{Err: err}
	}
	sum := emptySum
	if call.body != nil {
		sum = call.sum
	}
	r.Header.Set("X-Amz-Content-Sha256", sum)
	if err := c.signer.SignHTTP(ctx, credentials, r, sum, "s3", c.region, c.clock.Now()); err != nil {
		return nil, fmt.Errorf("cannot sign the call: %w", err)
	}
	resp, err := c.http.Do(r)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if resp.StatusCode/100 != 2 {
		return nil, readError(resp)
	}
	data, err := call.read(resp)
	if err != nil {
		return nil, err
	}
	address := *r.URL
	address.RawQuery = ""
	return &answer{data: data, header: resp.Header, url: address.String()}, nil
}

func (c *client) request(ctx context.Context, call *call) (*http.Request, error) {
	r, err := http.NewRequestWithContext(ctx, call.method, "", nil)
	if err != nil {
		return nil, err
	}
	r.URL = c.address(call.key, call.query)
	r.Host = r.URL.Host
	for name, values := range call.header {
		r.Header[name] = values
	}
	if call.body != nil {
		r.ContentLength = call.size
		r.GetBody = func() (io.ReadCloser, error) { return io.NopCloser(call.body()), nil }
		r.Body, _ = r.GetBody()
		if call.size == 0 {
			r.Body = http.NoBody
		}
		if call.size > expectAbove {
			r.Header.Set("Expect", "100-continue")
		}
	}
	return r, nil
}

// address is the URL of an object, or of the bucket if the key is empty.
func (c *client) address(key string, query url.Values) *url.URL {
	u := *c.bucket
	u.Path += "/" + key
	u.RawPath = c.bucket.EscapedPath() + "/" + escape(key)
	u.RawQuery = strings.ReplaceAll(query.Encode(), "+", "%20") // the form that is signed
	return &u
}

// presign is a URL by which anybody can read the object until ttl is over.
func (c *client) presign(ctx context.Context, key string, ttl time.Duration) (string, error) {
	r, err := c.request(ctx, &call{method: http.MethodGet, key: key, query: url.Values{"X-Amz-Expires": {fmt.Sprint(int64(ttl / time.Second))}}})
	if err != nil {
		return "", err
	}
	credentials, err := c.credentials.Retrieve(ctx)
	if err != nil {
		return "", &awsauth.LoginError{Err: err}
	}
	signed, _, err := c.signer.PresignHTTP(ctx, credentials, r, "UNSIGNED-PAYLOAD", "s3", c.region, c.clock.Now())
	if err != nil {
		return "", fmt.Errorf("cannot sign the URL: %w", err)
	}
	return signed, nil
}

// escape is a key as it stands in a path: everything but letters, digits, "-._~" and slashes is escaped (AWS, signature
// version 4: canonical URI).
func escape(key string) string {
	const hexadecimal = "0123456789ABCDEF"
	var out strings.Builder
	out.Grow(len(key))
	for i := range len(key) {
		switch c := key[i]; {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', c == '-', c == '.', c == '_', c == '~', c == '/':
			out.WriteByte(c)
		default:
			out.WriteByte('%')
			out.WriteByte(hexadecimal[c>>4])
			out.WriteByte(hexadecimal[c&15])
		}
	}
	return out.String()
}

// tooLargeError is an answer longer than its limit.
type tooLargeError struct{ limit int64 }

func (e *tooLargeError) Error() string { return fmt.Sprintf("it is larger than %d bytes", e.limit) }

// read is the body of an answer.
func (c *call) read(resp *http.Response) (_ []byte, err error) {
	limit, size := c.limit, resp.ContentLength
	if size > limit {
		return nil, &tooLargeError{limit}
	}
	if c.room != nil {
		// Taken before it is needed, for other calls read at the same time.
		if size < 0 {
			return nil, errors.New("the server does not tell the object's size")
		}
		if left := c.room.Add(-size); left < 0 {
			c.room.Add(size)
			return nil, &tooLargeError{left + size}
		}
		defer func() {
			if err != nil {
				c.room.Add(size)
			}
		}()
	}
	var data bytes.Buffer
	if size > 0 {
		data.Grow(int(min(size, 64<<20)) + bytes.MinRead)
	}
	if _, err := data.ReadFrom(io.LimitReader(resp.Body, limit+1)); err != nil {
		return nil, &awsauth.BrokenError{Err: err}
	}
	if int64(data.Len()) > limit {
		return nil, &tooLargeError{limit}
	}
	return data.Bytes(), nil
}

// serverError is an error that the server told, with the region that it knows the bucket to be in.
type serverError struct {
	awsauth.ServerError
	region string
}

// errorText is the body of an error, and that of one error of many in an answer to a deletion.
type errorText struct {
	Key     string
	Code    string
	Message string
	Region  string
}

func readError(resp *http.Response) error {
	e := &serverError{
		ServerError: awsauth.ServerError{Status: resp.StatusCode, Request: resp.Header.Get("X-Amz-Request-Id")},
		region:      resp.Header.Get("X-Amz-Bucket-Region"),
	}
	body, err := io.ReadAll(io.LimitReader(resp.Body, errorLimit))
	var text errorText
	if err == nil && xml.Unmarshal(body, &text) == nil {
		e.Code, e.Message = text.Code, text.Message
		if e.region == "" {
			e.region = text.Region
		}
	}
	return e
}
