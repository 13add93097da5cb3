package s3

import (
	"context"
	"encoding/json"
	"encoding/xml"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"outrigger.dev/components/bindings"
)

// mostKeys is how many keys a list has at most, and by default (AWS, S3: ListObjects).
const mostKeys = 1000

// selection is the data of list (Dapr API, bindings.aws.s3: list objects).
type selection struct {
	MaxResults int    `json:"maxResults"`
	Prefix     string `json:"prefix"`
	// Marker is the key after which the list begins.
	Marker    string `json:"marker"`
	Delimiter string `json:"delimiter"`
}

// listing is the answer to list, with the names and the order that clients know.
type listing struct {
	CommonPrefixes []commonPrefix
	Contents       []content
	Delimiter      string
	EncodingType   *string
	IsTruncated    bool
	Marker         string
	MaxKeys        int
	Name           string
	NextMarker     *string
	Prefix         string
}

type commonPrefix struct{ Prefix string }

type content struct {
	ETag         string
	Key          string
	LastModified time.Time
	Owner        *owner
	Size         int64
	StorageClass string
}

type owner struct {
	DisplayName string
	ID          string
}

// list gives a page of the objects. The next page begins behind the last one's last key, or behind NextMarker.
func (b *Binding) list(ctx context.Context, req bindings.Request) (*bindings.Response, error) {
	var s selection
	if !bindings.NoData(req.Data) {
		if err := json.Unmarshal(req.Data, &s); err != nil {
			return nil, fmt.Errorf("the data of the request is no object such as {\"maxResults\": 10, \"prefix\": \"a/\"}: %w", err)
		}
	}
	if s.MaxResults < 0 {
		return nil, fmt.Errorf("\"maxResults\" in the data of the request is %d, but must not be negative", s.MaxResults)
	}
	if s.MaxResults == 0 || s.MaxResults > mostKeys {
		s.MaxResults = mostKeys
	}
	// Keys can have characters that XML has not, so they are asked for escaped.
	query := url.Values{"max-keys": {strconv.Itoa(s.MaxResults)}, "encoding-type": {"url"}}
	for _, p := range []struct{ name, value string }{{"prefix", s.Prefix}, {"marker", s.Marker}, {"delimiter", s.Delimiter}} {
		if p.value != "" {
			query.Set(p.name, p.value)
		}
	}
	a, err := b.client.do(ctx, &call{method: http.MethodGet, query: query, limit: longestAnswer})
	if err != nil {
		return nil, b.explain("list", "", err)
	}
	l, err := readListing(a.data)
	if err != nil {
		return nil, fmt.Errorf("cannot list objects of bucket %q: the answer of %s is not S3's: %w; check the metadata properties \"endpoint\" and \"forcePathStyle\"", b.options.Bucket, b.client.bucket.Host, err)
	}
	return respond(l)
}

func readListing(text []byte) (*listing, error) {
	var l struct {
		XMLName xml.Name `xml:"ListBucketResult"`
		listing
	}
	if err := xml.Unmarshal(text, &l); err != nil {
		return nil, err
	}
	if l.EncodingType != nil && *l.EncodingType == "url" {
		texts := []*string{&l.Delimiter, &l.Marker, &l.Prefix}
		if l.NextMarker != nil {
			texts = append(texts, l.NextMarker)
		}
		for i := range l.CommonPrefixes {
			texts = append(texts, &l.CommonPrefixes[i].Prefix)
		}
		for i := range l.Contents {
			texts = append(texts, &l.Contents[i].Key)
		}
		for _, t := range texts {
			plain, err := url.QueryUnescape(*t)
			if err != nil {
				return nil, err
			}
			*t = plain
		}
	}
	l.EncodingType = nil // as nobody asked for it
	if l.NextMarker != nil && *l.NextMarker == "" {
		l.NextMarker = nil
	}
	return &l.listing, nil
}
