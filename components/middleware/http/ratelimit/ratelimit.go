// Package ratelimit is the middleware that bounds the requests per second of each client and path (Dapr API,
// middleware.http.ratelimit).
package ratelimit

import (
	"context"
	"fmt"
	"hash/maphash"
	"math"
	"net/http"
	"strconv"
	"strings"

	"github.com/jonboulle/clockwork"

	"outrigger.dev/components"
	"outrigger.dev/components/middleware"
)

// Options are the metadata properties of the component.
type Options struct {
	MaxRequestsPerSecond float64 `name:"maxRequestsPerSecond" default:"100" help:"requests per second that one client may send to one path; fractions are allowed"`
}

// Check refuses a limit that lets nothing through. It implements [components.Checker].
func (o *Options) Check() error {
	if m := o.MaxRequestsPerSecond; !(m > 0) || math.IsInf(m, 0) {
		return fmt.Errorf("metadata property \"maxRequestsPerSecond\" is %g, but must be a number over 0", m)
	}
	return nil
}

// Register adds the component type to r.
func Register(r *components.Registry) {
	middleware.Register(r, components.Info{
		Name: "http.ratelimit", Version: "v1", Status: components.Stable,
		Description: "Bounds the requests per second of each client and path.",
	}, func(_ context.Context, inst components.Instance, o Options) (middleware.Middleware, error) {
		return New(o.MaxRequestsPerSecond, inst.Clock), nil
	})
}

// Limiter is one instance.
type Limiter struct {
	limit   string // as the headers have it
	rounded string
	seed    maphash.Seed
	clock   clockwork.Clock
	buckets *buckets
}

// New makes a limiter of so many requests per second, which must be over 0.
func New(perSecond float64, clock clockwork.Clock) *Limiter {
	return &Limiter{
		limit: strconv.FormatFloat(perSecond, 'f', 2, 64), rounded: strconv.FormatFloat(math.Round(perSecond), 'f', 0, 64),
		seed: maphash.MakeSeed(), clock: clock, buckets: newBuckets(perSecond, clock.Now()),
	}
}

// Handle passes a request on or refuses it. It implements [middleware.Middleware].
func (l *Limiter) Handle(ctx context.Context, req *middleware.Request, next middleware.Handler) (*middleware.Response, error) {
	forwarded := lastValue(req, "X-Forwarded-For")
	ip := clientIP(forwarded, lastValue(req, "X-Real-IP"), req.RemoteAddress)
	var h maphash.Hash
	h.SetSeed(l.seed)
	bits := ip.As16()
	_, _ = h.Write(bits[:])
	_, _ = h.WriteString(req.DecodedPath())
	ok, left := l.buckets.take(h.Sum64(), l.clock.Now())
	var resp *middleware.Response
	if ok {
		var err error
		if resp, err = next(ctx, req); err != nil {
			return nil, err
		}
	} else {
		resp = &middleware.Response{Status: http.StatusTooManyRequests, Body: []byte("You have reached maximum request limit.")}
		resp.Header.Add("Content-Type", "text/plain; charset=utf-8")
	}
	resp.Header.Add("X-Rate-Limit-Limit", l.limit)
	resp.Header.Add("X-Rate-Limit-Duration", "1")
	if strings.TrimSpace(forwarded) != "" {
		resp.Header.Add("X-Rate-Limit-Request-Forwarded-For", forwarded)
	}
	resp.Header.Add("X-Rate-Limit-Request-Remote-Addr", req.RemoteAddress)
	resp.Header.Add("RateLimit-Limit", l.rounded)
	resp.Header.Add("RateLimit-Reset", "1")
	resp.Header.Add("RateLimit-Remaining", strconv.Itoa(left))
	return resp, nil
}

// Close has nothing to release.
func (l *Limiter) Close() error { return nil }

// lastValue is the value of the last header of a name: the one that the nearest proxy wrote.
func lastValue(req *middleware.Request, name string) string {
	for i := len(req.Header) - 1; i >= 0; i-- {
		if f := &req.Header[i]; len(f.Name) == len(name) && strings.EqualFold(string(f.Name), name) {
			return string(f.Value)
		}
	}
	return ""
}
