// Package kubernetes is the name resolver nameresolution.kubernetes: the sidecars of an app are the addresses of the
// headless service that the operator makes for it.
package kubernetes

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"text/template"
	"time"

	"outrigger.dev/components"
	"outrigger.dev/components/nameresolution"
)

var (
	_ nameresolution.ListResolver = (*Resolver)(nil)
	_ nameresolution.Namespaced   = (*Resolver)(nil)
)

// Options are the keys of the name resolution configuration (Dapr API, Kubernetes name resolver).
type Options struct {
	ClusterDomain string `name:"clusterDomain" default:"cluster.local" help:"DNS domain of the cluster"`
	Template      string `name:"template" help:"Go template that makes host:port of .ID, .Namespace and .Port, in place of <id>-dapr.<namespace>.svc.<clusterDomain>:<port>"`
}

// lookupTimeout bounds one look-up in DNS. The caller's context may end it earlier.
const lookupTimeout = 10 * time.Second

// data is what a template sees.
type data struct {
	ID, Namespace string
	Port          int
	// Data is empty: nothing that a call carries is given to name resolution.
	Data map[string]string
}

// Check refuses a template that cannot be parsed or makes no address. It implements [components.Checker].
func (o *Options) Check() error {
	if o.ClusterDomain == "" {
		o.ClusterDomain = "cluster.local"
	}
	t, err := o.parse()
	if t == nil || err != nil {
		return err
	}
	target, err := render(t, nameresolution.Request{ID: "app", Namespace: "default", Port: 50002})
	if err == nil {
		_, _, err = split(target)
	}
	if err != nil {
		return fmt.Errorf(`metadata property "template" is %q, which does not work: %w; it must make host:port of .ID, .Namespace and .Port, such as {{.ID}}-dapr.{{.Namespace}}.svc.cluster.local:{{.Port}}`, o.Template, err)
	}
	return nil
}

// parse is the template, nil if there is none.
func (o *Options) parse() (*template.Template, error) {
	if o.Template == "" {
		return nil, nil
	}
	t, err := template.New("template").Option("missingkey=error").Parse(o.Template)
	if err != nil {
		return nil, fmt.Errorf(`metadata property "template" is %q, which is not a Go template: %w`, o.Template, err)
	}
	return t, nil
}

func render(t *template.Template, req nameresolution.Request) (string, error) {
	var b strings.Builder
	err := t.Execute(&b, data{ID: req.ID, Namespace: req.Namespace, Port: req.Port, Data: map[string]string{}})
	return strings.TrimSpace(b.String()), err
}

// split takes a host and its port apart.
func split(target string) (host, port string, err error) {
	host, port, err = net.SplitHostPort(target)
	if err != nil {
		return "", "", fmt.Errorf("%q is not host:port: %w", target, err)
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 || host == "" {
		return "", "", fmt.Errorf("%q is not host:port with a port from 1 to 65535", target)
	}
	return host, port, nil
}

// Register adds nameresolution.kubernetes to r.
func Register(r *components.Registry) {
	nameresolution.Register(r, components.Info{
		Name:        "kubernetes",
		Version:     "v1",
		Status:      components.Stable,
		Description: "Finds sidecars through the DNS names of Kubernetes services; the default in Kubernetes.",
	}, func(_ context.Context, _ components.Instance, o Options) (nameresolution.Resolver, error) {
		return open(o, net.DefaultResolver)
	})
}

// lookup is the part of [net.Resolver] that is needed.
type lookup interface {
	LookupNetIP(ctx context.Context, network, host string) ([]netip.Addr, error)
}

// Resolver finds sidecars in the cluster's DNS. It announces nothing: the operator makes the services.
type Resolver struct {
	domain   string
	template *template.Template // nil for the usual name
	dns      lookup
}

func open(o Options, dns lookup) (*Resolver, error) {
	if err := o.Check(); err != nil {
		return nil, err
	}
	t, err := o.parse()
	if err != nil {
		return nil, err
	}
	return &Resolver{domain: o.ClusterDomain, template: t, dns: dns}, nil
}

// Namespaced reports whether the names that are looked up depend on the namespace, as only a template can keep them from.
func (r *Resolver) Namespaced() bool {
	if r.template == nil {
		return true
	}
	one, err := render(r.template, nameresolution.Request{ID: "app", Namespace: "one", Port: 1})
	other, otherErr := render(r.template, nameresolution.Request{ID: "app", Namespace: "other", Port: 1})
	return err == nil && otherErr == nil && one != other
}

// target is the host and port of the service of an app.
func (r *Resolver) target(req nameresolution.Request) (host, port string, err error) {
	if r.template == nil {
		return req.ID + "-dapr." + req.Namespace + ".svc." + r.domain, strconv.Itoa(req.Port), nil
	}
	target, err := render(r.template, req)
	if err == nil {
		host, port, err = split(target)
	}
	if err != nil {
		return "", "", fmt.Errorf("the template of the kubernetes name resolver makes no address for app id %s in namespace %s: %w", req.ID, req.Namespace, err)
	}
	return host, port, nil
}

// ResolveAll returns the addresses of all ready sidecars of an app, as the cluster's DNS knows them.
func (r *Resolver) ResolveAll(ctx context.Context, req nameresolution.Request) ([]string, error) {
	host, port, err := r.target(req)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, lookupTimeout)
	defer cancel()
	found, err := r.dns.LookupNetIP(ctx, "ip", host)
	if err != nil {
		return nil, fmt.Errorf("failed to resolve address for '%s': %w", host, err)
	}
	addresses := make([]string, 0, len(found))
	for _, ip := range found {
		addresses = append(addresses, net.JoinHostPort(ip.Unmap().String(), port))
	}
	return addresses, nil
}

// Resolve returns one of the addresses at random.
func (r *Resolver) Resolve(ctx context.Context, req nameresolution.Request) (string, error) {
	addresses, err := r.ResolveAll(ctx, req)
	if err != nil || len(addresses) == 0 {
		return "", err
	}
	return addresses[rand.IntN(len(addresses))], nil
}

// Close has nothing to do.
func (r *Resolver) Close() error { return nil }
