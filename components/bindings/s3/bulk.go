package s3

import (
	"bytes"
	"context"
	"crypto/md5" // which the protocol wants of deletions, as a sum of what is sent
	"encoding/base64"
	"encoding/json"
	"encoding/xml"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"unicode/utf8"

	"outrigger.dev/components/awsauth"
	"outrigger.dev/components/bindings"
)

// Bounds of an operation on many objects: how many there can be, and how many calls run at once.
const (
	mostItems          = 10_000
	defaultConcurrency = 10
	mostConcurrency    = 64
)

// bulkRequest is the data of bulkGet, bulkCreate and bulkDelete: an object with items, or the items themselves.
type bulkRequest struct {
	Items       []bulkItem `json:"items"`
	Concurrency int        `json:"concurrency"`
}

// bulkItem is one object; as JSON also its key alone. The entries are those of the metadata of single operations.
type bulkItem struct {
	Key          string          `json:"key"`
	Data         json.RawMessage `json:"data"`
	FilePath     string          `json:"filePath"`
	ContentType  string          `json:"contentType"`
	StorageClass string          `json:"storageClass"`
	Tags         string          `json:"tags"`
	PresignTTL   string          `json:"presignTTL"`
}

func (i *bulkItem) UnmarshalJSON(text []byte) error {
	if len(text) > 0 && text[0] == '"' {
		return json.Unmarshal(text, &i.Key)
	}
	type plain bulkItem
	return json.Unmarshal(text, (*plain)(i))
}

// The answers are arrays in the order of the items. An item that failed has an error and nothing else.
type (
	bulkCreated struct {
		Key string `json:"key"`
		*created
		Error string `json:"error,omitempty"`
	}
	bulkRead struct {
		Key  string  `json:"key"`
		Data *string `json:"data,omitempty"`
		// Base64 says that data is in base64: because that was asked for, or because it is no text.
		Base64 bool   `json:"base64,omitempty"`
		Error  string `json:"error,omitempty"`
	}
	bulkDeleted struct {
		Key   string `json:"key"`
		Error string `json:"error,omitempty"`
	}
)

func readBulk(data []byte) (*bulkRequest, error) {
	var r bulkRequest
	var err error
	if text := bytes.TrimSpace(data); len(text) > 0 && text[0] == '[' {
		err = json.Unmarshal(text, &r.Items)
	} else {
		err = json.Unmarshal(data, &r)
	}
	switch {
	case err != nil:
		return nil, fmt.Errorf("the data of the request is no object such as {\"items\": [{\"key\": \"a\"}]}: %w", err)
	case len(r.Items) == 0:
		return nil, errors.New(`the data of the request has no "items": give an object such as {"items": [{"key": "a"}]}`)
	case len(r.Items) > mostItems:
		return nil, fmt.Errorf("\"items\" in the data of the request has %d objects, but at most %d can be given; make several requests", len(r.Items), mostItems)
	case r.Concurrency < 0 || r.Concurrency > mostConcurrency:
		return nil, fmt.Errorf("\"concurrency\" in the data of the request is %d, but must be from 1 to %d", r.Concurrency, mostConcurrency)
	case r.Concurrency == 0:
		r.Concurrency = defaultConcurrency
	}
	return &r, nil
}

// bulk carries out an operation on many objects. One that fails does not keep the others from succeeding; when all fail, the
// operation does too.
func (b *Binding) bulk(ctx context.Context, req bindings.Request) (*bindings.Response, error) {
	r, err := readBulk(req.Data)
	if err != nil {
		return nil, err
	}
	decode, err := req.Flag(decodeBase64Parameter, b.options.DecodeBase64)
	if err != nil {
		return nil, err
	}
	encode, err := req.Flag(encodeBase64Parameter, b.options.EncodeBase64)
	if err != nil {
		return nil, err
	}
	errs := make([]error, len(r.Items))
	var reply any
	switch req.Operation {
	case bulkCreate:
		results := make([]bulkCreated, len(r.Items))
		r.each(func(n int, item *bulkItem) {
			if item.Key == "" {
				item.Key = b.newKey()
			}
			results[n].Key = item.Key
			results[n].created, errs[n] = b.putItem(ctx, item, decode)
			results[n].Error = text(errs[n])
		})
		reply = results
	case bulkGet:
		results := make([]bulkRead, len(r.Items))
		var room atomic.Int64 // that all objects together may take
		room.Store(longestObjects)
		r.each(func(n int, item *bulkItem) {
			results[n], errs[n] = b.readItem(ctx, item.Key, encode, &room)
			results[n].Error = text(errs[n])
		})
		reply = results
	default:
		results := make([]bulkDeleted, len(r.Items))
		b.deleteAll(ctx, r.Items, errs)
		for n, item := range r.Items {
			results[n] = bulkDeleted{Key: item.Key, Error: text(errs[n])}
		}
		reply = results
	}
	resp, err := respond(reply)
	if err != nil {
		return nil, err
	}
	for _, err := range errs {
		if err == nil {
			return resp, nil
		}
	}
	return resp, fmt.Errorf("none of %d objects succeeded; the first error: %w", len(errs), errs[0])
}

func text(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

// each calls do for all items, several at once, and returns when all calls have.
func (r *bulkRequest) each(do func(n int, item *bulkItem)) {
	var next atomic.Int64
	var running sync.WaitGroup
	for range min(r.Concurrency, len(r.Items)) {
		running.Go(func() {
			for n := int(next.Add(1)) - 1; n < len(r.Items); n = int(next.Add(1)) - 1 {
				do(n, &r.Items[n])
			}
		})
	}
	running.Wait()
}

func (b *Binding) putItem(ctx context.Context, item *bulkItem, decode bool) (*created, error) {
	if item.FilePath != "" && len(item.Data) > 0 && !bindings.NoData(item.Data) {
		return nil, &bindings.ParameterError{Name: filePathParameter, Value: item.FilePath, Remedy: "the object has data too; give one of them"}
	}
	return b.put(ctx, object{
		key: item.Key, data: item.Data, path: item.FilePath, decode: decode,
		contentType: item.ContentType, storageClass: item.StorageClass, tags: item.Tags, presignTTL: item.PresignTTL,
	})
}

func (b *Binding) readItem(ctx context.Context, key string, encode bool, room *atomic.Int64) (bulkRead, error) {
	result := bulkRead{Key: key}
	data, err := b.read(ctx, key, room)
	if err != nil {
		return result, err
	}
	result.Base64 = encode || !utf8.Valid(data)
	value := string(data)
	if result.Base64 {
		value = base64.StdEncoding.EncodeToString(data)
	}
	result.Data = &value
	return result, nil
}

// deletion is the body of the call that deletes many objects, and deletionResult its answer (AWS, S3: DeleteObjects).
type deletion struct {
	XMLName xml.Name `xml:"http://s3.amazonaws.com/doc/2006-03-01/ Delete"`
	Object  []deletionKey
	Quiet   bool
}

type deletionKey struct{ Key string }

type deletionResult struct {
	XMLName xml.Name `xml:"DeleteResult"`
	Error   []errorText
}

// deleteAll deletes the objects, a thousand with a call, and fills in what went wrong.
func (b *Binding) deleteAll(ctx context.Context, items []bulkItem, errs []error) {
	places := map[string][]int{} // of each key
	var d deletion
	send := func() {
		if len(d.Object) > 0 {
			b.deleteSome(ctx, &d, func(key string, err error) {
				for _, n := range places[key] {
					errs[n] = err
				}
			})
			d.Object = d.Object[:0]
			clear(places)
		}
	}
	for n, item := range items {
		if errs[n] = checkKey(item.Key); errs[n] != nil {
			continue
		}
		if strings.ContainsFunc(item.Key, notXML) {
			// The call could not name it, so it is deleted by itself.
			errs[n] = b.delete(ctx, item.Key)
			continue
		}
		places[item.Key] = append(places[item.Key], n)
		if len(places[item.Key]) == 1 {
			d.Object = append(d.Object, deletionKey{item.Key})
		}
		if len(d.Object) == mostKeys {
			send()
		}
	}
	send()
}

// notXML reports whether a character cannot stand in XML 1.0, or not without being changed.
func notXML(r rune) bool {
	return r < ' ' || r == 0xFFFE || r == 0xFFFF || r == utf8.RuneError
}

func (b *Binding) deleteSome(ctx context.Context, d *deletion, failed func(key string, err error)) {
	all := func(err error) {
		for _, o := range d.Object {
			failed(o.Key, err)
		}
	}
	d.Quiet = true
	body, err := xml.Marshal(d)
	if err != nil {
		all(err)
		return
	}
	sum := md5.Sum(body)
	c := &call{method: http.MethodPost, query: url.Values{"delete": {""}}, limit: longestAnswer, header: http.Header{}}
	c.setBody(body)
	c.header.Set("Content-Type", "application/xml")
	c.header.Set("Content-Md5", base64.StdEncoding.EncodeToString(sum[:]))
	a, err := b.client.do(ctx, c)
	if err != nil {
		all(b.explain("delete", "", err))
		return
	}
	var result deletionResult
	if err := xml.Unmarshal(a.data, &result); err != nil {
		all(fmt.Errorf("it is not known whether the objects were deleted: the answer of %s is not S3's: %w", b.client.bucket.Host, err))
		return
	}
	for _, e := range result.Error {
		failed(e.Key, b.explain("delete", e.Key, &serverError{ServerError: awsauth.ServerError{Status: http.StatusOK, Code: e.Code, Message: e.Message}}))
	}
}
