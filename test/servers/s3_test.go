package servers

import (
	"net/http"
	"testing"
)

func TestS3(t *testing.T) {
	for _, test := range []struct {
		name string
		opts []Option
	}{{"plain", nil}, {"TLS", []Option{TLS()}}} {
		t.Run(test.name, func(t *testing.T) {
			s := measured(t, "start", func() *S3Server { return S3(t, append(test.opts, Own())...) })
			transport := &http.Transport{DisableKeepAlives: true}
			if s.TLS != nil {
				transport.TLSClientConfig = s.TLS.Client()
			}
			// Without a signature the buckets are there, but closed.
			status := func() int {
				t.Helper()
				req, err := http.NewRequestWithContext(within(t), http.MethodGet, s.Endpoint+"/"+s.Bucket()+"/object", nil)
				if err != nil {
					t.Fatal(err)
				}
				resp, err := (&http.Client{Transport: transport}).Do(req)
				if err != nil {
					t.Fatalf("%v\n%s", err, s.Log())
				}
				_ = resp.Body.Close()
				return resp.StatusCode
			}
			if got := status(); got != http.StatusForbidden {
				t.Errorf("status %d, want 403", got)
			}
			for _, end := range []func(){s.Stop, s.Kill} {
				measured(t, "end", func() bool { end(); return true })
				if s.Running() {
					t.Error("the server still runs")
				}
				measured(t, "start again", func() bool { s.Start(); return true })
				if got := status(); got != http.StatusForbidden {
					t.Errorf("status %d after the restart, want 403", got)
				}
			}
			if a, b := s.Bucket(), s.Bucket(); a == b {
				t.Errorf("two buckets are named %s", a)
			}
		})
	}
}
