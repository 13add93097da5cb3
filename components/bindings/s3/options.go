package s3

import (
	"errors"
	"fmt"
	"net"
	"net/url"
	"strings"

	"outrigger.dev/components/awsauth"
)

// Options are the metadata properties of the component.
type Options struct {
	Bucket         string `name:"bucket" required:"true" help:"name of the bucket"`
	Endpoint       string `name:"endpoint" help:"server to call in place of AWS's, such as http://localhost:9000 of MinIO"`
	ForcePathStyle bool   `name:"forcePathStyle" default:"false" help:"name the bucket in the path of URLs and not in their host, as most servers other than AWS's want"`
	DecodeBase64   bool   `name:"decodeBase64" default:"false" help:"data of create is base64 that is decoded before it is stored; a request can override it"`
	EncodeBase64   bool   `name:"encodeBase64" default:"false" help:"data of get is returned in base64; a request can override it"`
	DisableSSL     bool   `name:"disableSSL" default:"false" help:"call an endpoint without scheme, and AWS's own, by http and not by https"`
	InsecureSSL    bool   `name:"insecureSSL" default:"false" help:"take any certificate of the endpoint; for tests only"`

	awsauth.Options
}

// Check refuses a bucket and an endpoint that cannot be used, and what [awsauth.Options.Check] does. It implements
// [components.Checker].
func (o *Options) Check() error {
	// The environment's settings are left to Open, for they need not be the same where options are only checked.
	if _, err := o.bucketURL(environmentSettings{}, "region"); err != nil {
		return err
	}
	return o.Options.Check()
}

// partitions are the domains of AWS's partitions by how the names of their regions begin.
var partitions = [...]struct{ prefix, domain string }{
	{"cn-", "amazonaws.com.cn"},
	{"eusc-", "amazonaws.eu"},
	{"us-isob-", "sc2s.sgov.gov"},
	{"us-isof-", "csp.hci.ic.gov"},
	{"eu-isoe-", "cloud.adc-e.uk"},
	{"us-iso-", "c2s.ic.gov"},
	{"", "amazonaws.com"},
}

// environmentSettings are those settings of AWS's tools that say which servers to call (AWS SDKs and tools: settings).
type environmentSettings struct {
	// endpoint is a server of one's own, empty for AWS's.
	endpoint string
	// service begins the host names of AWS's servers.
	service string
}

func environment(get func(string) string) environmentSettings {
	s := environmentSettings{service: "s3."}
	if !strings.EqualFold(get("AWS_IGNORE_CONFIGURED_ENDPOINT_URLS"), "true") {
		s.endpoint = first(get("AWS_ENDPOINT_URL_S3"), get("AWS_ENDPOINT_URL"))
	}
	if strings.EqualFold(get("AWS_USE_FIPS_ENDPOINT"), "true") {
		s.service = "s3-fips."
	}
	if strings.EqualFold(get("AWS_USE_DUALSTACK_ENDPOINT"), "true") {
		s.service += "dualstack."
	}
	return s
}

// bucketURL is where the bucket's objects are, without a slash at the end.
func (o *Options) bucketURL(env environmentSettings, region string) (*url.URL, error) {
	switch {
	case o.Bucket == "":
		return nil, errors.New(`metadata property "bucket" is required: give the name of the bucket`)
	case strings.HasPrefix(o.Bucket, "arn:"):
		return nil, fmt.Errorf("metadata property \"bucket\" is %q: an ARN cannot be used here; give the name of the bucket, or the alias of the access point, which ends in -s3alias", o.Bucket)
	case strings.HasSuffix(o.Bucket, "--x-s3"):
		return nil, fmt.Errorf("metadata property \"bucket\" is %q: directory buckets (S3 Express One Zone) are not supported; give a general purpose bucket", o.Bucket)
	case !validBucket(o.Bucket):
		return nil, fmt.Errorf("metadata property \"bucket\" is %q, which is no name of a bucket: it has 3 to 255 letters, digits, dots, dashes and underscores, and begins with a letter or digit", o.Bucket)
	}
	scheme := "https"
	if o.DisableSSL {
		scheme = "http"
	}
	endpoint := o.Endpoint
	if endpoint == "" {
		for _, p := range partitions {
			if strings.HasPrefix(region, p.prefix) {
				endpoint = scheme + "://" + env.service + region + "." + p.domain
				break
			}
		}
	} else if !strings.Contains(endpoint, "://") {
		endpoint = scheme + "://" + endpoint
	}
	u, err := url.Parse(endpoint)
	if err != nil || u.Hostname() == "" || u.Scheme != "http" && u.Scheme != "https" || u.RawQuery != "" || u.Fragment != "" || u.User != nil {
		return nil, fmt.Errorf("metadata property \"endpoint\" is %q, but must be an http or https URL such as \"http://localhost:9000\", without user, query and fragment", endpoint)
	}
	u.Path, u.RawPath = strings.TrimRight(u.Path, "/"), ""
	if o.ForcePathStyle || net.ParseIP(u.Hostname()) != nil || !inHost(o.Bucket, u.Scheme) {
		u.Path += "/" + o.Bucket
	} else {
		u.Host = o.Bucket + "." + u.Host
	}
	return u, nil
}

func validBucket(name string) bool {
	if len(name) < 3 || len(name) > 255 || name[0] == '.' || name[0] == '-' || name[0] == '_' {
		return false
	}
	for i := range len(name) {
		switch c := name[i]; {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', c == '-', c == '.', c == '_':
		default:
			return false
		}
	}
	return true
}

// inHost reports whether a bucket's name can be a part of a host's. With a dot no wildcard certificate would cover it.
func inHost(bucket, scheme string) bool {
	return len(bucket) <= 63 && bucket == strings.ToLower(bucket) && !strings.Contains(bucket, "_") && !strings.Contains(bucket, "..") &&
		!strings.HasSuffix(bucket, ".") && !strings.HasSuffix(bucket, "-") && (scheme == "http" || !strings.Contains(bucket, "."))
}
