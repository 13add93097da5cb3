package cloudmap

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"

	"outrigger.dev/components"
	"outrigger.dev/components/nameresolution"
)

const (
	accessKey = "AKIDEXAMPLE"
	secretKey = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"
)

// quiet keeps the settings of this machine out of a test.
func quiet(t *testing.T) {
	t.Helper()
	for _, name := range []string{
		"AWS_REGION", "AWS_DEFAULT_REGION", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE", "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_SERVICEDISCOVERY",
		"AWS_ROLE_ARN", "AWS_WEB_IDENTITY_TOKEN_FILE", "AWS_MAX_ATTEMPTS", "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", "AWS_CONTAINER_CREDENTIALS_FULL_URI",
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

func mac(key []byte, text string) []byte {
	m := hmac.New(sha256.New, key)
	m.Write([]byte(text))
	return m.Sum(nil)
}

// signature computes what the Authorization of a request must say, from what the request says it signed (AWS, signature
// version 4).
func signature(r *http.Request, body []byte, region string) string {
	_, signed, _ := strings.Cut(r.Header.Get("Authorization"), "SignedHeaders=")
	signed, _, _ = strings.Cut(signed, ",")
	date := r.Header.Get("X-Amz-Date")
	var headers strings.Builder
	for name := range strings.SplitSeq(signed, ";") {
		value := r.Header.Get(name)
		switch name {
		case "host":
			value = r.Host
		case "content-length":
			value = fmt.Sprint(r.ContentLength)
		}
		headers.WriteString(name + ":" + strings.TrimSpace(value) + "\n")
	}
	hash := sha256.Sum256(body)
	canonical := strings.Join([]string{r.Method, "/", "", headers.String(), signed, hex.EncodeToString(hash[:])}, "\n")
	scope := date[:8] + "/" + region + "/servicediscovery/aws4_request"
	sum := sha256.Sum256([]byte(canonical))
	key := mac(mac(mac(mac([]byte("AWS4"+secretKey), date[:8]), region), "servicediscovery"), "aws4_request")
	return fmt.Sprintf("AWS4-HMAC-SHA256 Credential=%s/%s, SignedHeaders=%s, Signature=%s", accessKey, scope, signed,
		hex.EncodeToString(mac(key, "AWS4-HMAC-SHA256\n"+date+"\n"+scope+"\n"+hex.EncodeToString(sum[:]))))
}

// cloud plays Cloud Map: it checks signatures and knows some namespaces and instances.
type cloud struct {
	*httptest.Server
	mu sync.Mutex
	// namespaces are pages of names; their ids are "ns-" and the name.
	namespaces [][]string
	services   map[string][]instance
	// fail, if not nil, answers before anything else and reports whether it did.
	fail  func(w http.ResponseWriter, operation string) bool
	calls []string
}

func (c *cloud) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	operation := strings.TrimPrefix(r.Header.Get("X-Amz-Target"), "Route53AutoNaming_v20170314.")
	c.mu.Lock()
	defer c.mu.Unlock()
	c.calls = append(c.calls, operation+" "+string(body))
	if c.fail != nil && c.fail(w, operation) {
		return
	}
	refuse := func(status int, code string) {
		w.Header().Set("X-Amzn-Requestid", "r-1")
		w.WriteHeader(status)
		_, _ = fmt.Fprintf(w, `{"__type":"com.amazonaws.servicediscovery#%s","Message":"refused"}`, code)
	}
	if r.Method != http.MethodPost || r.URL.Path != "/" || r.Header.Get("Content-Type") != "application/x-amz-json-1.1" {
		refuse(400, "SerializationException")
		return
	}
	if r.Header.Get("Authorization") != signature(r, body, "eu-west-1") {
		refuse(400, "InvalidSignatureException")
		return
	}
	var in struct{ Id, NextToken, NamespaceName, ServiceName, HealthStatus string } //nolint:revive // as AWS names it
	if json.Unmarshal(body, &in) != nil {
		refuse(400, "SerializationException")
		return
	}
	var answer any
	switch operation {
	case "GetNamespace":
		name, found := strings.CutPrefix(in.Id, "ns-")
		if !found || !slices.ContainsFunc(c.namespaces, func(page []string) bool { return slices.Contains(page, name) }) {
			refuse(400, "NamespaceNotFound")
			return
		}
		answer = map[string]any{"Namespace": namespace{in.Id, name}}
	case "ListNamespaces":
		page := len(in.NextToken)
		var list []namespace
		for _, name := range c.namespaces[page] {
			list = append(list, namespace{"ns-" + name, name})
		}
		reply := map[string]any{"Namespaces": list}
		if page+1 < len(c.namespaces) {
			reply["NextToken"] = strings.Repeat("n", page+1)
		}
		answer = reply
	case "DiscoverInstances":
		instances, ok := c.services[in.NamespaceName+"/"+in.ServiceName]
		if !ok || in.HealthStatus != "HEALTHY" {
			refuse(400, "ServiceNotFound")
			return
		}
		answer = map[string]any{"Instances": instances, "InstancesRevision": 1}
	default:
		refuse(400, "UnknownOperationException")
		return
	}
	_ = json.NewEncoder(w).Encode(answer)
}

func newCloud(t *testing.T) *cloud {
	t.Helper()
	quiet(t)
	c := &cloud{
		namespaces: [][]string{{"one", "two"}, {"three"}, {"apps"}},
		services: map[string][]instance{
			"apps/a": {
				{"i1", map[string]string{"AWS_INSTANCE_IPV4": "192.0.2.1", "AWS_INSTANCE_IPV6": "fd00::1"}},
				{"i2", map[string]string{"AWS_INSTANCE_IPV6": "fd00::2", "DAPR_PORT": "7", "AWS_INSTANCE_CNAME": "x"}},
				{"i3", map[string]string{"AWS_INSTANCE_CNAME": "host.example", "DAPR_PORT": "8"}},
			},
			"apps/some":   {{"i1", map[string]string{}}, {"i2", map[string]string{"AWS_INSTANCE_IPV4": "192.0.2.2", "DAPR_PORT": "x"}}, {"i3", map[string]string{"AWS_INSTANCE_IPV4": "192.0.2.3"}}},
			"apps/none":   {},
			"apps/broken": {{"i1", map[string]string{"AWS_INSTANCE_PORT": "1"}}},
			"apps/port":   {{"i1", map[string]string{"AWS_INSTANCE_IPV4": "192.0.2.2", "DAPR_PORT": "99999"}}},
		},
	}
	c.Server = httptest.NewServer(c)
	t.Cleanup(c.Close)
	return c
}

// openAt opens a resolver at the cloud, with more properties.
func openAt(t *testing.T, c *cloud, more map[string]string) (nameresolution.ListResolver, error) {
	t.Helper()
	properties := map[string]string{"accessKey": accessKey, "secretKey": secretKey, "awsRegion": "eu-west-1"}
	if c != nil {
		properties["endpoint"] = c.URL
	}
	for name, value := range more {
		properties[name] = value
	}
	var registry components.Registry
	Register(&registry)
	d, err := registry.Lookup(components.NameResolution, "aws.cloudmap", "v1")
	if err != nil {
		t.Fatal(err)
	}
	opened, err := d.Open(t.Context(), components.Instance{Properties: properties})
	if err != nil {
		return nil, err
	}
	t.Cleanup(func() { _ = opened.(*Resolver).Close() })
	return opened.(*Resolver), nil
}

func TestResolve(t *testing.T) {
	c := newCloud(t)
	for _, properties := range []map[string]string{
		{"namespaceName": "apps"}, {"namespaceId": "ns-apps"}, {"namespaceId": "ns-apps", "namespaceName": "apps", "defaultDaprPort": ""},
	} {
		r, err := openAt(t, c, properties)
		if err != nil {
			t.Fatal(err)
		}
		for id, want := range map[string][]string{
			"a":    {"192.0.2.1:50002", "[fd00::2]:7", "host.example:8"},
			"some": {"192.0.2.3:50002"},
			"none": {},
		} {
			got, err := r.ResolveAll(t.Context(), nameresolution.Request{ID: id, Namespace: "other", Port: 1})
			if err != nil || !slices.Equal(got, want) {
				t.Errorf("%s: %v, %v; want %v", id, got, err, want)
			}
			one, err := r.Resolve(t.Context(), nameresolution.Request{ID: id})
			if err != nil || len(want) > 0 && !slices.Contains(want, one) || len(want) == 0 && one != "" {
				t.Errorf("%s: one of them is %q, %v", id, one, err)
			}
		}
		for id, want := range map[string]string{
			"unknown": `cannot find app id unknown in the Cloud Map namespace "apps": DiscoverInstances at 127.0.0.1`,
			"broken":  `none of the attributes AWS_INSTANCE_IPV4`,
			"port":    `the attribute DAPR_PORT "99999"`,
			"":        `without id`,
		} {
			if got, err := r.ResolveAll(t.Context(), nameresolution.Request{ID: id}); err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%s: %v, %v; want an error with %q", id, got, err, want)
			}
		}
	}
	r, err := openAt(t, c, map[string]string{"namespaceName": "apps", "defaultDaprPort": "9"})
	if err != nil {
		t.Fatal(err)
	}
	if got, err := r.Resolve(t.Context(), nameresolution.Request{ID: "some"}); err != nil || got != "192.0.2.3:9" {
		t.Errorf("%q, %v", got, err)
	}
}

func TestOpenErrors(t *testing.T) {
	c := newCloud(t)
	for _, tc := range []struct {
		name       string
		properties map[string]string
		want       []string
	}{
		{"no namespace", nil, []string{`"namespaceName" or "namespaceId" is required`}},
		{"unknown name", map[string]string{"namespaceName": "four"}, []string{`no Cloud Map namespace "four" in region eu-west-1`, `"namespaceName"`}},
		{"unknown id", map[string]string{"namespaceId": "ns-four"}, []string{`id "ns-four"`, "NamespaceNotFound: refused (request r-1)", `correct the metadata properties`}},
		{"id of another", map[string]string{"namespaceId": "ns-one", "namespaceName": "two"}, []string{`"ns-one", whose name is "one" and not "two"`}},
		{"wrong key", map[string]string{"namespaceName": "apps", "secretKey": "wrong"}, []string{"InvalidSignatureException", `"secretKey"`}},
		{"wrong region", map[string]string{"namespaceName": "apps", "awsRegion": "eu-east-9"}, []string{"InvalidSignatureException"}},
		{"half a key", map[string]string{"namespaceName": "apps", "secretKey": ""}, []string{`"accessKey" and "secretKey" must be given together`}},
		{"endpoint", map[string]string{"namespaceName": "apps", "endpoint": "localhost:4566"}, []string{`"endpoint" is "localhost:4566"`}},
		{"port", map[string]string{"namespaceName": "apps", "defaultDaprPort": "70000"}, []string{`"defaultDaprPort" is 70000`}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			_, err := openAt(t, c, tc.properties)
			for _, want := range tc.want {
				if err == nil || !strings.Contains(err.Error(), want) {
					t.Errorf("%v; want an error with %q", err, want)
				}
			}
		})
	}
}

func TestFailures(t *testing.T) {
	c := newCloud(t)
	r, err := openAt(t, c, map[string]string{"namespaceName": "apps"})
	if err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		name string
		fail func(w http.ResponseWriter)
		// times is how often it fails before it works; 0 for ever.
		times, calls int
		want         string
	}{
		{"throttled once", func(w http.ResponseWriter) {
			w.Header().Set("X-Amzn-Errortype", "RequestLimitExceeded:http://x/")
			w.WriteHeader(400)
		}, 1, 2, ""},
		{"hangs up once", func(http.ResponseWriter) { panic(http.ErrAbortHandler) }, 1, 2, ""},
		{"denied", func(w http.ResponseWriter) {
			w.WriteHeader(400)
			_, _ = io.WriteString(w, `{"__type":"AccessDeniedException","Message":"no"}`)
		}, 0, 1, "let the policies of the user or role allow servicediscovery:DiscoverInstances"},
		{"no JSON", func(w http.ResponseWriter) { _, _ = io.WriteString(w, "<html>") }, 0, 1, "the answer is not Cloud Map's"},
		{"a proxy's error", func(w http.ResponseWriter) { http.Error(w, "nope", http.StatusTeapot) }, 0, 1, "status 418"},
		{"redirected", func(w http.ResponseWriter) { w.Header().Set("Location", "http://192.0.2.1/"); w.WriteHeader(302) }, 0, 1, "status 302"},
		{"too long", func(w http.ResponseWriter) { _, _ = w.Write(bytes.Repeat([]byte(" "), answerLimit+1)) }, 0, 1, "larger than"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			failed := 0
			c.mu.Lock()
			c.calls = nil
			c.fail = func(w http.ResponseWriter, _ string) bool {
				if failed++; tc.times > 0 && failed > tc.times {
					return false
				}
				tc.fail(w)
				return true
			}
			c.mu.Unlock()
			got, err := r.ResolveAll(t.Context(), nameresolution.Request{ID: "some"})
			if (tc.want == "") != (err == nil) || err != nil && !strings.Contains(err.Error(), tc.want) {
				t.Errorf("%v, %v; want an error with %q", got, err, tc.want)
			}
			c.mu.Lock()
			defer c.mu.Unlock()
			if len(c.calls) != tc.calls {
				t.Errorf("%d calls, want %d", len(c.calls), tc.calls)
			}
		})
	}
}

func TestCallerGivesUp(t *testing.T) {
	c := newCloud(t)
	r, err := openAt(t, c, map[string]string{"namespaceName": "apps"})
	if err != nil {
		t.Fatal(err)
	}
	release := make(chan struct{})
	c.mu.Lock()
	c.fail = func(http.ResponseWriter, string) bool { <-release; return true }
	c.mu.Unlock()
	defer close(release)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := r.ResolveAll(ctx, nameresolution.Request{ID: "a"}); err == nil || ctx.Err() == nil {
		t.Error(err)
	}
}

func TestAddresses(t *testing.T) {
	for _, tc := range []struct{ region, endpoint, operation, want string }{
		{"eu-west-1", "", "GetNamespace", "https://servicediscovery.eu-west-1.amazonaws.com/"},
		{"eu-west-1", "", "DiscoverInstances", "https://data-servicediscovery.eu-west-1.amazonaws.com/"},
		{"cn-north-1", "", "ListNamespaces", "https://servicediscovery.cn-north-1.amazonaws.com.cn/"},
		{"r", "http://localhost:4566/", "DiscoverInstances", "http://localhost:4566/"},
	} {
		if got := newClient(aws.Config{Region: tc.region}, tc.endpoint, nil).address(tc.operation); got != tc.want {
			t.Errorf("%q, want %q", got, tc.want)
		}
	}
}
