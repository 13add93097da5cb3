package s3

import (
	"errors"
	"fmt"
	"net/url"
	"strings"

	"outrigger.dev/components/awsauth"
)

// explain says what could not be done with which object, and what to do about it.
func (b *Binding) explain(operation, key string, err error) error {
	what := fmt.Sprintf("cannot %s object %q of bucket %q at %s", operation, key, b.options.Bucket, b.client.bucket.Host)
	if key == "" {
		what = fmt.Sprintf("cannot %s objects of bucket %q at %s", operation, b.options.Bucket, b.client.bucket.Host)
	}
	if _, ok := errors.AsType[*awsauth.LoginError](err); ok {
		return fmt.Errorf("%s: no AWS credentials: %w; give the metadata properties \"accessKey\" and \"secretKey\", or those of the environment", what, err)
	}
	if e, ok := errors.AsType[*tooLargeError](err); ok {
		if operation == "get" {
			return fmt.Errorf("%s: %w; get a URL with the operation presign and fetch it without the sidecar", what, e)
		}
		return fmt.Errorf("%s: the answer is not S3's: %w", what, e)
	}
	if e, ok := errors.AsType[*serverError](err); ok {
		return e.explain(b, what, key)
	}
	if e, ok := errors.AsType[*url.Error](err); ok { // it would show the whole URL
		err = e.Err
	}
	remedy := `check that the metadata properties "endpoint" and "region" are right and that the server runs`
	if text := err.Error(); strings.Contains(text, "x509:") || strings.Contains(text, "tls:") {
		remedy = `check the server's certificate; for tests there is the metadata property "insecureSSL"`
	} else if strings.Contains(text, "no such host") && !b.options.ForcePathStyle && b.options.Endpoint != "" {
		remedy = `most servers other than AWS's want the metadata property "forcePathStyle" to be "true"`
	}
	return fmt.Errorf("%s: %w; %s", what, err, remedy)
}

// explain adds a remedy to what the server told.
func (e *serverError) explain(b *Binding, what, key string) error {
	remedy := ""
	switch e.Code {
	case "NoSuchKey":
		return fmt.Errorf("object not found: %q in bucket %q: %w", key, b.options.Bucket, e)
	case "NoSuchBucket":
		remedy = `make the bucket, or correct the metadata property "bucket"`
	case "InvalidAccessKeyId", "SignatureDoesNotMatch", "InvalidToken", "ExpiredToken", "TokenRefreshRequired", "InvalidClientTokenId":
		remedy = `check the metadata properties "accessKey", "secretKey" and "sessionToken", or the credentials of the environment`
	case "AccessDenied", "AllAccessDisabled", "AccountProblem":
		remedy = "let the policies of user and bucket allow it"
	case "PermanentRedirect", "AuthorizationHeaderMalformed", "IllegalLocationConstraintException", "TemporaryRedirect", "IncorrectEndpoint":
		remedy = `correct the metadata property "region"`
		if e.region != "" && e.region != b.client.region {
			remedy = fmt.Sprintf("the bucket is in region %q: set the metadata property \"region\" to it, it is %q", e.region, b.client.region)
		}
	case "RequestTimeTooSkewed":
		remedy = "set the clock of this machine right"
	case "InvalidStorageClass":
		remedy = `correct metadata "storageClass" of the request`
	case "InvalidTag":
		remedy = `correct metadata "tags" of the request`
	case "":
		remedy = `the answer is not S3's; check the metadata properties "endpoint" and "forcePathStyle"`
	}
	if remedy == "" {
		return fmt.Errorf("%s: %w", what, e)
	}
	return fmt.Errorf("%s: %w; %s", what, e, remedy)
}
