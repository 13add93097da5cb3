package wasm

import (
	"bytes"
	"context"
	"io"
	"net/textproto"
	"slices"
	"strings"

	"github.com/http-wasm/http-wasm-host-go/api/handler"

	"outrigger.dev/components/middleware"
	"outrigger.dev/invocation"
)

// exchange is one request as a guest sees it.
type exchange struct {
	req *middleware.Request
	// resp is the response: what the guest says of it before the next handler is called, and that of the next handler then.
	resp middleware.Response
	// reqBody and respBody are bodies that the guest wrote.
	reqBody, respBody bodyWriter
	// failed is why a body could not be read.
	failed error
}

// bodyWriter takes a body that a guest writes piece by piece.
type bodyWriter struct {
	bytes.Buffer
	used bool
}

func (b *bodyWriter) Write(p []byte) (int, error) {
	b.used = true
	return b.Buffer.Write(p)
}

// exchangeKey is the key of a context's *exchange.
type exchangeKey struct{}

// host is what guests call. It has no state: that is in the context.
type host struct{ handler.UnimplementedHost }

var _ handler.Host = host{}

func of(ctx context.Context) *exchange { return ctx.Value(exchangeKey{}).(*exchange) }

// EnableFeatures has everything but trailers.
func (host) EnableFeatures(_ context.Context, features handler.Features) handler.Features {
	return features &^ handler.FeatureTrailers
}

func (host) GetMethod(ctx context.Context) string         { return of(ctx).req.Method }
func (host) SetMethod(ctx context.Context, method string) { of(ctx).req.Method = method }
func (host) GetURI(ctx context.Context) string            { return of(ctx).req.URI() }
func (host) SetURI(ctx context.Context, uri string)       { of(ctx).req.SetURI(uri) }

// GetProtocolVersion is always that of HTTP/1.1, which the guest can rely on the meaning of.
func (host) GetProtocolVersion(context.Context) string { return "HTTP/1.1" }

func (host) GetSourceAddr(ctx context.Context) string { return of(ctx).req.RemoteAddress }

func (host) GetRequestHeaderNames(ctx context.Context) []string {
	x := of(ctx)
	all := names(x.req.Header)
	if x.req.Host != "" {
		all = append(all, "Host")
		slices.Sort(all)
	}
	return all
}

func (host) GetRequestHeaderValues(ctx context.Context, name string) []string {
	if x := of(ctx); strings.EqualFold(name, "Host") {
		return []string{x.req.Host}
	}
	return values(of(ctx).req.Header, name)
}

func (host) SetRequestHeaderValue(ctx context.Context, name, value string) {
	if x := of(ctx); strings.EqualFold(name, "Host") {
		x.req.Host = value
		return
	}
	of(ctx).req.Header.Set(canonical(name), value)
}

func (host) AddRequestHeaderValue(ctx context.Context, name, value string) {
	of(ctx).req.Header.Add(canonical(name), value)
}

func (host) RemoveRequestHeader(ctx context.Context, name string) { of(ctx).req.Header.Del(name) }

func (host) RequestBodyReader(ctx context.Context) io.ReadCloser {
	x := of(ctx)
	body, err := x.req.ReadBody()
	return x.reader(body, err)
}

func (host) RequestBodyWriter(ctx context.Context) io.Writer { return &of(ctx).reqBody }

func (host) GetStatusCode(ctx context.Context) uint32 { return uint32(of(ctx).resp.Status) }

func (host) SetStatusCode(ctx context.Context, status uint32) { of(ctx).resp.Status = int(status) }

func (host) GetResponseHeaderNames(ctx context.Context) []string { return names(of(ctx).resp.Header) }

func (host) GetResponseHeaderValues(ctx context.Context, name string) []string {
	return values(of(ctx).resp.Header, name)
}

func (host) SetResponseHeaderValue(ctx context.Context, name, value string) {
	of(ctx).resp.Header.Set(canonical(name), value)
}

func (host) AddResponseHeaderValue(ctx context.Context, name, value string) {
	of(ctx).resp.Header.Add(canonical(name), value)
}

func (host) RemoveResponseHeader(ctx context.Context, name string) { of(ctx).resp.Header.Del(name) }

func (host) ResponseBodyReader(ctx context.Context) io.ReadCloser {
	x := of(ctx)
	body, err := x.resp.ReadBody(x.req.MaxBodyBytes)
	return x.reader(body, err)
}

func (host) ResponseBodyWriter(ctx context.Context) io.Writer { return &of(ctx).respBody }

// reader reads a body; a guest that reads one that failed is ended by the error.
func (x *exchange) reader(body []byte, err error) io.ReadCloser {
	if err != nil {
		x.failed = err
		return io.NopCloser(failing{err})
	}
	return io.NopCloser(bytes.NewReader(body))
}

type failing struct{ err error }

func (f failing) Read([]byte) (int, error) { return 0, f.err }

func canonical(name string) string { return textproto.CanonicalMIMEHeaderKey(name) }

// names are the different names of a header, sorted.
func names(header invocation.Header) (all []string) {
	for _, f := range header {
		all = append(all, canonical(string(f.Name)))
	}
	slices.Sort(all)
	return slices.Compact(all)
}

func values(header invocation.Header, name string) (all []string) {
	for _, f := range header {
		if strings.EqualFold(string(f.Name), name) {
			all = append(all, string(f.Value))
		}
	}
	return all
}
