package invoke

import (
	"context"
	"testing"

	"outrigger.dev/components/nameresolution"
	"outrigger.dev/invocation"
)

// still answers all calls alike.
type still struct{ resp invocation.Response }

func (s *still) Invoke(context.Context, string, *invocation.Request) (*invocation.Response, error) {
	return &s.resp, nil
}
func (s *still) Retriable(error) bool { return false }
func (s *still) Resolve(context.Context, nameresolution.Request) (string, error) {
	return "127.0.0.1:1", nil
}
func (s *still) Forget(nameresolution.Request, string) {}

// BenchmarkRemote is what the block itself costs for a call of another app.
func BenchmarkRemote(b *testing.B) {
	s := &still{resp: invocation.Response{Status: 200}}
	block := New(Options{AppID: "me", Namespace: "default", HostAddress: "127.0.0.1", HostName: "host", Peers: s, Resolver: s})
	header := make(invocation.Header, 0, 16)
	ctx := context.Background()
	b.ReportAllocs()
	for b.Loop() {
		req := invocation.Request{Method: "m", Verb: "GET", Header: append(header, invocation.Field{Name: []byte("Accept"), Value: []byte("*/*")})}
		if _, err := block.Invoke(ctx, "other", &req); err != nil {
			b.Fatal(err)
		}
	}
}
