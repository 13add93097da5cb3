// Package s3 is the output binding that keeps objects in a bucket of Amazon S3 or of a server that speaks its protocol, such
// as MinIO (Dapr API, bindings.aws.s3).
package s3

import (
	"context"
	"crypto/tls"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"strings"
	"sync/atomic"
	"time"
	"unicode/utf8"

	"github.com/google/uuid"
	"github.com/jonboulle/clockwork"
	"outrigger.dev/components"
	"outrigger.dev/components/awsauth"
	"outrigger.dev/components/bindings"
)

// The operations besides the usual ones.
const (
	bulkCreate = "bulkCreate"
	bulkGet    = "bulkGet"
	bulkDelete = "bulkDelete"
	presign    = "presign"
)

// Parameters of requests.
const (
	keyParameter          = "key"
	filePathParameter     = "filePath"
	presignTTLParameter   = "presignTTL"
	decodeBase64Parameter = "decodeBase64"
	encodeBase64Parameter = "encodeBase64"
)

// Bounds: of an operation whose caller has no bound of its own; in bytes of what is read into memory, which for many objects
// holds of all together; and of what the protocol stores at once.
const (
	callTimeout    = 10 * time.Minute
	longestObject  = 1 << 30
	longestObjects = 256 << 20
	longestAnswer  = 64 << 20
	longestUpload  = 5 << 30
)

// longestTTL is how long a signature can hold (AWS, signature version 4).
const longestTTL = 7 * 24 * time.Hour

// Register adds the component type to r.
func Register(r *components.Registry) {
	bindings.Register(r, components.Info{
		Name: "aws.s3", Version: "v1", Status: components.Stable,
		Description: "Keeps objects in a bucket of Amazon S3 or of a server that speaks its protocol.",
	}, func(ctx context.Context, inst components.Instance, options Options) (*Binding, error) {
		return Open(ctx, inst, options)
	})
}

var _ bindings.Output = (*Binding)(nil)

// Binding is one bucket.
type Binding struct {
	options Options
	client  *client
	newKey  func() string
	closed  atomic.Bool
}

// Open makes the binding. Nothing is called yet.
func Open(ctx context.Context, inst components.Instance, options Options) (*Binding, error) {
	environment := environment(os.Getenv)
	if options.Endpoint == "" {
		options.Endpoint = environment.endpoint
	}
	config, err := options.Config(ctx, awsauth.Surroundings{
		OwnEndpoint: options.Endpoint != "",
		Transport: func(t *http.Transport) {
			t.MaxIdleConnsPerHost = 64
			if options.InsecureSSL {
				if t.TLSClientConfig == nil {
					t.TLSClientConfig = &tls.Config{MinVersion: tls.VersionTLS12}
				}
				t.TLSClientConfig.InsecureSkipVerify = true
			}
		},
	})
	if err != nil {
		return nil, err
	}
	bucket, err := options.bucketURL(environment, config.Region)
	if err != nil {
		return nil, err
	}
	if inst.Clock == nil {
		inst.Clock = clockwork.NewRealClock()
	}
	return &Binding{options: options, client: newClient(config, bucket, inst.Clock), newKey: uuid.NewString}, nil
}

// Close gives idle connections up. Calls that run end by their contexts.
func (b *Binding) Close() error {
	b.closed.Store(true)
	b.client.http.CloseIdleConnections()
	return nil
}

var operations = [...]string{bindings.Create, bindings.Get, bindings.Delete, bindings.List, bulkGet, bulkCreate, bulkDelete, presign}

// Operations are create, get, delete and list, the first three of them also for many objects at once, and presign.
func (b *Binding) Operations() []string { return operations[:] }

// Invoke carries out an operation on the object that metadata "key" names.
func (b *Binding) Invoke(ctx context.Context, req bindings.Request) (*bindings.Response, error) {
	if b.closed.Load() {
		return nil, errors.New("the S3 binding is closed; the sidecar is shutting down or the component was replaced")
	}
	if _, bounded := ctx.Deadline(); !bounded {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, callTimeout)
		defer cancel()
	}
	switch req.Operation {
	case bindings.Create:
		return b.create(ctx, req)
	case bindings.Get:
		return b.get(ctx, req)
	case bindings.Delete:
		return nil, b.delete(ctx, req.Metadata[keyParameter])
	case bindings.List:
		return b.list(ctx, req)
	case bulkGet, bulkCreate, bulkDelete:
		return b.bulk(ctx, req)
	case presign:
		return b.presign(ctx, req)
	default:
		return nil, fmt.Errorf("operation %q is not one of %s", req.Operation, strings.Join(operations[:], ", "))
	}
}

// checkKey refuses what is no key, and what a server on the way could take for another path.
func checkKey(key string) error {
	if key == "" {
		return &bindings.ParameterError{Name: keyParameter, Remedy: "give the key of the object"}
	}
	if len(key) > 1024 || !utf8.ValidString(key) {
		return &bindings.ParameterError{Name: keyParameter, Value: key, Remedy: "a key has at most 1024 bytes of UTF-8"}
	}
	for part := range strings.SplitSeq(key, "/") {
		if part == "." || part == ".." {
			return &bindings.ParameterError{Name: keyParameter, Value: key, Remedy: `a key must have no "." and ".." between slashes`}
		}
	}
	return nil
}

// created is the answer to create.
type created struct {
	Location   string  `json:"location"`
	VersionID  *string `json:"versionID"`
	PresignURL string  `json:"presignURL,omitempty"`
}

// create stores the data, or the file of metadata "filePath".
func (b *Binding) create(ctx context.Context, req bindings.Request) (*bindings.Response, error) {
	decode, err := req.Flag(decodeBase64Parameter, b.options.DecodeBase64)
	if err != nil {
		return nil, err
	}
	o := object{
		key: req.Metadata[keyParameter], data: req.Data, path: req.Metadata[filePathParameter], decode: decode,
		contentType: first(req.Metadata["Content-Type"], req.Metadata["contentType"]), storageClass: req.Metadata["storageClass"],
		tags: req.Metadata["tags"], presignTTL: req.Metadata[presignTTLParameter],
	}
	if o.path != "" && !bindings.NoData(req.Data) && len(bindings.Unquoted(req.Data)) > 0 {
		return nil, &bindings.ParameterError{Name: filePathParameter, Value: o.path, Remedy: "the request has data too; give one of them"}
	}
	if o.key == "" {
		o.key = b.newKey()
	}
	reply, err := b.put(ctx, o)
	if err != nil {
		return nil, err
	}
	return respond(reply)
}

func first(a, b string) string {
	if a != "" {
		return a
	}
	return b
}

// respond makes a response of JSON.
func respond(v any) (*bindings.Response, error) {
	data, err := json.Marshal(v)
	if err != nil {
		return nil, err
	}
	return &bindings.Response{Data: data}, nil
}

// object is one to be stored.
type object struct {
	key string
	// data as the API hands it over, or the path of a file.
	data   []byte
	path   string
	decode bool

	contentType, storageClass, tags, presignTTL string
}

func (b *Binding) put(ctx context.Context, o object) (*created, error) {
	if err := checkKey(o.key); err != nil {
		return nil, err
	}
	c := &call{method: http.MethodPut, key: o.key, header: http.Header{}, limit: longestAnswer}
	var ttl time.Duration
	if o.presignTTL != "" {
		var err error
		if ttl, err = parseTTL(o.presignTTL); err != nil {
			return nil, err
		}
	}
	if o.contentType != "" {
		if strings.ContainsFunc(o.contentType, func(r rune) bool { return r < ' ' || r > '~' }) {
			return nil, &bindings.ParameterError{Name: "Content-Type", Value: o.contentType, Remedy: "give a media type such as image/png"}
		}
		c.header.Set("Content-Type", o.contentType)
	} else {
		c.header.Set("Content-Type", "application/octet-stream")
	}
	if o.storageClass != "" {
		if strings.ContainsFunc(o.storageClass, func(r rune) bool { return r != '_' && (r < 'A' || r > 'Z') }) {
			return nil, &bindings.ParameterError{Name: "storageClass", Value: o.storageClass, Remedy: "give a storage class such as STANDARD_IA"}
		}
		c.header.Set("X-Amz-Storage-Class", o.storageClass)
	}
	if o.tags != "" {
		tags, err := parseTags(o.tags)
		if err != nil {
			return nil, err
		}
		c.header.Set("X-Amz-Tagging", tags)
	}
	if o.path != "" {
		f, err := openUpload(o.path)
		if err != nil {
			return nil, err
		}
		defer f.Close()
		if err := f.body(ctx, c, o.decode); err != nil {
			return nil, err
		}
	} else {
		data := bindings.Unquoted(o.data)
		if o.decode {
			var err error
			if data, err = decodeBase64(data); err != nil {
				return nil, fmt.Errorf("the data to store as %q is no base64: %w; encode it, or leave decodeBase64 out", o.key, err)
			}
		}
		c.setBody(data)
	}
	a, err := b.client.do(ctx, c)
	if err != nil {
		return nil, b.explain("store", o.key, err)
	}
	reply := &created{Location: a.url}
	if id := a.header.Get("X-Amz-Version-Id"); id != "" {
		reply.VersionID = &id
	}
	if ttl > 0 {
		if reply.PresignURL, err = b.client.presign(ctx, o.key, ttl); err != nil {
			return nil, b.explain("store", o.key, err)
		}
	}
	return reply, nil
}

// decodeBase64 decodes the standard alphabet; line breaks are ignored.
func decodeBase64(text []byte) ([]byte, error) {
	data := make([]byte, base64.StdEncoding.DecodedLen(len(text)))
	n, err := base64.StdEncoding.Decode(data, text)
	return data[:n], err
}

// parseTags turns "project=a,year=2024" into the form of the protocol.
func parseTags(text string) (string, error) {
	var tags []string
	for pair := range strings.SplitSeq(text, ",") {
		if pair = strings.TrimSpace(pair); pair == "" {
			continue
		}
		name, value, ok := strings.Cut(pair, "=")
		name, value = strings.TrimSpace(name), strings.TrimSpace(value)
		if !ok || name == "" {
			return "", &bindings.ParameterError{Name: "tags", Value: text, Remedy: `give pairs such as "project=sashimi,year=2024"`}
		}
		tags = append(tags, url.QueryEscape(name)+"="+url.QueryEscape(value))
	}
	return strings.Join(tags, "&"), nil
}

// get returns the object's bytes.
func (b *Binding) get(ctx context.Context, req bindings.Request) (*bindings.Response, error) {
	encode, err := req.Flag(encodeBase64Parameter, b.options.EncodeBase64)
	if err != nil {
		return nil, err
	}
	data, err := b.read(ctx, req.Metadata[keyParameter], nil)
	if err != nil {
		return nil, err
	}
	if encode {
		data = base64.StdEncoding.AppendEncode(nil, data)
	}
	return &bindings.Response{Data: data}, nil
}

// read is the object's bytes, which are taken off room unless it is nil.
func (b *Binding) read(ctx context.Context, key string, room *atomic.Int64) ([]byte, error) {
	if err := checkKey(key); err != nil {
		return nil, err
	}
	a, err := b.client.do(ctx, &call{method: http.MethodGet, key: key, limit: longestObject, room: room})
	if err != nil {
		return nil, b.explain("get", key, err)
	}
	if a.data == nil {
		a.data = []byte{} // an empty object is there
	}
	return a.data, nil
}

// delete removes an object. That there is none is no error to S3.
func (b *Binding) delete(ctx context.Context, key string) error {
	if err := checkKey(key); err != nil {
		return err
	}
	if _, err := b.client.do(ctx, &call{method: http.MethodDelete, key: key, limit: longestAnswer}); err != nil {
		return b.explain("delete", key, err)
	}
	return nil
}

// presigned is the answer to presign.
type presigned struct {
	PresignURL string `json:"presignURL"`
}

// presign makes a URL to read the object with, without asking whether it is there.
func (b *Binding) presign(ctx context.Context, req bindings.Request) (*bindings.Response, error) {
	key := req.Metadata[keyParameter]
	if err := checkKey(key); err != nil {
		return nil, err
	}
	ttl, err := parseTTL(req.Metadata[presignTTLParameter])
	if err != nil {
		return nil, err
	}
	signed, err := b.client.presign(ctx, key, ttl)
	if err != nil {
		return nil, b.explain("presign", key, err)
	}
	return respond(presigned{signed})
}

func parseTTL(text string) (time.Duration, error) {
	const remedy = "give how long the URL holds, such as 15m; at most 168h"
	if text == "" {
		return 0, &bindings.ParameterError{Name: presignTTLParameter, Remedy: remedy}
	}
	ttl, err := time.ParseDuration(text)
	if err != nil || ttl < time.Second || ttl > longestTTL {
		return 0, &bindings.ParameterError{Name: presignTTLParameter, Value: text, Remedy: remedy}
	}
	return ttl, nil
}
