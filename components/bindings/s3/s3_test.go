package s3

import (
	"context"
	"encoding/xml"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/jonboulle/clockwork"
	"outrigger.dev/components/bindings"
)

// quiet keeps the settings of this machine out of a test.
func quiet(t *testing.T) {
	t.Helper()
	for _, name := range []string{
		"AWS_REGION", "AWS_DEFAULT_REGION", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE", "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3",
		"AWS_USE_FIPS_ENDPOINT", "AWS_USE_DUALSTACK_ENDPOINT", "AWS_ROLE_ARN", "AWS_WEB_IDENTITY_TOKEN_FILE", "AWS_MAX_ATTEMPTS", "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", "AWS_CONTAINER_CREDENTIALS_FULL_URI",
	} {
		if _, set := os.LookupEnv(name); set {
			t.Setenv(name, "")
		}
	}
	none := filepath.Join(t.TempDir(), "none")
	t.Setenv("AWS_CONFIG_FILE", none)
	t.Setenv("AWS_SHARED_CREDENTIALS_FILE", none)
	t.Setenv("AWS_EC2_METADATA_DISABLED", "true")
}

func TestAddresses(t *testing.T) {
	quiet(t)
	for _, tc := range []struct {
		name string
		// properties besides the keys: bucket, region, endpoint, then further pairs.
		bucket, region, endpoint string
		more                     []string
		env                      map[string]string
		want, err                string
	}{
		{"AWS", "bucket", "eu-west-1", "", nil, nil, "https://bucket.s3.eu-west-1.amazonaws.com/a%20b", ""},
		{"no SSL", "bucket", "eu-west-1", "", []string{"disableSSL", "true"}, nil, "http://bucket.s3.eu-west-1.amazonaws.com/a%20b", ""},
		{"path style", "bucket", "eu-west-1", "", []string{"forcePathStyle", "true"}, nil, "https://s3.eu-west-1.amazonaws.com/bucket/a%20b", ""},
		{"dots", "my.bucket", "eu-west-1", "", nil, nil, "https://s3.eu-west-1.amazonaws.com/my.bucket/a%20b", ""},
		{"dots without SSL", "my.bucket", "eu-west-1", "http://s3.test", nil, nil, "http://my.bucket.s3.test/a%20b", ""},
		{"capitals", "Bucket_1", "eu-west-1", "", nil, nil, "https://s3.eu-west-1.amazonaws.com/Bucket_1/a%20b", ""},
		{"China", "bucket", "cn-north-1", "", nil, nil, "https://bucket.s3.cn-north-1.amazonaws.com.cn/a%20b", ""},
		{"isolated", "bucket", "us-isob-east-1", "", nil, nil, "https://bucket.s3.us-isob-east-1.sc2s.sgov.gov/a%20b", ""},
		{"government", "bucket", "us-gov-west-1", "", nil, nil, "https://bucket.s3.us-gov-west-1.amazonaws.com/a%20b", ""},
		{"FIPS", "bucket", "us-east-1", "", nil, map[string]string{"AWS_USE_FIPS_ENDPOINT": "true", "AWS_USE_DUALSTACK_ENDPOINT": "true"}, "https://bucket.s3-fips.dualstack.us-east-1.amazonaws.com/a%20b", ""},
		{"endpoint", "bucket", "", "http://minio:9000", nil, nil, "http://bucket.minio:9000/a%20b", ""},
		{"address", "bucket", "", "http://[::1]:9000/", nil, nil, "http://[::1]:9000/bucket/a%20b", ""},
		{"endpoint with path", "bucket", "", "https://gate/s3/", []string{"forcePathStyle", "true"}, nil, "https://gate/s3/bucket/a%20b", ""},
		{"environment", "bucket", "", "", nil, map[string]string{"AWS_ENDPOINT_URL": "http://all", "AWS_ENDPOINT_URL_S3": "http://127.0.0.1:1"}, "http://127.0.0.1:1/bucket/a%20b", ""},
		{"environment without effect", "bucket", "r", "", nil, map[string]string{"AWS_ENDPOINT_URL": "http://all", "AWS_IGNORE_CONFIGURED_ENDPOINT_URLS": "true"}, "https://bucket.s3.r.amazonaws.com/a%20b", ""},
		{"no bucket", "", "r", "", nil, nil, "", `"bucket" is required`},
		{"no region", "bucket", "", "", nil, nil, "", `"region" is required`},
		{"ARN", "arn:aws:s3:us-east-1:1:accesspoint/a", "r", "", nil, nil, "", "-s3alias"},
		{"directory", "bucket--use1-az4--x-s3", "r", "", nil, nil, "", "directory buckets"},
		{"path as bucket", "bucket/../other", "r", "", nil, nil, "", "no name of a bucket"},
		{"short", "b", "r", "", nil, nil, "", "no name of a bucket"},
		{"scheme", "bucket", "", "ftp://host", nil, nil, "", `"endpoint" is "ftp://host"`},
		{"query", "bucket", "", "http://host/?a=b", nil, nil, "", `"endpoint" is`},
		{"no host", "bucket", "", "http://", nil, nil, "", `"endpoint" is`},
		{"half a key", "bucket", "r", "", []string{"secretKey", ""}, nil, "", `"secretKey"`},
	} {
		t.Run(tc.name, func(t *testing.T) {
			for name, value := range tc.env {
				t.Setenv(name, value)
			}
			p := map[string]string{"bucket": tc.bucket, "region": tc.region, "endpoint": tc.endpoint, "accessKey": "k", "secretKey": "s"}
			for i := 0; i < len(tc.more); i += 2 {
				p[tc.more[i]] = tc.more[i+1]
			}
			b, err := binding.Open(t, p)
			if tc.err != "" {
				if err == nil || !strings.Contains(err.Error(), tc.err) {
					t.Fatalf("error %v, want one with %q", err, tc.err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if got := b.client.address("a b", nil).String(); got != tc.want {
				t.Errorf("address %s, want %s", got, tc.want)
			}
		})
	}
}

// fake opens a binding on a server that plays S3, on whose clock pauses are skipped.
func fake(t *testing.T, handler http.HandlerFunc) *Binding {
	t.Helper()
	quiet(t)
	server := httptest.NewServer(handler)
	t.Cleanup(server.Close)
	b := binding.MustOpen(t, map[string]string{"bucket": "bucket", "endpoint": server.URL, "accessKey": "k", "secretKey": "s", "sessionToken": "t"})
	clock := clockwork.NewFakeClock()
	b.client.clock = clock
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() {
		for clock.BlockUntilContext(ctx, 1) == nil {
			clock.Advance(time.Minute)
		}
	})
	t.Cleanup(func() {
		cancel()
		running.Wait()
	})
	return b
}

func refuse(w http.ResponseWriter, status int, code, more string) {
	w.WriteHeader(status)
	_, _ = io.WriteString(w, xml.Header+"<Error><Code>"+code+"</Code><Message>said the server</Message>"+more+"</Error>")
}

func TestRepeats(t *testing.T) {
	var calls atomic.Int64
	for _, tc := range []struct {
		name  string
		fail  func(w http.ResponseWriter)
		until int64 // the call that succeeds
		calls int64
		err   string
	}{
		{"unavailable", func(w http.ResponseWriter) { refuse(w, 503, "SlowDown", "") }, 3, 3, ""},
		{"broken", func(w http.ResponseWriter) { refuse(w, 500, "InternalError", "") }, 2, 2, ""},
		{"cut short", func(w http.ResponseWriter) {
			w.Header().Set("Content-Length", "100")
			_, _ = io.WriteString(w, "half")
		}, 2, 2, ""},
		{"too often", func(w http.ResponseWriter) { refuse(w, 503, "SlowDown", "") }, 9, 3, "status 503 SlowDown: said the server"},
		{"forbidden", func(w http.ResponseWriter) { refuse(w, 403, "AccessDenied", "") }, 9, 1, "let the policies"},
		{"other region", func(w http.ResponseWriter) { refuse(w, 301, "PermanentRedirect", "<Region>eu-west-1</Region>") }, 9, 1, `the bucket is in region "eu-west-1"`},
		{"redirect", func(w http.ResponseWriter) {
			w.Header().Set("Location", "http://127.0.0.1:1/")
			refuse(w, 307, "TemporaryRedirect", "")
		}, 9, 1, `"region"`},
		{"clock", func(w http.ResponseWriter) { refuse(w, 403, "RequestTimeTooSkewed", "") }, 9, 1, "set the clock"},
		{"other server", func(w http.ResponseWriter) { http.NotFound(w, nil) }, 9, 1, "the answer is not S3's"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			calls.Store(0)
			b := fake(t, func(w http.ResponseWriter, r *http.Request) {
				if r.Header.Get("X-Amz-Security-Token") != "t" || !strings.HasPrefix(r.Header.Get("Authorization"), "AWS4-HMAC-SHA256 Credential=k/") || r.Header.Get("Accept-Encoding") != "" {
					t.Errorf("headers %v", r.Header)
				}
				body, err := io.ReadAll(r.Body)
				if err != nil || string(body) != "data" {
					t.Errorf("body %q, %v", body, err)
				}
				if calls.Add(1) < tc.until {
					tc.fail(w)
				}
			})
			_, err := invoke(b, "create", "data", "key", "a")
			if calls.Load() != tc.calls || (err != nil) != (tc.err != "") || err != nil && !strings.Contains(err.Error(), tc.err) {
				t.Errorf("%d calls, error %v; want %d and %q", calls.Load(), err, tc.calls, tc.err)
			}
		})
	}
}

func TestStrangeAnswers(t *testing.T) {
	b := fake(t, func(w http.ResponseWriter, r *http.Request) {
		switch {
		case strings.HasSuffix(r.URL.Path, "/large"):
			w.Header().Set("Content-Length", "5368709120")
		case r.Method == http.MethodPost && r.ContentLength > 0:
			_, _ = io.WriteString(w, `<DeleteResult><Error><Key>a</Key><Code>AccessDenied</Code><Message>no</Message></Error></DeleteResult>`)
		default:
			_, _ = io.WriteString(w, "<html>")
		}
	})
	if _, err := invoke(b, "get", "", "key", "large"); err == nil || !strings.Contains(err.Error(), "larger than 1073741824 bytes; get a URL with the operation presign") {
		t.Errorf("large object: %v", err)
	}
	if _, err := invoke(b, "bulkGet", `["large"]`); err == nil || !strings.Contains(err.Error(), "is larger than") {
		t.Errorf("large object: %v", err)
	}
	if _, err := invoke(b, "list", ""); err == nil || !strings.Contains(err.Error(), "is not S3's") {
		t.Errorf("list: %v", err)
	}
	got, err := invoke(b, "bulkDelete", `["a","b"]`)
	if err != nil || !strings.Contains(got, `{"key":"a","error":"cannot delete object \"a\"`) || !strings.HasSuffix(got, `{"key":"b"}]`) {
		t.Errorf("bulkDelete: %s, %v", got, err)
	}
	// A key that XML cannot hold goes by itself.
	if got, err := invoke(b, "bulkDelete", `["a\u0001"]`); err != nil || got != `[{"key":"a\u0001"}]` {
		t.Errorf("bulkDelete: %s, %v", got, err)
	}
}

func TestBulkRoom(t *testing.T) {
	b := fake(t, func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(make([]byte, 10)) })
	var room atomic.Int64
	room.Store(25)
	for i, fits := range []bool{true, true, false} {
		if _, err := b.readItem(context.Background(), "a", false, &room); (err == nil) != fits {
			t.Errorf("object %d: %v", i, err)
		}
	}
	if room.Load() != 5 {
		t.Errorf("room for %d bytes is left, want 5", room.Load())
	}
}

func TestBounds(t *testing.T) {
	entered, release := make(chan struct{}), make(chan struct{})
	b := fake(t, func(_ http.ResponseWriter, r *http.Request) {
		close(entered)
		select {
		case <-release:
		case <-r.Context().Done():
		}
	})
	defer close(release)
	ctx, cancel := context.WithCancel(context.Background())
	go func() {
		<-entered
		cancel()
	}()
	if _, err := b.Invoke(ctx, bindings.Request{Operation: "get", Metadata: map[string]string{"key": "a"}}); err == nil {
		t.Error("a cancelled call succeeded")
	}
	<-entered
}

func TestNoCredentials(t *testing.T) {
	quiet(t)
	b := binding.MustOpen(t, map[string]string{"bucket": "bucket", "endpoint": "http://127.0.0.1:1"})
	for _, op := range [][]string{{"get"}, {"presign", "presignTTL", "1m"}} {
		if _, err := invoke(b, op[0], "", append(op[1:], "key", "a")...); err == nil || !strings.Contains(err.Error(), "no AWS credentials") {
			t.Errorf("%s: %v", op[0], err)
		}
	}
}

// The example of AWS's documentation of presigned URLs (AWS, S3: authenticating requests with query parameters).
func TestPresignedURL(t *testing.T) {
	u, err := (&Options{Bucket: "examplebucket", Endpoint: "https://s3.amazonaws.com"}).bucketURL(environmentSettings{}, "us-east-1")
	if err != nil {
		t.Fatal(err)
	}
	c := newClient(aws.Config{
		Region: "us-east-1", Credentials: credentials.NewStaticCredentialsProvider("AKIAIOSFODNN7EXAMPLE", "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY", ""),
	}, u, clockwork.NewFakeClockAt(time.Date(2013, 5, 24, 0, 0, 0, 0, time.UTC)))
	signed, err := c.presign(context.Background(), "test.txt", 24*time.Hour)
	if err != nil || !strings.HasPrefix(signed, "https://examplebucket.s3.amazonaws.com/test.txt?") ||
		!strings.HasSuffix(signed, "X-Amz-Signature=aeeed9bbccd4d02ee5c0109b86d86835f995330da4c265957d157751f604d404") {
		t.Errorf("%s, %v", signed, err)
	}
}

func FuzzEscape(f *testing.F) {
	for _, seed := range []string{"a", "a/../b", "%2e%2E", "ü ?#\x00", "//"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, key string) {
		bucket, err := url.Parse("http://h/b")
		if err != nil {
			t.Fatal(err)
		}
		u := (&client{bucket: bucket}).address(key, nil)
		if got := u.EscapedPath(); got != "/b/"+escape(key) {
			t.Fatalf("%q goes as %q", key, got)
		}
		if plain, err := url.PathUnescape(escape(key)); err != nil || plain != key {
			t.Fatalf("%q became %q, %v", key, plain, err)
		}
	})
}

func FuzzAnswers(f *testing.F) {
	for _, seed := range []string{"", "<ListBucketResult><EncodingType>url</EncodingType><Contents><Key>a+b%20</Key></Contents></ListBucketResult>", "<ListBucketResult><EncodingType>url</EncodingType><Prefix>%</Prefix></ListBucketResult>"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		if l, err := readListing([]byte(text)); err == nil && l.EncodingType != nil {
			t.Fatalf("%q has an encoding left", text)
		}
	})
}

func FuzzBulk(f *testing.F) {
	for _, seed := range []string{`["a"]`, `{"items":[{"key":"a"}],"concurrency":3}`, `[null]`, `{}`} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		r, err := readBulk([]byte(text))
		if err == nil && (len(r.Items) == 0 || len(r.Items) > mostItems || r.Concurrency < 1 || r.Concurrency > mostConcurrency) {
			t.Fatalf("%q became %+v", text, r)
		}
	})
}
