package s3

import (
	"context"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"outrigger.dev/components/bindings/bindingstest"
	"outrigger.dev/test/servers"
)

func TestMain(m *testing.M) { servers.Main(m) }

// binding is the type under test.
var binding = bindingstest.Type[*Binding]{Register: Register, Name: "aws.s3"}

// properties are those of a bucket of a server, and further pairs of names and values.
func properties(s *servers.S3Server, bucket string, more ...string) map[string]string {
	p := map[string]string{
		"bucket": bucket, "endpoint": s.Endpoint, "region": s.Region, "accessKey": s.AccessKey, "secretKey": s.SecretKey, "forcePathStyle": "true",
	}
	for i := 0; i < len(more); i += 2 {
		p[more[i]] = more[i+1]
	}
	return p
}

// invoke runs an operation with metadata in pairs of names and values. Without a response the reply is "-".
func invoke(b *Binding, operation, data string, metadata ...string) (string, error) {
	resp, err := bindingstest.Invoke(b, operation, data, metadata...)
	if resp == nil {
		return "-", err
	}
	return string(resp.Data), err
}

func TestObjects(t *testing.T) {
	server := servers.S3(t)
	bucket := server.Bucket()
	b := binding.MustOpen(t, properties(server, bucket))
	base := server.Endpoint + "/" + bucket + "/"
	for _, tc := range []struct {
		operation, data string
		metadata        []string
		want, err       string
	}{
		{"create", `"Hello \"World\""`, []string{"key", "a.txt"}, `{"location":"` + base + `a.txt","versionID":null}`, ""},
		{"get", "", []string{"key", "a.txt"}, `Hello "World"`, ""},
		{"get", "", []string{"key", "a.txt", "encodeBase64", "true"}, `SGVsbG8gIldvcmxkIg==`, ""},
		{"create", `{"k":1}`, []string{"key", "a.txt"}, `{"location":"` + base + `a.txt","versionID":null}`, ""},
		{"get", "", []string{"key", "a.txt"}, `{"k":1}`, ""},
		{"create", "\x00\xff", []string{"key", "dir/sub/b.bin"}, `{"location":"` + base + `dir/sub/b.bin","versionID":null}`, ""},
		{"get", "", []string{"key", "dir/sub/b.bin"}, "\x00\xff", ""},
		{"create", `"AP8="`, []string{"key", "c", "decodeBase64", "true"}, `{"location":"` + base + `c","versionID":null}`, ""},
		{"get", "", []string{"key", "c"}, "\x00\xff", ""},
		{"create", "", []string{"key", "empty"}, `{"location":"` + base + `empty","versionID":null}`, ""},
		{"get", "", []string{"key", "empty"}, "", ""},
		{"create", "x", []string{"key", "ä b+c&d=e%20?#~*'()!.txt"}, `{"location":"` + base + `%C3%A4%20b%2Bc%26d%3De%2520%3F%23~%2A%27%28%29%21.txt","versionID":null}`, ""},
		{"get", "", []string{"key", "ä b+c&d=e%20?#~*'()!.txt"}, "x", ""},
		{"create", `"?"`, []string{"key", "c", "decodeBase64", "true"}, "", "is no base64"},
		{"create", "x", []string{"key", "c", "decodeBase64", "perhaps"}, "", `"decodeBase64"`},
		{"create", "x", []string{"key", "../up"}, "", `"key"`},
		{"create", "x", []string{"key", "a/./b"}, "", `"key"`},
		{"create", "x", []string{"key", strings.Repeat("k", 1025)}, "", "1024"},
		{"create", "x", []string{"key", "c", "presignTTL", "soon"}, "", `"presignTTL"`},
		{"create", "x", []string{"key", "c", "storageClass", "a b"}, "", `"storageClass"`},
		{"create", "x", []string{"key", "c", "tags", "novalue"}, "", `"tags"`},
		{"create", "x", []string{"key", "c", "Content-Type", "a\nb"}, "", `"Content-Type"`},
		{"get", "", []string{"key", "none"}, "", "object not found"},
		{"get", "", nil, "", `required metadata "key"`},
		{"get", "", []string{"key", "a.txt", "encodeBase64", "perhaps"}, "", `"encodeBase64"`},
		{"delete", "", nil, "", `required metadata "key"`},
		{"delete", "", []string{"key", "a.txt"}, "-", ""},
		{"delete", "", []string{"key", "a.txt"}, "-", ""},
		{"get", "", []string{"key", "a.txt"}, "", "object not found"},
		{"presign", "", []string{"key", "c"}, "", `required metadata "presignTTL"`},
		{"presign", "", []string{"presignTTL", "1m"}, "", `required metadata "key"`},
		{"presign", "", []string{"key", "c", "presignTTL", "169h"}, "", `"presignTTL"`},
		{"move", "", nil, "", `operation "move"`},
	} {
		got, err := invoke(b, tc.operation, tc.data, tc.metadata...)
		if tc.err != "" {
			if err == nil || !strings.Contains(err.Error(), tc.err) {
				t.Errorf("%s %q: error %v, want one with %q", tc.operation, tc.metadata, err, tc.err)
			}
			continue
		}
		if err != nil || got != tc.want {
			t.Errorf("%s %q: %q, %v; want %q", tc.operation, tc.metadata, got, err, tc.want)
		}
	}
	// Without a key one is made up.
	reply, err := invoke(b, "create", `"x"`)
	var made struct{ Location string }
	if err != nil || json.Unmarshal([]byte(reply), &made) != nil || uuid.Validate(strings.TrimPrefix(made.Location, base)) != nil {
		t.Errorf("create without a key: %s, %v", reply, err)
	}
}

// fetch gets a URL without credentials and returns status, content type and body.
func fetch(t *testing.T, url string) (int, string, string) {
	t.Helper()
	resp, err := http.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, resp.Header.Get("Content-Type"), string(body)
}

func TestPresign(t *testing.T) {
	server := servers.S3(t)
	b := binding.MustOpen(t, properties(server, server.Bucket()))
	var reply struct{ Location, PresignURL string }
	text, err := invoke(b, "create", `"signed"`, "key", "a b/ü+.txt", "presignTTL", "15m", "contentType", "text/plain", "tags", "project=sashimi, year=2024", "storageClass", "STANDARD")
	if err != nil || json.Unmarshal([]byte(text), &reply) != nil || !strings.Contains(reply.PresignURL, "X-Amz-Expires=900") {
		t.Fatalf("create: %s, %v", text, err)
	}
	if status, kind, body := fetch(t, reply.PresignURL); status != 200 || kind != "text/plain" || body != "signed" {
		t.Errorf("presigned: %d %s %s", status, kind, body)
	}
	if status, _, _ := fetch(t, reply.Location); status != http.StatusForbidden {
		t.Errorf("without a signature: %d", status)
	}
	text, err = invoke(b, "presign", "", "key", "a b/ü+.txt", "presignTTL", "1h")
	if err != nil || json.Unmarshal([]byte(text), &reply) != nil {
		t.Fatalf("presign: %s, %v", text, err)
	}
	if status, _, body := fetch(t, reply.PresignURL); status != 200 || body != "signed" || !strings.Contains(reply.PresignURL, "X-Amz-Expires=3600") {
		t.Errorf("presigned: %d %s", status, body)
	}
	// The tags have arrived.
	a, err := b.client.do(context.Background(), &call{method: http.MethodGet, key: "a b/ü+.txt", query: map[string][]string{"tagging": {""}}, limit: longestAnswer})
	if err != nil || !strings.Contains(string(a.data), "<Value>sashimi</Value>") || !strings.Contains(string(a.data), "<Key>year</Key>") {
		t.Errorf("tags: %s, %v", a.data, err)
	}
}

func TestList(t *testing.T) {
	server := servers.S3(t)
	bucket := server.Bucket()
	b := binding.MustOpen(t, properties(server, bucket))
	page := func(data string) listing {
		t.Helper()
		text, err := invoke(b, "list", data)
		if err != nil {
			t.Fatalf("list %s: %v", data, err)
		}
		var l listing
		if err := json.Unmarshal([]byte(text), &l); err != nil {
			t.Fatalf("%s: %v", text, err)
		}
		return l
	}
	keys := func(l listing) (all []string) {
		for _, c := range l.Contents {
			all = append(all, c.Key)
		}
		return all
	}
	text, err := invoke(b, "list", "null")
	if err != nil || text != `{"CommonPrefixes":null,"Contents":null,"Delimiter":"","EncodingType":null,"IsTruncated":false,"Marker":"","MaxKeys":1000,"Name":"`+bucket+`","NextMarker":null,"Prefix":""}` {
		t.Errorf("empty bucket: %s, %v", text, err)
	}
	for _, key := range []string{"a", "b c+d", "dir/1", "dir/2", "ü"} {
		if _, err := invoke(b, "create", "data", "key", key); err != nil {
			t.Fatal(err)
		}
	}
	whole := page("")
	if got := keys(whole); !slices.Equal(got, []string{"a", "b c+d", "dir/1", "dir/2", "ü"}) || whole.IsTruncated || whole.Name != bucket {
		t.Errorf("all: %+v", whole)
	}
	if c := whole.Contents[0]; c.Size != 4 || len(c.ETag) < 3 || c.ETag[0] != '"' || time.Since(c.LastModified) > time.Hour || c.StorageClass != "STANDARD" {
		t.Errorf("object: %+v", c)
	}
	if l := page(`{"maxResults": 2}`); !slices.Equal(keys(l), []string{"a", "b c+d"}) || !l.IsTruncated || l.MaxKeys != 2 {
		t.Errorf("first page: %+v", l)
	}
	if l := page(`{"maxResults": 2, "marker": "b c+d"}`); !slices.Equal(keys(l), []string{"dir/1", "dir/2"}) || l.Marker != "b c+d" {
		t.Errorf("second page: %+v", l)
	}
	if l := page(`{"prefix": "dir/"}`); !slices.Equal(keys(l), []string{"dir/1", "dir/2"}) || l.Prefix != "dir/" {
		t.Errorf("prefix: %+v", l)
	}
	if l := page(`{"delimiter": "/", "maxResults": 5000}`); !slices.Equal(keys(l), []string{"a", "b c+d", "ü"}) || !slices.Equal(l.CommonPrefixes, []commonPrefix{{"dir/"}}) || l.Delimiter != "/" || l.MaxKeys != 1000 {
		t.Errorf("delimiter: %+v", l)
	}
	for _, data := range []string{`"text"`, `{"maxResults": -1}`, `{"prefix": 1}`} {
		if text, err := invoke(b, "list", data); err == nil {
			t.Errorf("list %s: %s", data, text)
		}
	}
}

func TestFiles(t *testing.T) {
	server := servers.S3(t)
	b := binding.MustOpen(t, properties(server, server.Bucket()))
	dir := t.TempDir()
	big := strings.Repeat("0123456789abcdef", (expectAbove+1<<20)/16)
	for name, text := range map[string]string{"text": "from a file", "coded": "AP8=", "big": big, "bad": "?"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, tc := range []struct{ file, data, decode, want, err string }{
		{"text", "null", "", "from a file", ""},
		{"text", "", "false", "from a file", ""},
		{"text", `""`, "", "from a file", ""},
		{"coded", "", "true", "\x00\xff", ""},
		{"big", "", "", big, ""},
		{"bad", "", "true", "", "cannot read the file"},
		{"text", "data", "", "", "give one of them"},
		{"none", "", "", "", `"filePath"`},
		{"", "", "", "", "no file"},
	} {
		m := []string{"key", "f", "filePath", dir + "/" + tc.file}
		if tc.decode != "" {
			m = append(m, "decodeBase64", tc.decode)
		}
		_, err := invoke(b, "create", tc.data, m...)
		if tc.err != "" {
			if err == nil || !strings.Contains(err.Error(), tc.err) {
				t.Errorf("%+v: error %v", tc, err)
			}
			continue
		}
		if err != nil {
			t.Errorf("%s: %v", tc.file, err)
			continue
		}
		if got, err := invoke(b, "get", "", "key", "f"); err != nil || got != tc.want {
			t.Errorf("%s: %d bytes, %v", tc.file, len(got), err)
		}
	}
}

func TestBulk(t *testing.T) {
	server := servers.S3(t)
	bucket := server.Bucket()
	b := binding.MustOpen(t, properties(server, bucket))
	base := server.Endpoint + "/" + bucket + "/"
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, []byte("filed"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct{ operation, data, want, err string }{
		{
			"bulkCreate", `{"items":[{"key":"a","data":"text"},{"key":"b","data":{"k":[1]},"contentType":"application/json"},{"key":"c","filePath":"` + file + `"},{"key":"../d","data":"x"},{"key":"e","data":"x","filePath":"` + file + `"}],"concurrency":2}`,
			`[{"key":"a","location":"` + base + `a","versionID":null},{"key":"b","location":"` + base + `b","versionID":null},{"key":"c","location":"` + base + `c","versionID":null},` +
				`{"key":"../d","error":"metadata \"key\" of the request is \"../d\": a key must have no \".\" and \"..\" between slashes"},` +
				`{"key":"e","error":"metadata \"filePath\" of the request is \"` + file + `\": the object has data too; give one of them"}]`, "",
		},
		{"bulkGet", `["a",{"key":"b"},"c"]`, `[{"key":"a","data":"text"},{"key":"b","data":"{\"k\":[1]}"},{"key":"c","data":"filed"}]`, ""},
		{"bulkDelete", `{"items":["a","never was","b","a"]}`, `[{"key":"a"},{"key":"never was"},{"key":"b"},{"key":"a"}]`, ""},
		{"bulkGet", `["a"]`, "", "none of 1 objects succeeded; the first error: object not found"},
		{"bulkDelete", `["", "."]`, "", "none of 2 objects"},
		{"bulkDelete", `["", "c"]`, `[{"key":"","error":"required metadata \"key\" is not set in the request: give the key of the object"},{"key":"c"}]`, ""},
		{"bulkGet", `null`, "", `no "items"`},
		{"bulkGet", `"a"`, "", "is no object"},
		{"bulkGet", `{"items":["a"],"concurrency":65}`, "", `"concurrency"`},
		{"bulkGet", `[` + strings.Repeat(`"a",`, mostItems) + `"a"]`, "", "at most 10000"},
	} {
		got, err := invoke(b, tc.operation, tc.data)
		if tc.err != "" {
			if err == nil || !strings.Contains(err.Error(), tc.err) {
				t.Errorf("%s: error %v, want one with %q", tc.operation, err, tc.err)
			}
			continue
		}
		if err != nil || got != tc.want {
			t.Errorf("%s %s: %s, %v; want %s", tc.operation, tc.data, got, err, tc.want)
		}
	}
	// What is no text comes in base64, as all does when asked for.
	if _, err := invoke(b, "create", "\x00\xff", "key", "bin"); err != nil {
		t.Fatal(err)
	}
	if got, err := invoke(b, "bulkGet", `["bin","none"]`); err != nil || !strings.HasPrefix(got, `[{"key":"bin","data":"AP8=","base64":true},{"key":"none","error":"object not found: `) {
		t.Errorf("bytes: %s, %v", got, err)
	}
	if got, err := invoke(b, "bulkCreate", `[{"data":"YQ=="}]`, "decodeBase64", "true"); err != nil || !strings.Contains(got, base) {
		t.Errorf("without a key: %s, %v", got, err)
	}
	// More than one call can delete.
	var items, places []string
	for i := range 2 * mostKeys {
		items = append(items, strconv.Quote("k"+strconv.Itoa(i%(mostKeys+1))))
		places = append(places, `{"key":"k`+strconv.Itoa(i%(mostKeys+1))+`"}`)
	}
	if _, err := invoke(b, "bulkCreate", `[{"key":"k0","data":"x"},{"key":"k1000","data":"x"}]`); err != nil {
		t.Fatal(err)
	}
	if got, err := invoke(b, "bulkDelete", "["+strings.Join(items, ",")+"]"); err != nil || got != "["+strings.Join(places, ",")+"]" {
		t.Errorf("many: %.200s, %v", got, err)
	}
	for _, key := range []string{"k0", "k1000"} {
		if _, err := invoke(b, "get", "", "key", key); err == nil {
			t.Errorf("%s is still there", key)
		}
	}
}

func TestComponentBase64(t *testing.T) {
	server := servers.S3(t)
	b := binding.MustOpen(t, properties(server, server.Bucket(), "decodeBase64", "true", "encodeBase64", "true"))
	if _, err := invoke(b, "create", `"AP8="`, "key", "a"); err != nil {
		t.Fatal(err)
	}
	if got, err := invoke(b, "get", "", "key", "a"); err != nil || got != "AP8=" {
		t.Errorf("%q, %v", got, err)
	}
	if got, err := invoke(b, "get", "", "key", "a", "encodeBase64", "false"); err != nil || got != "\x00\xff" {
		t.Errorf("%q, %v", got, err)
	}
	if got, err := invoke(b, "bulkGet", `["a"]`); err != nil || got != `[{"key":"a","data":"AP8=","base64":true}]` {
		t.Errorf("%s, %v", got, err)
	}
}

func TestVersions(t *testing.T) {
	server := servers.S3(t)
	b := binding.MustOpen(t, properties(server, server.Bucket()))
	c := &call{method: http.MethodPut, query: map[string][]string{"versioning": {""}}, limit: longestAnswer}
	c.setBody([]byte(`<VersioningConfiguration xmlns="http://s3.amazonaws.com/doc/2006-03-01/"><Status>Enabled</Status></VersioningConfiguration>`))
	if _, err := b.client.do(context.Background(), c); err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{}
	for range 2 {
		var reply struct{ VersionID string }
		text, err := invoke(b, "create", "x", "key", "a")
		if err != nil || json.Unmarshal([]byte(text), &reply) != nil || reply.VersionID == "" || seen[reply.VersionID] {
			t.Errorf("%s, %v", text, err)
		}
		seen[reply.VersionID] = true
	}
}

func TestTLS(t *testing.T) {
	server := servers.S3(t, servers.TLS())
	bucket := server.Bucket()
	if _, err := invoke(binding.MustOpen(t, properties(server, bucket)), "list", ""); err == nil || !strings.Contains(err.Error(), `"insecureSSL"`) {
		t.Errorf("foreign certificate: %v", err)
	}
	if _, err := invoke(binding.MustOpen(t, properties(server, bucket, "insecureSSL", "true")), "list", ""); err != nil {
		t.Errorf("insecureSSL: %v", err)
	}
	// Without a scheme it is https, unless SSL is disabled.
	if _, err := invoke(binding.MustOpen(t, properties(server, bucket, "insecureSSL", "true", "endpoint", server.Addr)), "list", ""); err != nil {
		t.Errorf("no scheme: %v", err)
	}
	plain := servers.S3(t)
	if _, err := invoke(binding.MustOpen(t, properties(plain, plain.Bucket(), "disableSSL", "true", "endpoint", plain.Addr)), "list", ""); err != nil {
		t.Errorf("disableSSL: %v", err)
	}
}

func TestBucketInHost(t *testing.T) {
	server := servers.S3(t, servers.Setting("virtual-domain", "s3.test"))
	bucket := server.Bucket()
	b := binding.MustOpen(t, properties(server, bucket, "forcePathStyle", "false", "endpoint", "http://s3.test"))
	// Names end at the server, as nobody here resolves them.
	b.client.http.Transport.(*http.Transport).DialContext = func(ctx context.Context, network, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, network, server.Addr)
	}
	b.client.http.Transport.(*http.Transport).Proxy = nil
	reply, err := invoke(b, "create", "x", "key", "a b/c")
	if err != nil || reply != `{"location":"http://`+bucket+`.s3.test/a%20b/c","versionID":null}` {
		t.Fatalf("%s, %v", reply, err)
	}
	if got, err := invoke(b, "get", "", "key", "a b/c"); err != nil || got != "x" {
		t.Errorf("%s, %v", got, err)
	}
	if got, err := invoke(b, "list", ""); err != nil || !strings.Contains(got, `"Key":"a b/c"`) {
		t.Errorf("%s, %v", got, err)
	}
	if got, err := invoke(b, "bulkDelete", `["a b/c"]`); err != nil || got != `[{"key":"a b/c"}]` {
		t.Errorf("%s, %v", got, err)
	}
}

func TestRefusals(t *testing.T) {
	server := servers.S3(t)
	bucket := server.Bucket()
	for _, tc := range []struct{ property, value, err string }{
		{"accessKey", "nobody", "access key"},
		{"secretKey", "wrong", `"secretKey"`},
		{"bucket", "no-such-bucket", `make the bucket`},
	} {
		_, err := invoke(binding.MustOpen(t, properties(server, bucket, tc.property, tc.value)), "get", "", "key", "a")
		if err == nil || !strings.Contains(err.Error(), tc.err) || strings.Contains(err.Error(), server.SecretKey) {
			t.Errorf("%s: error %v, want one with %q", tc.property, err, tc.err)
		}
	}
}

func TestRestart(t *testing.T) {
	t.Setenv("AWS_MAX_ATTEMPTS", "1") // no pauses while it is down
	server := servers.S3(t, servers.Own())
	b := binding.MustOpen(t, properties(server, server.Bucket()))
	if _, err := invoke(b, "create", "x", "key", "a"); err != nil {
		t.Fatal(err)
	}
	server.Kill()
	if _, err := invoke(b, "get", "", "key", "a"); err == nil || !strings.Contains(err.Error(), "check that") || !strings.Contains(err.Error(), server.Addr) {
		t.Errorf("server that is down: %v", err)
	}
	server.Start()
	if got, err := invoke(b, "get", "", "key", "a"); err != nil || got != "x" {
		t.Errorf("after the restart: %q, %v", got, err)
	}
	for range 2 {
		if err := b.Close(); err != nil {
			t.Error(err)
		}
	}
	if _, err := invoke(b, "get", "", "key", "a"); err == nil || !strings.Contains(err.Error(), "closed") {
		t.Errorf("after Close: %v", err)
	}
}
