package kubernetes

import (
	"context"
	"errors"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"

	"outrigger.dev/components"
	"outrigger.dev/components/nameresolution"
)

// zone is a DNS server that knows some names, and never answers for one.
type zone struct {
	records map[string][]string // name -> addresses
	silent  string
}

func (z *zone) ServeDNS(w dns.ResponseWriter, query *dns.Msg) {
	q := query.Question[0]
	if q.Name == z.silent {
		return
	}
	m := new(dns.Msg).SetReply(query)
	addresses, ok := z.records[q.Name]
	if !ok {
		m.Rcode = dns.RcodeNameError
	}
	for _, a := range addresses {
		ip := net.ParseIP(a)
		switch {
		case q.Qtype == dns.TypeA && ip.To4() != nil:
			m.Answer = append(m.Answer, &dns.A{Hdr: dns.RR_Header{Name: q.Name, Rrtype: dns.TypeA, Class: dns.ClassINET, Ttl: 1}, A: ip.To4()})
		case q.Qtype == dns.TypeAAAA && ip.To4() == nil:
			m.Answer = append(m.Answer, &dns.AAAA{Hdr: dns.RR_Header{Name: q.Name, Rrtype: dns.TypeAAAA, Class: dns.ClassINET, Ttl: 1}, AAAA: ip})
		}
	}
	_ = w.WriteMsg(m)
}

// serve runs the zone and returns a resolver that asks it alone.
func serve(t *testing.T, z *zone) *net.Resolver {
	t.Helper()
	conn, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := &dns.Server{PacketConn: conn, Handler: z}
	done := make(chan error, 1)
	go func() { done <- server.ActivateAndServe() }()
	t.Cleanup(func() {
		_ = conn.Close()
		<-done
	})
	return &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "udp", conn.LocalAddr().String())
	}}
}

func TestResolve(t *testing.T) {
	resolver := serve(t, &zone{records: map[string][]string{
		"a-dapr.ns.svc.cluster.local.":    {"10.0.0.1", "10.0.0.2", "10.0.0.3"},
		"six-dapr.ns.svc.cluster.local.":  {"fd00::1"},
		"a-dapr.ns.svc.corp.example.":     {"10.1.0.1"},
		"a.mesh.example.":                 {"10.2.0.1"},
		"none-dapr.ns.svc.cluster.local.": nil,
	}})
	for _, tc := range []struct {
		name    string
		options Options
		req     nameresolution.Request
		want    []string
		err     []string
	}{
		{"headless service", Options{}, nameresolution.Request{ID: "a", Namespace: "ns", Port: 50002}, []string{"10.0.0.1:50002", "10.0.0.2:50002", "10.0.0.3:50002"}, nil},
		{"IPv6", Options{}, nameresolution.Request{ID: "six", Namespace: "ns", Port: 50002}, []string{"[fd00::1]:50002"}, nil},
		{"domain", Options{ClusterDomain: "corp.example"}, nameresolution.Request{ID: "a", Namespace: "ns", Port: 1}, []string{"10.1.0.1:1"}, nil},
		{"template", Options{Template: "{{.ID}}.mesh.example:{{.Port}}"}, nameresolution.Request{ID: "a", Namespace: "ns", Port: 7}, []string{"10.2.0.1:7"}, nil},
		{"fixed address", Options{Template: "192.0.2.1:{{.Port}}"}, nameresolution.Request{ID: "a", Namespace: "ns", Port: 7}, []string{"192.0.2.1:7"}, nil},
		{"unknown app", Options{}, nameresolution.Request{ID: "x", Namespace: "ns", Port: 1}, nil, []string{"failed to resolve address for 'x-dapr.ns.svc.cluster.local'", "no such host"}},
		{"other namespace", Options{}, nameresolution.Request{ID: "a", Namespace: "other", Port: 1}, nil, []string{"failed to resolve address for 'a-dapr.other.svc.cluster.local'"}},
		{"no pod", Options{}, nameresolution.Request{ID: "none", Namespace: "ns", Port: 1}, nil, []string{"failed to resolve address for 'none-dapr.ns.svc.cluster.local'"}},
		{"template that fails for one id", Options{Template: `{{slice .ID 0 2}}.mesh.example:1`}, nameresolution.Request{ID: "a", Namespace: "ns", Port: 1}, nil, []string{"makes no address for app id a in namespace ns"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			r, err := open(tc.options, resolver)
			if err != nil {
				t.Fatal(err)
			}
			defer r.Close()
			got, err := r.ResolveAll(t.Context(), tc.req)
			if tc.err != nil {
				for _, want := range tc.err {
					if err == nil || !strings.Contains(err.Error(), want) {
						t.Errorf("%v, %v; want an error with %q", got, err, want)
					}
				}
				return
			}
			slices.Sort(got)
			if err != nil || !slices.Equal(got, tc.want) {
				t.Errorf("%v, %v; want %v", got, err, tc.want)
			}
			if one, err := r.Resolve(t.Context(), tc.req); err != nil || !slices.Contains(tc.want, one) {
				t.Errorf("one of them: %q, %v", one, err)
			}
		})
	}
}

func TestCallerGivesUp(t *testing.T) {
	r, err := open(Options{}, serve(t, &zone{silent: "a-dapr.ns.svc.cluster.local."}))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	began := time.Now()
	_, err = r.Resolve(ctx, nameresolution.Request{ID: "a", Namespace: "ns", Port: 1})
	if err == nil || time.Since(began) > 4*time.Second {
		t.Errorf("%v after %s", err, time.Since(began))
	}
	var dnsError *net.DNSError
	if !errors.As(err, &dnsError) {
		t.Errorf("the cause is lost: %v", err)
	}
}

func TestTemplates(t *testing.T) {
	for _, tc := range []struct {
		template   string
		err        string
		namespaced bool
	}{
		{"", "", true},
		{"{{.ID}}-dapr.{{.Namespace}}.svc:{{.Port}}", "", true},
		{"{{.ID}}.mesh:1", "", false},
		{"{{with .Data}}x{{else}}y{{end}}:1", "", false},
		{"{{.ID", "is not a Go template", false},
		{"{{.Host}}:1", "does not work", false},
		{"{{.Data.region}}:1", "does not work", false},
		{"{{.ID}}", "is not host:port", false},
		{"{{.ID}}:port", "is not host:port", false},
		{":{{.Port}}", "is not host:port", false},
		{"fd00::1:{{.Port}}", "is not host:port", false},
	} {
		var registry components.Registry
		Register(&registry)
		d, err := registry.Lookup(components.NameResolution, "kubernetes", "")
		if err != nil {
			t.Fatal(err)
		}
		opened, err := d.Open(t.Context(), components.Instance{Properties: map[string]string{"Template": tc.template}})
		if tc.err != "" {
			if err == nil || !strings.Contains(err.Error(), tc.err) || !strings.Contains(err.Error(), tc.template) {
				t.Errorf("%s: %v; want an error with %q", tc.template, err, tc.err)
			}
			continue
		}
		if err != nil {
			t.Errorf("%s: %v", tc.template, err)
			continue
		}
		if got := opened.(*Resolver).Namespaced(); got != tc.namespaced {
			t.Errorf("%s: namespaced %v", tc.template, got)
		}
	}
}
